import json
from pathlib import Path

import pytest
import torch
from torch import nn

from raygait.errors import RecipeError, RegistryError, TrainingError
from raygait.recipes import named
from raygait.recipes.saved_model import initial_model, load_model, save_model
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.launch import train
from raygait.training.transfer import (
    Start,
    class_axes,
    copied_start,
    copy_start,
    find_start,
    start_from,
)

_SMALL = {
    "gaitgl-demo": {"model.channels": [4, 8, 8]},
    "gaitbase-casiab": {"model.channels": [2, 4, 4, 4], "model.embedding_dim": 4},
    "gaitgl-casiab": {"model.channels": [4, 8, 8]},
}


def _recipe(name: str = "gaitgl-demo", **changes) -> Recipe:
    return with_overrides(named.recipe(name), {**_SMALL[name], **changes})


def _saved(folder: Path, recipe: Recipe, subjects: list[str], seed: int = 7, **origin: str) -> Path:
    network = initial_model(with_overrides(recipe, {"seed": seed}), subjects).network
    save_model(folder, network, recipe, subjects, step=5, origin=origin)
    return folder


def _fresh(recipe: Recipe, num_subjects: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(recipe, num_subjects)


@pytest.mark.parametrize("name", sorted(_SMALL))
def test_known_identities_keep_their_rows_and_new_ones_get_fresh_ones(
    tmp_path: Path, name: str
) -> None:
    recipe = _recipe(name)
    model = _saved(tmp_path / "m", recipe, ["a", "b", "c"])
    network, fresh = _fresh(recipe, 4), _fresh(recipe, 4).state_dict()
    transfer = start_from(network, recipe, ["b", "c", "x", "y"], model)
    axes = class_axes(recipe, 4)
    assert axes
    assert (transfer.num_known, transfer.num_new, transfer.by_class) == (2, 2, tuple(sorted(axes)))
    given = load_model(model).network.state_dict()
    for tensor_name, tensor in network.state_dict().items():
        if tensor_name not in axes:
            assert torch.equal(tensor, given[tensor_name])
            continue
        rows = tensor.movedim(axes[tensor_name], 0)
        assert torch.equal(rows[:2], given[tensor_name].movedim(axes[tensor_name], 0)[1:])
        assert torch.equal(rows[2:], fresh[tensor_name].movedim(axes[tensor_name], 0)[2:])
    for tensor_name in axes:
        assert tensor_name in transfer.to_text()


def test_equal_names_of_another_data_set_are_other_people(tmp_path: Path) -> None:
    recipe = _recipe()
    model = _saved(tmp_path / "m", recipe, ["001", "002"], dataset="casiab")
    for dataset, num_known in (("casiab", 2), ("ccpg", 0), ("", 0)):
        taken = start_from(_fresh(recipe, 2), recipe, ["001", "002"], model, dataset=dataset)
        assert (taken.num_known, taken.num_new) == (num_known, 2 - num_known)


def test_starting_draws_nothing_from_the_seed_of_the_run(tmp_path: Path) -> None:
    recipe = _recipe()
    model = _saved(tmp_path / "m", recipe, ["a", "b"])
    class_axes(recipe, 2)
    network = _fresh(recipe, 2)
    before = torch.get_rng_state()
    start_from(network, recipe, ["a", "b"], model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("other", "faults"),
    [
        pytest.param(_recipe(**{"model.channels": [4, 8, 16]}), "is .*, expected", id="width"),
        pytest.param(_recipe("gaitbase-casiab"), "missing .*unknown", id="architecture"),
    ],
)
def test_any_other_difference_is_refused_and_the_tensors_named(
    tmp_path: Path, other: Recipe, faults: str
) -> None:
    model = _saved(tmp_path / "m", _recipe(), ["a", "b"])
    network = _fresh(other, 2)
    with pytest.raises(TrainingError, match=f"cannot start from .*{faults}") as caught:
        start_from(network, other, ["a", "b"], model)
    given = load_model(model).network.state_dict()
    differ = {
        name
        for name, tensor in network.state_dict().items()
        if name not in given or given[name].shape != tensor.shape
    }
    assert differ
    assert all(name in str(caught.value) for name in differ)


def test_a_part_takes_its_share_of_a_whole_model(tmp_path: Path) -> None:
    recipe = with_overrides(
        named.recipe("gaitedge-casiab"),
        {
            "model.recogniser.stem_channels": [4],
            "model.recogniser.channels": [8, 8, 8],
            "model.segmenter.channels": [2, 4, 4, 8],
        },
    )
    model = _saved(tmp_path / "m", recipe, ["a", "b"])
    part = recipe.phase("recogniser")
    network = build_model(part, 2)
    start_from(network, part, ["a", "b"], model, part="recogniser")
    whole = load_model(model).network.state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, whole[f"recogniser.{name}"])


