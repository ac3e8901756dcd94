"""A node-local, memory-mapped copy of the frames that training draws from.

Parquet is the archive: compressed, checked, good to keep and poor to read at random. Training reads
thirty frames out of random sequences all the time, so each node copies one modality of the shards
into one Arrow file that all its workers map; the page cache shares it between them.

Silhouettes lie in it decoded. A data set of the others would be too large for that (a million
frames of RGB are 66 GB), so they stay as the shards hold them, and the groups of frames that a clip
needs are decoded when it is drawn.
By `python -m tests.benchmarks cache` on one core, bytes a frame and ms for a clip of 30 frames out
of 120, in order and at random:

    modality           kept so                      decoded
    silhouettes        267      0.20   0.50         4096     0.003
    silhouettes_128    807      0.38   0.84         16384    0.01
    heatmaps           2249     0.69   1.8          52428    0.10
    heatmaps_redrawn   2606     0.31   0.99         8192     0.006
    rgb, masks         4311     5.8    6.7          65540    0.19
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8
from numpy import ndarray

from raygait.batches.columns import COLUMNS, check_rows, pack, unpack
from raygait.batches.inputs import INPUTS, Modality
from raygait.errors import ShardError
from raygait.shards import reader

_COLUMNS = ("sequence_id", "subject", "condition", "view")
_SIZES = ("num_frames", "height_px", "width_px")
# One cache file is one version: a change of layout gets a new number and so a new file name.
_LAYOUT = 1
# Decoded in the file; a view of it is a clip. Of the others the blobs are copied.
_DECODED: tuple[Modality, ...] = ("silhouettes",)


class FrameCache:
    """One modality of every sequence of a folder of shards, mapped from one Arrow file.

    Args:
        path: File that `open_cache` made.

    Attributes:
        modality: What it holds.
        sequence_ids: One a row.
        subjects: One a row.
        conditions: One a row.
        views: One a row.
        num_frames: Frames of each row.
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.modality: Modality = json.loads(table.schema.metadata[b"raygait"])["modality"]
        self.sequence_ids: list[str] = table["sequence_id"].to_pylist()
        self.subjects: list[str] = table["subject"].to_pylist()
        self.conditions: list[str] = table["condition"].to_pylist()
        self.views: list[str] = table["view"].to_pylist()
        self.num_frames: list[int] = table["num_frames"].to_pylist()
        self._heights: list[int] = table["height_px"].to_pylist()
        self._widths: list[int] = table["width_px"].to_pylist()
        # The buffers of a mapped file are not copied: each is a view of the page cache.
        self._packed = {
            name: [scalar.as_buffer() for scalar in table[name]] for name in INPUTS[self.modality]
        }

    def __len__(self) -> int:
        return len(self.sequence_ids)

    def frame_size_px(self, row: int) -> tuple[int, int]:
        """Rows and columns of the frames of one row."""
        if self.modality == "silhouettes":
            return self._heights[row], self._widths[row]
        height, width = INPUTS[self.modality]["frames"][-2:]
        return height, width

    def frames(self, row: int) -> UInt8[ndarray, "*shape"]:
        """All frames of one row as shards hold them; of silhouettes a read-only view of the file.

        Raises:
            CorruptShard: The file is damaged.
        """
        if self.modality in _DECODED:
            shape = (self.num_frames[row], self._heights[row], self._widths[row])
            return np.frombuffer(self._packed["frames"][row], dtype=np.uint8).reshape(shape)
        only_frames = {"frames": memoryview(self._packed["frames"][row])}
        return unpack(only_frames, self.modality)["frames"]

    def clip(self, row: int, numbers: Int64[ndarray, " t"]) -> dict[str, ndarray]:
        """Some frames of one row and what belongs to them, by the names of `inputs.INPUTS`.

        Args:
            row: Place in the file.
            numbers: Which frames, in which order, repeats allowed.

        Raises:
            CorruptShard: The file is damaged where these frames are.
        """
        if self.modality in _DECODED:
            return {"frames": self.frames(row)[numbers]}
        packed = {name: memoryview(buffers[row]) for name, buffers in self._packed.items()}
        return unpack(packed, self.modality, numbers)


def open_cache(
    shards: Path, *, modality: Modality = "silhouettes", folder: Path | None = None
) -> FrameCache:
    """Map the cache of a folder of shards, building it first where this node has none.

    Workers of one node may call this at the same time: one builds, the others wait for it. The
    file's name holds the shards' digest, so shards that changed get a cache of their own.

    Args:
        shards: Folder of shards that `ingest` wrote.
        modality: What to take of the shards.
        folder: Where caches are kept on this node; `RAYGAIT_CACHE/frames`, or a folder of this
            user below the temporary directory.

    Raises:
        ShardError: A shard cannot be read or does not check out, some rows do not hold the
            modality, or the cache's folder belongs to another user.
    """
    folder = folder or _default_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise ShardError(
            f"{folder} belongs to another user, who could put any frames there; set RAYGAIT_CACHE "
            "to a folder of yours"
        )
    digest = reader.digest(shards)
    path = folder / f"{modality}-{_LAYOUT}-{digest[:32]}.arrow"
    if not path.exists():
        with _lock(path.with_suffix(".lock")):
            if not path.exists():
                _build(shards, modality, path)
    return FrameCache(path)


def _default_folder() -> Path:
    configured = os.environ.get("RAYGAIT_CACHE")
    if configured:
        return Path(configured) / "frames"
    return Path(tempfile.gettempdir()) / f"raygait-{os.getuid()}" / "frames"


def _build(shards: Path, modality: Modality, path: Path) -> None:
    schema = pa.schema(
        [
            *((name, pa.string()) for name in _COLUMNS),
            *((name, pa.int32()) for name in _SIZES),
            *((name, pa.large_binary()) for name in INPUTS[modality]),
        ],
        metadata={"raygait": json.dumps({"layout": _LAYOUT, "modality": modality})},
    )
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                # One shard at a time: memory holds one shard's frames, never the data set's.
                for shard in reader.list_shards(shards):
                    columns = [*_COLUMNS, *_SIZES, *COLUMNS[modality]]
                    rows = reader.read_shard(shard, columns=columns).to_pylist()
                    check_rows(rows, modality, str(shard))
                    if rows:
                        kept = [_cached(row, modality) for row in rows]
                        writer.write_batch(pa.RecordBatch.from_pylist(kept, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _cached(row: dict[str, Any], modality: Modality) -> dict[str, Any]:
    packed = pack(row, modality)
    if modality in _DECODED:
        packed["frames"] = unpack(packed, modality)["frames"].tobytes()
    return {**{name: row[name] for name in (*_COLUMNS, *_SIZES)}, **packed}


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
