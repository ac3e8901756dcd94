"""One worker's keeper, without Ray: the gradients are a function of the step alone."""

from pathlib import Path

import pytest
import torch

from raygait.errors import TrainingError
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.checkpoint import list_checkpoints
from raygait.training.keeper import Keeper
from raygait.training.loop import make_optimiser, make_scheduler
from raygait.training.record import read_history, read_lines
from raygait.training.workers import Place

_SUBJECTS = ["001", "002"]


def _recipe(**changes) -> Recipe:
    small = {"model.channels": [4, 8, 8], "num_steps": 10, "checkpoint_every_steps": 2}
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


def _begin(run: Path, recipe: Recipe):
    torch.manual_seed(recipe.seed)
    network = build_model(recipe, len(_SUBJECTS))
    optimiser = make_optimiser(recipe, network)
    state = {"optimiser": optimiser, "scheduler": make_scheduler(recipe, optimiser)}
    settings = {
        "record": str(run),
        "command": "",
        "checkpoints": str(run),
        "shards": "none",
        "origin": {},
        "num_threads": 1,
        "steps_before": 0,
        "report_every_steps": 3,
    }
    run.mkdir(exist_ok=True)
    return Keeper(settings, recipe, _SUBJECTS, Place(0, 1, 0), network, state), network, state


def _train(
    run: Path, *, until: int | None = None, recipe: Recipe | None = None
) -> dict[str, torch.Tensor]:
    """Go on to the end, or stop as if killed; the weights then."""
    recipe = recipe or _recipe()
    keeper, network, state = _begin(run, recipe)
    for step in range(keeper.first_step, keeper.end_step):
        generator = torch.Generator().manual_seed(step)
        for weight in network.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        state["optimiser"].step()
        state["scheduler"].step()
        is_over = keeper.after_step(step + 1, {"loss": float(step)})
        assert is_over == (step + 1 == recipe.num_steps)
        if step + 1 == until:
            return dict(network.state_dict())
    assert keeper.finish() == f"checkpoint-{recipe.num_steps:08d}"
    return dict(network.state_dict())


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _steps(run: Path) -> list[float]:
    return [point["step"] for point in read_history(run / "history.jsonl")]


def _events(run: Path) -> list[str]:
    return [line["event"] for line in read_lines(run / "events.jsonl")]


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return _train(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("until", [1, 4, 5, 9, 10])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor], until: int
) -> None:
    _train(tmp_path, until=until)
    assert _same(_train(tmp_path), undisturbed)
    assert _steps(tmp_path) == list(range(1, 11))


@pytest.mark.parametrize("damage", [_flip_a_bit, _truncate])
@pytest.mark.parametrize("name", ["model.safetensors", "training.pt"])
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_leads_to_the_same_end(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor], name: str, damage
) -> None:
    _train(tmp_path, until=7)
    assert list(list_checkpoints(tmp_path)) == [4, 6]
    damage(tmp_path / "checkpoint-00000006" / name)
    assert _same(_train(tmp_path), undisturbed)
    assert _steps(tmp_path) == list(range(1, 11))
    said, went_on = _events(tmp_path)
    assert "checkpoint-00000006" in said
    assert name in said
    assert went_on == "goes on from checkpoint-00000004 on 1 worker"
    assert [line["step"] for line in read_lines(tmp_path / "events.jsonl")] == [4, 4]
    assert list(list_checkpoints(tmp_path)) == [8, 10]


def test_a_run_never_begins_anew_where_checkpoints_are_but_all_damaged(tmp_path: Path) -> None:
    _train(tmp_path, until=7)
    for folder in list_checkpoints(tmp_path).values():
        _truncate(folder / "model.safetensors")
    with pytest.raises(TrainingError, match="every checkpoint is damaged"):
        _train(tmp_path)


def test_a_run_stopped_before_its_first_checkpoint_says_that_it_begins_again(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    recipe = _recipe(checkpoint_every_steps=8)
    _train(tmp_path, until=7, recipe=recipe)
    assert _same(_train(tmp_path, recipe=recipe), undisturbed)
    assert _steps(tmp_path) == list(range(1, 11))
    assert "from the start, no checkpoint was written yet" in _events(tmp_path)[0]


def test_checkpoints_of_every_so_many_steps_stay(tmp_path: Path) -> None:
    _train(tmp_path, recipe=_recipe(keep_every_steps=4, checkpoint_every_steps=1))
    assert list(list_checkpoints(tmp_path)) == [4, 8, 9, 10]


def test_a_worker_that_was_replaced_writes_no_checkpoint_over_its_successors(
    tmp_path: Path,
) -> None:
    _train(tmp_path, until=3)
    keeper, _, _ = _begin(tmp_path, _recipe())
    (tmp_path / ".writer").write_text("its successor")
    keeper.after_step(3, {"loss": 0.0})
    with pytest.raises(TrainingError, match="goes on with this run"):
        keeper.after_step(4, {"loss": 0.0})
    assert list(list_checkpoints(tmp_path)) == [2]
