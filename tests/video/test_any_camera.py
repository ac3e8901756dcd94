"""Whatever a camera, a phone or an editor wrote: frames are right, upright, in proportion."""

import dataclasses
import fractions
import itertools
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.codec.context import Flags
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace

from raygait.errors import FrameSizeRefused, Undecodable
from raygait.video.decode import Frame, Video, open_video
from raygait.video.extraction import ExtractedSequence, PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings

COLOURS = (
    ((200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)),
    ((0, 0, 0), (255, 255, 255), (230, 180, 140), (60, 60, 160)),
)


def colour_card() -> np.ndarray:
    return np.kron(np.array(COLOURS, np.uint8), np.ones((48, 32, 1), np.uint8))


def colours_of(card: np.ndarray) -> np.ndarray:
    """Colour of each field, its border left out: chroma is shared with neighbours there."""
    fields = card.reshape(2, 48, 4, 32, 3)[:, 10:-10, :, 8:-8]
    return fields.astype(int).mean(axis=(1, 3))


def textures(num_frames: int, height_px: int = 96, width_px: int = 128) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 255, (height_px // 8 + 1, width_px // 8 + 1, 3), np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height_px, :width_px]
    return [np.roll(texture, 2 * index, axis=1) for index in range(num_frames)]


def write(
    path: Path,
    pictures: Iterable[np.ndarray | av.VideoFrame],
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    set_up: Callable[[av.video.codeccontext.VideoCodecContext], None] = lambda _: None,
) -> Path:
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = None
        for picture in pictures:
            if isinstance(picture, np.ndarray):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if stream is None:
                stream = container.add_stream(codec, rate=25, options=options or {})
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, pix_fmt
                set_up(stream.codec_context)
            container.mux(stream.encode(picture))
        assert stream is not None
        container.mux(stream.encode())
    return path


def read(path: Path) -> tuple[list[Frame], Video]:
    with open_video(path) as video:
        return list(video.frames()), video


# Colours


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("c.mp4", "libx264", "yuv420p"),
        ("c.mp4", "libx264", "nv12"),
        ("c.mp4", "libx264", "yuv444p"),
        ("c.mp4", "libx264", "yuv420p10le"),
        ("c.mkv", "libx264", "yuv422p10le"),
        ("c.avi", "mjpeg", "yuvj420p"),
        ("c.mov", "prores_ks", "yuva444p10le"),
        ("c.mkv", "ffv1", "yuv411p"),
        ("c.mkv", "ffv1", "yuva420p"),
        ("c.mkv", "ffv1", "bgr0"),
        ("c.mkv", "ffv1", "gbrp10le"),
        ("c.mov", "rawvideo", "rgb24"),
        ("c.avi", "rawvideo", "bgr24"),
        ("c.avi", "rawvideo", "uyvy422"),
        ("c.avi", "rawvideo", "nv12"),
        ("c.mov", "rawvideo", "rgb565le"),
    ],
)
def test_colours_are_right_in_any_pixel_format(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    options = {"crf": "5"} if codec == "libx264" else {}
    path = write(
        tmp_path / name, [colour_card()] * 3, codec=codec, pix_fmt=pix_fmt, options=options
    )
    frames, video = read(path)
    assert (len(frames), video.damage) == (3, "")
    for frame in frames:
        assert np.abs(colours_of(frame.image) - COLOURS).max() <= 5


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("g.mp4", "libx264", "gray"),
        ("g.mp4", "libx264", "gray10le"),
        ("g.mkv", "ffv1", "gray16le"),
        ("g.avi", "rawvideo", "gray"),
    ],
)
def test_a_grey_clip_is_grey_in_three_channels(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    def tag(context: av.video.codeccontext.VideoCodecContext) -> None:
        context.color_range = ColorRange.JPEG  # what `VideoFrame.reformat` makes of grey

    options = {"crf": "5"} if codec == "libx264" else {}
    card = [colour_card()] * 2
    path = tmp_path / name
    frames, _ = read(write(path, card, codec=codec, pix_fmt=pix_fmt, options=options, set_up=tag))
    seen = colours_of(frames[0].image)
    assert np.ptp(seen, axis=-1).max() == 0
    luma = np.array(COLOURS) @ (0.299, 0.587, 0.114)
    assert np.abs(seen[..., 0] - luma).max() <= 3


def test_the_colours_of_a_palette_are_looked_up(tmp_path: Path) -> None:
    card = np.arange(8, dtype=np.uint8).reshape(2, 4).repeat(48, axis=0).repeat(32, axis=1)
    palette = np.zeros((256, 4), np.uint8)
    palette[:8] = [(255, *colour) for row in COLOURS for colour in row]
    picture = av.VideoFrame.from_ndarray((card, palette), format="pal8")
    frames, _ = read(write(tmp_path / "p.nut", [picture] * 2, codec="rawvideo", pix_fmt="pal8"))
    assert np.abs(colours_of(frames[0].image) - COLOURS).max() == 0


@pytest.mark.parametrize("colour_range", [ColorRange.MPEG, ColorRange.JPEG], ids=["16-235", "full"])
@pytest.mark.parametrize(
    "matrix",
    [(Colorspace.ITU601, 6), (Colorspace.ITU709, 1), (Colorspace.BT2020, 9)],
    ids=["BT.601", "BT.709", "BT.2020"],
)
@pytest.mark.parametrize("name", ["c.mp4", "c.mkv"])
def test_the_matrix_and_the_range_that_a_file_names_are_used(
    tmp_path: Path, name: str, matrix: tuple[Colorspace, int], colour_range: ColorRange
) -> None:
    space, number = matrix
    picture = av.VideoFrame.from_ndarray(colour_card(), format="rgb24").reformat(
        format="yuv420p", dst_colorspace=space, dst_color_range=colour_range
    )

    def tag(context: av.video.codeccontext.VideoCodecContext) -> None:
        context.colorspace, context.color_range = number, colour_range

    path = write(tmp_path / name, [picture], codec="libx264", options={"crf": "5"}, set_up=tag)
    frames, _ = read(path)
    assert np.abs(colours_of(frames[0].image) - COLOURS).max() <= 4


# Shape


@pytest.mark.parametrize(
    "size_px", [(97, 131), (96, 131), (97, 128)], ids=["both", "width", "height"]
)
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("o.mp4", "mpeg4", "yuv420p"),
        ("o.mp4", "libx264", "yuv444p"),
        ("o.webm", "libvpx-vp9", "yuv420p"),
        ("o.avi", "mjpeg", "yuvj420p"),
    ],
)
def test_odd_sides_keep_every_row_and_column(
    tmp_path: Path, size_px: tuple[int, int], name: str, codec: str, pix_fmt: str
) -> None:
    image = np.full((*size_px, 3), 60, np.uint8)
    image[-8:, -8:] = 220
    frames, _ = read(write(tmp_path / name, [image] * 2, codec=codec, pix_fmt=pix_fmt))
    decoded = frames[0].image.astype(int)
    assert decoded.shape == image.shape
    assert decoded[-4:, -4:].min() > 180
    assert decoded[:40, :40].max() < 90


