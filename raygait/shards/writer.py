"""Whole files or none, and the one way a part gets onto the disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raygait.sequences import Reject
from raygait.shards.schema import BLOB_COLUMNS, REJECT_SCHEMA, SCHEMA, PartSummary

ROWS_PER_GROUP = 8
"""Rows of a row group. A random row costs its group, a group a piece of the footer. Measured on 512
rows of 90 silhouettes (random rows/s, file over blobs): 1: 9900, 1.19; 4: 8200, 1.10;
**8: 5400, 1.08**; 16: 4400, 1.07; 64: 1600, 1.07."""

_REJECTS_FOLDER = "rejects"
_TEMPORARY = ".tmp-"


def shard_path(root: Path, name: str) -> Path:
    """Where the rows of a part are."""
    return root / f"{name}.parquet"


def summary_path(root: Path, name: str) -> Path:
    """Where the sidecar of a part is."""
    return root / f"{name}.json"


def rejects_path(root: Path, name: str) -> Path:
    """Where the rejects of a part are, if it has any."""
    return root / _REJECTS_FOLDER / f"{name}.parquet"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name whole or not at all, whatever crashes.

    The bytes go to a temporary file in the same folder, reach the disk, and only then get the
    name. An error inside the block leaves the old file, or none, in place.

    Args:
        path: Name that the file gets; its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_leftovers(root: Path) -> None:
    """Delete the temporary files of workers and runs that were killed."""
    for folder in (root, root / _REJECTS_FOLDER):
        for leftover in folder.glob(f"*{_TEMPORARY}*"):
            leftover.unlink(missing_ok=True)


def part_names(root: Path) -> set[str]:
    """Names that have a file of a part here, be it only one of the three."""
    files = [*root.glob("part-*"), *(root / _REJECTS_FOLDER).glob("part-*.parquet")]
    return {path.stem for path in files if path.suffix in (".parquet", ".json")}


def remove_part(root: Path, name: str) -> None:
    """Delete a part that another has replaced; what is left after a crash is no part.

    Whatever the crash leaves, `part_names` still finds.
    """
    for path in (shard_path(root, name), rejects_path(root, name), summary_path(root, name)):
        path.unlink(missing_ok=True)


def printable(text: str) -> str:
    r"""Text that Arrow takes: bytes of a name that are not UTF-8 are spelled `\xff`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


class PartWriter:
    """Streams the rows of one part to disk; the part exists once `commit` has returned.

    Memory holds one row group. Order of appearance: rejects, sidecar, and last the Parquet file,
    whose name is what readers and later runs go by. Leaving the `with` block without `commit`
    leaves nothing behind.

    Args:
        root: Folder of shards.
        name: Name of the part, without suffix.
        num_sources: Sources that belong to the part.
    """

    def __init__(self, root: Path, name: str, *, num_sources: int) -> None:
        self._root = root
        self._name = name
        self._num_sources = num_sources
        self._sources_with_rows: set[str] = set()
        self._num_rows = 0
        self._num_frames = 0
        self._left_out: Counter[str] = Counter()
        self._rejects: list[dict[str, str | int]] = []
        self._pending: list[Mapping[str, object]] = []
        root.mkdir(parents=True, exist_ok=True)
        self._temporary = _temporary(shard_path(root, name))
        self._parquet = pq.ParquetWriter(
            self._temporary,
            SCHEMA,
            # The codec has compressed the blobs already.
            compression={
                name: "none" if name in BLOB_COLUMNS else "zstd" for name in _leaf_names(SCHEMA)
            },
            use_dictionary=["dataset", "subject", "condition", "view", "source", "provenance"],
            write_statistics=["sequence_id", "subject", "condition", "view", "num_frames"],
            write_page_checksum=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._parquet.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, row: Mapping[str, object]) -> None:
        """Add one row: a value for every column of `SCHEMA`."""
        self._pending.append(row)
        self._sources_with_rows.add(str(row["source"]))
        self._num_rows += 1
        self._num_frames += int(str(row["num_frames"]))
        self._left_out.update(cast("list[str]", row["left_out_reasons"]))
        if len(self._pending) == ROWS_PER_GROUP:
            self._flush()

    def reject(self, dataset: str, source: str, reject: Reject) -> None:
        """Keep what did not become a row."""
        self._rejects.append(
            {
                "dataset": printable(dataset),
                "source": printable(source),
                "track": reject.track,
                "stage": reject.stage,
                "reason": reject.reason,
                "detail": printable(reject.detail),
            }
        )

    def commit(self) -> PartSummary:
        """Make the part appear, whole."""
        self._flush()
        self._parquet.close()
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        # A part that is done again ceases to be one before its other files change.
        remove_part(self._root, self._name)
        if self._rejects:
            table = pa.Table.from_pylist(self._rejects, schema=REJECT_SCHEMA)
            with whole_file(rejects_path(self._root, self._name)) as file_:
                pq.write_table(table, file_, compression="zstd", write_page_checksum=True)
        tally = Counter((str(row["stage"]), str(row["reason"])) for row in self._rejects)
        summary = PartSummary(
            name=self._name,
            sha256=sha256,
            size_bytes=size_bytes,
            num_sources=self._num_sources,
            num_sources_without_rows=self._num_sources - len(self._sources_with_rows),
            num_rows=self._num_rows,
            num_frames=self._num_frames,
            rejects=tuple((*key, number) for key, number in sorted(tally.items())),
            left_out=tuple(sorted(self._left_out.items())),
        )
        with whole_file(summary_path(self._root, self._name)) as file_:
            file_.write(summary.to_json().encode())
        self._temporary.replace(shard_path(self._root, self._name))
        _sync_folder(self._root)
        return summary

    def _flush(self) -> None:
        if self._pending:
            self._parquet.write_table(pa.Table.from_pylist(self._pending, schema=SCHEMA))
            self._pending = []


class Attempt:
    """Remembers which source a worker is at, past the worker's own end.

    A decoder's fault or a lack of memory takes the whole process, and Ray starts the part again in
    another. The note that the dead one leaves behind is how the next knows. Notes last until the
    next run (`remove_leftovers`).

    Args:
        root: Folder of shards.
        name: Name of the part and of what is done to it.

    Attributes:
        num_deaths: How many workers ended at each source, by `source_id`.
    """

    def __init__(self, root: Path, name: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.num_deaths = Counter(
            note.read_text(encoding="utf-8") for note in root.glob(f"{name}{_TEMPORARY}*")
        )
        self._note = _temporary(root / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._note.unlink(missing_ok=True)

    def begin(self, source_id: str) -> None:
        """Say which source is next."""
        self._note.write_text(source_id, encoding="utf-8")


def _temporary(path: Path) -> Path:
    """A name beside the file's that nobody else has, on no machine that shares the folder."""
    return path.with_name(f"{path.name}{_TEMPORARY}{secrets.token_hex(6)}")


def _leaf_names(schema: pa.Schema) -> list[str]:
    """Names as Parquet spells them: a list's values are a leaf of their own."""
    return [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
    ]


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut: the folder's entry reaches the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
