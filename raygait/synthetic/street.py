"""Several walkers in a street before one fixed camera, in colour, with the truth about each.

Axes of a scene: x to the right of the image, y away from the camera, z up, in metres; the camera
stands on the line x = 0. A pixel belongs to the nearest of those who cover it, so that crossing
people hide one another as they do in a street.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8
from numpy import ndarray

from raygait.synthetic.backdrop import Backdrop
from raygait.synthetic.camera import SHIFT, Camera
from raygait.synthetic.gait import joint_angles, slow_to_stand
from raygait.synthetic.outline import Ellipsoids, outline
from raygait.synthetic.shading import Light, Painter, make_figure
from raygait.synthetic.skeleton import pose
from raygait.synthetic.walkers import FPS, Walk, Walker, joints_in_image, speed_m_s

# Frames for which bodies are set up at once: memory does not grow with the clip.
_CHUNK = 25
_NEAREST_M = 2.0
# Time from full speed to standing, and to turn round at a corner of the path.
_RAMP_S, _TURN_S = 0.6, 0.7
_SENSOR_NOISE = 3.0
_SHADOW = 0.5


@dataclass(frozen=True)
class Passer:
    """One person's way through the scene.

    Attributes:
        walker: Who.
        condition: Which walk, such as `nm-01`.
        path_m: Corners (x, y) of the path; the person is at the first in frame 0, walks at the
            speed of that gait, turns at the others and goes straight on after the last.
        stands_s: Begin and end of times in which the person stands still.
    """

    walker: Walker
    condition: str
    path_m: tuple[tuple[float, float], ...]
    stands_s: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Pole:
    """An upright round post that hides what is behind it."""

    x_m: float
    y_m: float
    width_m: float = 0.16
    height_m: float = 3.2
    colour: tuple[int, int, int] = (96, 100, 104)


@dataclass(frozen=True)
class SeenPerson:
    """The truth about one person in one frame.

    Boxes are x0, y0, x1, y1 with the last column and row plus one.

    Attributes:
        identity: 1 for the first of `Street.people`, as in `StreetFrame.labels`.
        mask: All of the person inside the image, as if nothing stood before: 0 or 255.
        box_px: Around the whole person; it may reach out of the image.
        visible_box_px: Around the visible pixels; NaN when there is none.
        visible_ratio: Visible pixels over those of the whole person, the part outside the image
            included.
        joints: COCO-17 as in `walkers.Clip`: x, y, and 1 where inside the image.
        is_walking: False while the person stands.
        view_deg: Azimuth from which the camera sees the person: 0 from ahead, 90 from the left.
        away_m: From the camera, along its axis.
    """

    identity: int
    mask: UInt8[ndarray, "h w"]
    box_px: Float32[ndarray, " 4"]
    visible_box_px: Float32[ndarray, " 4"]
    visible_ratio: float
    joints: Float32[ndarray, "17 3"]
    is_walking: bool
    view_deg: float
    away_m: float


@dataclass(frozen=True)
class StreetFrame:
    """One picture of a scene and the truth about it.

    Attributes:
        index: From 0.
        image: RGB.
        labels: Who is visible at each pixel: an identity, 0 for nobody.
        people: Everyone, also who is out of the image.
    """

    index: int
    image: UInt8[ndarray, "h w 3"]
    labels: UInt8[ndarray, "h w"]
    people: tuple[SeenPerson, ...]


@dataclass(frozen=True)
class Street:
    """A scene: who walks where, before what camera, in which place.

    Attributes:
        camera: Looks along y; see `street_camera`.
        people: At most 255.
        poles: Things that stand in the way.
        num_frames: Length.
        fps: Frames a second.
        seed: Of the place, its light and the camera's noise.
    """

    camera: Camera
    people: tuple[Passer, ...]
    num_frames: int
    poles: tuple[Pole, ...] = ()
    fps: float = FPS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"a scene has at least 1 frame, got {self.num_frames}")
        if len(self.people) > 255:
            raise ValueError(f"a scene holds at most 255 people, got {len(self.people)}")

    def frames(self, *, every: int = 1) -> Iterator[StreetFrame]:
        """Pictures and truth one by one; the same ones at every call.

        Args:
            every: Only each frame whose index is a multiple, as it is in the whole clip.

        Raises:
            ValueError: `every` below 1, a path with less than two corners, or one that comes
                within 2 m of the camera.
        """
        if every < 1:
            raise ValueError(f"every has to be 1 or more, got {every}")
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(11,)))
        backdrop = Backdrop(self.camera, self.seed)
        light = _draw_light(generator)
        drift_rad, drift_s = generator.uniform(0.0, 2.0 * np.pi), generator.uniform(6.0, 14.0)
        noise = _noise_bank(self.camera, generator)
        places = generator.integers(_NOISE_MARGIN_PX, size=(self.num_frames, 2))
        ways = [
            _Way.along(passer, self.num_frames, self.fps, self.camera, identity)
            for identity, passer in enumerate(self.people, start=1)
        ]
        chunk = -1
        for index in range(0, self.num_frames, every):
            if index // _CHUNK != chunk:
                chunk = index // _CHUNK
                part = slice(chunk * _CHUNK, min((chunk + 1) * _CHUNK, self.num_frames))
                actors = [_Actor(way, part, self.camera, light) for way in ways]
            image = backdrop.at(index / self.fps)
            labels: UInt8[ndarray, "h w"] = np.zeros(image.shape[:2], np.uint8)
            _cast_shadows(image, [actor.shadow(index % _CHUNK) for actor in actors])
            amodal = self._paint(image, labels, actors, index % _CHUNK)
            people = tuple(
                actor.seen(index % _CHUNK, mask, labels)
                for actor, mask in zip(actors, amodal, strict=True)
            )
            # A lens is not sharper than its pixels; light drifts by a few per cent.
            image = cv2.GaussianBlur(image, (5, 5), 0.9)
            gain = 1.0 + 0.06 * np.sin(drift_rad + 2.0 * np.pi * index / self.fps / drift_s)
            cv2.convertScaleAbs(image, image, alpha=gain)
            top, left = (int(place) for place in places[index])
            height, width = self.camera.height_px, self.camera.width_px
            cv2.add(
                image,
                noise[top : top + height, left : left + width],
                image,
                dtype=cv2.CV_8U,
            )
            yield StreetFrame(index, image, labels, people)

    def _paint(
        self,
        image: UInt8[ndarray, "h w 3"],
        labels: UInt8[ndarray, "h w"],
        actors: list[_Actor],
        frame: int,
    ) -> list[UInt8[ndarray, "h w"]]:
        """Everyone and everything from the farthest to the nearest; masks of the people."""
        masks = [np.zeros_like(labels) for _ in actors]
        distances = [actor.away_m(frame) for actor in actors]
        distances += [pole.y_m + self.camera.distance_m for pole in self.poles]
        for which in np.argsort(distances, kind="stable")[::-1]:
            if which >= len(actors):
                _paint_pole(image, labels, self.poles[which - len(actors)], self.camera)
                continue
            painted = actors[which].painter.paint(frame)
            if painted is None:
                continue
            window, mask = painted.window(), painted.mask
            np.copyto(image[window], painted.colours, where=mask[..., None])
            labels[window][mask] = actors[which].way.identity
            masks[which][window][mask] = 255
        return masks


def street_camera(width_px: int = 960, height_px: int = 540) -> Camera:
    """A camera on a wall, 2.6 m up: people from 7 m to 19 m away are 250 to 90 of 540 px tall.

    Args:
        width_px: Of the image, 16:9 or wider.
        height_px: Of the image.
    """
    return Camera(
        view_deg=270.0,  # x of the scene is the image's right
        distance_m=12.0,
        height_m=2.6,
        focal_px=1000.0 / 540.0 * height_px,
        width_px=width_px,
        height_px=height_px,
    )


def crowd(
    seed: int,
    *,
    num_people: int = 6,
    num_frames: int = 250,
    width_px: int = 960,
    height_px: int = 540,
    fps: float = FPS,
    num_poles: int = 1,
) -> Street:
    """A standard scene: people meet in pairs, one of each before the other, and hide one another.

    Each pair meets in one column of the image, the pairs after one another; who walks alone meets
    the pair before. Of three pairs the first walks across, the second aslant, and of the third
    one comes or goes. At the ends of the picture people leave it, turn and come back. The fourth
    person stands still for two seconds. Walks are in turn `nm`, `bg` and `cl`.

    Args:
        seed: Everything follows from it; two seeds share no person.
        num_people: How many, 1 to 255.
        num_frames: Length.
        width_px: Of the image, 16:9.
        height_px: Of the image.
        fps: Frames a second.
        num_poles: Posts before the people.
    """
    camera = street_camera(width_px, height_px)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(12,)))
    duration_s = num_frames / fps
    num_pairs = (num_people + 1) // 2
    people = []
    for number in range(num_people):
        pair, is_far = divmod(number, 2)
        if not is_far:
            meet_s = duration_s * (0.25 + 0.5 * (pair + 0.5) / num_pairs)
            column = float(generator.uniform(-0.22, 0.22)) * width_px / camera.focal_px
            near_m = float(generator.uniform(7.6, 10.5))
            goes_right = bool(generator.integers(2))
        away_m = near_m + (float(generator.uniform(1.6, 5.0)) if is_far else 0.0)
        aslant_deg = float(
            (
                generator.uniform(-12.0, 12.0),
                generator.choice([-1.0, 1.0]) * generator.uniform(30.0, 60.0),
                generator.choice([-1.0, 1.0]) * generator.uniform(70.0, 90.0),
            )[(pair % 3) if not (is_far and pair % 3 == 2) else 0]
        )
        heading = np.deg2rad(aslant_deg if goes_right != bool(is_far) else 180.0 - aslant_deg)
        walker = Walker.from_seed(1000 * seed + number)
        condition = f"{('nm', 'bg', 'cl')[number % 3]}-{1 + number // 3 % 99:02d}"
        path = _path_through(
            (column * away_m, away_m - camera.distance_m),
            (float(np.cos(heading)), float(np.sin(heading))),
            camera,
            before_m=speed_m_s(walker.walk(condition)) * meet_s,
            after_m=speed_m_s(walker.walk(condition)) * (duration_s - meet_s),
        )
        stands = ((meet_s + 1.6, meet_s + 3.6),) if number == 3 else ()
        people.append(Passer(walker, condition, path, stands))
    poles = tuple(
        Pole(
            x_m=float(generator.choice([-1.0, 1.0]) * generator.uniform(1.2, 2.4)),
            y_m=float(generator.uniform(6.8, 7.4)) - camera.distance_m,
        )
        for _ in range(num_poles)
    )
    return Street(camera, tuple(people), num_frames, poles, fps, seed)


def _path_through(
    meeting_m: tuple[float, float],
    direction: tuple[float, float],
    camera: Camera,
    *,
    before_m: float,
    after_m: float,
) -> tuple[tuple[float, float], ...]:
    """To and fro on a line, so that the meeting point is passed in that direction after `before_m`.

    It turns where a person is out of the image at its sides, or 7 m or 19 m from the camera.
    """
    along = np.arange(-400, 401) * 0.1
    points = np.asarray(meeting_m) + along[:, None] * np.asarray(direction)
    away = points[:, 1] + camera.distance_m
    edge = 0.5 * camera.width_px / camera.focal_px * away + 1.4
    is_free = (away > 6.8) & (away < 18.8) & (np.abs(points[:, 0]) < edge)
    middle = len(along) // 2
    low = along[middle - int(np.argmin(is_free[middle::-1]))]
    high = along[middle + int(np.argmin(is_free[middle:]))]

    def turns(length_m: float, first: float, second: float) -> list[float]:
        places, here, goal = [], 0.0, first
        while length_m > abs(goal - here):
            places.append(goal)
            length_m -= abs(goal - here)
            here, goal = goal, (second if goal == first else first)
        return [*places, here + np.sign(goal - here) * max(length_m, 0.01)]

    places = [*turns(before_m, low, high)[::-1], *turns(after_m, high, low)]
    return tuple(
        (meeting_m[0] + place * direction[0], meeting_m[1] + place * direction[1])
        for place in places
    )


@dataclass(frozen=True)
class _Way:
    """A passer over the whole clip: where, which way, how much walking."""

    identity: int
    walker: Walker
    walk: Walk
    time_s: Float64[ndarray, " t"]
    place_m: Float64[ndarray, "t 2"]
    heading_rad: Float64[ndarray, " t"]
    walking_ratio: Float64[ndarray, " t"]

    @classmethod
    def along(
        cls, passer: Passer, num_frames: int, fps: float, camera: Camera, identity: int
    ) -> _Way:
        if len(passer.path_m) < 2:
            raise ValueError(
                f"the path of person {identity} has {len(passer.path_m)} corners, expected >= 2"
            )
        walk = passer.walker.walk(passer.condition)
        time_s = np.arange(num_frames) / fps
        walking = np.ones(num_frames)
        for begin_s, end_s in passer.stands_s:
            outside_s = np.maximum(begin_s - time_s, time_s - end_s)
            walking *= 0.5 - 0.5 * np.cos(np.pi * np.clip(outside_s / _RAMP_S, 0.0, 1.0))
        speed = speed_m_s(walk)
        gone_m = (
            np.concatenate([[0.0], np.cumsum(0.5 * (walking[1:] + walking[:-1]))]) * speed / fps
        )

        corners = np.asarray(passer.path_m, np.float64)
        steps = np.diff(corners, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        ends = np.cumsum(lengths)
        leg = np.minimum(np.searchsorted(ends, gone_m, side="right"), len(steps) - 1)
        rest_m = gone_m - (ends - lengths)[leg]
        place_m = corners[leg] + steps[leg] * (rest_m / lengths[leg])[:, None]
        away_m = place_m[:, 1] + camera.distance_m
        if away_m.min() < _NEAREST_M:
            raise ValueError(
                f"the path of person {identity} comes to {away_m.min():.1f} m from the camera in "
                f"frame {int(away_m.argmin())}, expected {_NEAREST_M} m or more"
            )
        heading = np.unwrap(np.arctan2(steps[leg, 1], steps[leg, 0]))
        reach = max(1, round(_TURN_S * fps / 2.0))
        padded = np.pad(heading, reach, mode="edge")
        window = np.hanning(2 * reach + 3)[1:-1]
        heading = np.convolve(padded, window / window.sum(), mode="valid")
        return cls(identity, passer.walker, walk, time_s, place_m, heading, walking)


class _Actor:
    """A passer's body over one chunk of frames."""

    def __init__(self, way: _Way, part: slice, camera: Camera, light: Light) -> None:
        self.way, self._part, self._camera = way, part, camera
        walk, time_s = way.walk, way.time_s[part]
        phase_rad = walk.start_phase_rad + 2.0 * np.pi * walk.gait.stride_hz * time_s
        angles = joint_angles(walk.gait, phase_rad)
        angles = slow_to_stand(angles, way.walking_ratio[part], time_s)
        skeleton = pose(walk.body, angles)
        solid = outline(walk.body, skeleton, bag=walk.bag, coat=walk.coat)
        place = way.place_m[part]
        figure = make_figure(
            way.walker,
            walk,
            skeleton,
            solid,
            turn_rad=way.heading_rad[part],
            shift_m=np.concatenate([place, np.zeros((len(place), 1))], axis=1),
        )
        self.painter = Painter(figure, camera, light)
        self._joints = joints_in_image(camera, figure.joints_m())
        placed = figure.placed()
        self._shadows = np.concatenate(
            [
                camera.hulls(_on_the_ground(placed, light.towards_sun)),
                camera.hulls(_on_the_ground(_soles(placed), (0.0, 0.0, 1.0))),
            ],
            axis=1,
        )

    def away_m(self, frame: int) -> float:
        """From the camera, along its axis."""
        return float(self.way.place_m[self._part][frame, 1] + self._camera.distance_m)

    def shadow(self, frame: int) -> Int32[ndarray, "hull direction 2"]:
        """Polygons of the shadow on the ground."""
        polygons: Int32[ndarray, "hull direction 2"] = self._shadows[frame]
        return polygons

    def seen(
        self, frame: int, mask: UInt8[ndarray, "h w"], labels: UInt8[ndarray, "h w"]
    ) -> SeenPerson:
        """The truth, once everyone is painted."""
        polygons = self.painter.polygons[frame]
        box, num_whole = _whole(polygons, mask)
        x0, y0 = np.maximum(box[:2], 0)
        x1, y1 = np.maximum(box[2:], 0)
        visible = labels[y0:y1, x0:x1] == self.way.identity
        number = int(np.count_nonzero(visible))
        visible_box = np.full(4, np.nan, np.float32)
        if number:
            visible_box[:] = _box(visible) + np.array([x0, y0, x0, y0])
        place = self.way.place_m[self._part][frame]
        to_camera = np.arctan2(-self._camera.distance_m - place[1], -place[0])
        return SeenPerson(
            identity=self.way.identity,
            mask=mask,
            box_px=box.astype(np.float32),
            visible_box_px=visible_box,
            visible_ratio=number / num_whole,
            joints=self._joints[frame],
            is_walking=bool(self.way.walking_ratio[self._part][frame] > 0.5),
            view_deg=float(np.rad2deg(to_camera - self.way.heading_rad[self._part][frame]) % 360.0),
            away_m=self.away_m(frame),
        )


