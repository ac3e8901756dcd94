import inspect
import itertools
import json
import math
from typing import Any, get_type_hints

import docstring_parser
import pytest
import torch
from torch import Tensor, nn

from raygait.errors import ModelInputError
from raygait.losses.identity import IdentityLoss
from raygait.losses.triplet import TripletLoss
from raygait.models.deepgaitv2 import (
    DeepGaitV2,
    PseudoResidualBlock3d,
    ResidualBlock3d,
)
from raygait.models.gaitbase import GaitBase

MODES = ["2d", "3d", "p3d"]


def small(num_subjects: int = 5, **switches: Any) -> DeepGaitV2:
    """A network of 8 x 12 px input, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3, 3, 4),
        "num_blocks": (1, 2, 1, 1),
        "num_parts": 2,
        "embedding_dim": 3,
        "input_size_px": (8, 12),
    }
    model = DeepGaitV2(num_subjects, **(options | switches))
    # Not the 1 and 0 of a new norm, which would hide what its weights multiply.
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return model


def clips(n: int = 2, t: int = 4, h: int = 8, w: int = 12, c: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# The literal transcription: loops over kernel positions, frames and parts; of the room it uses the
# weights alone.


def literal_convolution(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """With as many zeros around as keep the size at stride 1; time is not strided."""
    if weight.ndim == 4:  # a 2-D kernel sees each frame by itself
        weight = weight[:, :, None]
    margins = [size // 2 for size in weight.shape[2:]]
    n, c, t, h, w = x.shape
    padded = x.new_zeros(n, c, *(a + 2 * b for a, b in zip((t, h, w), margins, strict=True)))
    a, b, d = margins
    padded[:, :, a : a + t, b : b + h, d : d + w] = x
    total = torch.zeros((), dtype=x.dtype)
    for s, i, j in itertools.product(*map(range, weight.shape[2:])):
        seen = padded[:, :, s : s + t, i : i + h : stride, j : j + w : stride]
        total = total + torch.einsum("ncthw,dc->ndthw", seen, weight[:, :, s, i, j])
    return total


def literal_norm(values: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Batch norm in training over everything but dimension 1."""
    others = [0, *range(2, values.ndim)]
    mean = values.mean(dim=others, keepdim=True)
    variance = ((values - mean) ** 2).mean(dim=others, keepdim=True)
    shape = [1, -1] + [1] * (values.ndim - 2)
    scale, shift = (weights[f"{name}.{part}"].view(shape) for part in ("weight", "bias"))
    return (values - mean) / (variance + 1e-5).sqrt() * scale + shift


def literal_block(x: Tensor, weights: dict[str, Tensor], name: str, stride: int) -> Tensor:
    """A residual block of any mode: what its weights are called says which."""
    inner = ".network" if f"{name}.convolution1.network.weight" in weights else ""
    beside = x
    if f"{name}.shortcut.0.weight" in weights:
        beside = literal_convolution(x, weights[f"{name}.shortcut.0.weight"], stride)
        beside = literal_norm(beside, weights, f"{name}.shortcut.1")
    x = literal_convolution(x, weights[f"{name}.convolution1{inner}.weight"], stride)
    x = literal_norm(x, weights, f"{name}.norm1").relu()
    if f"{name}.temporal_convolution.weight" in weights:
        kernel = weights[f"{name}.temporal_convolution.weight"]
        x = (
            x + literal_norm(literal_convolution(x, kernel), weights, f"{name}.temporal_norm")
        ).relu()
    x = literal_convolution(x, weights[f"{name}.convolution2{inner}.weight"])
    return (literal_norm(x, weights, f"{name}.norm2") + beside).relu()


def literal_deepgaitv2(model: DeepGaitV2, frames: Tensor, blocks: list[str]) -> dict[str, Tensor]:
    weights = dict(model.named_parameters())
    x = literal_convolution(frames, weights["stem.network.convolution.weight"])
    x = literal_norm(x, weights, "stem.network.norm").relu()
    for block, stride in zip(blocks, [1, 2, 1, 2, 1], strict=True):
        x = literal_block(x, weights, f"stages.{block}", stride)
    x = torch.stack([x[:, :, t] for t in range(x.shape[2])]).amax(dim=0)
    rows = x.shape[2] // 2
    vectors = []
    for p in range(2):
        strip = x[:, :, p * rows : (p + 1) * rows].flatten(2)
        vectors.append(
            (strip.mean(dim=2) + strip.amax(dim=2)) @ weights["embedding_linear.weight"][p]
        )
    together = literal_norm(torch.cat(vectors, dim=1), weights, "neck.norm")
    normed, logits = [], []
    for p, part in enumerate(together.split(vectors[0].shape[1], dim=1)):
        normed.append(part / (part**2).sum(dim=1, keepdim=True).sqrt())
        classes = weights["neck.identity_linear.weight"][p]
        logits.append(normed[p] @ (classes / (classes**2).sum(dim=0, keepdim=True).sqrt()))
    return {
        "before_norm": torch.stack(vectors, dim=1),
        "after_norm": torch.stack(normed, dim=1),
        "logits": torch.stack(logits, dim=1),
    }


