"""Milliseconds of each stage of the video room: `python -m tests.benchmarks video`.

Wall time of one process on one thread, by `StageTimes`, on 1080p (a Pose2Sim clip of two people,
1080x1920, fetched as an asset) and, with RAYGAIT_SAMPLES set, on vtest.avi (768x576, 4 to 9
people). `theirs` of the networks' share is what it should be at least, 70 %; otherwise there is no
`theirs`: public code of this field starts from silhouettes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import get_args

from raygait.assets import asset
from raygait.video.decode import open_video
from raygait.video.extraction import ExtractedSequence, PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.settings import Modality, VideoSettings
from raygait.video.timing import NETWORK_STAGES

_COMMAND = "python -m tests.benchmarks video"
_SHARE_WANTED = 70.0


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    rows = _clip_rows("1080p", asset("pose2sim-multi-cam01"))
    vtest = Path(os.environ.get("RAYGAIT_SAMPLES", "")) / "video" / "vtest.avi"
    if vtest.is_file():
        rows += _clip_rows("vtest", vtest)
    return rows


def _clip_rows(name: str, clip: Path) -> list[dict[str, object]]:
    settings = VideoSettings(modalities=get_args(Modality)).resolved()
    with open_video(clip) as video:
        num_frames = sum(1 for _ in video.frames())
    finder, describer = PeopleFinder(settings), PeopleDescriber(settings)
    started = time.perf_counter()
    tracks = finder(clip)
    sequences, rejects = describer(clip, tracks)
    wall_s = time.perf_counter() - started
    seconds = {**finder.times.seconds, **describer.times.seconds}
    share = 100 * sum(seconds[stage] for stage in NETWORK_STAGES) / wall_s
    num_crops = sum(len(track) for track in tracks)
    return [
        *(
            _row(f"{name}: {stage}, ms a frame", 1000 * value / num_frames)
            for stage, value in seconds.items()
        ),
        _row(f"{name}: all of it, ms a frame", 1000 * wall_s / num_frames),
        _row(f"{name}: pose, ms a crop", 1000 * seconds["pose"] / max(num_crops, 1)),
        _row(
            f"{name}: share of the networks ({', '.join(NETWORK_STAGES)}) in wall time, %; "
            "theirs: what it should be",
            share,
            _SHARE_WANTED,
        ),
        _row(f"{name}: sequences kept of {len(sequences) + len(rejects)}", len(sequences)),
        _row(f"{name}: frames kept of {num_crops} boxes", _num_kept(sequences)),
    ]


def _num_kept(sequences: list[ExtractedSequence]) -> int:
    return sum(len(sequence.frame_indices) for sequence in sequences)


def _row(claim: str, ours: float, theirs: float | None = None) -> dict[str, object]:
    return {
        "part": "video",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": None if theirs is None else ours / theirs,
        "command": _COMMAND,
    }