def test_a_name_means_for_a_run_what_it_meant_when_the_run_began(tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = _saved(tmp_path / "m", _recipe(), ["a", "b"])
    start = find_start(str(model), run, tracking_uri="", scratch=tmp_path)
    assert start == Start(str(model), model)
    remembered = copy_start(run, start)
    (run / "data.json").write_text(json.dumps({"shards_digest": "x", **remembered}))
    _saved(model, _recipe(seed=3), ["c", "d"])
    again = find_start(str(model), run, tracking_uri="", scratch=tmp_path)
    assert again == Start(str(model), copied_start(run))
    assert load_model(again.model).subjects == ("a", "b")
    with pytest.raises(RegistryError, match="no saved model"):
        find_start(str(tmp_path / "typo"), run, tracking_uri="", scratch=tmp_path)


@pytest.mark.ray
def test_a_run_starts_from_a_model_frozen_parts_stay_and_another_start_is_refused(
    walker_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="raygait")
    small = {
        "data.split": "first:4",
        "clip.num_frames": 6,
        "batch.num_subjects": 4,
        "batch.num_sequences": 2,
        "num_steps": 2,
        "optim.milestones": [],
        "optim.group_factors": {"backbone": 0.0},
    }
    recipe = _recipe("gaitbase-casiab", **small)
    model = _saved(tmp_path / "m", recipe, ["001", "002", "stranger"], dataset="walkers")
    start = Start("models:/gait@champion", model)
    result = train(recipe, walker_shards, tmp_path, name="tuned", start=start)
    (line,) = [r.getMessage() for r in caplog.records if "starts from" in r.getMessage()]
    assert "the rows of 2 known identities taken, of 2 new ones fresh" in line

    tuned = load_model(result.checkpoint)
    given = load_model(model).network.state_dict()
    backbone = {id(weight) for weight in tuned.network.parameter_groups()["backbone"]}
    frozen = {n for n, weight in tuned.network.named_parameters() if id(weight) in backbone}
    stems = {name.rpartition(".")[0] for name in frozen}
    moved = set()
    for name, tensor in tuned.network.state_dict().items():
        if tensor.shape == given[name].shape and not torch.equal(tensor, given[name]):
            moved.add(name)
    assert frozen
    assert moved
    assert not {name for name in moved if name.rpartition(".")[0] in stems}
    assert tuned.origin["start"] == "models:/gait@champion"

    # The model the alias means now does not matter, another one and none are refused.
    moved_on = Start(start.reference, _saved(tmp_path / "n", recipe, ["001", "new"], seed=8))
    assert train(recipe, walker_shards, tmp_path, name="tuned", start=moved_on) == result
    assert "goes on with the one it began with" in caplog.text
    for other in (None, Start("models:/other@champion", moved_on.model)):
        with pytest.raises(TrainingError, match="starts from models:/gait@champion, not from"):
            train(recipe, walker_shards, tmp_path, name="tuned", start=other)


@pytest.mark.ray
def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(
    walker_shards: Path, tmp_path: Path
) -> None:
    recipe = _recipe(**{"data.split": "first:4", "batch.num_subjects": 4})
    model = _saved(tmp_path / "m", _recipe(**{"model.channels": [4, 8, 16]}), ["001", "002"])
    with pytest.raises(TrainingError, match="cannot start from"):
        train(recipe, walker_shards, tmp_path, name="wrong", start=Start("m", model))
    with pytest.raises((RegistryError, RecipeError)):
        train(recipe, walker_shards, tmp_path, name="wrong", start=Start("no", tmp_path / "no"))
    assert not (tmp_path / "wrong").exists()
