"""Decode a clip frame by frame: upright RGB images, their times, and errors that say what is wrong.

PyAV (FFmpeg's libraries) reads every container and codec in use; one frame is in memory at a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from jaxtyping import UInt8

from raygait.errors import FrameSizeRefused, Undecodable

_log = logging.getLogger(__name__)

MIN_FRAME_PX = 32
"""Smallest width and height: nobody can be told apart on less than half the aligned 64×64."""

MAX_FRAME_PX = 16384
"""Largest width and height: a header that claims more is damaged, and would exhaust memory."""


@dataclass(frozen=True)
class Frame:
    """One decoded image.

    Attributes:
        index: Position in the clip in the order of display, from 0.
        time_s: Time of display since the clip's first frame; NaN when neither the stream nor its
            frame rate says.
        image: RGB, upright (the container's rotation is applied).
    """

    index: int
    time_s: float
    image: UInt8[np.ndarray, "h w 3"]


class Video:
    """An open clip, to be read once from its first frame to its last; a context manager.

    Attributes:
        path: The file.
        fps: Mean frame rate; NaN when the stream does not say.
        width_px: Width of the upright image.
        height_px: Height of the upright image.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise Undecodable(f"{self.path}: no such file")
        if self.path.stat().st_size == 0:
            raise Undecodable(f"{self.path}: the file is empty (0 bytes), expected a video")
        try:
            self._container = av.open(str(self.path), mode="r")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise Undecodable(
                f"{self.path}: not a video that FFmpeg can read ({_said(error)})"
            ) from error
        try:
            self._frames = self._decode()
            self._first = next(self._frames)
        except BaseException:
            self._container.close()
            raise
        self.height_px, self.width_px = self._first.image.shape[:2]

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; frames already handed out stay valid."""
        self._frames.close()
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Yield every frame once, in order of display.

        Raises:
            FrameSizeRefused: The image size changes inside the clip.
        """
        yield self._first
        yield from self._frames

    def _decode(self) -> Generator[Frame, None, None]:
        if not self._container.streams.video:
            raise Undecodable(f"{self.path}: has no video stream")
        stream = self._container.streams.video[0]
        _check_size(self.path, stream.codec_context.width, stream.codec_context.height)
        # One actor owns one core; more decoders are started, not more threads.
        stream.codec_context.thread_count = 1
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else math.nan

        size: tuple[int, int] | None = None
        first_time_s: float | None = None
        index = num_damaged = 0
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except StopIteration:
                break
            except av.error.EOFError:
                break
            except av.error.FFmpegError as error:
                # A damaged packet costs its frames, not the clip; one with nothing else is refused.
                num_damaged += 1
                reason = _said(error)
                if num_damaged > 1000 and index == 0:
                    break
                continue
            for picture in decoded:
                _check_size(self.path, picture.width, picture.height)
                if size is not None and (picture.width, picture.height) != size:
                    raise FrameSizeRefused(
                        f"{self.path}: frame {index} is {picture.width}×{picture.height}, those "
                        f"before it {size[0]}×{size[1]}; cut the clip where its size changes"
                    )
                size = (picture.width, picture.height)
                time_s = index / self.fps if picture.time is None else float(picture.time)
                first_time_s = time_s if first_time_s is None else first_time_s
                yield Frame(index, time_s - first_time_s, _upright_rgb(picture))
                index += 1
        if index == 0:
            detail = f"{num_damaged} damaged packets, {reason}" if num_damaged else "no packets"
            raise Undecodable(f"{self.path}: not one frame can be decoded ({detail})")
        if num_damaged:
            _log.warning("%s: %d damaged packets skipped (%s)", self.path, num_damaged, reason)


def open_video(path: str | Path) -> Video:
    """Open a clip for streaming; use it in a `with` statement.

    Args:
        path: Any file FFmpeg can read.

    Returns:
        The open clip, its first frame already decoded.

    Raises:
        Undecodable: No such file, an empty one, not a video, or not one frame can be decoded.
        FrameSizeRefused: Width or height is outside `MIN_FRAME_PX` .. `MAX_FRAME_PX`.
    """
    return Video(path)


def _check_size(path: Path, width_px: int, height_px: int) -> None:
    # A stream may leave its size unsaid (0) until its first frame; that frame is checked too.
    known = [side for side in (width_px, height_px) if side > 0]
    if any(not MIN_FRAME_PX <= side <= MAX_FRAME_PX for side in known):
        raise FrameSizeRefused(
            f"{path}: frames are {width_px}×{height_px} px, expected both sides between "
            f"{MIN_FRAME_PX} and {MAX_FRAME_PX}"
        )


def _upright_rgb(picture: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    image = picture.to_ndarray(format="rgb24")
    # FFmpeg's display matrix in degrees counter-clockwise; phones write multiples of 90.
    quarter_turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
