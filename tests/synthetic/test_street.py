"""A street full of walkers: who hides whom, who stands, and that the truth is what is painted."""

from dataclasses import replace
from itertools import islice, pairwise

import cv2
import numpy as np
import pytest

from raygait.synthetic.backdrop import Backdrop
from raygait.synthetic.street import (
    Passer,
    Pole,
    Street,
    StreetFrame,
    crowd,
    street_camera,
)
from raygait.synthetic.walkers import Walker

SMALL = street_camera(480, 270)


def street(*people: Passer, num_frames: int = 30, poles: tuple[Pole, ...] = ()) -> Street:
    return Street(SMALL, people, num_frames, poles, seed=3)


def across(seed: int, away_m: float, begin_m: float, end_m: float, **kwargs: object) -> Passer:
    y = away_m - SMALL.distance_m
    return Passer(Walker.from_seed(seed), "nm-01", ((begin_m, y), (end_m, y)), **kwargs)


@pytest.fixture(scope="module")
def crossing() -> list[StreetFrame]:
    """Two people who meet in the middle, the first nearer to the camera."""
    return list(
        street(across(1, 8.0, -1.5, 4.0), across(2, 11.0, 2.0, -4.0), num_frames=60).frames()
    )


@pytest.fixture(scope="module")
def small_crowd() -> list[StreetFrame]:
    return list(crowd(1, width_px=480, height_px=270, num_frames=100).frames())


def test_a_seed_renders_the_same_clip_again_and_another_seed_another() -> None:
    scene = crowd(5, width_px=480, height_px=270, num_frames=3)
    first, again = list(scene.frames()), list(scene.frames())
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels, other.labels)
    elsewhere = next(replace(scene, seed=6).frames())
    assert (elsewhere.image != first[0].image).mean() > 0.5
    np.testing.assert_array_equal(elsewhere.labels, first[0].labels)
    walkers = {p.walker.seed for seed in (5, 6) for p in crowd(seed).people}
    assert len(walkers) == 12


def test_a_longer_clip_begins_like_a_shorter_one() -> None:
    scene = street(across(1, 8.0, -1.0, 4.0), num_frames=27)
    longer = list(islice(replace(scene, num_frames=60).frames(), 27))
    np.testing.assert_array_equal(list(scene.frames())[26].image, longer[26].image)


def test_every_tenth_frame_is_as_it_is_in_the_whole_clip() -> None:
    scene = street(across(1, 8.0, -1.0, 4.0), num_frames=31)
    whole, some = list(scene.frames()), list(scene.frames(every=10))
    assert [frame.index for frame in some] == [0, 10, 20, 30]
    for frame in some:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
        np.testing.assert_array_equal(frame.labels, whole[frame.index].labels)


def test_visible_pixels_are_those_of_the_mask_that_nobody_nearer_covers(
    crossing: list[StreetFrame],
) -> None:
    for frame in crossing:
        near, far = frame.people
        assert near.away_m < far.away_m
        np.testing.assert_array_equal(frame.labels == 1, near.mask > 0)
        np.testing.assert_array_equal(frame.labels == 2, (far.mask > 0) & (near.mask == 0))
    ratios = np.array([[p.visible_ratio for p in frame.people] for frame in crossing])
    assert ratios[:, 1].min() < 0.5
    assert ratios[:, 1].max() == 1.0
    assert (ratios[:, 0] == 1.0).all()


