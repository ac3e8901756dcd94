import inspect
import itertools
import json
from typing import Any, get_type_hints

import docstring_parser
import pytest
import torch
from torch import Tensor, nn

from raygait.errors import ModelInputError
from raygait.losses.triplet import TripletLoss
from raygait.models.gaitpart import (
    FocalBlock,
    GaitPart,
    MicroMotion,
    TemporalFeatureAggregation,
    casiab_plan,
    large_plan,
)


def small(num_subjects: int = 5, **switches: Any) -> GaitPart:
    """A network of 16 x 8 px input, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3, 4),
        "num_strips": (1, 2, 4),
        "num_parts": 2,
        "squeeze": 2,
        "embedding_dim": 5,
        "input_size_px": (16, 8),
    }
    return GaitPart(num_subjects, **(options | switches))


def clips(n: int = 2, t: int = 6, h: int = 16, w: int = 8, c: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# A literal transcription: loops over frames, strips, parts and kernel positions, nothing shared
# with the room but the weights.


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def literal_convolution(x: Tensor, weight: Tensor) -> Tensor:
    n, c, h, w = x.shape
    size = weight.shape[2]
    edge = size // 2
    padded = x.new_zeros(n, c, h + 2 * edge, w + 2 * edge)
    padded[:, :, edge : edge + h, edge : edge + w] = x
    result = x.new_zeros(n, len(weight), h, w)
    for j, k in itertools.product(range(size), repeat=2):
        seen = padded[:, :, j : j + h, k : k + w]
        result = result + torch.einsum("nchw,dc->ndhw", seen, weight[:, :, j, k])
    return result


def literal_focal_convolution(x: Tensor, weight: Tensor, num_strips: int) -> Tensor:
    rows = x.shape[2] // num_strips
    strips = [x[:, :, first : first + rows] for first in range(0, x.shape[2], rows)]
    return torch.cat([literal_convolution(strip, weight) for strip in strips], dim=2)


def literal_convolution_in_time(x: Tensor, weight: Tensor) -> Tensor:
    n, c, t = x.shape
    size = weight.shape[2]
    padded = x.new_zeros(n, c, t + size - 1)
    padded[:, :, size // 2 : size // 2 + t] = x
    result = x.new_zeros(n, len(weight), t)
    for i in range(size):
        result = result + torch.einsum("nct,dc->ndt", padded[:, :, i : i + t], weight[:, :, i])
    return result


def literal_micro_motion(x: Tensor, squeeze: Tensor, expand: Tensor, window: int) -> Tensor:
    """One part, `[n, c, t]`, and that part's weights."""
    logits = literal_convolution_in_time(leaky(literal_convolution_in_time(x, squeeze)), expand)
    motions = []
    for t in range(x.shape[2]):
        around = x[:, :, max(0, t - window // 2) : t + window // 2 + 1]
        motions.append(around.amax(dim=2) + around.sum(dim=2) / window)
    return torch.stack(motions, dim=2) / (1 + (-logits).exp())


def literal_aggregation(
    x: Tensor, weights: dict[str, Tensor], prefix: str, num_parts: int
) -> Tensor:
    """`[n, t, p, c]` to `[n, p, c]`."""
    results = []
    for p in range(num_parts):
        total: Tensor | None = None
        for name, window in (("short", 3), ("long", 5)):
            squeeze, expand = (
                weights[f"{prefix}{name}.{layer}.weight"].unflatten(0, (num_parts, -1))[p]
                for layer in ("squeeze", "expand")
            )
            motion = literal_micro_motion(x[:, :, p].transpose(1, 2), squeeze, expand, window)
            total = motion if total is None else total + motion
        assert total is not None
        results.append(total.amax(dim=2))
    return torch.stack(results, dim=1)


def literal_gaitpart(model: GaitPart, frames: Tensor, num_strips: tuple[int, ...]) -> Tensor:
    weights = dict(model.named_parameters())
    parts = []
    for t in range(frames.shape[2]):
        x = frames[:, :, t]
        for index, strips in enumerate(num_strips):
            for number in (1, 2):
                weight = weights[f"frame_blocks.{index}.network.convolution{number}.weight"]
                x = leaky(literal_focal_convolution(x, weight, strips))
            if index < 2:
                corners = [x[..., i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))]
                x = torch.stack(corners).amax(dim=0)
        halves = x.flatten(2).unflatten(2, (model.num_parts, -1))  # [n, c, p, pixels]
        parts.append((halves.amax(dim=3) + halves.mean(dim=3)).transpose(1, 2))
    vectors = literal_aggregation(
        torch.stack(parts, dim=1), weights, "temporal_aggregation.", model.num_parts
    )
    linear = weights["embedding_linear.weight"]
    return torch.stack([vectors[:, p] @ linear[p] for p in range(model.num_parts)], dim=1)


def assert_same(result: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    pull = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad((result * pull).sum(), wanted),
        torch.autograd.grad((expected * pull).sum(), wanted),
    )


class TestEquations:
    @pytest.mark.parametrize("num_strips", [1, 2, 4])
    def test_a_focal_convolution_equals_running_each_strip_alone(self, num_strips: int) -> None:
        torch.manual_seed(0)
        block = FocalBlock(2, 3, num_strips=num_strips).double()
        x = torch.randn(2, 2, 8, 5, dtype=torch.float64, requires_grad=True)
        expected = x
        for convolution in (block.convolution1, block.convolution2):
            expected = leaky(literal_focal_convolution(expected, convolution.weight, num_strips))
        assert_same(block(x), expected, [x, *block.parameters()])

    def test_a_strip_is_blind_to_the_others(self) -> None:
        block = FocalBlock(2, 3, num_strips=4)
        x = torch.randn(2, 2, 8, 5)
        changed = x.clone()
        changed[:, :, 2:4] = 0
        same = (block(changed) == block(x)).all(dim=(0, 1, 3))
        assert same.tolist() == [True, True, False, False, True, True, True, True]

    @pytest.mark.parametrize(("window", "kernel"), [(3, 1), (5, 3)])
    def test_a_micro_motion_equals_its_loop_part_by_part(self, window: int, kernel: int) -> None:
        torch.manual_seed(0)
        motion = MicroMotion(3, 4, squeeze=2, window=window, kernel=kernel).double()
        x = torch.randn(2, 12, 7, dtype=torch.float64, requires_grad=True)
        expected = torch.cat(
            [
                literal_micro_motion(
                    x[:, 4 * p : 4 * p + 4],
                    motion.squeeze.weight[2 * p : 2 * p + 2],
                    motion.expand.weight[4 * p : 4 * p + 4],
                    window,
                )
                for p in range(3)
            ],
            dim=1,
        )
        assert_same(motion(x), expected, [x, *motion.parameters()])

    @pytest.mark.parametrize("num_frames", [1, 2, 7])
    def test_the_aggregation_adds_both_and_keeps_the_strongest(self, num_frames: int) -> None:
        torch.manual_seed(0)
        aggregation = TemporalFeatureAggregation(3, 4, squeeze=2).double()
        x = torch.randn(2, num_frames, 3, 4, dtype=torch.float64, requires_grad=True)
        expected = literal_aggregation(x, dict(aggregation.named_parameters()), "", 3)
        assert_same(aggregation(x), expected, [x, *aggregation.parameters()])

    def test_a_part_is_blind_to_the_others(self) -> None:
        aggregation = TemporalFeatureAggregation(3, 4, squeeze=2)
        x = torch.randn(2, 7, 3, 4)
        changed = x.clone()
        changed[:, :, 1] = 0
        same = (aggregation(changed) == aggregation(x)).all(dim=(0, 2))
        assert same.tolist() == [True, False, True]

    def test_the_network_equals_its_transcription_in_values_and_gradients(self) -> None:
        model = small().double()
        frames = clips().double().requires_grad_()
        expected = literal_gaitpart(model, frames, (1, 2, 4))
        assert_same(model(frames).embedding, expected, [frames, *model.parameters()])

    def test_the_order_of_frames_matters(self) -> None:
        model = small().eval()
        frames = clips()
        shuffled = frames[:, :, torch.tensor([2, 0, 3, 1, 5, 4])]
        assert not torch.allclose(model(shuffled).embedding, model(frames).embedding, atol=1e-4)


class TestSize:
    def test_parameters_are_the_published_number(self) -> None:
        with torch.device("meta"):
            model = GaitPart(74)
            assert num_parameters(model) == num_parameters(GaitPart(74, **casiab_plan()))
        assert num_parameters(model) == 1_204_000
        # 16 parts x 2 micro-motions x 2 convolutions of a public checkpoint are 4 tensors here.
        assert len(model.state_dict()) == 71 - 64 + 4
        assert model.embedding_linear.weight.shape == (16, 128, 128)

    def test_parameters_of_the_large_plan_are_the_derived_number(self) -> None:
        convolutions = 286_496 + 9 * (128 * 256 + 256 * 256)
        motions = 16 * (64 * 256 * 3 + 256 * 64 + 64 * 256 * 3 + 256 * 64 * 3)
        with torch.device("meta"):
            model = GaitPart(5153, **large_plan())
        assert num_parameters(model) == convolutions + motions + 16 * 256 * 256

    def test_the_large_plan_pools_twice_and_cuts_the_last_two_blocks(self) -> None:
        model = GaitPart(5, **large_plan(width=1 / 16)).eval()
        shapes: list[tuple[int, ...]] = []
        for block in model.frame_blocks:
            block.register_forward_hook(lambda *hook: shapes.append(tuple(hook[2].shape[1:])))
        model(clips(n=1, t=2, h=64, w=44))
        assert shapes == [(4, 2, 32, 22), (4, 2, 16, 11), (8, 2, 16, 11), (16, 2, 16, 11)]
        assert [block.network.num_strips for block in model.frame_blocks] == [1, 1, 8, 8]

    @pytest.mark.parametrize("plan", [casiab_plan, large_plan])
    def test_every_width_of_a_plan_builds(self, plan: Any) -> None:
        for width in (0.03, 0.15, 0.5, 1.3):
            with torch.device("meta"):
                GaitPart(5, **plan(width=width))
        assert plan(width=0.5)["channels"] == tuple(count // 2 for count in plan()["channels"])


SWITCHES: dict[str, dict[str, Any]] = {
    "channels": {"channels": (2, 4, 4)},
    "blocks": {"channels": (2, 3, 4, 4), "num_strips": (1, 2, 4, 4)},
    "strips": {"num_strips": (1, 1, 1)},
    "more-strips": {"num_strips": (1, 4, 4)},
    "halvings": {"num_halvings": 1},
    "parts": {"num_parts": 4},
    "squeeze": {"squeeze": 4},
    "embedding": {"embedding_dim": 6},
    "size": {"input_size_px": (16, 12)},
    "colour": {"in_channels": 3},
}


class TestSwitches:
    def test_every_switch_changes_parameters_or_output(self) -> None:
        seen: dict[str, tuple[int, Tensor]] = {}
        for name, switches in {"default": {}, **SWITCHES}.items():
            model = small(**switches).eval()
            height, width = model.input_size_px
            embedding = model(clips(h=height, w=width, c=model.in_channels)).embedding.detach()
            seen[name] = (num_parameters(model), embedding / embedding.abs().max())
        for (a, (count_a, out_a)), (b, (count_b, out_b)) in itertools.combinations(seen.items(), 2):
            alike = (
                count_a == count_b
                and out_a.shape == out_b.shape
                and torch.allclose(out_a, out_b, atol=1e-4)
            )
            assert not alike, f"{a} and {b} are the same network"


class TestModes:
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self) -> None:
        model = small().eval()
        frames = clips(n=3)
        with torch.no_grad():
            together = model(frames).embedding
            alone = torch.cat([model(frames[i : i + 1]).embedding for i in range(3)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_training_and_evaluation_are_the_same_function(self) -> None:
        model = small()
        assert torch.equal(model.train()(clips()).embedding, model.eval()(clips()).embedding)

    @pytest.mark.parametrize("num_frames", [1, 2, 9])
    def test_clips_of_any_length_embed(self, num_frames: int) -> None:
        model = small()
        assert model.min_frames == 1
        assert model(clips(t=num_frames)).embedding.shape == (2, 2, 5)

    def test_there_are_no_logits_and_the_triplet_loss_sees_the_embedding(self) -> None:
        output = small()(clips())
        assert list(output.branches) == ["main"]
        assert output.branches["main"].logits is None
        assert output.branches["main"].triplet_features is output.embedding

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small(in_channels=3).eval()
        frames = clips(c=3)
        ordered = frames.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(ordered), model(frames))


class TestContract:
    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        hints = get_type_hints(GaitPart.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(GaitPart) or "").params
        }
        for name, parameter in inspect.signature(GaitPart).parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        model = small(channels=[2, 3, 4], num_strips=[1, 2, 4], input_size_px=[16, 8])
        assert model.input_size_px == (16, 8)
        assert torch.equal(model(clips()).embedding, small()(clips()).embedding)

    def test_parameter_groups_hold_every_parameter_once(self) -> None:
        model = small()
        groups = model.parameter_groups()
        assert list(groups) == ["backbone", "head"]
        grouped = [p for group in groups.values() for p in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))

    def test_named_stages_run_once_each_in_their_order(self) -> None:
        model = small().eval()
        ran: list[str] = []
        for name, stage in model.named_stages().items():
            stage.register_forward_hook(lambda *_, name=name: ran.append(name))
        model(clips())
        assert ran == list(model.named_stages())

    def test_state_dict_keys_are_public(self) -> None:
        assert list(small().state_dict()) == [
            *(
                f"frame_blocks.{index}.network.convolution{number}.weight"
                for index in range(3)
                for number in (1, 2)
            ),
            "temporal_aggregation.short.squeeze.weight",
            "temporal_aggregation.short.expand.weight",
            "temporal_aggregation.long.squeeze.weight",
            "temporal_aggregation.long.expand.weight",
            "embedding_linear.weight",
        ]

    @pytest.mark.parametrize("in_channels", [1, 3])
    def test_gradients_have_the_strides_of_their_weights(self, in_channels: int) -> None:
        # DDP warns of others, and safetensors refuses weights that are not contiguous.
        model = small(in_channels=in_channels)
        model(clips(c=in_channels)).embedding.square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.is_contiguous()
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride(), name

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            pytest.param(clips()[0], "got 4 dimensions", id="rank"),
            pytest.param(clips(c=3), "got 3 channels.*expected 1", id="channels"),
            pytest.param(clips(h=8), "got frames of 8x8 px.*expected 16x8", id="size"),
            pytest.param(clips(t=0), "got clips of 0 frames, expected at least 1", id="length"),
            pytest.param((clips() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(clips() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"GaitPart: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, r"num_subjects \(0\)", id="no-subjects"),
            pytest.param({"channels": (2, 3)}, "one entry per block", id="lengths-differ"),
            pytest.param({"channels": (2, 0, 4)}, "at least 1", id="no-channels"),
            pytest.param({"num_strips": (1, 3, 4)}, "3 must divide the 8 rows", id="strips"),
            pytest.param({"num_halvings": 4}, r"num_halvings \(4\)", id="halves-too-often"),
            pytest.param({"num_parts": 3}, r"num_parts \(3\)", id="parts-that-do-not-divide"),
            pytest.param({"squeeze": 3}, r"squeeze \(3\)", id="squeeze-that-does-not-divide"),
            pytest.param({"embedding_dim": 0}, r"embedding_dim \(0\)", id="no-embedding"),
            pytest.param({"input_size_px": (18, 8)}, "that 4 divides", id="odd-height"),
            pytest.param({"input_size_px": (16, 3)}, "as many columns", id="too-narrow"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            small(**arguments)


def walking_outlines(
    num_subjects: int, num_clips: int, num_frames: int, size_px: tuple[int, int] = (32, 22)
) -> tuple[Tensor, Tensor]:
    """Outlines as high as the frame; the subject is their girth, waist and swing, the clip a phase.

    Every row shows something, as in an aligned silhouette: rows without a person are the same for
    everybody, and a triplet there costs the margin for ever.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, size_px[0])[:, None]
    columns = torch.linspace(-1, 1, size_px[1])[None, :]
    made = []
    for _ in range(num_subjects):
        girth, waist, swing = (torch.rand(3, generator=generator) * 0.3 + 0.3).tolist()
        for _ in range(num_clips):
            phase = float(torch.rand((), generator=generator)) * 6.28
            times = (torch.arange(num_frames) * 0.8 + phase)[:, None, None]
            width = girth * (1 - waist * (4 * rows).cos() + swing * times.sin() * rows)
            made.append((columns.abs() < width).float())
    frames = torch.stack(made).unsqueeze(1)
    return frames, torch.arange(num_subjects).repeat_interleave(num_clips)


def test_an_eighth_of_the_width_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(num_subjects=4, num_clips=2, num_frames=6)
    model = GaitPart(4, num_parts=8, input_size_px=(32, 22), **casiab_plan(width=1 / 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    triplet_of = TripletLoss(0.2)
    active = []
    for _ in range(60):
        triplet = triplet_of(model(frames).branches["main"].triplet_features, labels)
        optimizer.zero_grad()
        triplet.loss.backward()
        optimizer.step()
        active.append(float(triplet.active_ratio))
    assert active[0] > 0.9
    assert active[-1] < 0.01

    model.eval()
    with torch.no_grad():
        embedding = model(frames).embedding.transpose(0, 1)  # [p, n, d]
    distances = torch.cdist(embedding, embedding).mean(dim=0)
    distances.fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(dim=1)], labels)


@pytest.mark.slow
def test_a_step_at_full_width_reaches_every_weight() -> None:
    frames, labels = walking_outlines(2, 2, num_frames=30, size_px=(64, 44))
    model = GaitPart(74)
    main = model(frames).branches["main"]
    TripletLoss(0.2)(main.triplet_features, labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
