import subprocess
import sys

import numpy as np
import pytest

from raygait.figures import curves, ink


def lines_of(figure, title):
    axes = next(a for a in figure.axes if a.get_title(loc="left") == title)
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}


def test_every_recorded_value_is_on_a_chart(history):
    figure = curves.training_curves(history)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [p.title for p in curves.PANELS]
    drawn = {name for panel in curves.PANELS for name in panel.lines}
    assert drawn == history[0].keys() - {"step"}


def test_a_line_shows_the_history_itself_when_it_is_short(history):
    lines = lines_of(curves.training_curves(history[:20]), "Distance in a batch")
    expected = [point["mean_positive_distance"] for point in history[:20]]
    assert lines["same person"].tolist() == expected


def test_a_noisy_line_is_shown_faint_with_its_mean(history):
    axes = curves.panel_figure(curves.PANELS[1], history).axes[0]
    faint, strong = axes.lines
    assert faint.get_ydata().tolist() == [point["active_triplet_ratio"] for point in history]
    assert faint.get_alpha() < 0.5
    assert len(strong.get_ydata()) == len(history)
    assert strong.get_ydata()[1] != faint.get_ydata()[1]


def test_a_chart_without_values_is_left_out():
    history = [{"step": 1, "accuracy": 0.5, "loss": 1.0}]
    assert [panel.title for panel in curves.recorded_panels(history)] == [
        "Loss",
        "Accuracy on training subjects",
    ]
    assert curves.training_curves(history).axes[0].lines[0].get_marker() == "o"


def test_nothing_recorded_is_refused():
    with pytest.raises(ValueError, match="no recorded step"):
        curves.training_curves([])


def test_one_slow_step_does_not_flatten_the_others(history):
    slow = [{"step": p["step"], "step_seconds": 90.0 if p["step"] == 1 else 0.2} for p in history]
    figure = curves.training_curves(slow)
    assert figure.axes[0].get_ylim()[1] < 1
    assert lines_of(figure, "Seconds a step")["computing"].max() < 1


def test_values_that_are_no_numbers_leave_a_gap():
    history = [{"step": s, "loss": float("nan") if s == 2 else 1.0} for s in (1, 2, 3)]
    assert np.isnan(lines_of(curves.training_curves(history), "Loss")["sum"][1])


@pytest.mark.parametrize("window", [0, 1, 4, 9, 50])
def test_the_running_mean_is_the_mean_of_the_window_that_exists(window):
    values = np.random.default_rng(0).normal(size=23)
    values[7] = np.nan
    half = window // 2
    slow = [np.nanmean(values[max(0, i - half) : i + half + 1]) if window > 1 or i != 7 else np.nan
            for i in range(23)]  # fmt: skip
    assert np.allclose(curves.running_mean(values, window), slow, equal_nan=True)


def test_a_chart_has_no_background(history):
    image = ink.to_rgba(curves.training_curves(history))
    assert image[0, 0, 3] == 0
    assert (image[:, :, 3] > 0).mean() < 0.3


def test_drawing_leaves_matplotlib_as_it_was():
    code = """
import sys, matplotlib
before = dict(matplotlib.rcParams)
from raygait.figures import curves, ink, matrices
ink.to_rgba(curves.training_curves([{"step": 1, "loss": 1.0}]))
ink.to_rgba(matrices.distance_matrix(["a"], [[0.0]]))
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