def picture_of_a_disc(aspect: fractions.Fraction) -> np.ndarray:
    """A disc as it is stored where pixels have this shape: narrow where they are wide."""
    image = np.full((144, 176, 3), 40, np.uint8)
    axes = (round(50 / max(1, aspect)), round(50 * min(1, aspect)))
    return cv2.ellipse(image, (88, 72), axes, 0, 0, 360, (220, 220, 220), -1)


@pytest.mark.parametrize("name", ["s.mp4", "s.mkv", "s.avi", "s.ts", "s.mov"])
@pytest.mark.parametrize("aspect", ["1", "64/45", "8/9", "4/3", "2", "1/2"])
def test_a_circle_is_a_circle_whatever_the_shape_of_the_pixels(
    tmp_path: Path, name: str, aspect: str
) -> None:
    ratio = fractions.Fraction(aspect)

    def shape_pixels(context: av.video.codeccontext.VideoCodecContext) -> None:
        context.sample_aspect_ratio = ratio

    path = write(tmp_path / name, [picture_of_a_disc(ratio)] * 3, set_up=shape_pixels)
    with open_video(path) as video:
        image = next(video.frames()).image
    assert image.shape[:2] == (video.height_px, video.width_px)
    disc = image[..., 0] > 130
    assert abs(disc.any(axis=0).sum() / disc.any(axis=1).sum() - 1) < 0.05
    assert disc.any(axis=1).sum() >= 99  # stretched, not shrunk


