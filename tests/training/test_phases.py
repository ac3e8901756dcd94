import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from raygait.batches.loader import Batch
from raygait.errors import DatasetError, RecipeError, RegistryError, TrainingError
from raygait.models import Branch, GaitOutput
from raygait.recipes import named
from raygait.recipes.saved_model import load_model, save_model
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.launch import read_history, train
from raygait.training.loop import BatchLoss, make_optimiser, make_scheduler, train_step
from raygait.training.phases import (
    SegmenterAlone,
    freeze,
    frozen_groups,
    load_earlier,
    phases_of,
    runnable,
)


def _gaitedge(**changes) -> Recipe:
    small = {
        "model.recogniser.stem_channels": [4],
        "model.recogniser.channels": [8, 8, 8],
        "model.segmenter.channels": [2, 4, 4, 8],
    }
    for prefix, num_frames, num_steps in (
        ("", 9, 3),
        ("before.segmenter.", 4, 4),
        ("before.recogniser.", 9, 2),
    ):
        small |= {
            f"{prefix}clip.num_frames": num_frames,
            f"{prefix}batch.num_subjects": 2,
            f"{prefix}batch.num_sequences": 2,
            f"{prefix}num_steps": num_steps,
            f"{prefix}optim.milestones": [],
        }
    small |= {"data.split": "first:2", "checkpoint_every_steps": 2}
    return with_overrides(named.recipe("gaitedge-casiab"), {**small, **changes})


def _lmgcs(**changes) -> Recipe:
    small = {
        "model.channels": [4, 8, 8, 8],
        "model.gsfe_layers": [1, 1],
        "model.gsfe_width": 16,
        "model.gsfe_heads": 2,
        "model.embedding_dim": 8,
        "data.split": "first:4",
    }
    for prefix in ("", "before.a."):
        small |= {
            f"{prefix}clip.num_frames": 6,
            f"{prefix}batch.num_subjects": 4,
            f"{prefix}batch.num_sequences": 2,
            f"{prefix}num_steps": 3,
            f"{prefix}optim.milestones": [],
        }
    return with_overrides(named.recipe("lmgcs-casiab-lt"), {**small, **changes})


def test_the_phases_of_a_recipe_are_recipes_that_follow_each_other() -> None:
    phases = phases_of(_gaitedge())
    assert [(phase.name, phase.part, phase.steps_before) for phase in phases] == [
        ("segmenter", "segmenter", 0),
        ("recogniser", "recogniser", 4),
        ("", "", 6),
    ]
    assert [phase.recipe.model.architecture for phase in phases] == [
        "unet",
        "gaitgl_iccv",
        "gaitedge",
    ]
    assert [len(phases_of(named.recipe("gaitgl-demo"))), len(phases_of(_lmgcs()))] == [1, 2]


@pytest.mark.ray
@pytest.mark.timeout(420)
def test_gaitedge_trains_its_three_phases_by_one_command_and_goes_on_where_it_was(
    street_shards: Path, tmp_path: Path
) -> None:
    recipe = _gaitedge()
    result = train(recipe, street_shards, tmp_path, name="edge", report_every_steps=1)
    folder = tmp_path / "edge"
    assert [point["step"] for point in result.history] == [*range(1, 10)]
    assert ["segmentation_loss" in point for point in result.history] == [True] * 4 + [
        False
    ] * 2 + [True] * 3
    assert ["triplet_loss" in point for point in result.history] == [False] * 4 + [True] * 5

    segmenter = load_model(next((folder / "phase-segmenter").glob("checkpoint-*04")))
    recogniser = load_model(next((folder / "phase-recogniser").glob("checkpoint-*02")))
    final = load_model(result.checkpoint)
    assert final.recipe == recipe
    assert final.step == 3
    learnt = segmenter.network.state_dict()
    joint = final.network.segmenter.state_dict()
    for name, tensor in learnt.items():
        # The first half is fixed, statistics of its norms included; the other has moved.
        assert torch.equal(tensor, joint[name]) == name.startswith("encoder."), name
    moved = [
        (a - b).abs().max()
        for a, b in zip(
            recogniser.network.parameters(), final.network.recogniser.parameters(), strict=True
        )
    ]
    # From where its own phase has left it, three steps of 1e-4.
    assert 0 < max(moved) < 1e-3

    again = train(recipe, street_shards, tmp_path, name="edge")
    assert again.checkpoint == result.checkpoint
    assert read_history(folder / "history.jsonl") == result.history

    shutil.rmtree(next((folder / "phase-recogniser").glob("checkpoint-*02")))
    with pytest.raises(TrainingError, match=r"is gone.*delete .*phase-recogniser"):
        train(recipe, street_shards, tmp_path, name="edge")


