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
from raygait.models.lmgcs import GSFE
from raygait.models.mt3d import MT3D, BasicBlock3d, LocalTransformation


def small(num_subjects: int = 5, **switches: Any) -> MT3D:
    """A network small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3, 4),
        "num_strips": 2,
        "gsfe_layers": 1,
        "gsfe_heads": 2,
        "gsfe_width": 5,
        "embedding_dim": 3,
        "input_size_px": (8, 6),
    }
    return MT3D(num_subjects, **(options | switches))


def clips(n: int = 2, t: int = 7, h: int = 8, w: int = 6, c: int = 1) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(0))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def literal_convolution(x: Tensor, weight: Tensor, *, interval: bool = False) -> Tensor:
    """Loops over kernel positions and frames; leaky. An interval has neither overlap nor pad."""
    n, _, t, h, w = x.shape
    d, _, kt, ky, kx = weight.shape
    pad_t = 0 if interval else kt // 2
    padded = x.new_zeros(n, x.shape[1], t + 2 * pad_t, h + ky - 1, w + kx - 1)
    padded[:, :, pad_t : pad_t + t, ky // 2 : ky // 2 + h, kx // 2 : kx // 2 + w] = x
    frames = []
    for start in range(0, t - kt + 1, kt) if interval else range(t):
        total = x.new_zeros(n, d, h, w)
        for i, j, k in itertools.product(range(kt), range(ky), range(kx)):
            seen = padded[:, :, start + i, j : j + h, k : k + w]
            total = total + torch.einsum("nchw,dc->ndhw", seen, weight[:, :, i, j, k])
        frames.append(total)
    result = torch.stack(frames, dim=2)
    return torch.where(result > 0, result, 0.01 * result)


def literal_block(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    names = ("space_time", "space", "time")
    return sum(
        (literal_convolution(x, weights[f"{name}.{kind}.weight"]) for kind in names),
        torch.zeros((), dtype=x.dtype),
    )


def literal_mt3d(model: MT3D, frames: Tensor) -> Tensor:
    weights = dict(model.named_parameters())

    def transformed(x: Tensor, number: int) -> Tensor:
        weight = weights[f"transformations.{number}.convolution.weight"]
        return literal_convolution(x, weight, interval=True)

    def halved(x: Tensor) -> Tensor:
        corners = [x[..., i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))]
        return torch.stack([corner[..., :4, :3] for corner in corners]).amax(dim=0)

    small = literal_convolution(frames, weights["convolution.weight"])
    large = transformed(small, 0)
    small = halved(literal_block(small, weights, "small_blocks.0"))
    large = halved(literal_block(large, weights, "large_blocks.0")) + transformed(small, 1)
    for number in (1, 2):
        small = literal_block(small, weights, f"small_blocks.{number}")
        large = literal_block(large, weights, f"large_blocks.{number}")
    large = large + transformed(small, 2)
    parts = []
    for scale in (small, large):
        x = torch.stack([scale[:, :, i] for i in range(scale.shape[2])]).amax(dim=0)
        for rows in (slice(0, 2), slice(2, 4)):
            strip = x[:, :, rows].flatten(2)
            parts.append(strip.amax(dim=2) + strip.mean(dim=2))
    linear = weights["embedding_linear.weight"]
    return torch.stack([part @ linear[i] for i, part in enumerate(parts)], dim=1)


def assert_same(result: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    pull = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad((result * pull).sum(), wanted),
        torch.autograd.grad((expected * pull).sum(), wanted),
    )


class TestStructure:
    def test_a_basic_block_is_the_sum_of_three_convolutions_each_with_its_activation(self) -> None:
        torch.manual_seed(0)
        block = BasicBlock3d(2, 3).double()
        x = torch.randn(2, 2, 4, 4, 3, dtype=torch.float64, requires_grad=True)
        expected = literal_block(x, {f"b.{k}": v for k, v in block.named_parameters()}, "b")
        assert_same(block(x), expected, [x, *block.parameters()])

    def test_an_interval_is_blind_to_the_others_and_a_remainder_is_left_out(self) -> None:
        torch.manual_seed(0)
        local = LocalTransformation(2, 3)
        x = torch.rand(1, 2, 8, 2, 2)
        changed = x.clone()
        changed[:, :, 3:6] = 0
        changed[:, :, 6:] = 0
        result = local(x)
        assert result.shape == (1, 2, 2, 2, 2)
        same = (local(changed) == result).all(dim=0).all(dim=0).flatten(1).all(dim=1)
        assert same.tolist() == [True, False]

    def test_the_network_equals_its_transcription_in_values_and_gradients(self) -> None:
        model = small().double()
        frames = clips().double().requires_grad_()
        expected = literal_mt3d(model, frames)
        assert_same(model(frames).embedding, expected, [frames, *model.parameters()])

    def test_parameters(self) -> None:
        # 39 taps a basic block: 27 + 9 + 3.
        blocks = 39 * (32 * 64 + 64 * 128 + 128 * 128)
        transformations = 3 * (32**2 + 64**2 + 128**2)
        backbone = 27 * 32 + 2 * blocks + transformations
        head = 64 * 128 * 256
        with torch.device("meta"):
            assert num_parameters(MT3D(74)) == backbone + head == 4_239_200
            with_gsfe = num_parameters(MT3D(74, frame_pooling="gsfe"))
            assert with_gsfe - backbone - head == num_parameters(GSFE(128)) == 5_009_408


class TestFramePooling:
    def test_table_x_gsfe_takes_the_place_of_the_maximum(self) -> None:
        model = small(frame_pooling="gsfe").double()
        seen: list[Tensor] = []
        assert model.gsfe is not None
        model.gsfe.register_forward_hook(lambda _, __, result: seen.append(result))
        embedding = model(clips().double()).embedding
        assert [tuple(pooled.shape) for pooled in seen] == [(2, 4, 2), (2, 4, 2)]
        parts = torch.cat(seen, dim=2).transpose(1, 2)
        expected = torch.einsum("npc,pcd->npd", parts, model.embedding_linear.weight)
        torch.testing.assert_close(embedding, expected)

    def test_all_parameters_learn(self) -> None:
        model = small(frame_pooling="gsfe", classifier=True)
        logits = model(clips()).branches["main"].logits
        assert logits is not None
        logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_every_switch_changes_parameters_or_output(self) -> None:
        switches: dict[str, dict[str, Any]] = {
            "default": {},
            "gsfe-1x1": {"frame_pooling": "gsfe"},
            "gsfe-4x4": {"frame_pooling": "gsfe", "gsfe_layers": 4},
            "heads": {"frame_pooling": "gsfe", "gsfe_heads": 1},
            "width": {"frame_pooling": "gsfe", "gsfe_width": 6},
            "classifier": {"classifier": True},
            "channels": {"channels": (2, 2, 4)},
            "interval": {"interval": 2},
            "strips": {"num_strips": 4},
            "embedding": {"embedding_dim": 4},
            "colour": {"in_channels": 3},
        }
        seen: dict[str, tuple[int, Tensor]] = {}
        for name, options in switches.items():
            model = small(**options)
            embedding = model(clips(c=model.in_channels)).embedding.detach()
            assert embedding.shape[1] == model.num_parts
            seen[name] = (num_parameters(model), embedding)
        for (a, (count_a, e_a)), (b, (count_b, e_b)) in itertools.combinations(seen.items(), 2):
            alike = count_a == count_b and e_a.shape == e_b.shape and torch.allclose(e_a, e_b)
            assert not alike, f"{a} and {b} are the same network"


class TestModes:
    @pytest.mark.parametrize("frame_pooling", ["max", "gsfe"])
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self, frame_pooling: str) -> None:
        model = small(frame_pooling=frame_pooling).eval()
        frames = clips(n=4)
        with torch.no_grad():
            together = model(frames).embedding
            alone = torch.cat([model(frames[i : i + 1]).embedding for i in range(4)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_the_embedding_is_what_the_triplet_loss_sees(self) -> None:
        output = small()(clips())
        assert torch.equal(output.embedding, output.branches["main"].triplet_features)
        assert output.branches["main"].logits is None

    def test_training_computes_what_evaluation_does(self) -> None:
        model = small().train()
        first = model(clips()).embedding
        assert torch.equal(model.eval()(clips()).embedding, first)


class TestContract:
    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        hints = get_type_hints(MT3D.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(MT3D) or "").params
        }
        for name, parameter in inspect.signature(MT3D).parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            assert not isinstance(parameter.annotation, str)
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    @pytest.mark.parametrize("switches", [{}, {"frame_pooling": "gsfe", "classifier": True}])
    def test_parameter_groups_hold_every_parameter_once(self, switches: dict[str, Any]) -> None:
        model = small(**switches)
        groups = model.parameter_groups()
        grouped = [p for group in groups.values() for p in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
        assert list(groups) == (["backbone", "gsfe", "head"] if switches else ["backbone", "head"])

    def test_each_named_stage_runs_once_a_pass(self) -> None:
        model = small()
        seen: list[str] = []

        def watch(name: str, block: nn.Module) -> None:
            block.register_forward_hook(lambda *_: seen.append(name))

        for name, block in model.named_stages().items():
            watch(name, block)
        model(clips())
        assert sorted(seen) == sorted(model.named_stages())

    def test_gradients_have_the_strides_of_their_weights(self) -> None:
        model = small(channels=(1, 1, 2))
        model(clips()).embedding.sum().backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride()

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            pytest.param(clips()[0], "got 4 dimensions", id="rank"),
            pytest.param(clips(c=3), "got 3 channels.*expected 1", id="channels"),
            pytest.param(clips(w=8), "got frames of 8x8 px.*expected 8x6", id="width"),
            pytest.param(clips(t=2), "got clips of 2 frames, expected at least 3", id="length"),
            pytest.param((clips() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(clips() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"MT3D: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, "num_subjects", id="no-subjects"),
            pytest.param({"interval": 0}, "interval", id="no-interval"),
            pytest.param({"channels": (2, 2)}, "channels", id="two-widths"),
            pytest.param({"embedding_dim": 0}, "embedding_dim", id="no-embedding"),
            pytest.param({"num_strips": 3}, "num_strips .3.*4 rows", id="strips-do-not-divide"),
            pytest.param({"input_size_px": (7, 6)}, "input_size_px", id="odd-height"),
            pytest.param({"frame_pooling": "mean"}, "frame_pooling", id="unknown-pooling"),
            pytest.param({"frame_pooling": "gsfe", "gsfe_layers": 0}, "num_layers", id="no-layers"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            small(**arguments)


def test_an_eighth_of_the_width_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    # Four subjects differ in girth and swing, their two clips in phase.
    rows = torch.linspace(-1, 1, 64)[:, None]
    columns = torch.linspace(-1, 1, 44)[None, :]
    made = []
    for subject, phase in itertools.product(range(4), (0.0, 2.0)):
        times = (torch.arange(6) * 0.8 + phase)[:, None, None]
        width = (0.3 + 0.08 * subject) * (1 + (0.2 + 0.1 * subject) * times.sin() * rows)
        made.append((columns.abs() < width).float())
    frames, labels = torch.stack(made).unsqueeze(1), torch.arange(4).repeat_interleave(2)
    model = MT3D(4, channels=(4, 8, 16), num_strips=16, embedding_dim=16)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    active = []
    for _ in range(30):
        result = TripletLoss(0.2)(model(frames).branches["main"].triplet_features, labels)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        active.append(float(result.active_ratio))
    assert active[0] > 0.2
    assert active[-1] < 0.1 * active[0]


@pytest.mark.slow
@pytest.mark.parametrize("frame_pooling", ["max", "gsfe"])
def test_the_full_network_steps(frame_pooling: str) -> None:
    torch.manual_seed(0)
    model = MT3D(74, frame_pooling=frame_pooling)  # type: ignore[arg-type]
    embedding = model(clips(n=3, t=30, h=64, w=44)).embedding
    assert embedding.shape == (3, 64, 256)
    loss = TripletLoss(10.0)(embedding, torch.tensor([0, 0, 1])).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
