"""What holds for every network in `MODELS`, whatever its paper says."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygait.errors import ModelInputError
from raygait.losses.identity import IdentityLoss
from raygait.losses.triplet import TripletLoss
from raygait.models import MODELS, GaitOutput
from raygait.recipes.description import example_inputs
from raygait.recipes.options import MODEL_OPTIONS, ModelOptions, model_options

NUM_SUBJECTS = 5
# An eighth of the width or less, so that all of this takes seconds.
SMALL: dict[str, dict[str, Any]] = {
    "deepgaitv2": {"channels": (4, 8, 8, 16), "num_blocks": (1, 1, 1, 1), "embedding_dim": 8},
    "gaitbase": {"channels": (4, 8, 8, 16), "embedding_dim": 8},
    "gaitedge": {
        "recogniser": {
            "architecture": "gaitgl_iccv",
            "stem_channels": (4,),
            "channels": (8, 8, 8),
        },
        "segmenter": {"architecture": "unet", "channels": (2, 4, 4, 8)},
    },
    "gaitgl": {"channels": (8, 8, 8)},
    "gaitgl_iccv": {"stem_channels": (4,), "channels": (8, 8, 8)},
    "gaitheat": {"channels": (4, 8, 8, 16), "embedding_dim": 8},
    "gaitpart": {"channels": (8, 8, 16), "embedding_dim": 16},
    "gaitset": {"channels": (4, 8, 16), "embedding_dim": 16},
    "lgdiffgait": {"channels": (4, 8, 8, 16), "embedding_dim": 8},
    "lmgcs": {"channels": (4, 8, 8, 8), "gsfe_layers": (1, 1), "gsfe_width": 16, "gsfe_heads": 2},
    "mt3d": {"channels": (4, 8, 8), "embedding_dim": 8},
}

every_model = pytest.mark.parametrize("architecture", sorted(MODELS))


def options(architecture: str) -> ModelOptions:
    return model_options(architecture, **SMALL[architecture])


def small(architecture: str) -> Any:
    torch.manual_seed(0)
    return options(architecture).build(num_subjects=NUM_SUBJECTS)


def clips(model: nn.Module, num: int, num_frames: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Clips that differ, with all that the model takes beside the frames."""
    made = [example_inputs(model, num_frames, seed=seed) for seed in range(num)]
    frames = torch.cat([frames for frames, _ in made])
    return frames, {name: torch.cat([extra[name] for _, extra in made]) for name in made[0][1]}


@every_model
def test_it_returns_an_embedding_and_what_its_branches_are_trained_by(architecture: str) -> None:
    model = small(architecture).train()
    frames, extras = clips(model, 3, 12)
    output = model(frames, **extras)
    assert isinstance(output, GaitOutput)
    assert output.branches
    for branch in output.branches.values():
        assert branch.triplet_features.ndim == 3
        assert len(branch.triplet_features) == 3
        if branch.logits is not None:
            num_parts = branch.triplet_features.shape[1]
            assert branch.logits.shape == (3, num_parts, NUM_SUBJECTS)
    assert output.embedding.shape[:2] == (3, model.num_parts)


@every_model
def test_a_clip_embeds_the_same_alone_and_in_a_batch(architecture: str) -> None:
    model = small(architecture).train()
    frames, extras = clips(model, 4, 12)
    with torch.no_grad():  # batch norms that have seen something
        model(frames, **extras)
        model.eval()
        together = model(frames, **extras).embedding
        for index in range(4):
            one = slice(index, index + 1)
            alone = model(frames[one], **{name: values[one] for name, values in extras.items()})
            torch.testing.assert_close(alone.embedding[0], together[index], atol=1e-5, rtol=1e-5)


@every_model
def test_it_embeds_a_clip_in_evaluation_mode_the_same_every_time(architecture: str) -> None:
    model = small(architecture).eval()
    frames, extras = clips(model, 2, 12)
    with torch.no_grad():
        first, second = (model(frames, **extras).embedding for _ in range(2))
    assert torch.equal(first, second)


@every_model
def test_its_parameter_groups_hold_every_parameter_once(architecture: str) -> None:
    model = small(architecture)
    grouped = [id(weight) for group in model.parameter_groups().values() for weight in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(weight) for weight in model.parameters()}


