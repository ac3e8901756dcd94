"""A distance matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy import ndarray

from raygait.figures import ink

_NEAR_TO_FAR = LinearSegmentedColormap.from_list(
    "near-to-far", ["#12406f", "#2f7fc4", "#8fbfe6", "#dbe8f3"]
)
_UNDEFINED = "#9aa1aa"
_CELL_PX = 52
_SMALL_CELL_PX = 12
_LABEL_LETTERS = 34
_TICK_PX = 24


def distance_matrix(
    labels: Sequence[str], values: Float[ndarray, "n n"], *, max_written: int = 16
) -> Figure:
    """Distances between all pairs, in the order given: dark is near, pale is far.

    Rows are numbered and named, columns carry the numbers. The colours span the values off the
    diagonal, as a row's distance to itself says nothing.

    Args:
        labels: One a row, any text.
        values: Distances, at least 0, finite or NaN.
        max_written: Up to so many rows each cell has its value written in it.

    Raises:
        ValueError: No rows, or labels and values do not fit each other.
    """
    matrix = np.asarray(values, np.float64)
    n = len(labels)
    if n == 0 or matrix.shape != (n, n):
        raise ValueError(
            f"a distance matrix of {n} labels is [{n}, {n}] and not empty, got {matrix.shape}"
        )
    cell_px = _CELL_PX if n <= max_written else max(_SMALL_CELL_PX, min(_CELL_PX, 760 // n))
    names = [
        ink.shorten(ink.printable(label), _LABEL_LETTERS) + f"   {number}"
        for number, label in enumerate(labels, 1)
    ]
    label_px = _TICK_PX + max(ink.text_width_px(name, fontsize=ink.TICK_POINTS) for name in names)
    side_px = n * cell_px
    width_px, height_px = label_px + side_px, _TICK_PX + side_px
    figure = ink.new_figure(width_px, height_px, arranged=False)
    axes = figure.add_axes((label_px / width_px, 0, side_px / width_px, side_px / height_px))
    ink.quieten(axes)
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)

    apart = matrix[~np.eye(n, dtype=bool)]
    apart = apart[np.isfinite(apart)]
    low, high = (float(apart.min()), float(apart.max())) if apart.size else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1.0, clip=True)
    colours = _NEAR_TO_FAR(norm(np.nan_to_num(matrix)))
    colours[~np.isfinite(matrix)] = (*_rgb(_UNDEFINED), 1.0)
    colours[np.eye(n, dtype=bool)] = (*_rgb(_UNDEFINED), 0.25)
    axes.imshow(colours, interpolation="nearest")
    if n <= max_written:
        _write(figure, matrix, norm)
    every = 1 if cell_px >= 24 else max(1, round(24 / cell_px))
    shown = np.arange(0, n, every)
    axes.set_xticks(shown, [str(number + 1) for number in shown])
    axes.set_yticks(shown, [names[number] for number in shown])
    axes.xaxis.tick_top()
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    return figure


def _write(figure: Figure, matrix: Float[ndarray, "n n"], norm: Normalize) -> None:
    highest = np.nanmax(np.abs(matrix), initial=0.0)
    decimals = 2 if highest < 10 else 1 if highest < 100 else 0
    for (line, column), value in np.ndenumerate(matrix):
        written = f"{value:.{decimals}f}" if np.isfinite(value) else "–"
        dark = line != column and np.isfinite(value) and norm(value) < 0.5
        colour = "#ffffff" if dark else ink.INK if line == column else "#1d2b3a"
        figure.axes[0].text(
            column,
            line,
            written,
            color=colour,
            fontsize=ink.TICK_POINTS,
            horizontalalignment="center",
            verticalalignment="center_baseline",
        )


def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))  # type: ignore[return-value]
