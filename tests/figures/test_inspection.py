import dataclasses
import html
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from raygait.figures.clip_charts import (
    BOX_KEPT,
    BOX_REJECTED,
    KEPT,
    MAX_BARS,
    REASON_COLOURS,
    Bar,
    draw_boxes,
    quality_plot,
    timeline,
    timeline_bars,
)
from raygait.figures.inspection import (
    MAX_SEQUENCES,
    Inspection,
    frames_to_show,
    render,
    summary,
    write_inspection,
)
from raygait.video.decode import Frame
from raygait.video.extraction import RejectedTrack, Unseen
from raygait.video.settings import VideoSettings
from raygait.video.tracking import Track

EVIL = "\"><script>alert('步態')</script>.mp4"
BOX = (10.0, 20.0, 50.0, 120.0)


def track(number: int, first: int, num_frames: int, box: tuple[float, ...] = BOX) -> Track:
    return Track(
        number,
        np.arange(first, first + num_frames, dtype=np.int32),
        np.tile(np.float32(box), (num_frames, 1)),
        np.full(num_frames, np.nan, np.float32),
    )


@pytest.fixture
def row(make_row) -> dict[str, Any]:
    """Frames 5 to 34 of track 1, but for 10 to 12."""
    indices = [index for index in range(5, 38) if index not in (10, 11, 12)]
    return make_row(
        frame_indices=indices,
        boxes_px=list(BOX) * 30,
        left_out_indices=[10, 11, 12],
        left_out_reasons=["hidden", "hidden", "blurred"],
        is_walking=[True] * 15 + [False] * 15,
    )


@pytest.fixture
def whole(row) -> Inspection:
    return Inspection(
        source=EVIL,
        stored_size_px=(240, 320),
        size_px=(320, 240),
        fps=25.0,
        num_frames=50,
        damage="about 3 of 53 frames lost, the others are used",
        detector="ssd",
        settings=VideoSettings(),
        tracks=[track(1, 5, 33), track(2, 0, 8, (200, 20, 240, 120))],
        rows=[row],
        rejects=[RejectedTrack(2, "gate", "short-track", f"8 frames of {EVIL}")],
        frames=[Frame(6, np.zeros((240, 320, 3), np.uint8))],
        num_crops=33,
        seconds={"decode": 1.0, "detect": 4.0, "pose": 3.0, "crop": 1.0, "other": 1.0},
    )


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", page.split("</style>")[1]))


def test_the_page_says_what_was_found_kept_and_rejected(whole):
    text = " ".join(text_of(render(whole)).split())
    for said in (
        *("320×240", "stored as 240×320", "about 3 of 53 frames lost", "25 fps", "2.0 s", "ssd"),
        *("track 1 30 frames", "source frames 5 to 37", "3 left out (2 hidden, 1 blurred)"),
        *("walking in 50%", "short-track", f"8 frames of {EVIL}", "frame 6"),
    ):
        assert said in text, said


def test_what_a_clip_is_called_is_text_and_never_markup(whole):
    page = render(whole)
    assert "<script" not in page
    assert html.escape(EVIL) in page


def test_the_longest_sequences_are_shown_and_all_are_listed(whole, make_row):
    rows = [
        make_row(track=number, num_frames=20 + number, boxes_px=list(BOX) * (20 + number))
        for number in range(1, 16)
    ]
    page = render(dataclasses.replace(whole, rows=rows))
    shown = re.findall(r'alt="Frames of track (\d+)"', page)
    assert [int(number) for number in shown] == list(range(15, 15 - MAX_SEQUENCES, -1))
    assert re.findall(r"<tr><td>(\d+)</td><td class=\"number\">\d+</td>", page) == [
        str(number) for number in range(15, 0, -1)
    ]
    assert "All 15: the 3 shorter ones are not shown above" in page


def test_a_clip_of_which_nothing_was_kept_still_has_a_page(whole):
    page = render(dataclasses.replace(whole, rows=[], fps=math.nan))
    assert "No track became a sequence." in page
    assert "unknown rate" in page


def test_times_are_told_a_frame_a_crop_and_as_the_networks_share(whole):
    assert whole.network_ratio == 0.7
    assert whole.milliseconds("detect") == 80
    assert whole.milliseconds_a_crop("crop") == pytest.approx(1000 / 33)
    assert math.isnan(whole.milliseconds_a_crop("decode"))
    widths = re.findall(r'<span title="[^"]*" style="width: ([\d.]+)%', render(whole))
    assert [float(width) for width in widths] == [10, 40, 30, 10, 10]
    assert "networks (detect and pose) 70%" in summary(whole)


def test_only_networks_count_as_networks(whole):
    moving = dataclasses.replace(whole, detector="motion")
    assert "networks (pose) 30%" in summary(moving)
    seconds = {"decode": 1.0, "detect": 4.0, "mask": 5.0}
    settings = VideoSettings(pose="none", mask="background", modalities=("silhouettes",))
    still = dataclasses.replace(moving, seconds=seconds, settings=settings)
    assert "networks (none) 0%" in summary(still)
    assert math.isnan(still.milliseconds_a_crop("mask"))
    learned = VideoSettings(mask="onnx", mask_onnx="a.onnx")
    both = dataclasses.replace(whole, seconds=seconds, settings=learned)
    assert both.network_stages == ("detect", "mask")
    assert both.milliseconds_a_crop("mask") == pytest.approx(5000 / 33)


def test_the_summary_counts_left_out_frames_and_rejects_by_reason(whole):
    lines = [line.split() for line in summary(whole).splitlines()]
    assert ["2", "left", "out:", "hidden"] in lines
    assert ["1", "short-track", "(stage", "gate)"] in lines


