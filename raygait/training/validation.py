"""Evaluation while a run trains: a checkpoint is scored elsewhere, and training goes on meanwhile.

Every `evaluate_every_steps` steps the worker of rank 0 hands the checkpoint it has just written to
a Ray task on a free CPU. Its scores are waited for at the next evaluation only, so one runs at a
time, and what a run decides does not depend on how long that took: whether to stop at step 3n
follows from the scores up to step 2n, whatever has happened between.

Where the cluster has no free CPU, the worker of rank 0 scores the checkpoint itself and the others
wait: slower, but it comes to an end with any number of CPUs.

The best checkpoint, and the step to stop at, are chosen by the test subjects, as the papers'
ablations are; so the best checkpoint's own score is optimistic. That of the last checkpoint of a
run that does not stop early is not.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ray
import torch

from raygait import ray_session
from raygait.datasets import protocols, splits
from raygait.datasets.protocols import is_error_rate, metric_name, number_name
from raygait.errors import DatasetError, RaygaitError, RecipeError, SplitMismatch
from raygait.evaluation.benchmark import score_model
from raygait.evaluation.protocols import chance
from raygait.recipes.schema import Recipe
from raygait.shards import reader
from raygait.training.checkpoint import checkpoint_path, damage_of, step_of
from raygait.training.record import Recorder

_NOT_SCORES = ("step", "unix_s")
# Begins the names of what is scored while training: a curve over steps, which a test of the
# finished model (`casiab/NM/rank1`, `evaluation.benchmark`) in the same run is no point of.
_WHILE_TRAINING = "validation/"
BEST = "best"
"""Name of the link to the best checkpoint, beside the checkpoints."""
# A process that Ray starts for a task is there in 2-10 s.
_BEGINS_WITHIN_S = 30.0
# The CPU of a task that is over is known to be free in less than a second.
_IS_FREED_WITHIN_S = 5.0


def check_evaluation(recipe: Recipe, shards: Path) -> None:
    """Say before a run starts that it could not be evaluated.

    Raises:
        SplitMismatch: The shards do not hold the subjects of the recipe's split.
        DatasetError: There is nothing to compare for the number that decides.
        RecipeError: The protocol has no such number, or none at all.
    """
    data = recipe.data
    protocol = protocols.protocol(data.protocol)
    if not protocol.numbers:
        raise RecipeError(
            f"data.protocol is {protocol.name!r}, which writes a file and has no number to decide "
            f"by; evaluate_every_steps needs {protocol.beside!r}"
        )
    if recipe.best_metric and recipe.best_metric not in protocol.numbers:
        raise RecipeError(
            f"best_metric is {recipe.best_metric!r}, protocol {protocol.name!r} has "
            f"{', '.join(protocol.numbers)}"
        )
    rows = reader.read_rows(shards, columns=["subject", "condition", "view"])
    subjects, conditions, views = (rows[name].to_pylist() for name in rows.column_names)
    split = splits.split(data.test_split or data.split, subjects, trains=not data.test_split)
    tested = set(split.test)
    # While training goes on, the shards that are tested are those that are trained on.
    if data.test_split:
        leaked = sorted(tested.intersection(splits.split(data.split, subjects).train))
        if leaked:
            raise SplitMismatch(
                f"data.test_split {data.test_split!r} tests {len(leaked)} subjects of {shards} "
                f"that data.split {data.split!r} trains on, such as {leaked[0]}; leave "
                "evaluate_every_steps 0 to test on other shards afterwards"
            )
    chosen = [number for number, subject in enumerate(subjects) if subject in tested]
    pairs = chance(
        [subjects[number] for number in chosen],
        [conditions[number] for number in chosen],
        [views[number] for number in chosen],
        protocol,
        lists=split.lists,
    )
    if math.isnan(value_of(pairs, deciding(recipe))):
        raise DatasetError(
            f"{shards}: evaluate_every_steps is {recipe.evaluate_every_steps}, but protocol "
            f"{protocol.name!r} finds no pair to compare of the {len(tested)} test subjects"
            + (f" in {recipe.best_metric}" if recipe.best_metric else "")
        )


def deciding(recipe: Recipe) -> tuple[str, ...]:
    """Numbers whose mean says which checkpoint is the best: `best_metric`, or the protocol's own.

    Raises:
        DatasetError: The protocol is unknown.
    """
    if recipe.best_metric:
        return (recipe.best_metric,)
    return protocols.protocol(recipe.data.protocol).headline


def value_of(scores: Mapping[str, float], numbers: Sequence[str]) -> float:
    """What decides which of two evaluations is better, the higher; NaN if nothing does.

    Args:
        scores: Number -> percent.
        numbers: Those whose mean decides; error rates count negative.
    """
    known = [
        -scores[number] if is_error_rate(number) else scores[number]
        for number in numbers
        if not math.isnan(scores.get(number, math.nan))
    ]
    return sum(known) / len(known) if known else math.nan


def best_step(scores: Mapping[int, Mapping[str, float]], numbers: Sequence[str]) -> int | None:
    """The step with the best score, of equal ones the first; `None` if none has any.

    Args:
        scores: Step -> number -> percent.
        numbers: As for `value_of`.
    """
    values = {step: value_of(each, numbers) for step, each in sorted(scores.items())}
    known = {step: value for step, value in values.items() if not math.isnan(value)}
    return max(known, key=lambda step: known[step]) if known else None


def is_exhausted(
    scores: Mapping[int, Mapping[str, float]], numbers: Sequence[str], patience: int
) -> bool:
    """Whether the last `patience` evaluations have all been no better than one before them."""
    known = [
        step for step, each in sorted(scores.items()) if not math.isnan(value_of(each, numbers))
    ]
    best = best_step(scores, numbers)
    return bool(patience) and best is not None and len(known) - 1 - known.index(best) >= patience


def scores_of(line: Mapping[str, float]) -> dict[str, float]:
    """Number -> percent, of a line of `evaluations.jsonl`: `validation/casiab/NM/rank1`."""
    scores = {}
    for name, value in line.items():
        if name not in _NOT_SCORES:
            _, slash, number = name.removeprefix(_WHILE_TRAINING).partition("/")
            probe_set, _, metric = number.rpartition("/")
            if not slash:  # as runs recorded it once: `rank1_NM`
                metric, _, probe_set = name.partition("_")
            scores[number_name(probe_set, metric)] = value
    return scores


def is_evaluated(recipe: Recipe, step: int) -> bool:
    """Whether a step's checkpoint is one to score: that of every so many steps, and the last."""
    every = recipe.evaluate_every_steps
    return bool(every) and step > 0 and (step % every == 0 or step == recipe.num_steps)


