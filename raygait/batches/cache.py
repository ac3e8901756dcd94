"""A node-local, memory-mapped copy of the frames that training draws from.

Parquet is the archive: compressed, checked, good to keep and poor to read at random. Training reads
thirty frames out of random sequences all the time, so each node decodes the shards once into one
uncompressed Arrow file that all its workers map; the page cache shares it between them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from numpy import ndarray

from raygait.errors import ShardError
from raygait.shards import codec, reader

_COLUMNS = ("sequence_id", "subject", "condition", "view")
# One cache file is one version: a change of layout gets a new number and so a new file name.
_LAYOUT = 1


class FrameCache:
    """Frames of every sequence of a folder of shards, mapped from one Arrow file.

    Args:
        path: File that `open_cache` made.

    Attributes:
        sequence_ids: One a row.
        subjects: One a row.
        conditions: One a row.
        views: One a row.
        num_frames: Frames of each row.
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.sequence_ids: list[str] = table["sequence_id"].to_pylist()
        self.subjects: list[str] = table["subject"].to_pylist()
        self.conditions: list[str] = table["condition"].to_pylist()
        self.views: list[str] = table["view"].to_pylist()
        self.num_frames: list[int] = table["num_frames"].to_pylist()
        self._heights: list[int] = table["height_px"].to_pylist()
        self._widths: list[int] = table["width_px"].to_pylist()
        # The buffers of a mapped file are not copied: each is a view of the page cache.
        self._frames = [scalar.as_buffer() for scalar in table["frames"]]

    def __len__(self) -> int:
        return len(self._frames)

    def frames(self, row: int) -> UInt8[ndarray, "t h w"]:
        """All frames of one row, a read-only view of the mapped file."""
        shape = (self.num_frames[row], self._heights[row], self._widths[row])
        return np.frombuffer(self._frames[row], dtype=np.uint8).reshape(shape)


def open_cache(
    shards: Path, *, modality: Literal["silhouettes"] = "silhouettes", folder: Path | None = None
) -> FrameCache:
    """Map the cache of a folder of shards, building it first where this node has none.

    Workers of one node may call this at the same time: one builds, the others wait for it. The
    file's name holds the shards' digest, so shards that changed get a cache of their own.

    Args:
        shards: Folder of shards that `ingest` wrote.
        modality: Column to decode.
        folder: Where caches are kept on this node; `RAYGAIT_CACHE/frames`, or a folder of this
            user below the temporary directory.

    Raises:
        ShardError: A shard cannot be read or does not check out, or the cache's folder belongs to
            another user.
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


def _build(shards: Path, modality: Literal["silhouettes"], path: Path) -> None:
    schema = pa.schema(
        [
            *((name, pa.string()) for name in _COLUMNS),
            *((name, pa.int32()) for name in ("num_frames", "height_px", "width_px")),
            ("frames", pa.large_binary()),
        ],
        metadata={"raygait": json.dumps({"layout": _LAYOUT, "modality": modality})},
    )
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    columns = [*_COLUMNS, "num_frames", "height_px", "width_px", modality]
    with temporary.open("wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            # One shard at a time: memory holds one shard's frames, never the data set's.
            for shard in reader.list_shards(shards):
                rows = reader.read_shard(shard, columns=columns).to_pylist()
                if not rows:
                    continue
                for row in rows:
                    row["frames"] = codec.decode_silhouettes(row.pop(modality)).tobytes()
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
