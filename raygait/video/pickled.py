"""OpenGait's pickles of one walk -> a sequence, as they are: nothing is cut, scaled or centred.

A leaf `ID/TYPE/VIEW/` holds one pickled array, or several, each a modality of the same frames. What
an array is is told by its name where the name says so, and else by its shape. A name that is the
view's says nothing: `VIEW/VIEW.pkl`, and a file by itself unless it is called `*-sils`.

| array | name | becomes |
|---|---|---|
| uint8 n×64×64 | any, `*aligned-sils`, `sils-*`, `*Sils_aligned` | `silhouettes` |
| uint8 n×64×44 | the same | `silhouettes`, 10 black columns on either side |
| uint8 n×128×128 | not `*-sils` | `silhouettes_128`; `silhouettes` are 2×2 means |
| uint8 n×128×88 | any | the same, 20 black columns on either side |
| uint8 n×128×128 | `*-sils`, any beside `*rgbs` | `rgb_masks` |
| uint8 n×3×128×128, n×128×128×3 | `*rgbs` | `rgb`, kept as JPEG |
| float n | `*ratios` | `rgb_ratio` |
| uint8 n×2×64×64 | any, `*heatmap` | `heatmaps_redrawn` |
| uint8 n×17×64×48 | any, `*heatmap` | `heatmaps` |
| float n×17×3 | any, `*pose` | `joints`, and without `*heatmap` `heatmaps_redrawn` |

Where one is called aligned, no other is taken for silhouettes. Colours come with masks and ratios
or not at all: colours that lack one are refused, masks and ratios without colours are left out. The
frames of 44 columns are the same after the cut that every network makes. Passed over, by name:
point clouds and what is projected from them, SMPL, parsing, and what is raw or resampled to another
sensor's rate (SUSTech1K's `*_raw`, `*-sync-*`, `*Ratios-HW`).

Facts of the layouts: OpenGait's `datasets/*/README.md`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from raygait.datasets.layout import NOT_READ_WORDS, SILHOUETTE_WORDS
from raygait.datasets.pickles import read_array
from raygait.errors import BadArray, EmptySilhouette, NotAMask
from raygait.video.extraction import ExtractedSequence, FrameQuality
from raygait.video.redraw import redraw
from raygait.video.settings import Modality
from raygait.video.walking import is_walking

_Column = Literal[
    "silhouettes",
    "silhouettes_128",
    "heatmaps",
    "heatmaps_redrawn",
    "rgb",
    "rgb_masks",
    "rgb_ratio",
    "joints",
]

PICKLED_MODALITIES: tuple[Modality, ...] = get_args(Modality)
"""What a leaf of pickles may hold."""

_RGB_WORDS = frozenset(("rgb", "rgbs"))
_RATIO_WORDS = frozenset(("ratio", "ratios"))
_HEATMAP_WORDS = frozenset(("heatmap", "heatmaps"))
_POSE_WORDS = frozenset(("pose", "poses", "joints", "keypoints"))

# What names of silhouettes allow. `<view>-sils` of 128×128 are crops' masks (CASIA-B*, CCPG);
# Gait3D's aligned ones of that size are `sils-<view>`.
_ALIGNED: tuple[_Column, ...] = ("silhouettes", "silhouettes_128")
# Of what a shape allows, the first here is meant.
_CUT: tuple[_Column, ...] = ("rgb_masks", *_ALIGNED)
_UNSAID: tuple[_Column, ...] = (*_ALIGNED, "rgb_masks")
_MASKS: frozenset[_Column] = frozenset(("silhouettes", "silhouettes_128", "rgb_masks"))
# `u` for uint8 or `f` for floats, and the shape of a frame -> what it can be.
_BY_SHAPE: dict[tuple[str, tuple[int, ...]], tuple[_Column, ...]] = {
    ("u", (64, 64)): ("silhouettes",),
    ("u", (64, 44)): ("silhouettes",),
    ("u", (128, 128)): ("silhouettes_128", "rgb_masks"),
    ("u", (128, 88)): ("silhouettes_128",),
    ("u", (3, 128, 128)): ("rgb",),
    ("u", (128, 128, 3)): ("rgb",),
    ("u", (2, 64, 64)): ("heatmaps_redrawn",),
    ("u", (17, 64, 48)): ("heatmaps",),
    ("f", (17, 3)): ("joints",),
    ("f", ()): ("rgb_ratio",),
}
_NEEDED_FOR: dict[_Column, Modality] = {"rgb_masks": "rgb", "rgb_ratio": "rgb"}
# Half of the grey levels: parsing maps and masks of 0..1 stay far below.
_MIN_PERSON_LEVEL = 128
_LEAVE_OUT = "or ask for what does not need it, such as --video.modalities silhouettes"


def read_pickles(
    path: str | Path, modalities: Collection[Modality] = PICKLED_MODALITIES
) -> ExtractedSequence:
    """Read a leaf of pickles, or one pickle; all frames are kept, those without a person too.

    Args:
        path: A folder with `*.pkl`, or such a file.
        modalities: What to keep beside silhouettes; files of others are not read where their name
            tells. `heatmaps_redrawn` are drawn from the joints where there are none.

    Returns:
        The sequence. Boxes, scores, the frame rate and the size in the source are unknown.

    Raises:
        BadArray: No pickle, one that cannot be read, one of another dtype or shape, two of one
            modality, no silhouettes, no frames, or not as many of each modality; colours without
            masks or ratios, ratios that are not above 0, joints that are not finite.
        UnsafePickle: A pickle that is more than an array.
        NotAMask: Silhouettes of other values than 0..255, or inverted (`check_not_inverted`).
        EmptySilhouette: Not one frame holds a person.
    """
    path = Path(path)
    columns: dict[_Column, NDArray[Any]] = {}
    paths: dict[_Column, Path] = {}
    members = pickle_paths(path)
    has_rgb = any(_RGB_WORDS & _words(member) for member in members if not _is_view(member, path))
    can_be = {member: _columns_of(member, path) or () for member in members}
    has_aligned = _ALIGNED in can_be.values()
    if has_aligned:
        # Of what else may be silhouettes nothing says that it is aligned.
        can_be = {
            member: names if names == _ALIGNED else tuple(n for n in names if n not in _ALIGNED)
            for member, names in can_be.items()
        }

    def take(wanted: Collection[Modality], some: Iterable[Path]) -> None:
        # Colours come before what only they need.
        for member in sorted(some, key=lambda member: can_be[member] == ("rgb_masks",)):
            if not _is_wanted(can_be[member], wanted):
                continue
            array = read_array(member)
            has_colours = has_rgb or "rgb" in columns
            if has_aligned and not has_colours and _is_mask(array) and can_be[member] != _ALIGNED:
                continue
            column = _column(member, array, can_be[member], has_rgb=has_rgb)
            if not _is_wanted((column,), wanted):
                continue
            if column in columns:
                raise BadArray(
                    f"{member}: {column}, and so is {paths[column].name}; expected one array of "
                    "each modality"
                )
            columns[column], paths[column] = array, member

    take(modalities, members)
    if "heatmaps_redrawn" in modalities and not {"heatmaps_redrawn", "joints"} & columns.keys():
        # Joints that nobody asked for, to draw them.
        maybe = [one for one in members if "joints" in can_be[one] and one not in paths.values()]
        take((*modalities, "joints"), maybe)
    if not {"silhouettes", "silhouettes_128"} & columns.keys():
        there = ", ".join(member.name for member in members[:8])
        raise BadArray(
            f"{path}: no silhouettes in {there}; expected uint8 n×64×64 (or n×64×44, n×128×128): "
            "every row has them"
            + (
                f"; {paths['rgb_masks'].name} is taken for the masks of colours, which are not "
                "aligned: if it is, name it *-aligned-sils.pkl"
                if "rgb_masks" in columns
                else ""
            )
        )
    _check_lengths(columns, paths)
    for column in sorted(_MASKS & columns.keys()):
        _check_levels(columns[column], column, paths[column])
    for column in sorted(frozenset(_ALIGNED) & columns.keys()):
        check_not_inverted(columns[column], paths[column])
    if "rgb" in columns:
        _check_companions(columns, paths["rgb"])
    else:
        # They say something about colours alone; no reader of shards takes them by themselves.
        columns.pop("rgb_masks", None)
        columns.pop("rgb_ratio", None)
    for column in ("rgb_ratio", "joints"):
        if column in columns:
            columns[column] = _as_float32(columns[column], column, paths[column])
    return _sequence(columns, modalities)


def pickle_paths(path: Path) -> list[Path]:
    """The pickles of a leaf that may be read, by name; the file itself if it is one.

    Raises:
        BadArray: There are none, or the folder cannot be read.
    """
    if path.is_file():
        return [path]
    try:
        inside = sorted(member for member in path.iterdir() if member.suffix.lower() == ".pkl")
    except OSError as error:
        raise BadArray(f"{path}: no .pkl in it can be seen: {error.strerror}") from error
    members = [
        member
        for member in inside
        if not member.name.startswith(".") and _columns_of(member, path) is not None
    ]
    if not members:
        passed = f" but {inside[0].name}, which is not read" if inside else ""
        raise BadArray(f"{path}: no .pkl in it{passed}; expected a pickled array a modality")
    return members


def _words(path: Path) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", path.stem.lower()))


def _columns_by_name(path: Path) -> tuple[_Column, ...] | None:
    """What a file can be by its name: all when the name does not say, None when never read."""
    words = _words(path)
    if words & NOT_READ_WORDS or ("aligned" in words and words & _RGB_WORDS):
        return None
    if words & _RATIO_WORDS:
        return ("rgb_ratio",)
    if words & _RGB_WORDS:
        return ("rgb",)
    if words & _HEATMAP_WORDS:
        return ("heatmaps", "heatmaps_redrawn")
    if words & _POSE_WORDS:
        return ("joints",)
    if words & SILHOUETTE_WORDS:
        if "aligned" in words:
            return _ALIGNED
        is_last = re.search(rf"[^a-z0-9]({'|'.join(SILHOUETTE_WORDS)})$", path.stem.lower())
        return _CUT if is_last else _UNSAID
    return get_args(_Column)


def _is_view(member: Path, source: Path) -> bool:
    """Whether a file is named after its view, `raw` or `pose` say, and not after what it holds."""
    return member == source or member.stem == member.parent.name


def _columns_of(member: Path, source: Path) -> tuple[_Column, ...] | None:
    """`_columns_by_name`, but for a file that is named after its view."""
    columns = _columns_by_name(member)
    if member.stem != member.parent.name and columns == _CUT:
        return columns  # a file by itself may be one of a leaf
    return get_args(_Column) if _is_view(member, source) else columns


def _is_wanted(columns: tuple[_Column, ...], modalities: Collection[Modality]) -> bool:
    kept = {"silhouettes", "silhouettes_128", *modalities}
    return any(_NEEDED_FOR.get(column, column) in kept for column in columns)


def _column(
    path: Path, array: NDArray[Any], by_name: tuple[_Column, ...], *, has_rgb: bool
) -> _Column:
    """What an array is, by name and shape."""
    is_float = np.issubdtype(array.dtype, np.floating)
    kind = "u" if array.dtype == np.uint8 else "f" if is_float else ""
    frame_shape = array.shape[1:] if array.ndim else (-1,)
    by_shape = _BY_SHAPE.get((kind, frame_shape), ())
    possible = [column for column in by_name if column in by_shape]
    if not possible:
        expected = "; ".join(
            f"{column} {'uint8' if kind == 'u' else 'float'} "
            + "×".join(map(str, ("n", *frame_shape)))
            for (kind, frame_shape), columns in _BY_SHAPE.items()
            for column in columns
            if column in by_name
        )
        raise BadArray(
            f"{path}: {array.dtype} {'×'.join(map(str, array.shape)) or 'scalar'}, expected "
            f"{expected}" + ("" if "silhouettes" in by_name else f"; {_LEAVE_OUT}")
        )
    # Whole crops lie beside the colours that they were cut with.
    return "rgb_masks" if has_rgb and "rgb_masks" in possible else possible[0]


def _is_mask(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3


def _check_lengths(columns: dict[_Column, NDArray[Any]], paths: dict[_Column, Path]) -> None:
    lengths = {column: len(array) for column, array in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{paths[column].name} {number}" for column, number in lengths.items())
        raise BadArray(
            f"{next(iter(paths.values())).parent}: ragged, its arrays have different numbers of "
            f"frames ({listed}); expected the same frames of each modality; {_LEAVE_OUT}"
        )
    if 0 in lengths.values():
        raise BadArray(f"{next(iter(paths.values()))}: 0 frames, expected at least one")


def _check_levels(masks: NDArray[Any], column: _Column, path: Path) -> None:
    highest = int(masks.max())
    if highest == 0:
        raise EmptySilhouette(f"{path}: not one of {len(masks)} frames holds a person")
    if highest < _MIN_PERSON_LEVEL:
        raise NotAMask(
            f"{path}: {column} with values 0..{highest}, expected 0 background and 255 person"
        )


def check_not_inverted(silhouettes: UInt8[np.ndarray, "t h w"], path: Path) -> None:
    """Refuse aligned silhouettes whose background is white, or that have none.

    How much of a frame is white does not tell: no more than 0.89 of inverted synthetic walkers. No
    whole person reaches all four corners, but one whom an occluder cuts to a block may: a few such
    frames are no fault. Of frames of 44 columns that were padded after they were inverted, the
    corners are those of the 44.

    Args:
        silhouettes: Aligned, 0 background.
        path: Where they were read, for the message.

    Raises:
        NotAMask: In most frames all four corners are white.
    """
    side_px = 10 * (silhouettes.shape[2] // 64)
    cut = silhouettes[:, :, side_px : silhouettes.shape[2] - side_px]
    if np.count_nonzero(cut) == np.count_nonzero(silhouettes):
        silhouettes = cut
    corners = silhouettes[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    num_white = np.count_nonzero((corners >= _MIN_PERSON_LEVEL).all(axis=1))
    if 2 * num_white > len(silhouettes):
        raise NotAMask(
            f"{path}: {num_white} of {len(silhouettes)} frames are white in all four corners, "
            "expected 0 background and 255 person; are they inverted?"
        )


def _check_companions(columns: dict[_Column, NDArray[Any]], path: Path) -> None:
    lacking = {"rgb_masks": "masks, *-sils n×128×128", "rgb_ratio": "ratios, *-ratios n"}
    missing = [what for column, what in lacking.items() if column not in columns]
    if missing:
        raise BadArray(
            f"{path}: colours without their {' and '.join(missing)}; expected both beside them: "
            f"{_LEAVE_OUT}"
        )


def _as_float32(values: NDArray[Any], column: _Column, path: Path) -> NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):  # such values are refused below
        narrow = values.astype(np.float32)
    is_bad = ~np.isfinite(narrow)
    if column == "rgb_ratio":
        is_bad |= narrow <= 0
    if is_bad.any():
        expected = "finite" + (" and above 0, width over height" if column == "rgb_ratio" else "")
        raise BadArray(
            f"{path}: {column} with {np.count_nonzero(is_bad)} of {is_bad.size} values like "
            f"{values[is_bad].flat[0]}, expected {expected}; {_LEAVE_OUT}"
        )
    return narrow


def _sequence(
    columns: dict[_Column, NDArray[Any]], modalities: Collection[Modality]
) -> ExtractedSequence:
    large = _padded(columns.get("silhouettes_128"), 128)
    silhouettes = _padded(columns.get("silhouettes"), 64)
    if silhouettes is None:
        assert large is not None
        silhouettes = halved(large)
    rgb = columns.get("rgb")
    if rgb is not None and rgb.shape[1] == 3:
        rgb = rgb.transpose(0, 2, 3, 1)

    def kept(name: Modality, values: NDArray[Any] | None) -> NDArray[Any] | None:
        return values if name in modalities else None

    joints, redrawn = columns.get("joints"), columns.get("heatmaps_redrawn")
    if redrawn is None and joints is not None and "heatmaps_redrawn" in modalities:
        redrawn = redraw(joints)
    return unplaced_sequence(
        silhouettes,
        silhouettes_128=kept("silhouettes_128", large),
        heatmaps=kept("heatmaps", columns.get("heatmaps")),
        heatmaps_redrawn=kept("heatmaps_redrawn", redrawn),
        rgb=kept("rgb", rgb),
        rgb_masks=kept("rgb", columns.get("rgb_masks")),
        imported_rgb_ratio=kept("rgb", columns.get("rgb_ratio")),
        joints=kept("joints", joints),
    )


def unplaced_sequence(
    silhouettes: UInt8[np.ndarray, "t 64 64"], **modalities: NDArray[Any] | None
) -> ExtractedSequence:
    """A sequence of which only aligned frames are known, not where in a picture they were.

    Args:
        silhouettes: Aligned masks.
        **modalities: Fields of `ExtractedSequence` with as many frames.
    """
    t = len(silhouettes)
    frame_indices = np.arange(t, dtype=np.int32)
    boxes_px = np.full((t, 4), np.nan, np.float32)
    unknown = np.full(t, np.nan, np.float32)
    return ExtractedSequence(
        track=0,
        frame_indices=frame_indices,
        boxes_px=boxes_px,
        fps=math.nan,
        silhouettes=silhouettes,
        quality=FrameQuality(
            person_score=unknown,
            joint_score=unknown,
            mask_area_ratio=unknown,
            mask_height_px=unknown,
            largest_part_ratio=unknown,
            sharpness=unknown,
            is_cut=np.zeros(t, bool),
            is_walking=is_walking(boxes_px, frame_indices, math.nan, silhouettes),
        ),
        **modalities,  # type: ignore[arg-type]
    )


def halved(frames: UInt8[np.ndarray, "t 128 128"]) -> UInt8[np.ndarray, "t 64 64"]:
    """Aligned silhouettes at half the size: means of 2×2 pixels."""
    return np.stack([cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in frames])


def _padded(frames: NDArray[Any] | None, size_px: int) -> NDArray[Any] | None:
    """Black columns on either side of frames that were cut to 44 of 64 columns."""
    if frames is None or frames.shape[2] == size_px:
        return frames
    side_px = (size_px - frames.shape[2]) // 2
    return np.pad(frames, ((0, 0), (0, 0), (side_px, side_px)))
