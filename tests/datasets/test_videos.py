"""A folder of clips: which files count, when a path says who walks, where links may lead."""

import logging
import os
from pathlib import Path

import pytest

from raygait.datasets import DATASETS, videos
from raygait.errors import DatasetError
from raygait.sequences import GaitSequence


def clip(root: Path, path: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b"")
    return root / path


def test_three_levels_say_who_walks(tmp_path: Path) -> None:
    clip(tmp_path, "001/nm-01/090.mp4")
    assert videos.index(tmp_path, dataset="street") == [
        GaitSequence("street", "001", "nm-01", "090", "001/nm-01/090.mp4", "video")
    ]


@pytest.mark.parametrize(
    "path", ["a.mp4", "one/a.mp4", "1/2/3/a.mp4"], ids=["flat", "two levels", "four levels"]
)
def test_any_other_depth_leaves_it_open(path: str, tmp_path: Path) -> None:
    clip(tmp_path, path)
    assert videos.index(tmp_path) == [GaitSequence("videos", "", "", "", path, "video")]


def test_clips_are_sorted_by_path_and_other_files_left_out(tmp_path: Path) -> None:
    for path in ("z.AVI", "b/y.mkv", "a.MoV", "b/notes.txt", "b/frame.png", ".hidden/x.mp4"):
        clip(tmp_path, path)
    clip(tmp_path, "b/._y.mkv")  # what macOS leaves beside a file
    found = [s.source for s in DATASETS["videos"].index(tmp_path, dataset="v")]
    assert found == ["a.MoV", "b/y.mkv", "z.AVI"]


def test_a_text_file_named_as_a_clip_is_listed_so_that_it_is_rejected_by_name(
    tmp_path: Path,
) -> None:
    clip(tmp_path, "broken.mp4").write_text("not a video")
    assert [s.source for s in videos.index(tmp_path)] == ["broken.mp4"]


def test_links_out_of_the_root_are_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    outside = clip(tmp_path, "outside/secret.mp4")
    inside = clip(root, "inside.mp4")
    (root / "out.mp4").symlink_to(outside)
    (root / "relative.mp4").symlink_to("../outside/secret.mp4")
    (root / "folder").symlink_to(outside.parent)
    (root / "again.mp4").symlink_to(inside)
    (root / "dangling.mp4").symlink_to(root / "gone.mp4")
    (root / "circle").symlink_to(root)
    (root / "ring.mp4").symlink_to("ring.mp4")
    with caplog.at_level(logging.WARNING):
        found = [s.source for s in videos.index(root)]
    assert found == ["again.mp4", "inside.mp4"]
    said = sorted(Path(record.getMessage().split(":")[0]).name for record in caplog.records)
    assert said == ["circle", "dangling.mp4", "folder", "out.mp4", "relative.mp4", "ring.mp4"]


def test_a_root_that_is_itself_a_link_is_followed(tmp_path: Path) -> None:
    clip(tmp_path, "real/a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real/b.mp4").symlink_to("a.mp4")
    assert [s.source for s in videos.index(tmp_path / "link")] == ["a.mp4", "b.mp4"]


def test_what_is_left_out_is_in_the_report(tmp_path: Path) -> None:
    clip(tmp_path, "a/coat/front.mp4")
    clip(tmp_path, "a/coat/front.avi")
    clip(tmp_path, "a/coat/notes.txt")
    clip(tmp_path / "root", "x.mp4")
    (tmp_path / "a/coat/back.mp4").symlink_to("/dev/null")
    (tmp_path / "b").symlink_to("a")
    report = DATASETS["videos"].survey(tmp_path)
    assert report.num_sequences == 2
    assert [one.path for one in report.duplicated] == ["a/coat/front.mp4"]
    assert {one.path for one in report.left_out} == {"a/coat/notes.txt", "a/coat/back.mp4", "b"}


