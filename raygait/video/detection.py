"""Find people in one frame: `ssd` (any size), `blazepose` (near people), `motion` (no weights).

`onnx`, your own network, is in `onnx_detection`.

Every detector maps one RGB image to `Detections`, boxes in source pixels with a score. None keeps
a thread beyond its own, so that one actor uses one core.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from raygait.assets import asset
from raygait.errors import AssetError
from raygait.video.networks import Network
from raygait.video.tiling import Tile, TilePolicy, TileSearch

_log = logging.getLogger(__name__)

DetectorName = Literal["ssd", "blazepose", "motion", "onnx"]

BoxFormat = Literal["yolox", "yolox-decoded", "yolov8", "nms"]
"""What an ONNX detector's output means, see `onnx_detection.OnnxDetector`."""

FALLBACK_ORDER: tuple[DetectorName, ...] = ("ssd", "blazepose", "motion")
"""What `auto` tries, from the most general to the one that needs no file."""

DETECTOR_ASSETS: dict[DetectorName, tuple[str, ...]] = {
    "ssd": ("ssd-mobilenetv2-oidv4",),
    "blazepose": ("blazepose-detector",),
    "motion": (),
    "onnx": (),
}
"""Names in `assets.ASSETS` of the files each detector needs; the file of `onnx` is the user's."""

_SSD_PERSON = 4  # the network's class number; 0 is the background
_SAME_IOU = 0.5
# See `_prefer_near`.
_LOOSE_HEIGHT_RATIO = 0.2
_LOOSE_IOU = 0.3
_NEAR_MIN_SCORE = 0.35
_NEAR_HEIGHT_RATIO = 0.7
_MOTION_WIDTH_PX = 640
_MOTION_MIN_HEIGHT_RATIO = 0.08
_MOTION_WARM_UP = 5
_MOTION_LEARNING_RATE = 0.003


@dataclass(frozen=True)
class Detections:
    """People in one frame.

    Attributes:
        boxes_px: x0, y0, x1, y1 in pixels of the source frame; may reach over its border.
        scores: Confidence, 0..1.
    """

    boxes_px: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Detections:
        """Nobody."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


@runtime_checkable
class Detector(Protocol):
    """What `PeopleFinder` needs of a detector."""

    name: DetectorName

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Find people in the next frame of the clip."""

    def reset(self) -> None:
        """Forget the clip; call before the first frame of each."""


def first_available() -> DetectorName:
    """The first of `FALLBACK_ORDER` whose file is in the cache or can be fetched.

    What is passed over, and why, is logged as a warning.
    """
    for name in FALLBACK_ORDER:
        try:
            for needed in DETECTOR_ASSETS[name]:
                asset(needed)
        except AssetError as error:
            _log.warning("detector %s cannot be used, trying the next: %s", name, error)
        else:
            return name
    raise AssertionError("the last detector needs no file")


def make_detector(
    name: DetectorName | Literal["auto"] = "auto",
    *,
    tiles: TilePolicy = "auto",
    onnx_path: str | Path = "",
    onnx_boxes: BoxFormat = "yolox",
) -> Detector:
    """Build a detector; `auto` takes the `first_available`.

    Args:
        name: `ssd` finds people of any size; `blazepose` one to five near the camera; `motion`
            anything upright that moves before a fixed camera; `onnx` is your own network.
        tiles: For `ssd` only, see `tiling.TileSearch`.
        onnx_path: For `onnx` only, the file.
        onnx_boxes: For `onnx` only, what its output means, see `onnx_detection.OnnxDetector`.

    Returns:
        The detector; its `name` tells which one `auto` took.

    Raises:
        AssetError: The detector that was asked for by name needs a file that cannot be had, or
            the one that it was given is not such a network.
    """
    chosen = first_available() if name == "auto" else name
    if chosen == "ssd":
        return SsdDetector(tiles=tiles)
    if chosen == "blazepose":
        return BlazePoseDetector()
    if chosen == "motion":
        return MotionDetector()
    if chosen == "onnx":
        if not onnx_path:
            raise ValueError("detector onnx needs onnx_path, the network's file")
        # ONNX and its runtime take 0.2 s and 30 MB, and few bring a network of their own.
        from raygait.video.onnx_detection import OnnxDetector

        return OnnxDetector(onnx_path, onnx_boxes)
    raise ValueError(f"unknown detector {name!r}; expected auto, {', '.join(DETECTOR_ASSETS)}")


