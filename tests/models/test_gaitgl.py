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
from raygait.models import MODELS
from raygait.models.gaitgl import (
    GaitGL,
    GlobalLocalLayer,
    LocalTemporalAggregation,
    casiab_plan,
    draw_mask,
    large_plan,
)

STRATEGIES = ["part_horizontal", "part_vertical", "strip_horizontal", "strip_vertical", "pixel"]


def small(num_subjects: int = 5, **switches: Any) -> GaitGL:
    """A network of 8 x 12 px input, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3, 3),
        "input_size_px": (8, 12),
        "num_fixed_parts": 2,
    }
    return GaitGL(num_subjects, **(options | switches))


def clips(n: int = 2, t: int = 7, h: int = 8, w: int = 12, c: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Literal transcriptions: loops over kernel positions, channels and frames, nothing shared with
# the room but the weights.


def literal_convolution(x: Tensor, weight: Tensor, *, stride_t: int = 1, pad_t: int = 1) -> Tensor:
    n, _, t, h, w = x.shape
    d, _, kt, ky, kx = weight.shape
    padded = x.new_zeros(n, x.shape[1], t + 2 * pad_t, h + 2 * (ky // 2), w + 2 * (kx // 2))
    padded[:, :, pad_t : pad_t + t, ky // 2 : ky // 2 + h, kx // 2 : kx // 2 + w] = x
    frames = (t + 2 * pad_t - kt) // stride_t + 1
    result = x.new_zeros(n, d, frames, h, w)
    for i, j, k in itertools.product(range(kt), range(ky), range(kx)):
        for s in range(frames):
            seen = padded[:, :, s * stride_t + i, j : j + h, k : k + w]
            result[:, :, s] += torch.einsum("nchw,dc->ndhw", seen, weight[:, :, i, j, k])
    return result


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def literal_masked(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Eq. 6, its sums read as "for every channel and frame"."""
    total = None
    for piece in (mask, 1 - mask):
        occluded = torch.zeros_like(x)
        for y in range(x.shape[1]):
            for z in range(x.shape[2]):
                occluded[:, y, z] = x[:, y, z] * piece
        term = leaky(literal_convolution(occluded, weight))
        total = term if total is None else total + term
    assert total is not None
    return total


def literal_gaitgl(model: GaitGL, frames: Tensor, masks: list[Tensor]) -> dict[str, Tensor]:
    """Sections 3.1-3.4 for the plan [1, 1, 2], [LTA, SP, none], in training mode."""
    weights = dict(model.named_parameters())
    x = frames
    layers = ["stages.0.layers.0", "stages.1.layers.0", "stages.2.layers.0", "stages.2.layers.1"]
    for name, mask in zip(layers, masks, strict=True):
        whole = leaky(literal_convolution(x, weights[f"{name}.global_convolution.weight"]))
        pieces = literal_masked(x, weights[f"{name}.local_convolution.weight"], mask)
        x = torch.cat([whole, pieces], dim=3) if name == layers[-1] else whole + pieces
        if name == layers[0]:
            lta = weights["stages.0.pooling.convolution.weight"]
            x = leaky(literal_convolution(x, lta, stride_t=3, pad_t=0))
        if name == layers[1]:
            corners = [x[..., i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))]
            x = torch.stack(corners).amax(dim=0)
    x = torch.stack([x[:, :, z] for z in range(x.shape[2])]).amax(dim=0)
    power = weights["spatial_mapping.generalized_mean.power"]
    rows = (x.clamp(min=1e-6) ** power).mean(dim=-1) ** (1 / power)  # [n, c, p]
    mapped = torch.stack(
        [rows[:, :, p] @ weights["embedding_linear.weight"][p] for p in range(rows.shape[2])], 1
    )
    mean = mapped.mean(dim=(0, 1))
    variance = ((mapped - mean) ** 2).mean(dim=(0, 1))
    embedding = (mapped - mean) / (variance + 1e-5).sqrt()
    embedding = embedding * weights["embedding_norm.weight"] + weights["embedding_norm.bias"]
    logits = torch.stack(
        [embedding[:, p] @ weights["identity_linear.weight"][p] for p in range(rows.shape[2])], 1
    )
    return {"embedding": embedding, "triplet_features": embedding, "logits": logits}


