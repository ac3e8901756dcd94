"""A camera at one azimuth: projection of points and ellipsoids, filling of their hulls.

Pixel (0, 0) is centred at the point (0.0, 0.0), x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, Int32, UInt8
from numpy import ndarray

from raygait.synthetic.outline import Ellipsoids

# Directions in which a hull's outline is sampled; 28 keep a head round at 200 px stature.
NUM_DIRECTIONS = 28
# Bits after the binary point of a vertex: 1/16 px.
SHIFT = 4


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks level at the middle of the walk.

    Attributes:
        view_deg: Azimuth as CASIA-B counts it: 0 = the walker comes towards the camera, 90 = seen
            from the walker's left and walking to the left of the image, 180 = walks away. Any
            angle is allowed; 360 - v sees the other side.
        distance_m: From the camera to the middle of the walk, over ground.
        height_m: Of the camera above ground.
        focal_px: Focal length.
        width_px: Of the image.
        height_px: Of the image.
    """

    view_deg: float
    distance_m: float
    height_m: float = 1.1
    focal_px: float = 520.0
    width_px: int = 320
    height_px: int = 240

    def project(self, points_m: Float64[ndarray, "*b 3"]) -> Float64[ndarray, "*b 2"]:
        """Points in space to pixels.

        Args:
            points_m: Points in the walk's axes (x along the walk, z up), in front of the camera.
        """
        seen = self.in_camera(points_m)
        return self.centre_px() + seen[..., :2] * (self.focal_px / seen[..., 2:])

    def hulls(self, solid: Ellipsoids) -> Int32[ndarray, "t hull direction 2"]:
        """Outlines of the solid's hulls as polygons, in 1/16 px.

        Each ellipsoid is projected by the perspective's derivative at its centre, which at 5 m is
        within 0.5 % of its exact outline. A polygon lies half a pixel inside, because filling
        sets every pixel that the border touches.

        Args:
            solid: Ellipsoids in front of the camera.
        """
        seen = self.in_camera(solid.centres_m)
        scale = self.focal_px / seen[..., 2]  # [t, e]
        centres = self.centre_px() + seen[..., :2] * scale[..., None]
        derivative = np.zeros((*scale.shape, 2, 3))
        derivative[..., 0, 0] = derivative[..., 1, 1] = scale
        derivative[..., 2] = -scale[..., None] * seen[..., :2] / seen[..., 2:]
        turned = derivative @ self.axes()  # [t, e, 2, 3]
        spread = turned @ solid.spreads_m2 @ turned.swapaxes(-1, -2)  # [t, e, 2, 2]

        angle = np.arange(NUM_DIRECTIONS) * (2.0 * np.pi / NUM_DIRECTIONS)
        direction = np.stack([np.cos(angle), np.sin(angle)])  # [2, k]
        spread_along = spread @ direction  # [t, e, 2, k]
        reach = np.sqrt((spread_along * direction).sum(axis=2))  # [t, e, k]
        support = centres @ direction + reach
        touch = centres[..., None] + spread_along / reach[:, :, None, :]  # [t, e, 2, k]
        members = np.asarray(solid.hulls)  # [hull, 3]
        # A hull touches the line in a direction where its farthest member does, and touching
        # points in the order of their directions are a convex polygon.
        farthest = support[:, members].argmax(axis=2)  # [t, hull, k]
        chosen = members[np.arange(len(members))[None, :, None], farthest]
        frames = np.arange(len(centres))[:, None, None]
        outline = np.stack(
            [
                touch[frames, chosen, axis, np.arange(NUM_DIRECTIONS)] - 0.5 * direction[axis]
                for axis in (0, 1)
            ],
            axis=-1,
        )
        vertices: Int32[ndarray, "t hull direction 2"] = np.rint(outline * (1 << SHIFT)).astype(
            np.int32
        )
        return vertices

    def masks(self, solid: Ellipsoids) -> UInt8[ndarray, "t h w"]:
        """Silhouettes of the solid: 0 background, 255 walker.

        Args:
            solid: Ellipsoids in front of the camera.
        """
        polygons = self.hulls(solid)
        masks = np.zeros((len(polygons), self.height_px, self.width_px), dtype=np.uint8)
        for mask, frame_polygons in zip(masks, polygons, strict=True):
            for polygon in frame_polygons:
                cv2.fillConvexPoly(mask, polygon, 255, lineType=cv2.LINE_8, shift=SHIFT)
        return masks

    def axes(self) -> Float64[ndarray, "3 3"]:
        """Rows: right, down and into the scene, in the walk's axes."""
        view = np.deg2rad(self.view_deg)
        cosine, sine = np.cos(view), np.sin(view)
        return np.array([[-sine, cosine, 0.0], [0.0, 0.0, -1.0], [-cosine, -sine, 0.0]])

    def in_camera(self, points_m: Float64[ndarray, "*b 3"]) -> Float64[ndarray, "*b 3"]:
        """Points in space in the camera's own axes: right, down and away from it, in metres."""
        seen: Float64[ndarray, "*b 3"] = points_m @ self.axes().T + np.array(
            [0.0, self.height_m, self.distance_m]
        )
        return seen

    def centre_px(self) -> Float64[ndarray, " 2"]:
        """Where the camera's axis meets the image; its row is the horizon."""
        # The image is shifted so that the middle of a person's height is its middle.
        middle = self.focal_px * (0.88 - self.height_m) / self.distance_m
        return np.array([(self.width_px - 1) / 2.0, (self.height_px - 1) / 2.0 + middle])
