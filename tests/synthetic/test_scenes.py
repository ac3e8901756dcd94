"""Written clips: there whole or not at all, and read back with their truth."""

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest

from raygait.datasets import videos
from raygait.synthetic import scenes
from raygait.synthetic.casiab_tree import walker_of
from raygait.synthetic.street import Passer, Street, crowd, street_camera
from raygait.synthetic.truth import StreetTruth


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


def test_a_written_crowd_is_read_back_with_its_truth(tmp_path: Path) -> None:
    scene = crowd(3, width_px=480, height_px=270, num_frames=12)
    written = scenes.write_street(scene, tmp_path / "crowd.mp4")
    read = StreetTruth.load(tmp_path / "crowd.truth.npz")
    for field in dataclasses.fields(read):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(written, field.name))
    with av.open(str(tmp_path / "crowd.mp4")) as container:
        assert container.streams.video[0].average_rate == 25
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = list(scene.frames())
    assert len(images) == len(frames) == len(read) == 12
    for index, (image, frame) in enumerate(zip(images, frames, strict=True)):
        assert np.abs(image.astype(int) - frame.image).mean() < 6  # lossy, and noise goes first
        np.testing.assert_array_equal(read.labels(index), frame.labels)
        for k, person in enumerate(frame.people):
            np.testing.assert_array_equal(read.joints[index, k], person.joints)
            np.testing.assert_array_equal(read.boxes_px[index, k], person.box_px)
            np.testing.assert_array_equal(read.visible_boxes_px[index, k], person.visible_box_px)
    assert list(read.conditions) == ["nm-01", "bg-01", "cl-01", "nm-02", "bg-02", "cl-02"]
    assert list(read.seeds) == ["3000", "3001", "3002", "3003", "3004", "3005"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crowd.mp4", "crowd.truth.npz"]


def test_a_walker_of_a_tree_has_a_seed_too_long_for_a_word_and_walks_in_a_street(
    tmp_path: Path,
) -> None:
    walker = walker_of(0, 1)
    assert walker.seed >= 2**64
    passer = Passer(walker, "nm-01", ((-1.0, 0.0), (1.0, 0.0)))
    street = Street(street_camera(320, 180), (passer,), num_frames=2)
    scenes.write_street(street, tmp_path / "one.mp4")
    (seed,) = StreetTruth.load(tmp_path / "one.truth.npz").seeds
    assert int(seed) == walker.seed


def test_a_truth_of_another_format_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", format_version=99)
    with pytest.raises(ValueError, match="truth format 99, expected 2"):
        StreetTruth.load(tmp_path / "old.npz")


def test_a_clip_of_odd_sides_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    scene = crowd(3, width_px=481, height_px=270, num_frames=2)
    with pytest.raises(ValueError, match="even sides, got 481x270"):
        scenes.write_street(scene, tmp_path / "crowd.mp4")
    assert not list(tmp_path.iterdir())
