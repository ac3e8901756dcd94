import inspect
import itertools
import json
import math
from typing import Any, get_type_hints

import docstring_parser
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raygait.errors import ModelInputError
from raygait.losses.identity import IdentityLoss
from raygait.losses.triplet import TripletLoss
from raygait.models.lgdiffgait import (
    ConvolutionModule,
    GlobalDifferenceModule,
    LGDiffGait,
    LocalDifferenceModule,
    LocalGlobalDifferenceBlock,
    TemporalAlignmentModule,
    casiab_plan,
    global_difference,
    large_plan,
    local_difference,
)


def switches_of(row: str) -> dict[str, bool]:
    """A row of Table 5, as its three ticks and crosses: LDM, GDM, TAM."""
    names = ("local_difference", "global_difference", "temporal_alignment")
    return {name: digit == "1" for name, digit in zip(names, row, strict=True)}


TABLE_5 = ["000", "100", "010", "110", "111"]


def small(num_subjects: int = 5, **switches: Any) -> LGDiffGait:
    """A network of 8 x 6 px input, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3),
        "num_blocks": (1, 2),
        "spatial_strides": (1, 2),
        "num_parts": 2,
        "embedding_dim": 3,
        "input_size_px": (8, 6),
    }
    return LGDiffGait(num_subjects, **(options | switches))


def clips(n: int = 3, t: int = 5, h: int = 8, w: int = 6, c: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def features_of(c: int = 2, t: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, c, t, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Literal transcriptions: loops over kernel positions, channels and frames, nothing shared with
# the room but the weights.


def literal_convolution(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    n, c, t, h, w = x.shape
    d, _, kernel = weight.shape[:3]
    pad = kernel // 2
    padded = x.new_zeros(n, c, t + 2 * pad, h + 2 * pad, w + 2 * pad)
    padded[:, :, pad : pad + t, pad : pad + h, pad : pad + w] = x
    rows, columns = range(0, h, stride), range(0, w, stride)
    result = x.new_zeros(n, d, t, len(rows), len(columns))
    for i, j, k in itertools.product(range(kernel), repeat=3):
        seen = padded[:, :, i : i + t, j : j + h : stride, k : k + w : stride]
        result = result + torch.einsum("ncthw,dc->ndthw", seen, weight[:, :, i, j, k])
    return result


def literal_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch norm of a batch in training, channel by channel."""
    channels = []
    for index in range(x.shape[1]):
        values = x[:, index]
        mean = values.sum() / values.numel()
        variance = ((values - mean) ** 2).sum() / values.numel()
        channels.append((values - mean) / (variance + 1e-5).sqrt() * weight[index] + bias[index])
    return torch.stack(channels, dim=1)


def literal_eq1(weights: dict[str, Tensor], name: str, x: Tensor, *, stride: int = 1) -> Tensor:
    position = 0
    while f"{name}.convolutions.{position}.weight" in weights:
        convolution = weights[f"{name}.convolutions.{position}.weight"]
        convolved = literal_convolution(x, convolution, stride=1 if position else stride)
        norm = f"{name}.norms.{position}"
        x = literal_norm(convolved, weights[f"{norm}.weight"], weights[f"{norm}.bias"]).relu()
        position += 1
    assert position
    return x


def literal_eq2(x: Tensor) -> Tensor:
    """Replicate the first and the last frame, average over windows of three, subtract."""
    padded = [x[:, :, 0], *x.unbind(dim=2), x[:, :, -1]]
    differences = []
    for frame in range(x.shape[2]):
        window = padded[frame : frame + 3]
        differences.append(x[:, :, frame] - sum(window) / 3)
    return torch.stack(differences, dim=2)


def literal_eq3(x: Tensor) -> Tensor:
    mean = sum(x.unbind(dim=2)) / x.shape[2]
    return torch.stack([frame - mean for frame in x.unbind(dim=2)], dim=2)


