"""Start a training run on a Ray cluster: one worker on a laptop, many on a cluster, same code."""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from torch import nn

from raygait import ray_session
from raygait.batches.columns import check_rows
from raygait.batches.sampler import rank_positions
from raygait.datasets import protocols, splits
from raygait.errors import (
    ClusterTooSmall,
    DatasetError,
    RecipeError,
    SplitMismatch,
    TrainingError,
)
from raygait.experiments.outbox import Outbox
from raygait.experiments.tracking import Run
from raygait.recipes.schema import Recipe, build_model, from_json
from raygait.shards import reader
from raygait.shards.writer import remove_leftovers, whole_file
from raygait.training.checkpoint import damage_of, differences, newest_checkpoint, same_run
from raygait.training.loop import StepFailed, make_optimiser, train_worker
from raygait.training.phases import freeze, frozen_groups, phases_of
from raygait.training.record import HISTORY, attempt, read_history, take_over
from raygait.training.transfer import (
    DATA,
    Start,
    copied_start,
    copy_start,
    read_data,
    remembered_start,
    start_from,
    weights_digest,
)
from raygait.training.validation import BEST, check_evaluation
from raygait.training.watching import watched

__all__ = ["MLFLOW_RUN", "Start", "TrainResult", "check_recipe", "read_history", "train"]

