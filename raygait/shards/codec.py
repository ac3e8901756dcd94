"""Frames of one sequence <-> one blob of bytes.

A blob is cut into groups of frames, compressed on their own, behind a table of their lengths and
checksums, so a clip out of a long sequence costs a clip. Layout, little endian:

    magic     4 bytes: `RGSi`, `RGHm` or `RGCr`
    version   u8, `CODEC_VERSION`
    group     u16, frames in each group but perhaps the last
    shape     4 x u32: t c h w (c: 1 for silhouettes, joints for heatmaps, 3 for crops)
    table     a pair of u32 for each group: bytes of its payload, CRC-32 of its payload
    check     u32, CRC-32 of everything above
    payloads  one after another, nothing after the last

Decoders check every byte that they use and raise `CorruptShard` rather than return a wrong frame;
they never unpickle.

- Silhouettes, lossless: zstd level 9 over the plain bytes of 16 frames.
- Heatmaps, lossless on the uint8: zstd level 6 over 8 frames.
- Crops, lossy: one JPEG of quality 90 a frame.

Measured on two busy cores by `python tests/benchmarks/bench_codec.py`, bytes a frame (a pickled
64 x 64 uint8 frame takes 4099): aligned silhouettes with gray edges 296 (synthetic walkers) and
221 (vtest.avi); heatmaps of vtest.avi 3700 out of 52224, its 128 x 128 crops 4500. Silhouettes
decode at 310,000 frames/s and encode at 27,000; 30 frames out of 2000 decode in 0.11 ms, the whole
in 6.5 ms.

Tried on 658 masks of vtest.avi, groups of 16, bytes a frame and thousands of frames/s decoded:
zstd 3 319, 393; **zstd 9 282, 437**; zstd 19 260, 427 (but encodes at 600 frames/s); lossless WebP
mosaic 260, 138; PNG mosaic 364, 90; lzma 249, 71; bit planes apart from the gray values 270 to 286.
Groups of 8 take 287 and groups of 32 281 bytes; frames on their own 369 at a sixth of the speed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from numpy import ndarray
from numpy.typing import NDArray

from raygait.errors import CorruptShard

CODEC_VERSION = 1

_SILHOUETTES = b"RGSi"
_HEATMAPS = b"RGHm"
_CROPS = b"RGCr"
_NAMES = {_SILHOUETTES: "silhouettes", _HEATMAPS: "heatmaps", _CROPS: "crops"}

_HEAD = struct.Struct("<4sBH4I")
_CHECK = struct.Struct("<I")
# A head with a valid checksum is ours, but a crafted one must not make us ask for terabytes.
_MAX_SIDE_PX = 8192
_MAX_JOINTS = 256
_MAX_GROUP = 64
_CHANNELS = {_SILHOUETTES: (1, 1), _HEATMAPS: (1, _MAX_JOINTS), _CROPS: (3, 3)}
# What one byte of payload can become at most. zstd: a block of 128 KiB out of 4 bytes. JPEG: an
# 8 x 8 block of samples takes two bits or more, and a colour sample may serve four pixels.
_MAX_EXPANSION = {_SILHOUETTES: 2**15, _HEATMAPS: 2**15, _CROPS: 2**10}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_JPEG_QUALITY = 90

# Frames of a group and zstd level.
_SILHOUETTE_GROUP = (16, 9)
_HEATMAP_GROUP = (8, 6)

Blob = bytes | memoryview
"""Encoded frames; a `memoryview` of a mapped file costs only the groups that are asked for."""

FrameSelection = slice | Sequence[int] | NDArray[np.integer] | None
_Frames = UInt8[ndarray, "t c h w"]


def encode_silhouettes(silhouettes: UInt8[ndarray, "t h w"]) -> bytes:
    """Compress silhouettes without loss.

    Args:
        silhouettes: Masks with any gray values, 0 background, 255 subject; any size.

    Raises:
        ValueError: Not uint8 [t, h, w], or a side is 0 or over 8192 px.
    """
    frames = _checked(silhouettes, "silhouettes", num_axes=3)
    return _deflate(_SILHOUETTES, frames[:, None], *_SILHOUETTE_GROUP)


def decode_silhouettes(blob: Blob, frames: FrameSelection = None) -> UInt8[ndarray, "t h w"]:
    """Frames of a blob that `encode_silhouettes` made.

    Args:
        blob: The whole blob.
        frames: Which frames, in which order, repeats allowed: a slice, numbers in 0..t-1, or None
            for all. Only the groups that hold them are read and checked.

    Raises:
        CorruptShard: The blob is cut short, altered or something else.
        ValueError: A frame number is outside the sequence.
    """
    return _unpack(blob, _SILHOUETTES, frames, _check_zstd, _inflate)[:, 0]


def encode_heatmaps(heatmaps: UInt8[ndarray, "t j h w"]) -> bytes:
    """Compress quantised heatmaps without further loss.

    Args:
        heatmaps: One map a joint; the float value is this times the row's `heatmap_scale`.

    Raises:
        ValueError: Not uint8 [t, j, h, w], over 256 joints, or a side is 0 or over 8192 px.
    """
    frames = _checked(heatmaps, "heatmaps", num_axes=4)
    if frames.shape[1] > _MAX_JOINTS:
        raise ValueError(f"heatmaps have at most {_MAX_JOINTS} joints, got {frames.shape[1]}")
    return _deflate(_HEATMAPS, frames, *_HEATMAP_GROUP)


def decode_heatmaps(blob: Blob, frames: FrameSelection = None) -> UInt8[ndarray, "t j h w"]:
    """Frames of a blob that `encode_heatmaps` made; see `decode_silhouettes` for the rest."""
    return _unpack(blob, _HEATMAPS, frames, _check_zstd, _inflate)


def encode_crops(crops: UInt8[ndarray, "t h w 3"]) -> bytes:
    """Compress RGB crops, one JPEG of quality 90 a frame. Lossy.

    Raises:
        ValueError: Not uint8 [t, h, w, 3], or a side is 0 or over 8192 px.
    """
    frames = _checked(crops, "crops", num_axes=4)
    if frames.shape[3] != 3:
        raise ValueError(f"crops must be RGB [t, h, w, 3], got {list(frames.shape)}")
    t, h, w, c = frames.shape
    payloads = []
    for frame in frames:
        _, jpeg = cv2.imencode(
            ".jpg",
            cv2.cvtColor(frame, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
        )
        payloads.append(jpeg.tobytes())
    return _pack(_CROPS, (t, c, h, w), 1, payloads)


def decode_crops(blob: Blob, frames: FrameSelection = None) -> UInt8[ndarray, "t h w 3"]:
    """RGB frames of a blob that `encode_crops` made; see `decode_silhouettes` for the rest."""
    planes = _unpack(blob, _CROPS, frames, _check_jpeg, _decode_jpeg)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _checked(frames: NDArray[np.uint8], name: str, *, num_axes: int) -> NDArray[np.uint8]:
    if frames.dtype != np.uint8 or frames.ndim != num_axes:
        raise ValueError(
            f"{name} must be uint8 with {num_axes} axes, got {frames.dtype} {list(frames.shape)}"
        )
    if min(frames.shape[1:]) < 1 or max(frames.shape[1:]) > _MAX_SIDE_PX:
        raise ValueError(f"{name} must be 1 to {_MAX_SIDE_PX} px a side, got {list(frames.shape)}")
    return frames


def _pack(magic: bytes, shape: tuple[int, ...], group: int, payloads: list[bytes]) -> bytes:
    head = _HEAD.pack(magic, CODEC_VERSION, group, *shape)
    table = np.array(
        [(len(payload), zlib.crc32(payload)) for payload in payloads], dtype="<u4"
    ).tobytes()
    check = _CHECK.pack(zlib.crc32(head + table))
    return b"".join([head, table, check, *payloads])


def _unpack(
    blob: Blob,
    magic: bytes,
    selection: FrameSelection,
    check: Callable[[memoryview, tuple[int, ...]], None],
    decode: Callable[[memoryview, tuple[int, ...]], _Frames],
) -> _Frames:
    shape, group, offsets, checksums = _read_head(blob, magic)
    indices = _resolve(selection, shape[0])
    groups = indices // group
    payloads: dict[int, tuple[memoryview, tuple[int, int, int, int]]] = {}
    for number in map(int, np.unique(groups)):
        payload = memoryview(blob).cast("B")[offsets[number] : offsets[number + 1]]
        if zlib.crc32(payload) != checksums[number]:
            raise CorruptShard(
                f"{_NAMES[magic]}: the checksum of frames from {number * group} on does not agree: "
                "the shard is damaged, write it again"
            )
        plain_shape = (min(group, shape[0] - number * group), *shape[1:])
        check(payload, plain_shape)
        payloads[number] = payload, plain_shape
    try:
        frames = np.empty((len(indices), *shape[1:]), np.uint8)
        for number, (payload, plain_shape) in payloads.items():
            wanted = groups == number
            frames[wanted] = decode(payload, plain_shape)[indices[wanted] - number * group]
    except MemoryError as error:
        raise CorruptShard(
            f"{_NAMES[magic]}: {len(indices)} frames of {list(shape[1:])} do not fit into memory: "
            "the blob is damaged, or ask for fewer frames at a time"
        ) from error
    return frames


def _read_head(
    blob: Blob, magic: bytes
) -> tuple[tuple[int, int, int, int], int, NDArray[np.int64], NDArray[np.uint32]]:
    """Shape (t c h w), frames a group, payload offsets (one more than groups), checksums."""
    name = _NAMES[magic]
    if len(blob) < _HEAD.size + _CHECK.size:
        raise CorruptShard(f"{name}: {len(blob)} bytes are too few for a blob")
    found, version, group, t, c, h, w = _HEAD.unpack_from(blob)
    if found != magic:
        raise CorruptShard(f"{name}: starts with {found!r}, expected {magic!r}")
    if version != CODEC_VERSION:
        raise CorruptShard(
            f"{name}: codec version {version}, this raygait reads {CODEC_VERSION}: update raygait "
            "or write the shard again"
        )
    num_groups = -(-t // group) if group else 0
    table_end = _HEAD.size + 8 * num_groups
    if group == 0 or table_end + _CHECK.size > len(blob):
        raise CorruptShard(f"{name}: cut short inside the table of {num_groups} groups")
    (check,) = _CHECK.unpack_from(blob, table_end)
    if zlib.crc32(memoryview(blob)[:table_end]) != check:
        raise CorruptShard(f"{name}: the checksum of the head does not agree")
    fewest, most = _CHANNELS[magic]
    if not (fewest <= c <= most and 1 <= h <= _MAX_SIDE_PX and 1 <= w <= _MAX_SIDE_PX):
        raise CorruptShard(f"{name}: impossible frame shape {[c, h, w]}")
    if group > _MAX_GROUP:
        raise CorruptShard(f"{name}: groups of {group} frames, at most {_MAX_GROUP} are possible")
    table = np.frombuffer(blob, "<u4", 2 * num_groups, _HEAD.size).reshape(num_groups, 2)
    num_frames = np.full(num_groups, group, np.int64)
    num_frames[-1:] -= num_groups * group - t
    if (num_frames * (c * h * w) > table[:, 0].astype(np.int64) * _MAX_EXPANSION[magic]).any():
        raise CorruptShard(f"{name}: {t} frames of {[c, h, w]} are not in {len(blob)} bytes")
    offsets = np.zeros(num_groups + 1, np.int64)
    np.cumsum(table[:, 0], out=offsets[1:])
    offsets += table_end + _CHECK.size
    if offsets[-1] != len(blob):
        raise CorruptShard(f"{name}: {len(blob)} bytes, the table says {offsets[-1]}")
    return (t, c, h, w), group, offsets, table[:, 1]


def _resolve(selection: FrameSelection, num_frames: int) -> NDArray[np.int64]:
    if selection is None:
        return np.arange(num_frames)
    if isinstance(selection, slice):
        return np.arange(num_frames)[selection]
    indices = np.asarray(selection, dtype=np.int64).reshape(-1)
    if len(indices) and (indices.min() < 0 or indices.max() >= num_frames):
        raise ValueError(
            f"frames {indices.min()} to {indices.max()} asked for, the sequence has {num_frames}"
        )
    return indices


def _deflate(magic: bytes, frames: _Frames, group: int, level: int) -> bytes:
    codec = pa.Codec("zstd", compression_level=level)
    payloads = [
        codec.compress(frames[start : start + group].tobytes(), asbytes=True)
        for start in range(0, len(frames), group)
    ]
    return _pack(magic, frames.shape, group, payloads)


def _check_zstd(payload: memoryview, shape: tuple[int, ...]) -> None:
    """Believe the blob's head only when the compressed frame says the same (RFC 8878, 3.1.1.1)."""
    head = bytes(payload[:18])
    declared = -1
    if len(head) > 5 and head.startswith(_ZSTD_MAGIC):
        is_single_segment = head[4] >> 5 & 1
        start = 5 + (1 - is_single_segment) + (0, 1, 2, 4)[head[4] & 3]
        width = (is_single_segment, 2, 4, 8)[head[4] >> 6]
        if width:
            declared = int.from_bytes(head[start : start + width], "little")
            declared += 256 if width == 2 else 0
    size = int(np.prod(shape))
    if declared != size:
        raise CorruptShard(f"a group says that it holds {declared} bytes, expected {size}")


