import cv2
import numpy as np
import pytest

from raygait.batches import augmentation
from raygait.batches.augmentation import Augmentation, Draw, erase, warp

ALL = Augmentation(1.0, 1.0, 1.0, 1.0)
NOTHING = Draw(matrix=None, box=None)


def draw(kinds: Augmentation, height: int, width: int, source: np.random.Generator) -> Draw:
    return augmentation.draw(kinds, (height, width), (height, width), source)


def apply(frames: np.ndarray, drawn: Draw) -> np.ndarray:
    return erase(warp(frames, drawn), drawn)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clip(t: int = 5, h: int = 64, w: int = 64) -> np.ndarray:
    frames = np.zeros((t, h, w), np.uint8)
    frames[:, h // 8 : h * 7 // 8, w * 3 // 8 : w * 5 // 8] = 255
    frames[:, h // 2 : h * 5 // 8, w * 5 // 8 : w * 3 // 4] = 255  # an arm to the right
    return frames


def test_without_shares_a_clip_stays_as_it_is() -> None:
    for seed in range(20):
        drawn = draw(Augmentation(), 64, 64, generator(seed))
        assert drawn == NOTHING
    np.testing.assert_array_equal(apply(clip(), NOTHING), clip())


def test_all_frames_of_a_clip_are_treated_alike() -> None:
    for seed in range(10):
        result = apply(clip(w=44), draw(ALL, 64, 44, generator(seed)))
        assert result.shape == (5, 64, 44)
        assert (result == result[0]).all()


def test_the_input_is_not_changed() -> None:
    frames = clip()
    apply(frames, draw(ALL, 64, 64, generator()))
    np.testing.assert_array_equal(frames, clip())


def test_a_share_changes_nothing_about_the_other_kinds() -> None:
    alone = Augmentation(rotate_ratio=1.0)
    with_erasing = Augmentation(rotate_ratio=1.0, erase_ratio=1.0)
    a, b = draw(alone, 64, 44, generator(3)), draw(with_erasing, 64, 44, generator(3))
    assert a.matrix is not None
    assert b.matrix is not None
    np.testing.assert_array_equal(a.matrix, b.matrix)
    assert a.box is None
    assert b.box is not None


@pytest.mark.parametrize("ratio", [0.2, 0.7])
def test_each_kind_happens_as_often_as_its_share_says(ratio: float) -> None:
    kinds = {
        "perspective_ratio": lambda drawn: drawn.matrix is not None,
        "affine_ratio": lambda drawn: drawn.matrix is not None,
        "rotate_ratio": lambda drawn: drawn.matrix is not None,
        "erase_ratio": lambda drawn: drawn.box is not None,
    }
    source = generator(1)
    for name, happened in kinds.items():
        kind = Augmentation(**{name: ratio})
        count = sum(happened(draw(kind, 64, 44, source)) for _ in range(1000))
        assert abs(count / 1000 - ratio) < 0.06, name


def test_a_rotation_turns_about_the_centre_by_at_most_ten_degrees() -> None:
    angles = []
    for seed in range(200):
        matrix = draw(Augmentation(rotate_ratio=1.0), 64, 44, generator(seed)).matrix
        assert matrix is not None
        np.testing.assert_allclose(matrix @ [21.5, 31.5, 1.0], [21.5, 31.5, 1.0], atol=1e-9)
        angles.append(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])))
    assert max(map(abs, angles)) <= 10.0
    assert min(angles) < -8.0
    assert max(angles) > 8.0


def test_perspective_never_shows_anything_outside_the_frame() -> None:
    for seed in range(50):
        drawn = draw(Augmentation(perspective_ratio=1.0), 64, 64, generator(seed))
        white = np.full((1, 64, 64), 255, np.uint8)
        assert apply(white, drawn).min() > 250


def test_an_affine_move_shifts_each_corner_by_at_most_the_stated_share() -> None:
    corners = np.array([[0, 0, 1], [63, 0, 1], [63, 63, 1]], dtype=float)
    for seed in range(100):
        matrix = draw(Augmentation(affine_ratio=1.0), 64, 64, generator(seed)).matrix
        assert matrix is not None
        moved = corners @ matrix.T
        assert np.abs(moved[:, :2] - corners[:, :2]).max() <= 10.0 + 1e-4


def test_the_warps_are_one_resampling_in_the_order_perspective_affine_rotation() -> None:
    three = draw(ALL, 64, 64, generator(5)).matrix
    one = [
        draw(Augmentation(**{name: 1.0}), 64, 64, generator(5)).matrix
        for name in ("rotate_ratio", "affine_ratio", "perspective_ratio")
    ]
    np.testing.assert_allclose(three, one[0] @ one[1] @ one[2], atol=1e-9)
    drawn = Draw(matrix=three, box=None)
    np.testing.assert_array_equal(
        apply(clip(1), drawn)[0], cv2.warpPerspective(clip(1)[0], three, (64, 64))
    )


def test_an_erased_box_covers_the_stated_area_inside_the_cut_frame() -> None:
    areas = []
    for seed in range(300):
        drawn = draw(Augmentation(erase_ratio=1.0), 64, 44, generator(seed))
        erased = apply(np.full((2, 64, 44), 255, np.uint8), drawn) == 0
        assert (erased == erased[0]).all()
        rows, columns = erased[0].any(axis=1), erased[0].any(axis=0)
        assert erased[0].sum() == rows.sum() * columns.sum()
        areas.append(erased[0].mean())
    assert 0.04 < min(areas) < 0.07
    assert 0.17 < max(areas) < 0.21


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"erase_ratio \(1.5\)"):
        Augmentation(erase_ratio=1.5)