logger = logging.getLogger(__name__)
# Written by whoever opens the MLflow run, into the folder of the training run.
MLFLOW_RUN = "mlflow.json"
# Steps that could not be trusted, see `failures`.
_FAILURES = "failures"
_RECIPE = "recipe.json"
# What the phase before had is free again in less than a second.
_IS_FREED_WITHIN_S = 10.0
# Folders of the phases before the last, and what says that one is over.
_PHASE, _FINISHED = "phase-", "finished.json"


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        checkpoint: Folder of the last checkpoint; `recipes.saved_model.load_model` reads it.
        history: One dictionary a step: `step`, `loss`, the other recorded values, and at steps
            that were evaluated the protocol's numbers, as `validation/casiab/NM/rank1`.
        best: Folder of the checkpoint with the best evaluation; `None` without evaluations. The
            test subjects have chosen it, so its score is optimistic.
    """

    checkpoint: Path
    history: list[dict[str, float]] = field(repr=False)
    best: Path | None = None


def train(
    recipe: Recipe,
    shards: Path,
    out: Path,
    *,
    name: str,
    num_workers: int = 1,
    min_workers: int | None = None,
    num_threads: int = 1,
    use_gpu: bool = False,
    start: Start | None = None,
    run: Run | Outbox | None = None,
    max_failures: int = 2,
    report_every_steps: int = 10,
    compile_network: bool = False,
) -> TrainResult:
    """Train by a recipe, or go on with a run of the same name.

    Args:
        recipe: What to compute.
        shards: Folder of shards, readable by every worker under this path.
        out: Folder of runs; this one becomes `out/name`, on storage that all nodes share. An
            address like `s3://bucket/runs` is none: such storage has to be mounted.
        name: Name of the run. The same name again continues from its last checkpoint that is not
            damaged, on any number of workers.
        num_workers: Workers of the run; the batch is split over them.
        min_workers: With fewer places than `num_workers` the run begins, or goes on, with as few
            as these, and grows again when nodes come. Ray counts what nodes have, not what others
            hold of it, and would wait for them; so a run that finds places taken when it begins
            grows no larger than it began. A number of workers that does not split the batch evenly
            trains with fewer, the others stand by.
        num_threads: Threads of torch and of the loader, and logical CPUs, a worker.
        use_gpu: One GPU and the nccl backend a worker, otherwise gloo on CPU.
        start: Model whose weights the run starts from; identities that it does not know get fresh
            rows in the classifier. Kept in the run's folder.
        run: MLflow run that gets the curves; an outbox if it may be away.
        max_failures: Times a lost worker is replaced before the run fails. A step that cannot be
            trusted would be the same again, and ends the run at once.
        report_every_steps: Steps between writes of the history.
        compile_network: Let torch compile the network first. It does not pay on a CPU. CPU s of a
            step at P2 K2 T30, compiled and not, and of the first one (`tests/benchmarks`,
            `switches`): gaitgl-casiab 7.9, 6.6, 54; lmgcs-casiab-lt 2.7, 2.2, 59; seconds of an
            earlier run, gaitbase-casiab 14.6, 13.4, 102. Of GaitEdge, GaitHeat and LGDiffGait it
            is not measured, nor on a GPU.

    Raises:
        ShardError: The shards are not there, not finished, or made without the recipe's modality.
        SplitMismatch: They do not hold the subjects of the recipe's split.
        DatasetError: An evaluation would find nothing to compare, or there is no such protocol or
            split.
        RecipeError: Two switches do not fit each other.
        RegistryError: What to start from is not a saved model, or is damaged.
        ClusterTooSmall: The workers cannot be placed.
        TrainingError: The name belongs to another recipe, other data or another start, the weights
            to start from do not fit, the batch cannot be split over the workers, every checkpoint
            is damaged, or the run failed; the message holds the worker's own error.
    """
    # Everything that can be known to be wrong is said before anything is written.
    check_out(out)
    digest = reader.digest(shards)
    recipe = with_absolute_paths(recipe)
    _check_resources(num_workers, min_workers, num_threads, use_gpu=use_gpu)
    taken = check_recipe(recipe, shards, num_workers, min_workers=min_workers, start=start)
    folder = out.absolute() / name
    origin = {
        "shards": str(shards.absolute()),
        "shards_digest": digest,
        "dataset": _dataset(shards),
        **_claim(folder, recipe, digest, start, taken),
    }
    command = take_over(folder)
    remove_leftovers(folder)
    phases = phases_of(recipe)
    earlier: list[tuple[str, str]] = []
    checkpoint = checkpoints = folder
    with watched(folder, run, sum(phase.recipe.num_steps for phase in phases)):
        for phase in phases:
            checkpoints = folder / f"{_PHASE}{phase.name}" if phase.name else folder
            finished = _finished(checkpoints)
            if finished is None:
                # Raises if all are damaged, which no number of attempts would change.
                newest_checkpoint(checkpoints)
                finished = checkpoints / _fit(
                    {
                        "recipe": phase.recipe.to_dict(),
                        "shards": str(shards.absolute()),
                        "num_threads": num_threads,
                        "report_every_steps": report_every_steps,
                        "compile_network": compile_network,
                        "failures": str(folder / _FAILURES),
                        "part": phase.part,
                        "steps_before": phase.steps_before,
                        "earlier": earlier,
                        "start": str(copied_start(folder)) if "start" in origin else "",
                        "record": str(folder),
                        "command": command,
                        "checkpoints": str(checkpoints),
                        "origin": origin,
                    },
                    num_workers=_asked_for(num_workers, min_workers, num_threads, use_gpu=use_gpu),
                    num_threads=num_threads,
                    use_gpu=use_gpu,
                    max_failures=max_failures,
                    where=f"run {name!r}" + (f", phase {phase.name!r}," if phase.name else ""),
                )
                _write(checkpoints / _FINISHED, {"checkpoint": finished.name})
            checkpoint = finished
            earlier.append((phase.part, str(checkpoint)))
    best = checkpoints / BEST
    return TrainResult(
        checkpoint, read_history(folder / HISTORY), best.resolve() if best.exists() else None
    )


def _fit(
    settings: dict[str, Any],
    *,
    num_workers: int | tuple[int, int],
    num_threads: int,
    use_gpu: bool,
    max_failures: int,
    where: str,
) -> str:
    """Train one phase; the name of its last checkpoint."""
    checkpoints = Path(settings["checkpoints"])
    trainer = ray.train.torch.TorchTrainer(
        _attempt,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": num_threads, **({"GPU": 1} if use_gpu else {})},
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=checkpoints.name,
            storage_path=str(checkpoints.parent),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        # The worker's own sentence where there is one, else all that Ray has to say.
        own = ray_session.own_error(error)
        raise TrainingError(f"{where} failed: {own or error}") from error
    if isinstance(result.return_value, StepFailed):
        raise TrainingError(f"{where} failed: {result.return_value.sentence}")
    last = str(result.return_value or "")
    if not last or not (checkpoints / last).is_dir():
        raise TrainingError(f"{where} ended without a checkpoint in {checkpoints}")
    return last


def _attempt(settings: dict[str, Any]) -> str | StepFailed:
    with attempt(Path(settings["record"]), settings["command"]):
        return train_worker(settings)


def check_out(out: Path) -> None:
    """Refuse an address where a folder is meant: a folder `s3:` would be made of it.

    Raises:
        TrainingError: `out` is an address.
    """
    scheme = str(out).partition("/")[0]
    if re.fullmatch(r"[a-z][a-z0-9+.-]*:", scheme):
        raise TrainingError(
            f"{out}: runs are kept in folders, not at addresses; mount what {scheme}// names and "
            f"give the folder, which every node has to see under the same path"
        )


def _finished(checkpoints: Path) -> Path | None:
    """The last checkpoint of a phase that was trained to its end, if it is not damaged.

    Raises:
        TrainingError: It is not there any more.
    """
    marker = checkpoints / _FINISHED
    if not marker.exists():
        return None
    try:
        checkpoint: Path = checkpoints / json.loads(marker.read_text())["checkpoint"]
    except (ValueError, KeyError, TypeError):
        # Nothing is lost: it ends again where its newest checkpoint is, which is the last.
        logger.warning("%s is damaged and written again", marker)
        return None
    if not checkpoint.is_dir():
        raise TrainingError(
            f"{checkpoint} is gone, the last checkpoint of a run or a phase that is finished: put "
            f"it back, or delete {checkpoints} to train it again"
        )
    fault = damage_of(checkpoint)
    if fault:
        logger.warning("the end of the run is trained again, its checkpoint is damaged: %s", fault)
        return None
    return checkpoint


def check_recipe(
    recipe: Recipe,
    shards: Path,
    num_workers: int,
    *,
    min_workers: int | None = None,
    start: Start | None = None,
) -> list[str]:
    """Say what is wrong with a recipe on this data before anything starts.

    Args:
        recipe: What to compute.
        shards: Folder of shards.
        num_workers: As for `train`.
        min_workers: As for `train`.
        start: As for `train`.

    Returns:
        What each phase takes of the model to start from, a sentence each.

    Raises:
        ShardError: The shards are not there, not finished, or made without a modality that the
            recipe needs.
        SplitMismatch: They do not hold the subjects of the recipe's split.
        DatasetError: An evaluation would find nothing to compare, or there is no such protocol or
            split.
        RecipeError: Two switches do not fit each other, the clip is too short for the model, or
            the model has no group of parameters of a name.
        RegistryError: What to start from is not a saved model, or is damaged.
        TrainingError: The batch cannot be split over the workers, or the weights to start from do
            not fit.
    """
    if min_workers is not None and not 1 <= min_workers <= num_workers:
        raise TrainingError(
            f"at least {min_workers} and at most {num_workers} workers are no range of workers"
        )
    subjects = reader.read_rows(shards, columns=["subject"])["subject"].to_pylist()
    # One row: blobs of all take minutes to read. Other rows are looked at when they are cached.
    rows = (row for shard in reader.list_shards(shards) for row in reader.iterate_rows(shard))
    first_rows = list(itertools.islice(rows, 1))
    taken = []
    for phase in phases_of(recipe):
        # With a range of workers, those that the batch does not split over stand by.
        fixed = num_workers if min_workers is None else 1
        network, train_subjects = _check_phase(
            phase.recipe, subjects, first_rows, str(shards), fixed
        )
        if start is not None:
            transfer = start_from(
                network,
                phase.recipe,
                train_subjects,
                start.model,
                part=phase.part,
                dataset=_dataset(shards),
            )
            what = f"phase {phase.name}" if phase.name else "the run"
            taken.append(f"{what} starts from {start.reference}: {transfer.to_text()}")
    if recipe.evaluate_every_steps:
        check_evaluation(recipe, shards)
    return taken


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe as the workers can read it, whose working folder is another."""
    data = recipe.data
    found = {
        "split": splits.with_absolute_path(data.split),
        "test_split": splits.with_absolute_path(data.test_split),
    }
    return recipe.model_copy(update={"data": data.model_copy(update=found)})