def literal_eq4_and_5(
    weights: dict[str, Tensor], name: str, main: Tensor, difference: Tensor
) -> Tensor:
    concatenated = torch.cat([main, difference], dim=1)
    reduced = literal_convolution(concatenated, weights[f"{name}.reduction.weight"])
    convolved = literal_convolution(reduced, weights[f"{name}.convolution.weight"])
    normed = literal_norm(convolved, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
    return (main + normed).relu()


def literal_block(
    weights: dict[str, Tensor], name: str, x: Tensor, row: str, *, stride: int = 1
) -> Tensor:
    main = literal_eq1(weights, f"{name}.main", x, stride=stride)
    result = x
    if f"{name}.shortcut.0.weight" in weights:
        result = literal_norm(
            literal_convolution(x, weights[f"{name}.shortcut.0.weight"], stride=stride),
            weights[f"{name}.shortcut.1.weight"],
            weights[f"{name}.shortcut.1.bias"],
        )
    has_local, has_global, has_alignment = (digit == "1" for digit in row)
    if not has_alignment:
        result = result + main
    for level, exists, subtract in (
        ("local", has_local, literal_eq2),
        ("global", has_global, literal_eq3),
    ):
        if exists:
            term = literal_eq1(
                weights, f"{name}.{level}_difference.convolution", subtract(x), stride=stride
            )
            if has_alignment:
                term = literal_eq4_and_5(weights, f"{name}.{level}_alignment", main, term)
            result = result + term
    return result


def literal_lgdiffgait(model: LGDiffGait, frames: Tensor, row: str) -> tuple[Tensor, Tensor]:
    """Section 3.1 for the plan of `small`, in training mode."""
    weights = dict(model.named_parameters())
    x = literal_eq1(weights, "stem", frames)
    x = literal_block(weights, "stages.0.0", x, row)
    x = literal_block(weights, "stages.1.0", x, row, stride=2)
    x = literal_block(weights, "stages.1.1", x, row)
    x = torch.stack(x.unbind(dim=2)).amax(dim=0)  # TP
    strips = [x[:, :, 0:2].flatten(2), x[:, :, 2:4].flatten(2)]
    parts = [strip.amax(dim=2) + strip.mean(dim=2) for strip in strips]
    embedding = torch.stack(
        [part @ weights["embedding_linear.weight"][p] for p, part in enumerate(parts)], dim=1
    )
    norm, bias = weights["neck.norm.weight"].view(2, 3), weights["neck.norm.bias"].view(2, 3)
    logits = []
    for p in range(2):
        normed = literal_norm(embedding[:, p], norm[p], bias[p])
        classes = weights["neck.identity_linear.weight"][p]
        cosines = [
            (normed @ classes[:, k]) / normed.square().sum(1).sqrt() / classes[:, k].norm()
            for k in range(classes.shape[1])
        ]
        logits.append(torch.stack(cosines, dim=1))
    return embedding, torch.stack(logits, dim=1)


def assert_same(result: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    pull = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad((result * pull).sum(), wanted, materialize_grads=True),
        torch.autograd.grad((expected * pull).sum(), wanted, materialize_grads=True),
    )


def prepared(module: nn.Module) -> nn.Module:
    """In double precision and with norms that are not the identity at first."""
    generator = torch.Generator().manual_seed(5)
    module.double()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d | nn.BatchNorm1d):
            with torch.no_grad():
                for parameter in (part.weight, part.bias):
                    parameter += 0.3 * torch.randn(
                        parameter.shape, dtype=torch.float64, generator=generator
                    )
    return module


