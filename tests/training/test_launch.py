import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from raygait.errors import ClusterTooSmall, RaygaitError, TrainingError
from raygait.recipes import named
from raygait.recipes.saved_model import load_model
from raygait.recipes.schema import Recipe, with_overrides
from raygait.training.launch import read_history, train
from raygait.training.loop import make_optimiser, make_scheduler
from raygait.training.record import cut_torn_line

pytestmark = pytest.mark.ray


def _recipe(**changes) -> Recipe:
    small = {
        "model.channels": [4, 8, 8],
        "data.split": "first:4",
        "clip.num_frames": 9,
        "batch.num_subjects": 4,
        "batch.num_sequences": 2,
        "num_steps": 6,
        "checkpoint_every_steps": 2,
    }
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


@pytest.fixture(scope="module")
def trained(walker_shards: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("runs")
    result = train(_recipe(), walker_shards, out, name="two", num_workers=2, report_every_steps=1)
    return out, result


def test_a_run_on_two_workers_records_every_step_once_and_leaves_a_model(trained) -> None:
    out, result = trained
    assert [point["step"] for point in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.history == read_history(out / "two" / "history.jsonl")
    saved = load_model(result.checkpoint)
    assert saved.step == 6
    assert saved.recipe == _recipe()
    assert saved.subjects == ("001", "002", "003", "004")
    assert len(saved.origin["shards_digest"]) == 64


def test_training_moves_the_weights_away_from_their_seed(trained) -> None:
    from raygait.recipes.saved_model import initial_model

    _, result = trained
    before = initial_model(_recipe(), ["001", "002", "003", "004"]).network.state_dict()
    after = load_model(result.checkpoint).network.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert not still


def test_the_same_name_again_continues_and_a_finished_run_has_nothing_left_to_do(
    trained, walker_shards: Path
) -> None:
    out, result = trained
    again = train(_recipe(), walker_shards, out, name="two", num_workers=2)
    assert again.checkpoint == result.checkpoint
    assert again.history == result.history


def test_another_recipe_under_the_same_name_is_refused_and_the_difference_named(
    trained, walker_shards: Path
) -> None:
    out, _ = trained
    with pytest.raises(TrainingError, match=r"optim.learning_rate: 0.003 there, 0.002 here"):
        train(_recipe(**{"optim.learning_rate": 0.002}), walker_shards, out, name="two")


def test_more_workers_than_the_cluster_can_place_is_an_error_and_not_a_wait(
    ray_session, walker_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ClusterTooSmall, match="64 workers of 1 CPUs each do not fit"):
        train(_recipe(), walker_shards, tmp_path, name="wide", num_workers=64)


def test_other_data_under_the_same_name_is_refused(
    trained, walker_shards: Path, tmp_path: Path
) -> None:
    from raygait.datasets import casiab
    from raygait.shards.ingest import ingest
    from raygait.synthetic import casiab_tree

    casiab_tree.write(tmp_path / "tree", num_subjects=5, conditions=["nm-01"], num_frames=12)
    ingest(casiab.index(tmp_path / "tree"), tmp_path / "tree", tmp_path / "shards")
    with pytest.raises(TrainingError, match="holds a run on other data"):
        train(_recipe(), tmp_path / "shards", trained[0], name="two", num_workers=2)


@pytest.mark.parametrize(
    ("changes", "num_workers", "reason"),
    [
        pytest.param({"data.split": "first:6"}, 1, "leaves 6 to train and 0 to test", id="split"),
        pytest.param({"data.split": "first:1"}, 1, "triplets need two", id="one subject"),
        pytest.param({}, 3, "8 clips cannot be split over 3 workers", id="uneven workers"),
        pytest.param({"clip.num_frames": 2}, 1, "the model needs 3 or more", id="clip too short"),
        pytest.param({"model.channels": [4, 8]}, 1, "one entry per stage", id="switches"),
    ],
)
def test_a_run_that_cannot_start_says_why_and_does_not_claim_its_name(
    ray_session, walker_shards: Path, tmp_path: Path, changes, num_workers: int, reason: str
) -> None:
    with pytest.raises(RaygaitError, match=reason):
        train(_recipe(**changes), walker_shards, tmp_path, name="n", num_workers=num_workers)
    assert not list(tmp_path.iterdir())


def test_a_torn_last_line_of_the_history_neither_counts_nor_spoils_the_next(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [point["step"] for point in read_history(path)] == [1, 2]
    cut_torn_line(path)
    with path.open("a") as file:
        file.write('{"step": 3}\n')
    assert [point["step"] for point in read_history(path)] == [1, 2, 3]


def test_a_one_cycle_run_leaves_momentum_alone_and_ends_at_its_lowest_rate() -> None:
    changes = {"optim.optimiser": "sgd", "optim.momentum": 0.5, "optim.schedule": "one-cycle"}
    recipe = _recipe(**changes, num_steps=20)
    optimiser = make_optimiser(recipe, torch.nn.Linear(1, 1))
    scheduler = make_scheduler(recipe, optimiser)
    rates = []
    for _ in range(20):
        rates.append(scheduler.get_last_lr()[0])
        assert optimiser.param_groups[0]["momentum"] == 0.5
        optimiser.step()
        scheduler.step()
    assert max(rates) == pytest.approx(recipe.optim.learning_rate, rel=0.02)
    assert rates.index(max(rates)) == 2
    assert scheduler.get_last_lr()[0] < min(rates)


def test_a_loss_that_is_no_longer_finite_ends_the_run_and_names_the_step(
    ray_session, walker_shards: Path, tmp_path: Path
) -> None:
    recipe = _recipe(**{"optim.optimiser": "sgd", "optim.learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"step [1-5]: loss is nan"):
        train(recipe, walker_shards, tmp_path, name="wild", max_failures=0)


_DRIVER = """
import json, sys
from pathlib import Path
from raygait import ray_session
from raygait.recipes.schema import from_dict
from raygait.training.launch import train
recipe, shards, out = from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
with ray_session.start(num_cpus=4):
    train(recipe, shards, out, name="run", num_workers=2, report_every_steps=1)
"""


def _two_phases() -> Recipe:
    small = {
        "model.channels": [4, 8, 8, 8],
        "model.gsfe_layers": [1, 1],
        "model.gsfe_width": 16,
        "model.gsfe_heads": 2,
        "model.embedding_dim": 8,
        "data.split": "first:4",
        "checkpoint_every_steps": 2,
    }
    for prefix in ("", "before.a."):
        small |= {
            f"{prefix}clip.num_frames": 6,
            f"{prefix}batch.num_subjects": 4,
            f"{prefix}batch.num_sequences": 2,
            f"{prefix}num_steps": 20,
            f"{prefix}optim.milestones": [],
        }
    return with_overrides(named.recipe("lmgcs-casiab-lt"), small)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kill_after_step"),
    [
        pytest.param(_recipe(num_steps=40), 7, id="one phase"),
        pytest.param(_two_phases(), 7, id="first of two phases"),
        pytest.param(_two_phases(), 27, id="last of two phases"),
    ],
)
def test_a_driver_killed_in_the_middle_and_started_again_ends_with_the_same_weights(
    walker_shards: Path, tmp_path: Path, recipe: Recipe, kill_after_step: int
) -> None:
    command = [sys.executable, "-c", _DRIVER, json.dumps(recipe.to_dict()), str(walker_shards)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(out: Path, kill_after_step: int | None = None) -> None:
        process = subprocess.Popen([*command, str(out)], env=environment, start_new_session=True)
        try:
            while kill_after_step is not None:
                assert process.poll() is None, "the run ended before it could be killed"
                history = read_history(out / "run" / "history.jsonl")
                if history and history[-1]["step"] >= kill_after_step:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
                time.sleep(0.05)
            code = process.wait(timeout=240)
            assert code == (0 if kill_after_step is None else -signal.SIGKILL)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    run(tmp_path / "undisturbed")
    run(tmp_path / "killed", kill_after_step=kill_after_step)
    run(tmp_path / "killed")
    ends = []
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name / "run"
        assert [p["step"] for p in read_history(folder / "history.jsonl")] == list(range(1, 41))
        last = folder / f"checkpoint-{recipe.num_steps:08d}"
        ends.append(safetensors.torch.load_file(last / "model.safetensors"))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