def _check_phase(
    recipe: Recipe,
    subjects: list[str],
    first_rows: list[dict[str, Any]],
    where: str,
    num_workers: int,
) -> tuple[nn.Module, tuple[str, ...]]:
    check_rows(first_rows, recipe.data.modality, where)
    # Days later is too late to say that there is no such protocol, or nothing to fill it from.
    rules = protocols.protocol(recipe.data.protocol)
    if not splits.lists_of(recipe.data.test_split or recipe.data.split) and rules.is_listed:
        raise DatasetError(
            f"data.protocol is {rules.name!r}, which needs {rules.needs}; or give another "
            f"data.protocol"
        )
    split = splits.split(recipe.data.split, subjects)
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
    return network, split.train


def _claim(
    folder: Path, recipe: Recipe, shards_digest: str, start: Start | None, taken: list[str]
) -> dict[str, str]:
    """A run's folder belongs to one recipe, one state of the data and one start.

    Returns:
        What it starts from, as the folder remembers it; empty for fresh weights.
    """
    recipe_path, data_path = folder / _RECIPE, folder / DATA
    if recipe_path.exists() and data_path.exists():
        try:
            there = from_json(recipe_path.read_text())
        except (RecipeError, ValueError) as error:
            raise TrainingError(
                f"{recipe_path} is damaged: {error}; put it back from one of the checkpoints, or "
                f"delete {folder} to train it again"
            ) from error
        if not same_run(there, recipe):
            raise TrainingError(
                f"{folder} holds a run of another recipe; choose another name or delete it: "
                f"{differences(there, recipe)}"
            )
        data = read_data(folder)
        if data["shards_digest"] != shards_digest:
            raise TrainingError(
                f"{folder} holds a run on other data (digest {data['shards_digest'][:12]}, the "
                f"shards have {shards_digest[:12]}); choose another name or delete it"
            )
        return _same_start(folder, start)
    folder.mkdir(parents=True, exist_ok=True)
    begins = {} if start is None else copy_start(folder, start)
    for sentence in taken:
        logger.info("%s", sentence)
    for path, value in (
        (recipe_path, recipe.to_dict()),
        (data_path, {"shards_digest": shards_digest, **begins}),
    ):
        _write(path, value)
    return begins


