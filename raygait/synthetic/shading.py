"""Pictures of a walker: the solid of `outline` in colour and light, its mask unchanged.

Every hull is filled with the polygon that `Camera.masks` fills, so that what is painted and the
mask are the same pixels. Depth and the direction of the surface come from ellipsoids strung
between a hull's members: for two balls these make up the hull, for other members nearly so.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8
from numpy import ndarray

from raygait.synthetic.camera import SHIFT, Camera
from raygait.synthetic.looks import Dressed, Look, is_on_skin, noise
from raygait.synthetic.outline import Ellipsoids
from raygait.synthetic.skeleton import Skeleton
from raygait.synthetic.walkers import (
    Clip,
    Walk,
    Walker,
    coco_joints,
    joints_in_image,
    set_stage,
)

# How many ellipsoids are strung between the members of a hull: on the line between two that lie
# far apart or near each other, and on the triangle of three.
_NUM_FAR, _NUM_NEAR, _NUM_TRIANGLE = 13, 6, 15
_FAR_PARTS = ("thigh", "calf", "upper_arm", "forearm", "handle")
# Share of its radius by which an ellipsoid may lie behind another and still count.
_BLEND = 0.12
# Up in the scene and in the walker's own axes.
_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Light:
    """A sun, the sky above and what the ground throws back.

    Attributes:
        towards_sun: Unit vector in the axes of the scene.
        sun: Brightness of what faces the sun.
        sky: Brightness of what faces up.
        ground: Brightness of what faces down.
    """

    towards_sun: tuple[float, float, float]
    sun: float = 0.70
    sky: float = 0.55
    ground: float = 0.34


@dataclass(frozen=True)
class Figure:
    """A walker in the scene over some frames.

    Attributes:
        dressed: Colours, by place on the body.
        skeleton: Joints, the walker staying in place and walking along x.
        solid: What is around them, in place too.
        turn_rad: Heading about the vertical, from x to y.
        shift_m: Where the walker is.
    """

    dressed: Dressed
    skeleton: Skeleton
    solid: Ellipsoids
    turn_rad: Float64[ndarray, " t"]
    shift_m: Float64[ndarray, "t 3"]

    def turns(self) -> Float64[ndarray, "t 3 3"]:
        """Rotations from the walker's axes to those of the scene."""
        cosine, sine = np.cos(self.turn_rad), np.sin(self.turn_rad)
        zero, one = np.zeros_like(cosine), np.ones_like(cosine)
        entries = [cosine, -sine, zero, sine, cosine, zero, zero, zero, one]
        return np.stack(entries, axis=-1).reshape(-1, 3, 3)

    def placed(self) -> Ellipsoids:
        """The solid where it is in the scene."""
        if not self.turn_rad.any():
            turned, spreads = self.solid.centres_m, self.solid.spreads_m2
        else:
            turns = self.turns()
            turned = self.solid.centres_m @ turns.swapaxes(1, 2)
            around = turns[:, None]
            spreads = around @ self.solid.spreads_m2 @ around.swapaxes(-1, -2)
        centres = turned + self.shift_m[:, None]
        return Ellipsoids(centres, spreads, self.solid.hulls, self.solid.parts)

    def joints_m(self) -> Float64[ndarray, "t 17 3"]:
        """The COCO joints in the scene."""
        inplace = coco_joints(self.dressed.body, self.skeleton)
        joints: Float64[ndarray, "t 17 3"] = (
            inplace @ self.turns().swapaxes(1, 2) + self.shift_m[:, None]
        )
        return joints


