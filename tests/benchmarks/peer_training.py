"""A training step beside OpenGait's own code, on one CPU thread.

    python -m tests.benchmarks.peer_training --peer ~/OpenGait [--rounds 5] [CASE ...]
    python -m tests.benchmarks.peer_training --heat-peer ~/FastPoseGait [--rounds 2]

`--peer` is a checkout that you have fetched yourself, as in `parity_opengait`, which says what its
classes ask for. A step is P2 K2 T30: forward, triplets and cross-entropy (ours, of both networks'
outputs), backward, one step of SGD. Both networks hold the same weights, so both compute the same;
each round times one step of theirs and one of ours in turn, and the least CPU time of each counts.
Ratio: theirs by ours, above 1 is in our favour.

`--heat-peer` is a checkout of FastPoseGait (https://github.com/BNU-IVC/FastPoseGait; the recorded
run is of commit 94da9c8), which holds the authors' GaitHeat. It does not run as released: its
stages call themselves by names that do not exist, nothing builds them from a configuration, and
its samplings are forced to half precision, which the rest cannot follow on a CPU. `_heat_network`
and `_heat_theirs` put these three right and change nothing else. A step is P2 K2 T30 of 64 x 48
with all frames aligned, by a shift of nothing, so that both compute the same; theirs is given maps
that are normalised and grouped already. Each step runs in a process of its own, theirs and ours in
turn; the least CPU time counts, and the least growth of the process from before the step to its
peak.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from raygait.experiments import foreign
from raygait.losses.identity import IdentityLoss
from raygait.losses.triplet import TripletLoss
from raygait.models.gaitheat import GaitHeat, fuse, normalise_clips
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
    parser.add_argument("--peer", type=Path, help="checkout of OpenGait")
    parser.add_argument("--heat-peer", type=Path, help="checkout of FastPoseGait")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="beginnings of names; all")
    options = parser.parse_args()
    if options.peer is None and options.heat_peer is None:
        parser.error("give --peer, --heat-peer or both")
    logging.getLogger("raygait").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    _say("| what | ours | theirs | ratio |")
    _say("|---|---:|---:|---:|")
    if options.heat_peer is not None:
        _heat(options.heat_peer, options.rounds)
    if options.peer is None:
        return 0
    peer = parity._peer(options.peer)
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


def _heat(peer: Path, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own too: both peers' packages have the same names.
        _child("_heat_weights", peer, folder)
        for _ in range(rounds):
            for side, runs in found.items():
                runs.append(json.loads(_child("_heat_step", peer, folder, side)))
        results = [torch.load(Path(folder) / f"{side}.pt") for side in found]
    errors = {
        kind: max(
            parity._error(results[1][name], results[0][name])
            for name in results[0]
            if name.endswith(kind)
        )
        for kind in ("features", "logits")
    }
    for what, key in (("CPU s", "seconds"), ("MB more", "growth_mb")):
        ours, theirs = (min(run[key] for run in runs) for runs in found.values())
        _say(f"| step, GaitHeat, {what} | {ours:,.1f} | {theirs:,.1f} | {theirs / ours:.2f} |")
    said = ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items())
    _say(f"\nGaitHeat, largest error in any branch: {said}\n")


def _child(function: str, peer: Path, *arguments: str) -> str:
    called = f"{function}({str(peer)!r}, {', '.join(map(repr, arguments))})"
    return subprocess.run(
        [sys.executable, "-c", f"from tests.benchmarks import peer_training as p; p.{called}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def _heat_network(peer: str) -> nn.Module:
    """Their GaitHeat as its configuration for CASIA-B describes it, for 5 subjects."""
    code = Path(peer) / "fastposegait"
    if not (code / "modeling" / "models").is_dir():
        raise SystemExit(f"{peer} is no checkout of FastPoseGait: no fastposegait/modeling/models")
    sys.path.insert(0, str(code))
    # Their packages import every network and loss, and with them what only some need.
    for name in ("models", "losses"):
        package = types.ModuleType(f"modeling.{name}")
        package.__path__ = [str(code / "modeling" / name)]
        sys.modules[package.__name__] = package
    made: Any = importlib.import_module("modeling.models.gaitheat")
    stages = {}
    for number in range(1, 5):
        module = importlib.import_module(f"modeling.backbones.resnet_layer{number}")
        stages[f"ResNet9_layer{number}"] = getattr(module, f"ResNet9_layer{number}")
        # By this name its constructor calls its own class.
        setattr(module, f"ResNet9_{number}", getattr(module, f"ResNet9_layer{number}"))
    network: Any = made.GaitHeat.__new__(made.GaitHeat)
    nn.Module.__init__(network)
    network.get_backbone = lambda options: stages[options["type"]](
        **{name: value for name, value in options.items() if name != "type"}
    )
    network.build_network(
        {
            "backbone_cfg": {
                "block": "BasicBlock",
                "channels": [64, 128, 256, 512],
                "layers": [1, 1, 1, 1],
                "strides": [1, 2, 2, 1],
                "maxpool": False,
            },
            "SeparateFCs": {"in_channels": 512, "out_channels": 256, "parts_num": 16},
            "SeparateBNNecks": {"class_num": 5, "in_channels": 256, "parts_num": 16},
            "bin_num": [16],
        }
    )
    return network


def _heat_weights(peer: str, folder: str) -> None:
    torch.manual_seed(0)
    torch.save(_heat_network(peer).state_dict(), Path(folder) / "weights.pt")


_HEAT_NAMES = (
    (r"Backbone1\.forward_block\.conv1\.conv\.", "stem.network.convolution."),
    (r"Backbone1\.forward_block\.bn1\.", "stem.network.norm."),
    (
        r"Backbone(\d)\.forward_block\.layer\d\.0\.",
        lambda found: f"stages.{int(found[1]) - 1}.network.",
    ),
    (
        r"Backbone(\d)_fusion\.forward_block\.layer\d\.0\.",
        lambda found: f"fusion_stages.{int(found[1]) - 2}.network.",
    ),
    (r"(network\.)conv(\d)\.", r"\1convolution\2."),
    (r"(network\.)bn(\d)\.", r"\1norm\2."),
    (r"downsample\.", "shortcut."),
    (r"(FCs|BNNecks)_part\.", r"\1_local."),
    (r"FCs_(\w+)\.fc_bin", r"heads.\1.linear.weight"),
    (r"BNNecks_(\w+)\.fc_bin", r"heads.\1.neck.identity_linear.weight"),
    # As a network is built, all its numbers are alike: their order, which differs, is no matter.
    (r"BNNecks_(\w+)\.bn1d\.", r"heads.\1.neck.norm."),
)


def _heat_ours(weights: dict[str, Tensor]) -> GaitHeat:
    renamed = {}
    for name, tensor in weights.items():
        for pattern, ours in _HEAT_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    network = GaitHeat(5)
    network.load_state_dict(renamed)
    return network


def _heat_theirs(
    network: nn.Module, maps: Tensor, matrices: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    with mock.patch.object(torch.Tensor, "half", torch.Tensor.float):
        found = network(([maps, matrices], _LABELS, None, None, None))["training_feat"]
    return {
        ours: (
            found[f"{theirs}_triplet"]["embeddings"].transpose(1, 2),
            found[f"{theirs}_softmax"]["logits"].transpose(1, 2),
        )
        for ours, theirs in (("global", "global"), ("local", "part"), ("fusion", "fusion"))
    }


def _heat_step(peer: str, folder: str, side: str) -> None:
    """One step in this process; its outputs go to a file, what it took to standard output."""
    torch.set_num_threads(1)
    weights = torch.load(Path(folder) / "weights.pt")
    torch.manual_seed(1)
    frames = torch.rand(len(_LABELS), 17, _NUM_FRAMES, 64, 48)
    # A person's own look: noise alone is alike for all after a maximum over frames, and a batch
    # norm of what is alike makes errors of rounding large.
    frames *= torch.rand(len(_LABELS), 17, 1, 16, 1).repeat_interleave(4, dim=3)
    network: nn.Module
    outputs: Callable[[], dict[str, Any]]
    if side == "ours":
        ours = network = _heat_ours(weights).train()
        # Upright, neck in its place, and drawn for alignment: every frame is moved by nothing.
        joints = torch.tensor([24.0, 16.0, 1.0]).repeat(len(_LABELS), _NUM_FRAMES, 17, 1)
        joints[:, :, 11:, 1] = 40.0
        draws = torch.zeros(len(_LABELS), _NUM_FRAMES)

        def outputs() -> dict[str, Any]:
            return ours(frames, joints=joints, align_draws=draws).branches
    else:
        theirs = network = _heat_network(peer)
        theirs.load_state_dict(weights)
        theirs.train()
        groups = GaitHeat(5, channels=(1, 1, 1, 1)).groups
        upper, lower, _ = fuse(normalise_clips(frames), groups).chunk(3)
        maps = torch.cat((upper, lower), dim=1).transpose(1, 2).contiguous()
        matrices = torch.eye(3)[:2].repeat(len(_LABELS), _NUM_FRAMES, 1, 1)
        matrices = torch.stack((matrices, matrices), dim=-1)
        del frames, upper, lower

        def outputs() -> dict[str, Any]:
            return _heat_theirs(theirs, maps, matrices)

    del weights
    found: dict[str, Tensor] = {}

    def sum_of_losses() -> Tensor:
        losses = []
        for name, (features, logits) in outputs().items():
            losses.append(TripletLoss(anchor_is_positive=True)(features, _LABELS).loss)
            losses.append(IdentityLoss(scale=16.0, smoothing=0.1)(logits, _LABELS).loss)
            found[f"{name} features"] = features.detach().clone()
            found[f"{name} logits"] = logits.detach().clone()
        return torch.stack(losses).sum()

    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * os.sysconf("SC_PAGE_SIZE")
    started = time.process_time()
    sum_of_losses().backward()
    optimiser.step()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch.save(found, Path(folder) / f"{side}.pt")
    print(json.dumps({"seconds": seconds, "growth_mb": (peak - before) / 1e6}))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