def test_a_link_to_a_clip_may_say_who_is_in_it_and_two_names_are_noted(tmp_path: Path) -> None:
    clip(tmp_path, "all/17.mp4")
    clip(tmp_path, "anna/coat/front.mp4")
    (tmp_path / "anna/coat/back.mp4").symlink_to("../../all/17.mp4")
    (tmp_path / "ben/coat").mkdir(parents=True)
    (tmp_path / "ben/coat/front.mp4").symlink_to("../../anna/coat/front.mp4")
    scan = videos.ADAPTER.scan(tmp_path)
    assert [(s.subject, s.source) for s in scan.sequences] == [
        ("", "all/17.mp4"),
        ("anna", "anna/coat/back.mp4"),
        ("anna", "anna/coat/front.mp4"),
        ("ben", "ben/coat/front.mp4"),
    ]
    assert [one.path for one in scan.duplicated] == ["ben/coat/front.mp4"]


def test_a_folder_that_may_not_be_read_is_in_the_report(as_nobody: Path) -> None:
    clip(as_nobody, "a.mp4")
    (as_nobody / "b").mkdir(mode=0o000)
    report = DATASETS["videos"].survey(as_nobody)
    assert report.unreadable == (("b", "may not be read, left out"),)


@pytest.mark.parametrize("name", ["a.MTS", "a.ts", "a.wmv", "a.dv", "a.mod", "a.vob"])
def test_what_camcorders_write_is_a_clip(name: str, tmp_path: Path) -> None:
    clip(tmp_path, name)
    assert [s.source for s in videos.index(tmp_path)] == [name]


@pytest.mark.parametrize("name", ["a.dav", "a.h264", "a.265", "a.mjpg", "a.asf"])
def test_what_surveillance_recorders_write_is_a_clip(name: str, tmp_path: Path) -> None:
    clip(tmp_path, name)
    assert [s.source for s in videos.index(tmp_path)] == [name]


def test_a_name_that_is_not_utf_8_is_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    clip(tmp_path, name)
    assert [s.source for s in videos.index(tmp_path)] == [name]


@pytest.mark.parametrize("mode", [0o000, 0o400], ids=["may not be listed", "may not be entered"])
def test_a_folder_that_may_not_be_read_is_named_and_left_out(
    as_nobody: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    clip(as_nobody, "a.mp4")
    clip(as_nobody, "lost+found/b.mp4")
    (as_nobody / "lost+found").chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert [s.source for s in videos.index(as_nobody)] == ["a.mp4"]
    assert "lost+found" in caplog.text


def test_a_clip_that_may_not_be_read_is_listed_so_that_it_is_rejected_by_name(
    as_nobody: Path,
) -> None:
    clip(as_nobody, "a.mp4").chmod(0o000)
    assert [s.source for s in videos.index(as_nobody)] == ["a.mp4"]


def test_a_root_that_may_not_be_read_is_an_error(as_nobody: Path) -> None:
    clip(as_nobody, "root/a.mp4")
    (as_nobody / "root").chmod(0o000)
    with pytest.raises(DatasetError, match="root: cannot be read: Permission denied"):
        videos.index(as_nobody / "root")


def test_a_folder_named_as_a_clip_is_looked_into(tmp_path: Path) -> None:
    clip(tmp_path, "odd.mp4/a.mp4")
    assert [s.source for s in videos.index(tmp_path)] == ["odd.mp4/a.mp4"]


@pytest.mark.parametrize("root", ["gone", "file.mp4"])
def test_a_root_that_is_no_folder_is_an_error(root: str, tmp_path: Path) -> None:
    clip(tmp_path, "file.mp4")
    with pytest.raises(DatasetError, match="cannot be read"):
        videos.index(tmp_path / root)


def test_a_root_without_a_clip_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    clip(tmp_path, "notes.txt")
    with pytest.raises(DatasetError, match=r"no clip in it; expected files ending in .*\.mp4"):
        videos.index(tmp_path)


def test_a_link_of_a_known_subject_owns_the_frames_that_it_points_at(tmp_path: Path) -> None:
    frames = tmp_path / "store/kept/00002"
    frames.mkdir(parents=True)
    (frames / "0001.png").write_bytes(b"")
    (tmp_path / "00002/00").mkdir(parents=True)
    (tmp_path / "00002/00/000").symlink_to("../../store/kept/00002")
    scan = DATASETS["oumvlp"].scan(tmp_path)
    assert [(s.subject, s.condition, s.view) for s in scan.sequences] == [("00002", "00", "000")]
    assert [one.path for one in scan.duplicated] == ["store/kept/00002"]
