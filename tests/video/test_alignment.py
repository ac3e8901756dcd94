"""The pretreatment that published silhouette models were trained on, bit for bit."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygait.errors import EmptySilhouette
from raygait.video.alignment import align


def by_the_rules(mask: np.ndarray, size_px: int) -> np.ndarray | None:
    """The rules one after the other, in plain loops; None where the frame is dropped."""
    height, width = mask.shape
    if sum(int(value) for row in mask for value in row) <= 10000:
        return None
    filled = [y for y in range(height) if any(mask[y, x] != 0 for x in range(width))]
    mask = mask[filled[0] : filled[-1] + 1]
    ratio = mask.shape[1] / mask.shape[0]
    mask = cv2.resize(mask, (int(size_px * ratio), size_px), interpolation=cv2.INTER_CUBIC)
    width = mask.shape[1]
    columns = [sum(int(mask[y, x]) for y in range(size_px)) for x in range(width)]
    total, running, centre = sum(columns), 0, -1
    for x in range(width):
        running += columns[x]
        if running > total / 2:
            centre = x
            break
    if centre <= 0:
        return None
    half = size_px // 2
    left, right = centre - half, centre + half
    if left <= 0 or right >= width:
        zeros = np.zeros((size_px, half), np.uint8)
        mask = np.concatenate([zeros, mask, zeros], axis=1)
        left, right = left + half, right + half
    return mask[:, left:right]


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """A few filled boxes and ellipses, grey or white, anywhere in an image of any shape."""
    height, width = draw(st.integers(8, 150)), draw(st.integers(8, 150))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 4))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        w, h = draw(st.integers(1, width)), draw(st.integers(1, height))
        value = draw(st.sampled_from([255, 255, 128, 1]))
        if draw(st.booleans()):
            cv2.rectangle(mask, (x, y), (x + w, y + h), value, -1)
        else:
            cv2.ellipse(mask, (x, y), (w, h), 0, 0, 360, value, -1)
    return mask


@settings(max_examples=150, deadline=None)
@given(masks(), st.sampled_from([64, 128]))
def test_alignment_follows_the_rules_bit_for_bit(mask: np.ndarray, size_px: int) -> None:
    expected = by_the_rules(mask, size_px)
    if expected is None:
        with pytest.raises(EmptySilhouette):
            align(mask, size_px=size_px)
    else:
        np.testing.assert_array_equal(align(mask, size_px=size_px), expected)


@settings(max_examples=50, deadline=None)
@given(masks(), st.integers(0, 40), st.integers(0, 40))
def test_empty_rows_above_and_below_change_nothing(
    mask: np.ndarray, above: int, below: int
) -> None:
    try:
        expected = align(mask)
    except EmptySilhouette:
        return
    np.testing.assert_array_equal(align(np.pad(mask, ((above, below), (0, 0)))), expected)


def walker(height_px: int = 160) -> np.ndarray:
    mask = np.zeros((height_px + 40, height_px + 30), np.uint8)
    middle, unit = mask.shape[1] // 2, height_px // 8
    cv2.circle(mask, (middle, 20 + unit // 2), unit // 2, 255, -1)
    cv2.ellipse(mask, (middle, 20 + 3 * unit), (unit, 2 * unit), 0, 0, 360, 255, -1)
    for foot in (-unit, 2 * unit):
        end = (middle + foot, 20 + height_px - unit // 4)
        cv2.line(mask, (middle, 20 + 4 * unit), end, 255, unit // 2)
    return mask


def test_a_walker_becomes_the_recorded_picture() -> None:
    rows = align(walker())[::8, ::4] // 26
    picture = ["".join(" .:-=+*#%@"[min(int(value), 9)] for value in row) for row in rows]
    assert picture == GOLDEN


def test_the_person_fills_the_height_and_the_median_column_is_the_middle() -> None:
    aligned = align(walker()).astype(int)
    assert aligned[0].any()
    assert aligned[-1].any()
    columns = aligned.sum(axis=0)
    assert columns[:32].sum() <= columns.sum() / 2 < columns[:33].sum()


def test_twice_the_resolution_gives_nearly_the_same_silhouette() -> None:
    small, large = align(walker(160)) > 127, align(walker(320)) > 127
    assert (small & large).sum() / (small | large).sum() > 0.93


def test_a_wide_mask_is_cut_to_the_window() -> None:
    mask = np.full((50, 400), 255, np.uint8)
    np.testing.assert_array_equal(align(mask), np.full((64, 64), 255, np.uint8))


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((100, 100), np.uint8),
        np.pad(np.full((3, 13), 255, np.uint8), 40),
        np.pad(np.full((200, 1), 255, np.uint8), ((0, 0), (0, 1))),
        np.pad(np.full((100, 1), 255, np.uint8), ((0, 0), (0, 60))),
    ],
    ids=["nothing", "39 pixels", "one column too thin to scale", "all at the left border"],
)
def test_a_mask_without_a_person_raises(mask: np.ndarray) -> None:
    with pytest.raises(EmptySilhouette):
        align(mask)


def test_forty_pixels_are_enough() -> None:
    assert align(np.pad(np.full((4, 10), 255, np.uint8), 40)).any()


GOLDEN = [
    "        %       ",
    "        @       ",
    "       @@@      ",
    "      :@@@@     ",
    "       @@@      ",
    "       @=@      ",
    "       @  @     ",
    "      @#   @    ",
]
