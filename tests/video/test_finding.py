from pathlib import Path

import numpy as np
import pytest

from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings
from raygait.video.tracking import Track


def longest(path: Path, detect_every: int) -> Track:
    finder = PeopleFinder(VideoSettings(detector="ssd", detect_every=detect_every))
    return max(finder(path), key=len)


@pytest.mark.parametrize("detect_every", [2, 5])
def test_searching_some_frames_only_gives_nearly_the_same_boxes(
    walker_clip: Path, detect_every: int
) -> None:
    every, some = longest(walker_clip, 1), longest(walker_clip, detect_every)
    np.testing.assert_array_equal(np.diff(some.frame_indices), 1)
    assert len(some) >= len(every) - 3 * detect_every
    searched = ~np.isnan(some.scores)
    assert (some.frame_indices[searched] % detect_every == 0).all()
    both, at_every, at_some = np.intersect1d(
        every.frame_indices, some.frame_indices, return_indices=True
    )
    assert len(both) > 60
    heights_px = np.diff(every.boxes_px[at_every][:, 1::2], axis=1)
    off_ratio = np.abs(every.boxes_px[at_every] - some.boxes_px[at_some]) / heights_px
    assert np.median(off_ratio) < 0.03
