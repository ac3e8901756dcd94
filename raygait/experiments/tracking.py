"""Runs in MLflow: opened by a driver, written to from wherever the run computes.

Only plain values cross process borders: a tracking URI and a run id. Any MLflow tracking URI works;
without one, a sqlite file in the working directory is used. A run that must not depend on whether
the server answers is an `outbox.Outbox`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import mlflow
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_SOURCE_NAME

import raygait
from raygait.errors import RegistryError
from raygait.shards import reader
from raygait.shards.schema import SCHEMA

logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
# The server takes at most 1000 metrics and 100 parameters a call.
_METRICS_A_CALL, _PARAMETERS_A_CALL = 1000, 100
# Of a point: where it is on the axes, and when it was measured. All else are metrics.
_STEP, _TIME = "step", "unix_s"
# What MLflow takes of a digest.
_DIGEST_LENGTH = 36


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

        A call takes whole points: whoever is killed between two calls has not sent half a step. A
        point with `unix_s`, when it was measured, may be sent again and again: a server that
        already has it, because only its answer was lost, keeps it once.
        """
        now_s = time.time()
        client = self.client()
        batch: list[Metric] = []
        for point in points:
            metrics = [
                Metric(name, float(value), int(1000 * point.get(_TIME, now_s)), int(point[_STEP]))
                for name, value in point.items()
                if name not in (_STEP, _TIME)
            ]
            if len(batch) + len(metrics) > _METRICS_A_CALL:
                client.log_batch(self.run_id, metrics=batch)
                batch = []
            batch += metrics
        if batch:
            client.log_batch(self.run_id, metrics=batch)

    def steps(self, metric: str) -> set[int]:
        """The steps that the server has of a metric."""
        points = self.client().get_metric_history(self.run_id, metric)
        return {point.step for point in points}

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

    def log_data(self, data: Sequence[Data]) -> None:
        """Record what the run reads; what is recorded already stays as it is."""
        inputs = [
            DatasetInput(one.to_mlflow(), [InputTag("mlflow.data.context", one.context)])
            for one in data
        ]
        if inputs:
            self.client().log_inputs(self.run_id, datasets=inputs)

    def log_text(self, text: str, name: str) -> None:
        """Record a text artefact."""
        self.client().log_text(self.run_id, text, name)

    def connect(self) -> Run:
        """The run itself, see `outbox.Outbox`."""
        return self

    def end(self, status: RunStatus = "FINISHED") -> None:
        """Close the run."""
        self.client().set_terminated(self.run_id, status)


@dataclass(frozen=True)
class Data:
    """A folder of shards that a run reads, as MLflow shows it.

    Attributes:
        name: Names of its data sets.
        digest: `reader.digest` of the folder: equal digests, equal rows.
        source: The folder.
        num_rows: Sequences in it.
        num_subjects: People who walk in them.
        context: What they are for.
    """

    name: str
    digest: str
    source: str
    num_rows: int
    num_subjects: int
    context: str = "training"

    def to_mlflow(self) -> Dataset:
        """The entity that MLflow stores; the digest is cut, its profile has the whole."""
        profile = {
            "num_rows": self.num_rows,
            "num_subjects": self.num_subjects,
            "digest": self.digest,
        }
        columns = [
            {"type": _column_type(field.type), "name": field.name, "required": not field.nullable}
            for field in SCHEMA
        ]
        return Dataset(
            name=self.name,
            digest=self.digest[:_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": self.source}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps(profile),
        )


def data_of(shards: Path) -> Data:
    """What MLflow is to know of a folder of shards; two small columns are read.

    Raises:
        ShardError: The shards are not there, not finished, or damaged.
    """
    rows = reader.read_rows(shards, columns=["dataset", "subject"])
    return Data(
        name="+".join(sorted(set(rows["dataset"].to_pylist()))) or shards.name,
        digest=reader.digest(shards),
        source=str(shards.absolute()),
        num_rows=len(rows),
        num_subjects=len(set(rows["subject"].to_pylist()) - {""}),
    )


def _column_type(kind: pa.DataType) -> str:
    """MLflow's word for the type of a column; lists are of what they hold."""
    if pa.types.is_list(kind):
        return _column_type(kind.value_type)
    words = {"int32": "integer", "int64": "long", "bool": "boolean", "large_binary": "binary"}
    return words.get(str(kind), str(kind))


class Closes(Protocol):
    """A run that can be closed."""

    def end(self, status: RunStatus = "FINISHED") -> None:
        """Close it."""


ClosesT = TypeVar("ClosesT", bound=Closes)


def resolve(tracking_uri: str) -> str:
    """A tracking URI that means the same in every process; the server is not asked.

    Args:
        tracking_uri: An MLflow tracking URI; empty means `MLFLOW_TRACKING_URI`, and without that
            `sqlite:///mlflow.db` here.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def prepare(tracking_uri: str) -> str:
    """Make a tracking store ready before several processes write to it.

    Two processes that open a new sqlite store at the same time both try to create its tables and
    one fails; so the driver opens it once, first.

    Args:
        tracking_uri: As for `resolve`.

    Returns:
        What `resolve` returns.

    Raises:
        RegistryError: The server does not answer, or nothing can be stored there.
    """
    uri = resolve(tracking_uri)
    try:
        if uri.startswith("sqlite:///"):
            path, _, query = uri.removeprefix("sqlite:///").partition("?")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            if not query and "%" not in path:  # else the file has another name
                _make_whole(Path(path))
        with quietly():
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:  # whatever the store's own library raises
        raise RegistryError(f"MLflow cannot be used at {uri}: {error}") from error
    return uri


def _make_whole(database: Path) -> None:
    """Make a sqlite store that is not there yet; whoever is killed meanwhile leaves none.

    MLflow makes the tables one by one, and a store with some of them is of no use to it.
    """
    if database.exists():
        return
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=database.parent) as folder:
        new = Path(folder) / database.name
        with quietly():
            MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
        try:
            os.link(new, database)
        except FileExistsError:
            pass  # another process was faster
        except OSError:  # a file system without links
            new.replace(database)


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
    experiment_id = find_experiment(client, tracking_uri, experiment)
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


def find_experiment(client: MlflowClient, tracking_uri: str, experiment: str) -> str:
    """Id of an experiment, which is made if it does not exist."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        location = _artifact_location(tracking_uri, experiment)
        return str(client.create_experiment(experiment, artifact_location=location))
    return str(found.experiment_id)


def recall_run(path: Path) -> Run | None:
    """The run whose outbox this file is; `None` if there is none, or none in MLflow yet."""
    try:
        kept = json.loads(path.read_text())
        run = Run(kept["tracking_uri"], kept["experiment"], kept["run_id"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return run if run.run_id else None


@contextlib.contextmanager
def closing(run: ClosesT) -> Iterator[ClosesT]:
    """Close a run when the block ends: finished, failed when it raised, killed when stopped.

    What the block did counts, not whether the server hears of it.
    """
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        _end(run, "KILLED")
        raise
    except BaseException:
        _end(run, "FAILED")
        raise
    _end(run, "FINISHED")


def _end(run: Closes, status: RunStatus) -> None:
    try:
        run.end(status)
    except Exception as error:  # a server may fail in any way
        logger.warning("MLflow was not told that the run is %s: %s", status.lower(), error)


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
