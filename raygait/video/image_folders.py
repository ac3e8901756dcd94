"""A folder of pictures, one a frame, read as a clip is: some data sets are distributed so."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import UInt8

from raygait.errors import FrameSizeRefused, Undecodable
from raygait.video.decode import (
    MAX_FRAME_AREA_PX2,
    Frame,
    Video,
    check_frame_size,
    open_video,
)
from raygait.video.frame_names import in_order

IMAGE_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp"))
"""Files that are taken for frames; case does not matter."""


class ImageFolder:
    """A folder of pictures of one size; what `decode.Video` is for a file.

    Ordered by the number that ends the name (`frame_names.in_order`). A number that is left out
    leaves a hole in the frames' positions, unless the numbers are so far apart that they are time
    stamps.

    Attributes:
        path: The folder.
        fps: NaN: a folder does not say.
        width_px: Width of the first picture.
        height_px: Height of the first picture.
        stored_size_px: The same, width first.
        num_frames: Frames handed out so far.
        num_damaged: After the last frame: pictures that could not be decoded.
        damage: After the last frame: one sentence about them; empty where there are none.

    Raises:
        Undecodable: No picture in it, the first cannot be decoded, or their order is not clear.
        FrameSizeRefused: Width or height is outside `decode`'s limits, or changes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.fps = math.nan
        self.num_frames = 0
        self.num_damaged = 0
        self.damage = ""
        self._paths = _picture_paths(self.path)
        first = _read(self._paths[0][1])
        if first is None:
            raise Undecodable(f"{self._paths[0][1]}: not a picture that can be decoded")
        self.height_px, self.width_px = first.shape[:2]
        self.stored_size_px = (self.width_px, self.height_px)

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open between two frames."""

    def frames(self) -> Iterator[Frame]:
        """The pictures in order, each once; RGB, one in memory at a time."""
        first = self._paths[0][0]
        for number, path in self._paths:
            image = _read(path)
            if image is None:
                self.num_damaged += 1
                self.damage = (
                    f"about {self.num_damaged} of {len(self._paths)} frames lost, the others are "
                    f"used (the last: {path.name} cannot be decoded)"
                )
                continue
            height_px, width_px = image.shape[:2]
            if (height_px, width_px) != (self.height_px, self.width_px):
                raise FrameSizeRefused(
                    f"{path}: {width_px}×{height_px} px, those before it {self.width_px}×"
                    f"{self.height_px}; the frames of a clip have one size"
                )
            self.num_frames += 1
            yield Frame(number - first, image)


def open_clip(path: str | Path) -> Video | ImageFolder:
    """Open a clip for streaming: a folder of pictures, or a file; use it in a `with` statement.

    Raises:
        Undecodable: `ImageFolder`, `decode.open_video`.
        FrameSizeRefused: `ImageFolder`, `decode.open_video`.
    """
    return ImageFolder(path) if Path(path).is_dir() else open_video(path)


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """One picture, RGB, as small as it may be; a person who is far away is cut to few pixels.

    Raises:
        Undecodable: Not a regular file, or not a picture that can be decoded.
        FrameSizeRefused: A larger one than any frame may be.
    """
    try:
        if not path.is_file():
            raise Undecodable(f"{path}: not a regular file, expected a picture")
        content = path.read_bytes()
        size_px = _claimed_size_px(content)
        if size_px is not None and math.prod(size_px) > MAX_FRAME_AREA_PX2:
            raise FrameSizeRefused(
                f"{path}: {size_px[0]}×{size_px[1]} px, expected at most "
                f"{MAX_FRAME_AREA_PX2 / 2**20:.0f} Mpx"
            )
        image = _decoded(content) if size_px is not None else None
    except (OSError, cv2.error) as error:
        raise Undecodable(f"{path}: not a picture that can be decoded ({error})") from error
    if image is None:
        raise Undecodable(f"{path}: not a picture that can be decoded ({len(content)} bytes)")
    return image


def _picture_paths(folder: Path) -> list[tuple[int, Path]]:
    try:
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")
        )
    except OSError as error:
        raise Undecodable(f"{folder}: no picture in it can be seen: {error.strerror}") from error
    for path in paths:
        if not path.is_file():
            raise Undecodable(f"{path}: not a regular file, expected a picture")
    if not paths:
        raise Undecodable(f"{folder}: no picture in it, expected one a frame (.jpg, .png, ...)")
    numbered = in_order(paths)
    # Time stamps are numbers too, and no positions: of such names only the order is taken.
    if numbered[-1][0] - numbered[0][0] > 10 * len(paths) + 100:
        return list(enumerate(path for _, path in numbered))
    return numbered


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"] | None:
    """RGB; None for what cannot be decoded. Its size is looked up before anything is decoded."""
    try:
        content = path.read_bytes()
        size_px = _claimed_size_px(content)
        if size_px is None:
            return None
        check_frame_size(path, *size_px)
        return _decoded(content)
    except (OSError, cv2.error):
        return None


def _decoded(content: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    rgb: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def _claimed_size_px(content: bytes) -> tuple[int, int] | None:
    """Width and height in the head of a PNG, JPEG or BMP; None for anything else."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) >= 24:
        width_px, height_px = struct.unpack_from(">II", content, 16)
        return width_px, height_px
    if content.startswith(b"BM") and len(content) >= 26:
        width_px, height_px = struct.unpack_from("<ii", content, 18)
        return width_px, abs(height_px)
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height_px, width_px = struct.unpack_from(">HH", content, place + 5)
            return width_px, height_px
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None
