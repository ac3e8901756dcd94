"""What a worker does between two steps: record, checkpoint, evaluation, the end of the run.

All of it hangs on files in the run's folder, and none on reports to Ray Train: its controller takes
one report in two seconds and holds the workers until then, so that 200 steps of 10 ms with a report
every 10 took 40 s (2.4 s without).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from raygait.recipes.schema import Recipe
from raygait.training.checkpoint import (
    Stateful,
    checkpoint_path,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    remove_leftovers,
    save_checkpoint,
    step_of,
)
from raygait.training.record import EVALUATIONS, Recorder, read_lines
from raygait.training.validation import Validation, is_evaluated
from raygait.training.workers import Place


class Keeper:
    """Keeps one phase of a run, on one worker; only that of rank 0 writes.

    Args:
        settings: As `loop.train_worker` gets them: `record` (folder of the run), `command` (from
            `record.take_over`), `checkpoints` (folder of its phase), `shards`, `origin`,
            `num_threads`, `steps_before`, `report_every_steps`.
        recipe: What the phase follows.
        subjects: Training subjects in class order.
        place: This worker's.
        network: The bare network; gets the weights of the checkpoint to go on from.
        state: What else changes in training, by name; goes on from there too.

    Attributes:
        first_step: Steps that are done.
        end_step: Step to train up to.

    Raises:
        TrainingError: All checkpoints are damaged, or the newest belongs to something else.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        recipe: Recipe,
        subjects: list[str],
        place: Place,
        network: nn.Module,
        state: Mapping[str, Stateful],
    ) -> None:
        self._recipe = recipe
        self._subjects = subjects
        self._place = place
        self._network = network
        self._state = state
        self._run = Path(settings["checkpoints"])
        self._steps_before = int(settings["steps_before"])
        self._flush_every_steps = int(settings["report_every_steps"])
        self._origin = dict(settings["origin"])
        self._writer = _Writer(settings, recipe) if place.rank == 0 else None
        self.first_step = self._resume()
        self._last_step = self.first_step
        is_over = is_evaluated(recipe, self.first_step) and self._evaluate(self.first_step)
        self.end_step = self.first_step if is_over else recipe.num_steps

    def after_step(self, done: int, point: Mapping[str, float]) -> bool:
        """Record a step, and write a checkpoint where one is due.

        Args:
            done: Steps done in this phase.
            point: What was measured in the last of them.

        Returns:
            Whether that was the last step, on all workers alike.
        """
        self._last_step = done
        evaluated = is_evaluated(self._recipe, done)
        is_kept = (
            evaluated
            or done == self._recipe.num_steps
            or done % self._recipe.checkpoint_every_steps == 0
        )
        if self._writer is not None:
            self._writer.recorder.add({"step": self._steps_before + done, **point})
            if is_kept or done % self._flush_every_steps == 0:
                # Before the checkpoint: whoever goes on from it has all its steps on record.
                self._writer.recorder.flush()
                self._writer.validation.poll()
            if is_kept:
                self._save(done)
        return (evaluated and self._evaluate(done)) or done == self._recipe.num_steps

    def finish(self) -> str:
        """Wait for the last evaluation; the name of the last checkpoint."""
        if self._writer is not None:
            self._writer.validation.settle(is_end=True)
            self._prune()
        self._place.leave()
        return checkpoint_path(self._run, self._last_step).name

    def give_up(self) -> None:
        """Keep the steps that led to one which cannot be trusted; all workers call it together."""
        if self._writer is not None:
            self._writer.recorder.flush()
            self._writer.validation.settle(is_end=True)
        self._place.leave()

    def _resume(self) -> int:
        """Load the newest checkpoint that is not damaged; the steps it has done, 0 for none."""
        # One worker looks: what a file system shows to two of them may differ for a moment.
        name = self._place.agree(self._writer.choose(self._place) if self._writer else None)
        if not name:
            return 0
        step = load_checkpoint(
            self._run / name, self._network, self._state, self._recipe, self._subjects
        )
        if self._writer is not None:
            self._writer.validation.catch_up(step)
        return step

    def _save(self, done: int) -> None:
        assert self._writer is not None
        self._writer.recorder.check()
        save_checkpoint(
            self._run,
            self._network,
            self._state,
            self._recipe,
            self._subjects,
            step=done,
            origin=self._origin,
            # Writing takes a while: a successor may have begun in it.
            check=self._writer.recorder.check,
        )
        self._prune()

    def _prune(self) -> None:
        assert self._writer is not None
        prune_checkpoints(
            self._run,
            newest=self._last_step,
            keep_every_steps=self._recipe.keep_every_steps,
            keep=self._writer.validation.needed,
        )

    def _evaluate(self, done: int) -> bool:
        """Have this step's checkpoint scored; whether the run stops here."""
        is_over = False
        if self._writer is not None:
            validation = self._writer.validation
            validation.settle()
            is_over = validation.says_stop(done)
            validation.begin(done)
            if is_over and done < self._recipe.num_steps:
                self._writer.recorder.say(
                    self._steps_before + done,
                    f"stopped early, at step {done} of {self._recipe.num_steps}: "
                    f"{self._recipe.patience} evaluations without a better one",
                )
        # Without patience rank 0 has nothing to say, and nobody waits for it.
        return bool(self._place.agree(is_over)) if self._recipe.patience else False


class _Writer:
    """What only rank 0 has."""

    def __init__(self, settings: Mapping[str, Any], recipe: Recipe) -> None:
        self._steps_before = int(settings["steps_before"])
        folder, self._run = Path(settings["record"]), Path(settings["checkpoints"])
        self.recorder = Recorder(folder, settings["command"])
        self._run.mkdir(exist_ok=True)
        remove_leftovers(self._run)
        self.validation = Validation(
            recipe,
            Path(settings["shards"]),
            self._run,
            self.recorder,
            read_lines(folder / EVALUATIONS),
            num_threads=int(settings["num_threads"]),
            steps_before=self._steps_before,
        )

    def choose(self, place: Place) -> str:
        """Name of the checkpoint to go on from, empty for none; says what is the matter."""
        newest = newest_checkpoint(self._run)
        name = newest.path.name if newest.path else ""
        step = self._steps_before + (step_of(newest.path) if newest.path else 0)
        for fault in newest.damaged:
            self.recorder.say(step, f"a damaged checkpoint is left out: {fault}")
        workers = f"{place.world_size} workers" if place.world_size > 1 else "1 worker"
        if place.num_surplus:
            workers += f" ({place.num_surplus} more stand by: the batch does not split over all)"
        if self.recorder.last_step < step:
            self.recorder.say(
                step,
                f"steps {self.recorder.last_step + 1} to {step} are not on record: the history was "
                f"damaged, or ends before the checkpoint",
            )
        if name or self.recorder.last_step > self._steps_before:
            where = f"from {name}" if name else "from the start, no checkpoint was written yet"
            self.recorder.say(step, f"goes on {where} on {workers}")
        elif place.num_surplus:
            self.recorder.say(step, f"trains on {workers}")
        return name
