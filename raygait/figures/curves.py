"""Training curves: what a run recorded, a chart for each thing that can go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raygait.figures import ink


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: What is measured.
        lines: Name in the history -> label.
        top: Highest value of the axis; None fits it to the values.
        about: What to look for, a sentence.
    """

    title: str
    lines: Mapping[str, str]
    top: float | None
    about: str


PANELS = (
    Panel(
        "Loss",
        {"loss": "sum", "triplet_loss": "triplet", "identity_loss": "identity"},
        None,
        "The weighted sum that is minimised, and its two parts before weighting.",
    ),
    Panel(
        "Active triplets",
        {"active_triplet_ratio": "share of all triplets"},
        1.0,
        "Triplets still inside the margin. Near 0 the triplet loss has nothing left to teach; "
        "stuck near 1 the embeddings have collapsed.",
    ),
    Panel(
        "Distance in a batch",
        {"mean_positive_distance": "same person", "mean_negative_distance": "other people"},
        None,
        "The gap between the two is what recognition lives on.",
    ),
    Panel(
        "Accuracy on training subjects",
        {"accuracy": "identity head"},
        1.0,
        "How often the identity head names the subject; says nothing of people not trained on.",
    ),
    Panel(
        "Seconds a step",
        {"step_seconds": "computing", "wait_seconds": "waiting for data"},
        None,
        "Waiting adds to computing, and should be a thin line at the bottom.",
    ),
    Panel(
        "Learning rate",
        {"learning_rate": "learning rate"},
        None,
        "The recipe's schedule.",
    ),
)
"""What is drawn, in this order; a chart whose values a history lacks is left out."""

_WIDTH_PX, _HEIGHT_PX = 360, 230
# From so many points on a line is noise: it is drawn faint, its running mean in full.
_NOISY_POINTS = 60
_EXACT = {"learning_rate"}


def training_curves(history: Sequence[Mapping[str, float]], *, num_columns: int = 3) -> Figure:
    """All charts of a run in one figure.

    Args:
        history: One mapping a step, as `training.launch.read_history` returns them.
        num_columns: Charts beside each other.

    Raises:
        ValueError: Nothing that could be drawn.
    """
    panels = recorded_panels(history)
    if not panels:
        raise ValueError("the history holds no recorded step, there is nothing to draw")
    num_columns = min(num_columns, len(panels))
    num_lines = -(-len(panels) // num_columns)
    figure = ink.new_figure(_WIDTH_PX * num_columns, (_HEIGHT_PX + 30) * num_lines)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(num_lines, num_columns, number)
        axes.set_title(panel.title, loc="left", fontsize=10, color=ink.INK, pad=20)
        _draw(axes, panel, history)
    return figure


def panel_figure(panel: Panel, history: Sequence[Mapping[str, float]]) -> Figure:
    """One chart, without its title.

    Args:
        panel: One of `recorded_panels`.
        history: As for `training_curves`.
    """
    figure = ink.new_figure(_WIDTH_PX, _HEIGHT_PX)
    _draw(figure.add_subplot(), panel, history)
    return figure


def recorded_panels(history: Sequence[Mapping[str, float]]) -> list[Panel]:
    """The charts that a history has values for."""
    recorded = {name for point in history for name in point}
    return [panel for panel in PANELS if recorded & panel.lines.keys()]


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over a window around each value, the part of it that exists; NaN are passed over.

    Args:
        values: Any numbers, [n].
        window: Values on both sides together; 0 changes nothing.
    """
    half = window // 2
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    low, high = np.maximum(0, places - half), np.minimum(len(values), places + half + 1)
    number = counts[high] - counts[low]
    means = (sums[high] - sums[low]) / np.maximum(1, number)
    return np.where(number > 0, means, np.nan)


def _draw(axes: Axes, panel: Panel, history: Sequence[Mapping[str, float]]) -> None:
    ink.quieten(axes)
    steps = np.array([point["step"] for point in history], np.float64)
    highest = 0.0
    lines = [name for name in panel.lines if any(name in point for point in history)]
    for name, colour in zip(lines, ink.SERIES, strict=False):
        values = np.array([point.get(name, np.nan) for point in history], np.float64)
        finite = values[np.isfinite(values)]
        if finite.size:
            # A first step that compiles, or a hiccup, must not flatten all the others.
            limit = min(finite.max(), 1.6 * np.percentile(finite, 98))
            highest = max(highest, float(limit))
            if len(values) >= _NOISY_POINTS and name not in _EXACT:
                axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
                values = running_mean(np.minimum(values, limit), len(values) // 30)
        axes.plot(steps, values, color=colour, linewidth=1.8, label=panel.lines[name])
    top = panel.top or highest * 1.08
    axes.set_ylim(0, top if top > 0 else 1)
    axes.margins(x=0.01)
    if len(steps) == 1:
        axes.lines[0].set_marker("o")
    axes.locator_params(axis="y", nbins=5)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("step", fontsize=ink.TICK_POINTS, color=ink.INK, loc="right", labelpad=1)
    if len(lines) == 1:
        return
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        fontsize=ink.TICK_POINTS,
        labelcolor=ink.INK,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0.2,
    )
