"""`GaitOutput`: what every recogniser returns, whatever its paper calls the parts."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class GaitOutput(NamedTuple):
    """The result of one forward pass over `n` clips.

    Attributes:
        embedding: `[n, p, d]`, what identification and the benchmarks compare. The distance of
            two clips is the mean over the `p` parts of the Euclidean distance.
        triplet_features: `[n, p, d]`, what a metric loss is computed on. The model's file says
            whether this is the embedding itself.
        logits: `[n, p, k]`, one unscaled score per part and training subject.
    """

    embedding: Float[Tensor, "n p d"]
    triplet_features: Float[Tensor, "n p d"]
    logits: Float[Tensor, "n p k"]
