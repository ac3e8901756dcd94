from pathlib import Path

import pytest
import torch

from raygait.errors import TrainingError
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.checkpoint import load_checkpoint, same_run, save_checkpoint
from raygait.training.loop import make_optimiser, make_scheduler

_SUBJECTS = ["001", "002"]


def _recipe(**changes) -> Recipe:
    return with_overrides(named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8], **changes})


def _parts(recipe: Recipe):
    network = build_model(recipe, 2)
    optimiser = make_optimiser(recipe, network)
    return network, optimiser, make_scheduler(recipe, optimiser)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network, optimiser, scheduler = _parts(_recipe())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    scheduler.step()
    save_checkpoint(
        tmp_path, network, optimiser, scheduler, _recipe(), _SUBJECTS, step=1, origin={}
    )
    return tmp_path


def test_weights_optimiser_and_schedule_come_back_bit_for_bit(folder: Path) -> None:
    network, optimiser, scheduler = _parts(_recipe())
    assert load_checkpoint(folder, network, optimiser, scheduler, _recipe(), _SUBJECTS) == 1
    saved = torch.load(folder / "training.pt", weights_only=True)
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(value, saved["optimiser"]["state"][number][name])
    assert scheduler.state_dict()["last_epoch"] == 1


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04."], ids=["empty", "text", "pickle"])
def test_a_damaged_state_is_refused(folder: Path, content: bytes) -> None:
    (folder / "training.pt").write_bytes(content)
    with pytest.raises(TrainingError, match="cannot continue"):
        load_checkpoint(folder, *_parts(_recipe()), _recipe(), _SUBJECTS)


def test_a_state_without_its_keys_is_refused(folder: Path) -> None:
    torch.save({"other": 1}, folder / "training.pt")
    with pytest.raises(TrainingError, match="cannot continue"):
        load_checkpoint(folder, *_parts(_recipe()), _recipe(), _SUBJECTS)


def test_other_subjects_are_refused_although_there_are_as_many(folder: Path) -> None:
    with pytest.raises(TrainingError, match="001 to 002; the data has 2, 101 to 102"):
        load_checkpoint(folder, *_parts(_recipe()), _recipe(), ["101", "102"])


def test_another_recipe_is_refused_but_another_citation_is_not(folder: Path) -> None:
    other = _recipe(**{"optim.learning_rate": 1e-5})
    with pytest.raises(TrainingError, match=r"optim\.learning_rate"):
        load_checkpoint(folder, *_parts(other), other, _SUBJECTS)
    assert same_run(_recipe(), _recipe(name="another", source="a corrected citation"))


def test_phases_in_another_order_are_another_run() -> None:
    first, second = {"num_steps": 2}, {"num_steps": 3}
    there = _recipe(before={"one": first, "two": second})
    here = _recipe(before={"two": second, "one": first})
    assert not same_run(there, here)
    assert same_run(there, _recipe(before={"one": first, "two": second}))
