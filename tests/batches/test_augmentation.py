import cv2
import numpy as np
import pytest
import torch

from raygait.batches import augmentation
from raygait.batches.augmentation import Augmentation, Draw, warp, warp_clip
from raygait.batches.inputs import fit_clip, mirror_clip
from raygait.batches.on_device import silhouettes_as_seen

ALL = Augmentation(1.0, 1.0, 1.0, 1.0)
OPENGAIT = Augmentation(1.0, 1.0, 1.0, 1.0, style="opengait")
NOTHING = Draw()


def draw(kinds: Augmentation, height: int, width: int, source: np.random.Generator) -> Draw:
    return augmentation.draw(kinds, (height, width), (height, width), source)


def apply(frames: np.ndarray, drawn: Draw) -> np.ndarray:
    result = warp_clip(frames, drawn.matrix).copy()
    if drawn.box is not None:
        result[:, drawn.box[0], drawn.box[1]] = 0
    return result


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
    expected = cv2.warpPerspective(clip(1)[0], three, (64, 64)).astype(int)
    # One level where the exact value lies half way between two.
    assert np.abs(apply(clip(1), drawn)[0] - expected).max() <= 1


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


@pytest.mark.parametrize("width_px", [64, 44, 22])
def test_only_the_columns_that_are_kept_are_computed_and_are_the_same(width_px: int) -> None:
    matrix = draw(ALL, 64, 64, generator(7)).matrix
    whole = warp_clip(clip(), matrix)
    left = (64 - width_px) // 2
    np.testing.assert_array_equal(warp_clip(clip(), matrix, width_px), whole[..., left : 64 - left])
    np.testing.assert_array_equal(warp_clip(clip(), None, width_px), clip()[..., left : 64 - left])


def test_clips_warped_together_are_the_clips_warped_alone() -> None:
    clips = np.stack([clip(), clip()[..., ::-1], 255 - clip()])
    matrices = np.stack([draw(ALL, 64, 64, generator(seed)).matrix for seed in range(3)])
    together = warp(torch.from_numpy(clips), matrices, 44).numpy()
    for frames, matrix, warped in zip(clips, matrices, together, strict=True):
        np.testing.assert_array_equal(warp_clip(frames.copy(), matrix, 44), warped)


