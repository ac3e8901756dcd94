import fractions
import math
import struct
import wave
from pathlib import Path

import av
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


def test_frames_come_once_each_in_order(write_clip) -> None:
    path = write_clip("clip.mp4", [plain((20 * i, 0, 0)) for i in range(12)], fps=12.5)
    with open_video(path) as video:
        assert (video.fps, video.width_px, video.height_px) == (12.5, 96, 64)
        frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(12))
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
    with open_video(path) as video:
        assert (video.height_px, video.width_px) == expected.shape[:2]
        assert video.stored_size_px == image.shape[1::-1]


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


def test_a_clip_cut_off_in_the_middle_gives_the_frames_before_and_says_so(write_clip) -> None:
    rng = np.random.default_rng(2)
    noise = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(20)]
    path = write_clip("clip.avi", noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with open_video(path) as video:
        num_frames = len(list(video.frames()))
    assert 5 <= num_frames <= 15
    assert video.num_frames == num_frames
    assert video.num_damaged == 20 - num_frames
    assert f"about {20 - num_frames} of 20 frames lost" in video.damage


@pytest.mark.parametrize(
    "name", ["clip.mp4", "clip.avi", "clip.mkv", "clip.ts"], ids=["MP4", "AVI", "Matroska", "TS"]
)
def test_a_whole_clip_has_no_damage(write_clip, name: str) -> None:
    with open_video(write_clip(name, textures(40))) as video:
        assert [frame.index for frame in video.frames()] == list(range(40))
    assert (video.num_damaged, video.damage) == (0, "")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"], ids=["MP4", "Matroska"])
def test_bytes_overwritten_in_the_middle_cost_frames_that_are_counted(
    write_clip, name: str
) -> None:
    path = write_clip(name, textures(60))
    overwrite_the_middle(path)
    with open_video(path) as video:
        indices = [frame.index for frame in video.frames()]
    lost = 60 - len(indices)
    assert 3 <= lost < 30
    assert video.num_damaged == lost
    assert f"about {lost} of 60 frames lost, the others are used" in video.damage
    # The frames after the hole are where they were.
    assert indices[-1] == 59
    assert len(set(indices)) == len(indices)


def test_lost_frames_leave_a_hole_where_they_were(write_clip) -> None:
    path = write_clip("clip.mkv", [plain((4 * i, 0, 0)) for i in range(60)], codec="mpeg4")
    whole = {index: int(image[..., 0].mean()) for index, image in enumerate(decode(path))}
    overwrite_the_middle(path)
    with open_video(path) as video:
        after = [frame for frame in video.frames() if frame.index >= 50]
    assert len(after) == 10
    for frame in after:
        assert abs(int(frame.image[..., 0].mean()) - whole[frame.index]) <= 6


def test_uneven_times_are_no_damage_and_frames_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    rng = np.random.default_rng(4)
    times_ms = np.cumsum(rng.integers(11, 95, 60))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for time_ms, image in zip(times_ms.tolist(), textures(60), strict=True):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = time_ms, fractions.Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with open_video(path) as video:
        indices = [frame.index for frame in video.frames()]
    assert len(indices) == 60
    assert (np.diff(indices[10:]) == 1).mean() > 0.8
    assert video.damage == ""


def textures(num_frames: int) -> list[np.ndarray]:
    texture = np.random.default_rng(5).integers(0, 255, (64, 96, 3), np.uint8)
    return [np.roll(texture, 2 * index, axis=1) for index in range(num_frames)]


def overwrite_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    begin, end = len(content) // 3, len(content) // 3 + len(content) // 8
    content[begin:end] = bytes((7 * byte + 13) % 256 for byte in content[begin:end])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("list.mp4", "ffconcat version 1.0\nfile clip.mp4\n"),
        (
            "list.m3u8",
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\nclip.ts\n#EXT-X-ENDLIST\n",
        ),
    ],
    ids=["ffconcat", "ffconcat named mp4", "HLS"],
)
def test_a_list_of_other_files_is_refused(write_clip, tmp_path: Path, name, text) -> None:
    write_clip("clip.mp4", textures(10))
    write_clip("clip.ts", textures(10))
    (tmp_path / name).write_text(text)
    with pytest.raises(Undecodable, match="a list of other files"):
        open_video(tmp_path / name)


def test_a_name_that_looks_like_an_address_is_a_file(write_clip, tmp_path: Path) -> None:
    path = write_clip("clip.avi", textures(3)).rename(tmp_path / "concat:a.avi|b.avi")
    assert len(decode(path)) == 3


def test_a_relative_name_that_looks_like_an_address_is_a_file(
    write_clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip("clip.avi", textures(3)).rename(tmp_path / "data:a.avi")
    monkeypatch.chdir(tmp_path)
    assert len(decode(Path("data:a.avi"))) == 3


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