class SsdDetector:
    """SSD MobileNetV2 300×300 trained on Open Images; takes its class Person.

    Anchors and box code as in Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, §2.2,
    with the six layers and scales of the network's published configuration.

    Args:
        tiles: Which parts of the frame are searched besides the whole, see `tiling.TileSearch`;
            each costs as much as the frame, about 20 ms on one core.
        min_score: Weaker boxes are not returned. Scores of this network seldom exceed 0.7; the
            tracker starts nobody on a weak box but holds on to a person with one.
    """

    name: DetectorName = "ssd"

    def __init__(self, *, tiles: TilePolicy = "auto", min_score: float = 0.2) -> None:
        self._search = TileSearch(tiles)
        self._network = Network(
            asset(*DETECTOR_ASSETS["ssd"]),
            ("raw_outputs/box_encodings", "raw_outputs/class_predictions"),
        )
        self._anchors = _ssd_anchors()
        self._min_score = min_score

    def reset(self) -> None:
        """Forget where the clip's small people are."""
        self._search.reset()

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Find people in the next frame of the clip."""
        found = [self._detect(image)]
        tiles = self._search.next_tiles(*image.shape[:2])
        found += [self._detect_tile(image, tile) for tile in tiles]
        seen_px = [image.shape[0], *(tile.y1 - tile.y0 for tile in tiles)]
        detections = suppress([_prefer_near(found, seen_px)])
        self._search.learn(detections.boxes_px, detections.scores)
        return detections

    def _detect(self, image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        height_px, width_px = image.shape[:2]
        small = cv2.resize(image, (300, 300), interpolation=cv2.INTER_AREA)
        code, logits = self._network(small.astype(np.float32) / 127.5 - 1.0)
        scores = _sigmoid(logits[0, :, _SSD_PERSON])
        kept = scores >= self._min_score
        anchors, code = self._anchors[kept], code.reshape(-1, 4)[kept]
        # Offsets of centre y, x in a tenth of the anchor, of height, width in a fifth of its log.
        centre = code[:, 1::-1] / 10 * anchors[:, 2:] + anchors[:, :2]
        half = np.exp(code[:, :1:-1] / 5) * anchors[:, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        boxes_px = boxes * np.array([width_px, height_px] * 2, np.float32)
        return Detections(boxes_px.astype(np.float32), scores[kept])

    def _detect_tile(self, image: UInt8[np.ndarray, "h w 3"], tile: Tile) -> Detections:
        x0, y0, x1, y1 = tile
        found = self._detect(image[y0:y1, x0:x1])
        boxes_px = found.boxes_px + np.array([x0, y0, x0, y0], np.float32)
        # A box at an edge inside the frame is a person cut in two: the whole frame or the
        # neighbouring tile, which overlaps, sees all of them.
        height_px, width_px = image.shape[:2]
        margin_px = 0.02 * (y1 - y0)
        is_cut = np.zeros(len(found), bool)
        for axis, edge, border in ((0, x0, 0), (1, y0, 0), (2, x1, width_px), (3, y1, height_px)):
            if edge != border:
                sign = 1 if axis < 2 else -1
                is_cut |= sign * (boxes_px[:, axis] - edge) < margin_px
        return Detections(boxes_px[~is_cut], found.scores[~is_cut])


class BlazePoseDetector:
    """BlazePose's own person detector, for one to five people near the camera.

    Bazarevsky et al., BlazePose: On-device Real-time Body Pose tracking, 2020, §2.1: it finds
    faces, and for each the mid-hip point and the circle round the whole body, which gives the box.
    """

    name: DetectorName = "blazepose"

    def __init__(self, *, min_score: float = 0.5) -> None:
        self._network = Network(asset(*DETECTOR_ASSETS["blazepose"]), ("Identity", "Identity_1"))
        self._centres = _blazepose_anchor_centres()
        self._min_score = min_score

    def reset(self) -> None:
        """Nothing to forget: each frame is searched alone."""

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Find people in one frame."""
        height_px, width_px = image.shape[:2]
        side_px = max(height_px, width_px)
        top, left = (side_px - height_px) // 2, (side_px - width_px) // 2
        square = cv2.copyMakeBorder(
            image,
            top,
            side_px - height_px - top,
            left,
            side_px - width_px - left,
            cv2.BORDER_CONSTANT,
        )
        small = cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA)
        code, logits = self._network(small.astype(np.float32) / 127.5 - 1.0)
        scores = _sigmoid(logits[0, :, 0])
        kept = scores >= self._min_score
        points = code[0, kept, 4:8].reshape(-1, 2, 2) / 224 + self._centres[kept, np.newaxis]
        hips_px = points[:, 0] * side_px - np.array([left, top])
        radius_px = np.linalg.norm(points[:, 1] - points[:, 0], axis=1) * side_px
        # The circle says how tall the body is, not how wide: a walker's box is half as wide.
        half_px = np.stack([radius_px / 2, radius_px], axis=1)
        boxes_px = np.concatenate([hips_px - half_px, hips_px + half_px], axis=1)
        return suppress([Detections(boxes_px.astype(np.float32), scores[kept])])


