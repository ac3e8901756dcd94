"""A table that says who walked where: CSV or Parquet, one line a sequence.

    path,subject,condition,view,kind
    day1/a.mp4,anna,coat,front,
    masks/0017,ben,plain,090,aligned

`path` is relative to the table's folder. `kind` is one of `sequences.SourceKind`; left out or
empty, it is told from the path: a clip or a pickle by its ending, a folder by what lies in it. The
root is the table, or a folder with `manifest.csv` or `manifest.parquet`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from raygait.datasets import folder
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import CLIP_ENDINGS, Scan
from raygait.errors import DatasetError
from raygait.sequences import SourceKind

_COLUMNS = ("path", "subject", "condition", "view")
_KIND = "kind"
_NAMES = ("manifest.csv", "manifest.parquet")


def _look(scan: Scan) -> None:
    table = scan.asked if scan.asked.is_file() else _table_in(scan.root)
    kinds = get_args(SourceKind)
    for number, (path, subject, condition, view, kind) in enumerate(_rows(table), start=1):
        # As written first: a name may begin or end with a space.
        source = PurePosixPath(path)
        if not _is_there(scan.root / source):
            source = PurePosixPath(path.strip())
        where = f"{table.name} row {number}"
        with_slash = [label for label in (subject, condition, view) if "/" in label]
        if not source.parts or source.is_absolute() or ".." in source.parts:
            scan.leave_out(where, f"path {path!r}, expected one below the table's folder, left out")
        elif kind and kind not in kinds:
            scan.leave_out(where, f"kind {kind!r}, expected one of {', '.join(kinds)}, left out")
        elif with_slash:
            # `a/b` in `c` and `a` in `b/c` would be one walk.
            scan.leave_out(where, f"the label {with_slash[0]!r} has a '/', left out")
        elif not _is_there(scan.root / source):
            scan.not_readable(
                source.as_posix(), f"named in {where} and not there or not to be read, left out"
            )
        else:
            told: SourceKind | None = kind or _kind(scan, source)  # type: ignore[assignment]
            misfit = _misfit(scan.root / source, told)
            if misfit:
                scan.leave_out(where, f"kind {kind!r} of {misfit}, left out")
            elif told is None:
                scan.leave_out(source.as_posix(), "neither a clip, a .pkl nor a folder, left out")
            else:
                scan.add(subject, condition, view, source.as_posix(), told)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _misfit(path: Path, kind: SourceKind | None) -> str:
    """What a source is and should be, where its kind cannot be had of it; else empty."""
    if kind == "video" and path.is_dir():
        return "a folder, expected a file"
    if kind not in (None, "video", "pickles") and not path.is_dir():
        return "a file, expected a folder"
    return ""


def _table_in(root: Path) -> Path:
    found = [root / name for name in _NAMES if (root / name).is_file()]
    if len(found) != 1:
        there = "both are there" if found else "neither is there"
        raise DatasetError(
            f"{root}: cannot be read as a manifest: expected {' or '.join(_NAMES)} in it, {there}; "
            "or name the table itself"
        )
    return found[0]


def _kind(scan: Scan, source: PurePosixPath) -> SourceKind | None:
    path = scan.root / source
    if path.is_dir():
        return folder.kind_of(scan, source.as_posix())
    ending = source.suffix.lower()
    if ending in CLIP_ENDINGS:
        return "video"
    return "pickles" if ending == ".pkl" else None


def _rows(table: Path) -> Iterator[tuple[str, ...]]:
    """Path as it is written, subject, condition, view and kind of each row; empty without one."""
    try:
        if table.suffix.lower() == ".parquet":
            columns = pq.ParquetFile(table).read().to_pydict()
        else:
            with table.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                names = reader.fieldnames or []
                rows = list(reader)
            columns = {name: [row[name] for row in rows] for name in names}
    except (OSError, pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{table}: cannot be read as a table: {error}") from error
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise DatasetError(
            f"{table}: has no column {', '.join(missing)}; expected {', '.join(_COLUMNS)} and, if "
            f"you like, {_KIND}"
        )
    texts = [columns[name] for name in _COLUMNS]
    texts.append(columns.get(_KIND, [""] * len(texts[0])))
    for path, *labels in zip(*texts, strict=True):
        yield (_text(path), *(_text(label).strip() for label in labels))


def _text(value: object) -> str:
    """A cell as its owner means it: tables of numbers with a gap are tables of floats."""
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


ADAPTER = Adapter(
    "manifest",
    "a CSV or Parquet table of path, subject, condition, view and, if you like, kind",
    _look,
    takes_file=True,
)
index = ADAPTER.index