def blocks_of(mode: str) -> list[str]:
    inner = ".network" if mode == "2d" else ""
    return ["0.network.0", f"1{inner}.0", f"1{inner}.1", f"2{inner}.0", f"3{inner}.0"]


def assert_same(result: list[Tensor], expected: list[Tensor], wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    generator = torch.Generator().manual_seed(1)
    pulls = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in result]
    torch.testing.assert_close(
        torch.autograd.grad(result, wanted, pulls), torch.autograd.grad(expected, wanted, pulls)
    )


class TestStructure:
    @pytest.mark.parametrize(("channels", "stride"), [((2, 3), 2), ((2, 3), 1), ((3, 3), 1)])
    @pytest.mark.parametrize("kind", [ResidualBlock3d, PseudoResidualBlock3d])
    def test_a_block_equals_its_transcription_in_values_and_gradients(
        self, kind: type[nn.Module], channels: tuple[int, int], stride: int
    ) -> None:
        torch.manual_seed(0)
        block = kind(*channels, stride=stride).double()
        weights = {f"block.{name}": p for name, p in block.named_parameters()}
        for name, parameter in weights.items():
            if "norm" in name or "shortcut.1" in name:
                nn.init.normal_(parameter, 1.0)
        x = torch.randn(2, channels[0], 4, 5, 6, dtype=torch.float64, requires_grad=True)
        expected = literal_block(x, weights, "block", stride)
        assert expected.shape[2] == 4
        assert_same([block(x)], [expected], [x, *block.parameters()])

    @pytest.mark.parametrize("mode", MODES)
    def test_the_whole_network_equals_its_transcription_in_values_and_gradients(
        self, mode: str
    ) -> None:
        model = small(mode=mode).double()
        frames = clips(n=3, t=3).double().requires_grad_()
        branch = model(frames).branches["main"]
        assert branch.logits is not None
        expected = literal_deepgaitv2(model, frames, blocks_of(mode))
        assert_same(
            [branch.triplet_features, branch.logits],
            [expected["before_norm"], expected["logits"]],
            [frames, *model.parameters()],
        )

    @pytest.mark.parametrize("embedding", ["before_norm", "after_norm"])
    def test_the_switch_says_on_which_side_of_the_norm_the_embedding_is(
        self, embedding: Any
    ) -> None:
        model = small(embedding=embedding).double()
        frames = clips().double()
        output = model(frames)
        expected = literal_deepgaitv2(model, frames, blocks_of("p3d"))
        torch.testing.assert_close(output.embedding, expected[embedding])
        # Whatever is compared at test, the triplets are on what comes before the norm.
        torch.testing.assert_close(
            output.branches["main"].triplet_features, expected["before_norm"]
        )

    @pytest.mark.parametrize(
        ("size_px", "last_map"), [((64, 44), (16, 11)), ((128, 88), (32, 22)), ((64, 64), (16, 16))]
    )
    @pytest.mark.parametrize("mode", MODES)
    def test_a_frame_is_halved_twice_and_time_is_kept(
        self, mode: Any, size_px: tuple[int, int], last_map: tuple[int, int]
    ) -> None:
        options: dict[str, Any] = {"channels": (2, 2, 2, 4), "num_blocks": (1, 1, 1, 1)}
        model = DeepGaitV2(3, mode=mode, embedding_dim=3, input_size_px=size_px, **options)
        shapes: list[tuple[int, ...]] = []
        model.named_stages()["stage 4"].register_forward_hook(
            lambda _m, _i, output: shapes.append(tuple(output.shape))
        )
        output = model(clips(h=size_px[0], w=size_px[1]))
        assert shapes == [(2, 4, 4, *last_map)]
        assert output.embedding.shape == (2, 16, 3)

    def test_mode_2d_is_gaitbase_weight_by_weight(self) -> None:
        model = small(mode="2d").eval()
        twin = GaitBase(
            5,
            channels=(2, 3, 3, 4),
            num_blocks=(1, 2, 1, 1),
            num_parts=2,
            embedding_dim=3,
            input_size_px=(8, 12),
        ).eval()
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin(clips()).embedding, model(clips()).embedding)

    @pytest.mark.parametrize(("mode", "depends"), [("2d", False), ("3d", True), ("p3d", True)])
    def test_only_temporal_convolutions_notice_the_order_of_frames(
        self, mode: str, depends: bool
    ) -> None:
        model = small(mode=mode).eval()
        frames = clips(t=5)
        shuffled = frames[:, :, torch.tensor([3, 0, 4, 1, 2])]
        same = torch.allclose(model(shuffled).embedding, model(frames).embedding, atol=1e-5)
        assert same is not depends

    @pytest.mark.parametrize(
        ("mode", "reach"),
        [("2d", [0, 0, 0, 0, 0]), ("3d", [0, 0, 4, 6, 8]), ("p3d", [0, 0, 2, 3, 4])],
    )
    def test_an_output_frame_sees_as_far_as_its_temporal_convolutions(
        self, mode: str, reach: list[int]
    ) -> None:
        # Two convolutions of 3 frames a block of mode 3D, one of mode P3D; stage 2 has two blocks.
        model = small(mode=mode, channels=(4, 6, 6, 8)).double().eval()
        seen: dict[str, Tensor] = {}
        stages = list(model.named_stages().items())[:5]
        for name, stage in stages:
            stage.register_forward_hook(
                lambda _m, _i, output, name=name: seen.update({name: output})
            )
        frames = clips(t=19).double()
        changed = frames.clone()
        changed[:, :, 9] = 1 - changed[:, :, 9]
        for (name, _), distance in zip(stages, reach, strict=True):
            model(frames)
            before = seen[name]
            model(changed)
            differs = (seen[name] != before).any(dim=0).any(dim=0).flatten(1).any(dim=1)
            assert differs.nonzero().flatten().tolist() == list(
                range(9 - distance, 9 + distance + 1)
            )

    @pytest.mark.parametrize(
        ("arguments", "count"),
        [
            pytest.param({"mode": "2d"}, 7_305_408, id="2d"),
            pytest.param({"mode": "3d"}, 16_595_136, id="3d"),
            pytest.param({"mode": "p3d"}, 8_339_392, id="p3d"),
            pytest.param({"in_channels": 2}, 8_339_392 + 64 * 9, id="two-channels"),
            pytest.param({"input_size_px": (128, 88)}, 8_339_392, id="larger-frames"),
            pytest.param(
                {"num_subjects": 3000, "num_blocks": (1, 4, 4, 1)}, 25_492_160, id="22-layers"
            ),
        ],
    )
    def test_it_has_as_many_parameters_as_the_release(
        self, arguments: dict[str, Any], count: int
    ) -> None:
        plain = {"num_subjects": 74, "num_blocks": (1, 1, 1, 1)}
        with torch.device("meta"):
            assert num_parameters(DeepGaitV2(**(plain | arguments))) == count