@pytest.mark.ray
@pytest.mark.timeout(420)
def test_lmgcs_trains_b_on_an_a_that_stays_bit_by_bit_as_it_was(
    walker_shards: Path, tmp_path: Path
) -> None:
    result = train(_lmgcs(), walker_shards, tmp_path, name="two", num_workers=2)
    a = load_model(next((tmp_path / "two" / "phase-a").glob("checkpoint-*03"))).network
    b = load_model(result.checkpoint).network
    after = dict(b.named_parameters())
    frozen = {id(weight) for weight in b.parameter_groups()["subnetwork_a"]}
    for name, weight in a.named_parameters():
        assert torch.equal(weight, after[name]) == (id(after[name]) in frozen), name
    assert [point["step"] for point in result.history] == [1, 2, 3, 4, 5, 6]


@pytest.mark.ray
@pytest.mark.parametrize(
    "changes", [{"data.protocol": "marathon"}, {"data.test_split": "marathon"}]
)
def test_a_run_that_could_not_be_scored_is_refused_before_it_trains(
    walker_shards: Path, tmp_path: Path, changes: dict
) -> None:
    with pytest.raises(DatasetError, match="marathon"):
        train(_lmgcs(**changes), walker_shards, tmp_path, name="wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.ray
def test_a_phase_that_cannot_train_is_refused_before_anything_is_written(
    walker_shards: Path, tmp_path: Path
) -> None:
    recipe = _lmgcs(**{"before.a.optim.group_factors": {"head": 0.5}})
    with pytest.raises(RecipeError, match=r"LMGCS has no group 'head'.*subnetwork_a"):
        train(recipe, walker_shards, tmp_path, name="wrong")
    assert not (tmp_path / "wrong").exists()


class TestFrozenGroups:
    def _network(self) -> nn.Module:
        recipe = with_overrides(
            named.recipe("gaitbase-casiab"),
            {"model.channels": [2, 4, 4, 4], "model.embedding_dim": 4},
        )
        return build_model(recipe, 3)

    def test_frozen_weights_and_statistics_stay_as_they_are(self) -> None:
        network = self._network().train()
        recipe = with_overrides(
            named.recipe("gaitbase-casiab"), {"optim.group_factors": {"backbone": 0.0}}
        )
        freeze(network, frozen_groups(recipe))
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        optimiser = make_optimiser(recipe, network)
        clips = torch.rand(6, 1, 3, 64, 44)
        batch = Batch(0, {"frames": clips}, torch.tensor([0, 0, 1, 1, 2, 2]))
        train_step(network, BatchLoss(recipe), optimiser, batch, torch.device("cpu"))
        moved = {
            name
            for name, tensor in network.state_dict().items()
            if not torch.equal(tensor, before[name])
        }
        assert moved
        backbone = {id(weight) for weight in network.parameter_groups()["backbone"]}
        names = {name for name, weight in network.named_parameters() if id(weight) in backbone}
        stems = {name.rpartition(".")[0] for name in names}
        assert not {name for name in moved if name.rpartition(".")[0] in stems}

    def test_a_group_has_the_learning_rate_times_its_factor_on_every_schedule(self) -> None:
        network = self._network()
        for schedule in ("milestones", "one-cycle"):
            recipe = with_overrides(
                named.recipe("gaitbase-casiab"),
                {
                    "optim.group_factors": {"head": 0.1},
                    "optim.schedule": schedule,
                    "num_steps": 10,
                },
            )
            optimiser = make_optimiser(recipe, network)
            scheduler = make_scheduler(recipe, optimiser)
            for _ in range(3):
                others, head = (group["lr"] for group in optimiser.param_groups)
                assert head == pytest.approx(0.1 * others)
                optimiser.step()
                scheduler.step()
        count = sum(len(group["params"]) for group in optimiser.param_groups)
        assert count == len(list(network.parameters()))

    def test_a_group_that_does_not_exist_is_named(self) -> None:
        recipe = with_overrides(
            named.recipe("gaitbase-casiab"), {"optim.group_factors": {"neck": 0.5}}
        )
        with pytest.raises(RecipeError, match=r"GaitBase has no group 'neck'.*'backbone', 'head'"):
            make_optimiser(recipe, self._network())


class TestEarlierPhases:
    def test_weights_go_where_their_names_say(self, tmp_path: Path) -> None:
        recipe = _gaitedge()
        whole = build_model(recipe, 2)
        for part in ("segmenter", "recogniser"):
            save_model(
                tmp_path / part, getattr(whole, part), recipe.phase(part), ["a", "b"], step=1
            )
        fresh = build_model(recipe, 2)
        earlier = [(part, tmp_path / part) for part in ("segmenter", "recogniser")]
        load_earlier(fresh, "", earlier)
        assert all(
            torch.equal(a, b)
            for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True)
        )
        # A part takes its share of a whole that trained before, and nothing of another part.
        save_model(tmp_path / "whole", whole, recipe, ["a", "b"], step=1)
        part = build_model(recipe.phase("recogniser"), 2)
        load_earlier(part, "recogniser", [("segmenter", tmp_path / "segmenter")])
        load_earlier(part, "recogniser", [("", tmp_path / "whole")])
        for name, tensor in whole.recogniser.state_dict().items():
            assert torch.equal(tensor, part.state_dict()[name])

    def test_weights_that_do_not_fit_are_refused_by_name(self, tmp_path: Path) -> None:
        recipe = _gaitedge()
        segmenter = build_model(recipe.phase("segmenter"), 2)
        save_model(tmp_path / "one", segmenter, recipe.phase("segmenter"), ["a", "b"], step=1)
        wider = build_model(with_overrides(recipe, {"model.segmenter.channels": [4, 4, 4, 8]}), 2)
        with pytest.raises(RegistryError, match=r"encoder\..* is .*expected"):
            load_earlier(wider, "", [("segmenter", tmp_path / "one")])

    def test_a_segmenter_alone_says_who_is_a_person_and_recognises_nobody(self) -> None:
        segmenter = build_model(_gaitedge().phase("segmenter"), 2)
        network = runnable(segmenter)
        assert isinstance(network, SegmenterAlone)
        output = network(torch.rand(2, 3, 4, 128, 128))
        assert output.mask_logits is not None
        assert output.mask_logits.shape == (2, 1, 4, 128, 128)
        assert output.branches == {}


