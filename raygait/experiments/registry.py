"""The model registry: a version is weights, recipe, signature and an example, under an alias."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

import raygait
from raygait.errors import ModelInputError, RegistryError
from raygait.experiments.resolve import resolve_model
from raygait.experiments.tracking import Run, using
from raygait.recipes.saved_model import SavedModel, load_model

_PACKAGE = Path(raygait.__file__).parent
# Packages that a loaded version needs: those the embedding path imports, at this installation's
# versions. Written out, because MLflow's guess starts a process and pins everything in sight.
_NEEDED = ("torch", "numpy", "safetensors", "pydantic", "docstring_parser", "jaxtyping", "mlflow")


@dataclass(frozen=True)
class ModelVersion:
    """One version in the registry.

    Attributes:
        name: Registered model.
        version: Its number, from 1.
        alias: Alias that now points to it; empty when none was asked for.
        uri: What `load` takes: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
    """

    name: str
    version: int
    alias: str
    uri: str


def register(
    checkpoint: Path,
    name: str,
    *,
    run: Run,
    alias: str = "",
    example: np.ndarray | Mapping[str, np.ndarray] | None = None,
    tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """Put a saved model into the registry.

    Args:
        checkpoint: Folder that `saved_model.load_model` reads.
        name: Registered model; made if it does not exist.
        run: Run the version belongs to.
        alias: Moved to the new version, `champion` for instance.
        example: What `SavedModel.embed` takes, stored as the input example; a blank one if left
            out. Its names and types become the version's signature; the batch size and the length
            are free whatever the example's are.
        tags: Tags of the version: the metrics it was chosen by, the shards it saw.

    Raises:
        RegistryError: The folder is not a saved model, or the server refused it.
        ModelInputError: The example is not one of the model's.
    """
    saved = load_model(checkpoint)
    if example is None:
        example = _blank_example(saved)
    embedding = saved.embed(example)
    signature = ModelSignature(
        inputs=Schema(
            [_spec(values, name) for name, values in example.items()]
            if isinstance(example, Mapping)
            else [_spec(example)]
        ),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *embedding.shape[1:]))]),
    )
    try:
        with using(run.tracking_uri):
            logged = _log(run, checkpoint, signature, example)
            client = run.client()
            _make_registered_model(client, name)
            version = client.create_model_version(
                name=name,
                source=logged.model_uri,
                run_id=run.run_id,
                model_id=logged.model_id,
                tags={
                    "architecture": saved.recipe.model.architecture,
                    "recipe": saved.recipe.name,
                    "modality": saved.recipe.data.modality,
                    "input": f"{saved.recipe.data.height_px}x{saved.recipe.data.width_px}",
                    "step": str(saved.step),
                    **(tags or {}),
                },
            )
            if alias:
                client.set_registered_model_alias(name, alias, version.version)
    except MlflowException as error:
        raise RegistryError(f"cannot register {checkpoint} as {name!r}: {error}") from error
    number = int(version.version)
    uri = f"models:/{name}@{alias}" if alias else f"models:/{name}/{number}"
    return ModelVersion(name=name, version=number, alias=alias, uri=uri)


def _blank_example(saved: SavedModel) -> np.ndarray | dict[str, np.ndarray]:
    """As little as the network can do with, so that a caller has to bring no more."""
    blank = saved.blank_inputs()
    if len(blank) == 1:
        return blank["frames"]
    # Masks are the truth of training. Only a network without a segmenter of its own needs them.
    without_masks = {name: values for name, values in blank.items() if name != "masks"}
    try:
        saved.embed(without_masks)
    except ModelInputError:
        return blank
    return without_masks


def _spec(values: np.ndarray, name: str | None = None) -> TensorSpec:
    return TensorSpec(values.dtype, (-1, -1, *values.shape[2:]), name)


def _log(
    run: Run,
    checkpoint: Path,
    signature: ModelSignature,
    example: np.ndarray | Mapping[str, np.ndarray],
) -> Any:
    """Store the artefacts in the run; the fluent API is the only one that writes models."""
    client = run.client()
    before = client.get_run(run.run_id).info.status
    with mlflow.start_run(run_id=run.run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": str(checkpoint)},
            code_paths=[str(_PACKAGE)],
            signature=signature,
            input_example=example if isinstance(example, np.ndarray) else dict(example),
            pip_requirements=[f"{p}=={importlib.metadata.version(p)}" for p in _NEEDED],
        )
    # Leaving the block above has marked the run as finished; a failed run stays failed.
    if before == "RUNNING":
        client.update_run(run.run_id, status=before)
    elif before != "FINISHED":
        client.set_terminated(run.run_id, before)
    return logged


def _make_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)


def load(uri: str, tracking_uri: str) -> SavedModel:
    """Load a registered version into this process.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        tracking_uri: Server that holds the registry.

    Raises:
        RegistryError: There is no such version, or what is stored there is not a raygait model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return load_model(resolve_model(uri, tracking_uri=tracking_uri, scratch=Path(scratch)))
