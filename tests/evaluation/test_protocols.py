"""Tables worked out by hand, one for each protocol, and at random against a literal loop."""

import csv
import dataclasses
import io
import json
import math
from typing import ClassVar

import numpy as np
import pytest

from raygait.datasets.protocols import (
    CASIAB,
    PROTOCOLS,
    ProbeSet,
    Protocol,
    is_error_rate,
    protocol,
)
from raygait.datasets.splits import SequenceLists
from raygait.errors import DatasetError
from raygait.evaluation.protocols import chance, evaluate
from raygait.evaluation.tables import ProtocolTable

Row = tuple[str, str, str, float]

TINY = Protocol(
    name="tiny",
    title="by hand",
    source="by hand",
    needs="g, n and c",
    probe_sets={"NM": ProbeSet(("n",), ("g",)), "CL": ProbeSet(("c",), ("g",))},
    cells="view pairs",
    left_out="identical view",
    headline=("NM", "CL"),
    layout="views",
)


def table_of(rows: list[Row], rules: Protocol | str = TINY, **options) -> ProtocolTable:
    """Rows of subject, condition, view and an embedding of a single number."""
    subjects, conditions, views, values = zip(*rows, strict=True)
    embeddings = np.array(values, np.float32).reshape(-1, 1, 1)
    rules = protocol(rules) if isinstance(rules, str) else rules
    return evaluate(embeddings, subjects, conditions, views, rules, **options)


def renamed(rows: list[Row], **conditions: str) -> list[Row]:
    return [(subject, conditions[c], view, value) for subject, c, view, value in rows]


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


class TestViewPairs:
    def test_a_table_worked_out_by_hand(self) -> None:
        table = table_of(GALLERY + PROBES + COAT)
        assert table.views == ("000", "090")
        np.testing.assert_array_equal(table.cells["NM"], [[np.nan, 50], [100, np.nan]])
        np.testing.assert_array_equal(table.cells["CL"], [[np.nan, np.nan], [0, np.nan]])
        assert table.per_view("NM").tolist() == [50, 100]
        assert table.means == {"NM": 75, "CL": 0}
        assert table.num_empty == 1
        assert table.protocol == "tiny"

    def test_casiab_is_that_table_with_its_own_conditions(self) -> None:
        rows = renamed(GALLERY + PROBES + COAT, g="nm-04", n="nm-06", c="cl-01")
        assert table_of(rows, "casiab").means == pytest.approx(
            {"NM": 75, "BG": math.nan, "CL": 0}, nan_ok=True
        )

    def test_the_identical_view_counts_only_where_the_protocol_says_so(self) -> None:
        with_identical = dataclasses.replace(TINY, name="all", left_out="nothing")
        table = table_of(GALLERY + PROBES + COAT, with_identical)
        # 000 against gallery 000 (a=0, b=10): a at 2 right, b at 2.4 wrong. 090 against 090: right.
        np.testing.assert_array_equal(table.cells["NM"], [[50, 50], [100, 100]])

    def test_a_perfect_own_view_does_not_help(self) -> None:
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

    def test_views_weigh_alike_however_many_probes_they_have(self) -> None:
        extra = [("a", "n", "090", 1.0)] * 7
        assert table_of(GALLERY + PROBES + extra).means["NM"] == 75
        wrong = [("b", "n", "090", 1.0)] * 2  # 2 of 4 right at 090
        assert table_of(GALLERY + PROBES + wrong).means["NM"] == (50 + 50) / 2

    def test_a_probe_whose_subject_is_not_in_the_gallery_is_a_miss_and_said(self) -> None:
        table = table_of([*GALLERY, ("z", "n", "090", 0.0), ("a", "n", "090", 0.0)])
        assert table.cells["NM"][1, 0] == 50
        assert table.num_without_gallery == 1
        assert "1 probes have nobody of their subject in the gallery and are misses" in (
            table.to_text()
        )

    def test_other_walks_are_neither_gallery_nor_probe(self) -> None:
        other = [("a", "x", "000", 2.4), ("b", "x", "090", 1.0), ("b", "x", "180", 1.0)]
        table = table_of(GALLERY + PROBES + other)
        assert table.means["NM"] == 75
        assert table.views == ("000", "090")

    @pytest.mark.parametrize("swapped", [False, True])
    def test_a_wrong_walk_that_is_as_near_as_a_right_one_counts_as_nearer(self, swapped) -> None:
        gallery = [("a", "g", "000", 0.0), ("b", "g", "000", 10.0)]
        rows = [*(gallery[::-1] if swapped else gallery), ("a", "n", "090", 5.0)]
        assert table_of(rows).means["NM"] == 0

    def test_a_gallery_of_one_subject_cannot_be_wrong(self) -> None:
        rows = [("a", "g", "000", 9.0), ("a", "n", "090", 0.0), ("a", "n", "090", 100.0)]
        assert table_of(rows).means["NM"] == 100
        assert chance(*list(zip(*rows, strict=True))[:3], TINY)["NM"] == 100

    def test_rounding_a_cell_before_the_mean_can_be_asked_for(self) -> None:
        # 2 of 3 right at one pair of views, 1 of 3 at the other.
        rows = [
            *GALLERY,
            *[("a", "n", "000", 1.0), ("a", "n", "000", 1.0), ("b", "n", "000", 1.0)],
            *[("a", "n", "090", 9.0), ("a", "n", "090", 9.0), ("b", "n", "090", 9.0)],
        ]
        exact = table_of(rows).cells["NM"]
        rounded = table_of(rows, dataclasses.replace(TINY, rounded=True)).cells["NM"]
        assert exact[0, 1] == pytest.approx(200 / 3, abs=1e-9)
        assert (rounded[0, 1], rounded[1, 0]) == (66.67, 33.33)

    def test_a_share_is_rounded_from_what_it_is_exactly(self) -> None:
        """23 of 160 are 14.375 %, which rounds to 14.38; 100 times the float 23/160 is below it."""
        rows = [("a", "g", "000", 0.0), ("b", "g", "000", 10.0)]
        rows += [("a", "n", "090", 0.0 if number < 23 else 10.0) for number in range(160)]
        rules = dataclasses.replace(TINY, rounded=True)
        assert table_of(rows, rules).means["NM"] == 14.38
        # The survey's code divides first.
        assert table_of(rows, dataclasses.replace(rules, per_cent_first=False)).means["NM"] == 14.37


