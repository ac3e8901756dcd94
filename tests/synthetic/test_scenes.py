"""Clips to be refused: there whole or not at all."""

from pathlib import Path

import pytest

from raygait.datasets import videos
from raygait.synthetic import scenes


def test_a_clip_that_is_being_written_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.write_one_pixel(tmp_path / "pixel.avi", num_frames=2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_empty_scene(tmp_path / "scene.mp4", num_frames=2)
    assert len(list(tmp_path.iterdir())) == 2
    assert [s.source for s in videos.index(tmp_path)] == ["pixel.avi"]
