import pytest
import torch
from torch import Tensor

from raygait.losses.triplet import TripletLoss


def literal_triplet(
    features: Tensor,
    labels: Tensor,
    margin: float,
    *,
    squared: bool = False,
    anchor_is_positive: bool = False,
) -> tuple[Tensor, float]:
    """Every triplet of every part, one after the other (with the sign put right)."""
    num_clips, num_parts, _ = features.shape
    part_losses = []
    active = triplets = 0
    for part in range(num_parts):
        terms = []
        for anchor in range(num_clips):
            for positive in range(num_clips):
                if labels[anchor] != labels[positive]:
                    continue
                if anchor == positive and not anchor_is_positive:
                    continue
                for negative in range(num_clips):
                    if labels[negative] == labels[anchor]:
                        continue
                    apart = [
                        ((features[anchor, part] - features[other, part]) ** 2).sum()
                        for other in (positive, negative)
                    ]
                    if not squared:
                        # sqrt has no gradient at 0: a clip and itself are at distance 0, constant
                        apart = [d.sqrt() if d > 0 else d * 0 for d in apart]
                    triplets += 1
                    term = apart[0] - apart[1] + margin
                    if term > 0:
                        terms.append(term)
        active += len(terms)
        part_losses.append(torch.stack(terms).mean() if terms else features.sum() * 0)
    return torch.stack(part_losses).mean(), active / max(triplets, 1)


LABELS = {
    "equal-counts": [0, 0, 1, 1, 2, 2],
    "unequal-counts": [7, 7, 7, 3, 5, 5],
    "not-sorted": [1, 0, 1, 2, 0, 2],
}


@pytest.mark.parametrize("anchor_is_positive", [False, True])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(
    "spread", [pytest.param(1.0, id="apart"), pytest.param(0.03, id="within-the-margin")]
)
def test_eq13_batch_all_equals_a_loop_over_triplets_in_values_and_gradients(
    labels: list[int], squared: bool, anchor_is_positive: bool, spread: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 3, 4, dtype=torch.float64, generator=generator) * spread
    features.requires_grad_()
    subjects = torch.tensor(labels)
    loss_of = TripletLoss(0.2, squared=squared, anchor_is_positive=anchor_is_positive)
    result = loss_of(features, subjects)
    expected, active_ratio = literal_triplet(
        features, subjects, 0.2, squared=squared, anchor_is_positive=anchor_is_positive
    )
    torch.testing.assert_close(result.loss, expected)
    assert float(result.active_ratio) == pytest.approx(active_ratio)
    torch.testing.assert_close(
        torch.autograd.grad(result.loss, features), torch.autograd.grad(expected, features)
    )


def two_subjects(positive: float, negative: float) -> tuple[Tensor, Tensor]:
    """Two clips each of two subjects on a line: `positive` apart, the subjects `negative`."""
    places = torch.tensor([0.0, positive, negative, negative + positive])
    return places.view(4, 1, 1), torch.tensor([0, 0, 1, 1])


def test_near_positives_and_far_negatives_cost_nothing() -> None:
    result = TripletLoss()(*two_subjects(positive=0.0, negative=10.0))
    assert float(result.loss) == 0.0
    assert float(result.active_ratio) == 0.0


def test_far_positives_and_near_negatives_cost_their_difference_and_the_margin() -> None:
    features, labels = two_subjects(positive=10.0, negative=0.0)
    # Half the negatives are at distance 0, half at 10: (10.2 + 0.2) / 2.
    assert float(TripletLoss(0.2)(features, labels).loss) == pytest.approx(5.2)


def test_the_printed_sign_would_reward_what_should_cost() -> None:
    features, labels = two_subjects(positive=1.0, negative=3.0)
    features.requires_grad_()
    loss = TripletLoss(5.0)(features, labels).loss
    (gradient,) = torch.autograd.grad(loss, features)
    stepped = (features - 0.01 * gradient).detach().flatten()
    assert float(stepped[1] - stepped[0]) < 1.0
    assert float(stepped[2:].mean() - stepped[:2].mean()) > 3.0 - 1.0