class MotionDetector:
    """Upright moving blobs before a fixed camera, by background subtraction; needs no file.

    Zivkovic and van der Heijden, Efficient adaptive density estimation per image pixel, Pattern
    Recognition Letters 2006 (OpenCV's MOG2). Nobody is told from anything else that is upright
    and moves, and people who touch are one blob: prefer another detector where there is one.
    """

    name: DetectorName = "motion"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Learn a new background from the next frames on."""
        self._subtractor = cv2.createBackgroundSubtractorMOG2(
            history=300, varThreshold=25, detectShadows=True
        )
        self._index = 0

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Find what moves in the next frame of the clip."""
        scale = min(1.0, _MOTION_WIDTH_PX / image.shape[1])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        # Quick at first, to know the scene at all; then slow, so that who stands still stays.
        rate = -1.0 if self._index < _MOTION_WARM_UP else _MOTION_LEARNING_RATE
        foreground = self._subtractor.apply(cv2.GaussianBlur(small, (3, 3), 0), learningRate=rate)
        self._index += 1
        if self._index <= _MOTION_WARM_UP:  # everything is new at first
            return Detections.none()
        moving = (foreground == 255).astype(np.uint8)  # 127 marks shadows
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        # Taller than wide: joins head, trunk and legs of one person before neighbours.
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((13, 5), np.uint8))
        _, _, blobs, _ = cv2.connectedComponentsWithStats(moving, connectivity=8)
        x, y, width, height, area = blobs[1:].T
        kept = (
            (height >= _MOTION_MIN_HEIGHT_RATIO * small.shape[0])
            & (height >= 1.2 * width)
            & (height <= 6 * width)
            & (area >= 0.3 * width * height)
        )
        boxes = np.stack([x, y, x + width, y + height], axis=1)[kept] / scale
        return Detections(boxes.astype(np.float32), np.ones(int(kept.sum()), np.float32))


def _ssd_anchors() -> Float32[np.ndarray, "1917 4"]:
    """Centre x, y, width, height of the default boxes, as fractions of the image."""
    scales = [*np.linspace(0.2, 0.95, 6), 1.0]
    anchors = []
    for layer, cells in enumerate((19, 10, 5, 3, 2, 1)):
        scale, between = scales[layer], math.sqrt(scales[layer] * scales[layer + 1])
        shapes = [(scale, ratio) for ratio in (1, 2, 1 / 2, 3, 1 / 3)] + [(between, 1)]
        if layer == 0:  # the finest layer has three, one of them half as large
            shapes = [(0.1, 1), (scale, 2), (scale, 1 / 2)]
        for row, column in itertools.product(range(cells), repeat=2):
            centre = ((column + 0.5) / cells, (row + 0.5) / cells)
            anchors += [(*centre, s * math.sqrt(r), s / math.sqrt(r)) for s, r in shapes]
    return np.array(anchors, np.float32)


