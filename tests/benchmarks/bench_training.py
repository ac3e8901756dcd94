"""The loader and a training step on one CPU thread: `python -m tests.benchmarks training`.

No `theirs` yet: the models differ (a journal GaitGL has no public code), and so does what the
loaders do (ours has only the flip so far).
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import torch

from raygait import ray_session
from raygait.batches.cache import open_cache
from raygait.datasets import casiab
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.shards.ingest import ingest
from raygait.synthetic import casiab_tree
from raygait.training.loop import (
    BatchLoss,
    draw_masks,
    make_loader,
    make_optimiser,
    train_step,
)

_COMMAND = "python -m tests.benchmarks training"


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
        ]


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