@dataclass(frozen=True)
class Painted:
    """A walker in one frame, cut out.

    Attributes:
        left_px: Column of the frame in which the cut-out begins.
        top_px: Row of it.
        colours: RGB; 0 off the walker.
        mask: Where the walker is.
    """

    left_px: int
    top_px: int
    colours: UInt8[ndarray, "h w 3"]
    mask: Bool[ndarray, "h w"]

    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the frame."""
        height, width = self.mask.shape
        return (
            slice(self.top_px, self.top_px + height),
            slice(self.left_px, self.left_px + width),
        )


class Painter:
    """Paints one figure, frame by frame.

    Args:
        figure: Who.
        camera: What looks on; the figure is in front of it in every frame.
        light: In the axes of the scene.
    """

    def __init__(self, figure: Figure, camera: Camera, light: Light) -> None:
        self._figure, self._camera, self._light = figure, camera, light
        placed = figure.placed()
        self._turns = figure.turns()
        self._origins_m, self._axes = part_axes(figure.skeleton, figure.solid)
        self._shapes, self._num_strung = _strung(placed, camera), _num_strung(placed)
        self.polygons: Int32[ndarray, "t hull direction 2"] = camera.hulls(placed)
        """What `Camera.masks` fills."""

    def paint(self, frame: int) -> Painted | None:
        """The figure in one frame; nothing when no part of it is in the image."""
        camera = self._camera
        polygons = self.polygons[frame]
        low = np.maximum((polygons.min(axis=(0, 1)) >> SHIFT) - 1, 0)
        high = np.minimum(
            (polygons.max(axis=(0, 1)) >> SHIFT) + 3, (camera.width_px, camera.height_px)
        )
        if (low >= high).any():
            return None
        width, height = (int(side) for side in high - low)
        depth = np.full((height, width), np.inf, np.float32)
        hull_of = np.full((height, width), -1, np.int16)
        outwards = np.zeros((height, width, 3), np.float32)
        for hull, polygon in enumerate(polygons):
            self._cast(frame, hull, polygon, low, depth, hull_of, outwards)
        mask = hull_of >= 0
        if not mask.any():
            return None
        colours = np.zeros((height, width, 3), np.uint8)
        colours[mask] = self._shade(frame, mask, low, depth, hull_of, outwards)
        return Painted(int(low[0]), int(low[1]), colours, mask)

    def _cast(
        self,
        frame: int,
        hull: int,
        polygon: Int32[ndarray, "direction 2"],
        low: Int32[ndarray, " 2"],
        depth: Float32[ndarray, "h w"],
        hull_of: ndarray,
        outwards: Float32[ndarray, "h w 3"],
    ) -> None:
        """Enter one hull into the buffers where it is the nearest so far."""
        height, width = depth.shape
        # The border's own pixels are drawn too, up to one beyond the corners.
        first = np.clip((polygon.min(axis=0) >> SHIFT) - 1 - low, 0, (width, height))
        last = np.clip((polygon.max(axis=0) >> SHIFT) + 3 - low, 0, (width, height))
        if (first >= last).any():
            return
        begin = first + low
        filled = np.zeros((last[1] - first[1], last[0] - first[0]), np.uint8)
        # Clipped by the same borders as in the whole frame: the buffers end where it ends.
        cv2.fillConvexPoly(filled, polygon - (begin << SHIFT), 255, cv2.LINE_8, SHIFT)
        rows, columns = np.nonzero(filled)
        if not len(rows):
            return
        shapes, own = self._shapes, slice(self._num_strung[hull])
        centre = shapes.centres[frame, hull, own]  # [m, 3]
        across = (columns + begin[0]).astype(np.float32) - centre[:, 0, None]
        down = (rows + begin[1]).astype(np.float32) - centre[:, 1, None]
        a, b, c = shapes.precisions[frame, hull, own].T[..., None]
        inside = 1.0 - (a * across + b * down) * across - c * down * down
        reach = shapes.reaches[frame, hull, own][:, None]
        g_across, g_down = shapes.slopes[frame, hull, own].T[..., None]
        front = g_across * across + g_down * down - reach * np.sqrt(np.maximum(inside, 0.0))
        # Beside its own outline an ellipsoid is no part of the surface, but between two of them,
        # at the very edge of the hull, the nearest one stands in.
        near = front + centre[:, 2, None] + reach * np.maximum(-inside, 0.0)
        nearest = near.min(axis=0)
        at = (rows + first[1], columns + first[0])
        seen = nearest < depth[at]
        if not seen.any():
            return
        # Neighbours on the string count by how near they come, and directions are evened out
        # over the distance between them: no facets.
        share = reach * np.exp((nearest - near) / (_BLEND * reach))
        place = np.stack([across * share, down * share, front * share])
        normal = np.zeros((*filled.shape, 3), np.float32)
        towards = shapes.normals[frame, hull, own].transpose(1, 2, 0).reshape(3, -1)
        normal[rows, columns] = (towards @ place.reshape(-1, len(rows))).T
        step = np.abs(np.diff(centre[:, :2], axis=0)).sum(axis=1)
        side = 2 * int(np.median(step) / 2.0 + 0.5) + 1
        normal = cv2.blur(normal, (side, side), borderType=cv2.BORDER_CONSTANT)[rows, columns]
        at = (at[0][seen], at[1][seen])
        depth[at] = nearest[seen]
        hull_of[at] = hull
        outwards[at] = normal[seen] / np.linalg.norm(normal[seen], axis=1, keepdims=True)

    def _shade(
        self,
        frame: int,
        mask: Bool[ndarray, "h w"],
        low: Int32[ndarray, " 2"],
        depth: Float32[ndarray, "h w"],
        hull_of: ndarray,
        outwards: Float32[ndarray, "h w 3"],
    ) -> UInt8[ndarray, "n 3"]:
        camera, figure, light = self._camera, self._figure, self._light
        rows, columns = np.nonzero(mask)
        away = depth[mask]
        normal = outwards[mask]
        centre = camera.centre_px()
        seen = np.stack(
            [
                (columns + low[0] - centre[0]) * away / camera.focal_px,
                (rows + low[1] - centre[1]) * away / camera.focal_px - camera.height_m,
                away - camera.distance_m,
            ],
            axis=1,
        )
        turn = self._turns[frame]
        points = (seen @ camera.axes() - figure.shift_m[frame]) @ turn
        hulls = hull_of[mask]
        spot_m = float(np.median(away)) / camera.focal_px
        colours = np.zeros((len(points), 3), np.float32)
        fold = np.ones(len(points), np.float32)
        for hull in np.unique(hulls):
            own = hulls == hull
            part = figure.solid.parts[hull]
            local = (points[own] - self._origins_m[frame, hull]) @ self._axes[frame, hull]
            local = local.astype(np.float32)
            colours[own] = figure.dressed.paint(part, local, spot_m)
            if not is_on_skin(part):
                around = local[:, 1] + 0.6 * local[:, 0]
                fold[own] += 0.22 * noise(around / 0.05 + hull, local[:, 2] / 0.11)

        sun = normal @ np.asarray(light.towards_sun, np.float32)
        bright = light.sun * np.maximum(0.25 + 0.75 * sun, 0.0)
        bright += light.ground + (light.sky - light.ground) * (0.5 + 0.5 * normal[:, 2])
        # What turns away from the camera is a little darker: cloth is rough and limbs are round.
        sight = camera.axes()[2].astype(np.float32)
        bright *= 0.72 + 0.28 * np.clip(-(normal @ sight), 0.0, 1.0)
        # Little light comes where something else is just in front.
        radius = max(1, round(0.05 / spot_m))
        level = np.where(mask, depth, float(away.max()))
        nearer = depth - cv2.blur(level, (2 * radius + 1, 2 * radius + 1))
        bright *= 1.0 - 0.45 * np.clip(nearer[mask] / 0.12, 0.0, 1.0)
        lit = colours * (bright * fold)[:, None]
        pixels: UInt8[ndarray, "n 3"] = np.clip(lit * 255.0, 0.0, 255.0).astype(np.uint8)
        return pixels


def part_axes(
    skeleton: Skeleton, solid: Ellipsoids
) -> tuple[Float64[ndarray, "t hull 3"], Float64[ndarray, "t hull 3 3"]]:
    """Origin and axes (columns forward, left, up) that move with each hull.

    Those of the trunk share the chest's, face and hair the head's; a limb's `up` is along its
    bone, a shoe's `forward` along its sole.

    Args:
        skeleton: In place.
        solid: Made around it.
    """
    origins, axes = [], []
    for part, (first, second, third) in zip(solid.parts, solid.hulls, strict=True):
        centres = solid.centres_m
        if part in ("hips", "belly", "chest", "yoke", "seat", "skirt"):
            origin, own = skeleton.chest, skeleton.chest_axes
        elif part in ("face", "hair", "neck"):
            origin, own = skeleton.head, skeleton.head_axes
        elif part == "bag":
            origin, own = centres[:, first], skeleton.chest_axes
        elif part == "shoe":
            forwards = _unit(centres[:, third] - centres[:, second])
            left = _unit(np.cross(_UP, forwards))
            origin = centres[:, second]
            own = np.stack([forwards, left, np.cross(forwards, left)], axis=-1)
        else:
            up = _unit(centres[:, first] - centres[:, second])
            left = _unit(np.cross(up, np.array([1.0, 0.0, 0.0])))
            origin = centres[:, first]
            own = np.stack([np.cross(left, up), left, up], axis=-1)
        origins.append(origin)
        axes.append(own)
    return np.stack(origins, axis=1), np.stack(axes, axis=1)


@dataclass(frozen=True)
class _Shapes:
    """Ellipsoids strung between a hull's members, as the camera sees them.

    x and y in pixels, z in metres away from the camera; d is a pixel's offset from the centre.

    Attributes:
        centres: x, y, z.
        precisions: a, b, c of a dx² + b dx dy + c dy², which is 1 on the outline.
        slopes: How z of the middle surface changes with x and y.
        reaches: From the middle surface to the front, at the centre.
        normals: From (dx, dy, dz) on the surface to an outward vector in the scene.
    """

    centres: Float32[ndarray, "t hull m 3"]
    precisions: Float32[ndarray, "t hull m 3"]
    slopes: Float32[ndarray, "t hull m 2"]
    reaches: Float32[ndarray, "t hull m"]
    normals: Float32[ndarray, "t hull m 3 3"]


def _strung(solid: Ellipsoids, camera: Camera) -> _Shapes:
    members = np.asarray(solid.hulls)
    weights = np.stack([_weights(num) for num in _num_strung(solid)])  # [hull, m, 3]
    squares, vectors = np.linalg.eigh(solid.spreads_m2)
    roots = (vectors * np.sqrt(squares)[..., None, :]) @ vectors.swapaxes(-1, -2)
    centres = np.einsum("hmk,thkc->thmc", weights, solid.centres_m[:, members])
    root = np.einsum("hmk,thkcd->thmcd", weights, roots[:, members])
    seen = camera.in_camera(centres)
    scale = camera.focal_px / seen[..., 2]
    derivative = np.zeros((*scale.shape, 3, 3))
    derivative[..., 0, 0] = derivative[..., 1, 1] = scale
    derivative[..., :2, 2] = -scale[..., None] * seen[..., :2] / seen[..., 2:]
    derivative[..., 2, 2] = 1.0
    to_pixels = derivative @ camera.axes()
    half = to_pixels @ root
    spread = half @ half.swapaxes(-1, -2)
    xx, xy, yy = spread[..., 0, 0], spread[..., 0, 1], spread[..., 1, 1]
    xz, yz, zz = spread[..., 0, 2], spread[..., 1, 2], spread[..., 2, 2]
    determinant = xx * yy - xy * xy
    slopes = np.stack([yy * xz - xy * yz, xx * yz - xy * xz], axis=-1) / determinant[..., None]
    reach = np.sqrt(zz - slopes[..., 0] * xz - slopes[..., 1] * yz)
    placed = seen.copy()
    placed[..., :2] = camera.centre_px() + seen[..., :2] * scale[..., None]
    return _Shapes(
        centres=placed.astype(np.float32),
        precisions=(np.stack([yy, -2.0 * xy, xx], axis=-1) / determinant[..., None]).astype(
            np.float32
        ),
        slopes=slopes.astype(np.float32),
        reaches=reach.astype(np.float32),
        normals=(to_pixels.swapaxes(-1, -2) @ np.linalg.inv(spread)).astype(np.float32),
    )


def _num_strung(solid: Ellipsoids) -> list[int]:
    nums = []
    for part, (_, second, third) in zip(solid.parts, solid.hulls, strict=True):
        if second != third:
            nums.append(_NUM_TRIANGLE)
        else:
            nums.append(_NUM_FAR if part in _FAR_PARTS else _NUM_NEAR)
    return nums


def _weights(num: int) -> Float64[ndarray, "m 3"]:
    """Shares of the three members in each strung ellipsoid, the last one repeated to fill up."""
    if num == _NUM_TRIANGLE:
        return np.array([(a, b, 4 - a - b) for a in range(5) for b in range(5 - a)]) / 4.0
    along = np.minimum(np.arange(_NUM_TRIANGLE) / (num - 1.0), 1.0)
    return np.stack([1.0 - along, along, np.zeros_like(along)], axis=1)


def _unit(vectors: Float64[ndarray, "t 3"]) -> Float64[ndarray, "t 3"]:
    units: Float64[ndarray, "t 3"] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units


def make_figure(
    walker: Walker,
    walk: Walk,
    skeleton: Skeleton,
    solid: Ellipsoids,
    *,
    turn_rad: Float64[ndarray, " t"],
    shift_m: Float64[ndarray, "t 3"],
) -> Figure:
    """A walker's skeleton and solid, dressed in the clothes of a walk and put somewhere."""
    dressed = Dressed(Look.from_seed(walker.seed), walk.body, walk.bag, walk.coat)
    return Figure(dressed, skeleton, solid, turn_rad, shift_m)


