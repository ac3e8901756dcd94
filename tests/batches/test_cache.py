import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from raygait.batches.cache import FrameCache, open_cache
from raygait.shards import codec, reader


def _open(shards: Path, folder: Path) -> list[int]:
    return open_cache(shards, folder=folder).num_frames


@pytest.mark.ray
def test_the_cache_holds_every_row_bit_for_bit(walker_shards: Path, tmp_path: Path) -> None:
    cache = open_cache(walker_shards, folder=tmp_path)
    rows = reader.read_rows(walker_shards).to_pylist()
    assert len(cache) == len(rows) > 0
    by_id = {row["sequence_id"]: row for row in rows}
    for number, sequence_id in enumerate(cache.sequence_ids):
        row = by_id[sequence_id]
        assert cache.subjects[number] == row["subject"]
        assert cache.views[number] == row["view"]
        np.testing.assert_array_equal(
            cache.frames(number), codec.decode_silhouettes(row["silhouettes"])
        )


@pytest.mark.ray
def test_frames_are_views_of_the_mapped_file_and_read_only(
    walker_shards: Path, tmp_path: Path
) -> None:
    frames = open_cache(walker_shards, folder=tmp_path).frames(0)
    assert not frames.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        frames[0, 0, 0] = 1


@pytest.mark.ray
def test_workers_that_open_it_at_once_build_it_once(walker_shards: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        seen = pool.starmap(_open, [(walker_shards, tmp_path)] * 3)
    assert seen[0] == seen[1] == seen[2]
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.ray
def test_a_second_opening_does_not_build_again(walker_shards: Path, tmp_path: Path) -> None:
    open_cache(walker_shards, folder=tmp_path)
    (path,) = tmp_path.glob("*.arrow")
    before = path.stat()
    open_cache(walker_shards, folder=tmp_path)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(FrameCache(path)) > 0
