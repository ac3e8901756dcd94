import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raygait.errors import ModelInputError
from raygait.models.layers import (
    GeneralizedMean,
    PartPooling,
    SeparateLinear,
    channels_last,
    check_frames,
    temporal_max,
)


def test_eq7_temporal_max_equals_a_loop_over_frames() -> None:
    features = torch.randn(2, 3, 5, 4, 2)
    expected = features[:, :, 0]
    for frame in range(1, 5):
        expected = torch.maximum(expected, features[:, :, frame])
    torch.testing.assert_close(temporal_max(features), expected, rtol=0, atol=0)


def test_temporal_max_does_not_depend_on_the_order_of_frames() -> None:
    features = torch.randn(2, 3, 5, 4, 2)
    shuffled = features[:, :, torch.tensor([3, 0, 4, 1, 2])]
    torch.testing.assert_close(temporal_max(shuffled), temporal_max(features), rtol=0, atol=0)


def literal_gem(row: Tensor, power: Tensor) -> Tensor:
    """Eq. 10 for one row of values, as printed."""
    total = torch.zeros((), dtype=row.dtype)
    for value in row:
        total = total + value**power
    return (total / len(row)) ** (1 / power)


def test_eq10_gem_equals_its_formula_in_values_and_gradients() -> None:
    gem = GeneralizedMean(6.5).double()
    rows = torch.rand(3, 4, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 4, dtype=torch.float64)
    result = gem(rows)
    (result * weights).sum().backward()

    literal_rows = rows.detach().clone().requires_grad_()
    power = torch.tensor(6.5, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([literal_gem(row, power) for row in literal_rows.flatten(0, 1)])
    expected = expected.view(3, 4)
    (expected * weights).sum().backward()

    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(rows.grad, literal_rows.grad)
    torch.testing.assert_close(gem.power.grad, power.grad)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8),
    power=st.floats(1.0, 30.0),
)
def test_gem_lies_between_mean_and_maximum(values: list[float], power: float) -> None:
    row = torch.tensor(values, dtype=torch.float64)
    pooled = float(GeneralizedMean(power).double()(row).detach())
    assert float(row.mean()) * (1 - 1e-6) <= pooled <= float(row.max()) * (1 + 1e-6)


def test_gem_of_power_one_is_the_mean() -> None:
    row = torch.rand(5, 7) + 0.1
    torch.testing.assert_close(GeneralizedMean(1.0)(row), row.mean(dim=-1))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([0.0, 0.0, 0.0], id="background-only"),
        pytest.param([-2.0, -0.1, -5.0], id="all-negative"),
        pytest.param([1e-6, 0.0, 1e-7], id="at-the-floor"),
        pytest.param([1e4, 3e4, 0.0], id="larger-than-a-power-can-hold"),
    ],
)
@pytest.mark.parametrize("power", [6.5, 20.0])
def test_gem_is_finite_where_the_plain_formula_is_not(row: list[float], power: float) -> None:
    gem = GeneralizedMean(power)
    values = torch.tensor(row, requires_grad=True)
    pooled = gem(values)
    pooled.backward()
    assert values.grad is not None
    assert gem.power.grad is not None
    assert float(pooled.detach()) > 0
    assert pooled.isfinite()
    assert values.grad.isfinite().all()
    assert gem.power.grad.isfinite()


def test_gem_pools_half_precision_in_float32() -> None:
    values = torch.rand(4, 22).bfloat16()
    pooled = GeneralizedMean()(values)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, GeneralizedMean()(values.float()))


