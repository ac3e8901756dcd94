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
    [sequence] = DATASETS["casiab"].index(str(tmp_path), dataset="mine")
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


def test_links_to_folders_out_of_the_root_are_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    leaf(root, "001/nm-01/000")
    leaf(tmp_path / "outside", "002/nm-01/000")
    (root / "002").symlink_to(tmp_path / "outside/002")
    (root / "001/nm-02").symlink_to("../../outside/002/nm-01")
    (root / "001/nm-01/018").symlink_to(tmp_path / "outside/002/nm-01/000")
    (root / "001/nm-03").symlink_to("nm-01")
    with caplog.at_level(logging.WARNING):
        found = [s.source for s in casiab.index(root)]
    # And a link to what is there already is no walk of its own.
    assert found == ["001/nm-01/000"]
    said = [r.getMessage().split(":")[0] for r in caplog.records if "link out of" in r.getMessage()]
    assert {Path(path).relative_to(root).as_posix() for path in said} == {
        *("002", "001/nm-02", "001/nm-01/018", "001/nm-03/018")
    }


@pytest.mark.parametrize(
    ("link", "target", "left_out"),
    [
        ("003", "001", "003/nm-01/000"),
        ("003/nm-01", "../001/nm-01", "003/nm-01/000"),
        ("000/nm-01/000", "../../001/nm-01/000", "000/nm-01/000"),
    ],
)
def test_a_link_to_a_persons_frames_is_no_second_person(
    link: str, target: str, left_out: str, tmp_path: Path
) -> None:
    leaf(tmp_path, "001/nm-01/000")
    leaf(tmp_path, "002/nm-01/000")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(target)
    scan = casiab.ADAPTER.scan(tmp_path)
    assert [s.source for s in scan.sequences] == ["001/nm-01/000", "002/nm-01/000"]
    assert scan.duplicated == [
        (left_out, "a link to the frames of 001/nm-01/000, under another name: left out")
    ]


def test_links_to_frames_that_nobody_else_has_are_people(tmp_path: Path) -> None:
    leaf(tmp_path, ".store/17")
    leaf(tmp_path, ".store/18")
    for link, number in (("001/nm-01/000", 17), ("002/nm-01/000", 18), ("003/nm-01/000", 17)):
        (tmp_path / link).parent.mkdir(parents=True)
        (tmp_path / link).symlink_to(tmp_path / f".store/{number}")
    scan = casiab.ADAPTER.scan(tmp_path)
    assert [s.source for s in scan.sequences] == ["001/nm-01/000", "002/nm-01/000"]
    assert [one.path for one in scan.duplicated] == ["003/nm-01/000"]


def test_circles_of_links_and_links_to_nothing_are_left_out_and_their_neighbours_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaf(tmp_path, "001/nm-01/000")
    for folder in ("", "001", "001/nm-01", "001/nm-01/000"):
        (tmp_path / folder / "circle").symlink_to("circle")
        (tmp_path / folder / "nothing").symlink_to("nowhere")
    with caplog.at_level(logging.WARNING):
        assert [s.source for s in casiab.index(tmp_path)] == ["001/nm-01/000"]
    assert caplog.text.count("circle: a file where a folder was expected") == 3


def test_a_sequence_that_may_not_be_read_is_listed_and_a_folder_is_named(
    as_nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaf(as_nobody, "001/nm-01/000")
    leaf(as_nobody, "001/nm-01/018").chmod(0o000)
    (as_nobody / "lost+found").mkdir(mode=0o000)
    leaf(as_nobody, "listed/nm-01/000")
    (as_nobody / "listed").chmod(0o400)
    with caplog.at_level(logging.WARNING):
        found = [s.source for s in casiab.index(as_nobody)]
    assert found == ["001/nm-01/000", "001/nm-01/018"]
    assert "lost+found: may not be read" in caplog.text
    assert "listed/nm-01: may not be read" in caplog.text
    assert "018: may not be read" in caplog.text


def test_a_root_that_may_not_be_read_is_an_error(as_nobody: Path) -> None:
    leaf(as_nobody, "root/001/nm-01")
    (as_nobody / "root").chmod(0o000)
    with pytest.raises(DatasetError, match="root: cannot be read: Permission denied"):
        casiab.index(as_nobody / "root")


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
    with pytest.raises(
        DatasetError, match="no sequence of casiab in it; expected SUBJECT/CONDITION"
    ):
        casiab.index(tmp_path)
