"""A folder of silhouettes that their owner has aligned -> a sequence, frame for frame.

GREW is distributed so (64×64 PNG), and so are trees that OpenGait's pretreatment has written as
images. Nothing is cut or centred once more: a second alignment would not give the same pixels.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from raygait.errors import EmptySilhouette, NotAMask
from raygait.video.extraction import ExtractedSequence
from raygait.video.mask_folders import MASK_MODALITIES, mask_paths, read_mask
from raygait.video.pickled import check_not_inverted, unplaced_sequence
from raygait.video.settings import Modality

_SIZE_PX, _CUT_WIDTH_PX = 64, 44


def read_aligned(
    folder: str | Path, modalities: Collection[Modality] = MASK_MODALITIES[:1]
) -> ExtractedSequence:
    """Read a folder of aligned masks, one PNG a frame, ordered as `read_silhouettes` orders them.

    64×64 stays bit for bit; 64×44 gets 10 black columns on either side; others are scaled to 64×64
    by bicubic interpolation, as SUSTech1K's pretreatment does, so that its images and its pickles
    give the same silhouettes. All frames are kept, those without a person too. Gait energy images
    (`gei` in the name) are not looked at.

    Args:
        folder: Holds `*.png` of one size, square or upright, 8 bits, 0 background and 255 person.
        modalities: With `silhouettes_128`, masks of 128×128 are kept as they are too.

    Raises:
        Undecodable: No such folder, no PNG in it, one cannot be read, or their order is not clear.
        NotAMask: An image is no mask, or wider than high, or of another size than the one before;
            or upright ones do not show people from the first row to the last; or they are inverted
            (`pickled.check_not_inverted`).
        EmptySilhouette: Not one mask holds a person.
    """
    folder = Path(folder)
    frames: list[np.ndarray] = []
    for path in mask_paths(folder, leave_out="gei"):
        mask = read_mask(path)
        height_px, width_px = mask.shape
        if height_px < width_px:
            raise NotAMask(
                f"{path}: {width_px}×{height_px} px, an aligned mask is a square or higher than "
                "wide; is the folder one of masks that are yet to be aligned?"
            )
        if frames and mask.shape != frames[0].shape:
            raise NotAMask(
                f"{path}: {width_px}×{height_px} px, those before it {frames[0].shape[1]}×"
                f"{frames[0].shape[0]}; aligned masks have one size"
            )
        frames.append(mask)
    if not any(frame.any() for frame in frames):
        raise EmptySilhouette(f"{folder}: not one of {len(frames)} masks holds a person")
    _check_height(np.stack(frames), folder)
    check_not_inverted(np.stack(frames), folder)
    is_large = frames[0].shape == (128, 128) and "silhouettes_128" in modalities
    return unplaced_sequence(
        np.stack([_to_64(frame) for frame in frames]),
        silhouettes_128=np.stack(frames) if is_large else None,
    )


def _check_height(masks: UInt8[np.ndarray, "t h w"], folder: Path) -> None:
    """That upright masks are aligned: a whole picture of a phone is upright too."""
    height_px, width_px = masks.shape[1:]
    if height_px == width_px or (height_px, width_px) == (_SIZE_PX, _CUT_WIDTH_PX):
        return
    seen = masks[masks.any(axis=(1, 2))]
    # A little room: masks that were scaled before may have lost a row.
    edge_px = max(1, height_px // 32)
    is_filled = seen[:, :edge_px].any(axis=(1, 2)) & seen[:, -edge_px:].any(axis=(1, 2))
    if 2 * np.count_nonzero(is_filled) < len(seen):
        raise NotAMask(
            f"{folder}: {width_px}×{height_px} px, and in {np.count_nonzero(~is_filled)} of "
            f"{len(seen)} masks the person is not as high as the image, as in aligned ones; is the "
            "folder one of masks that are yet to be aligned?"
        )


def _to_64(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "64 64"]:
    if mask.shape == (_SIZE_PX, _SIZE_PX):
        return mask
    if mask.shape == (_SIZE_PX, _CUT_WIDTH_PX):
        side_px = (_SIZE_PX - _CUT_WIDTH_PX) // 2
        return np.pad(mask, ((0, 0), (side_px, side_px)))
    scaled: np.ndarray = cv2.resize(mask, (_SIZE_PX, _SIZE_PX), interpolation=cv2.INTER_CUBIC)
    return scaled
