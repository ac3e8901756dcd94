"""A step that cannot be trusted: the run says which, changes nothing, and keeps what repeats it."""

import copy
import functools
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygait.batches.loader import Batch
from raygait.errors import TrainingError
from raygait.losses.triplet import TripletLoss
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.failures import (
    Failure,
    name_some,
    read_failure,
    whats_wrong,
    write_failure,
)
from raygait.training.gradients import pieces_of
from raygait.training.launch import read_history, train
from raygait.training.loop import BatchLoss, make_optimiser, seed_draws, shared, train_step
from raygait.training.precision import Precision, PrecisionName
from raygait.training.record import read_lines
from raygait.training.replay import replay

CPU = torch.device("cpu")
SUBJECTS = ["001", "002", "003", "004"]
STEP = 7


def _recipe(**changes: Any) -> Recipe:
    # With batch norms in the backbone, each worker's or piece's clips are normalised on their own.
    small = {"model.channels": [4, 8, 8], "model.backbone_norm": True, "loss.identity_weight": 1.0}
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


def _network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return shared(build_model(recipe, 4).train(), recipe, CPU)


def _batch() -> Batch:
    frames = torch.rand(8, 1, 3, 32, 22, generator=torch.Generator().manual_seed(0))
    return Batch(
        STEP, {"frames": frames}, torch.arange(8) // 2, tuple(f"walk-{i}" for i in range(8))
    )


def _poison(network: nn.Module, *, spare: int = 0) -> None:
    """A weight of the last layer that is not a number."""
    with torch.no_grad():
        list(network.stages)[-1].layers[-1].global_convolution.weight[spare, 0] = math.nan


def _step(
    network: nn.Module, recipe: Recipe, precision: Precision | None = None, **options: Any
) -> dict[str, float]:
    return train_step(
        network,
        BatchLoss(recipe),
        make_optimiser(recipe, network),
        _batch(),
        CPU,
        precision=precision,
        pieces=pieces_of(8, recipe.batch.num_clips_at_once),
        prepare=functools.partial(seed_draws, network, recipe.seed, STEP),
        **options,
    )


def _kept(
    folder: Path, recipe: Recipe, network: nn.Module, values: Mapping[str, float], **facts: Any
) -> Failure:
    failure = Failure(
        step=STEP,
        wrong=str(whats_wrong(values, gradients_can_overflow=False)),
        values=dict(values),
        sequence_ids=_batch().sequence_ids,
        **{"world_size": 1, "precision": "fp32", "device": "cpu", **facts},
    )
    write_failure(folder, failure, network, recipe, SUBJECTS, _batch())
    return failure


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        pytest.param({"loss": 3.0, "gradient_norm": 1.0}, None, id="nothing"),
        pytest.param({"loss": 100.0, "gradient_norm": 1e9}, None, id="steep"),
        pytest.param({"loss": math.nan, "gradient_norm": 1.0}, "loss is nan", id="loss nan"),
        pytest.param({"loss": math.inf, "gradient_norm": 1.0}, "loss is inf", id="loss inf"),
        pytest.param(
            {"loss": 101.0, "triplet_loss": 1.0, "identity_loss": 100.0, "gradient_norm": 1.0},
            "loss is 101, above loss.stop_above (100) (triplet_loss 1, identity_loss 100)",
            id="exploded",
        ),
        pytest.param(
            {"loss": 2.0, "gradient_norm": math.inf},
            "gradient norm is inf at loss 2",
            id="gradient",
        ),
    ],
)
def test_what_is_wrong_with_a_step_is_said(values: dict[str, float], wrong: str | None) -> None:
    got = whats_wrong(values, stop_above=100.0, gradients_can_overflow=False)
    assert got == wrong


def test_in_fp16_a_gradient_may_overflow_and_a_loss_may_not() -> None:
    says = functools.partial(whats_wrong, gradients_can_overflow=True)
    assert says({"loss": 2.0, "gradient_norm": math.inf}) is None
    assert says({"loss": math.inf, "gradient_norm": math.inf}) == "loss is inf"


