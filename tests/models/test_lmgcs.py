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
from raygait.models.lmgcs import (
    E3D,
    GSFE,
    LMGCS,
    MFF,
    HorizontalPyramid,
    LocalFeatures,
    MultiHeadAttention,
    casiab_plan,
    large_plan,
)

SMALL: dict[str, Any] = {
    "channels": (2, 3, 2, 2),
    "num_strips": 2,
    "scales": (1, 3, 5),
    "gsfe_layers": (1, 2),
    "gsfe_heads": 2,
    "gsfe_width": 5,
    "embedding_dim": 3,
    "input_size_px": (16, 8),
}


def small(num_subjects: int = 5, **switches: Any) -> LMGCS:
    """A network small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    return LMGCS(num_subjects, **(SMALL | switches))


def clips(n: int = 2, t: int = 7, h: int = 16, w: int = 8, c: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def with_random_biases(module: nn.Module) -> nn.Module:
    """In float64, and no parameter zero or one by initialisation."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.double()


def assert_same(result: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    pull = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad((result * pull).sum(), wanted, materialize_grads=True),
        torch.autograd.grad((expected * pull).sum(), wanted, materialize_grads=True),
    )


# Literal transcriptions: loops over frames, strips and kernel positions, nothing shared with the
# room but the weights.


def literal_convolution(x: Tensor, weight: Tensor) -> Tensor:
    n, _, t, h, w = x.shape
    padded = x.new_zeros(n, x.shape[1], t + 2, h + 2, w + 2)
    padded[:, :, 1:-1, 1:-1, 1:-1] = x
    result = x.new_zeros(n, weight.shape[0], t, h, w)
    for i, j, k in itertools.product(range(3), range(3), range(3)):
        seen = padded[:, :, i : i + t, j : j + h, k : k + w]
        result = result + torch.einsum("ncthw,dc->ndthw", seen, weight[:, :, i, j, k])
    return torch.where(result > 0, result, 0.01 * result)


def literal_e3d(x: Tensor, weights: list[Tensor]) -> Tensor:
    for number, weight in enumerate(weights):
        x = literal_convolution(x, weight)
        if number < 2:
            corners = [x[..., i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))]
            x = torch.stack(corners).amax(dim=0)
    return x


def literal_pyramid(x: Tensor, num_strips: int, mapping: str) -> Tensor:
    """Eq. 1."""
    n, c, t, h, _ = x.shape
    rows = h // num_strips
    mean, largest = x.new_zeros(n, c, t, num_strips), x.new_zeros(n, c, t, num_strips)
    for i, j, frame, p in itertools.product(range(n), range(c), range(t), range(num_strips)):
        strip = x[i, j, frame, p * rows : (p + 1) * rows]
        mean[i, j, frame, p] = strip.sum() / strip.numel()
        largest[i, j, frame, p] = strip.max()
    return torch.cat([mean, largest], dim=1) if mapping == "cat" else mean + largest


def literal_local(x: Tensor, k1: Tensor, b1: Tensor, k2: Tensor, b2: Tensor, scale: int) -> Tensor:
    """Eq. 2, window by window."""
    n, c, t, p = x.shape
    result = x.new_zeros(n, c, t, p)
    reach = scale // 2
    for clip, i, part in itertools.product(range(n), range(t), range(p)):
        window = {
            j: x[clip, :, i + j, part] if 0 <= i + j < t else x.new_zeros(c)
            for j in range(-reach, reach + 1)
        }
        first = {}
        for j in window:
            total = b1
            for tap in range(-reach, reach + 1):
                if j + tap in window:  # zeros beyond the window
                    total = total + k1[:, :, tap + reach, 0] @ window[j + tap]
            first[j] = total.clamp(min=0)
        merged = b2
        for tap in range(-reach, reach + 1):
            merged = merged + k2[:, :, tap + reach, 0] @ first[tap]
        result[clip, :, i, part] = first[0] + merged.clamp(min=0)
    return result


def literal_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def literal_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def literal_attention(readers: list[Tensor], sources: list[Tensor], a: Any) -> list[Tensor]:
    """Eq. 7 and 8, head by head."""
    size = len(readers[0]) // a.num_heads
    results = []
    for reader in readers:
        heads = []
        for head in range(a.num_heads):
            own = slice(head * size, (head + 1) * size)
            query = literal_linear(reader, a.query)[own]
            keys = [literal_linear(source, a.key)[own] for source in sources]
            values = [literal_linear(source, a.value)[own] for source in sources]
            scores = torch.stack([query @ key / math.sqrt(size) for key in keys]).exp()
            heads.append(
                sum(score / scores.sum() * v for score, v in zip(scores, values, strict=True))
            )
        results.append(literal_linear(torch.cat(heads), a.output))
    return results


