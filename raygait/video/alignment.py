"""Silhouette → 64×64: the person fills the height, the median column is the centre.

The steps and roundings are those of the field's common pretreatment, so that silhouettes made here
can be compared with those that published models were trained on, bit for bit at the sizes that
are tested, 64 and 128:

1. cut to the rows that hold any non-zero pixel;
2. scale to the target height, the width following and truncated, by bicubic interpolation (the
   result keeps its grey levels);
3. the centre is the first column at which the running sum of column sums exceeds half the total;
4. cut a window as wide as high round that centre; where it would reach the image's border, half a
   window of zeros is set on both sides first.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from raygait.errors import EmptySilhouette

MIN_PIXEL_SUM = 10_000
"""A mask whose grey levels add up to this or less (39 pixels of 255) holds nobody."""


def align(
    silhouette: UInt8[np.ndarray, "h w"], *, size_px: int = 64
) -> UInt8[np.ndarray, "size_px size_px"]:
    """Cut a silhouette to its person, scale it to the height and centre it.

    Args:
        silhouette: Mask, 0 background, 255 person; any non-zero pixel counts.
        size_px: Height and width of the result; bit for bit the field's at 64 and 128.

    Returns:
        Aligned mask, 0..255, grey at the outline.

    Raises:
        EmptySilhouette: The mask holds nobody (`MIN_PIXEL_SUM`), or is so thin or so far at the
            left border that it has no centre.
    """
    total = int(silhouette.sum(dtype=np.int64))
    if total <= MIN_PIXEL_SUM:
        raise EmptySilhouette(
            f"silhouette {silhouette.shape[1]}×{silhouette.shape[0]}: grey levels add up to "
            f"{total}, expected more than {MIN_PIXEL_SUM}"
        )
    rows = np.flatnonzero(silhouette.any(axis=1))
    cut = silhouette[rows[0] : rows[-1] + 1]
    width_px = size_px * cut.shape[1] // cut.shape[0]
    if width_px == 0:
        raise EmptySilhouette(
            f"silhouette {silhouette.shape[1]}×{silhouette.shape[0]}: scaled to {size_px} px of "
            "height it has no width"
        )
    scaled = cv2.resize(cut, (width_px, size_px), interpolation=cv2.INTER_CUBIC)
    running = scaled.sum(axis=0, dtype=np.int64).cumsum()
    centre = int(np.searchsorted(running, running[-1] / 2, side="right"))
    # Column 0 counts as "no centre" in the pretreatment that is followed here.
    if running[-1] == 0 or centre == 0:
        raise EmptySilhouette(
            f"silhouette {silhouette.shape[1]}×{silhouette.shape[0]}: no centre column; the "
            "person is cut by the left border"
        )
    half = size_px // 2
    if centre - half <= 0 or centre + half >= width_px:
        scaled = np.pad(scaled, ((0, 0), (half, half)))
        centre += half
    return np.ascontiguousarray(scaled[:, centre - half : centre + half])
