"""BlazePose landmark network: one pass over a crop gives person score, mask and joint heatmaps.

Bazarevsky et al., BlazePose: On-device Real-time Body Pose tracking, 2020; the "full" network as
it is published with its segmentation head. The crop is cut in RGB before the network, so that the
64×48 heatmaps are the network's own and not a resampling of a whole frame's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from raygait.assets import asset
from raygait.video.networks import Network

CROP_PX = 256
"""Side of the square the network sees."""

CROP_SCALE = 1.25
"""Side of that square over the height of the person's box."""

POSE_ASSET = "blazepose-landmark-full"
"""Name in `assets.ASSETS` of the network's file."""

# BlazePose's 33 points hold the 17 of COCO: nose, eyes, ears, shoulders, elbows, wrists, hips,
# knees, ankles, each left before right.
_COCO_POINTS = np.array([0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28])
# The heatmaps are 64×64 over the square; the middle 48 columns are the field's 64×48.
_HEATMAP_COLUMNS = slice(8, 56)
_PX_A_CELL = 4


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels in the source frame; it may reach over the frame's border.

    Attributes:
        left_px: First column.
        top_px: First row.
        width_px: Columns.
        height_px: Rows.
    """

    left_px: int
    top_px: int
    width_px: int
    height_px: int

    @classmethod
    def square_around(cls, box_px: Float32[np.ndarray, " 4"]) -> Window:
        """The square with a box's centre and `CROP_SCALE` times its height.

        A large one is up to 1 % larger, so that `cut` can take whole blocks of its pixels.
        """
        x0, y0, x1, y1 = (float(value) for value in box_px)
        side_px = max(2, round(CROP_SCALE * (y1 - y0)))
        block_px = max(1, side_px // CROP_PX)
        side_px = -(-side_px // block_px) * block_px
        left_px, top_px = round((x0 + x1 - side_px) / 2), round((y0 + y1 - side_px) / 2)
        return cls(left_px, top_px, side_px, side_px)

    @classmethod
    def containing(cls, box_px: Float32[np.ndarray, " 4"]) -> Window:
        """The smallest window that holds a box, and a pixel at least."""
        x0, y0 = (math.floor(value) for value in box_px[:2])
        x1, y1 = (math.ceil(value) for value in box_px[2:])
        return cls(x0, y0, max(1, x1 - x0), max(1, y1 - y0))

    @property
    def box_px(self) -> Float32[np.ndarray, " 4"]:
        """x0, y0, x1, y1."""
        x1, y1 = self.left_px + self.width_px, self.top_px + self.height_px
        box_px: np.ndarray = np.array([self.left_px, self.top_px, x1, y1], np.float32)
        return box_px

    def cut(
        self, image: UInt8[np.ndarray, "h w *c"], size_px: int
    ) -> UInt8[np.ndarray, "size_px size_px *c"]:
        """Cut the window out of an image, the image's border repeated, and make it a square."""
        height_px, width_px = image.shape[:2]
        # The frame's own pixels in the window; where there are none, the nearest row or column.
        x0, x1 = _span(self.left_px, self.width_px, width_px)
        y0, y1 = _span(self.top_px, self.height_px, height_px)
        part = image[y0:y1, x0:x1]
        if part.shape[:2] != (self.height_px, self.width_px):
            part = cv2.copyMakeBorder(
                part,
                max(0, y0 - self.top_px),
                max(0, self.top_px + self.height_px - y1),
                max(0, x0 - self.left_px),
                max(0, self.left_px + self.width_px - x1),
                cv2.BORDER_REPLICATE,
            )[: self.height_px, : self.width_px]
        shrinks = min(self.width_px, self.height_px) > size_px
        block_px = min(self.width_px, self.height_px) // size_px
        if block_px > 1 and not (self.width_px % block_px or self.height_px % block_px):
            # Means of whole blocks first: twice as fast, and within a grey level of one step.
            size = (self.width_px // block_px, self.height_px // block_px)
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        scaled: np.ndarray = cv2.resize(part, (size_px, size_px), interpolation=how)
        return scaled

    def part_of(
        self, whole: Window, mask: Bool[np.ndarray, "h w"], size_px: int
    ) -> Bool[np.ndarray, "size_px size_px"]:
        """What a mask of another window says of this one, scaled to a square.

        Args:
            whole: The window that the mask was made in; outside of it nobody is.
            mask: The mask, of any size.
            size_px: Side of the result.
        """
        rows, columns = mask.shape
        # From pixel centres of the result, through the frame, to pixel centres of the mask.
        step_x, step_y = self.width_px / size_px, self.height_px / size_px
        scale_x, scale_y = columns / whole.width_px, rows / whole.height_px
        shift_x = (self.left_px - whole.left_px + 0.5 * step_x) * scale_x - 0.5
        shift_y = (self.top_px - whole.top_px + 0.5 * step_y) * scale_y - 0.5
        to_mask = np.array([[step_x * scale_x, 0, shift_x], [0, step_y * scale_y, shift_y]])
        levels = cv2.warpAffine(
            mask.astype(np.uint8) * np.uint8(255),
            to_mask,
            (size_px, size_px),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        part: np.ndarray = levels > 127
        return part

    def to_frame(self, box: tuple[float, float, float, float]) -> Float32[np.ndarray, " 4"]:
        """A box given as fractions of the window → pixels of the source frame."""
        corner = np.array([self.left_px, self.top_px] * 2, np.float32)
        size = np.array([self.width_px, self.height_px] * 2, np.float32)
        return corner + size * np.array(box, np.float32)


def heatmap_box_px(square: Window) -> Float32[np.ndarray, " 4"]:
    """x0, y0, x1, y1 of what the 64×48 heatmaps of a square cover: its middle three quarters."""
    x0, y0, x1, y1 = square.box_px
    inset_px = (x1 - x0) / 8
    return np.array([x0 + inset_px, y0, x1 - inset_px, y1], np.float32)


def joints_of(heatmaps: UInt8[np.ndarray, "17 h w"]) -> Float32[np.ndarray, "17 3"]:
    """Where the joints are, by the highest cell of each map and its neighbours.

    The place inside the cell is the vertex of a parabola through the logarithm of the cell and its
    two neighbours, in x and in y: exact for a Gaussian, as in Zhang et al., Distribution-Aware
    Coordinate Representation for Human Pose Estimation, CVPR 2020, Eq. 5-9, for axes taken apart.

    Args:
        heatmaps: 255 = 1.0.

    Returns:
        x, y in cells (the centre of the first is 0.0, 0.0) and the highest probability, 0..1.
    """
    num_joints, _, width = heatmaps.shape
    flat = heatmaps.reshape(num_joints, -1)
    best = flat.argmax(axis=1)
    rows, columns = best // width, best % width
    # A map of zeros has a highest cell too; its score, 0, says what it is worth.
    log = np.log(np.maximum(heatmaps, 1).astype(np.float32))
    padded = np.pad(log, ((0, 0), (1, 1), (1, 1)), mode="edge")
    joint = np.arange(num_joints)
    centre = padded[joint, rows + 1, columns + 1]
    joints = np.empty((num_joints, 3), np.float32)
    for axis, (place, low, high) in enumerate(
        (
            (columns, padded[joint, rows + 1, columns], padded[joint, rows + 1, columns + 2]),
            (rows, padded[joint, rows, columns + 1], padded[joint, rows + 2, columns + 1]),
        )
    ):
        bend = 2 * centre - low - high
        offset = np.where(bend > 1e-6, (high - low) / (2 * np.maximum(bend, 1e-6)), 0)
        # At the edge of the map one neighbour is missing, and nothing is known but the cell.
        last = heatmaps.shape[2 - axis] - 1
        offset = np.where((place == 0) | (place == last), 0, offset)
        joints[:, axis] = place + np.clip(offset, -0.5, 0.5)
    joints[:, 2] = flat[joint, best] / 255
    return joints


def mean_joint_score(heatmaps: UInt8[np.ndarray, "17 h w"]) -> float:
    """Mean over the joints of the highest probability, 0..1."""
    return float(heatmaps.max(axis=(1, 2)).mean()) / 255


def to_frame_px(joints: Float32[np.ndarray, "j 3"], square: Window) -> Float32[np.ndarray, "j 3"]:
    """Joints in cells of a square's 64×48 heatmaps → pixels of the frame.

    Cell i stands for pixel 4 i of the network's 256×256 crop, not for the middle of its four: so
    HRNet and ViTPose are trained, and so BlazePose's maps agree with its own coordinates (the
    Sports2D clip, 436 joints: median difference 0.00 and 0.07 cells).

    Args:
        joints: From `joints_of`.
        square: Whose middle three quarters the maps cover.

    Returns:
        x, y in pixels (the centre of the first pixel is 0.0, 0.0), and the score.
    """
    moved = joints.copy()
    pixels = _PX_A_CELL * (joints[:, :2] + np.array([_HEATMAP_COLUMNS.start, 0], np.float32))
    corner = np.array([square.left_px, square.top_px])
    moved[:, :2] = corner + (pixels + 0.5) * (square.width_px / CROP_PX) - 0.5
    return moved


def to_heatmap_cells(
    joints: Float32[np.ndarray, "*frames j 3"], windows_px: Float32[np.ndarray, "*frames 4"]
) -> Float32[np.ndarray, "*frames j 3"]:
    """Joints in pixels of the frame → cells of the 64×48 heatmaps: `to_frame_px` the other way.

    Args:
        joints: x, y in pixels, and a score.
        windows_px: What the heatmaps of the same frames cover, from `heatmap_box_px`.

    Returns:
        x, y in cells (the centre of the first is 0.0, 0.0), and the score.
    """
    moved = joints.copy()
    side_px = windows_px[..., 3] - windows_px[..., 1]  # of the square: it is as high as its maps
    corner = windows_px[..., :2] - np.stack([side_px / 8, np.zeros_like(side_px)], axis=-1)
    crop_px = (joints[..., :2] - corner[..., None, :] + 0.5) * (CROP_PX / side_px)[..., None, None]
    moved[..., :2] = (crop_px - 0.5) / _PX_A_CELL
    moved[..., 0] -= _HEATMAP_COLUMNS.start
    return moved


@dataclass(frozen=True)
class Pose:
    """What the network says of one crop.

    Attributes:
        person_score: Probability that the crop shows a person.
        mask: Pixels of the crop that are that person, also where a neighbour is in the crop.
        heatmaps: Probability of each COCO joint, 255 = 1.0, over the crop's middle three quarters.
    """

    person_score: float
    mask: Bool[np.ndarray, "256 256"]
    heatmaps: UInt8[np.ndarray, "17 64 48"]


class PoseNetwork:
    """The network, on one thread; 10 to 20 ms a crop on one core."""

    def __init__(self) -> None:
        self._network = Network(asset(POSE_ASSET), ("Identity_1", "Identity_2", "Identity_3"))

    def __call__(self, crop: UInt8[np.ndarray, "256 256 3"]) -> Pose:
        """Describe the person in the middle of an RGB crop."""
        score, mask_logits, joint_logits = self._network(crop.astype(np.float32) / 255.0)
        joints = joint_logits[0][:, _HEATMAP_COLUMNS, _COCO_POINTS].transpose(2, 0, 1)
        probabilities = 1.0 / (1.0 + np.exp(-np.clip(joints, -80, 80)))
        return Pose(
            person_score=float(score[0, 0]),
            mask=mask_logits[0, :, :, 0] > 0.0,  # probability above one half
            heatmaps=np.ascontiguousarray(np.rint(255 * probabilities).astype(np.uint8)),
        )


def _span(first: int, length: int, limit: int) -> tuple[int, int]:
    """The part of first .. first+length that lies in 0 .. limit, at least one pixel of it."""
    low = min(max(first, 0), limit - 1)
    high = max(min(first + length, limit), low + 1)
    return low, high
