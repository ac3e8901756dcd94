"""A protocol's table: its numbers in percent, laid out as the papers print them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from raygait.datasets.protocols import Protocol, number_name, parts_of

# Of a cell: `[v, v]` probe view x gallery view, `[v]` probe view, or a single number.
Cells = Float64[ndarray, "..."]

CSV_HEADER = ("protocol", "row", "set", "metric", "probe_view", "gallery_view", "percent")
"""Columns of `ProtocolTable.to_csv`; of a mean the views are empty."""


@dataclass(frozen=True)
class ProtocolTable:
    """Numbers in percent under one protocol.

    Attributes:
        rules: The protocol.
        views: Views in order, of probes and of gallery; empty where views do not matter.
        cells: Number (`NM`, `CL/mAP`) -> its cells, as `Protocol.cells` says: [probe view, gallery
            view], [probe view], or one; NaN where nothing was compared: identical views if the
            protocol leaves them out, and cells without probes or gallery.
        num_empty: Cells that should hold a number and do not, for want of probes or gallery.
        num_without_gallery: Probes, counted once a cell, whose subject is not in the gallery: left
            out or misses, as the protocol says.
    """

    rules: Protocol
    views: tuple[str, ...]
    cells: dict[str, Cells]
    num_empty: int
    num_without_gallery: int = 0

    @property
    def protocol(self) -> str:
        """Name of the protocol; every number is meant by its rules."""
        return self.rules.name

    def per_view(self, number: str) -> Float64[ndarray, " v"]:
        """Mean over gallery views for each probe view; NaN for a view without any number.

        Args:
            number: One of `means`; of a protocol without views there is nothing to show.
        """
        cells = self.cells[number]
        if cells.ndim == 2:
            return _mean_of_numbers(cells)
        return cells if cells.ndim == 1 else np.zeros(0)

    @property
    def means(self) -> dict[str, float]:
        """Number -> mean over probe views of the means over gallery views; NaN if it has none."""
        return {
            number: float(_mean_of_numbers(self.per_view(number)[None])[0])
            if cells.ndim
            else float(cells)
            for number, cells in self.cells.items()
        }

    def to_text(self) -> str:
        """The table as the paper has it, the protocol's name first, and what is missing in it.

        Columns are probe views and their mean, or the probe sets, or the metrics of a single set.
        """
        means = self.means
        sets = self.rules.sets
        rows: list[tuple[str, list[float]]]
        if self.rules.layout == "views" and self.views:
            columns = [*self.views, "mean"]
            rows = [
                (_label(number, self.rules), [*self.per_view(number).tolist(), means[number]])
                for number in self.cells
            ]
        elif len(sets) > 1:
            columns = list(sets)
            rows = [
                (metric, [means[number_name(each, metric)] for each in sets])
                for metric in self.rules.metrics
            ]
        else:
            columns = list(means)
            rows = [("", list(means.values()))]
        first = max(len(label) for label in (self.protocol, *(label for label, _ in rows)))
        widths = [max(7, len(column) + 2) for column in columns]
        lines = [
            f"{self.protocol:<{first}}"
            + "".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
        ]
        lines += [
            f"{label:<{first}}"
            + "".join(shown(value, width) for value, width in zip(values, widths, strict=True))
            for label, values in rows
        ]
        return "\n".join([*lines, *self.notes()])

    def notes(self) -> list[str]:
        """What the numbers do not count, a sentence each."""
        said = []
        if self.num_empty:
            said.append(_EMPTY[self.rules.cells].format(self.num_empty))
        if self.num_without_gallery:
            treated = "misses" if self.rules.without_gallery == "miss" else "left out"
            said.append(
                f"{self.num_without_gallery} probes have nobody of their subject in the gallery "
                f"and are {treated}"
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a missing number is `None`."""
        return {
            "protocol": self.protocol,
            "layout": self.rules.layout if self.views else "numbers",
            "sets": list(self.rules.sets),
            "metrics": list(self.rules.metrics),
            "views": list(self.views),
            "per_view": {name: plain(self.per_view(name)) for name in self.cells}
            if self.views
            else {},
            "cells": {
                name: [plain(row) for row in cells]
                for name, cells in self.cells.items()
                if cells.ndim == 2
            },
            "means": {name: plain(np.array([value]))[0] for name, value in self.means.items()},
            "num_empty": self.num_empty,
            "num_without_gallery": self.num_without_gallery,
            "notes": self.notes(),
        }

    def to_csv(self) -> str:
        """A line a number: each mean, each probe view's mean, each cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        writer.writerows(self.csv_rows(""))
        return text.getvalue()

    def csv_rows(self, row: str) -> Iterator[tuple[str, ...]]:
        """Lines of `CSV_HEADER`, for a row of that name; numbers that are missing are empty."""
        means = self.means
        for number, cells in self.cells.items():
            start = (self.protocol, row, *parts_of(number))
            yield (*start, "", "", _written(means[number]))
            for view, mean in zip(self.views, self.per_view(number).tolist(), strict=False):
                yield (*start, view, "", _written(mean))
            if cells.ndim == 2:
                for view, line in zip(self.views, cells.tolist(), strict=True):
                    for other, value in zip(self.views, line, strict=True):
                        yield (*start, view, other, _written(value))


_EMPTY = {
    "view pairs": "{} pairs of views have no probe or no gallery and count in no mean",
    "probe views": "{} views have no probe or no gallery and count in no mean",
    "whole": "{} probe sets have no probe or no gallery",
}


def shown(value: float, width: int) -> str:
    """A percentage with a decimal, to the right; a dash for none."""
    return f"{'-':>{width}}" if np.isnan(value) else f"{value:{width}.1f}"


def plain(values: Float64[ndarray, " n"]) -> list[float | None]:
    """Numbers for JSON, rounded to four decimals; `None` for NaN."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _label(number: str, rules: Protocol) -> str:
    probe_set, metric = parts_of(number)
    return f"{probe_set} {metric}".strip() if len(rules.metrics) > 1 else probe_set or metric


def _written(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _mean_of_numbers(table: Float64[ndarray, "n m"]) -> Float64[ndarray, " n"]:
    """Mean of each row's numbers; NaN for a row without any, without numpy's warning."""
    is_number = ~np.isnan(table)
    count = is_number.sum(axis=1)
    total = np.where(is_number, table, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
