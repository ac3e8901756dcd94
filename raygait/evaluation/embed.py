"""Shards -> embeddings: every row, every frame, in parallel over shards with Ray Data.

`embed` gathers them in memory, for a table; `embed_shards` leaves them on disk, for whoever comes.
Sequences are batched with others of the same length only. Padding would leak: zeros stay zero in
the first convolution alone, so a padded sequence would not embed as it does by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float32
from numpy import ndarray

from raygait import errors, ray_session
from raygait.batches.columns import COLUMNS, check_rows, pack, unpack
from raygait.batches.shift import draw_shifts, shift_clip
from raygait.errors import (
    ClusterTooSmall,
    CorruptShard,
    DatasetError,
    ModelInputError,
    RaygaitError,
    ShardError,
)
from raygait.recipes.saved_model import load_model
from raygait.sequences import Reject
from raygait.shards import reader

Row = Mapping[str, Any]
"""A row of a shard, as far as an embedding needs it."""

TOO_SHORT = "too-short"
"""Reason of a sequence that has fewer frames than the network needs."""

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of workers, which do nothing but embed. glibc gives large blocks back to the system
at once, and each page of the next layer's is a fault again. The first two keep memory for the next
layer, and only the one arena of the main thread can hold blocks of any size. A worker stays as
large as its longest sequence made it."""

