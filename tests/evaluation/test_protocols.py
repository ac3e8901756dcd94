"""Tables worked out by hand, and at random against a literal loop."""

import json
import math

import numpy as np
import pytest

from raygait.datasets.protocols import CASIAB, CrossViewProtocol
from raygait.errors import DatasetError
from raygait.evaluation.protocols import CrossViewTable, chance, evaluate_cross_view

TINY = CrossViewProtocol(
    name="tiny",
    source="by hand",
    gallery_conditions=("g",),
    probe_conditions={"NM": ("n",), "CL": ("c",)},
)


def table_of(
    rows: list[tuple[str, str, str, float]],
    protocol: CrossViewProtocol = TINY,
    **options: bool,
) -> CrossViewTable:
    """Rows of subject, condition, view and an embedding of a single number."""
    subjects, conditions, views, values = zip(*rows, strict=True)
    embeddings = np.array(values, np.float32).reshape(-1, 1, 1)
    return evaluate_cross_view(embeddings, subjects, conditions, views, protocol, **options)


# Subjects a, b on a line. Gallery at view 000: a=0, b=10; at 090: a=1, b=4.
GALLERY = [
    ("a", "g", "000", 0.0),
    ("b", "g", "000", 10.0),
    ("a", "g", "090", 1.0),
    ("b", "g", "090", 4.0),
]
# NM probes. View 000 against gallery 090 (a=1, b=4): a at 2.0 is right, b at 2.4 is wrong: 50 %.
# View 090 against gallery 000 (a=0, b=10): a at 1 right, b at 6 right: 100 %. Mean 75 %.
# Against their own views both would be: 000: a at 2 right, b at 2.4 wrong; never counted.
PROBES = [
    ("a", "n", "000", 2.0),
    ("b", "n", "000", 2.4),
    ("a", "n", "090", 1.0),
    ("b", "n", "090", 6.0),
]
# CL probes: only at view 090, only of b, at 4.9: nearer to a=0 than to b=10: 0 %.
COAT = [("b", "c", "090", 4.9)]


def test_a_table_worked_out_by_hand() -> None:
    table = table_of(GALLERY + PROBES + COAT)
    assert table.views == ("000", "090")
    np.testing.assert_array_equal(table.cells["NM"], [[np.nan, 50], [100, np.nan]])
    np.testing.assert_array_equal(table.cells["CL"], [[np.nan, np.nan], [0, np.nan]])
    assert table.per_view("NM").tolist() == [50, 100]
    assert table.means == {"NM": 75, "CL": 0}
    assert table.num_empty == 1
    assert table.protocol == "tiny"


def test_the_identical_view_counts_only_where_the_protocol_says_so() -> None:
    with_identical = CrossViewProtocol(
        **{**vars(TINY), "name": "all", "exclude_identical_view": False}
    )
    table = table_of(GALLERY + PROBES + COAT, with_identical)
    # 000 against gallery 000 (a=0, b=10): a at 2 right, b at 2.4 wrong. 090 against 090: all right.
    np.testing.assert_array_equal(table.cells["NM"], [[50, 50], [100, 100]])


def test_a_perfect_own_view_does_not_help() -> None:
    """All that is right is right in the identical view alone, which is left out."""
    rows = [
        ("a", "g", "000", 0.0),
        ("b", "g", "000", 1.0),
        ("a", "g", "090", 11.0),
        ("b", "g", "090", 10.0),
        ("a", "n", "000", 0.0),
        ("b", "n", "000", 1.0),
        ("a", "n", "090", 11.0),
        ("b", "n", "090", 10.0),
    ]
    # Across views a (0) is nearer to b (10), b (1) nearer to b (10): half; back: a (11) takes b
    # (1), b (10) takes b (1): half.
    assert table_of(rows).means["NM"] == 50