def literal_feed_forward(x: Tensor, f: Any) -> Tensor:
    """Eq. 9."""
    return literal_linear(literal_linear(x, f.linear1).clamp(min=0), f.linear2)


def literal_gsfe(x: Tensor, gsfe: Any) -> Tensor:
    """Eq. 6, part by part."""
    n, c, t, p = x.shape
    result = x.new_zeros(n, c, p)
    for clip, part in itertools.product(range(n), range(p)):
        items = [x[clip, :, i, part] for i in range(t)]
        query = torch.stack(items).amax(dim=0)
        for layer in gsfe.encoder:
            read = literal_attention(items, items, layer.self_attention)
            items = [
                literal_norm(item + r, layer.self_attention_norm)
                for item, r in zip(items, read, strict=True)
            ]
            items = [
                literal_norm(
                    item + literal_feed_forward(item, layer.feed_forward), layer.feed_forward_norm
                )
                for item in items
            ]
        for layer in gsfe.decoder:
            (read_own,) = literal_attention([query], [query], layer.self_attention)
            query = literal_norm(query + read_own, layer.self_attention_norm)
            (read_other,) = literal_attention([query], items, layer.cross_attention)
            query = literal_norm(query + read_other, layer.cross_attention_norm)
            query = literal_norm(
                query + literal_feed_forward(query, layer.feed_forward), layer.feed_forward_norm
            )
        result[clip, :, part] = query
    return result


def literal_static(branches: list[Tensor]) -> list[Tensor]:
    """Eq. 4, its sign read as a sum."""
    if len(branches) == 1:
        return branches
    t1, t3, t5 = branches
    return [t1, t1 + t3, t1 + t3 + t5]


