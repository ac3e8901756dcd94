"""Pictures of a person that a detector did not centre: the disturbance of GaitEdge's Fig. 6.

Where the paper is silent
    Size      "Random pixel offset", no number: the caller says. Whole pixels, evenly drawn.
    Which     Each frame by itself with probability 0.5, as a detector errs in each frame anew.
    New rows  What moves in is black, and no person.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray


def draw_shifts(
    num_frames: int,
    max_shift_px: int,
    generator: np.random.Generator,
    *,
    probability: float = 0.5,
) -> Int64[ndarray, "t 2"]:
    """Draw how far down and to the right each frame of a clip moves.

    Args:
        num_frames: Frames of the clip.
        max_shift_px: Largest shift in either direction, in rows and in columns.
        generator: Source of the draw.
        probability: Share of frames that are moved, 0..1. A moved frame may draw a shift of 0.

    Raises:
        ValueError: A number is out of range.
    """
    if max_shift_px < 0:
        raise ValueError(f"max_shift_px ({max_shift_px}) must not be negative")
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability ({probability}) must be between 0 and 1")
    shifts = generator.integers(-max_shift_px, max_shift_px + 1, size=(num_frames, 2))
    moved: Int64[ndarray, "t 2"] = np.where(
        generator.random((num_frames, 1)) < probability, shifts, 0
    )
    return moved


def shift_frames(
    frames: UInt8[ndarray, "t h w *c"], shifts: Int64[ndarray, "t 2"]
) -> UInt8[ndarray, "t h w *c"]:
    """Move each frame; a clip's colours and masks are moved by the same shifts.

    Args:
        frames: Colours or masks.
        shifts: Rows down and columns to the right, of each frame (`draw_shifts`).

    Raises:
        ValueError: Not one shift a frame.
    """
    if len(frames) != len(shifts):
        raise ValueError(f"got {len(shifts)} shifts for {len(frames)} frames")
    height, width = frames.shape[1:3]
    moved = np.zeros_like(frames)
    for frame, into, (down, right) in zip(frames, moved, shifts.tolist(), strict=True):
        if abs(down) < height and abs(right) < width:
            kept = frame[
                max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
            ]
            into[max(down, 0) :, max(right, 0) :][: kept.shape[0], : kept.shape[1]] = kept
    return moved


def shift_clip(clip: Mapping[str, ndarray], shifts: Int64[ndarray, "t 2"]) -> dict[str, ndarray]:
    """An RGB clip as shards hold it, with `frames` and `masks` moved alike."""
    return {
        name: shift_frames(values, shifts) if name in ("frames", "masks") else values
        for name, values in clip.items()
    }
