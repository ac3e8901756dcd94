"""How far a mask can be trusted: its area, its parts, its height, its borders."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8


@dataclass(frozen=True)
class MaskQuality:
    """Measures of one mask in its square crop, each a fraction.

    Attributes:
        area_ratio: Area of the largest connected part over the crop's.
        largest_part_ratio: That area over the area of the whole mask; 1 for a mask in one piece.
        height_ratio: Height of that part over the crop's.
        box: Its first column and row, and the ones after its last, as fractions of the crop.
    """

    area_ratio: float
    largest_part_ratio: float
    height_ratio: float
    box: tuple[float, float, float, float]

    @property
    def is_cut(self) -> bool:
        """Whether the person goes on above or below the crop; arms may reach over its sides."""
        return self.box[1] <= 0.0 or self.box[3] >= 1.0


def largest_part(
    mask: Bool[np.ndarray, "h w"],
) -> tuple[Bool[np.ndarray, "h w"], MaskQuality]:
    """Keep a mask's largest connected part (pixels that touch, also at a corner) and measure it.

    Args:
        mask: True where the person is; may be empty.

    Returns:
        The part alone, and the measures; all 0 for an empty mask.
    """
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    if count == 1:  # label 0 is the background
        return np.zeros_like(mask), MaskQuality(0.0, 0.0, 0.0, (0.0, 0.0, 0.0, 0.0))
    areas = boxes[1:, cv2.CC_STAT_AREA]
    best = 1 + int(areas.argmax())
    area = float(boxes[best, cv2.CC_STAT_AREA])
    x, y, width, height = (float(value) for value in boxes[best, :4])
    rows, columns = mask.shape
    return labels == best, MaskQuality(
        area_ratio=area / mask.size,
        largest_part_ratio=area / float(areas.sum()),
        height_ratio=height / rows,
        box=(x / columns, y / rows, (x + width) / columns, (y + height) / rows),
    )


def sharpness(crop: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> float:
    """How sharp the person is: root mean square of the Laplacian of grey over the mask.

    Compare it between crops of one size only: noise and texture raise it, and a person who was
    enlarged to that size lowers it.

    Args:
        crop: RGB.
        mask: The person in it.

    Returns:
        Grey levels a pixel squared; 0 for an empty mask.
    """
    if not mask.any():
        return 0.0
    edges = cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
    return float(np.sqrt(np.mean(edges[mask] ** 2)))
