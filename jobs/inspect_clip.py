"""Show what becomes of one clip: its people, what is left out and why, and where the time goes.

    python jobs/inspect_clip.py clips/one.mp4
    python jobs/inspect_clip.py clips/one.mp4 --out one.html --json one.json --video.detector motion

The page is one HTML file that needs no network: whole frames with boxes, a timeline, pictures and
measures of each sequence, rejects with reasons, times by stage. Nothing is preprocessed; the
settings are those of jobs/preprocess.py, so that they can be tried on one clip before they are used
on all. Exit code 1: the clip gives no sequence; if people were found, the page is written all the
same. (The file is not called inspect.py: a job's folder comes first on Python's path, and the
standard library's `inspect` would be it.)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait.errors import VideoError
from raygait.figures.clip_charts import fit_frame
from raygait.figures.inspection import (
    OTHER,
    Inspection,
    frames_to_show,
    summary,
    write_inspection,
)
from raygait.sequences import GaitSequence
from raygait.shards.plan import look_at
from raygait.shards.workers import STAGES, to_row
from raygait.shards.writer import printable, whole_file
from raygait.video.decode import Frame, open_video
from raygait.video.extraction import PeopleDescriber, RejectedTrack
from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings
from raygait.video.timing import StageTimes


@dataclass(frozen=True)
class Options:
    """Show what becomes of one clip."""

    path: Annotated[Path, tyro.conf.Positional]
    """The clip."""
    out: Path | None = None
    """HTML file to write; the clip's name and -inspection.html, in this folder, if left out."""
    json: Path | None = None
    """File for all the numbers as JSON; none if left out."""
    video: VideoSettings = field(default_factory=VideoSettings)
    """What becomes of the clip."""


def inspect(path: Path, settings: VideoSettings) -> Inspection:
    """Find and describe the people of a clip, as preprocessing does, and note what happens.

    Raises:
        VideoError: The clip cannot be read, or nobody was found in it.
    """
    settings = settings.resolved()
    find, describe, encoding = PeopleFinder(settings), PeopleDescriber(settings), StageTimes()
    source = look_at(GaitSequence("", "", "", "", path.name), path.parent)
    started = time.perf_counter()
    tracks = find(path)
    rows: list[Mapping[str, object]] = []
    rejects: list[RejectedTrack] = []
    # Rows hold the pictures compressed: a long clip's sequences need not fit into memory.
    for result in describe.stream(path, tracks):
        if isinstance(result, RejectedTrack):
            rejects.append(result)
            continue
        with encoding.time("encode"):
            row = to_row(source, result, "", "")
        rows.append({name: _plain(value) for name, value in row.items()})
    elapsed_s = time.perf_counter() - started
    seconds = {**find.times.seconds, **describe.times.seconds, **encoding.seconds}
    seconds[OTHER] = max(0.0, elapsed_s - sum(seconds.values()))

    wanted = set(frames_to_show(tracks, rows))
    frames: list[Frame] = []
    present: set[int] = set()
    with open_video(path) as video:
        for frame in video.frames():
            present.add(frame.index)
            if frame.index in wanted:
                frames.append(Frame(frame.index, fit_frame(frame.image)))
    unseen = {reject.track for reject in rejects if reject.reason in ("short-track", "low-track")}
    return Inspection(
        source=path.name,
        stored_size_px=video.stored_size_px,
        size_px=(video.width_px, video.height_px),
        fps=video.fps,
        num_frames=video.num_frames,
        damage=video.damage,
        detector=find.detector,
        settings=settings,
        tracks=tracks,
        rows=rows,
        rejects=rejects,
        frames=frames,
        num_crops=sum(
            len(present.intersection(track.frame_indices.tolist()))
            for track in tracks
            if track.number not in unseen
        ),
        seconds=seconds,
    )


def main() -> int:
    """Parse, look at the clip, write the page."""
    options = tyro.cli(Options, prog="inspect_clip.py", description=__doc__)
    path = options.path
    out = options.out or Path(f"{path.stem}-inspection.html")
    for written in filter(None, (out, options.json)):
        if written.exists() and path.exists() and written.samefile(path):
            print(f"error: {printable(str(written))} is the clip: name another", file=sys.stderr)
            return 1
    if printable(path.name) != path.name:
        said = f"{printable(path.name)}: not valid UTF-8: rename it (stage decode, reason bad-name)"
        print(f"error: {said}", file=sys.stderr)
        return 1
    try:
        inspection = inspect(path, options.video)
    except VideoError as error:
        stage = STAGES.get(error.reason, "detect")
        print(f"error: {error} (stage {stage}, reason {error.reason})", file=sys.stderr)
        return 1
    write_inspection(out, inspection)
    print(summary(inspection))
    print(f"page: {printable(str(out))} ({out.stat().st_size / 1e6:.1f} MB)")
    if options.json is not None:
        text = json.dumps(inspection.to_dict(), allow_nan=False)
        with whole_file(options.json) as file:
            file.write(text.encode())
        print(f"numbers: {printable(str(options.json))}")
    if not inspection.rows:
        print(f"error: {path.name}: no track became a sequence, see the rejects", file=sys.stderr)
        return 1
    return 0


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


if __name__ == "__main__":
    sys.exit(console.run(main))
