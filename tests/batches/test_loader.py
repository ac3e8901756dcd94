import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raygait.batches.augmentation import Augmentation
from raygait.batches.cache import FrameCache, open_cache
from raygait.batches.loader import Batch, ClipLoader
from raygait.shards import reader

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cache(walker_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> FrameCache:
    return open_cache(walker_shards, folder=tmp_path_factory.mktemp("cache"))


def _loader(cache: FrameCache, **changes) -> ClipLoader:
    options = {
        "num_subjects": 4,
        "num_sequences": 2,
        "clip_num_frames": 9,
        "clip_order": "ordered",
        "flip_ratio": 0.5,
        "height_px": 64,
        "width_px": 44,
        "seed": 3,
    }
    return ClipLoader(cache, sorted(set(cache.subjects)), **{**options, **changes})


def _equal(a: Batch, b: Batch) -> bool:
    return (
        a.step == b.step
        and all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.inputs | b.inputs)
        and torch.equal(a.labels, b.labels)
    )


def test_a_batch_has_the_models_shape_and_range(cache: FrameCache) -> None:
    batch = _loader(cache).batch(0)
    assert batch.inputs["frames"].shape == (8, 1, 9, 64, 44)
    assert batch.inputs["frames"].dtype == torch.float32
    assert 0 <= float(batch.inputs["frames"].min()) < float(batch.inputs["frames"].max()) <= 1


def test_starting_late_gives_the_same_batches_as_having_run_all_along(cache: FrameCache) -> None:
    all_along = list(_loader(cache).batches(0, 6))
    resumed = list(_loader(cache).batches(4, 6))
    assert [batch.step for batch in all_along] == list(range(6))
    assert all(_equal(a, b) for a, b in zip(all_along[4:], resumed, strict=True))


def test_a_batch_does_not_depend_on_how_the_sequences_are_cut_into_shards(
    cache: FrameCache, walker_shards: Path, tmp_path: Path
) -> None:
    rows = reader.read_rows(walker_shards)
    backwards = rows.take(list(range(len(rows)))[::-1])
    first = reader.list_shards(walker_shards)[0]
    pq.write_table(backwards, tmp_path / first.name)
    # Its size and digest are another shard's; the cache looks at what the file holds.
    (tmp_path / f"{first.stem}.json").write_text(reader.read_summary(first).to_json())
    reader.Manifest({}, {}, (first.stem,)).write(tmp_path)
    other = open_cache(tmp_path, folder=tmp_path / "cache")
    assert other.sequence_ids != cache.sequence_ids
    assert all(
        _equal(a, b)
        for a, b in zip(_loader(cache).batches(0, 4), _loader(other).batches(0, 4), strict=True)
    )


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_together_see_the_batch_that_one_worker_sees(cache, world_size: int) -> None:
    whole = _loader(cache).batch(7)
    shares = [_loader(cache, rank=r, world_size=world_size).batch(7) for r in range(world_size)]
    for place in range(8):
        share = shares[place % world_size]
        assert torch.equal(
            whole.inputs["frames"][place], share.inputs["frames"][place // world_size]
        )
        assert whole.labels[place] == share.labels[place // world_size]


def test_only_training_subjects_are_drawn_and_their_order_is_the_class(cache: FrameCache) -> None:
    subjects = sorted(set(cache.subjects))[1:4]
    loader = ClipLoader(
        cache,
        subjects,
        num_subjects=3,
        num_sequences=4,
        clip_num_frames=9,
        clip_order="ordered",
        flip_ratio=0.0,
        height_px=64,
        width_px=64,
        seed=0,
    )
    batch = loader.batch(0)
    whole = {
        (cache.subjects[row], clip.tobytes())
        for row in range(len(cache))
        for start in range(cache.num_frames[row] - 8)
        for clip in [np.ascontiguousarray(cache.frames(row)[start : start + 9])]
    }
    for frames, label in zip(batch.inputs["frames"], batch.labels.tolist(), strict=True):
        clip = np.rint(frames[0].numpy() * 255).astype(np.uint8)
        assert (subjects[label], clip.tobytes()) in whole


@pytest.mark.parametrize("flip_ratio", [0.0, 1.0])
def test_flipping_mirrors_whole_clips(cache: FrameCache, flip_ratio: float) -> None:
    plain = _loader(cache, flip_ratio=0.0).batch(2).inputs["frames"]
    flipped = _loader(cache, flip_ratio=flip_ratio).batch(2).inputs["frames"]
    assert torch.equal(flipped, plain.flip(-1) if flip_ratio else plain)


def test_half_the_height_is_the_same_clip_averaged_over_squares(cache: FrameCache) -> None:
    whole = _loader(cache).batch(3).inputs["frames"]
    half = _loader(cache, height_px=32, width_px=22).batch(3).inputs["frames"]
    assert half.shape == (8, 1, 9, 32, 22)
    squares = torch.nn.functional.avg_pool3d(whole, (1, 2, 2))
    assert float((half - squares).abs().max()) <= 0.5 / 255 + 1e-6


def test_a_height_that_the_shards_cannot_give_is_an_error(cache) -> None:
    with pytest.raises(ValueError, match="64 px high cannot become 128 px"):
        _loader(cache, height_px=128).batch(0)


def test_lengths_vary_from_step_to_step_and_are_the_same_in_a_batch(cache: FrameCache) -> None:
    loader = _loader(cache, clip_num_frames=6, clip_max_num_frames=10)
    lengths = [loader.batch(step).inputs["frames"].shape[2] for step in range(40)]
    assert set(lengths) == set(range(6, 11))
    other_worker = _loader(cache, clip_num_frames=6, clip_max_num_frames=10, rank=1, world_size=2)
    assert [other_worker.batch(step).inputs["frames"].shape[2] for step in range(5)] == lengths[:5]


def test_augmentation_changes_pixels_and_not_which_frames_a_clip_has(cache: FrameCache) -> None:
    erased = _loader(cache, flip_ratio=0.0, augmentation=Augmentation(erase_ratio=1.0))
    plain = _loader(cache, flip_ratio=0.0)
    for step in range(3):
        a, b = erased.batch(step).inputs["frames"], plain.batch(step).inputs["frames"]
        changed = a != b
        assert changed.any()
        # Where it differs it was erased, in every frame of the clip the same box.
        assert not a[changed].any()
        assert torch.equal(erased.batch(step).labels, plain.batch(step).labels)


def test_augmented_batches_do_not_depend_on_the_number_of_workers(cache: FrameCache) -> None:
    everything = {"augmentation": Augmentation(0.5, 0.5, 0.5, 0.5), "clip_skip_frames": 4}
    whole = _loader(cache, **everything).batch(2).inputs["frames"]
    for rank in range(2):
        share = _loader(cache, rank=rank, world_size=2, **everything).batch(2).inputs["frames"]
        assert torch.equal(whole[rank::2], share)
    assert torch.equal(whole, _loader(cache, num_threads=3, **everything).batch(2).inputs["frames"])


_OPTIONS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**40),
        "clip_order": st.sampled_from(["ordered", "unordered"]),
        # The walkers have 18 frames: clips are shorter and longer than what they are cut from.
        "clip_num_frames": st.integers(1, 25),
        "flip_ratio": st.sampled_from([0.0, 0.5, 1.0]),
        "augmentation": st.sampled_from(
            [
                None,
                Augmentation(0.5, 0.5, 0.5, 0.5),
                Augmentation(0.5, 0.5, 0.5, 0.5, style="opengait"),
            ]
        ),
    }
)


