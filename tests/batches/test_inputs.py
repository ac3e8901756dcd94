import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raygait.batches.inputs import (
    INPUTS,
    accepted_inputs,
    fit_clip,
    mirror_clip,
    only_accepted,
    to_floats,
)

# COCO's names, so that the test spells out what the code computes.
JOINTS = (
    *("nose", "left eye", "right eye", "left ear", "right ear"),
    *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
    *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
)


def spots(joints: np.ndarray, height_px: int = 64, width_px: int = 48) -> np.ndarray:
    """Heatmaps [t, 17, h, w] with a Gaussian at each joint."""
    y, x = np.mgrid[:height_px, :width_px]
    distance = (x - joints[..., 0, None, None]) ** 2 + (y - joints[..., 1, None, None]) ** 2
    return np.rint(255 * np.exp(-distance / 8)).astype(np.uint8)


@pytest.fixture
def heatmaps() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    joints = generator.uniform((4, 4, 0.5), (43, 59, 1), (5, 17, 3)).astype(np.float32)
    return {"frames": spots(joints), "joints": joints}


@pytest.fixture
def rgb() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    masks = np.zeros((4, 128, 128), np.uint8)
    masks[:, 20:110, 30:70] = 255
    frames = generator.integers(0, 50, (4, 128, 128, 3), np.uint8)
    frames[masks > 0] += 150
    ratios = np.array([0.3, 0.4, 0.5, 0.6], np.float32)
    return {"frames": frames, "masks": masks, "ratios": ratios}


