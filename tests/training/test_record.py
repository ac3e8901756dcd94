import json
from pathlib import Path

import pytest

from raygait.errors import TrainingError
from raygait.training.record import Recorder, cut_torn_line, read_history, read_lines


def _steps(folder: Path) -> list[float]:
    return [point["step"] for point in read_history(folder / "history.jsonl")]


def test_a_step_is_on_record_once_however_often_it_is_repeated(tmp_path: Path) -> None:
    first = Recorder(tmp_path)
    for step in (1, 2, 3):
        first.add({"step": step, "loss": float(step)})
    first.flush()
    first.add({"step": 4, "loss": 4.0})  # never written: the worker is lost
    second = Recorder(tmp_path)
    for step in (2, 3, 4, 5):
        second.add({"step": step, "loss": -1.0})
    second.flush()
    second.flush()
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]
    assert [p["loss"] for p in read_history(tmp_path / "history.jsonl")] == [1, 2, 3, -1, -1]


def test_a_torn_last_line_neither_counts_nor_spoils_the_next(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert _steps(tmp_path) == [1, 2]
    recorder = Recorder(tmp_path)
    recorder.add({"step": 3})
    recorder.flush()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    cut_torn_line(tmp_path / "not there")


def test_scores_appear_at_the_step_they_are_of(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add({"step": 1, "loss": 3.0})
    recorder.add({"step": 2, "loss": 2.0})
    recorder.flush()
    recorder.evaluated(1, {"rank1_NM": 50.0})
    assert read_history(tmp_path / "history.jsonl") == [
        {"step": 1, "loss": 3.0, "rank1_NM": 50.0},
        {"step": 2, "loss": 2.0},
    ]


def test_a_worker_that_was_replaced_can_no_longer_write(tmp_path: Path) -> None:
    lost, successor = Recorder(tmp_path), Recorder(tmp_path)
    lost.add({"step": 1})
    with pytest.raises(TrainingError, match="goes on with this run"):
        lost.flush()
    with pytest.raises(TrainingError, match="goes on with this run"):
        lost.say(1, "something")
    successor.say(1, "mine")
    assert read_lines(tmp_path / "events.jsonl") == [{"step": 1, "event": "mine"}]
    assert _steps(tmp_path) == []


def test_a_folder_that_the_worker_cannot_see_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="folder that all nodes share"):
        Recorder(tmp_path / "elsewhere")


def test_lines_are_json_that_anybody_can_read(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add({"step": 1, "loss": 0.5})
    recorder.flush()
    assert json.loads((tmp_path / "history.jsonl").read_text()) == {"step": 1, "loss": 0.5}
