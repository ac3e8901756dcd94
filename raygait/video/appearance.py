"""Tell when a track's box has gone over to another person, by the colours of what they wear.

Boxes of people who cross or walk abreast are sometimes exchanged. The mask shows who is in the box:
the mean colours of four bands of the body change little while one person walks, and at once and for
good when it is another. On a street scene (`vtest.avi`) changes within one person mostly stayed
below 10 units of CIELAB, and an exchange between people dressed differently was 13 to 50. A cut too
many parts one person's sequence in two, one too few mixes two people; two people dressed alike are
not told apart.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from raygait.video.detection import box_areas, intersections

# Chest, belly, thighs, shins, as fractions of the mask's height from its top. Head and feet are
# left out: they turn and blur.
_BANDS = ((0.15, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9))
_WINDOW_S = 0.8
_MIN_WINDOW, _MAX_WINDOW = 8, 48
# Of a box without a mask: its middle columns hold the body in any view.
_INNER_RATIO = 0.4
_MIN_SEEN_RATIO = 0.75
# Whose feet are this much of the height further up may still stand before.
_SAME_DEPTH_RATIO = 0.05


def describe_clothes(
    crop: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "4 3"]:
    """Mean CIELAB colour of chest, belly, thighs and shins.

    Args:
        crop: RGB.
        mask: The person in it.

    Returns:
        L 0..100, a and b; NaN for a band without a pixel.
    """
    bands = np.full((len(_BANDS), 3), np.nan, np.float32)
    if not mask.any():  # thin masks vanish where the crop is made smaller
        return bands
    colours = cv2.cvtColor(crop.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab)
    # The outline is mixed with what is behind it.
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    rows = np.flatnonzero(mask.any(axis=1))
    top, height = int(rows[0]), int(rows[-1] - rows[0] + 1)
    for band, (begin, end) in enumerate(_BANDS):
        part = slice(top + int(begin * height), top + int(end * height))
        pixels = colours[part][inner[part]]
        if len(pixels):
            bands[band] = pixels.mean(axis=0)
    return bands


def split_by_clothes(
    clothes: Float32[np.ndarray, "t 4 3"], fps: float, *, max_change: float
) -> Int32[np.ndarray, " t"]:
    """Number the people in one track: 0 for the first, 1 for the next who looks different, ...

    The track is cut, again and again, where the median colours before and after differ most, as
    long as that is more than `max_change`; pieces that look alike then get one number, so that a
    person who reappears from behind another is one person.

    Args:
        clothes: `describe_clothes` of each frame.
        fps: Frame rate, which sets how many frames are compared (0.8 s); NaN means 10.
        max_change: Largest colour difference (CIE 1976, mean over the bands) within one person.

    Returns:
        Person of each frame; -1 for a frame that looks like none of them.
    """
    rate = fps if fps > 0 else 10.0
    window = int(np.clip(round(_WINDOW_S * rate), _MIN_WINDOW, _MAX_WINDOW))
    people = np.full(len(clothes), -1, np.int32)
    looks: list[np.ndarray] = []
    for begin, end in _pieces(clothes, 0, len(clothes), window, max_change):
        look = _median(clothes[begin:end])
        near = [_difference(look, other) for other in looks]
        if near and min(near) <= max_change / 2:
            person = int(np.argmin(near))
        else:
            person = len(looks)
            looks.append(look)
        differences = np.array([_difference(frame, look) for frame in clothes[begin:end]])
        people[begin:end] = np.where(differences <= 1.5 * max_change, person, -1)
    return people


def _pieces(
    clothes: Float32[np.ndarray, "t 4 3"], begin: int, end: int, window: int, max_change: float
) -> list[tuple[int, int]]:
    least = window // 2
    changes = [
        _difference(
            _median(clothes[max(begin, cut - window) : cut]),
            _median(clothes[cut : min(end, cut + window)]),
        )
        for cut in range(begin + least, end - least + 1)
    ]
    if not changes or max(changes) <= max_change:
        return [(begin, end)]
    cut = begin + least + int(np.argmax(changes))
    before = _pieces(clothes, begin, cut, window, max_change)
    return before + _pieces(clothes, cut, end, window, max_change)


def _median(clothes: Float32[np.ndarray, "t 4 3"]) -> Float32[np.ndarray, "4 3"]:
    known = ~np.isnan(clothes).all(axis=0)
    middle = np.full(clothes.shape[1:], np.nan, np.float32)
    middle[known] = np.nanmedian(clothes[:, known], axis=0)
    return middle


def _difference(a: Float32[np.ndarray, "4 3"], b: Float32[np.ndarray, "4 3"]) -> float:
    """Colour difference, mean over the bands that both have; 0 when they share none."""
    differences = np.sqrt(((a - b) ** 2).sum(axis=1))
    known = differences[~np.isnan(differences)]
    return float(known.mean()) if len(known) else 0.0


def describe_boxes(
    image: UInt8[np.ndarray, "h w 3"],
    boxes_px: Float32[np.ndarray, "n 4"],
) -> Float32[np.ndarray, "n 4 3"]:
    """Colours of everybody's clothes without masks, from the middle columns of their boxes.

    Cheap enough for every box of every frame, and coarser than `describe_clothes`: where legs are
    apart the background between them is in it. Each band is the median of 4×4 parts of it. A box
    hides another where it stands nearer, that is, reaches lower in the image, or about as low.

    Args:
        image: RGB.
        boxes_px: x0, y0, x1, y1 of all people in the frame.

    Returns:
        CIELAB of chest, belly, thighs and shins; NaN for a band that is hidden or outside of the
        image by more than a quarter.
    """
    looks = np.full((len(boxes_px), len(_BANDS), 3), np.nan, np.float32)
    heights_px = boxes_px[:, 3] - boxes_px[:, 1]
    for person, (x0, y0, x1, y1) in enumerate(boxes_px.tolist()):
        nearer = boxes_px[:, 3] > y1 - _SAME_DEPTH_RATIO * heights_px[person]
        nearer[person] = False
        middle, half = (x0 + x1) / 2, _INNER_RATIO * (x1 - x0) / 2
        bands_px = np.array(
            [
                (middle - half, y0 + begin * (y1 - y0), middle + half, y0 + end * (y1 - y0))
                for begin, end in _BANDS
            ],
            np.float32,
        )
        areas = box_areas(bands_px)
        frame_px = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
        seen = intersections(bands_px, frame_px)[:, 0]
        hidden = intersections(bands_px, boxes_px[nearer]).max(axis=1, initial=0)
        for band in np.flatnonzero(seen - hidden >= _MIN_SEEN_RATIO * areas):
            left, top, right, bottom = np.maximum(bands_px[band], 0).round().astype(int)
            part = image[top : max(bottom, top + 1), left : max(right, left + 1)]
            if part.size:
                small = cv2.resize(part, (4, 4), interpolation=cv2.INTER_AREA)
                colours = cv2.cvtColor(small.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab)
                looks[person, band] = np.median(colours.reshape(-1, 3), axis=0)
    return looks
