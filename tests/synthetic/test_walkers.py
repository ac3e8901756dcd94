"""Walkers: certain identity, honest bodies, joints inside the outline."""

import dataclasses

import cv2
import numpy as np
import pytest

from raygait.synthetic.body import Body
from raygait.synthetic.camera import Camera
from raygait.synthetic.gait import Gait, joint_angles
from raygait.synthetic.outline import Bag, Coat, outline
from raygait.synthetic.skeleton import pose
from raygait.synthetic.traits import draw, vary
from raygait.synthetic.walkers import (
    COCO_JOINTS,
    Walker,
    parse_condition,
    render,
    render_masks,
    speed_m_s,
)

VIEWS = [0, 36, 90, 126, 180, 234, 270]
CYCLE = np.linspace(0, 2 * np.pi, 40, endpoint=False)


def mean_person() -> tuple[Body, Gait]:
    """Everybody's mean, left and right alike."""

    class Middle(np.random.Generator):
        def standard_normal(self, size: tuple[int, ...]) -> np.ndarray:  # type: ignore[override]
            return np.zeros(size)

    middle = Middle(np.random.PCG64(0))
    return draw(Body, middle), draw(Gait, middle)


def test_equal_seeds_give_equal_bytes_in_any_order_of_calls() -> None:
    calls = [("nm-01", 0.0), ("bg-02", 54.0), ("cl-01", 90.0)]
    one = Walker.from_seed(7)
    forwards = [render_masks(one, condition=c, view_deg=v, num_frames=6) for c, v in calls]
    np.random.default_rng(1).random(100)
    backwards = [
        render_masks(Walker.from_seed(7), condition=c, view_deg=v, num_frames=6)
        for c, v in reversed(calls)
    ]
    for first, second in zip(forwards, reversed(backwards), strict=True):
        assert first.tobytes() == second.tobytes()


def test_rendering_leaves_the_global_random_state_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    render_masks(Walker.from_seed(3), condition="bg-01", view_deg=36, num_frames=2)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_other_seeds_are_other_people() -> None:
    one, other = Walker.from_seed(1), Walker.from_seed(2)
    assert one.body.thigh_ratio != other.body.thigh_ratio
    assert one.gait.stride_hz != other.gait.stride_hz


def test_every_camera_sees_the_same_walk() -> None:
    walker = Walker.from_seed(5)
    walk = walker.walk("nm-02")
    again = walker.walk("nm-02")
    assert walk.start_phase_rad == again.start_phase_rad
    assert walk.body == again.body


def test_walks_of_a_person_differ_less_than_people_do() -> None:
    walkers = [Walker.from_seed(seed) for seed in range(40)]
    walks = [[walker.walk(f"nm-{n:02d}") for n in range(1, 5)] for walker in walkers]
    for name in ("head_height_m", "waist_depth_m", "ankle_radius_m", "stature_m"):
        value = np.array([[getattr(walk.body, name) for walk in row] for row in walks])
        within, between = value.std(axis=1).mean(), value.mean(axis=1).std()
        assert within < 0.6 * between, name
        assert (within > 0.05 * between) == (name != "stature_m"), name
    for name in ("stride_hz", "stride", "pelvis_yaw_deg"):
        value = np.array([[getattr(walk.gait, name) for walk in row] for row in walks])
        assert 0 < value.std(axis=1).mean() < 0.7 * value.mean(axis=1).std(), name
    phases = np.array([[walk.start_phase_rad for walk in row] for row in walks])
    assert np.unique(phases).size == phases.size


def test_bones_keep_their_length_and_belong_to_the_person() -> None:
    walker = Walker.from_seed(11)
    for condition in ("nm-01", "cl-02"):
        walk = walker.walk(condition)
        skeleton = pose(walk.body, joint_angles(walk.gait, CYCLE))
        for upper, lower, ratio in (
            (skeleton.hip, skeleton.knee, walker.body.thigh_ratio),
            (skeleton.knee, skeleton.ankle, walker.body.shank_ratio),
            (skeleton.shoulder, skeleton.elbow, walker.body.upper_arm_ratio),
            (skeleton.elbow, skeleton.wrist, walker.body.forearm_ratio),
        ):
            length = np.linalg.norm(lower - upper, axis=-1)
            np.testing.assert_allclose(length, ratio * walker.body.stature_m, rtol=0.01)


def test_one_foot_is_on_the_ground_and_none_below_it() -> None:
    body, gait = draw(Body, np.random.default_rng(0)), draw(Gait, np.random.default_rng(1))
    skeleton = pose(body, joint_angles(gait, CYCLE))
    soles = np.concatenate([skeleton.heel[..., 2], skeleton.toe[..., 2]], axis=1)
    np.testing.assert_allclose(soles.min(axis=1), body.shoe_radius_m, atol=1e-9)


def test_knees_never_bend_forwards() -> None:
    for seed in range(50):
        gait = draw(Gait, np.random.default_rng(seed))
        assert joint_angles(gait, CYCLE).leg[:, :, 1].min() > 0


