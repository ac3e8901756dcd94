"""Distances between embeddings: the mean over parts of the Euclidean distance.

It is neither squared nor the distance of the concatenated parts, which would rank differently.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

# Pairs of one block, 1 MB: small enough to stay in a core's cache, and bounds the memory.
_PAIRS_A_BLOCK = 262_144
# Where a squared distance is below this share of the squared lengths, the matrix product has
# cancelled eight or more of float32's 24 bits; such pairs are subtracted number by number.
_CANCELLED_RATIO = 1 / 256
_NUMBERS_A_REPAIR = 4_000_000


def part_distances(
    query: Float32[ndarray, "n p d"], gallery: Float32[ndarray, "m p d"]
) -> Float32[ndarray, "n m"]:
    """Distance of every query to every gallery embedding.

    Computed by matrix products and exact to about 1e-4 of each distance, however near the two are
    and however far from the origin; equal embeddings are exactly 0 apart.

    Args:
        query: One embedding a row, d numbers a part.
        gallery: Embeddings of the same parts.

    Raises:
        ValueError: Parts or their lengths differ, or there is no part.
    """
    if query.ndim != 3 or gallery.ndim != 3 or query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            f"embeddings {query.shape} and {gallery.shape} cannot be compared; "
            f"expected [n, p, d] and [m, p, d]"
        )
    num_parts = query.shape[1]
    if num_parts == 0:
        raise ValueError(f"embeddings {query.shape} have no part to compare")
    distances = np.zeros((len(query), len(gallery)), dtype=np.float32)
    if not distances.size:
        return distances
    rows = max(1, _PAIRS_A_BLOCK // len(gallery))
    for part in range(num_parts):
        # A common offset changes no distance but costs digits.
        middle = gallery[:, part].mean(axis=0)
        gallery_part, query_part = gallery[:, part] - middle, query[:, part] - middle
        gallery_squares = np.einsum("md,md->m", gallery_part, gallery_part)
        query_squares = np.einsum("nd,nd->n", query_part, query_part)
        limits = _CANCELLED_RATIO * (query_squares + gallery_squares.max())
        # |q - g|^2 = (-2 q, |q|^2, 1) . (g, 1, |g|^2): one product instead of three passes.
        left = np.column_stack([-2 * query_part, query_squares, np.ones_like(query_squares)])
        right = np.column_stack([gallery_part, np.ones_like(gallery_squares), gallery_squares]).T
        for start in range(0, len(query), rows):
            block = slice(start, start + rows)
            squares = left[block] @ right
            near = squares <= limits[block, None]
            if near.any():
                _subtract(squares, near, query_part[block], gallery_part)
            distances[block] += np.sqrt(squares, out=squares)
    distances /= num_parts
    return distances


def _subtract(
    squares: Float32[ndarray, "n m"],
    near: Bool[ndarray, "n m"],
    query: Float32[ndarray, "n d"],
    gallery: Float32[ndarray, "m d"],
) -> None:
    """Replace, in place, the squared distances that the matrix product got wrong."""
    near_query, near_gallery = np.nonzero(near)
    pairs = max(1, _NUMBERS_A_REPAIR // max(query.shape[1], 1))
    for start in range(0, len(near_query), pairs):
        i, j = near_query[start : start + pairs], near_gallery[start : start + pairs]
        difference = query[i] - gallery[j]
        squares[i, j] = np.einsum("nd,nd->n", difference, difference)
