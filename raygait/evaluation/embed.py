"""Shards -> embeddings: every row, every frame, in parallel over shards with Ray Data.

Sequences are batched with others of the same length only. Padding would leak: zeros stay zero in
the first convolution alone, so a padded sequence would not embed as it does by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
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
from raygait.errors import ClusterTooSmall, DatasetError, RaygaitError
from raygait.recipes.saved_model import load_model
from raygait.shards import reader

_IDENTITY = ("sequence_id", "subject", "condition", "view")
# Frames of one forward pass, all sequences together: bounds memory whatever the lengths are.
_FRAMES_A_BATCH = 512


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
    paths = [str(path) for path in reader.list_shards(shards)]
    wanted = None if subjects is None else sorted(subjects)
    if num_workers == 0:
        embedder = ShardEmbedder(str(model), wanted, num_threads=None)
        tables = [embedder.embed_shard(Path(path)) for path in paths]
        return _collect(pa.concat_tables(tables), shards)

    import ray.data

    ray_session.quiet_data_log()
    # An actor that fits nowhere would be waited for without an error.
    places = ray_session.num_places(num_threads)
    if places < 1:
        raise ClusterTooSmall(f"no node has the {num_threads} CPUs of one embedding worker")
    pool_size = min(num_workers, len(paths), places)
    dataset = ray.data.from_items(
        [{"shard": path} for path in paths], override_num_blocks=len(paths)
    ).map_batches(
        ShardEmbedder,
        fn_constructor_args=(str(model), wanted, num_threads),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=num_threads,
        compute=ray.data.ActorPoolStrategy(size=pool_size),
    )
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    with ray_session.stderr_without(ray_session.RESTART_NOTE):
        tables = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    for row in pa.concat_tables(tables).filter(pc.field("error") != "").to_pylist():
        raise getattr(errors, row["error"])(row["sequence_id"])
    return _collect(pa.concat_tables(tables), shards)


class ShardEmbedder:
    """Embeds one shard after another; holds the network, so that a pool loads it once an actor.

    Args:
        model: Folder of a saved model.
        subjects: Leave out rows of other subjects; `None` embeds all.
        num_threads: Threads of torch for this process; `None` leaves them as they are.
    """

    def __init__(self, model: str, subjects: list[str] | None, num_threads: int | None) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._saved = load_model(Path(model))
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
        """One row a sequence: identity columns, `embedding` and its shape."""
        modality = self._saved.recipe.data.modality
        columns = [*_IDENTITY, "num_frames", *COLUMNS[modality]]
        rows = [
            row
            for row in reader.read_shard(shard, columns=columns).to_pylist()
            if self._subjects is None or row["subject"] in self._subjects
        ]
        check_rows(rows, modality, str(shard))
        min_frames = int(getattr(self._saved.network, "min_frames", 1))
        embedded: list[dict[str, Any]] = []
        for group in _batches_of_equal_length(rows):
            if group[0]["num_frames"] < min_frames:
                embedded += [_row(row, None) for row in group]
                continue
            arrays = [self._stored(row) for row in group]
            values = self._saved.embed(
                {name: np.stack([one[name] for one in arrays]) for name in arrays[0]}
            )
            embedded += [_row(row, value) for row, value in zip(group, values, strict=True)]
        return pa.Table.from_pylist(embedded, schema=_SCHEMA)

    def _stored(self, row: dict[str, Any]) -> dict[str, ndarray]:
        data, seed = self._saved.recipe.data, self._saved.recipe.seed
        stored = unpack(pack(row, data.modality), data.modality)
        if data.shift_px:
            # Of the sequence alone, so that it is shifted alike wherever it is embedded.
            key = hashlib.sha256(f"{seed} {row['sequence_id']}".encode()).digest()
            source = np.random.default_rng(list(key))
            stored = shift_clip(stored, draw_shifts(row["num_frames"], data.shift_px, source))
        return stored


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _IDENTITY),
        ("num_parts", pa.int32()),
        ("embedding", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)


def _row(row: dict[str, Any], value: Float32[ndarray, "p d"] | None) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _IDENTITY},
        "num_parts": 0 if value is None else len(value),
        "embedding": None if value is None else value.ravel(),
        "error": "",
    }


def _batches_of_equal_length(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    by_length: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_length.setdefault(row["num_frames"], []).append(row)
    for length, group in sorted(by_length.items()):
        size = max(1, _FRAMES_A_BATCH // max(length, 1))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _collect(table: pa.Table, shards: Path) -> Embeddings:
    # Actors finish in any order; the result must not depend on it.
    table = table.sort_by("sequence_id")
    kept = table.filter(pc.is_valid(table["embedding"]))
    if kept.num_rows == 0:
        raise DatasetError(
            f"{shards}: no sequence to embed ({table.num_rows} rows, none long enough or of the "
            f"wanted subjects)"
        )
    values = np.asarray(pc.list_flatten(kept["embedding"]), dtype=np.float32)
    num_parts = kept["num_parts"][0].as_py()
    sequence_ids, subjects, conditions, views = (kept[name].to_pylist() for name in _IDENTITY)
    return Embeddings(
        sequence_ids=sequence_ids,
        subjects=subjects,
        conditions=conditions,
        views=views,
        values=values.reshape(kept.num_rows, num_parts, -1),
        num_too_short=table.num_rows - kept.num_rows,
    )
