"""A node-local, memory-mapped copy of the frames that training draws from.

Parquet is the archive: compressed, checked, good to keep and poor to read at random. Training reads
thirty frames out of random sequences all the time, so each node copies one modality of the shards
into one Arrow file that all its workers map; the page cache shares it between them.

Silhouettes lie in it decoded where that is not too large: the folder of caches has a bound
(`RAYGAIT_CACHE_GB`, or half of what the disk could give it), and what is larger than half of the
memory would be read from the disk again and again (OU-MVLP is 27 GB decoded, about 2 GB as shards
hold it). Else, and of the other modalities always (a million frames of RGB are 66 GB), frames stay
as the shards hold them, and the groups of frames that a clip needs are decoded when it is drawn.
Both give the same clips.
By `python -m tests.benchmarks cache` on one core, bytes a frame and ms for a clip of 30 frames out
of 120, in order and at random:

    modality           kept so                      decoded
    silhouettes        267      0.20   0.50         4096     0.003
    silhouettes_128    807      0.38   0.84         16384    0.01
    heatmaps           2249     0.69   1.8          52428    0.10
    heatmaps_redrawn   2606     0.31   0.99         8192     0.006
    rgb, masks         4311     5.8    6.7          65540    0.19

A cache that was cut short or changed is built again, and the log says so. Its checksums lie in a
file beside it. They are compared when a process opens the cache, at 2.4 GB/s a core, unless another
has done so since the node was started and the file is the same by inode, size and time.

Before one is built, caches make room for it, the one that was opened longest ago first. One that a
running process has open stays: each holds a shared lock on the file.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8
from numpy import ndarray

from raygait.batches.columns import COLUMNS, check_rows, pack, unpack
from raygait.batches.inputs import INPUTS, Modality
from raygait.errors import ShardError
from raygait.shards import reader

_log = logging.getLogger(__name__)

_COLUMNS = ("sequence_id", "subject", "condition", "view")
_SIZES = ("num_frames", "height_px", "width_px")
# One cache file is one version: a change of layout gets a new number and so a new file name.
_LAYOUT = 2
# May lie decoded in the file; a view of it is a clip. Of the others the blobs are copied.
_CAN_BE_DECODED: tuple[Modality, ...] = ("silhouettes",)
_NAME = re.compile(rf"({'|'.join(INPUTS)})-\d+-[0-9a-f]{{32}}(-decoded)?\.arrow")
_DISK_SHARE = _MEMORY_SHARE = 0.5
_GB = 10**9
# Identity and Arrow's own bytes of a row; a row of silhouettes takes 30,000 bytes or more.
_BYTES_BESIDE_FRAMES = 500


class FrameCache:
    """One modality of every sequence of a folder of shards, mapped from one Arrow file.

    While it is alive the file is not evicted.

    Args:
        path: File that `open_cache` made.

    Attributes:
        modality: What it holds.
        is_decoded: Frames are views of the file; else they are decoded when they are drawn.
        sequence_ids: One a row.
        subjects: One a row.
        conditions: One a row.
        views: One a row.
        num_frames: Frames of each row.
    """

    def __init__(self, path: Path) -> None:
        held = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, held)
        fcntl.flock(held, fcntl.LOCK_SH)
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        about = json.loads(table.schema.metadata[b"raygait"])
        self.modality: Modality = about["modality"]
        self.is_decoded: bool = about["decoded"]
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
        """All frames of one row as shards hold them; where decoded, a read-only view of the file.

        Raises:
            CorruptShard: The file is damaged.
        """
        if self.is_decoded:
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
        if self.is_decoded:
            return {"frames": self.frames(row)[numbers]}
        packed = {name: memoryview(buffers[row]) for name, buffers in self._packed.items()}
        return unpack(packed, self.modality, numbers)


def open_cache(
    shards: Path,
    *,
    modality: Modality = "silhouettes",
    folder: Path | None = None,
    decoded: bool | None = None,
) -> FrameCache:
    """Map the cache of a folder of shards, building it first where this node has none.

    Workers of one node may call this at the same time: one builds, the others wait for it. The
    file's name holds the shards' digest, so shards that changed get a cache of their own.

    Args:
        shards: Folder of shards that `ingest` wrote.
        modality: What to take of the shards.
        folder: Where caches are kept on this node; `RAYGAIT_CACHE/frames`, or a folder of this
            user below the temporary directory.
        decoded: Whether silhouettes lie decoded in it; left out, their size decides when it is
            built, and what is there is used unless it is above `RAYGAIT_CACHE_GB`.

    Raises:
        ShardError: A shard cannot be read or does not check out, some rows do not hold the
            modality, the cache's folder belongs to another user, or the frames do not fit into it.
        ValueError: `decoded` for a modality that is never kept decoded.
    """
    if decoded and modality not in _CAN_BE_DECODED:
        raise ValueError(f"{modality} are never kept decoded, they would be too large")
    folder = folder or _default_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise ShardError(
            f"{folder} belongs to another user, who could put any frames there; set RAYGAIT_CACHE "
            "to a folder of yours"
        )
    stem = f"{modality}-{_LAYOUT}-{reader.digest(shards)[:32]}"
    layouts = [decoded] if decoded is not None else [True, False]
    if modality not in _CAN_BE_DECODED:
        layouts = [False]
    with _lock(folder / f"{stem}.lock"):
        path = _find(folder, stem, layouts, may_be_large=decoded is not None)
        if path is None:
            # One at a time, as two that look for room would both find the same.
            with _lock(folder / "building.lock"):
                path = _build(
                    shards, modality, folder, stem, layouts, is_chosen=decoded is not None
                )
        os.utime(_beside(path, ".json"))
        return FrameCache(path)


def _default_folder() -> Path:
    configured = os.environ.get("RAYGAIT_CACHE")
    if configured:
        return Path(configured) / "frames"
    return Path(tempfile.gettempdir()) / f"raygait-{os.getuid()}" / "frames"


def _path(folder: Path, stem: str, *, is_decoded: bool) -> Path:
    return folder / f"{stem}{'-decoded' if is_decoded else ''}.arrow"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _find(folder: Path, stem: str, layouts: list[bool], *, may_be_large: bool) -> Path | None:
    """A cache that is there and whole; one that is damaged is removed."""
    bound = _configured_bound()
    for is_decoded in layouts:
        path = _path(folder, stem, is_decoded=is_decoded)
        if not path.exists():
            continue
        if is_decoded and not may_be_large and bound is not None and path.stat().st_size > bound:
            continue
        if _is_whole(path):
            return path
        _log.warning("%s is damaged or was not finished; it is built again from the shards", path)
        _remove(path)
    return None


def _remove(path: Path) -> None:
    for each in (path, _beside(path, ".json"), _beside(path, ".checked")):
        each.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        told = json.loads(_beside(path, ".json").read_text())
        size_bytes, parts = int(told["size_bytes"]), [tuple(map(int, p)) for p in told["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    status = path.stat()
    if status.st_size != size_bytes or not parts or parts[-1][1] != size_bytes:
        return False
    stamp = f"{_boot_id()} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    checked = _beside(path, ".checked")
    if _boot_id() and checked.exists() and checked.read_text(errors="replace") == stamp:
        return True
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        if not all(pool.map(lambda part: _checksum(path, *part[:2]) == part[2], parts)):
            return False
    checked.write_text(stamp)
    return True


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""  # not Linux: checked each time


def _checksum(path: Path, start: int, end: int) -> int:
    checksum, buffer = 0, memoryview(bytearray(2**22))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while start < end:
            count = file.readinto(buffer[: end - start])
            if not count:
                break
            checksum = zlib.crc32(buffer[:count], checksum)
            start += count
    return checksum


class _Kept(NamedTuple):
    """A cache in the folder."""

    path: Path
    size_bytes: int
    last_use: float


def _kept(folder: Path) -> list[_Kept]:
    """All caches, the one opened longest ago first."""
    found = []
    for path in folder.glob("*.arrow"):
        if _NAME.fullmatch(path.name):
            about = _beside(path, ".json")
            # Another process may remove a damaged one meanwhile.
            with contextlib.suppress(FileNotFoundError):
                used = about if about.exists() else path
                found.append(_Kept(path, path.stat().st_size, used.stat().st_mtime))
    return sorted(found, key=lambda kept: kept.last_use)


@contextlib.contextmanager
def _unused(path: Path, own_stem: str) -> Iterator[bool]:
    """Whether no process has the cache open or is about to open it, for as long as we look."""
    stem = path.name.removesuffix(".arrow").removesuffix("-decoded")
    with contextlib.ExitStack() as locks:
        try:
            if stem != own_stem:
                locks.enter_context(_lock(path.with_name(f"{stem}.lock"), fcntl.LOCK_NB))
            file = locks.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            yield False
            return
        yield True


def _make_room(folder: Path, needed_bytes: int, bound_bytes: int, own_stem: str) -> bool:
    """Evict what is unused, oldest first, until the bytes fit; nothing if they never would."""
    kept = _kept(folder)
    in_use = 0
    for each in kept:
        with _unused(each.path, own_stem) as is_unused:
            in_use += 0 if is_unused else each.size_bytes
    total = sum(each.size_bytes for each in kept)
    free = shutil.disk_usage(folder).free
    if needed_bytes > bound_bytes - in_use or needed_bytes > free + total - in_use:
        return False
    for each in kept:
        if total + needed_bytes <= bound_bytes and needed_bytes <= free:
            break
        with _unused(each.path, own_stem) as is_unused:
            if is_unused:
                _log.info("evicting %s, %.2f GB", each.path, each.size_bytes / _GB)
                _remove(each.path)
                total -= each.size_bytes
                free += each.size_bytes
    return total + needed_bytes <= bound_bytes and needed_bytes <= free


def _configured_bound() -> int | None:
    configured = os.environ.get("RAYGAIT_CACHE_GB")
    if not configured:
        return None
    try:
        bound = float(configured)
    except ValueError:
        bound = -1.0
    if not 0 < bound < float("inf"):
        raise ShardError(f"RAYGAIT_CACHE_GB ({configured!r}) has to be a number of GB above 0")
    return int(bound * _GB)


def _bound(folder: Path) -> int:
    """Bytes that all caches may take together."""
    configured = _configured_bound()
    if configured is not None:
        return configured
    held = sum(each.size_bytes for each in _kept(folder))
    return int(_DISK_SHARE * (shutil.disk_usage(folder).free + held))


def _memory_bytes() -> int:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # a container's own limit, "max" if it has none
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical


def _needed_bytes(shards: Path, modality: Modality, *, is_decoded: bool) -> int:
    """About what a cache takes, without a look at the frames."""
    needed = 0
    for shard in reader.list_shards(shards):
        sizes = reader.read_shard(shard, columns=list(_SIZES)).to_pydict()
        needed += _BYTES_BESIDE_FRAMES * len(sizes["num_frames"])
        if is_decoded:
            needed += int(sum(np.prod([sizes[name] for name in _SIZES], axis=0, dtype=np.int64)))
            continue
        about = pq.read_metadata(shard)
        for group in range(about.num_row_groups):
            columns = (about.row_group(group).column(at) for at in range(about.num_columns))
            needed += sum(
                column.total_uncompressed_size
                for column in columns
                if column.path_in_schema.split(".")[0] in COLUMNS[modality]
            )
    return needed


def _build(
    shards: Path,
    modality: Modality,
    folder: Path,
    stem: str,
    layouts: list[bool],
    *,
    is_chosen: bool,
) -> Path:
    # Nobody else builds now: these are of builders that were killed.
    for leftover in folder.glob("*.arrow.tmp-*"):
        leftover.unlink()
    bound = _bound(folder)
    for is_decoded in layouts:
        needed = _needed_bytes(shards, modality, is_decoded=is_decoded)
        if is_decoded and not is_chosen and needed > _MEMORY_SHARE * _memory_bytes():
            continue
        if _make_room(folder, needed, bound, stem):
            path = _path(folder, stem, is_decoded=is_decoded)
            _write(shards, modality, path, is_decoded=is_decoded)
            _log.info("built %s, %.2f GB", path, path.stat().st_size / _GB)
            return path
    raise ShardError(_no_room(shards, modality, folder, needed, bound))


def _no_room(shards: Path, modality: Modality, folder: Path, needed: int, bound: int) -> str:
    kept = sum(each.size_bytes for each in _kept(folder))
    free = shutil.disk_usage(folder).free
    return (
        f"{modality} of {shards} take {needed / _GB:.3f} GB in the cache {folder}, which may hold "
        f"{bound / _GB:.3f} GB and holds {kept / _GB:.3f} GB, with {free / _GB:.3f} GB of the disk "
        "free: set RAYGAIT_CACHE_GB to more, RAYGAIT_CACHE to a folder of a larger disk, or wait "
        "for the runs that use the other caches"
    )


class _Summed:
    """A file that keeps the checksum of what is written to it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = self._size = self._checksum = 0
        self.parts: list[tuple[int, int, int]] = []

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._checksum = zlib.crc32(view, self._checksum)
        self._size += len(view)
        return len(view)

    def end_part(self) -> None:
        """What is written from here on has a checksum of its own."""
        self.parts.append((self._start, self._size, self._checksum))
        self._start, self._checksum = self._size, 0

    def flush(self) -> None:
        self._file.flush()


