"""Which pairs of probe and gallery are of the same subject, and which are not to be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray
from torch import Tensor

# Pairs of the same subject that one block may hold.
_MAX_PAIRS = 8_000_000

Labels = Sequence[str] | ndarray


class SameSubject:
    """The pairs of the same subject, taken out of one block of distances after another.

    Attributes:
        max_rows: Most rows of a block, that its pairs stay few.
        num_probes, num_gallery: Sequences.
    """

    def __init__(
        self,
        probe: tuple[Float32[ndarray, "n p d"], Labels],
        gallery: tuple[Float32[ndarray, "m p d"], Labels],
        *,
        leave_out: tuple[Labels, Labels] | None,
    ) -> None:
        """Sort the gallery by subject.

        Raises:
            ValueError: Labels are not one an embedding.
        """
        groups = (None, None) if leave_out is None else leave_out
        for name, (values, subjects), group in zip(
            ("probe", "gallery"), (probe, gallery), groups, strict=True
        ):
            for what, labels in (("subjects", subjects), ("groups to leave out", group)):
                if labels is not None and len(labels) != len(values):
                    raise ValueError(
                        f"{len(labels)} {what} for {len(values)} {name} embeddings; "
                        f"expected one each"
                    )
        probe_codes, gallery_codes = _coded(probe[1], gallery[1])
        self._groups = None if leave_out is None else _coded(*leave_out)
        # The gallery's rows by subject; those of probe i are the num[i] from start[i] on.
        self._by_subject = gallery_codes.argsort(kind="stable")
        ordered = gallery_codes[self._by_subject]
        self._start = ordered.searchsorted(probe_codes)
        self._num = ordered.searchsorted(probe_codes, side="right") - self._start
        self.max_rows = max(1, _MAX_PAIRS // max(1, int(self._num.max(initial=0))))

    def take(
        self, rows: slice, distances: Float32[Tensor, "n m"]
    ) -> tuple[Int64[ndarray, " k"], Float32[ndarray, " k"]]:
        """Row in the block and distance of each pair that is compared, in the order of the rows.

        All pairs of the same subject, compared or left out, become infinite in the block.
        """
        num = self._num[rows]
        row = np.repeat(np.arange(len(num)), num)
        place = np.arange(len(row)) - np.repeat(num.cumsum() - num, num)
        column = self._by_subject[self._start[rows][row] + place]
        where = (
            torch.from_numpy(row).to(distances.device),
            torch.from_numpy(column).to(distances.device),
        )
        taken = distances[where].numpy(force=True)
        distances[where] = torch.inf
        if self._groups is None:
            return row, taken
        probe_groups, gallery_groups = self._groups
        is_compared: Bool[ndarray, " k"] = probe_groups[rows][row] != gallery_groups[column]
        return row[is_compared], taken[is_compared]


def _coded(probe: Labels, gallery: Labels) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " m"]]:
    """Numbers for labels, the same for the same label."""
    both = np.concatenate([np.asarray(probe), np.asarray(gallery)])
    codes = np.unique(both, return_inverse=True)[1].astype(np.int64)
    return codes[: len(probe)], codes[len(probe) :]