def peaks(frames: np.ndarray) -> np.ndarray:
    """x and y of the highest pixel of each map of [17, t, h, w], as [t, 17, 2]."""
    width = frames.shape[-1]
    best = frames.reshape(*frames.shape[:2], -1).argmax(-1).T
    return np.stack([best % width, best // width], axis=-1)


@pytest.mark.parametrize("modality", list(INPUTS))
def test_every_modality_becomes_channels_first_floats(modality: str) -> None:
    generator = np.random.default_rng(0)
    stored = {
        name: generator.integers(0, 256, (3, 5, *shape)).astype(np.uint8)
        for name, shape in INPUTS[modality].items()
    }
    clip = to_floats(fit_clip(stored, modality, 64, 44))
    channels = {"heatmaps": 17, "heatmaps_redrawn": 2, "rgb": 3}.get(modality, 1)
    assert clip["frames"].shape == (3, channels, 5, 64, 44)
    assert list(clip) == list(INPUTS[modality])
    assert all(values.dtype == np.float32 for values in clip.values())
    assert 0.9 < clip["frames"].max() <= 1


def test_pixels_of_each_channel_and_frame_stay_where_they_are(heatmaps, rgb) -> None:
    maps = fit_clip(heatmaps, "heatmaps", 64, 48)["frames"]
    assert all((maps[j, t] == heatmaps["frames"][t, j]).all() for j in range(17) for t in range(5))
    crops = fit_clip(rgb, "rgb", 128, 128)["frames"]
    assert all((crops[c, t] == rgb["frames"][t, ..., c]).all() for c in range(3) for t in range(4))


@pytest.mark.parametrize(("height_px", "width_px"), [(64, 48), (64, 40), (32, 24), (32, 20)])
def test_joints_follow_the_cut_and_the_scale_of_their_maps(
    heatmaps, height_px: int, width_px: int
) -> None:
    clip = fit_clip(heatmaps, "heatmaps", height_px, width_px)
    joints = clip["joints"]
    # Not those on the border of the cut maps, or outside.
    inside = (joints[..., 0] > 0) & (joints[..., 0] < width_px - 1)
    assert inside.mean() > 0.7
    off_px = np.abs(peaks(clip["frames"]) - joints[..., :2])[inside]
    assert off_px.max() <= 1
    np.testing.assert_array_equal(joints[..., 2], heatmaps["joints"][..., 2])


def test_the_middle_of_a_square_of_pixels_is_the_centre_of_the_one_that_they_become() -> None:
    joints = np.zeros((1, 17, 3), np.float32)
    joints[..., :2] = (20.5, 30.5)  # between columns 20 and 21, rows 30 and 31
    stored = {"frames": np.zeros((1, 17, 64, 48), np.uint8), "joints": joints}
    np.testing.assert_array_equal(fit_clip(stored, "heatmaps", 32, 24)["joints"][0, 0], (10, 15, 0))
    np.testing.assert_array_equal(fit_clip(stored, "heatmaps", 32, 20)["joints"][0, 0], (8, 15, 0))


def test_masks_and_ratios_follow_the_cut_and_the_scale_of_their_crops(rgb) -> None:
    half = fit_clip(rgb, "rgb", 64, 64)
    assert set(np.unique(half["masks"])) == {0, 1}
    assert half["masks"].shape == (1, 4, 64, 64)
    # The person is bright, so that pixels and mask can be compared.
    np.testing.assert_array_equal(half["frames"][0] > 100, half["masks"][0] == 1)
    np.testing.assert_array_equal(half["ratios"], rgb["ratios"])
    narrow = fit_clip(rgb, "rgb", 128, 96)
    np.testing.assert_array_equal(narrow["frames"][0] > 100, narrow["masks"][0] == 1)
    np.testing.assert_allclose(narrow["ratios"], rgb["ratios"] * 0.75)


@pytest.mark.parametrize("width_px", [48, 41])
def test_in_a_mirror_each_joint_is_the_other_sides_and_lies_on_its_map(
    heatmaps, width_px: int
) -> None:
    stored = {"frames": heatmaps["frames"][..., :width_px], "joints": heatmaps["joints"]}
    clip = fit_clip(stored, "heatmaps", 64, width_px)
    mirrored = mirror_clip(clip, "heatmaps")
    for number, name in enumerate(JOINTS):
        swapped = name
        if name.startswith("left"):
            swapped = name.replace("left", "right")
        elif name.startswith("right"):
            swapped = name.replace("right", "left")
        other = JOINTS.index(swapped)
        np.testing.assert_array_equal(
            mirrored["frames"][number], clip["frames"][other][..., ::-1], err_msg=name
        )
        place = clip["joints"][:, other] * (-1, 1, 1) + (width_px - 1, 0, 0)
        np.testing.assert_allclose(mirrored["joints"][:, number], place, atol=1e-5)


@pytest.mark.parametrize("modality", list(INPUTS))
def test_a_mirror_in_a_mirror_is_the_clip_and_the_clip_is_left_alone(modality: str) -> None:
    generator = np.random.default_rng(0)
    stored = {
        name: generator.integers(0, 256, (5, *shape)).astype(np.uint8)
        for name, shape in INPUTS[modality].items()
    }
    clip = fit_clip(stored, modality, 64, 44)
    before = {name: values.copy() for name, values in clip.items()}
    mirrored = mirror_clip(clip, modality)
    assert not np.array_equal(mirrored["frames"], clip["frames"])
    again = mirror_clip(mirrored, modality)
    for name, values in before.items():
        np.testing.assert_array_equal(clip[name], values, err_msg=name)
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_a_mask_is_mirrored_with_its_crop_and_the_ratio_stays(rgb) -> None:
    mirrored = mirror_clip(fit_clip(rgb, "rgb", 128, 128), "rgb")
    np.testing.assert_array_equal(mirrored["frames"][0] > 100, mirrored["masks"][0] == 1)
    np.testing.assert_array_equal(mirrored["ratios"], rgb["ratios"])


class _Plain(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames


class _Aligning(nn.Module):
    def forward(
        self, frames: Tensor, *, joints: Tensor, align_draws: Tensor | None = None
    ) -> Tensor:
        return frames if align_draws is None else frames + joints.mean() + align_draws.mean()


def test_a_network_is_given_what_its_forward_names_and_nothing_else() -> None:
    inputs = {"frames": torch.zeros(1), "joints": torch.zeros(2), "masks": torch.zeros(3)}
    assert accepted_inputs(_Plain()) == frozenset()
    accepted = accepted_inputs(_Aligning())
    assert accepted == {"joints", "align_draws"}
    assert list(only_accepted(inputs, accepted)) == ["joints"]
