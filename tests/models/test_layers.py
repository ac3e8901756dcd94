import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raygait.errors import ModelInputError
from raygait.models.layers import (
    BatchNormNeck,
    Convolution2d,
    GeneralizedMean,
    PartPooling,
    PerFrame,
    ResidualBlock2d,
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


@pytest.mark.parametrize(("channels", "stride"), [(4, 2), (12, 2), (16, 2), (4, 1)])
def test_a_kernel_of_one_pixel_equals_a_matrix_product_in_values_and_gradients(
    channels: int, stride: int
) -> None:
    # Of under 16 channels, a stride and maps of this size oneDNN's gradient left its buffers.
    convolution = Convolution2d(channels, 8, 1, stride=stride)
    frames = torch.randn(6, channels, 64, 44).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(6, 8, 64 // stride, 44 // stride)
    (convolution(frames.requires_grad_()) * weights).sum().backward()

    literal_frames = frames.detach().clone().requires_grad_()
    kernel = convolution.weight.detach()[:, :, 0, 0].clone().requires_grad_()
    seen = literal_frames[:, :, ::stride, ::stride]
    (torch.einsum("dc,mchw->mdhw", kernel, seen) * weights).sum().backward()

    torch.testing.assert_close(frames.grad, literal_frames.grad)
    assert convolution.weight.grad is not None
    torch.testing.assert_close(
        convolution.weight.grad[:, :, 0, 0], kernel.grad, rtol=1e-4, atol=1e-3
    )


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


def assert_same(result: list[Tensor], expected: list[Tensor], wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    generator = torch.Generator().manual_seed(1)
    pulls = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in result]
    torch.testing.assert_close(
        torch.autograd.grad(result, wanted, pulls), torch.autograd.grad(expected, wanted, pulls)
    )


def unsettled(block: nn.Module) -> nn.Module:
    """The block in float64, its norms with weights other than the 1 and 0 of a new one."""
    torch.manual_seed(0)
    for module in block.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return block.double()


def literal_batch_norm(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Channel by channel, each over everything else, as batch norm is in training."""
    channels = []
    for index in range(values.shape[1]):
        channel = values[:, index]
        mean = channel.sum() / channel.numel()
        variance = ((channel - mean) ** 2).sum() / channel.numel()
        scaled = (channel - mean) / (variance + 1e-5).sqrt()
        channels.append(scaled * weight[index] + bias[index])
    return torch.stack(channels, dim=1)


def literal_neck(neck: BatchNormNeck, features: Tensor) -> tuple[Tensor, Tensor]:
    """Every feature of every part has a norm of its own, every logit is a cosine."""
    clips, parts, length = features.shape
    weight, bias = neck.norm.weight.view(parts, length), neck.norm.bias.view(parts, length)
    normed = torch.stack(
        [literal_batch_norm(features[:, p], weight[p], bias[p]) for p in range(parts)], dim=1
    )
    rows, logits = [], []
    for clip, part in itertools.product(range(clips), range(parts)):
        row = normed[clip, part]
        rows.append(row / (row @ row).sqrt())
        for subject in range(neck.identity_linear.weight.shape[2]):
            weight = neck.identity_linear.weight[part, :, subject]
            logits.append(rows[-1] @ weight / (weight @ weight).sqrt())
    return torch.stack(rows).view_as(features), torch.stack(logits).view(clips, parts, -1)


def test_neck_equals_a_loop_over_clips_parts_and_subjects_in_values_and_gradients() -> None:
    neck = unsettled(BatchNormNeck(3, 4, 5))
    assert isinstance(neck, BatchNormNeck)
    features = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    expected = literal_neck(neck, features)
    assert_same(list(neck(features)), list(expected), [features, *neck.parameters()])


def test_neck_gives_unit_vectors_and_cosines_of_any_input() -> None:
    neck = BatchNormNeck(2, 3, 4)
    normed, logits = neck(100 * torch.randn(8, 2, 3))
    torch.testing.assert_close(normed.norm(dim=-1), torch.ones(8, 2))
    assert float(logits.detach().abs().max()) <= 1 + 1e-6
    nn.init.zeros_(neck.norm.weight)
    assert torch.isfinite(neck(torch.zeros(8, 2, 3))[0]).all()


def test_neck_of_one_part_is_blind_to_the_others() -> None:
    neck = BatchNormNeck(3, 4, 5)
    features = torch.randn(6, 3, 4)
    changed = features.clone()
    changed[:, 1] = torch.randn(6, 4)
    for before, after in zip(neck(features), neck(changed), strict=True):
        same = (before == after).all(dim=0).all(dim=-1)
        assert same.tolist() == [True, False, True]


def test_neck_in_evaluation_uses_what_it_has_seen_in_training() -> None:
    neck = BatchNormNeck(2, 3, 4)
    for _ in range(100):
        neck(5 + 2 * torch.randn(64, 2, 3))
    torch.testing.assert_close(neck.norm.running_mean, torch.full((6,), 5.0), rtol=0, atol=0.5)
    neck.eval()
    features = 5 + 2 * torch.randn(4, 2, 3)
    alone = torch.cat([neck(features[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(neck(features)[0], alone)


def test_per_frame_equals_a_loop_over_clips_and_frames_in_values_and_gradients() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 3, 2, 1).double()
    clips = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    frames = [
        torch.stack([network(clips[n, :, t][None])[0] for t in range(4)], dim=1) for n in range(2)
    ]
    wanted = [clips, *network.parameters()]
    assert_same([PerFrame(network)(clips)], [torch.stack(frames)], wanted)


def test_per_frame_norms_over_the_frames_of_all_clips() -> None:
    norm = unsettled(nn.BatchNorm2d(3))
    clips = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    assert_same(
        [PerFrame(norm)(clips)], [literal_batch_norm(clips, norm.weight, norm.bias)], [clips]
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_per_frame_keeps_clips_channels_last(channels: int) -> None:
    clips = torch.rand(2, channels, 3, 4, 5)
    block = PerFrame(Convolution2d(channels, 6, 3))
    result = block(channels_last(clips))
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(result, block(clips))


def literal_convolution2d(images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Output pixel by output pixel; what lies outside the image is zero."""
    _, _, height, width = images.shape
    kernel = weight.shape[2]
    margin = kernel // 2
    rows = []
    for top in range(-margin, height - kernel + margin + 1, stride):
        pixels = []
        for left in range(-margin, width - kernel + margin + 1, stride):
            total = torch.zeros(len(images), len(weight), dtype=images.dtype)
            for i, j in itertools.product(range(kernel), range(kernel)):
                if 0 <= top + i < height and 0 <= left + j < width:
                    total = total + images[:, :, top + i, left + j] @ weight[:, :, i, j].T
            pixels.append(total)
        rows.append(torch.stack(pixels, dim=-1))
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2), (5, 1)])
def test_convolution_2d_equals_a_loop_over_pixels_in_values_and_gradients(
    kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    convolution = Convolution2d(2, 3, kernel, stride=stride).double()
    images = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    expected = literal_convolution2d(images, convolution.weight, stride)
    assert_same([convolution(images)], [expected], [images, convolution.weight])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_convolution_2d_has_gradients_with_the_strides_of_its_weight(
    channels: int, kernel: int
) -> None:
    # DDP warns of others.
    convolution = Convolution2d(channels, 3, kernel)
    images = torch.rand(2, 4, 5, channels).permute(0, 3, 1, 2)
    convolution(images).sum().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.stride() == convolution.weight.stride()


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride"),
    [
        pytest.param(3, 3, 1, id="identity"),
        pytest.param(2, 3, 1, id="other-channels"),
        pytest.param(3, 3, 2, id="other-size"),
        pytest.param(2, 3, 2, id="both"),
    ],
)
def test_residual_block_equals_its_formula_in_values_and_gradients(
    in_channels: int, out_channels: int, stride: int
) -> None:
    block = unsettled(ResidualBlock2d(in_channels, out_channels, stride=stride))
    assert isinstance(block, ResidualBlock2d)
    images = torch.randn(3, in_channels, 4, 5, dtype=torch.float64, requires_grad=True)
    beside = images
    if block.shortcut is not None:
        beside = literal_convolution2d(images, block.shortcut[0].weight, stride)
        beside = literal_batch_norm(beside, *block.shortcut[1].parameters())
    x = literal_convolution2d(images, block.convolution1.weight, stride)
    x = literal_batch_norm(x, *block.norm1.parameters())
    x = torch.where(x > 0, x, 0)
    x = literal_convolution2d(x, block.convolution2.weight, 1)
    x = literal_batch_norm(x, *block.norm2.parameters()) + beside
    expected = torch.where(x > 0, x, 0)
    assert_same([block(images)], [expected], [images, *block.parameters()])
    assert (block.shortcut is None) is (in_channels == out_channels and stride == 1)


def test_residual_block_leaves_its_input_as_it_is() -> None:
    images = torch.randn(2, 3, 4, 5)
    before = images.clone()
    ResidualBlock2d(3, 3)(images)
    assert torch.equal(images, before)


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
