"""Start a training run on a Ray cluster: one worker on a laptop, many on a cluster, same code."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from raygait import ray_session
from raygait.batches.columns import check_rows
from raygait.batches.sampler import rank_positions
from raygait.datasets import protocols
from raygait.errors import ClusterTooSmall, RecipeError, SplitMismatch, TrainingError
from raygait.experiments.tracking import Run
from raygait.recipes.schema import Recipe, build_model, from_json
from raygait.shards import reader
from raygait.shards.writer import whole_file
from raygait.training.checkpoint import differences, same_run
from raygait.training.loop import make_optimiser, train_worker
from raygait.training.phases import Phase, freeze, frozen_groups, phases_of

logger = logging.getLogger(__name__)
# What a line of progress says, of what the run has.
_SHOWN = ("loss", "triplet_loss", "identity_loss", "segmentation_loss", "accuracy", "mask_iou")
# Written by whoever opens the MLflow run, into the folder of the training run.
MLFLOW_RUN = "mlflow.json"
_RECIPE, _DATA, _HISTORY = "recipe.json", "data.json", "history.jsonl"
# Steps that could not be trusted, see `failures`.
_FAILURES = "failures"
# Folders of the phases before the last, and what says that one is over.
_PHASE, _FINISHED = "phase-", "finished.json"


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
    compile_network: bool = False,
) -> TrainResult:
    """Train by a recipe, or go on with a run of the same name.

    Args:
        recipe: What to compute.
        shards: Folder of shards, readable by every worker under this path.
        out: Folder of runs; this one becomes `out/name`, on storage that all nodes share.
        name: Name of the run. The same name again continues from its last checkpoint.
        num_workers: Workers of the run; the batch is split over them.
        num_threads: Threads of torch and of the loader, and logical CPUs, a worker.
        use_gpu: One GPU and the nccl backend a worker, otherwise gloo on CPU.
        run: MLflow run that gets the curves.
        max_failures: Times a lost worker is replaced before the run fails.
        report_every_steps: Steps between reports of metrics.
        compile_network: Let torch compile the network first. It does not pay on a CPU: a step at
            P2 K2 of gaitgl-demo takes 0.107 s against 0.065 s after 62 s for the first, one of
            gaitbase-casiab 14.6 s against 13.4 s after 102 s. Not measured on a GPU.

    Raises:
        ShardError: The shards are not there, not finished, or made without the recipe's modality.
        SplitMismatch: They do not hold the subjects of the recipe's split.
        RecipeError: Two switches do not fit each other.
        ClusterTooSmall: The workers cannot be placed.
        TrainingError: The name belongs to another recipe or other data, the batch cannot be split
            over the workers, or the run failed; the message holds the worker's own error.
    """
    # Everything that can be known to be wrong is said before anything is written.
    digest = reader.digest(shards)
    _check_resources(num_workers, num_threads, use_gpu=use_gpu)
    check_recipe(recipe, shards, num_workers)
    folder = out.absolute() / name
    _claim(folder, recipe, digest)
    num_steps = sum(phase.recipe.num_steps for phase in phases_of(recipe))
    earlier: list[tuple[str, str]] = []
    checkpoint = Path()
    with _progress(folder / _HISTORY, num_steps):
        for phase in phases_of(recipe):
            finished = _finished(folder, phase)
            if finished is None:
                trainer = ray.train.torch.TorchTrainer(
                    train_worker,
                    train_loop_config={
                        "recipe": phase.recipe.to_dict(),
                        "shards": str(shards.absolute()),
                        "num_threads": num_threads,
                        "report_every_steps": report_every_steps,
                        "compile_network": compile_network,
                        "failures": str(folder / _FAILURES),
                        "part": phase.part,
                        "steps_before": phase.steps_before,
                        "earlier": earlier,
                    },
                    scaling_config=ray.train.ScalingConfig(
                        num_workers=num_workers,
                        use_gpu=use_gpu,
                        resources_per_worker={
                            "CPU": num_threads,
                            **({"GPU": 1} if use_gpu else {}),
                        },
                    ),
                    torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
                    run_config=ray.train.RunConfig(
                        # The last phase is the run, as one of a single phase is.
                        name=f"{_PHASE}{phase.name}" if phase.name else name,
                        storage_path=str(folder if phase.name else out.absolute()),
                        failure_config=ray.train.FailureConfig(max_failures=max_failures),
                        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                        callbacks=[_HistoryWriter(str(folder / _HISTORY), run)],
                    ),
                )
                where = f"run {name!r}" + (f", phase {phase.name!r}," if phase.name else "")
                try:
                    result = trainer.fit()
                except ray.train.TrainingFailedError as error:
                    # The worker's own sentence where there is one, else all that Ray has to say.
                    own = ray_session.own_error(error)
                    raise TrainingError(f"{where} failed: {own or error}") from error
                if result.checkpoint is None:
                    raise TrainingError(f"{where} ended without a checkpoint in {folder}")
                finished = Path(result.checkpoint.path)
                _mark_finished(folder, phase, finished)
            checkpoint = finished
            earlier.append((phase.part, str(checkpoint)))
    return TrainResult(checkpoint, read_history(folder / _HISTORY))


def _finished(folder: Path, phase: Phase) -> Path | None:
    """The last checkpoint of a phase that a run before has finished.

    Raises:
        TrainingError: It is not there any more.
    """
    marker = folder / f"{_PHASE}{phase.name}" / _FINISHED
    if not (phase.name and marker.exists()):
        return None
    checkpoint: Path = marker.parent / json.loads(marker.read_text())["checkpoint"]
    if not checkpoint.is_dir():
        raise TrainingError(
            f"{checkpoint} is gone, the last checkpoint of a finished phase: put it back, or "
            f"delete {marker.parent} to train the phase again"
        )
    return checkpoint


def _mark_finished(folder: Path, phase: Phase, checkpoint: Path) -> None:
    # The last phase needs no mark: it is what the run of this name goes on with.
    if phase.name:
        with whole_file(folder / f"{_PHASE}{phase.name}" / _FINISHED) as file:
            file.write(json.dumps({"checkpoint": checkpoint.name}).encode())


class _HistoryWriter(ray.train.UserCallback):  # type: ignore[misc]  # ray is untyped here
    """Runs beside Ray Train's controller: appends each step once, here and in MLflow.

    A restarted worker repeats the steps since its checkpoint and reports them again; they are
    the same numbers, so only steps that are new are written. A tracking server that is away costs
    nothing but a warning: what it has missed is sent with the next report.
    """

    def __init__(self, path: str, run: Run | None) -> None:
        self._path = Path(path)
        self._run = run
        self._last: float | None = None
        self._unsent: list[dict[str, float]] = []

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        del run_context, checkpoint
        if self._last is None:
            self._last = self._begin()
        points = [point for point in metrics[0]["history"] if point["step"] > self._last]
        if points:
            with self._path.open("a") as file:
                file.writelines(json.dumps(point) + "\n" for point in points)
            self._last = points[-1]["step"]
            self._unsent += points
        if self._run is not None and self._unsent:
            try:
                self._run.log_history(self._unsent)
                self._unsent = []
            except Exception as error:  # a server may fail in any way, training goes on
                logger.warning("MLflow did not take the curves, they are kept: %s", error)

    def _begin(self) -> float:
        """The last step on record; brings the file and the server to the same state first."""
        cut_torn_line(self._path)
        history = read_history(self._path)
        if self._run is not None and history:
            sent = self._run.last_step("loss")
            self._unsent = [point for point in history if point["step"] > sent]
        return history[-1]["step"] if history else 0


def read_history(path: Path) -> list[dict[str, float]]:
    """The recorded steps of a run, in order; none when there is no such file yet.

    A last line that is being written, or was cut off, does not count.
    """
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def cut_torn_line(path: Path) -> None:
    """Remove a last line that has no end, so that the next one does not continue it."""
    if path.exists():
        whole = path.read_bytes()
        os.truncate(path, whole.rfind(b"\n") + 1)


def check_recipe(recipe: Recipe, shards: Path, num_workers: int) -> None:
    """Say what is wrong with a recipe on this data before anything starts.

    Raises:
        ShardError: The shards are not there, not finished, or made without a modality that the
            recipe needs.
        SplitMismatch: They do not hold the subjects of the recipe's split.
        RecipeError: Two switches do not fit each other, the clip is too short for the model, or
            the model has no group of parameters of a name.
        TrainingError: The batch cannot be split over the workers.
        DatasetError: There is no split or protocol of a name.
    """
    subjects = reader.read_rows(shards, columns=["subject"])["subject"].to_pylist()
    # One row: blobs of all take minutes to read. Other rows are looked at when they are cached.
    rows = (row for shard in reader.list_shards(shards) for row in reader.iterate_rows(shard))
    first_rows = list(itertools.islice(rows, 1))
    for phase in phases_of(recipe):
        _check_phase(phase.recipe, subjects, first_rows, str(shards), num_workers)


def _check_phase(
    recipe: Recipe,
    subjects: list[str],
    first_rows: list[dict[str, Any]],
    where: str,
    num_workers: int,
) -> None:
    check_rows(first_rows, recipe.data.modality, where)
    protocols.protocol(recipe.data.protocol)  # days later is too late to say that there is none
    if recipe.data.test_split:
        protocols.check_name(recipe.data.test_split)
    split = protocols.split(recipe.data.split, subjects)
    network = build_model(recipe, len(split.train))
    freeze(network, frozen_groups(recipe))
    make_optimiser(recipe, network)
    min_frames = int(getattr(network, "min_frames", 1))
    if recipe.clip.num_frames < min_frames:
        raise RecipeError(
            f"clip.num_frames is {recipe.clip.num_frames}, the model needs {min_frames} or more"
        )
    if len(split.train) < 2:
        raise SplitMismatch(f"split {recipe.data.split!r} trains one subject; triplets need two")
    try:
        rank_positions(recipe.batch.num_subjects * recipe.batch.num_sequences, 0, num_workers)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def _claim(folder: Path, recipe: Recipe, shards_digest: str) -> None:
    """A run's folder belongs to one recipe and one state of the data; others are refused."""
    recipe_path, data_path = folder / _RECIPE, folder / _DATA
    if recipe_path.exists() and data_path.exists():
        there = from_json(recipe_path.read_text())
        if not same_run(there, recipe):
            raise TrainingError(
                f"{folder} holds a run of another recipe; choose another name or delete it: "
                f"{differences(there, recipe)}"
            )
        digest = json.loads(data_path.read_text())["shards_digest"]
        if digest != shards_digest:
            raise TrainingError(
                f"{folder} holds a run on other data (digest {digest[:12]}, the shards have "
                f"{shards_digest[:12]}); choose another name or delete it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path, value in (
        (recipe_path, recipe.to_dict()),
        (data_path, {"shards_digest": shards_digest}),
    ):
        with whole_file(path) as file:
            file.write((json.dumps(value, indent=2) + "\n").encode())


