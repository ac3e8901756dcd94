"""A training step of the five papers' networks beside what one core can multiply.

    python -m tests.benchmarks step

Their recipes for CASIA-B at P2 K2 T30 and full width, on one CPU thread: forward, the recipe's
losses, backward, the recipe's optimiser. The peak is the best of many float32 products of two
square matrices of 512, 1024 or 2048 rows, tried before and after each network. Operations are those
of convolutions and matrix products, two for a multiplication with its addition, as
`torch.utils.flop_counter` counts them in a forward and backward pass that recomputes nothing;
norms, activations and poolings cost time and count nothing. Share of the peak: operations / CPU
seconds / peak.

GaitEdge is its last phase, with half of the segmenter frozen. LMGCS trains both its parts at once.
No `theirs`: `peer_training` measures beside public code.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raygait.batches.inputs import accepted_inputs
from raygait.recipes import named
from raygait.recipes.description import example_inputs
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.loop import BatchLoss, make_optimiser
from raygait.training.phases import freeze, frozen_groups

_COMMAND = "python -m tests.benchmarks step"
_RECIPES: dict[str, dict[str, object]] = {
    "lgdiffgait-casiab": {},
    "lmgcs-casiab-lt": {"model.phase": "joint"},
    "gaitgl-casiab": {},
    "gaitedge-casiab": {},
    "gaitheat-casiab": {},
}
_NUM_SUBJECTS, _NUM_FRAMES = 74, 30
_LABELS = (0, 0, 1, 1)
# A step of this length is timed once, a shorter one three times.
_LONG_S = 15.0
# The smallest stays in the caches and ends before another process gets its turn.
_MATRIX_SIZES = (512, 1024, 2048)


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    torch.set_num_threads(1)
    peak = _peak_gflops()
    steps = {}
    for name, overrides in _RECIPES.items():
        steps[name] = _measured(with_overrides(named.recipe(name), overrides))
        # Another process may have had the machine's caches and clock before.
        peak = max(peak, _peak_gflops())
    rows = [_row("matrix product, fp32, one core, GFLOP/s", peak)]
    for name, step in steps.items():
        rows.append(_row(f"step, {name} at P2 K2 T30, GFLOP", step.gflop))
        rows.append(_row(f"step, {name} at P2 K2 T30, CPU s", step.seconds))
        share = 100 * step.gflop / step.seconds / peak
        rows.append(_row(f"step, {name} at P2 K2 T30, share of the matrix peak, %", share))
    return rows


def _peak_gflops() -> float:
    best = 0.0
    for size in _MATRIX_SIZES:
        left, right = torch.rand(2, size, size)
        product = torch.empty(size, size)
        for _ in range(6 * (_MATRIX_SIZES[-1] // size)):
            started = time.process_time()
            torch.mm(left, right, out=product)
            best = max(best, 2 * size**3 / (time.process_time() - started) / 1e9)
    return best


class _Step(NamedTuple):
    gflop: float
    seconds: float


def _measured(recipe: Recipe) -> _Step:
    torch.manual_seed(0)
    network = build_model(recipe, _NUM_SUBJECTS).train()
    freeze(network, frozen_groups(recipe))
    inputs = _inputs(network, recipe)
    accepted = accepted_inputs(network)
    criterion, optimiser = BatchLoss(recipe), make_optimiser(recipe, network)

    def step(num_clips: int) -> None:
        given = {name: tensor[:num_clips] for name, tensor in inputs.items()}
        labels = torch.tensor(_LABELS[:num_clips])
        extras = {name: given[name] for name in accepted if name in given}
        loss, _ = criterion(network(given["frames"], **extras), labels, given.get("masks"))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()

    # What is recomputed to save memory is no work of the network.
    recomputes = getattr(network, "recompute", None)
    if recomputes is not None:
        network.recompute = False
    # Two clips, and twice: all but the triplets' distances is the same work for every clip.
    with FlopCounterMode(display=False) as counter:
        step(2)
    gflop = 2 * counter.get_total_flops() / 1e9
    if recomputes is not None:
        network.recompute = recomputes
    best_s = float("inf")
    for _ in range(3):
        started = time.process_time()
        step(len(_LABELS))
        best_s = min(best_s, time.process_time() - started)
        if best_s > _LONG_S:
            break
    return _Step(gflop, best_s)


def _inputs(network: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """A random batch of clips with all that the loader would give beside the frames."""
    clips = [example_inputs(network, _NUM_FRAMES, seed=seed) for seed in range(len(_LABELS))]
    inputs = {"frames": torch.cat([frames for frames, _ in clips])}
    for name in clips[0][1]:
        inputs[name] = torch.cat([others[name] for _, others in clips])
    if recipe.data.modality == "rgb":
        masks = torch.zeros_like(inputs["frames"][:, :1])
        masks[..., 16:-16, 40:-40] = 1.0
        inputs["masks"] = masks
    if "joints" in inputs:
        inputs["align_draws"] = torch.rand(len(_LABELS), _NUM_FRAMES)
    return inputs


def _row(claim: str, ours: float) -> dict[str, object]:
    return {
        "part": "training",
        "claim": claim,
        "ours": ours,
        "theirs": None,
        "ratio": None,
        "command": _COMMAND,
    }


if __name__ == "__main__":
    for row in measure():
        print(row)  # noqa: T201