def _whole(
    polygons: Int32[ndarray, "hull direction 2"], mask: UInt8[ndarray, "h w"]
) -> tuple[Int32[ndarray, " 4"], int]:
    """Box and number of the pixels of a whole person, also of those out of the image."""
    low = (polygons.min(axis=(0, 1)) >> SHIFT) - 1
    high = (polygons.max(axis=(0, 1)) >> SHIFT) + 3
    height, width = mask.shape
    if (low >= 0).all() and (high <= (width, height)).all():
        part = mask[low[1] : high[1], low[0] : high[0]]
    else:
        part = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        for polygon in polygons:
            cv2.fillConvexPoly(part, polygon - (low << SHIFT), 255, cv2.LINE_8, SHIFT)
    box: Int32[ndarray, " 4"] = (_box(part > 0) + np.tile(low, 2)).astype(np.int32)
    return box, int(np.count_nonzero(part))


def _box(mask: Bool[ndarray, "h w"]) -> Int32[ndarray, " 4"]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.int32)


def _on_the_ground(solid: Ellipsoids, towards_light: tuple[float, float, float]) -> Ellipsoids:
    """The solid's shadow: every ellipsoid moved along the light to z = 0."""
    light = np.asarray(towards_light)
    drop = np.eye(3)
    drop[:, 2] -= light / light[2]
    centres = solid.centres_m @ drop.T
    return Ellipsoids(centres, drop @ solid.spreads_m2 @ drop.T, solid.hulls, solid.parts)


