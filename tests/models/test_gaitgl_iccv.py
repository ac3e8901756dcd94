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
from raygait.models.gaitgl_iccv import GaitGLFixed, casiab_plan, large_plan


def small(num_subjects: int = 5, **switches: Any) -> GaitGLFixed:
    """A network of 8 x 6 px input, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "stem_channels": (2,),
        "channels": (3, 4, 4),
        "num_strips": 2,
        "input_size_px": (8, 6),
    }
    return GaitGLFixed(num_subjects, **(options | switches))


def clips(n: int = 2, t: int = 7, h: int = 8, w: int = 6, c: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# A literal transcription: loops over kernel positions, strips and parts, nothing shared with the
# room but the weights.


def literal_convolution(x: Tensor, weight: Tensor) -> Tensor:
    n, c, t, h, w = x.shape
    padded = x.new_zeros(n, c, t + 2, h + 2, w + 2)
    padded[:, :, 1:-1, 1:-1, 1:-1] = x
    result = x.new_zeros(n, len(weight), t, h, w)
    for i, j, k in itertools.product(range(3), repeat=3):
        seen = padded[:, :, i : i + t, j : j + h, k : k + w]
        result = result + torch.einsum("nczhw,dc->ndzhw", seen, weight[:, :, i, j, k])
    return result


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def literal_features(model: GaitGLFixed, frames: Tensor, num_strips: int) -> Tensor:
    """All up to the separate layers, `[n, p, d]`, for one pooling after the first layer."""
    weights = dict(model.named_parameters())
    x = frames
    for index in range(len(model.stem.convolutions)):
        x = leaky(literal_convolution(x, weights[f"stem.convolutions.{index}.weight"]))
    lta = weights["temporal_aggregation.convolution.weight"]  # [c, c, 3, 1, 1]
    merged = []
    for first in range(0, x.shape[2] - 2, 3):  # a kernel of 3 frames, every third, no padding
        parts = [
            torch.einsum("nchw,dc->ndhw", x[:, :, first + i], lta[:, :, i, 0, 0]) for i in range(3)
        ]
        merged.append(leaky(parts[0] + parts[1] + parts[2]))
    x = torch.stack(merged, dim=2)
    for index in range(len(model.layers)):
        whole = literal_convolution(x, weights[f"layers.{index}.global_convolution.weight"])
        local = weights[f"layers.{index}.local_convolution.weight"]
        rows = x.shape[3] // num_strips
        strips = [
            literal_convolution(x[:, :, :, first : first + rows], local)
            for first in range(0, x.shape[3], rows)
        ]
        pieces = torch.cat(strips, dim=3)
        if index < len(model.layers) - 1:
            x = leaky(whole) + leaky(pieces)
        else:
            x = leaky(torch.cat([whole, pieces], dim=3))
        if index == 0:
            corners = [x[..., i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))]
            x = torch.stack(corners).amax(dim=0)
    x = x.amax(dim=2)  # [n, c, h, w]
    power = weights["spatial_mapping.generalized_mean.power"]
    rows_of = (x.clamp(min=1e-6) ** power).mean(dim=-1) ** (1 / power)  # [n, c, p]
    linear = weights["embedding_linear.weight"]
    return torch.stack([rows_of[:, :, p] @ linear[p] for p in range(rows_of.shape[2])], dim=1)


def assert_same(results: list[Tensor], expected: list[Tensor], wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of the last."""
    for result, value in zip(results, expected, strict=True):
        torch.testing.assert_close(result, value)
    pull = torch.randn(
        results[-1].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(
        torch.autograd.grad((results[-1] * pull).sum(), wanted, materialize_grads=True),
        torch.autograd.grad((expected[-1] * pull).sum(), wanted, materialize_grads=True),
    )


class TestEquations:
    def test_the_network_with_a_shared_norm_equals_its_transcription(self) -> None:
        model = small(stem_channels=(2, 2)).double()
        frames = clips(n=3).double().requires_grad_()
        output = model(frames)
        mapped = literal_features(model, frames, num_strips=2)
        mean = mapped.mean(dim=(0, 1))  # of all clips and parts together
        variance = ((mapped - mean) ** 2).mean(dim=(0, 1))
        weights = dict(model.named_parameters())
        embedding = (mapped - mean) / (variance + 1e-5).sqrt()
        embedding = embedding * weights["embedding_norm.weight"] + weights["embedding_norm.bias"]
        linear = weights["identity_linear.weight"]
        logits = torch.stack([embedding[:, p] @ linear[p] for p in range(8)], dim=1)
        main = output.branches["main"]
        assert main.logits is not None
        assert_same(
            [output.embedding, main.triplet_features, main.logits],
            [embedding, embedding, logits],
            [frames, *model.parameters()],
        )

    def test_the_network_with_a_bnneck_embeds_before_the_norm(self) -> None:
        model = small(head="bnneck").double()
        frames = clips(n=3).double().requires_grad_()
        output = model(frames)
        mapped = literal_features(model, frames, num_strips=2)
        mean = mapped.mean(dim=0)  # of each feature of each part
        normed = (mapped - mean) / (((mapped - mean) ** 2).mean(dim=0) + 1e-5).sqrt()
        assert model.neck is not None
        normed = normed * model.neck.norm.weight.view(8, 4) + model.neck.norm.bias.view(8, 4)
        linear = model.neck.identity_linear.weight
        logits = torch.zeros(3, 8, 5, dtype=torch.float64)
        for i, p, k in itertools.product(range(3), range(8), range(5)):
            dot = (normed[i, p] * linear[p, :, k]).sum()
            logits[i, p, k] = dot / normed[i, p].norm() / linear[p, :, k].norm()
        main = output.branches["main"]
        assert main.logits is not None
        assert_same(
            [output.embedding, main.triplet_features, main.logits],
            [mapped, mapped, logits],
            [frames, *model.parameters()],
        )

    def test_strips_of_the_local_branch_are_blind_to_each_other(self) -> None:
        # One layer, its map not pooled before it: rows 8-15 of the result are the local ones.
        model = small(channels=(3,), num_strips=2)
        seen: list[Tensor] = []
        model.layers[0].register_forward_hook(lambda *hook: seen.append(hook[2].detach()))
        frames = clips(t=3)
        changed = frames.clone()
        # Beyond the stem's own view of one row, only the upper strip differs.
        changed[..., :3, :] = 0
        model(frames)
        model(changed)
        same = (seen[0] == seen[1]).all(dim=(0, 1, 2, 4)).tolist()
        assert not any(same[:4])
        assert same[5:8] == [True] * 3  # the global map sees one row further
        assert not any(same[8:12])
        assert same[12:] == [True] * 4

    @pytest.mark.parametrize(("before", "after"), [(3, 1), (5, 1), (30, 10), (31, 10)])
    def test_three_frames_become_one(self, before: int, after: int) -> None:
        model = small().eval()
        lengths: list[int] = []
        model.layers[0].register_forward_pre_hook(
            lambda _, inputs: lengths.append(inputs[0].shape[2])
        )
        model(clips(n=1, t=before))
        assert lengths == [after]


class TestSize:
    @pytest.mark.parametrize(
        ("num_subjects", "plan", "count", "num_entries"),
        [
            pytest.param(74, {}, 3_096_673, 16, id="default"),
            pytest.param(74, casiab_plan(), 3_096_673, 16, id="plan-of-74"),
            pytest.param(5153, large_plan(), 95_620_449, 23, id="large"),
            pytest.param(20_000, large_plan(), 338_873_697, 23, id="large-of-20000"),
        ],
    )
    def test_parameters_are_the_published_number(
        self, num_subjects: int, plan: Any, count: int, num_entries: int
    ) -> None:
        with torch.device("meta"):
            model = GaitGLFixed(num_subjects, **plan)
        assert num_parameters(model) == count
        assert len(model.state_dict()) == num_entries

    def test_a_bnneck_has_a_norm_of_every_feature_of_every_part(self) -> None:
        with torch.device("meta"):
            model = GaitGLFixed(7, head="bnneck", **large_plan())
        assert model.neck is not None
        assert model.neck.norm.weight.shape == (16_384,)
        assert model.neck.identity_linear.weight.shape == (64, 256, 7)
        assert "embedding_norm.weight" not in model.state_dict()

    @pytest.mark.parametrize("pool_after_layer", [1, 2, 3])
    def test_a_part_is_one_row_of_the_last_map(self, pool_after_layer: int) -> None:
        model = small(pool_after_layer=pool_after_layer).eval()
        rows: list[int] = []
        model.spatial_mapping.register_forward_pre_hook(
            lambda _, inputs: rows.append(inputs[0].shape[2])
        )
        model(clips())
        assert rows == [model.num_parts] == [8]

    @pytest.mark.parametrize("head", ["shared_norm", "bnneck"])
    def test_the_large_plan_runs(self, head: str) -> None:
        model = GaitGLFixed(5, input_size_px=(16, 12), head=head, **large_plan(width=1 / 32))
        output = model(clips(t=3, h=16, w=12))
        shapes = [tuple(value.shape) for value in (output.embedding, *output.branches["main"])]
        assert shapes == [(2, 16, 8), (2, 16, 8), (2, 16, 5)]

    def test_the_width_of_a_plan_scales_channels_alone(self) -> None:
        for plan in (casiab_plan, large_plan):
            whole, quarter = plan(), plan(width=0.25)
            assert quarter["channels"] == tuple(count // 4 for count in whole["channels"])
            assert quarter["stem_channels"] == tuple(count // 4 for count in whole["stem_channels"])
            assert quarter["num_strips"] == whole["num_strips"]
            assert quarter["pool_after_layer"] == whole["pool_after_layer"]

    @pytest.mark.parametrize("lta_frames", [1, 3, 4])
    def test_a_clip_must_outlast_the_aggregation(self, lta_frames: int) -> None:
        model = small(lta_frames=lta_frames).eval()
        assert model.min_frames == lta_frames
        assert model(clips(t=lta_frames)).embedding.isfinite().all()
        if lta_frames > 1:
            with pytest.raises(ModelInputError, match=f"expected at least {lta_frames}"):
                model(clips(t=lta_frames - 1))


SWITCHES: dict[str, dict[str, Any]] = {
    "stem": {"stem_channels": (2, 2)},
    "channels": {"channels": (3, 5, 4)},
    "layers": {"channels": (3, 4, 4, 4)},
    "pooling": {"pool_after_layer": 2},
    "strips": {"num_strips": 4},
    "one-strip": {"num_strips": 1},
    "lta": {"lta_frames": 2},
    "head": {"head": "bnneck"},
    "power": {"gem_power": 1.0},
    "size": {"input_size_px": (16, 6)},
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
    @pytest.mark.parametrize("head", ["shared_norm", "bnneck"])
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self, head: str) -> None:
        model = GaitGLFixed(5, head=head, **casiab_plan(width=1 / 8))
        frames = clips(n=3, t=6, h=64, w=44)
        model(frames)
        model.eval()
        with torch.no_grad():
            together = model(frames).embedding
            alone = torch.cat([model(frames[i : i + 1]).embedding for i in range(3)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_training_moves_the_statistics_of_the_norm_and_evaluation_does_not(self) -> None:
        for head in ("shared_norm", "bnneck"):
            model = small(head=head)
            norm = model.embedding_norm if model.neck is None else model.neck.norm
            assert norm is not None
            before = norm.running_mean.clone()
            model.eval()(clips())
            assert torch.equal(norm.running_mean, before)
            model.train()(clips())
            assert not torch.equal(norm.running_mean, before)

    def test_evaluation_is_bit_identical_between_calls(self) -> None:
        model = small().eval()
        assert torch.equal(model(clips()).embedding, model(clips()).embedding)

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small(in_channels=3).eval()
        frames = clips(c=3)
        ordered = frames.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(ordered), model(frames))


class TestContract:
    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        hints = get_type_hints(GaitGLFixed.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(GaitGLFixed) or "").params
        }
        for name, parameter in inspect.signature(GaitGLFixed).parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        model = GaitGLFixed(
            5, input_size_px=[64, 44], **json.loads(json.dumps(casiab_plan(width=1 / 8)))
        )
        assert model.input_size_px == (64, 44)
        model.eval()(clips(t=3, h=64, w=44))

    def test_parameter_groups_hold_every_parameter_once(self) -> None:
        for head in ("shared_norm", "bnneck"):
            model = small(head=head)
            groups = model.parameter_groups()
            assert list(groups) == ["backbone", "head"]
            grouped = [p for group in groups.values() for p in group]
            assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
            assert {p.ndim for p in groups["backbone"]} == {5}

    @pytest.mark.parametrize("pool_after_layer", [1, 3])
    def test_named_stages_run_once_each_in_their_order(self, pool_after_layer: int) -> None:
        model = small(pool_after_layer=pool_after_layer).eval()
        ran: list[str] = []
        for name, stage in model.named_stages().items():
            stage.register_forward_hook(lambda *_, name=name: ran.append(name))
        model(clips())
        assert ran == list(model.named_stages())

    def test_state_dict_keys_are_public(self) -> None:
        assert list(small(stem_channels=(2, 2)).state_dict()) == [
            "stem.convolutions.0.weight",
            "stem.convolutions.1.weight",
            "temporal_aggregation.convolution.weight",
            "layers.0.global_convolution.weight",
            "layers.0.local_convolution.weight",
            "layers.1.global_convolution.weight",
            "layers.1.local_convolution.weight",
            "layers.2.global_convolution.weight",
            "layers.2.local_convolution.weight",
            "spatial_mapping.generalized_mean.power",
            "embedding_linear.weight",
            "embedding_norm.weight",
            "embedding_norm.bias",
            "embedding_norm.running_mean",
            "embedding_norm.running_var",
            "embedding_norm.num_batches_tracked",
            "identity_linear.weight",
        ]

    @pytest.mark.parametrize(
        "switches",
        [
            pytest.param({}, id="one-channel"),
            pytest.param({"in_channels": 3, "head": "bnneck"}, id="three-channels"),
        ],
    )
    def test_gradients_have_the_strides_of_their_weights(self, switches: dict[str, Any]) -> None:
        # DDP warns of others, and safetensors refuses weights that are not contiguous.
        model = small(**switches)
        output = model(clips(c=model.in_channels))
        (output.branches["main"].logits.sum() + output.embedding.square().sum()).backward()
        for parameter in model.parameters():
            assert parameter.is_contiguous()
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride()

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            pytest.param(clips()[0], "got 4 dimensions", id="rank"),
            pytest.param(clips(c=3), "got 3 channels.*expected 1", id="channels"),
            pytest.param(clips(h=16), "got frames of 16x6 px.*expected 8x6", id="size"),
            pytest.param(clips(t=2), "got clips of 2 frames, expected at least 3", id="length"),
            pytest.param((clips() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(clips() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"GaitGLFixed: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, r"num_subjects \(0\)", id="no-subjects"),
            pytest.param({"channels": ()}, "must not be empty", id="no-layers"),
            pytest.param({"stem_channels": ()}, "must not be empty", id="no-stem"),
            pytest.param({"channels": (3, 0, 3)}, "at least 1", id="no-channels"),
            pytest.param({"pool_after_layer": 4}, r"pool_after_layer \(4\)", id="pools-never"),
            pytest.param({"num_strips": 0}, r"num_strips \(0\)", id="no-strips"),
            pytest.param({"num_strips": 8}, "must divide the 4 rows", id="strips-of-half-rows"),
            pytest.param({"lta_frames": 0}, r"lta_frames \(0\)", id="no-frames"),
            pytest.param({"head": "linear"}, "'linear'", id="unknown-head"),
            pytest.param({"gem_power": -1.0}, "power", id="negative-power"),
            pytest.param({"input_size_px": (7, 6)}, "even height", id="odd-height"),
            pytest.param({"input_size_px": (8, 1)}, "two columns", id="too-narrow"),
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
    ("head", "scale"),
    [pytest.param("shared_norm", 1.0, id="shared"), pytest.param("bnneck", 16.0, id="bnneck")],
)
def test_an_eighth_of_the_width_learns_one_batch_by_heart(head: str, scale: float) -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(num_subjects=4, num_clips=2, num_frames=6)
    model = GaitGLFixed(4, head=head, input_size_px=(32, 22), **casiab_plan(width=1 / 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    triplet_of, identity_of = TripletLoss(0.2), IdentityLoss(scale)
    losses = []
    for _ in range(60):
        main = model(frames).branches["main"]
        triplet = triplet_of(main.triplet_features, labels)
        identity = identity_of(main.logits, labels)
        optimizer.zero_grad()
        (triplet.loss + identity.loss).backward()
        optimizer.step()
        losses.append((float(triplet.active_ratio), float(identity.loss.detach())))
    assert losses[0][0] > 0.2
    assert losses[-1][0] < 0.01
    assert losses[-1][1] < 0.1 * losses[0][1]
    assert float(identity.accuracy) == 1.0

    # The running statistics lag behind a network that learns this fast; ranks bear it.
    model.eval()
    with torch.no_grad():
        embedding = model(frames).embedding.transpose(0, 1)  # [p, n, d]
    distances = torch.cdist(embedding, embedding).mean(dim=0)
    distances.fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(dim=1)], labels)


@pytest.mark.slow
def test_a_step_at_full_width_reaches_every_weight() -> None:
    frames, labels = walking_outlines(2, 2, num_frames=30, size_px=(64, 44))
    model = GaitGLFixed(74)
    main = model(frames).branches["main"]
    identity = IdentityLoss()(main.logits, labels).loss
    assert float(identity.detach()) == pytest.approx(math.log(74), rel=0.05)
    (TripletLoss(0.2)(main.triplet_features, labels).loss + identity).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("head", "default"), [("shared_norm", "after"), ("bnneck", "before")])
def test_either_side_of_the_heads_norm_can_be_the_embedding(head: str, default: str) -> None:
    network = GaitGLFixed(3, stem_channels=(2,), channels=(3, 3, 4), head=head).eval()
    before = GaitGLFixed(
        3, stem_channels=(2,), channels=(3, 3, 4), head=head, embedding="before_norm"
    ).eval()
    after = GaitGLFixed(
        3, stem_channels=(2,), channels=(3, 3, 4), head=head, embedding="after_norm"
    ).eval()
    state = {
        name: value + 1.0 if name.endswith("running_mean") else value
        for name, value in network.state_dict().items()
    }
    for each in (network, before, after):
        each.load_state_dict(state)
    frames = torch.rand(2, 1, 3, 64, 44)
    output = network(frames)
    assert torch.equal(output.embedding, output.branches["main"].triplet_features)
    same, different = (before, after) if default == "before" else (after, before)
    assert torch.equal(output.embedding, same(frames).embedding)
    assert not torch.allclose(output.embedding, different(frames).embedding)


def test_an_unknown_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="'norm'"):
        GaitGLFixed(3, embedding="norm")
