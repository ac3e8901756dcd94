"""Which files show the same frames."""

from pathlib import Path

import pytest

from raygait.errors import Undecodable
from raygait.video.frame_names import match


def paths(*names: str, folder: str = "masks") -> list[Path]:
    return [Path(folder, name) for name in names]


@pytest.mark.parametrize(
    ("frames", "files", "expected"),
    [
        # Gait3D: one name, two endings.
        ("f8.png f12.png", "f12.txt f8.txt", "f8.txt f12.txt"),
        # GREW: a last word.
        ("00001.png 00002.png", "00001_2d_pose.txt 00002_2d_pose.txt", "00001_2d_pose.txt *"),
        # OpenPose's names.
        ("0001.png 0002.png", "0002_keypoints.json", "- 0002_keypoints.json"),
        # Zeros before a number do not count, in frames of three and four digits alike.
        ("999.png 1000.png", "0999.json 1000.json", "0999.json 1000.json"),
        # Another text before the number.
        ("001-nm-01-090-007.png", "frame7.json", "frame7.json"),
        # The number is not at the end.
        ("0007.png 0008.png", "0008_rendered.json 0007_rendered.json", "0007_rendered.json *"),
        # Time stamps.
        ("12.09.png 12.9.png", "12.9.json 12.09.json", "12.09.json 12.9.json"),
        # A name that is shared goes before numbers that are.
        ("a1.png b1.png", "b1.json", "- b1.json"),
        # Neither.
        ("a.png b.png", "c.json", "- -"),
        # Two masks of one number, and so no number at all.
        ("a1.png b1.png", "c1.json", "- -"),
    ],
)
def test_a_frame_finds_its_file(frames: str, files: str, expected: str) -> None:
    masks = paths(*frames.split())
    found = match(masks, paths(*files.split(), folder="poses"))
    names = [found.by_frame[mask].name if mask in found.by_frame else "-" for mask in masks]
    wanted = expected.split()
    assert [name for name, want in zip(names, wanted, strict=True) if want != "*"] == [
        want for want in wanted if want != "*"
    ]
    assert len(found.by_frame) + len(found.alone) == len(files.split())


def test_two_files_of_one_frame_are_refused() -> None:
    with pytest.raises(Undecodable, match=r"f001.json: of the frame of f0001.json"):
        match(paths("f1.png"), paths("f001.json", "f0001.json"))
