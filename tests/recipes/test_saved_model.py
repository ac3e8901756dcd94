import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from raygait.errors import ModelInputError, RegistryError
from raygait.recipes import named
from raygait.recipes.saved_model import SavedModel, initial_model, load_model, save_model
from raygait.recipes.schema import with_overrides

_SUBJECTS = ["001", "002", "003"]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[SavedModel, Path]:
    recipe = with_overrides(named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8]})
    model = initial_model(recipe, _SUBJECTS)
    save_model(tmp_path / "m", model.network, recipe, _SUBJECTS, step=7, origin={"shards": "x"})
    return model, tmp_path / "m"


def _frames(num: int = 2, length: int = 9, width_px: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, length, 64, width_px), dtype=np.uint8)


def test_a_model_embeds_the_same_after_it_was_saved_and_loaded(saved) -> None:
    model, folder = saved
    loaded = load_model(folder)
    np.testing.assert_array_equal(loaded.embed(_frames()), model.embed(_frames()))
    assert (loaded.step, loaded.subjects, loaded.recipe) == (7, tuple(_SUBJECTS), model.recipe)
    assert loaded.origin["shards"] == "x"


def test_full_and_already_cut_frames_embed_the_same(saved) -> None:
    model, _ = saved
    np.testing.assert_array_equal(model.embed(_frames()), model.embed(_frames()[..., 10:54]))


def test_any_batch_size_and_length_embed_and_a_sequence_embeds_alone_as_in_company(saved) -> None:
    model, _ = saved
    together = model.embed(_frames(3, 12))
    alone = model.embed(_frames(3, 12)[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_initial_weights_follow_from_the_recipes_seed_alone() -> None:
    recipe = named.recipe("gaitgl-demo")
    torch.manual_seed(99)
    first = initial_model(recipe, _SUBJECTS).network.state_dict()
    torch.manual_seed(3)
    second = initial_model(recipe, _SUBJECTS).network.state_dict()
    other = initial_model(with_overrides(recipe, {"seed": 1}), _SUBJECTS).network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(_frames()[0], id="a dimension short"),
        pytest.param(_frames().astype(np.float32), id="floats"),
        pytest.param(_frames()[:, :, :32], id="too low"),
        pytest.param(_frames(width_px=40), id="too narrow"),
        pytest.param(_frames(length=1), id="too few frames"),
    ],
)
def test_frames_that_do_not_fit_are_refused_with_got_and_expected(saved, frames) -> None:
    with pytest.raises(ModelInputError, match=r"(?s)expected.*got|got.*expected|at least"):
        saved[0].embed(frames)


def test_weights_of_another_shape_are_refused_by_name(saved) -> None:
    _, folder = saved
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = torch.zeros(3)
    weights["extra.weight"] = torch.zeros(1)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(RegistryError, match=r"unknown extra\.weight") as caught:
        load_model(folder)
    assert name in str(caught.value)


def test_a_newer_format_is_refused(saved) -> None:
    _, folder = saved
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({"new": description, "format_version": 99}))
    (folder / "recipe.json").write_text('{"colour": "of a later version"}')
    with pytest.raises(RegistryError, match="format version 99"):
        load_model(folder)


@pytest.mark.parametrize("text", ["[]", '{"format_version": 1}', '{"format_version": "x"}'])
def test_a_description_of_another_shape_is_refused(saved, text: str) -> None:
    _, folder = saved
    (folder / "model.json").write_text(text)
    with pytest.raises(RegistryError, match="not a saved model"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "model.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_a_damaged_folder_is_an_error_that_names_it(saved, name: str, damage: str) -> None:
    _, folder = saved
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"\x80\x04garbage")
    with pytest.raises(RegistryError, match="not a saved model"):
        load_model(folder)