class Validation:
    """Has the checkpoints of one run scored, one after the other. Rank 0 has one.

    Args:
        recipe: What the run follows.
        shards: Folder of shards.
        run: Folder of the checkpoints; `best` in it leads to the best one.
        recorder: Gets the scores.
        lines: Lines of `evaluations.jsonl` so far.
        num_threads: Threads of torch and logical CPUs of an evaluation.
        steps_before: Steps of the phases before, which the record counts too.
    """

    def __init__(
        self,
        recipe: Recipe,
        shards: Path,
        run: Path,
        recorder: Recorder,
        lines: list[dict[str, float]],
        *,
        num_threads: int,
        steps_before: int,
    ) -> None:
        self._recipe = recipe
        self._deciding = deciding(recipe)
        self._protocol = protocols.protocol(recipe.data.protocol).name
        self._shards = shards
        self._run = run
        self._recorder = recorder
        self._num_threads = num_threads
        self._steps_before = steps_before
        self._scores = {int(line["step"]) - steps_before: scores_of(line) for line in lines}
        self._task: _Task | None = None
        # Step that `_task` scores.
        self._step = 0
        self._said: set[str] = set()
        # Whether the evaluation before this one had a CPU of its own.
        self._had_room = False

    def catch_up(self, step: int) -> None:
        """Score what the record lacks of the steps before the one that a run goes on from."""
        for missing in range(1, step):
            if is_evaluated(self._recipe, missing) and missing not in self._scores:
                self.settle()
                self.begin(missing)

    def begin(self, step: int) -> None:
        """Have a step's checkpoint scored; `settle` comes before the next one."""
        assert self._task is None, "one evaluation at a time"
        if step in self._scores:
            return  # the run has been here before
        checkpoint = checkpoint_path(self._run, step)
        fault = damage_of(checkpoint)
        if fault:
            self._take(step, {})
            self._say(step, f"step {step} cannot be evaluated: {fault}")
        elif self._has_room():
            self._task, self._step = _Task(checkpoint, self._shards, self._num_threads), step
            self._had_room = True
        else:
            self._had_room = False
            self._score_here(step)

    def poll(self) -> None:
        """Record the evaluation that was begun if it is over; never waits."""
        if self._task is not None and self._task.is_over():
            self.settle()

    def settle(self, *, is_end: bool = False) -> None:
        """Wait for the evaluation that was begun, and record it.

        Args:
            is_end: Nothing is left to train, so nobody is kept waiting.
        """
        if self._task is None:
            return
        waiting_since = time.monotonic()
        if self._task.begins():
            self._take_task()
        else:
            self._task.cancel()
            self._score_here(self._step)
        self._task = None
        waited_s = time.monotonic() - waiting_since
        if waited_s > 1 and not is_end:
            self._say(
                self._step,
                f"training waited {waited_s:.0f} s for the evaluation of step {self._step}; more "
                f"steps between evaluations, or more CPUs, avoid it",
                once="waited",
            )

    def says_stop(self, step: int) -> bool:
        """Whether to stop at a step, by the evaluations of the steps before it alone."""
        before = {done: scores for done, scores in self._scores.items() if done < step}
        return is_exhausted(before, self._deciding, self._recipe.patience)

    @property
    def needed(self) -> set[int]:
        """Steps whose checkpoints have to stay: the best, and the one that is being scored."""
        needed = {self._step} if self._task is not None else set()
        best = best_step(self._scores, self._deciding)
        return needed if best is None else needed | {best}

    def _has_room(self) -> bool:
        until = time.monotonic() + (_IS_FREED_WITHIN_S if self._had_room else 0)
        while ray.available_resources().get("CPU", 0) < self._num_threads:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        return True

    def _take_task(self) -> None:
        assert self._task is not None
        scores: Mapping[str, float] = {}
        try:
            scores = self._task.scores()
        except Exception as error:  # of any kind: training does not end by it
            own = ray_session.own_error(error)
            if own is None and not self._task.is_second:
                # Its process or its node was lost.
                checkpoint = checkpoint_path(self._run, self._step)
                self._task = _Task(checkpoint, self._shards, self._num_threads, is_second=True)
                self.settle()
                return
            self._say(self._step, f"step {self._step} was not evaluated: {own or error!r}")
        self._take(self._step, scores)

    def _score_here(self, step: int) -> None:
        self._say(
            step,
            f"no CPU is free for the evaluation of step {step}: the training worker does it, and "
            f"all wait meanwhile; {self._num_threads} CPUs more than the workers need avoid it",
            once="here",
        )
        scores: Mapping[str, float] = {}
        try:
            # A network is built, which draws; training is not to notice.
            with torch.random.fork_rng(devices=[]):
                scores = score_model(checkpoint_path(self._run, step), self._shards)
        except RaygaitError as error:
            self._say(step, f"step {step} was not evaluated: {error}")
        self._take(step, scores)

    def _take(self, step: int, scores: Mapping[str, float]) -> None:
        known = {name: value for name, value in scores.items() if not math.isnan(value)}
        self._recorder.evaluated(
            self._steps_before + step,
            {
                _WHILE_TRAINING + metric_name(self._protocol, name): value
                for name, value in known.items()
            },
        )
        self._scores[step] = known
        best = best_step(self._scores, self._deciding)
        if best is not None:
            self._link(checkpoint_path(self._run, best))

    def _link(self, best: Path) -> None:
        link = self._run / f".{BEST}-{uuid.uuid4().hex[:8]}"
        try:
            link.symlink_to(best.name)
            link.replace(self._run / BEST)
        except OSError as error:  # not every shared storage has links
            self._say(
                step_of(best), f"no link leads to the best checkpoint, {best}: {error}", once="link"
            )

    def _say(self, step: int, event: str, *, once: str = "") -> None:
        if once not in self._said:
            self._recorder.say(self._steps_before + step, event)
        if once:
            self._said.add(once)


