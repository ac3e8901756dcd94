"""The adapter of subject/condition/view trees, and what it does with what does not fit."""

import logging
from pathlib import Path

import pytest

from raygait.datasets import DATASETS, casiab
from raygait.errors import DatasetError
from raygait.sequences import GaitSequence


def leaf(root: Path, path: str) -> Path:
    (root / path).mkdir(parents=True)
    (root / path / "001.png").write_bytes(b"")
    return root / path


def test_every_view_folder_is_a_sequence_sorted(tmp_path: Path) -> None:
    for path in ("002/bg-01/090", "001/nm-02/018", "001/nm-01/180", "001/nm-01/000"):
        leaf(tmp_path, path)
    assert casiab.index(tmp_path) == [
        GaitSequence("casiab", "001", "nm-01", "000", "001/nm-01/000", "silhouettes"),
        GaitSequence("casiab", "001", "nm-01", "180", "001/nm-01/180", "silhouettes"),
        GaitSequence("casiab", "001", "nm-02", "018", "001/nm-02/018", "silhouettes"),
        GaitSequence("casiab", "002", "bg-01", "090", "002/bg-01/090", "silhouettes"),
    ]


def test_sequences_carry_the_name_that_the_user_gives(tmp_path: Path) -> None:
    leaf(tmp_path, "a/b/c")
    [sequence] = DATASETS["casiab"](str(tmp_path), dataset="mine")
    assert sequence.source_id == "mine:a/b/c"


def test_a_sequence_without_masks_is_listed_so_that_it_is_rejected_by_name(tmp_path: Path) -> None:
    (tmp_path / "001/nm-01/000").mkdir(parents=True)
    assert [s.source for s in casiab.index(tmp_path)] == ["001/nm-01/000"]


def test_what_does_not_fit_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaf(tmp_path, "001/nm-01/000")
    leaf(tmp_path, "001/nm-01/000/deeper")
    (tmp_path / "README.txt").write_text("")
    (tmp_path / "001/nm-01/notes.txt").write_text("")
    (tmp_path / "003").mkdir()
    (tmp_path / ".cache/nm-01/000").mkdir(parents=True)
    (tmp_path / "001/nm-01/.000-partial").mkdir()
    with caplog.at_level(logging.WARNING):
        assert [s.source for s in casiab.index(tmp_path)] == ["001/nm-01/000"]
    said = sorted(
        record.getMessage().removeprefix(f"{tmp_path}/").split(":")[0] for record in caplog.records
    )
    assert said == ["001/nm-01/000/deeper", "001/nm-01/notes.txt", "003", "README.txt"]


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone: cannot be read: No such file"):
        casiab.index(tmp_path / "gone")


def test_a_file_as_root_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be read: Not a directory"):
        casiab.index(tmp_path / "file")


@pytest.mark.parametrize("path", ["", "001", "001/nm-01"], ids=["empty", "subject", "condition"])
def test_a_root_without_a_sequence_is_an_error(path: str, tmp_path: Path) -> None:
    (tmp_path / path).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DatasetError, match="no SUBJECT/CONDITION/VIEW folder"):
        casiab.index(tmp_path)
