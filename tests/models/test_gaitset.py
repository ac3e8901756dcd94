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
from raygait.models.gaitset import GaitSet, HorizontalPyramid


def small(num_subjects: int = 5, **switches: Any) -> GaitSet:
    """A network of 16 x 8 px input, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3, 8),
        "scales": (4, 2, 1),
        "embedding_dim": 5,
        "input_size_px": (16, 8),
    }
    return GaitSet(num_subjects, **(options | switches))


def clips(n: int = 2, t: int = 4, h: int = 16, w: int = 8, c: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# A literal transcription: loops over frames, kernel positions and strips, nothing shared with the
# room but the weights.


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


def literal_block(x: Tensor, weights: dict[str, Tensor], name: str, *, halves: bool) -> Tensor:
    for number in (1, 2):
        x = literal_convolution(x, weights[f"{name}.convolution{number}.weight"])
        x = torch.where(x > 0, x, 0.01 * x)
    if halves:
        corners = [x[..., i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))]
        x = torch.stack(corners).amax(dim=0)
    return x


def literal_pyramid(x: Tensor, scales: tuple[int, ...]) -> list[Tensor]:
    strips = []
    for scale in scales:
        rows = x.shape[2] // scale
        for first in range(0, x.shape[2], rows):
            strip = x[:, :, first : first + rows].flatten(2)
            strips.append(strip.amax(dim=2) + strip.mean(dim=2))
    return strips


def literal_gaitset(model: GaitSet, frames: Tensor, scales: tuple[int, ...]) -> Tensor:
    weights = dict(model.named_parameters())
    last = len(model.frame_blocks) - 1
    images = [frames[:, :, t] for t in range(frames.shape[2])]
    collected = None
    for index in range(last + 1):
        name = f"frame_blocks.{index}.network"
        images = [literal_block(image, weights, name, halves=index < last) for image in images]
        of_frames = torch.stack(images).amax(dim=0)
        if collected is None:
            collected = of_frames
        else:
            name = f"set_blocks.{index - 1}"
            collected = literal_block(collected, weights, name, halves=index < last) + of_frames
    assert collected is not None
    strips = literal_pyramid(of_frames, scales) + literal_pyramid(collected, scales)
    linear = weights["embedding_linear.weight"]
    return torch.stack([strip @ linear[p] for p, strip in enumerate(strips)], dim=1)


class TestEquations:
    @pytest.mark.parametrize("channels", [(2, 3), (2, 3, 8)], ids=["two-blocks", "three-blocks"])
    def test_the_network_equals_its_transcription_in_values_and_gradients(
        self, channels: tuple[int, ...]
    ) -> None:
        model = small(channels=channels).double()
        frames = clips().double().requires_grad_()
        output = model(frames)
        expected = literal_gaitset(model, frames, (4, 2, 1))
        torch.testing.assert_close(output.embedding, expected)
        pull = torch.randn(
            expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        wanted = [frames, *model.parameters()]
        torch.testing.assert_close(
            torch.autograd.grad((output.embedding * pull).sum(), wanted),
            torch.autograd.grad((expected * pull).sum(), wanted),
        )

    def test_the_pyramid_lists_strips_scale_by_scale_and_top_to_bottom(self) -> None:
        rows = torch.arange(4.0)[None, None, :, None].expand(1, 1, 4, 3)
        pooled = HorizontalPyramid((4, 2, 1))(rows)
        # Maximum plus mean of the rows' numbers.
        assert pooled[0, :, 0].tolist() == [0, 2, 4, 6, 1 + 0.5, 3 + 2.5, 3 + 1.5]

    @pytest.mark.parametrize("frame_pooling", ["max", "gsfe"])
    def test_the_order_of_frames_does_not_matter(self, frame_pooling: str) -> None:
        model = small(frame_pooling=frame_pooling, gsfe_layers=1).eval()
        frames = clips()
        shuffled = frames[:, :, torch.tensor([2, 0, 3, 1])]
        torch.testing.assert_close(
            model(shuffled).embedding, model(frames).embedding, rtol=0, atol=1e-5
        )

    def test_a_frame_seen_twice_changes_nothing(self) -> None:
        model = small().eval()
        frames = clips()
        twice = torch.cat((frames, frames), dim=2)
        torch.testing.assert_close(model(twice).embedding, model(frames).embedding)


class TestGsfe:
    def test_it_pools_the_strips_of_frames_and_leaves_the_global_pipeline(self) -> None:
        plain, pooled = small().eval(), small(frame_pooling="gsfe").eval()
        missing = pooled.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert missing
        assert all(name.startswith("gsfe.") for name in missing)
        seen: list[Tensor] = []
        assert pooled.gsfe is not None
        pooled.gsfe.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        frames = clips()
        same = plain(frames).embedding == pooled(frames).embedding
        # Parts 0-6 are the frame branch's, 7-13 the global pipeline's.
        assert not same[:, :7].any()
        assert same[:, 7:].all()
        (strips,) = seen  # [n, c, t, p]
        for t in range(4):
            x = frames[:, :, t]
            weights = dict(plain.named_parameters())
            for index in range(3):
                x = literal_block(x, weights, f"frame_blocks.{index}.network", halves=index < 2)
            expected = torch.stack(literal_pyramid(x, (4, 2, 1)), dim=2)
            torch.testing.assert_close(strips[:, :, t], expected)

    def test_its_result_is_what_the_separate_layers_see(self) -> None:
        model = small(frame_pooling="gsfe", gsfe_layers=1).eval()
        seen: dict[str, Tensor] = {}
        assert model.gsfe is not None
        model.gsfe.register_forward_hook(lambda *hook: seen.update(gsfe=hook[2]))
        model.embedding_linear.register_forward_pre_hook(
            lambda _, inputs: seen.update(parts=inputs[0])
        )
        model(clips())
        assert torch.equal(seen["parts"][:, :7], seen["gsfe"].transpose(1, 2))

    def test_lmgcs_table_10_layers_are_encoder_and_decoder_layers(self) -> None:
        with torch.device("meta"):
            counts = [
                num_parameters(GaitSet(74, frame_pooling="gsfe", gsfe_layers=layers)) - 2_594_592
                for layers in (1, 4)
            ]
        assert counts[0] > 0
        assert counts[1] == 4 * counts[0]


class TestSize:
    def test_parameters_are_the_published_number(self) -> None:
        with torch.device("meta"):
            model = GaitSet(74)
        assert num_parameters(model) == 2_594_592
        assert len(model.state_dict()) == 11
        assert model.num_parts == 62
        assert model.embedding_linear.weight.shape == (62, 128, 256)

    def test_parameters_of_the_wide_network_are_the_published_megabytes(self) -> None:
        with torch.device("meta"):
            assert num_parameters(GaitSet(5153, channels=(64, 128, 256))) == 6_313_536  # 6.31 M

    def test_the_number_of_subjects_changes_no_weight(self) -> None:
        with torch.device("meta"):
            assert num_parameters(GaitSet(1)) == num_parameters(GaitSet(5153))


SWITCHES: dict[str, dict[str, Any]] = {
    "gsfe-4": {"frame_pooling": "gsfe"},
    "gsfe-1": {"frame_pooling": "gsfe", "gsfe_layers": 1},
    "channels": {"channels": (2, 4, 8)},
    "blocks": {"channels": (2, 8)},
    "scales": {"scales": (4, 1)},
    "order-of-scales": {"scales": (1, 2, 4)},
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
    @pytest.mark.parametrize("frame_pooling", ["max", "gsfe"])
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self, frame_pooling: str) -> None:
        model = small(frame_pooling=frame_pooling).eval()
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
        assert model(clips(t=num_frames)).embedding.shape == (2, 14, 5)

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
        hints = get_type_hints(GaitSet.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(GaitSet) or "").params
        }
        for name, parameter in inspect.signature(GaitSet).parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        model = small(channels=[2, 3, 8], scales=[4, 2, 1], input_size_px=[16, 8])
        assert model.input_size_px == (16, 8)
        assert torch.equal(model(clips()).embedding, small()(clips()).embedding)

    @pytest.mark.parametrize("frame_pooling", ["max", "gsfe"])
    def test_parameter_groups_hold_every_parameter_once(self, frame_pooling: str) -> None:
        model = small(frame_pooling=frame_pooling)
        groups = model.parameter_groups()
        assert list(groups) == ["backbone", "head"]
        grouped = [p for group in groups.values() for p in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))

    @pytest.mark.parametrize("frame_pooling", ["max", "gsfe"])
    def test_named_stages_run_once_each_in_their_order(self, frame_pooling: str) -> None:
        model = small(frame_pooling=frame_pooling).eval()
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
            *(
                f"set_blocks.{index}.convolution{number}.weight"
                for index in range(2)
                for number in (1, 2)
            ),
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
        with pytest.raises(ModelInputError, match=f"GaitSet: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, r"num_subjects \(0\)", id="no-subjects"),
            pytest.param({"channels": (8,)}, "two entries", id="one-block"),
            pytest.param({"channels": (2, 0, 8)}, "at least 1", id="no-channels"),
            pytest.param({"embedding_dim": 0}, r"embedding_dim \(0\)", id="no-embedding"),
            pytest.param({"frame_pooling": "mean"}, "'mean'", id="unknown-pooling"),
            pytest.param({"gsfe_layers": 0}, r"gsfe_layers \(0\)", id="no-layers"),
            pytest.param({"scales": ()}, r"scales \(\)", id="no-scales"),
            pytest.param({"scales": (3, 1)}, "divide the 4 rows", id="scale-that-does-not-divide"),
            pytest.param({"input_size_px": (18, 8)}, "that 4 divides", id="odd-height"),
            pytest.param({"input_size_px": (16, 3)}, "at least 4 columns", id="too-narrow"),
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


@pytest.mark.parametrize(
    ("frame_pooling", "learning_rate"),
    [pytest.param("max", 3e-3, id="max"), pytest.param("gsfe", 2e-3, id="gsfe")],
)
def test_an_eighth_of_the_width_learns_one_batch_by_heart(
    frame_pooling: str, learning_rate: float
) -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(num_subjects=4, num_clips=2, num_frames=6)
    model = GaitSet(
        4,
        channels=(4, 8, 16),
        scales=(8, 4, 2, 1),
        embedding_dim=32,
        frame_pooling=frame_pooling,  # type: ignore[arg-type]
        gsfe_layers=1,
        input_size_px=(32, 22),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
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
@pytest.mark.parametrize("frame_pooling", ["max", "gsfe"])
def test_a_step_at_full_width_reaches_every_weight(frame_pooling: str) -> None:
    frames, labels = walking_outlines(2, 2, num_frames=30, size_px=(64, 44))
    model = GaitSet(74, frame_pooling=frame_pooling)  # type: ignore[arg-type]
    main = model(frames).branches["main"]
    TripletLoss(0.2)(main.triplet_features, labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
