import math

import pytest
import torch
from torch import Tensor

from raygait.errors import ModelInputError
from raygait.losses.identity import IdentityLoss


def literal_identity(logits: Tensor, labels: Tensor, scale: float, smoothing: float) -> Tensor:
    """Softmax, logarithm and smoothed target written out for each clip and part."""
    num_clips, num_parts, num_subjects = logits.shape
    total = logits.sum() * 0
    for clip in range(num_clips):
        for part in range(num_parts):
            exponentials = (scale * logits[clip, part]).exp()
            for subject in range(num_subjects):
                target = smoothing / num_subjects
                if subject == labels[clip]:
                    target += 1 - smoothing
                total = total - target * (exponentials[subject] / exponentials.sum()).log()
    return total / (num_clips * num_parts)


@pytest.mark.parametrize(("scale", "smoothing"), [(1.0, 0.0), (16.0, 0.1), (1.0, 0.1)])
def test_identity_loss_equals_a_loop_in_values_and_gradients(
    scale: float, smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.tensor([0, 4, 2, 2])
    loss = IdentityLoss(scale, smoothing)(logits, labels).loss
    expected = literal_identity(logits, labels, scale, smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    )


def test_logits_that_say_nothing_cost_the_logarithm_of_the_number_of_subjects() -> None:
    loss = IdentityLoss()(torch.zeros(2, 3, 10), torch.tensor([0, 9])).loss
    assert float(loss) == pytest.approx(math.log(10))


def test_accuracy_is_of_the_mean_over_parts() -> None:
    # Clip 0: one sure part outweighs two that would outvote it. Clip 1: here it does not, though
    # its logit is the highest.
    logits = torch.tensor(
        [[[0.0, 5.0], [1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [2.0, 0.0], [2.0, 0.0]]]
    )
    assert float(IdentityLoss()(logits, torch.tensor([1, 0])).accuracy) == 1.0
    assert float(IdentityLoss()(logits, torch.tensor([1, 1])).accuracy) == 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 3, 5).to(dtype)
    labels = torch.tensor([0, 1, 2, 3])
    result = IdentityLoss(16.0, 0.1)(logits, labels)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result, IdentityLoss(16.0, 0.1)(logits.float(), labels))


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        pytest.param([0, 5], r"0\.\.5", id="one-too-high"),
        pytest.param([-1, 2], r"-1\.\.2", id="negative"),
    ],
)
def test_labels_out_of_range_are_refused(labels: list[int], got: str) -> None:
    with pytest.raises(ModelInputError, match=rf"got labels in {got}, expected 0\.\.4"):
        IdentityLoss()(torch.zeros(2, 3, 5), torch.tensor(labels))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        pytest.param(torch.rand(4, 3), torch.zeros(4).long(), id="without-parts"),
        pytest.param(torch.rand(4, 2, 3), torch.zeros(3).long(), id="a-label-too-few"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(logits: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"got logits \(4.*expected \[clips"):
        IdentityLoss()(logits, labels)


@pytest.mark.parametrize(
    ("scale", "smoothing", "name"),
    [
        pytest.param(0.0, 0.0, "scale", id="scale-of-zero"),
        pytest.param(1.0, 1.5, "smoothing", id="smoothing-above-one"),
        pytest.param(1.0, -0.1, "smoothing", id="negative-smoothing"),
    ],
)
def test_numbers_out_of_range_are_refused(scale: float, smoothing: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        IdentityLoss(scale, smoothing)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_labels_may_be_integers_of_any_width(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    expected = IdentityLoss()(logits, torch.tensor([0, 1, 3])).loss
    assert torch.equal(IdentityLoss()(logits, torch.tensor([0, 1, 3], dtype=dtype)).loss, expected)
