import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raygait.batches import cache as frame_cache
from raygait.batches.augmentation import Augmentation
from raygait.batches.cache import FrameCache, open_cache
from raygait.batches.loader import ClipLoader
from raygait.errors import ShardError
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


@pytest.mark.ray
def test_both_layouts_give_the_same_clips_and_batches(walker_shards: Path, tmp_path: Path) -> None:
    decoded, encoded = (
        open_cache(walker_shards, folder=tmp_path, decoded=is_decoded)
        for is_decoded in (True, False)
    )
    assert (decoded.is_decoded, encoded.is_decoded) == (True, False)
    assert decoded.sequence_ids == encoded.sequence_ids
    source = np.random.default_rng(0)
    for row, num_frames in enumerate(decoded.num_frames):
        np.testing.assert_array_equal(decoded.frames(row), encoded.frames(row))
        numbers = source.integers(num_frames, size=11)
        np.testing.assert_array_equal(
            decoded.clip(row, numbers)["frames"], encoded.clip(row, numbers)["frames"]
        )
        assert decoded.frame_size_px(row) == encoded.frame_size_px(row) == (64, 64)
    batches = [
        ClipLoader(
            cache,
            sorted(set(cache.subjects)),
            num_subjects=3,
            num_sequences=2,
            clip_num_frames=9,
            clip_order="unordered",
            flip_ratio=0.5,
            height_px=64,
            width_px=44,
            seed=0,
            augmentation=Augmentation(0.5, 0.5, 0.5, 0.5),
        ).batch(3)
        for cache in (decoded, encoded)
    ]
    assert torch.equal(batches[0].inputs["frames"], batches[1].inputs["frames"])
    (path,) = tmp_path.glob("*-decoded.arrow")
    small = path.with_name(path.name.replace("-decoded", ""))
    assert small.stat().st_size < path.stat().st_size / 5


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.arrow"))


def _sizes(shards: Path, folder: Path) -> tuple[int, int]:
    """Bytes of the decoded and the encoded cache."""
    for is_decoded in (True, False):
        open_cache(shards, folder=folder, decoded=is_decoded)
    sizes = sorted(path.stat().st_size for path in folder.glob("*.arrow"))
    return sizes[1], sizes[0]


