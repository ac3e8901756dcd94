"""Ranking: which gallery sequences come first, and whether the right subject is among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray


def nearest(distances: Float32[ndarray, "n m"], k: int = 1) -> Int64[ndarray, "n k"]:
    """The k nearest gallery sequences of each probe, nearest first.

    Of equally near ones the first in gallery order comes first, so that a result does not depend
    on how it was computed.

    Args:
        distances: From n probes to m gallery sequences, without NaN.
        k: Gallery sequences to return for each probe, 1..m.

    Raises:
        ValueError: k is out of range, or a distance is NaN and has no rank.
    """
    num_gallery = distances.shape[1]
    if not 1 <= k <= num_gallery:
        raise ValueError(f"k ({k}) must be between 1 and the gallery's {num_gallery} sequences")
    smallest = distances.min(axis=1)
    if np.isnan(smallest).any():
        raise ValueError(
            f"{int(np.isnan(smallest).sum())} of {len(distances)} probes have a NaN distance, "
            f"which has no rank; look for NaN in the embeddings"
        )
    if k == 1:
        first: Int64[ndarray, "n 1"] = distances.argmin(axis=1, keepdims=True)
        return first
    # Sorting only what can be among the first k is several times faster than sorting all.
    limit = np.partition(distances, k - 1, axis=1)[:, k - 1]
    probe, candidate = np.nonzero(distances <= limit[:, None])
    order = np.lexsort((candidate, distances[probe, candidate], probe))
    first_of_probe = np.searchsorted(probe, np.arange(len(distances)))
    ranked: Int64[ndarray, "n k"] = candidate[order][first_of_probe[:, None] + np.arange(k)]
    return ranked


def rank_k(
    distances: Float32[ndarray, "n m"],
    probe_subjects: Sequence[str] | ndarray,
    gallery_subjects: Sequence[str] | ndarray,
    k: int = 1,
) -> Bool[ndarray, " n"]:
    """Whether each probe's subject is among its k nearest gallery sequences.

    The mean is the rank-k accuracy. A probe whose subject is not in the gallery is a miss: whoever
    wants such probes left out has to leave them out before.

    Args:
        distances: From n probes to m gallery sequences.
        probe_subjects: n subjects.
        gallery_subjects: m subjects; a subject may have several sequences.
        k: Gallery sequences that count; of fewer than k all do.

    Raises:
        ValueError: The subjects do not fit the distances, k is below 1, the gallery is empty, or
            a distance is NaN.
    """
    if distances.shape != (len(probe_subjects), len(gallery_subjects)):
        raise ValueError(
            f"distances {distances.shape} do not fit {len(probe_subjects)} probes and "
            f"{len(gallery_subjects)} gallery sequences"
        )
    found = np.asarray(gallery_subjects)[nearest(distances, min(k, len(gallery_subjects)))]
    hits: Bool[ndarray, " n"] = (found == np.asarray(probe_subjects)[:, None]).any(axis=1)
    return hits
