"""A folder of mask images, as CASIA-B ships them -> a sequence of aligned silhouettes."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from raygait.errors import EmptySilhouette, NotAMask, Undecodable
from raygait.video.alignment import align
from raygait.video.extraction import ExtractedSequence, FrameQuality, Unseen
from raygait.video.frame_names import in_order
from raygait.video.quality import largest_part
from raygait.video.settings import Modality
from raygait.video.walking import is_walking

MASK_MODALITIES: tuple[Modality, ...] = ("silhouettes", "silhouettes_128")
"""What can be made of masks alone."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# No person fills more of a whole picture than this; an inverted mask does.
_MAX_MASK_RATIO = 0.9


def read_silhouettes(
    folder: str | Path,
    modalities: Collection[Modality] = MASK_MODALITIES[:1],
    *,
    one_size: bool = True,
) -> ExtractedSequence:
    """Read a folder of mask images, as CASIA-B ships them: one PNG a frame.

    They are ordered by the number that ends the name (`frame_names.in_order`). Other files and
    names that begin with a dot are not looked at. Frames whose mask holds nobody are left out;
    `frame_indices` tells which stayed.

    Args:
        folder: Holds `*.png` of one size, 8 bits, grey or with three equal channels, 0 background
            and 255 person.
        modalities: Of these, `silhouettes_128` can be made of masks too; others are passed over.
        one_size: Whether the masks are whole pictures of one camera. If not, each is cut to the
            person and has a size of its own (Gait3D, CCPG): areas and cuts then say nothing and are
            left unknown, and gait energy images (`gei` in the name) are not looked at. A person who
            fills the cut shows no outline: such a frame is left out.

    Returns:
        The sequence; no heatmaps, crops, boxes or scores, and no frame rate.

    Raises:
        Undecodable: No such folder, no PNG in it, one cannot be read, or their order is not clear.
        NotAMask: An image has alpha, 16 bits, colours, values 0..1 or, of whole pictures, another
            size than the one before or a person over more than 0.9 of its area: inverted.
        EmptySilhouette: Not one mask holds a person, or not one shows an outline.
    """
    folder = Path(folder)
    paths = mask_paths(folder, leave_out="" if one_size else "gei")
    kept: list[int] = []
    silhouettes: list[np.ndarray] = []
    large: list[np.ndarray] = []
    measured: list[tuple[float, float, float, bool]] = []
    left_out: list[tuple[int, Unseen]] = []
    last_error: EmptySilhouette | str = ""
    shape: tuple[int, ...] | None = None
    for index, path in enumerate(paths):
        mask = read_mask(path)
        if one_size and shape is not None and mask.shape != shape:
            raise NotAMask(
                f"{path}: {mask.shape[1]}×{mask.shape[0]} px, those before it "
                f"{shape[1]}×{shape[0]}; the masks of a folder have one size"
            )
        shape = mask.shape
        person_ratio = np.count_nonzero(mask) / mask.size
        if person_ratio > _MAX_MASK_RATIO:
            said = (
                f"{path}: {person_ratio:.0%} of it is person, expected at most "
                f"{_MAX_MASK_RATIO:.0%}; is it inverted?"
            )
            if one_size:
                raise NotAMask(said)
            last_error = said
            left_out.append((index, "cut by the crop"))
            continue
        try:
            silhouettes.append(align(mask))
            if "silhouettes_128" in modalities:
                large.append(align(mask, size_px=128))
        except EmptySilhouette as error:
            last_error = error
            left_out.append((index, "small mask"))
            continue
        kept.append(index)
        measured.append(_measure(mask) if one_size else _measure_cut(mask))
    if not silhouettes:
        raise EmptySilhouette(
            f"{folder}: not one of {len(paths)} masks holds a person (the last: {last_error})"
        )
    unknown = np.full(len(kept), np.nan, np.float32)
    area, height, part, is_cut = np.array(measured, np.float32).T
    frame_indices = np.array(kept, np.int32)
    boxes_px = np.full((len(kept), 4), np.nan, np.float32)
    aligned = np.stack(silhouettes)
    return ExtractedSequence(
        track=0,
        frame_indices=frame_indices,
        boxes_px=boxes_px,
        fps=math.nan,
        silhouettes=aligned,
        quality=FrameQuality(
            person_score=unknown,
            joint_score=unknown.copy(),
            mask_area_ratio=area,
            mask_height_px=height,
            largest_part_ratio=part,
            sharpness=unknown.copy(),
            is_cut=is_cut.astype(bool),
            is_walking=is_walking(boxes_px, frame_indices, math.nan, aligned),
        ),
        left_out=tuple(left_out),
        silhouettes_128=np.stack(large) if large else None,
    )


