import cv2
import numpy as np
import pytest

from raygait.video.pose import (
    CROP_PX,
    PoseNetwork,
    Window,
    heatmap_box_px,
    joints_of,
    mean_joint_score,
    to_frame_px,
    to_heatmap_cells,
)

WALKER_BOX_PX = np.array([1315, 535, 1515, 940], np.float32)


@pytest.fixture(scope="module")
def network() -> PoseNetwork:
    return PoseNetwork()


@pytest.fixture(scope="module")
def pose(network: PoseNetwork, sports2d_frame):
    return network(Window.square_around(WALKER_BOX_PX).cut(sports2d_frame, CROP_PX))


def test_a_walker_is_a_person_with_joints(pose) -> None:
    assert pose.person_score > 0.9
    assert mean_joint_score(pose.heatmaps) > 0.6


def test_the_mask_covers_the_walker_and_not_the_lawn(pose) -> None:
    rows, columns = np.nonzero(pose.mask)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert 0.7 < height / CROP_PX < 0.95  # the box is 0.8 of the crop
    assert 0.2 < width / height < 0.7
    assert 0.05 < pose.mask.mean() < 0.25


def test_joints_lie_where_a_standing_body_has_them(pose) -> None:
    assert pose.heatmaps.shape == (17, 64, 48)
    assert pose.heatmaps.dtype == np.uint8
    rows = [int(np.unravel_index(heatmap.argmax(), (64, 48))[0]) for heatmap in pose.heatmaps]
    nose, shoulders, hips, knees, ankles = rows[0], rows[5:7], rows[11:13], rows[13:15], rows[15:]
    assert nose < min(shoulders) <= max(shoulders) < min(hips) <= max(hips) < min(knees)
    assert max(knees) < max(ankles)


def test_joints_lie_on_the_mask(pose) -> None:
    # 64×64 heatmap over the 256×256 crop, columns 8 to 56 of it.
    for joint in (5, 6, 11, 12, 13, 14):
        row, column = np.unravel_index(pose.heatmaps[joint].argmax(), (64, 48))
        around = pose.mask[4 * row - 6 : 4 * row + 10, 4 * (column + 8) - 6 : 4 * (column + 8) + 10]
        assert around.any()


@pytest.mark.parametrize("kind", ["grey", "noise", "lawn"])
def test_things_are_not_people(network: PoseNetwork, sports2d_frame, kind: str) -> None:
    crop = {
        "grey": np.full((CROP_PX, CROP_PX, 3), 128, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 255, (CROP_PX, CROP_PX, 3), np.uint8),
        "lawn": np.ascontiguousarray(sports2d_frame[700:956, 300:556]),
    }[kind]
    assert network(crop).person_score < 0.3


def test_a_square_has_the_centre_of_the_box_and_five_quarters_of_its_height() -> None:
    square = Window.square_around(np.array([100, 200, 140, 300], np.float32))
    assert square.width_px == 125
    assert square.left_px + square.width_px / 2 == pytest.approx(120, abs=0.5)
    assert square.top_px + square.width_px / 2 == pytest.approx(250, abs=0.5)


@pytest.mark.parametrize(
    "square",
    [
        Window(10, 10, 20, 20),
        Window(-8, 5, 20, 20),
        Window(90, 70, 30, 30),
        Window(-10, -10, 200, 200),
        Window(500, 500, 16, 16),
        Window(-60, 20, 16, 16),
    ],
    ids=["inside", "over the left", "over a corner", "round all of it", "beyond", "left of it"],
)
def test_outside_the_frame_a_cut_repeats_the_nearest_pixel(square: Window) -> None:
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    rows = np.clip(np.arange(square.top_px, square.top_px + square.width_px), 0, 79)
    columns = np.clip(np.arange(square.left_px, square.left_px + square.width_px), 0, 99)
    cut = square.cut(image, square.width_px)
    np.testing.assert_array_equal(cut, image[rows][:, columns])


def test_boxes_go_back_to_the_source_frame() -> None:
    box_px = Window(-10, 20, 100, 100).to_frame((0.0, 0.25, 0.5, 1.0))
    np.testing.assert_array_equal(box_px, [-10, 45, 40, 120])


