"""Half precision where it is asked for; losses, distances and weights in float32 all the same."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygait.batches.inputs import accepted_inputs
from raygait.batches.loader import Batch
from raygait.errors import TrainingError, UntrustedStep
from raygait.models import Branch, GaitOutput
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.checkpoint import load_checkpoint, save_checkpoint
from raygait.training.gradients import backward, pieces_of
from raygait.training.loop import (
    BatchLoss,
    make_optimiser,
    make_scheduler,
    seed_draws,
    train_step,
)
from raygait.training.precision import Precision, PrecisionName, choose_precision

CPU = torch.device("cpu")
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
HALF = pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)], ids=["bf16", "fp16"]
)
# Of 1.0 to the next number: what rounding once may change.
_EPSILON = {"fp32": 1.2e-7, "bf16": 7.8e-3, "fp16": 9.8e-4}


def _recipe(**changes: Any) -> Recipe:
    small = {"model.channels": [4, 8, 8], "loss.identity_weight": 1.0}
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


def _network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return build_model(recipe, 4).train()


def _batch(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    frames = torch.rand(8, 1, 3, 32, 22, generator=generator)
    return Batch(step, {"frames": frames}, torch.arange(8) // 2)


def _step(
    network: nn.Module,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    step: int = 0,
    **options: Any,
) -> dict[str, float]:
    return train_step(
        network,
        BatchLoss(recipe),
        optimiser,
        _batch(step),
        CPU,
        prepare=functools.partial(seed_draws, network, 0, step),
        **options,
    )


def _seen(network: nn.Module, precision: Precision, **options: Any) -> dict[str, Any]:
    """One backward pass: the output that the losses are given, and what they say."""
    recipe = _recipe()
    criterion = BatchLoss(recipe)
    seen: dict[str, Any] = {}

    def watch(output: GaitOutput, labels: Tensor, masks: Tensor | None = None) -> Any:
        seen["output"] = output
        seen["autocast"] = torch.is_autocast_enabled("cpu")
        return criterion(output, labels, masks)

    batch = _batch()
    seen["measured"] = backward(
        network,
        watch,
        batch.inputs,
        batch.labels,
        precision=precision,
        prepare=functools.partial(seed_draws, network, 0, 0),
        **options,
    )
    return seen


@HALF
@pytest.mark.parametrize("at_once", [None, 4])
def test_the_network_computes_in_half_and_the_losses_in_float32(
    name: PrecisionName, dtype: torch.dtype, at_once: int | None
) -> None:
    network = _network(_recipe())
    inside: list[torch.dtype] = []
    network.stages[0].layers[0].register_forward_hook(lambda *hook: inside.append(hook[2].dtype))
    seen = _seen(network, Precision(name), pieces=pieces_of(8, at_once))
    assert set(inside) == {dtype}
    branch = seen["output"].branches["main"]
    assert branch.triplet_features.dtype == branch.logits.dtype == torch.float32
    assert seen["output"].embedding.dtype == torch.float32
    assert not seen["autocast"]
    assert {value.dtype for value in seen["measured"].values()} == {torch.float32}
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert {weight.grad.dtype for weight in network.parameters()} == {torch.float32}


@HALF
def test_half_precision_is_near_float32_and_not_the_same(
    name: PrecisionName, dtype: torch.dtype
) -> None:
    network = _network(_recipe())
    full = _seen(copy.deepcopy(network), Precision("fp32"))
    half = _seen(copy.deepcopy(network), Precision(name))
    expected, got = (each["output"].branches["main"].logits.detach() for each in (full, half))
    distance = float((got - expected).norm() / expected.norm())
    assert 0 < distance < 10 * _EPSILON[name]


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_network_learns_in_every_precision(name: PrecisionName) -> None:
    recipe = _recipe(**{"optim.learning_rate": 1e-2})
    network, precision = _network(recipe), Precision(name)
    optimiser = make_optimiser(recipe, network)
    losses = [_step(network, recipe, optimiser, precision=precision)["loss"] for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_on_the_cpu_nothing_is_halved_unless_it_is_asked_for() -> None:
    assert choose_precision("auto", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == "bf16"
    assert choose_precision("fp16", CPU).loss_scale is not None
    assert Precision("bf16").loss_scale is None


@pytest.mark.gpu
def test_on_a_gpu_it_is_what_the_hardware_has() -> None:
    has_bf16 = torch.cuda.get_device_capability()[0] >= 8
    assert choose_precision("auto", "cuda").name == ("bf16" if has_bf16 else "fp16")


def test_a_gradient_too_large_for_fp16_leaves_the_step_out_and_lowers_the_scale() -> None:
    recipe = _recipe()
    network, precision = _network(recipe), Precision("fp16")
    precision.load_state_dict(
        {"name": "fp16", "scaler": {**Precision("fp16").state_dict()["scaler"], "scale": 2.0**40}}
    )
    optimiser = make_optimiser(recipe, network)
    scheduler = make_scheduler(recipe, optimiser)
    before = copy.deepcopy(dict(network.named_parameters()))

    def step() -> dict[str, float]:
        return _step(network, recipe, optimiser, precision=precision)

    values = step()
    scheduler.step()
    assert values["loss_scale"] == 2.0**40
    assert "gradient_norm" not in values
    assert precision.loss_scale == 2.0**39
    for name, weight in network.named_parameters():
        assert torch.equal(weight, before[name]), name
    while "gradient_norm" not in values:
        values = step()
    moved = [n for n, weight in network.named_parameters() if not torch.equal(weight, before[n])]
    assert moved
    # The norm is that of the loss, not of the scaled one.
    alone = _network(recipe)
    expected = _step(alone, recipe, make_optimiser(recipe, alone))
    assert values["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=0.05)


def test_the_scale_of_the_losses_goes_on_where_a_checkpoint_left_it(tmp_path: Path) -> None:
    recipe = _recipe(precision="fp16")
    network, precision = _network(recipe), Precision("fp16")
    optimiser = make_optimiser(recipe, network)
    scheduler = make_scheduler(recipe, optimiser)

    def run(parts: tuple[Any, ...], first: int, last: int) -> list[dict[str, float]]:
        network, optimiser, scheduler, precision = parts
        history = []
        for step in range(first, last):
            history.append(_step(network, recipe, optimiser, step, precision=precision))
            scheduler.step()
        return history

    start = {**precision.state_dict()["scaler"], "scale": 2.0**22, "growth_interval": 3}
    precision.load_state_dict({"name": "fp16", "scaler": start})
    run((network, optimiser, scheduler, precision), 0, 3)
    state = {"optimiser": optimiser, "scheduler": scheduler, "precision": precision}
    subjects = ["a", "b", "c", "d"]
    saved = save_checkpoint(tmp_path, network, state, recipe, subjects, step=3, origin={})
    whole = run((network, optimiser, scheduler, precision), 3, 7)

    other, resumed = _network(_recipe(seed=1)), Precision("fp16")
    other_optimiser = make_optimiser(recipe, other)
    other_scheduler = make_scheduler(recipe, other_optimiser)
    state = {"optimiser": other_optimiser, "scheduler": other_scheduler, "precision": resumed}
    done = load_checkpoint(saved, other, state, recipe, subjects)
    parts = (other.train(), other_optimiser, other_scheduler, resumed)
    assert run(parts, done, 7) == whole
    assert len({values["loss_scale"] for values in whole}) > 1  # it has moved in the meantime
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_another_precision_than_before_is_said(caplog: pytest.LogCaptureFixture) -> None:
    Precision("fp32").load_state_dict(Precision("bf16").state_dict())
    assert "computed in bf16 so far, now in fp32" in caplog.text
    caplog.clear()
    Precision("fp32").load_state_dict({})
    assert not caplog.text


@pytest.mark.parametrize("limit", [None, 0.01])
def test_a_gradient_norm_is_limited_only_where_the_recipe_says_so(limit: float | None) -> None:
    changes = {"optim.optimiser": "sgd", "optim.learning_rate": 1.0, "optim.weight_decay": 0.0}
    recipe = _recipe(**changes, **{"optim.max_gradient_norm": limit})
    network = _network(recipe)
    before = copy.deepcopy(list(network.parameters()))
    optimiser = make_optimiser(recipe, network)
    values = _step(network, recipe, optimiser, max_gradient_norm=recipe.optim.max_gradient_norm)
    steps = [new - old for new, old in zip(network.parameters(), before, strict=True)]
    moved = float(torch.stack([step.detach().norm() for step in steps]).norm())
    assert values["gradient_norm"] > 0.05
    assert moved == pytest.approx(limit or values["gradient_norm"], rel=1e-3)


@pytest.mark.parametrize("device", ["cpu", GPU])
@HALF
@pytest.mark.parametrize("architecture", ["gaitbase-casiab", "gaitheat-casiab", "lmgcs-casiab-lt"])
def test_networks_of_the_papers_run_in_half_precision(
    architecture: str, name: PrecisionName, dtype: torch.dtype, device: str
) -> None:
    small: dict[str, dict[str, Any]] = {
        "gaitbase-casiab": {"model.channels": [4, 8, 8, 16], "model.embedding_dim": 8},
        "gaitheat-casiab": {"model.channels": [4, 8, 8, 16], "model.embedding_dim": 8},
        "lmgcs-casiab-lt": {
            "model.channels": [4, 8, 8, 8],
            "model.gsfe_layers": [1, 1],
            "model.gsfe_width": 16,
            "model.gsfe_heads": 2,
            "model.embedding_dim": 8,
        },
    }
    from raygait.recipes.description import example_inputs

    recipe = with_overrides(named.recipe(architecture), small[architecture])
    network = _network(recipe).to(device)
    made = [example_inputs(network, 6, seed=seed) for seed in range(4)]
    inputs = {name: torch.cat([others[name] for _, others in made]) for name in made[0][1]}
    inputs["frames"] = torch.cat([frames for frames, _ in made])
    batch = Batch(0, inputs, torch.tensor([0, 0, 1, 1]))
    values = train_step(
        network,
        BatchLoss(recipe),
        make_optimiser(recipe, network),
        batch,
        torch.device(device),
        accepted_inputs(network),
        precision=Precision(name, device),
    )
    assert values["loss"] > 0
    # The first scale of fp16 may be too high for the first gradient.
    assert name == "fp16" or values["gradient_norm"] > 0


def test_a_loss_that_is_not_finite_is_an_error_in_fp16_too() -> None:
    recipe = _recipe()
    network = _network(recipe)
    with torch.no_grad():
        next(iter(network.parameters())).fill_(torch.nan)
    with pytest.raises(TrainingError, match="step 0: loss is nan"):
        _step(network, recipe, make_optimiser(recipe, network), precision=Precision("fp16"))


def test_a_gradient_that_no_scale_makes_finite_ends_the_run() -> None:
    class Steep(nn.Module):
        """A finite loss whose gradient is not: the square root at 0."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, frames: Tensor) -> GaitOutput:
            features = (self.weight.sqrt() + frames.mean(dim=(2, 3, 4)))[:, None]
            return GaitOutput(features, {"main": Branch(features, features.repeat(1, 1, 4))})

    recipe, network, precision = _recipe(), Steep(), Precision("fp16")
    optimiser = make_optimiser(recipe, network)
    step = functools.partial(train_step, network, BatchLoss(recipe), optimiser, _batch(), CPU)
    while precision.loss_scale != 1.0:  # below that no scale is to blame
        step(precision=precision)
    with pytest.raises(UntrustedStep, match=r"gradient norm is (inf|nan)"):
        step(precision=precision)
