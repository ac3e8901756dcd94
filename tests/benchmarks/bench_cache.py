"""What the frame cache saves and costs: `python -m tests.benchmarks cache`.

Ours is a modality kept as the shards hold it and decoded when a clip is drawn, theirs the same
kept decoded, as raw bytes of which a clip is copied. 120 frames of five rendered walkers, one CPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import cv2
import numpy as np

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
    return rows


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


def _row(claim: str, ours: float, theirs: float) -> dict[str, object]:
    return {
        "part": "cache",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs / ours,
        "command": _COMMAND,
    }