class TestEquations:
    @pytest.mark.parametrize(
        ("kernel", "stride"), [((3, 3, 3), 3), ((3, 1, 1), 3), ((2, 3, 1), 1), ((5, 3, 3), 2)]
    )
    def test_eq1_lta_equals_a_loop_in_values_and_gradients(
        self, kernel: tuple[int, int, int], stride: int
    ) -> None:
        torch.manual_seed(0)
        lta = LocalTemporalAggregation(2, kernel=kernel, stride=stride, norm=False).double()
        x = torch.randn(2, 2, 7, 4, 5, dtype=torch.float64, requires_grad=True)
        expected = leaky(literal_convolution(x, lta.convolution.weight, stride_t=stride, pad_t=0))
        assert_same(lta(x), expected, [x, lta.convolution.weight])

    @pytest.mark.parametrize(("before", "after"), [(30, 10), (31, 10), (33, 11)])
    def test_eq1_lta_shortens_time_and_keeps_rows_and_columns(
        self, before: int, after: int
    ) -> None:
        lta = LocalTemporalAggregation(2, kernel=(3, 3, 3), stride=3, norm=False)
        assert lta(torch.zeros(1, 2, before, 6, 4)).shape == (1, 2, after, 6, 4)

    def test_eq2_and_4_and_6_sum_of_global_and_masked_local(self) -> None:
        x, layer, mask = layer_case(join="sum")
        expected = leaky(literal_convolution(x, weight_of(layer, "global"))) + literal_masked(
            x, weight_of(layer, "local"), mask
        )
        assert_same(layer(x, mask), expected, [x, *layer.parameters()])

    def test_eq3_concatenates_global_rows_above_local_rows(self) -> None:
        x, layer, mask = layer_case(join="concat")
        expected = torch.cat(
            [
                leaky(literal_convolution(x, weight_of(layer, "global"))),
                literal_masked(x, weight_of(layer, "local"), mask),
            ],
            dim=3,
        )
        assert_same(layer(x, mask), expected, [x, *layer.parameters()])

    @pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
    def test_eq5_fixed_parts_equal_running_each_strip_alone(self, num_parts: int) -> None:
        x, layer, _ = layer_case(branches="local", fixed_parts=num_parts)
        rows = 6 // num_parts
        strips = [x[:, :, :, first : first + rows] for first in range(0, 6, rows)]
        expected = torch.cat(
            [leaky(literal_convolution(strip, weight_of(layer, "local"))) for strip in strips],
            dim=3,
        )
        assert_same(layer(x), expected, [x, *layer.parameters()])

    def test_eq5_a_strip_is_blind_to_the_others(self) -> None:
        x, layer, _ = layer_case(branches="local", fixed_parts=3)
        changed = x.detach().clone()
        changed[:, :, :, 2:4] = 0
        same = (layer(changed) == layer(x)).all(dim=(0, 1, 2, 4))
        assert same.tolist() == [True, True, False, False, True, True]

    def test_eq6_without_an_activation_would_be_one_convolution(self) -> None:
        # Why the activation stands inside each term: the reading is a decision, this its reason.
        x, layer, mask = layer_case()
        weight = weight_of(layer, "local")
        pieces = literal_convolution(x * mask, weight) + literal_convolution(x * (1 - mask), weight)
        torch.testing.assert_close(pieces, literal_convolution(x, weight))
        local = layer_case(branches="local")[1]
        unmasked = leaky(literal_convolution(x, weight_of(local, "local")))
        assert not torch.allclose(local(x, mask), unmasked, atol=1e-3)

    def test_eq6_swapping_the_pair_changes_nothing(self) -> None:
        x, layer, mask = layer_case()
        torch.testing.assert_close(layer(x, 1 - mask), layer(x, mask))

    def test_eq6_a_masked_column_is_zero_in_every_channel_and_frame(self) -> None:
        x, layer, mask = layer_case()
        seen: list[Tensor] = []
        assert layer.local_convolution is not None
        layer.local_convolution.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].detach())
        )
        layer(x, mask)
        for occluded, piece in zip(seen, (mask, 1 - mask), strict=True):
            zero = (occluded == 0).all(dim=0).all(dim=0).all(dim=0)
            assert torch.equal(zero, piece == 0)
            assert torch.equal(occluded.sum(dim=0) != 0, (piece != 0).expand(2, 3, 6, 5))

    def test_the_whole_network_equals_its_transcription_in_values_and_gradients(self) -> None:
        model = small().double()
        frames = clips(n=3).double().requires_grad_()
        model.set_mask_seed(7)
        masks = [mask.double() for mask in model.masks()]
        output = model(frames)
        computed = {"embedding": output.embedding, **output.branches["main"]._asdict()}
        expected = literal_gaitgl(model, frames, masks)
        generator = torch.Generator().manual_seed(1)
        wanted = [frames, *model.parameters()]
        for name, value in expected.items():
            torch.testing.assert_close(computed[name], value)
        pull = torch.randn(
            output.branches["main"].logits.shape, dtype=torch.float64, generator=generator
        )
        torch.testing.assert_close(
            torch.autograd.grad(
                (output.branches["main"].logits * pull).sum(), wanted, materialize_grads=True
            ),
            torch.autograd.grad((expected["logits"] * pull).sum(), wanted, materialize_grads=True),
        )


