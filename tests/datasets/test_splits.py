"""Splits, as goldens against the papers' counts; partition files good and bad."""

import json
import logging
from pathlib import Path

import pytest

from raygait.datasets import splits
from raygait.datasets.splits import SequenceLists, SubjectSplit, check_name, split
from raygait.errors import DatasetError, SplitMismatch

CASIAB = [f"{number:03d}" for number in range(1, 125)]
OUMVLP = [f"{number:05d}" for number in range(1, 10308)]
GREW = [
    *(f"{number:05d}train" for number in range(1, 20001)),
    *(f"{number:05d}" for number in range(1, 6001)),
    "probe",
]
CCPG = [f"{number:03d}" for number in range(200)]


@pytest.fixture
def partition(tmp_path: Path):
    """Writes a partition file and returns the name of its split."""

    def write(kind: str = "partition", text: str = "", **lists) -> str:
        path = tmp_path / "lists.json"
        path.write_text(text or json.dumps(lists))
        return f"{kind}:{path}"

    return write


class TestBenchmarks:
    @pytest.mark.parametrize(
        ("name", "subjects", "num_train", "num_test"),
        [
            ("casiab-st", CASIAB, 24, 100),
            ("casiab-mt", CASIAB, 62, 62),
            ("casiab-lt", CASIAB, 74, 50),
            ("oumvlp", OUMVLP, 5153, 5154),
            ("grew", GREW, 20_000, 6000),
            ("ccpg", CCPG, 100, 100),
            ("ttg200", CCPG, 120, 80),
        ],
    )
    def test_the_sides_have_the_printed_sizes_and_nobody_is_lost(
        self, name: str, subjects: list[str], num_train: int, num_test: int, caplog
    ) -> None:
        with caplog.at_level(logging.WARNING):
            result = split(name, reversed(subjects))
        assert (len(result.train), len(result.test)) == (num_train, num_test)
        assert {*result.train, *result.test} == set(subjects) - {"probe"}
        assert list(result.train) == sorted(result.train)
        assert list(result.test) == sorted(result.test)
        assert splits.num_training_subjects(name) == num_train
        assert result.source
        assert not caplog.records

    @pytest.mark.parametrize("name", ["casiab-st", "casiab-mt", "casiab-lt"])
    def test_of_casiab_the_first_train(self, name: str) -> None:
        """LMGCS section IV-A."""
        result = split(name, CASIAB)
        assert [*result.train, *result.test] == CASIAB

    def test_of_oumvlp_odd_numbers_train_but_for_the_last(self) -> None:
        result = split("oumvlp", OUMVLP)
        assert result.train[:2] + result.train[-1:] == ("00001", "00003", "10305")
        assert result.test[:2] + result.test[-2:] == ("00002", "00004", "10306", "10307")

    def test_grews_unknown_probes_are_embedded_and_are_nobody(self) -> None:
        result = split("grew", GREW)
        assert result.unlabelled == ("probe",)
        assert "probe" not in result.test
        assert result.embedded[-1] == "probe"
        assert len(result.embedded) == 6001
        assert split("grew", GREW[:-1]).embedded == result.test

    def test_of_ccpg_the_lower_half_trains(self) -> None:
        assert split("ccpg", CCPG).train == tuple(CCPG[:100])

    def test_the_first_of_ttg200_are_known_only_if_all_are_there(self) -> None:
        assert split("ttg200", CCPG).train == tuple(CCPG[:120])
        with pytest.raises(SplitMismatch, match="120 of 200 subjects, the data set has 199"):
            split("ttg200", CCPG[1:])

    def test_absent_subjects_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            result = split("casiab-lt", [s for s in CASIAB if s not in ("005", "124")])
        assert (len(result.train), len(result.test)) == (73, 49)
        assert "2 of its 124 subjects are not there (005, 124)" in caplog.text

    def test_strangers_are_an_error(self) -> None:
        with pytest.raises(SplitMismatch, match=r"001 to 124, the data set also has 125, anna; "):
            split("casiab-lt", [*CASIAB, "125", "anna"])

    def test_a_casiab_tree_is_not_taken_for_ccpg(self) -> None:
        assert split("ccpg", CASIAB).test[-1] == "124"  # the names fit, so it is only said
        with pytest.raises(SplitMismatch, match="also has 000, 125"):
            split("casiab-lt", CCPG)


class TestFirst:
    def test_they_train_in_sorted_order_and_the_rest_is_tested(self) -> None:
        result = split("first:2", ["c", "a", "", "b", "a", "d"])
        assert (result.train, result.test) == (("a", "b"), ("c", "d"))
        assert splits.num_training_subjects("first:2") == 2


