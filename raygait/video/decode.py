"""Decode a clip frame by frame: upright RGB images, and errors that say what is wrong.

PyAV (FFmpeg's libraries) reads every container and codec in use; one frame is in memory at a time.

What a frame becomes, so that a person has one shape whatever the camera wrote:

- The container's rotation and mirroring are applied.
- Pixels that are not square (DV, HDV, broadcast) are made so by stretching the shorter way: gait is
  read from proportions. A file that does not say its pixels' shape is taken to have square ones.
- Of an interlaced frame one field stays, and the rows between are filled in: the two fields show
  different moments, and legs would have combs for edges.
- Matrix (BT.601, BT.709, BT.2020) and range are those the file says, BT.601 and limited where it
  says none. Alpha is dropped. High dynamic range is not tone-mapped: such clips look flat.
"""

from __future__ import annotations

import fractions
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.format import Flags
from av.stream import Disposition
from jaxtyping import UInt8

from raygait.errors import FrameSizeRefused, Undecodable

MIN_FRAME_PX = 32
"""Smallest width and height: nobody can be told apart on less than half the aligned 64×64."""

MAX_FRAME_PX = 16384
"""Largest width and height: a header that claims more is damaged, and would exhaust memory."""

MAX_FRAME_AREA_PX2 = 2**26
"""Largest width times height, twice that of 8K: a frame of it takes 0.2 GB as RGB."""

MAX_PIXEL_ASPECT = 4
"""Most that a pixel may be wider than high, or higher than wide; 2.2 is the most in use."""

