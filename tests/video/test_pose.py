import numpy as np
import pytest

from raygait.video.pose import CROP_PX, PoseNetwork, Square

WALKER_BOX_PX = np.array([1315, 535, 1515, 940], np.float32)


@pytest.fixture(scope="module")
def network() -> PoseNetwork:
    return PoseNetwork()


@pytest.fixture(scope="module")
def pose(network: PoseNetwork, sports2d_frame):
    return network(Square.around(WALKER_BOX_PX).cut(sports2d_frame, CROP_PX))


def test_a_walker_is_a_person_with_joints(pose) -> None:
    assert pose.person_score > 0.9
    assert pose.joint_score > 0.6


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
    square = Square.around(np.array([100, 200, 140, 300], np.float32))
    assert square.side_px == 125
    assert square.left_px + square.side_px / 2 == pytest.approx(120, abs=0.5)
    assert square.top_px + square.side_px / 2 == pytest.approx(250, abs=0.5)


@pytest.mark.parametrize(
    "square",
    [
        Square(10, 10, 20),
        Square(-8, 5, 20),
        Square(90, 70, 30),
        Square(-10, -10, 200),
        Square(500, 500, 16),
        Square(-60, 20, 16),
    ],
    ids=["inside", "over the left", "over a corner", "round all of it", "beyond", "left of it"],
)
def test_outside_the_frame_a_cut_repeats_the_nearest_pixel(square: Square) -> None:
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    rows = np.clip(np.arange(square.top_px, square.top_px + square.side_px), 0, 79)
    columns = np.clip(np.arange(square.left_px, square.left_px + square.side_px), 0, 99)
    cut = square.cut(image, square.side_px)
    np.testing.assert_array_equal(cut, image[rows][:, columns])


def test_boxes_go_back_to_the_source_frame() -> None:
    box_px = Square(-10, 20, 100).to_frame((0.0, 0.25, 0.5, 1.0))
    np.testing.assert_array_equal(box_px, [-10, 45, 40, 120])
