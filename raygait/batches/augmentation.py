"""Augmentation of a silhouette clip: one draw a clip, the same for all of its frames.

The papers name the kinds (LGDiffGait section 4.3: flip, erase, rotate, perspective, affine) and
print neither sizes nor probabilities. The sizes here are those of the field's public code, as
shares of the frame so that they hold at any size. Mirroring is not here: every modality can be
mirrored (`inputs.mirror_clip`), the rest is for silhouettes alone.

A clip is warped once: perspective, affine and rotation are one matrix, because each resampling of
its own would blur the outline. It is warped before the frames are cut to the network's columns, so
that what is moved into view is the person and not zeros.

Published checkpoints were trained otherwise, with OpenGait's loader. `Style` "opengait" does what
that does:

    perspective  Corners move inwards by whole pixels, 0 to 9 on the left and 1 to 10 on the right,
                 of a frame whose corners are (0, 0) and (w, h), not its outer pixels' centres.
    affine       Both triangles are drawn, each corner 0 to 9 whole pixels inwards; before the
                 perspective. No published configuration has it.
    rotate       A resampling of its own, after the cut and the mirror, about (h // 2, w // 2)
                 taken for (x, y): of 64 x 44 that is column 32 of row 22. Black is moved in.
    erase        The box's aspect is uniform itself and not its logarithm; a box that does not fit
                 is drawn again, a hundred times at most.

Both resamplings of "opengait" round to whole levels; theirs rounds the second's places to 1/32
pixel instead, which moved a level by 6 of 255 at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from numpy import ndarray
from torch import Tensor

Style = Literal["papers", "opengait"]

# 10 px of a frame of 64.
_CORNER_SHIFT_RATIO = 10 / 64
_ANGLE_DEG = 10.0
_ERASED_AREA = (0.05, 0.2)
_ERASED_ASPECT = (0.3, 3.3)
_ERASED_ASPECT_OPENGAIT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augmentation:
    """How often each kind happens to a clip.

    Attributes:
        perspective_ratio: Share whose upper and lower edges are stretched: each corner moves
            inwards by up to 10/64 of the frame.
        affine_ratio: Share whose three corners each move by up to 10/64 of the frame either way.
        rotate_ratio: Share turned about the centre by up to 10 degrees either way.
        erase_ratio: Share that loses a box of 5-20 % of the frame, in every frame the same.
        style: `papers`, or `opengait` as this module's text says.

    Raises:
        ValueError: A share is not in 0..1.
    """

    perspective_ratio: float = 0.0
    affine_ratio: float = 0.0
    rotate_ratio: float = 0.0
    erase_ratio: float = 0.0
    style: Style = "papers"

    def __post_init__(self) -> None:
        for name, ratio in vars(self).items():
            if name != "style" and not 0.0 <= ratio <= 1.0:
                raise ValueError(f"{name} ({ratio}) must be between 0 and 1")


@dataclass(frozen=True)
class Draw:
    """What happens to one clip, in this order.

    Attributes:
        matrix: Where a pixel of a stored frame goes, as (x, y, 1); `None` moves none.
        turn: The same of a frame that was cut, scaled and mirrored; `opengait` only.
        box: Rows and columns to erase of such a frame, as slices; `None` erases nothing.
    """

    matrix: Float64[ndarray, "3 3"] | None = None
    turn: Float64[ndarray, "3 3"] | None = None
    box: tuple[slice, slice] | None = None


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
    # In one call, as calls are what a draw costs; the two numbers of a box's place come last.
    numbers = generator.random(17)
    happens = numbers[:4] < (
        augmentation.perspective_ratio,
        augmentation.affine_ratio,
        augmentation.rotate_ratio,
        augmentation.erase_ratio,
    )
    if not happens.any():
        return Draw()
    if augmentation.style == "opengait":
        return _draw_like_opengait(happens, stored_size_px, size_px, numbers[4:], generator)
    matrix = None
    if happens[0]:
        matrix = _perspective(*stored_size_px, numbers[4:8])
    if happens[1]:
        matrix = _then(matrix, _affine(*stored_size_px, -1.0 + 2.0 * numbers[8:14].reshape(3, 2)))
    if happens[2]:
        centre = ((stored_size_px[1] - 1) / 2, (stored_size_px[0] - 1) / 2)
        matrix = _then(matrix, _rotation(centre, _between(-_ANGLE_DEG, _ANGLE_DEG, numbers[14])))
    box = _box(*size_px, numbers[15], numbers[16], generator) if happens[3] else None
    return Draw(matrix=matrix, box=box)


def warp(
    frames: UInt8[Tensor, "n t h w"],
    matrices: Float64[ndarray, "n 3 3"],
    width_px: int | None = None,
) -> UInt8[Tensor, "n t h v"]:
    """Move the pixels of clips, on the device that holds them.

    Args:
        frames: Silhouettes. They are not changed.
        matrices: Where a pixel of each clip goes, as (x, y, 1).
        width_px: Only the middle columns are computed, this many; all if left out.
    """
    height, width = frames.shape[-2:]
    kept = width if width_px is None else width_px
    left = (width - kept) // 2
    # Row and column of the result -> what it shows, -1 and 1 being the outer pixels' centres. In
    # 64 bits, for a pixel to be the same everywhere unless it lies half way between two levels.
    to_grid = np.array([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]])
    inverse = torch.from_numpy(to_grid @ np.linalg.inv(matrices)).to(frames.device)
    x = torch.arange(left, left + kept, dtype=torch.float64, device=frames.device)
    y = torch.arange(height, dtype=torch.float64, device=frames.device)
    in_x, in_y, constant = inverse[:, :, None, None].unbind(-1)
    shown = in_x * x + (in_y * y[:, None] + constant)
    grid = (shown[:, :2] / shown[:, 2:]).permute(0, 2, 3, 1).to(torch.float32)
    warped = torch.nn.functional.grid_sample(frames.to(torch.float32), grid, align_corners=True)
    return warped.round_().to(torch.uint8)


def warp_clip(
    frames: UInt8[ndarray, "t h w"],
    matrix: Float64[ndarray, "3 3"] | None,
    width_px: int | None = None,
) -> UInt8[ndarray, "t h v"]:
    """`warp` of one clip in memory; frames that nothing moves are only cut."""
    if matrix is None:
        left = 0 if width_px is None else (frames.shape[-1] - width_px) // 2
        return frames[..., left : frames.shape[-1] - left]
    warped: UInt8[ndarray, "t h v"] = warp(torch.from_numpy(frames)[None], matrix[None], width_px)[
        0
    ].numpy()
    return warped


def _then(first: np.ndarray | None, second: np.ndarray) -> np.ndarray:
    return second if first is None else second @ first


def _between(low: float, high: float, number: float) -> float:
    return low + (high - low) * float(number)


def _box(
    height: int, width: int, area: float, aspect: float, generator: np.random.Generator
) -> tuple[slice, slice]:
    erased = _between(*_ERASED_AREA, area) * height * width
    # Uniform in its logarithm: a box twice as high as wide is as likely as one twice as wide.
    lowest, highest = np.log(_ERASED_ASPECT)
    ratio = np.exp(_between(lowest, highest, aspect))
    rows = min(height, max(1, round(float(np.sqrt(erased * ratio)))))
    columns = min(width, max(1, round(float(np.sqrt(erased / ratio)))))
    return _placed(height, width, rows, columns, generator)


def _placed(
    height: int, width: int, rows: int, columns: int, generator: np.random.Generator
) -> tuple[slice, slice]:
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


def _rotation(centre: tuple[float, float], angle_deg: float) -> np.ndarray:
    return np.vstack([cv2.getRotationMatrix2D(centre, angle_deg, 1.0), [0.0, 0.0, 1.0]])


def _draw_like_opengait(
    happens: np.ndarray,
    stored_size_px: tuple[int, int],
    size_px: tuple[int, int],
    numbers: np.ndarray,
    generator: np.random.Generator,
) -> Draw:
    height, width = stored_size_px
    largest = width // 44 * 10
    # Drawn whether they are used or not, for the same reason as all other numbers.
    triangles = generator.integers(max(1, height // 64 * 10), size=(2, 3, 2))
    matrix = turn = box = None
    if happens[1]:
        outer = np.array([[0, 0], [width, 0], [0, height]])
        inwards = triangles * np.array([[1, 1], [-1, 1], [1, -1]])
        source, target = (outer + inwards).astype(np.float32)
        matrix = np.vstack([cv2.getAffineTransform(source, target), [0.0, 0.0, 1.0]])
    if happens[0]:
        moves = np.floor(numbers[:4] * largest)
        top_left, top_right, bottom_right, bottom_left = moves
        target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        source = target.copy()
        # To the left 0 to 9 pixels in, to the right 1 to 10.
        source[:, 0] += [top_left, top_right - largest, bottom_right - largest, bottom_left]
        matrix = _then(matrix, np.asarray(cv2.getPerspectiveTransform(source, target)))
    if happens[2]:
        centre = (float(size_px[0] // 2), float(size_px[1] // 2))
        turn = _rotation(centre, _between(-_ANGLE_DEG, _ANGLE_DEG, numbers[10]))
    if happens[3]:
        box = _box_like_opengait(*size_px, generator)
    return Draw(matrix=matrix, turn=turn, box=box)


def _box_like_opengait(
    height: int, width: int, generator: np.random.Generator
) -> tuple[slice, slice] | None:
    for _ in range(100):
        area = generator.uniform(*_ERASED_AREA) * height * width
        aspect = generator.uniform(*_ERASED_ASPECT_OPENGAIT)
        rows, columns = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if rows < height and columns < width:
            return _placed(height, width, rows, columns, generator)
    return None
