"""`VideoSettings`: everything that decides what a clip becomes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raygait.assets import ASSETS
from raygait.errors import AssetError
from raygait.video.detection import DETECTOR_ASSETS, BoxFormat, first_available
from raygait.video.pose import POSE_ASSET
from raygait.video.tiling import TilePolicy

Modality = Literal[
    "silhouettes", "silhouettes_128", "heatmaps", "heatmaps_redrawn", "rgb", "joints"
]
"""What can be kept of a person, each a column or a few of a row."""

ONNX_FIELDS = ("detector_onnx", "pose_onnx", "mask_onnx")
"""Settings that name a user's file. What is in the file decides the rows, not where it lies."""


class VideoSettings(BaseModel):
    """Everything that decides what a clip becomes; equal settings give equal sequences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[Modality, ...] = Field(
        ("silhouettes", "heatmaps", "rgb", "joints"),
        min_length=1,
        description="What is kept a frame; more than one costs little, all share decoding, boxes "
        "and networks. silhouettes: 64×64, always kept (64×44 is a cut of its columns). "
        "silhouettes_128: 128×128. heatmaps: 17 joints, 64×48. heatmaps_redrawn: limbs and "
        "joints, 64×64, drawn from the joints' places. rgb: crop, mask and the crop's width over "
        "height, 128×128. joints: places in the frame, with a score. Of masks, what their owner "
        "ships beside them is kept: joints, heatmaps_redrawn from these, rgb.",
    )
    detector: Literal["auto", "ssd", "blazepose", "motion", "onnx"] = Field(
        "auto",
        description="How people are found: ssd any size, blazepose near ones, motion what moves "
        "before a fixed camera, onnx your own network; auto takes the first of the former three "
        "whose weights can be had.",
    )
    detector_onnx: str = Field("", description="File of the network for detector=onnx.")
    detector_onnx_boxes: BoxFormat = Field(
        "yolox",
        description="What its output is. yolox: offsets on grids of stride 8, 16, 32 as exported; "
        "yolox-decoded: centre, size, objectness, classes in pixels; yolov8: centre, size, "
        "classes, transposed; nms: x0 y0 x1 y1 score class.",
    )
    tiles: TilePolicy = Field(
        "auto",
        description="Which overlapping tiles ssd searches besides the whole frame, for people "
        "below a third of its height: auto where there are such people, always all that the "
        "frame's size calls for, a number n a grid of n×n.",
    )
    detect_every: int = Field(
        1,
        ge=1,
        le=30,
        description="Look for people in every n-th frame only; their boxes between are filled in.",
    )
    pose: Literal["blazepose", "onnx", "none"] = Field(
        "blazepose",
        description="Where joints and heatmaps come from; onnx is an HRNet or ViTPose of 256×192 "
        "that gives 17 maps of 64×48; with none there are none.",
    )
    pose_onnx: str = Field("", description="File of the network for pose=onnx.")
    mask: Literal["blazepose", "background", "onnx"] = Field(
        "blazepose",
        description="Where masks come from: the pose network's own, background subtraction for a "
        "fixed camera, or your own network.",
    )
    mask_onnx: str = Field("", description="File of the network for mask=onnx.")
    min_frames: int = Field(
        20, ge=1, description="Tracks with fewer usable frames than this become rejects."
    )
    max_frames: int = Field(
        1800,
        ge=1,
        description="Tracks with more usable frames than this are cut into sequences of so many: "
        "memory holds up to 140 kB a frame of every person in view. Of a clip that says who walks "
        "one is kept, the others are rejects.",
    )
    min_height_px: float = Field(
        48.0, ge=0, description="Tracks whose median box is lower than this become rejects."
    )
    min_person_score: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Tracks whose median person score is lower become rejects. Things stay near "
        "0, people above 0.7. Only blazepose gives this score.",
    )
    min_frame_score: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Frames whose person score is lower are left out. Only blazepose gives it.",
    )
    min_joint_score: float = Field(
        0.45,
        ge=0,
        le=1,
        description="Frames whose joints are less sure, on average, are left out: the person is "
        "hidden there. GaitHeat takes 0.4 for HRNet. Without effect with pose=none.",
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
    min_sharpness: float = Field(
        0.0,
        ge=0,
        description="Frames that are less sharp are left out (root mean square of the Laplacian "
        "of the grey crop, in grey levels).",
    )
    keep_cut: bool = Field(
        False,
        description="Keep frames in which the person is cut, by the frame's border or because arms "
        "or feet reach over the crop; they are marked.",
    )
    min_walking_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Tracks that walk in a smaller share of their frames become rejects; 0 keeps "
        "who stands, marked.",
    )
    max_clothes_change: float = Field(
        12.0,
        gt=0,
        description="Colour difference (CIELAB) from which a track is taken to have gone over to "
        "another person, and is parted. Lower parts more; people dressed alike are not told apart.",
    )

    @field_validator("modalities")
    @classmethod
    def _order_modalities(cls, value: tuple[Modality, ...]) -> tuple[Modality, ...]:
        # Silhouettes are what everything else is judged by, and cost next to nothing.
        return tuple(name for name in get_args(Modality) if name in {*value, "silhouettes"})

    @model_validator(mode="after")
    def _check(self) -> VideoSettings:
        if self.max_frames < self.min_frames:
            raise ValueError(
                f"max_frames is {self.max_frames}, expected at least min_frames, {self.min_frames}"
            )
        for role in ("detector", "pose", "mask"):
            if getattr(self, role) == "onnx" and not getattr(self, f"{role}_onnx"):
                raise ValueError(f"{role} is onnx, and {role}_onnx names no file")
            if getattr(self, role) != "onnx" and getattr(self, f"{role}_onnx"):
                raise ValueError(
                    f"{role}_onnx names a file, and {role} is {getattr(self, role)}: say "
                    f"{role}=onnx to use it"
                )
        if self.pose == "none":
            needing = {"heatmaps", "heatmaps_redrawn", "joints"}.intersection(self.modalities)
            if needing:
                raise ValueError(
                    f"pose is none, and {', '.join(sorted(needing))} come from a pose network: "
                    "leave them out of modalities"
                )
        return self

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON and for crossing process borders."""
        return self.model_dump(mode="json")

    def resolved(self) -> VideoSettings:
        """The same, with nothing left that depends on where it is read.

        `auto` is replaced by the detector that this machine can have, and paths by absolute ones.
        Call it once, before work is spread: then every actor does the same, and what is recorded
        with a sequence says what.
        """
        paths = {
            field: str(Path(getattr(self, field)).absolute())
            for field in ONNX_FIELDS
            if getattr(self, field)
        }
        detector = first_available() if self.detector == "auto" else self.detector
        return self.model_copy(update={"detector": detector, **paths})

    def asset_names(self) -> tuple[str, ...]:
        """Names in `assets.ASSETS` of the files these settings use; `auto` counts as resolved."""
        detector = self.resolved().detector
        assert detector != "auto"
        found = () if detector == "onnx" else DETECTOR_ASSETS[detector]
        pose = (POSE_ASSET,) if "blazepose" in (self.pose, self.mask) else ()
        return (*found, *pose)

    def file_digests(self) -> dict[str, str]:
        """SHA-256 of every file that networks are read from, by asset or by setting.

        Raises:
            AssetError: A file that a setting names cannot be read.
        """
        digests = {name: ASSETS[name].sha256 for name in self.asset_names()}
        for field in ONNX_FIELDS:
            path = getattr(self, field)
            if not path:
                continue
            try:
                with Path(path).open("rb") as file:
                    digests[field] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise AssetError(
                    f"{field}: {path} cannot be read ({error.strerror}): name an ONNX file"
                ) from error
        return digests