def literal_attention_fusion(branches: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Eq. 5."""
    n, c, t, p = branches[0].shape
    results = [torch.zeros_like(branch) for branch in branches]
    for clip, i, part in itertools.product(range(n), range(t), range(p)):
        vectors = [branch[clip, :, i, part] for branch in branches]
        fused = weight[:, :, 0, 0] @ torch.cat(vectors) + bias
        scores = torch.stack([fused @ vector / math.sqrt(c) for vector in vectors]).exp()
        for s, vector in enumerate(vectors):
            results[s][clip, :, i, part] = scores[s] / scores.sum() * vector + vector
    return results


def literal_lmgcs(model: Any, frames: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The whole of section III with Eq. 4: per branch of the output, features and logits."""
    weights = dict(model.named_parameters())
    maps = literal_e3d(
        frames, [weights[f"e3d.convolutions.{i}.convolution.weight"] for i in range(4)]
    )
    m = literal_pyramid(maps, model.horizontal_pyramid.num_strips, "cat")
    local = []
    for scale in (1, 3, 5):
        name = f"lmfe.scale_{scale}.convolution"
        local.append(
            literal_local(
                m,
                *(weights[f"{name}{i}.{kind}"] for i in (1, 2) for kind in ("weight", "bias")),
                scale,
            )
        )
    fused = literal_static(local)
    pooled = {
        "local": [c.amax(dim=2) for c in fused],
        "global": [literal_gsfe(c, model.gsfe) for c in fused],
    }
    result = {}
    for name, branches in pooled.items():
        rows = [branch[:, :, p] for branch in branches for p in range(m.shape[3])]
        features = [row @ weights["mapping.weight"][i] for i, row in enumerate(rows)]
        classes = weights[f"{name}_identity_linear.weight"]
        logits = [feature @ classes[i] for i, feature in enumerate(features)]
        result[name] = (torch.stack(features, dim=1), torch.stack(logits, dim=1))
    return result


class TestEquations:
    def test_e3d_equals_a_loop_in_values_and_gradients(self) -> None:
        torch.manual_seed(0)
        e3d = E3D(1, (2, 3, 2, 2)).double()
        x = normal(1, 1, 4, 8, 8)
        assert_same(e3d(x), literal_e3d(x, list(e3d.parameters())), [x, *e3d.parameters()])

    def test_e3d_keeps_the_frames_and_quarters_height_and_width(self) -> None:
        assert E3D(1, (2, 2, 2, 3))(torch.zeros(1, 1, 7, 64, 44)).shape == (1, 3, 7, 16, 11)

    @pytest.mark.parametrize("mapping", ["cat", "sum"])
    def test_eq1_mean_and_maximum_of_each_strip(self, mapping: Any) -> None:
        x = normal(2, 2, 3, 4, 3)
        expected = literal_pyramid(x, 2, mapping)
        assert expected.shape[1] == (4 if mapping == "cat" else 2)
        assert_same(HorizontalPyramid(2, mapping)(x), expected, [x])

    @pytest.mark.parametrize("scale", [1, 3, 5, 7])
    def test_eq2_equals_each_window_alone_in_values_and_gradients(self, scale: int) -> None:
        torch.manual_seed(0)
        local = with_random_biases(LocalFeatures(2, scale, "strict"))
        x = normal(2, 2, 6, 2)
        assert_same(
            local(x), literal_local(x, *local.parameters(), scale), [x, *local.parameters()]
        )

    @pytest.mark.parametrize("scale", [1, 3, 5])
    @pytest.mark.parametrize(
        ("window", "reach_of"),
        [
            pytest.param("strict", lambda s: s // 2, id="strict"),
            pytest.param("stacked", lambda s: s - 1, id="stacked"),
        ],
    )
    def test_eq2_depends_exactly_on_the_frames_of_its_window(
        self, window: Any, reach_of: Any, scale: int
    ) -> None:
        torch.manual_seed(0)
        local = with_random_biases(LocalFeatures(8, scale, window))
        x = normal(1, 8, 13, 1)
        for i in (0, 6, 12):
            (gradient,) = torch.autograd.grad(local(x)[:, :, i].sum(), x)
            (seen,) = gradient.abs().sum(dim=(0, 1, 3)).nonzero(as_tuple=True)
            reach = reach_of(scale)
            assert seen.tolist() == list(range(max(0, i - reach), min(13, i + reach + 1)))

    def test_eq2_stacked_is_strict_for_windows_of_one_frame_only(self) -> None:
        for scale in (1, 3):
            torch.manual_seed(0)
            strict = with_random_biases(LocalFeatures(2, scale, "strict"))
            torch.manual_seed(0)
            stacked = with_random_biases(LocalFeatures(2, scale, "stacked"))
            x = normal(1, 2, 6, 1)
            assert torch.allclose(strict(x), stacked(x)) == (scale == 1)

    def test_eq4_adds_finer_branches_to_coarser_ones(self) -> None:
        branches = [normal(2, 3, 4, 2, seed=s) for s in range(3)]
        fused = MFF(3, 3, "static_ascending")(torch.stack(branches))
        assert_same(fused, torch.stack(literal_static(branches)), branches)

    def test_table_xi_the_other_way_adds_coarser_branches_to_finer_ones(self) -> None:
        branches = [normal(2, 3, 4, 2, seed=s) for s in range(3)]
        fused = MFF(3, 3, "static_descending")(torch.stack(branches))
        expected = torch.stack(literal_static(branches[::-1])[::-1])
        assert_same(fused, expected, branches)
        torch.testing.assert_close(fused[2], branches[2])

    def test_eq4_has_no_parameters(self) -> None:
        assert num_parameters(MFF(3, 3, "static_ascending")) == 0

    def test_eq5_equals_a_loop_in_values_and_gradients(self) -> None:
        torch.manual_seed(0)
        fusion = with_random_biases(MFF(3, 3, "attention"))
        branches = [normal(2, 3, 4, 2, seed=s) for s in range(3)]
        expected = literal_attention_fusion(branches, *fusion.parameters())
        assert_same(
            fusion(torch.stack(branches)),
            torch.stack(expected),
            [*branches, *fusion.parameters()],
        )

    def test_eq5_weighs_identical_branches_by_a_third(self) -> None:
        fusion = with_random_biases(MFF(3, 3, "attention"))
        branch = normal(2, 3, 4, 2)
        fused = fusion(torch.stack([branch] * 3))
        torch.testing.assert_close(fused, torch.stack([branch * 4 / 3] * 3))

    def test_eq7_and_8_equal_a_loop_over_heads(self) -> None:
        torch.manual_seed(0)
        attention = with_random_biases(MultiHeadAttention(6, 3))
        reader, source = normal(1, 2, 6, seed=1), normal(1, 4, 6, seed=2)
        expected = literal_attention(list(reader[0]), list(source[0]), attention)
        assert_same(
            attention(reader, source),
            torch.stack(expected)[None],
            [reader, source, *attention.parameters()],
        )

    @pytest.mark.parametrize("num_layers", [(1, 1), (2, 1), (1, 2)])
    def test_eq6_to_9_equal_a_loop_in_values_and_gradients(
        self, num_layers: tuple[int, int]
    ) -> None:
        torch.manual_seed(0)
        gsfe = with_random_biases(GSFE(4, num_layers, num_heads=2, feed_forward_width=5))
        x = normal(2, 4, 3, 2)
        assert_same(gsfe(x), literal_gsfe(x, gsfe), [x, *gsfe.parameters()])

    def test_the_whole_network_equals_its_transcription_in_values_and_gradients(self) -> None:
        model = with_random_biases(small(scales=(1, 3, 5), input_size_px=(8, 8)))
        frames = clips(n=2, t=3, h=8, w=8).double().requires_grad_()
        output, expected = model(frames), literal_lmgcs(model, frames)
        assert list(output.branches) == list(expected) == ["local", "global"]
        torch.testing.assert_close(output.embedding, expected["global"][0])
        results, wanted = [], []
        for name, (features, logits) in expected.items():
            torch.testing.assert_close(output.branches[name].triplet_features, features)
            results.append(output.branches[name].logits)
            wanted.append(logits)
        assert_same(torch.cat(results), torch.cat(wanted), [frames, *model.parameters()])


class TestGSFE:
    @pytest.mark.parametrize("t", [1, 2, 9])
    def test_it_pools_time_and_keeps_the_rest(self, t: int) -> None:
        gsfe = GSFE(8, (1, 1), num_heads=2, feed_forward_width=4)
        assert gsfe(torch.rand(2, 8, t, 5)).shape == (2, 8, 5)

    def test_the_order_of_the_frames_does_not_matter(self) -> None:
        torch.manual_seed(0)
        gsfe = with_random_biases(GSFE(8, (2, 2), num_heads=2, feed_forward_width=16))
        x = normal(2, 8, 6, 3)
        torch.testing.assert_close(gsfe(x[:, :, [3, 0, 5, 1, 4, 2]]), gsfe(x))

    def test_every_frame_matters_and_not_only_the_largest(self) -> None:
        torch.manual_seed(0)
        gsfe = with_random_biases(GSFE(8, (1, 1), num_heads=2, feed_forward_width=16))
        x = normal(1, 8, 6, 1)
        (gradient,) = torch.autograd.grad(gsfe(x)[0, 0].sum(), x)
        assert bool((gradient.abs().sum(dim=(0, 1, 3)) > 0).all())

    def test_parts_and_clips_do_not_know_each_other(self) -> None:
        torch.manual_seed(0)
        gsfe = with_random_biases(GSFE(8, (1, 1), num_heads=2, feed_forward_width=4))
        x = normal(3, 8, 4, 2)
        alone = gsfe(x[1:2, :, :, 1:])
        torch.testing.assert_close(gsfe(x)[1:2, :, 1:], alone)

    def test_its_parameters_are_those_that_close_table_ix(self) -> None:
        with torch.device("meta"):
            assert num_parameters(GSFE(256, (4, 4))) == 11_575_296
            assert num_parameters(GSFE(256, (1, 1))) == 1_315_072 + 1_578_752

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"channels": 6, "num_heads": 4}, "channels .6.*num_heads .4", id="heads"),
            pytest.param({"channels": 8, "num_layers": (0, 1)}, "num_layers", id="no-encoder"),
            pytest.param({"channels": 8, "num_layers": (1, 0)}, "num_layers", id="no-decoder"),
            pytest.param({"channels": 8, "num_layers": (1,)}, "num_layers", id="one-number"),
            pytest.param({"channels": 8, "feed_forward_width": 0}, "feed_forward", id="no-width"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            GSFE(**arguments)


class TestParameters:
    # Table IX: (branches in use, parameters in millions).
    @pytest.mark.parametrize(
        ("num_branches", "count", "printed"),
        [(1, 14_719_840, 14.72), (2, 15_768_416, 15.77), (3, 16_816_992, 16.82)],
    )
    def test_table_ix_closes(self, num_branches: int, count: int, printed: float) -> None:
        with torch.device("meta"):
            model = LMGCS(74, mff="attention", **casiab_plan())
        parts = {name: num_parameters(block) for name, block in model.named_children()}
        biases = sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if name.endswith("bias") and not name.startswith("gsfe")
        )
        # The paper's count: every module but the banks of branches that are not in use, without
        # the training subjects' class weights.
        total = parts["e3d"] + parts["lmfe"] + parts["mff"] + parts["gsfe"] - biases
        total += parts["mapping"] * num_branches // 3
        assert total == count
        assert round(total / 1e6, 2) == round((total + biases) / 1e6, 2) == printed

    def test_the_parts_of_the_count(self) -> None:
        with torch.device("meta"):
            model = LMGCS(74, mff="attention")
        assert {name: num_parameters(block) for name, block in model.named_children()} == {
            "e3d": 719_712,
            "horizontal_pyramid": 0,
            "lmfe": 1_179_648 + 6 * 256,
            "mff": 196_608 + 256,
            "mapping": 3 * 1_048_576,
            "local_identity_linear": 48 * 256 * 74,
            "gsfe": 11_575_296,
            "global_identity_linear": 48 * 256 * 74,
        }

    def test_the_default_has_no_weights_for_its_fusion(self) -> None:
        with torch.device("meta"):
            assert num_parameters(LMGCS(74)) == 18_637_408 - 196_864

    def test_one_gsfe_serves_all_branches_and_strips(self) -> None:
        counts = set()
        for switches in ({}, {"scales": (1,)}, {"scales": None}, {"num_strips": 4}):
            gsfe = small(**switches).gsfe
            assert gsfe is not None
            counts.add(num_parameters(gsfe))
        assert len(counts) == 1

    def test_a_branch_adds_its_convolutions_its_bank_and_its_classes(self) -> None:
        one, two = small(scales=(1,)), small(scales=(1, 3))
        added = num_parameters(two) - num_parameters(one)
        assert added == 2 * (3 * 4 * 4 + 4) + 2 * 4 * 3 + 2 * (2 * 3 * 5)

    def test_plans(self) -> None:
        assert casiab_plan() == {"channels": (32, 64, 128, 128)}
        assert large_plan() == {"channels": (64, 128, 256, 256)}
        assert casiab_plan(width=0.25) == {"channels": (8, 16, 32, 32)}
        with torch.device("meta"):
            model = LMGCS(5153, **large_plan())
        assert model.mapping.weight.shape == (48, 512, 256)