def gaussian_map(x: float, y: float, *, peak: float = 0.9, sigma: float = 2.0) -> np.ndarray:
    rows, columns = np.mgrid[:64, :48]
    distance = (columns - x) ** 2 + (rows - y) ** 2
    return np.rint(255 * peak * np.exp(-distance / (2 * sigma**2))).astype(np.uint8)


@pytest.mark.parametrize(
    ("x", "y"),
    [(20.0, 30.0), (20.3, 29.7), (20.5, 30.5), (0.0, 63.0), (46.4, 1.3)],
    ids=["on a cell", "between", "half way", "in a corner", "near another"],
)
def test_a_joint_is_found_to_a_tenth_of_a_cell(x: float, y: float) -> None:
    joints = joints_of(np.stack([gaussian_map(x, y)] * 17))
    np.testing.assert_allclose(joints[:, :2], np.tile([x, y], (17, 1)), atol=0.1)
    np.testing.assert_allclose(joints[:, 2], 0.9, atol=0.07)


def test_an_empty_map_has_a_joint_of_score_zero() -> None:
    joints = joints_of(np.zeros((17, 64, 48), np.uint8))
    assert (joints[:, 2] == 0).all()
    assert np.isfinite(joints).all()


def test_a_cell_is_the_fourth_pixel_of_the_crop_that_the_network_saw() -> None:
    square = Window(100, 50, 512, 512)  # two frame pixels a crop pixel
    placed = to_frame_px(np.array([[0, 0, 1], [24, 32, 1]], np.float32), square)
    # Column 0 of the maps is column 32 of the crop; its centre, 32.5, is 65 px into the square.
    np.testing.assert_allclose(placed[:, :2], [[164.5, 50.5], [356.5, 306.5]])


def test_joints_come_back_from_the_frame_to_the_cells_they_were_found_in() -> None:
    squares = [Window(100, 50, 512, 512), Window(-7, 3, 91, 91)]
    cells = np.random.default_rng(0).uniform(-3, 60, (2, 17, 3)).astype(np.float32)
    in_frame = np.stack([to_frame_px(*pair) for pair in zip(cells, squares, strict=True)])
    windows_px = np.stack([heatmap_box_px(square) for square in squares])
    np.testing.assert_allclose(to_heatmap_cells(in_frame, windows_px), cells, atol=1e-4)


def test_heatmaps_cover_the_middle_three_quarters_of_the_square() -> None:
    np.testing.assert_array_equal(heatmap_box_px(Window(10, 20, 80, 80)), [20, 20, 80, 100])


def test_a_large_square_is_cut_in_two_steps_that_look_like_one() -> None:
    image = np.random.default_rng(1).integers(0, 255, (1600, 1600, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    square = Window.square_around(np.array([550, 200, 1050, 1320], np.float32))
    assert 1400 <= square.width_px <= 1414
    assert square.width_px % (square.width_px // CROP_PX) == 0
    x0, y0, x1, y1 = square.box_px.astype(int)
    direct = cv2.resize(image[y0:y1, x0:x1], (CROP_PX, CROP_PX), interpolation=cv2.INTER_AREA)
    assert np.abs(square.cut(image, CROP_PX).astype(int) - direct).mean() < 1.5


def test_a_window_of_any_shape_is_made_a_square() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:80, 40:60] = 255
    cut = Window(30, 10, 40, 80).cut(image, 128)
    rows, columns = np.nonzero(cut[..., 0] > 127)
    assert (rows.min(), rows.max() + 1) == (16, 112)
    assert (columns.min(), columns.max() + 1) == (32, 96)


@pytest.mark.parametrize("size", [64, 256], ids=["from a coarse mask", "from a fine mask"])
def test_a_part_of_a_mask_lies_where_the_same_part_of_the_image_does(size: int) -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    cv2.ellipse(image, (150, 120), (25, 70), 10, 0, 360, (255, 255, 255), -1)
    square, window = Window(60, 30, 180, 180), Window(110, 40, 81, 160)
    part = window.part_of(square, square.cut(image, size)[..., 0] > 127, 128)
    direct = window.cut(image, 128)[..., 0] > 127
    assert (part & direct).sum() / (part | direct).sum() > (0.94 if size == 64 else 0.98)


def test_outside_of_what_a_mask_covers_nobody_is() -> None:
    full = np.ones((64, 64), bool)
    part = Window(-50, 0, 100, 100).part_of(Window(0, 0, 100, 100), full, 128)
    assert not part[:, :62].any()
    assert part[2:-2, 66:].all()
