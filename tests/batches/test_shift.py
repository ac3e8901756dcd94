import numpy as np
import pytest

from raygait.batches.shift import draw_shifts, shift_frames


def test_a_frame_moves_down_and_right_and_what_moves_in_is_black() -> None:
    frame = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    moved = shift_frames(np.stack([frame] * 4), np.array([[1, 2], [-1, -1], [0, 0], [-3, 0]]))
    assert moved[0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 5, 6]]
    assert moved[1].tolist() == [[6, 7, 8, 0], [10, 11, 12, 0], [0, 0, 0, 0]]
    assert np.array_equal(moved[2], frame)
    assert not moved[3].any()


def test_colours_and_masks_move_together() -> None:
    generator = np.random.default_rng(0)
    masks = generator.integers(0, 2, (6, 8, 8)).astype(np.uint8)
    colours = np.stack([masks, 2 * masks, 3 * masks], axis=-1)
    shifts = draw_shifts(6, 3, generator, probability=1.0)
    moved = shift_frames(colours, shifts)
    for channel in range(3):
        assert np.array_equal(moved[..., channel], (channel + 1) * shift_frames(masks, shifts))


def test_shifts_are_drawn_for_half_of_the_frames_and_reach_both_ends() -> None:
    shifts = draw_shifts(4000, 3, np.random.default_rng(0))
    still = (shifts == 0).all(axis=1).mean()
    assert still == pytest.approx(0.5 + 0.5 / 49, abs=0.03)
    assert (shifts.min(), shifts.max()) == (-3, 3)
    assert np.array_equal(shifts, draw_shifts(4000, 3, np.random.default_rng(0)))
    assert not draw_shifts(50, 3, np.random.default_rng(0), probability=0.0).any()


@pytest.mark.parametrize(
    ("max_shift_px", "probability", "name"),
    [(-1, 0.5, "max_shift_px"), (3, 1.5, "probability"), (3, -0.1, "probability")],
)
def test_numbers_out_of_range_are_refused(max_shift_px: int, probability: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        draw_shifts(5, max_shift_px, np.random.default_rng(0), probability=probability)


def test_another_number_of_shifts_than_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 shifts for 3 frames"):
        shift_frames(np.zeros((3, 4, 4), np.uint8), np.zeros((2, 2), np.int64))