@pytest.mark.ray
def test_frames_lie_decoded_where_they_fit_and_encoded_where_they_do_not(
    walker_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, encoded = _sizes(walker_shards, tmp_path / "measured")
    assert open_cache(walker_shards, folder=tmp_path / "a").is_decoded
    monkeypatch.setenv("RAYGAIT_CACHE_GB", str(2 * decoded / 1e9))
    assert open_cache(walker_shards, folder=tmp_path / "b").is_decoded
    monkeypatch.setenv("RAYGAIT_CACHE_GB", str(decoded / 2 / 1e9))
    assert not open_cache(walker_shards, folder=tmp_path / "c").is_decoded
    # What is there and larger than the bound is not used, and makes room.
    assert not open_cache(walker_shards, folder=tmp_path / "b").is_decoded
    assert len(_files(tmp_path / "b")) == 1
    monkeypatch.setenv("RAYGAIT_CACHE_GB", str(encoded / 2 / 1e9))
    with pytest.raises(ShardError, match=r"may hold 0\.\d+ GB .* set RAYGAIT_CACHE_GB to more"):
        open_cache(walker_shards, folder=tmp_path / "d")
    assert not _files(tmp_path / "d")


@pytest.mark.ray
def test_frames_larger_than_half_of_the_memory_stay_encoded(
    walker_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, _ = _sizes(walker_shards, tmp_path / "measured")
    monkeypatch.setattr(frame_cache, "_memory_bytes", lambda: 3 * decoded)
    assert open_cache(walker_shards, folder=tmp_path / "a").is_decoded
    monkeypatch.setattr(frame_cache, "_memory_bytes", lambda: decoded)
    assert not open_cache(walker_shards, folder=tmp_path / "b").is_decoded


@pytest.mark.ray
def test_a_disk_without_room_is_said_before_anything_is_written(
    walker_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setenv("RAYGAIT_CACHE_GB", "10")
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda _: full)
    with pytest.raises(ShardError, match=r"with 0\.000 GB of the disk free"):
        open_cache(walker_shards, folder=tmp_path)
    assert not _files(tmp_path)


@pytest.mark.parametrize("configured", ["much", "-1", "0", "nan", "inf"])
def test_a_bound_that_is_no_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str
) -> None:
    monkeypatch.setenv("RAYGAIT_CACHE_GB", configured)
    with pytest.raises(ShardError, match="has to be a number of GB above 0"):
        frame_cache._bound(tmp_path)


def test_other_modalities_are_never_decoded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rgb are never kept decoded"):
        open_cache(tmp_path, modality="rgb", folder=tmp_path, decoded=True)


def _older(folder: Path, name: str, age_s: float) -> Path:
    """A copy of the cache in the folder as if of other shards, opened so long ago."""
    (made, *_) = [path for path in folder.glob("*.arrow") if "f" * 16 not in path.name]
    path = folder / f"silhouettes-2-{name * 16}{'f' * 16}.arrow"
    shutil.copy(made, path)
    shutil.copy(made.with_name(made.name + ".json"), path.with_name(path.name + ".json"))
    when = path.stat().st_mtime - age_s
    os.utime(path.with_name(path.name + ".json"), (when, when))
    return path


@pytest.mark.ray
def test_the_oldest_caches_make_room_and_no_more_than_are_in_the_way(
    walker_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = _sizes(walker_shards, tmp_path / "measured")
    open_cache(walker_shards, folder=tmp_path, decoded=False)
    ages = {
        name: _older(tmp_path, name, age_s) for name, age_s in zip("abc", (10, 30, 20), strict=True)
    }
    stranger = tmp_path / "notes.arrow"
    stranger.write_text("not a cache")
    (own,) = set(tmp_path.glob("*.arrow")) - {*ages.values(), stranger}
    frame_cache._remove(own)
    # Room for three and a half.
    monkeypatch.setenv("RAYGAIT_CACHE_GB", str(3.5 * encoded / 1e9))
    assert not open_cache(walker_shards, folder=tmp_path).is_decoded
    assert {name for name, path in ages.items() if path.exists()} == {"a", "c"}
    assert own.exists()
    assert stranger.exists()


@pytest.mark.ray
def test_a_cache_that_another_process_has_open_is_not_evicted(
    walker_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = _sizes(walker_shards, tmp_path / "measured")
    open_cache(walker_shards, folder=tmp_path, decoded=False)
    oldest, newer = _older(tmp_path, "a", 20), _older(tmp_path, "b", 10)
    (own,) = set(tmp_path.glob("*.arrow")) - {oldest, newer}
    frame_cache._remove(own)
    script = (
        "import sys; from pathlib import Path; from raygait.batches.cache import FrameCache\n"
        "cache = FrameCache(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(oldest)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        monkeypatch.setenv("RAYGAIT_CACHE_GB", str(2.5 * encoded / 1e9))
        open_cache(walker_shards, folder=tmp_path)
        assert oldest.exists()
        assert not newer.exists()
        frame_cache._remove(own)
        monkeypatch.setenv("RAYGAIT_CACHE_GB", str(1.5 * encoded / 1e9))
        with pytest.raises(ShardError, match="wait for the runs that use the other caches"):
            open_cache(walker_shards, folder=tmp_path)
        other.communicate("")
    open_cache(walker_shards, folder=tmp_path)
    assert not oldest.exists()


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _spoil_the_checksums(path: Path) -> None:
    about = path.with_name(path.name + ".json")
    told = json.loads(about.read_text())
    told["parts"][0][2] ^= 1
    about.write_text(json.dumps(told))
    path.with_name(path.name + ".checked").unlink()


def _lose_the_checksums(path: Path) -> None:
    path.with_name(path.name + ".json").unlink()


def _garble_the_checksums(path: Path) -> None:
    path.with_name(path.name + ".json").write_text("[3")


@pytest.mark.ray
@pytest.mark.parametrize("is_decoded", [True, False])
@pytest.mark.parametrize(
    "damage",
    [_flip_a_bit, _cut_short, _spoil_the_checksums, _lose_the_checksums, _garble_the_checksums],
)
def test_a_damaged_cache_is_built_again_and_said(
    walker_shards: Path, tmp_path: Path, caplog, damage, is_decoded: bool
) -> None:
    before = open_cache(walker_shards, folder=tmp_path, decoded=is_decoded)
    frames = [np.array(before.frames(row)) for row in range(len(before))]
    open_cache(walker_shards, folder=tmp_path, decoded=is_decoded)
    del before
    (path,) = tmp_path.glob("*.arrow")
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = open_cache(walker_shards, folder=tmp_path, decoded=is_decoded)
    assert f"{path} is damaged" in caplog.text
    for row, expected in enumerate(frames):
        np.testing.assert_array_equal(again.frames(row), expected)
    caplog.clear()
    open_cache(walker_shards, folder=tmp_path, decoded=is_decoded)
    assert not caplog.text


@pytest.mark.ray
def test_what_a_killed_builder_left_is_removed(walker_shards: Path, tmp_path: Path) -> None:
    left = tmp_path / f"silhouettes-2-{'0' * 32}.arrow.tmp-1"
    left.write_bytes(bytes(1000))
    open_cache(walker_shards, folder=tmp_path)
    assert not left.exists()
