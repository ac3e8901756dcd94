"""Distances between embeddings, computed block by block: the mean over parts, of two metrics.

`euclidean` is the mean over parts of the Euclidean distance: neither squared nor the distance of
the concatenated parts, which would rank differently. `cosine` is 1 minus the mean over parts of
the cosine, which is half the mean squared distance of the parts scaled to length one; a part of
length zero has cosine 0 with every other.

Both are matrix products on `device`. Of the whole matrix only one block of rows is ever held, so
memory grows with the number of embeddings and not with the number of pairs.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from numpy import ndarray
from torch import Tensor

Metric = Literal["euclidean", "cosine"]

# A block has at least so many query rows, because the gallery is read once a block, and at least so
# many pairs (16 MB).
_MIN_ROWS, _MIN_PAIRS = 1024, 4_194_304
# Pairs that a thread has in work at a time on a CPU (2 MB), so that they stay in its caches.
_PAIRS_A_TILE = 524_288
# Where a squared distance is below this share of the squared lengths, the matrix product has
# cancelled eight or more of float32's 24 bits. Such pairs are subtracted number by number; where
# they are more than a few of a tile, as of a network that maps all to a few points, the tile is
# first computed again in float64, which leaves only those that are all but equal.
_CANCELLED_RATIO = 1 / 256
_MANY_RATIO = 1 / 64
_CANCELLED_RATIO_IN_DOUBLES = 2.0**-32
_NUMBERS_A_REPAIR = 4_000_000
# Numbers read at a time where a whole array is looked at.
_NUMBERS_A_LOOK = 4_000_000
# Squares of larger numbers may be infinite in float32.
_LARGEST = 1e16


def part_distances(
    query: Float32[ndarray, "n p d"],
    gallery: Float32[ndarray, "m p d"],
    *,
    metric: Metric = "euclidean",
    device: str = "cpu",
) -> Float32[ndarray, "n m"]:
    """Distance of every query to every gallery embedding, as one matrix.

    Exact to about 1e-4 of each distance, however near the two are and however far from the origin;
    equal embeddings are exactly 0 apart. Euclidean distances are so from 1e-19 a part up: smaller
    ones have squares that float32 resolves poorly, and from about 1e-22 down they are 0 too. The
    cosine does not depend on the scale.

    Args:
        query: One embedding a row, d numbers a part.
        gallery: Embeddings of the same parts.
        metric: `euclidean` or `cosine`, see above.
        device: Where torch computes.

    Raises:
        ValueError: Parts or their lengths differ, there is no part, or a number is not finite.
    """
    distances = np.empty((len(query), len(gallery)), dtype=np.float32)
    for rows, block in distance_blocks(query, gallery, metric=metric, device=device):
        distances[rows] = block.numpy(force=True)
    return distances


def distance_blocks(
    query: Float32[ndarray, "n p d"],
    gallery: Float32[ndarray, "m p d"],
    *,
    metric: Metric = "euclidean",
    device: str = "cpu",
    max_rows: int | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of queries, and their distances to the whole gallery as a tensor on `device`.

    As exact as `part_distances`. Equal gallery embeddings are at bit-equal distances from a query,
    and no distance is negative. The tensor is the caller's to overwrite until the next is asked
    for.

    Args:
        query: One embedding a row, d numbers a part.
        gallery: Embeddings of the same parts.
        metric: `euclidean` or `cosine`, see above.
        device: Where torch computes.
        max_rows: Most rows of a block; None leaves it to the size of the gallery.

    Raises:
        ValueError: As in `part_distances`.
    """
    _check(query, gallery, metric)
    if not len(query) or not len(gallery):
        if len(query):
            yield slice(0, len(query)), torch.empty((len(query), 0), device=device)
        return
    limit = min(max(_MIN_ROWS, _MIN_PAIRS // len(gallery)), max_rows or len(query))
    num_rows = math.ceil(len(query) / math.ceil(len(query) / limit))
    right = _Side.of(gallery, metric, device)
    left = right if query is gallery else _Side.of(query, metric, device)
    originals, copies = (torch.from_numpy(rows).to(device) for rows in _copies(gallery))
    whole = torch.empty((num_rows, len(gallery)), device=device)
    with _threads() as pool:
        middle = pool.submit(right.middle).result()
        products = _Product(left, right, middle, is_cosine=metric == "cosine")
        for start in range(0, len(query), num_rows):
            rows = slice(start, min(start + num_rows, len(query)))
            block = whole[: rows.stop - start]
            with _full_precision():
                products.write(block, rows, pool)
            if len(copies):
                block[:, copies] = block[:, originals]
            yield rows, block


@dataclass(frozen=True)
class _Side:
    """Query or gallery as it was given, and what makes the metric's vectors of it.

    Attributes:
        values: The embeddings; never written.
        lengths: What the vectors of each part are divided by: 1, or for the cosine their Euclidean
            length, 1 where that is 0.
        num_zero: Parts of length zero, of the cosine.
    """

    values: Float32[Tensor, "n p d"]
    lengths: Float64[Tensor, "n p"] | None
    num_zero: Float32[Tensor, " n"]

    @staticmethod
    def of(values: Float32[ndarray, "n p d"], metric: Metric, device: str) -> _Side:
        if any(stride < 0 for stride in values.strides):
            values = np.ascontiguousarray(values)
        with warnings.catch_warnings():
            # Read-only memory is welcome: nothing is written to it.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(values).to(device)
        if metric == "euclidean":
            return _Side(tensor, None, tensor.new_zeros(len(values)))
        lengths = torch.linalg.vector_norm(tensor, dim=2, dtype=torch.float64)
        is_zero = lengths == 0
        return _Side(tensor, lengths.masked_fill_(is_zero, 1), is_zero.sum(1).float())

    def vectors(
        self, rows: slice | Tensor, part: int | slice, *, doubles: bool = False
    ) -> Float[Tensor, "*n d"]:
        """Vectors of a part of some rows."""
        values = self.values[rows, part]
        if doubles:
            values = values.double()
        if self.lengths is None:
            return values
        return values / self.lengths[rows, part, None].to(values.dtype)

    def middle(self) -> Float64[Tensor, "p d"]:
        """Mean of the vectors: a common offset changes no distance but costs digits."""
        num, num_parts, num_numbers = self.values.shape
        total = self.values.new_zeros((num_parts, num_numbers), dtype=torch.float64)
        step = max(1, _NUMBERS_A_LOOK // max(num_parts * num_numbers, 1))
        for start in range(0, num, step):
            vectors = self.vectors(slice(start, start + step), slice(None))
            total += vectors.sum(0, dtype=torch.float64)
        return total / num


@dataclass(frozen=True)
class _Product:
    """Distances of some queries to the whole gallery by matrix products."""

    left: _Side
    right: _Side
    middle: Float64[Tensor, "p d"]
    is_cosine: bool

    def write(self, block: Float32[Tensor, "n m"], rows: slice, pool: Executor) -> None:
        """Write the distances of the queries in these rows, a tile of columns at a time."""
        num_queries, num_gallery = block.shape
        num_parts, num_numbers = self.middle.shape
        height, width = num_queries, num_gallery
        if block.device.type == "cpu":
            # A few for each thread, and a multiple of the vector units' width.
            height = min(height, _MIN_ROWS)
            most = min(_PAIRS_A_TILE // height, max(256, num_gallery // 8))
            width = min(width, max(64, most // 64 * 64))
        operands = block.new_ones((num_parts, num_queries, num_numbers + 2))

        def prepare(part: int) -> None:
            vectors, squares = operands[part, :, :num_numbers], operands[part, :, num_numbers]
            torch.sub(self.left.vectors(rows, part), self.middle[part].float(), out=vectors)
            torch.sum(vectors * vectors, dim=1, out=squares)
            vectors *= -2

        def write_tile(corner: tuple[int, int]) -> None:
            first, columns = corner[0], slice(corner[1], min(corner[1] + width, num_gallery))
            last = min(first + height, num_queries)
            chosen = slice(rows.start + first, rows.start + last)
            target = block[first:last, columns]
            self._write_tile(target, operands[:, first:last], chosen, columns)

        corners = product(range(0, num_queries, height), range(0, num_gallery, width))
        # What goes wrong in a thread comes back with the results.
        list(pool.map(prepare, range(num_parts)))
        list(pool.map(write_tile, corners))

    def _write_tile(
        self,
        distances: Float32[Tensor, "n m"],
        operands: Float32[Tensor, "p n d2"],
        rows: slice,
        columns: slice,
    ) -> None:
        num_parts, num_numbers = self.middle.shape
        others = distances.new_ones((distances.shape[1], num_numbers + 2))
        vectors, squares = others[:, :num_numbers], others[:, num_numbers + 1]
        total = torch.zeros_like(distances, memory_format=torch.contiguous_format)
        products, sums = torch.empty_like(total), torch.zeros_like(squares)
        for part in range(num_parts):
            # |q - g|^2 = (-2 q, |q|^2, 1) . (g, 1, |g|^2): one product instead of three passes.
            torch.sub(self.right.vectors(columns, part), self.middle[part].float(), out=vectors)
            torch.sum(vectors * vectors, dim=1, out=squares)
            if self.is_cosine:
                total.addmm_(operands[part], others.T)
                sums += squares
                continue
            torch.mm(operands[part], others.T, out=products)
            lengths = operands[part, :, num_numbers], squares
            self._repair(products, lengths, rows, columns, range(part, part + 1))
            total += products.sqrt_()
        if not self.is_cosine:
            torch.div(total, num_parts, out=distances)
            return
        lengths = operands[:, :, num_numbers].sum(0), sums
        self._repair(total, lengths, rows, columns, range(num_parts))
        # 1 - q.g = |q - g|^2 / 2 for parts of length one; a part of length zero lacks a half.
        total += self.left.num_zero[rows, None]
        total += self.right.num_zero[columns]
        torch.div(total, 2 * num_parts, out=distances)

    def _repair(
        self,
        squares: Float32[Tensor, "n m"],
        lengths: tuple[Float32[Tensor, " n"], Float32[Tensor, " m"]],
        rows: slice,
        columns: slice,
        parts: range,
    ) -> None:
        """Replace, in place, the squared distances that have lost too many digits."""
        query_limits, gallery_limits = (_CANCELLED_RATIO * values for values in lengths)
        if not bool((squares.amin(dim=1) < query_limits + gallery_limits.max()).any()):
            return
        near = squares < query_limits[:, None] + gallery_limits
        if int(near.count_nonzero()) > _MANY_RATIO * near.numel():
            near = self._in_doubles(squares, rows, columns, parts)
        pairs = max(1, _NUMBERS_A_REPAIR // max(self.middle.shape[1], 1))
        places = near.nonzero()
        for start in range(0, len(places), pairs):
            i, j = places[start : start + pairs].unbind(1)
            exact = squares.new_zeros(len(i), dtype=torch.float64)
            for part in parts:
                difference = self.left.vectors(i + rows.start, part, doubles=True)
                difference -= self.right.vectors(j + columns.start, part, doubles=True)
                exact += torch.sum(difference.square_(), dim=1)
            squares[i, j] = exact.float()

    def _in_doubles(
        self, squares: Float32[Tensor, "n m"], rows: slice, columns: slice, parts: range
    ) -> Bool[Tensor, "n m"]:
        """Compute all of them again in float64; which of them even that does not resolve."""
        exact = torch.zeros_like(squares, dtype=torch.float64)
        lengths = torch.zeros_like(exact)
        for part in parts:
            left = self.left.vectors(rows, part, doubles=True) - self.middle[part]
            right = self.right.vectors(columns, part, doubles=True) - self.middle[part]
            exact.addmm_(left, right.T, alpha=-2)
            lengths += left.square().sum(1)[:, None]
            lengths += right.square().sum(1)
        exact += lengths
        squares.copy_(exact)
        return exact < _CANCELLED_RATIO_IN_DOUBLES * lengths


def _copies(
    gallery: Float32[ndarray, "m p d"],
) -> tuple[Int64[ndarray, " k"], Int64[ndarray, " k"]]:
    """Rows that equal an earlier one, second, and that earlier one, first.

    The rounding of a product may depend on its place in the matrix; copying makes ties of equals.
    """
    seen: dict[int, int] = {}
    pairs = []
    for row, values in enumerate(gallery):
        # Adding 0 makes one of the two zeros.
        first = seen.setdefault(hash((values + np.float32(0)).tobytes()), row)
        if first != row and np.array_equal(gallery[first], values):
            pairs.append((first, row))
    originals, copies = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return originals, copies


def _check(query: ndarray, gallery: ndarray, metric: str) -> None:
    if metric not in get_args(Metric):
        raise ValueError(f"metric {metric!r} is none of {', '.join(get_args(Metric))}")
    if query.ndim != 3 or gallery.ndim != 3 or query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            f"embeddings {query.shape} and {gallery.shape} cannot be compared; "
            f"expected [n, p, d] and [m, p, d]"
        )
    if query.shape[1] == 0:
        raise ValueError(f"embeddings {query.shape} have no part to compare")
    sides = {"query": query} if query is gallery else {"query": query, "gallery": gallery}
    for name, values in sides.items():
        if values.dtype != np.float32:
            raise ValueError(f"{name} embeddings are {values.dtype}; expected float32")
        is_bad = _unusable(values)
        if is_bad.any():
            raise ValueError(
                f"{int(is_bad.sum())} of {len(values)} {name} embeddings hold NaN, infinity or "
                f"numbers above {_LARGEST:g}, the first is row {int(is_bad.argmax())}; they have "
                f"no distance: look at the network that made them"
            )


def _unusable(values: Float32[ndarray, "n p d"]) -> Bool[ndarray, " n"]:
    step = max(1, _NUMBERS_A_LOOK // max(values[:1].size, 1))
    is_bad = np.zeros(len(values), dtype=bool)
    for start in range(0, len(values), step):
        chunk = values[start : start + step]
        # NaN compares as false.
        if chunk.size and not (chunk.max() <= _LARGEST and chunk.min() >= -_LARGEST):
            is_bad[start : start + step] = ~(np.abs(chunk) <= _LARGEST).all(axis=(1, 2))
    return is_bad


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Products in float32 whatever the rest of the process asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _threads() -> Iterator[Executor]:
    """As many threads as torch would use, each with torch's operations to itself.

    Torch's own threads wait for each other after every operation and spin meanwhile, which on
    shared cores costs several times the work.
    """
    num_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            num_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        # A thread's call also sets what threads that start later get.
        torch.set_num_threads(num_threads)
