import contextlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raygait.errors import TrainingError
from raygait.training.record import (
    Recorder,
    attempt,
    cut_torn_line,
    read_history,
    read_lines,
    take_over,
)


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
    assert path.read_text().startswith('{"step": 1}\n{"step": 2}\n{"step": 3, "unix_s"')
    assert _steps(tmp_path) == [1, 2, 3]
    cut_torn_line(tmp_path / "not there")


def test_scores_appear_at_the_step_they_are_of(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add({"step": 1, "loss": 3.0})
    recorder.add({"step": 2, "loss": 2.0})
    recorder.flush()
    recorder.evaluated(1, {"validation/casiab/NM/rank1": 50.0})
    history = read_history(tmp_path / "history.jsonl")
    first_s, second_s = (point.pop("unix_s") for point in history)
    assert 0 <= second_s - first_s < 60
    assert history == [
        {"step": 1, "loss": 3.0, "validation/casiab/NM/rank1": 50.0},
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
    line = json.loads((tmp_path / "history.jsonl").read_text())
    assert abs(line.pop("unix_s") - time.time()) < 60
    assert line == {"step": 1, "loss": 0.5}


class TestCommands:
    def test_the_newest_command_has_the_run(self, tmp_path: Path) -> None:
        first = take_over(tmp_path)
        writes = Recorder(tmp_path, first)
        writes.say(0, "mine")
        second = take_over(tmp_path)
        with pytest.raises(TrainingError, match="another command"):
            writes.say(1, "still mine")
        # Nor does a worker get it back that Ray puts in the place of the lost one.
        with pytest.raises(TrainingError, match="another command"):
            Recorder(tmp_path, first)
        Recorder(tmp_path, second).say(2, "no, mine")
        assert [line["event"] for line in read_lines(tmp_path / "events.jsonl")] == [
            "mine",
            "no, mine",
        ]

    def test_a_run_whose_folder_was_deleted_is_not_written_to(self, tmp_path: Path) -> None:
        recorder = Recorder(tmp_path, take_over(tmp_path))
        (tmp_path / ".command").unlink()
        with pytest.raises(TrainingError, match="another command"):
            recorder.say(1, "something")

    def test_an_error_of_its_own_ends_a_command_and_a_lost_worker_does_not(
        self, tmp_path: Path
    ) -> None:
        command = take_over(tmp_path)
        with pytest.raises(RuntimeError), attempt(tmp_path, command):
            raise RuntimeError("the process of rank 1 is gone")
        with pytest.raises(TrainingError), attempt(tmp_path, command):
            raise TrainingError("step 7: loss is nan")
        begun = False
        with pytest.raises(TrainingError, match="step 7: loss is nan"), attempt(tmp_path, command):
            begun = True
        assert not begun
        with attempt(tmp_path, take_over(tmp_path)):
            begun = True
        assert begun

    def test_a_node_that_does_not_see_the_folder_does_not_make_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "elsewhere"
        with pytest.raises(TrainingError, match="all nodes"), attempt(folder, "command"):
            Recorder(folder, "command")
        assert not folder.exists()


class TestDamage:
    @pytest.mark.parametrize("line", [b"\0" * 20, b'{"step": 2, "lo', b"[]", b"17", b"\xff"])
    def test_a_damaged_line_is_said_and_left_out(self, tmp_path: Path, line: bytes) -> None:
        path = tmp_path / "history.jsonl"
        path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
        with pytest.raises(ValueError, match=r"history.jsonl: line 2 is damaged"):
            read_history(path)
        take_over(tmp_path)
        assert _steps(tmp_path) == [1, 3]
        assert read_lines(tmp_path / "events.jsonl") == [
            {"step": 3, "event": "line 2 of history.jsonl was damaged and is left out"}
        ]

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"command": 3}'])
    def test_what_a_disk_makes_of_the_note_of_an_end_ends_nothing(
        self, tmp_path: Path, content: bytes
    ) -> None:
        command = take_over(tmp_path)
        (tmp_path / ".ended").write_bytes(content)
        with attempt(tmp_path, command):
            pass


@contextlib.contextmanager
def _disk_that_is_full_at(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add({"step": 1})
    recorder.flush()
    recorder.add({"step": 2, "loss": 0.123456789})
    with (
        _disk_that_is_full_at(50),
        pytest.raises(TrainingError, match=r"history.jsonl cannot be written: .*same command"),
    ):
        recorder.flush()
    assert _steps(tmp_path) == [1]
    with (
        _disk_that_is_full_at(20),
        pytest.raises(TrainingError, match=r"\.command cannot be written: File too large"),
    ):
        take_over(tmp_path)
    assert not list(tmp_path.glob("*.tmp-*"))
    recorder.flush()
    assert _steps(tmp_path) == [1, 2]