@every_model
def test_every_parameter_that_trains_has_a_gradient_of_its_own_strides(architecture: str) -> None:
    # DDP waits for parameters that the loss does not reach, and warns of other strides.
    model = small(architecture).train()
    frames, extras = clips(model, 3, 12)
    output = model(frames, **extras)
    loss = sum(
        branch.triplet_features.square().sum()
        + (0.0 if branch.logits is None else branch.logits.square().sum())
        for branch in output.branches.values()
    )
    if output.mask_logits is not None:
        loss = loss + output.mask_logits.sum()
    loss.backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, name
            assert weight.grad.stride() == weight.stride(), name
        else:
            assert weight.grad is None, name


def _loss(output: GaitOutput, labels: Tensor) -> Tensor:
    loss = output.embedding.new_zeros(())
    for branch in output.branches.values():
        loss = loss + TripletLoss()(branch.triplet_features, labels).loss
        if branch.logits is not None:
            loss = loss + IdentityLoss(scale=16.0)(branch.logits, labels).loss
    return loss


@pytest.mark.parametrize(
    ("architecture", "gsfe"),
    [
        (name, gsfe)
        for name in sorted(MODELS)
        for gsfe in (False, True)
        if not gsfe or "frame_pooling" in MODEL_OPTIONS[name].model_fields
    ],
)
def test_a_clip_that_shows_half_a_person_or_nobody_has_finite_gradients(
    architecture: str, gsfe: bool
) -> None:
    more: dict[str, Any] = {"frame_pooling": "gsfe"} if gsfe else {}
    torch.manual_seed(0)
    model: Any = model_options(architecture, **SMALL[architecture], **more).build(
        num_subjects=NUM_SUBJECTS
    )
    model.train()
    frames, extras = clips(model, 4, 12)
    height = frames.shape[3]
    frames[0, :, :, : height // 2] = 0.0  # a crop that begins at the hip
    frames[1] = 0.0
    _loss(model(frames, **extras), torch.tensor([0, 0, 1, 1])).backward()
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert bool(weight.grad.isfinite().all()), name
            assert float(weight.grad.abs().max()) < 1e4, name


@every_model
def test_its_stages_each_run_once_a_pass(architecture: str) -> None:
    model = small(architecture).eval()
    calls = dict.fromkeys(model.named_stages(), 0)
    for name, stage in model.named_stages().items():

        def count(*_: Any, name: str = name) -> None:
            calls[name] += 1

        stage.register_forward_hook(count)
    frames, extras = clips(model, 1, 12)
    with torch.no_grad():
        model(frames, **extras)
    assert set(calls.values()) == {1}, calls


@every_model
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        pytest.param(lambda x: x[0], "5", id="rank"),
        pytest.param(lambda x: torch.cat((x, x), dim=1), "channels", id="channels"),
        pytest.param(lambda x: x[..., :-2], "px", id="size"),
        pytest.param(lambda x: x[:, :, :0], "frames", id="no frames"),
        pytest.param(lambda x: x.mul(255).byte(), "uint8", id="bytes"),
        pytest.param(lambda x: torch.full_like(x, torch.nan), "nan", id="NaN"),
        pytest.param(lambda x: x * 255, "255|254", id="not scaled"),
    ],
)
def test_frames_that_do_not_fit_are_refused_with_what_was_got(
    architecture: str, broken: Any, message: str
) -> None:
    model = small(architecture).eval()
    frames, extras = clips(model, 1, 12)
    with pytest.raises(ModelInputError, match=f"got.*{message}|{message}.*got"):
        model(broken(frames), **extras)


@every_model
def test_clips_of_the_shortest_length_embed_and_shorter_ones_are_refused(architecture: str) -> None:
    model = small(architecture).eval()
    frames, extras = clips(model, 1, model.min_frames)
    with torch.no_grad():
        assert bool(model(frames, **extras).embedding.isfinite().all())
    if model.min_frames > 1:
        frames, extras = clips(model, 1, model.min_frames - 1)
        with pytest.raises(ModelInputError, match=f"{model.min_frames - 1} frames"):
            model(frames, **extras)


@every_model
def test_its_options_survive_json_and_describe_every_switch(architecture: str) -> None:
    chosen = options(architecture)
    assert type(chosen).model_validate_json(chosen.model_dump_json()) == chosen
    fields = MODEL_OPTIONS[architecture].model_fields
    assert [name for name, field in fields.items() if not field.description] == []
    switches = inspect.signature(MODELS[architecture]).parameters
    assert fields.keys() - {"architecture"} <= switches.keys()


def test_every_model_of_the_list_is_tested_here() -> None:
    assert set(SMALL) == set(MODELS)
