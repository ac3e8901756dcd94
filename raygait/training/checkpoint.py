"""A checkpoint: a saved model and what a run needs to go on from it as if it had not stopped.

    <run>/checkpoint-00001000/
        model.safetensors, recipe.json    as `recipes.saved_model` writes them
        training.pt                       optimiser, schedule: tensors and numbers only
        model.json                        description, with the digest of every file

The folder gets its name when all of it is on disk: a process that is killed leaves a hidden folder
or nothing. What disks do to it later is found by the digests, and an older checkpoint takes over.
Ray Train's own book of checkpoints is not used: it is written in place, so a kill can leave half
of it, and a checkpoint that a worker has finished counts only when the controller has looked.

`training.pt` is read with `weights_only=True`: it can hold no code.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from torch import nn

from raygait.errors import RegistryError, TrainingError
from raygait.recipes.saved_model import check_files, load_model, load_weights, save_model
from raygait.recipes.schema import Recipe

_TRAINING = "training.pt"
_NAME = re.compile(r"checkpoint-(\d{8})")
_HIDDEN = ".checkpoint-"
# Options that change nothing of what a run computes.
_NOT_COMPUTED = ("name", "source", "keep_every_steps")
# The newest and one to fall back to.
_NUM_NEWEST = 2


class Stateful(Protocol):
    """What changes beside the weights while a run goes on: optimiser, schedule, scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Go on from there."""


@dataclass(frozen=True)
class Newest:
    """Where a run can go on.

    Attributes:
        path: The newest checkpoint that is as it was written; `None` if there is none at all.
        damaged: What is wrong with each newer one.
    """

    path: Path | None
    damaged: tuple[str, ...]


def checkpoint_path(run: Path, step: int) -> Path:
    """Folder of the checkpoint of one step."""
    return run / f"checkpoint-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Steps done at a checkpoint, by its name."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match, f"{checkpoint} is not named as checkpoints are"
    return int(match[1])


def list_checkpoints(run: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint that is there, oldest first, damaged or not."""
    found = (path for path in run.glob("checkpoint-*") if _NAME.fullmatch(path.name))
    return {step_of(path): path for path in sorted(found) if path.is_dir()}


def newest_checkpoint(run: Path) -> Newest:
    """The checkpoint to go on from: the newest whose files are what was written.

    Raises:
        TrainingError: There are checkpoints, and all of them are damaged.
    """
    damaged: list[str] = []
    for path in reversed(list_checkpoints(run).values()):
        fault = damage_of(path)
        if not fault:
            return Newest(path, tuple(damaged))
        damaged.append(fault)
    if damaged:
        raise TrainingError(
            f"{run}: every checkpoint is damaged: {'; '.join(damaged)}. Put one of these folders "
            f"back from a copy, or delete them all to train from the start"
        )
    return Newest(None, ())


