"""Write clips: crowds with the truth beside them, and clips to be refused.

The latter are a scene without anybody, and one of a single pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from raygait.synthetic.street import Street
from raygait.synthetic.truth import StreetTruth, TruthRecorder


def write_empty_scene(
    path: Path, *, width_px: int = 640, height_px: int = 360, num_frames: int = 50, seed: int = 0
) -> None:
    """Write a clip of a textured place where nobody is, with a camera's noise.

    Args:
        path: Where to; the extension decides the container.
        width_px: Width of a frame, even.
        height_px: Height of a frame, even.
        num_frames: Length at 25 frames a second.
        seed: Everything in it follows from it.
    """
    generator = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    coarse = generator.integers(60, 200, (9, 16, 3), dtype=np.uint8)
    scene = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC)

    def frames() -> Iterator[UInt8[ndarray, "h w 3"]]:
        for _ in range(num_frames):
            noise = generator.normal(0, 4, scene.shape)
            yield np.clip(scene + noise, 0, 255).astype(np.uint8)

    _write(path, frames(), codec="mpeg4", pixel_format="yuv420p")


def write_one_pixel(path: Path, *, num_frames: int = 10) -> None:
    """Write a clip whose frames are one pixel: decodable, and of no use."""
    frames = (np.full((1, 1, 3), 20 * number % 256, dtype=np.uint8) for number in range(num_frames))
    _write(path, frames, codec="ffv1", pixel_format="bgr0")


def write_street(street: Street, path: Path) -> StreetTruth:
    """Write a scene as a clip, and `<stem>.truth.npz` beside it.

    H.264 where the build of FFmpeg has an encoder for it, else MPEG-4 at a high bit rate; both
    lose a little, so that decoded pixels are near but not equal to those of `Street.frames`.

    Args:
        street: The scene; its sides are even.
        path: Of the clip; the extension decides the container.

    Returns:
        What was written beside it.

    Raises:
        ValueError: A side of the image is odd, or a path as `Street.frames` refuses it.
    """
    width_px, height_px = street.camera.width_px, street.camera.height_px
    if width_px % 2 or height_px % 2:
        raise ValueError(f"a clip has even sides, got {width_px}x{height_px}")
    recorder = TruthRecorder(street)

    def images() -> Iterator[UInt8[ndarray, "h w 3"]]:
        for frame in street.frames():
            recorder.add(frame)
            yield frame.image

    if "libx264" in av.codecs_available:
        codec, options = "libx264", {"crf": "18", "preset": "veryfast"}
    else:
        codec, options = "mpeg4", {"b": str(20 * width_px * height_px)}
    _write(path, images(), codec=codec, pixel_format="yuv420p", fps=street.fps, options=options)
    truth = recorder.truth()
    truth.save(path.with_suffix(".truth.npz"))
    return truth


def _write(
    path: Path,
    frames: Iterator[UInt8[ndarray, "h w 3"]],
    *,
    codec: str,
    pixel_format: str,
    fps: float = 25.0,
    options: dict[str, str] | None = None,
) -> None:
    first = next(frames)
    # Written beside and renamed: a clip is there whole or not at all.
    temporary = path.with_name(f".tmp-{path.name}")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixel_format
        for image in itertools.chain((first,), frames):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=pixel_format
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    temporary.replace(path)
