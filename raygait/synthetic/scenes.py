"""Clips to be refused: a scene without anybody, and one of a single pixel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray


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


def _write(
    path: Path, frames: Iterator[UInt8[ndarray, "h w 3"]], *, codec: str, pixel_format: str
) -> None:
    first = next(frames)
    # Written beside and renamed: a clip is there whole or not at all.
    temporary = path.with_name(f".tmp-{path.name}")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixel_format
        for image in (first, *frames):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=pixel_format
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    temporary.replace(path)