def test_legs_are_half_a_cycle_apart_and_arms_swing_against_them() -> None:
    _, gait = mean_person()
    angles = joint_angles(gait, CYCLE)
    np.testing.assert_allclose(np.roll(angles.leg[:, 0], 20, axis=0), angles.leg[:, 1], atol=1e-9)
    left_hip, left_shoulder = angles.leg[:, 0, 0], angles.shoulder[:, 0]
    assert np.corrcoef(left_hip, left_shoulder)[0, 1] < -0.9


def test_mean_gait_is_a_normal_gait() -> None:
    body, gait = mean_person()
    hip, knee, ankle = np.rad2deg(np.moveaxis(joint_angles(gait, CYCLE).leg[:, 0], -1, 0))
    assert (hip.max(), hip.min()) == pytest.approx((33, -9), abs=3)
    assert (knee.max(), knee.min()) == pytest.approx((60, 5), abs=4)
    assert (ankle.max(), ankle.min()) == pytest.approx((10, -17), abs=3)
    walk = dataclasses.replace(Walker.from_seed(0).walk("nm-01"), body=body, gait=gait)
    assert 1.0 < speed_m_s(walk) < 1.6


@pytest.mark.parametrize("view_deg", VIEWS)
@pytest.mark.parametrize("condition", ["nm-01", "bg-01", "cl-01"])
def test_masks_are_one_whole_person_inside_the_image(condition: str, view_deg: float) -> None:
    for seed in range(4):
        masks = render_masks(
            Walker.from_seed(seed), condition=condition, view_deg=view_deg, num_frames=50
        )
        assert masks.shape == (50, 240, 320)
        assert masks.dtype == np.uint8
        assert set(np.unique(masks)) == {0, 255}
        border = np.concatenate([masks[:, [0, -1]].ravel(), masks[:, :, [0, -1]].ravel()])
        assert not border.any()
        for mask in masks[::10]:
            num_labels, _ = cv2.connectedComponents(mask)
            assert num_labels == 2
            rows = np.flatnonzero(mask.any(axis=1))
            assert 50 < rows[-1] - rows[0] < 239


@pytest.mark.parametrize("view_deg", VIEWS)
def test_joints_lie_in_the_mask(view_deg: float) -> None:
    for seed in range(6):
        clip = render(Walker.from_seed(seed), condition="nm-03", view_deg=view_deg, num_frames=20)
        assert clip.joints.shape == (20, len(COCO_JOINTS), 3)
        assert (clip.joints[..., 2] == 1).all()
        # A joint near the skin may round to the pixel next to it.
        grown = [cv2.dilate(mask, np.ones((3, 3), np.uint8)) for mask in clip.masks]
        for mask, joints in zip(grown, clip.joints, strict=True):
            x, y = np.rint(joints[:, :2]).astype(int).T
            outside = [COCO_JOINTS[j] for j in np.flatnonzero(mask[y, x] == 0)]
            assert not outside


def test_left_and_right_joints_are_on_their_sides() -> None:
    joints = render(Walker.from_seed(1), condition="nm-01", view_deg=0, num_frames=10).joints
    for part in ("eye", "ear", "shoulder", "hip"):
        left, right = (COCO_JOINTS.index(f"{side}_{part}") for side in ("left", "right"))
        # The walker comes towards us: the left side is on our right.
        assert (joints[:, left, 0] > joints[:, right, 0]).all()


def test_a_joint_outside_the_image_is_marked() -> None:
    clip = render(
        Walker.from_seed(1),
        condition="nm-01",
        view_deg=90,
        num_frames=4,
        width_px=64,
        height_px=600,
    )
    inside = (clip.joints[..., 0] >= 0) & (clip.joints[..., 0] <= 63)
    inside &= (clip.joints[..., 1] >= 0) & (clip.joints[..., 1] <= 599)
    np.testing.assert_array_equal(clip.joints[..., 2] == 1, inside)


@pytest.mark.parametrize(
    "extra",
    [
        {"bag": Bag("back", 0, 0.1, 0.14, 0.2)},
        {"bag": Bag("hip", 1, 0.15, 0.065, 0.13)},
        {"bag": Bag("hand", 0, 0.15, 0.05, 0.13)},
        {"coat": Coat(0.03, 0.9, 0.03, 0.02)},
        {"coat": Coat(0.022, 0.55, 0.015, 0.008)},
    ],
    ids=["rucksack", "shoulder bag", "handbag", "long coat", "jacket"],
)
def test_bags_and_coats_only_add_to_the_outline(extra: dict) -> None:
    for view_deg in (0, 72, 90, 144):
        walk = Walker.from_seed(4).walk("nm-01")
        skeleton = pose(walk.body, joint_angles(walk.gait, CYCLE))
        camera = Camera(view_deg=view_deg, distance_m=6)
        plain = camera.masks(outline(walk.body, skeleton))
        dressed = camera.masks(outline(walk.body, skeleton, **extra))
        # Outlines are polygons: one around a larger ellipsoid may cut a corner by a pixel.
        lost = np.count_nonzero((plain == 255) & (dressed == 0))
        assert lost < 0.001 * np.count_nonzero(plain)
    assert np.count_nonzero(dressed) > 1.02 * np.count_nonzero(plain)


