"""A clip and the tracks of the people in it → sequences. The second of the two readings of a clip.

`finding.PeopleFinder` holds the detector and returns boxes; `PeopleDescriber` holds the pose
network, reads the clip again and returns silhouettes, heatmaps and crops. `shards.ingest` puts each
into a pool of actors. What the second decoding costs was measured: 1 % of all CPU time on
`vtest.avi` (768×576, six people a frame), 13 % on the Sports2D clip (1768×994 VP9, one person). In
exchange no image crosses a process border, only a few bytes a box, and either pool can be scaled
alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from raygait.errors import EmptySilhouette, Undecodable
from raygait.video.alignment import align
from raygait.video.appearance import describe_clothes, split_by_clothes
from raygait.video.decode import Frame
from raygait.video.detection import box_areas, intersections
from raygait.video.image_folders import open_clip
from raygait.video.networks import PoseEstimator, Segmenter
from raygait.video.onnx_networks import OnnxPose, OnnxSegmenter
from raygait.video.pose import (
    CROP_PX,
    PoseNetwork,
    Window,
    heatmap_box_px,
    joints_of,
    mean_joint_score,
    to_frame_px,
)
from raygait.video.quality import largest_part, sharpness
from raygait.video.redraw import redraw
from raygait.video.segmentation import BackgroundMasks
from raygait.video.settings import Modality, VideoSettings
from raygait.video.timing import StageTimes
from raygait.video.tracking import Track
from raygait.video.walking import is_walking

RGB_PX = 128
"""Side of the RGB crops that are kept."""

_SAME_MASK_IOU = 0.6
# Of the box's width and height, and of its height.
_BOX_MARGIN_RATIO, _MASK_MARGIN_RATIO = 0.1, 0.02


Unseen = Literal[
    "no person",
    "hidden",
    "small mask",
    "mask in pieces",
    "cut by the border",
    "cut by the crop",
    "blurred",
    "another track's person",
    "another person",
    "no pose",
    "several poses",
    "bad pose",
    "no colours",
    "bad colours",
    "no mask",
    "colours of another crop",
]
"""Why a frame was left out; the last seven, of masks that have files of their own beside them."""


@dataclass(frozen=True)
class FrameQuality:
    """How well a person is seen, one value a frame; NaN when unknown.

    Attributes:
        person_score: The network's probability of a person.
        joint_score: Mean over the joints of the highest probability.
        mask_area_ratio: Area of the mask over that of the square crop, or of the source frame for
            a folder of masks.
        mask_height_px: Height of the mask in pixels of the source frame.
        largest_part_ratio: Area of the mask's largest connected part over that of the whole mask.
        sharpness: `quality.sharpness` of the square crop at 128×128.
        is_cut: Whether the frame's border, or the crop's upper or lower edge, cuts the person.
        is_walking: Whether the person walks, not stands; False when unknown.
    """

    person_score: Float32[np.ndarray, " t"]
    joint_score: Float32[np.ndarray, " t"]
    mask_area_ratio: Float32[np.ndarray, " t"]
    mask_height_px: Float32[np.ndarray, " t"]
    largest_part_ratio: Float32[np.ndarray, " t"]
    sharpness: Float32[np.ndarray, " t"]
    is_cut: Bool[np.ndarray, " t"]
    is_walking: Bool[np.ndarray, " t"]


@dataclass(frozen=True)
class ExtractedSequence:
    """One person over the frames in which they could be seen well; NumPy only.

    Attributes:
        track: Number inside the clip, from 1; 0 for a folder of masks.
        frame_indices: Position of each row in the source; holes where frames were left out.
        boxes_px: x0, y0, x1, y1 in the source frame; NaN when unknown.
        fps: Frame rate of the source; NaN when unknown.
        silhouettes: Aligned masks (`alignment.align`), 0..255.
        quality: What is known of each frame.
        left_out: Frames of the track that are not among the rows, in order, and why. Of a track
            that is cut for its length, those of this part; where a track is parted because another
            person took it over, each of its sequences has all of them.
        track_person_score: Median person score over the same frames, those left out included; NaN
            when unknown.
        part_of: `Track.number` of the track that this is, or is a part of; 0 for a folder of masks.
        silhouettes_128: The same masks aligned at 128 px; None when not asked for, as the others.
        heatmaps: Probability of the 17 COCO joints, 255 = 1.0.
        heatmap_windows_px: x0, y0, x1, y1 of what they cover in the source frame.
        heatmaps_redrawn: Limbs and joints of `redraw.redraw`.
        rgb: The person's crop, made a square of 128 px whatever its shape was.
        rgb_masks: The person's mask in it, 0 or 255; of crops that somebody else has cut with grey
            levels at the outline.
        rgb_windows_px: x0, y0, x1, y1 of it in the source frame; width over height is the ratio
            that GaitEdge's alignment needs.
        imported_rgb_ratio: The ratio itself, of crops that somebody else has cut: their windows are
            not known.
        joints: x, y in pixels of the source frame (pixel centres are whole numbers), and the
            highest probability, 0..1; as they were found beside masks, in pixels of the picture
            that somebody else has found them in.
    """

    track: int
    frame_indices: Int32[np.ndarray, " t"]
    boxes_px: Float32[np.ndarray, "t 4"]
    fps: float
    silhouettes: UInt8[np.ndarray, "t 64 64"]
    quality: FrameQuality
    left_out: tuple[tuple[int, Unseen], ...] = ()
    track_person_score: float = math.nan
    part_of: int = 0
    silhouettes_128: UInt8[np.ndarray, "t 128 128"] | None = None
    heatmaps: UInt8[np.ndarray, "t 17 64 48"] | None = None
    heatmap_windows_px: Float32[np.ndarray, "t 4"] | None = None
    heatmaps_redrawn: UInt8[np.ndarray, "t 2 64 64"] | None = None
    rgb: UInt8[np.ndarray, "t 128 128 3"] | None = None
    rgb_masks: UInt8[np.ndarray, "t 128 128"] | None = None
    rgb_windows_px: Float32[np.ndarray, "t 4"] | None = None
    joints: Float32[np.ndarray, "t 17 3"] | None = None
    imported_rgb_ratio: Float32[np.ndarray, " t"] | None = None

    def rgb_ratio(self) -> Float32[np.ndarray, " t"] | None:
        """Width over height of each RGB crop before it was made a square (GaitEdge, Alg. 1: r)."""
        if self.rgb_windows_px is None:
            return self.imported_rgb_ratio
        size_px = self.rgb_windows_px[:, 2:] - self.rgb_windows_px[:, :2]
        ratio: np.ndarray = (size_px[:, 0] / size_px[:, 1]).astype(np.float32)
        return ratio


class RejectedTrack(NamedTuple):
    """A track that did not become a sequence, or what is missing of the clip.

    Attributes:
        track: `Track.number`; -1 when the whole clip is meant.
        stage: `gate` (before or after the network), `silhouette`, or `decode` for the clip.
        reason: `short-track`, `low-track`, `not-a-person`, `not-walking`, `bad-masks`,
            `mixed-people`, or `damaged` for a clip of which frames are lost; the others are used.
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

    Attributes:
        times: Where the time went, over all clips: decode again, crop, pose, mask, silhouette
            (with quality and RGB), and finish for what is done when a track has ended.

    Raises:
        AssetError: A network's file cannot be had.
    """

    def __init__(self, settings: VideoSettings) -> None:
        self._settings = settings
        self.times = StageTimes()
        self._blazepose = PoseNetwork() if "blazepose" in (settings.pose, settings.mask) else None
        self._pose: PoseEstimator | None = (
            OnnxPose(settings.pose_onnx) if settings.pose == "onnx" else None
        )
        self._segmenter: Segmenter | None = (
            OnnxSegmenter(settings.mask_onnx) if settings.mask == "onnx" else None
        )

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
        is_background = self._settings.mask == "background"
        background = BackgroundMasks(path) if waiting and is_background else None
        with open_clip(path) as video:
            for frame in self.times.iterate("decode again", video.frames()):
                while waiting and waiting[-1].track.frame_indices[0] <= frame.index:
                    active.append(waiting.pop())
                if background is not None and (waiting or active):
                    with self.times.time("mask"):
                        background.advance(frame.image)
                sights = [self._look(notes, frame, background) for notes in active]
                for notes, sight in zip(active, _without_repeats(sights), strict=True):
                    notes.add(frame.index, sight)
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
    ) -> _Sight | Unseen:
        """One person in one frame, or why they cannot be seen well."""
        box_px = notes.track.boxes_px[frame.index - int(notes.track.frame_indices[0])]
        square = Window.square_around(box_px)
        with self.times.time("crop"):
            crop = square.cut(frame.image, CROP_PX)
        seen = self._ask_networks(notes, crop)
        if not isinstance(seen, _Seen):
            return seen
        mask = seen.mask
        if mask is None:
            with self.times.time("mask"):
                if self._segmenter is not None:
                    mask = self._segmenter(crop)
                else:
                    assert background is not None
                    mask = background.mask(square)
        with self.times.time("silhouette"):
            return self._judge(frame, box_px, square, crop, seen, mask)

    def _ask_networks(
        self, notes: _Notes, crop: UInt8[np.ndarray, "256 256 3"]
    ) -> _Seen | Literal["no person", "hidden"]:
        """What the pose networks say of a crop, unless they say that nobody is well seen there."""
        settings = self._settings
        person_score = joint_score = math.nan
        heatmaps = mask = None
        if self._blazepose is not None:
            with self.times.time("pose"):
                pose = self._blazepose(crop)
            person_score = pose.person_score
            notes.all_scores.append(person_score)
            if person_score < settings.min_frame_score:
                return "no person"
            heatmaps = pose.heatmaps if settings.pose == "blazepose" else None
            mask = pose.mask if settings.mask == "blazepose" else None
        if self._pose is not None:
            with self.times.time("pose"):
                heatmaps = self._pose(crop)
        if heatmaps is not None:
            joint_score = mean_joint_score(heatmaps)
            if joint_score < settings.min_joint_score:
                return "hidden"
        return _Seen(person_score, joint_score, heatmaps, mask)

    def _judge(
        self,
        frame: Frame,
        box_px: Float32[np.ndarray, " 4"],
        square: Window,
        crop: UInt8[np.ndarray, "256 256 3"],
        seen: _Seen,
        mask: Bool[np.ndarray, "256 256"],
    ) -> _Sight | Unseen:
        """What is kept of a person, unless the mask is not good enough."""
        settings, modalities = self._settings, self._settings.modalities
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
        meets_border = bool(low < 1 or high > -1)
        is_cut = quality.is_cut or meets_border
        if is_cut and not settings.keep_cut:
            return "cut by the border" if meets_border else "cut by the crop"
        small = cv2.resize(crop, (RGB_PX, RGB_PX), interpolation=cv2.INTER_AREA)
        step = CROP_PX // RGB_PX
        small_part = part[::step, ::step]
        sharp = sharpness(small, small_part)
        if sharp < settings.min_sharpness:
            return "blurred"
        levels = np.where(part, np.uint8(255), np.uint8(0))
        try:
            silhouette = align(levels)
            silhouette_128 = align(levels, size_px=128) if "silhouettes_128" in modalities else None
        except EmptySilhouette:
            return "small mask"
        window = _rgb_window(box_px, mask_box_px) if "rgb" in modalities else None
        return _Sight(
            frame_index=frame.index,
            box_px=box_px,
            square=square,
            mask_box_px=mask_box_px,
            silhouette=silhouette,
            silhouette_128=silhouette_128,
            heatmaps=seen.heatmaps,
            window=window,
            rgb=None if window is None else window.cut(frame.image, RGB_PX),
            rgb_mask=None if window is None else window.part_of(square, part, RGB_PX),
            clothes=describe_clothes(small, small_part),
            person_score=seen.person_score,
            joint_score=seen.joint_score,
            mask_area_ratio=quality.area_ratio,
            mask_height_px=quality.height_ratio * square.height_px,
            largest_part_ratio=quality.largest_part_ratio,
            sharpness=sharp,
            is_cut=is_cut,
        )

    def _conclude(
        self, notes: _Notes, fps: float, new_numbers: Iterator[int]
    ) -> Iterator[ExtractedSequence | RejectedTrack]:
        """What a track, or the part of it since it was last cut, becomes."""
        settings = self._settings
        num_frames = len(notes.sights) + len(notes.unseen)
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
            counts = Counter(reason for _, reason in notes.unseen).most_common()
            reasons = ", ".join(f"{number} {reason}" for reason, number in counts)
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
            named = number if place == 0 else next(new_numbers)
            yield self._finish(named, sights, self._left_out(notes, people, person), notes, fps)

    def _left_out(
        self, notes: _Notes, people: Int32[np.ndarray, " t"], person: int
    ) -> tuple[tuple[int, Unseen], ...]:
        """Frames of the track that are not this person's rows, and why."""
        others: list[tuple[int, Unseen]] = [
            (sight.frame_index, "another person")
            for sight, who in zip(notes.sights, people, strict=True)
            if who != person
        ]
        return tuple(sorted([*notes.unseen, *others]))

    def _finish(
        self,
        number: int,
        sights: list[_Sight],
        left_out: tuple[tuple[int, Unseen], ...],
        notes: _Notes,
        fps: float,
    ) -> ExtractedSequence | RejectedTrack:
        score = float(np.median(notes.all_scores)) if notes.all_scores else math.nan
        with self.times.time("finish"):
            sequence = _sequence(number, sights, left_out, score, fps, self._settings.modalities)
            sequence = dataclasses.replace(sequence, part_of=notes.track.number)
        walking_ratio = float(sequence.quality.is_walking.mean())
        if walking_ratio < self._settings.min_walking_ratio:
            detail = f"walks in {walking_ratio:.0%} of {len(sights)} frames, "
            detail += f"expected at least {self._settings.min_walking_ratio:.0%}"
            return RejectedTrack(number, "gate", "not-walking", detail)
        return sequence


