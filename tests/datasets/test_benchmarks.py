"""The benchmarks' layouts: both of each are read alike, and a survey tells what is wrong."""

import dataclasses
import logging
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raygait.datasets import DATASETS
from raygait.datasets.expected import Expected, SubjectGroup
from raygait.datasets.layout import Finding, Scan
from raygait.datasets.report import IndexReport, compare
from raygait.errors import DatasetError
from raygait.sequences import GaitSequence
from raygait.synthetic.benchmark_trees import (
    BENCHMARKS,
    Layout,
    Walk,
    file_of,
    folder_of,
    walks,
    write_tree,
)

RAW_KINDS = {
    "casiab": "silhouettes",
    "oumvlp": "silhouettes",
    "grew": "aligned",
    "gait3d": "cropped",
    "ccpg": "cropped",
    "sustech1k": "aligned",
}


def labels(sequences: list[GaitSequence]) -> list[Walk]:
    return sorted(Walk(s.subject, s.condition, s.view) for s in sequences)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("layout", ["raw", "opengait"])
def test_a_layout_is_labelled_as_opengait_labels_it(
    benchmark: str, layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = list(walks(benchmark, num_subjects=3))
    write_tree(tmp_path, benchmark, layout, some)
    with caplog.at_level(logging.WARNING):
        found = DATASETS[benchmark].index(tmp_path, dataset="mine")
    assert labels(found) == sorted(some)
    assert {s.kind for s in found} == {"pickles" if layout == "opengait" else RAW_KINDS[benchmark]}
    assert {s.dataset for s in found} == {"mine"}
    by_label = {Walk(s.subject, s.condition, s.view): s.source for s in found}
    assert by_label == {walk: folder_of(benchmark, layout, walk) for walk in some}
    assert caplog.text == ""


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_both_layouts_in_one_root_give_each_walk_once(benchmark: str, tmp_path: Path) -> None:
    if folder_of(benchmark, "raw", Walk("1", "2", "3")).startswith("1/2/3"):
        pytest.skip("both layouts use the same folders")
    some = list(walks(benchmark, num_subjects=2))
    write_tree(tmp_path, benchmark, "raw", some)
    write_tree(tmp_path, benchmark, "opengait", some)
    report = DATASETS[benchmark].survey(tmp_path)
    assert report.num_sequences == len(report.duplicated) == len(some)
    assert "once more, after" in report.duplicated[0].why


def test_the_first_gallery_walk_by_name_is_01(tmp_path: Path) -> None:
    for video in ("zz", "aa"):
        (tmp_path / "test/gallery/00007" / video).mkdir(parents=True)
        (tmp_path / "test/gallery/00007" / video / "1.png").write_bytes(b"")
    assert [(s.condition, s.view) for s in DATASETS["grew"].index(tmp_path)] == [
        ("01", "aa"),
        ("02", "zz"),
    ]


def test_clips_of_casiab_are_found_by_their_names_wherever_they_lie(tmp_path: Path) -> None:
    for path in (
        "001-nm-01-000.avi",
        "DatasetB-1/video/002-bg-02-180.AVI",
        "DatasetB-1/video/002-bkgrd-180.avi",
        "DatasetB-1/video/notes.avi",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    report = DATASETS["casiab"].survey(tmp_path)
    assert DATASETS["casiab"].index(tmp_path) == [
        GaitSequence("casiab", "001", "nm-01", "000", "001-nm-01-000.avi"),
        GaitSequence("casiab", "002", "bg-02", "180", "DatasetB-1/video/002-bg-02-180.AVI"),
    ]
    assert [one.path for one in report.left_out] == ["DatasetB-1/video/notes.avi"]


def test_of_sustech1k_aligned_masks_come_before_cut_ones(tmp_path: Path) -> None:
    for folder in ("000/Sils_aligned", "000/Sils_raw", "000/PCDs", "045/Sils_raw", "090/PCDs"):
        (tmp_path / "0000/00-nm" / folder).mkdir(parents=True)
        (tmp_path / "0000/00-nm" / folder / "1.png").write_bytes(b"")
    found = [(s.view, s.kind) for s in DATASETS["sustech1k"].index(tmp_path)]
    assert found == [("000", "aligned"), ("045", "cropped")]


def test_of_sustech1k_a_folder_without_masks_does_not_hide_one_with(tmp_path: Path) -> None:
    for folder in ("000/Sils_aligned", "000/Sils_raw", "045/Sils_aligned", "045/Sils_raw"):
        (tmp_path / "0000/00-nm" / folder).mkdir(parents=True)
    (tmp_path / "0000/00-nm/000/Sils_raw/1.png").write_bytes(b"")
    scan = DATASETS["sustech1k"].scan(tmp_path)
    # Without a mask in either, the sequence is listed so that it is rejected by name.
    assert [(s.view, s.kind) for s in scan.sequences] == [("000", "cropped"), ("045", "aligned")]
    assert {one.path for one in scan.unreadable} == {
        f"0000/00-nm/{folder}" for folder in ("045/Sils_aligned", "045/Sils_raw")
    }
    assert [one.path for one in scan.left_out] == ["0000/00-nm/000/Sils_aligned"]


def test_of_sustech1k_a_folder_that_may_not_be_read_stays_a_fault_beside_one_with_masks(
    as_nobody: Path,
) -> None:
    for folder in ("Sils_aligned", "Sils_raw"):
        (as_nobody / "0000/00-nm/000" / folder).mkdir(parents=True)
        (as_nobody / "0000/00-nm/000" / folder / "1.png").write_bytes(b"")
    (as_nobody / "0000/00-nm/000/Sils_aligned").chmod(0o000)
    scan = DATASETS["sustech1k"].scan(as_nobody)
    assert [s.kind for s in scan.sequences] == ["cropped"]
    assert [one.why for one in scan.unreadable] == ["may not be read"]


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_root_that_is_not_there_or_empty_is_an_error(name: str, tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DatasetError):
            DATASETS[name].index(root)


# What a survey says.


def survey(root: Path, benchmark: str, change: Callable[[Path], object]) -> IndexReport:
    write_tree(root, benchmark, "opengait", walks(benchmark, num_subjects=3))
    change(root)
    return DATASETS[benchmark].survey(root)


def test_missing_walks_are_named_by_their_cell(tmp_path: Path) -> None:
    report = survey(tmp_path, "casiab", lambda root: shutil.rmtree(root / "002/nm-03/054"))
    named = [one.path for one in report.missing]
    assert named[0] == "002/nm-03/054"
    assert named[1:] == [f"{number:03d}" for number in range(4, 125)]
    assert not report.is_complete
    assert report.groups["all"] == {
        "num_subjects": 3,
        "num_subjects_expected": 124,
        "num_sequences": 3 * 110 - 1,
        "num_sequences_expected": 13_640,
        "num_walks_missing": 1,
    }


@pytest.mark.parametrize(
    ("benchmark", "walk", "expected"),
    [
        ("casiab", Walk("125", "nm-01", "000"), "a subject it has not"),
        ("casiab", Walk("001", "nm-07", "000"), "condition 'nm-07'"),
        ("casiab", Walk("001", "nm-01", "007"), "view '007'"),
        ("oumvlp", Walk("00001", "02", "000"), "condition '02'"),
        ("grew", Walk("00001", "01", "once-more"), "3 sequences, expected 2"),
        ("grew", Walk("06001", "01", "x"), "a subject it has not"),
        ("gait3d", Walk("0001", "camera1", "seq0"), "condition 'camera1'"),
        ("gait3d", Walk("0001", "camid0_videoid9", "walk"), "view 'walk'"),
        ("ccpg", Walk("000", "U9_D9", "01_0"), "condition 'U9_D9'"),
        ("ccpg", Walk("000", "U0_D0", "camera_0"), "view 'camera_0'"),
        ("sustech1k", Walk("0000", "walk", "000"), "condition 'walk'"),
        ("sustech1k", Walk("0000", "00-nm", "000-side"), "view '000-side'"),
        ("sustech1k", Walk("0352", "00-nm", "000"), "a subject it has not"),
    ],
)
def test_what_the_benchmark_has_not_is_extra(
    benchmark: str, walk: Walk, expected: str, tmp_path: Path
) -> None:
    report = survey(
        tmp_path, benchmark, lambda root: write_tree(root, benchmark, "opengait", [walk])
    )
    assert len(report.extra) == 1
    assert expected in report.extra[0].why


def compared(expected_sequences: int, *walks: tuple[str, str, str, str]) -> IndexReport:
    scan = Scan(Path("root"), "mine")
    for walk in walks:
        scan.add(*walk, "silhouettes")
    anything = re.compile(".+")
    group = SubjectGroup("all", ("a",), anything, anything, num_sequences=expected_sequences)
    return compare(scan, "mine", Expected((group,), "a paper"))


def test_more_or_fewer_sequences_than_the_paper_counts_are_a_finding() -> None:
    two = [("a", "1", "1", "x"), ("a", "1", "2", "y")]
    assert compared(1, *two).extra == (("all", "2 sequences, expected 1"),)
    assert compared(3, *two).missing == (("all", "2 sequences, expected 3"),)
    assert compared(2, *two).is_complete


def test_what_is_there_twice_or_cannot_be_read_is_not_complete(tmp_path: Path) -> None:
    report = compared(1, ("a", "1", "1", "x"), ("a", "1", "1", "y"))
    assert (report.missing, report.extra, report.unreadable) == ((), (), ())
    assert not report.is_complete
    report = dataclasses.replace(report, duplicated=(), unreadable=(Finding("x", "gone"),))
    assert not report.is_complete


@pytest.mark.parametrize(
    ("benchmark", "path", "why"),
    [
        ("gait3d", "2D_Poses/0000/camid0_videoid2/seq0", "no silhouettes, left out"),
        ("ccpg", "CCPG_D_MASK_FACE_SHOE/000/U0_D0/01_0", "colours without masks, left out"),
        ("grew", "distractor/00001/x", "not part of the benchmark's split, left out"),
    ],
)
def test_folders_of_a_benchmark_that_hold_no_walks_are_left_out_by_name(
    benchmark: str, path: str, why: str, tmp_path: Path
) -> None:
    def change(root: Path) -> None:
        (root / path).mkdir(parents=True)
        (root / path / "1.png").write_bytes(b"")

    report = survey(tmp_path, benchmark, change)
    assert report.left_out == ((path.split("/")[0], why),)
    assert not report.extra


def test_a_gallery_subject_with_one_walk_lacks_one(tmp_path: Path) -> None:
    report = survey(tmp_path, "grew", lambda root: shutil.rmtree(root / "00002/02"))
    assert ("00002", "1 sequences, expected 2") in report.missing


def test_sequences_without_a_frame_and_files_are_named(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        next((root / "001/nm-01/000").iterdir()).unlink()
        (root / "readme.txt").write_text("")
        (root / "001/nm-01/018/deeper").mkdir()

    report = survey(tmp_path, "casiab", change)
    assert report.unreadable == (("001/nm-01/000", "no frame in it"),)
    assert {one.path for one in report.left_out} == {"readme.txt", "001/nm-01/018/deeper"}


def test_a_report_is_plain_json_and_a_page(tmp_path: Path) -> None:
    import json

    report = survey(tmp_path, "casiab", lambda root: shutil.rmtree(root / "001/nm-01/000"))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["missing"][0] == {"path": "001/nm-01/000", "why": "no such sequence"}
    assert plain["num_sequences"] == 329
    text = report.to_text()
    for word in ("329 sequences of 3 subjects", "3 of 124 subjects", "missing: 122", "117 more"):
        assert word in text


def test_a_line_counts_what_is_wrong_and_is_empty_where_nothing_is(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        next((root / "001/nm-01/000").iterdir()).unlink()
        write_tree(root, "casiab", "opengait", [Walk("125", "nm-01", "000")])

    root = tmp_path / "tree"
    line = survey(root, "casiab", change).to_line()
    assert line == f"index of {root}: 3 of 124 subjects, 1 extra, 1 unreadable"
    write_tree(tmp_path / "own", "casiab", "opengait", [Walk("a", "b", "c")])
    assert DATASETS["folder"].survey(tmp_path / "own").to_line() == ""


def test_a_line_says_what_part_is_there_and_counts_only_walks_that_somebody_lacks(
    tmp_path: Path,
) -> None:
    def part(name: str, *, without: str = "") -> str:
        root = tmp_path / name
        for walk in walks(name, num_subjects=3):
            if "/".join(walk) != without:
                write_tree(root, name, "opengait", [walk])
        return DATASETS[name].survey(root).to_line().removeprefix(f"index of {root}: ")

    assert part("ccpg") == "3 of 200 subjects"
    assert part("casiab", without="002/nm-03/054") == (
        "3 of 124 subjects, 1 missing of subjects that are there"
    )
    grew = "3 of 20000 subjects of train, 3 of 6000 subjects of gallery"
    assert part("grew") == f"{grew}, 6 of 12000 sequences of probe"
    lacking = next(walk for walk in walks("grew", num_subjects=3) if walk.condition == "01")
    shutil.rmtree(tmp_path / "grew")
    assert part("grew", without="/".join(lacking)) == (
        f"{grew}, 6 of 12000 sequences of probe, 1 missing of subjects that are there"
    )


# Nobody's benchmark.


def test_a_folder_takes_clips_pickles_masks_and_pictures_for_what_they_are(tmp_path: Path) -> None:
    import cv2

    grey, colours = np.zeros((48, 48), np.uint8), np.zeros((48, 48, 3), np.uint8)
    grey[9:40, 20:30] = 255
    colours[9:40] = (1, 2, 3)
    parent = tmp_path / "anna/coat"
    for view in ("masks", "three-channels", "pictures", "png", "pickles"):
        (parent / view).mkdir(parents=True)
    cv2.imwrite(str(parent / "masks/1.png"), grey)
    cv2.imwrite(str(parent / "three-channels/1.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    cv2.imwrite(str(parent / "pictures/1.jpg"), colours)
    cv2.imwrite(str(parent / "png/1.png"), colours)
    (parent / "pickles/a.pkl").write_bytes(pickle.dumps(grey[None]))
    (parent / "file.pkl").write_bytes(b"")
    (parent / "clip.MP4").write_bytes(b"")
    (parent / "notes.txt").write_bytes(b"")
    found = {s.view: (s.source, s.kind) for s in DATASETS["folder"].index(tmp_path)}
    assert found == {
        "masks": ("anna/coat/masks", "silhouettes"),
        "three-channels": ("anna/coat/three-channels", "silhouettes"),
        "pictures": ("anna/coat/pictures", "images"),
        "png": ("anna/coat/png", "images"),
        "pickles": ("anna/coat/pickles", "pickles"),
        "file": ("anna/coat/file.pkl", "pickles"),
        "clip": ("anna/coat/clip.MP4", "video"),
    }


ROWS = [
    ("a.mp4", "anna", "coat", "front", ""),
    ("masks/17", "ben", "plain", "090", "aligned"),
    ("b.pkl", "", "", "", None),
    ("gone.mp4", "carl", "coat", "front", ""),
    ("/etc/passwd", "carl", "coat", "1", ""),
    ("../a.mp4", "carl", "coat", "2", ""),
    ("a.mp4", "carl", "coat", "3", ""),
    ("b.pkl", "carl", "coat", "4", "film"),
    ("notes.txt", "carl", "coat", "5", ""),
]


def write_manifest(path: Path, columns: dict[str, list[object]]) -> Path:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet", "other.csv"])
def test_a_manifest_says_who_walks_where(name: str, tmp_path: Path) -> None:
    (tmp_path / "masks/17").mkdir(parents=True)
    for file in ("a.mp4", "b.pkl", "notes.txt", "masks/17/1.png"):
        (tmp_path / file).write_bytes(b"")
    names = ("path", "subject", "condition", "view", "kind")
    texts = zip(*ROWS, strict=True)
    columns: dict[str, list[object]] = {
        column: list(values) for column, values in zip(names, texts, strict=True)
    }
    table = write_manifest(tmp_path / name, columns)
    root = tmp_path if name.startswith("manifest") else table
    assert DATASETS["manifest"].index(root) == [
        GaitSequence("manifest", "anna", "coat", "front", "a.mp4", "video"),
        GaitSequence("manifest", "", "", "", "b.pkl", "pickles"),
        GaitSequence("manifest", "ben", "plain", "090", "masks/17", "aligned"),
    ]
    report = DATASETS["manifest"].survey(root)
    assert [one.path for one in report.unreadable] == ["gone.mp4"]
    assert [one.path for one in report.duplicated] == ["a.mp4"]
    assert len(report.left_out) == 4


def test_a_manifest_without_a_kind_column_is_enough(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    columns: dict[str, list[object]] = {
        "view": ["1"],
        "path": ["a.mp4"],
        "subject": [7],
        "condition": ["c"],
    }
    [found] = DATASETS["manifest"].index(write_manifest(tmp_path / "m.parquet", columns))
    assert (found.subject, found.kind) == ("7", "video")


def test_a_table_without_its_columns_or_that_is_none_is_an_error(tmp_path: Path) -> None:
    table = write_manifest(tmp_path / "manifest.csv", {"path": ["a"], "subject": ["b"]})
    with pytest.raises(DatasetError, match="no column condition, view"):
        DATASETS["manifest"].index(table)
    (tmp_path / "manifest.parquet").write_bytes(b"no table")
    with pytest.raises(DatasetError, match="both are there"):
        DATASETS["manifest"].index(tmp_path)
    with pytest.raises(DatasetError, match="cannot be read as a table"):
        DATASETS["manifest"].index(tmp_path / "manifest.parquet")


def test_the_names_of_files_are_those_that_the_owners_and_opengait_use() -> None:
    walk = Walk("001", "nm-01", "090")
    assert file_of("casiab", "raw", walk) == "001-nm-01-090-001.png"
    assert file_of("casiab", "opengait", walk) == "090.pkl"
    assert file_of("ccpg", "opengait", walk) == "090-aligned-sils.pkl"