SWITCHES: dict[str, dict[str, Any]] = {
    "mode-2d": {"mode": "2d"},
    "mode-3d": {"mode": "3d"},
    "channels": {"channels": (4, 3, 3, 4)},
    "num-blocks": {"num_blocks": (1, 1, 1, 1)},
    "stages": {"channels": (2, 4), "num_blocks": (1, 1), "strides": (1, 2)},
    "strides": {"strides": (1, 2, 1, 1)},
    "num-parts": {"num_parts": 1},
    "embedding-dim": {"embedding_dim": 4},
    "embedding": {"embedding": "after_norm"},
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
            seen[name] = (num_parameters(model), embedding)
        for (a, (count_a, one)), (b, (count_b, other)) in itertools.combinations(seen.items(), 2):
            alike = (
                count_a == count_b
                and one.shape == other.shape
                and torch.allclose(one, other, atol=1e-4)
            )
            assert not alike, f"{a} and {b} are the same network"

    def test_both_embeddings_belong_to_the_same_weights(self) -> None:
        before, after = small().eval(), small(embedding="after_norm").eval()
        after.load_state_dict(before.state_dict())
        frames = clips()
        torch.testing.assert_close(
            after(frames).embedding, before.neck(before(frames).embedding)[0]
        )
        torch.testing.assert_close(after(frames).embedding.norm(dim=-1), torch.ones(2, 2))


class TestModes:
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self) -> None:
        model = small()
        frames = clips(n=4, t=6)
        model(frames)
        model.eval()
        with torch.no_grad():
            together = model(frames).embedding
            alone = torch.cat([model(frames[i : i + 1]).embedding for i in range(4)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_training_moves_the_statistics_of_every_norm_and_evaluation_moves_none(self) -> None:
        model = small()
        means = {k: v.clone() for k, v in model.state_dict().items() if "running_mean" in k}
        model.eval()(clips())
        state = model.state_dict()
        assert all(torch.equal(state[name], mean) for name, mean in means.items())
        model.train()(clips())
        state = model.state_dict()
        assert not any(torch.equal(state[name], mean) for name, mean in means.items())

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small(in_channels=3).eval()
        frames = clips(c=3)
        ordered = frames.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(ordered).embedding, model(frames).embedding)

    def test_bfloat16_under_autocast_is_close(self) -> None:
        model = small().eval()
        frames = clips()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(frames)
        exact = model(frames).embedding
        torch.testing.assert_close(output.embedding.float(), exact, rtol=0.1, atol=0.1)


class TestContract:
    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        hints = get_type_hints(DeepGaitV2.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(DeepGaitV2) or "").params
        }
        for name, parameter in inspect.signature(DeepGaitV2).parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            assert not isinstance(parameter.annotation, str)
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        model = small(channels=[2, 3], num_blocks=[1, 1], strides=[1, 2], input_size_px=[8, 12])
        assert model.input_size_px == (8, 12)
        model.eval()(clips(t=1))

    def test_parameter_groups_hold_every_parameter_once(self) -> None:
        model = small()
        grouped = [p for group in model.parameter_groups().values() for p in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
        assert list(model.parameter_groups()) == ["backbone", "head"]

    def test_named_stages_run_once_each_in_the_order_they_are_named_in(self) -> None:
        model = small()
        seen: list[str] = []
        for name, stage in model.named_stages().items():
            stage.register_forward_hook(lambda *_, name=name: seen.append(name))
        model(clips())
        assert seen == list(model.named_stages())

    @pytest.mark.parametrize("mode", MODES)
    def test_state_dict_keys_are_public(self, mode: str) -> None:
        model = small(mode=mode, channels=(2, 3), num_blocks=(1, 1), strides=(1, 2))
        norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
        first, second = "stages.0.network.0", "stages.1.0"
        inner = {"2d": "", "3d": "", "p3d": ".network"}[mode]
        temporal = []
        if mode == "2d":
            second = "stages.1.network.0"
        if mode == "p3d":
            temporal = [
                f"{second}.temporal_convolution.weight",
                *(f"{second}.temporal_norm.{name}" for name in norm),
            ]
        assert list(model.state_dict()) == [
            "stem.network.convolution.weight",
            *(f"stem.network.norm.{name}" for name in norm),
            f"{first}.convolution1.weight",
            *(f"{first}.norm1.{name}" for name in norm),
            f"{first}.convolution2.weight",
            *(f"{first}.norm2.{name}" for name in norm),
            f"{second}.convolution1{inner}.weight",
            *(f"{second}.norm1.{name}" for name in norm),
            *temporal,
            f"{second}.convolution2{inner}.weight",
            *(f"{second}.norm2.{name}" for name in norm),
            f"{second}.shortcut.0.weight",
            *(f"{second}.shortcut.1.{name}" for name in norm),
            "embedding_linear.weight",
            *(f"neck.norm.{name}" for name in norm),
            "neck.identity_linear.weight",
        ]

    @pytest.mark.parametrize(
        "switches",
        [
            pytest.param({}, id="one-channel"),
            pytest.param({"in_channels": 2}, id="two-channels"),
            pytest.param({"mode": "3d", "in_channels": 2}, id="full-kernels"),
            pytest.param({"channels": (1, 1, 1, 1)}, id="one-channel-everywhere"),
        ],
    )
    def test_gradients_have_the_strides_of_their_weights(self, switches: dict[str, Any]) -> None:
        # DDP warns of others, and safetensors refuses weights that are not contiguous.
        model = small(**switches)
        model(clips(c=model.in_channels)).branches["main"].logits.sum().backward()
        for parameter in model.parameters():
            assert parameter.is_contiguous()
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride()

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            pytest.param(clips()[0], "got 4 dimensions", id="rank"),
            pytest.param(clips(c=3), "got 3 channels.*expected 1", id="channels"),
            pytest.param(clips(h=16), "got frames of 16x12 px.*expected 8x12", id="height"),
            pytest.param(clips(w=10), "got frames of 8x10 px.*expected 8x12", id="width"),
            pytest.param(clips(t=0), "got clips of 0 frames, expected at least 1", id="length"),
            pytest.param((clips() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(clips() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"DeepGaitV2: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, r"num_subjects \(0\)", id="no-subjects"),
            pytest.param({"mode": "4d"}, r"mode \('4d'\)", id="unknown-mode"),
            pytest.param({"num_blocks": (1, 1)}, "one entry per stage", id="lengths-differ"),
            pytest.param({"channels": (2, 0, 3, 4)}, "at least 1", id="no-channels"),
            pytest.param({"num_blocks": (1, 0, 1, 1)}, "at least 1", id="empty-stage"),
            pytest.param({"strides": (1, 0, 1, 1)}, "at least 1", id="no-step"),
            pytest.param({"embedding_dim": 0}, r"embedding_dim \(0\)", id="no-features"),
            pytest.param({"embedding": "both"}, r"embedding \('both'\)", id="unknown-embedding"),
            pytest.param({"input_size_px": (8, 0)}, "input_size_px", id="no-width"),
            pytest.param(
                {"num_parts": 3}, r"num_parts \(3\) must divide the 2 rows", id="parts-do-not-fit"
            ),
            pytest.param({"input_size_px": (12, 8)}, "the 3 rows", id="height-does-not-fit"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            small(**arguments)


def walking_outlines(num_subjects: int, num_clips: int, num_frames: int) -> tuple[Tensor, Tensor]:
    """Outlines as high as the frame; the subject is their girth, waist and swing, the clip a phase.

    Every row shows something, as in an aligned silhouette: rows without a person are the same for
    everybody, and a triplet there costs the margin for ever.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, 32)[:, None]
    columns = torch.linspace(-1, 1, 22)[None, :]
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


@pytest.mark.parametrize("mode", ["3d", "p3d"])
def test_an_eighth_width_network_learns_one_batch_by_heart(mode: Any) -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(num_subjects=4, num_clips=4, num_frames=3)
    model = DeepGaitV2(
        4,
        mode=mode,
        channels=(8, 16, 32, 64),
        num_blocks=(1, 1, 1, 1),
        num_parts=8,
        embedding_dim=32,
        input_size_px=(32, 22),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    triplet_of, identity_of = TripletLoss(0.2), IdentityLoss(scale=16.0, smoothing=0.1)
    losses = []
    for _ in range(50):
        branch = model(frames).branches["main"]
        triplet = triplet_of(branch.triplet_features, labels)
        identity = identity_of(branch.logits, labels)
        optimizer.zero_grad()
        (triplet.loss + identity.loss).backward()
        optimizer.step()
        losses.append((float(triplet.active_ratio), float(identity.loss.detach())))
    # A cross-entropy smoothed by 0.1 over 4 subjects cannot fall below its own entropy.
    floor = -(0.925 * math.log(0.925) + 3 * 0.025 * math.log(0.025))
    assert losses[0][0] > 0.2
    assert losses[0][1] > floor + 1.0
    assert losses[-1][0] < 0.05 * losses[0][0]
    assert losses[-1][1] < floor + 0.1

    with torch.no_grad():
        for _ in range(30):  # the norms' statistics trail the weights: here they catch up
            model(frames)
        output = model.eval()(frames)
    assert float(identity_of(output.branches["main"].logits, labels).accuracy) == 1.0
    embedding = output.embedding.transpose(0, 1)  # [p, n, d]
    distances = torch.cdist(embedding, embedding).mean(dim=0)
    distances.fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(dim=1)], labels)


@pytest.mark.slow
def test_a_step_at_full_width_moves_every_parameter() -> None:
    torch.manual_seed(0)
    model = DeepGaitV2(74, num_blocks=(1, 1, 1, 1))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = torch.tensor([0, 0, 1, 1])
    branch = model(clips(n=4, t=8, h=64, w=44)).branches["main"]
    loss = TripletLoss()(branch.triplet_features, labels).loss
    loss = loss + IdentityLoss(scale=16.0, smoothing=0.1)(branch.logits, labels).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    for old, new in zip(before, model.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)