def test_the_numbers_are_strict_json(whole, row):
    said = json.loads(json.dumps(whole.to_dict(), allow_nan=False))
    (sequence,) = said["sequences"]
    assert sequence["frame_indices"] == row["frame_indices"]
    assert sequence["left_out_reasons"] == ["hidden", "hidden", "blurred"]
    assert said["tracks"][0]["scores"] == [None] * 33
    assert said["rejects"][0]["reason"] == "short-track"
    unknown = dataclasses.replace(whole, fps=math.nan, seconds={"decode": 0.0})
    said = json.loads(json.dumps(unknown.to_dict(), allow_nan=False))
    assert said["fps"] is said["network_ratio"] is None


def test_the_page_is_written_whole(whole, tmp_path: Path):
    write_inspection(tmp_path / "new" / "a.html", whole)
    assert (tmp_path / "new" / "a.html").read_text() == render(whole)


def test_frames_to_show_are_spread_over_those_of_sequences(row):
    tracks = [track(1, 0, 100)]
    assert frames_to_show(tracks, [row], num_frames=3) == [13, 23, 33]
    assert frames_to_show(tracks, [], num_frames=4) == [12, 37, 62, 87]
    assert frames_to_show([track(1, 4, 2)], [], num_frames=4) == [4, 5]


def test_every_reason_for_leaving_a_frame_out_has_a_colour_of_its_own():
    assert set(REASON_COLOURS) == set(get_args(Unseen))
    assert len({*REASON_COLOURS.values(), KEPT}) == len(REASON_COLOURS) + 1


@pytest.mark.parametrize("scale", [1, 6], ids=["as it is", "larger than the page"])
def test_boxes_are_drawn_where_people_are_kept_and_rejected_apart(whole, scale: int):
    image = np.zeros((240 * scale, 320 * scale, 3), np.uint8)
    grown = [
        dataclasses.replace(one, boxes_px=one.boxes_px * np.float32(scale)) for one in whole.tracks
    ]
    rows = [whole.rows[0] | {"boxes_px": [scale * side for side in whole.rows[0]["boxes_px"]]}]
    drawn = draw_boxes(Frame(6, image), grown, rows, width_px=320 * scale)
    shrunk = drawn.shape[1] / 320
    assert drawn.shape[1] <= 960
    for box, colour in ((BOX, BOX_KEPT), ((200, 20, 240, 120), BOX_REJECTED)):
        middle = round((box[1] + box[3]) / 2 * shrunk)
        for side in (box[0], box[2]):
            near = drawn[middle, round(side * shrunk) - 1 : round(side * shrunk) + 2]
            assert (np.abs(near.astype(int) - colour).max(axis=1) < 40).any()
        assert not drawn[middle, round((box[0] + box[2]) / 2 * shrunk)].any()


def test_the_box_of_a_frame_that_was_left_out_is_thin(whole):
    def drawn(index: int) -> np.ndarray:
        frame = Frame(index, np.zeros((240, 320, 3), np.uint8))
        return draw_boxes(frame, whole.tracks, whole.rows, width_px=320)

    kept, left_out, nobody = (np.count_nonzero(drawn(at)[70]) for at in (9, 10, 45))
    assert kept > left_out > nobody == 0


def test_the_timeline_shows_stretches_that_were_kept_left_out_and_rejected(whole):
    bars = timeline_bars(whole.tracks, whole.rows, whole.rejects)
    axes = timeline(bars, whole.num_frames).axes[0]
    stretches = sorted((patch.get_x(), patch.get_width()) for patch in axes.patches)
    assert stretches == [(0, 8), (5, 5), (10, 2), (12, 1), (13, 25)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "1"]
    assert [text.get_text() for text in axes.texts] == ["short-track"]


def test_the_timeline_of_a_crowd_shows_the_longest_tracks():
    bars = [Bar(number, range(number), {}) for number in range(1, MAX_BARS + 11)]
    axes = timeline(bars, 200).axes[0]
    assert min(patch.get_width() for patch in axes.patches) == 11
    assert len(axes.patches) == MAX_BARS


def test_the_plot_breaks_where_frames_were_left_out_and_draws_the_limits(row):
    settings = VideoSettings(min_joint_score=0.3, min_sharpness=7)
    axes = quality_plot(row, settings).axes
    panels = {panel.get_title(loc="left").split("   ")[0]: panel for panel in axes[:-1]}
    assert list(panels) == [
        *("person score", "joint score", "height of mask (strong) and box (faint), px"),
        *("sharpness", "largest part of the mask"),
    ]
    measured, limit = panels["joint score"].lines
    values = np.asarray(measured.get_ydata())
    assert np.flatnonzero(np.isnan(values)).tolist() == [5, 6, 7]
    assert np.nanmax(values) == np.nanmin(values) == 0.8
    assert limit.get_ydata() == [0.3, 0.3]
    assert panels["sharpness"].lines[1].get_ydata() == [7, 7]
    left_out = sorted((p.get_x(), p.get_width()) for p in panels["sharpness"].patches)
    assert left_out == [(9.5, 2), (11.5, 1)]
    walking = sorted((p.get_x(), p.get_width(), p.get_y() > 0.5) for p in axes[-1].patches)
    assert walking == [(4.5, 5, False), (12.5, 10, False), (22.5, 15, True)]


def test_a_measure_that_is_not_known_has_no_chart(make_row):
    row = make_row(pictures=False)  # no network, so no person score; no boxes either
    titles = [a.get_title(loc="left") for a in quality_plot(row, VideoSettings()).axes]
    assert not any(title.startswith("person score") for title in titles)
    assert any(title.startswith("height of mask") for title in titles)
