"""A checkpoint: a saved model and what the optimiser needs to go on from it.

    model.safetensors, recipe.json, model.json    as `recipes.saved_model` writes them
    training.pt                                   optimiser and schedule, tensors and numbers only

`training.pt` is read with `weights_only=True`: it can hold no code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from raygait.errors import TrainingError
from raygait.recipes.saved_model import load_model, load_weights, save_model
from raygait.recipes.schema import Recipe

_TRAINING = "training.pt"


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimiser: Optimizer,
    scheduler: LRScheduler,
    recipe: Recipe,
    subjects: Sequence[str],
    *,
    step: int,
    origin: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write everything a run needs to go on as if it had not stopped.

    Args:
        folder: Where to; Ray Train moves it to the run's storage whole.
        network: The bare network.
        optimiser: Its state goes along.
        scheduler: Its state goes along.
        recipe: What the run follows.
        subjects: Training subjects in class order.
        step: Steps done.
        origin: Where the data came from.
        extra: Anything else that the run needs to go on: plain values and tensors.
    """
    save_model(folder, network, recipe, subjects, step=step, origin=origin)
    torch.save(
        {
            "optimiser": optimiser.state_dict(),
            "scheduler": scheduler.state_dict(),
            "extra": dict(extra or {}),
        },
        folder / _TRAINING,
    )


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimiser: Optimizer,
    scheduler: LRScheduler,
    recipe: Recipe,
    subjects: Sequence[str],
    *,
    extra: dict[str, Any] | None = None,
) -> int:
    """Put a checkpoint's state into a run that has just been built.

    Args:
        folder: Of the checkpoint.
        network: Gets the weights.
        optimiser: Gets its state.
        scheduler: Gets its state.
        recipe: What this run follows.
        subjects: Its training subjects in class order.
        extra: Gets what `save_checkpoint` was given as such.

    Returns:
        The number of steps done, which is the next step to do.

    Raises:
        TrainingError: The checkpoint is damaged, or belongs to another recipe or other subjects.
    """
    try:
        saved = load_model(folder)
        state = torch.load(folder / _TRAINING, weights_only=True, map_location="cpu")
        optimiser_state, scheduler_state = state["optimiser"], state["scheduler"]
        extra_state = dict(state.get("extra", {}))
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
    optimiser.load_state_dict(optimiser_state)
    scheduler.load_state_dict(scheduler_state)
    if extra is not None:
        extra.update(extra_state)
    return saved.step


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
        if a.get(path) != b.get(path) and path not in ("name", "source")
    )
