"""Which frames of a sequence make a clip, and how a frame becomes what the model sees."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8, UInt32
from numpy import ndarray

ClipOrder = Literal["ordered", "unordered"]


def clip_frames(
    num_frames: int,
    length: int,
    order: ClipOrder,
    generator: np.random.Generator,
    *,
    skip: int = 0,
) -> Int64[ndarray, " t"]:
    """Frame numbers of a training clip.

    A sequence shorter than the clip is walked through cyclically (`ordered`), or its frames are
    drawn again once all are used (`unordered`); the clip always has `length` frames. The walk
    starts where as many whole rounds as the clip needs leave room, as in the field's public code.

    Args:
        num_frames: Frames that the sequence has.
        length: Frames that the clip gets.
        order: `ordered`, consecutive frames from a random start; `unordered`, random frames.
        generator: Source of the draw.
        skip: Frames left out of an ordered clip, at random places of a window longer by as many.

    Raises:
        ValueError: The sequence has no frame.
    """
    if num_frames < 1:
        raise ValueError("a clip needs a sequence with at least one frame")
    if order == "ordered":
        window = length + skip
        rounds = -(-window // num_frames)
        start = int(generator.integers(rounds * num_frames - window + 1))
        numbers = np.arange(start, start + window, dtype=np.int64) % num_frames
        if skip:
            numbers = numbers[np.sort(generator.permutation(window)[:length])]
        return numbers
    rounds = -(-length // num_frames)
    drawn = np.concatenate([generator.permutation(num_frames) for _ in range(rounds)])
    return drawn[:length].astype(np.int64)


def cut_columns(
    frames: UInt8[ndarray, "*batch h w"], width_px: int
) -> UInt8[ndarray, "*batch h v"]:
    """The middle columns: 64 x 44 out of 64 x 64, as the silhouette papers feed their networks.

    Raises:
        ValueError: Wider than the frames, or the cut would be uneven.
    """
    excess = frames.shape[-1] - width_px
    if excess < 0 or excess % 2:
        raise ValueError(
            f"cannot cut {width_px} columns evenly out of frames {frames.shape[-1]} px wide"
        )
    return frames[..., excess // 2 : frames.shape[-1] - excess // 2]


def fit_frames(
    frames: UInt8[ndarray, "*batch h w"], height_px: int, width_px: int
) -> UInt8[ndarray, "*batch v u"]:
    """Frames as a network's input wants them: the middle columns, then averaged over squares.

    64 x 64 becomes 64 x 44 by the cut alone, and 32 x 22 by the cut and the mean of 2 x 2 pixels.

    Args:
        frames: As the shards hold them, or cut already.
        height_px: Height of the result; the frames' height or a whole fraction of it.
        width_px: Width of the result.

    Raises:
        ValueError: The height is no whole fraction, the columns cannot be cut evenly, or the
            frames are wider than high.
    """
    factor, rest = divmod(frames.shape[-2], height_px)
    if rest or factor < 1:
        raise ValueError(
            f"frames {frames.shape[-2]} px high cannot become {height_px} px: "
            "not a whole fraction of the height"
        )
    if frames.shape[-1] > frames.shape[-2]:
        raise ValueError(
            f"frames {frames.shape[-2]} px high and {frames.shape[-1]} px wide are wider than "
            "high, which no aligned silhouette is"
        )
    cut = cut_columns(frames, width_px * factor)
    if factor == 1:
        return cut
    squares = cut.reshape(*cut.shape[:-2], height_px, factor, width_px, factor)
    # A mean of 8-bit numbers in 32 bits, rounded to nearest.
    total: UInt32[ndarray, "*batch v u"] = squares.sum(axis=(-3, -1), dtype=np.uint32)
    mean: UInt8[ndarray, "*batch v u"] = ((2 * total + factor**2) // (2 * factor**2)).astype(
        np.uint8
    )
    return mean


def scale_to_unit(
    frames: UInt8[ndarray, "*shape"], out: Float32[ndarray, "*shape"] | None = None
) -> Float32[ndarray, "*shape"]:
    """0..255 to 0..1.

    Args:
        frames: Frames in bytes.
        out: Where to write the floats; a new array if left out.
    """
    # In one pass: a batch of RGB clips would not like a second array of its floats.
    unit: Float32[ndarray, "*shape"] = np.divide(frames, np.float32(255), out=out, dtype=np.float32)
    return unit