# One entry a row of a table and one a switch; rows that are the default are left out.
BASELINE: dict[str, Any] = {"scales": None, "mff": None, "gsfe_layers": None}
SWITCHES: dict[str, dict[str, Any]] = {
    "table-8-none": BASELINE,
    "table-8-lmfe": {"mff": None, "gsfe_layers": None},
    "table-8-lmfe-mff": {"gsfe_layers": None},
    "table-8-lmfe-gsfe": {"mff": None},
    "table-9-fine": {"scales": (1,)},
    "table-9-medium": {"scales": (3,)},
    "table-9-coarse": {"scales": (5,)},
    "table-9-fine-medium": {"scales": (1, 3)},
    "table-9-medium-coarse": {"scales": (3, 5)},
    "table-9-fine-coarse": {"scales": (1, 5)},
    "table-10-baseline-gsfe": {"scales": None, "mff": None},
    "table-10-lmfe-gsfe-1x1": {"mff": None, "gsfe_layers": (1, 1)},
    "table-11-descending": {"mff": "static_descending"},
    "table-11-attention": {"mff": "attention"},
    "table-12": {"embedding_dim": 4},
    "table-13-1-5-7": {"scales": (1, 5, 7)},
    "table-13-3-5-7": {"scales": (3, 5, 7)},
    "hpm": {"hpm": "sum"},
    "window": {"window": "stacked"},
    "strips": {"num_strips": 4},
    "heads": {"gsfe_heads": 1},
    "width": {"gsfe_width": 6},
    "mapping": {"mapping": "separate"},
    "phase-a": {"phase": "a"},
    "channels": {"channels": (2, 2, 2, 2)},
    "size": {"input_size_px": (16, 12)},
    "colour": {"in_channels": 3},
}


