import re

import numpy as np
import pytest

from raygait.figures import tables
from raygait.figures.contact_sheets import WalkGrid


def rows_of(table: str) -> list[list[str]]:
    """Text of each cell, row by row."""
    return [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", table)
    ]


def test_the_benchmark_has_a_block_a_condition_and_a_row_for_each_scale(evaluation):
    assert rows_of(tables.benchmark_table(evaluation)) == [
        ["", "mean", "000", "090"],
        ["NM"],
        ["trained", "91.5", "90.5", "92.5"],
        ["untrained", "30.0", "29.0", "31.0"],
        ["GEI", "55.0", "54.0", "56.0"],
        ["chance", "25.0", ""],
        ["BG"],
        ["trained", "40.2", "40.2", "–"],
        ["untrained", "20.0", "20.0", "–"],
        ["GEI", "61.0", "61.0", "–"],
        ["chance", "25.0", ""],
    ]


def test_the_best_row_of_each_block_is_in_bold_even_when_it_is_not_ours(evaluation):
    best = re.findall(r'<tr class="best"><th[^>]*>(\w+)', tables.benchmark_table(evaluation))
    assert best == ["trained", "GEI"]


def test_a_mean_without_any_number_is_a_dash_and_never_the_best(evaluation):
    evaluation = {**evaluation, "rows": {"only": evaluation["rows"]["GEI"] | {
        "means": {"NM": None, "BG": 61.0}, "notes": ["3 pairs of views have no probe"]}},
        "chance": {}}  # fmt: skip
    table = tables.benchmark_table(evaluation)
    assert ["only", "–", "54.0", "56.0"] in rows_of(table)
    assert table.count('class="best"') == 1
    assert "3 pairs of views have no probe." in table


def test_the_bar_behind_a_percentage_is_as_long_as_it_says(evaluation):
    assert '<td class="number share" style="--share: 91.5%">91.5</td>' in tables.benchmark_table(
        evaluation
    )


def numbers(**means: float | None) -> dict[str, object]:
    return {"layout": "numbers", "views": [], "per_view": {}, "means": means}


def test_without_views_the_metrics_are_columns_and_the_best_of_each_is_in_bold():
    table = tables.benchmark_table(
        {
            "rows": {
                "trained": numbers(rank1=60.0, mAP=40.5, EER=9.0),
                "GEI": numbers(rank1=20.0, mAP=41.0, EER=30.0),
            },
            "chance": {"rank1": 0.1, "mAP": None, "EER": 50.0},
        }
    )
    assert rows_of(table) == [
        ["", "rank1", "mAP", "EER"],
        ["trained", "60.0", "40.5", "9.0"],
        ["GEI", "20.0", "41.0", "30.0"],
        ["chance", "0.1", "–", "50.0"],
    ]
    assert re.findall("<b>(.*?)</b>", table) == ["60.0", "9.0", "41.0"]


def test_several_probe_sets_are_columns_and_each_metric_a_block():
    means = {"CL": 70.0, "CL/mAP": 40.0, "UP": 80.0, "UP/mAP": None}
    table = tables.benchmark_table({"rows": {"trained": numbers(**means)}, "chance": {}})
    assert rows_of(table) == [
        ["", "CL", "UP"],
        ["rank1"],
        ["trained", "70.0", "80.0"],
        ["mAP"],
        ["trained", "40.0", "–"],
    ]


REJECTS = [
    {"source": "b.mp4", "track": 2, "stage": "gate", "reason": "short-track", "detail": "9 frames"},
    {"source": "b.mp4", "track": 3, "stage": "gate", "reason": "short-track", "detail": "3 frames"},
    {"source": "<i>.mp4", "track": -1, "stage": "decode", "reason": "undecodable", "detail": "&"},
]


def test_rejects_are_counted_by_reason_the_most_frequent_first():
    assert rows_of(tables.reject_counts(REJECTS)) == [
        ["stage", "reason", "times"],
        ["gate", "short-track", "2"],
        ["decode", "undecodable", "1"],
        ["all", "", "3"],
    ]


def test_each_reject_is_listed_with_its_detail():
    assert rows_of(tables.reject_list(REJECTS))[1:] == [
        ["b.mp4", "2", "short-track", "9 frames"],
        ["b.mp4", "3", "short-track", "3 frames"],
        ["&lt;i&gt;.mp4", "whole file", "undecodable", "&amp;"],
    ]


def test_a_long_list_of_rejects_is_cut_and_says_so():
    listed = tables.reject_list(REJECTS, max_rows=1)
    assert len(rows_of(listed)) == 2
    assert "2 more are not listed here." in listed
    assert "more" not in tables.reject_list(REJECTS, max_rows=3)


def test_tracks_are_listed_with_their_place_in_the_source(make_row):
    rows = [make_row("a#1"), make_row("b#2", pictures=False), make_row("c", frame_indices=[])]
    assert rows_of(tables.track_list(rows))[1:] == [
        ["a#1", "30", "5–34", "0.90"],
        ["b#2", "30", "5–34", "–"],
        ["c", "30", "–", "0.90"],
    ]


def test_walks_stand_in_a_grid_with_holes_where_there_is_none():
    grid = WalkGrid(
        subjects=("001", "002"),
        columns=(("nm", "000"), ("nm", "090"), ("bg", "000")),
        silhouettes={("001", "nm", "090"): np.zeros((8, 8), np.uint8)},
    )
    table = tables.walk_table(grid)
    assert rows_of(table) == [
        ["", "nm", "bg"],
        ["", "000", "090", "000"],
        ["001", "", "", ""],
        ["002", "", "", ""],
    ]
    assert table.count("<img") == 1
    assert 'alt="001 nm 090"' in table
    assert 'colspan="2"' in table


def test_times_are_shown_with_their_share():
    assert rows_of(tables.timing_table({"train": 75.0, "score": 25.0}))[1:] == [
        ["train", "75.0", "75"],
        ["score", "25.0", "25"],
        ["together", "100.0", ""],
    ]
    assert ["nothing", "0.0", "–"] in rows_of(tables.timing_table({"nothing": 0.0}))


@pytest.mark.parametrize(
    ("value", "shown"),
    [((1, 2), "1, 2"), ([], "none"), (None, "None"), (1e-4, "0.0001"), ("<", "&lt;")],
)
def test_a_value_is_shown_as_it_is(value, shown):
    assert rows_of(tables.key_values({"<name>": value})) == [["&lt;name&gt;", shown]]