def test_a_pixel_shape_that_is_only_rounding_is_left_alone(tmp_path: Path) -> None:
    def shape_pixels(context: av.video.codeccontext.VideoCodecContext) -> None:
        context.sample_aspect_ratio = fractions.Fraction(1000, 1003)

    path = write(tmp_path / "s.mp4", textures(2), set_up=shape_pixels)
    frames, _ = read(path)
    assert frames[0].image.shape == (96, 128, 3)


def test_an_absurd_pixel_shape_is_refused(tmp_path: Path) -> None:
    def shape_pixels(context: av.video.codeccontext.VideoCodecContext) -> None:
        context.sample_aspect_ratio = fractions.Fraction(5, 1)

    path = write(tmp_path / "s.mp4", textures(2), set_up=shape_pixels)
    with pytest.raises(FrameSizeRefused, match="pixels are 5 wide to 1 high, expected at most 4"):
        open_video(path)


# Display matrices (ISO 14496-12, 6.2.2) that phones and their front cameras write.
MATRICES = {
    "as stored": ((1, 0, 0, 1), lambda image: image),
    "turned right": ((0, 1, -1, 0), lambda image: np.rot90(image, 3)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "turned left": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "turned and transposed": ((0, -1, -1, 0), lambda image: image.transpose(1, 0, 2)[::-1, ::-1]),
}


def set_mp4_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    a, b, c, d = (value << 16 for value in matrix)
    content[header + 40 : header + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize("name", MATRICES)
def test_a_clip_is_turned_and_mirrored_as_its_header_says(tmp_path: Path, name: str) -> None:
    matrix, as_shown = MATRICES[name]
    image = np.full((64, 96, 3), (200, 30, 30), np.uint8)
    image[:32, :48] = (30, 30, 200)
    path = write(tmp_path / "m.mp4", [image] * 3)
    set_mp4_matrix(path, matrix)
    frames, video = read(path)
    expected = as_shown(image)
    for frame in frames:
        assert frame.image.shape == expected.shape == (video.height_px, video.width_px, 3)
        assert np.abs(frame.image.astype(int) - expected).mean() < 12
        assert frame.image.flags.c_contiguous


def woven(index: int, *, step_px: int = 6) -> np.ndarray:
    """A dark block that moves `step_px` from one field to the next, the fields woven."""
    image = np.full((96, 160, 3), 200, np.uint8)
    for field in (0, 1):
        left = 10 + step_px * (2 * index + field)
        image[field::2, left : left + 40] = 30
    return image


@pytest.mark.parametrize(
    ("name", "codec"), [("i.mpg", "mpeg2video"), ("i.mp4", "libx264"), ("i.avi", "mpeg4")]
)
def test_an_interlaced_clip_shows_one_moment_a_frame(tmp_path: Path, name: str, codec: str) -> None:
    def interlace(context: av.video.codeccontext.VideoCodecContext) -> None:
        context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        context.bit_rate = 8_000_000

    options = {"x264-params": "interlaced=1:qp=5"} if codec == "libx264" else {"field_order": "tt"}
    path = write(
        tmp_path / name,
        [woven(index) for index in range(6)],
        codec=codec,
        options=options,
        set_up=interlace,
    )
    frames, _ = read(path)
    assert len(frames) == 6
    for index, frame in enumerate(frames):
        assert frame.image.shape == (96, 160, 3)
        dark = frame.image[..., 0] < 115
        lefts = dark[20:76].argmax(axis=1)
        assert np.abs(lefts - (10 + 12 * index)).max() <= 2


def test_rows_of_a_progressive_clip_are_left_as_they_are(tmp_path: Path) -> None:
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[::2] = 255
    frames, _ = read(write(tmp_path / "p.mkv", [stripes], codec="ffv1", pix_fmt="bgr0"))
    np.testing.assert_array_equal(frames[0].image, stripes)


# Time


def write_at(path: Path, times_ms: Iterable[int]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for time_ms, image in zip(times_ms, textures(200), strict=False):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = time_ms, fractions.Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def phone_times_ms(num_frames: int) -> list[int]:
    """About 30 frames a second, each some ms off, slower in the dark half, now and then a pause."""
    rng = np.random.default_rng(8)
    steps = rng.normal(np.where(np.arange(num_frames) < num_frames // 2, 33, 50), 4)
    steps[rng.random(num_frames) < 0.03] += 60
    return [0, *np.cumsum(np.maximum(5, steps)).round().astype(int).tolist()][:num_frames]


@pytest.mark.parametrize("name", ["v.mp4", "v.mov"])
def test_irregular_times_as_phones_write_them_give_every_frame_and_the_mean_rate(
    tmp_path: Path, name: str
) -> None:
    times_ms = phone_times_ms(150)
    frames, video = read(write_at(tmp_path / name, times_ms))
    assert len(frames) == 150
    assert video.damage == ""
    mean = 149 / (times_ms[-1] / 1000)
    assert video.fps == pytest.approx(mean, rel=0.03)
    indices = np.array([frame.index for frame in frames])
    assert (np.diff(indices) >= 1).all()
    # Positions are counted once the rate is known to vary: no hole becomes of a pause.
    assert indices[-1] <= 160


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.ts", "mpeg4"),
        ("a.mpg", "mpeg2video"),
        ("a.mkv", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
    ],
)
def test_clips_that_were_concatenated_byte_by_byte_are_read_to_their_end(
    tmp_path: Path, name: str, codec: str
) -> None:
    first = write(tmp_path / name, textures(30), codec=codec).read_bytes()
    second = write(tmp_path / name, textures(40), codec=codec).read_bytes()
    (tmp_path / name).write_bytes(first + second)
    frames, _ = read(tmp_path / name)
    assert len(frames) == 70
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] <= 71


@pytest.mark.parametrize(
    ("name", "codec", "size_px"),
    [
        ("r.dv", "dvvideo", (576, 720)),
        ("r.h264", "libx264", (96, 128)),
        ("r.265", "libx265", (96, 128)),
        ("r.mjpeg", "mjpeg", (96, 128)),
        ("r.m2v", "mpeg2video", (96, 128)),
        ("r.mxf", "mpeg2video", (96, 128)),
        ("r.vob", "mpeg2video", (96, 128)),
        ("r.asf", "msmpeg4", (96, 128)),
    ],
)
def test_streams_of_recorders_without_a_proper_container_have_positions_and_a_rate(
    tmp_path: Path, name: str, codec: str, size_px: tuple[int, int]
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / name, textures(30, *size_px), codec=codec, pix_fmt=pix_fmt)
    frames, video = read(path)
    assert [frame.index for frame in frames] == list(range(30))
    assert (video.fps, video.damage) == (25, "")


# Streams


def write_streams(
    path: Path, *streams: tuple[str, tuple[int, int], int], dispositions: dict[int, Disposition]
) -> Path:
    """Streams in this order: a codec ("aac" is a second of silence), a size and a count each."""
    with av.open(str(path), "w") as container:
        added = []
        for place, (codec, (height_px, width_px), _) in enumerate(streams):
            stream = container.add_stream(
                codec, rate=44100 if codec in ("aac", "libmp3lame") else 25
            )
            if stream.type == "video":
                stream.width, stream.height = width_px, height_px
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if place in dispositions:
                stream.disposition = dispositions[place]
            added.append(stream)
        for stream, (_, (height_px, width_px), count) in zip(added, streams, strict=True):
            if stream.type == "video":
                for image in textures(count, height_px, width_px):
                    picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                    container.mux(stream.encode(picture))
            else:
                for index in range(count):
                    sound = av.AudioFrame.from_ndarray(
                        np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                    )
                    sound.sample_rate, sound.pts = 44100, 1024 * index
                    container.mux(stream.encode(sound))
            container.mux(stream.encode())
    return path


VIDEO, SILENCE, COVER = ("mpeg4", (96, 128), 20), ("aac", (0, 0), 40), ("mjpeg", (304, 304), 1)


@pytest.mark.parametrize("name", ["s.mp4", "s.mkv", "s.ts", "s.mov"])
def test_the_video_is_found_behind_the_sound(tmp_path: Path, name: str) -> None:
    frames, video = read(write_streams(tmp_path / name, SILENCE, VIDEO, dispositions={}))
    assert ([frame.index for frame in frames], video.damage) == (list(range(20)), "")


@pytest.mark.parametrize(
    "streams",
    [(COVER, SILENCE, VIDEO), (COVER, VIDEO), (VIDEO, COVER)],
    ids=["cover, sound, video", "cover, video", "video, cover"],
)
@pytest.mark.parametrize("name", ["s.mp4", "s.mov"])
def test_a_cover_picture_is_not_taken_for_the_video(tmp_path: Path, name: str, streams) -> None:
    pictures = {streams.index(COVER): Disposition.attached_pic}
    path = write_streams(tmp_path / name, *streams, dispositions=pictures)
    frames, _ = read(path)
    assert [frame.image.shape for frame in frames] == [(96, 128, 3)] * 20


def test_a_picture_attached_to_a_matroska_clip_is_not_taken_for_the_video(tmp_path: Path) -> None:
    picture = cv2.imencode(".jpg", np.full((304, 304, 3), 80, np.uint8))[1].tobytes()
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.add_attachment("cover.jpg", "image/jpeg", picture)
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for image in textures(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "video"]
    frames, _ = read(path)
    assert [frame.image.shape for frame in frames] == [(96, 128, 3)] * 20


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = write_streams(
        tmp_path / "song.mp3",
        ("libmp3lame", (0, 0), 40),
        COVER,
        dispositions={1: Disposition.attached_pic},
    )
    with pytest.raises(Undecodable, match="has no video stream but a cover picture"):
        open_video(path)


def test_a_codec_that_nobody_knows_is_named_as_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "u.mp4", textures(3), codec="libx264")
    content = path.read_bytes()
    assert content.count(b"avc1") >= 1
    path.write_bytes(content.replace(b"avc1", b"zzz9"))
    with pytest.raises(Undecodable, match="no decoder for its video"):
        open_video(path)


@pytest.mark.parametrize("name", ["t.mp4", "t.mkv"])
@pytest.mark.parametrize("main", [0, 1])
def test_of_several_videos_the_main_one_is_read(tmp_path: Path, name: str, main: int) -> None:
    other = ("mpeg4", (192, 256), 20)
    streams = (VIDEO, other) if main == 0 else (other, VIDEO)
    dispositions = {main: Disposition.default, 1 - main: Disposition(0)}
    frames, _ = read(write_streams(tmp_path / name, *streams, dispositions=dispositions))
    assert [frame.image.shape for frame in frames] == [(96, 128, 3)] * 20


def test_decoding_takes_no_thread_besides_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "t.mp4", textures(5, 480, 640), codec="libx264")
    threads = Path("/proc/self/task")
    before = len(list(threads.iterdir()))
    with open_video(path) as video:
        assert [len(list(threads.iterdir())) for _ in video.frames()] == [before] * 5


# The whole chain, on a real walker


@pytest.fixture(scope="module")
def upright_walk(walker_clip: Path) -> tuple[list[np.ndarray], ExtractedSequence]:
    """Forty frames of a walker, and the one sequence that they become."""
    with open_video(walker_clip) as video:
        images = [frame.image for frame in itertools.islice(video.frames(), 20, 60)]
    return images, the_walker(walker_clip, first=20, last=59)


def the_walker(path: Path, *, first: int = 0, last: int = 39) -> ExtractedSequence:
    settings = VideoSettings(min_frames=15)
    sequences, _ = PeopleDescriber(settings)(path, PeopleFinder(settings)(path))
    near = [s for s in sequences if s.frame_indices[0] <= last and len(s.frame_indices) > 30]
    # A man on a roof behind her is found too, half as tall.
    walker = max(near, key=lambda sequence: float(np.median(sequence.quality.mask_height_px)))
    is_asked = (walker.frame_indices >= first) & (walker.frame_indices <= last)
    return dataclasses.replace(
        walker,
        frame_indices=walker.frame_indices[is_asked] - first,
        boxes_px=walker.boxes_px[is_asked],
        silhouettes=walker.silhouettes[is_asked],
    )


def stored_narrow(image: np.ndarray) -> np.ndarray:
    """As a camera stores it whose pixels are 4 wide to 3 high."""
    height_px, width_px = image.shape[:2]
    size_px = (width_px * 3 // 4, height_px)
    return cv2.resize(image, size_px, interpolation=cv2.INTER_AREA)


# How a camera stores the picture, and what its header says to show it upright.
STORED = {
    "turned right": (lambda image: np.rot90(image, 1), MATRICES["turned right"][0], 1),
    "upside down": (lambda image: np.rot90(image, 2), MATRICES["upside down"][0], 1),
    "turned left": (lambda image: np.rot90(image, 3), MATRICES["turned left"][0], 1),
    "flipped": (lambda image: image[::-1], MATRICES["flipped"][0], 1),
    "anamorphic": (stored_narrow, MATRICES["as stored"][0], fractions.Fraction(4, 3)),
}


@pytest.mark.parametrize("name", STORED)
def test_a_walker_has_one_shape_however_the_camera_was_held_and_stores_pixels(
    tmp_path: Path, upright_walk: tuple[list[np.ndarray], ExtractedSequence], name: str
) -> None:
    images, upright = upright_walk
    store, matrix, aspect = STORED[name]

    def set_up(context: av.video.codeccontext.VideoCodecContext) -> None:
        context.bit_rate = 8_000_000
        context.sample_aspect_ratio = fractions.Fraction(aspect)

    path = write(tmp_path / "held.mp4", [store(image) for image in images], set_up=set_up)
    set_mp4_matrix(path, matrix)
    walker = the_walker(path)
    shared, ours, theirs = np.intersect1d(
        upright.frame_indices, walker.frame_indices, return_indices=True
    )
    assert len(shared) >= 35
    assert np.abs(upright.boxes_px[ours] - walker.boxes_px[theirs]).max() < 40
    a, b = upright.silhouettes[ours] > 127, walker.silhouettes[theirs] > 127
    assert (a & b).sum() / (a | b).sum() > 0.85  # two encodings of one clip share 0.9
    widths_px = [masks.any(axis=1).sum(axis=1) for masks in (a, b)]
    assert abs(np.median(widths_px[1] / widths_px[0]) - 1) < 0.03
    assert abs(b.sum() / a.sum() - 1) < 0.03
