"""A model on disk: weights, the recipe they were trained by, and what its classes mean.

    <folder>/model.safetensors    weights, no code
    <folder>/recipe.json          the whole recipe, so architecture, input size and switches
    <folder>/model.json           format version, training subjects in class order, versions, origin

Nothing in the folder is pickled, so a folder from a stranger can be read safely.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydantic
import safetensors.torch
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import nn

import raygait
from raygait.batches.clips import fit_frames, scale_to_unit
from raygait.errors import ModelInputError, RecipeError, RegistryError
from raygait.recipes.schema import Recipe, build_model, from_json

FORMAT_VERSION = 1
WEIGHTS, RECIPE, DESCRIPTION = "model.safetensors", "recipe.json", "model.json"


@dataclass(frozen=True)
class SavedModel:
    """A network ready to embed sequences.

    Attributes:
        network: The network in evaluation mode.
        recipe: What it was trained by.
        subjects: Training subjects, in class order.
        step: Optimiser steps it has seen; 0 for an untrained network.
        origin: Where it comes from (shard digest, package versions), for provenance.
    """

    network: nn.Module
    recipe: Recipe
    subjects: tuple[str, ...]
    step: int
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def embed(self, frames: UInt8[ndarray, "n t h w"]) -> Float32[ndarray, "n p d"]:
        """Embed sequences of equal length, every frame used.

        Args:
            frames: Aligned silhouettes, 0..255, as the shards hold them ([n, t, 64, 64]) or
                already cut to the recipe's proportions.

        Raises:
            ModelInputError: Not four dimensions, not uint8, or a size the recipe does not have.
        """
        if frames.ndim != 4 or frames.dtype != np.uint8:
            raise ModelInputError(
                f"expected uint8 frames [n, t, h, w], got {frames.dtype} {list(frames.shape)}"
            )
        data = self.recipe.data
        try:
            fitted = fit_frames(frames, data.height_px, data.width_px)
        except ValueError as error:
            raise ModelInputError(
                f"expected frames that become {data.height_px} x {data.width_px}, got "
                f"{frames.shape[2]} x {frames.shape[3]}: {error}"
            ) from error
        clips = torch.from_numpy(scale_to_unit(fitted))[:, None]
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            embedding = self.network(clips.to(device)).embedding
        return np.asarray(embedding.float().cpu().numpy(), dtype=np.float32)


def initial_model(recipe: Recipe, subjects: Sequence[str]) -> SavedModel:
    """The network as the recipe's seed initialises it, before any training."""
    torch.manual_seed(recipe.seed)
    network = build_model(recipe, len(subjects)).eval()
    return SavedModel(network, recipe, tuple(subjects), step=0)


def save_model(
    folder: Path,
    network: nn.Module,
    recipe: Recipe,
    subjects: Sequence[str],
    *,
    step: int,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write a network into a folder that `load_model` reads.

    Args:
        folder: Made if missing; files of the same names are replaced.
        network: The bare network, not wrapped for distribution.
        recipe: What it was trained by.
        subjects: Training subjects in class order.
        step: Optimiser steps it has seen.
        origin: Anything that says where it comes from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(weights, str(folder / WEIGHTS))
    (folder / RECIPE).write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")
    description = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "subjects": list(subjects),
        "origin": {"raygait": raygait.__version__, "torch": torch.__version__, **(origin or {})},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_model(folder: Path) -> SavedModel:
    """Read a folder that `save_model` wrote, onto the CPU. No code in it is run.

    Args:
        folder: A checkpoint, or the artefacts of a registered version.

    Raises:
        RegistryError: A file is missing or damaged, the format version is unknown, or the weights
            do not fit the recipe; the message names the tensors.
    """
    try:
        text = (folder / DESCRIPTION).read_text()
        # First: a newer format may have anything else in it.
        version = _Version.model_validate_json(text).format_version
        if version != FORMAT_VERSION:
            raise RegistryError(
                f"{folder}: saved model has format version {version}, this raygait reads "
                f"{FORMAT_VERSION}"
            )
        description = _Description.model_validate_json(text)
        recipe = from_json((folder / RECIPE).read_text())
        weights = safetensors.torch.load_file(str(folder / WEIGHTS))
    except (OSError, ValueError, RecipeError, safetensors.SafetensorError) as error:
        raise RegistryError(f"{folder}: not a saved model: {error}") from error
    network = build_model(recipe, len(description.subjects))
    load_weights(network, weights, where=str(folder))
    return SavedModel(
        network=network.eval(),
        recipe=recipe,
        subjects=description.subjects,
        step=description.step,
        origin=description.origin,
    )


class _Version(pydantic.BaseModel):
    format_version: int


class _Description(_Version):
    step: int
    subjects: tuple[str, ...]
    origin: dict[str, str]


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Load weights that have to fit exactly.

    Raises:
        RegistryError: Tensors are missing, left over, or of another shape; all are named.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [f"missing {name} {own[name]}" for name in own.keys() - given.keys()]
    faults += [f"unknown {name} {given[name]}" for name in given.keys() - own.keys()]
    faults += [
        f"{name} is {given[name]}, expected {own[name]}"
        for name in own.keys() & given.keys()
        if own[name] != given[name]
    ]
    if faults:
        raise RegistryError(f"{where}: weights do not fit the recipe: {'; '.join(sorted(faults))}")
    network.load_state_dict(dict(weights))