class TestEquations:
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("num_convolutions", [1, 2])
    def test_eq1_equals_loops_in_values_and_gradients(
        self, num_convolutions: int, stride: int
    ) -> None:
        module = prepared(
            ConvolutionModule(2, 3, spatial_stride=stride, num_convolutions=num_convolutions)
        )
        x = features_of()
        weights = {f"it.{name}": value for name, value in module.named_parameters()}
        expected = literal_eq1(weights, "it", x, stride=stride)
        assert_same(module(x), expected, [x, *module.parameters()])

    @pytest.mark.parametrize("num_frames", [1, 2, 3, 7])
    def test_eq2_equals_a_loop_over_windows_in_values_and_gradients(self, num_frames: int) -> None:
        x = features_of(t=num_frames)
        assert local_difference(x).shape == x.shape
        assert_same(local_difference(x), literal_eq2(x), [x])

    @pytest.mark.parametrize("num_frames", [1, 2, 3, 7])
    def test_eq3_equals_a_loop_over_frames_in_values_and_gradients(self, num_frames: int) -> None:
        x = features_of(t=num_frames)
        assert_same(global_difference(x), literal_eq3(x), [x])

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("level", ["local", "global"])
    def test_a_difference_module_subtracts_first_and_convolves_then(
        self, level: str, stride: int
    ) -> None:
        module_of = {"local": LocalDifferenceModule, "global": GlobalDifferenceModule}[level]
        subtract = {"local": literal_eq2, "global": literal_eq3}[level]
        module = prepared(module_of(ConvolutionModule(2, 3, spatial_stride=stride)))
        x = features_of()
        expected = literal_eq1(
            dict(module.named_parameters()), "convolution", subtract(x), stride=stride
        )
        assert_same(module(x), expected, [x, *module.parameters()])

    def test_eq4_and_5_equal_loops_in_values_and_gradients(self) -> None:
        module = prepared(TemporalAlignmentModule(2))
        main, difference = features_of(), features_of().detach().flip(2).requires_grad_()
        weights = {f"it.{name}": value for name, value in module.named_parameters()}
        expected = literal_eq4_and_5(weights, "it", main, difference)
        assert_same(module(main, difference), expected, [main, difference, *module.parameters()])

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("channels", [2, 3])
    @pytest.mark.parametrize("row", TABLE_5)
    def test_a_block_equals_its_transcription_in_values_and_gradients(
        self, row: str, channels: int, stride: int
    ) -> None:
        torch.manual_seed(0)
        block = prepared(
            LocalGlobalDifferenceBlock(2, channels, spatial_stride=stride, **switches_of(row))
        )
        x = features_of()
        weights = {f"it.{name}": value for name, value in block.named_parameters()}
        expected = literal_block(weights, "it", x, row, stride=stride)
        assert_same(block(x), expected, [x, *block.parameters()])

    @pytest.mark.parametrize("row", TABLE_5)
    def test_the_whole_network_equals_its_transcription_in_values_and_gradients(
        self, row: str
    ) -> None:
        model = small(**switches_of(row))
        prepared(model)
        frames = clips().double().requires_grad_()
        output = model(frames)
        features, logits = output.branches["main"]
        assert logits is not None
        assert torch.equal(output.embedding, features)
        expected = torch.cat(literal_lgdiffgait(model, frames, row), dim=2)
        assert_same(torch.cat((features, logits), dim=2), expected, [frames, *model.parameters()])


class TestDifferences:
    @pytest.mark.parametrize("difference", [local_difference, global_difference])
    def test_where_nothing_moves_there_is_no_difference(self, difference: Any) -> None:
        frame = torch.randn(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(0)) * 1000
        still = difference(frame.expand(2, 3, 6, 4, 5))
        torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=1e-3)

    def test_a_static_clip_has_a_local_difference_of_exactly_zero(self) -> None:
        frame = torch.randn(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(0)) * 1000
        assert not local_difference(frame.expand(2, 3, 6, 4, 5)).any()

    @pytest.mark.parametrize("difference", [local_difference, global_difference])
    def test_a_single_frame_has_no_difference(self, difference: Any) -> None:
        assert not difference(torch.randn(2, 3, 1, 4, 5)).any()

    def test_global_differences_of_a_clip_add_up_to_zero(self) -> None:
        total = global_difference(features_of(t=7)).sum(dim=2)
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(slope=st.floats(-10, 10), start=st.floats(-10, 10), num_frames=st.integers(3, 9))
    def test_of_an_even_motion_only_the_ends_differ_locally(
        self, slope: float, start: float, num_frames: int
    ) -> None:
        ramp = start + slope * torch.arange(num_frames, dtype=torch.float64)
        local = local_difference(ramp.view(1, 1, -1, 1, 1)).flatten()
        expected = torch.zeros(num_frames, dtype=torch.float64)
        expected[0], expected[-1] = -slope / 3, slope / 3
        torch.testing.assert_close(local, expected, rtol=0, atol=1e-12)

    def test_of_an_even_motion_all_but_the_middle_differ_globally(self) -> None:
        ramp = torch.arange(5.0).view(1, 1, -1, 1, 1)
        assert global_difference(ramp).flatten().tolist() == [-2, -1, 0, 1, 2]

    def test_a_local_difference_sees_its_neighbours_and_a_global_one_all_frames(self) -> None:
        x = features_of(t=9).detach()
        changed = x.clone()
        changed[:, :, 4] += 1
        for difference, touched in ((local_difference, [3, 4, 5]), (global_difference, range(9))):
            moved = (difference(changed) - difference(x)).abs().amax(dim=(0, 1, 3, 4)) > 1e-9
            assert moved.nonzero().flatten().tolist() == list(touched)

    @pytest.mark.parametrize("difference", [local_difference, global_difference])
    def test_a_picture_that_is_in_every_frame_drops_out(self, difference: Any) -> None:
        x = features_of(t=6)
        torch.testing.assert_close(difference(x + 7 * x[:, :, 2:3]), difference(x))

    @pytest.mark.parametrize("difference", [local_difference, global_difference])
    def test_a_clip_played_backwards_has_its_differences_backwards(self, difference: Any) -> None:
        x = features_of(t=6)
        torch.testing.assert_close(difference(x.flip(2)), difference(x).flip(2))

    def test_the_abstracts_difference_of_adjacent_frames_is_not_eq2(self) -> None:
        # A decision of the header: the two agree on still clips and on nothing else.
        ramp = torch.arange(4.0).view(1, 1, -1, 1, 1)
        assert ramp.diff(dim=2).flatten().tolist() == [1, 1, 1]
        assert local_difference(ramp).flatten()[1:3].tolist() == [0, 0]


