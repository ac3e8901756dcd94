"""A body: limb lengths as shares of the stature, girths in metres, head and hair.

Mean proportions are the usual anthropometric shares of stature (Drillis and Contini 1966, as
tabulated in D. A. Winter, Biomechanics and Motor Control of Human Movement, ch. 4), rounded;
girths are those of a person in ordinary clothes.
"""

from __future__ import annotations

from dataclasses import dataclass

from raygait.synthetic.traits import offset, size


@dataclass(frozen=True)
class Body:
    """What a person looks like standing still. `_ratio` is a share of the stature.

    Radii and half-widths are of the clothed body at a stature of 1.7 m and grow with it.
    """

    stature_m: float = size(1.68, between=0.04)
    # Heaviness scales every girth, the belly only the waist and pelvis.
    heaviness: float = size(1.0, between=0.036, within=0.014)
    belly: float = size(1.0, between=0.048, within=0.019)

    thigh_ratio: float = size(0.245, between=0.036)
    shank_ratio: float = size(0.246, between=0.036)
    trunk_ratio: float = size(0.288, between=0.032)
    neck_ratio: float = size(0.052, between=0.1, within=0.026)
    upper_arm_ratio: float = size(0.186, between=0.04)
    forearm_ratio: float = size(0.150, between=0.04)
    hand_ratio: float = size(0.075, between=0.048)
    foot_ratio: float = size(0.150, between=0.042, within=0.01)
    shoulder_half_ratio: float = size(0.098, between=0.056, within=0.014)
    hip_half_ratio: float = size(0.054, between=0.064)
    shoulder_drop_ratio: float = offset(0.028, between=0.0056, within=0.0014)

    pelvis_depth_m: float = size(0.122, between=0.04, within=0.016)
    pelvis_width_m: float = size(0.160, between=0.036, within=0.014)
    seat_m: float = offset(0.018, between=0.0096, within=0.002)
    waist_depth_m: float = size(0.114, between=0.07, within=0.017)
    waist_width_m: float = size(0.146, between=0.063, within=0.016)
    chest_depth_m: float = size(0.124, between=0.04, within=0.016)
    chest_width_m: float = size(0.158, between=0.032, within=0.013)
    shoulder_radius_m: float = size(0.058, between=0.056, within=0.014)
    upper_arm_radius_m: float = size(0.052, between=0.096, within=0.03)
    forearm_radius_m: float = size(0.042, between=0.096, within=0.03)
    thigh_radius_m: float = size(0.090, between=0.044, within=0.018)
    knee_radius_m: float = size(0.069, between=0.08, within=0.02)
    calf_radius_m: float = size(0.066, between=0.084, within=0.021)
    # Trousers: what the leg measures at the ankle, from leggings to wide legs.
    ankle_radius_m: float = size(0.056, between=0.14, within=0.035)
    shoe_radius_m: float = size(0.039, between=0.084, within=0.021)
    neck_radius_m: float = size(0.056, between=0.07, within=0.017)

    head_height_m: float = size(0.117, between=0.038, within=0.0096)
    head_width_m: float = size(0.080, between=0.038, within=0.0096)
    head_depth_m: float = size(0.096, between=0.038, within=0.0096)
    # Hair stands off the skull, and may hang behind it.
    hair_m: float = offset(0.012, between=0.007, within=0.0017)
    hair_length_m: float = offset(0.045, between=0.042, within=0.01)
