"""A user's own person detector, by path: the outputs of the common exports of YOLO networks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from raygait.errors import AssetError
from raygait.video.detection import BoxFormat, Detections, DetectorName, suppress
from raygait.video.onnx_networks import OnnxNetwork

# Nobody is larger than this, in frames.
_MAX_SIDE_RATIO = 2
_FREE_SIZE_PX = 640
_PAD_GREY = 114
_PERSON = 0
_STRIDES = (8, 16, 32)
# So many boxes are compared with each other at most.
_MAX_BOXES = 1000
_EXPECTED: dict[BoxFormat, str] = {
    "yolox": "[1, cells, 5 + classes], the cells of strides 8, 16 and 32 over the input",
    "yolox-decoded": "[1, cells, 5 + classes], the cells of strides 8, 16 and 32 over the input",
    "yolov8": "[1, 4 + classes, cells]",
    "nms": "[1, boxes, 6]: x0, y0, x1, y1, score, class",
}


class OnnxDetector:
    """A detector with COCO's classes, or persons alone: class 0 is a person.

    A frame is scaled to fit the network's input, its sides kept in proportion, and the rest is
    grey (114). Sizes in the output are pixels of the input:

    - `yolox`: the image is BGR, 0..255, and lies at the top left. Output `[1, cells, 5 + classes]`,
      the cells row by row at strides 8, 16, 32: offset of the box's centre from the cell's corner
      and logarithm of its sides, both in strides; objectness; classes.
    - `yolox-decoded`: the same with centre and sides in pixels.
    - `yolov8`: the image is RGB, 0..1, and lies in the middle. Output `[1, 4 + classes, cells]`:
      centre, sides, classes.
    - `nms`: the image as for `yolov8`. Output `[1, boxes, 6]`: x0, y0, x1, y1, score, class. It is
      taken as it is; of the others the best box of each person is kept.

    Ge et al., YOLOX: Exceeding YOLO Series in 2021, §2, for the first two. Scores are probabilities
    (after the sigmoid, as these exports have it); with an objectness, the product with the class.

    Args:
        path: One image input `[n, 3, h, w]`; 640×640 is taken where the file leaves h and w free.
        boxes: What the output means.
        min_score: Weaker boxes are not returned.

    Raises:
        AssetError: The file cannot be read or is not such a network.
    """

    name: DetectorName = "onnx"

    def __init__(
        self, path: str | Path, boxes: BoxFormat = "yolox", *, min_score: float = 0.2
    ) -> None:
        if boxes not in get_args(BoxFormat):
            raise ValueError(
                f"unknown boxes {boxes!r}; expected one of {', '.join(get_args(BoxFormat))}"
            )
        self._boxes = boxes
        self._min_score = min_score
        self._network = OnnxNetwork(path)
        height_px, width_px = (
            _FREE_SIZE_PX if size is None else size for size in self._network.size
        )
        self._size = (height_px, width_px)
        self._is_yolox = boxes in ("yolox", "yolox-decoded")
        if self._is_yolox and (height_px % max(_STRIDES) or width_px % max(_STRIDES)):
            raise AssetError(
                f"{path}: the input is {height_px}×{width_px}, expected multiples of "
                f"{max(_STRIDES)} for boxes={boxes}"
            )
        # Column, row and stride of each cell.
        self._cells = np.array(
            [
                (column, row, stride)
                for stride in _STRIDES
                for row, column in itertools.product(
                    range(height_px // stride), range(width_px // stride)
                )
            ],
            np.float32,
        )
        if self._network.output_shape is not None:
            self._check(self._network.output_shape)
        self(np.zeros((*self._size, 3), np.uint8))  # what the file leaves open shows in its answer

    def reset(self) -> None:
        """Nothing to forget: each frame is searched alone."""

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Find people in one frame.

        Raises:
            AssetError: The output is not of the form that `boxes` says.
        """
        height_px, width_px = image.shape[:2]
        scale = min(self._size[0] / height_px, self._size[1] / width_px)
        inner = (max(1, round(height_px * scale)), max(1, round(width_px * scale)))
        top, left = (0, 0)
        if not self._is_yolox:
            top, left = (self._size[0] - inner[0]) // 2, (self._size[1] - inner[1]) // 2
        canvas = np.full((*self._size, 3), _PAD_GREY, np.uint8)
        canvas[top : top + inner[0], left : left + inner[1]] = cv2.resize(
            image, (inner[1], inner[0]), interpolation=cv2.INTER_LINEAR
        )
        values = canvas[:, :, ::-1] if self._is_yolox else canvas / np.float32(255)
        output = self._network(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32))
        self._check(output.shape)
        boxes, scores = self._decode(output[0])
        corner = np.array([left, top] * 2, np.float32)
        # Sides are rounded to whole pixels, each on its own.
        to_frame = np.array([width_px / inner[1], height_px / inner[0]] * 2, np.float32)
        boxes_px = (boxes - corner) * to_frame
        # The exponential of a poor network's answer may be any size; cutting it out would not end.
        sides_px = boxes_px[:, 2:] - boxes_px[:, :2]
        is_possible = (sides_px <= _MAX_SIDE_RATIO * np.array([width_px, height_px])).all(axis=1)
        found = Detections(boxes_px[is_possible], scores[is_possible])
        return found if self._boxes == "nms" else suppress([found])

    def _decode(
        self, output: Float32[np.ndarray, "a b"]
    ) -> tuple[Float32[np.ndarray, "n 4"], Float32[np.ndarray, " n"]]:
        """x0, y0, x1, y1 in pixels of the input and the score of persons, the best first."""
        rows = output.T if self._boxes == "yolov8" else output
        if self._boxes == "nms":
            scores = np.where(rows[:, 5] == _PERSON, rows[:, 4], 0)
        elif self._boxes == "yolov8":
            scores = rows[:, 4 + _PERSON]
        else:
            scores = rows[:, 4] * rows[:, 5 + _PERSON]
        if len(scores) and not (scores.min() >= 0 and scores.max() <= 1.001):
            raise self._not_as_said(f"scores from {scores.min():.3g} to {scores.max():.3g}", "0..1")
        kept = np.flatnonzero(scores >= self._min_score)
        kept = kept[np.argsort(-scores[kept], kind="stable")][:_MAX_BOXES]
        rows, scores = rows[kept], scores[kept]
        if self._boxes == "nms":
            low, high = rows[:, :2], rows[:, 2:4]
        else:
            centres, sizes = rows[:, :2], rows[:, 2:4]
            if self._boxes == "yolox":
                cells = self._cells[kept]
                centres = (centres + cells[:, :2]) * cells[:, 2:]
                with np.errstate(over="ignore"):  # refused below
                    sizes = np.exp(sizes) * cells[:, 2:]
            low, high = centres - sizes / 2, centres + sizes / 2
        sides_px = high - low
        if not (np.isfinite(sides_px) & (sides_px > 0)).all():
            got = f"boxes with sides from {sides_px.min():.3g} to {sides_px.max():.3g} px"
            raise self._not_as_said(got, "positive ones")
        return np.concatenate([low, high], axis=1), scores

    def _not_as_said(self, got: str, expected: str) -> AssetError:
        return AssetError(
            f"{self._network.path}: {got}, expected {expected}; is its output of the form "
            f"{self._boxes}: {_EXPECTED[self._boxes]}?"
        )

    def _check(self, shape: tuple[int | None, ...]) -> None:
        """Refuse an output of another form; None stands for a size that is not known yet."""
        fits = len(shape) == 3 and shape[0] in (1, None)
        if fits:
            _, first, second = shape
            if self._is_yolox:
                fits = first in (len(self._cells), None) and (second is None or second >= 6)
            elif self._boxes == "nms":
                fits = second in (6, None)
            else:
                # There are far more cells than classes: the other way round it is transposed.
                fits = (first is None or first >= 5) and (
                    first is None or second is None or first < second
                )
        if not fits:
            got = ", ".join("?" if size is None else str(size) for size in shape)
            height_px, width_px = self._size
            raise AssetError(
                f"{self._network.path}: the output has shape [{got}] for an input of "
                f"{height_px}×{width_px}, expected {_EXPECTED[self._boxes]}"
                + (f" ({len(self._cells)} cells)" if self._is_yolox else "")
                + "; name the form it has"
            )
