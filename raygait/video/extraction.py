"""A clip or a folder of masks → sequences: the two stages `shards.ingest` puts into actor pools.

`PeopleFinder` holds the detector and returns boxes; `PeopleDescriber` holds the pose network, reads
the clip a second time and returns silhouettes, heatmaps and crops. What the second decoding costs
was measured: 1 % of all CPU time on `vtest.avi` (768×576, six people a frame), 13 % on the Sports2D
clip (1768×994 VP9, one person). In exchange no image crosses a process border, only a few bytes a
box, and either pool can be scaled alone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raygait.errors import EmptySilhouette, NoPerson, NotAMask, Undecodable
from raygait.video.alignment import align
from raygait.video.appearance import describe_clothes, split_by_clothes
from raygait.video.decode import Frame, open_video
from raygait.video.detection import (
    DETECTOR_ASSETS,
    Detections,
    DetectorName,
    TilePolicy,
    box_areas,
    first_available,
    intersections,
    make_detector,
)
from raygait.video.pose import CROP_PX, POSE_ASSET, Pose, PoseNetwork, Square
from raygait.video.quality import largest_part
from raygait.video.segmentation import BackgroundMasks
from raygait.video.tracking import PersonTracker, Track

STORED_CROP_PX = 128
"""Side of the RGB crops that are kept."""

_SAME_MASK_IOU = 0.6
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# No person fills more of an image than this; an inverted mask does.
_MAX_MASK_RATIO = 0.9
# So long a tracker keeps a person who is not seen, and some more.
_MAX_FED_HOLE_S = 2.0


class VideoSettings(BaseModel):
    """Everything that decides what a clip becomes; equal settings give equal sequences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector: Literal["auto", "ssd", "blazepose", "motion"] = Field(
        "auto",
        description="How people are found: ssd any size, blazepose near ones, motion what moves "
        "before a fixed camera; auto takes the first of these whose weights can be had.",
    )
    tiles: TilePolicy = Field(
        "auto",
        description="Whether ssd searches 2×2 tiles besides the whole frame, for people below a "
        "third of its height; auto looks every 15 frames whether there are any.",
    )
    mask: Literal["blazepose", "background"] = Field(
        "blazepose",
        description="Where silhouettes come from: the pose network (with heatmaps), or "
        "background subtraction for a fixed camera (without).",
    )
    min_frames: int = Field(
        20, ge=1, description="Tracks with fewer usable frames than this become rejects."
    )
    max_frames: int = Field(
        1800,
        ge=1,
        description="Tracks with more usable frames than this are cut into sequences of so many: "
        "memory holds 105 kB a frame of every person in view.",
    )
    min_height_px: float = Field(
        48.0, ge=0, description="Tracks whose median box is lower than this become rejects."
    )
    min_person_score: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Tracks whose median person score is lower become rejects. Things stay near "
        "0, people above 0.7. Without effect with mask=background.",
    )
    min_frame_score: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Frames whose person score is lower are left out. Without effect with "
        "mask=background.",
    )
    min_joint_score: float = Field(
        0.45,
        ge=0,
        le=1,
        description="Frames whose joints are less sure are left out: the person is hidden there. "
        "Without effect with mask=background.",
    )
    min_area_ratio: float = Field(
        0.03, ge=0, le=1, description="Frames whose mask is smaller, over the crop, are left out."
    )
    min_height_ratio: float = Field(
        0.5, ge=0, le=1, description="Frames whose mask is lower, over the crop, are left out."
    )
    min_largest_part_ratio: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Frames whose mask has less than this in its largest part are left out.",
    )
    max_clothes_change: float = Field(
        12.0,
        gt=0,
        description="Colour difference (CIELAB) from which a track is taken to have gone over to "
        "another person, and is parted. Lower parts more; people dressed alike are not told apart.",
    )
    keep_heatmaps: bool = Field(
        True,
        description="Keep 17×64×48 joint heatmaps a frame. Without effect with mask=background, "
        "which has none.",
    )
    keep_crops: bool = Field(True, description="Keep a 128×128 RGB crop a frame.")

    @model_validator(mode="after")
    def _check_lengths(self) -> VideoSettings:
        if self.max_frames < self.min_frames:
            raise ValueError(
                f"max_frames is {self.max_frames}, expected at least min_frames, {self.min_frames}"
            )
        return self

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON and for crossing process borders."""
        return self.model_dump(mode="json")

    def resolved(self) -> VideoSettings:
        """The same, with `auto` replaced by the detector that this machine can have.

        Call it once, before work is spread: then every actor uses the same detector, and what is
        recorded with a sequence says which.
        """
        if self.detector != "auto":
            return self
        return self.model_copy(update={"detector": first_available()})

    def asset_names(self) -> tuple[str, ...]:
        """Names in `assets.ASSETS` of the files these settings use; `auto` counts as resolved."""
        detector = self.resolved().detector
        assert detector != "auto"
        pose = (POSE_ASSET,) if self.mask == "blazepose" else ()
        return (*DETECTOR_ASSETS[detector], *pose)


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


class PeopleFinder:
    """Decode, detect, track: a clip → the boxes of each person in it.

    Args:
        settings: See `VideoSettings`.

    Attributes:
        detector: The detector in use; says what `auto` became.

    Raises:
        AssetError: The detector that was asked for by name needs a file that cannot be had.
    """

    def __init__(self, settings: VideoSettings) -> None:
        self._detector = make_detector(settings.detector, tiles=settings.tiles)
        self._tracker = PersonTracker()
        self.detector: DetectorName = self._detector.name

    def __call__(self, path: str | Path) -> list[Track]:
        """Find the people in a clip; neither detector nor tracker remembers the clip before.

        Raises:
            Undecodable: `decode.open_video`.
            FrameSizeRefused: `decode.open_video`.
            NoPerson: Nobody was found in any two successive frames.
        """
        with open_video(path) as video:
            self._detector.reset()
            self._tracker.reset(video.fps)
            longest_hole = round(_MAX_FED_HOLE_S * (video.fps if video.fps > 0 else 25.0))
            expected = 0
            for frame in video.frames():
                # The tracker counts time in calls: it has to hear of frames that are lost.
                for index in range(max(expected, frame.index - longest_hole), frame.index):
                    self._tracker.update(index, Detections.none())
                self._tracker.update(frame.index, self._detector(frame.image))
                expected = frame.index + 1
        tracks = self._tracker.tracks()
        if not tracks:
            damage = f"; {video.damage}" if video.damage else ""
            raise NoPerson(
                f"{path}: detector {self.detector} found nobody in {video.num_frames} frames; if "
                f"there are people, try another detector{damage}"
            )
        return tracks


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
            heatmaps=pose.heatmaps if pose and settings.keep_heatmaps else None,
            crop=stored if settings.keep_crops else None,
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


def read_silhouettes(folder: str | Path) -> ExtractedSequence:
    """Read a folder of mask images, as CASIA-B ships them: one PNG a frame.

    They are ordered by the number that ends the name, `8.png` before `12.png`; by name when no
    name ends in a number. Other files and names that begin with a dot are not looked at. Frames
    whose mask holds nobody are left out; `frame_indices` tells which stayed.

    Args:
        folder: Holds `*.png` of one size, 8 bits, grey or with three equal channels, 0 background
            and 255 person.

    Returns:
        The sequence; no heatmaps, crops, boxes or scores, and no frame rate.

    Raises:
        Undecodable: No such folder, no PNG in it, one cannot be read, or their order is not clear.
        NotAMask: An image has alpha, 16 bits, colours, values 0..1 or another size than the one
            before, or is a person over more than 0.9 of its area: inverted.
        EmptySilhouette: Not one mask holds a person.
    """
    folder = Path(folder)
    paths = _mask_paths(folder)
    kept: list[int] = []
    silhouettes: list[np.ndarray] = []
    area_ratios: list[float] = []
    last_error: EmptySilhouette | None = None
    shape: tuple[int, ...] | None = None
    for index, path in enumerate(paths):
        mask = _read_mask(path)
        if shape is not None and mask.shape != shape:
            raise NotAMask(
                f"{path}: {mask.shape[1]}×{mask.shape[0]} px, those before it "
                f"{shape[1]}×{shape[0]}; the masks of a folder have one size"
            )
        shape = mask.shape
        try:
            silhouettes.append(align(mask))
        except EmptySilhouette as error:
            last_error = error
            continue
        kept.append(index)
        area_ratios.append(float(np.count_nonzero(mask)) / mask.size)
    if not silhouettes:
        raise EmptySilhouette(
            f"{folder}: not one of {len(paths)} masks holds a person (the last: {last_error})"
        )
    unknown = np.full(len(kept), np.nan, np.float32)
    return ExtractedSequence(
        track=0,
        frame_indices=np.array(kept, np.int32),
        boxes_px=np.full((len(kept), 4), np.nan, np.float32),
        fps=math.nan,
        silhouettes=np.stack(silhouettes),
        heatmaps=None,
        crops=None,
        person_score=unknown,
        joint_score=unknown.copy(),
        mask_area_ratio=np.array(area_ratios, np.float32),
    )


def _mask_paths(folder: Path) -> list[Path]:
    try:
        paths = [
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.suffix.lower() == ".png"
        ]
    except OSError as error:
        raise Undecodable(f"{folder}: no .png in it can be seen: {error.strerror}") from error
    if not paths:
        raise Undecodable(f"{folder}: no .png in it, expected one mask image a frame")
    paths.sort()
    by_number: dict[int, Path] = {}
    unnumbered: list[Path] = []
    for path in paths:
        if not path.is_file():
            raise Undecodable(f"{path}: not a regular file, expected a mask image")
        digits = re.search(r"[0-9]+$", path.stem)
        if digits is None:
            unnumbered.append(path)
            continue
        other = by_number.setdefault(int(digits[0]), path)
        if other != path:
            raise Undecodable(
                f"{path}: frame {int(digits[0])}, and so is {other.name}; each frame is there once"
            )
    if unnumbered and by_number:
        raise Undecodable(
            f"{unnumbered[0]}: the name does not end in a frame number, those of others do"
        )
    return unnumbered or [by_number[number] for number in sorted(by_number)]


def _read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    try:
        content = path.read_bytes()
        if not content.startswith(_PNG_SIGNATURE):
            raise Undecodable(f"{path}: not a PNG ({len(content)} bytes)")
        # Unchanged: any other flag makes grey levels of colours, alpha and 16 bits.
        mask = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise Undecodable(f"{path}: a PNG that cannot be read ({error})") from error
    if mask is None:
        raise Undecodable(f"{path}: a PNG that cannot be read ({len(content)} bytes)")
    expected = "expected a mask of 8 bits, 0 background and 255 person"
    if mask.dtype != np.uint8:
        raise NotAMask(f"{path}: values of {8 * mask.itemsize} bits, {expected}")
    if mask.ndim == 3 and mask.shape[2] == 4:
        raise NotAMask(f"{path}: has an alpha channel, {expected}")
    if mask.ndim == 3:
        if (mask != mask[..., :1]).any():
            raise NotAMask(f"{path}: has colours, {expected}")
        mask = np.ascontiguousarray(mask[..., 0])
    if mask.max() == 1:
        raise NotAMask(f"{path}: values 0..1, expected 0..255")
    if np.count_nonzero(mask) > _MAX_MASK_RATIO * mask.size:
        raise NotAMask(
            f"{path}: {np.count_nonzero(mask) / mask.size:.0%} of it is person, expected at most "
            f"{_MAX_MASK_RATIO:.0%}; is it inverted?"
        )
    return mask
