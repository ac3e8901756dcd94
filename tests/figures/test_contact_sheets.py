import numpy as np
import pytest

from raygait.figures import contact_sheets, ink
from raygait.figures.contact_sheets import CAPTION_PX, CELL_PX, GAP_PX, MARGIN_PX
from raygait.shards import codec

STEP = CELL_PX + GAP_PX


def cell(strip: np.ndarray, line: int, column: int) -> np.ndarray:
    return strip[line * STEP : line * STEP + CELL_PX, column * STEP : column * STEP + CELL_PX]


def test_each_silhouette_stands_doubled_in_its_own_cell(make_row):
    row = make_row(num_frames=30)
    strip = contact_sheets.sequence_strip(row, num_columns=4)
    frames = codec.decode_silhouettes(row["silhouettes"], [0, 10, 19, 29])
    assert strip.shape == (3 * STEP - GAP_PX, 4 * STEP - GAP_PX, 3)
    for column, frame in enumerate(frames):
        doubled = frame.repeat(2, axis=0).repeat(2, axis=1)
        assert (cell(strip, 1, column) == doubled[:, :, None]).all()


def test_the_crop_stands_on_top_and_the_joints_below_the_silhouette(make_row):
    strip = contact_sheets.sequence_strip(
        make_row(joint=(16, 24), crop_rgb=(10, 200, 30)), num_columns=2
    ).astype(int)
    assert np.abs(cell(strip, 0, 1) - [10, 200, 30]).max() < 12  # stored as JPEG
    joints = cell(strip, 2, 1)
    # Row 16 of 64 and column 24 of 48, in the middle three quarters of a cell of 128.
    assert joints[33, 16 + 49].sum() > 600
    assert joints[100, 65].sum() < 300
    assert len({tuple(pixel) for pixel in joints[96:, 64:].reshape(-1, 3)}) == 1


def test_joints_far_from_the_middle_are_drawn_inside_the_middle_three_quarters(make_row):
    row = make_row(joint=(32, 2), crop_rgb=(0, 0, 0))
    joints = cell(contact_sheets.sequence_strip(row, num_columns=1), 2, 0)
    bright = np.flatnonzero(joints[64].sum(axis=1) > 300)
    assert 14 <= bright.min() <= 17
    assert bright.max() < 32


def test_a_heatmap_of_half_the_scale_glows_less(make_row):
    full = make_row(crop_rgb=(0, 0, 0))
    half = {**full, "heatmap_scale": 0.3 / 255}
    glow = [
        int(cell(contact_sheets.sequence_strip(row, num_columns=1), 2, 0).max(axis=2).sum())
        for row in (full, half)
    ]
    assert glow[1] < 0.7 * glow[0]


def test_a_row_of_silhouettes_alone_has_one_line(make_row):
    strip = contact_sheets.sequence_strip(make_row(pictures=False), num_columns=3)
    assert strip.shape == (CELL_PX, 3 * STEP - GAP_PX, 3)
    assert cell(strip, 0, 0).max() == 255


def test_heatmaps_without_crops_are_drawn_on_black(make_row):
    row = make_row() | {"rgb": None}
    strip = contact_sheets.sequence_strip(row, num_columns=1)
    assert strip.shape[0] == 2 * STEP - GAP_PX
    assert cell(strip, 1, 0)[100, 100].max() < 8


def test_a_short_sequence_leaves_its_last_columns_empty(make_row):
    strip = contact_sheets.sequence_strip(make_row(num_frames=2), num_columns=4)
    assert cell(strip, 1, 1).max() == 255
    assert (strip[:, 2 * STEP :] == ink.SHEET_RGB).all()


@pytest.mark.parametrize(
    ("num_frames", "num_columns", "expected"),
    [
        pytest.param(30, 4, [0, 10, 19, 29], id="first and last are among them"),
        pytest.param(3, 12, [0, 1, 2], id="fewer frames than columns"),
        pytest.param(9, 1, [0], id="one column"),
        pytest.param(0, 5, [], id="no frame"),
    ],
)
def test_shown_frames_are_spread_over_the_sequence(num_frames, num_columns, expected):
    assert contact_sheets.shown_frames(num_frames, num_columns) == expected


def test_a_silhouette_of_another_size_is_fitted_into_the_middle_of_its_cell(make_row):
    silhouettes = np.full((1, 32, 16), 255, np.uint8)
    strip = contact_sheets.sequence_strip(
        make_row(silhouettes=silhouettes, pictures=False), num_columns=1
    )
    assert (strip[:, 32:96] == 255).all()
    assert strip[:, :32].max() == strip[:, 96:].max() == 0