# Gallery of view 015 lacks b. Probes of 000 against it: a right, b cannot be. Probes of 015 against
# 000: a right; z, whom nobody knows, cannot be.
OUMVLP = [
    ("a", "01", "000", 0.0),
    ("b", "01", "000", 10.0),
    ("a", "01", "015", 1.0),
    ("a", "00", "000", 2.0),
    ("b", "00", "000", 9.0),
    ("a", "00", "015", 1.0),
    ("z", "00", "015", 5.0),
]


class TestOumvlp:
    def test_an_invalid_probe_is_a_miss_or_left_out(self) -> None:
        table, valid = table_of(OUMVLP, "oumvlp"), table_of(OUMVLP, "oumvlp-valid")
        np.testing.assert_array_equal(table.cells["rank1"], [[np.nan, 50], [50, np.nan]])
        np.testing.assert_array_equal(valid.cells["rank1"], [[np.nan, 100], [100, np.nan]])
        assert table.means == {"rank1": 50}
        assert valid.means == {"rank1": 100}
        assert table.num_without_gallery == valid.num_without_gallery == 2
        assert "2 probes have nobody of their subject in the gallery and are left out" in (
            valid.to_text()
        )

    def test_a_view_without_any_gallery_is_an_empty_cell_and_no_missing_person(self) -> None:
        rows = [
            ("a", "01", "000", 0.0),
            ("b", "01", "000", 9.0),
            ("a", "00", "000", 1.0),  # against the empty gallery of 090 alone
            ("b", "00", "090", 8.0),
            ("z", "00", "090", 1.0),
        ]
        table = table_of(rows, "oumvlp")
        np.testing.assert_array_equal(table.cells["rank1"], [[np.nan, np.nan], [50, np.nan]])
        assert (table.num_without_gallery, table.num_empty) == (1, 1)

    def test_chance_leaves_out_the_same_probes(self) -> None:
        labels = list(zip(*OUMVLP, strict=True))[:3]
        # 000 to 015: a 1, b 0; 015 to 000: a 1/2, z 0.
        assert chance(*labels, protocol("oumvlp"))["rank1"] == (50 + 25) / 2
        assert chance(*labels, protocol("oumvlp-valid"))["rank1"] == (100 + 50) / 2


