"""One person, one walk, one camera: silhouettes with certain identity, and the joints in them."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numpy import ndarray

from raygait.synthetic.body import Body
from raygait.synthetic.camera import Camera
from raygait.synthetic.gait import Gait, joint_angles
from raygait.synthetic.outline import Bag, Coat, Ellipsoids, outline
from raygait.synthetic.skeleton import Skeleton, pose
from raygait.synthetic.traits import draw, vary

WALKERS_VERSION = 1
"""Raised with every change that draws a seed's walkers differently."""

FPS = 25.0
CONDITION_KINDS = ("nm", "bg", "cl")
COCO_JOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)


@dataclass(frozen=True)
class Walk:
    """One walk of one person: what all cameras around it see.

    Attributes:
        body: The person's body as dressed that day.
        gait: The person's gait in that walk.
        bag: What is carried.
        coat: What is worn on top.
        start_phase_rad: Phase of the left leg in frame 0.
        heading_deg: How far the walk strays from the camera's nominal line.
    """

    body: Body
    gait: Gait
    bag: Bag | None
    coat: Coat | None
    start_phase_rad: float
    heading_deg: float


@dataclass(frozen=True)
class Walker:
    """A person with known identity. Equal seeds are the same person.

    Attributes:
        seed: Everything follows from it.
        body: Shape when standing still.
        gait: Way of walking.
    """

    seed: int
    body: Body
    gait: Gait

    @classmethod
    def from_seed(cls, seed: int) -> Walker:
        """The person of a seed.

        Args:
            seed: Any integer from 0.
        """
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        return cls(seed, draw(Body, generator), draw(Gait, generator))

    def walk(self, condition: str) -> Walk:
        """One walk of this person, the same whenever and wherever it is asked for.

        Args:
            condition: Kind and number as CASIA-B writes them, `nm-01`: `nm` in ordinary clothes,
                `bg` with a bag, `cl` with a coat. Two numbers are two walks: another start, a
                little more or less speed and swing, other bag, other coat.

        Raises:
            ValueError: Not of that form.
        """
        kind, number = parse_condition(condition)
        key = (1, CONDITION_KINDS.index(kind), number)
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        start_phase_rad = float(generator.uniform(0.0, 2.0 * np.pi))
        heading_deg = float(np.clip(generator.normal(0.0, 2.0), -5.0, 5.0))
        return Walk(
            body=vary(self.body, generator),
            gait=vary(self.gait, generator),
            bag=Bag.draw(generator) if kind == "bg" else None,
            coat=Coat.draw(generator) if kind == "cl" else None,
            start_phase_rad=start_phase_rad,
            heading_deg=heading_deg,
        )


@dataclass(frozen=True)
class Clip:
    """What one camera saw.

    Attributes:
        masks: Silhouettes, 0 background, 255 walker.
        joints: COCO-17 in the order of `COCO_JOINTS`: x and y in pixels (pixel centres are whole
            numbers), and 1 where the joint is inside the image, else 0. A joint that the body
            itself hides counts as inside.
        fps: Frames a second.
    """

    masks: UInt8[ndarray, "t h w"]
    joints: Float32[ndarray, "t 17 3"]
    fps: float


@dataclass(frozen=True)
class Stage:
    """A walk and the camera before it: what masks and pictures are made of.

    Attributes:
        walk: Who walks, and how.
        skeleton: Joints in every frame, the walker staying in place.
        solid: What is around them, in place too.
        path_m: Where the walker is in every frame.
        camera: What looks on.
    """

    walk: Walk
    skeleton: Skeleton
    solid: Ellipsoids
    path_m: Float64[ndarray, "t 3"]
    camera: Camera


def parse_condition(condition: str) -> tuple[str, int]:
    """Kind and number of a condition's name: `bg-02` is `("bg", 2)`.

    Raises:
        ValueError: Not of that form.
    """
    match = re.fullmatch(r"(nm|bg|cl)-(\d{2})", condition)
    if match is None:
        raise ValueError(
            f"a synthetic condition is nm-, bg- or cl- and two digits, such as nm-01, "
            f"got {condition!r}"
        )
    return match[1], int(match[2])


def render(
    walker: Walker,
    *,
    condition: str,
    view_deg: float,
    num_frames: int,
    in_place: bool = False,
    width_px: int = 320,
    height_px: int = 240,
) -> Clip:
    """Masks and joints of one walk before one camera.

    Args:
        walker: Who walks.
        condition: Which walk, such as `nm-01`.
        view_deg: Azimuth, 0 towards the camera, 90 from the side, 180 away.
        num_frames: Length, at 25 frames a second.
        in_place: Walk as on a treadmill, instead of through the image. Through the image the
            camera stands as far away as the whole walk needs.
        width_px: Of the image.
        height_px: Of the image.

    Raises:
        ValueError: No frame, or a condition of another form.
    """
    stage = set_stage(
        walker,
        condition=condition,
        view_deg=view_deg,
        num_frames=num_frames,
        in_place=in_place,
        width_px=width_px,
        height_px=height_px,
    )
    placed = dataclasses.replace(
        stage.solid, centres_m=stage.solid.centres_m + stage.path_m[:, None]
    )
    joints_m = coco_joints(stage.walk.body, stage.skeleton) + stage.path_m[:, None]
    return Clip(stage.camera.masks(placed), joints_in_image(stage.camera, joints_m), FPS)


