"""Tables as HTML: numbers to the right, the best row in bold, every text escaped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from raygait.figures.contact_sheets import Row, WalkGrid, median_score
from raygait.figures.markup import Html, element, join, picture

_CHANCE = "chance"


def rank1_table(evaluation: Mapping[str, Any]) -> Html:
    """Rank-1 per condition and probe view; a block a condition, a row whatever was scored.

    The row with the highest mean of each block is in bold, whichever it is.

    Args:
        evaluation: `evaluation.benchmark.Benchmark.to_dict`: of it `rows`, name ->
            `CrossViewTable.to_dict`, and `chance`, probe condition -> percent.
    """
    chance: Mapping[str, float] = evaluation.get("chance", {})
    tables: Mapping[str, Mapping[str, Any]] = evaluation["rows"]
    views = list(dict.fromkeys(view for table in tables.values() for view in table["views"]))
    conditions = list(
        dict.fromkeys(name for table in tables.values() for name in table["per_view"])
    )
    head = _head(["", "mean", *views], numbers_from=1)
    blocks = []
    for condition in conditions:
        means = {
            name: table["means"][condition]
            for name, table in tables.items()
            if condition in table["means"]
        }
        best = max((mean for mean in means.values() if _is_number(mean)), default=math.nan)
        lines = [
            element(
                "tr",
                element("th", condition, colspan=len(views) + 2, scope="rowgroup"),
                class_="group",
            )
        ]
        for name, mean in means.items():
            table = tables[name]
            by_view = dict(zip(table["views"], table["per_view"][condition], strict=True))
            lines.append(
                element(
                    "tr",
                    element("th", name, scope="row", class_="name"),
                    _percent_bar(mean),
                    *(_number(by_view.get(view), 1) for view in views),
                    class_="best" if mean == best else None,
                )
            )
        if condition in chance:
            lines.append(
                element(
                    "tr",
                    element("th", _CHANCE, scope="row", class_="name"),
                    _percent_bar(chance[condition]),
                    element("td", colspan=len(views)),
                    class_="soft",
                )
            )
        blocks.append(element("tbody", *lines))
    caption = element("caption", "Rank-1 in percent: the mean over the probe views, and each view")
    num_empty = max(table.get("num_empty", 0) for table in tables.values())
    note = (
        element(
            "p",
            f"{num_empty} pairs of views have no probe or no gallery and count in no mean.",
            class_="soft",
        )
        if num_empty
        else ""
    )
    return join(_scroll(element("table", caption, head, *blocks)), note)


def reject_counts(rejects: Sequence[Mapping[str, Any]]) -> Html:
    """How often each reason ended something, the most frequent first.

    Args:
        rejects: Rows of `shards.schema.REJECT_SCHEMA` as plain values.
    """
    tally = Counter((str(row["stage"]), str(row["reason"])) for row in rejects)
    ordered = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        element("tr", element("td", stage), element("td", reason), _number(count, 0))
        for (stage, reason), count in ordered
    ]
    total = element(
        "tr",
        element("th", "all", scope="row"),
        element("td"),
        _number(len(rejects), 0),
        class_="total",
    )
    head = _head(["stage", "reason", "times"], numbers_from=2)
    return _scroll(element("table", head, element("tbody", *lines, total)))


def reject_list(rejects: Sequence[Mapping[str, Any]], *, max_rows: int = 300) -> Html:
    """Each reject with its detail, in the order given.

    Args:
        rejects: Rows of `shards.schema.REJECT_SCHEMA` as plain values.
        max_rows: The rest is counted, not listed.
    """
    lines = [
        element(
            "tr",
            element("td", str(row["source"])),
            element("td", "whole file" if row["track"] < 0 else str(row["track"]), class_="number"),
            element("td", str(row["reason"]), class_="name"),
            element("td", str(row["detail"]), class_="detail"),
        )
        for row in rejects[:max_rows]
    ]
    head = _head(["source", "track", "reason", "detail"], number_columns={1})
    more = len(rejects) - max_rows
    rest = element("p", f"{more} more are not listed here.", class_="soft") if more > 0 else ""
    return join(_scroll(element("table", head, element("tbody", *lines))), rest)


def track_list(rows: Iterable[Row]) -> Html:
    """Each track: where it is from, how long it is, how sure the network was.

    Args:
        rows: Rows of shards; their blobs are not looked at.
    """
    lines = []
    for row in rows:
        indices = row["frame_indices"]
        frames = f"{indices[0]}–{indices[-1]}" if indices else "–"
        lines.append(
            element(
                "tr",
                element("td", str(row["sequence_id"])),
                _number(row["num_frames"], 0),
                element("td", frames, class_="number"),
                _number(median_score(row), 2),
            )
        )
    head = _head(["track", "frames", "of the source", "person score"], numbers_from=1)
    return _scroll(element("table", head, element("tbody", *lines)))


def walk_table(grid: WalkGrid) -> Html:
    """Silhouettes by subject (line), condition and view (columns)."""
    kinds = list(dict.fromkeys(kind for kind, _ in grid.columns))
    firsts = {next(column for column in grid.columns if column[0] == kind) for kind in kinds}

    def mark(column: tuple[str, str]) -> str | None:
        return "first" if column in firsts else None

    upper = [
        element(
            "th",
            kind or "–",
            colspan=sum(column[0] == kind for column in grid.columns),
            scope="colgroup",
            class_="first",
        )
        for kind in kinds
    ]
    lower = [
        element("th", column[1] or "–", scope="col", class_=mark(column)) for column in grid.columns
    ]
    lines = []
    for subject in grid.subjects:
        cells = []
        for column in grid.columns:
            silhouette = grid.silhouettes.get((subject, *column))
            shown = (
                ""
                if silhouette is None
                else picture(
                    silhouette[:, :, None].repeat(3, axis=2), f"{subject} {column[0]} {column[1]}"
                )
            )
            cells.append(element("td", shown, class_=mark(column)))
        lines.append(element("tr", element("th", subject, scope="row"), *cells))
    head = element(
        "thead", element("tr", element("th"), *upper), element("tr", element("th"), *lower)
    )
    return _scroll(element("table", head, element("tbody", *lines), class_="walks"))


def timing_table(seconds: Mapping[str, float]) -> Html:
    """Seconds of each part and its share of all, in the order given."""
    total = sum(seconds.values())
    lines = [
        element(
            "tr",
            element("th", part, scope="row"),
            _number(value, 1),
            _percent_bar(100 * value / total if total > 0 else math.nan, decimals=0),
        )
        for part, value in seconds.items()
    ]
    last = element(
        "tr",
        element("th", "together", scope="row"),
        _number(total, 1),
        element("td"),
        class_="total",
    )
    head = _head(["part", "seconds", "%"], numbers_from=1)
    return _scroll(element("table", head, element("tbody", *lines, last)))


def key_values(values: Mapping[str, object], *, caption: str = "") -> Html:
    """Names and values, a row each."""
    lines = [
        element("tr", element("th", name, scope="row"), element("td", _plain(value)))
        for name, value in values.items()
    ]
    title = element("caption", caption) if caption else ""
    return _scroll(element("table", title, element("tbody", *lines), class_="pairs"))


def listing(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, number_columns: Iterable[int] = ()
) -> Html:
    """Any cells, a row each.

    Args:
        names: Heading of each column.
        rows: Cells as written, markup or text, one a column.
        number_columns: Columns that are set to the right.
    """
    numbers = set(number_columns)
    lines = [
        element(
            "tr",
            *(
                element("td", cell, class_="number" if at in numbers else None)
                for at, cell in enumerate(cells)
            ),
        )
        for cells in rows
    ]
    head = _head(names, number_columns=numbers)
    return _scroll(element("table", head, element("tbody", *lines)))


def _head(
    names: Sequence[str], *, numbers_from: int | None = None, number_columns: Iterable[int] = ()
) -> Html:
    numbers = set(number_columns)
    if numbers_from is not None:
        numbers |= set(range(numbers_from, len(names)))
    cells = [
        element("th", name, scope="col", class_="number" if at in numbers else None)
        for at, name in enumerate(names)
    ]
    return element("thead", element("tr", *cells))


def _number(value: float | None, decimals: int) -> Html:
    return element("td", _written(value, decimals), class_="number")


def _percent_bar(value: float | None, decimals: int = 1) -> Html:
    """A percentage with a bar of that length behind it."""
    share = min(100.0, max(0.0, value)) if _is_number(value) else 0.0
    return element(
        "td", _written(value, decimals), class_="number share", style=f"--share: {share:.1f}%"
    )


def _written(value: float | None, decimals: int) -> str:
    if not _is_number(value):
        return "–"
    return f"{value:,.{decimals}f}"


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _scroll(table: Html) -> Html:
    return element("div", table, class_="scroll", tabindex=0)
