"""Find a model by what a person types: a folder, a run's folder, or a registered version."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from raygait.errors import RegistryError
from raygait.experiments.tracking import using
from raygait.recipes.saved_model import DESCRIPTION


def resolve_model(reference: str, *, tracking_uri: str, scratch: Path) -> Path:
    """The folder of a saved model.

    Args:
        reference: A checkpoint's folder; the folder of a training run, of which the newest
            checkpoint is taken; or `models:/NAME@ALIAS`, `models:/NAME/VERSION`.
        tracking_uri: Server that holds the registry.
        scratch: Where a registered version is downloaded to, into a new folder that is the
            caller's to remove; every worker has to see it.

    Raises:
        RegistryError: There is no such model.
    """
    if reference.startswith("models:/"):
        return _download(reference, tracking_uri, scratch)
    folder = Path(reference)
    if (folder / DESCRIPTION).is_file():
        return folder
    checkpoints = sorted(path.parent for path in folder.glob(f"checkpoint*/{DESCRIPTION}"))
    if not checkpoints:
        raise RegistryError(
            f"{reference} is no saved model, no training run's folder and no models:/ address"
        )
    return checkpoints[-1]


def pin_version(reference: str, *, tracking_uri: str) -> str:
    """`models:/NAME/VERSION` of an alias as it points now; any other reference as it is.

    Raises:
        RegistryError: There is no such model or alias.
    """
    name, at, alias = reference.removeprefix("models:/").partition("@")
    if not reference.startswith("models:/") or not at:
        return reference
    try:
        with using(tracking_uri):
            version = MlflowClient().get_model_version_by_alias(name, alias).version
    except MlflowException as error:
        raise RegistryError(f"cannot find {reference} in {tracking_uri}: {error}") from error
    return f"models:/{name}/{version}"


def _download(uri: str, tracking_uri: str, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="registered-", dir=scratch))
    try:
        with using(tracking_uri):
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target))
    except MlflowException as error:
        raise RegistryError(f"cannot load {uri} from {tracking_uri}: {error}") from error
    found = sorted(target.rglob(DESCRIPTION))
    if len(found) != 1:
        raise RegistryError(f"{uri} holds {len(found)} saved raygait models, expected 1")
    return found[0].parent
