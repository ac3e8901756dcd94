"""What the frame cache saves and costs: `python -m tests.benchmarks cache`.

Ours is a modality kept as the shards hold it and decoded when a clip is drawn, theirs the same
kept decoded, as raw bytes of which a clip is copied. 120 frames of five rendered walkers, one CPU.
Then two things that the loader does to a clip of silhouettes, 30 of 64 x 64 cut to 64 x 44, beside
the plain way to do them, and how fast a cache's checksums are compared when it is opened.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch

from raygait.batches.augmentation import warp_clip
from raygait.batches.cache import _checksum
from raygait.batches.columns import pack, unpack
from raygait.batches.inputs import Modality
from raygait.sequences import GaitSequence
from raygait.shards.plan import Source
from raygait.shards.workers import to_row
from raygait.synthetic.scenes import write_street
from raygait.synthetic.street import Passer, Street, street_camera
from raygait.synthetic.walkers import FPS, Walker, speed_m_s
from raygait.video.extraction import ExtractedSequence, PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings

_COMMAND = "python -m tests.benchmarks cache"
_NUM_FRAMES, _CLIP = 120, 30


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    cv2.setNumThreads(1)
    walkers = [_walker(seed) for seed in range(1, 6)]
    rows: list[dict[str, object]] = []
    ordered = np.arange(40, 40 + _CLIP)
    unordered = np.random.default_rng(0).permutation(_NUM_FRAMES)[:_CLIP]
    for modality in get_args(Modality):
        packed = pack(_joined(walkers, modality), modality)
        whole = unpack(packed, modality)
        assert len(whole["frames"]) == _NUM_FRAMES
        ours = sum(map(len, packed.values())) / _NUM_FRAMES
        theirs = sum(values.nbytes for values in whole.values()) / _NUM_FRAMES
        rows.append(_row(f"{modality}, bytes a frame", ours, theirs))
        for name, numbers in (("in order", ordered), ("at random", unordered)):
            ours = _ms(lambda p=packed, m=modality, n=numbers: unpack(p, m, n))
            theirs = _ms(lambda w=whole, n=numbers: {key: w[key][n] for key in w})
            rows.append(_row(f"{modality}, 30 of 120 frames {name}, ms", ours, theirs))
    return rows + _clip_rows() + [_checksum_row()]


def _clip_rows() -> list[dict[str, object]]:
    torch.set_num_threads(1)
    source = np.random.default_rng(0)
    frames = source.integers(0, 256, (_CLIP, 64, 64)).astype(np.uint8)
    matrix = np.vstack([cv2.getRotationMatrix2D((31.5, 31.5), 7.0, 1.0), [0.0, 0.0, 1.0]])
    # A batch of 128, as large arrays are given back to the system and small ones are not.
    batch = np.empty((128, _CLIP, 64, 44), np.float32)
    return [
        _row(
            "a clip's floats in memory lent again, ms; theirs: in fresh memory",
            _ms(lambda: batch.fill(0)) / len(batch),
            _ms(lambda: np.empty_like(batch).fill(0)) / len(batch),
        ),
        _row(
            "a clip warped, ms; theirs: frame by frame with OpenCV",
            _ms(lambda: warp_clip(frames, matrix, 44)),
            _ms(lambda: np.stack([cv2.warpPerspective(f, matrix, (64, 64)) for f in frames])),
        ),
    ]


def _checksum_row() -> dict[str, object]:
    size_bytes = 10**8
    with tempfile.NamedTemporaryFile() as file:
        file.write(np.random.default_rng(0).bytes(size_bytes))
        file.flush()
        ms = _ms(lambda: _checksum(Path(file.name), 0, size_bytes), repeats=5)
    return {**_row("checksums at opening, GB/s of one core", size_bytes / 1e6 / ms, 0), **_ALONE}


def _walker(seed: int) -> ExtractedSequence:
    walker = Walker.from_seed(seed)
    half_m = speed_m_s(walker.walk("nm-01")) * 26 / FPS / 2
    passer = Passer(walker, "nm-01", ((half_m, -1.0), (-half_m, -1.0)))
    modalities = ("silhouettes_128", "heatmaps", "heatmaps_redrawn", "rgb", "joints")
    settings = VideoSettings(detector="ssd", tiles="never", modalities=modalities)
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as folder:
        clip = Path(folder) / "street.mp4"
        write_street(Street(street_camera(), (passer,), 26, seed=seed), clip)
        (sequence,), _ = PeopleDescriber(settings)(clip, PeopleFinder(settings)(clip))
    return sequence


def _joined(walkers: list[ExtractedSequence], modality: Modality) -> dict[str, object]:
    """A row of the walkers' frames one after another, as ingest would encode it."""
    fields = {
        name: np.concatenate([getattr(walker, name) for walker in walkers])[:_NUM_FRAMES]
        for name, values in vars(walkers[0]).items()
        if isinstance(values, np.ndarray)
    }
    sequence = ExtractedSequence(**{**vars(walkers[0]), **fields})
    source = Source(GaitSequence("bench", "1", modality, "090", "1.mp4", "video"), 0, 0)
    return to_row(source, sequence, "", "{}")


def _ms(function: Callable[[], object], repeats: int = 30) -> float:
    function()
    started = time.process_time()
    for _ in range(repeats):
        function()
    return 1000 * (time.process_time() - started) / repeats


_ALONE: dict[str, object] = {"theirs": None, "ratio": None}


def _row(claim: str, ours: float, theirs: float) -> dict[str, object]:
    return {
        "part": "cache",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs / ours,
        "command": _COMMAND,
    }
