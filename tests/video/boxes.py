"""People boxed by eye, and how a detector's boxes are counted against them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from raygait.video.detection import Detections, box_areas, intersections

VTEST_BOXES = Path(__file__).with_name("vtest_boxes.csv")
MIN_IOU = 0.5


@dataclass(frozen=True)
class Labels:
    """Boxes of one frame: people, and those that are neither a hit nor a miss."""

    people_px: np.ndarray
    ignored_px: np.ndarray


@dataclass(frozen=True)
class Count:
    """Hits, misses and false alarms, over any number of frames."""

    num_hits: int = 0
    num_misses: int = 0
    num_false: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.num_hits + other.num_hits,
            self.num_misses + other.num_misses,
            self.num_false + other.num_false,
        )

    @property
    def recall(self) -> float:
        return self.num_hits / (self.num_hits + self.num_misses)

    @property
    def precision(self) -> float:
        return self.num_hits / (self.num_hits + self.num_false)


def read_labels(path: Path = VTEST_BOXES) -> dict[int, Labels]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    labels = {}
    for frame in sorted({int(row["frame"]) for row in rows}):
        by_kind: dict[str, list[list[float]]] = {"person": [], "ignore": []}
        for row in rows:
            if int(row["frame"]) == frame:
                by_kind[row["kind"]].append([float(row[name]) for name in ("x0", "y0", "x1", "y1")])
        people, ignored = (
            np.array(by_kind[kind], np.float32).reshape(-1, 4) for kind in ("person", "ignore")
        )
        labels[frame] = Labels(people, ignored)
    return labels


def ious(a_px: np.ndarray, b_px: np.ndarray) -> np.ndarray:
    shared = intersections(a_px, b_px)
    return shared / (box_areas(a_px)[:, None] + box_areas(b_px)[None] - shared)


def count(found: Detections, labels: Labels, *, min_score: float) -> Count:
    """One to one, as many pairs of an IoU of 0.5 as can be; what is on an ignored box is let go."""
    boxes_px = found.boxes_px[found.scores >= min_score]
    overlap = ious(boxes_px, labels.people_px)
    rows, columns = linear_sum_assignment(-np.where(overlap >= MIN_IOU, 1 + overlap, 0))
    is_hit = overlap[rows, columns] >= MIN_IOU
    left = np.delete(boxes_px, rows[is_hit], axis=0)
    # Half of a person may be found who is labelled whole.
    inside = intersections(left, labels.ignored_px) / np.maximum(box_areas(left), 1)[:, None]
    num_false = int((inside < MIN_IOU).all(axis=1).sum()) if len(left) else 0
    num_hits = int(is_hit.sum())
    return Count(num_hits, len(labels.people_px) - num_hits, num_false)
