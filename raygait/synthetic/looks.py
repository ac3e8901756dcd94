"""What a walker looks like in colour: skin, hair, a face, and clothes with a pattern.

Colours are painted by place: where on the body a point of its surface is decides what it shows, so
that a pattern, a hem or an eyebrow stays where it is while the body moves. Nothing here changes
the outline; a nose and ears are colour only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from raygait.synthetic.body import Body
from raygait.synthetic.outline import REFERENCE_STATURE_M, Bag, Coat, Part

Colour = tuple[float, float, float]
"""Red, green, blue, 0..1."""

SKIN_COLOURS: tuple[Colour, ...] = (
    (0.94, 0.78, 0.69),
    (0.90, 0.72, 0.60),
    (0.83, 0.64, 0.51),
    (0.71, 0.51, 0.38),
    (0.55, 0.38, 0.28),
    (0.40, 0.27, 0.20),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (0.09, 0.08, 0.08),
    (0.18, 0.13, 0.10),
    (0.30, 0.20, 0.13),
    (0.45, 0.31, 0.18),
    (0.68, 0.55, 0.34),
    (0.60, 0.59, 0.58),
)
TOP_COLOURS: tuple[Colour, ...] = (
    (0.90, 0.90, 0.88),
    (0.13, 0.14, 0.16),
    (0.75, 0.18, 0.17),
    (0.16, 0.30, 0.58),
    (0.20, 0.42, 0.28),
    (0.85, 0.68, 0.25),
    (0.55, 0.70, 0.84),
    (0.52, 0.50, 0.50),
    (0.62, 0.36, 0.52),
    (0.86, 0.47, 0.27),
)
TROUSER_COLOURS: tuple[Colour, ...] = (
    (0.15, 0.18, 0.29),
    (0.27, 0.35, 0.50),
    (0.13, 0.13, 0.14),
    (0.36, 0.35, 0.34),
    (0.62, 0.54, 0.41),
    (0.33, 0.27, 0.22),
)
SHOE_COLOURS: tuple[Colour, ...] = (
    (0.10, 0.10, 0.10),
    (0.32, 0.21, 0.14),
    (0.85, 0.85, 0.84),
    (0.45, 0.44, 0.45),
)
COAT_COLOURS: tuple[Colour, ...] = (
    (0.12, 0.13, 0.16),
    (0.42, 0.34, 0.24),
    (0.20, 0.25, 0.33),
    (0.45, 0.14, 0.16),
    (0.40, 0.42, 0.33),
    (0.60, 0.58, 0.54),
)

Points = Float32[ndarray, "n 3"]
Values = Float32[ndarray, " n"]


@dataclass(frozen=True)
class Cloth:
    """What a piece of clothing is made of.

    Attributes:
        colour: Of the ground.
        second: Of the pattern.
        pattern: `bars` run round the body, `stripes` along it.
        period_m: After what length the pattern repeats.
    """

    colour: Colour
    second: Colour
    pattern: Literal["plain", "bars", "stripes", "checks", "speckle"]
    period_m: float

    @classmethod
    def draw(
        cls,
        generator: np.random.Generator,
        colours: tuple[Colour, ...],
        patterns: tuple[Literal["plain", "bars", "stripes", "checks", "speckle"], ...],
    ) -> Cloth:
        """A cloth of one or two of these colours, a little off, and one of these patterns."""
        first, second = generator.choice(len(colours), size=2, replace=False)
        return cls(
            colour=_varied(colours[first], generator),
            second=_varied(colours[second], generator),
            pattern=patterns[generator.integers(len(patterns))],
            period_m=float(generator.uniform(0.05, 0.11)),
        )

    def paint(self, across_m: Values, along_m: Values, spot_m: float) -> Points:
        """Colours at points given by two coordinates on the cloth.

        Args:
            across_m: Round the body.
            along_m: Along it.
            spot_m: Size of a pixel on the cloth: a finer pattern melts into one colour.
        """
        colours = np.tile(np.asarray(self.colour, np.float32), (len(across_m), 1))
        if self.pattern == "plain":
            return colours
        if self.pattern == "speckle":
            share = 0.25 + 0.25 * min(1.0, 0.02 / spot_m) * noise(across_m / 0.02, along_m / 0.02)
        else:
            # Squared waves, as soft at their edges as a pixel is large.
            hardness = self.period_m / (self.period_m * 0.15 + 6.0 * spot_m)
            along = np.tanh(hardness * np.sin(2.0 * np.pi / self.period_m * along_m))
            across = np.tanh(hardness * np.sin(2.0 * np.pi / self.period_m * across_m))
            wave = {"bars": along, "stripes": across, "checks": 0.5 * (along + across)}
            share = 0.5 + 0.5 * wave[self.pattern]
        return _mixed(colours, self.second, share.astype(np.float32))


@dataclass(frozen=True)
class Look:
    """Colours of one person. Equal seeds look the same on every walk.

    Attributes:
        skin: Of face, neck and hands.
        hair: Of hair and brows.
        lips: Of the mouth.
        top: Shirt or jumper.
        trousers: Down to the shoes.
        shoes: Uppers; soles are light.
        coat: Worn in `cl` walks.
        bag: Carried in `bg` walks.
        has_short_sleeves: Bare forearms.
        hem_m: Where the top ends, above the joint of hip and trunk.
        hairline_ratio: Where hair begins over the forehead, in half-heights of the head.
    """

    skin: Colour
    hair: Colour
    lips: Colour
    top: Cloth
    trousers: Cloth
    shoes: Colour
    coat: Cloth
    bag: Cloth
    has_short_sleeves: bool
    hem_m: float
    hairline_ratio: float

    @classmethod
    def from_seed(cls, seed: int) -> Look:
        """The look of the `Walker` of that seed."""
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
        tone = int(generator.integers(len(SKIN_COLOURS)))
        skin = _varied(SKIN_COLOURS[tone], generator)
        # Dark skin with fair hair is rare.
        hairs = HAIR_COLOURS if tone < 3 else HAIR_COLOURS[:3]
        return cls(
            skin=skin,
            hair=_varied(hairs[generator.integers(len(hairs))], generator),
            lips=(0.80 * skin[0], 0.52 * skin[1], 0.52 * skin[2]),
            top=Cloth.draw(
                generator, TOP_COLOURS, ("plain", "plain", "bars", "stripes", "checks", "speckle")
            ),
            trousers=Cloth.draw(generator, TROUSER_COLOURS, ("plain", "plain", "speckle")),
            shoes=_varied(SHOE_COLOURS[generator.integers(len(SHOE_COLOURS))], generator),
            coat=Cloth.draw(generator, COAT_COLOURS, ("plain", "plain", "speckle")),
            bag=Cloth.draw(generator, TOP_COLOURS, ("plain", "bars")),
            has_short_sleeves=bool(generator.random() < 0.4),
            hem_m=float(generator.uniform(-0.06, 0.07)),
            hairline_ratio=float(generator.uniform(0.48, 0.74)),
        )


@dataclass(frozen=True)
class Dressed:
    """A look on a body, in the clothes of one walk.

    Attributes:
        look: Colours.
        body: Sizes, which say where a shirt ends and where the eyes are.
        bag: What is carried.
        coat: What is worn on top.
    """

    look: Look
    body: Body
    bag: Bag | None
    coat: Coat | None

    def paint(self, part: Part, points_m: Points, spot_m: float) -> Points:
        """Colours of points on one part of the body.

        Args:
            part: Which.
            points_m: In the part's own axes (see `shading.part_axes`).
            spot_m: Size of a pixel there.
        """
        painters: dict[Part, Callable[[Points, float], Points]] = {
            **dict.fromkeys(("hips", "belly", "chest", "yoke", "seat", "skirt"), self._trunk),
            **dict.fromkeys(("face", "hair"), self._head),
            **dict.fromkeys(("thigh", "knee", "calf", "cuff"), self._leg),
            **dict.fromkeys(("bag", "handle"), self._bag),
            "upper_arm": functools.partial(self._arm, True),
            "forearm": functools.partial(self._arm, False),
            "shoe": self._shoe,
            "neck": self._neck,
            "hand": self._hand,
        }
        return painters[part](points_m, spot_m)

    def _top(self) -> Cloth:
        return self.look.coat if self.coat else self.look.top

    def _trunk(self, points_m: Points, spot_m: float) -> Points:
        forwards, left, up = points_m.T
        trunk_m = self.body.trunk_ratio * self.body.stature_m
        colours = self._top().paint(left + 0.7 * forwards, up, spot_m)
        soft_m = max(0.004, spot_m)
        if self.coat:
            # A coat's front: a dark seam where it is buttoned, and the top in the neck.
            seam = _soft(0.008 - np.abs(left + 0.02), soft_m) * (forwards > 0)
            colours = _mixed(colours, _shaded(self.look.coat.colour, 0.55), seam)
        else:
            below = _soft(self.look.hem_m - 0.70 * trunk_m - up, soft_m)
            colours = _mixed(colours, self.look.trousers.colour, below)
            hem = _soft(0.008 - np.abs(up + 0.70 * trunk_m - self.look.hem_m), soft_m)
            colours = _mixed(colours, _shaded(self.look.top.colour, 0.55), 0.6 * hem)
        # The neckline lies lower in front.
        line_m = 0.30 * trunk_m + np.where(forwards > 0, 0.005, 0.045)
        neck = _soft(up - line_m - 0.9 * np.abs(left), soft_m)
        in_neck = self.look.top.colour if self.coat else self.look.skin
        colours = _mixed(colours, in_neck, neck * (np.abs(left) < 0.09))
        if self.bag and self.bag.place == "back":
            strap = _soft(0.022 - np.abs(np.abs(left) - 0.105), soft_m) * (forwards > -0.05)
            strap = strap * (up > -0.18 * trunk_m)
            colours = _mixed(colours, _shaded(self.look.bag.colour, 0.8), strap)
        elif self.bag and self.bag.place == "hip":
            # From the shoulder across the trunk to the hip on the other side.
            side = 1.0 if self.bag.side == 0 else -1.0
            off_m = (up + 0.2 * trunk_m) * 0.30 + side * left * 0.95
            colours = _mixed(
                colours, _shaded(self.look.bag.colour, 0.8), _soft(0.018 - np.abs(off_m), soft_m)
            )
        return colours

    def _leg(self, points_m: Points, spot_m: float) -> Points:
        forwards, left, up = points_m.T
        return self.look.trousers.paint(left + 0.7 * forwards, up, spot_m)

    def _arm(self, is_upper: bool, points_m: Points, spot_m: float) -> Points:
        forwards, left, up = points_m.T
        colours = self._top().paint(left + 0.7 * forwards, up, spot_m)
        if self.look.has_short_sleeves and self.coat is None:
            length_m = self.body.upper_arm_ratio * self.body.stature_m
            bare = _soft(-up - 0.62 * length_m, max(0.004, spot_m)) if is_upper else 1.0
            colours = _mixed(colours, self.look.skin, np.full(len(up), bare, np.float32))
        return colours

    def _shoe(self, points_m: Points, spot_m: float) -> Points:
        colours = np.tile(np.asarray(self.look.shoes, np.float32), (len(points_m), 1))
        sole = _soft(-0.62 * self.body.shoe_radius_m - points_m[:, 2], max(0.004, spot_m))
        return _mixed(colours, (0.78, 0.76, 0.72), 0.8 * sole)

    def _neck(self, points_m: Points, _: float) -> Points:
        return np.tile(np.asarray(_shaded(self.look.skin, 0.9), np.float32), (len(points_m), 1))

    def _hand(self, points_m: Points, spot_m: float) -> Points:
        colours = np.tile(np.asarray(self.look.skin, np.float32), (len(points_m), 1))
        # Fingers: dark lines along the far half.
        lines = np.abs(np.sin(points_m[:, 0] * (np.pi / 0.017))) < 0.35
        fade = float(np.clip(0.004 / spot_m, 0.0, 1.0))
        return _mixed(
            colours, _shaded(self.look.skin, 0.6), 0.6 * fade * lines * (points_m[:, 2] < -0.06)
        )

    def _bag(self, points_m: Points, spot_m: float) -> Points:
        forwards, left, up = points_m.T
        colours = self.look.bag.paint(left + 0.7 * forwards, up, spot_m)
        flap = _soft(0.006 - np.abs(up + 0.03), max(0.004, spot_m))
        return _mixed(colours, _shaded(self.look.bag.colour, 0.5), flap)

    def _head(self, points_m: Points, spot_m: float) -> Points:
        """Face, ears and hair, in half-depths, half-widths and half-heights of the head."""
        scale = self.body.stature_m / REFERENCE_STATURE_M
        look, body = self.look, self.body
        x = points_m[:, 0] / (body.head_depth_m * scale)
        y = points_m[:, 1] / (body.head_width_m * scale)
        z = points_m[:, 2] / (body.head_height_m * scale)
        aside = np.abs(y)
        soft = max(0.12, spot_m / (body.head_height_m * scale))
        # Where the eyes are among the joints: 3 cm up, 0.36 half-widths aside.
        eye_z = 0.03 / body.head_height_m
        front = (x > 0.15).astype(np.float32)
        skin = np.tile(np.asarray(look.skin, np.float32), (len(x), 1))
        skin = _mixed(skin, _shaded(look.skin, 0.62), 0.75 * _disc(x, -0.02, 0.3, z, -0.75, 0.25))
        socket = _disc(aside, 0.36, 0.34, z, eye_z + 0.04, 0.24, soft) * front
        skin = _mixed(skin, _shaded(look.skin, 0.68), 0.75 * socket)
        cheek = _disc(aside, 0.55, 0.3, z, -0.12, 0.25, 0.5) * front
        skin = _mixed(skin, _shaded(look.skin, 1.08), 0.6 * cheek)
        ridge = _disc(aside, 0.0, 0.10, z, 0.05, 0.26, soft) * front
        skin = _mixed(skin, _shaded(look.skin, 1.15), ridge)
        flank = _disc(aside, 0.20, 0.11, z, -0.02, 0.22, soft) * front
        skin = _mixed(skin, _shaded(look.skin, 0.78), 0.6 * flank)
        below = _disc(aside, 0.0, 0.22, z, -0.24, 0.07, soft) * front
        skin = _mixed(skin, _shaded(look.skin, 0.50), 0.85 * below)
        mouth = _disc(aside, 0.0, 0.34, z, -0.47, 0.075, 0.6 * soft) * front
        skin = _mixed(skin, look.lips, 0.9 * mouth)
        parted = _disc(aside, 0.0, 0.30, z, -0.47, 0.02, 0.4 * soft) * front
        skin = _mixed(skin, _shaded(look.lips, 0.45), 0.8 * parted)
        white = _disc(aside, 0.36, 0.19, z, eye_z, 0.075, 0.6 * soft) * front
        skin = _mixed(skin, (0.86, 0.85, 0.84), 0.8 * white)
        iris = _disc(aside, 0.36, 0.085, z, eye_z, 0.085, 0.6 * soft) * front
        skin = _mixed(skin, (0.10, 0.08, 0.07), 0.95 * iris)
        lid = _disc(aside, 0.36, 0.22, z, eye_z + 0.085, 0.03, 0.5 * soft) * front
        skin = _mixed(skin, _shaded(look.skin, 0.35), 0.8 * lid)
        brow = _disc(aside, 0.38, 0.28, z, eye_z + 0.21 - 0.05 * aside, 0.055, 0.6 * soft) * front
        skin = _mixed(skin, look.hair, 0.85 * brow)

        line = z - look.hairline_ratio + 2.3 * np.maximum(0.30 - x, 0.0)
        is_hair = _soft(line, soft)
        ear_x = (x + 0.06) / 0.17
        ear_z = (z - 0.10) / 0.27
        ear = _soft(1.0 - np.hypot(ear_x, ear_z), 0.35) * (aside > 0.6)
        in_ear = _soft(0.45 - np.hypot(ear_x, ear_z), 0.35) * (aside > 0.6)
        strands = 0.9 + 0.25 * noise(y * 3.0 + 0.5 * x, z * 0.7 + 0.3 * x)
        hair = np.asarray(look.hair, np.float32) * strands[:, None]
        colours: Points = skin + (hair - skin) * is_hair[:, None]
        colours = _mixed(colours, _shaded(look.skin, 0.95), ear)
        return _mixed(colours, _shaded(look.skin, 0.6), 0.8 * in_ear)


def noise(across: Values, along: Values) -> Values:
    """Smooth noise of several scales, -1..1, that repeats every 32 units in each direction."""
    texture = _noise_texture()
    column = np.mod(across, 32.0).astype(np.float32) * 8.0
    row = np.mod(along, 32.0).astype(np.float32) * 8.0
    values: Values = texture[row.astype(np.intp) & 255, column.astype(np.intp) & 255]
    return values


@functools.cache
def _noise_texture() -> Float32[ndarray, "256 256"]:
    return tiling_noise(np.random.default_rng(20_240), 256, (32, 64, 128, 256))


def tiling_noise(
    generator: np.random.Generator, side_px: int, cells: tuple[int, ...]
) -> Float32[ndarray, "side_px side_px"]:
    """Noise that fits its own opposite edge, -1..1: coarse grids enlarged and added up.

    Args:
        generator: Where chance comes from.
        side_px: Side of the square, a multiple of every grid's.
        cells: Sides of the grids; each next one counts 0.6 of the one before.
    """
    total = np.zeros((side_px, side_px), np.float32)
    for order, side in enumerate(cells):
        grid = generator.uniform(-1.0, 1.0, (side, side)).astype(np.float32)
        wrapped = np.pad(grid, 4, mode="wrap")
        zoom = side_px // side
        large = cv2.resize(wrapped, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        total += 0.6**order * large[4 * zoom : -4 * zoom, 4 * zoom : -4 * zoom]
    scaled: ndarray = total / np.abs(total).max()
    return scaled


def _varied(colour: Colour, generator: np.random.Generator) -> Colour:
    brightness = generator.uniform(0.85, 1.12)
    red, green, blue = np.clip(np.array(colour) * brightness + generator.normal(0, 0.015, 3), 0, 1)
    return float(red), float(green), float(blue)


def _shaded(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(1.0, factor * channel) for channel in colour)
    return red, green, blue


def _mixed(colours: Points, other: Colour, share: ndarray) -> Points:
    mixed: Points = colours + (np.asarray(other, np.float32) - colours) * share[:, None]
    return mixed


def _soft(inside: ndarray, width: float) -> Values:
    """0 below, 1 above zero, with a slope of this width between."""
    share: Values = np.clip(0.5 + inside / width, 0.0, 1.0).astype(np.float32)
    return share


def _disc(
    a: Values,
    a_centre: float,
    a_half: float,
    b: Values,
    b_centre: ndarray | float,
    b_half: float,
    soft: float = 0.3,
) -> Values:
    """1 in an ellipse, 0 outside; its edge is `soft` wide, but never wider than the ellipse."""
    radius = np.hypot((a - a_centre) / a_half, (b - b_centre) / b_half)
    share: Values = np.clip((1.0 - radius) * min(a_half, b_half) / soft + 0.5, 0.0, 1.0)
    return share.astype(np.float32)


def is_on_skin(part: Part) -> bool:
    """Whether folds of cloth are out of place there."""
    return part in ("face", "hair", "neck", "hand")