def test_conditions_enlarge_people() -> None:
    areas = {
        kind: np.mean(
            [
                np.count_nonzero(mask)
                for seed in range(8)
                for mask in render_masks(
                    Walker.from_seed(seed),
                    condition=f"{kind}-01",
                    view_deg=90,
                    num_frames=25,
                    in_place=True,
                )[::5]
            ]
        )
        for kind in ("nm", "bg", "cl")
    }
    assert areas["bg"] > 1.05 * areas["nm"]
    assert areas["cl"] > 1.15 * areas["nm"]


@pytest.mark.parametrize("view_deg", [0, 36, 90, 150])
def test_an_even_walker_from_the_other_side_is_the_mirror_image(view_deg: float) -> None:
    body, gait = mean_person()
    # From a phase grid of 40, half a cycle is 20 frames: left and right have then changed roles.
    solid = outline(body, pose(body, joint_angles(gait, CYCLE)))
    one = Camera(view_deg=view_deg, distance_m=6).masks(solid)
    other = Camera(view_deg=360 - view_deg, distance_m=6).masks(solid)
    mirrored = np.roll(other, 20, axis=0)[:, :, ::-1]
    differing = np.count_nonzero(one != mirrored) / np.count_nonzero(one)
    assert differing < 0.01


def test_an_uneven_walker_is_not_its_mirror_image() -> None:
    body, gait = mean_person()
    gait = dataclasses.replace(gait, arm_swing_deg=np.array([40.0, 2.0]))
    solid = outline(body, pose(body, joint_angles(gait, CYCLE)))
    one = Camera(view_deg=90, distance_m=6).masks(solid)
    other = Camera(view_deg=270, distance_m=6).masks(solid)
    mirrored = np.roll(other, 20, axis=0)[:, :, ::-1]
    assert np.count_nonzero(one != mirrored) / np.count_nonzero(one) > 0.03


def heights_and_middles(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    heights, middles = [], []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        heights.append(rows.max() - rows.min() + 1)
        middles.append(np.median(columns))
    return np.array(heights), np.array(middles)


def test_walkers_come_nearer_pass_by_or_go_away() -> None:
    walker = Walker.from_seed(2)

    def seen(view_deg: float, **settings: bool) -> tuple[np.ndarray, np.ndarray]:
        masks = render_masks(
            walker, condition="nm-01", view_deg=view_deg, num_frames=50, **settings
        )
        return heights_and_middles(masks)

    height, _ = seen(0)
    assert height[-5:].mean() > 1.2 * height[:5].mean()
    height, _ = seen(180)
    assert height[-5:].mean() < 0.85 * height[:5].mean()
    _, middle = seen(90)
    assert middle[0] - middle[-1] > 100
    height, middle = seen(90, in_place=True)
    assert np.ptp(middle) < 20
    assert height.min() > 0.93 * height.max()


def test_a_side_view_shows_the_stride_and_a_front_view_does_not() -> None:
    walker = Walker.from_seed(9)

    def spread_of_widths(view_deg: float) -> float:
        masks = render_masks(
            walker, condition="nm-01", view_deg=view_deg, num_frames=30, in_place=True
        )
        widths = masks[:, 170:].any(axis=1).sum(axis=1)
        return float(np.ptp(widths))

    assert spread_of_widths(90) > 2.5 * spread_of_widths(0)


def test_cadence_is_the_period_of_the_silhouette() -> None:
    walker = Walker.from_seed(12)
    stride_hz = walker.walk("nm-01").gait.stride_hz
    masks = render_masks(walker, condition="nm-01", view_deg=90, num_frames=250, in_place=True)
    widths = masks[:, 170:].any(axis=1).sum(axis=1).astype(float)
    power = np.abs(np.fft.rfft(widths - widths.mean()))
    # Two steps a stride look alike from the side; 250 frames at 25 a second resolve 0.1 Hz.
    assert np.fft.rfftfreq(250, 1 / 25)[power.argmax()] == pytest.approx(2 * stride_hz, abs=0.1)


def test_varying_a_person_moves_only_what_varies() -> None:
    body = draw(Body, np.random.default_rng(3))
    varied = vary(body, np.random.default_rng(4))
    assert varied.thigh_ratio == body.thigh_ratio
    assert varied.waist_depth_m != body.waist_depth_m
    assert varied.waist_depth_m == pytest.approx(body.waist_depth_m, rel=0.1)


def test_nobody_is_beyond_human_measure() -> None:
    people = [draw(Body, np.random.default_rng(seed)) for seed in range(200)]
    statures = [person.stature_m for person in people]
    assert 1.5 < min(statures) < 1.6 < 1.75 < max(statures) < 1.9


@pytest.mark.parametrize("condition", ["nm-1", "nm", "xx-01", "NM-01", "nm-01 ", "nm-001", ""])
def test_conditions_of_another_form_are_refused(condition: str) -> None:
    with pytest.raises(ValueError, match="nm-, bg- or cl-"):
        parse_condition(condition)


def test_a_clip_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 frame"):
        render(Walker.from_seed(0), condition="nm-01", view_deg=0, num_frames=0)
