"""`GaitOutput`: what every recogniser returns, whatever its paper calls the parts."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Branch(NamedTuple):
    """What one branch of a network is trained by.

    Attributes:
        triplet_features: `[n, p, d]`, what a metric loss is computed on. The model's file says
            whether this is the embedding itself.
        logits: `[n, p, k]`, one unscaled score per part and training subject. `None` in a network
            that has no classifier and is trained by triplets alone.
    """

    triplet_features: Float[Tensor, "n p d"]
    logits: Float[Tensor, "n p k"] | None


class GaitOutput(NamedTuple):
    """The result of one forward pass over `n` clips.

    Attributes:
        embedding: `[n, p, d]`, what identification and the benchmarks compare. The distance of
            two clips is the mean over the `p` parts of the Euclidean distance.
        branches: Name -> branch, at least one; the loss is the sum over them. A network with one
            calls it `main`.
        mask_logits: `[n, 1, t, h, w]`, where the network also segments: what a segmentation loss
            is computed on. The sigmoid of one is the probability that the pixel is the person.
    """

    embedding: Float[Tensor, "n p d"]
    branches: dict[str, Branch]
    mask_logits: Float[Tensor, "n 1 t h w"] | None = None
