"""Where a detector looks closer: overlapping tiles over a frame, and which of them are worth it.

A network of 300×300 misses people who are low in what it sees: on 20 frames of `vtest.avi` with
boxes made by eye (118 people) a person of 0.10 to 0.14 of the image's height was found in 3 of 4
images, one of 0.20 and more in 19 of 20. Tiles make people larger; each costs as much as a frame.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32

TilePolicy = Literal["auto", "never", "always", "2", "3", "4", "5", "6"]
"""Which tiles are searched besides the whole frame, see `TileSearch`."""

# A person of 64 px is 0.15 of such a tile; those of 48 px are found in most frames.
_TILE_HEIGHT_PX = 440
_TILE_ASPECT = 1.4
_OVERLAP_RATIO = 0.2
_MAX_TILES = 60
_MIN_ROWS_WITH_LARGE = 3
_EVERY = 15
_KEEP_FRAMES = 5
_SMALL_HEIGHT_RATIO = 0.35
_SMALL_MIN_SCORE = 0.4
_COMFORTABLE_RATIO = 0.5


class Tile(NamedTuple):
    """A part of a frame, in its pixels; x1 and y1 are the first outside."""

    x0: int
    y0: int
    x1: int
    y1: int


class TileSearch:
    """Say which tiles of the next frame of a clip to search.

    `auto` searches all of them in the clip's first frame. After that each is searched once in 15
    frames, a share of them in every frame; and one that holds a small person (below 0.35 of the
    frame's height) in the next five frames, too. Of the tiles that hold a person whole the one is
    taken in which they are farthest from its edges.

    Args:
        policy: `never` none; `always` all of `tiles_for` in every frame; `2` to `6` an n×n grid in
            every frame; `auto` as above.
    """

    def __init__(self, policy: TilePolicy) -> None:
        if policy not in get_args(TilePolicy):
            expected = ", ".join(get_args(TilePolicy))
            raise ValueError(f"unknown tiles {policy!r}; expected one of {expected}")
        self._policy = policy
        self.reset()

    def reset(self) -> None:
        """Forget the clip."""
        self._index = 0
        self._shape: tuple[int, int] | None = None
        self._tiles: list[Tile] = []
        self._wanted_until: dict[Tile, int] = {}

    def next_tiles(self, height_px: int, width_px: int) -> list[Tile]:
        """The tiles to search in the next frame."""
        if self._shape != (height_px, width_px):
            self._shape = (height_px, width_px)
            self._tiles = self._all_tiles(height_px, width_px)
            self._wanted_until = dict.fromkeys(self._tiles, self._index)
        if self._policy == "auto":
            count, phase = len(self._tiles), self._index % _EVERY
            due = set(self._tiles[phase * count // _EVERY : (phase + 1) * count // _EVERY])
            chosen = [
                tile
                for tile in self._tiles
                if tile in due or self._wanted_until.get(tile, -1) >= self._index
            ]
        else:
            chosen = self._tiles
        self._index += 1
        return chosen

    def learn(
        self, boxes_px: Float32[np.ndarray, "n 4"], scores: Float32[np.ndarray, " n"]
    ) -> None:
        """Hear of everybody who was found in the frame of the last `next_tiles`."""
        if self._policy != "auto" or not self._tiles:
            return
        assert self._shape is not None
        heights_px = boxes_px[:, 3] - boxes_px[:, 1]
        is_small = (heights_px < _SMALL_HEIGHT_RATIO * self._shape[0]) & (
            scores >= _SMALL_MIN_SCORE
        )
        for box_px in boxes_px[is_small]:
            tile = self._best_tile(box_px)
            if tile is not None:
                self._wanted_until[tile] = self._index - 1 + _KEEP_FRAMES

    def _best_tile(self, box_px: Float32[np.ndarray, " 4"]) -> Tile | None:
        """The tile that holds a box with the most room; a small one, if it is not filled by it."""
        assert self._shape is not None
        height_px, width_px = self._shape
        x0, y0, x1, y1 = (float(value) for value in box_px)
        best, most = None, (False, 0, 0.0)
        for tile in self._tiles:
            # Who is cut by the frame's border is not cut by the tile.
            room_px = min(
                x0 - tile.x0 if tile.x0 > 0 else math.inf,
                y0 - tile.y0 if tile.y0 > 0 else math.inf,
                tile.x1 - x1 if tile.x1 < width_px else math.inf,
                tile.y1 - y1 if tile.y1 < height_px else math.inf,
            )
            if room_px <= 0:
                continue
            tile_height_px = tile.y1 - tile.y0
            is_comfortable = y1 - y0 <= _COMFORTABLE_RATIO * tile_height_px
            worth = (is_comfortable, -tile_height_px, room_px)
            if best is None or worth > most:
                best, most = tile, worth
        return best

    def _all_tiles(self, height_px: int, width_px: int) -> list[Tile]:
        if self._policy == "never":
            return []
        if self._policy in ("auto", "always"):
            return tiles_for(height_px, width_px)
        count = int(self._policy)
        return grid(height_px, width_px, count, count)


def tiles_for(height_px: int, width_px: int) -> list[Tile]:
    """The tiles in which people of 48 to 64 px can be found in a frame of this size.

    From three rows on there are larger ones too, half as many rows and columns, for the people
    who fit into no small tile and are low in the whole frame. 768×576: 2 rows of 2. 1920×1080: 3
    of 4, and 2 of 2. 3840×2160: 6 of 8, and 3 of 4. More than 60 small ones there never are: from
    there on tiles grow with the frame, and in 7680×4320 people have to be twice as tall. None for
    a frame that is hardly larger than a tile.
    """
    side_px = float(_TILE_HEIGHT_PX)
    while True:
        num_rows = _count(height_px, side_px)
        num_columns = _count(width_px, _TILE_ASPECT * side_px)
        if num_rows * num_columns <= _MAX_TILES:
            break
        side_px *= 1.1
    if num_rows == 1 and num_columns <= 2:
        return []
    tiles = grid(height_px, width_px, num_rows, num_columns)
    if num_rows >= _MIN_ROWS_WITH_LARGE:
        tiles += grid(height_px, width_px, math.ceil(num_rows / 2), math.ceil(num_columns / 2))
    return tiles


def grid(height_px: int, width_px: int, num_rows: int, num_columns: int) -> list[Tile]:
    """Tiles that cover the frame, neighbours overlapping by a fifth of their side."""
    rows, columns = _spans(height_px, num_rows), _spans(width_px, num_columns)
    return [Tile(x0, y0, x1, y1) for (y0, y1), (x0, x1) in itertools.product(rows, columns)]


def _count(length_px: int, side_px: float) -> int:
    """How many overlapping tiles, none longer than `side_px`, cover a length."""
    return max(1, math.ceil((length_px / side_px - _OVERLAP_RATIO) / (1 - _OVERLAP_RATIO)))


def _spans(length_px: int, count: int) -> list[tuple[int, int]]:
    """First pixel and the one after the last of equally long tiles along a side."""
    side_px = math.ceil(length_px / (count - (count - 1) * _OVERLAP_RATIO))
    step_px = (length_px - side_px) / max(1, count - 1)
    starts_px = [round(place * step_px) for place in range(count)]
    return [(start_px, start_px + side_px) for start_px in starts_px]
