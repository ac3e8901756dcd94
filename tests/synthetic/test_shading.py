"""Walkers in colour: the same pixels as their masks, and colours that belong to the person."""

import numpy as np
import pytest

from raygait.synthetic.looks import Cloth, Look
from raygait.synthetic.shading import Light, Painter, make_figure, render_images
from raygait.synthetic.walkers import Walker, render, set_stage

BACKGROUND = (1, 255, 1)  # nothing that is painted is this green


@pytest.mark.parametrize("condition", ["nm-01", "bg-01", "bg-02", "bg-03", "cl-01"])
@pytest.mark.parametrize("view_deg", [0, 45, 90, 180, 300])
def test_what_is_painted_is_the_mask_and_nothing_else(condition: str, view_deg: float) -> None:
    walker = Walker.from_seed(3)
    clip = render(walker, condition=condition, view_deg=view_deg, num_frames=5)
    colour = render_images(
        walker, condition=condition, view_deg=view_deg, num_frames=5, background=BACKGROUND
    )
    is_painted = (colour.images != np.array(BACKGROUND, np.uint8)).any(axis=-1)
    np.testing.assert_array_equal(is_painted, clip.masks > 0)
    np.testing.assert_array_equal(colour.clip.masks, clip.masks)
    np.testing.assert_allclose(colour.clip.joints, clip.joints, atol=1e-3)


def test_a_walker_partly_out_of_the_image_is_painted_as_the_camera_masks_it() -> None:
    """At the border lines are clipped; the painter's smaller canvas must clip them alike."""
    walker, num_frames = Walker.from_seed(5), 60
    stage = set_stage(
        walker,
        condition="cl-02",
        view_deg=70,
        num_frames=num_frames,
        in_place=True,
        width_px=120,
        height_px=90,
    )
    # Through the image from side to side, while rising from below to above it.
    shift_m = np.zeros((num_frames, 3))
    shift_m[:, 0] = np.linspace(-1.5, 1.5, num_frames)
    shift_m[:, 2] = np.linspace(-1.2, 1.2, num_frames)
    figure = make_figure(
        walker,
        stage.walk,
        stage.skeleton,
        stage.solid,
        turn_rad=np.full(num_frames, 0.2),
        shift_m=shift_m,
    )
    painter = Painter(figure, stage.camera, Light((0.0, 0.0, 1.0)))
    masks = stage.camera.masks(figure.placed()) > 0
    num_cut = 0
    for frame, mask in enumerate(masks):
        painted, found = np.zeros_like(mask), painter.paint(frame)
        if found is not None:
            painted[found.window()] = found.mask
        np.testing.assert_array_equal(painted, mask)
        num_cut += bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
    assert num_cut > 20


def test_equal_seeds_look_the_same_and_others_do_not() -> None:
    assert Look.from_seed(4) == Look.from_seed(4)
    assert len({Look.from_seed(seed).top.colour for seed in range(30)}) == 30
    patterns = {Look.from_seed(seed).top.pattern for seed in range(60)}
    assert patterns == {"plain", "bars", "stripes", "checks", "speckle"}


def test_a_face_is_seen_from_ahead_and_hair_from_behind() -> None:
    walker, head = Walker.from_seed(1), {}
    skin, hair = (np.array(part) for part in (Look.from_seed(1).skin, Look.from_seed(1).hair))
    for view_deg in (0, 180):
        clip = render_images(
            walker, condition="nm-01", view_deg=view_deg, num_frames=1, in_place=True
        )
        x, y = clip.clip.joints[0, 0, :2].round().astype(int)
        head[view_deg] = clip.images[0, y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)
    tone = {view_deg: colour / colour.sum() for view_deg, colour in head.items()}
    assert head[0].mean() > 1.5 * head[180].mean()
    assert np.abs(tone[0] - skin / skin.sum()).max() < 0.05
    assert np.abs(tone[180] - hair / hair.sum()).max() < 0.05


def test_an_arm_before_the_trunk_is_seen_and_one_behind_it_is_not() -> None:
    """A bare left forearm that swings past the trunk, from the left and from the right."""
    seed = 7
    look = Look.from_seed(seed)
    assert look.has_short_sleeves
    skin = np.array(look.skin) / sum(look.skin)
    off_skin = {}
    for view_deg in (90, 270):
        clip = render_images(
            Walker.from_seed(seed),
            condition="nm-01",
            view_deg=view_deg,
            num_frames=30,
            in_place=True,
            width_px=640,
            height_px=480,
        )
        joints = clip.clip.joints[..., :2]
        forearms = 0.6 * joints[:, 7:9] + 0.4 * joints[:, 9:11]
        hip_x = joints[:, 11:13, 0].mean(axis=1)
        # Past the trunk, and as far as may be from the other forearm.
        past = np.abs(forearms[:, 0, 0] - hip_x) < 12
        apart = np.abs(forearms[:, 0, 0] - forearms[:, 1, 0]) * past
        frame = int(apart.argmax())
        assert apart[frame] > 20
        x, y = forearms[frame, 0].round().astype(int)
        colour = clip.images[frame, y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)
        off_skin[view_deg] = float(np.abs(colour / colour.sum() - skin).max())
    assert off_skin[90] < 0.03
    assert off_skin[270] > 0.08


def test_limbs_are_lighter_towards_the_sun_and_the_camera() -> None:
    walker = Walker.from_seed(1)  # in plain trousers
    assert Look.from_seed(1).trousers.pattern == "plain"
    clip = render_images(
        walker, condition="nm-01", view_deg=0, num_frames=1, in_place=True, height_px=480
    )
    knee = clip.clip.joints[0, 13, :2].round().astype(int)
    row = clip.images[0, knee[1] - 12].astype(float).mean(axis=1)
    inside = np.flatnonzero(clip.clip.masks[0, knee[1] - 12] > 0)
    left_leg = inside[np.abs(inside - knee[0]) < 12]
    assert row[left_leg].max() > 1.25 * row[left_leg].min()


def test_a_pattern_finer_than_a_pixel_melts_into_one_colour() -> None:
    cloth = Cloth((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bars", 0.06)
    along = np.linspace(0, 1, 500, dtype=np.float32)
    near = cloth.paint(np.zeros_like(along), along, 0.001)
    far = cloth.paint(np.zeros_like(along), along, 0.2)
    assert near.std() > 0.4
    assert far.std() < 0.05