@dataclass(frozen=True)
class _Seen:
    """What networks say of one crop; None where another source is asked."""

    person_score: float
    joint_score: float
    heatmaps: UInt8[np.ndarray, "17 64 48"] | None
    mask: Bool[np.ndarray, "256 256"] | None


@dataclass(frozen=True)
class _Sight:
    """One person well seen in one frame."""

    frame_index: int
    box_px: np.ndarray
    square: Window
    mask_box_px: np.ndarray
    silhouette: np.ndarray
    silhouette_128: np.ndarray | None
    heatmaps: np.ndarray | None
    window: Window | None
    rgb: np.ndarray | None
    rgb_mask: np.ndarray | None
    clothes: np.ndarray
    person_score: float
    joint_score: float
    mask_area_ratio: float
    mask_height_px: float
    largest_part_ratio: float
    sharpness: float
    is_cut: bool

    @property
    def distance_px(self) -> float:
        """From the middle of the track's box to the middle of the mask's."""
        offset = self.mask_box_px.reshape(2, 2).mean(axis=0) - self.box_px.reshape(2, 2).mean(
            axis=0
        )
        return float(np.hypot(*offset))


@dataclass(eq=False)
class _Notes:
    """What is known so far of a track in view."""

    track: Track
    all_scores: list[float] = field(default_factory=list)
    sights: list[_Sight] = field(default_factory=list)
    unseen: list[tuple[int, Unseen]] = field(default_factory=list)
    num_cuts: int = 0

    def add(self, frame_index: int, sight: _Sight | Unseen) -> None:
        if isinstance(sight, _Sight):
            self.sights.append(sight)
        else:
            self.unseen.append((frame_index, sight))

    def begin_again(self) -> None:
        """Forget what has become a sequence."""
        self.all_scores, self.sights, self.unseen = [], [], []
        self.num_cuts += 1