def _check_resources(num_workers: int, num_threads: int, *, use_gpu: bool) -> None:
    """Ray Train waits for ever for workers that cannot be placed; say so instead."""
    places = ray_session.num_places(num_threads, 1 if use_gpu else 0)
    if places < num_workers:
        raise ClusterTooSmall(
            f"{num_workers} workers of {num_threads} CPUs{' and a GPU' if use_gpu else ''} each do "
            f"not fit: the cluster has places for {places}; use fewer workers, fewer threads or "
            f"more nodes"
        )


@contextmanager
def _progress(path: Path, num_steps: int, every_s: float = 5.0) -> Iterator[None]:
    """Log a line now and then while the controller, elsewhere, appends to the history."""
    stop = threading.Event()

    def watch() -> None:
        said = 0
        while not stop.wait(every_s):
            last = _last_point(path)
            if last is not None and last["step"] != said:
                said = int(last["step"])
                shown = "  ".join(f"{name} {last[name]:.3f}" for name in _SHOWN if name in last)
                logger.info("step %d/%d  %s", said, num_steps, shown)

    watcher = threading.Thread(target=watch, name="training-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _last_point(path: Path) -> dict[str, float] | None:
    """The last whole line, without reading the others."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]
    point: dict[str, float] | None = json.loads(lines[-1]) if lines else None
    return point
