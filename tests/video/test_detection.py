import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.errors import AssetError
from raygait.video.detection import (
    BlazePoseDetector,
    Detections,
    MotionDetector,
    SsdDetector,
    _prefer_near,
    box_areas,
    intersections,
    make_detector,
    suppress,
)


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


def iou(a_px: np.ndarray, b_px: np.ndarray) -> np.ndarray:
    shared = intersections(a_px, b_px)
    return shared / (box_areas(a_px)[:, None] + box_areas(b_px)[None] - shared)


@pytest.fixture(scope="module")
def ssd() -> SsdDetector:
    return SsdDetector(tiles="never")


@pytest.fixture
def nothing_to_fetch_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGAIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PATH", "")


def test_ssd_finds_the_walker_and_nobody_else(ssd: SsdDetector, sports2d_frame) -> None:
    found = ssd(sports2d_frame)
    sure = found.boxes_px[found.scores >= 0.4]
    assert len(sure) == 1
    assert iou(sure, boxes((1315, 535, 1515, 940)))[0, 0] > 0.8


def test_ssd_boxes_are_in_source_pixels_whatever_the_frame_size(
    ssd: SsdDetector, sports2d_frame
) -> None:
    half = ssd(np.ascontiguousarray(sports2d_frame[::2, ::2]))
    full = ssd(sports2d_frame)
    assert iou(2 * half.boxes_px[:1], full.boxes_px[:1])[0, 0] > 0.8


@pytest.mark.samples
def test_tiles_find_small_people_that_the_whole_frame_misses(street_frame) -> None:
    def sure(tiles) -> int:
        return int((SsdDetector(tiles=tiles)(street_frame).scores >= 0.4).sum())

    assert sure("always") > sure("never")
    assert sure("auto") == sure("always")


@pytest.mark.samples
def test_small_people_are_still_found_in_the_next_frame(street_frame) -> None:
    auto, always = SsdDetector(tiles="auto"), SsdDetector(tiles="always")
    auto(street_frame)
    np.testing.assert_allclose(
        auto(street_frame).scores[:6], always(street_frame).scores[:6], atol=0.05
    )


def test_a_person_of_a_thirtieth_of_a_large_frame_is_found(sports2d_frame) -> None:
    # The walker of 405 px, scaled to 73 in a frame of 3840×2160.
    scale, left, top = 0.18, 2500, 1200
    small = cv2.resize(sports2d_frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = cv2.resize(sports2d_frame[:200, :356], (3840, 2160))
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    truth = scale * boxes((1315, 535, 1515, 940)) + np.array([left, top] * 2, np.float32)
    found = SsdDetector(tiles="auto", min_score=0.4)(image)
    assert iou(found.boxes_px, truth).max() > 0.6
    assert len(SsdDetector(tiles="never", min_score=0.4)(image)) == 0


def test_reset_makes_a_detector_forget_the_clip(sports2d_frame) -> None:
    detector = SsdDetector(tiles="auto")
    first = detector(sports2d_frame).boxes_px
    detector(sports2d_frame)
    detector.reset()
    np.testing.assert_array_equal(detector(sports2d_frame).boxes_px, first)


def test_blazepose_finds_the_near_person_at_full_height(treadmill_frame, ssd) -> None:
    found = BlazePoseDetector()(treadmill_frame)
    reference = ssd(treadmill_frame).boxes_px[:1]
    x0, y0, x1, y1 = found.boxes_px[0]
    assert len(found) >= 1
    assert reference[0, 0] < (x0 + x1) / 2 < reference[0, 2]
    assert 0.8 < (y1 - y0) / (reference[0, 3] - reference[0, 1]) < 1.4


def test_motion_follows_what_moves_and_ignores_what_is_still(moving_block_images) -> None:
    detector = MotionDetector()
    found = [detector(image) for image in moving_block_images]
    assert not any(len(detections) for detections in found[:10])
    for index in range(15, 40):
        left = 20 + 4 * (index - 10)
        truth = boxes((left, 80, left + 40, 180))
        assert len(found[index]) == 1
        assert iou(found[index].boxes_px, truth)[0, 0] > 0.8


@pytest.mark.usefixtures("nothing_to_fetch_from")
def test_auto_falls_back_to_motion_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert make_detector("auto").name == "motion"
    assert "detector ssd cannot be used" in caplog.text
    assert "detector blazepose cannot be used" in caplog.text


@pytest.mark.usefixtures("nothing_to_fetch_from")
@pytest.mark.parametrize("name", ["ssd", "blazepose"])
def test_a_detector_asked_for_by_name_does_not_fall_back(name) -> None:
    with pytest.raises(AssetError):
        make_detector(name)


def test_auto_takes_blazepose_where_there_is_no_npm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raygait.assets import asset

    near = asset("blazepose-detector")
    placed = tmp_path / near.parent.name / near.name
    placed.parent.mkdir()
    placed.write_bytes(near.read_bytes())
    monkeypatch.setenv("RAYGAIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert make_detector("auto").name == "blazepose"


def test_auto_prefers_ssd() -> None:
    assert make_detector("auto").name == "ssd"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="expected auto, ssd, blazepose, motion, onnx"):
        make_detector("yolo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one of auto, never, always, 2, 3"):
        SsdDetector(tiles="2x2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("corners", "scores", "kept"),
    [
        ([(0, 0, 40, 100), (2, 2, 42, 102)], [0.5, 0.6], [1]),
        ([(0, 0, 40, 100), (30, 0, 70, 100)], [0.6, 0.5], [0, 1]),
        ([(0, 0, 40, 100), (5, 5, 35, 40)], [0.6, 0.5], [0]),
        ([(0, 0, 40, 100), (15, 5, 53, 100)], [0.6, 0.5], [0, 1]),
        ([], [], []),
    ],
    ids=["one person twice", "two abreast", "a part of a person", "one half hidden", "nobody"],
)
def test_suppression_leaves_one_box_a_person(corners, scores, kept) -> None:
    found = Detections(boxes(*corners), np.array(scores, np.float32))
    result = suppress([found])
    np.testing.assert_array_equal(result.boxes_px, found.boxes_px[kept])


@pytest.mark.parametrize(
    ("loose", "near", "near_score", "kept"),
    [
        # A loose box of 100 px in a frame of 600; the tile has 300.
        ((0, 0, 60, 100), (20, 10, 60, 90), 0.4, [("near", 0.6)]),
        ((0, 0, 60, 100), (70, 10, 110, 90), 0.4, [("loose", 0.6), ("near", 0.4)]),
        ((0, 0, 60, 100), (20, 10, 60, 90), 0.3, [("loose", 0.6), ("near", 0.3)]),
        ((0, 0, 90, 130), (20, 10, 90, 120), 0.4, [("loose", 0.6), ("near", 0.4)]),
    ],
    ids=["the same person", "a neighbour", "unsure in the tile", "tall enough in the frame"],
)
def test_who_is_seen_larger_in_a_tile_has_the_box_of_the_tile(
    loose, near, near_score, kept
) -> None:
    found = [
        Detections(boxes(loose), np.array([0.6], np.float32)),
        Detections(boxes(near), np.array([near_score], np.float32)),
    ]
    result = _prefer_near(found, [600, 300])
    places = {"loose": loose, "near": near}
    np.testing.assert_array_equal(result.boxes_px, boxes(*(places[name] for name, _ in kept)))
    np.testing.assert_allclose(result.scores, [score for _, score in kept])