def _write(path: Path, value: Mapping[str, Any]) -> None:
    try:
        with whole_file(path) as file:
            file.write((json.dumps(value, indent=2) + "\n").encode())
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from error


def _same_start(folder: Path, start: Start | None) -> dict[str, str]:
    there = remembered_start(folder)
    here = "fresh weights" if start is None else start.reference
    same_weights = there.get("start_digest") == (start and weights_digest(start.model))
    if not same_weights and there.get("start") != here:
        raise TrainingError(
            f"{folder} holds a run that starts from {there.get('start', 'fresh weights')}, not "
            f"from {here}; choose another name or delete it"
        )
    if not same_weights:
        logger.warning("%s is another model now; the run goes on with the one it began with", here)
    return there


def _dataset(shards: Path) -> str:
    """Names of the data sets of the shards."""
    return "+".join(
        sorted(set(reader.read_rows(shards, columns=["dataset"])["dataset"].to_pylist()))
    )


def _asked_for(
    num_workers: int, min_workers: int | None, num_threads: int, *, use_gpu: bool
) -> int | tuple[int, int]:
    """The workers, or their range, to ask Ray Train for, by what is free now."""
    if min_workers is None:
        return num_workers

    def num_free() -> int:
        free = ray.available_resources()
        places = int(free.get("CPU", 0) // num_threads)
        return min(places, int(free.get("GPU", 0))) if use_gpu else places

    # What Ray Train would start; it waits until nobody else holds any of it.
    wanted = min(num_workers, ray_session.num_places(num_threads, 1 if use_gpu else 0))
    until = time.monotonic() + _IS_FREED_WITHIN_S
    while (free := num_free()) < wanted and time.monotonic() < until:
        time.sleep(0.1)
    return min_workers, num_workers if free >= wanted else max(free, min_workers)


def _check_resources(
    num_workers: int, min_workers: int | None, num_threads: int, *, use_gpu: bool
) -> None:
    """Ray Train waits for ever for workers that cannot be placed; say so instead."""
    num_workers = num_workers if min_workers is None else min_workers
    places = ray_session.num_places(num_threads, 1 if use_gpu else 0)
    if places < num_workers:
        raise ClusterTooSmall(
            f"{num_workers} workers of {num_threads} CPUs{' and a GPU' if use_gpu else ''} each do "
            f"not fit: the cluster has places for {places}; use fewer workers, fewer threads or "
            f"more nodes"
        )
