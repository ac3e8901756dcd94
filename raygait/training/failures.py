"""When a step cannot be trusted, and the folder that it leaves to be computed again.

    model.safetensors, recipe.json, model.json    the weights before the step, as a saved model
    batch.safetensors                             the global batch: its inputs by name, and `labels`
    failure.json                                  what was wrong, and how the step was computed

`python jobs/train.py --replay FOLDER` computes it again (`replay`), without the data set.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pydantic
import safetensors
import safetensors.torch
from pydantic import ConfigDict
from torch import nn

from raygait.batches.loader import Batch
from raygait.errors import RegistryError, TrainingError
from raygait.recipes.saved_model import SavedModel, load_model, save_model
from raygait.recipes.schema import Recipe
from raygait.training.precision import PrecisionName

_BATCH, _FAILURE, _LABELS = "batch.safetensors", "failure.json", "labels"
# Sequences that a message names.
_NAMED = 8


class Failure(pydantic.BaseModel):
    """What is known of a step that failed.

    Attributes:
        step: Optimiser step, from 0.
        wrong: What was wrong, see `whats_wrong`.
        values: What the worker measured that noticed it.
        sequence_ids: Sequences of the global batch, in its order.
        world_size: Workers that shared the batch.
        precision: What they computed in.
        scaler: State of what scales the losses in fp16.
        device: Type of their devices, `cpu` or `cuda`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    step: int
    wrong: str
    values: dict[str, float]
    sequence_ids: tuple[str, ...]
    world_size: int
    precision: PrecisionName
    scaler: dict[str, float] = {}
    device: str


def whats_wrong(
    values: Mapping[str, float], *, stop_above: float = math.inf, gradients_can_overflow: bool
) -> str | None:
    """A sentence if the weights must not be changed by what a step has computed.

    Args:
        values: What the step measured; `loss`, and `gradient_norm`, of all parameters together.
        stop_above: A larger loss has exploded.
        gradients_can_overflow: In fp16 they are expected to, and the step is left out.
    """
    loss, norm = values["loss"], values["gradient_norm"]
    if not math.isfinite(loss):
        wrong = f"loss is {loss}"
    elif loss > stop_above:
        wrong = f"loss is {loss:g}, above loss.stop_above ({stop_above:g})"
    elif not math.isfinite(norm) and not gradients_can_overflow:
        wrong = f"gradient norm is {norm} at loss {loss:g}"
    else:
        return None
    parts = ", ".join(f"{name} {value:g}" for name, value in values.items() if "_loss" in name)
    return f"{wrong} ({parts})" if parts else wrong


def name_some(sequence_ids: Sequence[str]) -> str:
    """The first sequences of a batch and the number of the others, for a message."""
    different = list(dict.fromkeys(sequence_ids))
    rest = len(different) - _NAMED
    return ", ".join(different[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def write_failure(
    folder: Path,
    failure: Failure,
    network: nn.Module,
    recipe: Recipe,
    subjects: Sequence[str],
    batch: Batch,
    *,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write what computes a step again; several workers may, and a retry: the first is kept.

    Args:
        folder: The new folder; it appears whole or not at all.
        failure: What is known.
        network: The bare network as it was before the step.
        recipe: What the run follows.
        subjects: Training subjects in class order.
        batch: The global batch.
        origin: Where the data came from.

    Raises:
        OSError: It cannot be written.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_model(unfinished, network, recipe, subjects, step=failure.step, origin=origin)
        safetensors.torch.save_file(
            {_LABELS: batch.labels, **batch.inputs}, str(unfinished / _BATCH)
        )
        (unfinished / _FAILURE).write_text(failure.model_dump_json(indent=2) + "\n")
        unfinished.chmod(0o755)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another worker was first
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_failure(folder: Path) -> tuple[Failure, SavedModel, Batch]:
    """Read a folder that `write_failure` wrote; no code in it is run.

    Returns:
        What is known, the network as it was before the step, and the global batch.

    Raises:
        TrainingError: A file is missing or damaged.
    """
    try:
        failure = Failure.model_validate_json((folder / _FAILURE).read_text())
        tensors = safetensors.torch.load_file(str(folder / _BATCH))
        labels = tensors.pop(_LABELS)
        saved = load_model(folder)
    except (OSError, ValueError, KeyError, RegistryError, safetensors.SafetensorError) as error:
        raise TrainingError(f"{folder}: no step that failed is kept here: {error}") from error
    return failure, saved, Batch(failure.step, tensors, labels, failure.sequence_ids)
