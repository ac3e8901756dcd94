"""Milliseconds a frame of each stage of the video room: `python -m tests.benchmarks video`.

CPU time of one thread, on the Sports2D clip (1768x994, one or two people, fetched as an asset) and,
with RAYGAIT_SAMPLES set, on vtest.avi (768x576, 4 to 9 people). There is no `theirs`: public code
of this field starts from silhouettes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from raygait.assets import asset
from raygait.video.alignment import align
from raygait.video.decode import open_video
from raygait.video.detection import make_detector
from raygait.video.extraction import PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings

_COMMAND = "python -m tests.benchmarks video"
# Frames that the single stages are timed on; the whole passes see every frame.
_NUM_FRAMES = 60


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    rows = _clip_rows("Sports2D", asset("sports2d-demo"))
    vtest = Path(os.environ.get("RAYGAIT_SAMPLES", "")) / "video" / "vtest.avi"
    if vtest.is_file():
        rows += _clip_rows("vtest", vtest)
    return rows


def _clip_rows(name: str, clip: Path) -> list[dict[str, object]]:
    settings = VideoSettings().resolved()
    started = time.process_time()
    images = []
    num_frames = 0
    with open_video(clip) as video:
        for frame in video.frames():
            num_frames += 1
            if len(images) < _NUM_FRAMES:
                images.append(frame.image)
    decode_ms = 1000 * (time.process_time() - started) / num_frames

    detector = make_detector(settings.detector)
    detector(images[0])
    started = time.process_time()
    for image in images:
        detector(image)
    detect_ms = 1000 * (time.process_time() - started) / len(images)

    started = time.process_time()
    finder = PeopleFinder(settings)
    tracks = finder(clip)
    find_ms = 1000 * (time.process_time() - started) / num_frames

    started = time.process_time()
    describer = PeopleDescriber(settings)
    num_rows = num_kept = num_crops = 0
    masks: list[np.ndarray] = []
    for item in describer.stream(clip, tracks):
        if hasattr(item, "silhouettes"):
            num_rows += 1
            num_kept += len(item.silhouettes)
            masks += list(item.silhouettes[:20])
    describe_s = time.process_time() - started
    num_crops = sum(len(track.frame_indices) for track in tracks)

    started = time.process_time()
    for mask in masks:
        align(mask)
    align_ms = 1000 * (time.process_time() - started) / max(len(masks), 1)
    return [
        _row(f"{name}: decode, ms a frame", decode_ms),
        _row(f"{name}: detect ({settings.detector}), ms a frame", detect_ms),
        _row(f"{name}: decode + detect + track, ms a frame", find_ms),
        _row(
            f"{name}: decode + crop + mask + heatmaps + align, ms a crop",
            1000 * describe_s / num_crops,
        ),
        _row(f"{name}: align, ms a silhouette", align_ms),
        _row(f"{name}: sequences kept", num_rows),
        _row(f"{name}: frames kept of {num_crops} boxes", num_kept),
    ]


def _row(claim: str, ours: float) -> dict[str, object]:
    return {
        "part": "video",
        "claim": claim,
        "ours": ours,
        "theirs": None,
        "ratio": None,
        "command": _COMMAND,
    }
