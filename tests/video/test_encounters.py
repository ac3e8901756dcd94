"""Two people in profile, 200 px tall, whose boxes meet; looks and ways are made by hand."""

import numpy as np
import pytest

from raygait.video.encounters import Path, Sighting, Untangler

FPS = 25.0
RED = np.array([(45, 50, 30), (45, 50, 30), (25, 0, -10), (25, 0, -10)], np.float32)
BLACK = np.array([(12, 0, 0), (12, 0, 0), (12, 0, 0), (30, 0, -15)], np.float32)
UNSEEN = np.full((4, 3), np.nan, np.float32)


def walk(
    frames: range,
    *,
    start_px: float,
    speed_px: float,
    look: np.ndarray,
    seed: int,
    y_px: float = 100.0,
) -> Path:
    """Somebody who is at `start_px` in frame 0 and walks on, seen with a trembling box."""
    generator = np.random.default_rng(seed)
    path = []
    for index in frames:
        x = start_px + speed_px * index
        box_px = np.array((x - 40, y_px, x + 40, y_px + 200)) + generator.normal(0, 3, 4)
        seen = look + generator.normal(0, 3, look.shape)
        path.append(Sighting(index, box_px.astype(np.float32), 0.6, seen.astype(np.float32)))
    return tuple(path)


def crossing(a: np.ndarray, b: np.ndarray) -> tuple[Path, Path]:
    """One goes right, one left, 160 px a second; in frames 46 to 54 only one box is there."""
    there = [*range(0, 46), *range(55, 100)]
    right = walk(range(100), start_px=200, speed_px=6.4, look=a, seed=1)
    left = walk(range(100), start_px=840, speed_px=-6.4, look=b, seed=2)
    return right, tuple(left[index] for index in there)


def exchanged(first: Path, second: Path, at: int) -> list[Path]:
    def heads(path: Path) -> Path:
        return tuple(sighting for sighting in path if sighting.frame_index < at)

    def tails(path: Path) -> Path:
        return tuple(sighting for sighting in path if sighting.frame_index >= at)

    return [heads(first) + tails(second), heads(second) + tails(first)]


def untangle(paths: list[Path], **options: float) -> list[Path]:
    result = Untangler(**options)(paths, FPS, width_px=1100)
    of_all = sorted(id(sighting) for path in result for sighting in path)
    assert of_all == sorted(id(sighting) for path in paths for sighting in path)
    for path in result:
        assert (np.diff([sighting.frame_index for sighting in path]) > 0).all()
    return result


@pytest.mark.parametrize("looks", [(RED, BLACK), (RED, RED), (UNSEEN, UNSEEN)])
def test_people_tracked_rightly_through_a_crossing_stay_as_they_are(looks) -> None:
    right, left = crossing(*looks)
    assert untangle([right, left]) == [right, left]


@pytest.mark.parametrize("looks", [(RED, BLACK), (RED, RED), (UNSEEN, UNSEEN)])
@pytest.mark.parametrize("at", [48, 50, 53])
def test_an_exchange_in_a_crossing_is_undone_also_of_people_dressed_alike(looks, at) -> None:
    right, left = crossing(*looks)
    paths = untangle(exchanged(right, left, at))
    assert len(paths) == 2
    for path in paths:
        own = right if any(path[0] is sighting for sighting in right) else left
        assert path[-1] is own[-1]
        # Where the boxes lie on each other either may be whose it is.
        assert len({*map(id, path)} - {*map(id, own)}) <= 5


def test_cues_that_contradict_each_other_cut_both_paths() -> None:
    # As if the two exchanged their coats behind each other's back: no reading is safe.
    right, left = crossing(RED, BLACK)
    coats = {True: RED, False: BLACK}
    turned = [
        tuple(s._replace(look=coats[(person is left) == (s.frame_index >= 50)]) for s in person)
        for person in (right, left)
    ]
    paths = untangle(turned)
    assert len(paths) == 4
    assert all(path[-1].frame_index < 56 or path[0].frame_index > 44 for path in paths)


