"""Fine-tuning: start a run from a model that has learnt something else.

Weights go by name. The classifier is the one part that may differ: its rows stand for people, so
whom both know keeps the row, and who is new gets a fresh one. Any other difference is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raygait.errors import RegistryError, TrainingError
from raygait.experiments.resolve import resolve_model
from raygait.recipes.saved_model import (
    DESCRIPTION,
    RECIPE,
    WEIGHTS,
    SavedModel,
    load_model,
)
from raygait.recipes.schema import Recipe, build_model
from raygait.training.checkpoint import sync

DATA = "data.json"
"""What a run remembers of the data and the start that it belongs to, in its folder."""
_COPY = "start"


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        reference: As somebody named it: `models:/gait@champion`, a folder.
        model: Folder of the saved model that this meant when the run began.
    """

    reference: str
    model: Path


@dataclass(frozen=True)
class Transfer:
    """What a network took of another one's weights.

    Attributes:
        num_taken: Tensors taken whole.
        by_class: Names of the tensors that have a row a class.
        num_known: Classes that both have, whose rows were taken too.
        num_new: Classes whose rows are fresh.
    """

    num_taken: int
    by_class: tuple[str, ...]
    num_known: int
    num_new: int

    def to_text(self) -> str:
        """One line for the log."""
        text = f"{self.num_taken} tensors taken"
        if self.by_class:
            text += (
                f"; of {', '.join(self.by_class)} the rows of {self.num_known} known identities "
                f"taken, of {self.num_new} new ones fresh"
            )
        return text


def start_from(
    network: nn.Module,
    recipe: Recipe,
    subjects: Sequence[str],
    start: Path,
    *,
    part: str = "",
    dataset: str = "",
) -> Transfer:
    """Put the weights of a saved model into a network that has just been built.

    Args:
        network: As the recipe builds it; what is not taken stays as it is.
        recipe: The network's.
        subjects: Training subjects in class order.
        start: Folder of the saved model.
        part: Which network inside the model `network` is; empty for the whole.
        dataset: What the subjects are from. Subjects of another data set are other people, even
            if they have the same names.

    Raises:
        TrainingError: A tensor is missing, left over, or of another shape; all are named.
        RegistryError: `start` is not a saved model, or is damaged.
    """
    # A network is built, which draws; the run is not to notice.
    with torch.random.fork_rng(devices=[]):
        saved = load_model(start)
    prefix = f"{part}." if part else ""
    given = {
        name.removeprefix(prefix): tensor
        for name, tensor in saved.network.state_dict().items()
        if name.startswith(prefix)
    }
    own = network.state_dict()
    axes = class_axes(recipe, len(subjects))
    _check(own, given, axes, start)
    theirs = {} if _is_of_others(saved, dataset) else _numbered(saved.subjects)
    pairs = [(here, theirs[subject]) for here, subject in enumerate(subjects) if subject in theirs]
    for name, tensor in own.items():
        if name not in axes:
            tensor.copy_(given[name])
            continue
        for here, there in pairs:
            tensor.select(axes[name], here).copy_(given[name].select(axes[name], there))
    return Transfer(
        num_taken=len(own) - len(axes),
        by_class=tuple(sorted(axes)),
        num_known=len(pairs),
        num_new=len(subjects) - len(pairs),
    )


def class_axes(recipe: Recipe, num_subjects: int) -> dict[str, int]:
    """Tensors of a network that have a row a class, and along which axis they lie.

    Found by building the network for one subject more: what grows, grows with the classes.
    """
    with torch.random.fork_rng(devices=[]):
        fewer, more = (
            build_model(recipe, number).state_dict() for number in (num_subjects, num_subjects + 1)
        )
    axes = {}
    for name, tensor in fewer.items():
        grown = [
            axis for axis in range(tensor.ndim) if tensor.shape[axis] != more[name].shape[axis]
        ]
        if grown:
            (axes[name],) = grown
    return axes