@pytest.mark.parametrize(
    ("name", "subjects"),
    [
        ("first:3", ["a", "b", "c"]),
        ("first:0", ["a", "b", "c"]),
        ("first:1", []),
        ("casiab-lt", CASIAB[:74]),
        ("casiab-st", CASIAB[24:]),
        ("grew", [*GREW[:3], "probe"]),
    ],
    ids=["no test", "no train", "nobody", "only the trained", "only the tested", "only unknown"],
)
def test_an_empty_side_is_an_error(name: str, subjects: list[str]) -> None:
    with pytest.raises(SplitMismatch, match=r"leaves \d+ to train and \d+ to test"):
        split(name, subjects)


def test_who_only_tests_needs_nobody_to_train() -> None:
    assert split("casiab-lt", CASIAB[74:], trains=False).test == tuple(CASIAB[74:])
    with pytest.raises(SplitMismatch, match="leaves 74 to train and 0 to test; none can be tested"):
        split("casiab-lt", CASIAB[:74], trains=False)


def test_a_split_that_leaks_cannot_be_made() -> None:
    with pytest.raises(SplitMismatch, match="trains on subjects that it tests: b"):
        SubjectSplit("mine", ("a", "b"), ("b", "c"), "by hand")
    with pytest.raises(SplitMismatch, match="trains on subjects that it tests: probe"):
        SubjectSplit("mine", ("a", "probe"), ("c",), "by hand", ("probe",))