def test_people_alike_who_walk_abreast_stay_as_tracked() -> None:
    near = walk(range(100), start_px=200, speed_px=6.4, look=RED, seed=1)
    far = walk(range(100), start_px=230, speed_px=6.4, look=RED, seed=2, y_px=80)
    assert untangle([near, far]) == [near, far]


def test_a_track_that_goes_over_to_somebody_without_a_track_is_cut() -> None:
    # The first is hidden for good, the second was hidden before; no path meets another.
    first = walk(range(50), start_px=200, speed_px=6.4, look=RED, seed=1)
    second = walk(range(50, 100), start_px=840, speed_px=-6.4, look=BLACK, seed=2)
    paths = untangle([first + second])
    assert len(paths) == 2
    assert abs(paths[1][0].frame_index - 50) <= 10  # windows are as long as 2 s


def test_a_walker_who_turns_on_the_heel_is_not_cut() -> None:
    there = walk(range(50), start_px=200, speed_px=6.4, look=RED, seed=1)
    back = walk(range(50, 100), start_px=840, speed_px=-6.4, look=RED, seed=2)
    assert len(untangle([there + back])) == 1


def test_a_person_hidden_for_a_second_is_one_person() -> None:
    whole = walk(range(100), start_px=200, speed_px=6.4, look=RED, seed=1)
    assert len(untangle([whole[:40], whole[65:]])) == 1


@pytest.mark.parametrize(
    ("look", "start_px", "speed_px"),
    [(BLACK, 200, 6.4), (RED, 1100, -6.4), (RED, -100, 6.4)],
    ids=["other clothes", "other direction", "other place"],
)
def test_pieces_of_two_people_are_not_joined(look, start_px, speed_px) -> None:
    before = walk(range(40), start_px=200, speed_px=6.4, look=RED, seed=1)
    after = walk(range(65, 100), start_px=start_px, speed_px=speed_px, look=look, seed=2)
    assert len(untangle([before, after])) == 2


def test_nobody_is_joined_when_two_could_go_on() -> None:
    before = walk(range(40), start_px=200, speed_px=6.4, look=RED, seed=1)
    one = walk(range(65, 100), start_px=205, speed_px=6.4, look=RED, seed=2)
    other = walk(range(65, 100), start_px=195, speed_px=6.4, look=RED, seed=3)
    assert len(untangle([before, one, other])) == 3


def test_the_gap_over_which_pieces_are_joined_has_a_limit() -> None:
    whole = walk(range(120), start_px=200, speed_px=6.4, look=RED, seed=1)
    assert len(untangle([whole[:40], whole[80:]], join_s=1.5)) == 2
    assert len(untangle([whole[:40], whole[80:]], join_s=2.0)) == 1


def test_who_leaves_the_image_and_comes_back_is_another_person() -> None:
    leaves = walk(range(20), start_px=930, speed_px=6.4, look=RED, seed=1)
    back = walk(range(45, 70), start_px=1058 + 6.4 * 55, speed_px=-6.4, look=RED, seed=2)
    # One path, as a tracker leaves it, and two.
    assert len(untangle([leaves + back])) == 2
    assert len(untangle([leaves, back])) == 2


@pytest.mark.parametrize(
    ("fps", "num_people"), [(25.0, 1), (float("nan"), 1), (50.0, 1), (12.5, 2)]
)
def test_times_are_in_seconds(fps: float, num_people: int) -> None:
    # 40 frames are 1.6 s of 25 frames a second, and more than the 2 s allowed at half the rate.
    speed_px = 6.4 * 25 / (fps if fps > 0 else 25)
    whole = walk(range(120), start_px=200, speed_px=speed_px, look=RED, seed=1)
    assert len(Untangler()([whole[:40], whole[80:]], fps)) == num_people


def test_equal_paths_give_equal_results() -> None:
    right, left = crossing(RED, BLACK)
    paths = exchanged(right, left, 50)
    assert untangle(paths) == untangle(paths)
