"""Colours and type of everything that is drawn.

Charts have no background and use middle tones only, so that one picture is legible on a white page
and on a dark one. Contact sheets are dark in both, as photographs are.
"""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from numpy import ndarray

INK = "#7a818b"
"""Text, ticks and axes of charts."""
SERIES = ("#3f86d0", "#d0741c", "#2f9b72")
"""Lines of a chart, in order; told apart by people who see red and green alike."""
TICK_POINTS = 8.5
"""Size of ticks and legends of charts."""

SHEET_RGB = (21, 23, 27)
"""Background of a contact sheet."""
SHEET_TEXT = "#d5d9df"
"""Captions on a contact sheet."""

_FONT = "DejaVu Sans"  # comes with matplotlib, so every machine draws the same
_DOTS_PER_INCH = 100


def printable(text: str) -> str:
    """The text with what the charts' font cannot draw replaced by U+FFFD, and on one line."""
    known = _characters()
    return "".join(
        letter if ord(letter) in known else "\N{REPLACEMENT CHARACTER}"
        for letter in " ".join(text.split())
    )


def shorten(text: str, max_letters: int) -> str:
    """The text, its middle left out where it is too long: file names differ at both ends.

    Args:
        text: Any text.
        max_letters: Letters of the result, the ellipsis among them; at least 3.
    """
    if len(text) <= max_letters:
        return text
    tail = (max_letters - 1) // 2
    return f"{text[: max_letters - 1 - tail]}…{text[len(text) - tail :]}"


def text_line(text: str, *, width_px: int, height_px: int) -> UInt8[ndarray, "h w 3"]:
    """One line of text on the background of a contact sheet, shortened to fit.

    Args:
        text: Any text; signs that the font lacks are replaced.
        width_px: Width of the picture.
        height_px: Height of the picture; the letters take about half of it.
    """
    figure = Figure(
        figsize=(width_px / _DOTS_PER_INCH, height_px / _DOTS_PER_INCH),
        dpi=_DOTS_PER_INCH,
        facecolor=np.array(SHEET_RGB) / 255,
    )
    canvas = FigureCanvasAgg(figure)
    line = printable(text)
    drawn = figure.text(
        0,
        0.5,
        line,
        color=SHEET_TEXT,
        family=_FONT,
        fontsize=0.44 * height_px * 72 / _DOTS_PER_INCH,
        verticalalignment="center_baseline",
        parse_math=False,
    )
    while (wide := drawn.get_window_extent(canvas.get_renderer()).width) > width_px > 0:
        room = min(len(line) - 1, int(len(line) * width_px / wide))
        if room < 3:
            drawn.set_text("")
            break
        line = shorten(line, room)
        drawn.set_text(line)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def new_figure(width_px: float, height_px: float, *, arranged: bool = True) -> Figure:
    """An empty chart without background; draws at twice its size in pixels, for fine screens.

    Args:
        width_px: Width.
        height_px: Height.
        arranged: Whether matplotlib makes room for labels; otherwise axes stay where they are put.
    """
    figure = Figure(
        figsize=(width_px / _DOTS_PER_INCH, height_px / _DOTS_PER_INCH),
        dpi=2 * _DOTS_PER_INCH,
        facecolor="none",
        layout="constrained" if arranged else None,
    )
    FigureCanvasAgg(figure)
    return figure


def text_width_px(text: str, *, fontsize: float) -> float:
    """Width of a line of a chart's text, in pixels of `new_figure`."""
    figure = Figure(dpi=_DOTS_PER_INCH)
    drawn = figure.text(0, 0, text, family=_FONT, fontsize=fontsize, parse_math=False)
    return float(drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width)


def quieten(axes: Axes) -> None:
    """Leave of a chart's frame what is needed to read it."""
    axes.set_facecolor("none")
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(INK)
        spine.set_alpha(0.5)
    axes.tick_params(colors=INK, labelsize=TICK_POINTS, length=0, labelfontfamily=_FONT)
    axes.grid(axis="y", color=INK, alpha=0.22, linewidth=0.7)
    axes.set_axisbelow(True)


def to_rgba(figure: Figure) -> UInt8[ndarray, "h w 4"]:
    """A chart as pixels, with transparency."""
    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


@functools.cache
def _characters() -> frozenset[int]:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return frozenset(FT2Font(str(path)).get_charmap())
