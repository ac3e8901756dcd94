"""The loader, steps on one CPU thread, two workers: `python -m tests.benchmarks training`.

Norms of the whole batch are beside torch's own, on one worker: CPU time of a step of each in turn,
median over the rounds.

Two workers have as much work each as one process alone has. They are beside two processes that do
the same steps and know nothing of each other; `ours` and `theirs` are what each pair gains over one
process. All live as long as the measurement, and each round runs one process, two, and two workers
in turn, as the second core of a shared machine is not always there. CPU seconds are beside the
gains: where others want the cores too, workers wait for each other as two processes need not.

The loader and the steps have no `theirs`: `peer_training` has them.
"""

from __future__ import annotations

import functools
import logging
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from raygait import ray_session
from raygait.batches.cache import FrameCache, open_cache
from raygait.batches.inputs import accepted_inputs
from raygait.batches.loader import Batch
from raygait.datasets import casiab
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, from_dict, with_overrides
from raygait.shards.ingest import ingest
from raygait.synthetic import casiab_tree
from raygait.training.loop import (
    BatchLoss,
    draw_masks,
    make_loader,
    make_optimiser,
    seed_draws,
    shared,
    train_step,
)

_COMMAND = "python -m tests.benchmarks training"
_CPU = torch.device("cpu")
_ROUNDS = 5
_SMALL_BATCH = {"batch.num_subjects": 2, "batch.num_sequences": 2, "clip.num_frames": 30}
_NARROW = {"model.channels": [16, 32, 64, 128], "model.embedding_dim": 64}


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    logging.getLogger("raygait").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as name:
        folder = Path(name)
        casiab_tree.write(folder / "tree", num_subjects=12, views=["054", "090"], num_frames=40)
        with ray_session.start(num_cpus=2):
            ingest(casiab.index(folder / "tree"), folder / "tree", folder / "shards")
        cache = open_cache(folder / "shards", folder=folder / "cache")
        subjects = sorted(set(cache.subjects))
        papers = with_overrides(named.recipe("gaitgl-casiab"), {"data.split": "first:11"})
        small = with_overrides(papers, {"batch.num_subjects": 2, "batch.num_sequences": 2})
        demo = named.recipe("gaitgl-demo")
        return [
            _row("loader, P8 K16 T30 64x44, sequences/s", _loader_rate(papers, cache, subjects)),
            _row(
                "step, gaitgl-casiab at P2 K2 T30 64x44, CPU s", _step_s(small, cache, subjects, 2)
            ),
            _row("step, gaitgl-demo at P8 K4 T15 32x22, CPU s", _step_s(demo, cache, subjects, 5)),
            *norm_rows(cache, subjects),
            *worker_rows(cache, subjects),
        ]


def norm_rows(
    cache: FrameCache, subjects: list[str], changes: dict[str, Any] | None = None
) -> list[dict[str, object]]:
    """What a step costs with norms of the whole batch, and with torch's."""
    rows = []
    for name in ("gaitbase-casiab", "lgdiffgait-casiab"):
        recipe = _recipe(name, changes or {})
        batch = make_loader(recipe, cache, subjects).batch(0)
        steps = [
            _stepping(with_overrides(recipe, {"batch.synchronise_norms": whole}), batch, subjects)
            for whole in (True, False)
        ]
        seconds = _in_turn(steps, _ROUNDS)
        ours, theirs = map(statistics.median, seconds)
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
        claim = f"step, {name}, norms of the whole batch; theirs: torch's, CPU s"
        rows.append(_row(claim, ours) | {"theirs": theirs, "ratio": ratio})
    return rows


def worker_rows(cache: FrameCache, subjects: list[str]) -> list[dict[str, object]]:
    """What two workers gain over one process, beside what two processes gain."""
    rows = []
    for name, narrow, num_steps in (
        ("gaitgl-casiab", {}, 1),
        ("gaitbase-casiab", _NARROW, 3),
    ):
        recipe = _recipe(name, narrow)
        two = with_overrides(recipe, {"batch.num_subjects": 4})
        shares = [
            make_loader(two, cache, subjects, rank=rank, world_size=2).batch(0) for rank in range(2)
        ]
        found = _gains(recipe, shares, len(subjects), num_steps)
        width = " at a quarter of its width" if narrow else ""
        what = f"two workers, {name}{width}, P2 K2 T30 each"
        rows.append(
            _row(f"{what}: steps/s over one process's; theirs: two processes", found["workers"])
            | {"theirs": found["processes"], "ratio": found["ratio"]}
        )
        rows.append(
            _row(f"{what}: CPU s a step; theirs: two processes", found["workers CPU"])
            | {"theirs": found["processes CPU"], "ratio": found["CPU ratio"]}
        )
    return rows


def _recipe(name: str, changes: dict[str, Any]) -> Recipe:
    # At a rate that leaves the weights alone, so that all steps cost the same.
    small = {**_SMALL_BATCH, "data.split": "first:11", "optim.learning_rate": 1e-9}
    return with_overrides(named.recipe(name), {**small, **changes})


