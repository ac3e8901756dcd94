import multiprocessing
from pathlib import Path

import pytest

from raygait.experiments import tracking
from raygait.experiments.tracking import Run


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tracking.prepare(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


def _write(run: Run, worker: int) -> None:
    run.log_history([{"step": step, f"worker{worker}": step / 2} for step in range(1, 41)])


def test_a_runs_parameters_metrics_tags_and_artefacts_are_read_back(uri: str) -> None:
    run = tracking.open_run(uri, "tests", "one", parameters={"optim.learning_rate": 0.1})
    with tracking.closing(run):
        run.log_history([{"step": step, "loss": 1 / step} for step in range(1, 2101)])
        run.log_tags({"raygait.note": "hello"})
        run.log_text("text\n", "notes/a.txt")
    client = run.client()
    stored = client.get_run(run.run_id)
    assert stored.data.params == {"optim.learning_rate": "0.1"}
    assert stored.data.tags["raygait.note"] == "hello"
    assert stored.info.status == "FINISHED"
    history = client.get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [
        (step, 1 / step) for step in range(1, 2101)
    ]
    assert [item.path for item in client.list_artifacts(run.run_id, "notes")] == ["notes/a.txt"]


def test_a_block_that_raises_leaves_a_failed_run(uri: str) -> None:
    run = tracking.open_run(uri, "tests", "fails")
    with pytest.raises(KeyError), tracking.closing(run):
        raise KeyError
    assert run.client().get_run(run.run_id).info.status == "FAILED"


def test_a_stopped_block_leaves_a_killed_run(uri: str) -> None:
    run = tracking.open_run(uri, "tests", "stops")
    with pytest.raises(SystemExit), tracking.closing(run):
        raise SystemExit(143)
    assert run.client().get_run(run.run_id).info.status == "KILLED"


def test_a_point_that_says_when_it_was_measured_is_kept_once(uri: str) -> None:
    run = tracking.open_run(uri, "tests", "twice")
    points = [{"step": step, "loss": 1 / step, "unix_s": 1.7e9 + step / 4} for step in (1, 2, 3)]
    run.log_history(points[:2])
    run.log_history(points)
    history = run.client().get_metric_history(run.run_id, "loss")
    assert [(point.step, point.timestamp) for point in history] == [
        (step, 1_700_000_000_000 + 250 * step) for step in (1, 2, 3)
    ]
    assert run.steps("loss") == {1, 2, 3}
    assert run.steps("unix_s") == run.steps("nothing") == set()


def test_a_block_counts_although_the_server_does_not_hear_of_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Run("http://127.0.0.1:9", "tests", "0" * 32)
    with tracking.closing(away):
        pass
    assert "was not told that the run is finished" in caplog.text
    with pytest.raises(KeyError), tracking.closing(away):
        raise KeyError


def test_children_know_their_parent(uri: str) -> None:
    parent = tracking.open_run(uri, "tests", "parent")
    child = tracking.open_run(uri, "tests", "child", parent=parent)
    tags = parent.client().get_run(child.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.run_id


def test_several_processes_write_to_a_prepared_sqlite_store_at_once(uri: str) -> None:
    run = tracking.open_run(uri, "tests", "many")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_write, [(run, worker) for worker in range(3)])
    for worker in range(3):
        assert len(run.client().get_metric_history(run.run_id, f"worker{worker}")) == 40


def test_a_local_store_keeps_its_artefacts_beside_its_file(uri: str, tmp_path: Path) -> None:
    run = tracking.open_run(uri, "tests", "where")
    run.log_text("x", "x.txt")
    database = Path(uri.removeprefix("sqlite:///"))
    assert list((database.parent / "mlartifacts").rglob("x.txt"))


def test_without_an_address_the_environment_decides_and_then_a_file_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.prepare("") == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert tracking.prepare("").endswith("other.db")


def test_a_store_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"

    def killed(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking.os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.prepare(f"sqlite:///{database}")
    assert not database.exists()
    uri = tracking.prepare(f"sqlite:///{database}")
    run = tracking.open_run(uri, "e", "n")
    assert tracking.prepare(uri) == uri
    run.log_metrics({"loss": 1.0}, step=1)
    assert run.steps("loss") == {1}
    assert [path.name for path in tmp_path.glob(".mlflow-*")] == []
