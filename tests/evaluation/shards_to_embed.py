"""Small folders of shards whose rows are of any length, damaged or without a name, as asked."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from raygait.sequences import GaitSequence
from raygait.shards.plan import Source
from raygait.shards.reader import Manifest
from raygait.shards.workers import to_row
from raygait.shards.writer import PartWriter
from raygait.video.extraction import ExtractedSequence, FrameQuality


@dataclasses.dataclass(frozen=True)
class Walk:
    """A row to be: whose, how long, and what it looks like."""

    subject: str
    num_frames: int
    seed: int = 0
    condition: str = "nm-01"
    is_damaged: bool = False


def frames_of(walk: Walk) -> np.ndarray:
    """Silhouettes [t, 64, 64]: a box that breathes, of a size that the seed says."""
    generator = np.random.default_rng([walk.seed, walk.num_frames])
    frames = np.zeros((walk.num_frames, 64, 64), np.uint8)
    for number, frame in enumerate(frames):
        half = 6 + int(generator.integers(4)) + number % 5
        frame[generator.integers(1, 9) :, 32 - half : 32 + half] = 255
    return frames


def write_shards(root: Path, parts: Mapping[str, Sequence[Walk]]) -> Path:
    """A finished folder of shards with these parts."""
    for name, walks in parts.items():
        with PartWriter(root, name, num_sources=len(walks)) as writer:
            for walk in walks:
                writer.add(_row(name, walk))
            writer.commit()
    Manifest({}, {}, tuple(sorted(parts))).write(root)
    return root


def _row(part: str, walk: Walk) -> dict[str, object]:
    t = walk.num_frames
    unknown = np.full(t, np.nan, np.float32)
    extracted = ExtractedSequence(
        track=7,
        frame_indices=np.arange(t, dtype=np.int32),
        boxes_px=np.full((t, 4), np.nan, np.float32),
        fps=25.0,
        silhouettes=frames_of(walk),
        heatmaps=None,
        quality=FrameQuality(*[unknown] * 6, np.zeros(t, bool), np.zeros(t, bool)),
        left_out=(),
        track_person_score=0.9,
    )
    view = f"{walk.seed:03d}"
    clip = f"{part}-{walk.subject}-{t}-{walk.seed}.mp4"
    sequence = GaitSequence("test", walk.subject, walk.condition, view, clip, "video")
    row = to_row(Source(sequence, 1, 1), extracted, "ab" * 32, "{}")
    if walk.is_damaged:
        row["silhouettes"] = bytes(row["silhouettes"])[: len(row["silhouettes"]) // 2]
    return row
