"""The visible solid of a walker: convex hulls of a few ellipsoids each, body, clothes and bag.

A limb is the hull of two balls (a tapered capsule), a torso the hull of two ellipsoids, a foot the
hull of three balls, a coat's skirt the hull of the hips and both knees. Ellipsoids project to
ellipses and hulls to hulls, so that the camera needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from raygait.synthetic.body import Body
from raygait.synthetic.skeleton import Skeleton

REFERENCE_STATURE_M = 1.7
LEFT, RIGHT = 0, 1

Part = Literal[
    "hips",
    "belly",
    "chest",
    "yoke",
    "neck",
    "face",
    "hair",
    "seat",
    "thigh",
    "knee",
    "calf",
    "cuff",
    "shoe",
    "upper_arm",
    "forearm",
    "hand",
    "skirt",
    "handle",
    "bag",
]
"""What a hull is of a walker."""


@dataclass(frozen=True)
class Bag:
    """Something carried. Sizes are half-extents in metres.

    Attributes:
        place: On the back, at one hip from a shoulder strap, or in one hand.
        side: 0 left, 1 right; without meaning for the back.
    """

    place: Literal["back", "hip", "hand"]
    side: int
    depth_m: float
    width_m: float
    height_m: float

    @classmethod
    def draw(cls, generator: np.random.Generator) -> Bag:
        """A random bag: each place equally likely, sizes from a handbag to a full rucksack."""
        place: Literal["back", "hip", "hand"] = ("back", "hip", "hand")[generator.integers(3)]
        side = int(generator.integers(2))
        depth, width, height = generator.uniform(0.8, 1.2, size=3)
        mean = {"back": (0.10, 0.14, 0.20), "hip": (0.15, 0.065, 0.13), "hand": (0.15, 0.05, 0.13)}
        mean_depth, mean_width, mean_height = mean[place]
        return cls(place, side, depth * mean_depth, width * mean_width, height * mean_height)


@dataclass(frozen=True)
class Coat:
    """A coat over everything from the neck to about the knees.

    Attributes:
        thickness_m: What it adds to the radius of torso and, by half, of the arms.
        length_ratio: Where it ends: 0 at the hip joints, 1 at the knees.
        flare_m: What the hem stands off the legs.
        collar_m: What it adds to the neck's radius.
    """

    thickness_m: float
    length_ratio: float
    flare_m: float
    collar_m: float

    @classmethod
    def draw(cls, generator: np.random.Generator) -> Coat:
        """A random coat, from a short jacket of thick cloth to a long wide coat."""
        return cls(
            thickness_m=float(generator.uniform(0.022, 0.045)),
            length_ratio=float(generator.uniform(0.55, 1.0)),
            flare_m=float(generator.uniform(0.015, 0.05)),
            collar_m=float(generator.uniform(0.008, 0.03)),
        )


@dataclass(frozen=True)
class Ellipsoids:
    """Ellipsoids over time and the hulls they form.

    Attributes:
        centres_m: Where they are.
        spreads_m2: R diag(semi-axes squared) R^T of each: the extent of an ellipsoid from its
            centre in the unit direction u is sqrt(u . spread u).
        hulls: Members of each convex hull; shorter lists repeat a member.
        parts: What each hull is.
    """

    centres_m: Float64[ndarray, "t e 3"]
    spreads_m2: Float64[ndarray, "t e 3 3"]
    hulls: tuple[tuple[int, int, int], ...]
    parts: tuple[Part, ...]


class _Solid:
    """Collects ellipsoids and hulls in the order in which they are named."""

    def __init__(self, num_frames: int) -> None:
        self._num_frames = num_frames
        self._centres: list[Float64[ndarray, "t 3"]] = []
        self._spreads: list[Float64[ndarray, "t 3 3"]] = []
        self._hulls: list[tuple[int, int, int]] = []
        self._parts: list[Part] = []

    def ball(self, centre: Float64[ndarray, "t 3"], radius_m: float) -> int:
        spread = np.broadcast_to(np.eye(3) * radius_m**2, (self._num_frames, 3, 3))
        return self._add(centre, spread)

    def ellipsoid(
        self,
        centre: Float64[ndarray, "t 3"],
        segment_axes: Float64[ndarray, "t 3 3"],
        semi_axes_m: tuple[float, float, float],
    ) -> int:
        squared = np.square(semi_axes_m)
        return self._add(centre, (segment_axes * squared) @ segment_axes.transpose(0, 2, 1))

    def hull(self, part: Part, first: int, second: int, third: int | None = None) -> None:
        self._parts.append(part)
        self._hulls.append((first, second, second if third is None else third))

    def build(self) -> Ellipsoids:
        return Ellipsoids(
            np.stack(self._centres, axis=1),
            np.stack(self._spreads, axis=1),
            tuple(self._hulls),
            tuple(self._parts),
        )

    def _add(self, centre: Float64[ndarray, "t 3"], spread: Float64[ndarray, "t 3 3"]) -> int:
        self._centres.append(centre)
        self._spreads.append(spread)
        return len(self._centres) - 1


def outline(
    body: Body, skeleton: Skeleton, *, bag: Bag | None = None, coat: Coat | None = None
) -> Ellipsoids:
    """Flesh, clothes and bag around a skeleton.

    Args:
        body: Girths.
        skeleton: Joints of every frame.
        bag: Something carried, if anything.
        coat: A coat, if any.
    """
    solid = _Solid(skeleton.pelvis.shape[0])
    scale = body.stature_m / REFERENCE_STATURE_M
    girth = scale * body.heaviness
    cloth = coat.thickness_m if coat else 0.0
    pelvis = _torso(solid, body, skeleton, scale, girth, cloth, coat.collar_m if coat else 0.0)
    for side in (LEFT, RIGHT):
        _leg(solid, body, skeleton, side, scale, girth, pelvis)
        _arm(solid, body, skeleton, side, scale, girth, 0.5 * cloth)
    if coat:
        _skirt(solid, body, skeleton, girth, coat, pelvis)
    if bag:
        _bag(solid, body, skeleton, girth, cloth, bag)
    return solid.build()


def _torso(
    solid: _Solid,
    body: Body,
    skeleton: Skeleton,
    scale: float,
    girth: float,
    cloth: float,
    collar: float,
) -> int:
    belly = girth * body.belly
    pelvis_axes, trunk_axes, chest_axes, head_axes = (
        skeleton.pelvis_axes,
        skeleton.trunk_axes,
        skeleton.chest_axes,
        skeleton.head_axes,
    )
    pelvis = solid.ellipsoid(
        skeleton.pelvis
        + pelvis_axes[:, :, 2] * (0.03 * scale)
        - pelvis_axes[:, :, 0] * (body.seat_m * scale),
        pelvis_axes,
        (
            body.pelvis_depth_m * girth + cloth,
            body.pelvis_width_m * girth + cloth,
            0.11 * scale,
        ),
    )
    waist = solid.ellipsoid(
        skeleton.waist + trunk_axes[:, :, 0] * (0.10 * (body.belly - 1.0) * scale),
        trunk_axes,
        (
            body.waist_depth_m * belly + cloth,
            body.waist_width_m * belly + cloth,
            0.12 * scale,
        ),
    )
    chest = solid.ellipsoid(
        skeleton.chest,
        chest_axes,
        (
            body.chest_depth_m * girth + cloth,
            body.chest_width_m * girth + cloth,
            0.14 * scale,
        ),
    )
    shoulders = [
        solid.ball(skeleton.shoulder[:, side], body.shoulder_radius_m * girth + 0.5 * cloth)
        for side in (LEFT, RIGHT)
    ]
    solid.hull("hips", pelvis, waist)
    solid.hull("belly", waist, chest)
    solid.hull("chest", chest, *shoulders)

    nape = solid.ball(skeleton.neck, body.neck_radius_m * girth + collar)
    solid.hull("yoke", nape, *shoulders)
    half_height, half_width, half_depth = (
        body.head_height_m * scale,
        body.head_width_m * scale,
        body.head_depth_m * scale,
    )
    forwards, up = head_axes[:, :, 0], head_axes[:, :, 2]
    throat = solid.ball(
        skeleton.head - up * (0.45 * half_height) - forwards * (0.1 * half_depth),
        0.9 * body.neck_radius_m * scale,
    )
    solid.hull("neck", nape, throat)
    skull = solid.ellipsoid(
        skeleton.head + up * (0.16 * half_height),
        head_axes,
        (half_depth, half_width, 0.84 * half_height),
    )
    chin = solid.ball(
        skeleton.head - up * (0.62 * half_height) + forwards * (0.42 * half_depth),
        0.40 * half_depth,
    )
    solid.hull("face", skull, chin)
    hair_m = max(body.hair_m, 0.0) * scale
    hair = solid.ellipsoid(
        skeleton.head + up * (0.20 * half_height) - forwards * (0.10 * half_depth + 0.5 * hair_m),
        head_axes,
        (half_depth + 0.5 * hair_m, half_width + hair_m, 0.84 * half_height + hair_m),
    )
    hanging_m = max(body.hair_length_m, 0.0) * scale
    tip = solid.ball(
        skeleton.head - up * (0.35 * half_height + hanging_m) - forwards * (0.62 * half_depth),
        0.45 * half_width,
    )
    solid.hull("hair", hair, tip)
    return pelvis


def _leg(
    solid: _Solid,
    body: Body,
    skeleton: Skeleton,
    side: int,
    scale: float,
    girth: float,
    pelvis: int,
) -> None:
    hip, knee, ankle = skeleton.hip[:, side], skeleton.knee[:, side], skeleton.ankle[:, side]
    thigh_top = solid.ball(hip + 0.12 * (knee - hip), body.thigh_radius_m * girth)
    knee_ball = solid.ball(knee, body.knee_radius_m * girth)
    solid.hull("seat", pelvis, thigh_top)
    solid.hull("thigh", thigh_top, knee_ball)

    bone = ankle - knee
    length = np.linalg.norm(bone, axis=1, keepdims=True)
    # The calf muscle lies behind the bone: across it, in the plane of the leg.
    behind = np.stack([bone[:, 2], np.zeros(len(bone)), -bone[:, 0]], axis=1) / length
    calf = solid.ball(knee + 0.30 * bone + behind * (0.014 * scale), body.calf_radius_m * girth)
    cuff = solid.ball(ankle - 0.06 * bone, body.ankle_radius_m * girth)
    solid.hull("knee", knee_ball, calf)
    solid.hull("calf", calf, cuff)

    shoe = body.shoe_radius_m * scale
    instep = solid.ball(ankle, shoe)
    heel = solid.ball(skeleton.heel[:, side], shoe)
    toe = solid.ball(skeleton.toe[:, side], 0.85 * shoe)
    solid.hull("cuff", cuff, instep)
    solid.hull("shoe", instep, heel, toe)


def _arm(
    solid: _Solid,
    body: Body,
    skeleton: Skeleton,
    side: int,
    scale: float,
    girth: float,
    cloth: float,
) -> None:
    shoulder = solid.ball(skeleton.shoulder[:, side], 0.95 * body.shoulder_radius_m * girth + cloth)
    elbow = solid.ball(skeleton.elbow[:, side], body.upper_arm_radius_m * girth + cloth)
    wrist = solid.ball(skeleton.wrist[:, side], 0.85 * body.forearm_radius_m * girth + cloth)
    reach = skeleton.fingertip[:, side] - skeleton.wrist[:, side]
    palm = solid.ball(skeleton.wrist[:, side] + 0.45 * reach, 0.036 * scale)
    fingers = solid.ball(skeleton.wrist[:, side] + 0.85 * reach, 0.024 * scale)
    solid.hull("upper_arm", shoulder, elbow)
    solid.hull("forearm", elbow, wrist)
    solid.hull("hand", wrist, palm, fingers)


def _skirt(
    solid: _Solid, body: Body, skeleton: Skeleton, girth: float, coat: Coat, pelvis: int
) -> None:
    radius = body.thigh_radius_m * girth * (1.0 - 0.25 * coat.length_ratio)
    hem = [
        solid.ball(
            skeleton.hip[:, side]
            + coat.length_ratio * (skeleton.knee[:, side] - skeleton.hip[:, side]),
            radius + 0.5 * coat.thickness_m + coat.flare_m,
        )
        for side in (LEFT, RIGHT)
    ]
    solid.hull("skirt", pelvis, *hem)


def _bag(
    solid: _Solid, body: Body, skeleton: Skeleton, girth: float, cloth: float, bag: Bag
) -> None:
    outwards = 1.0 if bag.side == LEFT else -1.0
    if bag.place == "back":
        bag_axes = skeleton.chest_axes
        centre = (
            0.65 * skeleton.chest
            + 0.35 * skeleton.waist
            - bag_axes[:, :, 0] * (body.chest_depth_m * girth + cloth + 0.55 * bag.depth_m)
        )
    elif bag.place == "hip":
        bag_axes = skeleton.pelvis_axes
        centre = (
            skeleton.pelvis
            + bag_axes[:, :, 2] * 0.02
            - bag_axes[:, :, 0] * 0.06
            + bag_axes[:, :, 1]
            * outwards
            * (body.pelvis_width_m * girth + cloth + 0.5 * bag.width_m)
        )
    else:
        bag_axes = skeleton.pelvis_axes
        hand = skeleton.fingertip[:, bag.side]
        centre = hand - np.array([0.0, 0.0, bag.height_m + 0.03])
        handle = solid.ball(hand, 0.018)
        top = solid.ball(centre, 0.03)
        solid.hull("handle", handle, top)
    half = (0.72 * bag.depth_m, 0.8 * bag.width_m, 0.55 * bag.height_m)
    shift = bag_axes[:, :, 2] * (0.45 * bag.height_m)
    upper = solid.ellipsoid(centre + shift, bag_axes, half)
    lower = solid.ellipsoid(centre - shift, bag_axes, (bag.depth_m, bag.width_m, half[2]))
    solid.hull("bag", upper, lower)
