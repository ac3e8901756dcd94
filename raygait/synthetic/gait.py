"""How a person walks: cadence, joint-angle curves as Fourier series, posture, asymmetry.

The mean curves follow the normal level-walking patterns of clinical gait analysis (hip, knee and
ankle in the sagittal plane against the gait cycle from heel strike to heel strike; D. A. Winter,
Biomechanics and Motor Control of Human Movement), read off at about ten points a cycle and reduced
to four harmonics, which reproduces them within 2 degrees.
"""

# `size` and `offset` make dataclass fields, not shared defaults.
# ruff: noqa: RUF009

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from raygait.synthetic.traits import offset, size

# Rows hip flexion, knee flexion, ankle dorsiflexion; angle(p) = mean + sum_k a_k cos(k p + b_k),
# p = 0 at the heel strike of the same foot.
MEAN_DEG = np.array([13.5, 22.7, -0.6])
AMPLITUDE_DEG = np.array([[20.0, 3.4, 0.7, 0.2], [19.9, 15.1, 3.8, 0.5], [6.0, 6.8, 2.8, 2.0]])
PHASE_RAD = np.array(
    [[0.18, 2.54, -1.60, 2.36], [1.69, -2.69, -1.76, -1.75], [-1.72, 1.37, -2.80, 0.33]]
)
# Middle of single support of the left leg, as a phase of the left cycle.
MID_STANCE_RAD = 0.6 * np.pi


@dataclass(frozen=True)
class Gait:
    """How a person moves. Arrays of two are left, right; `[3, 4]` is joint by harmonic."""

    stride_hz: float = size(0.92, between=0.09, within=0.045)
    # Scale of the leg curves; speed follows from it and the cadence.
    stride: float = size(1.0, between=0.1, within=0.05)
    leg_amplitude: Float64[ndarray, "3 4"] = size(1.0, between=0.16, within=0.045, shape=(3, 4))
    leg_phase_rad: Float64[ndarray, "3 4"] = offset(0.0, between=0.16, within=0.045, shape=(3, 4))
    leg_offset_deg: Float64[ndarray, " 3"] = offset(0.0, between=3, within=1.2, shape=(3,))
    leg_asymmetry: Float64[ndarray, " 3"] = offset(0.0, between=0.06, within=0.022, shape=(3,))
    toe_out_deg: Float64[ndarray, " 2"] = offset(8.0, between=5, within=1.5, shape=(2,))
    abduction_deg: Float64[ndarray, " 2"] = offset(0.6, between=1.5, within=0.45, shape=(2,))

    arm_swing_deg: Float64[ndarray, " 2"] = size(15.0, between=0.3, within=0.15, shape=(2,))
    arm_offset_deg: Float64[ndarray, " 2"] = offset(-5.0, between=5, within=2.5, shape=(2,))
    arm_lag_rad: Float64[ndarray, " 2"] = offset(0.15, between=0.2, within=0.075, shape=(2,))
    arm_abduction_deg: Float64[ndarray, " 2"] = offset(7.0, between=3.5, within=1.8, shape=(2,))
    elbow_deg: Float64[ndarray, " 2"] = size(19.0, between=0.3, within=0.15, shape=(2,))
    elbow_swing_deg: Float64[ndarray, " 2"] = size(9.0, between=0.4, within=0.2, shape=(2,))

    pelvis_yaw_deg: float = size(5.0, between=0.35, within=0.12)
    pelvis_roll_deg: float = size(3.0, between=0.35, within=0.12)
    trunk_yaw_deg: float = size(6.0, between=0.35, within=0.12)
    trunk_roll_deg: float = offset(1.0, between=1.2, within=0.3)
    sway_m: float = size(0.018, between=0.3, within=0.12)
    trunk_lean_deg: float = offset(3.5, between=1.6, within=0.96)
    # Rounding of the upper back, and the carriage of the head on top of it.
    stoop_deg: float = offset(7.0, between=2.5, within=1.5)
    head_pitch_deg: float = offset(4.0, between=3, within=1.8)


@dataclass(frozen=True)
class JointAngles:
    """Angles over time in radians; a last axis of two is left, right.

    Attributes:
        leg: Hip flexion, knee flexion, ankle dorsiflexion.
        abduction: Thighs away from the middle.
        toe_out: Feet away from straight ahead.
        shoulder: Flexion, forwards positive.
        arm_abduction: Arms away from the trunk.
        elbow: Flexion.
        pelvis: Yaw (left hip back positive) and roll (left hip up positive).
        trunk: Yaw, roll and forward pitch.
        stoop: Further pitch of the upper trunk.
        head_pitch: Pitch of the head, looking down positive.
        sway_m: Pelvis off the line of progression, to the left.
    """

    leg: Float64[ndarray, "t 2 3"]
    abduction: Float64[ndarray, " 2"]
    toe_out: Float64[ndarray, " 2"]
    shoulder: Float64[ndarray, "t 2"]
    arm_abduction: Float64[ndarray, " 2"]
    elbow: Float64[ndarray, "t 2"]
    pelvis: Float64[ndarray, "t 2"]
    trunk: Float64[ndarray, "t 3"]
    stoop: float
    head_pitch: float
    sway_m: Float64[ndarray, " t"]


