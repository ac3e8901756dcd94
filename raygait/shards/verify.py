"""Look at every byte of a folder of shards and say what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygait.errors import ShardError
from raygait.shards import codec, reader


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        shard: File name; empty when the folder is meant.
        sequence_id: Row; empty when the whole shard is meant.
        problem: What was found and what was expected.
    """

    shard: str
    sequence_id: str
    problem: str


_DECODERS: Mapping[str, Callable[[bytes], NDArray[np.uint8]]] = {
    "silhouettes": codec.decode_silhouettes,
    "silhouettes_128": codec.decode_silhouettes,
    "heatmaps": codec.decode_heatmaps,
    "heatmaps_redrawn": codec.decode_heatmaps,
    "rgb": codec.decode_crops,
    "rgb_masks": codec.decode_silhouettes,
}
# Values a frame of every list column.
_VALUES_PER_FRAME = {
    "frame_indices": 1,
    "boxes_px": 4,
    "heatmap_windows_px": 4,
    "rgb_windows_px": 4,
    "rgb_ratio": 1,
    "joints": 3 * 17,
    "person_score": 1,
    "joint_score": 1,
    "mask_area_ratio": 1,
    "mask_height_px": 1,
    "largest_part_ratio": 1,
    "sharpness": 1,
    "is_cut": 1,
    "is_walking": 1,
}
# Columns of which none is there without the others.
_TOGETHER = (("heatmaps", "heatmap_scale"), ("rgb", "rgb_masks", "rgb_ratio"))


def verify(root: Path) -> list[Finding]:
    """Check a folder of shards: files, pages, blobs, counts, digests, unique sequence ids.

    Memory holds one row group and its decoded frames.

    Args:
        root: Folder that `ingest` wrote.

    Returns:
        What is wrong, empty when nothing is. Damage is a finding, not an error.

    Raises:
        ShardError: The folder holds no shards at all, or an unknown format version.
    """
    shards = reader.list_shards(root, unfinished=True)
    findings = []
    try:
        reader.list_shards(root)
    except ShardError as error:
        findings.append(Finding("", "", str(error)))
    owners: dict[str, str] = {}
    for shard in shards:
        try:
            findings.extend(_check_shard(shard, owners))
        except ShardError as error:
            findings.append(Finding(shard.name, "", str(error)))
    return findings


def _check_shard(shard: Path, owners: dict[str, str]) -> Iterator[Finding]:
    summary = reader.read_summary(shard)
    with shard.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != summary.sha256:
        yield Finding(shard.name, "", f"SHA-256 {sha256}, the sidecar says {summary.sha256}")
    num_rows = num_frames = 0
    left_out: Counter[str] = Counter()
    for row in reader.iterate_rows(shard):
        num_rows += 1
        num_frames += row["num_frames"]
        left_out.update(row["left_out_reasons"])
        name = row["sequence_id"]
        if name in owners:
            yield Finding(shard.name, name, f"the same sequence is also in {owners[name]}")
        owners[name] = shard.name
        for problem in _check_row(row):
            yield Finding(shard.name, name, problem)
    if (num_rows, num_frames) != (summary.num_rows, summary.num_frames):
        yield Finding(
            shard.name,
            "",
            f"{num_rows} rows and {num_frames} frames, the sidecar says {summary.num_rows} and "
            f"{summary.num_frames}",
        )
    if summary.left_out not in (None, tuple(sorted(left_out.items()))):
        yield Finding(shard.name, "", "frames left out are not those that the sidecar counts")
    rejects = reader.read_shard_rejects(shard).to_pylist()
    tally = Counter((row["stage"], row["reason"]) for row in rejects)
    if tuple((*key, number) for key, number in sorted(tally.items())) != summary.rejects:
        yield Finding(shard.name, "", "its rejects are not those that the sidecar counts")


def _check_row(row: Mapping[str, Any]) -> Iterator[str]:
    num_frames = row["num_frames"]
    for column, decode in _DECODERS.items():
        if row[column] is None:
            continue
        try:
            shape = decode(row[column]).shape
        except ShardError as error:
            yield str(error)
            continue
        if shape[0] != num_frames:
            yield f"{column} has {shape[0]} frames, num_frames says {num_frames}"
        size = (row["height_px"], row["width_px"])
        if column == "silhouettes" and shape[1:] != size:
            yield f"{column} are {shape[1:]}, height_px and width_px say {size}"
    for column, values in _VALUES_PER_FRAME.items():
        if row[column] is not None and len(row[column]) != values * num_frames:
            yield f"{column} has {len(row[column])} values for {num_frames} frames"
    for columns in _TOGETHER:
        if len({row[column] is None for column in columns}) > 1:
            yield f"{' and '.join(columns)} must be there together"
    if len(row["left_out_indices"]) != len(row["left_out_reasons"]):
        yield "left_out_indices and left_out_reasons must be of one length"