def layer_case(**options: Any) -> tuple[Tensor, GlobalLocalLayer, Tensor]:
    torch.manual_seed(0)
    layer = GlobalLocalLayer(2, 3, **options).double()
    x = torch.randn(2, 2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(6, 5, dtype=torch.float64)
    mask[:, [1, 4]] = 1
    return x, layer, mask


def weight_of(layer: GlobalLocalLayer, branch: str) -> Tensor:
    return dict(layer.named_parameters())[f"{branch}_convolution.weight"]


def assert_same(result: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    pull = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad((result * pull).sum(), wanted),
        torch.autograd.grad((expected * pull).sum(), wanted),
    )


class TestMasks:
    @pytest.mark.parametrize("seed", [None, 0, 1, 2])
    @pytest.mark.parametrize("drop_ratio", [0.1, 0.3, 0.5, 0.9])
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_a_mask_holds_its_share_in_whole_lines(
        self, strategy: str, drop_ratio: float, seed: int | None
    ) -> None:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        mask = draw_mask(strategy, 20, 30, drop_ratio, generator)  # type: ignore[arg-type]
        assert mask.shape == (20, 30)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        if strategy == "pixel":
            assert int(mask.sum()) == round(drop_ratio * 600)
            return
        lines = mask if strategy.endswith("horizontal") else mask.T
        assert torch.equal(lines, lines[:, :1].expand_as(lines))
        (kept,) = lines[:, 0].nonzero(as_tuple=True)
        assert len(kept) == round(drop_ratio * len(lines))
        if strategy.startswith("part"):
            assert int(kept[-1] - kept[0]) == len(kept) - 1

    def test_a_part_is_the_floor_of_its_share(self) -> None:
        mask = draw_mask("part_horizontal", 11, 4, 0.3, torch.Generator().manual_seed(0))
        assert int(mask[:, 0].sum()) == 3

    def test_a_share_of_less_than_a_line_is_one_line(self) -> None:
        assert int(draw_mask("strip_vertical", 4, 5, 0.1, None)[0].sum()) == 1

    def test_a_share_that_floats_cannot_hold_is_not_a_line_short(self) -> None:
        assert 0.29 * 100 < 29
        assert int(draw_mask("strip_vertical", 1, 100, 0.29, None).sum()) == 29

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_every_place_is_drawn_sometimes(self, strategy: str) -> None:
        generator = torch.Generator().manual_seed(0)
        total = torch.zeros(6, 5)
        for _ in range(200):
            total += draw_mask(strategy, 6, 5, 0.4, generator)  # type: ignore[arg-type]
        assert int(total.min()) > 0

    @pytest.mark.parametrize("strategy", ["strip_horizontal", "strip_vertical"])
    def test_test_strips_are_evenly_spaced(self, strategy: str) -> None:
        for drop_ratio in (0.1, 0.25, 0.3, 0.5, 0.7):
            mask = draw_mask(strategy, 44, 44, drop_ratio, None)  # type: ignore[arg-type]
            line = mask[:, 0] if strategy == "strip_horizontal" else mask[0]
            (kept,) = line.nonzero(as_tuple=True)
            gaps = kept.diff()
            assert int(gaps.max() - gaps.min()) <= 1
            assert abs(int(kept[0]) - int(43 - kept[-1])) <= 1

    def test_the_test_part_is_the_middle_one(self) -> None:
        assert draw_mask("part_vertical", 1, 8, 0.5, None)[0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]

    @pytest.mark.parametrize("drop_ratio", [0.25, 0.5])
    def test_test_pixels_are_spread_evenly_and_are_not_lines(self, drop_ratio: float) -> None:
        mask = draw_mask("pixel", 32, 44, drop_ratio, None)
        for block in mask.split(8, dim=0):
            for patch in block.split(11, dim=1):
                assert float(patch.mean()) == pytest.approx(drop_ratio, abs=0.06)
        assert float(mask.mean(dim=0).max()) < 0.75
        assert float(mask.mean(dim=1).max()) < 0.75

    def test_fixed_parts_have_no_mask(self) -> None:
        with pytest.raises(ValueError, match="fixed_parts"):
            draw_mask("fixed_parts", 4, 4, 0.5, None)

    def test_masks_are_a_function_of_seed_and_layer(self) -> None:
        model = small(mask_strategy="pixel")
        model.set_mask_seed(3)
        first = model.masks()
        model.set_mask_seed(4)
        other = model.masks()
        model.set_mask_seed(3)
        again = model.masks()
        assert [mask.shape for mask in first] == [(8, 12), (8, 12), (4, 6), (4, 6)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        assert not torch.equal(first[0], first[1])
        assert not torch.equal(first[2], first[3])

    def test_masks_do_not_depend_on_the_batch_or_on_global_randomness(self) -> None:
        model = small()
        seen = []
        for num_clips, num_frames in [(2, 7), (5, 9)]:
            torch.manual_seed(num_clips)
            model.set_mask_seed(11)
            model(clips(n=num_clips, t=num_frames))
            seen.append(model.masks())
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))

    def test_each_training_pass_draws_anew_until_the_seed_is_set_again(self) -> None:
        model = small(mask_strategy="pixel")
        model.set_mask_seed(0)
        outputs = [model(clips()).embedding for _ in range(2)]
        model.set_mask_seed(0)
        again = [model(clips()).embedding for _ in range(2)]
        assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)
        torch.testing.assert_close(outputs, again, rtol=0, atol=0)

    def test_two_masks_give_two_training_outputs_with_the_same_weights(self) -> None:
        model = small()
        outputs = []
        for seed in (0, 1):
            model.set_mask_seed(seed)
            outputs.append(model(clips()).embedding)
        assert not torch.allclose(*outputs, atol=1e-4)

    def test_evaluation_is_bit_identical_between_calls_and_ignores_the_seed(self) -> None:
        model = small().eval()
        first = model(clips()).embedding
        model.set_mask_seed(99)
        assert torch.equal(model(clips()).embedding, first)

    def test_evaluation_does_not_advance_the_masks_of_training(self) -> None:
        model = small()
        model.set_mask_seed(5)
        expected = model.masks()
        model.eval()(clips())
        assert all(torch.equal(a, b) for a, b in zip(model.train().masks(), expected, strict=True))

    def test_two_equal_clips_in_a_batch_give_equal_outputs(self) -> None:
        output = small()(clips(n=1).repeat(3, 1, 1, 1, 1))
        torch.testing.assert_close(output.embedding[0], output.embedding[2])

    def test_a_negative_seed_is_refused(self) -> None:
        with pytest.raises(ValueError, match="-1"):
            small().set_mask_seed(-1)


