import resource
from pathlib import Path

import pytest
import torch

from raygait.errors import TrainingError
from raygait.recipes import named
from raygait.recipes.saved_model import load_model
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.checkpoint import (
    checkpoint_path,
    damage_of,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    remove_checkpoint,
    remove_leftovers,
    same_run,
    save_checkpoint,
)
from raygait.training.loop import make_optimiser, make_scheduler

_SUBJECTS = ["001", "002"]
_FILES = ["model.json", "model.safetensors", "recipe.json", "training.pt"]


def _recipe(**changes) -> Recipe:
    return with_overrides(named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8], **changes})


def _parts(recipe: Recipe):
    network = build_model(recipe, 2)
    optimiser = make_optimiser(recipe, network)
    return network, {"optimiser": optimiser, "scheduler": make_scheduler(recipe, optimiser)}


def _save(run: Path, *steps: int) -> None:
    network, state = _parts(_recipe())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    for step in steps:
        state["optimiser"].step()
        state["scheduler"].step()
        save_checkpoint(run, network, state, _recipe(), _SUBJECTS, step=step, origin={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _save(tmp_path, 1)
    return tmp_path / "checkpoint-00000001"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_weights_optimiser_and_schedule_come_back_bit_for_bit(folder: Path) -> None:
    network, state = _parts(_recipe())
    assert load_checkpoint(folder, network, state, _recipe(), _SUBJECTS) == 1
    saved = torch.load(folder / "training.pt", weights_only=True)
    for number, values in state["optimiser"].state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, saved["optimiser"]["state"][number][name])
    assert state["scheduler"].state_dict()["last_epoch"] == 1


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
    assert same_run(_recipe(), _recipe(keep_every_steps=5))
    assert not same_run(_recipe(), _recipe(evaluate_every_steps=5))


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
@pytest.mark.parametrize("name", _FILES)
def test_a_damaged_newest_checkpoint_makes_way_for_the_one_before_and_is_named(
    tmp_path: Path, name: str, damage
) -> None:
    _save(tmp_path, 2, 4)
    assert newest_checkpoint(tmp_path).path == tmp_path / "checkpoint-00000004"
    damage(tmp_path / "checkpoint-00000004" / name)
    newest = newest_checkpoint(tmp_path)
    assert newest.path == tmp_path / "checkpoint-00000002"
    (fault,) = newest.damaged
    assert "checkpoint-00000004" in fault
    assert name in fault


def test_nothing_but_damaged_checkpoints_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    _save(tmp_path, 2, 4)
    for path in list_checkpoints(tmp_path).values():
        truncate(path / "training.pt")
    with pytest.raises(TrainingError, match=r"every checkpoint is damaged.*from a copy, or delete"):
        newest_checkpoint(tmp_path)


def test_a_folder_without_checkpoints_is_where_a_run_begins(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path).path is None
    assert newest_checkpoint(tmp_path / "not there").path is None


def test_a_checkpoint_of_before_there_were_digests_is_not_trusted(folder: Path) -> None:
    load = load_model(folder)
    from raygait.recipes.saved_model import save_model

    save_model(folder, load.network, load.recipe, load.subjects, step=1)
    assert "no digest of training.pt" in damage_of(folder)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    _save(tmp_path, 2)
    truncate(tmp_path / "checkpoint-00000002" / "model.safetensors")
    _save(tmp_path, 2)
    assert newest_checkpoint(tmp_path).path == tmp_path / "checkpoint-00000002"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"]


def test_a_process_killed_while_it_writes_leaves_no_checkpoint(tmp_path: Path, monkeypatch) -> None:
    from raygait.training import checkpoint

    _save(tmp_path, 2)

    def killed(*values: object, **named_values: object) -> None:
        raise SystemExit

    # Where most of the time goes: between the first file and the last.
    monkeypatch.setattr(checkpoint, "save_model", killed)
    with pytest.raises(SystemExit):
        _save(tmp_path, 4)
    assert list(list_checkpoints(tmp_path)) == [2]
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"]


@pytest.mark.parametrize(
    ("keep_every_steps", "keep", "left"),
    [
        pytest.param(0, (), [9, 10], id="newest two"),
        pytest.param(4, (), [4, 8, 9, 10], id="every fourth"),
        pytest.param(0, (3,), [3, 9, 10], id="the best"),
        pytest.param(5, (9, 2), [2, 5, 9, 10], id="all reasons together"),
    ],
)
def test_the_newest_two_those_of_every_so_many_steps_and_the_wanted_stay(
    tmp_path: Path, keep_every_steps: int, keep: tuple[int, ...], left: list[int]
) -> None:
    for step in range(1, 11):
        checkpoint_path(tmp_path, step).mkdir()
    prune_checkpoints(tmp_path, newest=10, keep_every_steps=keep_every_steps, keep=keep)
    assert list(list_checkpoints(tmp_path)) == left
    assert len(list(tmp_path.iterdir())) == len(left)


def test_phases_in_another_order_are_another_run() -> None:
    first, second = {"num_steps": 2}, {"num_steps": 3}
    there = _recipe(before={"one": first, "two": second})
    here = _recipe(before={"two": second, "one": first})
    assert not same_run(there, here)
    assert same_run(there, _recipe(before={"one": first, "two": second}))


@pytest.mark.parametrize(
    ("size_bytes", "has_state"),
    [
        pytest.param(100, True, id="state"),
        pytest.param(60_000, True, id="middle of the state"),
        pytest.param(20_000, False, id="weights"),
    ],
)
def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(
    tmp_path: Path, size_bytes: int, has_state: bool
) -> None:
    _save(tmp_path, 2)
    network, state = _parts(_recipe())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state["optimiser"].step()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        with pytest.raises(TrainingError) as caught:
            save_checkpoint(
                tmp_path,
                network,
                state if has_state else {},
                _recipe(),
                _SUBJECTS,
                step=4,
                origin={},
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "checkpoint-00000004 cannot be written: " in str(caught.value)
    assert "File too large" in str(caught.value)
    assert "that of step 2 is kept" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"]
    assert newest_checkpoint(tmp_path).path == tmp_path / "checkpoint-00000002"


def test_whoever_loses_the_run_while_it_writes_leaves_it_as_it_was(tmp_path: Path) -> None:
    _save(tmp_path, 2)
    written = (tmp_path / "checkpoint-00000002" / "model.json").stat().st_mtime_ns

    def lost() -> None:
        raise TrainingError("another command goes on with this run")

    network, state = _parts(_recipe())
    for step in (2, 4):
        with pytest.raises(TrainingError, match="another command"):
            save_checkpoint(
                tmp_path, network, state, _recipe(), _SUBJECTS, step=step, origin={}, check=lost
            )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"]
    assert (tmp_path / "checkpoint-00000002" / "model.json").stat().st_mtime_ns == written


def test_what_others_delete_at_the_same_time_is_no_error(tmp_path: Path) -> None:
    _save(tmp_path, 2)
    checkpoints = list_checkpoints(tmp_path)
    remove_checkpoint(checkpoints[2])
    remove_checkpoint(checkpoints[2])
    (tmp_path / ".best-0123").symlink_to("checkpoint-00000002")
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_newer_checkpoints_do_not_push_out_what_a_run_has_just_written(
    tmp_path: Path,
) -> None:
    for step in (9, 14, 15, 10, 11):  # 14 and 15 were damaged, the run has gone on from 9
        checkpoint_path(tmp_path, step).mkdir()
    prune_checkpoints(tmp_path, newest=11, keep_every_steps=0)
    assert list(list_checkpoints(tmp_path)) == [10, 11, 14, 15]
