"""One, two and four workers with one seed train the same network.

What differs is rounding: a sum over clips is cut elsewhere. Training makes it grow, and where it
turns the sign of one number before a ReLU, the gradient jumps: one flip among 101,376 numbers of
the narrow GaitBase below moved the gradients before it by 1 %. So there are two proofs:

- In doubles, at rates at which the networks learn: the loss of each of 20 steps agrees to 1e-5 and
  the weights to 1e-4 of a tensor's largest number. Nothing but rounding can differ.
- Through Ray in float32, at rates at which the loss moves by some percent: the loss of each step
  agrees to 1e-5, and the weights after 20 steps to 2 % of the way that they have gone.

At the rates of the recipes, on eight clips, float32 runs drift apart: within 20 steps the losses
of GaitBase and LGDiffGait by up to half, of GaitGL by 1e-4, of GaitSet by 4e-5. In doubles nothing
of that is left (GaitBase at its 0.1: 4e-10), but LGDiffGait at 0.1, whose losses go up to twice
the first, makes 6e-14 of the first step 3e-5 in 20.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from raygait.batches.cache import open_cache
from raygait.recipes import named
from raygait.recipes.saved_model import initial_model, load_model
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.distributed import gather
from raygait.training.launch import train
from raygait.training.loop import Trainer, make_loader, training_subjects

pytestmark = pytest.mark.ray

CPU = torch.device("cpu")
WORLD_SIZES = (1, 2, 4)
NUM_STEPS = 20

_SMALL = {
    "data.height_px": 32,
    "data.width_px": 22,
    "data.split": "first:4",
    "clip.num_frames": 9,
    "clip.max_num_frames": None,
    "batch.num_subjects": 4,
    "batch.num_sequences": 2,
    "num_steps": NUM_STEPS,
    "checkpoint_every_steps": NUM_STEPS,
}
_WIDTHS = {"model.channels": [4, 8, 16, 32], "model.embedding_dim": 16, "model.num_parts": 8}
# Recipe, what makes it small, rate in doubles, rate in float32.
MODELS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    # Norms everywhere.
    "gaitbase": ("gaitbase-casiab", _WIDTHS, 0.01, 1e-6),
    "lgdiffgait": ("lgdiffgait-casiab", _WIDTHS, 0.001, 1e-6),
    # One, over the embeddings; it draws masks.
    "gaitgl": ("gaitgl-demo", {"model.channels": [4, 8, 8]}, 1e-3, 1e-5),
    # None.
    "gaitset": (
        "gaitset-casiab",
        {"model.channels": [4, 8, 16], "model.embedding_dim": 16, **_SMALL}
        | {"data.height_px": 64, "data.width_px": 44},
        0.1,
        0.01,
    ),
}
SLOW = ("lgdiffgait", "gaitgl")


def _recipe(model: str, **changes: Any) -> Recipe:
    name, small, _, _ = MODELS[model]
    return with_overrides(named.recipe(name), {**_SMALL, **small, **changes})


# The same batches


def _digests(recipe: Recipe, cache: Any, subjects: list[str], world_size: int) -> list[list[str]]:
    """What is at each place of the global batch of each step, over all workers."""
    steps: list[list[str]] = [[""] * 8 for _ in range(NUM_STEPS)]
    for rank in range(world_size):
        loader = make_loader(recipe, cache, subjects, rank=rank, world_size=world_size)
        for step, batch in enumerate(loader.batches(0, NUM_STEPS)):
            for number, sequence in enumerate(batch.sequence_ids):
                seen = hashlib.sha256(f"{sequence} {int(batch.labels[number])}".encode())
                for name, values in batch.inputs.items():
                    seen.update(f"{name} {values[number].shape}".encode())
                    seen.update(values[number].numpy().tobytes())
                steps[step][rank + world_size * number] = f"{sequence} {seen.hexdigest()}"
    return steps


_AUGMENTED = {
    f"clip.{kind}_ratio": 0.5 for kind in ("flip", "perspective", "affine", "rotate", "erase")
}
_UNAUGMENTED = {"clip.rotate_ratio": 0.0, "clip.erase_ratio": 0.0}
_LENGTHS = {"clip.num_frames": 6, "clip.max_num_frames": 9}


@pytest.mark.parametrize(
    ("shards", "changes"),
    [
        pytest.param("walker_shards", {}, id="silhouettes"),
        pytest.param("walker_shards", {**_AUGMENTED, **_LENGTHS}, id="augmented, lengths vary"),
        pytest.param(
            "walker_shards",
            {**_AUGMENTED, "clip.order": "ordered", "clip.skip_frames": 3},
            id="augmented, frames left out",
        ),
        pytest.param(
            "street_shards",
            {"data.modality": "heatmaps", "data.width_px": 24, "clip.flip_ratio": 0.5}
            | _UNAUGMENTED,
            id="heatmaps",
        ),
        pytest.param(
            "street_shards",
            {"data.modality": "rgb", "data.width_px": 32, "data.shift_px": 5}
            | _LENGTHS
            | _UNAUGMENTED,
            id="rgb, masks and ratios, shifted",
        ),
        pytest.param(
            "street_shards", {"data.modality": "silhouettes_128", **_AUGMENTED}, id="128 px"
        ),
    ],
)
def test_workers_together_get_the_batches_of_one(
    request, tmp_path: Path, shards: str, changes: dict[str, Any]
) -> None:
    folder: Path = request.getfixturevalue(shards)
    # Three street walkers: two train, and repeat.
    split = {"data.split": "first:2"} if shards == "street_shards" else {}
    recipe = _recipe("gaitbase", **{**split, **changes})
    cache = open_cache(folder, modality=recipe.data.modality, folder=tmp_path)
    subjects = training_subjects(recipe, cache)
    alone = _digests(recipe, cache, subjects, 1)
    assert len({clip for step in alone for clip in step}) > NUM_STEPS
    for world_size in WORLD_SIZES[1:]:
        assert _digests(recipe, cache, subjects, world_size) == alone


# The same steps, in doubles


def _jobs(slow: bool) -> dict[str, dict[int, Recipe]]:
    """Recipes by name and number of workers."""
    jobs = {
        model: dict.fromkeys(
            WORLD_SIZES, _recipe(model, **{"optim.learning_rate": MODELS[model][2]})
        )
        for model in MODELS
        if (model in SLOW) == slow
    }
    if slow:
        # Clips that run at a time on all workers lie side by side in the batch: with norms, too,
        # pieces of 4 on each of two workers are pieces of 8 on one.
        rate = {"optim.learning_rate": MODELS["gaitbase"][2], "batch.num_sequences": 4}
        jobs["gaitbase in pieces"] = {
            size: _recipe("gaitbase", **{**rate, "batch.num_clips_at_once": 8 // size})
            for size in WORLD_SIZES
        }
        adam = {"optim.optimiser": "adam", "optim.learning_rate": 1e-3}
        jobs["gaitbase with Adam"] = dict.fromkeys(WORLD_SIZES, _recipe("gaitbase", **adam))
    else:
        jobs["gaitset in pieces"] = dict.fromkeys(
            WORLD_SIZES, _recipe("gaitset", **{"batch.num_clips_at_once": 2})
        )
    return jobs


def _scale(weights: Tensor) -> float:
    # A bias before a norm moves nothing: its gradient, and so the bias, is rounding alone.
    return max(float(weights.abs().max()), 1e-9)


def _train(
    recipe: Recipe, shards: Path, cache: Path, rank: int, world_size: int
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """What `loop.train_worker` does, in doubles and without Ray."""
    frames = open_cache(shards, folder=cache)
    subjects = training_subjects(recipe, frames)
    loader = make_loader(recipe, frames, subjects, rank=rank, world_size=world_size)
    torch.manual_seed(recipe.seed)
    network = build_model(recipe, len(subjects)).double()
    trainer = Trainer(network, recipe, CPU, rank=rank, world_size=world_size)
    trace = []
    for batch in loader.batches(0, recipe.num_steps):
        inputs = {name: values.double() for name, values in batch.inputs.items()}
        trace.append(trainer.step(batch._replace(inputs=inputs)))
    return trace, network.state_dict()


def _worker(rank: int, slow: bool, shards: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    for name, recipes in _jobs(slow).items():
        for world_size, recipe in recipes.items():
            if rank >= world_size:
                continue
            meeting = folder / f"{name}-{world_size}-meeting"
            if world_size > 1:
                torch.distributed.init_process_group(
                    "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
                )
            trace, weights = _train(recipe, shards, folder, rank, world_size)
            order = gather(torch.arange(8)[rank::world_size])
            torch.save((trace, weights, order), folder / f"{name}-{world_size}-{rank}.pt")
            if world_size > 1:
                torch.distributed.destroy_process_group()


def _in_doubles(shards: Path, folder: Path, *, slow: bool) -> Path:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    open_cache(shards, folder=folder)
    torch.multiprocessing.spawn(_worker, (slow, shards, folder), nprocs=4)
    return folder


@pytest.fixture(scope="module")
def quick(walker_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _in_doubles(walker_shards, tmp_path_factory.mktemp("quick"), slow=False)


@pytest.fixture(scope="module")
def thorough(walker_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _in_doubles(walker_shards, tmp_path_factory.mktemp("thorough"), slow=True)


@pytest.mark.parametrize(
    ("fixture", "name"),
    [
        *(("quick", name) for name in ("gaitbase", "gaitset", "gaitset in pieces")),
        *(
            pytest.param("thorough", name, marks=pytest.mark.slow)
            for name in ("lgdiffgait", "gaitgl", "gaitbase in pieces", "gaitbase with Adam")
        ),
    ],
)
def test_in_doubles_every_number_of_workers_trains_the_same(
    request, fixture: str, name: str
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    trace, weights, _ = torch.load(folder / f"{name}-1-0.pt", weights_only=True)
    losses = [point["loss"] for point in trace]
    assert max(losses) > 1.02 * min(losses)  # it does train
    for world_size in WORLD_SIZES[1:]:
        ends = [
            torch.load(folder / f"{name}-{world_size}-{rank}.pt", weights_only=True)
            for rank in range(world_size)
        ]
        theirs, their_weights, _ = ends[0]
        # What is gathered lies as in the batch of one worker.
        assert all(torch.equal(order, torch.arange(8)) for _, _, order in ends)
        off = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(theirs, trace, strict=True))
        way = max(
            float((their_weights[key] - values).abs().max()) / _scale(values)
            for key, values in weights.items()
            if values.is_floating_point()
        )
        print(f"{name} on {world_size}: losses off by {off:.1e}, weights by {way:.1e}")  # noqa: T201
        for point, expected in zip(theirs, trace, strict=True):
            assert point == pytest.approx(expected, rel=1e-5, abs=1e-12)
        for key, values in weights.items():
            # The same bits on all workers, and next to the same on any number of them.
            assert all(torch.equal(end[1][key], their_weights[key]) for end in ends), key
            scale = _scale(values)
            torch.testing.assert_close(
                their_weights[key], values, rtol=0, atol=1e-4 * scale, msg=lambda m, k=key: k + m
            )


# The same runs, through Ray


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_run_on_ray_is_the_same_on_every_number_of_workers(
    walker_shards: Path, tmp_path: Path, model: str
) -> None:
    recipe = _recipe(model, **{"optim.learning_rate": MODELS[model][3]})
    ends, traces = [], []
    for world_size in WORLD_SIZES:
        result = train(
            recipe, walker_shards, tmp_path, name=f"on-{world_size}", num_workers=world_size
        )
        traces.append([point["loss"] for point in result.history])
        ends.append(load_model(result.checkpoint))
    first = initial_model(recipe, list(ends[0].subjects)).network
    gone = [_flat(end.network) - _flat(first) for end in ends]
    assert len(traces[0]) == NUM_STEPS
    moved = max(traces[0]) / min(traces[0]) - 1
    for world_size, trace, way in zip(WORLD_SIZES[1:], traces[1:], gone[1:], strict=True):
        off = max(abs(a / b - 1) for a, b in zip(trace, traces[0], strict=True))
        apart = float((way - gone[0]).norm() / gone[0].norm())
        print(  # noqa: T201
            f"{model} on {world_size}: losses move by {moved:.1e} and are off by {off:.1e}, "
            f"weights by {apart:.1e} of the way"
        )
        assert trace == pytest.approx(traces[0], rel=1e-5)
        assert apart < 0.02
    for key, values in ends[0].network.state_dict().items():
        for end in ends[1:]:
            theirs = end.network.state_dict()[key]
            torch.testing.assert_close(theirs, values, rtol=1e-3, atol=1e-4)


def _flat(network: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in network.parameters()]).double()