def _blazepose_anchor_centres() -> Float32[np.ndarray, "2254 2"]:
    """Centre x, y of the anchors of the 28, 14 and 7 cell grids: 2, 2 and 6 in each cell."""
    centres = [
        ((column + 0.5) / cells, (row + 0.5) / cells)
        for cells, per_cell in ((28, 2), (14, 2), (7, 6))
        for row, column in itertools.product(range(cells), repeat=2)
        for _ in range(per_cell)
    ]
    return np.array(centres, np.float32)


def _prefer_near(found: list[Detections], seen_px: list[int]) -> Detections:
    """Where a person was seen small and in a tile larger, keep the box of the tile.

    A low box is loose, often by more than suppression takes for the same person. The tile's box
    gets the better score of the two.

    Args:
        found: What each image gave, in pixels of the frame.
        seen_px: Height of each image, in the same pixels.
    """
    boxes_px = np.concatenate([part.boxes_px for part in found])
    scores = np.concatenate([part.scores for part in found])
    image_px = np.repeat(seen_px, [len(part) for part in found])
    is_loose = boxes_px[:, 3] - boxes_px[:, 1] < _LOOSE_HEIGHT_RATIO * image_px
    is_near = image_px[None] < _NEAR_HEIGHT_RATIO * image_px[:, None]
    overlap = np.where(
        is_loose[:, None] & is_near & (scores >= _NEAR_MIN_SCORE)[None],
        _ious(boxes_px),
        0,
    )
    gives_way = np.zeros(len(scores), bool)
    for loose, near in np.argwhere(overlap > _LOOSE_IOU):
        if near == overlap[loose].argmax():
            scores[near] = max(scores[near], scores[loose])
            gives_way[loose] = True
    return Detections(boxes_px[~gives_way], scores[~gives_way])


def suppress(found: list[Detections]) -> Detections:
    """Non-maximum suppression: the best box of each person.

    A box that lies in a better one is a part of that person, unless it is near it in size: people
    who walk abreast overlap too.
    """
    boxes_px = np.concatenate([part.boxes_px for part in found])
    scores = np.concatenate([part.scores for part in found])
    order = np.argsort(-scores, kind="stable")
    boxes_px, scores = boxes_px[order], scores[order]
    overlap, areas = intersections(boxes_px, boxes_px), box_areas(boxes_px)
    iou = _ious(boxes_px)
    inside = overlap / np.maximum(np.minimum(areas[:, None], areas[None]), 1e-6)
    ratio = np.minimum(areas[:, None], areas[None]) / np.maximum(areas[:, None], areas[None])
    same = (iou > _SAME_IOU) | ((inside > 0.8) & (ratio < 0.6))
    kept: list[int] = []
    for index in range(len(scores)):
        if not same[index, kept].any():
            kept.append(index)
    return Detections(boxes_px[kept], scores[kept])


def _ious(boxes_px: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n n"]:
    """Intersection over union of each box with each."""
    overlap, areas = intersections(boxes_px, boxes_px), box_areas(boxes_px)
    ious: np.ndarray = overlap / np.maximum(areas[:, None] + areas[None] - overlap, 1e-6)
    return ious


def box_areas(boxes_px: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, " n"]:
    """Areas of boxes given as x0, y0, x1, y1."""
    areas: np.ndarray = (boxes_px[:, 2] - boxes_px[:, 0]) * (boxes_px[:, 3] - boxes_px[:, 1])
    return areas


def intersections(
    a_px: Float32[np.ndarray, "n 4"], b_px: Float32[np.ndarray, "m 4"]
) -> Float32[np.ndarray, "n m"]:
    """Area that each box of the first set shares with each of the second."""
    low = np.maximum(a_px[:, None, :2], b_px[None, :, :2])
    high = np.minimum(a_px[:, None, 2:], b_px[None, :, 2:])
    sides_px: np.ndarray = np.maximum(high - low, 0)
    shared: np.ndarray = sides_px[..., 0] * sides_px[..., 1]
    return shared


def _sigmoid(logits: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    scores: np.ndarray = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    return scores
