from pathlib import Path

import numpy as np
import pytest
import torch

from raygait.batches.augmentation import Augmentation
from raygait.batches.cache import FrameCache, open_cache
from raygait.batches.loader import Batch, ClipLoader

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