def _without_repeats(sights: list[_Sight | Unseen]) -> list[_Sight | Unseen]:
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


def _rgb_window(box_px: np.ndarray, mask_box_px: np.ndarray) -> Window:
    """The person's box and a tenth of it on each side, and in any case the mask and a bit round."""
    outwards = np.array([-1, -1, 1, 1], np.float32)
    size_px = np.tile(box_px[2:] - box_px[:2], 2)
    wide_px = box_px + outwards * _BOX_MARGIN_RATIO * size_px
    mask_px = mask_box_px + outwards * _MASK_MARGIN_RATIO * size_px[1]
    low = np.minimum(wide_px[:2], mask_px[:2])
    high = np.maximum(wide_px[2:], mask_px[2:])
    return Window.containing(np.concatenate([low, high]))


def _sequence(
    number: int,
    sights: list[_Sight],
    left_out: tuple[tuple[int, Unseen], ...],
    track_person_score: float,
    fps: float,
    modalities: tuple[Modality, ...],
) -> ExtractedSequence:
    def stack(values: Iterable[np.ndarray | None]) -> np.ndarray | None:
        known = [value for value in values if value is not None]
        assert len(known) in (0, len(sights))  # a modality is there for all frames or for none
        return np.stack(known) if known else None

    def each(name: str) -> Float32[np.ndarray, " t"]:
        return np.array([getattr(sight, name) for sight in sights], np.float32)

    frame_indices = np.array([sight.frame_index for sight in sights], np.int32)
    boxes_px = np.stack([sight.box_px for sight in sights])
    silhouettes = np.stack([sight.silhouette for sight in sights])
    joints = None
    if {"joints", "heatmaps_redrawn"}.intersection(modalities):
        joints = stack(
            None if sight.heatmaps is None else to_frame_px(joints_of(sight.heatmaps), sight.square)
            for sight in sights
        )
    has_heatmaps = "heatmaps" in modalities
    is_redrawn = "heatmaps_redrawn" in modalities and joints is not None
    masks = stack(sight.rgb_mask for sight in sights)
    return ExtractedSequence(
        track=number,
        frame_indices=frame_indices,
        boxes_px=boxes_px,
        fps=fps,
        silhouettes=silhouettes,
        quality=FrameQuality(
            person_score=each("person_score"),
            joint_score=each("joint_score"),
            mask_area_ratio=each("mask_area_ratio"),
            mask_height_px=each("mask_height_px"),
            largest_part_ratio=each("largest_part_ratio"),
            sharpness=each("sharpness"),
            is_cut=each("is_cut").astype(bool),
            is_walking=is_walking(boxes_px, frame_indices, fps, silhouettes),
        ),
        left_out=left_out,
        track_person_score=track_person_score,
        silhouettes_128=stack(sight.silhouette_128 for sight in sights),
        heatmaps=stack(sight.heatmaps for sight in sights) if has_heatmaps else None,
        heatmap_windows_px=(
            np.stack([heatmap_box_px(sight.square) for sight in sights]) if has_heatmaps else None
        ),
        heatmaps_redrawn=redraw(joints) if is_redrawn and joints is not None else None,
        rgb=stack(sight.rgb for sight in sights),
        rgb_masks=None if masks is None else masks.astype(np.uint8) * np.uint8(255),
        rgb_windows_px=stack(None if s.window is None else s.window.box_px for s in sights),
        joints=joints if "joints" in modalities else None,
    )
