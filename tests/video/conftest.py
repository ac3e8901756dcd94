"""Clips for the tests of `raygait.video`: small ones written here, real ones fetched as assets."""

import fractions
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from raygait.assets import asset
from raygait.video.decode import Frame, open_video

WriteClip = Callable[..., Path]


def write(
    path: Path, images: Iterable[np.ndarray], *, fps: float = 25, codec: str = "mpeg4"
) -> Path:
    with av.open(str(path), "w") as container:
        stream = None
        for image in images:
            if stream is None:
                rate = fractions.Fraction(fps).limit_denominator(1000)
                stream = container.add_stream(codec, rate=rate)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p" if codec == "mpeg4" else "rgb24"
                if codec == "mpeg4":
                    stream.bit_rate = 8_000_000
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode())
    return path


@pytest.fixture
def write_clip(tmp_path: Path) -> WriteClip:
    def write_below_tmp(name: str, images: Iterable[np.ndarray], **options: object) -> Path:
        return write(tmp_path / name, images, **options)  # type: ignore[arg-type]

    return write_below_tmp


def read_frame(path: Path, index: int) -> Frame:
    with open_video(path) as video:
        return next(frame for frame in video.frames() if frame.index == index)


@pytest.fixture(scope="session")
def sports2d_frame() -> np.ndarray:
    """Frame 60 of the Sports2D clip: one walker in side view, feet at about (1400, 940)."""
    return read_frame(asset("sports2d-demo"), 60).image


@pytest.fixture(scope="session")
def vtest_clip(samples_dir: Path) -> Path:
    return samples_dir / "video" / "vtest.avi"


@pytest.fixture(scope="session")
def vtest_start(vtest_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 frames of vtest.avi, so that a test of the whole chain takes seconds."""
    with open_video(vtest_clip) as video:
        images = (frame.image for frame in itertools.islice(video.frames(), 40))
        return write(tmp_path_factory.mktemp("vtest") / "start.mp4", images, fps=10)


@pytest.fixture(scope="session")
def texture_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty frames of a still texture: nobody is there."""
    texture = np.random.default_rng(0).integers(0, 255, (15, 20, 3), np.uint8)
    image = np.kron(texture, np.ones((16, 16, 1), np.uint8))
    return write(tmp_path_factory.mktemp("texture") / "texture.mp4", [image] * 30)


@pytest.fixture(scope="session")
def walker_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 60 to 149 of the Sports2D clip at half its size: one walker in full view."""
    with open_video(asset("sports2d-demo")) as video:
        images = (
            cv2.resize(frame.image, (884, 496), interpolation=cv2.INTER_AREA)
            for frame in itertools.islice(video.frames(), 60, 150)
        )
        return write(tmp_path_factory.mktemp("walker") / "walker.mp4", images, fps=30)


@pytest.fixture(scope="session")
def treadmill_frame() -> np.ndarray:
    """Frame 0 of a Pose2Sim clip: a man in the middle, seen from behind, 1080×1920."""
    return read_frame(asset("pose2sim-single-cam03"), 0).image


@pytest.fixture(scope="session")
def street_frame(vtest_clip: Path) -> np.ndarray:
    """Frame 100 of vtest.avi: nine people of 65 to 100 px."""
    return read_frame(vtest_clip, 100).image


def moving_block(num_frames: int, *, step_px: int = 4) -> Iterator[np.ndarray]:
    """A dark upright block that crosses a still, textured scene of 320×240 from frame 10 on."""
    texture = np.random.default_rng(3).integers(100, 200, (30, 40, 3), np.uint8)
    scene = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    for index in range(num_frames):
        image = scene.copy()
        if index >= 10:
            left = 20 + step_px * (index - 10)
            image[80:180, left : left + 40] = 10
        yield image


@pytest.fixture
def moving_block_images() -> list[np.ndarray]:
    return list(moving_block(40))
