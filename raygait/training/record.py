"""What a run leaves behind while it goes, for people and for itself when it goes on.

    history.jsonl        one line a step: losses, distances, seconds
    evaluations.jsonl    one line an evaluation: step, rank-1 of each probe set
    events.jsonl         one line for each thing worth knowing: went on from where, what was damaged

The worker of rank 0 writes them into the run's folder itself, history before checkpoints, so that
a run which goes on from a checkpoint has every step before it on record, and no step twice.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raygait.errors import TrainingError
from raygait.shards.writer import whole_file

HISTORY, EVALUATIONS, EVENTS = "history.jsonl", "evaluations.jsonl", "events.jsonl"
# Whoever has written it last may write the others.
_OWNER = ".writer"


class Recorder:
    """Writes the record of a run; the newest of them is the only one that may.

    Workers of a command that was killed live on for moments, those of a node that is cut off for
    longer; what they would still write, their successors have to.

    Args:
        folder: The run's.

    Raises:
        TrainingError: The folder is not there: this node does not see the run's storage.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise TrainingError(
                f"{folder} is not there on this worker's node; runs need a folder that all nodes "
                f"share under the same path"
            )
        self._folder = folder
        self._token = uuid.uuid4().hex
        with whole_file(folder / _OWNER) as file:
            file.write(self._token.encode())
        for name in (HISTORY, EVALUATIONS, EVENTS):
            cut_torn_line(folder / name)
        history = read_lines(folder / HISTORY)
        self.last_step = int(history[-1]["step"]) if history else 0
        self._unwritten: list[Mapping[str, float]] = []

    def add(self, point: Mapping[str, float]) -> None:
        """Take a step's values; a step that is on record already is not recorded again."""
        if point["step"] > self.last_step:
            self._unwritten.append(point)

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
        self._append(EVALUATIONS, [{"step": step, **scores}])

    def say(self, step: int, event: str) -> None:
        """Record something worth knowing; the command that trains logs it."""
        self._append(EVENTS, [{"step": step, "event": event}])

    def check(self) -> None:
        """Whether this is still the one that writes.

        Raises:
            TrainingError: Another worker writes this run's record now.
        """
        if (self._folder / _OWNER).read_text() != self._token:
            raise TrainingError(
                f"{self._folder}: another command, or a worker that replaces this one, goes on "
                f"with this run"
            )

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        self.check()
        with (self._folder / name).open("ab") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())


def read_history(path: Path) -> list[dict[str, float]]:
    """The recorded steps of a run, in order, with the scores of those that were evaluated.

    Args:
        path: `history.jsonl` of a run; no steps when there is no such file yet.
    """
    scores = {line.get("step"): line for line in read_lines(path.with_name(EVALUATIONS))}
    return [point | scores.get(point.get("step"), {}) for point in read_lines(path)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a record; a last one that is being written, or was cut off, does not count."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def cut_torn_line(path: Path) -> None:
    """Remove a last line that has no end, so that the next one does not continue it."""
    if path.exists():
        whole = path.read_bytes()
        os.truncate(path, whole.rfind(b"\n") + 1)
