"""Files beside a folder of masks, one a frame: their joints and colours, joined to the masks.

A mask and a file are of one frame where their names are the same, or their numbers
(`frame_names.match`). A frame that lacks what was asked for, or whose file is damaged, is left out
and counted; a source in which every frame is so is refused. Where the folders are, the adapters of
`datasets` know.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from raygait.errors import BadPose, NoColours, NoPose, Undecodable, VideoError
from raygait.video.extraction import RGB_PX, ExtractedSequence, FrameQuality, Unseen
from raygait.video.frame_names import in_order, match
from raygait.video.image_folders import IMAGE_EXTENSIONS, read_picture
from raygait.video.mask_folders import read_mask
from raygait.video.pose_files import pose_paths, read_people
from raygait.video.redraw import redraw
from raygait.video.settings import Modality
from raygait.video.walking import is_walking

POSE_MODALITIES: tuple[Modality, ...] = ("heatmaps_redrawn", "joints")
"""What can be made of pose files."""

COLOUR_MODALITIES: tuple[Modality, ...] = ("rgb",)
"""What can be made of pictures that are cut to the person."""

# Of the width: crops are rounded to pixels, and some owners scale masks.
_SAME_CROP_RATIO = 0.02
# Of the joints that were seen. Synthetic walkers of five views: all are, and with errors of 2% of
# the height 0.65 and more; moved aside by half the mask's width 0.35 at most.
_MIN_ON_MASK_RATIO = 0.5
# Of the joints that were seen. Synthetic walkers of five views: all are, and with errors of 2% of
# the height 0.65 and more; moved aside by half the mask's width 0.35 at most.
_MIN_ON_MASK_RATIO = 0.5
_LEAVE_OUT = "or name --video.modalities that do not need it, or leave --beside out"


def with_joints(
    sequence: ExtractedSequence,
    masks: Sequence[Path],
    poses: Path,
    modalities: Collection[Modality],
    *,
    of_one_picture: bool,
) -> ExtractedSequence:
    """A sequence of masks with the joints of its frames; frames without a pose are left out.

    Args:
        sequence: Read from the masks.
        masks: Their files; `frame_indices` are places in it.
        poses: Folder of pose files (`pose_files`), maybe that of the masks.
        modalities: With `heatmaps_redrawn` they are drawn, with `joints` they are kept.
        of_one_picture: Whether masks and joints are places in the same picture. Then of all people
            in a file the one with the most joints on the mask is taken, if half of those that were
            seen are. If not, where a person is says nothing, and a frame with several is left out.

    Raises:
        NoPose: No such folder, or no frame of the sequence has a pose; quotes the last file that is
            none.
        Undecodable: Two files are of one frame.
    """
    file_of = match(masks, pose_paths(poses)).by_frame
    found: list[Float32[np.ndarray, "17 3"] | Unseen] = []
    bad: list[VideoError] = []
    for index in sequence.frame_indices.tolist():
        mask = masks[index]
        people = np.zeros((0, 17, 3), np.float32)
        if mask in file_of:
            try:
                people = read_people(file_of[mask])
            except BadPose as error:
                bad.append(error)
                found.append("bad pose")
                continue
        if of_one_picture and len(people):
            found.append(_on_mask(people, read_mask(mask)))
        elif len(people) == 1:
            found.append(people[0])
        else:
            found.append("several poses" if len(people) else "no pose")
    kept = [place for place, one in enumerate(found) if not isinstance(one, str)]
    if not kept:
        said = _counted((one for one in found if isinstance(one, str)), bad)
        raise NoPose(
            f"{poses}: not one of {len(found)} masks has a pose beside it ({said}); expected one "
            f"of its name or number, {_LEAVE_OUT}"
        )
    left_out = {place: one for place, one in enumerate(found) if isinstance(one, str)}
    joints = np.stack([one for one in found if not isinstance(one, str)])
    return dataclasses.replace(
        _without(sequence, left_out),
        joints=joints if "joints" in modalities else None,
        heatmaps_redrawn=redraw(joints) if "heatmaps_redrawn" in modalities else None,
    )


def _on_mask(
    people: Float32[np.ndarray, "p 17 3"], mask: UInt8[np.ndarray, "h w"]
) -> Float32[np.ndarray, "17 3"] | Unseen:
    """Who has the most joints on the mask, and enough; of several, those that are surest."""
    height_px, width_px = mask.shape
    x, y, score = np.moveaxis(people, 2, 0)
    with np.errstate(invalid="ignore"):
        is_inside = (x > -0.5) & (x < width_px - 0.5) & (y > -0.5) & (y < height_px - 0.5)
    column, row = (np.rint(np.where(is_inside, axis, 0)).astype(int) for axis in (x, y))
    is_seen = score > 0
    num_on = (is_inside & is_seen & (mask[row, column] > 0)).sum(axis=1)
    num_needed = np.maximum(1, _MIN_ON_MASK_RATIO * is_seen.sum(axis=1))
    there: list[int] = np.flatnonzero(num_on >= num_needed).tolist()
    best = max(there, key=lambda p: (num_on[p], float(score[p].sum())), default=-1)
    return people[best] if there else "no pose"


def with_colours(
    sequence: ExtractedSequence,
    masks: Sequence[Path],
    colours: Path,
    *,
    colour_masks: Path | None = None,
) -> ExtractedSequence:
    """A sequence of masks with pictures that are cut to the person, and masks cut as these are.

    Both are scaled to 128×128 by bilinear interpolation, whatever their shape was, as the pickles
    of CCPG hold them: masks get grey levels at the outline. Frames are counted over masks and
    pictures, so that one which only has a picture has a place and can be noted.

    Args:
        sequence: Read from the masks.
        masks: Their files; `frame_indices` are places in it.
        colours: Folder of pictures, any that `image_folders` reads.
        colour_masks: Folder of masks that are cut as the pictures are; those of the sequence where
            it is None.

    Raises:
        NoColours: No such folder, or no frame of the sequence has colours and a mask of their crop;
            quotes the last picture or mask that cannot be read.
        Undecodable: Two files are of one frame.
    """
    matched = match(masks, _files_in(colours, _pictures))
    mask_of = {mask: mask for mask in masks}
    if colour_masks is not None:
        mask_of = match(masks, _files_in(colour_masks, _masks)).by_frame
    bad: list[VideoError] = []
    found = [
        _crop(matched.by_frame.get(masks[index]), mask_of.get(masks[index]), bad)
        for index in sequence.frame_indices.tolist()
    ]
    crops = [one for one in found if isinstance(one, _Crop)]
    left_out = {row: one for row, one in enumerate(found) if not isinstance(one, _Crop)}
    if not crops:
        raise NoColours(
            f"{colours}: not one of {len(found)} masks has colours beside it "
            f"({_counted(left_out.values(), bad)}); expected a picture of its name or number, cut "
            f"as the mask is, {_LEAVE_OUT}"
        )
    return dataclasses.replace(
        _without(_counted_over(sequence, masks, matched.alone), left_out),
        rgb=np.stack([crop.rgb for crop in crops]),
        rgb_masks=np.stack([crop.mask for crop in crops]),
        imported_rgb_ratio=np.array([crop.ratio for crop in crops], np.float32),
    )


class _Crop(NamedTuple):
    """A picture and its mask, both made squares, and the width over the height that they had."""

    rgb: UInt8[np.ndarray, "128 128 3"]
    mask: UInt8[np.ndarray, "128 128"]
    ratio: float


def _crop(picture: Path | None, mask: Path | None, bad: list[VideoError]) -> _Crop | Unseen:
    """A frame's crop, or why it has none; `bad` takes the error where a file cannot be read."""
    if picture is None:
        return "no colours"
    if mask is None:
        return "no mask"
    try:
        rgb, levels = read_picture(picture), read_mask(mask)
    except VideoError as error:
        bad.append(error)
        return "bad colours"
    height_px, width_px = rgb.shape[:2]
    expected_px = width_px * levels.shape[0] / height_px
    if abs(levels.shape[1] - expected_px) > 1 + _SAME_CROP_RATIO * expected_px:
        return "colours of another crop"
    if not levels.any():
        return "no mask"
    size = (RGB_PX, RGB_PX)
    return _Crop(cv2.resize(rgb, size), cv2.resize(levels, size), width_px / height_px)