@pytest.mark.parametrize("kinds", [ALL, OPENGAIT, Augmentation(0.5, 0.5, 0.5, 0.5)])
@pytest.mark.parametrize("size_px", [(64, 44), (64, 64), (32, 22), (16, 12)])
def test_a_batch_on_a_device_has_the_pixels_of_its_clips_one_by_one(
    kinds: Augmentation, size_px: tuple[int, int]
) -> None:
    source = generator(2)
    stored = source.integers(0, 256, (6, 4, 64, 64)).astype(np.uint8)
    drawn = [augmentation.draw(kinds, (64, 64), size_px, source) for _ in stored]
    mirrored = [True, False, True, True, False, False]
    before = stored.copy()
    seen = silhouettes_as_seen(torch.from_numpy(stored), drawn, mirrored, size_px).numpy()
    np.testing.assert_array_equal(stored, before)
    for frames, each, is_mirrored, result in zip(stored, drawn, mirrored, seen, strict=True):
        kept_px = 64 // size_px[0] * size_px[1]
        one = fit_clip({"frames": warp_clip(frames, each.matrix, kept_px)}, "silhouettes", *size_px)
        one = mirror_clip(one, "silhouettes") if is_mirrored else one
        expected = warp_clip(one["frames"][0].copy(), each.turn).copy()
        if each.box is not None:
            expected[:, each.box[0], each.box[1]] = 0
        np.testing.assert_array_equal(result[0], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kinds", [ALL, OPENGAIT])
def test_a_gpu_shows_the_same_clips_to_one_level(kinds: Augmentation) -> None:
    source = generator(3)
    stored = source.integers(0, 256, (16, 30, 64, 64)).astype(np.uint8)
    drawn = [augmentation.draw(kinds, (64, 64), (64, 44), source) for _ in stored]
    here, there = (
        silhouettes_as_seen(torch.from_numpy(stored).to(device), drawn, [True] * 16, (64, 44))
        for device in ("cpu", "cuda")
    )
    off = (here.int() - there.cpu().int()).abs()
    # A second resampling may take a level that was off by one further, by its weight at most.
    assert int(off.max()) <= (1 if kinds is ALL else 2)
    assert float((off > 0).float().mean()) < 1e-3


def _opengait(seed: int, **shares: float) -> Draw:
    kinds = Augmentation(**shares, style="opengait")
    return augmentation.draw(kinds, (64, 64), (64, 44), generator(seed))


def test_opengaits_perspective_shows_whole_pixels_of_both_edges() -> None:
    shown = set()
    for seed in range(400):
        matrix = _opengait(seed, perspective_ratio=1.0).matrix
        assert matrix is not None
        corners = (
            np.linalg.inv(matrix)
            @ np.array([[0, 0, 1], [64, 0, 1], [64, 64, 1], [0, 64, 1]], float).T
        )
        x, y = corners[:2] / corners[2]
        np.testing.assert_allclose(y, [0, 0, 64, 64], atol=1e-4)
        np.testing.assert_allclose(x, np.rint(x), atol=1e-4)
        shown.update(enumerate(np.rint(x).astype(int).tolist()))
    left, right = set(range(10)), set(range(54, 64))
    assert [{x for at, x in shown if at == corner} for corner in range(4)] == [
        left,
        right,
        right,
        left,
    ]


def test_opengait_turns_the_cut_frame_about_column_32_of_row_22() -> None:
    for seed in range(20):
        drawn = _opengait(seed, rotate_ratio=1.0)
        assert drawn.matrix is None
        assert drawn.turn is not None
        np.testing.assert_allclose(drawn.turn @ [32, 22, 1], [32, 22, 1], atol=1e-9)
        assert abs(np.degrees(np.arctan2(drawn.turn[0, 1], drawn.turn[0, 0]))) <= 10


def test_opengaits_affine_moves_corners_inwards_by_less_than_ten_pixels() -> None:
    for seed in range(50):
        matrix = _opengait(seed, affine_ratio=1.0).matrix
        assert matrix is not None
        # Of 9 px at most on both sides, seen from a corner that is 9 px in.
        moved = matrix @ [32, 32, 1]
        assert np.abs(moved[:2] - 32).max() <= 9


def test_opengaits_boxes_fit_and_their_aspect_is_uniform() -> None:
    aspects, areas = [], []
    for seed in range(2000):
        box = _opengait(seed, erase_ratio=1.0).box
        assert box is not None
        rows, columns = box[0].stop - box[0].start, box[1].stop - box[1].start
        assert rows < 64
        assert columns < 44
        assert 0 <= box[0].start <= box[0].stop <= 64
        assert 0 <= box[1].start <= box[1].stop <= 44
        aspects.append(rows / columns)
        areas.append(rows * columns / (64 * 44))
    assert min(areas) > 0.04
    assert max(areas) < 0.21
    # Uniform over 0.3 to 3.3: the middle is 1.8; uniform in the logarithm it would be 1.0.
    assert 1.6 < np.median(aspects) < 2.0


def test_a_share_changes_nothing_about_the_other_kinds_like_opengait_either() -> None:
    alone, with_more = (
        _opengait(3, rotate_ratio=1.0),
        _opengait(3, rotate_ratio=1.0, erase_ratio=1.0),
    )
    np.testing.assert_array_equal(alone.turn, with_more.turn)
    np.testing.assert_array_equal(
        _opengait(4, affine_ratio=1.0).matrix,
        _opengait(4, affine_ratio=1.0, rotate_ratio=1.0).matrix,
    )
