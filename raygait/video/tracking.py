"""Join the boxes of successive frames into tracks, one for each person.

ByteTrack (Zhang et al., ECCV 2022) as the `trackers` library has it; this is the only file that
knows that library. Boxes between two sightings are filled in afterwards, which an online tracker
cannot do, and the boxes of a track are smoothed, so that crops neither jump nor breathe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import supervision
from jaxtyping import Float32, Int32
from trackers import ByteTrackTracker

from raygait.video.detection import Detections
from raygait.video.encounters import Path, Sighting, Untangler

_UNTANGLER = Untangler()


@dataclass(frozen=True)
class Track:
    """Where one person is, over the frames in which they were seen.

    Attributes:
        number: Number inside the clip, from 1 in order of appearance.
        frame_indices: `Frame.index` of each box, ascending and without holes.
        boxes_px: x0, y0, x1, y1 in the source frame.
        scores: The detector's score; NaN where the box was filled in.
    """

    number: int
    frame_indices: Int32[np.ndarray, " t"]
    boxes_px: Float32[np.ndarray, "t 4"]
    scores: Float32[np.ndarray, " t"]

    def __len__(self) -> int:
        return len(self.frame_indices)


class PersonTracker:
    """Feed it the detections of one clip, frame by frame, then take the tracks.

    ByteTrack joins the boxes as they come; when the clip is over `encounters.Untangler` goes over
    every place where two people could have been taken for each other. People dressed alike are told
    apart there by their motion alone.

    Args:
        start_score: A box below this starts no track. Raising it loses people, lowering it
            starts tracks on things, which the gate on the person score has to sort out.
        firm_score: Boxes from here on are matched first, weaker ones to tracks left over.
        max_gap_s: A track not seen for longer, nor in two frames that were looked at, ends; who
            comes back is a new one, unless the untangler joins both.
        min_iou: Least overlap of a box with where its track is expected.
        untangler: What goes over the tracks in the end; None leaves them as ByteTrack has them.
    """

    def __init__(
        self,
        *,
        start_score: float = 0.45,
        firm_score: float = 0.35,
        max_gap_s: float = 1.0,
        min_iou: float = 0.2,
        untangler: Untangler | None = _UNTANGLER,
    ) -> None:
        self._start_score = start_score
        self._firm_score = firm_score
        self._max_gap_s = max_gap_s
        self._min_iou = min_iou
        self._untangler = untangler
        self.reset(math.nan)

    def reset(self, fps: float, *, detect_every: int = 1, width_px: float = math.inf) -> None:
        """Forget the clip; the next one has this frame rate (25 is taken where it is NaN).

        Args:
            fps: Of the clip.
            detect_every: Detections come for every n-th frame only. All times stay in seconds.
            width_px: Of the frames; who leaves at its borders is not taken up again.
        """
        self._fps = fps if fps > 0 else 25.0
        self._width_px = width_px
        self._tracker = ByteTrackTracker(
            # The library counts this buffer in frames of a 30 fps clip. However seldom a frame is
            # looked at, the next one but one has to be in time.
            lost_track_buffer=round(30 * max(self._max_gap_s, 2.5 * detect_every / self._fps)),
            # One step of its motion model is one call, whatever lies between in the clip.
            frame_rate=self._fps / detect_every,
            track_activation_threshold=self._start_score,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=self._min_iou,
            high_conf_det_threshold=self._firm_score,
        )
        self._seen: dict[int, list[Sighting]] = {}

    def update(
        self,
        frame_index: int,
        detections: Detections,
        looks: Float32[np.ndarray, "n 4 3"] | None = None,
    ) -> None:
        """Add the detections of the next frame; frames may be left out.

        Args:
            frame_index: `Frame.index`.
            detections: Of this frame.
            looks: `appearance.describe_boxes`; without it people are told apart by motion alone.
        """
        if looks is None:
            looks = np.full((len(detections), 4, 3), np.nan, np.float32)
        tracked = self._tracker.update(
            supervision.Detections(
                xyxy=detections.boxes_px.astype(np.float32),
                confidence=detections.scores,
                data={"place": np.arange(len(detections))},
            ),
            timestamp=frame_index / self._fps,
        )
        if tracked.tracker_id is None:
            return
        for identity, place in zip(tracked.tracker_id, tracked.data.get("place", ()), strict=True):
            if identity >= 0:
                self._seen.setdefault(int(identity), []).append(
                    Sighting(
                        frame_index,
                        detections.boxes_px[place].astype(np.float32),
                        float(detections.scores[place]),
                        looks[place],
                    )
                )

    def tracks(self) -> list[Track]:
        """Every track so far, in order of appearance, holes filled, boxes smoothed."""
        paths = [tuple(sightings) for sightings in self._seen.values()]
        if self._untangler is not None:
            paths = self._untangler(paths, self._fps, width_px=self._width_px)
        paths.sort(key=lambda path: path[0].frame_index)
        return [_fill(number, path) for number, path in enumerate(paths, start=1)]


def _fill(number: int, sightings: Path) -> Track:
    at = np.array([sighting.frame_index for sighting in sightings])
    boxes_px = np.stack([sighting.box_px for sighting in sightings])
    frame_indices = np.arange(at[0], at[-1] + 1)
    filled = np.stack([np.interp(frame_indices, at, side) for side in boxes_px.T], axis=1)
    scores = np.full(len(frame_indices), np.nan, np.float32)
    scores[at - at[0]] = [sighting.score for sighting in sightings]
    return Track(number, frame_indices.astype(np.int32), _smooth(filled).astype(np.float32), scores)


def _smooth(values: np.ndarray, sigma_frames: float = 1.5) -> np.ndarray:
    """Gaussian mean over the neighbouring frames, the ends repeated."""
    reach = math.ceil(3 * sigma_frames)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_frames) ** 2)
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    columns = [np.convolve(column, weights / weights.sum(), mode="valid") for column in padded.T]
    return np.stack(columns, axis=1)
