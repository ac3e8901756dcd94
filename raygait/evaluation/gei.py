"""Averaged silhouettes (gait energy images) as embeddings: the plainest baseline there is.

Han and Bhanu, "Individual Recognition Using Gait Energy Image", TPAMI 2006. The nearest neighbour
of an average silhouette needs no training, so a network has to beat it to have learned anything.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from raygait.batches.clips import fit_frames
from raygait.errors import DatasetError
from raygait.evaluation.embed import Embeddings
from raygait.shards import codec, reader

_COLUMNS = ("sequence_id", "subject", "condition", "view")


def average_silhouettes(
    shards: Path,
    *,
    height_px: int,
    width_px: int,
    sequence_ids: Collection[str] | None = None,
) -> Embeddings:
    """The average of each sequence's aligned silhouettes, as one part of height x width numbers.

    Args:
        shards: Folder of shards.
        height_px: Height of a frame as the network that it is compared with sees it.
        width_px: Width of a frame likewise, see `clips.fit_frames`.
        sequence_ids: Leave out other rows; `None` keeps all.

    Raises:
        DatasetError: No row is left.
        ShardError: A shard cannot be read.
    """
    wanted = None if sequence_ids is None else frozenset(sequence_ids)
    rows = []
    for shard in reader.list_shards(shards):
        for row in reader.read_shard(shard, columns=[*_COLUMNS, "silhouettes"]).to_pylist():
            if wanted is None or row["sequence_id"] in wanted:
                frames = codec.decode_silhouettes(row.pop("silhouettes"))
                average = fit_frames(frames, height_px, width_px).mean(axis=0, dtype=np.float32)
                rows.append({**row, "average": average.reshape(1, -1) / np.float32(255)})
    if not rows:
        raise DatasetError(f"{shards}: none of the wanted sequences")
    rows.sort(key=lambda row: row["sequence_id"])
    sequence_ids, subjects, conditions, views = ([row[name] for row in rows] for name in _COLUMNS)
    return Embeddings(
        sequence_ids=sequence_ids,
        subjects=subjects,
        conditions=conditions,
        views=views,
        values=np.stack([row["average"] for row in rows]),
    )