def test_easy_triplets_do_not_dilute_the_mean() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    places = torch.tensor([0.0, 1.0, 0.9, 50.0]).view(4, 1, 1)
    result = TripletLoss(0.2)(places, labels)
    # Violations, anchor-positive minus anchor-negative plus 0.2: (0, 1, 2): 1 - 0.9, (1, 0, 2):
    # 1 - 0.1, (2, 3, 0): 49.1 - 0.9, (2, 3, 1): 49.1 - 0.1, (3, 2, 0): 49.1 - 50 is easy,
    # (3, 2, 1): 49.1 - 49; (0, 1, 3) and (1, 0, 3) are easy.
    active = [0.3, 1.1, 48.4, 49.2, 0.3]
    assert float(result.loss) == pytest.approx(sum(active) / 5, rel=1e-5)
    assert float(result.active_ratio) == pytest.approx(5 / 8)


def test_the_mean_is_per_part_first() -> None:
    easy, _ = two_subjects(positive=0.0, negative=10.0)
    hard, labels = two_subjects(positive=10.0, negative=0.0)
    loss_of = TripletLoss()
    both = loss_of(torch.cat([easy, hard], dim=1), labels).loss
    assert float(both) == pytest.approx(float(loss_of(hard, labels).loss) / 2)


def test_a_clip_as_its_own_positive_matters_while_embeddings_are_tiny() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 2, 4, generator=generator) * 0.02
    labels = torch.arange(4).repeat_interleave(2)
    apart = float(TripletLoss()(features, labels).loss)
    itself = float(TripletLoss(anchor_is_positive=True)(features, labels).loss)
    assert apart - itself > 0.01


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("anchor_is_positive", [False, True])
def test_identical_clips_have_finite_gradients(squared: bool, anchor_is_positive: bool) -> None:
    features = torch.ones(6, 2, 4, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    result = TripletLoss(squared=squared, anchor_is_positive=anchor_is_positive)(features, labels)
    result.loss.backward()
    assert float(result.loss.detach()) == pytest.approx(0.2)
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([0, 0, 0], id="one-subject"),
        pytest.param([0, 1, 2], id="one-clip-a-subject"),
        pytest.param([4], id="one-clip"),
    ],
)
def test_a_batch_without_triplets_is_zero_with_a_gradient_of_zero(labels: list[int]) -> None:
    features = torch.randn(len(labels), 2, 4, requires_grad=True)
    result = TripletLoss()(features, torch.tensor(labels))
    result.loss.backward()
    assert [float(value.detach()) for value in result[:2]] == [0.0, 0.0]
    assert features.grad is not None
    assert not features.grad.any()


def test_mean_distances_are_over_pairs_and_parts() -> None:
    features, labels = two_subjects(positive=1.0, negative=5.0)
    result = TripletLoss()(features, labels)
    assert float(result.mean_positive) == pytest.approx(1.0)
    assert float(result.mean_negative) == pytest.approx((5 + 6 + 4 + 5) / 4)


def test_only_the_loss_carries_a_gradient() -> None:
    features = torch.randn(4, 2, 3, requires_grad=True)
    result = TripletLoss()(features, torch.tensor([0, 0, 1, 1]))
    assert [value.requires_grad for value in result] == [True, False, False, False]


def test_the_order_of_clips_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 2, 3, generator=generator)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    order = torch.tensor([4, 0, 3, 5, 1, 2])
    torch.testing.assert_close(
        TripletLoss()(features[order], labels[order]), TripletLoss()(features, labels)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    features = torch.randn(6, 2, 3).to(dtype)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    result = TripletLoss()(features, labels)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result, TripletLoss()(features.float(), labels))


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        pytest.param(torch.rand(4, 3), torch.zeros(4).long(), id="without-parts"),
        pytest.param(torch.rand(4, 2, 3), torch.zeros(3).long(), id="a-label-too-few"),
        pytest.param(torch.rand(4, 2, 3), torch.zeros(4, 1).long(), id="labels-of-two-dimensions"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(features: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"got features \(4.*expected \[clips"):
        TripletLoss()(features, labels)


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin \(-0.1\)"):
        TripletLoss(-0.1)