def render_masks(
    walker: Walker, *, condition: str, view_deg: float, num_frames: int, in_place: bool = False
) -> UInt8[ndarray, "t 240 320"]:
    """Only the masks of `render`, at 320x240."""
    return render(
        walker, condition=condition, view_deg=view_deg, num_frames=num_frames, in_place=in_place
    ).masks


def set_stage(
    walker: Walker,
    *,
    condition: str,
    view_deg: float,
    num_frames: int,
    in_place: bool,
    width_px: int,
    height_px: int,
) -> Stage:
    """Everything of `render` but the picture; the arguments are the same.

    Raises:
        ValueError: No frame, or a condition of another form.
    """
    if num_frames < 1:
        raise ValueError(f"a clip has at least 1 frame, got {num_frames}")
    walk = walker.walk(condition)
    time_s = np.arange(num_frames) / FPS
    phase_rad = walk.start_phase_rad + 2.0 * np.pi * walk.gait.stride_hz * time_s
    skeleton = pose(walk.body, joint_angles(walk.gait, phase_rad))
    solid = outline(walk.body, skeleton, bag=walk.bag, coat=walk.coat)
    path_m = np.zeros((num_frames, 3))
    if not in_place:
        path_m[:, 0] = speed_m_s(walk) * (time_s - time_s[-1] / 2.0)
    camera = _camera(view_deg + walk.heading_deg, float(path_m[-1, 0]), width_px, height_px)
    return Stage(walk, skeleton, solid, path_m, camera)


def joints_in_image(
    camera: Camera, joints_m: Float64[ndarray, "t 17 3"]
) -> Float32[ndarray, "t 17 3"]:
    """Points as `Clip.joints` has them: x and y in pixels, and 1 where inside the image."""
    pixels = camera.project(joints_m)
    inside = (
        (pixels[..., 0] >= 0.0)
        & (pixels[..., 0] <= camera.width_px - 1)
        & (pixels[..., 1] >= 0.0)
        & (pixels[..., 1] <= camera.height_px - 1)
    )
    return np.concatenate([pixels, inside[..., None]], axis=-1).astype(np.float32)


def speed_m_s(walk: Walk) -> float:
    """Speed over ground at which the feet of this gait slide least.

    In a cycle the body passes each foot once while it stands: two steps, each as long as the
    heels are apart at the heel strike.
    """
    strikes = np.array([0.0, np.pi])
    at_strike = pose(walk.body, joint_angles(walk.gait, strikes))
    heel_x = at_strike.heel[:, :, 0]
    step_m = (heel_x[0, 0] - heel_x[0, 1]) + (heel_x[1, 1] - heel_x[1, 0])
    return float(max(step_m, 0.2) * walk.gait.stride_hz)


def coco_joints(body: Body, skeleton: Skeleton) -> Float64[ndarray, "t 17 3"]:
    """The 17 key points in space; those of the face a little under the skin."""
    scale = body.stature_m / 1.7
    forwards, left, up = (skeleton.head_axes[:, :, axis] for axis in range(3))
    depth, width = body.head_depth_m * scale, body.head_width_m * scale
    head = skeleton.head
    face = [
        head + forwards * (0.90 * depth),
        head + forwards * (0.80 * depth) + up * 0.03 * scale + left * (0.36 * width),
        head + forwards * (0.80 * depth) + up * 0.03 * scale - left * (0.36 * width),
        head + left * (0.92 * width),
        head - left * (0.92 * width),
    ]
    pairs = np.stack(
        [
            skeleton.shoulder,
            skeleton.elbow,
            skeleton.wrist,
            skeleton.hip,
            skeleton.knee,
            skeleton.ankle,
        ],
        axis=1,
    )  # [t, 6, 2, 3]
    return np.concatenate([np.stack(face, axis=1), pairs.reshape(len(pairs), 12, 3)], axis=1)


def _camera(view_deg: float, half_path_m: float, width_px: int, height_px: int) -> Camera:
    """The nearest camera, 5 m or more away, that sees a person on the whole path."""
    focal_px = 1.6 * width_px
    view = np.deg2rad(view_deg)
    towards_m = half_path_m * abs(float(np.cos(view)))
    aside_m = half_path_m * abs(float(np.sin(view))) + 0.75
    by_width_m = focal_px * aside_m / (0.48 * width_px)
    by_height_m = focal_px * 2.15 / (0.94 * height_px)
    distance_m = max(5.0, towards_m + max(by_width_m, by_height_m))
    return Camera(
        view_deg=view_deg,
        distance_m=distance_m,
        focal_px=focal_px,
        width_px=width_px,
        height_px=height_px,
    )
