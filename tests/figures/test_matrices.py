import numpy as np
import pytest

from raygait.figures import ink
from raygait.figures.matrices import distance_matrix

VALUES = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 3.25], [5.0, 3.25, 0.0]])


def test_rows_stand_in_the_order_given_with_names_and_numbers():
    axes = distance_matrix(["b", "a $x$", "c_1"], VALUES).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.split("   ") for label in labels] == [["b", "1"], ["a $x$", "2"], ["c_1", "3"]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]


def test_each_cell_of_a_small_matrix_has_its_value_written_in_it():
    axes = distance_matrix(["a", "b", "c"], VALUES).axes[0]
    written = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert written == {
        (line, column): f"{VALUES[line, column]:.2f}" for line in range(3) for column in range(3)
    }


def test_a_large_matrix_has_no_values_and_stays_in_bounds():
    n = 120
    figure = distance_matrix([f"track {i}" for i in range(n)], np.ones((n, n)))
    assert len(figure.axes[0].texts) == 0
    assert max(figure.get_size_inches()) * 100 < 2000


def test_near_is_darker_than_far():
    image = distance_matrix(["a", "b", "c"], VALUES).axes[0].images[0].get_array()
    brightness = np.asarray(image)[:, :, :3].sum(axis=2)
    assert brightness[0, 1] < brightness[1, 2] < brightness[0, 2]


def test_a_missing_distance_is_a_dash():
    values = VALUES.copy()
    values[0, 2] = np.nan
    axes = distance_matrix(["a", "b", "c"], values).axes[0]
    assert [t.get_text() for t in axes.texts if t.get_position() == (2, 0)] == ["–"]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.zeros((1, 1)), id="one track"),
        pytest.param(np.full((2, 2), 3.0), id="all the same"),
        pytest.param(np.full((2, 2), np.nan), id="no number at all"),
        pytest.param(np.array([[0, 1e7], [1e7, 0]]), id="large numbers"),
    ],
)
def test_any_distances_can_be_drawn(values):
    image = ink.to_rgba(distance_matrix(["步態.mp4"] * len(values), values))
    assert (image[:, :, 3] > 0).any()


def test_long_names_keep_both_ends_and_fit():
    figure = distance_matrix(["begin" + "-" * 300 + "end", "b"], np.zeros((2, 2)))
    label = figure.axes[0].get_yticklabels()[0].get_text()
    assert label.startswith("begin")
    assert "end" in label
    assert len(label) < 50


def test_every_label_is_inside_the_picture():
    image = ink.to_rgba(distance_matrix(["W" * 34, "b"], np.zeros((2, 2))))
    assert image[:, 0, 3].max() == 0
    assert image[0, :, 3].max() == 0


@pytest.mark.parametrize("shape", [(2, 3), (2, 2), (3,)])
def test_labels_and_values_have_to_fit(shape):
    with pytest.raises(ValueError, match=r"3 labels is \[3, 3\]"):
        distance_matrix(["a", "b", "c"], np.zeros(shape))