def joint_angles(gait: Gait, phase_rad: Float64[ndarray, " t"]) -> JointAngles:
    """Angles at given phases of the walk.

    Args:
        gait: How the person moves.
        phase_rad: Phase of the left leg, 0 at its heel strike; the right leg is half a cycle off.
    """
    side_phase = np.stack([phase_rad, phase_rad + np.pi], axis=1)  # [t, 2]
    harmonic = np.arange(1, 5)
    waves = np.cos(
        side_phase[:, :, None, None] * harmonic + PHASE_RAD + gait.leg_phase_rad
    )  # [t, 2, 3, 4]
    swing = (waves * AMPLITUDE_DEG * gait.leg_amplitude).sum(-1) * gait.stride
    uneven = 1.0 + np.array([1.0, -1.0])[:, None] * gait.leg_asymmetry  # [2, 3]
    leg_deg = MEAN_DEG + gait.leg_offset_deg + swing * uneven
    # A knee does not bend forwards; near its stop it slows down instead of halting.
    leg_deg[:, :, 1] = 2.0 + np.logaddexp(0.0, (leg_deg[:, :, 1] - 2.0) / 3.0) * 3.0

    arm = -np.cos(side_phase + gait.arm_lag_rad)
    shoulder_deg = gait.arm_offset_deg + gait.arm_swing_deg * arm
    elbow_deg = np.maximum(gait.elbow_deg + gait.elbow_swing_deg * arm, 3.0)

    strike = np.cos(phase_rad)
    stance = np.cos(phase_rad - MID_STANCE_RAD)
    pelvis_deg = np.stack([-gait.pelvis_yaw_deg * strike, gait.pelvis_roll_deg * stance], axis=1)
    trunk_deg = np.stack(
        [
            gait.trunk_yaw_deg * strike,
            -gait.trunk_roll_deg * stance,
            gait.trunk_lean_deg + 0.8 * np.cos(2.0 * phase_rad),
        ],
        axis=1,
    )
    return JointAngles(
        leg=np.deg2rad(leg_deg),
        abduction=np.deg2rad(gait.abduction_deg),
        toe_out=np.deg2rad(gait.toe_out_deg),
        shoulder=np.deg2rad(shoulder_deg),
        arm_abduction=np.deg2rad(gait.arm_abduction_deg),
        elbow=np.deg2rad(elbow_deg),
        pelvis=np.deg2rad(pelvis_deg),
        trunk=np.deg2rad(trunk_deg),
        stoop=float(np.deg2rad(gait.stoop_deg)),
        head_pitch=float(np.deg2rad(gait.head_pitch_deg)),
        sway_m=gait.sway_m * stance,
    )


def slow_to_stand(
    angles: JointAngles, walking_ratio: Float64[ndarray, " t"], time_s: Float64[ndarray, " t"]
) -> JointAngles:
    """Angles of a walker who slows down, stands and goes on.

    Standing is a posture with the feet side by side and the arms hanging, never quite still:
    the trunk breathes and sways by half a degree, once in four seconds.

    Args:
        angles: Of the walk.
        walking_ratio: 1 walks as ever, 0 stands; in between every angle is that share of the way.
        time_s: Of each frame.
    """
    breath = np.sin(2.0 * np.pi * 0.25 * time_s)
    trunk_deg = np.stack([0.6 * breath, np.zeros_like(breath), 2.0 + 0.5 * breath], axis=1)

    def towards(still_deg: ndarray, moving: ndarray) -> ndarray:
        still = np.deg2rad(still_deg)
        ratio = walking_ratio.reshape(-1, *[1] * (moving.ndim - 1))
        blended: ndarray = still + ratio * (moving - still)
        return blended

    return JointAngles(
        # Hip less knee plus ankle is the slope of the sole: flat.
        leg=towards(np.array([2.0, 4.0, 2.0]), angles.leg),
        abduction=angles.abduction,
        toe_out=angles.toe_out,
        shoulder=towards(np.array([-2.0, -1.0]), angles.shoulder),
        arm_abduction=angles.arm_abduction,
        elbow=towards(np.array([12.0, 14.0]), angles.elbow),
        pelvis=towards(np.zeros(2), angles.pelvis),
        trunk=towards(trunk_deg, angles.trunk),
        stoop=angles.stoop,
        head_pitch=angles.head_pitch,
        sway_m=walking_ratio * angles.sway_m + (1.0 - walking_ratio) * 0.004 * breath,
    )
