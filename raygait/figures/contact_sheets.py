"""Sequences as pictures: crop, aligned silhouette and joints, frame by frame.

The sheet is how a person judges what `video/` made of a clip: whether it is a person, whether the
mask is theirs, whether the joints sit where the body is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from numpy.typing import NDArray

from raygait.figures import ink
from raygait.shards import codec

Row = Mapping[str, Any]
"""A row of `shards.schema.SCHEMA` as plain values: `pyarrow.Table.to_pylist`, `iterate_rows`."""

CELL_PX = 128
"""Side of a cell: a stored crop as it is, a silhouette of 64 px doubled."""
GAP_PX = 2
"""Space between cells."""
MARGIN_PX = 16
"""Space around a sheet."""
CAPTION_PX = 30
"""Height of the line above a sequence."""

# Crops are dimmed beneath the joints by this, so that the colours stand out.
_BACKDROP_RATIO = 0.5
_CONDITION_ORDER = ("nm", "bg", "cl")


def contact_sheet(
    rows: Iterable[Row], *, num_columns: int = 12, max_sequences: int = 24
) -> UInt8[ndarray, "h w 3"]:
    """One RGB picture of several sequences, each a caption above its strip.

    Args:
        rows: Rows of shards; of heatmaps and RGB what is there is shown.
        num_columns: Frames of each sequence, evenly spaced from its first to its last.
        max_sequences: Rows after these are left out.

    Raises:
        ValueError: No row, or `num_columns` below 1.
        CorruptShard: A blob does not decode.
    """
    blocks: list[NDArray[np.uint8]] = []
    for row in islice(rows, max_sequences):
        strip = sequence_strip(row, num_columns=num_columns)
        caption = ink.text_line(
            "   ·   ".join(describe(row)), width_px=strip.shape[1], height_px=CAPTION_PX
        )
        if blocks:
            blocks.append(_blank(MARGIN_PX, strip.shape[1]))
        blocks += [caption, strip]
    if not blocks:
        raise ValueError("a contact sheet needs at least one row")
    sheet = np.vstack(blocks)
    framed = _blank(sheet.shape[0] + 2 * MARGIN_PX, sheet.shape[1] + 2 * MARGIN_PX)
    framed[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] = sheet
    return framed


def sequence_strip(row: Row, *, num_columns: int = 12) -> UInt8[ndarray, "h w 3"]:
    """Frames of one sequence in columns: crops, silhouettes, heatmaps, a line each.

    Heatmaps are shown as the highest probability over the joints, from black (0) over red to
    yellow (1), on the dimmed crop where there is one.

    Args:
        row: A row of shards; `silhouettes` must be there, `rgb` and `heatmaps` may be.
        num_columns: Frames, evenly spaced; a shorter sequence leaves columns empty.

    Returns:
        One to three lines of cells of `CELL_PX`, `GAP_PX` apart; the width depends on
        `num_columns` alone.

    Raises:
        ValueError: `num_columns` is below 1.
        CorruptShard: A blob does not decode.
    """
    if num_columns < 1:
        raise ValueError(f"num_columns is at least 1, got {num_columns}")
    shown = shown_frames(int(row["num_frames"]), num_columns)
    silhouettes = codec.decode_silhouettes(row["silhouettes"], shown)
    lines = [[_fit(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)) for frame in silhouettes]]
    crops = None
    if row.get("rgb") is not None:
        crops = _crop_cells(row, codec.decode_crops(row["rgb"], shown), shown)
        lines.insert(0, crops)
    if row.get("heatmaps") is not None:
        heatmaps = codec.decode_heatmaps(row["heatmaps"], shown)
        scale = row.get("heatmap_scale") or 1 / 255
        lines.append(
            [
                _glow(frame, scale, None if crops is None else crops[number])
                for number, frame in enumerate(heatmaps)
            ]
        )
    step = CELL_PX + GAP_PX
    strip = _blank(len(lines) * step - GAP_PX, num_columns * step - GAP_PX)
    for line, cells in enumerate(lines):
        for column, cell in enumerate(cells):
            top, left = line * step, column * step
            strip[top : top + CELL_PX, left : left + CELL_PX] = cell
    return strip


def shown_frames(num_frames: int, num_columns: int) -> list[int]:
    """Which frames of a sequence a strip shows: evenly spaced, first and last among them."""
    wanted = min(num_frames, num_columns)
    return [round(at) for at in np.linspace(0, max(0, num_frames - 1), wanted).tolist()]


def describe(row: Row) -> tuple[str, ...]:
    """What a caption says of a row, in pieces: its id, its length, where it is from, its score."""
    num_frames, indices = int(row["num_frames"]), row["frame_indices"]
    pieces = [str(row["sequence_id"]), f"{num_frames} frames"]
    if indices:
        source = f"source frames {indices[0]} to {indices[-1]}"
        fps = row.get("fps")
        if fps is not None and math.isfinite(fps) and fps > 0:
            source += f" ({(indices[-1] - indices[0] + 1) / fps:.1f} s)"
        pieces.append(source)
    score = median_score(row)
    if score is not None:
        pieces.append(f"median person score {score:.2f}")
    return tuple(pieces)


def median_score(row: Row) -> float | None:
    """Median of the person score over the frames that have one; None where none has."""
    scores = np.asarray(row.get("person_score") or [], np.float64)
    scores = scores[np.isfinite(scores)]
    return float(np.median(scores)) if scores.size else None


@dataclass(frozen=True)
class WalkGrid:
    """One silhouette a walk: who, how dressed, seen from where.

    Attributes:
        subjects: One a line.
        columns: Kind of condition (`nm` of `nm-05`) and view, one a column.
        silhouettes: (subject, kind, view) -> the frame with the widest outline, that is with the
            feet farthest apart; missing where there is no such walk.
    """

    subjects: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    silhouettes: Mapping[tuple[str, str, str], UInt8[ndarray, "h w"]]


def choose_walks(rows: Iterable[Row], *, max_subjects: int = 8, max_views: int = 4) -> list[str]:
    """Ids of the rows that a grid of walks shows: the first walk of each kind, evenly spaced views.

    Args:
        rows: At least `sequence_id`, `subject`, `condition`, `view` of each; those without a
            subject are passed over.
        max_subjects: Subjects, evenly spaced over all.
        max_views: Views, evenly spaced over all.
    """
    first: dict[tuple[str, str, str], tuple[str, str]] = {}
    for row in rows:
        if row["subject"]:
            key = (row["subject"], _kind(row["condition"]), row["view"])
            walk = (row["condition"], row["sequence_id"])
            first[key] = min(walk, first.get(key, walk))
    subjects = _spread(sorted({subject for subject, _, _ in first}), max_subjects)
    views = _spread(sorted({view for _, _, view in first}), max_views)
    return [
        sequence_id
        for (subject, _, view), (_, sequence_id) in sorted(first.items())
        if subject in subjects and view in views
    ]


def walk_grid(rows: Iterable[Row]) -> WalkGrid:
    """A grid of the rows that `choose_walks` has chosen.

    Args:
        rows: Rows of shards, all of which are shown; of two walks of one kind and view the first.

    Raises:
        CorruptShard: A blob does not decode.
    """
    silhouettes: dict[tuple[str, str, str], NDArray[np.uint8]] = {}
    for row in rows:
        key = (row["subject"], _kind(row["condition"]), row["view"])
        if key not in silhouettes:
            frames = codec.decode_silhouettes(row["silhouettes"])
            widths = np.count_nonzero((frames > 127).any(axis=1), axis=1)
            silhouettes[key] = frames[int(widths.argmax())]
    columns = {(kind, view) for _, kind, view in silhouettes}
    return WalkGrid(
        subjects=tuple(sorted({subject for subject, _, _ in silhouettes})),
        columns=tuple(sorted(columns, key=lambda column: (kind_order(column[0]), column[1]))),
        silhouettes=silhouettes,
    )


def kind_order(condition: str) -> tuple[int, str]:
    """Key to sort conditions by: normal walking, bag, coat, then others by name."""
    kind, known = _kind(condition), _CONDITION_ORDER
    return (known.index(kind) if kind in known else len(known), condition)


def _kind(condition: str) -> str:
    return condition.partition("-")[0]


def _spread(values: Sequence[str], most: int) -> set[str]:
    return {values[index] for index in shown_frames(len(values), most)}


def _blank(height_px: int, width_px: int) -> NDArray[np.uint8]:
    return np.full((height_px, width_px, 3), ink.SHEET_RGB, np.uint8)


def _fit(image: NDArray[np.uint8], *, smooth: bool = False) -> NDArray[np.uint8]:
    """An RGB picture in the middle of a black cell, as large as fits; whole factors stay exact."""
    height_px, width_px = image.shape[:2]
    scale = min(CELL_PX / height_px, CELL_PX / width_px)
    size_px = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    if smooth:
        method = cv2.INTER_LINEAR
    else:
        method = cv2.INTER_NEAREST if scale == round(scale) else cv2.INTER_AREA
    cell = np.zeros((CELL_PX, CELL_PX, 3), np.uint8)
    top, left = (CELL_PX - size_px[1]) // 2, (CELL_PX - size_px[0]) // 2
    cell[top : top + size_px[1], left : left + size_px[0]] = cv2.resize(
        image, size_px, interpolation=method
    )
    return cell


def _crop_cells(
    row: Row, crops: UInt8[ndarray, "t h w 3"], shown: Sequence[int]
) -> list[NDArray[np.uint8]]:
    """RGB crops in their own shape again, each at its place in the square of the heatmaps.

    Where that place is not known, in the middle of the cell and as large as fits.
    """
    ratios = np.asarray(row["rgb_ratio"], np.float64)[list(shown)]
    windows, squares = row.get("rgb_windows_px"), row.get("heatmap_windows_px")
    if windows is None or squares is None:
        sizes = [(1.0, 1 / ratio) if ratio > 1 else (ratio, 1.0) for ratio in ratios]
        places = [((1 - w) / 2, (1 - h) / 2, (1 + w) / 2, (1 + h) / 2) for w, h in sizes]
    else:
        window = np.asarray(windows, np.float64).reshape(-1, 4)[list(shown)]
        square = np.asarray(squares, np.float64).reshape(-1, 4)[list(shown)]
        side_px = square[:, 3] - square[:, 1]
        # The maps cover the middle three quarters of the square.
        left_px = (square[:, 0] + square[:, 2] - side_px) / 2
        corner = np.stack([left_px, square[:, 1]] * 2, axis=1)
        places = [tuple(place) for place in (window - corner) / side_px[:, None]]
    return [_put(crop, place) for crop, place in zip(crops, places, strict=True)]


def _put(image: NDArray[np.uint8], place: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """A picture at x0, y0, x1, y1 of a black cell, given as fractions; what lies outside is cut."""
    x0, y0, x1, y1 = (round(CELL_PX * value) for value in place)
    cell = np.zeros((CELL_PX, CELL_PX, 3), np.uint8)
    size_px = (max(1, x1 - x0), max(1, y1 - y0))
    scaled = cv2.resize(image, size_px, interpolation=cv2.INTER_AREA)
    left, top = max(0, x0), max(0, y0)
    part = scaled[top - y0 : CELL_PX - y0, left - x0 : CELL_PX - x0]
    cell[top : top + part.shape[0], left : left + part.shape[1]] = part
    return cell


def _glow(
    heatmaps: UInt8[ndarray, "j h w"], scale: float, crop: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """The joints' highest probability in colour; it covers the middle columns of the crop."""
    levels = (heatmaps.max(axis=0) * (255 * scale)).clip(0, 255).astype(np.uint8)
    level = _fit(cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB), smooth=True)[:, :, 0]
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    if crop is None:
        return np.asarray(colours, np.uint8)
    gray = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = np.minimum(1.0, level[:, :, None] / 140)
    mixed = share * colours + (1 - share) * _BACKDROP_RATIO * gray
    return np.asarray(mixed.round(), np.uint8)
