"""4K and 8K, an hour, false claims in headers: memory stays bounded, measured in a new process."""

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from raygait.errors import FrameSizeRefused
from raygait.video.decode import open_video
from raygait.video.pose import Window
from raygait.video.segmentation import BackgroundMasks

_MEASURE = """
import json, sys
import cv2
from raygait.errors import VideoError
from raygait.video.decode import open_video
from raygait.video.extraction import PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings

def peak_mb():
    with open("/proc/self/status") as file:  # ru_maxrss would count the parent too
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))

what, fields, *paths = sys.argv[1:]
cv2.setNumThreads(1)  # as the workers of `ingest` do
settings = VideoSettings(**json.loads(fields))
find, describe = PeopleFinder(settings), PeopleDescriber(settings)
before_mb = peak_mb()
for path in paths:
    said = {"error": "", "num_frames": 0, "num_sequences": 0}
    try:
        if what == "decode":
            with open_video(path) as video:
                said["num_frames"] = sum(1 for _ in video.frames())
        else:
            tracks = find(path)
            if what == "describe":
                said["num_sequences"] = len(describe(path, tracks)[0])
    except VideoError as error:
        said["error"] = error.reason
    print(json.dumps({**said, "before_mb": before_mb, "peak_mb": peak_mb()}))
"""


def measure(what: str, *paths: Path, **fields: object) -> list[dict[str, float]]:
    """What came of each clip in one process that decodes, finds or describes; peaks in MiB."""
    options = json.dumps(
        {
            "detector": "motion",
            "mask": "background",
            "pose": "none",
            "modalities": ["silhouettes", "rgb"],
            "min_frames": 8,
        }
        | fields
    )
    command = [sys.executable, "-c", _MEASURE, what, options, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def write(
    path: Path, images: Iterator[np.ndarray], *, codec: str = "mpeg4", pix_fmt: str = "yuv420p"
) -> Path:
    with av.open(str(path), "w") as container:
        stream = None
        for image in images:
            if stream is None:
                stream = container.add_stream(codec, rate=25)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.bit_rate = 8_000_000
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode())
    return path


def crossing(num_frames: int, height_px: int, width_px: int) -> Iterator[np.ndarray]:
    """A dark block, a third of the height, crosses a texture from frame 10 on; 320×240 enlarged."""
    texture = np.random.default_rng(3).integers(100, 200, (30, 40, 3), np.uint8)
    scene = cv2.resize(texture, (width_px, height_px), interpolation=cv2.INTER_NEAREST)
    unit = height_px / 240
    for index in range(num_frames):
        image = scene.copy()
        if index >= 10:
            left, top = (round(unit * (20 + 8 * (index - 10))), round(unit * 80))
            image[top : top + round(unit * 100), left : left + round(unit * 40)] = 10
        yield image


SIZES_PX = {"1080p": (1080, 1920), "4K": (2160, 3840), "8K": (4320, 7680)}


@pytest.mark.parametrize(
    ("size", "limit_mb"),
    [("4K", 1000), pytest.param("8K", 1500, marks=pytest.mark.slow)],
)
def test_masks_of_the_background_of_a_large_clip_take_bounded_memory(
    tmp_path: Path, size: str, limit_mb: int
) -> None:
    path = write(tmp_path / "large.mp4", crossing(26, *SIZES_PX[size]))
    (said,) = measure("describe", path)
    assert said["num_sequences"] == 1
    assert said["peak_mb"] < limit_mb


@pytest.mark.slow
@pytest.mark.parametrize(("size", "limit_mb"), [("4K", 1000), ("8K", 1500)])
def test_people_of_a_large_clip_take_bounded_memory(
    walker_clip: Path, tmp_path: Path, size: str, limit_mb: int
) -> None:
    height_px, width_px = SIZES_PX[size]
    with open_video(walker_clip) as video:
        images = (
            cv2.resize(frame.image, (width_px, height_px))
            for frame, _ in zip(video.frames(), range(24), strict=False)
        )
        path = write(tmp_path / "large.mp4", images, codec="libx264")
    (said,) = measure("describe", path, detector="ssd", mask="blazepose", pose="blazepose")
    assert said["num_sequences"] >= 1
    assert said["peak_mb"] < limit_mb


def test_a_mask_that_was_made_at_a_smaller_size_lies_on_the_person(tmp_path: Path) -> None:
    images = list(crossing(26, *SIZES_PX["4K"]))
    masks = BackgroundMasks(write(tmp_path / "large.mp4", iter(images)))
    for image in images:
        masks.advance(image)
    # At frame 25 the block's columns are 1260 to 1620, its rows 720 to 1620.
    square = Window(941, 671, 1001, 1001)
    mask = masks.mask(square)
    assert mask.shape == (256, 256)
    scale = 1001 / 256
    rows, columns = np.flatnonzero(mask.mean(axis=1) > 0.1), np.flatnonzero(mask.mean(axis=0) > 0.1)
    edges_px = [671 + scale * rows[0], 671 + scale * (rows[-1] + 1)]
    edges_px += [941 + scale * columns[0], 941 + scale * (columns[-1] + 1)]
    assert np.abs(np.array(edges_px) - (720, 1620, 1260, 1620)).max() < 10
    assert mask[rows[0] : rows[-1], columns[0] : columns[-1]].mean() > 0.97