class TestSwitches:
    def test_every_switch_changes_parameters_or_output(self) -> None:
        seen: dict[str, tuple[int, Tensor]] = {}
        for name, switches in {"default": {}, **SWITCHES}.items():
            model = small(**switches)
            height, width = model.input_size_px
            output = model(clips(h=height, w=width, c=model.in_channels))
            assert output.embedding.shape[1] == model.num_parts
            logits = output.branches[list(output.branches)[-1]].logits.detach()
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

    def test_without_everything_the_embedding_is_the_mapped_maximum_over_time(self) -> None:
        model = small(**BASELINE).double()
        frames = clips().double()
        strips = model.horizontal_pyramid(model.e3d(frames))  # [n, c, t, p]
        rows = strips.amax(dim=2).transpose(1, 2)
        expected = torch.einsum("npc,pcd->npd", rows, model.mapping.weight)
        output = model(frames)
        torch.testing.assert_close(output.embedding, expected)
        assert list(output.branches) == ["local"]

    def test_branches_stand_side_by_side_as_parts_fine_first(self) -> None:
        whole = small(mff=None, gsfe_layers=None)
        assert (whole.num_parts, whole.mapping.weight.shape[0]) == (6, 6)
        embedding = whole(clips()).embedding
        for position, scale in enumerate((1, 3, 5)):
            one = small(scales=(scale,), mff=None, gsfe_layers=None)
            weights = {
                name: value
                for name, value in whole.state_dict().items()
                if not name.startswith("lmfe") or f"scale_{scale}." in name
            }
            own = slice(position * 2, position * 2 + 2)
            for name in ("mapping.weight", "local_identity_linear.weight"):
                weights[name] = weights[name][own]
            one.load_state_dict(weights)
            torch.testing.assert_close(one(clips()).embedding, embedding[:, own])


