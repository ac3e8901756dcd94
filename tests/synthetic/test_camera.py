"""The camera against slow geometry: clouds of points on the same ellipsoids."""

import cv2
import numpy as np
import pytest

from raygait.synthetic.camera import NUM_DIRECTIONS, SHIFT, Camera
from raygait.synthetic.outline import Ellipsoids


def ball(centre: list[float], radius: float) -> Ellipsoids:
    return Ellipsoids(
        np.array([[centre]]), np.eye(3)[None, None] * radius**2, hulls=((0, 0, 0),), parts=("face",)
    )


def surface(solid: Ellipsoids, member: int) -> np.ndarray:
    """Points all over one ellipsoid of the first frame."""
    angle = np.linspace(0, 2 * np.pi, 181)
    height = np.linspace(-1, 1, 181)
    ring = np.sqrt(1 - height**2)
    sphere = np.stack(
        [
            np.outer(ring, np.cos(angle)).ravel(),
            np.outer(ring, np.sin(angle)).ravel(),
            np.repeat(height, len(angle)),
        ],
        axis=1,
    )
    root = np.linalg.cholesky(solid.spreads_m2[0, member])
    return solid.centres_m[0, member] + sphere @ root.T


@pytest.mark.parametrize("radius", [0.04, 0.1, 0.3], ids=["wrist", "head", "torso"])
def test_a_ball_fills_the_area_of_its_circle(radius: float) -> None:
    camera = Camera(view_deg=30, distance_m=6)
    mask = camera.masks(ball([0, 0, 0.9], radius))[0]
    expected = np.pi * (camera.focal_px * radius / camera.distance_m) ** 2
    # A polygon of 28 corners is 0.8 % smaller than its circle.
    assert np.count_nonzero(mask) == pytest.approx(expected, rel=0.04, abs=4)


def test_a_hull_is_the_hull_of_everything_on_its_ellipsoids() -> None:
    generator = np.random.default_rng(0)
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    spreads = np.stack(
        [
            turn @ np.diag(np.square([0.25, 0.1, 0.15])) @ turn.T,
            np.eye(3) * 0.08**2,
            turn.T @ np.diag(np.square([0.05, 0.2, 0.1])) @ turn,
        ]
    )
    centres = np.array([[0.3, 0.1, 1.5], [-0.2, -0.4, 0.8], [0.1, 0.5, 0.4]])
    solid = Ellipsoids(centres[None], spreads[None], hulls=((0, 1, 2),), parts=("shoe",))
    camera = Camera(view_deg=130, distance_m=6)
    cloud = np.concatenate([camera.project(surface(solid, member)) for member in range(3)])
    polygon = camera.hulls(solid)[0, 0] / (1 << SHIFT)
    angle = np.arange(NUM_DIRECTIONS) * 2 * np.pi / NUM_DIRECTIONS
    directions = np.stack([np.cos(angle), np.sin(angle)])
    reach_of_cloud = (cloud @ directions).max(axis=0)
    reach = (polygon @ directions).max(axis=0) + 0.5
    # Bodies far from the axis and half a metre long: perspective bends their ellipses a little.
    np.testing.assert_allclose(reach, reach_of_cloud, atol=0.4)


def test_corners_of_a_hull_are_a_convex_polygon_in_order() -> None:
    solid = Ellipsoids(
        np.array([[[0.0, 0.2, 1.0], [0.3, -0.3, 0.5]]]),
        np.stack([np.eye(3) * 0.1**2, np.eye(3) * 0.02**2])[None],
        hulls=((0, 1, 1),),
        parts=("forearm",),
    )
    corners = Camera(view_deg=75, distance_m=5).hulls(solid)[0, 0].astype(np.int64)
    edge = np.roll(corners, -1, axis=0) - corners
    following = np.roll(edge, -1, axis=0)
    turn = edge[:, 0] * following[:, 1] - edge[:, 1] * following[:, 0]
    # Rounding may bend an edge inwards by a sixteenth of a pixel.
    assert (turn >= -2 * np.abs(edge).max(axis=1)).all()
    assert cv2.contourArea(corners.astype(np.float32)) > 0


@pytest.mark.parametrize(
    ("view_deg", "point", "side"),
    [
        (0, [0, 0.5, 1.0], "right"),  # the walker's left hand, walker facing the camera
        (180, [0, 0.5, 1.0], "left"),
        (90, [0.5, 0, 1.0], "left"),  # ahead of a walker who walks to the left
        (270, [0.5, 0, 1.0], "right"),
    ],
    ids=["left hand from ahead", "left hand from behind", "ahead, from left", "ahead, from right"],
)
def test_azimuths_are_those_of_casiab(view_deg: float, point: list[float], side: str) -> None:
    camera = Camera(view_deg=view_deg, distance_m=6)
    x = camera.project(np.array(point))[0]
    middle = (camera.width_px - 1) / 2
    assert (x > middle + 20) if side == "right" else (x < middle - 20)


def test_what_is_nearer_is_larger_and_what_is_higher_is_higher() -> None:
    camera = Camera(view_deg=0, distance_m=6)
    near = np.count_nonzero(camera.masks(ball([1, 0, 1], 0.2)))
    far = np.count_nonzero(camera.masks(ball([-1, 0, 1], 0.2)))
    assert near / far == pytest.approx((7 / 5) ** 2, rel=0.05)
    head, foot = camera.project(np.array([[0, 0, 1.7], [0, 0, 0.0]]))
    assert head[1] < foot[1]
    assert foot[1] - head[1] == pytest.approx(520 * 1.7 / 6, rel=1e-6)