def _soles(solid: Ellipsoids) -> Ellipsoids:
    """The shoes alone, half as wide again: no sky lights the ground beside them."""
    shoes = [which for which, part in enumerate(solid.parts) if part == "shoe"]
    return Ellipsoids(
        solid.centres_m,
        2.25 * solid.spreads_m2,
        tuple(solid.hulls[which] for which in shoes),
        tuple(solid.parts[which] for which in shoes),
    )


def _cast_shadows(
    image: UInt8[ndarray, "h w 3"], shadows: list[Int32[ndarray, "hull direction 2"]]
) -> None:
    """Darken the ground under everyone, softly."""
    dark = np.zeros(image.shape[:2], np.uint8)
    for polygons in shadows:
        for polygon in polygons:
            cv2.fillConvexPoly(dark, polygon, 255, cv2.LINE_8, SHIFT)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    if not len(rows):
        return
    margin = max(1, image.shape[0] // 180)
    part = (
        slice(max(0, rows[0] - 2 * margin), rows[-1] + 2 * margin + 1),
        slice(max(0, columns[0] - 2 * margin), columns[-1] + 2 * margin + 1),
    )
    side = 2 * margin + 1
    soft = cv2.blur(cv2.blur(dark[part], (side, side)), (side, side))
    kept = cv2.cvtColor(cv2.convertScaleAbs(soft, alpha=-_SHADOW, beta=255), cv2.COLOR_GRAY2RGB)
    image[part] = cv2.multiply(image[part], kept, scale=1.0 / 255.0)


def _paint_pole(
    image: UInt8[ndarray, "h w 3"], labels: UInt8[ndarray, "h w"], pole: Pole, camera: Camera
) -> None:
    ends = np.array([[pole.x_m, pole.y_m, pole.height_m], [pole.x_m, pole.y_m, 0.0]])
    (x, top), (_, bottom) = camera.project(ends)
    half = 0.5 * pole.width_m * camera.focal_px / (pole.y_m + camera.distance_m)
    height, width = labels.shape
    first, last = (int(np.clip(round(value), 0, width)) for value in (x - half, x + half))
    begin, end = (int(np.clip(round(value), 0, height)) for value in (top, bottom))
    round_off = np.linspace(-1.0, 1.0, last - first)
    bright = 0.55 + 0.5 * np.sqrt(np.maximum(1.0 - (round_off + 0.25) ** 2, 0.0))
    image[begin:end, first:last] = np.clip(np.outer(bright, pole.colour), 0, 255)
    labels[begin:end, first:last] = 0


def _draw_light(generator: np.random.Generator) -> Light:
    """A sun behind the camera, left or right of it, so that shadows fall away from it."""
    azimuth = generator.choice([-1.0, 1.0]) * generator.uniform(0.7, 1.3)
    height = generator.uniform(0.75, 1.05)
    sun = (
        float(np.cos(height) * np.sin(azimuth)),
        float(-np.cos(height) * np.cos(azimuth)),
        float(np.sin(height)),
    )
    return Light(sun, sun=float(generator.uniform(0.6, 0.85)))


_NOISE_MARGIN_PX = 64


def _noise_bank(camera: Camera, generator: np.random.Generator) -> ndarray:
    """Sensor noise for a little more than an image; every frame takes another part of it."""
    shape = (camera.height_px + _NOISE_MARGIN_PX, camera.width_px + _NOISE_MARGIN_PX, 3)
    return np.rint(generator.normal(0.0, _SENSOR_NOISE, shape)).astype(np.int16)
