"""Read a folder of shards; refuse what is damaged, unknown or not finished."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raygait.errors import CorruptShard, ShardError, WrongFormatVersion
from raygait.shards.schema import (
    FORMAT_VERSION,
    REJECT_SCHEMA,
    SCHEMA,
    PartSummary,
    check_schema,
)
from raygait.shards.writer import rejects_path, shard_path, summary_path, whole_file

_MANIFEST = "dataset.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards is meant to hold: `dataset.json`.

    Attributes:
        settings: What the sources were processed with, plain JSON values.
        num_parts: Parts planned for each kind of source when the folder was begun.
        parts: Names of the parts that make up the data set now, sorted.
        source_root: Folder that the sources were under when it was last written.
        source_ids: `GaitSequence.source_id` of all sources, sorted.
    """

    settings: dict[str, object]
    num_parts: dict[str, int]
    parts: tuple[str, ...]
    source_root: str = ""
    source_ids: tuple[str, ...] = ()

    def write(self, root: Path) -> None:
        """Make it the folder's manifest."""
        fields = {
            "format_version": FORMAT_VERSION,
            "settings": self.settings,
            "num_parts": self.num_parts,
            "parts": self.parts,
            "source_root": self.source_root,
            "source_ids": self.source_ids,
        }
        with whole_file(root / _MANIFEST) as file:
            file.write((json.dumps(fields, indent=1) + "\n").encode())