def _write(shards: Path, modality: Modality, path: Path, *, is_decoded: bool) -> None:
    about = {"layout": _LAYOUT, "modality": modality, "decoded": is_decoded}
    schema = pa.schema(
        [
            *((name, pa.string()) for name in _COLUMNS),
            *((name, pa.int32()) for name in _SIZES),
            *((name, pa.large_binary()) for name in INPUTS[modality]),
        ],
        metadata={"raygait": json.dumps(about)},
    )
    temporary = _beside(path, f".tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            summed = _Summed(file)
            with pa.ipc.new_file(pa.PythonFile(summed, mode="w"), schema) as writer:
                # One shard at a time: memory holds one shard's frames, never the data set's.
                for shard in reader.list_shards(shards):
                    columns = [*_COLUMNS, *_SIZES, *COLUMNS[modality]]
                    rows = reader.read_shard(shard, columns=columns).to_pylist()
                    check_rows(rows, modality, str(shard))
                    if rows:
                        kept = [_cached(row, modality, is_decoded=is_decoded) for row in rows]
                        writer.write_batch(pa.RecordBatch.from_pylist(kept, schema=schema))
                        summed.end_part()
            summed.end_part()
            file.flush()
            os.fsync(file.fileno())
        told = {"size_bytes": summed.parts[-1][1], "parts": summed.parts}
        # First what tells whether it is whole: without it the file counts as unfinished.
        _beside(path, ".json").write_text(json.dumps(told))
        temporary.replace(path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ShardError(
            f"{path.parent}: the disk is full: set RAYGAIT_CACHE to a folder of a larger one"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _cached(row: dict[str, Any], modality: Modality, *, is_decoded: bool) -> dict[str, Any]:
    packed = pack(row, modality)
    if is_decoded:
        packed["frames"] = unpack(packed, modality)["frames"].tobytes()
    return {**{name: row[name] for name in (*_COLUMNS, *_SIZES)}, **packed}


@contextlib.contextmanager
def _lock(path: Path, flags: int = 0) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
        yield