@pytest.mark.parametrize(
    ("power", "floor"), [pytest.param(0.0, 1e-6, id="power"), pytest.param(1.0, 0.0, id="floor")]
)
def test_gem_refuses_numbers_that_are_not_positive(power: float, floor: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        GeneralizedMean(power, floor=floor)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_parts", [8, 4, 1])
@pytest.mark.parametrize("mapping", ["max", "avg", "both", "gem"])
def test_eq8_to_10_part_pooling_equals_a_loop_over_parts(
    mapping: str, num_parts: int, memory_format: torch.memory_format
) -> None:
    features = torch.rand(2, 3, 8, 5, dtype=torch.float64) + 0.1
    pooling = PartPooling(num_parts, mapping).double()  # type: ignore[arg-type]
    power = torch.tensor(6.5, dtype=torch.float64)
    expected = torch.empty(2, num_parts, 3, dtype=torch.float64)
    rows = 8 // num_parts
    for clip in range(2):
        for part in range(num_parts):
            for channel in range(3):
                values = features[clip, channel, part * rows : (part + 1) * rows].flatten()
                expected[clip, part, channel] = {
                    "max": values.max(),
                    "avg": values.sum() / len(values),
                    "both": values.max() + values.sum() / len(values),
                    "gem": literal_gem(values, power),
                }[mapping]
    result = pooling(features.contiguous(memory_format=memory_format))
    torch.testing.assert_close(result.detach(), expected)


def test_only_gem_has_a_parameter() -> None:
    counts = {
        mapping: sum(p.numel() for p in PartPooling(4, mapping).parameters())  # type: ignore[arg-type]
        for mapping in ("max", "avg", "both", "gem")
    }
    assert counts == {"max": 0, "avg": 0, "both": 0, "gem": 1}


def test_part_pooling_refuses_a_height_that_does_not_divide() -> None:
    with pytest.raises(ModelInputError, match=r"got a map of 7 rows.*multiple of 4"):
        PartPooling(4, "max")(torch.rand(1, 1, 7, 3))


@pytest.mark.parametrize(
    ("num_parts", "mapping"),
    [pytest.param(0, "max", id="no-parts"), pytest.param(4, "median", id="unknown-mapping")],
)
def test_part_pooling_refuses_bad_arguments(num_parts: int, mapping: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        PartPooling(num_parts, mapping)  # type: ignore[arg-type]


def test_eq11_separate_linear_equals_a_loop_over_parts() -> None:
    linear = SeparateLinear(3, 4, 5).double()
    features = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    result = linear(features)
    weights = torch.randn_like(result)
    gradients = torch.autograd.grad((result * weights).sum(), (features, linear.weight))

    expected = torch.stack([features[:, p] @ linear.weight[p] for p in range(3)], dim=1)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), (features, linear.weight))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_separate_linear_starts_alike_for_any_number_of_parts() -> None:
    torch.manual_seed(0)
    bound = math.sqrt(6 / (64 + 32))
    for num_parts in (1, 64):
        weight = SeparateLinear(num_parts, 64, 32).weight.detach()
        assert float(weight.abs().max()) == pytest.approx(bound, rel=0.01)
        weight = SeparateLinear(num_parts, 64, 32, gain=0.1).weight.detach()
        assert float(weight.abs().max()) == pytest.approx(0.1 * bound, rel=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_moves_channels_together_and_changes_no_value(channels: int) -> None:
    frames = torch.rand(2, channels, 3, 4, 5)
    ordered = channels_last(frames)
    assert ordered.stride() == (3 * 4 * 5 * channels, 1, 4 * 5 * channels, 5 * channels, channels)
    torch.testing.assert_close(ordered, frames, rtol=0, atol=0)


GOOD = torch.zeros(2, 1, 4, 8, 6)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        pytest.param(GOOD[0], r"got 4 dimensions.*expected 5", id="no-batch-dimension"),
        pytest.param(GOOD.byte(), r"got torch.uint8.*floating", id="bytes"),
        pytest.param(GOOD[:0], r"got an empty batch", id="no-clips"),
        pytest.param(GOOD.expand(2, 3, 4, 8, 6), r"got 3 channels.*expected 1", id="colour"),
        pytest.param(GOOD[..., :4], r"got frames of 8x4 px.*expected 8x6", id="too-narrow"),
        pytest.param(GOOD[..., :4, :], r"got frames of 4x6 px.*expected 8x6", id="too-low"),
        pytest.param(GOOD[:, :, :2], r"got clips of 2 frames, expected at least 3", id="short"),
        pytest.param(GOOD * torch.nan, r"got values in nan..nan", id="not-a-number"),
        pytest.param(GOOD + torch.inf, r"got values in inf..inf", id="infinite"),
        pytest.param(GOOD + 255, r"got values in 255..255, expected finite", id="not-scaled"),
        pytest.param(GOOD - 0.5, r"got values in -0.5..-0.5", id="negative"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_what_was_got_and_expected(
    frames: Tensor, message: str
) -> None:
    with pytest.raises(ModelInputError, match=message):
        check_frames(frames, model="m", in_channels=1, input_size_px=(8, 6), min_frames=3)


def test_one_bad_pixel_is_found() -> None:
    frames = GOOD.clone()
    frames[1, 0, 2, 3, 4] = torch.nan
    with pytest.raises(ModelInputError, match="nan"):
        check_frames(frames, model="m", in_channels=1, input_size_px=(8, 6), min_frames=3)


def test_rounding_just_outside_the_range_is_accepted() -> None:
    check_frames(GOOD + 1.0000002, model="m", in_channels=1, input_size_px=(8, 6), min_frames=3)