class TestSize:
    def test_parameters_with_a_temporal_lta_kernel_are_the_derived_number(self) -> None:
        assert num_parameters(GaitGL(74, lta_kernel=(3, 1, 1))) == 3_882_625

    def test_parameters_of_the_default_are_the_derived_number(self) -> None:
        assert num_parameters(GaitGL(74)) == 3_980_929
        assert num_parameters(GaitGL(74, **casiab_plan())) == 3_980_929

    def test_the_large_backbone_has_the_derived_number_of_parameters(self) -> None:
        with torch.device("meta"):
            model = GaitGL(20_000, **large_plan())
        lta = 27 * 128 * 128
        assert sum(p.numel() for p in model.parameter_groups()["backbone"]) == 56_405_376 + lta

    @pytest.mark.parametrize(
        ("plan", "switches", "size_px", "num_parts"),
        [
            pytest.param(casiab_plan(), {}, (64, 44), 64, id="three-stages"),
            pytest.param(casiab_plan(), {"join_last": "sum"}, (64, 44), 32, id="sum"),
            pytest.param(casiab_plan(), {"branches": "global"}, (64, 44), 32, id="one-branch"),
            pytest.param(large_plan(), {}, (64, 44), 32, id="large"),
            pytest.param(large_plan(), {}, (128, 88), 64, id="large-of-large-frames"),
        ],
    )
    def test_parts_follow_from_height_plan_and_join(
        self, plan: Any, switches: Any, size_px: tuple[int, int], num_parts: int
    ) -> None:
        with torch.device("meta"):
            model = GaitGL(5, input_size_px=size_px, **plan, **switches)
        assert model.num_parts == num_parts
        assert model.embedding_linear.weight.shape[0] == num_parts

    @pytest.mark.parametrize("branches", ["both", "global", "local"])
    @pytest.mark.parametrize("join_last", ["concat", "sum"])
    def test_a_part_is_one_row_of_the_last_map(self, join_last: str, branches: str) -> None:
        model = small(join_last=join_last, branches=branches).eval()
        rows: list[int] = []
        model.spatial_mapping.register_forward_pre_hook(
            lambda _, inputs: rows.append(inputs[0].shape[2])
        )
        model(clips())
        assert rows == [model.num_parts]

    def test_the_large_plan_runs(self) -> None:
        model = GaitGL(5, input_size_px=(16, 12), **large_plan(width=1 / 32))
        output = model(clips(t=3, h=16, w=12))
        shapes = [tuple(value.shape) for value in (output.embedding, *output.branches["main"])]
        assert shapes == [(2, 8, 16), (2, 8, 16), (2, 8, 5)]

    def test_the_width_of_a_plan_scales_channels_alone(self) -> None:
        quarter = casiab_plan(width=0.25)
        assert quarter["channels"] == (16, 32, 32)
        assert {**quarter, "channels": ()} == {**casiab_plan(), "channels": ()}

    @pytest.mark.parametrize(
        ("pooling", "min_frames"),
        [
            (("sp", "sp", None), 1),
            (("sp", "lta", None), 3),
            (("lta", "sp", None), 3),
            (("lta", "lta", None), 9),
        ],
    )
    def test_a_clip_must_outlast_the_plan(self, pooling: Any, min_frames: int) -> None:
        model = small(pooling=pooling).eval()
        assert model.min_frames == min_frames
        assert model(clips(t=min_frames)).embedding.isfinite().all()
        if min_frames > 1:
            with pytest.raises(ModelInputError, match=f"got clips of {min_frames - 1} frames"):
                model(clips(t=min_frames - 1))


