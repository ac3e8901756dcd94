"""Cross-entropy over subjects, part by part: the identity loss of the gait papers.

GaitGL Eq. 12 and the other papers name it without a formula. `scale` and `smoothing` cover what
public code of the field does: 1 and 0 for GaitGL, 16 and 0.1 where the logits are cosines.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from raygait.errors import ModelInputError


class IdentityResult(NamedTuple):
    """What the identity loss says about a batch. Only `loss` carries a gradient.

    Attributes:
        loss: Mean cross-entropy over clips and parts.
        accuracy: Share of clips whose highest logit, averaged over the parts, is their subject's.
    """

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class IdentityLoss(nn.Module):
    """Softmax cross-entropy, each part on its own, then the mean over clips and parts.

    Args:
        scale: Factor on the logits, > 0. Logits that are cosines need a large one, 16 or so, as
            softmax could not come near 1 otherwise.
        smoothing: Share of the target spread evenly over all subjects, 0..1. A higher one trusts
            the labels less.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, scale: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale ({scale}) must be positive")
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"smoothing ({smoothing}) must be between 0 and 1")
        self.scale = scale
        self.smoothing = smoothing

    def forward(self, logits: Float[Tensor, "n p k"], labels: Int[Tensor, " n"]) -> IdentityResult:
        """Compare logits with labels.

        Args:
            logits: One score per clip, part and subject. Half precision is computed in float32.
            labels: Index of each clip's subject, 0..k-1.

        Returns:
            The loss and the accuracy.

        Raises:
            ValueError: The shapes do not fit.
            ModelInputError: A label is not in 0..k-1.
        """
        if logits.ndim != 3 or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"identity loss: got logits {tuple(logits.shape)} and labels "
                f"{tuple(labels.shape)}, expected [clips, parts, subjects] and [clips]"
            )
        num_parts, num_subjects = logits.shape[1:]
        # On a GPU cross_entropy would end the process's use of the device instead.
        low, high = torch.stack(torch.aminmax(labels)).tolist()
        if low < 0 or high >= num_subjects:
            raise ModelInputError(
                f"identity loss: got labels in {low}..{high}, expected 0..{num_subjects - 1}; "
                "the model was built for fewer subjects than the data has, or the labels are not "
                "indices"
            )
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        loss = F.cross_entropy(
            logits.flatten(0, 1) * self.scale,
            labels.long().repeat_interleave(num_parts),
            label_smoothing=self.smoothing,
        )
        with torch.no_grad():
            accuracy = (logits.mean(dim=1).argmax(dim=-1) == labels).float().mean()
        return IdentityResult(loss=loss, accuracy=accuracy)
