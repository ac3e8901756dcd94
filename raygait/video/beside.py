"""Files beside a folder of masks, one a frame: their joints and colours, joined to the masks.

A mask and a file are of one frame where their names are the same, or their numbers
(`frame_names.match`). A frame that lacks what was asked for is left out and counted; a source in
which every frame does is refused. Where the folders are, the adapters of `datasets` know.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from raygait.errors import NoPose
from raygait.video.extraction import ExtractedSequence, FrameQuality, Unseen
from raygait.video.frame_names import match
from raygait.video.mask_folders import read_mask
from raygait.video.pose_files import pose_paths, read_people
from raygait.video.redraw import redraw
from raygait.video.settings import Modality
from raygait.video.walking import is_walking

POSE_MODALITIES: tuple[Modality, ...] = ("heatmaps_redrawn", "joints")
"""What can be made of pose files."""

_LEAVE_OUT = "or ask for what does not need it, such as --video.modalities silhouettes"


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
            in a file the one with the most joints on the mask is taken, and nobody without one.
            If not, where a person is says nothing, and a frame with several is left out.

    Raises:
        NoPose: No such folder, or no frame of the sequence has a pose.
        BadPose: A file is no pose.
        Undecodable: Two files are of one frame.
    """
    file_of = match(masks, pose_paths(poses)).by_frame
    found: list[Float32[np.ndarray, "17 3"] | Unseen] = []
    for index in sequence.frame_indices.tolist():
        mask = masks[index]
        people = read_people(file_of[mask]) if mask in file_of else np.zeros((0, 17, 3), np.float32)
        if of_one_picture and len(people):
            found.append(_on_mask(people, read_mask(mask)))
        elif len(people) == 1:
            found.append(people[0])
        else:
            found.append("several poses" if len(people) else "no pose")
    kept = [place for place, one in enumerate(found) if not isinstance(one, str)]
    if not kept:
        said = _counted(one for one in found if isinstance(one, str))
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
    """Who has the most joints on the mask; of several, those that are surest."""
    height_px, width_px = mask.shape
    x, y, score = np.moveaxis(people, 2, 0)
    with np.errstate(invalid="ignore"):
        is_inside = (x > -0.5) & (x < width_px - 0.5) & (y > -0.5) & (y < height_px - 0.5)
    column, row = (np.rint(np.where(is_inside, axis, 0)).astype(int) for axis in (x, y))
    is_on = is_inside & (score > 0) & (mask[row, column] > 0)
    num_on = is_on.sum(axis=1)
    best = max(range(len(people)), key=lambda p: (num_on[p], float(score[p].sum())))
    return people[best] if num_on[best] else "no pose"


def _counted(reasons: Iterable[Unseen]) -> str:
    counts = Counter(reasons).most_common()
    return ", ".join(f"{number} {reason}" for reason, number in counts)


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
