"""Augmentation of a silhouette clip: one draw a clip, the same for all of its frames.

The papers name the kinds (LGDiffGait section 4.3: flip, erase, rotate, perspective, affine) and
print neither sizes nor probabilities. The sizes here are those of the field's public code, as
shares of the frame so that they hold at any size. Mirroring is not here: every modality can be
mirrored (`inputs.mirror_clip`), the rest is for silhouettes alone.

A clip is warped once: perspective, affine and rotation are one matrix, because each resampling of
its own would blur the outline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

# 10 px of a frame of 64.
_CORNER_SHIFT_RATIO = 10 / 64
_ANGLE_DEG = 10.0
_ERASED_AREA = (0.05, 0.2)
_ERASED_ASPECT = (0.3, 3.3)


@dataclass(frozen=True)
class Augmentation:
    """How often each kind happens to a clip.

    Attributes:
        perspective_ratio: Share whose upper and lower edges are stretched: each corner moves
            inwards by up to 10/64 of the frame.
        affine_ratio: Share whose three corners each move by up to 10/64 of the frame either way.
        rotate_ratio: Share turned about the centre by up to 10 degrees either way.
        erase_ratio: Share that loses a box of 5-20 % of the frame, in every frame the same.

    Raises:
        ValueError: A share is not in 0..1.
    """

    perspective_ratio: float = 0.0
    affine_ratio: float = 0.0
    rotate_ratio: float = 0.0
    erase_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name, ratio in vars(self).items():
            if not 0.0 <= ratio <= 1.0:
                raise ValueError(f"{name} ({ratio}) must be between 0 and 1")


@dataclass(frozen=True)
class Draw:
    """What happens to one clip.

    Attributes:
        matrix: Where a pixel goes, as (x, y, 1); `None` moves none.
        box: Rows and columns to erase, as slices; `None` erases nothing.
    """

    matrix: Float64[ndarray, "3 3"] | None
    box: tuple[slice, slice] | None


def draw(
    augmentation: Augmentation,
    stored_size_px: tuple[int, int],
    size_px: tuple[int, int],
    generator: np.random.Generator,
) -> Draw:
    """Draw for one clip.

    The same numbers are drawn whatever the shares are, so that changing one share leaves what
    the others do as it was.

    Args:
        augmentation: How often each kind happens.
        stored_size_px: Rows and columns of the frames as shards hold them, which are warped.
        size_px: Rows and columns that the network sees, of which a box is erased.
        generator: Source of the draw.
    """
    chance = generator.random(4)
    perspective_moves = generator.random(4)
    affine_moves = generator.uniform(-1.0, 1.0, (3, 2))
    angle_deg = generator.uniform(-_ANGLE_DEG, _ANGLE_DEG)
    box = _draw_box(*size_px, generator)

    matrix = np.eye(3)
    if chance[0] < augmentation.perspective_ratio:
        matrix = _perspective(*stored_size_px, perspective_moves) @ matrix
    if chance[1] < augmentation.affine_ratio:
        matrix = _affine(*stored_size_px, affine_moves) @ matrix
    if chance[2] < augmentation.rotate_ratio:
        matrix = _rotation(*stored_size_px, angle_deg) @ matrix
    return Draw(
        matrix=None if np.array_equal(matrix, np.eye(3)) else matrix,
        box=box if chance[3] < augmentation.erase_ratio else None,
    )


def warp(frames: UInt8[ndarray, "t h w"], drawn: Draw) -> UInt8[ndarray, "t h w"]:
    """Move the pixels of a clip, before the frames are cut to the network's columns.

    What is moved into view is then the person and not zeros.

    Args:
        frames: Silhouettes as shards hold them. They are not changed.
        drawn: What happens; its box is not looked at.
    """
    if drawn.matrix is None:
        return frames
    height, width = frames.shape[1:]
    # Frame by frame: with more than 4 channels OpenCV warps wrongly and says nothing.
    return np.stack([cv2.warpPerspective(frame, drawn.matrix, (width, height)) for frame in frames])


def erase(frames: UInt8[ndarray, "*batch h w"], drawn: Draw) -> UInt8[ndarray, "*batch h w"]:
    """Erase the box that was drawn, in every frame the same.

    Args:
        frames: Silhouettes of the size that the network sees. They are not changed.
        drawn: What happens; its matrix is not looked at.
    """
    if drawn.box is None:
        return frames
    frames = frames.copy()
    frames[..., drawn.box[0], drawn.box[1]] = 0
    return frames


def _draw_box(height: int, width: int, generator: np.random.Generator) -> tuple[slice, slice]:
    area = generator.uniform(*_ERASED_AREA) * height * width
    # Uniform in its logarithm: a box twice as high as wide is as likely as one twice as wide.
    aspect = np.exp(generator.uniform(*np.log(_ERASED_ASPECT)))
    rows = min(height, max(1, round(float(np.sqrt(area * aspect)))))
    columns = min(width, max(1, round(float(np.sqrt(area / aspect)))))
    top = int(generator.integers(height - rows + 1))
    left = int(generator.integers(width - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)


def _corners(height: int, width: int) -> np.ndarray:
    return np.array(
        [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float32
    )


def _perspective(height: int, width: int, moves: np.ndarray) -> np.ndarray:
    # The corners of the result show points further in: what is between them is stretched.
    target = _corners(height, width)
    source = target.copy()
    source[:, 0] += moves * _CORNER_SHIFT_RATIO * width * np.array([1, -1, -1, 1])
    matrix: Any = cv2.getPerspectiveTransform(source.astype(np.float32), target)
    return np.asarray(matrix)


def _affine(height: int, width: int, moves: np.ndarray) -> np.ndarray:
    source = _corners(height, width)[:3]
    shift = moves * _CORNER_SHIFT_RATIO * np.array([width, height])
    matrix = cv2.getAffineTransform(source, (source + shift).astype(np.float32))
    return np.vstack([matrix, [0.0, 0.0, 1.0]])


def _rotation(height: int, width: int, angle_deg: float) -> np.ndarray:
    centre = ((width - 1) / 2, (height - 1) / 2)
    return np.vstack([cv2.getRotationMatrix2D(centre, angle_deg, 1.0), [0.0, 0.0, 1.0]])
