"""Who is who after people met: tracks exchanged, cut or joined, by look and by motion.

A tracker decides frame by frame. When two people cross, one box may hold the other's body, or be
missing, and the track goes over to the wrong one without a trace. Afterwards the whole clip is
known: what a track was like before it met another, and after. Two cues are compared, each with its
own doubt:

- **look**: the colours of clothes (`appearance.describe_boxes`), the median over some seconds on
  either side, of the frames in which nobody stood before the person;
- **motion**: place, velocity and height, each side taken as a steady walk and drawn on to the
  middle of the gap between them. What a walker may do meanwhile grows with the gap, so that a long
  one makes motion say nothing.

Each says how much likelier one person is than two, in natural logarithms, and 0 where it cannot
tell. People dressed alike are told apart by motion alone, and who is not told apart by either stays
as tracked.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

# A walker's box trembles by this much of its height, and for so long into one direction.
_JITTER_RATIO, _JITTER_S = 0.08, 0.2
# Velocity of people before anything is seen of it, in body heights per second (1.4 m/s is 0.8).
_SPEED_PER_S = 0.8
# Variance that velocity gains per second: in one second a walker's changes by about a third.
_ACCELERATION_PER_S3 = 0.1
# Who is this near to the frame's left or right border, in body heights, is on the way out.
_BORDER_RATIO = 0.03
# How far from where one is expected another person is likely to be, among people who meet.
_STRANGER_RATIO = 0.6
# Root mean square of the colour channels' differences: within one person, and between two.
_SAME_LOOK, _OTHER_LOOK = 5.0, 17.0
# Of bands and of motions, so many are wrong with one and the same person: somebody else stands
# before them, or the box holds two. It bounds what either cue can say against one person.
_BAD_BANDS, _BAD_MOTIONS = 0.2, 0.05


class Sighting(NamedTuple):
    """One person found in one frame.

    Attributes:
        frame_index: `Frame.index`.
        box_px: x0, y0, x1, y1.
        score: The detector's.
        look: `appearance.describe_boxes`; NaN where nothing is seen of it.
    """

    frame_index: int
    box_px: Float32[np.ndarray, " 4"]
    score: float
    look: Float32[np.ndarray, "4 3"]


Path = tuple[Sighting, ...]
"""Sightings that are taken for one person, by time."""


class Evidence(NamedTuple):
    """How much likelier one person is than two, as logarithms; 0 says nothing."""

    look: float
    motion: float


@dataclass(frozen=True)
class Untangler:
    """Go over a clip's paths once all are known.

    Args:
        meeting_ratio: Two people meet where their boxes share this much of the smaller one.
            Lowering it looks at more encounters.
        clear: A cue is clear when it makes one reading so much likelier than the other, as a
            natural logarithm; 2 is 7 to 1. Raising it leaves more as tracked.
        window_s: Motion is judged by so much of a path on either side.
        look_window_s: The look likewise. Longer than the motion's: clothes do not change.
        hole_s: A path is looked at again wherever its person was not seen for longer.
        join_s: Two paths become one only over a gap up to this. Who left and comes back later is
            a new person.
    """

    meeting_ratio: float = 0.4
    clear: float = 2.0
    window_s: float = 1.0
    look_window_s: float = 2.0
    hole_s: float = 0.35
    join_s: float = 2.0

    def __call__(
        self, paths: Sequence[Path], fps: float, *, width_px: float = math.inf
    ) -> list[Path]:
        """Exchange the tails of paths that went over to each other, cut what is not one person.

        For every encounter both cues compare "as tracked" with "exchanged". If one is clear and
        the other not against it, that is done; if they contradict each other both paths are cut.
        What is left is cut where either cue is clear that the two sides are two people. In the
        end the pieces that both cues take for one person are joined, unless another piece fits
        almost as well.

        Args:
            paths: As a tracker found them, each of one sighting or more.
            fps: Frame rate; 25 is taken where it is NaN.
            width_px: Of the frame: who was last seen at its left or right border has left it.

        Returns:
            Paths in order of appearance; every sighting is in one.
        """
        rate = fps if fps > 0 else 25.0
        known = dict(enumerate(paths))
        numbers = itertools.count(len(paths))
        pending = [
            meeting
            for a, b in itertools.combinations(known, 2)
            for meeting in self._meetings(known, a, b, rate)
        ]
        heapq.heapify(pending)
        while pending:
            meeting = heapq.heappop(pending)
            changed = self._settle(known, meeting, rate, numbers)
            if not changed:
                continue
            pending = [other for other in pending if changed.isdisjoint((other.a, other.b))]
            pairs = {
                (min(i, j), max(i, j)) for i in changed & known.keys() for j in known if i != j
            }
            for a, b in pairs:
                pending += [
                    later
                    for later in self._meetings(known, a, b, rate)
                    if later.first > meeting.first
                ]
            heapq.heapify(pending)
        pieces = [
            piece
            for path in known.values()
            for visit in self._visits(path, rate, width_px)
            for piece in self._cut_alone(visit, rate)
        ]
        num_before = len(pieces) + 1
        while len(pieces) < num_before:  # a longer piece says more
            num_before = len(pieces)
            pieces = self._join(pieces, rate, width_px)
        return sorted(pieces, key=lambda path: path[0].frame_index)

    def _meetings(self, known: dict[int, Path], a: int, b: int, rate: float) -> Iterator[_Meeting]:
        """Spans of frames in which two paths could have been taken for each other."""
        near_px, first, last = _overlaps(known[a], known[b])
        if near_px is None:
            return
        slack = round(0.2 * rate)
        spans: list[tuple[int, int]] = []
        for begin, end in _runs(near_px >= self.meeting_ratio):
            if spans and first + begin <= spans[-1][1] + slack:
                spans[-1] = (spans[-1][0], first + end)
            else:
                spans.append((first + begin, first + end))
        # Where one path ends or begins beside the other, the other may hold its person.
        for path in (known[a], known[b]):
            spans += [
                (at, at)
                for at in (path[0].frame_index, path[-1].frame_index)
                if first <= at <= last and near_px[at - first] > 0
            ]
        for begin, end in spans:
            yield _Meeting(begin, end, a, b)

    def _settle(
        self, known: dict[int, Path], meeting: _Meeting, rate: float, numbers: Iterator[int]
    ) -> set[int]:
        """Decide one encounter; the numbers of the paths that are other than before."""
        a, b = known[meeting.a], known[meeting.b]
        a_before, a_within, a_after = _parts(a, meeting)
        b_before, b_within, b_after = _parts(b, meeting)
        if not (a_before or b_before) or not (a_after or b_after):
            return set()  # they come or go together: nothing to compare with
        kept = [self._evidence(a_before, a_after, rate), self._evidence(b_before, b_after, rate)]
        swapped = [self._evidence(a_before, b_after, rate), self._evidence(b_before, a_after, rate)]
        gain = [sum(e[cue] for e in swapped) - sum(e[cue] for e in kept) for cue in (0, 1)]
        contradicted = min(gain) < -self.clear and max(gain) > self.clear
        at = _exchange_frame(a_before, a_within, a_after, b_before, b_within, b_after)
        a_head, a_tail = _cut(a, at)
        b_head, b_tail = _cut(b, at)
        new: dict[int, Path] = {}
        if not contradicted and sum(gain) > self.clear:
            a_tail, b_tail = b_tail, a_tail
            kept = swapped
            new = {meeting.a: a_head + a_tail, meeting.b: b_head + b_tail}
        for number, head, tail, evidence in (
            (meeting.a, a_head, a_tail, kept[0]),
            (meeting.b, b_head, b_tail, kept[1]),
        ):
            if head and tail and (contradicted or min(evidence) < -self.clear):
                new[number], new[next(numbers)] = head, tail
        for number, path in new.items():
            known.pop(number, None)
            if path:
                known[number] = path
        return set(new)

    def _visits(self, path: Path, rate: float, width_px: float) -> Iterator[Path]:
        """Part a path that leaves the frame and comes back."""
        begin = 0
        for i in range(1, len(path)):
            hole = path[i].frame_index - path[i - 1].frame_index
            if hole > self.hole_s * rate and _is_leaving(path[i - 1], width_px):
                yield path[begin:i]
                begin = i
        yield path[begin:]

    def _cut_alone(self, path: Path, rate: float) -> Iterator[Path]:
        """Part a path that goes over to somebody who had no path of their own."""
        margin, step = self.hole_s * rate / 2, max(1, round(self.hole_s * rate / 2))
        worst, at = math.inf, 0
        for i in range(1, len(path)):
            here = path[i].frame_index
            if here - path[i - 1].frame_index > self.hole_s * rate:
                before, after = path[:i], path[i:]
            elif i % step == 0:
                before = _cut(path, math.floor(here - margin))[0]
                after = _cut(path, math.ceil(here + margin))[1]
            else:
                continue
            evidence = self._evidence(before, after, rate)
            # Nobody is near: a turn on the heel, or other light, is likelier than an exchange.
            if max(evidence) < self.clear and min(evidence) < -self.clear and sum(evidence) < worst:
                worst, at = sum(evidence), i
        if at:
            yield from self._cut_alone(path[:at], rate)
            yield from self._cut_alone(path[at:], rate)
        else:
            yield path

    def _join(self, pieces: list[Path], rate: float, width_px: float) -> list[Path]:
        """Make one of two pieces where both cues say so and no other piece is nearly as good."""
        pieces = sorted(pieces, key=lambda path: path[0].frame_index)
        starts = [piece[0].frame_index for piece in pieces]
        likely: dict[tuple[int, int], Evidence] = {}
        for i, piece in enumerate(pieces):
            end = piece[-1].frame_index
            if _is_leaving(piece[-1], width_px):
                continue
            last = bisect.bisect_right(starts, end + self.join_s * rate)
            for j in range(bisect.bisect_right(starts, end), last):
                evidence = self._evidence(piece, pieces[j], rate)
                if sum(evidence) > 0:
                    likely[i, j] = evidence
        sharing: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for i, j in likely:
            sharing.setdefault(("before", i), []).append((i, j))
            sharing.setdefault(("after", j), []).append((i, j))
        followers: dict[int, int] = {}
        for (i, j), evidence in likely.items():
            rivals = {*sharing["before", i], *sharing["after", j]} - {(i, j)}
            if (
                min(evidence) > 0
                and sum(evidence) > self.clear
                and all(self._is_better(evidence, likely[rival]) for rival in rivals)
            ):
                followers[i] = j
        joined = []
        for first in sorted(set(range(len(pieces))) - set(followers.values())):
            path, at = pieces[first], first
            while at in followers:
                at = followers[at]
                path += pieces[at]
            joined.append(path)
        return joined

    def _is_better(self, evidence: Evidence, other: Evidence) -> bool:
        gain = [a - b for a, b in zip(evidence, other, strict=True)]
        return bool(sum(gain) > self.clear and min(gain) > -self.clear)

    def _evidence(self, before: Path, after: Path, rate: float) -> Evidence:
        """Whether two parts, the first earlier, are of one person."""
        if not before or not after:
            return Evidence(0.0, 0.0)
        # At most one sighting a frame: those beyond need not be looked at.
        reach = math.ceil(max(self.window_s, self.look_window_s) * rate)
        before, after = before[-reach:], after[:reach]
        end, begin = before[-1].frame_index, after[0].frame_index
        return Evidence(
            _look_evidence(
                _look([s for s in before if s.frame_index > end - self.look_window_s * rate]),
                _look([s for s in after if s.frame_index < begin + self.look_window_s * rate]),
            ),
            _motion_evidence(
                [s for s in before if s.frame_index > end - self.window_s * rate],
                [s for s in after if s.frame_index < begin + self.window_s * rate],
                rate,
            ),
        )


class _Meeting(NamedTuple):
    """Two paths that could have been taken for each other, from one frame to another."""

    first: int
    last: int
    a: int
    b: int


def _is_leaving(sighting: Sighting, width_px: float) -> bool:
    x0, y0, x1, y1 = sighting.box_px.tolist()
    margin_px = _BORDER_RATIO * (y1 - y0)
    return bool(x0 < margin_px or x1 > width_px - margin_px)


def _overlaps(a: Path, b: Path) -> tuple[Float64[np.ndarray, " t"] | None, int, int]:
    """Shared area over the smaller box, in the frames that both paths span."""
    first = max(a[0].frame_index, b[0].frame_index)
    last = min(a[-1].frame_index, b[-1].frame_index)
    if first > last:
        return None, first, last
    at = np.arange(first, last + 1)
    a_px, b_px = _boxes_at(a, at), _boxes_at(b, at)
    sides_px = np.minimum(a_px[:, 2:], b_px[:, 2:]) - np.maximum(a_px[:, :2], b_px[:, :2])
    shared = np.maximum(sides_px, 0).prod(axis=1)
    areas = np.minimum(*((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a_px, b_px)))
    return shared / np.maximum(areas, 1e-6), first, last


def _boxes_at(path: Path, at: np.ndarray) -> Float64[np.ndarray, "t 4"]:
    boxes_px = np.stack([s.box_px for s in path]).astype(float)
    known = [s.frame_index for s in path]
    return np.stack([np.interp(at, known, side) for side in boxes_px.T], axis=1)


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last place of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2):
        yield int(begin), int(end) - 1


def _parts(path: Path, meeting: _Meeting) -> tuple[Path, Path, Path]:
    """A path before, within and after an encounter.

    An encounter of one frame is one where a path begins or ends: that frame is before, unless the
    path begins there.
    """
    before = tuple(s for s in path if s.frame_index < meeting.first)
    within = tuple(s for s in path if meeting.first <= s.frame_index <= meeting.last)
    after = tuple(s for s in path if s.frame_index > meeting.last)
    if within and not before and after:
        # It begins while they meet: all that is known of it comes after.
        return (), within[:1], within[1:] + after
    if within and not after and before:
        return before + within[:-1], within[-1:], ()
    return before, within, after


def _cut(path: Path, at: int) -> tuple[Path, Path]:
    """What comes before a frame, and the rest."""
    place = bisect.bisect_left(path, at, key=lambda s: s.frame_index)
    return path[:place], path[place:]


def _exchange_frame(
    a_before: Path, a_within: Path, a_after: Path, b_before: Path, b_within: Path, b_after: Path
) -> int:
    """The frame from which on two exchanged paths fit the straight ways between both sides best."""
    within = sorted({s.frame_index for s in a_within + b_within})
    ends = [s.frame_index for s in a_before[-1:] + b_before[-1:]]
    starts = [s.frame_index for s in a_after[:1] + b_after[:1]]
    first = (max(ends) + 1) if ends else min(starts)
    last = min(starts) if starts else first
    ways = [before[-1:] + after[:1] for before, after in ((a_before, b_after), (b_before, a_after))]
    if not within or not all(ways):
        return (first + last + 1) // 2 if ends and starts else first

    def cost(at: int) -> float:
        total = 0.0
        for part, (own, other) in ((a_within, ways), (b_within, ways[::-1])):
            for s in part:
                way = own if s.frame_index < at else other
                expected = _boxes_at(way, np.array([s.frame_index]))[0]
                total += float(np.abs(expected - s.box_px).sum())
        return total

    return min([*within, within[-1] + 1], key=cost)


def _look(part: Sequence[Sighting]) -> Float64[np.ndarray, "4 3"]:
    looks = np.stack([s.look for s in part]).astype(float)
    known = ~np.isnan(looks).all(axis=0)
    look = np.full(looks.shape[1:], np.nan)
    look[known] = np.nanmedian(looks[:, known], axis=0)
    return look


def _look_evidence(a: Float64[np.ndarray, "4 3"], b: Float64[np.ndarray, "4 3"]) -> float:
    same, other = _SAME_LOOK**2, _OTHER_LOOK**2
    evidence = 0.0
    for error in ((a - b) ** 2).mean(axis=1):
        if not math.isnan(error):
            evidence += 0.5 * _doubted(
                math.log(other / same) - float(error) * (1 / same - 1 / other), _BAD_BANDS
            )
    return evidence


def _doubted(evidence: float, share: float) -> float:
    """Evidence for one person when a share of observations says nothing about it."""
    return float(np.logaddexp(math.log1p(-share) + evidence, math.log(share)))


def _motion_evidence(before: Sequence[Sighting], after: Sequence[Sighting], rate: float) -> float:
    """Both sides drawn on to the middle of the gap, in body heights.

    The difference of two persons' places and velocities is as wide as people who meet are apart,
    besides all that is uncertain about either side.
    """
    scale_px = float(np.median([s.box_px[3] - s.box_px[1] for s in [*before[-5:], *after[:5]]]))
    gap_s = (after[0].frame_index - before[-1].frame_index) / rate
    middle = (after[0].frame_index + before[-1].frame_index) / 2
    evidence = 0.0
    drift = _ACCELERATION_PER_S3 * np.array(
        [[gap_s**3 / 12, 0.0], [0.0, gap_s]]
    )  # of a walk whose velocity wanders, seen from the middle of the gap
    states = [_steady(part, middle, rate, scale_px) for part in (before, after)]
    covariance = states[0][1] + states[1][1] + drift
    stranger = np.diag([_STRANGER_RATIO**2, 2 * _SPEED_PER_S**2])
    for difference in (states[0][0] - states[1][0]).T:
        evidence += _log_density(difference, covariance)
        evidence -= _log_density(difference, covariance + stranger)
    return _doubted(evidence, _BAD_MOTIONS)


def _steady(
    part: Sequence[Sighting], middle: float, rate: float, scale_px: float
) -> tuple[Float64[np.ndarray, "2 2"], Float64[np.ndarray, "2 2"]]:
    """Place and velocity of a part at a time, as a steady walk; x and y of the box's middle.

    Returns:
        Place and velocity, each x and y, in body heights; their covariance.
    """
    boxes = np.stack([s.box_px for s in part]).astype(float) / scale_px
    places = (boxes[:, :2] + boxes[:, 2:]) / 2
    times = (np.array([s.frame_index for s in part]) - middle) / rate
    design = np.stack([np.ones_like(times), times], axis=1)
    weight = 1 / _JITTER_RATIO**2 / max(1.0, _JITTER_S * rate)
    precision = weight * design.T @ design + np.diag([0.0, 1 / _SPEED_PER_S**2])
    covariance = np.linalg.inv(precision)
    return covariance @ (weight * design.T @ places), covariance


def _log_density(
    difference: Float64[np.ndarray, " 2"], covariance: Float64[np.ndarray, "2 2"]
) -> float:
    return -0.5 * float(
        difference @ np.linalg.solve(covariance, difference)
        + np.linalg.slogdet(covariance).logabsdet
    )
