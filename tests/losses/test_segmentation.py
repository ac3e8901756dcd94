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
    logits = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    masks = torch.rand(shape, dtype=torch.float64, generator=generator)  # grey ones too
    loss = SegmentationLoss()(logits, masks).loss
    expected = literal_cross_entropy(1 / (1 + (-logits).exp()), masks)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    )


def test_logits_that_say_nothing_cost_the_logarithm_of_two() -> None:
    result = SegmentationLoss()(torch.zeros(1, 1, 2, 4, 4), torch.ones(1, 1, 2, 4, 4))
    assert float(result.loss) == pytest.approx(math.log(2))


@pytest.mark.parametrize("certainty", [20.0, 60.0, 1e4])
def test_a_pixel_that_is_wrong_and_sure_of_it_is_pulled_as_hard_as_any(certainty: float) -> None:
    logits = torch.tensor([certainty, -certainty]).view(1, 1, 1, 1, 2).requires_grad_()
    for truth, wrong in ((0.0, 0), (1.0, 1)):
        loss = SegmentationLoss()(logits, torch.full((1, 1, 1, 1, 2), truth)).loss
        (gradient,) = torch.autograd.grad(loss, logits)
        assert float(loss.detach()) == pytest.approx(certainty / 2)
        pull = gradient.flatten().tolist()
        assert pull[wrong] == pytest.approx(0.5 if truth == 0 else -0.5)
        assert abs(pull[1 - wrong]) < 1e-8


def test_iou_is_of_each_frame_and_an_empty_one_that_is_found_empty_counts_as_whole() -> None:
    found = masks_of([[0.9, 0.6], [0.4, 0.1]], [[0.9, 0.9], [0.9, 0.9]], [[0.1, 0.2], [0.3, 0.4]])
    truth = masks_of([[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    result = SegmentationLoss()(found.logit(), truth)
    assert float(result.iou) == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert float(result.accuracy) == pytest.approx(10 / 12)


def test_a_frame_that_is_missed_and_one_that_is_invented_have_an_iou_of_zero() -> None:
    found = masks_of([[0.1, 0.1]], [[0.9, 0.1]])
    truth = masks_of([[1.0, 1.0]], [[0.0, 0.0]])
    assert float(SegmentationLoss()(found.logit(), truth).iou) == 0.0


def test_only_the_loss_carries_a_gradient() -> None:
    logits = torch.randn(1, 1, 1, 2, 2).requires_grad_()
    result = SegmentationLoss()(logits, torch.ones(1, 1, 1, 2, 2))
    assert [value.requires_grad for value in result] == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 1, 3, 4, 4).to(dtype)
    masks = (torch.rand(2, 1, 3, 4, 4) > 0.5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = SegmentationLoss()(logits, masks)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result, SegmentationLoss()(logits.float(), masks))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        pytest.param(255.0, r"masks in 255\.\.255.*divide uint8", id="bytes"),
        pytest.param(-0.5, r"masks in -0\.5", id="negative"),
        pytest.param(math.nan, "masks in nan", id="not-a-number"),
    ],
)
def test_masks_out_of_range_are_refused(masks: float, message: str) -> None:
    shape = (1, 1, 1, 2, 2)
    with pytest.raises(ModelInputError, match=message):
        SegmentationLoss()(torch.zeros(shape), torch.full(shape, masks))


@pytest.mark.parametrize(
    ("logits", "masks"),
    [
        pytest.param((2, 1, 4, 4), (2, 1, 4, 4), id="frames-without-a-clip"),
        pytest.param((2, 1, 3, 4, 4), (2, 1, 3, 8, 8), id="another-size"),
        pytest.param((2, 1, 3, 4, 4), (2, 3, 4, 4), id="masks-without-channel"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    logits: tuple[int, ...], masks: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"got logits \(2, 1.*expected \[clips, 1"):
        SegmentationLoss()(torch.rand(logits), torch.rand(masks))
