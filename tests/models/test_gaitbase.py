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
from raygait.models.gaitbase import GaitBase


def small(num_subjects: int = 5, **switches: Any) -> GaitBase:
    """A network of 8 x 12 px input, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3, 3, 4),
        "num_blocks": (1, 2, 1, 1),
        "num_parts": 2,
        "embedding_dim": 3,
        "input_size_px": (8, 12),
    }
    model = GaitBase(num_subjects, **(options | switches))
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


def literal_convolution(frame: Tensor, weight: Tensor, stride: int) -> Tensor:
    """One image a clip, [n, c, h, w], with as many zeros around as keep its size at stride 1."""
    kernel = weight.shape[2]
    margin = kernel // 2
    n, c, h, w = frame.shape
    padded = frame.new_zeros(n, c, h + 2 * margin, w + 2 * margin)
    padded[:, :, margin : margin + h, margin : margin + w] = frame
    total = torch.zeros((), dtype=frame.dtype)
    for i, j in itertools.product(range(kernel), range(kernel)):
        seen = padded[:, :, i : i + h : stride, j : j + w : stride]
        total = total + torch.einsum("nchw,dc->ndhw", seen, weight[:, :, i, j])
    return total


def literal_norm(values: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Batch norm in training over everything but dimension 1."""
    others = [0, *range(2, values.ndim)]
    mean = values.mean(dim=others, keepdim=True)
    variance = ((values - mean) ** 2).mean(dim=others, keepdim=True)
    shape = [1, -1] + [1] * (values.ndim - 2)
    scale, shift = (weights[f"{name}.{part}"].view(shape) for part in ("weight", "bias"))
    return (values - mean) / (variance + 1e-5).sqrt() * scale + shift


def literal_layer(
    x: Tensor, weights: dict[str, Tensor], convolution: str, norm: str, stride: int = 1
) -> Tensor:
    """Convolution of each frame by itself, then a norm over the frames of all clips."""
    frames = [
        literal_convolution(x[:, :, t], weights[f"{convolution}.weight"], stride)
        for t in range(x.shape[2])
    ]
    return literal_norm(torch.stack(frames, dim=2), weights, norm)


def literal_gaitbase(model: GaitBase, frames: Tensor, strides: list[int]) -> dict[str, Tensor]:
    weights = dict(model.named_parameters())
    stem = "stem.network"
    x = literal_layer(frames, weights, f"{stem}.convolution", f"{stem}.norm").relu()
    blocks = ["0.network.0", "1.network.0", "1.network.1", "2.network.0", "3.network.0"]
    for block, stride in zip(blocks, strides, strict=True):
        name = f"stages.{block}"
        beside = x
        if f"{name}.shortcut.0.weight" in weights:
            beside = literal_layer(
                x, weights, f"{name}.shortcut.0", f"{name}.shortcut.1", stride=stride
            )
        x = literal_layer(x, weights, f"{name}.convolution1", f"{name}.norm1", stride).relu()
        x = literal_layer(x, weights, f"{name}.convolution2", f"{name}.norm2")
        x = (x + beside).relu()
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


