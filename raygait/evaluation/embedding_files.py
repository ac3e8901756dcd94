"""Embeddings on disk: columns, the sentence that each file carries, whole files or none, a reader.

A folder of embeddings, as `embed_shards` leaves it:

    embeddings.json                   model, shards and the files that make it up: `Manifest`
    embeddings-<16 hex>.parquet       rows of one shard; the name is a digest of what decides them
    rejects/embeddings-<16 hex>.parquet   rows without an embedding, and why; where there are any

A file's metadata says which model, shard and raygait it is of (`Origin`, as JSON under the key
`raygait.embeddings`), so that a file that was copied away still says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from numpy import ndarray

import raygait
from raygait.errors import EmbeddingsError
from raygait.evaluation.embed import TOO_SHORT, Embeddings, reorder
from raygait.recipes.saved_model import RECIPE, WEIGHTS, load_model
from raygait.sequences import Reject
from raygait.shards.writer import printable, rejects_path, whole_file

FORMAT_VERSION = 1
"""Goes up with every change of columns, metadata or their meaning."""

EMBEDDING_VERSION = 1
"""Raise it by hand with every change of code that gives other embeddings for the same model and
frames. Files of an older version are then done again; nothing else notices such a change."""

_MANIFEST = "embeddings.json"
_ORIGIN = b"raygait.embeddings"
_COUNTS = b"raygait.embeddings.counts"
_ROWS_PER_GROUP = 64

COLUMNS = ("sequence_id", "dataset", "subject", "condition", "view", "track", "source")
"""Columns that are as the shard has them; `num_frames` and `embedding` follow."""

_LABELS = pa.schema(
    [
        pa.field(name, pa.int32() if name == "track" else pa.string(), nullable=False)
        for name in COLUMNS
    ]
)
_NUM_FRAMES = pa.field("num_frames", pa.int32(), nullable=False)
_REJECTS = pa.schema(
    [
        pa.field(name, pa.int32() if name == "track" else pa.string(), nullable=False)
        for name in ("sequence_id", "dataset", "source", "track", "stage", "reason", "detail")
    ]
)


@dataclass(frozen=True)
class ModelIdentity:
    """Which model made the embeddings.

    Attributes:
        reference: How it was named: a folder, or a `models:/` address.
        version: The registered version behind it, `models:/NAME/VERSION`; empty where it has none.
        recipe: Name of its recipe.
        step: Optimiser steps it had seen.
        weights_sha256: Of the file of its weights.
        recipe_sha256: Of the file of its recipe, which says how it sees a sequence.
    """

    reference: str
    version: str
    recipe: str
    step: int
    weights_sha256: str
    recipe_sha256: str

    @classmethod
    def of(cls, folder: Path, reference: str = "", version: str = "") -> ModelIdentity:
        """The identity of a saved model.

        Args:
            folder: Of the saved model.
            reference: How a person named it; the folder if left out.
            version: The registered version that the folder is a copy of.

        Raises:
            RegistryError: Not a saved model, or damaged.
        """
        saved = load_model(folder)
        name = reference or str(folder)
        return cls(name, version, saved.recipe.name, saved.step, *model_digests(folder))

    @property
    def digests(self) -> tuple[str, str]:
        """What two names of one model have in common."""
        return (self.weights_sha256, self.recipe_sha256)

    def __str__(self) -> str:
        version = f" ({self.version})" if self.version not in ("", self.reference) else ""
        return (
            f"{self.reference}{version}, {self.recipe} at step {self.step}, weights "
            f"{self.weights_sha256[:12]}, recipe {self.recipe_sha256[:12]}"
        )


def model_digests(folder: Path) -> tuple[str, str]:
    """SHA-256 of the files of a saved model that decide its embeddings: weights and recipe."""
    return (_sha256(folder / WEIGHTS), _sha256(folder / RECIPE))


@dataclass(frozen=True)
class Origin:
    """What a file's rows come from.

    Attributes:
        model: The model.
        shard: File name of the shard.
        shard_sha256: Of that file.
        num_parts: Parts of an embedding.
        dim: Numbers a part.
        device: What it was computed on, `cpu` or `cuda`.
        precision: Number format of the computation.
    """

    model: ModelIdentity
    shard: str
    shard_sha256: str
    num_parts: int
    dim: int
    device: str
    precision: str = "fp32"


@dataclass(frozen=True)
class FileSummary:
    """What a file of embeddings holds, from its footer alone.

    Attributes:
        origin: What its rows come from.
        num_rows: Rows, one a sequence.
        num_frames: Frames that were embedded.
        num_unwanted: Rows of the shard of subjects that were not asked for.
        rejects: How often each (stage, reason) left a row without an embedding, sorted.
        size_bytes: Size of the file.
    """

    origin: Origin
    num_rows: int
    num_frames: int
    num_unwanted: int
    rejects: tuple[tuple[str, str, int], ...]
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a folder of embeddings is meant to hold: `embeddings.json`.

    Attributes:
        model: The model of all files.
        subjects: Subjects that were asked for, sorted; None for all rows.
        shards: Folder of the shards.
        shards_digest: Their digest (`shards.reader.digest`).
        files: Name of each file, without suffix -> file name of its shard.
        trained_subjects: Subjects that the model was trained on; whoever scores the embeddings is
            not to test them.
        trained_dataset: The data set of those; empty where the model does not say.
    """

    model: ModelIdentity
    subjects: tuple[str, ...] | None
    shards: str
    shards_digest: str
    files: Mapping[str, str]
    trained_subjects: tuple[str, ...] = ()
    trained_dataset: str = ""

    def write(self, root: Path) -> None:
        """Make it the folder's manifest."""
        fields = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        with whole_file(root / _MANIFEST) as file:
            file.write((json.dumps(fields, indent=1) + "\n").encode())