@given(options=_OPTIONS, step=st.integers(0, 10**6))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_one_two_and_four_workers_see_the_same_batch_of_any_recipe(cache, options, step) -> None:
    whole = _loader(cache, **options).batch(step)
    for world_size in (1, 2, 4):
        loaders = [
            _loader(cache, rank=r, world_size=world_size, **options) for r in range(world_size)
        ]
        for rank, share in enumerate([loader.batch(step) for loader in loaders]):
            assert torch.equal(whole.inputs["frames"][rank::world_size], share.inputs["frames"])
            assert torch.equal(whole.labels[rank::world_size], share.labels)


@pytest.mark.parametrize("style", ["papers", "opengait"])
@pytest.mark.parametrize("size_px", [(64, 44), (32, 22)])
def test_a_batch_put_together_on_a_device_is_the_batch_put_together_here(
    cache, style: str, size_px: tuple[int, int]
) -> None:
    options = {
        "augmentation": Augmentation(0.5, 0.5, 0.5, 0.5, style=style),
        "height_px": size_px[0],
        "width_px": size_px[1],
    }
    here, there = _loader(cache, **options), _loader(cache, **options)
    there._device = torch.device("cpu")
    for step in range(3):
        assert _equal(here.batch(step), there.batch(step))


def _loader_threads() -> list[threading.Thread]:
    return [
        thread for thread in threading.enumerate() if thread.name.startswith(("clips", "batches"))
    ]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_no_thread_outlives_the_batches(cache: FrameCache, num_threads: int) -> None:
    loader = _loader(cache, num_threads=num_threads)
    assert len(list(loader.batches(0, 3))) == 3
    assert not _loader_threads()
    stopped_early = loader.batches(0, 1000)
    next(stopped_early)
    assert _loader_threads()
    stopped_early.close()
    assert not _loader_threads()


def test_no_thread_outlives_a_batch_that_cannot_be_made(cache: FrameCache) -> None:
    with pytest.raises(ValueError, match="64 px high cannot become 128 px"):
        next(_loader(cache, height_px=128, num_threads=2).batches(0, 10))
    assert not _loader_threads()


def test_batches_that_are_kept_keep_their_values(cache: FrameCache) -> None:
    loader = _loader(cache)
    kept = list(loader.batches(0, 12))
    first_clip = kept[3].inputs["frames"][0]
    copies = {batch.step: batch.inputs["frames"].clone() for batch in kept}
    del kept
    for step in range(12):
        assert torch.equal(loader.batch(step).inputs["frames"], copies[step])
    assert torch.equal(first_clip, copies[3][0])
