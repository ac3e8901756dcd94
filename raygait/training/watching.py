"""What the command that trains does while workers train: log their progress, feed MLflow.

Both read the record that rank 0 writes. MLflow may be slow, or away for hours: it holds nobody up,
and gets what it has missed when it is back, or from the next command of the same name.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raygait.experiments.outbox import OFFLINE, Outbox
from raygait.experiments.tracking import Run
from raygait.training.environment import ENVIRONMENT
from raygait.training.record import EVALUATIONS, EVENTS, HISTORY
from raygait.training.validation import scores_of

logger = logging.getLogger(__name__)
# What a line of progress says, of what the run has.
_SHOWN = ("loss", "triplet_loss", "identity_loss", "segmentation_loss", "accuracy", "mask_iou")
# Beside the curves: files of the run's folder that MLflow gets as they are, when they have changed.
_FILES = ("recipe.json", ENVIRONMENT, EVENTS)
# MLflow's client tries a server that does not answer for minutes before it gives up.
_LAST_WORDS_S = 60.0


@contextmanager
def watched(
    folder: Path, run: Run | Outbox | None, num_steps: int, every_s: float = 5.0
) -> Iterator[None]:
    """Watch a run's record for a `with` block.

    Args:
        folder: The run's.
        run: MLflow run that gets the curves and the folder's files.
        num_steps: Steps of all phases.
        every_s: Seconds between looks.
    """
    if isinstance(run, Outbox):
        run.begin()
    stop = threading.Event()
    log = _Log(folder, num_steps)
    threads = [_repeat(log.look, stop, every_s, "training-progress")]
    sender = None if run is None or _is_offline(run) else _Sender(folder, run)
    if sender is not None:
        threads.append(_repeat(sender.send, stop, every_s, "training-mlflow"))
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=_LAST_WORDS_S)
        if sender is not None and (sender.has_unsent or threads[-1].is_alive()):
            logger.warning(
                "MLflow has not got everything; %s keeps it: the same command again sends it, and "
                "so does python jobs/train.py --send %s",
                folder,
                folder,
            )


def send(folder: Path, run: Run | Outbox) -> bool:
    """Send what MLflow does not have of a run's folder; whether it has everything now."""
    sender = _Sender(folder, run)
    sender.send()
    return not sender.has_unsent


def _is_offline(run: Run | Outbox) -> bool:
    return run.tracking_uri == OFFLINE


def _repeat(look: Any, stop: threading.Event, every_s: float, name: str) -> threading.Thread:
    def watch() -> None:
        look()
        while not stop.wait(every_s):
            look()
        look()

    thread = threading.Thread(target=watch, name=name, daemon=True)
    thread.start()
    return thread


class _Tail:
    """The lines of a record that were written since the last look."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._offset = 0
        if from_end:
            self.read()

    def read(self) -> list[dict[str, Any]]:
        """New whole lines."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class _Log:
    """Logs steps, evaluations and events as they come."""

    def __init__(self, folder: Path, num_steps: int) -> None:
        self._folder = folder
        self._num_steps = num_steps
        # What is there already was said by the command before.
        self._history, self._evaluations, self._events = (
            _Tail(folder / name, from_end=True) for name in (HISTORY, EVALUATIONS, EVENTS)
        )

    def look(self) -> None:
        """Log what is new."""
        for event in self._events.read():
            logger.warning("step %d: %s", event["step"], event["event"])
        points = self._history.read()
        if points:
            last = points[-1]
            shown = "  ".join(f"{name} {last[name]:.3f}" for name in _SHOWN if name in last)
            logger.info("step %d/%d  %s", last["step"], self._num_steps, shown)
        for line in self._evaluations.read():
            scores = "  ".join(f"{name} {value:.1f}" for name, value in scores_of(line).items())
            logger.info(
                "step %d: test subjects by protocol %s (%%)  %s",
                line["step"],
                self._protocol(),
                scores,
            )

    def _protocol(self) -> str:
        """The protocol of the run's recipe, by whose rules scores are meant."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads((self._folder / "recipe.json").read_text())["data"]["protocol"])
        return "?"


class _Sender:
    """Sends the record to MLflow, each step once."""

    def __init__(self, folder: Path, run: Run | Outbox) -> None:
        self._folder = folder
        self._run = run
        self._tails = [_Tail(folder / name) for name in (HISTORY, EVALUATIONS)]
        self._unsent: list[list[dict[str, Any]]] = [[], []]
        # The server may have any of it, from a command before or a call that timed out.
        self._knows_what_it_has = False
        self._sizes = dict.fromkeys(_FILES, 0)
        self._complaints: set[str] = set()
        self.has_unsent = True

    def send(self) -> None:
        """Send what is new, or keep it if the server does not take it."""
        # Files last: who keeps them may be away while the curves can be had.
        steps = {
            f"does not answer at {self._run.tracking_uri}": self._run.connect,
            "does not take the curves": self._send_curves,
            "does not take the files": self._send_files,
        }
        self.has_unsent = not all(self._try(what, step) for what, step in steps.items())

    def _try(self, fault: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except Exception as error:  # a server may fail in any way, training goes on
            self._knows_what_it_has = False
            if fault not in self._complaints:
                logger.warning(
                    "MLflow %s, what it misses is kept in %s: %s", fault, self._folder, error
                )
            self._complaints.add(fault)
            return False
        if fault in self._complaints:
            logger.info("MLflow is back")
            self._complaints.remove(fault)
        return True

    def _send_curves(self) -> None:
        for tail, unsent in zip(self._tails, self._unsent, strict=True):
            unsent += tail.read()
        run = self._run.connect()
        for number, points in enumerate(self._unsent):
            if not self._knows_what_it_has:
                points = _without_sent(run, points)
            run.log_history(points)
            self._unsent[number] = []
        self._knows_what_it_has = True

    def _send_files(self) -> None:
        run = self._run.connect()
        for name, sent in self._sizes.items():
            path = self._folder / name
            size = path.stat().st_size if path.exists() else 0
            if size != sent:
                run.log_text(path.read_text(), name)
                self._sizes[name] = size


def _without_sent(run: Run, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # A point is sent whole, so one of its values tells; every step has a loss, evaluations have
    # scores, not all of them the same.
    names = {"loss"}
    if points and not any("loss" in point for point in points):
        names = {name for point in points for name in point if name not in ("step", "unix_s")}
    sent = set().union(*(run.steps(name) for name in names))
    return [point for point in points if point["step"] not in sent]
