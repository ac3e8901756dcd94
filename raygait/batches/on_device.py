"""What happens to the clips of a batch, done for all of them at once where the network is.

A GPU warps a batch in the time that a CPU needs for a clip, and bytes take a quarter of the time
of floats to get there. The numbers that decide are drawn on the CPU either way, so that a run on a
GPU sees the clips that a run on a CPU sees, the same to one level of 255 where they were warped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from raygait.batches.augmentation import Draw, warp


def silhouettes_as_seen(
    stored: UInt8[Tensor, "n t h w"],
    drawn: Sequence[Draw],
    mirrored: Sequence[bool],
    size_px: tuple[int, int],
) -> UInt8[Tensor, "n 1 t v u"]:
    """Silhouette clips as `inputs.fit_clip` and `augmentation` make them one by one.

    Args:
        stored: Clips as shards hold them, on the device that is to work. They are not changed.
        drawn: What happens to each.
        mirrored: Which are mirrored.
        size_px: Rows and columns that the network sees; `clips.fit_frames` has taken them once.
    """
    height, width = size_px
    factor = stored.shape[-2] // height
    left = (stored.shape[-1] - factor * width) // 2
    frames = stored[..., left : left + factor * width].clone()
    matrices = {place: each.matrix for place, each in enumerate(drawn) if each.matrix is not None}
    if matrices:
        frames[[*matrices]] = warp(stored[[*matrices]], _stack(matrices), factor * width)
    if factor > 1:
        n, t = frames.shape[:2]
        total = frames.view(n, t, height, factor, width, factor).sum((3, 5), dtype=torch.int32)
        frames = ((2 * total + factor**2) // (2 * factor**2)).to(torch.uint8)
    turned_round = [place for place, is_mirrored in enumerate(mirrored) if is_mirrored]
    if turned_round:
        frames[turned_round] = frames[turned_round].flip(-1)
    turns = {place: each.turn for place, each in enumerate(drawn) if each.turn is not None}
    if turns:
        frames[[*turns]] = warp(frames[[*turns]], _stack(turns))
    return _erase(frames, drawn)[:, None]


def to_unit(frames: UInt8[Tensor, "*shape"]) -> Tensor:
    """0..255 to 0..1, as `clips.scale_to_unit`."""
    return frames.to(torch.float32).div_(255.0)


def _stack(matrices: dict[int, np.ndarray]) -> np.ndarray:
    return np.stack([*matrices.values()])


def _erase(frames: Tensor, drawn: Sequence[Draw]) -> Tensor:
    if all(each.box is None for each in drawn):
        return frames
    nothing = (slice(0, 0), slice(0, 0))
    boxes = [each.box or nothing for each in drawn]
    edges = torch.tensor([[r.start, r.stop, c.start, c.stop] for r, c in boxes])
    top, bottom, left, right = edges.to(frames.device).T[..., None]
    y = torch.arange(frames.shape[-2], device=frames.device)
    x = torch.arange(frames.shape[-1], device=frames.device)
    in_rows, in_columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return frames.masked_fill_((in_rows[:, :, None] & in_columns[:, None])[:, None], 0)
