"""What each switch of a training step is worth: `python -m tests.benchmarks switches`.

The five papers' networks at full width, P2 K2 and clips of their recipes' length or 30 frames, on
one CPU thread. Variants of a step take turns and the least CPU time of each counts. `ours` is with
the switch as the loop has it, `theirs` the same step with it the other way; above 1 the switch as
it is pays.

    channels-last    clips with the channels of a pixel side by side (the models do it on the CPU)
    fused            the optimiser's step alone, fused; theirs: `foreach`, the default of torch,
                     and a loop over the parameters
    compile          off; theirs: `torch.compile`, after the first step, whose seconds have a row

A network that torch has not compiled in five minutes of CPU time has no such row. Steps take up to
50 CPU s each, so plain `make bench` leaves it out.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import raygait.models
from raygait.batches.inputs import accepted_inputs
from raygait.batches.loader import Batch
from raygait.recipes import named
from raygait.recipes.description import example_inputs
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.loop import BatchLoss, make_optimiser, seed_draws, shared, train_step
from raygait.training.phases import freeze, frozen_groups

_COMMAND = "python -m tests.benchmarks switches"
RECIPES = (
    "gaitgl-casiab",
    "lmgcs-casiab-lt",
    "gaitedge-casiab",
    "gaitheat-casiab",
    "lgdiffgait-casiab",
)
_NUM_FRAMES, _NUM_SUBJECTS = 30, 74
# Of a step that takes longer than this there are two rounds, of others three.
_LONG_S = 15.0
_COMPILE_AT_MOST_S = 300.0
_CPU = torch.device("cpu")


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    rows = []
    for name in RECIPES:
        found = _in_a_process(name)
        print(f"{name}: {found}", file=sys.stderr, flush=True)  # noqa: T201
        step_s = found["step"]
        rows.append(_row(f"{name}: step, CPU s", step_s, None))
        rows.append(_row(f"{name}: channels-last, step, CPU s", step_s, found["channels-first"]))
        for other in ("foreach", "loop"):
            claim = f"{name}: {found['optimiser']} fused, its step alone, CPU ms; theirs: {other}"
            rows.append(_row(claim, found["fused"], found[other]))
        if "compiled" in found:
            claim = f"{name}: not compiled, step, CPU s; theirs: compiled"
            rows.append(_row(claim, found["step-beside"], found["compiled"]))
            rows.append(_row(f"{name}: first step compiled, CPU s", found["first"], None))
    return rows


def _in_a_process(name: str) -> dict[str, Any]:
    """What is known of a recipe's network when its process ends, or is ended while it compiles."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "found.json"
        script = f"import bench_switches; bench_switches.examine({name!r}, {str(result)!r})"
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parents[2]}",
                # What an earlier run has compiled would make the first step look cheap.
                "TORCHINDUCTOR_CACHE_DIR": folder,
            },
        )
        before_s = None
        while process.poll() is None:
            # The file comes before the first compiled step, and again after it.
            known = json.loads(result.read_text()) if result.exists() else {}
            used_s = _used_s(process.pid)
            before_s = before_s or (used_s if known else None)
            if before_s and "first" not in known and used_s - before_s > _COMPILE_AT_MOST_S:
                process.kill()
                process.wait()
            time.sleep(1)
        if not result.exists():
            raise RuntimeError(f"{name}: ended with {process.returncode} before it was measured")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _used_s(pid: int) -> float:
    """CPU seconds of a process and of the children that it has waited for; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def examine(name: str, result: str) -> None:
    """Measure one recipe's network; what is known is written to `result` whenever there is more."""
    torch.set_num_threads(1)
    recipe = with_overrides(named.recipe(name), {"batch.num_subjects": 2, "batch.num_sequences": 2})
    torch.manual_seed(0)
    network = build_model(recipe, _NUM_SUBJECTS).train()
    freeze(network, frozen_groups(recipe))
    batch = _batch(network, recipe)
    step = functools.partial(_step_s, network, recipe, batch, make_optimiser(recipe, network))
    rounds = 2 if step() > _LONG_S else 3
    best = _least({"step": step, "channels-first": lambda: _in_plain_order(step)}, rounds)
    found: dict[str, Any] = {"optimiser": recipe.optim.optimiser, **best}
    found |= {kind: 1000 * value for kind, value in _optimisers_s(network, recipe).items()}
    _write(result, found)

    compiled = build_model(recipe, _NUM_SUBJECTS).train()
    freeze(compiled, frozen_groups(recipe))
    compiled = shared(compiled, recipe, _CPU, compiled=True)
    again = functools.partial(_step_s, compiled, recipe, batch, make_optimiser(recipe, compiled))
    with _children_count():
        found["first"] = again()
        _write(result, found)
        found |= _least({"step-beside": step, "compiled": again}, rounds)
    _write(result, found)


