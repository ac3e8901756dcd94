"""A street to walk in front of: a house, a tree, the ground, and how they change over time.

The picture is painted from noise of several scales, in the perspective of the camera, and is no
photograph. It changes as a fixed camera's does: slow light, leaves in the wind, a lit shop window
that flickers. What moves there is nobody.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from raygait.synthetic.camera import Camera
from raygait.synthetic.looks import tiling_noise

WALL_M = 22.0
"""How far from the camera the house stands."""

_WALLS = ((150, 120, 100), (165, 155, 140), (120, 125, 135), (170, 140, 105), (135, 110, 105))
_GROUNDS = ((128, 126, 122), (112, 108, 102), (140, 132, 120), (105, 108, 112))
_LEAVES = ((70, 95, 45), (85, 105, 60), (95, 90, 45))


class Backdrop:
    """The place before one camera.

    Args:
        camera: Looks level along the ground.
        seed: Everything in the place follows from it.
    """

    def __init__(self, camera: Camera, seed: int) -> None:
        self._camera = camera
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(10,)))
        self._noise = tiling_noise(generator, 512, (16, 32, 64, 128, 256, 512))
        self._rows, self._columns = np.indices(
            (camera.height_px, camera.width_px), dtype=np.float32
        )
        image = self._house(generator)
        self._ground(image, generator)
        self._lit = self._shop(image, generator)
        self._tree = self._plant(image, generator)
        self._image = np.clip(image, 0, 255).astype(np.uint8)
        self._sway_rad = generator.uniform(0.0, 2.0 * np.pi, 3)

    def at(self, time_s: float) -> UInt8[ndarray, "h w 3"]:
        """The place at a time, in even light; the array is the caller's own."""
        image: UInt8[ndarray, "h w 3"] = self._image.copy()
        top, bottom, left, right = self._lit
        flicker = 1.0 + 0.18 * np.sin(2.0 * np.pi * 0.7 * time_s) * np.sin(9.1 * time_s)
        lit = image[top:bottom, left:right]
        cv2.convertScaleAbs(lit, lit, alpha=flicker)

        top, bottom, left, right = self._tree
        rows = self._rows[top:bottom, left:right]
        columns = self._columns[top:bottom, left:right]
        # Gusts run through the crown; its edge stays where it is.
        side = np.linspace(-1.0, 1.0, right - left, dtype=np.float32)
        high = np.linspace(-1.0, 1.0, bottom - top, dtype=np.float32)
        reach = 0.005 * self._camera.height_px * np.outer(1.0 - high**2, 1.0 - side**2)
        phase = self._sway_rad + 2.0 * np.pi * np.array([0.45, 0.8, 1.7]) * time_s
        across = np.sin(phase[0]) + 0.6 * np.sin(phase[1] + 0.05 * rows)
        down = 0.6 * np.sin(phase[2] + 0.07 * columns)
        swayed = cv2.remap(
            self._image,
            (columns + reach * across).astype(np.float32),
            (rows + reach * down).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        image[top:bottom, left:right] = swayed
        return image

    def _sampled(
        self, across: Float32[ndarray, "h w"], along: Float32[ndarray, "h w"], period: float
    ) -> Float32[ndarray, "h w"]:
        """Noise at places in metres; it repeats after `period` metres."""
        zoom = 512.0 / period
        column = np.floor(across * zoom).astype(np.int64) & 511
        row = np.floor(along * zoom).astype(np.int64) & 511
        values: Float32[ndarray, "h w"] = self._noise[row, column]
        return values

    def _house(self, generator: np.random.Generator) -> Float32[ndarray, "h w 3"]:
        camera = self._camera
        centre = camera.centre_px()
        across = (self._columns - centre[0]) * (WALL_M / camera.focal_px)
        up = camera.height_m - (self._rows - centre[1]) * (WALL_M / camera.focal_px)
        colour = np.array(_WALLS[generator.integers(len(_WALLS))], np.float32)
        rough = self._sampled(across, up, 7.0)
        # Courses of brick, every other one shifted by half a brick.
        course = np.floor(up / 0.15)
        joint = (np.mod(up, 0.15) < 0.02) | (np.mod(across + 0.15 * np.mod(course, 2), 0.5) < 0.03)
        bright = 1.0 + 0.22 * rough - 0.12 * joint
        width, height = generator.uniform(2.4, 3.4), generator.uniform(2.6, 3.2)
        shift = generator.uniform(0.0, width)
        column, storey = np.mod(across + shift, width) / width, np.mod(up - 0.4, height) / height
        is_window = (column > 0.3) & (column < 0.7) & (storey > 0.3) & (storey < 0.78)
        is_frame = (column > 0.27) & (column < 0.73) & (storey > 0.27) & (storey < 0.81)
        image: Float32[ndarray, "h w 3"] = (colour * bright[..., None]).astype(np.float32)
        image[is_frame] = np.array([205, 200, 190]) * (1.0 + 0.1 * rough[is_frame])[:, None]
        pane = 0.55 + 0.5 * self._sampled(across, up, 23.0)
        image[is_window] = np.array([88, 100, 112]) * (pane[is_window] + 0.3)[:, None]
        image[(up < 0.5) & (up > 0.0)] *= 0.7
        return image

    def _ground(self, image: Float32[ndarray, "h w 3"], generator: np.random.Generator) -> None:
        camera = self._camera
        centre = camera.centre_px()
        below = np.maximum(self._rows - centre[1], 1.0)
        away = camera.focal_px * camera.height_m / below
        is_ground = (away < WALL_M) & (self._rows > centre[1])
        across = (self._columns - centre[0]) * away / camera.focal_px
        edges = np.sort(generator.uniform(7.0, 19.0, 2))
        zone = np.searchsorted(edges, away)
        order = generator.permutation(len(_GROUNDS))[:3]
        colours = np.array([_GROUNDS[which] for which in order], np.float32)
        slab_m = generator.uniform(0.5, 0.9)
        # Thin joints far away melt into the slab.
        fine = np.clip(3.5 / away, 0.0, 1.0)
        joint = (np.mod(across, slab_m) < 0.025) | (np.mod(away, slab_m) < 0.03)
        bright = 1.0 + 0.20 * self._sampled(across, away, 9.0)
        bright += 0.12 * self._sampled(across, away, 2.3) - 0.22 * fine * joint * (zone != 1)
        kerb = np.minimum(np.abs(away - edges[0]), np.abs(away - edges[1])) < 0.12
        bright += 0.25 * kerb
        image[is_ground] = (colours[zone] * bright[..., None])[is_ground]

    def _shop(
        self, image: Float32[ndarray, "h w 3"], generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Paint a lit window; its rows and columns."""
        camera = self._camera
        zoom = camera.focal_px / WALL_M
        horizon, middle = camera.centre_px()[1], camera.centre_px()[0]
        left = round(middle + generator.uniform(-8.5, 4.0) * zoom)
        top = round(horizon + (camera.height_m - 2.5) * zoom)
        bottom = round(horizon + (camera.height_m - 0.7) * zoom)
        right = left + round(generator.uniform(3.0, 4.5) * zoom)
        top, bottom = (int(np.clip(value, 0, camera.height_px)) for value in (top, bottom))
        left, right = (int(np.clip(value, 0, camera.width_px)) for value in (left, right))
        rows, columns = self._rows[top:bottom, left:right], self._columns[top:bottom, left:right]
        glow = 1.0 + 0.4 * self._sampled(columns / zoom, rows / zoom, 3.0)
        image[top:bottom, left:right] = np.array([190, 172, 130]) * glow[..., None]
        return top, bottom, left, right

    def _plant(
        self, image: Float32[ndarray, "h w 3"], generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Paint a tree before the house; the rows and columns of its crown."""
        camera = self._camera
        away_m = generator.uniform(19.5, 21.0)
        zoom = camera.focal_px / away_m
        horizon, middle = camera.centre_px()[1], camera.centre_px()[0]
        foot = horizon + camera.height_m * zoom
        stem = middle + generator.choice([-1.0, 1.0]) * generator.uniform(3.0, 8.0) * zoom
        across, up = (self._columns - stem) / zoom, (foot - self._rows) / zoom
        rough = self._sampled(across, up, 5.0)
        trunk = (np.abs(across + 0.05 * rough) < 0.16 + 0.02 * up) & (up > 0.0) & (up < 3.5)
        shade = 1.0 + 0.5 * rough - 0.8 * across
        image[trunk] = np.array([92, 76, 60]) * shade[trunk][:, None]
        crown = np.hypot(across / 2.6, (up - 4.6) / 2.2) + 0.45 * self._sampled(across, up, 9.0)
        leaves = crown < 0.95
        colour = np.array(_LEAVES[generator.integers(len(_LEAVES))], np.float32)
        dapple = 0.9 + 0.75 * self._sampled(across, up, 2.6) + 0.12 * (up - 4.6)
        image[leaves] = colour * np.clip(dapple[leaves], 0.25, 2.0)[:, None]
        top, bottom = round(foot - 7.2 * zoom), round(foot - 2.0 * zoom)
        left, right = round(stem - 3.2 * zoom), round(stem + 3.2 * zoom)
        top, bottom = (int(np.clip(value, 0, camera.height_px)) for value in (top, bottom))
        left, right = (int(np.clip(value, 0, camera.width_px)) for value in (left, right))
        return top, bottom, left, right
