"""The triplet loss of the gait papers: batch-all, part by part.

GaitGL Eq. 13 and LMGCS Eq. 10-11 print the two distances the wrong way round: minimising what
they print would push clips of one subject apart. Here, as in Hermans, Beyer, Leibe, "In Defense
of the Triplet Loss for Person Re-Identification", https://arxiv.org/abs/1703.07737, Eq. 6::

    [D(anchor, positive) - D(anchor, negative) + margin]+

Where the papers are silent
    Mean           Over the triplets of a part whose term is not zero (a batch's easy triplets
                   would drown the rest), then over the parts.
    Own positive   A clip is not its own positive: such a pair has distance 0 and no gradient, and
                   its terms only keep negatives a margin away. `anchor_is_positive` counts them,
                   as public code of the field does; it matters while embeddings are tiny.
    Squares        Euclidean distance; LGDiffGait Eq. 6 squares it: `squared`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class TripletResult(NamedTuple):
    """What the triplet loss says about a batch. Only `loss` carries a gradient.

    Attributes:
        loss: The loss; 0 if no triplet violates the margin or the batch holds none.
        active_ratio: Share of triplets that violate the margin, over all parts.
        mean_positive: Mean distance of two clips of one subject, a clip and itself left out.
        mean_negative: Mean distance of clips of two subjects. It and `mean_positive` are 0 where
            the batch has no such pair.
    """

    loss: Float[Tensor, ""]
    active_ratio: Float[Tensor, ""]
    mean_positive: Float[Tensor, ""]
    mean_negative: Float[Tensor, ""]


class TripletLoss(nn.Module):
    """Batch-all triplet loss over every anchor, positive and negative of a batch.

    Subjects may have any number of clips. Under several workers give it the clips of all of
    them: triplets across workers count like the others.

    Args:
        margin: m, by how much a negative must be farther away than a positive. A higher one keeps
            more triplets active.
        squared: Compare squared distances (LGDiffGait Eq. 6). The margin is then one of squares.
        anchor_is_positive: Count each clip as a positive of itself too.

    Raises:
        ValueError: The margin is negative.
    """

    def __init__(
        self, margin: float = 0.2, *, squared: bool = False, anchor_is_positive: bool = False
    ) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin ({margin}) must not be negative")
        self.margin = margin
        self.squared = squared
        self.anchor_is_positive = anchor_is_positive

    def forward(self, features: Float[Tensor, "n p d"], labels: Int[Tensor, " n"]) -> TripletResult:
        """Compare all clips with each other.

        Args:
            features: One vector per clip and part. Half precision is computed in float32.
            labels: Subject of each clip, any integers.

        Returns:
            The loss and its statistics.

        Raises:
            ValueError: The shapes do not fit.
        """
        if features.ndim != 3 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"triplet loss: got features {tuple(features.shape)} and labels "
                f"{tuple(labels.shape)}, expected [clips, parts, features] and [clips]"
            )
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        distances = _pairwise_distances(features.transpose(0, 1), squared=self.squared)  # [p, n, n]

        same = labels[:, None] == labels[None, :]
        other = ~same
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        pairs = same if self.anchor_is_positive else same & ~itself
        # One row per (anchor, positive): far fewer than the n^3 of all triples.
        anchors, positives = pairs.nonzero(as_tuple=True)
        negatives = distances.masked_fill(same, torch.inf)  # no violation, whatever the positive
        violations = distances[:, anchors, positives, None] - negatives[:, anchors] + self.margin
        terms = violations.relu()  # [p, pairs, n]
        num_active = terms.count_nonzero(dim=(1, 2))
        loss = (terms.sum(dim=(1, 2)) / num_active.clamp(min=1)).mean()

        with torch.no_grad():
            num_triplets = other[anchors].sum() * features.shape[1]
            return TripletResult(
                loss=loss,
                active_ratio=num_active.sum() / num_triplets.clamp(min=1),
                mean_positive=_mean_over(distances, same & ~itself),
                mean_negative=_mean_over(distances, other),
            )


def _pairwise_distances(
    features: Float[Tensor, "p n d"], *, squared: bool
) -> Float[Tensor, "p n n"]:
    # From the differences, not from |x|^2 + |y|^2 - 2xy: that loses half the digits of clips
    # that are near each other. cdist's gradient at distance 0 is 0, where the square root has
    # none. Part by part, because on a GPU its backward pass stores all differences of a call.
    distances = torch.stack(
        [torch.cdist(part, part, compute_mode="donot_use_mm_for_euclid_dist") for part in features]
    )
    return distances.square() if squared else distances


def _mean_over(distances: Float[Tensor, "p n n"], pairs: Tensor) -> Tensor:
    return (distances * pairs).sum() / (pairs.sum() * len(distances)).clamp(min=1)