def _least(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The least CPU time of each; they take turns."""
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(rounds):
        for name, run in variants.items():
            best[name] = min(best[name], run())
    return best


def _step_s(
    network: nn.Module, recipe: Recipe, batch: Batch, optimiser: torch.optim.Optimizer
) -> float:
    started = _cpu_s()
    train_step(
        network,
        BatchLoss(recipe),
        optimiser,
        batch,
        _CPU,
        accepted_inputs(network),
        prepare=functools.partial(seed_draws, network, 0, 0),
    )
    return _cpu_s() - started


def _cpu_s() -> float:
    """Of this process and of the compilers that it has started and waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@contextmanager
def _children_count() -> Iterator[None]:
    """Compile in this process and its direct children, whose time is counted when they end."""
    import torch._inductor.config as inductor

    with mock.patch.object(inductor, "compile_threads", 1):
        yield


def _in_plain_order(step: Callable[[], float]) -> float:
    """A step with clips in torch's own order of memory."""
    modules = [
        importlib.import_module(f"raygait.models.{each.name}")
        for each in pkgutil.iter_modules(raygait.models.__path__)
    ]
    in_order = torch.Tensor.contiguous

    def plain(tensor: Tensor, **_format: Any) -> Tensor:
        return in_order(tensor)

    patches = [
        mock.patch.object(module, "channels_last", lambda frames: frames)
        for module in modules
        if hasattr(module, "channels_last")
    ]
    # The segmenter of GaitEdge asks for the order itself.
    patches.append(mock.patch.object(torch.Tensor, "contiguous", plain))
    for patch in patches:
        patch.start()
    try:
        return step()
    finally:
        for patch in patches:
            patch.stop()


def _optimisers_s(network: nn.Module, recipe: Recipe) -> dict[str, float]:
    """CPU seconds of the optimiser's step alone, by how it goes over the parameters."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-6)
    optim = recipe.optim
    common: dict[str, Any] = {"lr": 1e-9, "weight_decay": optim.weight_decay}
    if optim.optimiser == "sgd":
        common["momentum"] = optim.momentum
    kind = torch.optim.Adam if optim.optimiser == "adam" else torch.optim.SGD
    made = {
        "fused": kind(weights, fused=True, **common),
        "foreach": kind(weights, foreach=True, **common),
        "loop": kind(weights, foreach=False, fused=False, **common),
    }

    def one(optimiser: torch.optim.Optimizer) -> float:
        started = time.process_time()
        optimiser.step()
        return time.process_time() - started

    return _least({name: functools.partial(one, each) for name, each in made.items()}, 10)


def _batch(network: nn.Module, recipe: Recipe) -> Batch:
    """Four random clips of two subjects, and all that the loader would add."""
    clips = [example_inputs(network, _NUM_FRAMES, seed=seed) for seed in range(4)]
    inputs = {"frames": torch.cat([frames for frames, _ in clips])}
    for name in clips[0][1]:
        inputs[name] = torch.cat([others[name] for _, others in clips])
    if recipe.data.modality == "rgb":
        masks = torch.zeros_like(inputs["frames"][:, :1])
        masks[..., 16:-16, 40:-40] = 1.0
        inputs["masks"] = masks
    if "joints" in inputs:
        inputs["align_draws"] = torch.rand(4, _NUM_FRAMES)
    return Batch(0, inputs, torch.tensor([0, 0, 1, 1]), ("a", "b", "c", "d"))


def _write(result: str, found: dict[str, Any]) -> None:
    hidden = Path(f"{result}.new")
    hidden.write_text(json.dumps(found))
    hidden.rename(result)


def _row(claim: str, ours: float, theirs: float | None) -> dict[str, object]:
    return {
        "part": "training",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": None if theirs is None else theirs / ours,
        "command": _COMMAND,
    }
