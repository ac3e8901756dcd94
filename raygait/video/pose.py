"""BlazePose landmark network: one pass over a crop gives person score, mask and joint heatmaps.

Bazarevsky et al., BlazePose: On-device Real-time Body Pose tracking, 2020; the "full" network as
it is published with its segmentation head. The crop is cut in RGB before the network, so that the
64×48 heatmaps are the network's own and not a resampling of a whole frame's.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Square:
    """A square in the source frame; it may reach over the frame's border.

    Attributes:
        left_px: First column.
        top_px: First row.
        side_px: Width and height.
    """

    left_px: int
    top_px: int
    side_px: int

    @classmethod
    def around(cls, box_px: Float32[np.ndarray, " 4"]) -> Square:
        """The square with a box's centre and `CROP_SCALE` times its height, on whole pixels."""
        x0, y0, x1, y1 = (float(value) for value in box_px)
        side_px = max(2, round(CROP_SCALE * (y1 - y0)))
        return cls(round((x0 + x1 - side_px) / 2), round((y0 + y1 - side_px) / 2), side_px)

    def cut(
        self, image: UInt8[np.ndarray, "h w *c"], size_px: int
    ) -> UInt8[np.ndarray, "size_px size_px *c"]:
        """Cut the square out of an image, the image's border repeated, and scale it."""
        height_px, width_px = image.shape[:2]
        # The frame's own pixels in the square; where there are none, the nearest row or column.
        x0, x1 = _span(self.left_px, self.side_px, width_px)
        y0, y1 = _span(self.top_px, self.side_px, height_px)
        part = cv2.copyMakeBorder(
            image[y0:y1, x0:x1],
            max(0, y0 - self.top_px),
            max(0, self.top_px + self.side_px - y1),
            max(0, x0 - self.left_px),
            max(0, self.left_px + self.side_px - x1),
            cv2.BORDER_REPLICATE,
        )[: self.side_px, : self.side_px]
        shrinks = self.side_px > size_px
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        scaled: np.ndarray = cv2.resize(part, (size_px, size_px), interpolation=how)
        return scaled

    def to_frame(self, box: tuple[float, float, float, float]) -> Float32[np.ndarray, " 4"]:
        """A box given as fractions of the square → pixels of the source frame."""
        corner = np.array([self.left_px, self.top_px] * 2, np.float32)
        return corner + self.side_px * np.array(box, np.float32)


@dataclass(frozen=True)
class Pose:
    """What the network says of one crop.

    Attributes:
        person_score: Probability that the crop shows a person.
        mask: Pixels of the crop that are that person, also where a neighbour is in the crop.
        heatmaps: Probability of each COCO joint, 255 = 1.0, over the crop's middle three quarters.
        joint_score: Mean over the joints of the highest probability.
    """

    person_score: float
    mask: Bool[np.ndarray, "256 256"]
    heatmaps: UInt8[np.ndarray, "17 64 48"]
    joint_score: float


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
            joint_score=float(probabilities.max(axis=(1, 2)).mean()),
        )


def _span(first: int, length: int, limit: int) -> tuple[int, int]:
    """The part of first .. first+length that lies in 0 .. limit, at least one pixel of it."""
    low = min(max(first, 0), limit - 1)
    high = max(min(first + length, limit), low + 1)
    return low, high
