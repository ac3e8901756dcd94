import numpy as np
import pytest

from raygait.synthetic.walkers import Walker, render
from raygait.video.redraw import LIMBS, SIZE_PX, redraw

WALK = render(Walker.from_seed(5), condition="nm-01", view_deg=90, num_frames=12).joints


def slow_canvas(joints: np.ndarray, pairs) -> np.ndarray:
    """The definition, pixel by pixel: a Gaussian of the distance to each limb, by maximum."""
    y, x = np.mgrid[:128, :128].astype(np.float64)
    canvas = np.zeros((128, 128))
    for first, second in pairs:
        (ax, ay, a_score), (bx, by, b_score) = joints[first], joints[second]
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / length, 0, 1) if length >= 1 else 0.0
        distance = np.hypot(x - ax - along * dx, y - ay - along * dy)
        spot = min(a_score, b_score) * np.exp(-(distance**2) / (2 * 8.0**2))
        canvas = np.maximum(canvas, np.where(distance <= 24, spot, 0))
    return canvas


def slow_redraw(joints: np.ndarray) -> np.ndarray:
    """One frame whose joints are all seen: normalise, draw, cut to its rows, average to 64×64."""
    placed = joints.astype(np.float64).copy()
    hips = (joints[11, :2] + joints[12, :2]) / 2
    scale = 85 / (joints[:, 1].max() - joints[:, 1].min())
    placed[:, :2] = (joints[:, :2] - hips) * scale + 64
    maps = []
    for pairs in (LIMBS, [(joint, joint) for joint in range(17)]):
        levels = np.rint(255 * slow_canvas(placed, pairs))
        rows = np.flatnonzero(levels.any(axis=1))
        height = rows[-1] - rows[0] + 1
        left = 64 - height // 2
        cut = levels[rows[0] : rows[0] + height, left : left + height]
        # Every pixel of the result is the mean over what it covers.
        fine = cut.repeat(SIZE_PX, axis=0).repeat(SIZE_PX, axis=1)
        maps.append(fine.reshape(SIZE_PX, height, SIZE_PX, height).mean(axis=(1, 3)))
    return np.stack(maps)


def test_a_pose_is_drawn_as_the_slow_definition_draws_it() -> None:
    drawn = redraw(WALK)
    assert drawn.shape == (12, 2, 64, 64)
    assert drawn.dtype == np.uint8
    for frame in (0, 6):
        np.testing.assert_allclose(drawn[frame], slow_redraw(WALK[frame]), atol=1.5)


def test_place_and_size_in_the_frame_do_not_matter() -> None:
    moved = WALK.copy()
    moved[..., :2] = 3 * moved[..., :2] + (700, -40)
    np.testing.assert_allclose(redraw(moved).astype(int), redraw(WALK), atol=1)


def test_a_weaker_joint_is_drawn_weaker_and_so_are_its_limbs() -> None:
    weak = WALK.copy()
    weak[..., 2] = 0.5
    assert redraw(weak).max() == pytest.approx(redraw(WALK).max() / 2, abs=2)


def test_a_joint_that_was_not_seen_is_put_between_where_it_was() -> None:
    hidden = WALK.copy()
    hidden[5, 15] = (np.nan, np.nan, 0)
    there = WALK.copy()
    there[5, 15, :2] = (WALK[4, 15, :2] + WALK[6, 15, :2]) / 2
    there[5, 15, 2] = 0
    np.testing.assert_array_equal(redraw(hidden), redraw(there))
    assert redraw(hidden)[5].any()


@pytest.mark.parametrize(
    "joints",
    [
        np.full((3, 17, 3), np.nan, np.float32),
        np.zeros((3, 17, 3), np.float32),
        np.tile(np.array([40, 50, 1], np.float32), (3, 17, 1)),
    ],
    ids=["no joint is a number", "none has a score", "all in one place"],
)
def test_a_frame_without_a_pose_is_blank_and_not_a_number_never(joints: np.ndarray) -> None:
    np.testing.assert_array_equal(redraw(joints), np.zeros((3, 2, 64, 64), np.uint8))


def test_no_frames_give_no_maps() -> None:
    assert redraw(np.zeros((0, 17, 3), np.float32)).shape == (0, 2, 64, 64)