def test_the_nearer_of_two_is_painted_over_the_other(crossing: list[StreetFrame]) -> None:
    """Where both are, the picture is as if the farther had never come."""
    alone = street(across(1, 8.0, -1.5, 4.0), num_frames=60).frames()
    compared = 0
    for frame, lonely in zip(crossing, alone, strict=True):
        both = (frame.people[0].mask > 0) & (frame.people[1].mask > 0)
        # The lens mixes pixels at the outline.
        core = cv2.erode(both.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        np.testing.assert_array_equal(frame.image[core], lonely.image[core])
        compared += int(core.sum())
    assert compared > 100


def test_boxes_are_those_of_masks_and_reach_out_of_the_image() -> None:
    camera_edge_m = 0.5 * SMALL.width_px / SMALL.focal_px * 8.0
    scene = street(across(1, 8.0, camera_edge_m - 1.0, 20.0), num_frames=50)
    frames = list(scene.frames())
    first, last = frames[0].people[0], frames[-1].people[0]
    rows, columns = np.nonzero(first.mask)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_array_equal(first.box_px, expected)
    np.testing.assert_array_equal(first.visible_box_px, expected)
    assert first.visible_ratio == 1.0
    index = next(f.index for f in frames if 0.2 < f.people[0].visible_ratio < 0.8)
    leaving = frames[index].people[0]
    assert leaving.box_px[2] > SMALL.width_px
    assert leaving.visible_box_px[2] == SMALL.width_px
    # In an image twice as wide all of the same person is seen, 240 px farther to the right.
    wide = replace(scene, camera=replace(SMALL, width_px=960))
    whole = next(islice(wide.frames(), index, None)).people[0]
    np.testing.assert_array_equal(leaving.box_px, whole.box_px - np.array([240, 0, 240, 0]))
    num_visible = np.count_nonzero(leaving.mask)
    assert leaving.visible_ratio == pytest.approx(num_visible / np.count_nonzero(whole.mask))
    assert last.visible_ratio == 0.0
    assert np.isnan(last.visible_box_px).all()
    assert last.box_px[0] > SMALL.width_px
    assert not last.joints[:, 2].any()


def test_joints_of_a_person_lie_in_the_whole_mask(small_crowd: list[StreetFrame]) -> None:
    checked = 0
    for frame in small_crowd[::10]:
        for person in frame.people:
            for x, y, is_inside in person.joints:
                column, row = round(float(x)), round(float(y))
                if not is_inside or not (1 < column < 478 and 1 < row < 268):
                    continue
                # Eyes and ears are at the skin, where a pixel is all there is.
                around = person.mask[row - 1 : row + 2, column - 1 : column + 2]
                assert around.any(), (frame.index, person.identity)
                checked += 1
    assert checked > 500


def test_people_of_a_crowd_really_cross(small_crowd: list[StreetFrame]) -> None:
    centres = np.array(
        [[(p.box_px[0] + p.box_px[2]) / 2 for p in frame.people] for frame in small_crowd]
    )
    hidden = np.array([[p.visible_ratio for p in frame.people] for frame in small_crowd])
    for near, far in ((0, 1), (2, 3), (4, 5)):
        side = np.sign(centres[:, near] - centres[:, far])
        met = [frame for frame, (a, b) in enumerate(pairwise(side)) if a != b]
        assert met, (near, far)
        assert min(hidden[frame, far] for frame in met) < 0.7


def test_people_of_a_crowd_are_90_to_260_pixels_tall_and_seen_from_many_sides() -> None:
    heights, views = [], []
    for seed in (1, 2):
        scene = crowd(seed, width_px=480, height_px=270, num_frames=60)
        for frame in scene.frames(every=20):
            for person in frame.people:
                # Twice as tall at the usual 960x540.
                heights.append(2 * (person.box_px[3] - person.box_px[1]))
                views.append(person.view_deg)
    assert min(heights) > 85
    assert max(heights) < 275
    assert max(heights) > 1.5 * min(heights)
    assert len({round(view / 45) % 8 for view in views}) >= 5


def test_a_person_who_stands_stays_where_they_are_and_is_not_walking() -> None:
    scene = street(across(1, 8.0, -1.0, 5.0, stands_s=((1.0, 2.0),)), num_frames=75)
    people = [frame.people[0] for frame in scene.frames()]
    middle = np.array([person.joints[11:13, 0].mean() for person in people])
    assert np.ptp(middle[25:51]) < 1.5
    assert [people[t].is_walking for t in (5, 30, 45, 70)] == [True, False, False, True]
    assert middle[24] - middle[0] > 30
    assert middle[74] - middle[50] > 30
    feet = np.array([person.joints[15:17, 0] for person in people])
    apart = np.abs(feet[:, 0] - feet[:, 1])
    assert apart[27:49].max() < 8  # side by side
    assert max(apart[:15].max(), apart[65:].max()) > 20


def test_feet_on_the_ground_do_not_slide() -> None:
    scene = street(across(1, 8.0, -2.0, 5.0), num_frames=75)
    joints = np.array([frame.people[0].joints for frame in scene.frames()])
    body_px = np.diff(joints[:, 11:13, 0].mean(axis=1))
    feet_px = np.diff(joints[:, 15:17, 0], axis=0).min(axis=1)
    assert np.median(feet_px) < 0.25 * np.median(body_px)


def test_who_turns_at_a_corner_comes_back_seen_from_the_other_side() -> None:
    y = 9.0 - SMALL.distance_m
    passer = Passer(Walker.from_seed(1), "nm-01", ((0.0, y), (1.2, y), (-3.0, y)))
    people = [frame.people[0] for frame in street(passer, num_frames=70).frames()]
    assert people[0].view_deg == pytest.approx(270, abs=12)
    assert people[-1].view_deg == pytest.approx(90, abs=12)
    x = [person.joints[11, 0] for person in people]
    assert int(np.argmax(x)) in range(15, 45)
    turned = np.abs(np.diff(np.unwrap([p.view_deg for p in people], period=360)))
    assert turned.max() < 30  # degrees a frame: nobody flips


@pytest.mark.parametrize(
    ("step", "view_deg"), [((-1, 0), 90), ((1, 0), 270), ((0, -1), 0), ((0, 1), 180)]
)
def test_views_are_counted_as_casia_b_counts_them(step: tuple[int, int], view_deg: int) -> None:
    passer = Passer(Walker.from_seed(1), "nm-01", ((0.0, 0.0), (3.0 * step[0], 3.0 * step[1])))
    person = next(street(passer, num_frames=1).frames()).people[0]
    assert (person.view_deg - view_deg + 180) % 360 - 180 == pytest.approx(0, abs=1)
    left_shoulder, right_shoulder = person.joints[5, 0], person.joints[6, 0]
    if view_deg == 0:
        assert left_shoulder > right_shoulder + 5
    elif view_deg == 180:
        assert right_shoulder > left_shoulder + 5


def test_a_pole_hides_who_is_behind_it_and_not_who_is_before_it() -> None:
    poles = (Pole(0.0, 9.5 - SMALL.distance_m, width_m=0.3),)
    near, far = across(1, 7.5, 0.0, 3.0), across(2, 12.0, 0.0, 3.0)
    frame = next(street(near, far, num_frames=1, poles=poles).frames())
    hidden_by_pole = (frame.people[1].mask > 0) & (frame.people[0].mask == 0) & (frame.labels == 0)
    np.testing.assert_array_equal(frame.labels == 1, frame.people[0].mask > 0)
    alone = next(street(far, num_frames=1, poles=poles).frames())
    assert alone.people[0].visible_ratio < 0.75
    assert hidden_by_pole.sum() > 0


def test_the_place_changes_over_time_though_nobody_is_there() -> None:
    frames = [frame.image.astype(int) for frame in street(num_frames=80).frames()]
    noise = np.abs(frames[1] - frames[0])
    assert 1.0 < noise.mean() < 6.0  # the sensor
    light = np.array([frame.mean() for frame in frames])
    assert 0.01 < np.ptp(light) / light.mean() < 0.2
    backdrop = Backdrop(SMALL, 3)
    moving = (backdrop.at(0.0) != backdrop.at(1.3)).any(axis=-1).mean()
    assert 0.02 < moving < 0.4  # a tree and a window, not everything
    smooth = backdrop.at(0.0).astype(float)
    assert smooth.std() > 15


def test_a_walker_casts_a_shadow_beside_the_feet() -> None:
    person = across(1, 8.0, 0.0, 3.0)
    with_person, without = (
        next(street(*people, num_frames=1).frames()) for people in ((person,), ())
    )
    darker = without.image.astype(int).mean(axis=-1) - with_person.image.mean(axis=-1)
    around = cv2.dilate(with_person.people[0].mask, np.ones((3, 3), np.uint8))
    outside = (darker > 15) & (around == 0)
    rows = np.nonzero(outside)[0]
    assert outside.sum() > 100
    feet = with_person.people[0].joints[15:17, 1].mean()
    assert np.quantile(np.abs(rows - feet), 0.95) < 40


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (lambda: street(num_frames=0), "at least 1 frame, got 0"),
        (lambda: street(across(1, 1.0, 0.0, 1.0)), "person 1 comes to 1.0 m from the camera"),
        (
            lambda: street(Passer(Walker.from_seed(1), "nm-01", ((0.0, 0.0),))),
            "person 1 has 1 corners",
        ),
    ],
    ids=["no frame", "into the camera", "no path"],
)
def test_a_scene_that_cannot_be_is_refused(scene, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(scene().frames())
