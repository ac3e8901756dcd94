"""Find the people of a clip: decode, detect, track. The first of the two readings of a clip."""

from __future__ import annotations

from pathlib import Path

from raygait.errors import NoPerson
from raygait.video.appearance import describe_boxes
from raygait.video.detection import DetectorName, make_detector
from raygait.video.image_folders import open_clip
from raygait.video.settings import VideoSettings
from raygait.video.timing import StageTimes
from raygait.video.tracking import PersonTracker, Track


class PeopleFinder:
    """Decode, detect, track: a clip → the boxes of each person in it.

    Args:
        settings: See `VideoSettings`.

    Attributes:
        detector: The detector in use; says what `auto` became.
        times: Where the time went, over all clips: decode, detect, track.

    Raises:
        AssetError: The detector that was asked for by name needs a file that cannot be had.
    """

    def __init__(self, settings: VideoSettings) -> None:
        self._detector = make_detector(
            settings.detector,
            tiles=settings.tiles,
            onnx_path=settings.detector_onnx,
            onnx_boxes=settings.detector_onnx_boxes,
        )
        self._tracker = PersonTracker()
        self._detect_every = settings.detect_every
        self.detector: DetectorName = self._detector.name
        self.times = StageTimes()

    def __call__(self, path: str | Path) -> list[Track]:
        """Find the people in a clip; neither detector nor tracker remembers the clip before.

        Raises:
            Undecodable: `image_folders.open_clip`.
            FrameSizeRefused: `image_folders.open_clip`.
            NoPerson: Nobody was found in any two successive frames.
        """
        with open_clip(path) as video:
            self._detector.reset()
            self._tracker.reset(video.fps, detect_every=self._detect_every, width_px=video.width_px)
            for frame in self.times.iterate("decode", video.frames()):
                # Counted in places, not in frames that are left: those between are filled in.
                if frame.index % self._detect_every:
                    continue
                with self.times.time("detect"):
                    detections = self._detector(frame.image)
                with self.times.time("track"):
                    looks = describe_boxes(frame.image, detections.boxes_px)
                    self._tracker.update(frame.index, detections, looks)
        with self.times.time("track"):
            tracks = self._tracker.tracks()
        if not tracks:
            damage = f"; {video.damage}" if video.damage else ""
            raise NoPerson(
                f"{path}: detector {self.detector} found nobody in {video.num_frames} frames; if "
                f"there are people, try another detector{damage}"
            )
        return tracks
