import json

import pytest
import torch

from raygait.datasets import protocols, splits
from raygait.errors import DatasetError, RecipeError
from raygait.recipes import named
from raygait.recipes.schema import build_model, from_dict, from_json, with_overrides


@pytest.mark.parametrize("name", sorted(named.RECIPES))
def test_every_named_recipe_survives_json_and_keeps_its_name(name: str) -> None:
    recipe = named.recipe(name)
    assert recipe.name == name
    assert from_json(json.dumps(recipe.to_dict())) == recipe


@pytest.mark.parametrize("name", sorted(named.RECIPES))
def test_every_named_recipe_says_where_its_values_come_from(name: str) -> None:
    assert len(named.recipe(name).source) > 20


def test_every_option_has_a_dotted_path_that_can_be_overridden_with_its_own_value() -> None:
    recipe = named.recipe("gaitgl-demo")
    assert with_overrides(recipe, recipe.to_flat()) == recipe


def test_an_override_changes_its_path_and_leaves_the_original_alone() -> None:
    recipe = named.recipe("gaitgl-demo")
    changed = with_overrides(recipe, {"model.drop_ratio": 0.5, "optim.milestones": [10, 20]})
    assert changed.to_flat()["model.drop_ratio"] == 0.5
    assert changed.optim.milestones == (10, 20)
    assert recipe.to_flat()["model.drop_ratio"] != 0.5


@pytest.mark.parametrize(
    ("overrides", "named_path"),
    [
        pytest.param({"model.drop_ration": 0.5}, "model.drop_ratio", id="typo names the near path"),
        pytest.param({"optim.learning_rate": -1}, "optim.learning_rate", id="out of range"),
        pytest.param(
            {"model.mask_strategy": "stripes"}, "model.mask_strategy", id="no such choice"
        ),
        pytest.param({"batch.num_subjects": "many"}, "batch.num_subjects", id="not a number"),
        pytest.param({"model": 3}, "model.", id="a section is not an option"),
    ],
)
def test_a_bad_override_is_an_error_that_names_the_path(overrides: dict, named_path: str) -> None:
    with pytest.raises(RecipeError, match=named_path):
        with_overrides(named.recipe("gaitgl-demo"), overrides)


def test_an_unknown_key_is_refused_at_every_depth() -> None:
    values = named.recipe("gaitgl-demo").to_dict()
    values["model"]["colour"] = "blue"
    with pytest.raises(RecipeError, match=r"model.*colour"):
        from_dict(values)


def test_an_unknown_architecture_is_refused_by_name() -> None:
    values = named.recipe("gaitgl-demo").to_dict()
    values["model"] = {"architecture": "gaitgl2"}
    with pytest.raises(RecipeError, match="gaitgl2"):
        from_dict(values)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_text_that_is_not_a_recipe_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        from_json(text)


def test_switches_that_do_not_fit_each_other_are_a_recipe_error_with_the_models_reason() -> None:
    recipe = with_overrides(named.recipe("gaitgl-demo"), {"model.channels": [8, 16]})
    with pytest.raises(RecipeError, match="one entry per stage"):
        build_model(recipe, 4)


def test_the_recipe_decides_the_networks_width_and_classes() -> None:
    recipe = with_overrides(named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8]})
    output = build_model(recipe, 5)(torch.zeros(2, 1, 9, 32, 22))
    assert output.embedding.shape == (2, 32, 8)
    assert output.branches["main"].logits.shape[2] == 5


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        named.recipe("gaitgl-demo").seed = 3  # type: ignore[misc]


