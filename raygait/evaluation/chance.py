"""What ranking a gallery at random gives on average: the scale of every number.

Of a gallery of m walks, r are of the probe's subject, and all orders are equally likely. Of the
open-set question, all orders of genuine and impostor pairs are; its EER is then 50 % on average,
because an order and its reverse have EERs that add up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from raygait.datasets.protocols import MEAN_AP, MEAN_INP, rank_name


def expected(
    num_gallery: Int64[ndarray, " n"],
    num_right: Int64[ndarray, " n"],
    ranks: Sequence[int],
) -> dict[str, Float64[ndarray, " n"]]:
    """Metric -> its expectation for each probe, 0..1.

    Args:
        num_gallery: m of each probe.
        num_right: r of each probe; where it is 0, rank-k is 0 and precision NaN.
        ranks: The k of rank-k.
    """
    pairs = np.stack([num_gallery, num_right], axis=1)
    distinct, where = np.unique(pairs, axis=0, return_inverse=True)
    by_pair = [_of(int(m), int(r), ranks) for m, r in distinct]
    return {
        name: np.array([each[name] for each in by_pair], dtype=np.float64)[where.reshape(-1)]
        for name in (*(rank_name(k) for k in ranks), MEAN_AP, MEAN_INP)
    }


def expected_tar(num_impostor: int, far: float) -> float:
    """Expected true accept rate at a false accept rate, 0..1.

    Of I impostor pairs the k nearest may be accepted, k = floor(far I). A genuine pair is accepted
    if it is nearer than the next one, which it is in k + 1 of its I + 1 places among them: with few
    impostors many more than `far`.

    Args:
        num_impostor: I, at least 1.
        far: False accept rate, 0..1.
    """
    num_accepted = int(far * num_impostor)
    # The product may round to either side; `verify` compares shares.
    num_accepted += (num_accepted + 1) / num_impostor <= far
    num_accepted -= num_accepted / num_impostor > far
    return (num_accepted + 1) / (num_impostor + 1)


def _of(m: int, r: int, ranks: Sequence[int]) -> dict[str, float]:
    if not r:
        return {rank_name(k): 0.0 for k in ranks} | {MEAN_AP: np.nan, MEAN_INP: np.nan}
    values = {}
    for k in ranks:
        # None of the first k is right: (m - r) (m - r - 1) ... / m (m - 1) ...
        taken = np.arange(min(k, m))
        values[rank_name(k)] = float(1 - np.prod(np.maximum(m - r - taken, 0) / (m - taken)))
    places = np.arange(1, m + 1, dtype=np.float64)
    harmonic = float((1 / places).sum())
    # A right walk at place i, with probability r/m, has (i - 1)(r - 1)/(m - 1) others before it.
    values[MEAN_AP] = harmonic / m + ((r - 1) / (m - 1) * (1 - harmonic / m) if m > 1 else 0.0)
    # The last of the r is at place i with probability C(i - 1, r - 1) / C(m, r), which is built up
    # from the last place down: that of i - 1 is (i - r) / (i - 1) times that of i.
    factors = np.concatenate([[r / m], (places[1:] - r)[::-1] / places[:-1][::-1]])
    values[MEAN_INP] = float((np.cumprod(factors)[::-1] * r / places).sum())
    return values