def read_manifest(root: Path) -> Manifest | None:
    """The folder's manifest; None where ingest has never run.

    Raises:
        WrongFormatVersion: Written by a raygait that this one does not know.
        CorruptShard: `dataset.json` is not a manifest.
    """
    path = root / _MANIFEST
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text())
        version = fields["format_version"]
        if version != FORMAT_VERSION:
            raise WrongFormatVersion(
                f"{path}: format version {version}, this raygait knows {FORMAT_VERSION}: use the "
                "raygait that wrote it, or preprocess into another folder"
            )
        return Manifest(
            fields["settings"],
            fields["num_parts"],
            tuple(fields["parts"]),
            fields.get("source_root", ""),
            tuple(fields.get("source_ids", ())),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptShard(f"{path}: not a manifest of a folder of shards ({error!r})") from error


def list_shards(root: Path, *, unfinished: bool = False) -> list[Path]:
    """The Parquet files that make up the data set, sorted by name.

    Files that are no part of it, such as those that a newer part has replaced, are not listed.

    Args:
        root: Folder that `ingest` wrote.
        unfinished: Whether to list what is there although parts are missing.

    Raises:
        ShardError: The folder holds no shards, or ingest has not finished.
        WrongFormatVersion: Written by a raygait that this one does not know.
    """
    manifest = read_manifest(root)
    if manifest is None:
        raise ShardError(f"{root}: no folder of shards ({_MANIFEST} is missing): run preprocess")
    paths = [shard_path(root, name) for name in manifest.parts]
    there = [path for path in paths if path.is_file()]
    if len(there) < len(paths) and not unfinished:
        raise ShardError(
            f"{root}: {len(paths) - len(there)} of {len(paths)} parts are not written: "
            "preprocess has not finished, run it again"
        )
    return there


def read_summary(shard: Path) -> PartSummary:
    """The sidecar of a shard.

    Raises:
        CorruptShard: The sidecar is missing or not one.
        WrongFormatVersion: Written by a raygait that this one does not know.
    """
    path = summary_path(shard.parent, shard.stem)
    if not path.is_file():
        raise CorruptShard(f"{path}: the sidecar of {shard.name} is missing: run preprocess again")
    return PartSummary.from_json(path.read_text(errors="replace"), str(path))


def check_files(shard: Path) -> PartSummary:
    """The sidecar of a shard whose files are there and as long as it says; nothing is read.

    Raises:
        CorruptShard: The sidecar is missing or not one, the shard has another size, or rejects
            that the sidecar counts are missing.
        WrongFormatVersion: Written by a raygait that this one does not know.
    """
    summary = read_summary(shard)
    size_bytes = shard.stat().st_size
    if size_bytes != summary.size_bytes:
        raise CorruptShard(
            f"{shard}: {size_bytes} bytes, the sidecar says {summary.size_bytes}: run preprocess "
            "again"
        )
    rejects = rejects_path(shard.parent, shard.stem)
    if summary.rejects and not rejects.is_file():
        raise CorruptShard(f"{rejects}: missing: run preprocess again")
    return summary


def read_shard(shard: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one shard, every page that is read checked against its checksum.

    Args:
        shard: One of `list_shards`.
        columns: Columns to read, in this order; None for all.

    Raises:
        CorruptShard: Not Parquet, cut short, or a page is damaged.
        WrongFormatVersion: Written by a raygait that this one does not know.
        SchemaMismatch: Columns or types are not the format's.
        ValueError: A column that the format does not have.
    """
    return _read(shard, SCHEMA, columns)


def read_rows(root: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of all shards, in an order that depends on nothing but the data.

    Args:
        root: Folder that `ingest` wrote.
        columns: Columns to read, in this order; None for all. Blobs stay encoded (`codec`).

    Raises:
        ShardError: As `list_shards` and `read_shard`.
        ValueError: A column that the format does not have.
    """
    tables = [read_shard(shard, columns) for shard in list_shards(root)]
    schema = SCHEMA if columns is None else _choose(SCHEMA, columns)
    return pa.concat_tables(tables) if tables else schema.empty_table()


def read_rejects(root: Path) -> pa.Table:
    """What did not become a row, and why: the columns of `schema.REJECT_SCHEMA`.

    Raises:
        ShardError: As `list_shards` and `read_shard`.
    """
    tables = [read_shard_rejects(shard) for shard in list_shards(root)]
    return pa.concat_tables(tables) if tables else REJECT_SCHEMA.empty_table()


def read_shard_rejects(shard: Path) -> pa.Table:
    """What did not become a row of one shard; no rows for most.

    Raises:
        ShardError: As `read_shard` and `read_summary`.
    """
    if not read_summary(shard).rejects:
        return REJECT_SCHEMA.empty_table()
    return _read(rejects_path(shard.parent, shard.stem), REJECT_SCHEMA, None)


def iterate_rows(shard: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of one shard as plain values; memory holds one row group.

    Args:
        shard: One of `list_shards`.
        columns: Columns to read; None for all.

    Raises:
        ShardError: As `read_shard`.
        ValueError: A column that the format does not have.
    """
    names = None if columns is None else _choose(SCHEMA, columns).names
    with _open(shard, SCHEMA) as file:
        for number in range(file.num_row_groups):
            yield from file.read_row_group(number, columns=names).to_pylist()


def digest(root: Path) -> str:
    """SHA-256 over the names and digests of all parts: equal digests, equal rows.

    Reads the sidecars only; `verify` checks them against the files.

    Raises:
        ShardError: As `list_shards` and `read_summary`.
    """
    lines = [f"{shard.stem} {read_summary(shard).sha256}\n" for shard in list_shards(root)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def _open(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    """A file with our schema; what goes wrong inside the block is a damaged file."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            check_schema(file.schema_arrow, schema, str(path))
            yield file
    except FileNotFoundError as error:
        raise CorruptShard(f"{path}: missing: run preprocess again") from error
    except (OSError, pa.ArrowException) as error:
        raise CorruptShard(f"{path}: {error}: delete it and run preprocess again") from error


def _read(path: Path, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    chosen = schema if columns is None else _choose(schema, columns)
    with _open(path, schema) as file:
        # Parquet answers in its own order.
        return file.read(columns=chosen.names).select(chosen.names)


def _choose(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        raise ValueError(f"no column {', '.join(unknown)}; there are {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)
