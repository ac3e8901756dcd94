import itertools

import numpy as np
import pytest

from raygait.video.tiling import Tile, TileSearch, grid, tiles_for

SIZES = [(480, 640), (576, 768), (720, 1280), (1080, 1920), (1920, 1080), (2160, 3840)]
NOBODY = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)


def person(x0: float, y0: float, height_px: float, score: float = 0.6):
    box = (x0, y0, x0 + 0.4 * height_px, y0 + height_px)
    return np.array([box], np.float32), np.array([score], np.float32)


@pytest.mark.parametrize(("height_px", "width_px"), [*SIZES, (4320, 7680), (994, 1768)])
def test_tiles_cover_the_frame_and_overlap(height_px: int, width_px: int) -> None:
    tiles = tiles_for(height_px, width_px)
    lowest_px = min(tile.y1 - tile.y0 for tile in tiles)
    small = [tile for tile in tiles if tile.y1 - tile.y0 == lowest_px]
    for axis, length_px in ((0, width_px), (1, height_px)):
        spans = sorted({(tile[axis], tile[axis + 2]) for tile in small})
        assert spans[0][0] == 0
        assert max(high for _, high in spans) == length_px
        for (_, high), (low, _) in itertools.pairwise(spans):
            assert high - low > 0.15 * min(high - low for low, high in spans)


@pytest.mark.parametrize(("height_px", "width_px"), SIZES)
def test_a_person_of_64_px_takes_a_seventh_of_a_tile(height_px: int, width_px: int) -> None:
    assert min(tile.y1 - tile.y0 for tile in tiles_for(height_px, width_px)) <= 7 * 64


@pytest.mark.parametrize(
    ("height_px", "width_px", "count"),
    [
        *((240, 320, 0), (360, 640, 0), (576, 768, 4), (1080, 1920, 12 + 4)),
        *((2160, 3840, 48 + 12), (64, 16384, 33)),
    ],
)
def test_the_number_of_tiles_follows_from_the_frame_size(height_px, width_px, count) -> None:
    assert len(tiles_for(height_px, width_px)) == count


@pytest.mark.parametrize(("height_px", "width_px"), [(4320, 7680), (16384, 16384), (16384, 32)])
def test_the_number_of_tiles_is_bounded(height_px: int, width_px: int) -> None:
    assert 0 < len(tiles_for(height_px, width_px)) <= 80


def test_a_grid_that_is_asked_for_is_searched_in_every_frame() -> None:
    search = TileSearch("3")
    for _ in range(3):
        tiles = search.next_tiles(576, 768)
        assert tiles == grid(576, 768, 3, 3)
        assert len(set(tiles)) == 9
        search.learn(*NOBODY)


def test_always_and_never_hold_for_every_frame() -> None:
    always, never = TileSearch("always"), TileSearch("never")
    for _ in range(3):
        assert always.next_tiles(1080, 1920) == tiles_for(1080, 1920)
        assert never.next_tiles(1080, 1920) == []


def searched(search: TileSearch, found, num_frames: int) -> list[list[Tile]]:
    history = []
    for _ in range(num_frames):
        history.append(search.next_tiles(1080, 1920))
        search.learn(*found)
    return history


def test_auto_searches_all_tiles_first_and_then_each_once_in_15_frames() -> None:
    first, *others = searched(TileSearch("auto"), NOBODY, 31)
    assert first == tiles_for(1080, 1920)
    for start in (0, 15):
        cycle = list(itertools.chain(*others[start : start + 15]))
        assert sorted(cycle) == sorted(first)
    assert max(len(tiles) for tiles in others) == 2


def test_auto_searches_the_tile_around_a_small_person_in_every_frame() -> None:
    # Two tiles hold this person; there is more room in the first of them.
    found = person(450, 150, 100)
    holding = Tile(0, 0, 565, 416)
    assert holding in tiles_for(1080, 1920)
    _, *others = searched(TileSearch("auto"), found, 31)
    assert all(holding in tiles for tiles in others)
    assert sum(len(tiles) for tiles in others) <= 30 + 2 * 16


def test_auto_leaves_the_tiles_to_themselves_where_people_are_tall_or_unsure() -> None:
    for found in (person(300, 100, 500), person(450, 150, 100, score=0.3)):
        _, *others = searched(TileSearch("auto"), found, 16)
        assert sum(len(tiles) for tiles in others) == 16


def test_auto_goes_on_for_a_while_after_a_person_was_missed() -> None:
    search = TileSearch("auto")
    searched(search, person(450, 150, 100), 2)
    holding = Tile(0, 0, 565, 416)
    missed = [holding in tiles for tiles in searched(search, NOBODY, 9)]
    assert missed == [True] * 5 + [False] * 4


def test_who_fills_a_small_tile_is_searched_in_a_larger_one() -> None:
    search = TileSearch("auto")
    for _ in range(2):
        search.next_tiles(2160, 3840)
        search.learn(*person(1000, 365, 380))
    wanted = [tile for tile in search.next_tiles(2160, 3840) if tile.y1 - tile.y0 > 500]
    assert any(
        tile.x0 < 1000 and tile.x1 > 1152 and tile.y0 < 365 and tile.y1 > 745 for tile in wanted
    )


def test_reset_and_a_frame_of_another_size_begin_again() -> None:
    search = TileSearch("auto")
    searched(search, NOBODY, 3)
    assert search.next_tiles(576, 768) == tiles_for(576, 768)
    search.reset()
    assert search.next_tiles(576, 768) == tiles_for(576, 768)