def find_start(reference: str, run: Path, *, tracking_uri: str, scratch: Path) -> Start:
    """The model that somebody names, or the one that it named when the run began.

    Args:
        reference: As for `resolve.resolve_model`.
        run: Folder of the run, which need not be there yet.
        tracking_uri: Server that holds the registry.
        scratch: Where a registered version is downloaded to.

    Raises:
        RegistryError: There is no such model.
    """
    if not reference.startswith("models:/"):
        reference = str(Path(reference).absolute())
    # An alias moves on, a folder gets newer checkpoints, a server may be away.
    if remembered_start(run).get("start") == reference:
        return Start(reference, copied_start(run))
    return Start(reference, resolve_model(reference, tracking_uri=tracking_uri, scratch=scratch))


def copy_start(run: Path, start: Start) -> dict[str, str]:
    """Keep the model that a run starts from in the run's folder.

    Returns:
        What the run is to remember of it.

    Raises:
        RegistryError: It is not a saved model, or is damaged.
    """
    # Those that are there are of commands that were killed before they had claimed the folder.
    for leftover in (*run.glob(f".{_COPY}-*"), copied_start(run)):
        shutil.rmtree(leftover, ignore_errors=True)
    hidden = run / f".{_COPY}-{uuid.uuid4().hex[:8]}"
    hidden.mkdir(parents=True)
    try:
        for name in (WEIGHTS, RECIPE, DESCRIPTION):
            shutil.copyfile(start.model / name, hidden / name)
            sync(hidden / name)
        # The copy: a run that still trains may have replaced what was being copied.
        load_model(hidden)
    except FileNotFoundError as error:
        raise RegistryError(f"{start.model}: not a saved model: {error}") from error
    hidden.rename(copied_start(run))
    sync(run)
    return {"start": start.reference, "start_digest": weights_digest(copied_start(run))}


def copied_start(run: Path) -> Path:
    """Where `copy_start` has put it."""
    return run / _COPY


def remembered_start(run: Path) -> dict[str, str]:
    """What a run remembers of its start; empty for fresh weights, or if there is no run yet.

    Raises:
        TrainingError: As `read_data`.
    """
    data = read_data(run) if (run / DATA).exists() else {}
    return {name: data[name] for name in ("start", "start_digest") if name in data}


def read_data(run: Path) -> dict[str, str]:
    """What a run remembers of its data and its start.

    Raises:
        TrainingError: It cannot be read.
    """
    path = run / DATA
    try:
        data: dict[str, str] = json.loads(path.read_text())
        data["shards_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is damaged: {error!r}; put it back from a copy, or delete {run} to train it "
            f"again"
        ) from error
    return data


def weights_digest(model: Path) -> str:
    """SHA-256 of a saved model's weights.

    Raises:
        RegistryError: It is not a saved model.
    """
    try:
        with (model / WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RegistryError(f"{model}: not a saved model: {error}") from error


def _check(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], axes: Mapping[str, int], start: Path
) -> None:
    def shape(tensors: Mapping[str, Tensor], name: str) -> list[int]:
        sizes = list(tensors[name].shape)
        if name in axes and axes[name] < len(sizes):
            sizes[axes[name]] = -1  # any number of classes
        return sizes

    faults = [f"missing {name} {list(own[name].shape)}" for name in own.keys() - given.keys()]
    faults += [f"unknown {name} {list(given[name].shape)}" for name in given.keys() - own.keys()]
    faults += [
        f"{name} is {list(given[name].shape)}, expected {list(own[name].shape)}"
        for name in own.keys() & given.keys()
        if shape(own, name) != shape(given, name)
    ]
    if faults:
        raise TrainingError(f"cannot start from {start}: {'; '.join(sorted(faults))}")


def _is_of_others(saved: SavedModel, dataset: str) -> bool:
    # Of a model that does not say where its people are from, none is known to be one of these.
    return saved.origin.get("dataset", "") != dataset


def _numbered(subjects: Sequence[str]) -> dict[str, int]:
    return {subject: number for number, subject in enumerate(subjects)}