def test_views_weigh_alike_however_many_probes_they_have() -> None:
    extra = [("a", "n", "090", 1.0)] * 7
    assert table_of(GALLERY + PROBES + extra).means["NM"] == 75
    wrong = [("b", "n", "090", 1.0)] * 2  # 2 of 4 right at 090
    assert table_of(GALLERY + PROBES + wrong).means["NM"] == (50 + 50) / 2


def test_a_probe_whose_subject_is_not_in_the_gallery_is_a_miss() -> None:
    table = table_of([*GALLERY, ("z", "n", "090", 0.0), ("a", "n", "090", 0.0)])
    assert table.cells["NM"][1, 0] == 50


def test_other_walks_are_neither_gallery_nor_probe() -> None:
    other = [("a", "x", "000", 2.4), ("b", "x", "090", 1.0)]
    assert table_of(GALLERY + PROBES + other).means["NM"] == 75


def test_rounding_a_cell_before_the_mean_can_be_asked_for() -> None:
    # 2 of 3 right at one pair of views, 1 of 3 at the other.
    rows = [
        *GALLERY,
        *[("a", "n", "000", 1.0), ("a", "n", "000", 1.0), ("b", "n", "000", 1.0)],
        *[("a", "n", "090", 9.0), ("a", "n", "090", 9.0), ("b", "n", "090", 9.0)],
    ]
    exact = table_of(rows).cells["NM"]
    rounded = table_of(rows, round_cells=True).cells["NM"]
    assert exact[0, 1] == pytest.approx(200 / 3, abs=1e-9)
    assert (rounded[0, 1], rounded[1, 0]) == (66.67, 33.33)


def literal(
    embeddings: np.ndarray,
    rows: list[tuple[str, str, str]],
    protocol: CrossViewProtocol,
) -> tuple[dict[str, float], dict[str, float]]:
    """Means and chance by nothing but loops."""
    views = sorted({view for _, _, view in rows})
    means, guesses = {}, {}
    for probe_set, probe_conditions in protocol.probe_conditions.items():
        accuracies, chances = [], []
        for probe_view in views:
            cells, guessed = [], []
            for gallery_view in views:
                if gallery_view == probe_view:
                    continue
                gallery = [
                    j
                    for j, (_, condition, view) in enumerate(rows)
                    if condition in protocol.gallery_conditions and view == gallery_view
                ]
                probes = [
                    i
                    for i, (_, condition, view) in enumerate(rows)
                    if condition in probe_conditions and view == probe_view
                ]
                if not gallery or not probes:
                    continue
                right, share = 0, 0.0
                for i in probes:
                    best, best_distance = -1, math.inf
                    for j in gallery:
                        parts = [
                            math.dist(embeddings[i, p], embeddings[j, p])
                            for p in range(embeddings.shape[1])
                        ]
                        distance = sum(parts) / len(parts)
                        if distance < best_distance:
                            best, best_distance = j, distance
                    right += rows[best][0] == rows[i][0]
                    share += sum(rows[j][0] == rows[i][0] for j in gallery) / len(gallery)
                cells.append(100 * right / len(probes))
                guessed.append(100 * share / len(probes))
            if cells:
                accuracies.append(sum(cells) / len(cells))
                chances.append(sum(guessed) / len(guessed))
        means[probe_set] = sum(accuracies) / len(accuracies) if accuracies else math.nan
        guesses[probe_set] = sum(chances) / len(chances) if chances else math.nan
    return means, guesses


