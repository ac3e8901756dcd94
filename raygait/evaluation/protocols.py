"""The protocols' tables: rank-1 per probe condition and view, under the protocol's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from raygait.datasets.protocols import CrossViewProtocol
from raygait.errors import DatasetError
from raygait.evaluation.distances import part_distances
from raygait.evaluation.ranking import rank_k


@dataclass(frozen=True)
class CrossViewTable:
    """Rank-1 accuracy in percent, as the papers' CASIA-B tables print it.

    Attributes:
        protocol: Name of the protocol.
        views: Views in order, of probes and of gallery.
        cells: Probe set -> [probe view, gallery view]; NaN where nothing was compared: identical
            views if the protocol leaves them out, and pairs without probes or gallery.
        num_empty: Cells that should hold a number and do not, for want of probes or gallery.
    """

    protocol: str
    views: tuple[str, ...]
    cells: dict[str, Float64[ndarray, "v v"]]
    num_empty: int

    def per_view(self, probe_set: str) -> Float64[ndarray, " v"]:
        """Mean over gallery views for each probe view; NaN for a view without any number."""
        return _mean_of_numbers(self.cells[probe_set])

    @property
    def means(self) -> dict[str, float]:
        """Probe set -> mean over probe views of the means over gallery views."""
        return {name: float(_mean_of_numbers(self.per_view(name)[None])[0]) for name in self.cells}

    def to_text(self) -> str:
        """The protocol's name, a line a probe set, a column a probe view, the mean last."""
        width = max(len(name) for name in (self.protocol, *self.cells))
        lines = [f"{self.protocol:<{width}}" + "".join(f"{view:>7}" for view in self.views)]
        lines[0] += "   mean"
        lines += [
            f"{name:<{width}}"
            + "".join(_shown(value) for value in self.per_view(name))
            + _shown(self.means[name])
            for name in self.cells
        ]
        if self.num_empty:
            lines.append(
                f"{self.num_empty} pairs of views have no probe or no gallery and count in no mean"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a missing number is `None`."""
        return {
            "protocol": self.protocol,
            "views": list(self.views),
            "per_view": {name: _plain(self.per_view(name)) for name in self.cells},
            "cells": {name: [_plain(row) for row in cells] for name, cells in self.cells.items()},
            "means": {name: _plain(np.array([value]))[0] for name, value in self.means.items()},
            "num_empty": self.num_empty,
        }


def evaluate_cross_view(
    embeddings: Float32[ndarray, "n p d"],
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: CrossViewProtocol,
    *,
    round_cells: bool = False,
) -> CrossViewTable:
    """Rank-1 of every probe view against every gallery view.

    For a pair of views, each probe takes the subject of its nearest gallery sequence; of two that
    are equally near, the first in row order. A probe whose subject is not in that gallery is a
    miss, as in the published protocol.

    Args:
        embeddings: One a sequence.
        subjects: Subject of each.
        conditions: Walk of each, as the protocol names them.
        views: View of each.
        protocol: What is compared with what.
        round_cells: Round each cell to two decimals before averaging, as widespread code of the
            field does; needed to match its numbers to the last digit.

    Raises:
        DatasetError: No gallery or no probe at all.
        ValueError: The labels are not one an embedding.
    """
    if not len(embeddings) == len(subjects) == len(conditions) == len(views):
        raise ValueError(
            f"{len(embeddings)} embeddings, {len(subjects)} subjects, {len(conditions)} "
            f"conditions and {len(views)} views; expected as many of each"
        )
    subject = np.asarray(subjects)
    names, probe, galleries = _roles(conditions, views, protocol)
    hits = np.full((len(probe), len(names)), np.nan)
    for column, gallery in enumerate(galleries):
        if len(gallery) and len(probe):
            distances = part_distances(embeddings[probe], embeddings[gallery])
            hits[:, column] = rank_k(distances, subject[probe], subject[gallery])
    cells = _cells(100 * hits, probe, names, conditions, views, protocol)
    num_cells = len(cells) * len(names) * (len(names) - protocol.exclude_identical_view)
    num_empty = num_cells - sum(int((~np.isnan(table)).sum()) for table in cells.values())
    if round_cells:
        cells = {name: np.round(table, 2) for name, table in cells.items()}
    if all(np.isnan(table).all() for table in cells.values()):
        raise DatasetError(
            f"protocol {protocol.name!r} finds nothing to compare in {len(subjects)} sequences of "
            f"views {', '.join(names)}: gallery {', '.join(protocol.gallery_conditions)}"
        )
    return CrossViewTable(protocol.name, names, cells, num_empty)


def chance(
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: CrossViewProtocol,
) -> dict[str, float]:
    """Probe set -> rank-1 in percent of a guess drawn from the gallery sequences at random.

    The probability that the drawn gallery sequence has the probe's subject, averaged over probes
    and views exactly as the accuracy is. NaN for a probe set without any pair to compare.
    """
    subject = np.asarray(subjects)
    names, probe, galleries = _roles(conditions, views, protocol)
    shares = np.full((len(probe), len(names)), np.nan)
    for column, gallery in enumerate(galleries):
        if len(gallery):
            shares[:, column] = (subject[probe][:, None] == subject[gallery]).mean(axis=1)
    cells = _cells(100 * shares, probe, names, conditions, views, protocol)
    return {
        name: float(_mean_of_numbers(_mean_of_numbers(table)[None])[0])
        for name, table in cells.items()
    }


def _roles(
    conditions: Sequence[str], views: Sequence[str], protocol: CrossViewProtocol
) -> tuple[tuple[str, ...], Int64[ndarray, " n"], list[Int64[ndarray, " m"]]]:
    """Views in order, rows of all probes, and rows of the gallery of each view."""
    condition, view = np.asarray(conditions), np.asarray(views)
    names = tuple(sorted(set(views)))
    probe_conditions = [name for group in protocol.probe_conditions.values() for name in group]
    is_gallery = np.isin(condition, protocol.gallery_conditions)
    galleries = [np.flatnonzero(is_gallery & (view == name)) for name in names]
    return names, np.flatnonzero(np.isin(condition, probe_conditions)), galleries


def _cells(
    scores: Float64[ndarray, "n v"],
    probe: Int64[ndarray, " n"],
    names: tuple[str, ...],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: CrossViewProtocol,
) -> dict[str, Float64[ndarray, "v v"]]:
    """Mean score of the probes of each set and view against each view's gallery."""
    condition, view = np.asarray(conditions)[probe], np.asarray(views)[probe]
    cells = {}
    for probe_set, probe_conditions in protocol.probe_conditions.items():
        in_set = np.isin(condition, probe_conditions)
        table = np.full((len(names), len(names)), np.nan)
        for row, name in enumerate(names):
            chosen = scores[in_set & (view == name)]
            if len(chosen):
                table[row] = chosen.mean(axis=0)
        if protocol.exclude_identical_view:
            np.fill_diagonal(table, np.nan)
        cells[probe_set] = table
    return cells


def _mean_of_numbers(table: Float64[ndarray, "n m"]) -> Float64[ndarray, " n"]:
    """Mean of each row's numbers; NaN for a row without any, without numpy's warning."""
    is_number = ~np.isnan(table)
    count = is_number.sum(axis=1)
    total = np.where(is_number, table, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _plain(values: Float64[ndarray, " n"]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _shown(value: float) -> str:
    return f"{'-':>7}" if np.isnan(value) else f"{value:7.1f}"