class TestBlock:
    def test_nothing_is_shared_among_the_modules_of_a_block(self) -> None:
        block = LocalGlobalDifferenceBlock(2, 3)
        convolutions = [m for m in block.modules() if isinstance(m, nn.Conv3d)]
        shapes = sorted(tuple(m.weight.shape) for m in convolutions)
        assert len({id(m.weight) for m in convolutions}) == len(convolutions)
        assert shapes == sorted(
            [
                *[(3, 2, 3, 3, 3)] * 3,  # main, LDM, GDM
                *[(3, 6, 1, 1, 1)] * 2,  # Eq. 4 sees main and difference
                *[(3, 3, 3, 3, 3)] * 2,  # Eq. 5
                (3, 2, 1, 1, 1),  # shortcut
            ]
        )

    @pytest.mark.parametrize(
        ("row", "count"), [("000", 1), ("100", 1), ("110", 1), ("101", 1), ("011", 1), ("111", 2)]
    )
    def test_main_features_count_once_for_each_alignment_or_once(
        self, row: str, count: int
    ) -> None:
        torch.manual_seed(0)
        block = LocalGlobalDifferenceBlock(2, 2, **switches_of(row)).double()
        for name, module in block.named_modules():
            if name.endswith(("alignment.norm", "difference.convolution.norms.0")):
                # Nothing is added to the main features, by what the differences go through.
                nn.init.zeros_(module.get_parameter("weight"))
        x = features_of()
        torch.testing.assert_close(block(x), x + count * block.main(x))

    def test_no_activation_follows_the_last_sum(self) -> None:
        torch.manual_seed(0)
        assert (LocalGlobalDifferenceBlock(2, 3)(features_of().float()) < 0).any()

    def test_differences_are_of_the_input_and_not_of_the_strided_main_features(self) -> None:
        block = LocalGlobalDifferenceBlock(2, 3, spatial_stride=2)
        seen: list[Tensor] = []
        for module in (block.local_difference, block.global_difference):
            assert module is not None
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        x = features_of().float()
        block(x)
        assert all(torch.equal(given, x) for given in seen)
        assert len(seen) == 2

    @pytest.mark.parametrize(("channels", "stride"), [(3, 1), (2, 2)])
    def test_a_shortcut_is_projected_where_size_or_channels_change(
        self, channels: int, stride: int
    ) -> None:
        assert LocalGlobalDifferenceBlock(2, 2).shortcut is None
        block = LocalGlobalDifferenceBlock(2, channels, spatial_stride=stride)
        assert block.shortcut is not None
        output = block(torch.randn(2, 2, 4, 5, 6))
        assert output.shape == (2, channels, 4, -(-5 // stride), -(-6 // stride))


class TestSize:
    @pytest.mark.parametrize(
        ("plan", "row", "convolutions", "backbone"),
        [
            pytest.param(casiab_plan(), "000", 4_929_216, 4_933_056, id="one-block-000"),
            pytest.param(casiab_plan(), "100", 9_684_672, 9_690_432, id="one-block-100"),
            pytest.param(casiab_plan(), "010", 9_684_672, 9_690_432, id="one-block-010"),
            pytest.param(casiab_plan(), "110", 14_440_128, 14_447_808, id="one-block-110"),
            pytest.param(casiab_plan(), "111", 34_633_408, 34_644_928, id="one-block-111"),
            pytest.param(large_plan(), "000", 7_583_424, 7_588_288, id="large-000"),
            pytest.param(large_plan(), "100", 14_993_088, 15_000_896, id="large-100"),
            pytest.param(large_plan(), "010", 14_993_088, 15_000_896, id="large-010"),
            pytest.param(large_plan(), "110", 22_402_752, 22_413_504, id="large-110"),
            pytest.param(large_plan(), "111", 48_297_664, 48_314_304, id="large-111"),
        ],
    )
    def test_convolutions_have_the_derived_number_of_weights(
        self, plan: Any, row: str, convolutions: int, backbone: int
    ) -> None:
        with torch.device("meta"):
            model = LGDiffGait(74, **plan, **switches_of(row))
        modules = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
        assert sum(m.weight.numel() for m in modules) == convolutions
        assert all(m.bias is None for m in modules)
        groups = model.parameter_groups()
        assert sum(p.numel() for p in groups["backbone"]) == backbone
        # 16 layers 512 -> 256, a norm of 16 x 256, 16 class weights of 256 for 74 subjects.
        assert sum(p.numel() for p in groups["head"]) == 16 * 256 * (512 + 2 + 74)

    def test_the_default_is_the_plan_of_one_block_a_stage(self) -> None:
        with torch.device("meta"):
            models = [LGDiffGait(5), LGDiffGait(5, **casiab_plan())]
        assert num_parameters(models[0]) == num_parameters(models[1])
        assert models[0].state_dict().keys() == models[1].state_dict().keys()

    def test_maps_shrink_in_stages_2_and_3_and_time_never(self) -> None:
        model = LGDiffGait(5, **large_plan(width=1 / 64))
        shapes: dict[str, tuple[int, ...]] = {}
        for name, module in model.named_stages().items():
            module.register_forward_hook(
                lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)})
            )
        output = model(clips(n=2, t=4, h=64, w=44))
        assert shapes == {
            "stem": (2, 1, 4, 64, 44),
            "stage 1 block 1": (2, 1, 4, 64, 44),
            "stage 2 block 1": (2, 2, 4, 32, 22),
            "stage 2 block 2": (2, 2, 4, 32, 22),
            "stage 2 block 3": (2, 2, 4, 32, 22),
            "stage 3 block 1": (2, 4, 4, 16, 11),
            "stage 3 block 2": (2, 4, 4, 16, 11),
            "stage 4 block 1": (2, 8, 4, 16, 11),
            "part pooling": (2, 16, 8),
            "embedding linear": (2, 16, 256),
        }
        values = (output.embedding, *output.branches["main"])
        assert [tuple(value.shape) for value in values] == [(2, 16, 256), (2, 16, 256), (2, 16, 5)]
        assert model.num_parts == 16

    def test_the_width_of_a_plan_scales_channels_alone(self) -> None:
        eighth = large_plan(width=1 / 8)
        assert eighth["channels"] == (8, 16, 32, 64)
        assert {**eighth, "channels": ()} == {**large_plan(), "channels": ()}

    @pytest.mark.parametrize("row", TABLE_5)
    def test_a_clip_of_one_frame_is_long_enough(self, row: str) -> None:
        model = small(**switches_of(row)).eval()
        assert model.min_frames == 1
        assert model(clips(t=1)).embedding.isfinite().all()


