"""A run before it is one: what it would compute, how much memory it takes, and how long.

Each phase runs a few steps on real batches, in a process of its own that ends with it: nothing is
written, no cluster is needed, and what one phase has held in memory is not counted for the next.
The process may not take more memory than the machine has free; where a step does not fit, it is
tried again with its share of the batch in pieces.

What a rehearsal cannot know: how long workers wait for each other, and evaluations.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raygait.batches.cache import open_cache
from raygait.errors import RaygaitError, TrainingError
from raygait.recipes import named
from raygait.recipes.description import stage_parameters
from raygait.recipes.schema import Recipe, build_model, from_dict
from raygait.training.environment import peak_memory_mb, process_sizes_mb
from raygait.training.loop import Trainer, make_loader, training_subjects
from raygait.training.phases import phases_of
from raygait.training.workers import num_that_train

NUM_STEPS = 3
"""Steps that are measured; one before them, which builds what the others reuse, is told apart."""
# What says that memory was refused, of torch, of its kernels, of C++ and of Python.
_NO_ROOM = (
    *("can't allocate memory", "out of memory", "could not create a", "bad_alloc"),
    *("std::bad_array_new_length", "MemoryError", "Cannot allocate memory"),
)
_MB = 2**20


@dataclass(frozen=True)
class PhaseRehearsal:
    """What one phase did.

    Attributes:
        name: Of the phase; empty for the last.
        model: Class of the network.
        num_steps: Steps it will have.
        groups: Parameters of each named group; of each named stage, where a model has no groups.
        num_parameters: Of the whole network.
        num_trained: Of those that are not frozen.
        num_clips: A worker's share of a batch.
        clip_shape: `(c, t, h, w)`.
        precision: Number format.
        clips_at_once: Most clips that fit into memory together; `None` where the share does.
        refused: Clips at once that did not fit.
        weights_mb: Weights and running statistics.
        gradients_mb: Their gradients.
        optimiser_mb: The optimiser's state.
        others_mb: What the peak has beyond these: activations, batches, workspace of kernels.
        before_mb: What the process held before the network was there; 0 on a GPU.
        available_mb: What there is, beside that.
        first_step_s: Seconds of the first step.
        step_s: Seconds of a later one, the mean.
        wait_s: Seconds that one waits for its batch, the mean.
    """

    name: str
    model: str
    num_steps: int
    groups: Mapping[str, int]
    num_parameters: int
    num_trained: int
    num_clips: int
    clip_shape: tuple[int, ...]
    precision: str
    clips_at_once: int | None
    refused: tuple[int, ...]
    weights_mb: float
    gradients_mb: float
    optimiser_mb: float
    others_mb: float
    before_mb: float
    available_mb: float
    first_step_s: float
    step_s: float
    wait_s: float

    @property
    def whole_s(self) -> float:
        """Seconds of all its steps, as these few went."""
        return self.first_step_s + (self.num_steps - 1) * (self.step_s + self.wait_s)

    def to_text(self, num_workers: int, device: str) -> str:
        """Some lines for a terminal."""
        channels, num_frames, height, width = self.clip_shape
        groups = ", ".join(f"{name} {count:,}" for name, count in self.groups.items())
        frozen = self.num_parameters - self.num_trained
        peak_mb = self.weights_mb + self.gradients_mb + self.optimiser_mb + self.others_mb
        share = f"; a worker of {num_workers} has {self.num_clips}" if num_workers > 1 else ""
        wait = self.wait_s / (self.step_s + self.wait_s)
        lines = [
            f"phase {self.name or 'last'}: {self.num_steps:,} steps, {self.model} in "
            f"{self.precision} on {device}",
            f"  parameters     {self.num_parameters:,} ({groups})"
            + (f", {frozen:,} of them frozen" if frozen else ""),
            f"  batch          {self.num_clips * num_workers} clips of {num_frames} frames, "
            f"{height} x {width} px, {channels} channel{'s' if channels > 1 else ''}{share}",
            f"  memory, MB     {peak_mb:,.0f} a worker: weights {self.weights_mb:,.1f}, gradients "
            f"{self.gradients_mb:,.1f}, optimiser {self.optimiser_mb:,.1f}, activations, batches "
            f"and workspace {self.others_mb:,.0f} (what the peak has grown by beyond these)"
            + (f"; {self.before_mb:,.0f} before the network was there" if self.before_mb else "")
            + f"; {self.available_mb:,.0f} available",
        ]
        if self.refused:
            lines.append(
                f"  does not fit   with {', '.join(map(str, self.refused))} clips at once; it was "
                f"measured with num_clips_at_once {self.clips_at_once}: the recipe has to say so"
            )
        lines.append(
            f"  seconds a step {self.step_s + self.wait_s:.3f}, {self.wait_s:.3f} of it waiting "
            f"for data ({wait:.0%}); mean of {NUM_STEPS}, after a first of {self.first_step_s:.3f}"
        )
        lines.append(f"  in all         {_duration(self.whole_s)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Rehearsal:
    """What a run would be.

    Attributes:
        recipe: What it follows.
        num_workers: Workers that share a batch.
        device: `cpu` or the name of the GPU.
        phases: In their order.
    """

    recipe: Recipe
    num_workers: int
    device: str
    phases: tuple[PhaseRehearsal, ...]

    def to_text(self) -> str:
        """The recipe, each phase, and the whole."""
        whole_s = sum(phase.whole_s for phase in self.phases)
        num_steps = sum(phase.num_steps for phase in self.phases)
        beside = "without evaluations" if self.recipe.evaluate_every_steps else ""
        if self.num_workers > 1:
            beside += f"{' and ' if beside else 'without '}what workers wait for each other"
        return "\n".join(
            [
                recipe_text(self.recipe),
                *(phase.to_text(self.num_workers, self.device) for phase in self.phases),
                f"whole run: {num_steps:,} steps, {_duration(whole_s)}"
                + (f", {beside}" if beside else ""),
                "nothing of the run was written",
            ]
        )


def recipe_text(recipe: Recipe) -> str:
    """All options of a recipe by dotted path; those that differ from the named one marked."""
    there = named.RECIPES[recipe.name].to_flat() if recipe.name in named.RECIPES else {}
    here = recipe.to_flat()
    changed = {path for path in here.keys() | there.keys() if here.get(path) != there.get(path)}
    num = len(changed) if there else 0
    lines = [f"recipe {recipe.name}" + (f", {num} options differ from it (*)" if num else "")]
    for path in sorted(here.keys() | (changed if there else set())):
        value = here.get(path, "(not there)")
        mark, was = " ", ""
        if there and path in changed:
            mark, was = "*", f"   ({there.get(path, 'not there')})"
        lines.append(f"{mark} {path} = {value}{was}")
    return "\n".join(lines)


def rehearse(
    recipe: Recipe,
    shards: Path,
    *,
    num_workers: int = 1,
    num_threads: int = 1,
    use_gpu: bool = False,
    compile_network: bool = False,
    memory_mb: float | None = None,
) -> Rehearsal:
    """Run a few steps of each phase as one worker would; `check_recipe` comes before it.

    Args:
        recipe: What to compute.
        shards: Folder of shards. This machine's cache of their frames is made if it is not there.
        num_workers: Workers that would share the batch: one worker's share is run.
        num_threads: Threads of that worker.
        use_gpu: On this machine's GPU, otherwise on its CPU.
        compile_network: Let torch compile the network first.
        memory_mb: Most memory of a step on the CPU; what is available if left out.

    Raises:
        TrainingError: This machine has no GPU, a step cannot be trusted, or none fits into memory.
        ShardError: A shard is damaged.
    """
    if use_gpu and not torch.cuda.is_available():
        raise TrainingError(
            "a dry run measures on this machine, which has no GPU: leave --use-gpu out, or start "
            "it where the workers will be"
        )
    phases = []
    for phase in phases_of(recipe):
        # Of an elastic run some may stand by.
        batch = phase.recipe.batch
        workers = num_that_train(batch.num_subjects * batch.num_sequences, num_workers)
        share = recipe_share(phase.recipe, workers)
        at_once = phase.recipe.batch.num_clips_at_once
        refused: list[int] = []
        while True:
            settings = {
                "recipe": phase.recipe.to_dict(),
                "shards": str(shards.absolute()),
                "num_workers": workers,
                "num_threads": num_threads,
                "use_gpu": use_gpu,
                "compile_network": compile_network,
                "memory_mb": memory_mb,
                "at_once": at_once,
            }
            measured = _in_a_process(settings)
            if measured is not None:
                break
            refused.append(min(share, at_once or share))
            at_once = refused[-1] // 2
            if at_once < 2:
                raise TrainingError(
                    f"{phase.recipe.name}: a step does not fit into memory, not even with "
                    f"{refused[-1]} clips at once: shorter clips, or a larger machine"
                )
        phases.append(
            PhaseRehearsal(
                name=phase.name,
                num_steps=phase.recipe.num_steps,
                clips_at_once=at_once,
                refused=tuple(refused),
                **measured,
            )
        )
    device = torch.cuda.get_device_name() if use_gpu else "cpu"
    return Rehearsal(recipe, num_workers, device, tuple(phases))


def recipe_share(recipe: Recipe, num_workers: int) -> int:
    """Clips of one worker."""
    return recipe.batch.num_subjects * recipe.batch.num_sequences // num_workers


def _in_a_process(settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a phase's steps did; `None` if they did not fit into memory."""
    # Started afresh: a fork would count what this process holds, and cannot use a GPU.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(settings, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        kind, value = ours.recv()
    except EOFError:
        kind, value = "ended", None
    process.join()
    if kind == "measured":
        measured: dict[str, Any] = value
        return measured
    if kind == "no room":
        return None
    if kind == "error":
        raise TrainingError(str(value))
    # Killed by the system, or by its own allocator: both for want of memory.
    if process.exitcode is not None and process.exitcode < 0:
        return None
    raise TrainingError(f"the rehearsal ended with exit code {process.exitcode}")


