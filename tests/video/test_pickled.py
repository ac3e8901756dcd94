"""Leaves of pickles: what each array is taken for, what is kept bit for bit, what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raygait.errors import BadArray, EmptySilhouette, NotAMask, UnsafePickle
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.alignment import align
from raygait.video.pickled import halved, read_pickles
from raygait.video.redraw import redraw

T = 5


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, (T, *shape), np.uint8)


SILHOUETTES, NARROW, LARGE = _bytes(64, 64), _bytes(64, 44), _bytes(128, 128)
RGB, REDRAWN, HEATMAPS = _bytes(3, 128, 128), _bytes(2, 64, 64), _bytes(17, 64, 48)
RATIOS = np.linspace(0.3, 0.6, T)
JOINTS = np.random.default_rng(0).uniform(0, 200, (T, 17, 3))


def leaf(folder: Path, **arrays: object) -> Path:
    """Pickles named by keyword, `_` for `-`."""
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        content = array if isinstance(array, bytes) else pickle.dumps(array)
        (folder / f"{name.replace('_', '-')}.pkl").write_bytes(content)
    return folder


def test_one_array_of_silhouettes_comes_out_bit_for_bit(tmp_path: Path) -> None:
    found = read_pickles(leaf(tmp_path, v090=SILHOUETTES))
    assert (found.silhouettes == SILHOUETTES).all()
    assert found.frame_indices.tolist() == list(range(T))
    assert np.isnan(found.boxes_px).all()
    assert np.isnan(found.fps)
    assert found.rgb is found.heatmaps is found.silhouettes_128 is None


def test_a_single_file_is_a_leaf_of_its_own(tmp_path: Path) -> None:
    found = read_pickles(leaf(tmp_path, walk=SILHOUETTES) / "walk.pkl")
    assert (found.silhouettes == SILHOUETTES).all()


@pytest.mark.parametrize(
    "view", ["raw", "pose", "hw", "sync", "aligned_rgb", "rgb", "ratios", "front_mask", "v_sils"]
)
@pytest.mark.parametrize("frames", [SILHOUETTES, LARGE], ids=["64", "128"])
def test_a_name_that_is_the_views_says_no_modality(
    frames: np.ndarray, view: str, tmp_path: Path
) -> None:
    folder = leaf(tmp_path / view.replace("_", "-"), **{view: frames})
    [file] = folder.iterdir()
    for path in (folder, file):
        found = read_pickles(path)
        expected = found.silhouettes if frames is SILHOUETTES else found.silhouettes_128
        assert expected is not None
        assert (expected == frames).all()


def test_a_single_file_of_masks_that_only_colours_have_is_refused(tmp_path: Path) -> None:
    [path] = leaf(tmp_path, v_sils=LARGE).iterdir()
    with pytest.raises(BadArray, match="name it"):
        read_pickles(path)


def test_frames_without_a_person_stay_where_they_are(tmp_path: Path) -> None:
    frames = SILHOUETTES.copy()
    frames[2] = 0
    assert (read_pickles(leaf(tmp_path, a=frames)).silhouettes == frames).all()


def test_44_columns_come_back_after_the_cut_of_every_network(tmp_path: Path) -> None:
    found = read_pickles(leaf(tmp_path, a_aligned_sils=NARROW)).silhouettes
    assert found.shape == (T, 64, 64)
    assert (found[:, :, 10:54] == NARROW).all()
    assert not found[:, :, :10].any()
    assert not found[:, :, 54:].any()


def test_silhouettes_of_128_are_kept_and_halved(tmp_path: Path) -> None:
    found = read_pickles(leaf(tmp_path, sils_seq0=LARGE))
    assert (found.silhouettes_128 == LARGE).all()
    means = LARGE.reshape(T, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(found.silhouettes - means).max() <= 0.5


@pytest.mark.parametrize("name", ["v_aligned_sils", "v_sils", "1_sil", "sils_v", "v"])
def test_88_of_128_columns_are_padded_and_halved(name: str, tmp_path: Path) -> None:
    narrow = LARGE[:, :, 20:108]
    found = read_pickles(leaf(tmp_path, **{name: narrow}))
    assert found.silhouettes_128 is not None
    assert (found.silhouettes_128[:, :, 20:108] == narrow).all()
    assert not found.silhouettes_128[:, :, :20].any()
    assert not found.silhouettes_128[:, :, 108:].any()
    assert (found.silhouettes[:, :, 10:54] == halved(LARGE)[:, :, 10:54]).all()
    assert not found.silhouettes[:, :, :10].any()


@pytest.mark.parametrize("has_channels_last", [True, False])
def test_colours_are_read_whichever_way_round_they_are(
    has_channels_last: bool, tmp_path: Path
) -> None:
    colours = RGB.transpose(0, 2, 3, 1) if has_channels_last else RGB
    found = read_pickles(leaf(tmp_path, a=NARROW, v_ratios=RATIOS, v_rgbs=colours, v_sils=LARGE))
    assert (found.rgb == RGB.transpose(0, 2, 3, 1)).all()


def test_a_leaf_of_casiab_star_is_silhouettes_and_crops(tmp_path: Path) -> None:
    path = leaf(tmp_path, v_aligned_sils=NARROW, v_ratios=RATIOS, v_rgbs=RGB, v_sils=LARGE)
    leaf(tmp_path, v_aligned_rgbs=b"never read")
    found = read_pickles(path)
    assert (found.silhouettes[:, :, 10:54] == NARROW).all()
    assert found.rgb is not None
    assert (found.rgb == RGB.transpose(0, 2, 3, 1)).all()
    assert (found.rgb_masks == LARGE).all()
    assert found.rgb_ratio() == pytest.approx(RATIOS)
    assert found.silhouettes_128 is None


def test_a_leaf_of_skeleton_maps_and_silhouettes_is_both(tmp_path: Path) -> None:
    (tmp_path / "leaf").mkdir()
    for name, array in (("0_heatmap", REDRAWN), ("1_sil", SILHOUETTES)):
        (tmp_path / f"leaf/{name}.pkl").write_bytes(pickle.dumps(array))
    found = read_pickles(tmp_path / "leaf")
    assert (found.heatmaps_redrawn == REDRAWN).all()
    assert (found.silhouettes == SILHOUETTES).all()


def test_shapes_tell_where_names_do_not(tmp_path: Path) -> None:
    found = read_pickles(leaf(tmp_path, a=SILHOUETTES, b=HEATMAPS, c=JOINTS, d=RATIOS, e=REDRAWN))
    assert (found.heatmaps == HEATMAPS).all()
    assert (found.joints == JOINTS.astype(np.float32)).all()
    assert (found.heatmaps_redrawn == REDRAWN).all()


def test_of_sustech1k_the_aligned_silhouettes_and_the_poses_are_read(tmp_path: Path) -> None:
    never_read = b"not a pickle at all"
    names = {
        "00-000-LiDAR-PCDs": never_read,
        "01-000-LiDAR-PCDs_depths": never_read,
        "02-000-LiDAR-PCDs_sils": never_read,
        "03-000-Camera-Pose": JOINTS,
        "04-000-Camera-Ratios-HW": never_read,
        "05-000-Camera-RGB_raw": never_read,
        "06-000-Camera-Sils_aligned": SILHOUETTES,
        "07-000-Camera-Sils_raw": _bytes(64, 64),
        "14-sync-000-Camera-Sils_aligned": SILHOUETTES[:2],
    }
    for name, array in names.items():
        content = array if isinstance(array, bytes) else pickle.dumps(array)
        (tmp_path / f"{name}.pkl").write_bytes(content)
    found = read_pickles(tmp_path)
    assert (found.silhouettes == SILHOUETTES).all()
    assert found.joints is not None


@pytest.mark.parametrize("other", [LARGE, LARGE[:, :, 20:108], SILHOUETTES, NARROW[1:]])
@pytest.mark.parametrize("name", ["v_sils", "sils", "sils_v", "v", "a"])
def test_beside_aligned_silhouettes_others_are_left_to_colours_that_are_not_there(
    name: str, other: np.ndarray, tmp_path: Path
) -> None:
    path = leaf(tmp_path / "v", v_aligned_sils=SILHOUETTES, **{name: 255 - other})
    found = read_pickles(path)
    assert (found.silhouettes == SILHOUETTES).all()
    assert found.silhouettes_128 is found.rgb_masks is None


def test_beside_aligned_silhouettes_a_name_that_says_nothing_may_be_the_masks_of_colours(
    tmp_path: Path,
) -> None:
    path = leaf(tmp_path, v_aligned_sils=NARROW, a=RGB, b=RATIOS, v_sils=LARGE)
    assert (read_pickles(path).rgb_masks == LARGE).all()
    (path / "a.pkl").rename(path / "v-rgbs.pkl")
    (path / "v-sils.pkl").rename(path / "c.pkl")
    assert (read_pickles(path).rgb_masks == LARGE).all()


def test_two_that_are_called_aligned_are_both_read(tmp_path: Path) -> None:
    path = leaf(tmp_path, v_aligned_sils=SILHOUETTES, v_128_aligned_sils=LARGE)
    found = read_pickles(path)
    assert (found.silhouettes == SILHOUETTES).all()
    assert (found.silhouettes_128 == LARGE).all()


def test_masks_that_only_colours_have_are_no_aligned_silhouettes(tmp_path: Path) -> None:
    with pytest.raises(BadArray, match=r"no silhouettes in v-sils\.pkl.*name it \*-aligned-sils"):
        read_pickles(leaf(tmp_path / "star", v_sils=LARGE))
    for name in ("sils_seq0", "seq0", "v_aligned_sils"):
        found = read_pickles(leaf(tmp_path / name, **{name: LARGE}))
        assert (found.silhouettes_128 == LARGE).all()


@pytest.mark.parametrize("names", [("v_ratios",), ("v_sils",), ("v_sils", "v_ratios")])
def test_what_belongs_to_colours_that_are_not_there_is_left_out(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    arrays = {"v_ratios": RATIOS, "v_sils": LARGE}
    found = read_pickles(
        leaf(tmp_path, v_aligned_sils=SILHOUETTES, **{name: arrays[name] for name in names})
    )
    assert (found.silhouettes == SILHOUETTES).all()
    assert found.rgb is found.rgb_masks is found.rgb_ratio() is None


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({}, "masks, .* and ratios"),
        ({"v_sils": LARGE}, "without their ratios"),
        ({"v_ratios": RATIOS}, "without their masks"),
    ],
)
def test_colours_without_masks_or_ratios_are_refused_unless_they_are_not_asked_for(
    beside: dict[str, np.ndarray], expected: str, tmp_path: Path
) -> None:
    path = leaf(tmp_path, v_aligned_sils=SILHOUETTES, v_rgbs=RGB, **beside)
    with pytest.raises(BadArray, match=f"v-rgbs.pkl: .*{expected}.*--video.modalities"):
        read_pickles(path)
    assert (read_pickles(path, ("silhouettes",)).silhouettes == SILHOUETTES).all()


def test_what_only_its_shape_tells_is_not_checked_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = leaf(tmp_path, a=SILHOUETTES, b=RGB, c=JOINTS * np.nan)
    assert (read_pickles(path, ("silhouettes",)).silhouettes == SILHOUETTES).all()
    for modality in ("rgb", "joints"):
        with pytest.raises(BadArray):
            read_pickles(path, (modality,))


def test_redrawn_heatmaps_are_drawn_from_the_joints_where_there_are_none(tmp_path: Path) -> None:
    path = leaf(tmp_path, a=SILHOUETTES, a_pose=JOINTS)
    drawn = redraw(JOINTS.astype(np.float32))
    for modalities in (("heatmaps_redrawn",), ("heatmaps_redrawn", "joints")):
        found = read_pickles(path, modalities)  # type: ignore[arg-type]
        assert (found.heatmaps_redrawn == drawn).all()
        assert (found.joints is None) == (modalities == ("heatmaps_redrawn",))
    assert read_pickles(path, ("joints",)).heatmaps_redrawn is None
    leaf(tmp_path, a_heatmap=REDRAWN)
    assert (read_pickles(path).heatmaps_redrawn == REDRAWN).all()


def test_joints_whose_name_says_nothing_are_drawn_too(tmp_path: Path) -> None:
    path = leaf(tmp_path, a=SILHOUETTES, b=JOINTS)
    found = read_pickles(path, ("heatmaps_redrawn",))
    assert (found.heatmaps_redrawn == redraw(JOINTS.astype(np.float32))).all()


def test_joints_beside_redrawn_heatmaps_are_not_looked_at_for_them(tmp_path: Path) -> None:
    path = leaf(tmp_path, a=SILHOUETTES, a_heatmap=REDRAWN, a_pose=b"not read")
    assert (read_pickles(path, ("heatmaps_redrawn",)).heatmaps_redrawn == REDRAWN).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e300, 1e-300])
def test_ratios_that_no_picture_has_are_refused(value: float, tmp_path: Path) -> None:
    ratios = RATIOS.copy()
    ratios[3] = value
    path = leaf(tmp_path, v_aligned_sils=NARROW, v_ratios=ratios, v_rgbs=RGB, v_sils=LARGE)
    with pytest.raises(BadArray, match=r"v-ratios\.pkl: rgb_ratio with 1 of 5 .*above 0"):
        read_pickles(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_joints_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    joints = JOINTS.copy()
    joints[3, 2, 1] = value
    with pytest.raises(BadArray, match=r"a-pose\.pkl: joints with 1 of 255 values"):
        read_pickles(leaf(tmp_path, a=SILHOUETTES, a_pose=joints))


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    path = leaf(tmp_path, v_aligned_sils=NARROW, v_rgbs=b"broken", v_ratios=b"broken")
    assert read_pickles(path, ("silhouettes",)).rgb is None
    with pytest.raises(BadArray, match="v-rat"):
        read_pickles(path, ("silhouettes", "rgb"))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({}, "no .pkl"),
        ({"smpls_a": JOINTS}, "smpls-a.pkl, which is not read"),
        ({"a": SILHOUETTES.astype(np.float64)}, "float64 5×64×64, expected silhouettes uint8"),
        ({"a": SILHOUETTES.astype(bool)}, "bool 5×64×64"),
        ({"a": SILHOUETTES.astype(np.uint16)}, "uint16 5×64×64, expected silhouettes uint8"),
        ({"a": SILHOUETTES.astype(np.int8)}, "int8 5×64×64"),
        ({"a": SILHOUETTES, "v_ratios": np.arange(T)}, "int64 5, expected rgb_ratio float n"),
        ({"a": _bytes(64, 63)}, "uint8 5×64×63"),
        ({"a": np.uint8(7)}, "calls|scalar"),
        ({"a": np.array(7, np.uint8)}, "scalar"),
        ({"a": SILHOUETTES[:0]}, "0 frames"),
        ({"a": SILHOUETTES, "b": SILHOUETTES}, "b.pkl: silhouettes, and so is a.pkl"),
        ({"v_aligned_sils": NARROW, "v_ratios": RATIOS[1:]}, "ragged.*v-ratios.pkl 4"),
        ({"v_aligned_sils": NARROW, "v_rgbs": RGB[:0]}, "ragged"),
        ({"a_pose": JOINTS}, "no silhouettes in a-pose.pkl"),
        ({"a": [SILHOUETTES[0], NARROW[0]]}, "holds a list"),
        ({"a": pickle.dumps(SILHOUETTES)[:-9]}, "cut short"),
        ({"a": b""}, "empty"),
        ({"v_sils": SILHOUETTES, "v_rgbs": _bytes(3, 256, 128)}, "expected rgb uint8 n×3×128×128"),
    ],
)
def test_what_is_no_sequence_is_refused_by_name(
    arrays: dict[str, object], expected: str, tmp_path: Path
) -> None:
    with pytest.raises((BadArray, UnsafePickle), match=expected):
        read_pickles(leaf(tmp_path / "leaf", **arrays))


@pytest.mark.parametrize(
    "arrays",
    [
        {"a_pose": JOINTS[:, None]},
        {"a_heatmap": HEATMAPS[:, :3]},
        {"a_rgbs": _bytes(3, 256, 128)},
        {"a_pose": JOINTS[1:]},
    ],
    ids=["pose", "heatmap", "rgb", "ragged"],
)
def test_a_reject_for_what_is_not_needed_says_how_to_do_without(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = leaf(tmp_path, a=SILHOUETTES, **arrays)
    with pytest.raises(BadArray, match=r"--video\.modalities silhouettes"):
        read_pickles(path)
    assert (read_pickles(path, ("silhouettes",)).silhouettes == SILHOUETTES).all()


def test_a_reject_for_silhouettes_does_not_say_to_do_without(tmp_path: Path) -> None:
    with pytest.raises(BadArray) as caught:
        read_pickles(leaf(tmp_path, v_aligned_sils=_bytes(64, 63)))
    assert "modalities" not in str(caught.value)


@pytest.mark.parametrize("highest", [1, 11, 127])
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("v_aligned_sils", "silhouettes"),
        ("sils_v", "silhouettes_128"),
        ("v_sils", "rgb_masks"),
    ],
)
def test_parsing_maps_and_masks_of_0_and_1_are_no_silhouettes(
    name: str, column: str, highest: int, tmp_path: Path
) -> None:
    arrays = {
        "v_aligned_sils": {"v_aligned_sils": NARROW},
        "sils_v": {"sils_v": LARGE},
        "v_sils": {"v_aligned_sils": NARROW, "v_ratios": RATIOS, "v_rgbs": RGB, "v_sils": LARGE},
    }[name]
    arrays[name] = arrays[name] % (highest + 1)
    with pytest.raises(NotAMask, match=rf"{column} with values 0\.\.{highest},"):
        read_pickles(leaf(tmp_path, **arrays))


def test_the_lowest_level_of_a_person_is_half_of_white(tmp_path: Path) -> None:
    frames = SILHOUETTES % 129
    assert frames.max() == 128
    frames[:, 0] = 0
    assert (read_pickles(leaf(tmp_path, a=frames)).silhouettes == frames).all()


@pytest.mark.parametrize(
    ("name", "invert"),
    [
        ("v_aligned_sils", lambda aligned: 255 - aligned),
        ("v_aligned_sils", lambda aligned: 255 - aligned[:, :, 10:54]),
        ("sils_v", lambda aligned: 255 - aligned.repeat(2, axis=1).repeat(2, axis=2)),
        ("v", lambda aligned: np.pad(255 - aligned[:, :, 10:54], ((0, 0), (0, 0), (10, 10)))),
        ("v", lambda aligned: np.full_like(aligned, 255)),
    ],
    ids=["64", "44", "128", "44 padded", "all white"],
)
def test_inverted_silhouettes_are_refused(
    name: str, invert: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    masks = render_masks(Walker.from_seed(3), condition="nm-01", view_deg=90, num_frames=T)
    inverted = invert(np.stack([align(mask) for mask in masks]))
    with pytest.raises(NotAMask, match=r"5 of 5 frames .* inverted"):
        read_pickles(leaf(tmp_path, **{name: inverted}))


def test_a_few_frames_that_a_person_fills_stay_in_their_walk(tmp_path: Path) -> None:
    frames = SILHOUETTES.copy()
    frames[:, 0] = 0
    frames[1:3] = 255
    assert (read_pickles(leaf(tmp_path, a=frames)).silhouettes == frames).all()


def test_a_narrow_person_whom_occluders_cut_to_a_block_is_not_inverted(tmp_path: Path) -> None:
    frames = np.zeros_like(SILHOUETTES)
    frames[:, :, 14:50] = 255
    assert (read_pickles(leaf(tmp_path, a=frames)).silhouettes == frames).all()


def test_masks_of_colours_may_fill_their_crop(tmp_path: Path) -> None:
    full = np.full_like(LARGE, 255)
    path = leaf(tmp_path, v_aligned_sils=NARROW, v_ratios=RATIOS, v_rgbs=RGB, v_sils=full)
    assert (read_pickles(path).rgb_masks == full).all()


def test_a_walk_without_anybody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptySilhouette, match="not one of 5 frames"):
        read_pickles(leaf(tmp_path, a=np.zeros_like(SILHOUETTES)))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArray, match="can be seen"):
        read_pickles(tmp_path / "gone")
