"""What a network is given, of every modality: named arrays as shards hold them -> named inputs.

    modality           as stored, uint8          inputs of a clip, float32
    silhouettes        [t, 64, 64]               frames [1, t, h, w]
    silhouettes_128    [t, 128, 128]             frames [1, t, h, w]
    heatmaps           [t, 17, 64, 48]           frames [17, t, h, w], joints [t, 17, 3]
    heatmaps_redrawn   [t, 2, 64, 64]            frames [2, t, h, w]: limbs, joints
    rgb                [t, 128, 128, 3]          frames [3, t, h, w], masks [1, t, h, w], ratios [t]

Frames are 0..1, masks 0 or 1. Joints are x (column) and y (row) in pixels of the frames, the centre
of the first being 0.0, 0.0, and a score. Ratios are width over height of each crop before it was
made a square. A batch puts an axis `n` before all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from torch import nn

from raygait.batches.clips import fit_frames, scale_to_unit

Modality = Literal["silhouettes", "silhouettes_128", "heatmaps", "heatmaps_redrawn", "rgb"]
"""What feeds a network. `video.settings.Modality` has one more, as joints alone feed none here."""

INPUTS: dict[Modality, dict[str, tuple[int, ...]]] = {
    "silhouettes": {"frames": (64, 64)},
    "silhouettes_128": {"frames": (128, 128)},
    "heatmaps": {"frames": (17, 64, 48), "joints": (17, 3)},
    "heatmaps_redrawn": {"frames": (2, 64, 64)},
    "rgb": {"frames": (128, 128, 3), "masks": (128, 128), "ratios": ()},
}
"""Name -> shape of one frame as shards hold it. Training adds `align_draws` to joints."""

# Left and right change places in a mirror: COCO's joints are the nose, then left and right of each.
_MIRRORED_JOINTS = [0, *(joint + 1 if joint % 2 else joint - 1 for joint in range(1, 17))]


def fit_clip(
    stored: Mapping[str, ndarray], modality: Modality, height_px: int, width_px: int
) -> dict[str, ndarray]:
    """Stored arrays as a network's input wants them, still in bytes: see `clips.fit_frames`.

    Everything that says where something is in a frame follows the frame's cut and scale.

    Args:
        stored: Arrays of the names of `INPUTS`, `frames` at least, with any axes before `t`.
        modality: Of which they are.
        height_px: Height the network expects.
        width_px: Width the network expects.

    Raises:
        ValueError: The frames cannot become this size.
    """
    frames = _channels_first(stored["frames"], modality)
    stored_height_px, stored_width_px = frames.shape[-2:]
    fitted = {"frames": fit_frames(frames, height_px, width_px)}
    factor = stored_height_px // height_px
    left_px = (stored_width_px - factor * width_px) // 2
    if "joints" in stored:
        joints = stored["joints"].astype(np.float32)
        joints[..., 0] -= left_px
        joints[..., :2] = (joints[..., :2] + 0.5) / factor - 0.5
        fitted["joints"] = joints
    if "masks" in stored:
        masks = fit_frames(stored["masks"][..., None, :, :, :], height_px, width_px)
        fitted["masks"] = (masks > 127).astype(np.uint8)
    if "ratios" in stored:
        kept_ratio = np.float32(factor * width_px / stored_width_px)
        fitted["ratios"] = stored["ratios"].astype(np.float32) * kept_ratio
    return fitted


def mirror_clip(clip: Mapping[str, ndarray], modality: Modality) -> dict[str, ndarray]:
    """A fitted clip as if the person had been seen in a mirror: left becomes right in all of it."""
    mirrored = {**clip, "frames": clip["frames"][..., ::-1]}
    if modality == "heatmaps":
        mirrored["frames"] = mirrored["frames"][..., _MIRRORED_JOINTS, :, :, :]
    if "joints" in clip:
        joints = clip["joints"][..., _MIRRORED_JOINTS, :]
        joints[..., 0] = clip["frames"].shape[-1] - 1 - joints[..., 0]
        mirrored["joints"] = joints
    if "masks" in clip:
        mirrored["masks"] = clip["masks"][..., ::-1]
    return mirrored


def to_floats(clip: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """Frames 0..255 to 0..1, everything else to float32 as it is."""
    return {
        name: scale_to_unit(values) if name == "frames" else values.astype(np.float32)
        for name, values in clip.items()
    }


def batch_shapes(
    modality: Modality, num_clips: int, num_frames: int, height_px: int, width_px: int
) -> dict[str, tuple[int, ...]]:
    """Shape of each input of a training batch, `frames` first.

    Args:
        modality: What the clips are.
        num_clips: n.
        num_frames: t.
        height_px: Height the network expects.
        width_px: Width the network expects.
    """
    channels = {"heatmaps": 17, "heatmaps_redrawn": 2, "rgb": 3}.get(modality, 1)
    shapes: dict[str, tuple[int, ...]] = {
        "frames": (channels, num_frames, height_px, width_px),
    }
    if modality == "heatmaps":
        shapes |= {"joints": (num_frames, 17, 3), "align_draws": (num_frames,)}
    if modality == "rgb":
        shapes |= {"masks": (1, num_frames, height_px, width_px), "ratios": (num_frames,)}
    return {name: (num_clips, *shape) for name, shape in shapes.items()}


def accepted_inputs(network: nn.Module) -> frozenset[str]:
    """Names of the tensors that a network's `forward` takes beside its frames.

    Args:
        network: The bare network: one wrapped for distribution takes anything.
    """
    return frozenset(list(inspect.signature(network.forward).parameters)[1:])


def only_accepted(inputs: Mapping[str, Any], accepted: Collection[str]) -> dict[str, Any]:
    """The inputs, other than frames, that a network accepts."""
    return {name: values for name, values in inputs.items() if name in accepted}


def _channels_first(
    frames: UInt8[ndarray, "*shape"], modality: Modality
) -> UInt8[ndarray, "*batch c t h w"]:
    if modality == "rgb":
        return np.moveaxis(frames, -1, -4)
    if len(INPUTS[modality]["frames"]) == 2:
        return frames[..., None, :, :, :]
    return np.swapaxes(frames, -4, -3)