SWITCHES: dict[str, dict[str, Any]] = {
    **{f"table-5-{row}": switches_of(row) for row in TABLE_5[:-1]},
    "local-with-alignment": switches_of("101"),
    "global-with-alignment": switches_of("011"),
    "blocks": {"num_blocks": (1, 1)},
    "channels": {"channels": (3, 3)},
    "strides": {"spatial_strides": (2, 1)},
    "convolutions": {"convs_per_module": 2},
    "parts": {"num_parts": 4},
    "dimension": {"embedding_dim": 4},
    "embedding": {"embedding": "after_norm"},
    "size": {"input_size_px": (16, 6)},
    "colour": {"in_channels": 3},
}


class TestSwitches:
    @pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
    def test_every_switch_changes_parameters_or_output(self, training: bool) -> None:
        seen: dict[str, tuple[int, Tensor]] = {}
        for name, switches in {"default": {}, **SWITCHES}.items():
            model = small(**switches).train(training)
            height, width = model.input_size_px
            embedding = model(clips(h=height, w=width, c=model.in_channels)).embedding.detach()
            seen[name] = (num_parameters(model), embedding / embedding.abs().max())
        for (a, (count_a, output_a)), (b, (count_b, output_b)) in itertools.combinations(
            seen.items(), 2
        ):
            alike = (
                count_a == count_b
                and output_a.shape == output_b.shape
                and torch.allclose(output_a, output_b, atol=1e-4)
            )
            assert not alike, f"{a} and {b} are the same network"

    @pytest.mark.parametrize(
        ("row", "parts"),
        [
            ("000", {"main"}),
            ("100", {"main", "local_difference"}),
            ("010", {"main", "global_difference"}),
            ("110", {"main", "local_difference", "global_difference"}),
            (
                "111",
                {
                    "main",
                    "local_difference",
                    "global_difference",
                    "local_alignment",
                    "global_alignment",
                },
            ),
        ],
    )
    def test_table_5_a_row_is_made_of_the_modules_it_ticks(self, row: str, parts: set[str]) -> None:
        model = small(**switches_of(row))
        for block in ("stages.0.0", "stages.1.0", "stages.1.1"):
            names = {name for name, _ in model.get_submodule(block).named_children()}
            assert names - {"shortcut"} == parts

    @pytest.mark.parametrize("row", TABLE_5)
    def test_every_parameter_of_a_row_is_used(self, row: str) -> None:
        model = small(**switches_of(row))
        model(clips()).branches["main"].logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_the_embedding_is_what_the_switch_names(self) -> None:
        before, after = small(), small(embedding="after_norm")
        first, second = before(clips()), after(clips())
        assert torch.equal(first.embedding, first.branches["main"].triplet_features)
        assert torch.equal(first.embedding, second.branches["main"].triplet_features)
        assert not torch.allclose(second.embedding, first.embedding, atol=1e-3)
        torch.testing.assert_close(second.embedding.norm(dim=-1), torch.ones(3, 2))
        weight = nn.functional.normalize(after.neck.identity_linear.weight, dim=1)
        cosines = torch.einsum("npd,pdk->npk", second.embedding, weight)
        torch.testing.assert_close(second.branches["main"].logits, cosines)