def test_a_sheet_puts_a_caption_above_each_strip(make_row):
    rows = [make_row(f"clips/a.mp4#{number}") for number in (1, 2)]
    sheet = contact_sheets.contact_sheet(rows, num_columns=5)
    strip = contact_sheets.sequence_strip(rows[0], num_columns=5)
    block_px = CAPTION_PX + len(strip)
    assert sheet.shape == (
        2 * block_px + 3 * MARGIN_PX,
        strip.shape[1] + 2 * MARGIN_PX,
        3,
    )
    for top in (MARGIN_PX, 2 * MARGIN_PX + block_px):
        caption = sheet[top : top + CAPTION_PX, MARGIN_PX:-MARGIN_PX]
        assert 200 < (caption.min(axis=2) > 120).sum() < caption[:, :, 0].size / 4
        shown = sheet[top + CAPTION_PX : top + block_px, MARGIN_PX:-MARGIN_PX]
        assert (shown == strip).all()


def test_a_sheet_stops_at_its_most_sequences(make_row):
    rows = [make_row()] * 5
    two, five = (contact_sheets.contact_sheet(rows, max_sequences=n) for n in (2, 5))
    assert len(two) < len(five)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("clips/" + "long name " * 40, id="longer than the sheet"),
        pytest.param("clips/步態 🚶 $x_1$ \\frac.mp4", id="signs without a glyph, and mathematics"),
    ],
)
def test_any_name_can_be_a_caption(make_row, name):
    sheet = contact_sheets.contact_sheet([make_row(name)], num_columns=3)
    caption = sheet[MARGIN_PX : MARGIN_PX + CAPTION_PX, MARGIN_PX:-MARGIN_PX]
    assert (caption.min(axis=2) > 120).sum() > 100


def test_a_sheet_of_nothing_and_a_strip_without_columns_are_refused(make_row):
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheets.contact_sheet([])
    with pytest.raises(ValueError, match="num_columns is at least 1, got 0"):
        contact_sheets.sequence_strip(make_row(), num_columns=0)


def test_a_caption_says_what_is_known_and_no_more(make_row):
    assert contact_sheets.describe(make_row()) == (
        "clips/a.mp4#1",
        "30 frames",
        "source frames 5 to 34 (1.2 s)",
        "median person score 0.90",
    )
    assert contact_sheets.describe(make_row(pictures=False)) == (
        "clips/a.mp4#1",
        "30 frames",
        "source frames 5 to 34",
    )


def walk(make_row, subject, condition, view, **more):
    return make_row(
        f"walks/{subject}/{condition}/{view}",
        subject=subject,
        condition=condition,
        view=view,
        pictures=False,
        **more,
    )


def test_a_grid_of_walks_shows_the_widest_frame_by_person_condition_and_view(make_row):
    silhouettes = np.zeros((3, 64, 64), np.uint8)
    for frame, width_px in zip(silhouettes, (4, 20, 7), strict=True):
        frame[10:50, :width_px] = 255
    rows = [
        walk(make_row, "002", "cl-01", "090"),
        walk(make_row, "001", "bg-02", "000"),
        walk(make_row, "001", "nm-01", "090", silhouettes=silhouettes),
        walk(make_row, "001", "zz-01", "000"),
    ]
    grid = contact_sheets.walk_grid(rows)
    assert grid.subjects == ("001", "002")
    assert grid.columns == (("nm", "090"), ("bg", "000"), ("cl", "090"), ("zz", "000"))
    assert (grid.silhouettes["001", "nm", "090"] == silhouettes[1]).all()
    assert ("002", "nm", "090") not in grid.silhouettes


def test_walks_are_chosen_by_first_condition_of_a_kind_and_spread_views(make_row):
    rows = [
        walk(make_row, subject, condition, view)
        for subject in ("003", "001", "002")
        for condition in ("nm-06", "nm-05", "bg-01")
        for view in ("000", "045", "090", "135", "180")
    ]
    nobody = walk(make_row, "", "", "")
    chosen = contact_sheets.choose_walks([*rows, nobody], max_subjects=2, max_views=3)
    assert chosen == [
        f"walks/{subject}/{condition}/{view}"
        for subject in ("001", "003")
        for condition in ("bg-01", "nm-05")
        for view in ("000", "090", "180")
    ]