_IDENTITY = ("sequence_id", "subject", "condition", "view")
# Frames of one forward pass, all sequences together; a longer sequence is a pass of its own. A CPU
# is no faster with more, and needs the memory.
_FRAMES_A_BATCH = {"cpu": 128, "cuda": 512}
# Encoded rows that wait to be joined by others of their length: bounds memory whatever a shard
# holds. Silhouettes of 100 frames are 40 kB, so this is a thousand of them.
_BYTES_A_WINDOW = 64 * 2**20
_ROWS_A_WINDOW = 1024


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a folder of shards, ordered by sequence id.

    Attributes:
        sequence_ids: One a row.
        subjects: One a row; empty where nobody has said who it is.
        conditions: One a row.
        views: One a row.
        values: [n, p, d], one embedding of d numbers a part.
        num_too_short: Sequences left out because the network needs more frames than they have.
    """

    sequence_ids: list[str]
    subjects: list[str]
    conditions: list[str]
    views: list[str]
    values: Float32[ndarray, "n p d"]
    num_too_short: int = 0

    def __len__(self) -> int:
        return len(self.sequence_ids)

    def of_subjects(self, subjects: Collection[str]) -> Embeddings:
        """Those of some subjects, in the same order; the number of too short ones is kept."""
        wanted = set(subjects)
        chosen = [row for row, subject in enumerate(self.subjects) if subject in wanted]
        return Embeddings(
            [self.sequence_ids[row] for row in chosen],
            [self.subjects[row] for row in chosen],
            [self.conditions[row] for row in chosen],
            [self.views[row] for row in chosen],
            self.values[chosen],
            self.num_too_short,
        )


def embed(
    shards: Path,
    model: Path,
    *,
    subjects: Collection[str] | None = None,
    num_workers: int = 1,
    num_threads: int = 1,
) -> Embeddings:
    """Embed the rows of a folder of shards with a pool of workers.

    Args:
        shards: Folder that `shards.ingest` wrote.
        model: Folder that `recipes.saved_model.load_model` reads, visible to every worker.
        subjects: Leave out rows of other subjects.
        num_workers: Actors of the pool; 0 embeds in this process, without Ray.
        num_threads: Threads of torch and logical CPUs an actor.

    Raises:
        DatasetError: No row is left to embed.
        ShardError: A shard cannot be read, or does not hold the modality of the model.
        RegistryError: `model` is not a saved model.
        ClusterTooSmall: No node has the CPUs of one worker.
    """
    paths = reader.list_shards(shards)
    wanted = None if subjects is None else sorted(subjects)
    if num_workers == 0:
        embedder = ShardEmbedder(str(model), wanted, num_threads=None)
        return _collect((embedder.embed_shard(path) for path in paths), shards)
    tables = map_shards(
        ShardEmbedder,
        (str(model), wanted, num_threads),
        [{"shard": str(path)} for path in paths],
        num_workers=num_workers,
        num_threads=num_threads,
    )
    return _collect(tables, shards)


def reorder(values: Float32[ndarray, "n p d"], order: Sequence[int]) -> None:
    """`values[order]`, in place: a second copy of them need not fit into memory."""
    todo = set(range(len(order)))
    while todo:
        first = place = todo.pop()
        kept = values[first].copy()
        while order[place] != first:
            values[place] = values[order[place]]
            place = order[place]
            todo.discard(place)
        values[place] = kept


def map_shards(
    worker: type,
    arguments: tuple[Any, ...],
    items: Sequence[Mapping[str, str]],
    *,
    num_workers: int,
    num_threads: int,
    use_gpu: bool = False,
) -> Iterator[pa.Table]:
    """What a pool of workers makes of one item after another, in the order they come in.

    Args:
        worker: Class whose instances map a table of one item to a table.
        arguments: Of its constructor.
        items: One a shard, plain strings. The first are begun first.
        num_workers: Actors of the pool, at least 1; fewer where the cluster has no room for them.
        num_threads: Logical CPUs an actor.
        use_gpu: A GPU an actor.

    Raises:
        ClusterTooSmall: No node has room for one worker.
    """
    import ray.data

    # An actor that fits nowhere would be waited for without an error.
    places = ray_session.num_places(num_threads, 1 if use_gpu else 0)
    if places < 1:
        gpu = " and the GPU" if use_gpu else ""
        raise ClusterTooSmall(f"no node has the {num_threads} CPUs{gpu} of one embedding worker")
    dataset = ray.data.from_items(
        [dict(item) for item in items], override_num_blocks=len(items)
    ).map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=num_threads,
        num_gpus=1 if use_gpu else None,
        runtime_env={"env_vars": KEEP_FREED_MEMORY},
        compute=ray_session.actor_pool(min(num_workers, len(items), places)),
    )
    ray_session.quieten(dataset)
    with ray_session.stderr_without(ray_session.RESTART_NOTE):
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


class SequenceEmbedder:
    """Embeds rows of shards, each with others of its length; holds the network.

    Args:
        model: Folder of a saved model.
        num_threads: Threads of torch, of a process that does nothing else; `None` for any other,
            of which nothing is changed.
        use_gpu: Whether the network goes to this process's GPU.

    Attributes:
        columns: What of a shard's rows has to be read: `sequence_id` and `num_frames` among them.
        device: Type of the device, `cpu` or `cuda`.

    Raises:
        RegistryError: `model` is not a saved model.
        ClusterTooSmall: There is no GPU to use.
    """

    def __init__(
        self, model: Path, *, num_threads: int | None = None, use_gpu: bool = False
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._saved = load_model(model)
        if use_gpu:
            if not torch.cuda.is_available():
                raise ClusterTooSmall("an embedding worker was to use a GPU, and sees none")
            # Convolutions would round their inputs to 10 bits, which is not what a CPU computes.
            torch.backends.cudnn.allow_tf32 = False
            self._saved.network.to("cuda")
        self._modality = self._saved.recipe.data.modality
        self._min_frames = int(getattr(self._saved.network, "min_frames", 1))
        self.columns = ("sequence_id", "num_frames", *COLUMNS[self._modality])
        self.device = "cuda" if use_gpu else "cpu"

    def embedding_shape(self) -> tuple[int, int]:
        """Parts p and numbers d, from one pass over a blank sequence, as short as it may be."""
        blank = self._saved.blank_inputs(num=1, num_frames=self._min_frames)
        num_parts, dim = self._saved.embed(blank).shape[1:]
        return num_parts, dim

    def batches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Rows in groups for `embed_batch`: of one length each, and all that were given.

        Memory holds the encoded rows of one window. Groups depend on the rows alone.
        """
        for window in _windows(rows):
            by_length: dict[int, list[Row]] = {}
            for row in window:
                by_length.setdefault(row["num_frames"], []).append(row)
            for length, group in sorted(by_length.items()):
                size = max(1, _FRAMES_A_BATCH[self.device] // max(length, 1))
                for start in range(0, len(group), size):
                    yield group[start : start + size]

    def embed_batch(self, batch: Sequence[Row]) -> list[Float32[ndarray, "p d"] | Reject]:
        """Embed rows of one length, every frame used.

        Returns:
            The embedding of each row, in order, or why it has none: too short, its frames cannot
            be decoded or are not of the modality, or they do not fit the network.
        """
        results: dict[int, Float32[ndarray, "p d"] | Reject] = {}
        # Frames of two sizes cannot be stacked.
        by_shape: dict[Any, list[tuple[int, dict[str, ndarray]]]] = {}
        for place, row in enumerate(batch):
            arrays = self._decode(row)
            if isinstance(arrays, Reject):
                results[place] = arrays
            else:
                shape = tuple((name, values.shape) for name, values in sorted(arrays.items()))
                by_shape.setdefault(shape, []).append((place, arrays))
        for group in by_shape.values():
            stacked = {name: np.stack([one[name] for _, one in group]) for name in group[0][1]}
            try:
                values = list(self._saved.embed(stacked))
            except ModelInputError as error:
                for place, _ in group:
                    results[place] = _reject(batch[place], "embed", "does-not-fit", str(error))
            else:
                results |= {place: value for (place, _), value in zip(group, values, strict=True)}
        return [results[place] for place in range(len(batch))]

    def _decode(self, row: Row) -> dict[str, ndarray] | Reject:
        num_frames = row["num_frames"]
        if num_frames < self._min_frames:
            detail = f"{num_frames} frames, the network needs {self._min_frames}"
            return _reject(row, "embed", TOO_SHORT, detail)
        try:
            check_rows([dict(row)], self._modality, row["sequence_id"])
        except ShardError as error:
            return _reject(row, "decode", "no-such-modality", str(error))
        try:
            stored = unpack(pack(row, self._modality), self._modality)
        except (CorruptShard, ValueError) as error:
            return _reject(row, "decode", "undecodable", str(error))
        lengths = {name: len(values) for name, values in stored.items()}
        if set(lengths.values()) != {num_frames}:
            detail = f"frames decoded: {lengths}, num_frames says {num_frames}"
            return _reject(row, "decode", "undecodable", detail)
        data, seed = self._saved.recipe.data, self._saved.recipe.seed
        if data.shift_px:
            # Of the sequence alone, so that it is shifted alike wherever it is embedded.
            key = hashlib.sha256(f"{seed} {row['sequence_id']}".encode()).digest()
            source = np.random.default_rng(list(key))
            stored = shift_clip(stored, draw_shifts(num_frames, data.shift_px, source))
        return stored


class ShardEmbedder:
    """Embeds one shard after another into rows of a table, for `embed`.

    Args:
        model: Folder of a saved model.
        subjects: Leave out rows of other subjects; `None` embeds all.
        num_threads: Threads of torch for this process; `None` leaves them as they are.
    """

    def __init__(self, model: str, subjects: list[str] | None, num_threads: int | None) -> None:
        self._embedder = SequenceEmbedder(Path(model), num_threads=num_threads)
        self._subjects = None if subjects is None else frozenset(subjects)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed the shards that a Ray Data batch names."""
        try:
            tables = [self.embed_shard(Path(path)) for path in batch["shard"].to_pylist()]
        except RaygaitError as error:
            # As a row: an exception would arrive as Ray's, with its own cause lost on the way.
            row = {"sequence_id": str(error), "error": type(error).__name__}
            return pa.Table.from_pylist([row], schema=_SCHEMA)
        return pa.concat_tables(tables)

    def embed_shard(self, shard: Path) -> pa.Table:
        """One row a sequence: identity columns, `embedding` and its shape.

        Raises:
            ShardError: The shard cannot be read, or a row of it cannot be embedded for another
                reason than its length.
        """
        columns = dict.fromkeys([*_IDENTITY, *self._embedder.columns])
        rows = (
            row
            for row in reader.iterate_rows(shard, list(columns))
            if self._subjects is None or row["subject"] in self._subjects
        )
        embedded: list[dict[str, Any]] = []
        for batch in self._embedder.batches(rows):
            for row, result in zip(batch, self._embedder.embed_batch(batch), strict=True):
                if not isinstance(result, Reject):
                    embedded.append(_row(row, result))
                elif result.reason == TOO_SHORT:
                    embedded.append(_row(row, None))
                else:
                    kind = CorruptShard if result.reason == "undecodable" else ShardError
                    raise kind(f"{shard}: {row['sequence_id']}: {result.detail}")
        return pa.Table.from_pylist(embedded, schema=_SCHEMA)


def _reject(row: Row, stage: str, reason: str, detail: str) -> Reject:
    return Reject(row["sequence_id"], row.get("track", -1), stage, reason, detail)


def _windows(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows by the bounded handful, each ordered so that chance has no part in what meets whom."""
    window: list[Row] = []
    num_bytes = 0
    for row in rows:
        window.append(row)
        num_bytes += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if num_bytes >= _BYTES_A_WINDOW or len(window) >= _ROWS_A_WINDOW:
            yield sorted(window, key=lambda row: str(row["sequence_id"]))
            window, num_bytes = [], 0
    if window:
        yield sorted(window, key=lambda row: str(row["sequence_id"]))


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _IDENTITY),
        ("num_parts", pa.int32()),
        ("embedding", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)