class TestSurvey:
    """Each probe view against all of the gallery but the own view of the own subject."""

    ROWS: ClassVar = [
        ("a", "nm-02", "000", 0.0),
        ("a", "cl-02", "090", 6.0),
        ("b", "bg-02", "000", 2.0),
        ("b", "nm-02", "090", 9.0),
        # Without a's 000: b at 1, a at 5, b at 8: second, AP 1/2.
        ("a", "nm-01", "000", 1.0),
        # Without b's 000: a at 2.75, a at 3.25, b at 6.25: third, AP 1/3.
        ("b", "nm-01", "000", 2.75),
        # Without b's 090: b at 0.5, a at 1.5, a at 4.5: first, AP 1.
        ("b", "nm-01", "090", 1.5),
        # Nobody knows z: a miss, and no precision.
        ("z", "cl-01", "000", 0.0),
    ]

    def test_a_table_worked_out_by_hand(self) -> None:
        table = table_of(self.ROWS, "casiab-survey")
        assert table.per_view("NM").tolist() == [0, 100]
        assert table.per_view("NM/mAP") == pytest.approx([100 * 5 / 12, 100])
        assert table.means == pytest.approx(
            {
                "NM": 50,
                "NM/mAP": 100 * 17 / 24,
                "CL": 0,
                "CL/mAP": math.nan,
                "BG": math.nan,
                "BG/mAP": math.nan,
            },
            nan_ok=True,
        )
        assert (table.num_without_gallery, table.num_empty) == (1, 3)

    def test_chance_has_the_own_view_of_the_own_subject_in_no_gallery(self) -> None:
        labels = list(zip(*self.ROWS, strict=True))[:3]
        guess = chance(*labels, protocol("casiab-survey"))
        # Each known probe is left with three walks, one of them its own: at place 1, 2 or 3.
        assert guess["NM"] == pytest.approx(100 / 3)
        assert guess["NM/mAP"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)
        assert guess["CL"] == 0

    def test_a_cell_is_a_probe_view(self) -> None:
        rounded = table_of(self.ROWS, "rounded:casiab-survey")
        assert rounded.means["NM/mAP"] == (41.67 + 100) / 2

    def test_oumvlp_has_one_probe_set(self) -> None:
        rows = [
            ("a", "01", "000", 0.0),
            ("a", "01", "015", 6.0),
            ("b", "01", "000", 2.0),
            ("a", "00", "000", 1.0),
        ]
        assert table_of(rows, "oumvlp-survey").means == {"rank1": 0, "mAP": 50}


def test_grew_is_checked_with_its_labelled_walks_and_says_that_this_is_not_the_score() -> None:
    people = [f"{number:05d}" for number in range(1, 8)]
    rows = [(each, "01", f"v{each}", float(at)) for at, each in enumerate(people)]
    # The first is found at once; the seventh after 3, 2, 4, 1, 5 and 6.
    rows += [("00001", "02", "x", 0.1), ("00007", "02", "y", 1.9)]
    rows += [("probe", "03", "k3f9", 6.0), ("probe", "03", "k3fa", 0.0)]
    table = table_of(rows, "grew")
    assert table.means == {"rank1": 50, "rank5": 50, "rank10": 100, "rank20": 100}
    assert table.protocol == "grew-unofficial"
    labels = list(zip(*rows, strict=True))[:3]
    assert chance(*labels, protocol("grew"))["rank1"] == pytest.approx(100 / 7)
    assert chance(*labels, protocol("grew"))["rank5"] == pytest.approx(500 / 7)