class TestLossesOfBranches:
    def _output(self) -> GaitOutput:
        generator = torch.Generator().manual_seed(0)
        branches = {
            name: Branch(
                torch.randn(4, 2, 3, generator=generator, requires_grad=True),
                torch.randn(4, 2, 5, generator=generator, requires_grad=True),
            )
            for name in ("local", "global")
        }
        return GaitOutput(branches["local"].triplet_features, branches)

    def test_the_loss_is_the_sum_over_the_branches_that_count(self) -> None:
        recipe = named.recipe("gaitgl-demo")
        labels = torch.tensor([0, 0, 1, 1])
        both, measured = BatchLoss(recipe)(self._output(), labels)
        alone = [
            BatchLoss(with_overrides(recipe, {"loss.branches": [name]}))(self._output(), labels)[0]
            for name in ("local", "global")
        ]
        torch.testing.assert_close(both, alone[0] + alone[1])
        assert measured["triplet_loss"] == pytest.approx(
            (measured["triplet_loss_local"] + measured["triplet_loss_global"]).item() / 2
        )

    def test_a_branch_that_does_not_count_still_has_a_gradient_of_zero(self) -> None:
        # DDP would wait for it for ever.
        output = self._output()
        recipe = with_overrides(named.recipe("gaitgl-demo"), {"loss.branches": ["local"]})
        loss, measured = BatchLoss(recipe)(output, torch.tensor([0, 0, 1, 1]))
        loss.backward()
        assert output.branches["global"].logits is not None
        for tensor in output.branches["global"]:
            assert tensor.grad is not None
            assert not tensor.grad.any()
        assert "triplet_loss_global" not in measured

    def test_a_branch_that_does_not_exist_is_named(self) -> None:
        recipe = with_overrides(named.recipe("gaitgl-demo"), {"loss.branches": ["middle"]})
        with pytest.raises(TrainingError, match=r"middle.*global.*local"):
            BatchLoss(recipe)(self._output(), torch.tensor([0, 0, 1, 1]))

    def test_the_triplet_options_of_a_recipe_reach_the_loss(self) -> None:
        labels = torch.tensor([0, 0, 1, 1])
        recipe = with_overrides(named.recipe("gaitgl-demo"), {"loss.identity_weight": 0.0})
        values = {
            BatchLoss(with_overrides(recipe, changes))(self._output(), labels)[0].item()
            for changes in ({}, {"loss.triplet_squared": True}, {"loss.anchor_is_positive": True})
        }
        assert len(values) == 3


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights() -> None:
    class Steep(nn.Module):
        """A finite loss whose gradient is not: the square root at 0."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, frames: torch.Tensor) -> GaitOutput:
            features = (self.weight.sqrt() + frames.mean(dim=(2, 3, 4)))[:, None]
            return GaitOutput(features, {"main": Branch(features, features.repeat(1, 1, 3))})

    network = Steep()
    recipe = named.recipe("gaitgl-demo")
    batch = Batch(7, {"frames": torch.rand(4, 1, 2, 3, 3)}, torch.tensor([0, 0, 1, 1]))
    optimiser = make_optimiser(recipe, network)
    with pytest.raises(TrainingError, match=r"step 7: gradient norm is (inf|nan) at loss"):
        train_step(network, BatchLoss(recipe), optimiser, batch, torch.device("cpu"))
    assert network.weight.item() == 0.0
