"""Heatmaps drawn from joint coordinates, as SkeletonGait does it: what GaitHeat's Table 4 compares.

Fan et al., SkeletonGait: Gait Recognition Using Skeleton Maps, AAAI 2024, §3.1; limbs and Gaussians
as in Duan et al., Revisiting Skeleton-based Action Recognition (PoseC3D), CVPR 2022, §3.2. The
person is centred on the hips, every frame scaled to one height, limbs and joints are drawn as
Gaussian bands and spots of the joints' scores, and the drawing is cut to a square and made 64×64.

Where this differs from the published code: a joint without a score is put where its neighbours in
time are, instead of where joints of similar frames are; and a frame in which all joints have one
height is blank instead of not a number.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

SIZE_PX = 64
"""Height and width of a redrawn heatmap."""

LIMBS = (
    *((0, 1), (0, 2), (1, 3), (2, 4)),  # nose, eyes, ears
    *((0, 5), (5, 7), (7, 9)),  # nose, left arm
    *((0, 6), (6, 8), (8, 10)),  # nose, right arm
    *((5, 11), (11, 13), (13, 15)),  # left side and leg
    *((6, 12), (12, 14), (14, 16)),  # right side and leg
    (11, 12),
)
"""Pairs of COCO joints that PoseC3D joins."""

_CANVAS_PX = 128
_BODY_PX = 85  # of the canvas: two thirds, rounded down
_SIGMA_PX = 8.0
_REACH_PX = 24  # three sigma
_FAINT = 1e-3
_HIPS = (11, 12)


def redraw(joints: Float32[np.ndarray, "t 17 3"]) -> UInt8[np.ndarray, "t 2 64 64"]:
    """Draw joints as two heatmaps a frame: limbs, then joints.

    Args:
        joints: COCO-17: x, y in pixels of any frame, and a score 0..1; a score of 0, or a place
            that is not a number, is a joint that was not seen.

    Returns:
        255 = 1.0; a frame without a pose is blank.
    """
    placed = _normalise(_fill(joints.astype(np.float64)))
    return np.stack([_draw(frame) for frame in placed]) if len(placed) else _blank()


def _blank() -> UInt8[np.ndarray, "0 2 64 64"]:
    return np.zeros((0, 2, SIZE_PX, SIZE_PX), np.uint8)


def _fill(joints: np.ndarray) -> np.ndarray:
    """Put joints that were not seen where they are in the frames before and after."""
    filled = joints.copy()
    is_seen = np.isfinite(joints).all(axis=2) & (joints[..., 2] > 0)  # [t, j]
    frames = np.arange(len(joints))
    for joint in range(joints.shape[1]):
        seen = is_seen[:, joint]
        if not seen.any():
            filled[:, joint] = (np.nan, np.nan, 0)
            continue
        for axis in range(2):
            filled[:, joint, axis] = np.interp(frames, frames[seen], joints[seen, joint, axis])
        filled[~seen, joint, 2] = 0
    return filled


def _normalise(joints: np.ndarray) -> np.ndarray:
    """Hips to the middle of the canvas, the highest and lowest joint 85 px apart."""
    placed = joints.copy()
    if not len(joints) or np.isnan(joints[:, _HIPS, 0]).any():
        placed[..., :2] = np.nan
        return placed
    is_known = np.isfinite(joints[..., 1])
    low = np.where(is_known, joints[..., 1], np.inf).min(axis=1)
    high = np.where(is_known, joints[..., 1], -np.inf).max(axis=1)
    with np.errstate(divide="ignore"):
        scale = np.where(high > low, _BODY_PX / (high - low), np.nan)
    hips = joints[:, _HIPS, :2].mean(axis=1)
    placed[..., :2] = (joints[..., :2] - hips[:, None]) * scale[:, None, None] + _CANVAS_PX // 2
    return placed


def _draw(joints: np.ndarray) -> UInt8[np.ndarray, "2 64 64"]:
    limbs, spots = np.zeros((2, _CANVAS_PX, _CANVAS_PX), np.float32)
    is_known = np.isfinite(joints).all(axis=1) & (joints[:, 2] > _FAINT)
    for joint in np.flatnonzero(is_known):
        _band(spots, joints[joint], joints[joint])
    for first, second in LIMBS:
        if is_known[first] and is_known[second]:
            _band(limbs, joints[first], joints[second])
    return np.stack([_crop(limbs), _crop(spots)])


def _band(canvas: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """A Gaussian of the distance to a limb, its peak the lesser score; overlaps by maximum."""
    ends = np.stack([first[:2], second[:2]])
    x0, y0 = np.maximum(np.floor(ends.min(axis=0)).astype(int) - _REACH_PX, 0)
    x1, y1 = np.minimum(np.ceil(ends.max(axis=0)).astype(int) + _REACH_PX + 1, _CANVAS_PX)
    if x0 >= x1 or y0 >= y1:
        return
    x = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(ends[0, 0])
    y = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(ends[0, 1])
    along = (ends[1] - ends[0]).astype(np.float32)
    length_squared = float(along @ along)
    if length_squared >= 1:  # a shorter limb is a spot
        share = np.clip((x * along[0] + y * along[1]) / length_squared, 0, 1)
        x, y = x - share * along[0], y - share * along[1]
    squared = x * x + y * y
    levels = np.float32(min(first[2], second[2])) * np.exp(squared / np.float32(-2 * _SIGMA_PX**2))
    levels[squared > _REACH_PX**2] = 0
    part = canvas[y0:y1, x0:x1]
    np.maximum(part, levels, out=part)


def _crop(canvas: np.ndarray) -> UInt8[np.ndarray, "64 64"]:
    """Cut to the rows that hold anything and as many columns round the middle, and scale."""
    levels = np.rint(255 * np.clip(canvas, 0, 1)).astype(np.uint8)
    rows = np.flatnonzero(levels.any(axis=1))
    if not len(rows):
        return np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    top, height = int(rows[0]), int(rows[-1] - rows[0] + 1)
    left = _CANVAS_PX // 2 - height // 2
    cut = levels[top : top + height, left : left + height]
    scaled: np.ndarray = cv2.resize(cut, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
    return scaled