class TestListedProbes:
    ROWS: ClassVar = [
        ("a", "camid1_videoid1", "seq0", 1.0),
        ("a", "camid1_videoid1", "seq1", 4.0),
        ("b", "camid2_videoid1", "seq0", 2.0),
        ("c", "camid3_videoid1", "seq0", 3.0),
        # a at 1, b at 2, c at 3, a at 4: AP (1 + 2/4) / 2, INP 2/4.
        ("a", "camid1_videoid2", "seq0", 0.0),
        # c at 0.4, b at 0.6: second; AP 1/2, INP 1/2.
        ("b", "camid2_videoid2", "seq0", 2.6),
        # Nobody of z is in the gallery.
        ("z", "camid9_videoid2", "seq0", 100.0),
    ]
    PROBES: ClassVar = SequenceLists(
        probe=frozenset(f"{s}-{c}-seq0" for s, c, _, _ in ROWS if c.endswith("videoid2"))
    )
    OTHERS: ClassVar = SequenceLists(
        gallery=frozenset(f"{s}-{c}-{v}" for s, c, v, _ in ROWS if not c.endswith("videoid2"))
    )
    MEANS: ClassVar = {"rank1": 50, "rank5": 100, "rank10": 100, "mAP": 62.5, "mINP": 50}

    @pytest.mark.parametrize(
        ("name", "lists"),
        [
            ("gait3d", PROBES),
            ("listed", PROBES),
            ("listed", OTHERS),
            ("listed", SequenceLists(PROBES.probe, OTHERS.gallery)),
        ],
        ids=["gait3d", "probes", "gallery", "both"],
    )
    def test_a_table_worked_out_by_hand(self, name: str, lists: SequenceLists) -> None:
        table = table_of(self.ROWS, name, lists=lists)
        assert table.means == self.MEANS
        assert (table.num_without_gallery, table.num_empty) == (1, 0)
        assert table.views == ()
        assert "1 probes have nobody of their subject in the gallery and are left out" in (
            table.to_text()
        )

    def test_a_walk_on_neither_list_is_left_out(self) -> None:
        stranger = ("b", "camid4_videoid1", "seq0", 2.5)
        lists = SequenceLists(self.PROBES.probe, self.OTHERS.gallery)
        assert table_of([*self.ROWS, stranger], "listed", lists=lists).means == self.MEANS

    def test_listed_walks_that_are_not_there_are_named(self, caplog) -> None:
        lists = SequenceLists(self.PROBES.probe | {"a-x-y"})
        assert table_of(self.ROWS, "gait3d", lists=lists).means == self.MEANS
        assert "1 of the 4 listed walks are not there (a-x-y)" in caplog.text

    def test_without_lists_it_says_where_to_get_them(self) -> None:
        for ask in (
            lambda: table_of(self.ROWS, "gait3d"),
            lambda: chance(["a"], ["x"], ["y"], protocol("gait3d")),
        ):
            with pytest.raises(DatasetError, match=r"needs the walks .* split gait3d:PATH"):
                ask()

    def test_the_open_set_question_of_the_same_pairs(self) -> None:
        # Genuine 0.6, 1, 4; impostors 0.4, 1.4, 1.6, 2, 3 and four far ones. Up to 1.6 a third of
        # the genuine pairs is refused and three of nine impostors are accepted.
        means = table_of(self.ROWS, "open-set:gait3d", lists=self.PROBES).means
        assert means["EER"] == pytest.approx(100 / 3)
        assert means["TAR-at-FAR-0.1"] == 0
        labels = list(zip(*self.ROWS, strict=True))[:3]
        guess = chance(*labels, protocol("open-set:gait3d"), lists=self.PROBES)
        # None of the nine impostors may be accepted: a genuine pair is the nearest of ten.
        assert guess == pytest.approx(
            {
                "EER": 50,
                "TAR-at-FAR-0.1": 10,
                "TAR-at-FAR-0.01": 10,
                "TAR-at-FAR-0.001": 10,
            }
        )


