"""Runs in MLflow: opened by a driver, written to from wherever the run computes.

Only plain values cross process borders: a tracking URI and a run id. Any MLflow tracking URI works;
without one, a sqlite file in the working directory is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_SOURCE_NAME

import raygait
from raygait.errors import RegistryError
from raygait.shards.writer import whole_file

logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
# The server takes at most 1000 metrics and 100 parameters a call.
_METRICS_A_CALL, _PARAMETERS_A_CALL = 1000, 100


@dataclass(frozen=True)
class Run:
    """One MLflow run, as it crosses process borders.

    Attributes:
        tracking_uri: Where the run is recorded.
        experiment: Name of its experiment.
        run_id: Its id there.
    """

    tracking_uri: str
    experiment: str
    run_id: str

    def client(self) -> MlflowClient:
        """A client of this run's server."""
        return MlflowClient(tracking_uri=self.tracking_uri)

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Record one value a metric at one step."""
        self.log_history([{"step": step, **values}])

    def log_history(self, points: Sequence[Mapping[str, float]]) -> None:
        """Record many steps in few calls; each point has a `step` and its metrics.

        A call takes whole points: whoever is killed between two calls has not sent half a step.
        """
        now_ms = int(time.time() * 1000)
        client = self.client()
        batch: list[Metric] = []
        for point in points:
            metrics = [
                Metric(name, float(value), now_ms, int(point["step"]))
                for name, value in point.items()
                if name != "step"
            ]
            if len(batch) + len(metrics) > _METRICS_A_CALL:
                client.log_batch(self.run_id, metrics=batch)
                batch = []
            batch += metrics
        if batch:
            client.log_batch(self.run_id, metrics=batch)

    def last_step(self, metric: str) -> int:
        """The highest step that the server has of a metric; 0 for none."""
        points = self.client().get_metric_history(self.run_id, metric)
        return max((point.step for point in points), default=0)

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        """Record parameters by dotted path."""
        parameters = [Param(name, str(value)) for name, value in values.items()]
        client = self.client()
        for start in range(0, len(parameters), _PARAMETERS_A_CALL):
            client.log_batch(self.run_id, params=parameters[start : start + _PARAMETERS_A_CALL])

    def log_tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        tags = [RunTag(name, value) for name, value in values.items()]
        self.client().log_batch(self.run_id, tags=tags)

    def log_dict(self, value: Mapping[str, Any], name: str) -> None:
        """Record a JSON artefact."""
        self.client().log_dict(self.run_id, dict(value), name)

    def log_text(self, text: str, name: str) -> None:
        """Record a text artefact."""
        self.client().log_text(self.run_id, text, name)

    def end(self, status: RunStatus = "FINISHED") -> None:
        """Close the run."""
        self.client().set_terminated(self.run_id, status)


def prepare(tracking_uri: str) -> str:
    """Make a tracking store ready before several processes write to it.

    Two processes that open a new sqlite store at the same time both try to create its tables and
    one fails; so the driver opens it once, first.

    Args:
        tracking_uri: An MLflow tracking URI; empty means `sqlite:///mlflow.db` here.

    Returns:
        The URI with a local path made absolute, so that it means the same in every process.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///")).absolute()
        database.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{database}"
    with quietly():
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    return uri


def open_run(
    tracking_uri: str,
    experiment: str,
    name: str,
    *,
    parent: Run | None = None,
    parameters: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Run:
    """Start a run.

    Args:
        tracking_uri: As `prepare` returned it.
        experiment: Made if it does not exist.
        name: Shown in the list of runs.
        parent: Run that this one belongs to, such as a sweep.
        parameters: Dotted path -> value.
        tags: Extra tags.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        experiment_id = client.create_experiment(
            experiment, artifact_location=_artifact_location(tracking_uri, experiment)
        )
    else:
        experiment_id = found.experiment_id
    all_tags = {
        MLFLOW_RUN_NAME: name,
        MLFLOW_SOURCE_NAME: f"raygait {raygait.__version__}",
        **(tags or {}),
    }
    if parent is not None:
        all_tags[MLFLOW_PARENT_RUN_ID] = parent.run_id
    created = client.create_run(experiment_id, tags=all_tags)
    run = Run(tracking_uri, experiment, created.info.run_id)
    run.log_parameters(parameters or {})
    return run


def find_run(tracking_uri: str, run_id: str) -> Run:
    """An existing run by its id.

    Raises:
        RegistryError: The server knows no such run.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        raise RegistryError(f"{tracking_uri} has no run {run_id!r}: {error}") from error
    experiment = client.get_experiment(found.info.experiment_id)
    return Run(tracking_uri, experiment.name, run_id)


def remembered_run(
    path: Path,
    tracking_uri: str,
    experiment: str,
    name: str,
    *,
    parameters: Mapping[str, Any] | None = None,
) -> Run:
    """The run that a folder belongs to: opened again if there is one, else a new one.

    A training run or a grid that goes on after its driver died thus goes on in the same MLflow
    run: its curves have no gap, and no run is left behind as if it were still going.

    Args:
        path: JSON file in the folder that remembers the run.
        tracking_uri: As `prepare` returned it; another server than the remembered one gets a new
            run.
        experiment: As for `open_run`.
        name: As for `open_run`.
        parameters: As for `open_run`.
    """
    known = recall_run(path)
    if known is not None and known.tracking_uri == tracking_uri:
        client = known.client()
        try:
            client.update_run(known.run_id, status="RUNNING")
        except MlflowException:
            logger.warning("%s: the server no longer has run %s", path, known.run_id)
        else:
            return known
    run = open_run(tracking_uri, experiment, name, parameters=parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(dataclasses.asdict(run), indent=2) + "\n").encode())
    return run


def recall_run(path: Path) -> Run | None:
    """The run that `remembered_run` wrote into this file; `None` if there is none."""
    try:
        return Run(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def closing(run: Run) -> Iterator[Run]:
    """Close a run when the block ends: finished, failed when it raised, killed when stopped."""
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


@contextlib.contextmanager
def using(tracking_uri: str) -> Iterator[None]:
    """Let MLflow's fluent functions talk to this server for a block, without remarks.

    Models can only be logged and downloaded through them, and they know one server at a time.
    """
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri)
    # Read at each download: a bar a file is no help in a log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with quietly():
            yield
    finally:
        mlflow.set_tracking_uri(before)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep MLflow's remarks on new tables, signatures and aliases out of the console."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mlflow")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Artefacts of a sqlite store lie beside its file; a server decides for itself."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    database = Path(tracking_uri.removeprefix("sqlite:///"))
    return (database.parent / "mlartifacts" / experiment).as_uri()
