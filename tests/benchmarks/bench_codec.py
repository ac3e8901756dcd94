"""Size and speed of the blobs: `python -m tests.benchmarks codec`.

`theirs` is a pickled uint8 array a sequence, as OpenGait keeps them, 4099 bytes a frame; its speed
is measured here. A ratio above 1 is in our favour. With RAYGAIT_SAMPLES set, real silhouettes are
measured too (vtest.avi, motion detector and background masks: no network's file is needed).
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raygait.shards import codec
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.alignment import align
from raygait.video.extraction import PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings

_COMMAND = "python -m tests.benchmarks codec"
_PICKLED_FRAME_BYTES = 4099


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    walkers = [
        _aligned(seed, condition, view)
        for seed in range(4)
        for condition in ("nm-01", "bg-01", "cl-01")
        for view in (0, 54, 90)
    ]
    rows = [_size("synthetic walkers", walkers)]
    clip = Path(os.environ.get("RAYGAIT_SAMPLES", "")) / "video" / "vtest.avi"
    if clip.is_file():
        rows.append(_size("vtest.avi", _real(clip)))

    long = np.concatenate(walkers)[:2000]
    blob, pickled = codec.encode_silhouettes(long), pickle.dumps(long)
    ours_s, theirs_s = (
        _seconds(lambda: codec.decode_silhouettes(blob)),
        _seconds(lambda: pickle.loads(pickled).copy()),
    )
    rows.append(_row("decode, frames/s", len(long) / ours_s, len(long) / theirs_s))
    clip_s = _seconds(lambda: codec.decode_silhouettes(blob, slice(900, 930)))
    rows.append(_row("30 of 2000 frames, clips/s; theirs: all 2000", 1 / clip_s, 1 / theirs_s))
    rows.append(_row("30 of 2000 frames, clips/s; theirs: ours, whole", 1 / clip_s, 1 / ours_s))
    encode_s = _seconds(lambda: codec.encode_silhouettes(long[:500]), repeats=3)
    rows.append(_row("encode, frames/s", 500 / encode_s, None))
    rows += _heatmap_rows()
    return rows


def _heatmap_rows() -> list[dict[str, object]]:
    """Gaussian joints with a faint floor, 17 x 64 x 48; theirs: float16, pickled."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:64, :48]
    t, j = np.mgrid[:64, :17]
    squares = (x - (8 + 2 * j + 0.2 * t)[..., None, None]) ** 2
    squares = squares + (y - (4 + 3.5 * j)[..., None, None]) ** 2
    floor = generator.random(squares.shape) * 0.003
    maps = np.maximum(0.9 * np.exp(-squares / 12), floor).astype(np.float32)
    levels = np.rint(maps * 255).astype(np.uint8)
    blob = codec.encode_heatmaps(levels)
    theirs = len(pickle.dumps(maps.astype(np.float16))) / len(maps)
    decode_s = _seconds(lambda: codec.decode_heatmaps(blob))
    return [
        _row("heatmaps, bytes/frame", len(blob) / len(maps), theirs, smaller_is_better=True),
        _row("heatmaps, decode, frames/s", len(maps) / decode_s, None),
    ]


def _aligned(seed: int, condition: str, view_deg: float) -> np.ndarray:
    masks = render_masks(
        Walker.from_seed(seed), condition=condition, view_deg=view_deg, num_frames=60
    )
    return np.stack([align(mask) for mask in masks])


def _real(clip: Path) -> list[np.ndarray]:
    settings = VideoSettings(
        detector="motion", mask="background", pose="none", modalities=("silhouettes",)
    )
    sequences, _ = PeopleDescriber(settings)(clip, PeopleFinder(settings)(clip))
    return [sequence.silhouettes for sequence in sequences]


def _size(name: str, sequences: list[np.ndarray]) -> dict[str, object]:
    num_frames = sum(map(len, sequences))
    ours = sum(len(codec.encode_silhouettes(frames)) for frames in sequences) / num_frames
    claim = f"silhouettes of {name}, bytes/frame ({num_frames} frames)"
    return _row(claim, ours, _PICKLED_FRAME_BYTES, smaller_is_better=True)


def _row(
    claim: str, ours: float, theirs: float | None, *, smaller_is_better: bool = False
) -> dict[str, object]:
    ratio = None
    if theirs is not None:
        ratio = theirs / ours if smaller_is_better else ours / theirs
    return {
        "part": "shards.codec",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "command": _COMMAND,
    }


def _seconds(work: Callable[[], object], repeats: int = 20) -> float:
    """The fastest of several runs: what the machine can do when nobody else wants it."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    for row in measure():
        theirs, ratio = row["theirs"], row["ratio"]
        print(  # noqa: T201
            f"{row['claim']:<60} {row['ours']:>10.0f}"
            + (f" {theirs:>10.0f} {ratio:>6.1f}x" if theirs is not None else "")
        )
