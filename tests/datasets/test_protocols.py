"""Splits and protocols, as text goldens against the papers' tables."""

import logging

import pytest

from raygait.datasets import protocols
from raygait.datasets.protocols import CASIAB, SubjectSplit, split
from raygait.errors import DatasetError, SplitMismatch

ALL = [f"{number:03d}" for number in range(1, 125)]


def test_casiab_is_the_published_protocol() -> None:
    """GaitGL (journal) section 4.1."""
    assert CASIAB.gallery_conditions == ("nm-01", "nm-02", "nm-03", "nm-04")
    assert CASIAB.probe_conditions == {
        "NM": ("nm-05", "nm-06"),
        "BG": ("bg-01", "bg-02"),
        "CL": ("cl-01", "cl-02"),
    }
    assert CASIAB.exclude_identical_view
    assert protocols.protocol("casiab") is CASIAB
    for name, entry in protocols.PROTOCOLS.items():
        assert (entry.name, bool(entry.source)) == (name, True)


@pytest.mark.parametrize(
    ("name", "num_train", "num_test"),
    [("casiab-st", 24, 100), ("casiab-mt", 62, 62), ("casiab-lt", 74, 50)],
)
def test_casiab_splits_have_the_printed_sizes(name: str, num_train: int, num_test: int) -> None:
    """LMGCS section IV-A."""
    result = split(name, ALL)
    assert result.train == tuple(ALL[:num_train])
    assert result.test == tuple(ALL[num_train:])
    assert len(result.test) == num_test
    assert result.source


def test_a_whole_benchmark_is_split_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split("casiab-lt", reversed(ALL))
    assert not caplog.records


def test_absent_subjects_of_a_benchmark_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = split("casiab-lt", [s for s in ALL if s not in ("005", "124")])
    assert (len(result.train), len(result.test)) == (73, 49)
    assert "2 of its 124 subjects are not there (005, 124)" in caplog.text


def test_first_n_train_in_sorted_order_and_the_rest_is_tested() -> None:
    result = split("first:2", ["c", "a", "", "b", "a", "d"])
    assert (result.train, result.test) == (("a", "b"), ("c", "d"))


@pytest.mark.parametrize(
    ("name", "subjects"),
    [
        ("first:3", ["a", "b", "c"]),
        ("first:0", ["a", "b", "c"]),
        ("first:1", []),
        ("casiab-lt", ALL[:74]),
        ("casiab-st", ALL[24:]),
    ],
    ids=["no test", "no train", "nobody", "only the trained", "only the tested"],
)
def test_an_empty_side_is_an_error(name: str, subjects: list[str]) -> None:
    with pytest.raises(SplitMismatch, match=r"leaves \d+ to train and \d+ to test"):
        split(name, subjects)


def test_strangers_to_a_benchmark_are_an_error() -> None:
    with pytest.raises(SplitMismatch, match=r"also has 125, anna; use first:N"):
        split("casiab-lt", [*ALL, "125", "anna"])


@pytest.mark.parametrize("name", ["casiab", "first:", "first:x", "first:-1", "last:2", ""])
def test_an_unknown_split_is_an_error_that_lists_the_known(name: str) -> None:
    with pytest.raises(DatasetError, match="casiab-st, casiab-mt, casiab-lt and first:N"):
        split(name, ALL)


def test_an_unknown_protocol_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(DatasetError, match=r"no protocol is named 'oumvlp'.*casiab"):
        protocols.protocol("oumvlp")


def test_a_split_that_leaks_cannot_be_made() -> None:
    with pytest.raises(SplitMismatch, match="trains on subjects that it tests: b"):
        SubjectSplit("mine", ("a", "b"), ("b", "c"), "by hand")
