"""The loader beside OpenGait's own, on one CPU thread.

    python -m tests.benchmarks.peer_loader --peer ~/OpenGait [--rounds 20] [--shards FOLDER]

`--peer` is a checkout that you have fetched yourself, as in `parity_opengait`, which says what its
modules ask for. Both choose frames of P8 K16 T30, cut, augment and scale them, theirs from arrays
kept in memory, as their configurations do, ours from the mapped cache: as GaitBase is trained on
CASIA-B (turned and erased, 0.3 each), and outdoors (perspective, mirrored and turned, 0.2 each),
in our style of augmentation and in theirs, and from a cache that is kept compressed, where theirs
is still decoded. Each round times one batch of theirs and one of ours in turn, in CPU time of the
process. Figures are medians over rounds; the ratio is the median of the rounds' ratios, above 1 in
our favour. `--shards` keeps the shards of synthetic walkers for another run.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from raygait import ray_session
from raygait.batches.cache import FrameCache, open_cache
from raygait.datasets import casiab
from raygait.recipes import named
from raygait.recipes.schema import with_overrides
from raygait.shards.ingest import ingest
from raygait.synthetic import casiab_tree
from raygait.training.loop import make_loader

_NUM_SUBJECTS, _NUM_SEQUENCES, _NUM_FRAMES = 8, 16, 30
_CUT = {"type": "BaseSilCuttingTransform"}
_INDOORS = [_CUT, {"type": "RandomRotate", "prob": 0.3}, {"type": "RandomErasing", "prob": 0.3}]
_OUTDOORS = [
    {"type": "RandomPerspective", "prob": 0.2},
    _CUT,
    {"type": "RandomHorizontalFlip", "prob": 0.2},
    {"type": "RandomRotate", "prob": 0.2},
]
_OURS_OUTDOORS = {
    "clip.perspective_ratio": 0.2,
    "clip.flip_ratio": 0.2,
    "clip.rotate_ratio": 0.2,
    "clip.erase_ratio": 0.0,
}
_LIKE_THEM = {"clip.augment_like": "opengait"}
# Name -> their transforms, our options, whether our cache is decoded.
_CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], bool]] = {
    "turned, erased": (_INDOORS, {}, True),
    "turned, erased, their style": (_INDOORS, _LIKE_THEM, True),
    "perspective, mirrored, turned": (_OUTDOORS, _OURS_OUTDOORS, True),
    "perspective, mirrored, turned, their style": (_OUTDOORS, _OURS_OUTDOORS | _LIKE_THEM, True),
    "turned, erased, ours kept compressed": (_INDOORS, {}, False),
}


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="checkout of OpenGait")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shards", type=Path, help="where shards are, or are to be kept")
    options = parser.parse_args()
    code = options.peer / "opengait"
    if not (code / "data" / "transform.py").is_file():
        raise SystemExit(f"{options.peer} is no checkout of OpenGait: no opengait/data")
    sys.path.insert(0, str(code))
    logging.getLogger("raygait").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _say("| augmentation | ours, sequences/CPU s | theirs | ratio |")
    _say("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as name:
        folder = Path(name)
        shards = options.shards or folder / "shards"
        if not shards.exists():
            casiab_tree.write(folder / "tree", num_subjects=12, views=["054", "090"], num_frames=60)
            with ray_session.start(num_cpus=2):
                ingest(casiab.index(folder / "tree"), folder / "tree", shards)
        caches = {
            is_decoded: open_cache(shards, folder=folder / "cache", decoded=is_decoded)
            for is_decoded in (True, False)
        }
        for case, (transforms, changes, is_decoded) in _CASES.items():
            seconds = _measure(caches[is_decoded], transforms, changes, options.rounds)
            ours, theirs = _NUM_SUBJECTS * _NUM_SEQUENCES / np.median(seconds, axis=0)
            ratio = np.median(seconds[:, 1] / seconds[:, 0])
            _say(f"| {case} | {ours:,.0f} | {theirs:,.0f} | {ratio:.2f} |")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _measure(
    cache: FrameCache, transforms: list[dict[str, Any]], changes: dict[str, Any], rounds: int
) -> np.ndarray:
    """CPU seconds of a batch, ours and theirs, of each round."""
    recipe = with_overrides(named.recipe("gaitbase-casiab"), {"data.split": "first:11", **changes})
    loader = make_loader(recipe, cache, sorted(set(cache.subjects))[:11])
    their_batch = _their_batches(cache, transforms)
    batches = loader.batch(0), their_batch()
    assert batches[0].inputs["frames"].numel() == batches[1].numel()
    seconds = []
    for step in range(1, rounds + 1):
        started = time.process_time()
        loader.batch(step)
        between = time.process_time()
        their_batch()
        seconds.append((between - started, time.process_time() - between))
    return np.array(seconds)


def _their_batches(
    cache: FrameCache, transforms: list[dict[str, Any]]
) -> Callable[[], torch.Tensor]:
    # Imported by name: there is no stub, and nothing else of theirs is wanted.
    made: Any = importlib.import_module("data.transform")
    transform = made.get_transform([{"type": "Compose", "trf_cfg": transforms}])[0]
    collating: Any = importlib.import_module("data.collate_fn")
    classes = {subject: number for number, subject in enumerate(sorted(set(cache.subjects)))}
    sampling = {
        "sample_type": "fixed_unordered",
        "frames_num_fixed": _NUM_FRAMES,
        "type": "TripletSampler",
    }
    collate = collating.CollateFn(list(range(len(classes))), sampling)
    sequences = [np.array(cache.frames(row)) for row in range(len(cache))]
    rows: dict[int, list[int]] = {}
    for row, subject in enumerate(cache.subjects):
        rows.setdefault(classes[subject], []).append(row)
    source = np.random.default_rng(0)

    def batch() -> torch.Tensor:
        drawn = [
            ([sequences[row]], [int(label), "nm-01", "090", ["path"]])
            for label in source.permutation(len(rows))[:_NUM_SUBJECTS]
            for row in source.choice(rows[int(label)], _NUM_SEQUENCES, replace=False)
        ]
        frames = collate(drawn)[0][0]
        # As their model does with what the collate function returns, before it goes to the GPU.
        return torch.from_numpy(np.asarray([transform(clip) for clip in frames])).float()

    return batch


if __name__ == "__main__":
    sys.exit(main())