class TestNames:
    @pytest.mark.parametrize(
        "name", ["casiab", "first:", "first:x", "first:-1", "first:²", "last:2", "", "partition"]
    )
    def test_an_unknown_one_is_an_error_that_lists_the_known(self, name: str) -> None:
        for ask in (check_name, lambda name: split(name, CASIAB)):
            with pytest.raises(DatasetError, match=r"casiab-st, .*gait3d:PATH, .* first:N$"):
                ask(name)

    @pytest.mark.parametrize("name", ["gait3d", "sustech1k"])
    def test_one_that_needs_a_list_says_where_to_give_it(self, name: str) -> None:
        with pytest.raises(DatasetError, match=f"partition file.*give {name}:PATH"):
            check_name(name)
        assert splits.num_training_subjects(name) == {"gait3d": 3000, "sustech1k": 250}[name]

    def test_a_path_is_made_one_that_every_process_understands(self, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        made = splits.with_absolute_path("gait3d:lists/a.json")
        assert made == f"gait3d:{tmp_path}/lists/a.json"
        assert splits.with_absolute_path(made) == made
        for other in ("casiab-lt", "first:4", "gait3d", "gait3d:"):
            assert splits.with_absolute_path(other) == other


class TestPartitionFiles:
    def test_subjects_stand_on_the_side_that_the_file_says(self, partition) -> None:
        name = partition(TRAIN_SET=["c", "a"], TEST_SET=["d", "b"])
        result = split(name, ["a", "b", "c", "d"])
        assert (result.train, result.test) == (("a", "c"), ("b", "d"))
        assert not result.lists
        assert "lists.json" in result.source

    def test_absent_subjects_are_named_and_strangers_an_error(self, partition, caplog) -> None:
        name = partition(TRAIN_SET=["a", "b"], TEST_SET=["c", "d"])
        assert split(name, ["a", "c"]).train == ("a",)
        assert "2 of its 4 subjects are not there (b, d)" in caplog.text
        with pytest.raises(SplitMismatch, match="also has e"):
            split(name, ["a", "c", "e"])

    def test_the_walks_to_look_for_come_along(self, partition) -> None:
        lists = {"TRAIN_SET": ["1"], "TEST_SET": ["2-x"]}
        name = partition(**lists, PROBE_SET=["2-x-camid1_videoid2-seq0"])
        assert split(name, ["1", "2-x"]).lists == SequenceLists(
            frozenset({"2-x-camid1_videoid2-seq0"})
        )
        name = partition(**lists, GALLERY_SET=["2-x-a-b"])
        assert split(name, ["1", "2-x"]).lists.gallery == {"2-x-a-b"}

    def test_one_without_a_subject_is_an_error(self, partition) -> None:
        with pytest.raises(DatasetError, match="lists no subject"):
            split(partition(TRAIN_SET=[], TEST_SET=[]), ["001"])

    def test_a_leak_is_named(self, partition) -> None:
        name = partition(TRAIN_SET=["0001", "0002"], TEST_SET=["0002", "0003"])
        with pytest.raises(SplitMismatch, match="trains on subjects that it tests: 0002"):
            check_name(name)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "cannot be read: No such file"),
            ("{", "not a partition file: "),
            ("[" * 100_000, "not a partition file: "),
            ("\xff", "not a partition file: "),
            ("[]", "expected an object with TRAIN_SET, TEST_SET"),
            ("{}", "lacks TRAIN_SET, TEST_SET"),
            ('{"TRAIN_SET": ["a"]}', "lacks TEST_SET; a partition file has"),
            ('{"TRAIN_SET": ["a"], "TEST": ["b"]}', "lacks TEST_SET and has unknown TEST"),
            ('{"TRAIN_SET": ["a"], "TEST_SET": ["b"], "note": 1}', "has unknown note"),
            ('{"TRAIN_SET": ["a"], "TEST_SET": ["b"], "TEST_SET": []}', "has TEST_SET twice"),
            ('{"TRAIN_SET": "a", "TEST_SET": ["b"]}', "TRAIN_SET is str, expected a list"),
            ('{"TRAIN_SET": ["a"], "TEST_SET": [1]}', r"TEST_SET holds '1' \(int\), expected"),
            ('{"TRAIN_SET": ["a"], "TEST_SET": [["b"]]}', r"TEST_SET holds .* \(list\)"),
            ('{"TRAIN_SET": [""], "TEST_SET": ["b"]}', r"TRAIN_SET holds '' \(str\)"),
            ('{"TRAIN_SET": ["a", "a"], "TEST_SET": ["b"]}', "TRAIN_SET names a more than once"),
            (
                '{"TRAIN_SET": ["a"], "TEST_SET": ["b"], "PROBE_SET": ["a-1-2"]}',
                "walks of subjects that TEST_SET does not have: a-1-2",
            ),
            (
                '{"TRAIN_SET": ["a"], "TEST_SET": ["b"], "PROBE_SET": ["b-1"], '
                '"GALLERY_SET": ["b-1"]}',
                "PROBE_SET and GALLERY_SET both name b-1",
            ),
        ],
    )
    def test_another_file_is_refused_in_a_sentence(self, tmp_path, text: str, says: str) -> None:
        path = tmp_path / "p.json"
        if text:
            path.write_text(text, encoding="latin-1")
        with pytest.raises(DatasetError, match=says) as caught:
            check_name(f"partition:{path}")
        assert str(path) in str(caught.value)

    def test_a_folder_and_a_huge_file_are_refused(self, tmp_path) -> None:
        with pytest.raises(DatasetError, match="is no file"):
            check_name(f"partition:{tmp_path}")
        huge = tmp_path / "huge.json"
        with huge.open("wb") as file:
            file.truncate(64_000_001)
        with pytest.raises(DatasetError, match="has 64000001 bytes"):
            check_name(f"partition:{huge}")

    def test_gait3d_needs_its_probes_and_other_counts_are_said(self, partition, caplog) -> None:
        lists = {"TRAIN_SET": ["1"], "TEST_SET": ["2"]}
        with pytest.raises(DatasetError, match="split 'gait3d' needs PROBE_SET"):
            check_name(partition("gait3d", **lists))
        check_name(partition("gait3d", **lists, PROBE_SET=["2-a-b"]))
        assert "1 training and 1 test subjects, gait3d has 3000 and 1000" in caplog.text

    @pytest.mark.parametrize(
        ("kind", "sizes"), [("gait3d", (3000, 1000)), ("sustech1k", (250, 800))]
    )
    def test_whole_lists_give_the_papers_counts(self, partition, caplog, kind, sizes) -> None:
        everyone = [f"{number:04d}" for number in range(sum(sizes))]
        train, test = everyone[: sizes[0]], everyone[sizes[0] :]
        probes = {"PROBE_SET": [f"{subject}-camid1-seq0" for subject in test]}
        name = partition(kind, TRAIN_SET=train, TEST_SET=test, **probes)
        result = split(name, everyone)
        assert (len(result.train), len(result.test)) == sizes
        assert not caplog.records


def test_the_unknown_people_of_grew_are_no_subject_of_its_partition_file_either(partition) -> None:
    name = partition(TRAIN_SET=GREW[:20_000], TEST_SET=GREW[20_000:])
    by_file, by_rule = split(name, GREW), split("grew", GREW)
    assert (by_file.train, by_file.test) == (by_rule.train, by_rule.test)
    assert by_file.unlabelled == ("probe",)
    assert by_file.embedded == by_rule.embedded


def test_somebody_who_is_called_probe_in_other_data_is_tested(partition) -> None:
    for train, test in ((["001"], ["00002", "probe"]), (["00001train"], ["002", "probe"])):
        found = split(partition(TRAIN_SET=train, TEST_SET=test), [*train, *test])
        assert (found.test, found.unlabelled) == (tuple(test), ())