SWITCHES: dict[str, dict[str, Any]] = {
    "table-5-global-only": {"branches": "global"},
    "table-5-local-only": {"branches": "local"},
    "table-5-fixed-parts": {"mask_strategy": "fixed_parts"},
    "table-5-part-horizontal": {"mask_strategy": "part_horizontal"},
    "table-5-part-vertical": {"mask_strategy": "part_vertical"},
    "table-5-strip-horizontal": {"mask_strategy": "strip_horizontal"},
    "table-5-pixel": {"mask_strategy": "pixel"},
    "table-6-max": {"spatial_mapping": "max"},
    "table-6-avg": {"spatial_mapping": "avg"},
    "table-6-both": {"spatial_mapping": "both"},
    "table-7-sp-sp": {"pooling": ("sp", "sp", None)},
    "table-7-sp-lta": {"pooling": ("sp", "lta", None)},
    "table-7-lta-lta": {"pooling": ("lta", "lta", None)},
    "fig-4-drop-ratio": {"drop_ratio": 0.5},
    "number-of-fixed-parts": {"mask_strategy": "fixed_parts", "num_fixed_parts": 4},
    "join-last": {"join_last": "sum"},
    "power": {"gem_power": 1.0},
    "lta-kernel": {"lta_kernel": (3, 1, 1)},
    "lta-stride": {"lta_stride": 2},
    "norm": {"backbone_norm": True},
    "layers": {"num_layers": (1, 2, 1)},
    "channels": {"channels": (4, 3, 3)},
    "size": {"input_size_px": (16, 12)},
    "colour": {"in_channels": 3},
}


