"""A clip and the tracks of the people in it → sequences. The second of the two readings of a clip.

`finding.PeopleFinder` holds the detector and returns boxes; `PeopleDescriber` holds the pose
network, reads the clip again and returns silhouettes, heatmaps and crops. `shards.ingest` puts each
into a pool of actors. What the second decoding costs was measured: 1 % of all CPU time on
`vtest.avi` (768×576, six people a frame), 13 % on the Sports2D clip (1768×994 VP9, one person). In
exchange no image crosses a process border, only a few bytes a box, and either pool can be scaled
alone.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from raygait.errors import EmptySilhouette, Undecodable
from raygait.video.alignment import align
from raygait.video.appearance import describe_clothes, split_by_clothes
from raygait.video.decode import Frame, open_video
from raygait.video.detection import box_areas, intersections
from raygait.video.pose import CROP_PX, Pose, PoseNetwork, Square
from raygait.video.quality import largest_part
from raygait.video.segmentation import BackgroundMasks
from raygait.video.settings import VideoSettings
from raygait.video.tracking import Track

STORED_CROP_PX = 128
"""Side of the RGB crops that are kept."""

_SAME_MASK_IOU = 0.6


@dataclass(frozen=True)
class ExtractedSequence:
    """One person over the frames in which they could be seen well; NumPy only.

    Attributes:
        track: Number inside the clip, from 1; 0 for a folder of masks.
        frame_indices: Position of each row in the source; holes where frames were left out.
        boxes_px: x0, y0, x1, y1 in the source frame; NaN when unknown.
        fps: Frame rate of the source; NaN when unknown.
        silhouettes: Aligned masks (`alignment.align`), 0..255.
        heatmaps: Probability of the 17 COCO joints, 255 = 1.0, over the middle three quarters of
            the square crop; None without a pose network.
        crops: RGB of the square crop; None for a folder of masks.
        person_score: The network's probability of a person; NaN when unknown.
        joint_score: Mean over the joints of the highest probability; NaN when unknown.
        mask_area_ratio: Area of the mask over that of the square crop, or of the source frame for
            a folder of masks.
    """

    track: int
    frame_indices: Int32[np.ndarray, " t"]
    boxes_px: Float32[np.ndarray, "t 4"]
    fps: float
    silhouettes: UInt8[np.ndarray, "t 64 64"]
    heatmaps: UInt8[np.ndarray, "t 17 64 48"] | None
    crops: UInt8[np.ndarray, "t 128 128 3"] | None
    person_score: Float32[np.ndarray, " t"]
    joint_score: Float32[np.ndarray, " t"]
    mask_area_ratio: Float32[np.ndarray, " t"]


class RejectedTrack(NamedTuple):
    """A track that did not become a sequence, or what is missing of the clip.

    Attributes:
        track: `Track.number`; -1 when the whole clip is meant.
        stage: `gate` (before or after the network), `silhouette`, or `decode` for the clip.
        reason: `short-track`, `low-track`, `not-a-person`, `bad-masks`, `mixed-people`, or
            `damaged` for a clip of which frames are lost; the others are used.
        detail: One sentence for a person.
    """

    track: int
    stage: str
    reason: str
    detail: str


class PeopleDescriber:
    """Decode again, crop, mask, align, gate: a clip and its tracks → sequences.

    A frame is left out where the person is not well seen: a low score, hidden joints, a mask that
    is small, in pieces or cut by the frame's border, or the mask of somebody who has a track of
    their own. A track whose box goes over to another person becomes a sequence for each of them;
    the first keeps the track's number, others get new ones after the clip's last. So do the parts
    of a track that is longer than `VideoSettings.max_frames`.

    Of a clip with damaged or missing frames the others are used, and a `RejectedTrack` with track
    -1 (stage `decode`, reason `damaged`) says how many are lost.

    Args:
        settings: See `VideoSettings`.

    Raises:
        AssetError: The pose network's file cannot be had.
    """

    def __init__(self, settings: VideoSettings) -> None:
        self._settings = settings
        self._network = PoseNetwork() if settings.mask == "blazepose" else None

    def __call__(
        self, path: str | Path, tracks: list[Track]
    ) -> tuple[list[ExtractedSequence], list[RejectedTrack]]:
        """Describe every track of a clip: the sequences, and the tracks that are none.

        Raises:
            Undecodable: The file cannot be read any more, or ends before a track does.
        """
        sequences: list[ExtractedSequence] = []
        rejects: list[RejectedTrack] = []
        for result in self.stream(path, tracks):
            if isinstance(result, RejectedTrack):
                rejects.append(result)
            else:
                sequences.append(result)
        return sequences, rejects

    def stream(
        self, path: str | Path, tracks: list[Track]
    ) -> Iterator[ExtractedSequence | RejectedTrack]:
        """Yield each track's results as soon as the clip is past its last frame.

        Memory then holds the tracks that are in view, about 105 kB a frame each with heatmaps and
        crops and `max_frames` at most, and not the whole clip's. The clip is read to its end, so
        that what is damaged after the last track is told too.

        Raises:
            Undecodable: The file cannot be read any more, or ends before a track does.
        """
        waiting: list[_Notes] = []
        for track in sorted(tracks, key=lambda track: int(track.frame_indices[0])):
            rejected = self._refuse_early(track)
            if rejected is None:
                waiting.append(_Notes(track))
            else:
                yield rejected
        waiting.reverse()  # the next to begin is the last
        active: list[_Notes] = []
        new_numbers = itertools.count(1 + max((track.number for track in tracks), default=0))
        background = BackgroundMasks(path) if waiting and self._network is None else None
        with open_video(path) as video:
            for frame in video.frames():
                while waiting and waiting[-1].track.frame_indices[0] <= frame.index:
                    active.append(waiting.pop())
                if background is not None and (waiting or active):
                    background.advance(frame.image)
                sights = [self._look(notes, frame, background) for notes in active]
                for notes, sight in zip(active, _without_repeats(sights), strict=True):
                    notes.add(sight)
                for notes in list(active):
                    if notes.track.frame_indices[-1] <= frame.index:
                        active.remove(notes)
                        yield from self._conclude(notes, video.fps, new_numbers)
                    elif len(notes.sights) == self._settings.max_frames:
                        yield from self._conclude(notes, video.fps, new_numbers)
                        notes.begin_again()
            if waiting or active:
                raise Undecodable(
                    f"{path}: the clip ends at frame {frame.index}, its tracks do not; it changed "
                    "between the two readings"
                )
        if video.damage:
            yield RejectedTrack(-1, "decode", "damaged", video.damage)

    def _refuse_early(self, track: Track) -> RejectedTrack | None:
        settings = self._settings
        if len(track) < settings.min_frames:
            detail = f"{len(track)} frames, expected at least {settings.min_frames}"
            return RejectedTrack(track.number, "gate", "short-track", detail)
        height_px = float(np.median(track.boxes_px[:, 3] - track.boxes_px[:, 1]))
        if height_px < settings.min_height_px:
            detail = (
                f"median height {height_px:.0f} px, expected at least {settings.min_height_px:.0f}"
            )
            return RejectedTrack(track.number, "gate", "low-track", detail)
        return None

    def _look(
        self, notes: _Notes, frame: Frame, background: BackgroundMasks | None
    ) -> _Sight | _Unseen:
        """One person in one frame, or why they cannot be seen well."""
        settings = self._settings
        box_px = notes.track.boxes_px[frame.index - int(notes.track.frame_indices[0])]
        square = Square.around(box_px)
        crop = square.cut(frame.image, CROP_PX)
        pose: Pose | None = None
        if self._network is not None:
            pose = self._network(crop)
            notes.all_scores.append(pose.person_score)
            if pose.person_score < settings.min_frame_score:
                return "no person"
            if pose.joint_score < settings.min_joint_score:
                return "hidden"
            mask = pose.mask
        else:
            assert background is not None
            mask = background.mask(square)
        part, quality = largest_part(mask)
        if (
            quality.area_ratio < settings.min_area_ratio
            or quality.height_ratio < settings.min_height_ratio
        ):
            return "small mask"
        if quality.largest_part_ratio < settings.min_largest_part_ratio:
            return "mask in pieces"
        mask_box_px = square.to_frame(quality.box)
        height_px, width_px = frame.image.shape[:2]
        low, high = mask_box_px[:2].min(), (mask_box_px[2:] - (width_px, height_px)).max()
        if quality.is_cut or low < 1 or high > -1:
            return "cut by the border"
        try:
            silhouette = align(np.where(part, np.uint8(255), np.uint8(0)))
        except EmptySilhouette:
            return "small mask"
        stored = cv2.resize(crop, (STORED_CROP_PX, STORED_CROP_PX), interpolation=cv2.INTER_AREA)
        step = CROP_PX // STORED_CROP_PX
        return _Sight(
            frame_index=frame.index,
            box_px=box_px,
            mask_box_px=mask_box_px,
            silhouette=silhouette,
            heatmaps=pose.heatmaps if pose and "heatmaps" in settings.modalities else None,
            crop=stored if "rgb" in settings.modalities else None,
            clothes=describe_clothes(stored, part[::step, ::step]),
            person_score=pose.person_score if pose else math.nan,
            joint_score=pose.joint_score if pose else math.nan,
            mask_area_ratio=quality.area_ratio,
        )

    def _conclude(
        self, notes: _Notes, fps: float, new_numbers: Iterator[int]
    ) -> Iterator[ExtractedSequence | RejectedTrack]:
        """What a track, or the part of it since it was last cut, becomes."""
        settings = self._settings
        num_frames = len(notes.sights) + notes.unseen.total()
        if notes.num_cuts and not num_frames:
            return  # cut at its very end
        number = next(new_numbers) if notes.num_cuts else notes.track.number
        if notes.num_cuts and num_frames < settings.min_frames:
            detail = f"{num_frames} frames are left of track {notes.track.number}, cut every "
            detail += f"{settings.max_frames}; expected at least {settings.min_frames}"
            yield RejectedTrack(number, "gate", "short-track", detail)
            return
        if notes.all_scores:
            score = float(np.median(notes.all_scores))
            if score < settings.min_person_score:
                detail = f"median person score {score:.2f} over {num_frames} frames, "
                detail += f"expected at least {settings.min_person_score:.2f}"
                yield RejectedTrack(number, "gate", "not-a-person", detail)
                return
        if len(notes.sights) < settings.min_frames:
            reasons = ", ".join(f"{n} {reason}" for reason, n in notes.unseen.most_common())
            detail = f"{len(notes.sights)} of {num_frames} frames show the person well, "
            detail += f"expected at least {settings.min_frames} (the others: {reasons})"
            yield RejectedTrack(number, "silhouette", "bad-masks", detail)
            return
        people = split_by_clothes(
            np.stack([sight.clothes for sight in notes.sights]),
            fps,
            max_change=settings.max_clothes_change,
        )
        long_enough = [
            person
            for person in range(int(people.max()) + 1)
            if np.count_nonzero(people == person) >= settings.min_frames
        ]
        if not long_enough:
            detail = f"{int(people.max()) + 1} people in turn in {len(notes.sights)} frames, "
            detail += f"none of them for {settings.min_frames}"
            yield RejectedTrack(number, "gate", "mixed-people", detail)
        for place, person in enumerate(long_enough):
            sights = [
                sight for sight, who in zip(notes.sights, people, strict=True) if who == person
            ]
            yield _sequence(number if place == 0 else next(new_numbers), sights, fps)


_Unseen = Literal[
    "no person",
    "hidden",
    "small mask",
    "mask in pieces",
    "cut by the border",
    "another track's person",
]


@dataclass(frozen=True)
class _Sight:
    """One person well seen in one frame."""

    frame_index: int
    box_px: np.ndarray
    mask_box_px: np.ndarray
    silhouette: np.ndarray
    heatmaps: np.ndarray | None
    crop: np.ndarray | None
    clothes: np.ndarray
    person_score: float
    joint_score: float
    mask_area_ratio: float

    @property
    def distance_px(self) -> float:
        """From the middle of the track's box to the middle of the mask's."""
        offset = self.mask_box_px.reshape(2, 2).mean(axis=0) - self.box_px.reshape(2, 2).mean(
            axis=0
        )
        return float(np.hypot(*offset))


@dataclass
class _Notes:
    """What is known so far of a track in view."""

    track: Track
    all_scores: list[float] = field(default_factory=list)
    sights: list[_Sight] = field(default_factory=list)
    unseen: Counter[_Unseen] = field(default_factory=Counter)
    num_cuts: int = 0

    def add(self, sight: _Sight | _Unseen) -> None:
        if isinstance(sight, _Sight):
            self.sights.append(sight)
        else:
            self.unseen[sight] += 1

    def begin_again(self) -> None:
        """Forget what has become a sequence."""
        self.all_scores, self.sights, self.unseen = [], [], Counter()
        self.num_cuts += 1


def _without_repeats(sights: list[_Sight | _Unseen]) -> list[_Sight | _Unseen]:
    """Where tracks show one mask, leave it to the track whose box it fits best."""
    seen = [(place, sight) for place, sight in enumerate(sights) if isinstance(sight, _Sight)]
    result = list(sights)
    if len(seen) < 2:
        return result
    seen.sort(key=lambda entry: entry[1].distance_px)
    boxes_px = np.stack([sight.mask_box_px for _, sight in seen])
    shared, areas = intersections(boxes_px, boxes_px), box_areas(boxes_px)
    iou = shared / (areas[:, None] + areas[None] - shared)
    kept: list[int] = []  # only who keeps a mask can keep others from it
    for i, (place, _) in enumerate(seen):
        if (iou[i, kept] > _SAME_MASK_IOU).any():
            result[place] = "another track's person"
        else:
            kept.append(i)
    return result


def _sequence(number: int, sights: list[_Sight], fps: float) -> ExtractedSequence:
    heatmaps = [sight.heatmaps for sight in sights if sight.heatmaps is not None]
    crops = [sight.crop for sight in sights if sight.crop is not None]
    return ExtractedSequence(
        track=number,
        frame_indices=np.array([sight.frame_index for sight in sights], np.int32),
        boxes_px=np.stack([sight.box_px for sight in sights]),
        fps=fps,
        silhouettes=np.stack([sight.silhouette for sight in sights]),
        heatmaps=np.stack(heatmaps) if heatmaps else None,
        crops=np.stack(crops) if crops else None,
        person_score=np.array([sight.person_score for sight in sights], np.float32),
        joint_score=np.array([sight.joint_score for sight in sights], np.float32),
        mask_area_ratio=np.array([sight.mask_area_ratio for sight in sights], np.float32),
    )