class TestStructure:
    def test_the_whole_network_equals_its_transcription_in_values_and_gradients(self) -> None:
        model = small().double()
        frames = clips(n=3, t=3).double().requires_grad_()
        output = model(frames)
        expected = literal_gaitbase(model, frames, [1, 2, 1, 2, 1])
        branch = output.branches["main"]
        assert branch.logits is not None
        torch.testing.assert_close(branch.triplet_features, expected["before_norm"])
        torch.testing.assert_close(branch.logits, expected["logits"])
        wanted = [frames, *model.parameters()]
        generator = torch.Generator().manual_seed(1)
        pulls = [
            torch.randn(value.shape, dtype=torch.float64, generator=generator)
            for value in (branch.triplet_features, branch.logits)
        ]
        computed = [branch.triplet_features, branch.logits]
        literal = [expected["before_norm"], expected["logits"]]
        torch.testing.assert_close(
            torch.autograd.grad(computed, wanted, pulls),
            torch.autograd.grad(literal, wanted, pulls),
        )

    @pytest.mark.parametrize("embedding", ["before_norm", "after_norm"])
    def test_the_switch_says_on_which_side_of_the_norm_the_embedding_is(
        self, embedding: Any
    ) -> None:
        model = small(embedding=embedding).double()
        frames = clips().double()
        output = model(frames)
        expected = literal_gaitbase(model, frames, [1, 2, 1, 2, 1])
        torch.testing.assert_close(output.embedding, expected[embedding])
        # Whatever is compared at test, the triplets are on what comes before the norm.
        torch.testing.assert_close(
            output.branches["main"].triplet_features, expected["before_norm"]
        )

    @pytest.mark.parametrize(
        ("size_px", "last_map"), [((64, 44), (16, 11)), ((128, 88), (32, 22)), ((64, 64), (16, 16))]
    )
    def test_a_frame_is_halved_twice_and_cut_into_sixteen_parts(
        self, size_px: tuple[int, int], last_map: tuple[int, int]
    ) -> None:
        model = GaitBase(3, channels=(2, 2, 2, 4), embedding_dim=3, input_size_px=size_px)
        shapes: list[tuple[int, ...]] = []
        model.named_stages()["stage 4"].register_forward_hook(
            lambda _m, _i, output: shapes.append(tuple(output.shape))
        )
        output = model(clips(h=size_px[0], w=size_px[1]))
        assert shapes == [(2, 4, 4, *last_map)]
        assert output.embedding.shape == (2, 16, 3)

    def test_frames_may_come_in_any_order(self) -> None:
        model = small().eval()
        frames = clips(t=5)
        shuffled = frames[:, :, torch.tensor([3, 0, 4, 1, 2])]
        torch.testing.assert_close(model(shuffled).embedding, model(frames).embedding)

    @pytest.mark.parametrize(
        ("arguments", "count"),
        [
            pytest.param({}, 7_305_408, id="as-released"),
            pytest.param({"num_subjects": 3000}, 7_305_408 + 16 * 256 * 2926, id="3000-subjects"),
            pytest.param({"in_channels": 2}, 7_305_408 + 64 * 9, id="two-channels"),
            pytest.param({"input_size_px": (128, 88)}, 7_305_408, id="larger-frames"),
        ],
    )
    def test_it_has_as_many_parameters_as_the_release(
        self, arguments: dict[str, Any], count: int
    ) -> None:
        with torch.device("meta"):
            assert num_parameters(GaitBase(**{"num_subjects": 74, **arguments})) == count


SWITCHES: dict[str, dict[str, Any]] = {
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
        hints = get_type_hints(GaitBase.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(GaitBase) or "").params
        }
        for name, parameter in inspect.signature(GaitBase).parameters.items():
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

    def test_state_dict_keys_are_public(self) -> None:
        model = small(channels=(2, 3), num_blocks=(1, 1), strides=(1, 2))
        norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
        assert list(model.state_dict()) == [
            "stem.network.convolution.weight",
            *(f"stem.network.norm.{name}" for name in norm),
            "stages.0.network.0.convolution1.weight",
            *(f"stages.0.network.0.norm1.{name}" for name in norm),
            "stages.0.network.0.convolution2.weight",
            *(f"stages.0.network.0.norm2.{name}" for name in norm),
            "stages.1.network.0.convolution1.weight",
            *(f"stages.1.network.0.norm1.{name}" for name in norm),
            "stages.1.network.0.convolution2.weight",
            *(f"stages.1.network.0.norm2.{name}" for name in norm),
            "stages.1.network.0.shortcut.0.weight",
            *(f"stages.1.network.0.shortcut.1.{name}" for name in norm),
            "embedding_linear.weight",
            *(f"neck.norm.{name}" for name in norm),
            "neck.identity_linear.weight",
        ]

    @pytest.mark.parametrize(
        "switches",
        [
            pytest.param({}, id="one-channel"),
            pytest.param({"in_channels": 2}, id="two-channels"),
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
        with pytest.raises(ModelInputError, match=f"GaitBase: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, r"num_subjects \(0\)", id="no-subjects"),
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


def test_an_eighth_width_network_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(num_subjects=4, num_clips=4, num_frames=3)
    model = GaitBase(
        4, channels=(8, 16, 32, 64), num_parts=8, embedding_dim=32, input_size_px=(32, 22)
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
    model = GaitBase(74)
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
