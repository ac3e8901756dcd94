"""A folder of pictures is read as the clip that it was."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.errors import FrameSizeRefused, Undecodable
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.finding import PeopleFinder
from raygait.video.image_folders import ImageFolder, open_clip
from raygait.video.settings import VideoSettings


def write(folder: Path, names: list[str], images: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(str(folder / name), image[..., ::-1])
    return folder


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)


def test_pictures_come_in_the_order_of_their_numbers_in_rgb(
    images: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path, ["f10.png", "f9.png", "f8.png", "f12.png"], images)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".f1.png").write_bytes(b"")
    with open_clip(tmp_path) as clip:
        frames = list(clip.frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 4]  # 11 is not there
    assert (np.stack([frame.image for frame in frames]) == images[[2, 1, 0, 3]]).all()
    assert (clip.width_px, clip.height_px, clip.num_frames) == (64, 48, 4)
    assert np.isnan(clip.fps)


@pytest.mark.parametrize(
    "names",
    [
        ("16605500", "16605100", "16605900", "16605400"),
        ("99900", "99500", "100300", "99800"),
        ("f_1000", "f_0", "f_1200", "f_200"),
        ("13.0", "12.8", "13.1", "12.9"),
        ("t10.050", "t9.950", "t10.100", "t10.000"),
        ("10.05", "9.95", "10.10", "10.00"),
        ("13.0", "12.8", "13.1", "12.85"),
        ("13", "12.8", "13.1", "12.85"),
        ("0.12", "0.04", "1.2", "0.08"),
        ("t1.1", "t0.95", "t1.15", "t1.05"),
        ("1660550000.625", "1660549999", "1660550001.25", "1660550000.5"),
    ],
)
def test_time_stamps_give_an_order_and_no_holes(
    names: tuple[str, ...], images: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path, [f"{name}.png" for name in names], images)
    with ImageFolder(tmp_path) as clip:
        frames = list(clip.frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert (np.stack([frame.image for frame in frames]) == images[[1, 3, 0, 2]]).all()


def test_where_no_name_has_a_number_the_order_is_that_of_the_names(
    images: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path, ["b.png", "d.png", "a.png", "c.png"], images)
    with ImageFolder(tmp_path) as clip:
        frames = list(clip.frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert (np.stack([frame.image for frame in frames]) == images[[2, 0, 3, 1]]).all()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("1.png", "2.png", "12.png", "cover.png"), r"cover\.png: .*frame number"),
        (("1.png", "2.png", "12.png", "2.bmp"), "frame 2, and so is 2.bmp"),
        (("a1.png", "a2.png", "b1.png", "b2.png"), "frame 1, and so is a1.png"),
        (
            ("1.8.png", "1.9.png", "1.10.png", "2.1.png"),
            r"1\.10\.png and 1\.8\.png: .* as many decimals",
        ),
        (
            ("1.1.png", "1.2.png", "1.12.png", "2.png"),
            r"1\.12\.png and 1\.2\.png: .* as many decimals",
        ),
        (("1.8.png", "1.80.png", "2.1.png", "2.2.png"), r"frame 1\.80, and so is 1\.8\.png"),
        (("12.8.png", "12.9.png", "13.0.png", "x13.1.png"), "after different texts"),
    ],
)
def test_pictures_without_a_clear_order_are_refused(
    names: tuple[str, ...], expected: str, images: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path, list(names), images)
    with pytest.raises(Undecodable, match=expected):
        ImageFolder(tmp_path)


def test_a_broken_picture_is_told_and_the_others_are_used(
    images: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path, ["1.png", "2.png", "3.png", "4.png"], images)
    (tmp_path / "3.png").write_bytes(b"broken")
    with ImageFolder(tmp_path) as clip:
        assert [frame.index for frame in clip.frames()] == [0, 1, 3]
    assert clip.num_damaged == 1
    assert "3.png" in clip.damage


def test_pictures_of_two_sizes_are_refused(images: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path, ["1.png", "2.png", "3.png", "4.png"], images)
    write(tmp_path, ["5.png"], images[:1, :40])
    with ImageFolder(tmp_path) as clip, pytest.raises(FrameSizeRefused, match="one size"):
        list(clip.frames())


def test_a_head_that_claims_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    png = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "1.png").write_bytes(png[:16] + b"\x00\x00\x40\x00" * 2 + png[24:])
    with pytest.raises(FrameSizeRefused, match="256 Mpx"):
        open_clip(tmp_path)


@pytest.mark.parametrize("ending", ["jpg", "bmp", "png", "JPEG"])
def test_pictures_of_every_kind_are_read(ending: str, tmp_path: Path) -> None:
    image = np.full((48, 64, 3), (200, 100, 50), np.uint8)
    write(tmp_path, [f"1.{ending}"], image[None])
    with open_clip(tmp_path) as clip:
        [frame] = clip.frames()
    assert np.abs(frame.image.astype(int) - image).max() < 4


@pytest.mark.parametrize("content", [None, b"broken"])
def test_a_folder_without_a_picture_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "1.jpg").write_bytes(content)
    with pytest.raises(Undecodable):
        open_clip(tmp_path)


def test_people_are_found_in_pictures_as_in_a_clip(tmp_path: Path) -> None:
    masks = render_masks(Walker.from_seed(1), condition="nm-01", view_deg=90, num_frames=40)
    texture = np.random.default_rng(0).integers(70, 110, masks.shape[1:], np.uint8)
    masks = np.concatenate([np.zeros_like(masks[:12]), masks])
    pictures = np.repeat(np.where(masks > 127, np.uint8(210), texture)[..., None], 3, axis=-1)
    folder = write(tmp_path, [f"{n}.png" for n in range(len(pictures))], pictures)
    [track] = PeopleFinder(VideoSettings(detector="motion", mask="background"))(folder)
    assert len(track) > 20