@dataclass(frozen=True)
class ColourClip:
    """What one camera saw, in colour.

    Attributes:
        images: RGB before one even colour.
        clip: Masks and joints, equal to those of `walkers.render`.
    """

    images: UInt8[ndarray, "t h w 3"]
    clip: Clip


def render_images(
    walker: Walker,
    *,
    condition: str,
    view_deg: float,
    num_frames: int,
    in_place: bool = False,
    width_px: int = 320,
    height_px: int = 240,
    background: tuple[int, int, int] = (150, 155, 150),
) -> ColourClip:
    """`walkers.render` in colour: the same walk before the same camera.

    Args:
        walker: Who walks.
        condition: Which walk, such as `nm-01`.
        view_deg: Azimuth, 0 towards the camera, 90 from the side, 180 away.
        num_frames: Length, at 25 frames a second.
        in_place: Walk as on a treadmill.
        width_px: Of the image.
        height_px: Of the image.
        background: RGB around the walker.

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
    figure = make_figure(
        walker,
        stage.walk,
        stage.skeleton,
        stage.solid,
        turn_rad=np.zeros(num_frames),
        shift_m=stage.path_m,
    )
    # The sun stands above the camera's right shoulder.
    right, _, away = stage.camera.axes()
    sun = 0.45 * right - 0.55 * away + np.array([0.0, 0.0, 0.70])
    east, north, height = (float(value) for value in sun / np.linalg.norm(sun))
    painter = Painter(figure, stage.camera, Light((east, north, height)))
    images = np.full((num_frames, height_px, width_px, 3), background, np.uint8)
    masks = np.zeros((num_frames, height_px, width_px), np.uint8)
    for frame in range(num_frames):
        painted = painter.paint(frame)
        if painted is not None:
            images[frame][painted.window()][painted.mask] = painted.colours[painted.mask]
            masks[frame][painted.window()][painted.mask] = 255
    joints = joints_in_image(stage.camera, figure.joints_m())
    return ColourClip(images, Clip(masks, joints, 25.0))
