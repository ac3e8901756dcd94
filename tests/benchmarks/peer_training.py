"""A training step and the loader beside OpenGait's own code, on one CPU thread.

    python -m tests.benchmarks.peer_training --peer ~/OpenGait [--rounds 5] [CASE ...]

`--peer` is a checkout that you have fetched yourself, as in `parity_opengait`, which says what its
classes ask for. A step is P2 K2 T30: forward, triplets and cross-entropy (ours, of both networks'
outputs), backward, one step of SGD. Both networks hold the same weights, so both compute the same;
each round times one step of theirs and one of ours in turn, and the least CPU time of each counts.
The loaders decode, cut and augment P8 K16 T30 as GaitBase is trained on CASIA-B (turned, erased,
0.3 each): theirs from pickles kept in memory, as their configuration does, ours from the mapped
cache. Ratio: theirs by ours, above 1 is in our favour.
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

import numpy as np
import torch
from torch import Tensor, nn

from raygait import ray_session
from raygait.batches.cache import open_cache
from raygait.datasets import casiab
from raygait.experiments import foreign
from raygait.losses.identity import IdentityLoss
from raygait.losses.triplet import TripletLoss
from raygait.recipes import named
from raygait.recipes.saved_model import load_model
from raygait.recipes.schema import with_overrides
from raygait.shards.ingest import ingest
from raygait.synthetic import casiab_tree
from raygait.training.loop import make_loader
from tests.benchmarks import parity_opengait as parity

_CASES = (
    "GaitSet, CASIA-B widths",
    "GaitPart, CASIA-B plan",
    "GaitGL, CASIA-B plan",
    "GaitBase",
    "DeepGaitV2 2d [1,1,1,1]",
    "DeepGaitV2 3d [1,1,1,1]",
    "DeepGaitV2 p3d [1,1,1,1]",
)
_NUM_FRAMES = 30
_LABELS = torch.tensor([0, 0, 1, 1])


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="checkout of OpenGait")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="beginnings of names; all")
    options = parser.parse_args()
    logging.getLogger("raygait").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    peer = parity._peer(options.peer)
    _say("| what | ours | theirs | ratio |")
    _say("|---|---:|---:|---:|")
    for name in _CASES:
        if options.cases and not name.startswith(tuple(options.cases)):
            continue
        ours, theirs = _steps(parity.CASES[name], peer, options.rounds)
        _say(f"| step, {name}, CPU s | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |")
    if not options.cases or "loader" in options.cases:
        ours, theirs = _loaders(options.rounds)
        _say(f"| loader, sequences/CPU s | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _steps(
    case: parity.Case, peer: Callable[[parity.Case], type[nn.Module]], rounds: int
) -> tuple[float, float]:
    torch.manual_seed(0)
    parity._NUM_FRAMES = _NUM_FRAMES
    theirs = parity._built(case, peer(case))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "Peer-00000.pt"
        torch.save({"model": theirs.state_dict()}, checkpoint)
        foreign.import_checkpoint(checkpoint, Path(folder) / "ours", **case.choices)
        ours = load_model(Path(folder) / "ours").network
    frames, masks, ratios = parity._inputs(case, num_clips=len(_LABELS))
    given = parity._given(case, frames, masks, ratios)

    def their_outputs() -> tuple[Tensor, Tensor | None]:
        found = theirs((given, _LABELS, None, None, None))["training_feat"]
        logits = found["softmax"]["logits"].transpose(1, 2) if "softmax" in found else None
        return found["triplet"]["embeddings"].transpose(1, 2), logits

    def our_outputs() -> tuple[Tensor, Tensor | None]:
        extras = {"masks": masks, "ratios": ratios} if case.has_masks else {}
        branch = ours(frames, **extras).branches["main"]
        return branch.triplet_features, branch.logits

    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for index, (network, outputs) in enumerate(
            ((ours.train(), our_outputs), (theirs.train(), their_outputs))
        ):
            best[index] = min(best[index], _step_s(network, outputs))
    return best[0], best[1]


def _step_s(network: nn.Module, outputs: Callable[[], tuple[Tensor, Tensor | None]]) -> float:
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(weights, lr=1e-6, momentum=0.9)
    started = time.process_time()
    features, logits = outputs()
    loss = TripletLoss(anchor_is_positive=True)(features, _LABELS).loss
    if logits is not None:
        loss = loss + IdentityLoss(scale=16.0, smoothing=0.1)(logits, _LABELS).loss
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return time.process_time() - started


def _loaders(rounds: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as name:
        folder = Path(name)
        casiab_tree.write(folder / "tree", num_subjects=12, views=["054", "090"], num_frames=60)
        with ray_session.start(num_cpus=2):
            ingest(casiab.index(folder / "tree"), folder / "tree", folder / "shards")
        cache = open_cache(folder / "shards", folder=folder / "cache")
    recipe = with_overrides(named.recipe("gaitbase-casiab"), {"data.split": "first:11"})
    loader = make_loader(recipe, cache, sorted(set(cache.subjects))[:11])
    sequences = [np.array(cache.frames(row)) for row in range(len(cache))]
    classes = {number: index for index, number in enumerate(sorted(set(cache.subjects)))}
    rows: dict[int, list[int]] = {}
    for row, subject in enumerate(cache.subjects):
        rows.setdefault(classes[subject], []).append(row)
    transform = _their_transform()
    collate = _their_collate()
    source = np.random.default_rng(0)

    def their_batch() -> None:
        batch = [
            ([sequences[row]], [int(label), "nm-01", "090", ["path"]])
            for label in source.permutation(len(rows))[:8]
            for row in source.choice(rows[int(label)], 16, replace=False)
        ]
        frames = collate(batch)[0][0]
        # As their model does with what the collate function returns, before it goes to the GPU.
        torch.from_numpy(np.asarray([transform(clip) for clip in frames])).float()

    best = [float("inf"), float("inf")]
    loader.batch(0)
    for step in range(1, rounds + 1):
        started = time.process_time()
        loader.batch(step)
        between = time.process_time()
        their_batch()
        best = [
            min(best[0], between - started),
            min(best[1], time.process_time() - between),
        ]
    return 128 / best[0], 128 / best[1]


def _their_transform() -> Callable[[np.ndarray], np.ndarray]:
    made: Any = importlib.import_module("data.transform")
    return made.get_transform(
        [
            {
                "type": "Compose",
                "trf_cfg": [
                    {"type": "BaseSilCuttingTransform"},
                    {"type": "RandomRotate", "prob": 0.3},
                    {"type": "RandomErasing", "prob": 0.3},
                ],
            }
        ]
    )[0]


def _their_collate() -> Callable[[list[Any]], Any]:
    made: Any = importlib.import_module("data.collate_fn")
    options = {
        "sample_type": "fixed_unordered",
        "frames_num_fixed": _NUM_FRAMES,
        "type": "TripletSampler",
    }
    return made.CollateFn(list(range(12)), options)


if __name__ == "__main__":
    sys.exit(main())
