"""The truth about a rendered clip as arrays, in one `.npz` file without pickles."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy import ndarray

if TYPE_CHECKING:
    from raygait.synthetic.street import Street, StreetFrame

FORMAT_VERSION = 2


@dataclass(frozen=True)
class StreetTruth:
    """Who is where in every frame of a clip; `k` counts its people.

    Boxes, joints and ratios are those of `street.SeenPerson`, identity 1 is k = 0.

    Attributes:
        size_px: Width and height.
        fps: Frames a second.
        seeds: `Walker.seed` of each person in decimal digits: it may have more than 64 bits.
        conditions: Walk of each person, such as `nm-01`.
        boxes_px: Around the whole person.
        visible_boxes_px: Around the visible pixels; NaN when there is none.
        visible_ratios: Visible pixels over those of the whole person.
        joints: x, y and whether inside the image.
        is_walking: False while standing.
        views_deg: Azimuth from which the camera sees the person.
        run_values: Labels of all frames, row by row, as runs of one value; see `labels`.
        run_lengths: Pixels in each run.
        frame_runs: Where in the runs each frame begins, and the end.
    """

    size_px: Int64[ndarray, " 2"]
    fps: Float32[ndarray, ""]
    seeds: ndarray
    conditions: ndarray
    boxes_px: Float32[ndarray, "t k 4"]
    visible_boxes_px: Float32[ndarray, "t k 4"]
    visible_ratios: Float32[ndarray, "t k"]
    joints: Float32[ndarray, "t k 17 3"]
    is_walking: Bool[ndarray, "t k"]
    views_deg: Float32[ndarray, "t k"]
    run_values: UInt8[ndarray, " run"]
    run_lengths: Int64[ndarray, " run"]
    frame_runs: Int64[ndarray, " frame"]

    def __len__(self) -> int:
        return len(self.boxes_px)

    def labels(self, frame: int) -> UInt8[ndarray, "h w"]:
        """Who is visible at each pixel of a frame: k + 1, or 0 for nobody."""
        runs = slice(self.frame_runs[frame], self.frame_runs[frame + 1])
        width_px, height_px = self.size_px
        flat: UInt8[ndarray, " pixel"] = np.repeat(self.run_values[runs], self.run_lengths[runs])
        return flat.reshape(height_px, width_px)

    def save(self, path: Path) -> None:
        """Write it; the file is there whole or not at all."""
        temporary = path.with_name(f".tmp-{path.name}")
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with temporary.open("wb") as file:
            np.savez_compressed(file, format_version=FORMAT_VERSION, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> StreetTruth:
        """Read what `save` wrote.

        Raises:
            ValueError: Written by another version, or not by this.
        """
        with np.load(path, allow_pickle=False) as file:
            version = int(file["format_version"]) if "format_version" in file.files else None
            if version != FORMAT_VERSION:
                raise ValueError(
                    f"{path} has truth format {version}, expected {FORMAT_VERSION}; render it anew"
                )
            return cls(**{field.name: file[field.name] for field in fields(cls)})


class TruthRecorder:
    """Collects the truth of a scene's frames; no image or mask is kept.

    Args:
        street: The scene.
    """

    def __init__(self, street: Street) -> None:
        self._street = street
        self._people: list[tuple[ndarray, ...]] = []
        self._values: list[UInt8[ndarray, " run"]] = []
        self._lengths: list[Int64[ndarray, " run"]] = []

    def add(self, frame: StreetFrame) -> None:
        """Add the next frame."""
        people = frame.people
        self._people.append(
            (
                np.array([person.box_px for person in people], np.float32).reshape(-1, 4),
                np.array([person.visible_box_px for person in people], np.float32).reshape(-1, 4),
                np.array([person.visible_ratio for person in people], np.float32),
                np.array([person.joints for person in people], np.float32).reshape(-1, 17, 3),
                np.array([person.is_walking for person in people], np.bool_),
                np.array([person.view_deg for person in people], np.float32),
            )
        )
        flat = frame.labels.ravel()
        begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        self._values.append(flat[begins])
        self._lengths.append(np.diff(begins, append=len(flat)))

    def truth(self) -> StreetTruth:
        """All of it."""
        camera = self._street.camera
        boxes, visible_boxes, ratios, joints, is_walking, views = (
            np.stack(column) for column in zip(*self._people, strict=True)
        )
        num_runs = [len(values) for values in self._values]
        return StreetTruth(
            np.array([camera.width_px, camera.height_px], np.int64),
            np.array(self._street.fps, np.float32),
            np.array([str(passer.walker.seed) for passer in self._street.people], np.str_),
            np.array([passer.condition for passer in self._street.people], np.str_),
            boxes,
            visible_boxes,
            ratios,
            joints,
            is_walking,
            views,
            np.concatenate(self._values),
            np.concatenate(self._lengths),
            np.concatenate([[0], np.cumsum(num_runs)]).astype(np.int64),
        )
