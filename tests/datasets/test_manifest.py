"""What a manifest's cells say, and which rows of it are refused by name."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygait.datasets import DATASETS
from raygait.datasets.layout import Scan


def scan_of(root: Path, *rows: tuple[Any, ...], files: tuple[str, ...] = ("a.pkl",)) -> Scan:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")
    names = ("path", "subject", "condition", "view", "kind")
    columns = {
        name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=False)
    }
    pq.write_table(pa.table(columns), root / "manifest.parquet")
    return DATASETS["manifest"].scan(root)


def walks(scan: Scan) -> list[tuple[str, str, str, str]]:
    return [(s.source, s.subject, s.condition, s.view) for s in scan.sequences]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_label_with_a_slash_is_refused_since_two_walks_would_have_one_name(
    number: int, tmp_path: Path
) -> None:
    labels = ["a", "c", "v"]
    labels[number] += "/b"
    rows = [("a.pkl", "a", "b", "v"), ("b.pkl", *labels)]
    scan = scan_of(tmp_path, *rows, files=("a.pkl", "b.pkl"))
    assert walks(scan) == [("a.pkl", "a", "b", "v")]
    [one] = scan.left_out
    assert one.path == "manifest.parquet row 2"
    assert repr(labels[number]) in one.why


def test_a_row_that_names_a_source_again_takes_no_walk_from_a_later_one(tmp_path: Path) -> None:
    rows = [("a.pkl", "anna", "c", "v"), ("a.pkl", "carl", "c", "3"), ("b.pkl", "carl", "c", "3")]
    scan = scan_of(tmp_path, *rows, files=("a.pkl", "b.pkl"))
    assert walks(scan) == [("a.pkl", "anna", "c", "v"), ("b.pkl", "carl", "c", "3")]
    assert scan.duplicated == [("a.pkl", "named once more, as carl/c/3: left out")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"anna", "anna"),
        (float("nan"), ""),
        (None, ""),
        (7.0, "7"),
        (7.5, "7.5"),
        (7, "7"),
        (" anna ", "anna"),
    ],
)
def test_a_cell_is_the_text_that_its_owner_means(
    value: object, expected: str, tmp_path: Path
) -> None:
    assert walks(scan_of(tmp_path, ("a.pkl", value, "c", "v"))) == [("a.pkl", expected, "c", "v")]


def test_a_path_of_bytes_is_a_path(tmp_path: Path) -> None:
    assert walks(scan_of(tmp_path, (b"a.pkl", "s", "c", "v"))) == [("a.pkl", "s", "c", "v")]


@pytest.mark.parametrize("name", [" a.pkl", "a.mp4 ", " x /a.pkl"])
def test_a_file_whose_name_begins_or_ends_with_a_space_can_be_named(
    name: str, tmp_path: Path
) -> None:
    scan = scan_of(tmp_path, (name, "s", "c", "v", "pickles"), files=(name,))
    assert [s.source for s in scan.sequences] == [name]


def test_spaces_around_a_path_do_not_matter_else(tmp_path: Path) -> None:
    assert walks(scan_of(tmp_path, (" a.pkl ", "s", "c", "v"))) == [("a.pkl", "s", "c", "v")]


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("a.mp4", "images", "kind 'images' of a file, expected a folder"),
        ("a.mp4", "aligned", "kind 'aligned' of a file, expected a folder"),
        ("folder", "video", "kind 'video' of a folder, expected a file"),
    ],
)
def test_a_kind_that_does_not_fit_the_source_is_refused(
    path: str, kind: str, expected: str, tmp_path: Path
) -> None:
    rows = [("b.pkl", "b", "c", "v", "pickles"), (path, "s", "c", "v", kind)]
    scan = scan_of(tmp_path, *rows, files=("a.mp4", "b.pkl", "folder/1.png"))
    assert [s.source for s in scan.sequences] == ["b.pkl"]
    assert [(one.path, one.why) for one in scan.left_out] == [
        ("manifest.parquet row 2", f"{expected}, left out")
    ]
