import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygait.batches.clips import clip_frames, cut_columns, fit_frames, scale_to_unit


def _generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(num_frames=st.integers(1, 90), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_an_ordered_clip_is_consecutive_and_wraps_only_when_the_sequence_is_short(
    num_frames: int, length: int, seed: int
) -> None:
    frames = clip_frames(num_frames, length, "ordered", _generator(seed))
    assert len(frames) == length
    assert set(np.diff(frames).tolist()) <= ({1} if num_frames >= length else {1, 1 - num_frames})


@given(num_frames=st.integers(1, 90), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_an_unordered_clip_uses_every_frame_before_any_twice(
    num_frames: int, length: int, seed: int
) -> None:
    frames = clip_frames(num_frames, length, "unordered", _generator(seed))
    counts = np.bincount(frames, minlength=num_frames)
    assert len(frames) == length
    assert counts.max() - counts.min() <= 1


def test_every_start_of_an_ordered_clip_is_drawn() -> None:
    starts = {int(clip_frames(34, 30, "ordered", _generator(seed))[0]) for seed in range(200)}
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("order", ["ordered", "unordered"])
def test_a_sequence_without_frames_is_refused(order) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        clip_frames(0, 30, order, _generator())


def test_the_cut_keeps_the_middle_columns() -> None:
    frames = np.tile(np.arange(64, dtype=np.uint8), (2, 3, 1))
    assert cut_columns(frames, 44)[0, 0].tolist() == list(range(10, 54))
    assert cut_columns(frames, 64).shape == frames.shape


@pytest.mark.parametrize("width_px", [65, 43])
def test_a_cut_that_is_wider_or_uneven_is_refused(width_px: int) -> None:
    with pytest.raises(ValueError, match=f"cannot cut {width_px}"):
        cut_columns(np.zeros((1, 64, 64), dtype=np.uint8), width_px)


def test_fitting_averages_over_squares_and_rounds_to_nearest() -> None:
    frame = np.array([[0, 1, 9, 9], [1, 1, 9, 8], [0, 0, 255, 255], [0, 1, 255, 255]], np.uint8)
    assert fit_frames(frame[None], 2, 2).tolist() == [[[1, 9], [0, 255]]]
    np.testing.assert_array_equal(fit_frames(frame[None], 4, 2), frame[None, :, 1:3])


@pytest.mark.parametrize("height_px", [3, 8])
def test_a_height_that_is_no_whole_fraction_is_refused(height_px: int) -> None:
    with pytest.raises(ValueError, match=f"4 px high cannot become {height_px} px"):
        fit_frames(np.zeros((1, 4, 4), dtype=np.uint8), height_px, 2)


def test_scaling_maps_black_to_0_and_white_to_1_in_single_precision() -> None:
    scaled = scale_to_unit(np.array([0, 51, 255], dtype=np.uint8))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [0, 0.2, 1], rtol=1e-7)


def test_an_ordered_clip_with_skips_is_sorted_frames_of_a_longer_window() -> None:
    for seed in range(50):
        numbers = clip_frames(100, 30, "ordered", np.random.default_rng(seed), skip=10)
        assert len(numbers) == 30
        steps = np.diff(numbers)
        assert (steps >= 1).all()
        assert numbers[-1] - numbers[0] <= 39
        assert steps.max() > 1


def test_a_clip_with_skips_of_a_short_sequence_goes_round() -> None:
    numbers = clip_frames(8, 12, "ordered", np.random.default_rng(0), skip=4)
    assert len(numbers) == 12
    assert set(numbers) <= set(range(8))
    # Of 16 frames in a row, twice round, 12 remain in their order.
    assert sum(after < before for before, after in itertools.pairwise(numbers)) <= 2


@pytest.mark.parametrize(
    ("num_frames", "skip", "starts"),
    [
        pytest.param(20, 0, set(range(11)), id="two rounds are ten frames longer than the clip"),
        pytest.param(15, 0, {0}, id="two rounds are the clip"),
        pytest.param(30, 0, {0}, id="one round is the clip"),
        pytest.param(12, 4, {0, 1, 2}, id="three rounds are two frames longer than the window"),
    ],
)
def test_a_short_sequence_is_entered_where_whole_rounds_leave_room(
    num_frames: int, skip: int, starts: set[int]
) -> None:
    found = set()
    for seed in range(300):
        numbers = clip_frames(num_frames, 30, "ordered", _generator(seed), skip=skip)
        # With frames left out only windows whose first frame stayed say where they began.
        if skip == 0 or (np.diff(numbers[:8]) % num_frames == 1).all():
            found.add(int(numbers[0]))
    assert starts <= found
    assert skip or found == starts


def test_every_choice_of_the_frames_of_a_window_is_drawn_about_equally_often() -> None:
    counts = np.zeros(14)
    for seed in range(2000):
        counts[clip_frames(14, 10, "ordered", _generator(seed), skip=4)] += 1
    # 10 of 14 frames: 1429 each, binomial spread about 20.
    assert np.abs(counts - 2000 * 10 / 14).max() < 100