def _measure(mask: UInt8[np.ndarray, "h w"]) -> tuple[float, float, float, bool]:
    """Area over the image's, height in pixels, share of the largest part, cut by the border."""
    is_person = mask > 0
    rows, columns = np.flatnonzero(is_person.any(axis=1)), np.flatnonzero(is_person.any(axis=0))
    height, width = mask.shape
    is_cut = rows[0] == 0 or rows[-1] == height - 1 or columns[0] == 0 or columns[-1] == width - 1
    _, quality = largest_part(is_person)
    return float(is_person.mean()), float(np.ptp(rows)) + 1, quality.largest_part_ratio, is_cut


def _measure_cut(mask: UInt8[np.ndarray, "h w"]) -> tuple[float, float, float, bool]:
    """The same of a mask that is cut to its person: where that was in the picture is unknown."""
    _, quality = largest_part(mask > 0)
    return math.nan, float(mask.shape[0]), quality.largest_part_ratio, False


def mask_paths(folder: Path, *, leave_out: str = "") -> list[Path]:
    """The masks of a folder in the order of their frames.

    Args:
        folder: Holds `*.png`.
        leave_out: Part of the names of images that are no frames; case does not matter.

    Raises:
        Undecodable: No such folder, no PNG in it, or their order is not clear.
    """
    try:
        paths = [
            path
            for path in folder.iterdir()
            if not path.name.startswith(".")
            and path.suffix.lower() == ".png"
            and not (leave_out and leave_out in path.name.lower())
        ]
    except OSError as error:
        raise Undecodable(f"{folder}: no .png in it can be seen: {error.strerror}") from error
    if not paths:
        raise Undecodable(f"{folder}: no .png in it, expected one mask image a frame")
    for path in sorted(paths):
        if not path.is_file():
            raise Undecodable(f"{path}: not a regular file, expected a mask image")
    return [path for _, path in in_order(paths)]


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """One mask image, 8 bits, one channel.

    Raises:
        Undecodable: Not a PNG, or one that cannot be read.
        NotAMask: Alpha, 16 bits, colours, or values 0..1.
    """
    try:
        content = path.read_bytes()
        if not content.startswith(_PNG_SIGNATURE):
            raise Undecodable(f"{path}: not a PNG ({len(content)} bytes)")
        # Unchanged: any other flag makes grey levels of colours, alpha and 16 bits.
        mask = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise Undecodable(f"{path}: a PNG that cannot be read ({error})") from error
    if mask is None:
        raise Undecodable(f"{path}: a PNG that cannot be read ({len(content)} bytes)")
    expected = "expected a mask of 8 bits, 0 background and 255 person"
    if mask.dtype != np.uint8:
        raise NotAMask(f"{path}: values of {8 * mask.itemsize} bits, {expected}")
    if mask.ndim == 3 and mask.shape[2] == 4:
        raise NotAMask(f"{path}: has an alpha channel, {expected}")
    if mask.ndim == 3:
        if (mask != mask[..., :1]).any():
            raise NotAMask(f"{path}: has colours, {expected}")
        mask = np.ascontiguousarray(mask[..., 0])
    if mask.max() == 1:
        raise NotAMask(f"{path}: values 0..1, expected 0..255")
    return mask
