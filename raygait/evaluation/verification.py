"""Verification: is it the same person? Error rates over thresholds of the distance (open set).

A pair is accepted if its distance is at most the threshold. The false accept rate (FAR) is the
share of impostor pairs (different subjects) that are accepted, the true accept rate (TAR) that of
genuine pairs; the equal error rate (EER) is where FAR = 1 - TAR. ISO/IEC 19795-1 calls them false
match rate and 1 - false non-match rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from raygait.evaluation.distances import Metric, distance_blocks
from raygait.evaluation.pairs import Labels, SameSubject

# Up to so many pairs every distance is kept (64 MB).
_MAX_KEPT = 16_777_216
# Else distances are counted in bins of float32's sign, exponent and first 15 bits: relative width
# 2^-15, a third of what a distance is exact to.
_DROPPED_BITS = 8
_PAIRS_A_COUNT = 4_194_304


@dataclass(frozen=True)
class Verification:
    """Error rates of all compared pairs; rates are 0..1 and NaN where there is no pair to count.

    Attributes:
        eer: Equal error rate: where the line through the neighbouring operating points, as by
            accepting some of equally near pairs at random, meets FAR = 1 - TAR.
        threshold: Smallest distance of a pair at which FAR >= 1 - TAR.
        tar: False accept rate that was asked for -> highest TAR at a threshold whose FAR is at most
            that. Impostors as near as a genuine pair are accepted with it.
        num_genuine: Compared pairs of the same subject.
        num_impostor: Pairs of different subjects.
        max_error: What `eer` and each of `tar` may be off because distances were counted in bins:
            of the EER in either direction, of a TAR only too low. 0 if every distance was kept.
    """

    eer: float
    threshold: float
    tar: dict[float, float]
    num_genuine: int
    num_impostor: int
    max_error: float


def verify(
    probe: Float32[ndarray, "n p d"],
    gallery: Float32[ndarray, "m p d"],
    probe_subjects: Labels,
    gallery_subjects: Labels,
    *,
    leave_out: tuple[Labels, Labels] | None = None,
    metric: Metric = "euclidean",
    device: str = "cpu",
    far: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
) -> Verification:
    """Compare every probe with every gallery sequence, block by block.

    Up to 17 million pairs, from every distance; more are counted in bins, in bounded memory. Equal
    gallery embeddings are equally far from a probe; otherwise distances of pairs that are equally
    far but for rounding (about 1e-6 of it) may be accepted one before the other.

    Args:
        probe: One embedding a row, d numbers a part.
        gallery: Embeddings of the same parts; may be the same array.
        probe_subjects: n subjects.
        gallery_subjects: m subjects.
        leave_out: A group a probe and a group a gallery sequence, such as their views. Pairs of the
            same subject and the same group are not compared.
        metric: `euclidean` or `cosine`, see `distances`.
        device: Where torch computes.
        far: False accept rates, 0..1, at which to find the TAR.

    Raises:
        ValueError: Labels are not one an embedding, the embeddings cannot be compared, or a rate is
            out of range.
    """
    if strangers := [rate for rate in far if not 0 <= rate <= 1]:
        raise ValueError(f"false accept rates {strangers} are not within 0..1")
    same = SameSubject((probe, probe_subjects), (gallery, gallery_subjects), leave_out=leave_out)
    counts = _Counts(is_exact=len(probe) * len(gallery) <= _MAX_KEPT)
    blocks = distance_blocks(probe, gallery, metric=metric, device=device, max_rows=same.max_rows)
    for rows, distances in blocks:
        genuine = same.take(rows, distances)[1]
        impostor = distances.numpy(force=True).ravel()
        counts.add(genuine, impostor)
    return _rates(*counts.result(), far, is_exact=counts.is_exact)


class _Counts:
    """How many genuine and impostor pairs there are at each distance, or in each bin of them."""

    def __init__(self, *, is_exact: bool) -> None:
        self.is_exact = is_exact
        self._kept: tuple[list[Float32[ndarray, " k"]], list[Float32[ndarray, " k"]]] = ([], [])
        num_bins = 0 if is_exact else (_bits(np.array([np.inf], np.float32))[0] >> _DROPPED_BITS)
        self._bins = np.zeros((2, num_bins), dtype=np.int64)

    def add(self, genuine: Float32[ndarray, " g"], impostor: Float32[ndarray, " i"]) -> None:
        """Count distances; infinite ones are no pair."""
        for which, values in enumerate((genuine, impostor)):
            for start in range(0, len(values), _PAIRS_A_COUNT):
                chunk = values[start : start + _PAIRS_A_COUNT]
                chunk = chunk[np.isfinite(chunk)]
                if self.is_exact:
                    self._kept[which].append(chunk)
                elif len(chunk):
                    bins = _bits(chunk) >> _DROPPED_BITS
                    first = int(bins.min())
                    found = np.bincount(bins - first)
                    self._bins[which, first : first + len(found)] += found

    def result(self) -> tuple[Float64[ndarray, " k"], Int64[ndarray, " k"], Int64[ndarray, " k"]]:
        """Distances in order (of a bin, its largest), genuine and impostor pairs at each."""
        if not self.is_exact:
            used = np.flatnonzero(self._bins.any(axis=0))
            largest = ((used + 1) << _DROPPED_BITS) - 1
            values = largest.astype(np.int32).view(np.float32).astype(np.float64)
            return values, self._bins[0, used], self._bins[1, used]
        none = [np.zeros(0, np.float32)]
        kept = [np.unique(np.concatenate(part + none), return_counts=True) for part in self._kept]
        values = np.union1d(kept[0][0], kept[1][0])
        counts = np.zeros((2, len(values)), dtype=np.int64)
        for which, (found, num) in enumerate(kept):
            counts[which, values.searchsorted(found)] = num
        return values.astype(np.float64), counts[0], counts[1]


def _bits(values: Float32[ndarray, " k"]) -> ndarray:
    """Numbers in the order of the values, which are not negative."""
    return values.view(np.int32)


def _rates(
    values: Float64[ndarray, " k"],
    genuine: Int64[ndarray, " k"],
    impostor: Int64[ndarray, " k"],
    far: Sequence[float],
    *,
    is_exact: bool,
) -> Verification:
    num_genuine, num_impostor = int(genuine.sum()), int(impostor.sum())
    if not num_genuine or not num_impostor:
        nan = float("nan")
        return Verification(nan, nan, dict.fromkeys(far, nan), num_genuine, num_impostor, 0.0)
    # Operating points; the first accepts nobody.
    far_at = np.concatenate([[0], impostor.cumsum()]) / num_impostor
    num_accepted = np.concatenate([[0], genuine.cumsum()])
    tar_at, frr_at = num_accepted / num_genuine, (num_genuine - num_accepted) / num_genuine
    after = int((far_at >= frr_at).argmax())
    before = after - 1
    rise, fall = far_at[after] - far_at[before], frr_at[before] - frr_at[after]
    share = (frr_at[before] - far_at[before]) / (rise + fall)
    eer = float(far_at[before] + share * rise)
    tar, errors = {}, [min(rise, fall)]
    for rate in far:
        at = int(far_at.searchsorted(rate, side="right")) - 1
        tar[rate] = float(tar_at[at])
        if at + 1 < len(tar_at):
            errors.append(tar_at[at + 1] - tar_at[at])
    max_error = 0.0 if is_exact else float(max(errors))
    return Verification(eer, float(values[after - 1]), tar, num_genuine, num_impostor, max_error)