def test_a_section_of_free_names_can_be_given_whole_and_by_its_parts() -> None:
    recipe = with_overrides(
        named.recipe("gaitgl-demo"),
        {
            "optim.group_factors": {"backbone": 0.5},
            "before": {"warm": {"num_steps": 7, "loss": {"triplet_weight": 0.0}}},
        },
    )
    assert recipe.optim.group_factors == {"backbone": 0.5}
    assert recipe.to_flat()["before.warm.num_steps"] == 7
    changed = with_overrides(
        recipe, {"before.warm.num_steps": 9, "optim.group_factors.backbone": 0.0}
    )
    assert changed.before["warm"].num_steps == 9
    assert changed.before["warm"].loss.triplet_weight == 0.0
    assert changed.optim.group_factors == {"backbone": 0.0}
    assert with_overrides(changed, changed.to_flat()) == changed
    assert with_overrides(changed, {"before": {}}).before == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param({"clip.max_num_frames": 3}, "max_num_frames", id="longest below shortest"),
        pytest.param(
            {"clip.skip_frames": 4, "clip.order": "unordered"}, "skip_frames", id="skips unordered"
        ),
        pytest.param({"model.architecture": "gaitgl2"}, "gaitgl2", id="unknown architecture"),
        pytest.param({"optim.group_factors": {"a": -1.0}}, "group_factors", id="negative factor"),
    ],
)
def test_options_that_contradict_each_other_are_refused(overrides: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        with_overrides(named.recipe("gaitgl-demo"), overrides)


def test_a_phase_is_a_recipe_of_its_own_with_the_models_other_switches() -> None:
    recipe = with_overrides(
        named.recipe("gaitgl-demo"),
        {
            "model.architecture": "lmgcs",
            "before": {"first": {"switches": {"phase": "a"}, "num_steps": 7}},
        },
    )
    phase = recipe.phase("first")
    assert phase.name == "gaitgl-demo/first"
    assert phase.model.switches()["phase"] == "a"
    assert phase.num_steps == 7
    assert phase.before == {}
    assert phase.seed == recipe.seed
    assert recipe.model.switches()["phase"] == "joint"


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        pytest.param({"part": "recogniser"}, r"part \('recogniser'\)", id="no such network"),
        pytest.param({"switches": {"drop": 0.5}}, "drop", id="no such switch"),
        pytest.param({"switches": {"drop_ratio": "half"}}, "drop_ratio", id="no such value"),
    ],
)
def test_a_phase_that_does_not_fit_the_model_is_refused(phase: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        with_overrides(named.recipe("gaitgl-demo"), {"before": {"first": phase}})
    assert len(str(caught.value)) < 300


def test_all_phases_see_the_subjects_of_the_recipe() -> None:
    recipe = with_overrides(named.recipe("gaitedge-casiab"), {"data.split": "first:5"})
    phases = [recipe.phase(name).data for name in recipe.before]
    assert {(data.split, data.protocol) for data in phases} == {("first:5", "casiab")}
    assert [data.modality for data in phases] == ["rgb", "silhouettes"]
    shifted = with_overrides(recipe, {"data.shift_px": 7})
    assert [shifted.phase(name).data.shift_px for name in shifted.before] == [7, 0]


@pytest.mark.parametrize("name", ["", "../away", "a.b", "A phase"])
def test_a_phase_is_named_as_a_folder_and_a_path_can_be(name: str) -> None:
    with pytest.raises(RecipeError, match="before"):
        with_overrides(named.recipe("gaitgl-demo"), {"before": {name: {"num_steps": 2}}})


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"model.architecture": []}, id="no name"),
        pytest.param({"model.gem_power": float("nan")}, id="not a number"),
        pytest.param({"optim.learning_rate": float("inf")}, id="infinite"),
    ],
)
def test_values_that_no_option_can_have_are_a_recipe_error(overrides: dict) -> None:
    with pytest.raises(RecipeError):
        with_overrides(named.recipe("gaitgl-demo"), overrides)


def test_a_recipe_nested_without_end_is_refused() -> None:
    with pytest.raises(RecipeError, match="JSON"):
        from_json("[" * 100_000)


def test_every_recipe_names_a_split_and_a_protocol_that_exist_or_says_which_file_it_needs() -> None:
    files = {"gait3d", "sustech1k"}
    for recipe in named.RECIPES.values():
        data = recipe.data
        assert protocols.protocol(data.protocol).numbers, recipe.name
        for name in {data.split, data.test_split} - {""}:
            if name in files:
                with pytest.raises(DatasetError, match=f"give {name}:PATH"):
                    splits.check_name(name)
            else:
                splits.check_name(name)
        # Who is tested and how they are scored are of one benchmark; `first:N` is anybody's.
        tested = data.test_split or data.split
        assert tested.startswith(("first:", data.protocol)), recipe.name
