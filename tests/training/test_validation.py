import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import ray
import torch

from raygait.datasets.protocols import PROTOCOLS, metric_name, protocol
from raygait.errors import DatasetError, RecipeError, SplitMismatch
from raygait.evaluation.benchmark import score_model
from raygait.experiments import tracking
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training import validation as module
from raygait.training.checkpoint import list_checkpoints, save_checkpoint
from raygait.training.keeper import Keeper
from raygait.training.launch import TrainResult, train
from raygait.training.record import Recorder, read_lines
from raygait.training.validation import (
    Validation,
    best_step,
    check_evaluation,
    deciding,
    is_evaluated,
    is_exhausted,
    scores_of,
)
from raygait.training.workers import Place

_NM = {5: {"NM": 50.0, "BG": 20.0}, 10: {"NM": 60.0, "BG": 0.0}, 15: {"NM": 60.0, "BG": 10.0}}


def _recipe(**changes) -> Recipe:
    small = {
        "model.channels": [4, 8, 8],
        "data.split": "first:4",
        "clip.num_frames": 9,
        "batch.num_subjects": 4,
        "batch.num_sequences": 2,
        "num_steps": 5,
        "checkpoint_every_steps": 1,
        "evaluate_every_steps": 2,
    }
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


class TestDecisions:
    @pytest.mark.parametrize(
        ("numbers", "best"),
        [(["NM"], 10), (["BG"], 5), (["NM", "BG"], 5)],
        ids=["NM", "BG", "mean of both"],
    )
    def test_the_best_is_the_highest_of_the_named_and_of_equal_ones_the_first(
        self, numbers: list[str], best: int
    ) -> None:
        assert best_step(_NM, numbers) == best

    def test_of_an_error_rate_the_lowest_is_the_best(self) -> None:
        rates = {5: {"NM/EER": 9.0}, 10: {"NM/EER": 4.0}, 15: {"NM/EER": 6.0}}
        assert best_step(rates, ["NM/EER"]) == 10
        assert is_exhausted(rates, ["NM/EER"], 1)

    def test_evaluations_that_failed_decide_nothing(self) -> None:
        assert best_step({}, ["NM"]) is None
        assert best_step({5: {}, 10: {"NM": math.nan}}, ["NM"]) is None
        assert best_step({5: {}, 10: {"NM": 3.0}}, ["NM", "BG"]) == 10
        assert not is_exhausted({5: {"NM": 3.0}, 10: {}, 15: {}}, ["NM"], 1)

    @pytest.mark.parametrize(
        ("protocol", "best_metric", "numbers"),
        [
            ("casiab", "", ("NM", "BG", "CL")),
            ("casiab", "CL", ("CL",)),
            ("gait3d", "", ("rank1",)),
            ("gait3d", "mAP", ("mAP",)),
            ("sustech1k", "", ("Overall",)),
            ("open-set:ccpg", "", ("CL/EER", "UP/EER", "DN/EER", "BG/EER")),
        ],
    )
    def test_what_decides_is_named_by_the_recipe_or_by_the_protocol(
        self, protocol: str, best_metric: str, numbers: tuple[str, ...]
    ) -> None:
        recipe = _recipe(**{"data.protocol": protocol}, best_metric=best_metric)
        assert deciding(recipe) == numbers

    def test_every_number_comes_back_from_the_record_by_its_own_name(self) -> None:
        for name in PROTOCOLS:
            for prefix in ("", "open-set:") if PROTOCOLS[name].numbers else ():
                numbers = dict.fromkeys(protocol(prefix + name).numbers, 1.0)
                line = {f"validation/{metric_name(prefix + name, each)}": 1.0 for each in numbers}
                assert scores_of({"step": 3, **line, "unix_s": 1.0}) == numbers

    def test_a_run_goes_on_from_scores_that_were_recorded_without_their_protocol(self) -> None:
        line = {"step": 3, "rank1_NM": 50.0, "mAP_CL": 40.0, "rank5": 30.0, "unix_s": 1.0}
        assert scores_of(line) == {"NM": 50.0, "CL/mAP": 40.0, "rank5": 30.0}

    @pytest.mark.parametrize(
        ("patience", "metric", "stops"),
        [(0, "BG", False), (1, "NM", True), (2, "NM", False), (2, "BG", True), (3, "BG", False)],
    )
    def test_a_run_is_over_after_so_many_evaluations_without_a_better_one(
        self, patience: int, metric: str, stops: bool
    ) -> None:
        assert is_exhausted(_NM, [metric], patience) is stops

    def test_the_last_step_is_evaluated_too(self) -> None:
        assert [step for step in range(6) if is_evaluated(_recipe(), step)] == [2, 4, 5]
        off = _recipe(evaluate_every_steps=0)
        assert not [step for step in range(6) if is_evaluated(off, step)]

    def test_patience_without_evaluations_is_refused(self) -> None:
        with pytest.raises(RecipeError, match=r"patience \(2\) needs evaluate_every_steps"):
            _recipe(evaluate_every_steps=0, patience=2)


