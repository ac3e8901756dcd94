import logging
from pathlib import Path

import pytest

from raygait.experiments import tracking
from raygait.experiments.tracking import Run
from raygait.training.environment import note_environment
from raygait.training.record import Recorder, read_history
from raygait.training.watching import send, watched


@pytest.fixture
def run(tmp_path: Path) -> Run:
    uri = tracking.prepare(f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tracking.open_run(uri, "tests", "curves")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    (tmp_path / "run").mkdir()
    return Recorder(tmp_path / "run")


def _record(recorder: Recorder, *steps: int) -> None:
    for step in steps:
        recorder.add({"step": step, "loss": 1 / step, "accuracy": 0.5})
    recorder.flush()


def _sent(run: Run, metric: str) -> list[int]:
    return [point.step for point in run.client().get_metric_history(run.run_id, metric)]


def test_a_second_command_sends_what_the_first_has_not_and_nothing_twice(
    tmp_path: Path, run: Run, recorder: Recorder
) -> None:
    with watched(tmp_path / "run", run, 6, every_s=0.01):
        _record(recorder, 1, 2)
        recorder.evaluated(2, {"validation/casiab/NM/rank1": 40.0})
    _record(recorder, 3)  # by a worker whose command was killed
    with watched(tmp_path / "run", run, 6, every_s=0.01):
        _record(recorder, 4, 5, 6)
        recorder.evaluated(4, {"validation/casiab/NM/rank1": 60.0})
    assert _sent(run, "loss") == _sent(run, "accuracy") == [1, 2, 3, 4, 5, 6]
    assert _sent(run, "validation/casiab/NM/rank1") == [2, 4]


def test_a_server_that_is_away_is_mentioned_once_and_gets_it_all_later(
    tmp_path: Path,
    run: Run,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Run("http://127.0.0.1:9", "tests", "0" * 32)
    with watched(tmp_path / "run", away, 4, every_s=0.01):
        _record(recorder, 1)
        _record(recorder, 2)
    assert sum("MLflow does not take" in record.message for record in caplog.records) == 1
    assert sum("--send" in record.message for record in caplog.records) == 1
    with watched(tmp_path / "run", run, 4, every_s=0.01):
        _record(recorder, 3)
    assert _sent(run, "loss") == [1, 2, 3]


def test_a_step_that_never_arrived_is_sent_although_later_ones_did(
    tmp_path: Path, run: Run, recorder: Recorder
) -> None:
    _record(recorder, 1, 2, 3)
    run.log_history(read_history(tmp_path / "run" / "history.jsonl")[::2])
    assert send(tmp_path / "run", run)
    assert sorted(_sent(run, "loss")) == [1, 2, 3]


def test_recipe_and_environment_arrive_as_files_and_again_when_they_change(
    tmp_path: Path, run: Run, recorder: Recorder
) -> None:
    def stored(name: str) -> str:
        folder = tmp_path / "down"
        folder.mkdir(exist_ok=True)
        return Path(run.client().download_artifacts(run.run_id, name, str(folder))).read_text()

    (tmp_path / "run" / "recipe.json").write_text('{"name": "small"}')
    note_environment(tmp_path / "run", 0, {"num_workers": 2})
    with watched(tmp_path / "run", run, 4, every_s=0.01):
        _record(recorder, 1)
    assert stored("recipe.json") == '{"name": "small"}'
    assert stored("environment.jsonl") == '{"step": 0, "num_workers": 2}\n'
    with watched(tmp_path / "run", run, 4, every_s=0.01):
        note_environment(tmp_path / "run", 1, {"num_workers": 1})
    assert stored("environment.jsonl").count("\n") == 2


def test_events_scores_and_steps_are_logged_once(
    tmp_path: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="raygait")
    recorder.say(0, "said by an earlier command")
    with watched(tmp_path / "run", None, 3, every_s=0.01):
        _record(recorder, 1, 2)
        recorder.say(2, "a damaged checkpoint is left out")
        recorder.evaluated(
            2, {"validation/casiab/NM/rank1": 41.26, "validation/casiab/BG/rank1": 7.0}
        )
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "damaged" in line] == [
        "step 2: a damaged checkpoint is left out"
    ]
    assert not any("earlier" in line for line in lines)
    assert sum("NM 41.3  BG 7.0" in line for line in lines) == 1
    assert any(line.startswith("step 2/3  loss 0.500") for line in lines)
