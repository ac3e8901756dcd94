"""Body and joint angles to joints in space.

Axes: x forwards, y to the walker's left, z up, metres; the ground is z = 0. Columns of an axes
matrix are the forward, left and up directions of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from raygait.synthetic.body import Body
from raygait.synthetic.gait import JointAngles

SIDES = np.array([1.0, -1.0])  # left, right along y
ANKLE_HEIGHT_RATIO = 0.039


@dataclass(frozen=True)
class Skeleton:
    """Joints of one walk, the walker staying in place; pairs are left, right."""

    pelvis: Float64[ndarray, "t 3"]
    waist: Float64[ndarray, "t 3"]
    chest: Float64[ndarray, "t 3"]
    neck: Float64[ndarray, "t 3"]
    head: Float64[ndarray, "t 3"]
    hip: Float64[ndarray, "t 2 3"]
    knee: Float64[ndarray, "t 2 3"]
    ankle: Float64[ndarray, "t 2 3"]
    heel: Float64[ndarray, "t 2 3"]
    toe: Float64[ndarray, "t 2 3"]
    shoulder: Float64[ndarray, "t 2 3"]
    elbow: Float64[ndarray, "t 2 3"]
    wrist: Float64[ndarray, "t 2 3"]
    fingertip: Float64[ndarray, "t 2 3"]
    pelvis_axes: Float64[ndarray, "t 3 3"]
    trunk_axes: Float64[ndarray, "t 3 3"]
    chest_axes: Float64[ndarray, "t 3 3"]
    head_axes: Float64[ndarray, "t 3 3"]


def axes(
    yaw: Float64[ndarray, " t"], roll: Float64[ndarray, " t"], pitch: Float64[ndarray, " t"]
) -> Float64[ndarray, "t 3 3"]:
    """Axes turned by yaw about up, then roll about forwards, then pitch, forward lean positive."""
    cy, sy = np.cos(yaw), np.sin(yaw)
    cr, sr = np.cos(roll), np.sin(roll)
    cp, sp = np.cos(pitch), np.sin(pitch)
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    about_z = np.stack([cy, -sy, zero, sy, cy, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    about_x = np.stack([one, zero, zero, zero, cr, -sr, zero, sr, cr], -1).reshape(-1, 3, 3)
    about_y = np.stack([cp, zero, sp, zero, one, zero, -sp, zero, cp], -1).reshape(-1, 3, 3)
    turned: Float64[ndarray, "t 3 3"] = about_z @ about_x @ about_y
    return turned


def swung(
    angle: Float64[ndarray, "t 2"], away: Float64[ndarray, " 2"]
) -> Float64[ndarray, "t 2 3"]:
    """Unit vectors of limbs that hang down at angle 0, swing forwards and stand off sideways."""
    lean = np.sin(away) * SIDES
    drop = np.cos(angle)
    return np.stack([np.sin(angle), drop * lean, -drop * np.cos(away)], axis=-1)


def pose(body: Body, angles: JointAngles) -> Skeleton:
    """Put a body into the angles of a walk and set its lower foot on the ground.

    Args:
        body: Lengths.
        angles: Angles of every frame.
    """
    stature = body.stature_m
    num_frames = angles.leg.shape[0]
    yaw, roll, pitch = angles.trunk.T
    still = np.zeros(num_frames)
    pelvis_axes = axes(angles.pelvis[:, 0], angles.pelvis[:, 1], 0.5 * pitch)
    trunk_axes = axes(0.3 * yaw, roll, pitch)
    chest_axes = axes(yaw, roll, pitch + angles.stoop)
    head_axes = axes(still, still, still + angles.head_pitch)

    pelvis = np.zeros((num_frames, 3))
    pelvis[:, 1] = angles.sway_m
    hip = _beside(pelvis, pelvis_axes, body.hip_half_ratio * stature)

    hip_angle, knee_angle, ankle_angle = np.moveaxis(angles.leg, -1, 0)
    thigh = swung(hip_angle, angles.abduction)
    # The shank hangs straighter than the thigh: feet keep to their own lines.
    shank = swung(hip_angle - knee_angle, 0.5 * angles.abduction)
    knee = hip + thigh * (body.thigh_ratio * stature)
    ankle = knee + shank * (body.shank_ratio * stature)
    sole = hip_angle - knee_angle + ankle_angle
    foot_m = body.foot_ratio * stature
    forwards = np.stack(
        [
            np.cos(sole) * np.cos(angles.toe_out),
            np.cos(sole) * np.sin(angles.toe_out) * SIDES,
            np.sin(sole),
        ],
        axis=-1,
    )
    down = np.stack(
        [
            np.sin(sole) * np.cos(angles.toe_out),
            np.sin(sole) * np.sin(angles.toe_out) * SIDES,
            -np.cos(sole),
        ],
        axis=-1,
    )
    below = ankle + down * (ANKLE_HEIGHT_RATIO * stature - 0.6 * body.shoe_radius_m)
    heel = below - forwards * (0.20 * foot_m)
    toe = below + forwards * (0.62 * foot_m) + down * (0.2 * body.shoe_radius_m)

    up_pelvis, up_trunk, up_chest = (a[:, :, 2] for a in (pelvis_axes, trunk_axes, chest_axes))
    trunk_m = body.trunk_ratio * stature
    waist = pelvis + up_pelvis * (0.22 * trunk_m) + up_trunk * (0.12 * trunk_m)
    chest = waist + up_trunk * (0.14 * trunk_m) + up_chest * (0.22 * trunk_m)
    collar = chest + up_chest * (0.30 * trunk_m)
    shoulder = _beside(
        collar - up_chest * (body.shoulder_drop_ratio * stature),
        chest_axes,
        body.shoulder_half_ratio * stature,
    )
    neck = collar + up_chest * (0.02 * stature)
    scale = stature / 1.7
    head = (
        neck
        + up_chest * (body.neck_ratio * stature)
        + head_axes[:, :, 2] * (0.80 * body.head_height_m * scale)
        + head_axes[:, :, 0] * (0.015 * scale)
    )

    upper_arm = swung(angles.shoulder, angles.arm_abduction)
    forearm = swung(angles.shoulder + angles.elbow, 0.3 * angles.arm_abduction)
    turn_arm = axes(0.5 * yaw, roll, still)
    elbow = shoulder + _turned(turn_arm, upper_arm) * (body.upper_arm_ratio * stature)
    wrist = elbow + _turned(turn_arm, forearm) * (body.forearm_ratio * stature)
    fingertip = wrist + _turned(turn_arm, forearm) * (body.hand_ratio * stature)

    lowest = np.minimum(heel[:, :, 2], toe[:, :, 2]).min(axis=1) - body.shoe_radius_m
    lift = np.zeros((num_frames, 3))
    lift[:, 2] = -lowest
    pairs = lift[:, None, :]
    return Skeleton(
        pelvis=pelvis + lift,
        waist=waist + lift,
        chest=chest + lift,
        neck=neck + lift,
        head=head + lift,
        hip=hip + pairs,
        knee=knee + pairs,
        ankle=ankle + pairs,
        heel=heel + pairs,
        toe=toe + pairs,
        shoulder=shoulder + pairs,
        elbow=elbow + pairs,
        wrist=wrist + pairs,
        fingertip=fingertip + pairs,
        pelvis_axes=pelvis_axes,
        trunk_axes=trunk_axes,
        chest_axes=chest_axes,
        head_axes=head_axes,
    )


def _beside(
    middle: Float64[ndarray, "t 3"], segment_axes: Float64[ndarray, "t 3 3"], half_m: float
) -> Float64[ndarray, "t 2 3"]:
    aside = segment_axes[:, None, :, 1] * SIDES[:, None] * half_m
    joints: Float64[ndarray, "t 2 3"] = middle[:, None, :] + aside
    return joints


def _turned(
    turn: Float64[ndarray, "t 3 3"], vectors: Float64[ndarray, "t 2 3"]
) -> Float64[ndarray, "t 2 3"]:
    turned: Float64[ndarray, "t 2 3"] = np.einsum("tab,tsb->tsa", turn, vectors)
    return turned
