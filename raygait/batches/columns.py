"""Columns of the shards -> the named arrays of a modality, of all frames of a row or of some.

`pack` takes from a row what a modality needs, as bytes that may lie in a mapped file; `unpack`
decodes the frames that are asked for. `inputs` says what the arrays are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from raygait.batches.inputs import Modality
from raygait.errors import ShardError
from raygait.shards import codec
from raygait.video.pose import joints_of, to_heatmap_cells

COLUMNS: dict[Modality, tuple[str, ...]] = {
    "silhouettes": ("silhouettes",),
    "silhouettes_128": ("silhouettes_128",),
    "heatmaps": ("heatmaps", "heatmap_scale", "heatmap_windows_px", "joints"),
    "heatmaps_redrawn": ("heatmaps_redrawn",),
    "rgb": ("rgb", "rgb_masks", "rgb_ratio"),
}
"""What is read of a shard for each."""

_CAN_BE_MISSING = frozenset({"heatmap_windows_px", "joints"})
_DECODERS = {
    "silhouettes": codec.decode_silhouettes,
    "silhouettes_128": codec.decode_silhouettes,
    "heatmaps": codec.decode_heatmaps,
    "heatmaps_redrawn": codec.decode_heatmaps,
    "rgb": codec.decode_crops,
}
_BYTE_SCALE = 1 / 255


def check_rows(rows: list[dict[str, Any]], modality: Modality, where: str) -> None:
    """Refuse rows that were made without a modality.

    Args:
        rows: With the columns of `COLUMNS`, and `sequence_id`.
        modality: What they have to hold.
        where: The folder or the shard, for the message.

    Raises:
        ShardError: Some do not hold it; the message says which and what to do.
    """
    needed = [name for name in COLUMNS[modality] if name not in _CAN_BE_MISSING]
    lacking = [row for row in rows if any(row[name] is None for name in needed)]
    if lacking:
        raise ShardError(
            f"{where}: {len(lacking)} of {len(rows)} rows looked at hold no {modality}, "
            f"{lacking[0]['sequence_id']!r} for one: run preprocess on the clips again, into "
            f"another folder, with {modality} among --video.modalities (masks alone can only give "
            "silhouettes and silhouettes_128, with poses beside them heatmaps_redrawn and with "
            "colours rgb)"
        )


def pack(row: Mapping[str, Any], modality: Modality) -> dict[str, bytes]:
    """What a row holds of a modality, by the names of `inputs.INPUTS`."""
    packed = {"frames": row[modality]}
    if modality == "heatmaps":
        packed["frames"] = _in_255ths(row["heatmaps"], row["heatmap_scale"])
        packed["joints"] = _joints(row).tobytes()
    if modality == "rgb":
        packed["masks"] = row["rgb_masks"]
        packed["ratios"] = np.asarray(row["rgb_ratio"], np.float32).tobytes()
    return packed


def unpack(
    packed: Mapping[str, codec.Blob],
    modality: Modality,
    numbers: codec.FrameSelection = None,
) -> dict[str, ndarray]:
    """The arrays of some frames of what `pack` took out of a row.

    Args:
        packed: Name -> bytes; a `memoryview` is read only where the frames are.
        modality: Of which it is.
        numbers: Which frames, in which order; None for all.

    Raises:
        CorruptShard: A blob is damaged.
        ValueError: A frame number is outside the sequence.
    """
    chosen = slice(None) if numbers is None else numbers
    arrays: dict[str, ndarray] = {"frames": _DECODERS[modality](packed["frames"], numbers)}
    if "joints" in packed:
        arrays["joints"] = np.frombuffer(packed["joints"], np.float32).reshape(-1, 17, 3)[chosen]
    if "masks" in packed:
        arrays["masks"] = codec.decode_silhouettes(packed["masks"], numbers)
    if "ratios" in packed:
        arrays["ratios"] = np.frombuffer(packed["ratios"], np.float32)[chosen]
    return arrays


def _in_255ths(blob: bytes, scale: float) -> bytes:
    """Heatmaps of any scale as the ones made here are: 255 is 1.0, and nothing is above."""
    if np.isclose(scale, _BYTE_SCALE):
        return blob
    levels = np.rint(codec.decode_heatmaps(blob) * np.float32(scale / _BYTE_SCALE))
    return codec.encode_heatmaps(np.clip(levels, 0, 255).astype(np.uint8))


def _joints(row: Mapping[str, Any]) -> Float32[ndarray, "t 17 3"]:
    if row["joints"] is None or row["heatmap_windows_px"] is None:
        # Heatmaps that came without: the joints are where the maps are highest.
        heatmaps = codec.decode_heatmaps(_in_255ths(row["heatmaps"], row["heatmap_scale"]))
        return np.stack([joints_of(maps) for maps in heatmaps])
    joints = np.asarray(row["joints"], np.float32).reshape(-1, 17, 3)
    windows_px = np.asarray(row["heatmap_windows_px"], np.float32).reshape(-1, 4)
    return to_heatmap_cells(joints, windows_px)
