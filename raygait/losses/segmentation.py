"""Binary cross-entropy of a mask: GaitEdge's L_seg (section 5.1).

Where the paper is silent
    Mean     Over all pixels of all frames.
    Truth    Masks may be grey at the outline, as resized ones are; a pixel's target is its grey.
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
        iou: Intersection over union of the rounded probabilities with the rounded masks, frame by
            frame, then the mean. A frame where both are empty counts as 1.
        accuracy: Share of pixels that are on the right side of one half.
    """

    loss: Float[Tensor, ""]
    iou: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class SegmentationLoss(nn.Module):
    """Binary cross-entropy, pixel by pixel, of the probability that a pixel is the person."""

    def forward(
        self, probabilities: Float[Tensor, "n 1 t h w"], masks: Float[Tensor, "n 1 t h w"]
    ) -> SegmentationResult:
        """Compare probabilities with masks.

        Args:
            probabilities: 0..1, one a pixel. Half precision is computed in float32.
            masks: 0..1, the truth.

        Returns:
            The loss and its statistics.

        Raises:
            ValueError: The shapes do not fit.
            ModelInputError: A value is not in 0..1.
        """
        if probabilities.ndim != 5 or masks.shape != probabilities.shape:
            raise ValueError(
                f"segmentation loss: got probabilities {tuple(probabilities.shape)} and masks "
                f"{tuple(masks.shape)}, expected [clips, 1, frames, height, width] twice"
            )
        # On a GPU binary_cross_entropy would end the process's use of the device instead.
        low, high = (
            torch.stack(
                [
                    bound
                    for values in (probabilities.detach(), masks)
                    for bound in torch.aminmax(values.float())
                ]
            )
            .view(2, 2)
            .unbind(dim=1)
        )
        if not (bool((low >= 0).all()) and bool((high <= 1).all())):
            raise ModelInputError(
                f"segmentation loss: got probabilities in {float(low[0]):g}..{float(high[0]):g} "
                f"and masks in {float(low[1]):g}..{float(high[1]):g}, expected 0..1 (divide uint8 "
                "masks by 255)"
            )
        if probabilities.dtype in (torch.float16, torch.bfloat16):
            probabilities = probabilities.float()
        masks = masks.to(probabilities.dtype)
        # Autocast refuses it on probabilities, which half precision would spoil; these are whole.
        with torch.autocast(probabilities.device.type, enabled=False):
            loss = F.binary_cross_entropy(probabilities, masks)
        with torch.no_grad():
            found, true = probabilities > 0.5, masks > 0.5
            both = (found & true).sum(dim=(1, 3, 4))
            either = (found | true).sum(dim=(1, 3, 4))
            iou = torch.where(either > 0, both / either.clamp(min=1), 1.0).mean()
            accuracy = (found == true).float().mean()
        return SegmentationResult(loss=loss, iou=iou, accuracy=accuracy)
