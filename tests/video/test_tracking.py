import numpy as np
import pytest

from raygait.video.detection import Detections
from raygait.video.tracking import PersonTracker, Track


def person(x: float, y: float = 50, height: float = 100) -> tuple[float, float, float, float]:
    return (x, y, x + 0.4 * height, y + height)


def detections(*corners, score: float = 0.9) -> Detections:
    boxes_px = np.array(corners, np.float32).reshape(-1, 4)
    return Detections(boxes_px, np.full(len(corners), score, np.float32))


def run(frames: list[Detections], fps: float = 10, **options: float) -> list[Track]:
    tracker = PersonTracker(**options)
    tracker.reset(fps)
    for index, found in enumerate(frames):
        tracker.update(index, found)
    return tracker.tracks()


def test_two_people_apart_are_two_tracks_in_order_of_appearance() -> None:
    frames = [detections(person(10 + 3 * i)) for i in range(5)]
    frames += [detections(person(10 + 3 * i), person(400 - 3 * i)) for i in range(5, 20)]
    tracks = run(frames)
    assert [track.number for track in tracks] == [1, 2]
    assert tracks[0].boxes_px[:, 0].max() < tracks[1].boxes_px[:, 0].min()
    assert tracks[1].frame_indices[0] >= 5


def test_a_hole_is_filled_on_the_line_between_and_has_no_score() -> None:
    frames = [detections(person(10 + 3 * i)) for i in range(30)]
    for missing in (14, 15, 16):
        frames[missing] = detections()
    (track,) = run(frames)
    np.testing.assert_array_equal(np.diff(track.frame_indices), 1)
    hole = np.flatnonzero(np.isnan(track.scores)) + track.frame_indices[0]
    np.testing.assert_array_equal(hole, [14, 15, 16])
    x0 = track.boxes_px[hole - track.frame_indices[0], 0]
    np.testing.assert_allclose(x0, [10 + 3 * i for i in hole], atol=0.5)


def test_a_person_away_for_longer_than_the_gap_comes_back_as_another_track() -> None:
    seen, away = [detections(person(100))] * 10, [detections()] * 15
    assert len(run(seen + away + seen, fps=10, max_gap_s=1.0)) == 2
    assert len(run(seen + away + seen, fps=30, max_gap_s=1.0)) == 1


def test_smoothing_keeps_a_steady_walk_and_calms_a_trembling_box() -> None:
    rng = np.random.default_rng(0)
    steady = [person(10 + 3 * i) for i in range(40)]
    (track,) = run([detections(box) for box in steady])
    inner = slice(5, -5)
    truth = np.array(steady, np.float32)[track.frame_indices]
    np.testing.assert_allclose(track.boxes_px[inner], truth[inner], atol=0.01)
    trembling = [tuple(np.array(box) + rng.normal(0, 3, 4)) for box in steady]
    (track,) = run([detections(box) for box in trembling])
    before = np.array(trembling)[track.frame_indices] - truth
    assert (track.boxes_px - truth)[inner].std() < 0.7 * before[inner].std()


def test_weak_boxes_start_no_track_but_keep_one_alive() -> None:
    weak = [detections(person(100 + i), score=0.25) for i in range(20)]
    assert run(weak) == []
    strong = [detections(person(90 + i)) for i in range(10)]
    (track,) = run(strong + weak)
    assert len(track) >= 27


def test_reset_forgets_the_clip_before() -> None:
    tracker = PersonTracker()
    tracker.reset(10)
    for index in range(20):
        tracker.update(index, detections(person(10 + 3 * index)))
    tracker.reset(10)
    for index in range(10):
        tracker.update(index, detections(person(300 - 3 * index)))
    (track,) = tracker.tracks()
    assert track.number == 1
    assert track.frame_indices[-1] == 9
    assert track.boxes_px[:, 0].min() > 250


@pytest.mark.parametrize("fps", [float("nan"), 0.0], ids=["unknown", "zero"])
def test_a_clip_without_a_frame_rate_can_be_tracked(fps: float) -> None:
    assert len(run([detections(person(10 + 3 * i)) for i in range(10)], fps=fps)) == 1