class TestCcpg:
    ROWS: ClassVar = [
        ("a", "U0_D3", "1_x", 0.0),
        ("a", "U0_D3", "2_y", 5.0),
        ("b", "U0_D3", "1_z", 3.0),
        # Without a of camera 1: b at 2, a at 4: second.
        ("a", "U3_D3", "1_q", 1.0),
        # Without b of camera 1 nobody of b is left.
        ("b", "U3_D3", "1_p", 4.0),
        ("b", "U3_D3", "2_w", 2.9),
    ]

    def test_as_reidentification_worked_out_by_hand(self) -> None:
        table = table_of(self.ROWS, "ccpg")
        found = {name: value for name, value in table.means.items() if not math.isnan(value)}
        assert found == {"UP": 50, "UP/mAP": 75, "UP/mINP": 75}
        assert (table.num_without_gallery, table.num_empty) == (1, 3)

    def test_chance_has_the_own_camera_of_the_own_subject_in_no_gallery(self) -> None:
        labels = list(zip(*self.ROWS, strict=True))[:3]
        # a: one of two; b of camera 1: none, left out; b of camera 2: one of three.
        assert chance(*labels, protocol("ccpg"))["UP"] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2)

    def test_as_gait_worked_out_by_hand(self) -> None:
        """From camera 1 to 2: a right, b cannot be; 2 to 1: b right; 1 to 1: both; 2 to 2: none."""
        table = table_of(self.ROWS, "ccpg-gait")
        np.testing.assert_array_equal(table.cells["UP"], [[np.nan, 50], [100, np.nan]])
        assert table.means["UP"] == 75
        assert table.means["UP/rank1-with-identical"] == ((100 + 50) / 2 + (100 + 0) / 2) / 2
        assert table.means["UP/rank2"] == 75
        assert table.views == ("1", "2")

    def test_each_setting_has_its_own_gallery(self) -> None:
        rows = [
            ("a", "U1_D1", "1_x", 0.0),
            ("b", "U1_D1", "1_x", 9.0),
            ("a", "U0_D0", "2_x", 1.0),
            ("b", "U0_D0", "3_x", 2.0),
            ("b", "U0_D0_BG", "2_x", 8.0),
            ("a", "U1_D0", "2_x", 7.0),
        ]
        means = table_of(rows, "ccpg").means
        assert means["CL"] == pytest.approx(200 / 3)  # a right, b at 2 wrong, b at 8 right
        assert means["DN"] == 0  # a at 7 is nearer to b
        assert means["BG"] == 100  # b at 8: b at 2 is nearer than a at 1
        assert math.isnan(means["UP"])


class TestSustech1k:
    ROWS: ClassVar = [
        *renamed(GALLERY, g="00-nm"),
        # Bag and clothes: b at 1 before a at 2.
        ("a", "02-bg-cl", "000", 3.0),
        # Bag: b at 1.
        ("b", "03-bg", "090", 9.0),
        # No attribute of the list and no number of it.
        ("b", "05-xx", "090", 0.0),
    ]

    def test_a_walk_counts_for_every_attribute_that_its_name_has(self) -> None:
        table = table_of(self.ROWS, "sustech1k")
        found = {name: value for name, value in table.means.items() if not math.isnan(value)}
        assert found == {
            "Bag": 50,
            "Bag/rank5": 100,
            "Clothing": 0,
            "Clothing/rank5": 100,
            "Overall": 50,
            "Overall/rank5": 100,
        }

    def test_the_text_has_a_column_an_attribute(self) -> None:
        head, first, *_ = table_of(self.ROWS, "sustech1k").to_text().splitlines()
        assert head.split() == ["sustech1k", *PROTOCOLS["sustech1k"].probe_sets]
        assert first.split() == ["rank1", "-", "50.0", "0.0", "-", "-", "-", "-", "-", "50.0"]


def test_ttg200_knows_no_views() -> None:
    rows = [
        ("a", "1", "c1", 0.0),
        ("b", "1", "c1", 10.0),
        ("b", "1", "c2", 1.0),
        ("a", "2", "c1", 0.4),  # right
        ("a", "6", "c3", 0.6),  # b at 0.4 is nearer
    ]
    assert table_of(rows, "ttg200").means == {"rank1": 50}


def test_the_open_set_question_leaves_out_identical_views() -> None:
    """000: genuine 1, 1.6, impostors 1.4, 2: EER 1/2. 090: genuine 1, 4, impostors 6, 9: 0."""
    rows = renamed(GALLERY + PROBES, g="nm-01", n="nm-05")
    table = table_of(rows, "open-set:casiab")
    assert table.per_view("NM/EER").tolist() == [50, 0]
    assert table.means["NM/EER"] == 25
    assert table.means["NM/TAR-at-FAR-0.1"] == 75
    assert table.num_empty == 4  # two views of BG and of CL