def _check_jpeg(payload: memoryview, shape: tuple[int, ...]) -> None:
    """Find the frame header (ITU-T T.81, B.2.2) and compare its size before anything is decoded."""
    place = 2
    while place + 10 <= len(payload) and payload[place] == 0xFF:
        marker = payload[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if struct.unpack_from(">HHB", payload, place + 5) == (shape[2], shape[3], shape[1]):
                return
            break
        place += 2 + int.from_bytes(payload[place + 2 : place + 4], "big")
    raise _no_such_crop(shape)


def _decode_jpeg(payload: memoryview, shape: tuple[int, ...]) -> _Frames:
    image = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape != (shape[2], shape[3], shape[1]):
        raise _no_such_crop(shape)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).transpose(2, 0, 1)[None]


def _no_such_crop(shape: tuple[int, ...]) -> CorruptShard:
    return CorruptShard(
        f"a crop does not decode to {shape[2]} x {shape[3]} RGB: write the shard again"
    )


def _inflate(payload: memoryview, shape: tuple[int, ...]) -> _Frames:
    size = int(np.prod(shape))
    try:
        plain = pa.decompress(payload, decompressed_size=size, codec="zstd")
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptShard(f"frames do not decompress ({error}): write the shard again") from error
    if plain.size != size:
        raise CorruptShard(f"frames decompress to {plain.size} bytes, expected {size}")
    return np.frombuffer(plain, np.uint8).reshape(shape)
