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
        # The name of a picture and one ending more.
        ("1.png 2.png", "1.jpg.json 2.JPEG.json", "1.jpg.json 2.JPEG.json"),
        ("f1.png f12.png", "f12.png.txt f1.png_keypoints.txt", "f1.png_keypoints.txt f12.png.txt"),
        ("12.9.png 13.1.png", "12.9.bmp.json 13.1.bmp.json", "12.9.bmp.json 13.1.bmp.json"),
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
        ("m_12.1.png m_13.25.png", "p_12.10.json p_13.25.json", "p_12.10.json p_13.25.json"),
        # Of other seconds, in either list or in both.
        ("m_12.100.png m_13.300.png", "p_50.100.json p_51.300.json", "- -"),
        ("sil_100.50.png sil_100.75.png", "pose_200.50.json pose_200.75.json", "- -"),
        ("m_100.5.png m_100.7.png", "p_100.05.json p_100.7.json", "- p_100.7.json"),
        ("m_1.5.png m_2.6.png", "p_1.6.json p_2.5.json", "- -"),
        # Time stamps and counters.
        ("100.1.png 100.9.png", "0001.json 0009.json", "- -"),
        ("0001.png 0003.png", "100.1.json 101.3.json", "- -"),
        ("0999.png 1000.png", "12.0999_a.json 12.1000_a.json", "- -"),
        # Four digits out of six are no number; the first of five is a subject.
        ("0000.png 0001.png", "000012_x.json", "- -"),
        ("0001.png", "00001_090_00_0001_alphapose.json", "00001_090_00_0001_alphapose.json"),
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