class TestPhases:
    @pytest.mark.parametrize(
        ("phase", "names"), [("a", ["local"]), ("b", ["global"]), ("joint", ["local", "global"])]
    )
    @pytest.mark.parametrize("mapping", ["shared", "separate"])
    def test_a_phase_returns_what_it_trains_and_trains_all_of_it(
        self, phase: str, names: list[str], mapping: str
    ) -> None:
        model = small(phase=phase, mapping=mapping, mff="attention").train()
        output = model(clips(n=3))
        assert list(output.branches) == names
        assert torch.equal(output.embedding, output.branches[names[-1]].triplet_features)
        sum(branch.logits.sum() for branch in output.branches.values()).backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        wanted = {"a": ["subnetwork_a"], "b": ["subnetwork_b"]}.get(
            phase, ["subnetwork_a", "subnetwork_b"]
        )
        groups = model.parameter_groups()
        expected = {id(p) for name in wanted for p in groups[name]}
        assert {id(p) for name, p in model.named_parameters() if name in trained} == expected
        # What DDP waits for is what gets a gradient.
        assert {id(p) for p in model.parameters() if p.requires_grad} == expected

    @pytest.mark.parametrize("mapping", ["shared", "separate"])
    def test_a_is_bit_equal_after_steps_of_b_and_b_is_not(self, mapping: str) -> None:
        model = small(phase="b", mapping=mapping)
        frames, labels = clips(n=4), torch.tensor([0, 0, 1, 1])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        # As the loop makes it: all parameters, with weight decay.
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
        for _ in range(2):
            model.train()
            branch = model(frames).branches["global"]
            loss = TripletLoss()(branch.triplet_features, labels).loss
            loss = loss + IdentityLoss()(branch.logits, labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        of_a = {id(p) for p in model.parameter_groups()["subnetwork_a"]}
        moved = {
            name for name, p in model.named_parameters() if not torch.equal(before[name], p.data)
        }
        assert moved
        assert not any(id(p) in of_a for name, p in model.named_parameters() if name in moved)
        assert {name.split(".")[0] for name in moved} == {
            "gsfe",
            "global_identity_linear",
            *(["global_mapping"] if mapping == "separate" else []),
        }

    def test_what_b_freezes_stays_in_evaluation_mode(self) -> None:
        model = small(phase="b").train()
        assert model.training
        assert model.gsfe is not None
        assert model.gsfe.training
        modes = {m.training for name, m in model.named_modules() if name.startswith("e3d")}
        assert modes == {False}
        assert not model.mapping.training
        assert all(m.training for m in small(phase="joint").train().modules())
        assert not any(m.training for m in small(phase="b").train().eval().modules())

    def test_b_starts_from_a_and_ends_where_the_joint_network_would(self) -> None:
        a, b, joint = small(phase="a"), small(phase="b"), small()
        b.load_state_dict(a.state_dict())
        joint.load_state_dict(a.state_dict())
        output = joint(clips())
        torch.testing.assert_close(a(clips()).embedding, output.branches["local"].triplet_features)
        torch.testing.assert_close(b(clips()).embedding, output.embedding)

    def test_phase_a_leaves_the_gsfe_out(self) -> None:
        model = small(phase="a")
        assert model.gsfe is not None
        model.gsfe.register_forward_hook(lambda *_: pytest.fail("the GSFE ran"))
        model(clips())
        assert "global self-attention" not in model.named_stages()


class TestModes:
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self) -> None:
        torch.manual_seed(0)
        model = LMGCS(
            5, **casiab_plan(width=0.125), gsfe_layers=(1, 1), gsfe_width=16, embedding_dim=16
        ).eval()
        frames = clips(n=3, t=6, h=64, w=44)
        with torch.no_grad():
            together = model(frames).embedding
            alone = torch.cat([model(frames[i : i + 1]).embedding for i in range(3)])
        assert together.shape == (3, 48, 16)
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_nothing_is_random_in_training(self) -> None:
        model = small().train()
        first = model(clips()).embedding
        assert torch.equal(model(clips()).embedding, first)
        torch.testing.assert_close(model.eval()(clips()).embedding, first)

    def test_without_local_windows_the_order_of_frames_matters_to_the_backbone_only(self) -> None:
        model = small(**(BASELINE | {"gsfe_layers": (1, 1)})).eval()
        order = [4, 2, 0, 6, 5, 3, 1]
        strips = model.horizontal_pyramid(model.e3d(clips()))
        assert model.gsfe is not None
        torch.testing.assert_close(model.gsfe(strips[:, :, order]), model.gsfe(strips))
        assert not torch.allclose(
            model(clips()[:, :, order]).embedding, model(clips()).embedding, atol=1e-4
        )

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small(in_channels=3).eval()
        frames = clips(c=3)
        ordered = frames.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(ordered), model(frames))

    def test_bfloat16_under_autocast_is_close(self) -> None:
        model = small(mff="attention").eval()
        exact = model(clips())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(clips())
        torch.testing.assert_close(output.embedding.float(), exact.embedding, rtol=0.1, atol=0.1)


