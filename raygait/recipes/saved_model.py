"""A model on disk: weights, the recipe they were trained by, and what its classes mean.

    <folder>/model.safetensors    weights, no code
    <folder>/recipe.json          the whole recipe, so architecture, input size and switches
    <folder>/model.json           format version, training subjects in class order, versions,
                                  origin; the SHA-256 of every other file, and its own

Nothing in the folder is pickled, so a folder from a stranger can be read safely.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydantic
import safetensors.torch
import torch
from jaxtyping import Float32, Shaped
from numpy import ndarray
from torch import nn

import raygait
from raygait.batches.inputs import (
    INPUTS,
    Modality,
    accepted_inputs,
    fit_clip,
    only_accepted,
    to_floats,
)
from raygait.errors import ModelInputError, RecipeError, RegistryError
from raygait.recipes.schema import Recipe, build_model, from_json

FORMAT_VERSION = 1
# Everything else is in bytes.
_TYPES = {"joints": np.float32, "ratios": np.float32}
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

    def embed(
        self, inputs: Shaped[ndarray, "n t *frame"] | Mapping[str, ndarray]
    ) -> Float32[ndarray, "n p d"]:
        """Embed sequences of equal length, every frame used.

        Args:
            inputs: What the recipe's modality has, as the shards hold it: named arrays, or
                `frames` alone.

                `frames`, uint8: aligned silhouettes [n, t, 64, 64] or [n, t, 128, 128], heatmaps
                [n, t, 17, 64, 48] of which 255 is 1.0, redrawn ones [n, t, 2, 64, 64], RGB crops
                [n, t, 128, 128, 3]; all of them also with fewer columns on both sides.
                `joints`, beside heatmaps: [n, t, 17, 3], x and y in pixels of the heatmaps, score.
                `masks`, beside RGB: [n, t, 128, 128] uint8, 255 is the person.
                `ratios`, beside RGB: [n, t], width over height of a crop before it was squared.

                What the network has no use for is not looked at.

        Raises:
            ModelInputError: A name that the modality does not have, another rank, type or length,
                a size that the recipe does not have, or the network needs what is not there.
        """
        arrays = inputs if isinstance(inputs, Mapping) else {"frames": inputs}
        data = self.recipe.data
        accepted = accepted_inputs(self.network)
        _check(arrays, data.modality)
        used = {"frames": arrays["frames"], **only_accepted(arrays, accepted)}
        try:
            fitted = fit_clip(used, data.modality, data.height_px, data.width_px)
        except ValueError as error:
            raise ModelInputError(
                f"expected frames that become {data.height_px} x {data.width_px}, got "
                f"{list(arrays['frames'].shape)}: {error}"
            ) from error
        device = next(self.network.parameters()).device
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(values)).to(device)
            for name, values in to_floats(fitted).items()
        }
        frames = tensors.pop("frames")
        with torch.inference_mode():
            embedding = self.network(frames, **tensors).embedding
        return np.asarray(embedding.float().cpu().numpy(), dtype=np.float32)

    def blank_inputs(self, num: int = 2, num_frames: int = 12) -> dict[str, ndarray]:
        """Named arrays that `embed` takes, in which nothing is seen."""
        names = {"frames", *accepted_inputs(self.network)}
        return {
            name: np.full((num, num_frames, *shape), name == "ratios", _TYPES.get(name, np.uint8))
            for name, shape in INPUTS[self.recipe.data.modality].items()
            if name in names
        }


def _check(arrays: Mapping[str, ndarray], modality: Modality) -> None:
    """Refuse what is not shaped or called as `SavedModel.embed` says."""
    known = INPUTS[modality]
    if "frames" not in arrays or not arrays.keys() <= known.keys():
        raise ModelInputError(f"{modality}: expected {', '.join(known)}, got {', '.join(arrays)}")
    height, width = (2, 3) if modality == "rgb" else (-2, -1)
    for name, values in arrays.items():
        expected = [*arrays["frames"].shape[:2], *known[name]]
        if name in ("frames", "masks") and values.ndim == len(expected):
            # Any size; whether it can become the recipe's is found out by `fit_clip`.
            for axis in (height, width):
                expected[axis] = values.shape[axis]
        is_right_type = name in _TYPES or values.dtype == np.uint8
        if list(values.shape) != expected or not is_right_type:
            raise ModelInputError(
                f"{modality}: expected {name} {_TYPES.get(name, np.uint8).__name__} "
                f"[n, t{''.join(f', {size}' for size in known[name])}] for the same n and t, got "
                f"{values.dtype} {list(values.shape)}"
            )


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
    beside: Sequence[str] = (),
) -> None:
    """Write a network into a folder that `load_model` reads.

    Args:
        folder: Made if missing; files of the same names are replaced.
        network: The bare network, not wrapped for distribution.
        recipe: What it was trained by.
        subjects: Training subjects in class order.
        step: Optimiser steps it has seen.
        origin: Anything that says where it comes from.
        beside: Names of files that are in the folder already and belong to it: their digests are
            written down too.
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
        "files": {name: _sha256(folder / name) for name in (WEIGHTS, RECIPE, *beside)},
    }
    description["sha256"] = _own_sha256(description)
    # Last: without it the folder is no saved model, and with an old one the digests do not fit.
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
        check_files(folder, only=(WEIGHTS, RECIPE))
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


def check_files(folder: Path, *, only: Sequence[str] | None = None) -> Mapping[str, str]:
    """Compare the files of a saved model with the digests in its description.

    A description without digests, as the first raygait wrote it, is not complained of.

    Args:
        folder: As `save_model` wrote it.
        only: Names of the files to look at; all that the description names if left out.

    Returns:
        File name -> SHA-256, as the description has it.

    Raises:
        RegistryError: The description or a file is damaged or missing; the message says which.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        files: dict[str, str] = description.get("files", {})
        own = description.pop("sha256", "")
        if own and own != _own_sha256(description):
            raise RegistryError(f"{folder}: {DESCRIPTION} is damaged: it is not what was written")
        for name, expected in files.items():
            if only is not None and name not in only:
                continue
            found = _sha256(folder / name)
            if found != expected:
                size = (folder / name).stat().st_size
                raise RegistryError(
                    f"{folder}: {name} is damaged: {size} bytes of sha256 {found[:12]}, written "
                    f"was {expected[:12]}"
                )
    except OSError as error:
        raise RegistryError(f"{folder}: not a saved model: {error}") from error
    except (ValueError, AttributeError) as error:
        raise RegistryError(f"{folder}: not a saved model: {DESCRIPTION}: {error}") from error
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_sha256(description: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


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