@pytest.mark.ray
class TestWhatCannotBeEvaluated:
    def test_an_unknown_probe_set_is_named_before_anything_is_written(
        self, walker_shards: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(RecipeError, match=r"best_metric is 'XX'.*NM, BG, CL"):
            train(_recipe(best_metric="XX"), walker_shards, tmp_path, name="n")
        assert not list(tmp_path.iterdir())

    def test_subjects_that_train_are_no_test(self, walker_shards: Path) -> None:
        recipe = _recipe(**{"data.split": "first:5", "data.test_split": "first:2"})
        with pytest.raises(SplitMismatch, match=r"tests 3 subjects .* such as 003"):
            check_evaluation(recipe, walker_shards)

    def test_a_protocol_without_numbers_cannot_decide(self, walker_shards: Path) -> None:
        with pytest.raises(RecipeError, match=r"writes a file .* needs 'grew-unofficial'"):
            check_evaluation(_recipe(**{"data.protocol": "grew-submission"}), walker_shards)

    @pytest.mark.usefixtures("ray_session")
    def test_test_subjects_without_pairs_are_said_before_anything_is_written(
        self, tmp_path: Path
    ) -> None:
        from raygait.datasets import casiab
        from raygait.shards.ingest import ingest
        from raygait.synthetic import casiab_tree

        casiab_tree.write(tmp_path / "t", num_subjects=6, conditions=["nm-01"], num_frames=12)
        ingest(casiab.index(tmp_path / "t"), tmp_path / "t", tmp_path / "shards")
        with pytest.raises(DatasetError, match="finds no pair to compare of the 2 test subjects"):
            train(_recipe(), tmp_path / "shards", tmp_path / "runs", name="n")
        assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def evaluated(walker_shards: Path, tmp_path_factory: pytest.TempPathFactory):
    """Two workers of a cluster with two CPUs more."""
    out = tmp_path_factory.mktemp("runs")
    run = tracking.open_run(tracking.prepare(f"sqlite:///{out / 'mlflow.db'}"), "tests", "run")
    recipe = _recipe(best_metric="BG")
    return out, train(recipe, walker_shards, out, name="two", num_workers=2, run=run), run


def _scores(result: TrainResult) -> dict[int, dict[str, float]]:
    return {
        int(point["step"]): {
            name.removeprefix("validation/casiab/").removesuffix("/rank1"): value
            for name, value in point.items()
            if name.startswith("validation/casiab/")
        }
        for point in result.history
        if any(name.startswith("validation/casiab/") for name in point)
    }


def _events(folder: Path) -> list[str]:
    return [line["event"] for line in read_lines(folder / "events.jsonl")]


@pytest.mark.ray
@pytest.mark.timeout(420)
class TestEvaluationWhileTraining:
    def test_scores_are_on_record_at_their_steps_and_are_those_of_the_checkpoints(
        self, evaluated, walker_shards: Path
    ) -> None:
        _, result, run = evaluated
        scores = _scores(result)
        assert list(scores) == [2, 4, 5]
        assert [point["step"] for point in result.history] == [1, 2, 3, 4, 5]
        assert scores[5] == score_model(result.checkpoint, walker_shards)
        sent = run.client().get_metric_history(run.run_id, "validation/casiab/NM/rank1")
        assert {point.step: point.value for point in sent} == {
            step: values["NM"] for step, values in scores.items()
        }
        # That is the name of a test of the finished model, which is no point of the curve.
        assert "casiab/NM/rank1" not in run.client().get_run(run.run_id).data.metrics

    def test_the_best_checkpoint_is_kept_and_linked_to(
        self, evaluated, walker_shards: Path
    ) -> None:
        out, result, _ = evaluated
        best = best_step(_scores(result), ["BG"])
        assert result.best == (out / "two" / f"checkpoint-{best:08d}").resolve()
        assert (out / "two" / "best").resolve() == result.best
        assert score_model(out / "two" / "best", walker_shards) == _scores(result)[best]

    def test_nobody_was_kept_waiting_by_a_lack_of_cpus(self, evaluated) -> None:
        assert not [event for event in _events(evaluated[0] / "two") if "no CPU" in event]

    def test_an_evaluation_that_was_lost_is_made_up_for(
        self, evaluated, walker_shards: Path, tmp_path: Path
    ) -> None:
        # As a command leaves it that is killed after the last checkpoint, before its scores.
        out, result, _ = evaluated
        shutil.copytree(out / "two", tmp_path / "two", symlinks=True)
        (tmp_path / "two" / "finished.json").unlink()
        lines = (tmp_path / "two" / "evaluations.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "two" / "evaluations.jsonl").write_text("".join(lines[:-1]))
        recipe = _recipe(best_metric="BG")
        again = train(recipe, walker_shards, tmp_path, name="two", num_workers=2)
        assert again.history == result.history
        assert again.best is not None
        assert result.best is not None
        assert again.best.name == result.best.name

    @pytest.mark.slow
    def test_without_a_free_cpu_the_training_worker_evaluates_itself_and_says_so(
        self, walker_shards: Path, tmp_path: Path
    ) -> None:
        result = train(_recipe(num_steps=4), walker_shards, tmp_path, name="full", num_workers=4)
        assert list(_scores(result)) == [2, 4]
        assert _scores(result)[4] == score_model(result.checkpoint, walker_shards)
        (event,) = _events(tmp_path / "full")
        assert event.startswith("no CPU is free for the evaluation of step 2")

    def test_a_run_that_does_not_get_better_stops_and_stops_there_again(
        self, walker_shards: Path, tmp_path: Path
    ) -> None:
        # Weights that do not move: the first evaluation stays the best.
        recipe = _recipe(
            **{"optim.learning_rate": 1e-30, "num_steps": 40, "patience": 1},
            evaluate_every_steps=3,
            checkpoint_every_steps=2,
        )
        result = train(recipe, walker_shards, tmp_path, name="n", num_workers=2)
        folder = tmp_path / "n"
        # Best at 3, none better at 6, which is known at 9; the last checkpoint is scored too.
        assert list(_scores(result)) == [3, 6, 9]
        assert result.history[-1]["step"] == 9
        assert result.checkpoint == folder / "checkpoint-00000009"
        assert result.best == (folder / "checkpoint-00000003").resolve()
        assert "stopped early, at step 9 of 40" in _events(folder)[-1]
        # Goes on from step 8, as if killed there, with fewer workers: the same end.
        (folder / "finished.json").unlink()
        (folder / "checkpoint-00000009" / "training.pt").unlink()
        lines = (folder / "evaluations.jsonl").read_text().splitlines(keepends=True)
        (folder / "evaluations.jsonl").write_text("".join(lines[:2]))
        again = train(recipe, walker_shards, tmp_path, name="n")
        assert again.checkpoint == result.checkpoint
        assert again.best == result.best
        assert list(_scores(again)) == [3, 6, 9]
        assert [point["step"] for point in again.history] == list(range(1, 10))
        # Finished early is finished: the same command has nothing left to do.
        said = _events(folder)
        assert train(recipe, walker_shards, tmp_path, name="n", num_workers=2) == again
        assert _events(folder) == said


@pytest.fixture
def shards(walker_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(walker_shards, tmp_path / "shards")
    return tmp_path / "shards"


def _halt(validation: Validation) -> int:
    """Stop the process that evaluates, before it has a score; its pid."""
    task = validation._task
    assert task is not None
    assert task.begins()
    pid = int(ray.get(task._first)["pid"])
    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.ray
def test_steps_go_on_while_a_checkpoint_is_evaluated(walker_shards: Path, tmp_path: Path) -> None:
    recipe = _recipe(num_steps=8, evaluate_every_steps=4)
    run = tmp_path / "run"
    run.mkdir()
    settings = {
        **{"record": str(run), "checkpoints": str(run), "shards": str(walker_shards)},
        **{
            "command": "",
            "origin": {},
            "num_threads": 1,
            "steps_before": 0,
            "report_every_steps": 1,
        },
    }
    torch.manual_seed(0)
    network = build_model(recipe, 4)
    subjects = ["001", "002", "003", "004"]
    keeper = Keeper(settings, recipe, subjects, Place(0, 1, 0), network, {})
    for step in range(1, 8):
        assert not keeper.after_step(step, {"loss": 1.0})
        if step == 4:
            assert keeper._writer is not None
            pid = _halt(keeper._writer.validation)
    # Three more steps and their checkpoints are there, no score is, and what is scored is kept.
    assert list(list_checkpoints(run)) == [4, 6, 7]
    assert read_lines(run / "evaluations.jsonl") == []
    os.kill(pid, signal.SIGCONT)
    assert keeper.after_step(8, {"loss": 1.0})
    assert keeper.finish() == "checkpoint-00000008"
    assert [line["step"] for line in read_lines(run / "evaluations.jsonl")] == [4, 8]
    assert not [event for event in _events(run) if "not evaluated" in event]


@pytest.mark.ray
class TestEvaluationsThatGoWrong:
    @pytest.fixture
    def validation(self, shards: Path, tmp_path: Path) -> Validation:
        recipe = _recipe()
        torch.manual_seed(0)
        network = build_model(recipe, 4)
        run = tmp_path / "run"
        save_checkpoint(run, network, {}, recipe, ["001", "002", "003", "004"], step=2, origin={})
        return Validation(recipe, shards, run, Recorder(run), [], num_threads=1, steps_before=10)

    def _recorded(self, tmp_path: Path) -> list[dict[str, float]]:
        lines = read_lines(tmp_path / "run" / "evaluations.jsonl")
        return [{name: line[name] for name in line if name != "unix_s"} for line in lines]

    def test_one_that_fails_is_said_and_training_goes_on(
        self, validation: Validation, shards: Path, tmp_path: Path
    ) -> None:
        for part in shards.glob("part-*.parquet"):
            part.write_bytes(part.read_bytes()[:-10])
        validation.begin(2)
        validation.settle()
        assert self._recorded(tmp_path) == [{"step": 12}]
        (event,) = (
            e for e in _events(tmp_path / "run") if e.startswith("step 2 was not evaluated")
        )
        assert "part-" in event
        assert not validation.says_stop(4)
        validation.begin(2)  # as after a restart: it is not tried for ever
        assert self._recorded(tmp_path) == [{"step": 12}]

    def test_one_whose_process_is_lost_is_repeated(
        self, validation: Validation, tmp_path: Path
    ) -> None:
        validation.begin(2)
        pid = _halt(validation)
        validation.poll()
        assert validation.needed == {2}
        os.kill(pid, signal.SIGKILL)
        validation.settle()
        (line,) = self._recorded(tmp_path)
        assert line["step"] == 12
        assert {f"validation/casiab/{name}/rank1" for name in ("NM", "BG", "CL")} == line.keys() - {
            "step"
        }

    def test_the_next_one_has_the_place_of_the_one_before(
        self, validation: Validation, tmp_path: Path
    ) -> None:
        checkpoint = tmp_path / "run" / "checkpoint-00000002"
        shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-00000004"))

        @ray.remote(num_cpus=3)
        class Others:
            def are_there(self) -> bool:
                return True

        others = Others.remote()
        assert ray.get(others.are_there.remote())
        try:
            for step in (2, 4):
                validation.begin(step)
                validation.settle()
        finally:
            ray.kill(others)
        assert [line["step"] for line in self._recorded(tmp_path)] == [12, 14]
        assert not [event for event in _events(tmp_path / "run") if "no CPU" in event]

    @pytest.mark.usefixtures("ray_session")
    def test_one_that_finds_no_room_in_time_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_BEGINS_WITHIN_S", 0.2)
        task = module._Task(tmp_path, tmp_path, 64)
        assert not task.is_over()
        assert not task.begins()
        task.cancel()

    def test_storage_without_links_has_no_link_to_the_best_and_that_is_said(
        self, validation: Validation, tmp_path: Path
    ) -> None:
        # What no file can replace stands for what refuses links.
        (tmp_path / "run" / "best").mkdir()
        validation.begin(2)
        validation.settle()
        assert "validation/casiab/NM/rank1" in self._recorded(tmp_path)[0]
        (event,) = (e for e in _events(tmp_path / "run") if "no link leads" in e)
        assert "checkpoint-00000002" in event

    def test_one_of_a_damaged_checkpoint_is_not_begun(
        self, validation: Validation, tmp_path: Path
    ) -> None:
        (tmp_path / "run" / "checkpoint-00000002" / "model.safetensors").write_bytes(b"")
        validation.begin(2)
        assert self._recorded(tmp_path) == [{"step": 12}]
        assert "model.safetensors is damaged" in _events(tmp_path / "run")[0]