def _row(row: Row, value: Float32[ndarray, "p d"] | None) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _IDENTITY},
        "num_parts": 0 if value is None else len(value),
        "embedding": None if value is None else value.ravel(),
        "error": "",
    }


def _collect(tables: Iterable[pa.Table], shards: Path) -> Embeddings:
    """The rows of all tables. Memory holds the result and little more.

    Never as one table: its lists would count their numbers in 32 bits.
    """
    values: Float32[ndarray, "n p d"] = np.empty((0, 0, 0), np.float32)
    labels = [pa.schema([(name, pa.string()) for name in _IDENTITY]).empty_table()]
    num_rows = 0
    failure: dict[str, str] | None = None
    for table in tables:
        failures = table.filter(pc.field("error") != "").select(["sequence_id", "error"])
        failure = failure or next(iter(failures.to_pylist()), None)
        num_rows += table.num_rows
        kept = table.filter(pc.is_valid(table["embedding"]))
        if kept.num_rows:
            numbers = np.asarray(pc.list_flatten(kept["embedding"]), np.float32)
            chunk = numbers.reshape(kept.num_rows, kept["num_parts"][0].as_py(), -1)
            start = len(values)
            # Pages of a large block are moved to where there is room for more, and not copied.
            # Nothing else refers to them.
            values.resize((start + len(chunk), *chunk.shape[1:]), refcheck=False)
            values[start:] = chunk
            labels.append(kept.select(_IDENTITY))
    if failure is not None:
        raise getattr(errors, failure["error"])(failure["sequence_id"])
    if not len(values):
        raise DatasetError(
            f"{shards}: no sequence to embed ({num_rows} rows, none long enough or of the wanted "
            "subjects)"
        )
    ids, subjects, conditions, views = (
        pa.concat_tables(labels)[name].to_pylist() for name in _IDENTITY
    )
    # Actors finish in any order; the result must not depend on it.
    order = sorted(range(len(ids)), key=ids.__getitem__)
    reorder(values, order)
    return Embeddings(
        sequence_ids=[ids[place] for place in order],
        subjects=[subjects[place] for place in order],
        conditions=[conditions[place] for place in order],
        views=[views[place] for place in order],
        values=values,
        num_too_short=num_rows - len(ids),
    )