# Demuxers of texts that name other files or addresses: a clip is one file and nothing besides.
_PLAYLISTS = frozenset(
    ("concat", "dash", "hls", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp", "webm_dash_manifest")
)
# A clip may lose this much without a word: containers miscount their last frames.
_TOLERANCE_RATIO, _TOLERANCE_FRAMES = 0.02, 2
# How far a time may be off the grid of a constant rate, in frames; Matroska rounds to 1 ms.
_OFF_GRID_FRAMES = 0.2
# So many single times may be damaged before the rate is taken to vary.
_MAX_STRAY_TIMES = 5
# A longer hole is a clock that was set, not frames that are missing.
_MAX_HOLE_FRAMES = 10_000
_MAX_DEMUXER_ERRORS = 16
_MAX_FPS = 1000
# Rounded aspect ratios are taken for square: resampling costs more than so little distorts.
_SQUARE_TOLERANCE = 0.01
# Streams that a player shows beside the video, not as the video.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class Frame:
    """One decoded image.

    Attributes:
        index: Position in the source in the order of display, from 0. Frames that are lost leave
            a hole as long as the times lie on the grid of a constant rate, but for a few strays;
            from there on frames are counted as they come.
        image: RGB, upright, pixels square, one field.
    """

    index: int
    image: UInt8[np.ndarray, "h w 3"]


class Video:
    """An open clip, to be read once from its first frame to its last; a context manager.

    Of several video streams the one is read that FFmpeg takes for the main one; a cover picture is
    none.

    Attributes:
        path: The file.
        fps: Mean frame rate; NaN when the stream does not say.
        width_px: Width of the upright image.
        height_px: Height of the upright image.
        stored_size_px: Width and height as the file stores them.
        num_frames: Frames handed out so far.
        num_damaged: After the last frame: about how many are missing or could not be decoded; 0
            for a whole clip.
        damage: After the last frame: one sentence about them; empty for a whole clip.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.num_frames = 0
        self.num_damaged = 0
        self.damage = ""
        if not self.path.is_file():
            raise Undecodable(f"{self.path}: no such file")
        if self.path.stat().st_size == 0:
            raise Undecodable(f"{self.path}: the file is empty (0 bytes), expected a video")
        try:
            # Formats are told apart by decoding some frames; these may claim any size.
            self._container = _open(self.path, max_pixels=str(MAX_FRAME_AREA_PX2))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise Undecodable(
                f"{self.path}: not a video that FFmpeg can read ({_said(error)})"
            ) from error
        try:
            name = self._container.format.name
            if not _PLAYLISTS.isdisjoint(name.split(",")):
                raise Undecodable(
                    f"{self.path}: a list of other files ({name}), expected a video; give the "
                    "files that it names"
                )
            self._frames = self._decode()
            self._waiting = [next(self._frames)]
        except BaseException:
            self._container.close()
            raise
        self.height_px, self.width_px = self._waiting[0].image.shape[:2]

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
        while self._waiting:
            yield self._waiting.pop()  # not kept: one of 8K is 100 MB
        yield from self._frames

    def _decode(self) -> Generator[Frame, None, None]:
        stream = self._main_stream()
        width_px, height_px = stream.codec_context.width, stream.codec_context.height
        if not width_px:
            width_px, height_px = self._claimed_size(stream.index)
        check_frame_size(self.path, width_px, height_px)
        # One actor owns one core; more decoders are started, not more threads.
        stream.codec_context.thread_count = 1
        # A picture inside the clip may claim another size; the decoder is not to allocate it.
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_AREA_PX2)}
        aspect = stream.sample_aspect_ratio or fractions.Fraction(1)
        to_image = _Converter(aspect)
        rate = _mean_rate(stream)
        self.fps = float(rate) if rate else math.nan
        self.stored_size_px = (stream.codec_context.width, stream.codec_context.height)

        positions = _Positions(stream, rate)
        shape: tuple[int, ...] | None = None
        reason = ""
        num_corrupt = num_discarded = num_errors = 0
        for packet in self._packets(stream):
            if isinstance(packet, Exception):
                num_errors += 1
                reason = _said(packet)
                continue
            num_corrupt += packet.is_corrupt
            num_discarded += packet.is_discard
            try:
                pictures = packet.decode()
            except av.error.EOFError:
                break
            except av.error.FFmpegError as error:
                # A damaged packet costs its frames, not the clip; one with nothing else is refused.
                num_errors += 1
                reason = _said(error)
                if num_errors > 1000 and self.num_frames == 0:
                    break
                continue
            for picture in pictures:
                check_frame_size(self.path, picture.width, picture.height, aspect)
                index = positions.next(picture.pts)
                if picture.is_corrupt:
                    num_errors += 1
                    reason = reason or "damaged pictures"
                    continue
                image = to_image(picture)
                if shape is not None and image.shape != shape:
                    raise FrameSizeRefused(
                        f"{self.path}: frame {index} is {image.shape[1]}×{image.shape[0]}, those "
                        f"before it {shape[1]}×{shape[0]}; cut the clip where its size changes"
                    )
                shape = image.shape
                self.num_frames += 1
                yield Frame(index, image)
                del image  # one of 8K is 100 MB, and the next is decoded beside it
        if self.num_frames == 0:
            detail = f"{num_errors} damaged packets, {reason}" if num_errors else "no packets"
            raise Undecodable(f"{self.path}: not one frame can be decoded ({detail})")
        num_declared = self._num_declared(stream, positions, num_discarded)
        num_missing = num_declared - self.num_frames
        if num_missing <= max(_TOLERANCE_FRAMES, _TOLERANCE_RATIO * num_declared):
            num_missing = 0
        self.num_damaged = max(num_missing, num_errors, num_corrupt)
        if self.num_damaged:
            total = max(num_declared, self.num_frames + num_errors)
            self.damage = f"about {self.num_damaged} of {total} frames lost, the others are used"
            if reason:
                self.damage += f" (the last error: {reason})"
            if not positions.is_constant:
                self.damage += "; the frame rate is not constant, so lost frames leave no hole"

    def _main_stream(self) -> av.video.stream.VideoStream:
        videos = [s for s in self._container.streams.video if not s.disposition & _PICTURES]
        if not videos:
            pictures = " but a cover picture" if self._container.streams.video else ""
            raise Undecodable(f"{self.path}: has no video stream{pictures}")
        videos = [s for s in videos if s.codec_context is not None]
        if not videos:
            raise Undecodable(
                f"{self.path}: FFmpeg has no decoder for its video; convert it, or is it damaged?"
            )
        best = self._container.streams.best("video")
        return best if best in videos else videos[0]

    def _claimed_size(self, index: int) -> tuple[int, int]:
        """What the header says where FFmpeg forgets it: beyond `max_pixels`."""
        with _open(self.path, codec_whitelist="none") as container:
            # A stream that shows itself only in its packets may be missing here.
            claims = [s.codec_context for s in container.streams.video if s.index == index]
            return (claims[0].width, claims[0].height) if claims else (0, 0)

    def _packets(
        self, stream: av.video.stream.VideoStream
    ) -> Generator[av.Packet | Exception, None, None]:
        """Packets and, in their place, what the demuxer stumbled over; it is started again."""
        for _ in range(_MAX_DEMUXER_ERRORS):
            try:
                yield from self._container.demux(stream)
                return
            except av.error.EOFError:
                break
            except av.error.FFmpegError as error:
                yield error
        last = av.Packet()  # an empty one: what the decoder still holds
        last.stream = stream
        yield last

    def _num_declared(
        self, stream: av.video.stream.VideoStream, positions: _Positions, num_discarded: int
    ) -> int:
        """How many frames the clip says it has; those seen where it says nothing of use."""
        if stream.frames:
            # An edit list hides some frames: cameras cut a clip so without encoding it again.
            return int(stream.frames) - num_discarded
        if not positions.is_constant or self._container.format.flags & Flags.no_timestamps.value:
            return self.num_frames
        duration_s = 0.0
        if stream.duration and stream.time_base:
            duration_s = float(stream.duration * stream.time_base)
        elif self._container.duration and len(self._container.streams) == 1:  # sound may be longer
            duration_s = self._container.duration / av.time_base
        return max(round(duration_s * self.fps), positions.last + 1)


class _Positions:
    """Positions of the frames of one stream, by their times while these lie on a constant grid."""

    def __init__(
        self, stream: av.video.stream.VideoStream, average: fractions.Fraction | None
    ) -> None:
        self.last = -1
        self._num_stray = 0
        exact = stream.base_rate
        # The mean over a clip is rounded and drifts; the stream's own rate may be a multiple.
        rate = exact if average and exact and abs(exact / average - 1) < 0.005 else average
        self.is_constant = bool(rate and stream.time_base)
        self._step = rate * stream.time_base if rate and stream.time_base else fractions.Fraction(0)
        self._start = stream.start_time

    def next(self, pts: int | None) -> int:
        """The position of the next frame in the order of display."""
        counted = self.last + 1
        if self.is_constant and pts is not None:
            self._start = pts if self._start is None else self._start
            place = float((pts - self._start) * self._step)
            hole = round(place) - counted
            off_grid = abs(place - round(place)) > _OFF_GRID_FRAMES
            if not off_grid and 0 <= hole <= _MAX_HOLE_FRAMES:
                self.last = counted + hole
                return self.last
            self._num_stray += 1
        # Without a time nothing is known of holes; the other frames' times still tell.
        self.is_constant = self.is_constant and self._num_stray <= _MAX_STRAY_TIMES
        self.last = counted
        return counted


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


def _mean_rate(stream: av.video.stream.VideoStream) -> fractions.Fraction | None:
    # Of a raw DV file the mean that FFmpeg gives is the clock's 60000 ticks a second.
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and rate <= _MAX_FPS:
            return fractions.Fraction(rate)
    return None


def _open(path: Path, **options: str) -> av.container.InputContainer:
    # With a protocol in front no name is taken for another one ("pipe:0.mp4"), and a playlist
    # cannot reach the network before its format is known.
    return av.open(
        f"file:{path.absolute()}", mode="r", options={"protocol_whitelist": "file", **options}
    )


def check_frame_size(
    path: Path, width_px: int, height_px: int, aspect: fractions.Fraction = fractions.Fraction(1)
) -> None:
    """Refuse frames of a size that no clip has.

    Args:
        path: The clip, for the message.
        width_px: As stored; 0 when not yet known.
        height_px: As stored; 0 when not yet known.
        aspect: Width of a pixel over its height.

    Raises:
        FrameSizeRefused: A side, the area or the pixels' shape is outside the limits.
    """
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        raise FrameSizeRefused(
            f"{path}: pixels are {aspect.numerator} wide to {aspect.denominator} high, expected at "
            f"most {MAX_PIXEL_ASPECT} to 1 either way; is the header damaged?"
        )
    # A stream may leave its size unsaid (0) until its first frame; that frame is checked too.
    known = [side for side in (width_px, height_px) if side > 0]
    if any(not MIN_FRAME_PX <= side <= MAX_FRAME_PX for side in known):
        raise FrameSizeRefused(
            f"{path}: frames are {width_px}×{height_px} px, expected both sides between "
            f"{MIN_FRAME_PX} and {MAX_FRAME_PX}"
        )
    area_px2 = float(width_px * height_px * max(aspect, 1 / aspect))
    if area_px2 > MAX_FRAME_AREA_PX2:
        raise FrameSizeRefused(
            f"{path}: frames are {width_px}×{height_px} px, {area_px2 / 2**20:.0f} Mpx, expected "
            f"at most {MAX_FRAME_AREA_PX2 / 2**20:.0f} Mpx"
        )


class _Converter:
    """Pictures of one stream → images: RGB, one field, square pixels, upright."""

    def __init__(self, aspect: fractions.Fraction) -> None:
        self._aspect = aspect
        self._rotation: float | None = None
        self._matrix = (1, 0, 0, 1)

    def __call__(self, picture: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        # swscale starts a thread a core unless told otherwise.
        image = picture.to_ndarray(format="rgb24", threads=1)
        if picture.interlaced_frame:
            image = _first_field(image)
        if abs(self._aspect - 1) > _SQUARE_TOLERANCE:
            image = _square(image, self._aspect)
        if picture.rotation != self._rotation:
            self._rotation, self._matrix = picture.rotation, _display_matrix(picture)
        return np.ascontiguousarray(_turned(image, self._matrix))


def _first_field(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Rows 0, 2, 4, ... as they are, those between the mean of their neighbours."""
    field = image[::2]
    below = np.concatenate([field[1:], field[-1:]])
    whole = np.empty_like(image)
    whole[::2] = field
    whole[1::2] = cv2.addWeighted(field, 0.5, below, 0.5, 0)[: len(image) // 2]
    return whole


def _square(
    image: UInt8[np.ndarray, "h w 3"], aspect: fractions.Fraction
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Stretch the way in which pixels are dense, so that no detail is lost."""
    height_px, width_px = image.shape[:2]
    if aspect > 1:
        width_px = round(width_px * aspect)
    else:
        height_px = round(height_px / aspect)
    stretched: np.ndarray = cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    return stretched


def _display_matrix(picture: av.VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of x' = a x + c y, y' = b x + d y (ISO 14496-12, 6.2.2); the same without one.

    Not for every picture: looking at side data keeps a picture until the next garbage collection.
    """
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return (1, 0, 0, 1)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return (a, b, c, d)


def _turned(
    image: UInt8[np.ndarray, "h w 3"], matrix: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Turn and mirror; phones write quarter turns, anything between is rounded to one."""
    a, b, c, d = matrix
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
