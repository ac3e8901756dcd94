"""Tell a walking person from a standing one, frame by frame.

Who walks moves through the picture, to the side or towards the camera, or, as on a treadmill,
keeps the place and moves the legs. Either is enough. A camera that moves makes everybody move; who
turns round on the spot or shifts from foot to foot is taken for walking in those moments.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

# A line is laid through so much of a track on either side of a frame.
_REACH_S = 0.75
# Less than a third of a slow walk (0.8 m/s is 0.47 heights); boxes of who stands stay below 0.1.
_MIN_SPEED = 0.15
# Of growth, per second: a walker 15 m away who comes nearer at 1 m/s.
_MIN_GROWTH = 0.065
# Between two pictures so far apart a walking leg has gone through a good part of its swing.
_LAG_S = 0.2
# Lowest share of an aligned silhouette's rows that holds the legs.
_LEGS_RATIO = 0.4
# Medians: synthetic walkers on the spot 0.16 to 0.24 from the front, 0.9 to 1.1 from the side;
# standing, masks by network, 0.02 to 0.07, and 0.11 of real people who fidget.
_MIN_CHANGE = 0.13
# What lasts less than half of this is not believed.
_SETTLE_S = 1.0


def is_walking(
    boxes_px: Float32[np.ndarray, "t 4"],
    frame_indices: Int32[np.ndarray, " t"],
    fps: float,
    silhouettes: UInt8[np.ndarray, "t 64 64"] | None = None,
) -> Bool[np.ndarray, " t"]:
    """Whether a person walks in each frame of a track.

    Args:
        boxes_px: x0, y0, x1, y1; NaN when unknown: then only the legs tell.
        frame_indices: Places of the frames in the clip, ascending; there may be holes.
        fps: Frame rate; 25 is taken where it is NaN.
        silhouettes: Aligned masks of the same frames; without them only the place tells.
    """
    times_s = frame_indices / (fps if fps > 0 else 25.0)
    walks = np.zeros(len(frame_indices), bool)
    if np.isfinite(boxes_px).all():
        walks |= _moves(boxes_px.astype(np.float64), times_s)
    if silhouettes is not None:
        walks |= _steps(silhouettes, times_s)
    return _settled(walks, times_s)


def _moves(boxes_px: np.ndarray, times_s: np.ndarray) -> Bool[np.ndarray, " t"]:
    """Speed in body heights a second, or growth, of a line through the neighbouring frames."""
    heights_px = np.maximum(boxes_px[:, 3] - boxes_px[:, 1], 1.0)
    course = np.stack(
        [(boxes_px[:, 0] + boxes_px[:, 2]) / 2, boxes_px[:, 3], np.log(heights_px)], axis=1
    )
    moves = np.zeros(len(times_s), bool)
    for place, (first, last) in enumerate(_windows(times_s, _REACH_S)):
        t = times_s[first:last] - times_s[first:last].mean()
        spread = float(t @ t)
        if spread == 0.0:
            continue
        across, down, growth = t @ course[first:last] / spread
        height_px = float(np.median(heights_px[first:last]))
        moves[place] = (
            np.hypot(across, down) >= _MIN_SPEED * height_px or abs(growth) >= _MIN_GROWTH
        )
    return moves


def _steps(silhouettes: np.ndarray, times_s: np.ndarray) -> Bool[np.ndarray, " t"]:
    """How much of the legs' outline is another a fifth of a second later, over their area."""
    height = silhouettes.shape[1]
    legs = silhouettes[:, round((1 - _LEGS_RATIO) * height) :] > 127
    areas = legs.sum(axis=(1, 2))
    changes = np.full(len(times_s), np.nan)
    later = np.searchsorted(times_s, times_s + _LAG_S - 1e-6)
    for place, other in enumerate(later):
        if other < len(times_s) and times_s[other] - times_s[place] < 2 * _LAG_S:
            area = (areas[place] + areas[other]) / 2
            # The centre column is rounded; that alone would move both legs.
            differing = min(
                np.count_nonzero(np.roll(legs[place], shift, axis=1) != legs[other])
                for shift in (-1, 0, 1)
            )
            changes[place] = differing / max(area, 1)
    steps = np.zeros(len(times_s), bool)
    for place, (first, last) in enumerate(_windows(times_s, _REACH_S)):
        known = changes[first:last][np.isfinite(changes[first:last])]
        steps[place] = len(known) > 0 and float(np.median(known)) >= _MIN_CHANGE
    return steps


def _settled(flags: np.ndarray, times_s: np.ndarray) -> Bool[np.ndarray, " t"]:
    """What most frames of the second around say."""
    return np.array(
        [
            2 * flags[first:last].sum() > last - first
            for first, last in _windows(times_s, _SETTLE_S / 2)
        ],
        bool,
    )


def _windows(times_s: np.ndarray, reach_s: float) -> list[tuple[int, int]]:
    """First and last plus one of the frames near each frame in time."""
    first = np.searchsorted(times_s, times_s - reach_s - 1e-6)
    last = np.searchsorted(times_s, times_s + reach_s + 1e-6)
    return list(zip(first.tolist(), last.tolist(), strict=True))
