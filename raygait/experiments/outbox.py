"""A run whose folder keeps all that MLflow is to be told, until MLflow has it.

A server may be away when a run starts, vanish while it goes on, or be out of reach of the machines
that compute. None of that is the run's concern: what it has to say lies in a JSON file of its
folder first, and is sent from there, now or by a later command.

Everything can be sent twice without harm. The run itself is found again by a key that is drawn
before the server is first asked, so that an answer which was lost makes no second run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from raygait.errors import RegistryError
from raygait.experiments import tracking
from raygait.experiments.tracking import Data, Run, RunStatus
from raygait.shards.writer import whole_file

logger = logging.getLogger(__name__)

OFFLINE = "offline"
"""The tracking URI of a run that is kept for later, see `Outbox.open`."""
_KEY = "raygait.key"
# Where there may be nobody at the moment. Of all others a failure is a mistake in the URI.
_REMOTE = ("http://", "https://", "databricks", "postgresql", "mysql", "mssql")
# Whoever sends comes back every few seconds; MLflow's own patience is four minutes, or fourteen
# with a server that takes calls and does not answer.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class Outbox:
    """What MLflow is to know of one run; takes what `tracking.Run` takes, and never fails on it.

    Args:
        path: The file, which an outbox that has begun has written.

    Raises:
        RegistryError: It is not there, or not an outbox.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connected: Run | None = None
        self._first: dict[str, Any] | None = None
        self._read()

    @classmethod
    def open(
        cls,
        path: Path,
        tracking_uri: str,
        experiment: str,
        name: str,
        *,
        parent: Run | Outbox | None = None,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        data: Sequence[Data] = (),
    ) -> Outbox:
        """Take what is known of a run when it starts, or goes on; `begin` keeps it.

        A folder goes on in the run that it has, so that its curves have no gap and no run is left
        behind as if it were still going. On another server it gets a new one, with all of its
        curves.

        Args:
            path: File in the run's folder.
            tracking_uri: As for `tracking.resolve`, or `offline`: nothing is sent before a
                command names a server.
            experiment: Made if it does not exist.
            name: Shown in the list of runs.
            parent: Run that this one belongs to, such as a sweep.
            parameters: Dotted path -> value; the first value of each is kept, as MLflow does.
            tags: Extra tags.
            data: What it reads.

        Raises:
            RegistryError: The tracking URI is none that can ever answer.
        """
        uri = tracking_uri if tracking_uri == OFFLINE else tracking.resolve(tracking_uri)
        if uri != OFFLINE and not uri.startswith(_REMOTE):
            tracking.prepare(uri)
        outbox = cls.__new__(cls)
        outbox.path = path
        outbox._connected = None
        outbox._first = {
            "tracking_uri": uri,
            "experiment": experiment,
            "run_id": "",
            "key": uuid.uuid4().hex,
            "name": name,
            "parent_run": parent.run_id if isinstance(parent, Run) else "",
            # From here, so that both can be moved to where there is a server.
            "parent_outbox": (
                os.path.relpath(parent.path, path.parent) if isinstance(parent, Outbox) else ""
            ),
            "status": "RUNNING",
            "parameters": {path: str(value) for path, value in (parameters or {}).items()},
            "tags": dict(tags or {}),
            "data": [dataclasses.asdict(one) for one in data],
            "points": [],
            "texts": {},
        }
        return outbox

    def begin(self) -> None:
        """Keep what `open` was given, beside what the folder has; the server is not asked.

        Not before the run may have the folder: one that is refused leaves the other's as it was.
        """
        if self._first is None:
            return
        first, there = self._first, {}
        with contextlib.suppress(OSError, ValueError):
            there = json.loads(self.path.read_text())
        for name in ("parameters", "texts"):
            first[name] |= there.get(name, {})
        first["tags"] = {**there.get("tags", {}), **first["tags"]}
        first["points"] = there.get("points", [])
        # On every server the same: whoever returns to one goes on in the run there.
        first["key"] = there.get("key") or first["key"]
        if all(there.get(name) == first[name] for name in ("tracking_uri", "experiment")):
            first["run_id"] = there.get("run_id", "")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.path, first)
        self._first = None

    def redirect(self, tracking_uri: str) -> None:
        """Send to another server from now on, as `open` does."""
        uri = tracking.resolve(tracking_uri)
        with self._change() as kept:
            if kept["tracking_uri"] != uri:
                kept |= {"tracking_uri": uri, "run_id": ""}
        self._connected = None

    @property
    def run_id(self) -> str:
        """The run's id; empty as long as MLflow has not heard of it."""
        return str(self._read()["run_id"])

    @property
    def tracking_uri(self) -> str:
        """Where it is sent to, or `offline`."""
        return str(self._read()["tracking_uri"])

    @property
    def experiment(self) -> str:
        """Name of its experiment."""
        return str(self._read()["experiment"])

    @property
    def status(self) -> str:
        """`RUNNING`, or how it has ended."""
        return str(self._read()["status"])

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Keep one value a metric at one step; the same again is the same point."""
        point = {"step": step, "unix_s": round(time.time(), 3), **values}
        with self._change() as kept:
            for earlier in kept["points"]:
                if {**earlier, "unix_s": point["unix_s"]} == point:
                    return
            kept["points"].append(point)

    def log_tags(self, values: Mapping[str, str]) -> None:
        """Keep tags."""
        with self._change() as kept:
            kept["tags"].update(values)

    def log_text(self, text: str, name: str) -> None:
        """Keep a text artefact."""
        with self._change() as kept:
            kept["texts"][name] = text

    def end(self, status: RunStatus = "FINISHED") -> None:
        """Keep how the run has ended, and send all that is kept, if the server takes it.

        One that has not begun has nothing to end.
        """
        if self._first is not None:
            return
        with self._change() as kept:
            kept["status"] = status
        self._connected = None
        self.try_to_connect()

    def try_to_connect(self) -> bool:
        """`connect`, or say that the server does not answer; offline it is not asked.

        Returns:
            Whether it does.
        """
        uri = self.tracking_uri
        if uri == OFFLINE:
            return False
        try:
            self.connect()
        except Exception as error:  # a server may fail in any way
            logger.warning(
                "MLflow does not answer at %s; what it is to know is kept in %s: %s",
                uri,
                self.path.parent,
                error,
            )
            return False
        return True

    def connect(self) -> Run:
        """The run in MLflow, which is made if it is not there, with all that is kept here.

        Raises:
            RegistryError: It is offline.
            Exception: Whatever a server that is away leads the client to; call it again later.
        """
        if self._connected is None:
            if self.tracking_uri == OFFLINE:
                raise RegistryError(f"{self.path}: no tracking URI yet, it is to stay offline")
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
            with self._lock():
                run = self._find() or self._make()
            kept = self._read()
            self._tell(run, kept)
            self._connected = run
        return self._connected

    def _find(self) -> Run | None:
        """The run that this outbox has in MLflow, unless somebody has deleted it there."""
        kept = self._read()
        uri = tracking.prepare(kept["tracking_uri"])
        run = Run(uri, kept["experiment"], kept["run_id"])
        if not run.run_id:
            return None
        try:
            found = run.client().get_run(run.run_id)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
        else:
            if found.info.lifecycle_stage == "active":
                return run
        logger.warning("%s: the server no longer has run %s", self.path, run.run_id)
        return None

    def _make(self) -> Run:
        kept = self._read()
        client = MlflowClient(tracking_uri=kept["tracking_uri"])
        experiment_id = tracking.find_experiment(client, kept["tracking_uri"], kept["experiment"])
        asked_before = client.search_runs(
            [experiment_id], f"tags.`{_KEY}` = '{kept['key']}'", max_results=1
        )
        if asked_before:
            run = Run(kept["tracking_uri"], kept["experiment"], asked_before[0].info.run_id)
        else:
            parent: Run | None = None
            if kept["parent_outbox"]:
                parent = Outbox(self.path.parent / kept["parent_outbox"]).connect()
            elif kept["parent_run"]:
                parent = Run(kept["tracking_uri"], kept["experiment"], kept["parent_run"])
            run = tracking.open_run(
                kept["tracking_uri"],
                kept["experiment"],
                kept["name"],
                parent=parent,
                tags={_KEY: kept["key"]},
            )
        _write(self.path, {**kept, "run_id": run.run_id})
        return run

    def _tell(self, run: Run, kept: Mapping[str, Any]) -> None:
        client = run.client()
        known = client.get_run(run.run_id)
        run.log_parameters(
            {
                name: value
                for name, value in kept["parameters"].items()
                if name not in known.data.params
            }
        )
        run.log_tags(kept["tags"])
        run.log_data([Data(**one) for one in kept["data"]])
        run.log_history(kept["points"])
        for name, text in kept["texts"].items():
            run.log_text(text, name)
        if known.info.status != kept["status"]:
            if kept["status"] == "RUNNING":
                client.update_run(run.run_id, status="RUNNING")
            else:
                run.end(kept["status"])

    def _read(self) -> dict[str, Any]:
        if self._first is not None:
            return self._first
        try:
            kept = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            kept = error
        if not isinstance(kept, dict) or "key" not in kept:
            raise RegistryError(
                f"{self.path}: no run has left here what MLflow is to know: {kept!r}"
            )
        return kept

    @contextlib.contextmanager
    def _change(self) -> Iterator[dict[str, Any]]:
        if self._first is not None:
            yield self._first
            return
        with self._lock():
            kept = self._read()
            yield kept
            _write(self.path, kept)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Trials of a grid, on any node, want their common parent at the same time."""
        with self.path.with_name(f".{self.path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(kept, indent=2) + "\n").encode())