def read_manifest(root: Path) -> Manifest | None:
    """The folder's manifest; None where nothing has been embedded into it.

    Raises:
        EmbeddingsError: Written by a raygait that this one does not know, or damaged.
    """
    path = root / _MANIFEST
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text())
        _check_version(fields.pop("format_version"), path)
        subjects = fields.pop("subjects")
        return Manifest(
            model=ModelIdentity(**fields.pop("model")),
            subjects=None if subjects is None else tuple(subjects),
            trained_subjects=tuple(fields.pop("trained_subjects", ())),
            **fields,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EmbeddingsError(f"{path}: not a manifest of a folder of embeddings: {error!r}") from (
            error
        )


def file_name(
    model: ModelIdentity, subjects: Sequence[str] | None, shard: str, shard_sha256: str
) -> str:
    """Name of the file of a shard, without suffix: a digest of all that decides its rows."""
    content = [FORMAT_VERSION, EMBEDDING_VERSION, *model.digests, subjects, shard, shard_sha256]
    return f"embeddings-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"


def file_path(root: Path, name: str) -> Path:
    """Where the embeddings of a name are."""
    return root / f"{name}.parquet"


def file_names(root: Path) -> set[str]:
    """Names that have a file here, be it only of rejects."""
    return {path.stem for folder in (root, root / "rejects") for path in _parquets(folder)}


def remove_file(root: Path, name: str) -> None:
    """Delete the embeddings of a name, and its rejects."""
    file_path(root, name).unlink(missing_ok=True)
    rejects_path(root, name).unlink(missing_ok=True)


def write_file(
    root: Path,
    name: str,
    origin: Origin,
    results: Iterable[tuple[Mapping[str, Any], Float32[ndarray, "p d"] | Reject]],
    *,
    num_rows: int,
) -> None:
    """Write one file of embeddings, and beside it one of rejects; whole or not at all.

    Args:
        root: Folder of embeddings.
        name: From `file_name`.
        origin: What the rows come from.
        results: Rows of the shard, each with what became of it. Memory holds a row group.
        num_rows: Rows of the shard; those that `results` does not hold are of unwanted subjects.
    """
    rejects: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    num_written = num_frames = 0
    numbers = origin.num_parts * origin.dim
    said = {
        "format_version": FORMAT_VERSION,
        "raygait": raygait.__version__,
        **dataclasses.asdict(origin),
    }
    schema = (
        _LABELS.append(_NUM_FRAMES)
        .append(pa.field("embedding", pa.list_(pa.float32(), numbers), nullable=False))
        .with_metadata({_ORIGIN: json.dumps(said).encode()})
    )
    with (
        whole_file(file_path(root, name)) as file,
        pq.ParquetWriter(
            file,
            schema,
            # Embeddings do not become smaller, labels do.
            compression={"embedding.list.element": "none", **dict.fromkeys(schema.names, "zstd")},
            use_dictionary=["dataset", "subject", "condition", "view", "source"],
            write_page_checksum=True,
        ) as writer,
    ):

        def flush() -> None:
            labels = pa.Table.from_pylist(
                [{key: row[key] for key in schema.names[:-1]} for row in pending],
                schema=schema.remove(len(schema) - 1),
            )
            values = np.concatenate([row["embedding"].ravel() for row in pending])
            column = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), numbers)
            writer.write_table(labels.append_column(schema.field("embedding"), column))
            pending.clear()

        for row, result in results:
            if isinstance(result, Reject):
                place = {key: row[key] for key in ("sequence_id", "dataset", "source", "track")}
                detail = printable(result.detail)
                rejects.append(
                    {**place, "stage": result.stage, "reason": result.reason, "detail": detail}
                )
                continue
            pending.append({**row, "embedding": result})
            num_written += 1
            num_frames += int(row["num_frames"])
            if len(pending) == _ROWS_PER_GROUP:
                flush()
        if pending:
            flush()
        tally = Counter((row["stage"], row["reason"]) for row in rejects)
        counts = {
            "num_rows": num_written,
            "num_frames": num_frames,
            "num_unwanted": num_rows - num_written - len(rejects),
            "rejects": [[*key, number] for key, number in sorted(tally.items())],
        }
        writer.add_key_value_metadata({_COUNTS.decode(): json.dumps(counts)})
        # First: what has its name is complete.
        rejects_path(root, name).unlink(missing_ok=True)
        if rejects:
            with whole_file(rejects_path(root, name)) as beside:
                table = pa.Table.from_pylist(rejects, schema=_REJECTS)
                pq.write_table(table, beside, compression="zstd", write_page_checksum=True)