class TestModes:
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self) -> None:
        model = LGDiffGait(5, **large_plan(width=1 / 16))
        frames = clips(n=3, t=4, h=64, w=44)
        model(frames)
        model.eval()
        with torch.no_grad():
            together = model(frames).embedding
            alone = torch.cat([model(frames[i : i + 1]).embedding for i in range(3)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_a_clip_padded_in_time_is_another_clip(self) -> None:
        # Why a batch has one length: what is added in time reaches every frame.
        model = small().eval()
        padded = torch.cat((clips(), torch.zeros(3, 1, 3, 8, 6)), dim=2)
        assert not torch.allclose(model(padded).embedding, model(clips()).embedding, atol=1e-4)

    def test_the_order_of_frames_matters(self) -> None:
        model = small().eval()
        shuffled = clips()[:, :, [2, 0, 4, 1, 3]]
        assert not torch.allclose(model(shuffled).embedding, model(clips()).embedding, atol=1e-4)

    def test_training_moves_the_statistics_of_every_norm_and_evaluation_none(self) -> None:
        model = small()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d | nn.BatchNorm1d)]
        before = [norm.running_mean.clone() for norm in norms]
        model.eval()(clips())
        assert all(
            torch.equal(norm.running_mean, value) for norm, value in zip(norms, before, strict=True)
        )
        model.train()(clips())
        assert not any(
            torch.equal(norm.running_mean, value) for norm, value in zip(norms, before, strict=True)
        )
        assert all(norm.num_batches_tracked == 1 for norm in norms)

    def test_evaluation_is_bit_identical_between_calls(self) -> None:
        model = small().eval()
        assert torch.equal(model(clips()).embedding, model(clips()).embedding)

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small(in_channels=3).eval()
        frames = clips(c=3)
        ordered = frames.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(ordered), model(frames))

    def test_bfloat16_under_autocast_is_close(self) -> None:
        model = small(channels=(4, 8))
        frames = clips(n=4)
        model(frames)
        model.eval()
        exact = model(frames).embedding.detach()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(frames)
        error = (output.embedding.detach().float() - exact).norm() / exact.norm()
        assert float(error) < 0.03
        labels = torch.tensor([0, 0, 1, 1])
        branch = output.branches["main"]
        assert TripletLoss()(branch.triplet_features, labels).loss.dtype == torch.float32
        assert IdentityLoss()(branch.logits, labels).loss.dtype == torch.float32


