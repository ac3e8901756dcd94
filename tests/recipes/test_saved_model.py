import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from raygait.batches.inputs import INPUTS
from raygait.errors import ModelInputError, RegistryError
from raygait.models import Branch, GaitOutput
from raygait.recipes import named
from raygait.recipes.saved_model import (
    SavedModel,
    check_files,
    initial_model,
    load_model,
    save_model,
)
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
    _forget_digests(folder)
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
    with pytest.raises(RegistryError, match=f"not a saved model|{name} is damaged"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "model.json", "extra.bin"])
def test_one_flipped_bit_is_found_and_the_file_named(saved, name: str) -> None:
    model, folder = saved
    (folder / "extra.bin").write_bytes(b"belongs to it")
    save_model(folder, model.network, model.recipe, _SUBJECTS, step=7, beside=["extra.bin"])
    assert check_files(folder).keys() == {"model.safetensors", "recipe.json", "extra.bin"}
    content = bytearray((folder / name).read_bytes())
    # In the description: within a subject's name, which leaves valid JSON of another meaning.
    content[content.rindex(b'"002"') + 3 if name == "model.json" else len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(RegistryError, match=f"{name} is damaged"):
        check_files(folder)
    if name == "extra.bin":
        load_model(folder)  # not a part of the model
    else:
        with pytest.raises(RegistryError, match=f"{name} is damaged"):
            load_model(folder)


def test_a_description_without_digests_is_still_read(saved) -> None:
    model, folder = saved
    _forget_digests(folder)
    assert check_files(folder) == {}
    assert load_model(folder).step == model.step + 7


def _forget_digests(folder: Path) -> None:
    """As the first saved models were written."""
    description = json.loads((folder / "model.json").read_text())
    del description["files"], description["sha256"]
    (folder / "model.json").write_text(json.dumps(description))


class _Aligning(nn.Module):
    """Moves with joints, ratios and masks, each if it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(1, 2, channels))

    def forward(
        self,
        frames: Tensor,
        *,
        joints: Tensor | None = None,
        ratios: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> GaitOutput:
        if masks is not None:
            frames = frames * masks
        embedding = frames.mean((2, 3, 4)) * self.weights
        if joints is not None:
            embedding = embedding + joints.mean((1, 3))
        if ratios is not None:
            embedding = embedding * ratios.mean(1, keepdim=True)
        embedding = embedding[:, None]
        return GaitOutput(embedding, {"main": Branch(embedding, None)})


def _of(modality: str, height_px: int = 64, width_px: int = 48) -> SavedModel:
    changes = {"data.modality": modality, "data.height_px": height_px, "data.width_px": width_px}
    recipe = with_overrides(named.recipe("gaitgl-demo"), changes)
    channels = {"heatmaps": 17, "heatmaps_redrawn": 2, "rgb": 3}.get(modality, 1)
    return SavedModel(_Aligning(channels).eval(), recipe, tuple(_SUBJECTS), step=0)


def _arrays(modality: str, num: int = 3, length: int = 7) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 256, (num, length, *shape)).astype(
            np.float32 if name in ("joints", "ratios") else np.uint8
        )
        for name, shape in INPUTS[modality].items()
    }


@pytest.mark.parametrize("modality", list(INPUTS))
def test_named_arrays_of_every_modality_embed_and_each_of_them_counts(modality: str) -> None:
    model, arrays = _of(modality), _arrays(modality)
    together = model.embed(arrays)
    assert together.shape[:2] == (3, 1)
    for number in range(3):
        alone = model.embed({name: values[number : number + 1] for name, values in arrays.items()})
        np.testing.assert_allclose(alone[0], together[number], rtol=1e-5)
    for name in set(arrays) - {"frames"}:
        less = {other: values for other, values in arrays.items() if other != name}
        assert not np.allclose(model.embed(less), together), name
    only_frames = {"frames": arrays["frames"]}
    np.testing.assert_array_equal(model.embed(arrays["frames"]), model.embed(only_frames))


def test_what_goes_in_is_fitted_as_training_fits_it() -> None:
    arrays = _arrays("rgb")
    model, seen = _of("rgb", 64, 64), []
    model.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((*args, kwargs)), with_kwargs=True
    )
    model.embed(arrays)
    (frames, others) = seen[0]
    assert frames.shape == (3, 3, 7, 64, 64)
    assert set(others["masks"].unique().tolist()) == {0.0, 1.0}
    assert others["masks"].shape == (3, 1, 7, 64, 64)
    squares = arrays["frames"].reshape(3, 7, 64, 2, 64, 2, 3).mean((3, 5)).transpose(0, 4, 1, 2, 3)
    np.testing.assert_allclose(frames.numpy(), squares / 255, atol=0.5 / 255 + 1e-6)


def test_blank_inputs_are_what_the_network_takes(saved) -> None:
    assert list(_of("rgb").blank_inputs()) == ["frames", "masks", "ratios"]
    assert list(_of("heatmaps").blank_inputs()) == ["frames", "joints"]
    assert list(saved[0].blank_inputs()) == ["frames"]
    for modality in INPUTS:
        model = _of(modality)
        assert model.embed(model.blank_inputs(1, 4)).shape[:2] == (1, 1)


def _changed(modality: str, **changes) -> dict[str, np.ndarray]:
    return {**_arrays(modality), **changes}


@pytest.mark.parametrize(
    ("modality", "inputs"),
    [
        pytest.param("heatmaps", _arrays("heatmaps_redrawn"), id="other maps"),
        pytest.param("heatmaps", _changed("heatmaps", ratios=np.ones((3, 7))), id="ratios"),
        pytest.param("heatmaps", _changed("heatmaps", joints=np.ones((3, 6, 17, 3))), id="short"),
        pytest.param("heatmaps", {"joints": np.ones((3, 7, 17, 3))}, id="no frames"),
        pytest.param("rgb", _arrays("rgb")["frames"].transpose(0, 1, 4, 2, 3), id="channels first"),
        pytest.param("rgb", _changed("rgb", masks=np.ones((3, 7, 128, 128))), id="float masks"),
        pytest.param("rgb", _changed("rgb", ratios=np.ones((3, 8), np.float32)), id="ratios long"),
        pytest.param("rgb", _changed("rgb", frames=np.zeros((3, 7, 9, 9, 3), np.uint8)), id="9"),
    ],
)
def test_named_arrays_that_do_not_fit_are_refused(modality: str, inputs) -> None:
    with pytest.raises(ModelInputError, match=r"(?s)expected.*got"):
        _of(modality).embed(inputs)