def read_summary(path: Path) -> FileSummary:
    """What a file of embeddings says of itself; only its footer is read.

    Raises:
        EmbeddingsError: Missing, cut short, not one, of another format version, or its rejects are
            missing.
    """
    with _open(path) as file:
        summary = _summary(file, path)
    if summary.rejects and not rejects_path(path.parent, path.stem).is_file():
        raise EmbeddingsError(f"{path}: its rejects are missing: embed again")
    return summary


def read_embeddings(root: Path) -> Embeddings:
    """All embeddings of a folder, ordered by sequence id.

    Every page is checked against its checksum. Memory holds the result and one file more.

    Args:
        root: Folder that `embed_shards` has finished.

    Raises:
        EmbeddingsError: No such folder, one that is not finished, a damaged file, one of another
            model or format version, a sequence that is there twice, or no embedding at all.
    """
    manifest = _manifest_of(root)
    paths = [file_path(root, name) for name in sorted(manifest.files)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise EmbeddingsError(
            f"{root}: {len(missing)} of {len(paths)} files are not written, {missing[0].name} for "
            "one: embedding has not finished, run it again"
        )
    summaries = [read_summary(path) for path in paths]
    for path, summary in zip(paths, summaries, strict=True):
        if summary.origin.model.digests != manifest.model.digests:
            raise EmbeddingsError(
                f"{path}: embeddings of {summary.origin.model}; the folder is of {manifest.model}"
            )
    shapes = {(each.origin.num_parts, each.origin.dim) for each in summaries}
    num_rows = sum(each.num_rows for each in summaries)
    if num_rows == 0 or len(shapes) != 1:
        raise EmbeddingsError(
            f"{root}: {num_rows} embeddings of shapes {sorted(shapes)}, expected some, of one shape"
        )
    (shape,) = shapes
    values = np.empty((num_rows, *shape), np.float32)
    names = ["sequence_id", "subject", "condition", "view"]
    labels: list[pa.Table] = []
    start = 0
    for path in paths:
        with _open(path) as file:
            table = file.read(columns=[*names, "embedding"])
        column = table["embedding"].combine_chunks()
        if table.num_rows:
            # `flatten` goes by the offset, `values` would not.
            numbers = np.asarray(column.flatten(), np.float32)
            values[start : start + table.num_rows] = numbers.reshape(table.num_rows, *shape)
        labels.append(table.select(names))
        start += table.num_rows
    ids, subjects, conditions, views = (
        pa.concat_tables(labels)[name].to_pylist() for name in names
    )
    order = sorted(range(num_rows), key=ids.__getitem__)
    for one, other in itertools.pairwise(order):
        if ids[one] == ids[other]:
            raise EmbeddingsError(f"{root}: sequence {ids[one]!r} is there twice: embed again")
    reorder(values, order)
    return Embeddings(
        sequence_ids=[ids[place] for place in order],
        subjects=[subjects[place] for place in order],
        conditions=[conditions[place] for place in order],
        views=[views[place] for place in order],
        values=values,
        num_too_short=sum(
            number
            for each in summaries
            for _, reason, number in each.rejects
            if reason == TOO_SHORT
        ),
    )


def read_labels(root: Path) -> pa.Table:
    """`COLUMNS` and `num_frames` of all rows, without their embeddings.

    Raises:
        EmbeddingsError: As `read_embeddings`; that files fit each other is not looked at.
    """
    tables = [_LABELS.append(_NUM_FRAMES).empty_table()]
    for name in sorted(_manifest_of(root).files):
        with _open(file_path(root, name)) as file:
            tables.append(file.read(columns=tables[0].column_names).replace_schema_metadata())
    return pa.concat_tables(tables)


def read_rejects(root: Path) -> pa.Table:
    """Rows of the shards without an embedding: sequence, source, stage, reason, detail.

    Raises:
        EmbeddingsError: As `read_embeddings`.
    """
    tables = [_REJECTS.empty_table()]
    for name in sorted(_manifest_of(root).files):
        if read_summary(file_path(root, name)).rejects:
            with _open(rejects_path(root, name)) as file:
                tables.append(file.read())
    return pa.concat_tables(tables)


def _manifest_of(root: Path) -> Manifest:
    manifest = read_manifest(root)
    if manifest is None:
        raise EmbeddingsError(f"{root}: no folder of embeddings ({_MANIFEST} is missing)")
    return manifest


def _summary(file: pq.ParquetFile, path: Path) -> FileSummary:
    try:
        said = json.loads(file.metadata.metadata[_ORIGIN])
        _check_version(said.pop("format_version"), path)
        del said["raygait"]  # for people, and whoever has to find out what an old version did
        counts = json.loads(file.metadata.metadata[_COUNTS])
        summary = FileSummary(
            origin=Origin(model=ModelIdentity(**said.pop("model")), **said),
            num_rows=counts["num_rows"],
            num_frames=counts["num_frames"],
            num_unwanted=counts["num_unwanted"],
            rejects=tuple((str(s), str(r), int(n)) for s, r, n in counts["rejects"]),
            size_bytes=path.stat().st_size,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EmbeddingsError(f"{path}: not a file of embeddings ({error!r})") from error
    if summary.num_rows != file.metadata.num_rows:
        raise EmbeddingsError(
            f"{path}: {file.metadata.num_rows} rows, it says {summary.num_rows}: delete it and "
            "embed again"
        )
    return summary


def _check_version(version: object, path: Path) -> None:
    if version != FORMAT_VERSION:
        raise EmbeddingsError(
            f"{path}: format version {version}, this raygait knows {FORMAT_VERSION}: use the "
            "raygait that wrote it, or embed into another folder"
        )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise EmbeddingsError(f"{path}: missing: embed again") from error
    except (OSError, pa.ArrowException) as error:
        raise EmbeddingsError(f"{path}: {error}: delete it and embed again") from error


def _parquets(folder: Path) -> Iterator[Path]:
    return folder.glob("embeddings-*.parquet")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
