"""Whether tracks keep to one person: `python -m tests.benchmarks tracking`.

Streets of `raygait.synthetic.street`, four or six people who cross, with the truth about each. IDF1
and identity switches (Ristani et al., Performance measures and a data set for multi-target,
multi-camera tracking, ECCV workshops 2016) by motmetrics. `ours` is `PersonTracker`, `theirs` the
same boxes with ByteTrack alone.

Two kinds of boxes: the ssd detector's, whose misses bound IDF1, and boxes made from the truth: of
the visible part, trembling, one in twenty missing. Somebody who leaves the image and comes back is
another person to a tracker, and so here. Nobody is asked for who is hidden by half or more; a
track on such a person is no error.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import motmetrics
import numpy as np
from scipy.optimize import linear_sum_assignment

from raygait.synthetic.street import StreetFrame, crowd
from raygait.video.appearance import describe_boxes
from raygait.video.detection import Detections, Detector, box_areas, intersections, make_detector
from raygait.video.tracking import PersonTracker, Track

_COMMAND = "python -m tests.benchmarks tracking"
SEEDS = (0, 1, 2, 3)
_NUM_PEOPLE = (4, 6)
_NUM_FRAMES = 250
_KINDS = ("ssd boxes", "ssd boxes of every 3rd frame", "boxes from truth")
_MIN_IOU = 0.5
_MIN_VISIBLE_RATIO = 0.5
# A track is mixed when the second of its people is in so many of its frames.
_MIXED_FRAMES = 10


@dataclass(frozen=True)
class Seen:
    """Boxes of a clip, found or made, and what tracking needs besides."""

    detections: list[Detections]
    looks: list[np.ndarray]


@dataclass(frozen=True)
class Truth:
    """Where everybody is; one column for each time that somebody is in the image.

    Attributes:
        boxes_px: Of the whole person, cut at the image's border; NaN while not there.
        visible_px: Of the visible part.
        visible_ratio: Share of the person that is visible.
    """

    boxes_px: np.ndarray
    visible_px: np.ndarray
    visible_ratio: np.ndarray


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    return [row for num_people in _NUM_PEOPLE for row in _measure_streets(num_people)]


def _measure_streets(num_people: int) -> list[dict[str, object]]:
    detector = make_detector("ssd")
    scores: dict[str, list[dict[str, float]]] = {}
    recalls, looks_s, untangle_s = [], 0.0, 0.0
    for seed in SEEDS:
        truth, found, made, seconds = watch(seed, detector, num_people=num_people)
        looks_s += seconds
        recalls.append(recall(truth, found))
        for kind, (seen, detect_every) in zip(
            _KINDS, ((found, 1), (found, 3), (made, 1)), strict=True
        ):
            for who in ("theirs", "ours"):
                tracker = PersonTracker() if who == "ours" else PersonTracker(untangler=None)
                started = time.process_time()
                tracks = follow(seen, tracker, detect_every=detect_every)
                if kind == _KINDS[0]:
                    untangle_s += (1 if who == "ours" else -1) * (time.process_time() - started)
                scores.setdefault(f"{kind} {who}", []).append(score(truth, tracks))
    street = f"street of {num_people}"
    rows = []
    for kind in _KINDS:
        for name in ("IDF1", "identity switches", "mixed tracks", "IDF1 if all were told apart"):
            ours, theirs = (
                float(np.mean([one[name] for one in scores[f"{kind} {who}"]]))
                for who in ("ours", "theirs")
            )
            better = ours / theirs if name.startswith("IDF1") else theirs / max(ours, 1e-9)
            rows.append(
                _row(f"{street}, {kind}: {name}, mean of {len(SEEDS)}", ours, theirs, better)
            )
    rows.append(_row(f"{street}: recall of ssd, visible by half or more", float(np.mean(recalls))))
    num_frames = len(SEEDS) * _NUM_FRAMES
    rows.append(_row(f"{street}: looks of all boxes, ms a frame", 1000 * looks_s / num_frames))
    rows.append(_row(f"{street}: untangling, ms a frame", 1000 * untangle_s / num_frames))
    return rows


def watch(
    seed: int, detector: Detector | None, *, num_people: int
) -> tuple[Truth, Seen, Seen, float]:
    """Render a street; truth, boxes found, boxes made from the truth, seconds for looks."""
    street = crowd(seed, num_people=num_people, num_frames=_NUM_FRAMES)
    generator = np.random.default_rng(seed)
    tremble = np.zeros((len(street.people), 4))
    frames: list[StreetFrame] = []
    found, made = Seen([], []), Seen([], [])
    looks_s = 0.0
    if detector is not None:
        detector.reset()
    for frame in street.frames():
        tremble = 0.7 * tremble + generator.normal(0.0, 0.7, tremble.shape)
        for seen, detections in (
            (found, Detections.none() if detector is None else detector(frame.image)),
            (made, _made(frame, tremble, generator)),
        ):
            started = time.process_time()
            seen.looks.append(describe_boxes(frame.image, detections.boxes_px))
            if seen is found:
                looks_s += time.process_time() - started
            seen.detections.append(detections)
        frames.append(_without_pictures(frame))
    return _truth(frames, street.camera.width_px, street.camera.height_px), found, made, looks_s


def follow(seen: Seen, tracker: PersonTracker, *, detect_every: int = 1) -> list[Track]:
    """Tracks of the boxes of a clip of 25 frames a second, 960 px wide."""
    tracker.reset(25.0, detect_every=detect_every, width_px=960)
    for index in range(0, len(seen.detections), detect_every):
        tracker.update(index, seen.detections[index], seen.looks[index])
    return tracker.tracks()


def recall(truth: Truth, seen: Seen) -> float:
    """Share of the people visible by half or more who have a box."""
    num_asked = num_found = 0
    for index, detections in enumerate(seen.detections):
        asked = truth.visible_ratio[index] >= _MIN_VISIBLE_RATIO
        boxes_px = detections.boxes_px[detections.scores >= 0.35]
        num_asked += int(asked.sum())
        if len(boxes_px) and asked.any():
            fit = _fit(truth, index, asked, boxes_px)
            num_found += int((fit.max(axis=1) >= _MIN_IOU).sum())
    return num_found / num_asked


def score(truth: Truth, tracks: list[Track]) -> dict[str, float]:
    """IDF1, identity switches, mixed tracks, and the IDF1 that these boxes allow at best."""
    events = motmetrics.MOTAccumulator(auto_id=True)
    people_of: list[list[int]] = [[] for _ in tracks]
    for index in range(len(truth.boxes_px)):
        there = ~np.isnan(truth.boxes_px[index, :, 0])
        held = [
            (number, track.boxes_px[index - track.frame_indices[0]])
            for number, track in enumerate(tracks)
            if track.frame_indices[0] <= index <= track.frame_indices[-1]
        ]
        boxes_px = np.array([box_px for _, box_px in held], np.float32).reshape(-1, 4)
        fit = _fit(truth, index, there, boxes_px)
        people = np.flatnonzero(there)
        asked = truth.visible_ratio[index, people] >= _MIN_VISIBLE_RATIO
        excused = set()
        for person, place in zip(*linear_sum_assignment(-fit * (fit >= _MIN_IOU)), strict=True):
            if fit[person, place] >= _MIN_IOU:
                people_of[held[place][0]].append(int(people[person]))
                if not asked[person]:
                    excused.add(place)
        places = [place for place in range(len(held)) if place not in excused]
        distance = 1 - fit[asked][:, places]
        distance[distance > 1 - _MIN_IOU] = np.nan
        events.update(people[asked].tolist(), [held[place][0] for place in places], distance)
    names = ["idf1", "num_switches", "precision", "recall"]
    found = motmetrics.metrics.create().compute(events, metrics=names).iloc[0]
    counts = [np.sort(np.bincount(people, minlength=2))[::-1] for people in people_of if people]
    return {
        "IDF1": float(found["idf1"]),
        "identity switches": float(found["num_switches"]),
        "mixed tracks": float(sum(count[1] >= _MIXED_FRAMES for count in counts)),
        "IDF1 if all were told apart": float(
            2 * found["precision"] * found["recall"] / (found["precision"] + found["recall"])
        ),
    }


def _made(frame: StreetFrame, tremble: np.ndarray, generator: np.random.Generator) -> Detections:
    boxes_px, scores = [], []
    for person in frame.people:
        is_missed = generator.random() < 0.05
        if person.visible_ratio < 0.35 or is_missed:
            continue
        height_px = person.box_px[3] - person.box_px[1]
        noise_px = 0.03 * height_px * tremble[person.identity - 1] * (0.6, 1.0, 0.6, 1.0)
        boxes_px.append(person.visible_box_px + noise_px)
        scores.append(0.6 if person.visible_ratio > 0.7 else 0.45)
    return Detections(np.array(boxes_px, np.float32).reshape(-1, 4), np.array(scores, np.float32))


def _truth(frames: list[StreetFrame], width_px: int, height_px: int) -> Truth:
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number in range(len(frames[0].people)):
        people = [frame.people[number] for frame in frames]
        whole_px = np.stack([person.box_px for person in people]).astype(float)
        cut_px = np.clip(whole_px, 0, [width_px, height_px] * 2)
        # Who is half out of the image is gone.
        widths_px = [box[:, 2] - box[:, 0] for box in (cut_px, whole_px)]
        inside = widths_px[0] > 0.5 * widths_px[1]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
        for begin, end in edges.reshape(-1, 2):
            there = np.zeros(len(frames), bool)
            there[begin:end] = True
            visible_px = np.stack([person.visible_box_px for person in people])
            ratio = np.array([person.visible_ratio for person in people])
            columns.append(
                (
                    np.where(there[:, None], cut_px, np.nan),
                    np.where(there[:, None], visible_px, np.nan),
                    np.where(there, ratio, 0.0),
                )
            )
    return Truth(*(np.stack(part, axis=1) for part in zip(*columns, strict=True)))


def _without_pictures(frame: StreetFrame) -> StreetFrame:
    nothing = np.zeros((0, 0), np.uint8)
    people = tuple(dataclasses.replace(person, mask=nothing) for person in frame.people)
    return dataclasses.replace(
        frame, image=np.zeros((0, 0, 3), np.uint8), labels=nothing, people=people
    )


def _fit(truth: Truth, index: int, people: np.ndarray, boxes_px: np.ndarray) -> np.ndarray:
    """Overlap of each of these people, whole or what is visible, with each box."""
    fits = []
    for truth_px in (truth.boxes_px, truth.visible_px):
        own_px = np.nan_to_num(truth_px[index, people])
        shared = intersections(own_px, boxes_px)
        union = box_areas(own_px)[:, None] + box_areas(boxes_px)[None] - shared
        fits.append(shared / np.maximum(union, 1e-6))
    return np.maximum(*fits)


def _row(
    claim: str, ours: float, theirs: float | None = None, ratio: float | None = None
) -> dict[str, object]:
    return {
        "part": "tracking",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "command": _COMMAND,
    }
