import math
import struct
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.errors import FrameSizeRefused, Undecodable
from raygait.video.decode import open_video

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def plain(colour: tuple[int, int, int], height_px: int = 64, width_px: int = 96) -> np.ndarray:
    return np.full((height_px, width_px, 3), colour, np.uint8)


def decode(path: Path) -> list[np.ndarray]:
    with open_video(path) as video:
        return [frame.image for frame in video.frames()]


def test_frames_come_once_each_in_order_with_their_times(write_clip) -> None:
    path = write_clip("clip.mp4", [plain((20 * i, 0, 0)) for i in range(12)], fps=12.5)
    with open_video(path) as video:
        assert (video.fps, video.width_px, video.height_px) == (12.5, 96, 64)
        frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 12.5 for i in range(12)])
    reds = [int(frame.image[..., 0].mean()) for frame in frames]
    assert reds == sorted(reds)


def test_images_are_rgb_and_outlive_the_video(write_clip) -> None:
    path = write_clip("clip.mp4", [plain(RED), plain(GREEN), plain(BLUE)])
    images = decode(path)
    assert [int(image.mean(axis=(0, 1)).argmax()) for image in images] == [0, 1, 2]
    assert all(image.dtype == np.uint8 and image.shape == (64, 96, 3) for image in images)


@pytest.mark.parametrize(
    ("degrees", "quarter_turns"),
    [(0, 0), (90, 3), (180, 2), (270, 1)],
    ids=["upright", "phone turned right", "upside down", "phone turned left"],
)
def test_the_rotation_in_an_mp4_header_is_applied(
    write_clip, degrees: int, quarter_turns: int
) -> None:
    image = plain(RED)
    image[:32, :48] = BLUE  # top left
    path = write_clip("clip.mp4", [image] * 3)
    set_mp4_rotation(path, degrees)
    decoded = decode(path)[0]
    expected = np.rot90(image, quarter_turns)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 12


def set_mp4_rotation(path: Path, degrees: int) -> None:
    """Write the clockwise display rotation into the track header's matrix (ISO 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    cos, sin = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    content[header + 40 : header + 76] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"This is a shopping list: milk, bread, a camera.\n" * 20, "not a video"),
        ("noise.avi", np.random.default_rng(1).bytes(4096), "not a video"),
    ],
    ids=["empty file", "text named mp4", "random bytes named avi"],
)
def test_what_is_no_video_is_undecodable_with_its_path(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Undecodable, match=message) as caught:
        open_video(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_undecodable(tmp_path: Path) -> None:
    with pytest.raises(Undecodable, match="no such file"):
        open_video(tmp_path / "nowhere.mp4")


def test_a_sound_file_has_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(Undecodable, match="no video stream"):
        open_video(path)


def test_a_header_without_pictures_is_undecodable(write_clip) -> None:
    path = write_clip("clip.avi", [plain(RED)] * 5)
    content = bytearray(path.read_bytes())
    first = content.index(b"movi") + 4
    content[first:] = bytes(len(content) - first)
    path.write_bytes(content)
    with pytest.raises(Undecodable, match="not one frame"):
        open_video(path)


def test_a_clip_cut_off_in_the_middle_gives_the_frames_before(write_clip) -> None:
    rng = np.random.default_rng(2)
    noise = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(20)]
    path = write_clip("clip.avi", noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 5 <= len(decode(path)) <= 15


@pytest.mark.parametrize(
    ("height_px", "width_px"), [(1, 1), (64, 16), (16, 64)], ids=["1x1", "narrow", "low"]
)
def test_frames_too_small_to_show_a_person_are_refused(
    write_clip, height_px: int, width_px: int
) -> None:
    path = write_clip("clip.avi", [plain(RED, height_px, width_px)] * 3, codec="png")
    with pytest.raises(FrameSizeRefused, match=f"{width_px}×{height_px}"):
        open_video(path)


def test_a_size_that_changes_inside_the_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mjpeg"
    pictures = [
        cv2.imencode(".jpg", plain(RED, *size))[1] for size in ((64, 96), (64, 96), (96, 64))
    ]
    path.write_bytes(b"".join(picture.tobytes() for picture in pictures))
    with pytest.raises(FrameSizeRefused, match="frame 2 is 64×96"):
        decode(path)