class _Task:
    """One evaluation somewhere in the cluster."""

    def __init__(
        self, checkpoint: Path, shards: Path, num_threads: int, *, is_second: bool = False
    ) -> None:
        self.is_second = is_second
        self._has_begun = False
        self._begins_by = time.monotonic() + _BEGINS_WITHIN_S
        # What Ray would start again by itself, it would also wait for a CPU for, without an end.
        remote = ray.remote(num_cpus=num_threads, max_retries=0)(_score)
        self._items = remote.options(num_returns="streaming").remote(
            str(checkpoint), str(shards), num_threads
        )

    def is_over(self) -> bool:
        """Whether the scores are there, or will never be."""
        return self._is_next_there(0) and self.begins() and self._is_next_there(0)

    def begins(self) -> bool:
        """Whether it has begun; waits a while for that."""
        if not self._has_begun:
            self._has_begun = self._is_next_there(max(0.0, self._begins_by - time.monotonic()))
            if self._has_begun:
                self._first = next(self._items)
        return self._has_begun

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        ray.cancel(self._items)

    def scores(self) -> dict[str, float]:
        """Number -> percent, waited for.

        Raises:
            RayError: The task failed; its process or its node was lost.
        """
        ray.get(self._first)
        scores: dict[str, float] = ray.get(next(self._items))
        return scores

    def _is_next_there(self, timeout_s: float) -> bool:
        there, _ = ray.wait([self._items], timeout=timeout_s)
        return bool(there)


def _score(checkpoint: str, shards: str, num_threads: int) -> Iterator[dict[str, float]]:
    yield {"pid": os.getpid()}  # says that it has begun
    torch.set_num_threads(num_threads)
    yield score_model(Path(checkpoint), Path(shards))
