"""Start a training run on a Ray cluster: one worker on a laptop, many on a cluster, same code."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from raygait.errors import TrainingError
from raygait.experiments.tracking import Run
from raygait.recipes.schema import Recipe, from_json
from raygait.shards import reader
from raygait.training.checkpoint import differences
from raygait.training.loop import train_worker

logger = logging.getLogger(__name__)
_RECIPE, _HISTORY = "recipe.json", "history.jsonl"


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        checkpoint: Folder of the last checkpoint; `recipes.saved_model.load_model` reads it.
        history: One dictionary a step: `step`, `loss`, and the other recorded values.
    """

    checkpoint: Path
    history: list[dict[str, float]] = field(repr=False)


def train(
    recipe: Recipe,
    shards: Path,
    out: Path,
    *,
    name: str,
    num_workers: int = 1,
    num_threads: int = 1,
    use_gpu: bool = False,
    run: Run | None = None,
    max_failures: int = 2,
    report_every_steps: int = 10,
) -> TrainResult:
    """Train by a recipe, or go on with a run of the same name.

    Args:
        recipe: What to compute.
        shards: Folder of shards, readable by every worker under this path.
        out: Folder of runs; this one becomes `out/name`, on storage that all nodes share.
        name: Name of the run. The same name again continues from its last checkpoint.
        num_workers: Workers of the run; the batch is split over them.
        num_threads: Threads of torch and logical CPUs a worker.
        use_gpu: One GPU and the nccl backend a worker, otherwise gloo on CPU.
        run: MLflow run that gets the curves.
        max_failures: Times a lost worker is replaced before the run fails.
        report_every_steps: Steps between reports of metrics.

    Raises:
        ShardError: The shards are not there, or not finished.
        TrainingError: The cluster is too small, the name belongs to another recipe, or the run
            failed; the message holds the worker's own error.
    """
    # Everything that can be known to be wrong is said before anything is written.
    reader.list_shards(shards)
    _check_resources(num_workers, num_threads, use_gpu=use_gpu)
    folder = out.absolute() / name
    _claim(folder, recipe)
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={
            "recipe": recipe.to_dict(),
            "shards": str(shards.absolute()),
            "num_threads": num_threads,
            "report_every_steps": report_every_steps,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": num_threads, **({"GPU": 1} if use_gpu else {})},
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(out.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[_HistoryWriter(str(folder / _HISTORY), run)],
        ),
    )
    try:
        with _progress(folder / _HISTORY, recipe.num_steps):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(f"run {name!r} failed: {error}") from error
    if result.checkpoint is None:
        raise TrainingError(f"run {name!r} ended without a checkpoint in {folder}")
    return TrainResult(Path(result.checkpoint.path), read_history(folder / _HISTORY))


class _HistoryWriter(ray.train.UserCallback):  # type: ignore[misc]  # ray is untyped here
    """Runs beside Ray Train's controller: appends each step once, here and in MLflow.

    A restarted worker repeats the steps since its checkpoint and reports them again; they are
    the same numbers, so only steps that are new are written.
    """

    def __init__(self, path: str, run: Run | None) -> None:
        self._path = path
        self._run = run

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        del run_context, checkpoint
        path = Path(self._path)
        last = max((point["step"] for point in read_history(path)), default=0)
        points = [point for point in metrics[0]["history"] if point["step"] > last]
        if not points:
            return
        with path.open("a") as file:
            file.writelines(json.dumps(point) + "\n" for point in points)
        if self._run is not None:
            self._run.log_history(points)


def read_history(path: Path) -> list[dict[str, float]]:
    """The recorded steps of a run, in order; none when there is no such file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _claim(folder: Path, recipe: Recipe) -> None:
    """A run's folder belongs to one recipe; another one under the same name is refused."""
    path = folder / _RECIPE
    if path.exists():
        there = from_json(path.read_text())
        if there != recipe:
            raise TrainingError(
                f"{folder} holds a run of another recipe; choose another name or delete it: "
                f"{differences(there, recipe)}"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")


def _check_resources(num_workers: int, num_threads: int, *, use_gpu: bool) -> None:
    """Ray Train waits for ever for workers that cannot be placed; say so instead."""
    have = ray.cluster_resources()
    for what, wanted in (("CPU", num_workers * num_threads), ("GPU", num_workers * use_gpu)):
        if have.get(what, 0) < wanted:
            raise TrainingError(
                f"{num_workers} workers need {wanted} {what}, the cluster has "
                f"{have.get(what, 0):g}; use fewer workers, fewer threads or more nodes"
            )


@contextmanager
def _progress(path: Path, num_steps: int, every_s: float = 5.0) -> Iterator[None]:
    """Log a line now and then while the controller, elsewhere, appends to the history."""
    stop = threading.Event()

    def watch() -> None:
        said = 0
        while not stop.wait(every_s):
            history = read_history(path)
            if history and history[-1]["step"] != said:
                last = history[-1]
                said = int(last["step"])
                logger.info(
                    "step %d/%d  loss %.3f  triplet %.3f  identity %.3f  accuracy %.2f",
                    said,
                    num_steps,
                    last["loss"],
                    last["triplet_loss"],
                    last["identity_loss"],
                    last["accuracy"],
                )

    watcher = threading.Thread(target=watch, name="training-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