def test_cosine_ranks_otherwise_than_euclid() -> None:
    labels = (["a", "b", "a"], ["1", "1", "2"], ["x", "x", "x"])
    # b is nearer, a in the same direction.
    embeddings = np.array([[[9, 0]], [[1, 1]], [[1, 0.1]]], np.float32)
    assert evaluate(embeddings, *labels, protocol("ttg200")).means["rank1"] == 0
    assert evaluate(embeddings, *labels, protocol("cosine:ttg200")).means["rank1"] == 100


def test_cosine_answers_the_open_set_question_otherwise_than_euclid() -> None:
    """The genuine pair is of one direction, the impostors are near."""
    labels = (["a", "b", "a"], ["1", "1", "2"], ["x", "x", "x"])
    embeddings = np.array([[[9, 0]], [[1, 1]], [[1, 0.1]]], np.float32)
    means = evaluate(embeddings, *labels, protocol("open-set:ttg200")).means
    assert (means["EER"], means["TAR-at-FAR-0.1"]) == (100, 0)
    means = evaluate(embeddings, *labels, protocol("cosine:open-set:ttg200")).means
    assert (means["EER"], means["TAR-at-FAR-0.1"]) == (0, 100)


def literal(
    embeddings: np.ndarray,
    rows: list[tuple[str, str, str]],
    protocol: Protocol,
) -> tuple[dict[str, float], dict[str, float]]:
    """Means and chance by nothing but loops."""
    views = sorted({view for _, _, view in rows})
    means, guesses = {}, {}
    for probe_set, walks in protocol.probe_sets.items():
        accuracies, chances = [], []
        for probe_view in views:
            cells, guessed = [], []
            for gallery_view in views:
                if gallery_view == probe_view:
                    continue
                gallery = [
                    j
                    for j, (_, condition, view) in enumerate(rows)
                    if condition in walks.gallery and view == gallery_view
                ]
                probes = [
                    i
                    for i, (_, condition, view) in enumerate(rows)
                    if condition in walks.probe and view == probe_view
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
    conditions = [c for walks in CASIAB.probe_sets.values() for c in walks.probe]
    rows = [
        (f"{subject:03d}", condition, view)
        for subject in range(5)
        for condition in [*CASIAB.probe_sets["NM"].gallery, *conditions]
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
    table = evaluate(embeddings, *labels, CASIAB)
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


def world(name: str, *, keep: float = 0.9) -> tuple[list[list[str]], SequenceLists]:
    """Labels of five people as a data set of a protocol has them, with holes, in random order."""
    views = ["000", "036", "090"]
    people = [f"{number:05d}" for number in range(1, 6)]
    lists = SequenceLists()
    conditions = {
        "casiab": [f"{kind}-{n:02d}" for kind, k in (("nm", 6), ("bg", 2), ("cl", 2))
                   for n in range(1, k + 1)],
        "oumvlp": ["00", "01"],
        "grew-unofficial": ["01", "02"],
        "gait3d": [f"camid{n}_videoid{n}" for n in range(4)],
        "ccpg": ["U0_D0", "U0_D0_BG", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3"],
        "sustech1k": ["00-nm", "01-nm", "02-bg", "02-cl-ub", "03-cr-uf", "04-oc-nt"],
        "ttg200": ["1", "2", "3", "4", "5", "6"],
    }  # fmt: skip
    kind = name.rpartition(":")[2].removesuffix("-survey").removesuffix("-valid")
    kind = {"ccpg-gait": "ccpg", "listed": "gait3d"}.get(kind, kind)
    if kind == "ccpg":
        views = ["1_a", "2_b", "3_c"]
    generator = np.random.default_rng(0)
    rows = [
        [subject, condition, view]
        for subject in people
        for condition in conditions[kind]
        for view in views
        if generator.random() < keep
    ]
    generator.shuffle(rows)
    if kind == "gait3d":
        lists = SequenceLists(frozenset("-".join(row) for row in rows if row[2] == views[0]))
    return [list(labels) for labels in zip(*rows, strict=True)], lists


EVERY = [
    prefix + each.name
    for each in PROTOCOLS.values()
    if not each.submission
    for prefix in ("", "open-set:")
]


@pytest.mark.parametrize("name", EVERY)
class TestEveryProtocol:
    def test_numbers_have_the_names_that_it_says_and_chance_beside_each(self, name: str) -> None:
        labels, lists = world(name)
        embeddings = np.random.default_rng(1).normal(size=(len(labels[0]), 2, 3)).astype(np.float32)
        rules = protocol(name)
        table = evaluate(embeddings, *labels, rules, lists=lists)
        assert tuple(table.means) == rules.numbers
        guess = chance(*labels, rules, lists=lists)
        assert tuple(guess) == rules.numbers
        assert all(0 <= value <= 100 for value in (*table.means.values(), *guess.values()))
        assert set(rules.headline) <= set(rules.numbers)

    def test_whoever_is_told_apart_by_all_scores_everything(self, name: str) -> None:
        labels, lists = world(name, keep=1.0)
        number = np.array([int(each) for each in labels[0]], np.float32).reshape(-1, 1, 1)
        embeddings = np.concatenate([number, number**2], axis=2)  # the angle differs too
        for prefix in ("", "cosine:"):
            rules = protocol(prefix + name)
            means = evaluate(embeddings, *labels, rules, lists=lists).means
            assert means == {number: 0 if is_error_rate(number) else 100 for number in means}

    def test_the_order_of_rows_changes_nothing(self, name: str) -> None:
        labels, lists = world(name)
        generator = np.random.default_rng(2)
        # Few different ones, so that there are ties within a row; between rows only to rounding.
        num_different = 500 if name.startswith("open-set:") else 4
        different = generator.normal(size=(num_different, 2, 3)).astype(np.float32)
        embeddings = different[generator.integers(num_different, size=len(labels[0]))]
        order = generator.permutation(len(embeddings))
        shuffled = [[column[at] for at in order] for column in labels]
        first = evaluate(embeddings, *labels, protocol(name), lists=lists)
        second = evaluate(embeddings[order], *shuffled, protocol(name), lists=lists)
        assert first.to_dict() == second.to_dict()

    def test_json_csv_and_text_say_the_same(self, name: str) -> None:
        labels, lists = world(name)
        embeddings = np.random.default_rng(3).normal(size=(len(labels[0]), 1, 4)).astype(np.float32)
        table = evaluate(embeddings, *labels, protocol(name), lists=lists)
        plain = json.loads(json.dumps(table.to_dict(), allow_nan=False))
        lines = list(csv.DictReader(io.StringIO(table.to_csv())))
        means = [line for line in lines if not line["probe_view"] and not line["gallery_view"]]
        assert {line["protocol"] for line in lines} == {name} == {plain["protocol"]}
        assert [float(line["percent"]) for line in means] == pytest.approx(
            list(plain["means"].values())
        )
        text = table.to_text()
        assert text.startswith(name)
        for value in plain["means"].values():
            assert f"{value:.1f}" in text or abs(value * 10 % 1 - 0.5) < 0.01


@pytest.mark.parametrize("name", ["casiab", "casiab-survey", "ccpg", "gait3d"])
def test_how_many_probes_are_ranked_at_once_changes_nothing(name: str, monkeypatch) -> None:
    labels, lists = world(name)
    embeddings = np.random.default_rng(4).normal(size=(len(labels[0]), 2, 3)).astype(np.float32)
    whole = evaluate(embeddings, *labels, protocol(name), lists=lists)
    monkeypatch.setattr("raygait.evaluation.protocols._PROBES_AT_ONCE", 3)
    assert evaluate(embeddings, *labels, protocol(name), lists=lists).to_dict() == whole.to_dict()


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
    empty = [line for line in table.to_csv().splitlines() if line.startswith("tiny,,CL,rank1,,,")]
    assert empty == ["tiny,,CL,rank1,,,"]


def test_nothing_to_compare_is_an_error_that_says_what_was_looked_for() -> None:
    with pytest.raises(DatasetError, match=r"'tiny' finds nothing .*needs g, n and c"):
        table_of([("a", "n", "000", 0.0), ("a", "g", "000", 0.0)])


def test_a_submission_has_no_numbers_and_says_so() -> None:
    with pytest.raises(DatasetError, match=r"has no numbers.*for numbers take grew-unofficial"):
        table_of(OUMVLP, "grew-submission")


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 embeddings, 1 subjects"):
        evaluate(np.zeros((2, 1, 1), np.float32), ["a"], ["g", "n"], ["0", "1"], TINY)
