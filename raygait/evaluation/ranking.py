"""Ranking: which gallery sequences come first, and where the right subject is among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray
from torch import Tensor

from raygait.evaluation.distances import Metric, distance_blocks
from raygait.evaluation.pairs import SameSubject

# Up to so many right sequences of a probe, counting once for each is faster than sorting the row.
_MAX_COUNTS = 24


@dataclass(frozen=True)
class Ranks:
    """Where the right gallery sequences came, one number a probe.

    A right sequence is one of the probe's subject that may be compared with it. Of a right and a
    wrong sequence at exactly the same distance the wrong one counts as nearer, so that a tie earns
    nothing and the order of rows changes nothing.

    Attributes:
        first_hit: Rank of the nearest right sequence, from 1; 0 where there is none to find. The
            share of probes with 1 <= first_hit <= k is the rank-k accuracy (CMC).
        average_precision: Mean over the right sequences of the precision at each; NaN where there
            is none to find, or where it was not asked for. Its mean is mAP.
        inverse_penalty: Number of right sequences / rank of the last of them; NaN likewise. Its
            mean is mINP (Ye et al., "Deep Learning for Person Re-identification", TPAMI 2022).
    """

    first_hit: Int64[ndarray, " n"]
    average_precision: Float64[ndarray, " n"]
    inverse_penalty: Float64[ndarray, " n"]


def rank(
    probe: Float32[ndarray, "n p d"],
    gallery: Float32[ndarray, "m p d"],
    probe_subjects: Sequence[str] | ndarray,
    gallery_subjects: Sequence[str] | ndarray,
    *,
    leave_out: tuple[Sequence[str] | ndarray, Sequence[str] | ndarray] | None = None,
    metric: Metric = "euclidean",
    device: str = "cpu",
    precision: bool = True,
) -> Ranks:
    """Rank the gallery for each probe, block by block.

    Equal gallery embeddings are equally near to a probe, wherever they stand. Others that are
    equally near but for rounding (about 1e-6 of the distance) may fall either way, and another way
    in another order of the rows.

    Args:
        probe: One embedding a row, d numbers a part.
        gallery: Embeddings of the same parts; may be the same array.
        probe_subjects: n subjects.
        gallery_subjects: m subjects; a subject may have several sequences.
        leave_out: A group a probe and a group a gallery sequence, such as their views. Pairs of the
            same subject and the same group are not compared: neither hit nor miss.
        metric: `euclidean` or `cosine`, see `distances`.
        device: Where torch computes.
        precision: Also find the average precision and the inverse penalty, which costs more.

    Raises:
        ValueError: Labels are not one an embedding, or the embeddings cannot be compared.
    """
    same = SameSubject((probe, probe_subjects), (gallery, gallery_subjects), leave_out=leave_out)
    first_hit = np.zeros(len(probe), dtype=np.int64)
    average_precision, inverse_penalty = np.full((2, len(probe)), np.nan)
    blocks = distance_blocks(probe, gallery, metric=metric, device=device, max_rows=same.max_rows)
    for rows, distances in blocks:
        row, right = same.take(rows, distances)
        # One line a probe, nearest first, filled up with infinity.
        order = np.lexsort((right, row))
        row, right = row[order], right[order]
        num_right = np.bincount(row, minlength=len(distances))
        column = np.arange(len(row)) - np.repeat(num_right.cumsum() - num_right, num_right)
        width = int(num_right.max(initial=0)) if precision else min(1, len(row))
        if not width:
            continue
        is_asked = column < width
        row, right, column = row[is_asked], right[is_asked], column[is_asked]
        thresholds = np.full((len(distances), width), np.inf, dtype=np.float32)
        thresholds[row, column] = right
        ranks = _num_within(distances, thresholds) + np.arange(1, width + 1)
        has_right = num_right > 0
        first_hit[rows] = np.where(has_right, ranks[:, 0], 0)
        if precision:
            found, last = np.flatnonzero(has_right), num_right[has_right] - 1
            # Added one after another, so that no padding and no block changes a digit.
            totals = np.bincount(row, (column + 1) / ranks[row, column], len(distances))
            average_precision[rows][found] = totals[found] / (last + 1)
            inverse_penalty[rows][found] = (last + 1) / ranks[found, last]
    return Ranks(first_hit, average_precision, inverse_penalty)


def top_k(
    probe: Float32[ndarray, "n p d"],
    gallery: Float32[ndarray, "m p d"],
    k: int,
    *,
    metric: Metric = "euclidean",
    device: str = "cpu",
) -> Int64[ndarray, "n k"]:
    """The k nearest gallery sequences of each probe, nearest first.

    Of equally near ones the first in gallery order comes first.

    Raises:
        ValueError: k is not in 1..m, or the embeddings cannot be compared.
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k ({k}) must be between 1 and the gallery's {len(gallery)} sequences")
    found = np.empty((len(probe), k), dtype=np.int64)
    for rows, distances in distance_blocks(probe, gallery, metric=metric, device=device):
        found[rows] = _first_k(distances, k).numpy(force=True)
    return found


def _first_k(distances: Float32[Tensor, "n m"], k: int) -> Int64[Tensor, "n k"]:
    # Distances are not negative, so that their bits are in their order; the place breaks ties.
    keys = distances.view(torch.int32).to(torch.int64)
    keys <<= 32
    keys |= torch.arange(distances.shape[1], device=distances.device)
    return keys.topk(k, dim=1, largest=False, sorted=True).values & 0xFFFFFFFF


def _num_within(
    distances: Float32[Tensor, "n m"], thresholds: Float32[ndarray, "n k"]
) -> Int64[ndarray, "n k"]:
    """How many distances of a row are at most each of its thresholds, which ascend."""
    if distances.device.type != "cpu":
        return _num_within_by_torch(distances, thresholds)
    num_within = np.zeros(thresholds.shape, dtype=np.int64)
    num_thresholds = np.isfinite(thresholds).sum(axis=1)
    # Row by row, numpy compares and sorts several times faster than torch does on a CPU.
    for row, (values, num) in enumerate(zip(distances.numpy(), num_thresholds, strict=True)):
        if num > _MAX_COUNTS:
            values.sort()
            num_within[row, :num] = values.searchsorted(thresholds[row, :num], side="right")
            continue
        for column in range(num):
            num_within[row, column] = np.count_nonzero(values <= thresholds[row, column])
    return num_within


def _num_within_by_torch(
    distances: Float32[Tensor, "n m"], thresholds: Float32[ndarray, "n k"]
) -> Int64[ndarray, "n k"]:
    limits = torch.from_numpy(thresholds).to(distances.device)
    if limits.shape[1] > _MAX_COUNTS:
        ordered = distances.sort(dim=1).values
        return torch.searchsorted(ordered, limits, right=True).numpy(force=True)
    counts = [(distances <= limit[:, None]).sum(dim=1) for limit in limits.T]
    return torch.stack(counts, dim=1).numpy(force=True)