def _files_in(folder: Path, chosen: Callable[[list[Path]], list[Path]]) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise NoColours(f"{folder}: nothing in it can be seen: {error.strerror}") from error
    return chosen(sorted(paths))


def _pictures(paths: list[Path]) -> list[Path]:
    """Pictures; of folders in which their masks lie too, those that are no PNG."""
    pictures = [path for path in paths if path.suffix.lower() in IMAGE_EXTENSIONS]
    pngs = _masks(pictures)
    others = [path for path in pictures if path.suffix.lower() != ".png"]
    # One by its number may be a coincidence.
    are_masks = {path.stem for path in pngs} & {path.stem for path in others} or (
        len(match(pngs, others).by_frame) >= len(pngs) / 2
    )
    return others if others and are_masks else pictures


def _masks(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() == ".png"]


def _counted_over(
    sequence: ExtractedSequence, masks: Sequence[Path], alone: Sequence[Path]
) -> ExtractedSequence:
    """The sequence with frames counted over masks and pictures without a mask, these left out."""
    if not alone:
        return sequence
    names = [path.name for path in masks]
    lone = [path.name for path in alone]
    try:
        ordered = [path.name for _, path in in_order(Path(name) for name in [*names, *lone])]
    except Undecodable:  # counted all the same
        ordered = [*names, *lone]
    place_of = {name: place for place, name in enumerate(ordered)}
    places = np.array([place_of[name] for name in names], np.int32)
    left_out = [(int(places[index]), reason) for index, reason in sequence.left_out]
    no_mask: list[tuple[int, Unseen]] = [(place_of[name], "no mask") for name in lone]
    frame_indices = places[sequence.frame_indices]
    # The time between two frames is another one now.
    walks = is_walking(sequence.boxes_px, frame_indices, sequence.fps, sequence.silhouettes)
    return dataclasses.replace(
        sequence,
        frame_indices=frame_indices,
        quality=dataclasses.replace(sequence.quality, is_walking=walks),
        left_out=tuple(sorted([*left_out, *no_mask])),
    )