class TestContract:
    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        parameters = inspect.signature(LGDiffGait).parameters
        hints = get_type_hints(LGDiffGait.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(LGDiffGait) or "").params
        }
        for name, parameter in parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            assert parameter.annotation is not inspect.Parameter.empty
            assert not isinstance(parameter.annotation, str)
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        arguments = json.loads(json.dumps({**casiab_plan(width=1 / 64), "input_size_px": (64, 44)}))
        model = LGDiffGait(5, **arguments)
        assert model.input_size_px == (64, 44)
        model.eval()(clips(t=2, h=64, w=44))

    @pytest.mark.parametrize("row", TABLE_5)
    def test_parameter_groups_hold_every_parameter_once(self, row: str) -> None:
        model = small(**switches_of(row))
        groups = model.parameter_groups()
        grouped = [parameter for group in groups.values() for parameter in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
        assert list(groups) == ["backbone", "head"]

    @pytest.mark.parametrize("row", TABLE_5)
    def test_named_stages_are_called_once_each_and_in_order(self, row: str) -> None:
        model = small(**switches_of(row))
        called: list[str] = []
        for name, module in model.named_stages().items():
            module.register_forward_hook(lambda *_, name=name: called.append(name))
        model(clips())
        assert called == list(model.named_stages())

    def test_state_dict_keys_are_public(self) -> None:
        norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
        keys = list(small(channels=(3,), num_blocks=(1,), spatial_strides=(2,)).state_dict())
        module = ["convolutions.0.weight", *(f"norms.0.{name}" for name in norm)]
        alignment = [
            "reduction.weight",
            "convolution.weight",
            *(f"norm.{name}" for name in norm),
        ]
        assert keys == [
            *(f"stem.{name}" for name in module),
            *(f"stages.0.0.main.{name}" for name in module),
            *(f"stages.0.0.local_difference.convolution.{name}" for name in module),
            *(f"stages.0.0.local_alignment.{name}" for name in alignment),
            *(f"stages.0.0.global_difference.convolution.{name}" for name in module),
            *(f"stages.0.0.global_alignment.{name}" for name in alignment),
            "stages.0.0.shortcut.0.weight",
            *(f"stages.0.0.shortcut.1.{name}" for name in norm),
            "embedding_linear.weight",
            *(f"neck.norm.{name}" for name in norm),
            "neck.identity_linear.weight",
        ]

    @pytest.mark.parametrize(
        "switches",
        [
            pytest.param({}, id="one-channel"),
            pytest.param({"in_channels": 3}, id="three-channels"),
            pytest.param({"channels": (1, 1)}, id="one-channel-everywhere"),
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
            pytest.param(clips()[0], "got 4 dimensions.*expected 5", id="rank"),
            pytest.param(clips(c=3), "got 3 channels.*expected 1", id="channels"),
            pytest.param(clips(h=16), "got frames of 16x6 px.*expected 8x6", id="height"),
            pytest.param(clips(w=10), "got frames of 8x10 px.*expected 8x6", id="width"),
            pytest.param(clips(t=0), "got clips of 0 frames, expected at least 1", id="length"),
            pytest.param(clips(n=0), "got an empty batch, expected at least one", id="no-clips"),
            pytest.param((clips() * 255).byte(), "got torch.uint8, expected", id="bytes"),
            pytest.param(clips() * torch.nan, "got values in nan.*expected", id="not-a-number"),
            pytest.param(clips() * 255, "got values in .*expected finite", id="not-divided"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"LGDiffGait: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, r"num_subjects \(0\)", id="no-subjects"),
            pytest.param({"num_blocks": (1, 1, 1)}, "one entry per stage", id="lengths-differ"),
            pytest.param({"channels": (2, 0)}, r"channels \(\(2, 0\)\)", id="no-channels"),
            pytest.param({"num_blocks": (1, 0)}, r"num_blocks \(\(1, 0\)\)", id="empty-stage"),
            pytest.param({"spatial_strides": (1, 0)}, "spatial_strides", id="no-stride"),
            pytest.param({"convs_per_module": 0}, r"convs_per_module \(0\)", id="no-convolution"),
            pytest.param({"embedding_dim": 0}, r"embedding_dim \(0\)", id="no-dimension"),
            pytest.param({"num_parts": 0}, r"num_parts \(0\)", id="no-parts"),
            pytest.param({"num_parts": 3}, r"num_parts \(3\) must divide the 4 rows", id="parts"),
            pytest.param({"in_channels": 0}, r"in_channels \(0\)", id="no-input"),
            pytest.param({"input_size_px": (8, 0)}, "input_size_px", id="no-width"),
            pytest.param({"embedding": "norm"}, r"embedding \('norm'\)", id="unknown-embedding"),
            pytest.param(switches_of("001"), r"temporal_alignment \(True\)", id="nothing-to-align"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            small(**arguments)


def walking_outlines(
    num_subjects: int, num_clips: int, num_frames: int, size_px: tuple[int, int]
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


def test_an_eighth_width_network_learns_one_batch_by_heart_at_the_papers_rate() -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(4, 4, 4, (32, 22))
    model = LGDiffGait(4, **casiab_plan(width=1 / 8), input_size_px=(32, 22), num_parts=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    triplet_of, identity_of = TripletLoss(0.2), IdentityLoss(16.0)
    losses = []
    # The rate drops as in the paper: until then the norms' statistics lag behind the weights.
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 45])
    for _ in range(65):
        branch = model(frames).branches["main"]
        triplet = triplet_of(branch.triplet_features, labels)
        identity = identity_of(branch.logits, labels)
        optimizer.zero_grad()
        (triplet.loss + identity.loss).backward()
        optimizer.step()
        schedule.step()
        losses.append((float(triplet.active_ratio), float(identity.loss.detach())))
    assert losses[0][0] > 0.2
    assert losses[0][1] > math.log(4)
    assert losses[-1][0] < 0.1 * losses[0][0]
    assert losses[-1][1] < 0.1 * losses[0][1]

    model.eval()
    with torch.no_grad():
        output = model(frames)
    assert float(identity_of(output.branches["main"].logits, labels).accuracy) == 1.0
    embedding = output.embedding.transpose(0, 1)  # [p, n, d]
    distances = torch.cdist(embedding, embedding).mean(dim=0)
    distances.fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(dim=1)], labels)


@pytest.mark.slow
@pytest.mark.parametrize("plan", [casiab_plan(), large_plan()], ids=["one-block", "large"])
def test_a_step_at_full_width_lowers_the_loss(plan: Any) -> None:
    torch.manual_seed(0)
    frames, labels = walking_outlines(2, 2, 3, (64, 44))
    model = LGDiffGait(2, **plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        branch = model(frames).branches["main"]
        loss = TripletLoss(0.2)(branch.triplet_features, labels).loss
        loss = loss + IdentityLoss(16.0)(branch.logits, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses[1] < losses[0]
