"""Tables as HTML: numbers to the right, the best row in bold, every text escaped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from raygait.datasets.protocols import is_error_rate, number_name, parts_of, rank_name
from raygait.figures.contact_sheets import Row, WalkGrid, median_score
from raygait.figures.markup import Html, element, join, picture

_CHANCE = "chance"


def benchmark_table(evaluation: Mapping[str, Any]) -> Html:
    """A benchmark's numbers as its papers print them; a row whatever was scored.

    With views as columns a block is a number, with numbers as columns a metric. The best of each
    block, or of each column, is in bold, whichever it is.

    Args:
        evaluation: `evaluation.benchmark.Benchmark.to_dict`: of it `rows`, name ->
            `ProtocolTable.to_dict`, and `chance`, number -> percent.
    """
    tables: Mapping[str, Mapping[str, Any]] = evaluation["rows"]
    first = next(iter(tables.values()))
    by_view = first.get("layout", "views") == "views"
    table = _view_table(evaluation) if by_view else _number_table(evaluation)
    notes = [element("p", f"{note}.", class_="soft") for note in first.get("notes", [])]
    return join(_scroll(table), *notes)


def _view_table(evaluation: Mapping[str, Any]) -> Html:
    """A block a number: its mean, and each probe view."""
    chance: Mapping[str, float | None] = evaluation.get("chance", {})
    tables: Mapping[str, Mapping[str, Any]] = evaluation["rows"]
    views = list(dict.fromkeys(view for table in tables.values() for view in table["views"]))
    numbers = list(dict.fromkeys(name for table in tables.values() for name in table["per_view"]))
    head = _head(["", "mean", *views], numbers_from=1)
    blocks = []
    for number in numbers:
        means = {
            name: table["means"][number]
            for name, table in tables.items()
            if number in table["means"]
        }
        best = _best(number, means.values())
        lines = [
            element(
                "tr",
                element("th", number, colspan=len(views) + 2, scope="rowgroup"),
                class_="group",
            )
        ]
        for name, mean in means.items():
            table = tables[name]
            of_view = dict(zip(table["views"], table["per_view"][number], strict=True))
            lines.append(
                element(
                    "tr",
                    element("th", name, scope="row", class_="name"),
                    _percent_bar(mean),
                    *(_number(of_view.get(view), 1) for view in views),
                    class_="best" if mean == best else None,
                )
            )
        if number in chance:
            lines.append(
                element(
                    "tr",
                    element("th", _CHANCE, scope="row", class_="name"),
                    _percent_bar(chance[number]),
                    element("td", colspan=len(views)),
                    class_="soft",
                )
            )
        blocks.append(element("tbody", *lines))
    is_rank1 = all(parts_of(number)[1] == rank_name(1) for number in numbers)
    what = "Rank-1 in percent" if is_rank1 else "Numbers in percent (a set's own name: its rank-1)"
    caption = element("caption", f"{what}: the mean over the probe views, and each view")
    return element("table", caption, head, *blocks)


def _number_table(evaluation: Mapping[str, Any]) -> Html:
    """Columns are the metrics of the single probe set, or the sets with a block a metric."""
    chance: Mapping[str, float | None] = evaluation.get("chance", {})
    tables: Mapping[str, Mapping[str, Any]] = evaluation["rows"]
    names = list(dict.fromkeys(name for table in tables.values() for name in table["means"]))
    sets = list(dict.fromkeys(parts_of(name)[0] for name in names))
    metrics = list(dict.fromkeys(parts_of(name)[1] for name in names))
    blocks_of = {metric: [number_name(each, metric) for each in sets] for metric in metrics}
    columns = sets
    if len(sets) == 1:
        blocks_of, columns = {"": names}, [parts_of(name)[1] for name in names]
    rows = {name: table["means"] for name, table in tables.items()}
    blocks = []
    for metric, numbers in blocks_of.items():
        best = {n: _best(n, [means.get(n) for means in rows.values()]) for n in numbers}
        title = element("th", metric, colspan=len(columns) + 1, scope="rowgroup")
        lines = [element("tr", title, class_="group")] if metric else []
        lines += [
            element(
                "tr",
                element("th", name, scope="row", class_="name"),
                *(
                    element(
                        "td",
                        element("b", _written(means.get(n), 1))
                        if means.get(n) == best[n]
                        else _written(means.get(n), 1),
                        class_="number",
                    )
                    for n in numbers
                ),
            )
            for name, means in rows.items()
        ]
        if chance:
            lines.append(
                element(
                    "tr",
                    element("th", _CHANCE, scope="row", class_="name"),
                    *(_number(chance.get(n), 1) for n in numbers),
                    class_="soft",
                )
            )
        blocks.append(element("tbody", *lines))
    head = _head(["", *columns], numbers_from=1)
    return element("table", element("caption", "Numbers in percent"), head, *blocks)


def _best(number: str, values: Iterable[float | None]) -> float:
    """The highest, of an error rate the lowest; NaN, which equals nothing, without any."""
    known = [value for value in values if _is_number(value)]
    if not known:
        return math.nan
    return min(known) if is_error_rate(number) else max(known)


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