def test_a_message_names_some_sequences_and_counts_the_others() -> None:
    assert name_some(["a", "b", "a"]) == "a, b"
    assert name_some([str(i) for i in range(20)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"


@pytest.mark.parametrize("at_once", [None, 4])
def test_a_loss_that_is_not_finite_changes_nothing_and_names_step_and_sequences(
    at_once: int | None,
) -> None:
    recipe = _recipe(**{"batch.num_clips_at_once": at_once})
    network = _network(recipe)
    _poison(network)
    before = copy.deepcopy(network.state_dict())
    kept: list[tuple[int, Mapping[str, float], str]] = []

    def keep(step: int, values: Mapping[str, float], wrong: str) -> str:
        kept.append((step, values, wrong))
        return "; kept"

    with pytest.raises(TrainingError, match=r"step 7: loss is nan .*walk-0, .*walk-7; kept"):
        _step(network, recipe, keep_failure=keep)
    assert kept[0][0] == STEP
    assert math.isnan(kept[0][1]["loss"])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor.nan_to_num(9.0), before[name].nan_to_num(9.0)), name


class _SteepRoot(nn.Module):
    """Its value is finite at 0, its gradient is not."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, frames: Tensor) -> Any:
        output = self.network(frames)
        branch = output.branches["main"]
        features = branch.triplet_features + self.zero.sqrt()
        return output._replace(branches={"main": branch._replace(triplet_features=features)})


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_weights_are_gone() -> None:
    recipe = _recipe()
    network = _SteepRoot(_network(recipe))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(TrainingError, match=r"step 7: gradient norm is (nan|inf) at loss \d"):
        train_step(network, BatchLoss(recipe), make_optimiser(recipe, network), _batch(), CPU)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_loss_that_has_exploded_ends_the_run() -> None:
    recipe = _recipe(**{"loss.stop_above": 0.5})
    with pytest.raises(TrainingError, match=r"loss is \S+, above loss.stop_above \(0.5\)"):
        _step(_network(recipe), recipe, stop_above=recipe.loss.stop_above)


def test_what_is_kept_comes_back_and_no_code_with_it(tmp_path: Path) -> None:
    recipe = _recipe()
    network = _network(recipe)
    values = {"loss": math.nan, "triplet_loss": math.inf, "gradient_norm": 1.0}
    failure = _kept(tmp_path / "step", recipe, network, values, world_size=2)
    there, saved, batch = read_failure(tmp_path / "step")
    assert math.isnan(there.values["loss"])
    assert there.values["triplet_loss"] == math.inf
    assert there.model_copy(update={"values": {}}) == failure.model_copy(update={"values": {}})
    assert saved.recipe == recipe
    assert saved.subjects == tuple(SUBJECTS)
    assert torch.equal(batch.inputs["frames"], _batch().inputs["frames"])
    assert torch.equal(batch.labels, _batch().labels)
    assert batch.sequence_ids == _batch().sequence_ids
    for name, tensor in saved.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    suffixes = {path.suffix for path in (tmp_path / "step").iterdir()}
    assert suffixes == {".safetensors", ".json"}


def test_the_first_who_keeps_a_step_is_kept(tmp_path: Path) -> None:
    recipe = _recipe()
    network = _network(recipe)
    _kept(tmp_path / "step", recipe, network, {"loss": math.nan, "gradient_norm": 1.0})
    _kept(tmp_path / "step", recipe, network, {"loss": math.inf, "gradient_norm": 1.0})
    assert math.isnan(read_failure(tmp_path / "step")[0].values["loss"])
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


@pytest.mark.parametrize("name", ["model.safetensors", "batch.safetensors", "failure.json"])
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str) -> None:
    recipe = _recipe()
    folder = tmp_path / "step"
    _kept(folder, recipe, _network(recipe), {"loss": math.nan, "gradient_norm": 1.0})
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(TrainingError, match="no step that failed is kept here"):
        read_failure(folder)


@pytest.mark.parametrize(
    ("precision", "at_once"),
    [("fp32", None), ("fp32", 4), ("bf16", None), ("fp16", None)],
)
def test_a_replay_computes_the_very_same_numbers(
    tmp_path: Path, precision: PrecisionName, at_once: int | None
) -> None:
    # Not a failure, so that there are numbers to compare.
    recipe = _recipe(**{"batch.num_clips_at_once": at_once})
    network = _network(recipe)
    before = copy.deepcopy(network)
    values = _step(network, recipe, Precision(precision))
    _kept(tmp_path / "step", recipe, before, values, precision=precision)
    again = replay(tmp_path / "step")
    assert again.precision == precision
    assert again.wrong is None
    assert (again.first, again.gradients) == ("", ())
    values.pop("loss_scale", None)
    assert again.values.keys() == values.keys()
    for name, value in again.values.items():
        # The norm of gradients that were scaled and of those that never were.
        assert value == pytest.approx(values[name], rel=1e-5 if name == "gradient_norm" else 0)


@pytest.mark.parametrize("at_once", [None, 2])
def test_a_replay_of_two_workers_normalises_all_clips_together(
    tmp_path: Path, at_once: int | None
) -> None:
    recipe = _recipe(**{"batch.num_clips_at_once": at_once})
    network = _network(recipe)
    _kept(tmp_path / "two", recipe, network, {"loss": 1.0, "gradient_norm": 1.0}, world_size=2)
    # Two workers, two clips each at once, are one worker of four.
    recipe = _recipe(**{"batch.num_clips_at_once": at_once and 2 * at_once})
    _kept(tmp_path / "one", recipe, network, {"loss": 1.0, "gradient_norm": 1.0})
    assert replay(tmp_path / "two").values == replay(tmp_path / "one").values


def test_a_replay_of_two_workers_normalises_each_ones_clips_by_themselves(tmp_path: Path) -> None:
    recipe, batch = _recipe(**{"batch.synchronise_norms": False}), _batch()
    network = _network(recipe)
    _kept(tmp_path / "two", recipe, network, {"loss": 1.0, "gradient_norm": 1.0}, world_size=2)
    _kept(tmp_path / "one", recipe, network, {"loss": 1.0, "gradient_norm": 1.0})
    shares = []
    for rank in range(2):
        worker = copy.deepcopy(network)
        seed_draws(worker, recipe.seed, STEP, rank)
        shares.append(worker(batch.inputs["frames"][rank::2]).branches["main"])
    features = torch.cat([share.triplet_features for share in shares])
    labels = torch.cat([batch.labels[rank::2] for rank in range(2)])
    expected = TripletLoss(margin=recipe.loss.triplet_margin)(features, labels)
    together, alone = replay(tmp_path / "two").values, replay(tmp_path / "one").values
    assert together["triplet_loss"] == pytest.approx(float(expected.loss.detach()), rel=1e-6)
    assert together["triplet_loss"] != pytest.approx(alone["triplet_loss"], rel=1e-4)


def test_a_replay_says_where_it_goes_wrong_first(tmp_path: Path) -> None:
    recipe = _recipe()
    network = _network(recipe)
    _poison(network)
    _kept(tmp_path / "step", recipe, network, {"loss": math.nan, "gradient_norm": 1.0})
    again = replay(tmp_path / "step")
    assert str(again.wrong).startswith("loss is nan")
    assert again.first.startswith("stages.2.layers.1.global_convolution (Convolution3d)")
    assert "its input is finite, its weights are not" in again.first
    assert "stages.0.layers.0.global_convolution.weight" in again.gradients
    text = again.to_text()
    assert "loss: nan then, nan now" in text
    assert "walk-7" in text
    other = replay(tmp_path / "step", precision="bf16")
    assert (other.precision, other.failure.precision) == ("bf16", "fp32")


@pytest.mark.ray
@pytest.mark.parametrize("synchronise", [True, False], ids=["synchronised", "each by itself"])
def test_a_run_of_two_workers_that_explodes_ends_at_once_and_is_replayed_by_one(
    walker_shards: Path, tmp_path: Path, synchronise: bool
) -> None:
    recipe = _recipe(
        **{
            "data.split": "first:4",
            "clip.num_frames": 9,
            "batch.num_subjects": 4,
            "batch.num_sequences": 2,
            "batch.synchronise_norms": synchronise,
            "optim.schedule": "milestones",
            "optim.learning_rate": 100.0,
            "loss.stop_above": 20.0,
            "num_steps": 6,
            "checkpoint_every_steps": 1,
        }
    )
    run = tmp_path / "wild"
    with pytest.raises(
        TrainingError, match=r"step [1-5]: loss is .*above loss.stop_above"
    ) as raised:
        train(recipe, walker_shards, tmp_path, name="wild", num_workers=2, max_failures=2)
    (folder,) = (run / "failures").iterdir()
    assert f"--replay {folder}" in str(raised.value)
    failure, _, batch = read_failure(folder)
    assert f"step {failure.step}:" in str(raised.value)
    assert failure.sequence_ids[0] in str(raised.value)
    assert (failure.world_size, len(batch.labels)) == (2, 8)
    # The steps before are on record, and no worker was replaced to compute the step again.
    history = read_history(run / "history.jsonl")
    assert [point["step"] for point in history] == list(range(1, failure.step + 1))
    assert read_lines(run / "events.jsonl") == []

    again = replay(folder)
    assert "above loss.stop_above (20)" in str(again.wrong)
    assert again.values.keys() == failure.values.keys()
    for name, value in again.values.items():
        # Weights of hundreds enlarge rounding: 2e-4 of a loss of 51,000 was seen.
        assert value == pytest.approx(failure.values[name], rel=1e-2, nan_ok=True), name


def test_the_job_replays(tmp_path: Path) -> None:
    recipe = _recipe()
    network = _network(recipe)
    _poison(network)
    _kept(tmp_path / "step", recipe, network, {"loss": math.nan, "gradient_norm": 1.0})
    job = Path(__file__).parents[2] / "jobs" / "train.py"
    command = [sys.executable, str(job), "--replay"]
    done = subprocess.run(
        [*command, str(tmp_path / "step")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "again, fp32 on cpu: loss is nan" in done.stdout
    assert "stages.2.layers.1.global_convolution" in done.stdout
    done = subprocess.run(
        [*command, str(tmp_path / "nowhere")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'nowhere'}: no step that failed")