def _stepping(recipe: Recipe, batch: Batch, subjects: list[str]) -> Any:
    """A step of a fresh network, over and over."""
    torch.manual_seed(0)
    network = build_model(recipe, len(subjects)).train()
    return functools.partial(
        train_step,
        shared(network, recipe, _CPU),
        BatchLoss(recipe),
        make_optimiser(recipe, network),
        batch,
        _CPU,
        accepted_inputs(network),
        prepare=functools.partial(seed_draws, network, recipe.seed, 0),
    )


def _in_turn(steps: list[Any], num_rounds: int) -> list[list[float]]:
    """CPU seconds of each round of each, after one round that counts for nothing."""
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(num_rounds + 1):
        # Each comes first as often as the others.
        for place in range(len(steps)):
            chosen = (place + number) % len(steps)
            started = time.process_time()
            steps[chosen]()
            seconds[chosen].append(time.process_time() - started)
    return [each[1:] for each in seconds]


def _gains(
    recipe: Recipe, shares: list[Batch], num_subjects: int, num_steps: int
) -> dict[str, float]:
    os.environ["OMP_NUM_THREADS"] = "1"
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as folder:
        members: dict[str, list[Connection]] = {"processes": [], "workers": []}
        started = []
        for kind, pipes in members.items():
            for rank, share in enumerate(shares):
                ours, its = context.Pipe()
                meeting = f"file://{folder}/meeting" if kind == "workers" else ""
                member = context.Process(
                    target=_member,
                    args=(its, rank, meeting, recipe.to_dict(), tuple(share), num_subjects),
                    daemon=True,
                )
                member.start()
                started.append(member)
                pipes.append(ours)
        teams = {"one": members["processes"][:1], **members}
        rates: dict[str, list[float]] = {team: [] for team in teams}
        costs: dict[str, list[float]] = {team: [] for team in teams}
        for number in range(_ROUNDS + 1):
            for place in range(len(teams)):
                team = list(teams)[(place + number) % len(teams)]
                for pipe in teams[team]:
                    pipe.send(num_steps)
                measured = [pipe.recv() for pipe in teams[team]]
                if number:  # the first round builds what later ones reuse
                    rates[team].append(sum(num_steps / wall for wall, _ in measured))
                    costs[team].append(statistics.mean(cpu / num_steps for _, cpu in measured))
        for pipes in members.values():
            for pipe in pipes:
                pipe.send(0)
        for member in started:
            member.join()
    pairs = {
        "workers": (rates["workers"], rates["one"]),
        "processes": (rates["processes"], rates["one"]),
        "ratio": (rates["workers"], rates["processes"]),
        "CPU ratio": (costs["processes"], costs["workers"]),
    }
    found = {
        name: statistics.median(a / b for a, b in zip(*pair, strict=True))
        for name, pair in pairs.items()
    }
    return found | {f"{team} CPU": statistics.median(costs[team]) for team in members}


def _member(
    pipe: Connection,
    rank: int,
    meeting: str,
    recipe: dict[str, Any],
    share: tuple[Any, ...],
    num_subjects: int,
) -> None:
    """One of two workers, or a process by itself: takes as many steps as it is told to."""
    torch.set_num_threads(1)
    if meeting:
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    step = _stepping(from_dict(recipe), Batch(*share), [""] * num_subjects)
    while num_steps := pipe.recv():
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(num_steps):
            step()
        pipe.send((time.perf_counter() - started, time.process_time() - cpu))
    if meeting:
        torch.distributed.destroy_process_group()


def _loader_rate(recipe: Recipe, cache: object, subjects: list[str]) -> float:
    loader = make_loader(recipe, cache, subjects)  # type: ignore[arg-type]
    loader.batch(0)
    started = time.process_time()
    num_clips = sum(len(loader.batch(step).labels) for step in range(1, 9))
    return num_clips / (time.process_time() - started)


def _step_s(recipe: Recipe, cache: object, subjects: list[str], num_steps: int) -> float:
    loader = make_loader(recipe, cache, subjects)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = build_model(recipe, len(subjects)).train()
    optimiser = make_optimiser(recipe, network)
    criterion = BatchLoss(recipe)
    batches = [loader.batch(step) for step in range(num_steps + 1)]
    started = 0.0
    for batch in batches:
        if batch.step == 1:  # the first step builds what later ones reuse
            started = time.process_time()
        draw_masks(network, recipe.seed, batch.step)
        train_step(network, criterion, optimiser, batch, torch.device("cpu"))
    return (time.process_time() - started) / num_steps


def _row(claim: str, ours: float) -> dict[str, object]:
    return {
        "part": "training",
        "claim": claim,
        "ours": ours,
        "theirs": None,
        "ratio": None,
        "command": _COMMAND,
    }
