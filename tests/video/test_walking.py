import numpy as np
import pytest

from raygait.synthetic.walkers import FPS, Walker, render
from raygait.video.alignment import align
from raygait.video.walking import is_walking

NUM_FRAMES = 75
FRAMES = np.arange(NUM_FRAMES, dtype=np.int32)
UNKNOWN = np.full((NUM_FRAMES, 4), np.nan, np.float32)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(boxes, np.float32)


def jittering(height_px: float, *, seed: int = 0) -> np.ndarray:
    """Who stands, by a detector whose boxes tremble by 2 % of the height."""
    noise = np.random.default_rng(seed).normal(0, 0.02 * height_px, (NUM_FRAMES, 4))
    box_px = np.array([300, 100, 300 + 0.4 * height_px, 100 + height_px])
    return (box_px + noise).astype(np.float32)


@pytest.mark.parametrize("view_deg", [0.0, 45.0, 90.0, 180.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_who_walks_on_a_treadmill_is_told_by_the_legs(seed: int, view_deg: float) -> None:
    clip = render(
        Walker.from_seed(seed),
        condition="nm-01",
        view_deg=view_deg,
        num_frames=NUM_FRAMES,
        in_place=True,
    )
    silhouettes = np.stack([align(mask) for mask in clip.masks])
    assert is_walking(UNKNOWN, FRAMES, FPS, silhouettes).mean() > 0.9
    assert not is_walking(UNKNOWN, FRAMES, FPS, silhouettes[:1].repeat(NUM_FRAMES, axis=0)).any()


@pytest.mark.parametrize("view_deg", [0.0, 45.0, 90.0, 180.0])
def test_who_comes_along_is_told_by_the_boxes_alone(view_deg: float) -> None:
    clip = render(Walker.from_seed(3), condition="nm-01", view_deg=view_deg, num_frames=NUM_FRAMES)
    boxes_px = boxes_of(clip.masks)
    assert is_walking(boxes_px, FRAMES, FPS).mean() > 0.9
    assert not is_walking(boxes_px[:1].repeat(NUM_FRAMES, axis=0), FRAMES, FPS).any()


@pytest.mark.parametrize("height_px", [60.0, 200.0, 900.0])
def test_boxes_that_only_tremble_stand(height_px: float) -> None:
    assert is_walking(jittering(height_px), FRAMES, FPS).mean() < 0.1


def test_who_stops_is_marked_from_there_on() -> None:
    across_px = np.concatenate([np.linspace(0, 240, 40), np.full(35, 240.0)])
    boxes_px = jittering(200.0)
    boxes_px[:, [0, 2]] += across_px[:, None].astype(np.float32)
    walks = is_walking(boxes_px, FRAMES, FPS)
    assert walks[:35].all()
    assert not walks[-20:].any()
    assert (np.diff(walks.astype(int)) != 0).sum() == 1


def test_time_counts_and_not_frames() -> None:
    """The same boxes at a tenth of the rate are of somebody who hardly moves."""
    boxes_px = np.tile(np.array([300, 100, 380, 300], np.float32), (NUM_FRAMES, 1))
    boxes_px[:, [0, 2]] += np.arange(NUM_FRAMES, dtype=np.float32)[:, None] * 5
    assert is_walking(boxes_px, FRAMES, 25.0).all()
    assert not is_walking(boxes_px, FRAMES, 2.5).any()
    assert not is_walking(boxes_px, 10 * FRAMES, 25.0).any()


def test_one_frame_and_no_frames_are_no_walk() -> None:
    for t in (0, 1):
        assert is_walking(UNKNOWN[:t], FRAMES[:t], FPS).tolist() == [False] * t
        assert is_walking(jittering(90.0)[:t], FRAMES[:t], float("nan")).tolist() == [False] * t
