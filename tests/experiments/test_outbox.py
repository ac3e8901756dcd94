"""What a run has to tell MLflow is kept in its folder until MLflow has it, once."""

import json
import logging
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raygait.errors import RegistryError
from raygait.experiments import tracking
from raygait.experiments.outbox import OFFLINE, Outbox
from raygait.experiments.tracking import Data

NOBODY = "http://127.0.0.1:9"
DATA = Data("walkers", "ab" * 32, "/shards", num_rows=96, num_subjects=6)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tracking.prepare(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


def _begun(path: Path, tracking_uri: str, **known) -> Outbox:
    outbox = Outbox.open(path, tracking_uri, "tests", "one", **known)
    outbox.begin()
    return outbox


def _runs(uri: str, key: str) -> list:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tests")
    return client.search_runs([experiment.experiment_id], f"tags.`raygait.key` = '{key}'")


def _key(path: Path) -> str:
    return str(json.loads(path.read_text())["key"])


def test_all_that_is_kept_arrives(uri: str, tmp_path: Path) -> None:
    outbox = _begun(
        tmp_path / "mlflow.json",
        uri,
        parameters={"optim.learning_rate": 0.1, "clip.order": "ordered"},
        tags={"raygait.note": "hello"},
        data=[DATA],
    )
    outbox.log_metrics({"casiab/NM/rank1": 50.0}, step=3)
    outbox.log_text("a table\n", "grid.txt")
    outbox.end()
    client = MlflowClient(tracking_uri=uri)
    stored = client.get_run(outbox.run_id)
    assert stored.data.params == {"optim.learning_rate": "0.1", "clip.order": "ordered"}
    assert stored.data.tags["raygait.note"] == "hello"
    assert stored.data.metrics == {"casiab/NM/rank1": 50.0}
    assert stored.info.status == "FINISHED"
    (read,) = stored.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("walkers", ("ab" * 32)[:36])
    assert json.loads(read.dataset.source) == {"uri": "/shards"}
    assert json.loads(read.dataset.profile)["num_rows"] == 96
    columns = json.loads(read.dataset.schema)["mlflow_colspec"]
    assert {"type": "binary", "name": "silhouettes", "required": True} in columns
    assert [(tag.key, tag.value) for tag in read.tags] == [("mlflow.data.context", "training")]
    artefact = client.download_artifacts(outbox.run_id, "grid.txt", str(tmp_path))
    assert Path(artefact).read_text() == "a table\n"


def test_nothing_arrives_twice_and_a_folder_goes_on_in_its_run(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.json"
    outbox = _begun(path, uri, parameters={"seed": 0}, data=[DATA])
    outbox.log_metrics({"loss": 2.0}, step=1)
    outbox.end("KILLED")
    again = _begun(path, uri, parameters={"seed": 1, "new": 2}, data=[DATA])
    assert again.connect() == outbox.connect()
    client = MlflowClient(tracking_uri=uri)
    stored = client.get_run(again.run_id)
    assert stored.info.status == "RUNNING"
    assert stored.data.params == {"seed": "0", "new": "2"}
    assert len(stored.inputs.dataset_inputs) == 1
    assert len(client.get_metric_history(again.run_id, "loss")) == 1


def test_an_answer_that_was_lost_makes_no_second_run(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.json"
    first = _begun(path, uri).connect()
    # The server has made the run, and this side was killed before it could note the id.
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": ""}))
    assert Outbox(path).connect() == first
    assert len(_runs(uri, _key(path))) == 1


def test_without_an_answer_all_is_kept_and_said_and_sent_later(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.json"
    outbox = _begun(path, NOBODY, parameters={"seed": 0})
    assert not outbox.try_to_connect()
    outbox.log_metrics({"loss": 2.0}, step=1)
    outbox.end("FAILED")
    assert f"MLflow does not answer at {NOBODY}" in caplog.text
    assert (outbox.run_id, tracking.recall_run(path)) == ("", None)
    later = Outbox(path)
    later.redirect(uri)
    run = later.connect()
    stored = run.client().get_run(run.run_id)
    assert (stored.data.params, stored.info.status) == ({"seed": "0"}, "FAILED")
    assert run.steps("loss") == {1}
    assert tracking.recall_run(path) == run


def test_offline_nobody_is_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outbox = _begun(tmp_path / "mlflow.json", OFFLINE)
    outbox.end()
    assert not outbox.run_id
    assert not caplog.records


def test_a_server_that_is_returned_to_knows_the_run(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.json"
    other = tracking.prepare(f"sqlite:///{tmp_path}/other.db")
    first = _begun(path, uri).connect()
    assert _begun(path, other).connect().tracking_uri == other
    assert _begun(path, uri).connect() == first


def test_a_run_that_somebody_deleted_is_replaced(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.json"
    outbox = _begun(path, uri)
    first = outbox.connect()
    first.client().delete_run(first.run_id)
    assert Outbox(path).connect().run_id != first.run_id
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": "0" * 32}))
    assert Outbox(path).connect().run_id != "0" * 32


def test_a_server_that_fails_does_not_count_as_one_that_lost_the_run(
    uri: str, tmp_path: Path
) -> None:
    path, database = tmp_path / "mlflow.json", uri.removeprefix("sqlite:///")
    first = _begun(path, uri).connect()
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE runs RENAME TO hidden")
    with pytest.raises(Exception, match="no such table"):
        Outbox(path).connect()
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO runs")
    assert Outbox(path).connect() == first


def test_one_that_has_not_begun_leaves_what_is_there(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.json"
    _begun(path, uri, parameters={"seed": 0}).end()
    before = path.read_text()
    with pytest.raises(KeyError), tracking.closing(Outbox.open(path, uri, "tests", "two")):
        raise KeyError
    assert path.read_text() == before
    run = Outbox(path).connect()
    assert run.client().get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("parent_is_kept", [True, False])
def test_children_know_their_parent(uri: str, tmp_path: Path, parent_is_kept: bool) -> None:
    parent = (
        _begun(tmp_path / "parent.json", uri)
        if parent_is_kept
        else tracking.open_run(uri, "tests", "parent")
    )
    child = _begun(tmp_path / "child.json", uri, parent=parent).connect()
    tags = child.client().get_run(child.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.connect().run_id


def test_a_uri_that_can_never_answer_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (f"sqlite:///{tmp_path}/file/mlflow.db", "gopher://nowhere"):
        with pytest.raises(RegistryError, match="MLflow cannot be used at"):
            Outbox.open(tmp_path / "mlflow.json", wrong, "tests", "one")
    assert not (tmp_path / "mlflow.json").exists()


@pytest.mark.parametrize("text", [None, "{", '{"tracking_uri": "x", "run_id": "y"}'])
def test_what_is_no_outbox_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "mlflow.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RegistryError, match="no run has left here"):
        Outbox(path)


def test_what_was_kept_offline_can_be_moved_to_where_there_is_a_server(
    uri: str, tmp_path: Path
) -> None:
    for name in ("grid", "grid/cell"):
        (tmp_path / "here" / name).mkdir(parents=True)
    parent = _begun(tmp_path / "here" / "grid" / "mlflow.json", OFFLINE)
    _begun(tmp_path / "here" / "grid" / "cell" / "mlflow.json", OFFLINE, parent=parent)
    (tmp_path / "here").rename(tmp_path / "there")
    outboxes = [Outbox(tmp_path / "there" / name / "mlflow.json") for name in ("grid", "grid/cell")]
    for outbox in outboxes:
        outbox.redirect(uri)
    above, below = (outbox.connect() for outbox in outboxes)
    tags = below.client().get_run(below.run_id).data.tags
    assert tags["mlflow.parentRunId"] == above.run_id


def test_the_same_number_again_is_the_same_point(uri: str, tmp_path: Path) -> None:
    outbox = _begun(tmp_path / "mlflow.json", uri)
    for _ in range(2):
        outbox.log_metrics({"casiab/NM/rank1": 50.0})
        outbox.log_metrics({"casiab/BG/rank1": 40.0})
        outbox.end()
    client = MlflowClient(tracking_uri=uri)
    assert len(client.get_metric_history(outbox.run_id, "casiab/NM/rank1")) == 1