@pytest.mark.parametrize("keep", [1.0, 0.6, 0.25], ids=["complete", "holes", "mostly holes"])
@pytest.mark.parametrize("seed", range(4))
def test_random_tables_are_those_of_a_literal_loop(seed: int, keep: float) -> None:
    generator = np.random.default_rng(seed)
    conditions = [c for names in CASIAB.probe_conditions.values() for c in names]
    rows = [
        (f"{subject:03d}", condition, view)
        for subject in range(5)
        for condition in [*CASIAB.gallery_conditions, *conditions]
        for view in ("000", "036", "090")
        if generator.random() < keep
    ]
    generator.shuffle(rows)
    rows = [(str(s), str(c), str(v)) for s, c, v in rows]
    middle = {f"{subject:03d}": generator.normal(size=(3, 4)) for subject in range(5)}
    embeddings = np.stack([middle[s] + generator.normal(size=(3, 4)) for s, _, _ in rows])
    embeddings = embeddings.astype(np.float32)
    means, guesses = literal(embeddings, rows, CASIAB)
    labels = list(zip(*rows, strict=True))
    table = evaluate_cross_view(embeddings, *labels, CASIAB)
    assert table.means == pytest.approx(means, nan_ok=True)
    assert chance(*labels, CASIAB) == pytest.approx(guesses, nan_ok=True)


def test_chance_is_the_share_of_the_probes_subject_in_the_gallery() -> None:
    # Gallery 000 holds a twice and b once, gallery 090 one of each.
    rows = [
        *[("a", "g", "000"), ("a", "g", "000"), ("b", "g", "000")],
        *[("a", "g", "090"), ("b", "g", "090")],
        *[("a", "n", "090"), ("b", "n", "000"), ("z", "c", "000")],
    ]
    result = chance(*zip(*rows, strict=True), TINY)
    assert result == pytest.approx({"NM": 100 * (2 / 3 + 1 / 2) / 2, "CL": 0})


def test_chance_of_a_balanced_gallery_is_one_in_its_subjects() -> None:
    rows = [
        (subject, condition, view)
        for subject in "abcdefgh"
        for condition in ("nm-01", "nm-02", "nm-05", "bg-01")
        for view in ("000", "090")
    ]
    result = chance(*zip(*rows, strict=True), CASIAB)
    assert result["NM"] == result["BG"] == pytest.approx(12.5)
    assert math.isnan(result["CL"])


def test_chance_is_what_guessing_scores() -> None:
    generator = np.random.default_rng(0)
    rows = [
        (f"{subject}", condition, view)
        for subject in range(6)
        for condition in ("nm-01", "nm-02", "nm-05", "nm-06")
        for view in ("000", "036", "090")
    ]
    labels = list(zip(*rows, strict=True))
    scores = [
        evaluate_cross_view(
            generator.normal(size=(len(rows), 1, 3)).astype(np.float32), *labels, CASIAB
        ).means["NM"]
        for _ in range(150)
    ]
    assert np.mean(scores) == pytest.approx(chance(*labels, CASIAB)["NM"], abs=1.5)


def test_text_names_the_protocol_and_says_what_is_missing() -> None:
    lines = table_of(GALLERY + PROBES + COAT).to_text().splitlines()
    assert lines == [
        "tiny    000    090   mean",
        "NM     50.0  100.0   75.0",
        "CL        -    0.0    0.0",
        "1 pairs of views have no probe or no gallery and count in no mean",
    ]


def test_a_probe_set_without_any_number_is_nan_and_null_in_json() -> None:
    table = table_of(GALLERY + PROBES)
    assert math.isnan(table.means["CL"])
    plain = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert plain["means"] == {"NM": 75.0, "CL": None}
    assert plain["cells"]["NM"] == [[None, 50.0], [100.0, None]]
    assert plain["per_view"]["NM"] == [50.0, 100.0]
    assert (plain["protocol"], plain["views"], plain["num_empty"]) == ("tiny", ["000", "090"], 2)


def test_nothing_to_compare_is_an_error_that_says_what_was_looked_for() -> None:
    with pytest.raises(DatasetError, match=r"'tiny' finds nothing to compare.*gallery g"):
        table_of([("a", "n", "000", 0.0), ("a", "g", "000", 0.0)])


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 embeddings, 1 subjects"):
        evaluate_cross_view(np.zeros((2, 1, 1), np.float32), ["a"], ["g", "n"], ["0", "1"], TINY)