class TestSwitches:
    @pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
    def test_every_switch_changes_parameters_or_output(self, training: bool) -> None:
        seen: dict[str, tuple[int, Tensor]] = {}
        for name, switches in {"default": {}, **SWITCHES}.items():
            model = small(**switches).train(training)
            model.set_mask_seed(2)
            height, width = model.input_size_px
            frames = clips(t=9, h=height, w=width, c=model.in_channels)
            logits = model(frames).branches["main"].logits.detach()
            seen[name] = (num_parameters(model), logits / logits.abs().max())
        for (a, (count_a, logits_a)), (b, (count_b, logits_b)) in itertools.combinations(
            seen.items(), 2
        ):
            alike = (
                count_a == count_b
                and logits_a.shape == logits_b.shape
                and torch.allclose(logits_a, logits_b, atol=1e-4)
            )
            assert not alike, f"{a} and {b} are the same network"

    def test_each_branch_owns_one_convolution_a_layer(self) -> None:
        # 2 tensors a layer: local convolutions share, global and local do not.
        both = num_backbone_tensors(small())
        alone = [num_backbone_tensors(small(branches=name)) for name in ("global", "local")]
        assert (both, alone) == (2 * 4 + 1, [4 + 1, 4 + 1])

    def test_mask_strategies_share_one_set_of_parameters(self) -> None:
        counts = {
            num_parameters(small(mask_strategy=name)) for name in (*STRATEGIES, "fixed_parts")
        }
        assert len(counts) == 1

    @pytest.mark.parametrize("mask_strategy", ["strip_vertical", "fixed_parts"])
    def test_norm_stands_after_each_convolution_and_leaves_evaluation_repeatable(
        self, mask_strategy: str
    ) -> None:
        model = small(backbone_norm=True, mask_strategy=mask_strategy)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
        assert len(norms) == len(convolutions)
        model(clips()).branches["main"].logits.sum().backward()
        assert all(norm.num_batches_tracked == 1 for norm in norms)
        assert all(p.grad is not None for p in model.parameters())
        model.eval()
        assert torch.equal(model(clips()).embedding, model(clips()).embedding)

    def test_norm_of_a_masked_layer_sees_both_maps_as_one_batch(self) -> None:
        x, layer, mask = layer_case(branches="local", norm=True)
        weight = weight_of(layer, "local")
        maps = torch.cat([literal_convolution(x * piece, weight) for piece in (mask, 1 - mask)])
        mean = maps.mean(dim=(0, 2, 3, 4), keepdim=True)
        variance = maps.var(dim=(0, 2, 3, 4), keepdim=True, correction=0)
        first, second = leaky((maps - mean) / (variance + 1e-5).sqrt()).chunk(2)
        torch.testing.assert_close(layer(x, mask), first + second)