# Claims


def claim_in_avi(path: Path, width_px: int, height_px: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<2i", content, content.index(b"strf") + 12, width_px, height_px)
    struct.pack_into("<2I", content, content.index(b"avih") + 40, width_px, height_px)
    path.write_bytes(content)


# Codecs whose pictures have a size of their own go by that, the others by the header's.
SIZED = (("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p"), ("png", "rgb24"))
UNSIZED = (
    ("rawvideo", "bgr24"),
    ("ffv1", "yuv420p"),
    ("huffyuv", "yuv422p"),
    ("utvideo", "yuv420p"),
)


@pytest.mark.parametrize("side_px", [9000, 16000, 20000, 60000])
def test_a_size_that_only_a_header_claims_is_not_allocated(tmp_path: Path, side_px: int) -> None:
    paths = []
    for codec, pix_fmt in (*SIZED, *UNSIZED):
        images = iter([np.full((64, 96, 3), 90, np.uint8)] * 3)
        paths.append(write(tmp_path / f"{codec}.avi", images, codec=codec, pix_fmt=pix_fmt))
        claim_in_avi(paths[-1], side_px, side_px)
    said = measure("decode", *paths)
    assert said[-1]["peak_mb"] - said[-1]["before_mb"] < 50
    assert [one["num_frames"] > 0 for one in said] == [True] * len(SIZED) + [False] * len(UNSIZED)
    assert {one["error"] for one in said[len(SIZED) :]} == {"frame-size"}


def patch_all(content: bytes, mark: bytes, patch: Callable[[bytearray, int], None]) -> bytes:
    patched, place = bytearray(content), content.find(mark)
    assert place >= 0
    while place >= 0:
        patch(patched, place)
        place = content.find(mark, place + 1)
    return bytes(patched)


def test_a_size_that_pictures_inside_the_clip_claim_is_not_allocated(tmp_path: Path) -> None:
    images = [np.full((64, 96, 3), 90, np.uint8)] * 3

    def claim_in_jpeg(content: bytearray, place: int) -> None:
        struct.pack_into(">2H", content, place + 5, 16000, 16000)

    def claim_in_png(content: bytearray, place: int) -> None:
        struct.pack_into(">2I", content, place + 4, 16000, 16000)
        checksum = zlib.crc32(bytes(content[place : place + 17]))
        struct.pack_into(">I", content, place + 17, checksum)

    jpeg = write(tmp_path / "jpeg.avi", iter(images), codec="mjpeg", pix_fmt="yuvj420p")
    jpeg.write_bytes(patch_all(jpeg.read_bytes(), b"\xff\xc0", claim_in_jpeg))
    png = write(tmp_path / "png.avi", iter(images), codec="png", pix_fmt="rgb24")
    png.write_bytes(patch_all(png.read_bytes(), b"IHDR", claim_in_png))
    for said in measure("decode", jpeg, png):
        assert said["error"] in ("undecodable", "frame-size")
        assert said["peak_mb"] - said["before_mb"] < 50


def test_the_refusal_of_a_large_frame_tells_its_size_and_the_limit(tmp_path: Path) -> None:
    path = write(
        tmp_path / "u.avi", iter([np.full((64, 96, 3), 90, np.uint8)] * 3), codec="utvideo"
    )
    claim_in_avi(path, 16000, 8000)
    with pytest.raises(FrameSizeRefused, match="16000×8000 px, 122 Mpx, expected at most 64 Mpx"):
        open_video(path)


# Length


def plain_frames(num_frames: int, height_px: int, width_px: int) -> Iterator[np.ndarray]:
    """A bright block walks to and fro before a grey wall."""
    for index in range(num_frames):
        image = np.full((height_px, width_px, 3), 90, np.uint8)
        left = abs((index // 2) % (2 * (width_px - 12)) - (width_px - 12))
        if index % 900 > 60:  # and is away now and then
            image[height_px // 4 : 3 * height_px // 4, left : left + 10] = 220
        yield image


@pytest.mark.parametrize(
    "num_frames", [3_000, pytest.param(90_000, marks=pytest.mark.slow)], ids=["2 min", "1 h"]
)
@pytest.mark.parametrize("what", ["decode", "find"])
def test_memory_does_not_grow_with_the_length_of_a_clip(
    tmp_path: Path, what: str, num_frames: int
) -> None:
    short = write(tmp_path / "short.mp4", plain_frames(num_frames // 10, 48, 64))
    long = write(tmp_path / "long.mp4", plain_frames(num_frames, 48, 64))
    of_short, of_long = measure(what, short, long)
    if what == "decode":
        assert (of_short["num_frames"], of_long["num_frames"]) == (num_frames // 10, num_frames)
    assert of_long["error"] == of_short["error"] == ""
    # Boxes of the people in view stay, about 1 kB a frame; an image of 9 kB does not.
    assert of_long["peak_mb"] - of_short["peak_mb"] < 10 + num_frames / 1000