def test_frames_without_anybody_give_no_track() -> None:
    assert run([detections()] * 10) == []


@pytest.mark.parametrize("detect_every", [2, 3])
def test_boxes_between_the_frames_searched_are_filled_in(detect_every: int) -> None:
    tracker = PersonTracker()
    tracker.reset(30, detect_every=detect_every)
    for index in range(0, 61, detect_every):
        tracker.update(index, detections(person(10 + 2 * index), person(600 - 2 * index, y=200)))
    tracks = tracker.tracks()
    assert len(tracks) == 2
    for track in tracks:
        np.testing.assert_array_equal(np.diff(track.frame_indices), 1)
        assert track.frame_indices[-1] == 60
        searched = track.frame_indices % detect_every == 0
        np.testing.assert_array_equal(np.isnan(track.scores), ~searched)
    inner = slice(6, -6)
    expected = np.array([person(10 + 2 * index) for index in tracks[0].frame_indices])
    np.testing.assert_allclose(tracks[0].boxes_px[inner], expected[inner], atol=0.5)


def test_every_third_frame_of_30_is_tracked_as_every_frame_of_10() -> None:
    rng = np.random.default_rng(0)
    found = [
        detections(*(person(x + rng.normal(0, 3)) for x in (10 + 6 * i, 300 - 6 * i)))
        for i in range(40)
    ]
    found[20:23] = [detections()] * 3
    slow, fast = PersonTracker(), PersonTracker()
    slow.reset(10)
    fast.reset(30, detect_every=3)
    for index, boxes in enumerate(found):
        slow.update(index, boxes)
        fast.update(3 * index, boxes)
    spans = [
        [(t.frame_indices[0] * step, t.frame_indices[-1] * step) for t in tracker.tracks()]
        for tracker, step in ((slow, 3), (fast, 1))
    ]
    assert spans[0] == spans[1]


def test_the_gap_counts_seconds_also_where_frames_are_left_out() -> None:
    def num_tracks(gap_s: float) -> int:
        tracker = PersonTracker(untangler=None)
        tracker.reset(30, detect_every=3)
        for index in [*range(0, 30, 3), *range(30 + round(30 * gap_s), 90 + round(30 * gap_s), 3)]:
            tracker.update(index, detections(person(100)))
        return len(tracker.tracks())

    assert num_tracks(0.8) == 1
    assert num_tracks(1.3) == 2


def test_two_whose_boxes_are_exchanged_in_a_crossing_keep_their_clothes() -> None:
    red, black = (np.full((4, 3), value, np.float32) for value in (60, 10))
    tracker = PersonTracker()
    tracker.reset(25)
    for index in range(100):
        boxes = [person(200 + 3 * index, height=150), person(500 - 3 * index, height=150)]
        looks = [red, black]
        if 46 <= index < 54:  # both are one box
            boxes, looks = [person(350, height=150)], [red]
        tracker.update(index, detections(*boxes), np.stack(looks))
    tracks = [track for track in tracker.tracks() if len(track) > 20]
    assert len(tracks) == 2
    for track in tracks:
        steps_px = np.diff(track.boxes_px[:, 0])
        assert abs(np.sign(steps_px[:30]).mean() - np.sign(steps_px[-30:]).mean()) < 0.1


@pytest.mark.parametrize(
    ("fps", "detect_every"),
    [(25.0, 1), (25.0, 30), (29.97, 30), (23.976, 24), (12.0, 15), (1.0, 2), (0.5, 1)],
)
def test_a_person_is_followed_however_seldom_a_frame_is_looked_at(
    fps: float, detect_every: int
) -> None:
    tracker = PersonTracker()
    tracker.reset(fps, detect_every=detect_every)
    box_px = np.array([[100, 50, 160, 200]], np.float32)
    for number in range(12):
        tracker.update(number * detect_every, Detections(box_px, np.array([0.9], np.float32)))
    (track,) = tracker.tracks()
    assert len(track) >= 10 * detect_every