def damage_of(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's files; empty if they are what was written."""
    try:
        if _TRAINING not in check_files(checkpoint):
            return f"{checkpoint}: no digest of {_TRAINING}"
    except RegistryError as error:
        return str(error)
    return ""


def save_checkpoint(
    run: Path,
    network: nn.Module,
    state: Mapping[str, Stateful],
    recipe: Recipe,
    subjects: Sequence[str],
    *,
    step: int,
    origin: Mapping[str, str],
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write everything a run needs to go on as if it had not stopped.

    Args:
        run: Folder of the run, or of one of its phases.
        network: The bare network.
        state: What else changes in training, by name; `load_checkpoint` gets the same names.
        recipe: What the run follows.
        subjects: Training subjects in class order.
        step: Steps done.
        origin: Where the data came from.
        check: Called when everything is written, just before the folder gets its name; what it
            raises leaves the run as it was.

    Returns:
        The checkpoint's folder. A damaged one that had this name is replaced.

    Raises:
        TrainingError: It cannot be written: the disk is full, or read-only.
    """
    path = checkpoint_path(run, step)
    hidden = run / f"{_HIDDEN}{step:08d}-{uuid.uuid4().hex[:8]}"
    try:
        hidden.mkdir(parents=True)
        # Opened here: what the disk says is then in the chain of torch's error.
        with (hidden / _TRAINING).open("wb", buffering=0) as file:
            torch.save({name: part.state_dict() for name, part in state.items()}, file)
        save_model(hidden, network, recipe, subjects, step=step, origin=origin, beside=[_TRAINING])
        for written in (*hidden.iterdir(), hidden):
            sync(written)
        check()
        remove_checkpoint(path)
        hidden.rename(path)
        sync(run)
    except Exception as error:
        shutil.rmtree(hidden, ignore_errors=True)
        fault = _fault_of_disk(error)
        if fault is None:
            raise
        last = max(list_checkpoints(run), default=None)
        before = "there is none before it" if last is None else f"that of step {last} is kept"
        raise TrainingError(
            f"{path} cannot be written: {fault}; {before}, and the same command again goes on"
        ) from error
    return path


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    state: Mapping[str, Stateful],
    recipe: Recipe,
    subjects: Sequence[str],
) -> int:
    """Put a checkpoint's state into a run that has just been built.

    Args:
        folder: The checkpoint.
        network: The bare network.
        state: As for `save_checkpoint`.
        recipe: What the run follows.
        subjects: Training subjects in class order.

    Returns:
        The number of steps done, which is the next step to do.

    Raises:
        TrainingError: The checkpoint is damaged, or belongs to another recipe or other subjects.
    """
    try:
        saved = load_model(folder)
        loaded = torch.load(folder / _TRAINING, weights_only=True, map_location="cpu")
        states = {name: loaded[name] for name in state}
    except Exception as error:  # torch's unpickler raises whatever damaged bytes lead it to
        raise TrainingError(f"{folder}: cannot continue from this checkpoint: {error!r}") from error
    if not same_run(saved.recipe, recipe):
        raise TrainingError(
            f"{folder}: checkpoint follows another recipe: {differences(saved.recipe, recipe)}"
        )
    if saved.subjects != tuple(subjects):
        raise TrainingError(
            f"{folder}: checkpoint was trained on {len(saved.subjects)} subjects, "
            f"{saved.subjects[0]} to {saved.subjects[-1]}; the data has {len(subjects)}, "
            f"{subjects[0]} to {subjects[-1]}"
        )
    load_weights(network, saved.network.state_dict(), where=str(folder))
    for name, part in state.items():
        part.load_state_dict(states[name])
    return saved.step


def prune_checkpoints(
    run: Path, *, newest: int, keep_every_steps: int, keep: Collection[int] = ()
) -> None:
    """Delete checkpoints that nobody will ask for.

    The newest two stay: one to go on from, one to fall back to.

    Args:
        run: Folder of the run, or of one of its phases.
        newest: Steps done. Those of more steps were damaged when the run went on: they are not
            counted, and are replaced when their step comes again.
        keep_every_steps: Those of each so many steps stay for good; 0 for none.
        keep: Steps whose checkpoints stay too.
    """
    checkpoints = list_checkpoints(run)
    for step in [step for step in checkpoints if step <= newest][:-_NUM_NEWEST]:
        if step not in keep and not (keep_every_steps and step % keep_every_steps == 0):
            remove_checkpoint(checkpoints[step])


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint; whatever happens meanwhile, no part of it keeps its name."""
    hidden = path.parent / f".{path.name}-{uuid.uuid4().hex[:8]}"
    # A worker that was replaced may still be at it too.
    with contextlib.suppress(FileNotFoundError):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(run: Path) -> None:
    """Delete what killed processes were writing or deleting."""
    for leftover in run.glob(f"{_HIDDEN}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for link in run.glob(".best-*"):
        link.unlink(missing_ok=True)


def _fault_of_disk(error: BaseException) -> str | None:
    """What a disk says in the chain of an error; `None` if the error is of another kind."""
    if isinstance(error, safetensors.SafetensorError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def same_run(there: Recipe, here: Recipe) -> bool:
    """Whether two recipes compute the same; what they are called and cite does not matter."""
    return not differences(there, here)


def differences(there: Recipe, here: Recipe) -> str:
    """Dotted paths whose values differ, for messages; empty if the same is computed."""
    if list(there.before) != list(here.before):
        return f"before: {list(there.before)} there, {list(here.before)} here"
    a, b = there.to_flat(), here.to_flat()
    return "; ".join(
        f"{path}: {a.get(path)!r} there, {b.get(path)!r} here"
        for path in sorted(a.keys() | b.keys())
        if a.get(path) != b.get(path) and path not in _NOT_COMPUTED
    )