def num_backbone_tensors(model: GaitGL) -> int:
    return len(model.parameter_groups()["backbone"])


class TestModes:
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self) -> None:
        model = GaitGL(5, **casiab_plan(width=0.25))
        frames = clips(n=4, t=6, h=64, w=44)
        model(frames)
        model.eval()
        with torch.no_grad():
            together = model(frames).embedding
            alone = torch.cat([model(frames[i : i + 1]).embedding for i in range(4)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_training_moves_the_statistics_of_the_norm_and_evaluation_does_not(self) -> None:
        model = small()
        before = model.embedding_norm.running_mean.clone()
        model.eval()(clips())
        assert torch.equal(model.embedding_norm.running_mean, before)
        model.train()(clips())
        assert not torch.equal(model.embedding_norm.running_mean, before)

    def test_the_embedding_is_what_the_triplet_loss_sees(self) -> None:
        output = small()(clips())
        assert torch.equal(output.embedding, output.branches["main"].triplet_features)

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small(in_channels=3).eval()
        frames = clips(c=3)
        ordered = frames.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(ordered), model(frames))

    def test_bfloat16_under_autocast_is_close(self) -> None:
        model = small().eval()
        frames = clips(n=4)
        exact = model(frames)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(frames)
        torch.testing.assert_close(output.embedding.float(), exact.embedding, rtol=0.1, atol=0.1)
        labels = torch.tensor([0, 0, 1, 1])
        assert (
            TripletLoss()(output.branches["main"].triplet_features, labels).loss.dtype
            == torch.float32
        )
        assert IdentityLoss()(output.branches["main"].logits, labels).loss.dtype == torch.float32


class TestContract:
    def test_the_model_is_listed(self) -> None:
        assert MODELS["gaitgl"] is GaitGL

    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        parameters = inspect.signature(GaitGL).parameters
        hints = get_type_hints(GaitGL.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(GaitGL) or "").params
        }
        assert GaitGL.__doc__ is not None
        for name, parameter in parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            assert parameter.annotation is not inspect.Parameter.empty
            assert not isinstance(parameter.annotation, str)
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        arguments = json.loads(json.dumps({**casiab_plan(width=0.25), "lta_kernel": (3, 1, 1)}))
        model = GaitGL(5, input_size_px=[64, 44], **arguments)  # type: ignore[arg-type]
        assert model.input_size_px == (64, 44)
        model.eval()(clips(t=3, h=64, w=44))

    def test_parameter_groups_hold_every_parameter_once(self) -> None:
        for switches in ({}, {"backbone_norm": True}, {"spatial_mapping": "max"}):
            model = small(**switches)
            grouped = [p for group in model.parameter_groups().values() for p in group]
            assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
        assert list(model.parameter_groups()) == ["backbone", "head"]

    def test_state_dict_keys_are_public(self) -> None:
        assert list(small(backbone_norm=False).state_dict()) == [
            "stages.0.layers.0.global_convolution.weight",
            "stages.0.layers.0.local_convolution.weight",
            "stages.0.pooling.convolution.weight",
            "stages.1.layers.0.global_convolution.weight",
            "stages.1.layers.0.local_convolution.weight",
            "stages.2.layers.0.global_convolution.weight",
            "stages.2.layers.0.local_convolution.weight",
            "stages.2.layers.1.global_convolution.weight",
            "stages.2.layers.1.local_convolution.weight",
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
            pytest.param({"in_channels": 3}, id="three-channels"),
            pytest.param({"lta_kernel": (3, 1, 1)}, id="kernel-of-ones"),
            pytest.param({"channels": (1, 1, 1)}, id="one-channel-everywhere"),
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
            pytest.param(clips(t=2), "got clips of 2 frames, expected at least 3", id="length"),
            pytest.param((clips() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(clips() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"GaitGL: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, "num_subjects", id="no-subjects"),
            pytest.param({"num_layers": (1, 1)}, "one entry per stage", id="lengths-differ"),
            pytest.param({"channels": (2, 0, 3)}, "at least 1", id="no-channels"),
            pytest.param({"num_layers": (1, 0, 1)}, "at least 1", id="empty-stage"),
            pytest.param({"pooling": ("lta", "max", None)}, "'sp'", id="unknown-pooling"),
            pytest.param({"branches": "none"}, "branches", id="unknown-branches"),
            pytest.param({"mask_strategy": "blob"}, "mask_strategy", id="unknown-strategy"),
            pytest.param({"join_last": "max"}, "join_last", id="unknown-join"),
            pytest.param({"spatial_mapping": "median"}, "mapping", id="unknown-mapping"),
            pytest.param({"gem_power": -1.0}, "power", id="negative-power"),
            pytest.param({"drop_ratio": 0.0}, "drop_ratio", id="drops-nothing"),
            pytest.param({"drop_ratio": 1.0}, "drop_ratio", id="drops-everything"),
            pytest.param({"lta_kernel": (3, 2, 3)}, "odd", id="even-kernel"),
            pytest.param({"lta_stride": 0}, "lta_stride", id="no-stride"),
            pytest.param({"input_size_px": (7, 12)}, "even number", id="odd-height"),
            pytest.param({"input_size_px": (8, 0)}, "two columns", id="no-width"),
            pytest.param(
                {"mask_strategy": "fixed_parts", "num_fixed_parts": 3},
                r"must divide the 8 rows of stage 1",
                id="parts-that-do-not-divide",
            ),
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
    rows = torch.linspace(-1, 1, 64)[:, None]
    columns = torch.linspace(-1, 1, 44)[None, :]
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


def test_a_quarter_width_network_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(num_subjects=4, num_clips=2, num_frames=5)
    model = GaitGL(4, **casiab_plan(width=0.25))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    triplet_of, identity_of = TripletLoss(0.2), IdentityLoss()
    losses = []
    for step in range(60):
        model.set_mask_seed(step)
        output = model(frames)
        triplet = triplet_of(output.branches["main"].triplet_features, labels)
        identity = identity_of(output.branches["main"].logits, labels)
        optimizer.zero_grad()
        (triplet.loss + identity.loss).backward()
        optimizer.step()
        losses.append((float(triplet.active_ratio), float(identity.loss.detach())))
    assert losses[0][0] > 0.2
    assert losses[0][1] == pytest.approx(math.log(4), rel=0.05)
    assert losses[-1][0] < 0.1 * losses[0][0]
    assert losses[-1][1] < 0.6 * losses[0][1]

    model.eval()
    with torch.no_grad():
        output = model(frames)
    assert float(identity_of(output.branches["main"].logits, labels).accuracy) == 1.0
    embedding = output.embedding.transpose(0, 1)  # [p, n, d]
    distances = torch.cdist(embedding, embedding).mean(dim=0)
    distances.fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(dim=1)], labels)
