"""Charts of one clip: boxes in whole frames, a timeline of its tracks, measures by frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy import ndarray
from numpy.typing import NDArray

from raygait.figures import ink
from raygait.figures.contact_sheets import Row
from raygait.video.decode import Frame
from raygait.video.extraction import RejectedTrack
from raygait.video.settings import VideoSettings
from raygait.video.tracking import Track

MAX_BARS = 80
"""Bars of the timeline, the longest ones."""

KEPT, REJECTED = "#3f86d0", "#8a919b"
REASON_COLOURS: Mapping[str, str] = {
    "no person": "#b3475c",
    "hidden": "#d0741c",
    "small mask": "#c2a21f",
    "mask in pieces": "#8a63c4",
    "cut by the border": "#2f9b72",
    "cut by the crop": "#1f6b4f",
    "blurred": "#4aa9b5",
    "another track's person": "#cc6aa8",
    "another person": "#97683a",
    "no pose": "#5b6fb5",
    "several poses": "#8796cf",
    "bad pose": "#3d4a80",
    "no colours": "#7d8b3c",
    "bad colours": "#9c8f2e",
    "no mask": "#a9b36a",
    "colours of another crop": "#59632a",
}
"""Colour of frames that were left out, by `extraction.Unseen`."""
BOX_KEPT, BOX_REJECTED = (70, 160, 255), (255, 150, 40)
"""RGB of boxes in whole frames; told apart by people who see red and green alike."""

_FRAME_PX = (960, 720)
_CHART_PX = 1080


def fit_frame(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h2 w2 3"]:
    """A whole frame made small enough for the page; a smaller one stays as it is."""
    height_px, width_px = image.shape[:2]
    scale = min(1.0, _FRAME_PX[0] / width_px, _FRAME_PX[1] / height_px)
    size_px = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    fitted: NDArray[np.uint8] = cv2.resize(image, size_px, interpolation=cv2.INTER_AREA)
    return fitted


def draw_boxes(
    frame: Frame, tracks: Sequence[Track], rows: Sequence[Row], *, width_px: int
) -> UInt8[ndarray, "h2 w2 3"]:
    """One whole frame with the boxes and numbers of all tracks.

    Blue: of a sequence, thin where it leaves this frame out. Orange: rejected.

    Args:
        frame: A whole frame, of any size.
        tracks: What was found.
        rows: What became a sequence.
        width_px: Width of the frames that the boxes are of.
    """
    image = fit_frame(frame.image)
    scale = image.shape[1] / width_px
    owners = {row["track"] for row in rows}
    kept: dict[int, list[float]] = {}
    for row in rows:
        if frame.index in row["frame_indices"]:
            at = row["frame_indices"].index(frame.index)
            kept[row["track"]] = row["boxes_px"][4 * at : 4 * at + 4]
    # The kept ones last, on top.
    for track in tracks:
        at = frame.index - int(track.frame_indices[0])
        box_px = track.boxes_px[at] if 0 <= at < len(track) else None
        if box_px is None or any(np.allclose(box_px, other) for other in kept.values()):
            continue
        is_owner = track.number in owners
        _draw_box(
            image,
            [scale * side for side in box_px.tolist()],
            str(track.number),
            BOX_KEPT if is_owner else BOX_REJECTED,
            1 if is_owner else 2,
        )
    for number, box in kept.items():
        _draw_box(image, [scale * side for side in box], str(number), BOX_KEPT, 2)
    return image


@dataclass(frozen=True)
class Bar:
    """What the timeline shows of a track.

    Attributes:
        number: The track's.
        frame_indices: Frames kept, or of a rejected track all.
        left_out: Frames that were left out, and why.
        reject: Reason of the reject; empty for a sequence.
    """

    number: int
    frame_indices: Sequence[int]
    left_out: Mapping[int, str]
    reject: str = ""

    @property
    def first(self) -> int:
        """The first frame, kept or not."""
        return min([*self.frame_indices, *self.left_out])

    @property
    def last(self) -> int:
        """The last frame, kept or not."""
        return max([*self.frame_indices, *self.left_out])

    @property
    def num_frames(self) -> int:
        """Frames, kept or not."""
        return len(self.frame_indices) + len(self.left_out)


def timeline_bars(
    tracks: Sequence[Track], rows: Sequence[Row], rejects: Sequence[RejectedTrack]
) -> list[Bar]:
    """A bar a sequence, and one a rejected track.

    The rest of a track that was cut has a number of its own when it is rejected, and no boxes under
    it: it has no bar.
    """
    bars = [
        Bar(
            row["track"],
            row["frame_indices"],
            dict(zip(row["left_out_indices"], row["left_out_reasons"], strict=True)),
        )
        for row in rows
    ]
    found = {track.number: track for track in tracks}
    for reject in rejects:
        if reject.track in found:
            indices = found[reject.track].frame_indices.tolist()
            bars.append(Bar(reject.track, indices, {}, reject.reason))
    return bars


def timeline(bars: Sequence[Bar], num_frames: int) -> Figure:
    """Bars over the number of the frame, the first to begin on top; at most `MAX_BARS`.

    Args:
        bars: What `timeline_bars` gives; of too many the longest are drawn.
        num_frames: Frames of the clip.
    """
    longest = sorted(bars, key=lambda bar: -bar.num_frames)[:MAX_BARS]
    bars = sorted(longest, key=lambda bar: (bar.first, bar.number))
    end = max([num_frames, *(bar.last + 1 for bar in bars)])
    reasons = {reason for bar in bars for reason in bar.left_out.values()}
    figure = ink.new_figure(_CHART_PX, 78 + 17 * max(1, len(bars)))
    axes = figure.add_subplot()
    ink.quieten(axes)
    axes.grid(visible=False)
    axes.grid(axis="x", color=ink.INK, alpha=0.22, linewidth=0.7)
    for place, bar in enumerate(bars):
        _draw_bar(axes, place, bar, end)
    axes.set_xlim(0, end)
    axes.set_ylim(max(1, len(bars)) - 0.4, -0.6)
    axes.set_yticks(range(len(bars)), [str(bar.number) for bar in bars])
    axes.set_xlabel("frame", fontsize=ink.TICK_POINTS, color=ink.INK, loc="right", labelpad=1)
    is_any_kept = any(not bar.reject for bar in bars)
    legend = [Patch(color=KEPT, label="kept")] if is_any_kept else []
    legend += [
        Patch(color=_colour(reason), label=ink.printable(reason)) for reason in _ordered(reasons)
    ]
    if any(bar.reject for bar in bars):
        legend.append(Patch(color=REJECTED, alpha=0.4, label="rejected"))
    _legend(axes, legend)
    return figure


def quality_plot(row: Row, settings: VideoSettings) -> Figure:
    """Measures of a sequence's frames over the number of the frame, with the settings' limits.

    Frames that were left out are marked in the colour of their reason; what was measured of them is
    not kept. A measure that is not known has no chart.

    Args:
        row: A row of shards, with `frame_indices`, `boxes_px`, the columns of `QUALITY` and
            `left_out_indices`, `left_out_reasons`.
        settings: Their limits are drawn.
    """
    indices = np.asarray(row["frame_indices"])
    left_out = dict(zip(row["left_out_indices"], row["left_out_reasons"], strict=True))
    first = min([int(indices[0]), *left_out])
    last = max([int(indices[-1]), *left_out])
    panels = [panel for panel in _panels(row, settings) if np.isfinite(panel.values).any()]
    heights = [1.0] * len(panels) + [0.6]
    figure = ink.new_figure(_CHART_PX, 78 * len(panels) + 100)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top: Axes | None = None
    for at, panel in enumerate(panels):
        axes = figure.add_subplot(grid[at], sharex=top)
        top = top or axes
        _mark_left_out(axes, left_out)
        _draw_panel(axes, panel, indices, first, last)
    strip = figure.add_subplot(grid[-1], sharex=top)
    _draw_walking(strip, indices, np.asarray(row["is_walking"], bool))
    strip.set_xlim(first - 0.5, last + 0.5)
    reasons = _ordered(set(left_out.values()))
    _legend(
        top or strip,
        [Patch(color=_colour(r), alpha=0.6, label=f"left out: {ink.printable(r)}") for r in reasons]
        or [Patch(color="none", label="no frame left out")],
    )
    return figure


@dataclass(frozen=True)
class _Panel:
    title: str
    values: NDArray[np.float64]
    limits: Sequence[tuple[float, str]]
    top: float | None
    beside: NDArray[np.float64] | None = None


def _draw_bar(axes: Axes, place: int, bar: Bar, end: int) -> None:
    if bar.reject:
        low, high = bar.first, bar.last + 1
        axes.barh(place, high - low, left=low, height=0.62, color=REJECTED, alpha=0.4)
        if high < 0.85 * end:
            at, side = high + 0.005 * end, "left"
        elif low > 0.15 * end:
            at, side = low - 0.005 * end, "right"
        else:
            at, side = (low + high) / 2, "center"
        axes.text(
            at,
            place,
            ink.printable(bar.reject),
            horizontalalignment=side,
            verticalalignment="center_baseline",
            fontsize=ink.TICK_POINTS - 1,
            color=ink.INK,
            fontweight="bold" if side == "center" else "normal",
            parse_math=False,
        )
        return
    for colour, low, num_frames in _runs(bar):
        axes.barh(place, num_frames, left=low, height=0.62, color=colour, linewidth=0)


def _runs(bar: Bar) -> Iterator[tuple[str, int, int]]:
    """Colour, first frame and length of each stretch that is the same; none over a hole."""
    states = dict.fromkeys(bar.frame_indices, KEPT)
    states |= {index: _colour(reason) for index, reason in bar.left_out.items()}
    begun = length = 0
    colour = ""
    for index in sorted(states):
        if length and states[index] == colour and index == begun + length:
            length += 1
            continue
        if length:
            yield colour, begun, length
        colour, begun, length = states[index], index, 1
    yield colour, begun, length


def _panels(row: Row, settings: VideoSettings) -> list[_Panel]:
    def each(name: str) -> NDArray[np.float64]:
        return np.asarray(row[name], np.float64)

    boxes_px = each("boxes_px").reshape(-1, 4)
    sharp_limit = [(settings.min_sharpness, "")] if settings.min_sharpness > 0 else []
    return [
        _Panel(
            "person score",
            each("person_score"),
            [
                (settings.min_frame_score, "in each frame"),
                (settings.min_person_score, "in the track's median"),
            ],
            1.0,
        ),
        _Panel("joint score", each("joint_score"), [(settings.min_joint_score, "")], 1.0),
        _Panel(
            "height of mask (strong) and box (faint), px",
            each("mask_height_px"),
            [(settings.min_height_px, "in the box's median")],
            None,
            boxes_px[:, 3] - boxes_px[:, 1],
        ),
        _Panel("sharpness", each("sharpness"), sharp_limit, None),
        _Panel(
            "largest part of the mask",
            each("largest_part_ratio"),
            [(settings.min_largest_part_ratio, "")],
            1.0,
        ),
    ]


def _draw_panel(
    axes: Axes, panel: _Panel, indices: NDArray[np.int64], first: int, last: int
) -> None:
    ink.quieten(axes)
    # A line over frames that were left out would invent their values.
    places = np.arange(first, last + 1)

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.full(len(places), np.nan)
        whole[indices - first] = values
        return whole

    if panel.beside is not None:
        axes.plot(places, spread(panel.beside), color=KEPT, linewidth=1, alpha=0.4)
    dots = "." if len(places) <= 200 else None
    axes.plot(places, spread(panel.values), color=KEPT, linewidth=1.5, marker=dots, markersize=3)
    drawn = [panel.values, *([] if panel.beside is None else [panel.beside])]
    highest = np.nanmax(np.concatenate([*drawn, [at for at, _ in panel.limits]]))
    axes.set_ylim(0, 1.04 * (panel.top or highest or 1))
    for (at, _), dashes in zip(panel.limits, ("--", ":"), strict=False):
        axes.axhline(at, color=ink.INK, linewidth=1.2, linestyle=dashes)
    # Beside the lines, letters would cover what is measured, and each other.
    limits = [f"{at:g} {what}".strip() for at, what in panel.limits]
    title = panel.title + (f"   ·   at least {', '.join(limits)}" if limits else "")
    axes.set_title(title, loc="left", fontsize=ink.TICK_POINTS, color=ink.INK, pad=3)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelbottom=False)


def _mark_left_out(axes: Axes, left_out: Mapping[int, str]) -> None:
    if not left_out:
        return
    bar = Bar(0, (), left_out)
    for colour, low, num_frames in _runs(bar):
        axes.axvspan(low - 0.5, low + num_frames - 0.5, color=colour, alpha=0.35, linewidth=0)


def _draw_walking(axes: Axes, indices: NDArray[np.int64], is_walking: NDArray[np.bool_]) -> None:
    ink.quieten(axes)
    axes.grid(visible=False)
    for place, frames in enumerate((indices[is_walking], indices[~is_walking])):
        if not len(frames):
            continue
        for _, low, num_frames in _runs(Bar(0, frames.tolist(), {})):
            axes.barh(place, num_frames, left=low - 0.5, height=0.7, color=KEPT, linewidth=0)
    axes.set_ylim(1.6, -0.6)
    axes.set_yticks([0, 1], ["walking", "standing"])
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("frame", fontsize=ink.TICK_POINTS, color=ink.INK, loc="right", labelpad=1)


def _legend(axes: Axes, handles: Sequence[Patch]) -> None:
    axes.figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=5,
        frameon=False,
        fontsize=ink.TICK_POINTS,
        labelcolor=ink.INK,
        handlelength=1.0,
        handleheight=0.8,
        columnspacing=1.4,
        borderpad=0.2,
    )


def _draw_box(
    image: NDArray[np.uint8],
    box: Sequence[float],
    text: str,
    colour: tuple[int, int, int],
    width_px: int,
) -> None:
    x0, y0, x1, y1 = (round(side) for side in box)
    cv2.rectangle(image, (x0, y0), (x1, y1), colour, width_px, cv2.LINE_AA)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (wide_px, high_px), _ = cv2.getTextSize(text, font, size, 1)
    left = min(max(0, x0), image.shape[1] - wide_px - 6)
    top = max(0, y0 - high_px - 6)
    cv2.rectangle(image, (left, top), (left + wide_px + 5, top + high_px + 5), colour, -1)
    cv2.putText(image, text, (left + 3, top + high_px + 2), font, size, (0, 0, 0), 1, cv2.LINE_AA)


def _colour(reason: str) -> str:
    return REASON_COLOURS.get(reason, REJECTED)


def _ordered(reasons: set[str]) -> list[str]:
    known = [reason for reason in REASON_COLOURS if reason in reasons]
    return known + sorted(reasons.difference(known))
