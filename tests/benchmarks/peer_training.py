"""A training step beside OpenGait's own code, on one CPU thread.

    python -m tests.benchmarks.peer_training --peer ~/OpenGait [--rounds 5] [CASE ...]

`--peer` is a checkout that you have fetched yourself, as in `parity_opengait`, which says what its
classes ask for. A step is P2 K2 T30: forward, triplets and cross-entropy (ours, of both networks'
outputs), backward, one step of SGD. Both networks hold the same weights, so both compute the same;
each round times one step of theirs and one of ours in turn, and the least CPU time of each counts.
Ratio: theirs by ours, above 1 is in our favour.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from raygait.experiments import foreign
from raygait.losses.identity import IdentityLoss
from raygait.losses.triplet import TripletLoss
from raygait.recipes.saved_model import load_model
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


if __name__ == "__main__":
    sys.exit(main())