class TestContract:
    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        parameters = inspect.signature(LMGCS).parameters
        hints = get_type_hints(LMGCS.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(LMGCS) or "").params
        }
        for name, parameter in parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            assert not isinstance(parameter.annotation, str)
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        model = LMGCS(5, **json.loads(json.dumps(SMALL)))
        assert model.input_size_px == (16, 8)
        model.eval()(clips(t=1))

    @pytest.mark.parametrize("switches", [{}, BASELINE, {"mapping": "separate", "phase": "b"}])
    def test_parameter_groups_hold_every_parameter_once(self, switches: dict[str, Any]) -> None:
        model = small(**switches)
        groups = model.parameter_groups()
        grouped = [p for group in groups.values() for p in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
        names = ["subnetwork_a"] if model.gsfe is None else ["subnetwork_a", "subnetwork_b"]
        assert list(groups) == names

    @pytest.mark.parametrize(
        "switches",
        [
            {},
            BASELINE,
            {"phase": "a"},
            {"mapping": "separate"},
            {"mapping": "separate", "phase": "b"},
            {"mff": "attention"},
        ],
    )
    def test_each_named_stage_runs_once_a_pass(self, switches: dict[str, Any]) -> None:
        model = small(**switches)
        seen: list[str] = []

        def watch(name: str, block: nn.Module) -> None:
            def look(_: nn.Module, __: Any, result: Any) -> None:
                assert isinstance(result, Tensor)
                seen.append(name)

            block.register_forward_hook(look)

        for name, block in model.named_stages().items():
            watch(name, block)
        model(clips())
        assert seen == list(model.named_stages())

    def test_state_dict_keys_are_public(self) -> None:
        model = small(scales=(3,), gsfe_layers=(1, 1), mff=None)
        keys = list(model.state_dict())
        assert keys[:10] == [
            "e3d.convolutions.0.convolution.weight",
            "e3d.convolutions.1.convolution.weight",
            "e3d.convolutions.2.convolution.weight",
            "e3d.convolutions.3.convolution.weight",
            "lmfe.scale_3.convolution1.weight",
            "lmfe.scale_3.convolution1.bias",
            "lmfe.scale_3.convolution2.weight",
            "lmfe.scale_3.convolution2.bias",
            "mapping.weight",
            "local_identity_linear.weight",
        ]
        assert "gsfe.decoder.0.cross_attention.query.weight" in keys
        assert keys[-1] == "global_identity_linear.weight"

    @pytest.mark.parametrize(
        "switches",
        [
            pytest.param({}, id="default"),
            pytest.param({"mff": "attention", "window": "stacked"}, id="attention"),
            pytest.param({"channels": (1, 1, 1, 1), "gsfe_heads": 1}, id="one-channel"),
        ],
    )
    def test_gradients_have_the_strides_of_their_weights(self, switches: dict[str, Any]) -> None:
        # DDP warns of others, and safetensors refuses weights that are not contiguous.
        model = small(**switches)
        output = model(clips())
        sum(branch.logits.sum() for branch in output.branches.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.is_contiguous(), name
            assert parameter.grad is not None, name
            assert parameter.grad.stride() == parameter.stride(), name

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            pytest.param(clips()[0], "got 4 dimensions", id="rank"),
            pytest.param(clips(c=3), "got 3 channels.*expected 1", id="channels"),
            pytest.param(clips(h=8), "got frames of 8x8 px.*expected 16x8", id="height"),
            pytest.param(clips(t=0), "got clips of 0 frames, expected at least 1", id="length"),
            pytest.param((clips() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(clips() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"LMGCS: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, "num_subjects", id="no-subjects"),
            pytest.param({"channels": (2, 2, 2)}, "channels", id="three-widths"),
            pytest.param({"channels": (2, 2, 0, 2)}, "at least 1", id="no-channels"),
            pytest.param({"embedding_dim": 0}, "embedding_dim", id="no-embedding"),
            pytest.param({"num_strips": 3}, "num_strips .3.*4 rows", id="strips-do-not-divide"),
            pytest.param({"input_size_px": (18, 8)}, "input_size_px", id="height"),
            pytest.param({"input_size_px": (16, 2)}, "input_size_px", id="width"),
            pytest.param({"hpm": "max"}, "hpm", id="unknown-mapping"),
            pytest.param({"scales": ()}, "scales", id="no-scales"),
            pytest.param({"scales": (1, 2)}, "scales", id="even-scale"),
            pytest.param({"scales": (3, 1)}, "scales", id="scales-fall"),
            pytest.param({"scales": (3, 3)}, "scales", id="scale-twice"),
            pytest.param({"window": "loose"}, "window", id="unknown-window"),
            pytest.param({"mff": "mean"}, "mff", id="unknown-fusion"),
            pytest.param({"mff": "attention", "scales": (3,)}, "weigh", id="nothing-to-fuse"),
            pytest.param({"gsfe_layers": (0, 0)}, "num_layers", id="no-layers"),
            pytest.param({"gsfe_heads": 3}, "num_heads", id="heads-do-not-divide"),
            pytest.param({"mapping": "both"}, "mapping", id="unknown-g"),
            pytest.param({"phase": "c"}, "phase", id="unknown-phase"),
            pytest.param({"phase": "b", "gsfe_layers": None}, "phase", id="b-without-gsfe"),
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


def steps(model: LMGCS, frames: Tensor, labels: Tensor, count: int) -> list[dict[str, float]]:
    """Train as a phase does; per step and branch the active triplets and the cross-entropy."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = []
    for _ in range(count):
        loss, values = torch.zeros(()), {}
        for name, branch in model(frames).branches.items():
            triplet = TripletLoss(0.2)(branch.triplet_features, labels)
            identity = IdentityLoss()(branch.logits, labels)
            loss = loss + triplet.loss + identity.loss
            values |= {
                f"active_{name}": float(triplet.active_ratio),
                f"identity_{name}": float(identity.loss.detach()),
                f"accuracy_{name}": float(identity.accuracy),
            }
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(values)
    return history


def nearest_is_own(model: LMGCS, frames: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        embedding = model.eval()(frames).embedding.transpose(0, 1)  # [p, n, d]
    distances = torch.cdist(embedding, embedding).mean(dim=0)
    distances.fill_diagonal_(torch.inf)
    return float((labels[distances.argmin(dim=1)] == labels).float().mean())


def test_an_eighth_of_the_width_learns_one_batch_in_two_phases() -> None:
    frames, labels = walking_outlines(num_subjects=4, num_clips=2, num_frames=5)
    options: dict[str, Any] = {
        **casiab_plan(width=0.125),
        "gsfe_layers": (1, 1),
        "gsfe_heads": 4,
        "gsfe_width": 64,
        "embedding_dim": 32,
    }
    torch.manual_seed(0)
    a = LMGCS(4, phase="a", **options)
    history = steps(a, frames, labels, 40)
    assert history[0]["active_local"] > 0.2
    assert history[0]["identity_local"] == pytest.approx(math.log(4), rel=0.05)
    assert history[-1]["active_local"] < 0.05 * history[0]["active_local"]
    assert history[-1]["identity_local"] < 0.85 * history[0]["identity_local"]
    assert history[-1]["accuracy_local"] == 1.0
    assert nearest_is_own(a, frames, labels) == 1.0

    b = LMGCS(4, phase="b", **options)
    b.load_state_dict(a.state_dict())
    history = steps(b, frames, labels, 40)
    assert history[-1]["active_global"] < 0.2 * history[0]["active_global"]
    assert history[-1]["identity_global"] < 0.7 * history[0]["identity_global"]
    assert history[-1]["accuracy_global"] == 1.0
    assert nearest_is_own(b, frames, labels) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["a", "b", "joint"])
def test_the_full_network_steps(phase: str) -> None:
    torch.manual_seed(0)
    model = LMGCS(74, phase=phase, **casiab_plan())  # type: ignore[arg-type]
    frames, labels = walking_outlines(num_subjects=2, num_clips=2, num_frames=30)
    history = steps(model, frames, labels, 2)
    assert all(math.isfinite(value) for values in history for value in values.values())
    assert model(frames).embedding.shape == (4, 48, 256)
