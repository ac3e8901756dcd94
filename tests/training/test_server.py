"""A real MLflow server that is killed and comes back while a run goes on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raygait.experiments.outbox import Outbox
from raygait.experiments.tracking import Run
from raygait.training.record import Recorder
from raygait.training.watching import send, watched


class Server:
    """`mlflow server` on a sqlite file, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"),
                *("--artifacts-destination", str(self._folder / "artifacts")),
                *("--host", "127.0.0.1", "--port", str(self._port)),
            ],
            cwd=self._folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while True:
            assert self._process.poll() is None, "the server did not start"
            assert time.monotonic() < deadline, "the server did not answer in 120 s"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).read()
                return
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # So that a call which meets nobody ends at once, and the looks that find nobody are many.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made = Server(tmp_path)
    try:
        yield made
    finally:
        made.kill()


def _curve(run: Run, metric: str) -> list[tuple[int, float]]:
    history = run.client().get_metric_history(run.run_id, metric)
    return sorted((point.step, point.value) for point in history)


def _record_steps(recorder: Recorder, first: int, last: int, *, every_s: float) -> None:
    for step in range(first, last + 1):
        point = {f"metric_{number}": step + number / 8 for number in range(8)}
        recorder.add({"step": step, "loss": 1 / step, **point})
        recorder.flush()
        if step % 50 == 0:
            recorder.evaluated(step, {"validation/casiab/NM/rank1": float(step)})
        time.sleep(every_s)


@pytest.mark.timeout(400)
def test_a_server_that_dies_and_comes_back_has_every_step_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.json").write_text("{}")
    recorder = Recorder(folder)
    outbox = Outbox.open(folder / "mlflow.json", server.uri, "tests", "run", parameters={"seed": 0})
    # Nobody is there when the run starts.
    with watched(folder, outbox, 300, every_s=0.02):
        _record_steps(recorder, 1, 50, every_s=0.01)
        server.start()
        # It dies while it is being written to,
        _record_steps(recorder, 51, 150, every_s=0.02)
        server.kill()
        # is away,
        _record_steps(recorder, 151, 200, every_s=0.01)
        server.start()
        _record_steps(recorder, 201, 250, every_s=0.02)
        server.kill()
        # and does not see the end.
        _record_steps(recorder, 251, 300, every_s=0.01)
    outbox.end("FINISHED")
    said = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("MLflow does not answer at") for message in said)
    assert any("MLflow does not take the curves" in message for message in said)
    assert any(f"--send {folder}" in message for message in said)

    server.start()
    later = Outbox(folder / "mlflow.json")
    assert send(folder, later)
    assert send(folder, Outbox(folder / "mlflow.json"))
    run = later.connect()
    stored = run.client().get_run(run.run_id)
    assert (stored.info.status, stored.data.params) == ("FINISHED", {"seed": "0"})
    assert _curve(run, "loss") == [(step, 1 / step) for step in range(1, 301)]
    for number in range(8):
        expected = [(step, step + number / 8) for step in range(1, 301)]
        assert _curve(run, f"metric_{number}") == expected
    assert _curve(run, "validation/casiab/NM/rank1") == [
        (step, float(step)) for step in range(50, 301, 50)
    ]
    experiment = run.client().get_experiment_by_name("tests")
    assert len(run.client().search_runs([experiment.experiment_id])) == 1
    artefacts = [item.path for item in run.client().list_artifacts(run.run_id)]
    assert artefacts == ["recipe.json"]
