import math

import pytest
import torch
from torch import Tensor

from raygait.errors import ModelInputError
from raygait.losses.segmentation import SegmentationLoss


def literal_cross_entropy(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Each pixel's term by itself."""
    total = probabilities.sum() * 0
    for p, truth in zip(probabilities.flatten(), masks.flatten(), strict=True):
        total = total - truth * p.log() - (1 - truth) * (1 - p).log()
    return total / probabilities.numel()


def masks_of(*frames: list[list[float]]) -> Tensor:
    """One clip of these frames."""
    return torch.tensor(frames)[None, None]


def test_segmentation_loss_equals_a_loop_in_values_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, 3, 4, 2)
    probabilities = torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()
    masks = torch.rand(shape, dtype=torch.float64, generator=generator)  # grey ones too
    loss = SegmentationLoss()(probabilities, masks).loss
    expected = literal_cross_entropy(probabilities, masks)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, probabilities), torch.autograd.grad(expected, probabilities)
    )


def test_probabilities_that_say_nothing_cost_the_logarithm_of_two() -> None:
    result = SegmentationLoss()(torch.full((1, 1, 2, 4, 4), 0.5), torch.ones(1, 1, 2, 4, 4))
    assert float(result.loss) == pytest.approx(math.log(2))


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_certainty_costs_nothing_where_right_and_something_finite_where_wrong(truth: float) -> None:
    probabilities = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2).requires_grad_()
    masks = torch.full((1, 1, 1, 1, 2), truth)
    loss = SegmentationLoss()(probabilities, masks).loss
    (gradient,) = torch.autograd.grad(loss, probabilities)
    assert 10 < float(loss.detach()) < 1000
    assert gradient.isfinite().all()
    assert float(SegmentationLoss()(masks, masks).loss) == 0.0


def test_iou_is_of_each_frame_and_an_empty_one_that_is_found_empty_counts_as_whole() -> None:
    found = masks_of([[0.9, 0.6], [0.4, 0.1]], [[0.9, 0.9], [0.9, 0.9]], [[0.1, 0.2], [0.3, 0.4]])
    truth = masks_of([[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    result = SegmentationLoss()(found, truth)
    assert float(result.iou) == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert float(result.accuracy) == pytest.approx(10 / 12)


def test_a_frame_that_is_missed_and_one_that_is_invented_have_an_iou_of_zero() -> None:
    found = masks_of([[0.1, 0.1]], [[0.9, 0.1]])
    truth = masks_of([[1.0, 1.0]], [[0.0, 0.0]])
    assert float(SegmentationLoss()(found, truth).iou) == 0.0


def test_only_the_loss_carries_a_gradient() -> None:
    probabilities = torch.rand(1, 1, 1, 2, 2).requires_grad_()
    result = SegmentationLoss()(probabilities, torch.ones(1, 1, 1, 2, 2))
    assert [value.requires_grad for value in result] == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    probabilities = torch.rand(2, 1, 3, 4, 4).to(dtype)
    masks = (torch.rand(2, 1, 3, 4, 4) > 0.5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = SegmentationLoss()(probabilities, masks)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result, SegmentationLoss()(probabilities.float(), masks))


@pytest.mark.parametrize(
    ("probabilities", "masks", "message"),
    [
        pytest.param(1.5, 1.0, r"probabilities in 1\.5\.\.1\.5", id="logits"),
        pytest.param(-0.5, 1.0, r"probabilities in -0\.5", id="negative"),
        pytest.param(math.nan, 1.0, "probabilities in nan", id="not-a-number"),
        pytest.param(0.5, 255.0, r"masks in 255\.\.255.*divide uint8", id="bytes"),
        pytest.param(0.5, math.nan, "masks in nan", id="mask-not-a-number"),
    ],
)
def test_values_out_of_range_are_refused(probabilities: float, masks: float, message: str) -> None:
    shape = (1, 1, 1, 2, 2)
    with pytest.raises(ModelInputError, match=message):
        SegmentationLoss()(torch.full(shape, probabilities), torch.full(shape, masks))


@pytest.mark.parametrize(
    ("probabilities", "masks"),
    [
        pytest.param((2, 1, 4, 4), (2, 1, 4, 4), id="frames-without-a-clip"),
        pytest.param((2, 1, 3, 4, 4), (2, 1, 3, 8, 8), id="another-size"),
        pytest.param((2, 1, 3, 4, 4), (2, 3, 4, 4), id="masks-without-channel"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    probabilities: tuple[int, ...], masks: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"got probabilities \(2, 1.*expected \[clips, 1"):
        SegmentationLoss()(torch.rand(probabilities), torch.rand(masks))