def _counted(reasons: Iterable[Unseen], bad: Sequence[VideoError]) -> str:
    counts = Counter(reasons).most_common()
    said = ", ".join(f"{number} {reason}" for reason, number in counts)
    return f"{said}; the last: {bad[-1]}" if bad else said


def _without(sequence: ExtractedSequence, left_out: Mapping[int, Unseen]) -> ExtractedSequence:
    """The sequence without the frames of some rows, which are noted as left out."""
    if not left_out:
        return sequence
    kept = [row for row in range(len(sequence.frame_indices)) if row not in left_out]
    frame_indices = sequence.frame_indices[kept]
    more = [(int(sequence.frame_indices[row]), reason) for row, reason in left_out.items()]
    silhouettes = sequence.silhouettes[kept]
    walks = is_walking(sequence.boxes_px[kept], frame_indices, sequence.fps, silhouettes)
    quality = dataclasses.replace(
        sequence.quality, **{**_rows(sequence.quality, kept), "is_walking": walks}
    )
    return dataclasses.replace(
        sequence,
        **_rows(sequence, kept),  # type: ignore[arg-type]
        quality=quality,
        left_out=tuple(sorted([*sequence.left_out, *more])),
    )


def _rows(record: ExtractedSequence | FrameQuality, kept: list[int]) -> dict[str, NDArray[Any]]:
    """The fields that have a value a frame, of some frames."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value[kept] for name, value in values.items() if isinstance(value, np.ndarray)}
