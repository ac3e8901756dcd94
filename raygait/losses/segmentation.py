"""Binary cross-entropy of a mask: GaitEdge's L_seg (section 5.1).

Where the paper is silent
    Mean     Over all pixels of all frames.
    Truth    Masks may be grey at the outline, as resized ones are; a pixel's target is its grey.
    Logits   The loss is of what the sigmoid is taken of: a probability that is rounded to 0 or 1
             would have no gradient left, however wrong it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.errors import ModelInputError


class SegmentationResult(NamedTuple):
    """What the segmentation loss says about a batch. Only `loss` carries a gradient.

    Attributes:
        loss: Mean binary cross-entropy over clips, frames and pixels.
        iou: Intersection over union of the pixels taken for the person with the rounded masks,
            frame by frame, then the mean. A frame where both are empty counts as 1.
        accuracy: Share of pixels that are on the right side of one half.
    """

    loss: Float[Tensor, ""]
    iou: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class SegmentationLoss(nn.Module):
    """Binary cross-entropy, pixel by pixel, of the probability that a pixel is the person."""

    def forward(
        self, logits: Float[Tensor, "n 1 t h w"], masks: Float[Tensor, "n 1 t h w"]
    ) -> SegmentationResult:
        """Compare a segmentation with masks.

        Args:
            logits: One a pixel; their sigmoid is the probability. Half precision is computed in
                float32.
            masks: 0..1, the truth.

        Returns:
            The loss and its statistics.

        Raises:
            ValueError: The shapes do not fit.
            ModelInputError: A mask's value is not in 0..1.
        """
        if logits.ndim != 5 or masks.shape != logits.shape:
            raise ValueError(
                f"segmentation loss: got logits {tuple(logits.shape)} and masks "
                f"{tuple(masks.shape)}, expected [clips, 1, frames, height, width] twice"
            )
        low, high = torch.stack(torch.aminmax(masks.detach())).tolist()
        # Written so that NaN is refused as well.
        if not (low >= 0 and high <= 1):
            raise ModelInputError(
                f"segmentation loss: got masks in {low:g}..{high:g}, expected 0..1 (divide uint8 "
                "masks by 255)"
            )
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        masks = masks.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, masks)
        with torch.no_grad():
            found, true = logits > 0, masks > 0.5
            both = (found & true).sum(dim=(1, 3, 4))
            either = (found | true).sum(dim=(1, 3, 4))
            iou = torch.where(either > 0, both / either.clamp(min=1), 1.0).mean()
            accuracy = (found == true).float().mean()
        return SegmentationResult(loss=loss, iou=iou, accuracy=accuracy)