def _run(settings: dict[str, Any], answers: Connection) -> None:
    try:
        answers.send(("measured", _measure(settings)))
    except RaygaitError as error:
        answers.send(("error", str(error)))
    except (MemoryError, RuntimeError) as error:
        text = f"{type(error).__name__}: {error}"
        if not any(phrase in text for phrase in _NO_ROOM):
            raise
        answers.send(("no room", None))


def _measure(settings: dict[str, Any]) -> dict[str, Any]:
    """A few steps, as `loop.train_worker` takes them."""
    recipe = from_dict(settings["recipe"])
    num_workers, num_threads = settings["num_workers"], settings["num_threads"]
    device = torch.device("cuda" if settings["use_gpu"] else "cpu")
    torch.set_num_threads(num_threads)
    cache = open_cache(Path(settings["shards"]), modality=recipe.data.modality)
    subjects = training_subjects(recipe, cache)
    loader = make_loader(
        recipe, cache, subjects, world_size=num_workers, num_threads=num_threads, device=device
    )
    # The first optimiser of a process imports torch's compiler: no memory of a step, and an import
    # that runs out of memory half-way can end in any error.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    before_mb, available_mb = _room(device, settings["memory_mb"])

    torch.manual_seed(recipe.seed)
    network = build_model(recipe, len(subjects))
    trainer = Trainer(
        network,
        recipe,
        device,
        world_size=num_workers,
        num_clips_at_once=settings["at_once"],
        compiled=settings["compile_network"],
    )
    seconds, waits = [], []
    waiting_since = time.perf_counter()
    for batch in loader.batches(0, 1 + NUM_STEPS):
        started = time.perf_counter()
        trainer.step(batch)
        waits.append(started - waiting_since)
        waiting_since = time.perf_counter()
        seconds.append(waiting_since - started)

    known = {
        "weights_mb": _size_mb([*network.parameters(), *network.buffers()]),
        "gradients_mb": _size_mb(
            [weight.grad for weight in network.parameters() if weight.grad is not None]
        ),
        "optimiser_mb": _size_mb(
            [
                value
                for state in trainer.optimiser.state.values()
                for value in state.values()
                if isinstance(value, torch.Tensor)
            ]
        ),
    }
    peak_mb = peak_memory_mb(device) - before_mb
    shape = batch.inputs["frames"].shape
    return {
        "model": type(network).__name__,
        "groups": _parts(network),
        "num_parameters": sum(weight.numel() for weight in network.parameters()),
        "num_trained": sum(
            weight.numel() for weight in network.parameters() if weight.requires_grad
        ),
        "num_clips": len(batch.labels),
        "clip_shape": tuple(shape[1:]),
        "precision": trainer.precision.name,
        **known,
        "others_mb": max(0.0, peak_mb - sum(known.values())),
        "before_mb": before_mb,
        "available_mb": available_mb,
        "first_step_s": waits[0] + seconds[0],
        "step_s": sum(seconds[1:]) / NUM_STEPS,
        "wait_s": sum(waits[1:]) / NUM_STEPS,
    }


def _parts(network: nn.Module) -> dict[str, int]:
    described: Any = network
    if hasattr(network, "parameter_groups"):
        return {
            name: sum(weight.numel() for weight in group)
            for name, group in described.parameter_groups().items()
        }
    if hasattr(network, "named_stages"):
        return stage_parameters(network)
    return {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in network.named_children()
    }


def _size_mb(tensors: list[torch.Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / _MB


def _room(device: torch.device, memory_mb: float | None) -> tuple[float, float]:
    """What this process holds, and what it may take beside that; more is refused from here on."""
    if device.type == "cuda":
        return 0.0, torch.cuda.mem_get_info(device)[0] / _MB
    status = process_sizes_mb()
    available_mb = _available_mb() if memory_mb is None else memory_mb
    limit = int((status["VmData"] + available_mb) * _MB)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return status["VmRSS"], available_mb


def _available_mb() -> float:
    """Memory that is free, or held by what the system can drop; no more than a container's."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    available_mb = sizes["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, KeyError):
        most = int((group / "memory.max").read_text())  # ValueError: max, no limit
        stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        available_mb = min(available_mb, (most - int(stats["anon"])) / _MB)
    return available_mb


def _duration(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
    return f"{hours / 24:.1f} days"
