"""What a run leaves behind while it goes, for people and for itself when it goes on.

    history.jsonl        one line a step: losses, distances, seconds
    evaluations.jsonl    one line an evaluation: step, the protocol's numbers
    events.jsonl         one line for each thing worth knowing: went on from where, what was damaged

Lines of the first two say when they were measured (`unix_s`).

The worker of rank 0 writes them into the run's folder itself, history before checkpoints, so that
a run which goes on from a checkpoint has every step before it on record, and no step twice.

Several may believe that they write: a worker whose command was killed lives on for moments, one of
a node that is cut off for longer, and somebody may start the same command twice. The newest command
has the run, and of its attempts the newest; all others find that out when they next write.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raygait.errors import RaygaitError, TrainingError
from raygait.shards.writer import whole_file

HISTORY, EVALUATIONS, EVENTS = "history.jsonl", "evaluations.jsonl", "events.jsonl"
# The command that has the run, and the attempt of it that writes.
_COMMAND, _WRITER = ".command", ".writer"
# The error of its own that has ended a command's attempt.
_ENDED = ".ended"


def take_over(folder: Path) -> str:
    """Give a run to the command that calls this; others that go on with it are refused from now.

    Lines that a disk has damaged are left out, and that is said.

    Args:
        folder: The run's.

    Returns:
        What the command's workers show to `Recorder`.

    Raises:
        TrainingError: The folder cannot be written.
    """
    command = uuid.uuid4().hex
    _write(folder / _COMMAND, command.encode())
    # By now nobody else adds lines.
    faults = [fault for name in (HISTORY, EVALUATIONS, EVENTS) for fault in _mend(folder / name)]
    if faults:
        recorder = Recorder(folder, command)
        for fault in faults:
            recorder.say(recorder.last_step, fault)
    return command


@contextlib.contextmanager
def attempt(folder: Path, command: str) -> Iterator[None]:
    """A worker's attempt, which an error of raygait's own ends for good.

    Ray Train begins again after every error. After a lost worker that helps; a loss that is not
    finite, a full disk or another command's takeover meet the next attempt too, which is told the
    error at once here.

    Args:
        folder: The run's.
        command: From `take_over`.
    """
    ended = folder / _ENDED
    try:
        earlier = json.loads(ended.read_text())
        if earlier["command"] == command:
            raise TrainingError(earlier["error"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing has ended it
    try:
        yield
    except RaygaitError as error:
        # Where the folder is not seen or the disk is full, each attempt finds that out by itself.
        if folder.is_dir():
            with contextlib.suppress(TrainingError):
                _write(ended, json.dumps({"command": command, "error": str(error)}).encode())
        raise


class Recorder:
    """Writes the record of a run; the newest of them is the only one that may.

    Args:
        folder: The run's.
        command: From `take_over`; left out where no command has taken the run.

    Raises:
        TrainingError: The folder is not there: this node does not see the run's storage. Or
            another command has the run now.
    """

    def __init__(self, folder: Path, command: str = "") -> None:
        if not folder.is_dir():
            raise TrainingError(
                f"{folder} is not there on this worker's node; runs need a folder that all nodes "
                f"share under the same path"
            )
        self._folder = folder
        self._owner = {_COMMAND: command}
        self.check()
        self._owner[_WRITER] = uuid.uuid4().hex
        _write(folder / _WRITER, self._owner[_WRITER].encode())
        for name in (HISTORY, EVALUATIONS, EVENTS):
            cut_torn_line(folder / name)
        history = read_lines(folder / HISTORY)
        self.last_step = int(history[-1]["step"]) if history else 0
        self._unwritten: list[Mapping[str, float]] = []

    def add(self, point: Mapping[str, float]) -> None:
        """Take a step's values; a step that is on record already is not recorded again."""
        if point["step"] > self.last_step:
            self._unwritten.append({**point, "unix_s": _now()})

    def flush(self) -> None:
        """Write what was added since the last time; it is on disk when this returns.

        Raises:
            TrainingError: Another worker writes this run's record now.
        """
        if self._unwritten:
            self._append(HISTORY, self._unwritten)
            self.last_step = int(self._unwritten[-1]["step"])
            self._unwritten = []

    def evaluated(self, step: int, scores: Mapping[str, float]) -> None:
        """Record an evaluation; without scores it says that there will be none."""
        self._append(EVALUATIONS, [{"step": step, **scores, "unix_s": _now()}])

    def say(self, step: int, event: str) -> None:
        """Record something worth knowing; the command that trains logs it."""
        self._append(EVENTS, [{"step": step, "event": event}])

    def check(self) -> None:
        """Whether this is still the one that writes.

        Raises:
            TrainingError: Another worker writes this run's record now.
        """
        for name, mine in self._owner.items():
            path = self._folder / name
            if (path.read_text() if path.exists() else "") != mine:
                raise TrainingError(
                    f"{self._folder}: another command, or a worker that replaces this one, goes on "
                    f"with this run"
                )

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        self.check()
        path = self._folder / name
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        size = path.stat().st_size if path.exists() else 0
        try:
            # Not buffered: what a full disk refuses is not tried again when the file closes.
            with path.open("ab", buffering=0) as file:
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
        except OSError as error:
            # A part of it may be there, which the next line would continue.
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise TrainingError(
                f"{path} cannot be written: {error.strerror}; the run goes on from its last "
                f"checkpoint when the same command is given again"
            ) from error


def _now() -> float:
    return round(time.time(), 3)


def read_history(path: Path) -> list[dict[str, float]]:
    """The recorded steps of a run, in order, with the scores of those that were evaluated.

    Args:
        path: `history.jsonl` of a run; no steps when there is no such file yet.
    """
    scores = {line.get("step"): line for line in read_lines(path.with_name(EVALUATIONS))}
    return [scores.get(point.get("step"), {}) | point for point in read_lines(path)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a record; a last one that is being written, or was cut off, does not count.

    Raises:
        ValueError: A line is damaged; `take_over` leaves such lines out.
    """
    lines = []
    for number, line in enumerate(_whole_lines(path), start=1):
        point = _parsed(line)
        if point is None:
            raise ValueError(
                f"{path}: line {number} is damaged; the command that trains this run leaves it "
                f"out when it is given again"
            )
        lines.append(point)
    return lines


def _mend(path: Path) -> list[str]:
    """Leave out the lines of a record that are not what was written; a sentence about each."""
    lines = _whole_lines(path)
    is_good = ["step" in (_parsed(line) or {}) for line in lines]
    if not all(is_good):
        _write(
            path, b"".join(line + b"\n" for line, good in zip(lines, is_good, strict=True) if good)
        )
    return [
        f"line {number} of {path.name} was damaged and is left out"
        for number, good in enumerate(is_good, start=1)
        if not good
    ]


def _whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says; `None` if it says nothing."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) else None


def _write(path: Path, content: bytes) -> None:
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from error


def cut_torn_line(path: Path) -> None:
    """Remove a last line that has no end, so that the next one does not continue it."""
    if path.exists():
        whole = path.read_bytes()
        os.truncate(path, whole.rfind(b"\n") + 1)
