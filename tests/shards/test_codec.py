"""The blobs: nothing lost, nothing guessed, and nothing decoded that was not asked for."""

import struct
import zlib

import cv2
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as numpy_strategies

from raygait.errors import CorruptShard
from raygait.shards import codec

_shapes = st.tuples(st.integers(0, 40), st.integers(1, 12), st.integers(1, 12))
_masks = _shapes.flatmap(lambda shape: numpy_strategies.arrays(np.uint8, shape))


@given(_masks)
def test_silhouettes_of_any_size_come_back_bit_for_bit(masks: np.ndarray) -> None:
    np.testing.assert_array_equal(codec.decode_silhouettes(codec.encode_silhouettes(masks)), masks)


@given(_masks, st.data())
def test_any_choice_of_frames_is_what_numpy_would_choose(
    masks: np.ndarray, data: st.DataObject
) -> None:
    blob = codec.encode_silhouettes(masks)
    chosen = data.draw(st.slices(len(masks)))
    np.testing.assert_array_equal(codec.decode_silhouettes(blob, chosen), masks[chosen])
    if len(masks):
        numbers = data.draw(st.lists(st.integers(0, len(masks) - 1), max_size=20))
        expected = masks[np.array(numbers, dtype=int)]
        np.testing.assert_array_equal(codec.decode_silhouettes(blob, numbers), expected)


def test_aligned_silhouettes_take_at_most_450_bytes_a_frame(silhouettes: np.ndarray) -> None:
    assert ((silhouettes > 0) & (silhouettes < 255)).any(axis=(1, 2)).all(), "no gray edges"
    assert len(codec.encode_silhouettes(silhouettes)) / len(silhouettes) <= 450


@pytest.mark.parametrize("frames", [[-1], [0, 120], slice(0, 0)], ids=["negative", "past", "none"])
def test_frames_outside_the_sequence_are_refused(
    frames: list[int] | slice, silhouettes: np.ndarray
) -> None:
    blob = codec.encode_silhouettes(silhouettes)
    if isinstance(frames, slice):
        assert codec.decode_silhouettes(blob, frames).shape == (0, 64, 64)
        return
    with pytest.raises(ValueError, match="the sequence has 120"):
        codec.decode_silhouettes(blob, frames)


def test_a_clip_is_decoded_without_the_rest(silhouettes: np.ndarray) -> None:
    """Damage in other groups goes unseen, so they were not read."""
    blob = bytearray(codec.encode_silhouettes(silhouettes))
    blob[-1] ^= 0xFF
    with pytest.raises(CorruptShard, match="from 112 on"):
        codec.decode_silhouettes(bytes(blob))
    clip = codec.decode_silhouettes(bytes(blob), slice(40, 70))
    np.testing.assert_array_equal(clip, silhouettes[40:70])


def test_a_blob_in_a_mapped_file_decodes_as_one_in_memory(
    silhouettes: np.ndarray, heatmaps: np.ndarray
) -> None:
    crops = silhouettes[:5, :, :, None].repeat(3, axis=-1)
    for encode, decode, frames in (
        (codec.encode_silhouettes, codec.decode_silhouettes, silhouettes[:20]),
        (codec.encode_heatmaps, codec.decode_heatmaps, np.rint(heatmaps * 255).astype(np.uint8)),
        (codec.encode_crops, codec.decode_crops, crops),
    ):
        blob = encode(frames)
        mapped = memoryview(pa.py_buffer(blob))
        np.testing.assert_array_equal(decode(mapped, [4, 1]), decode(blob)[[4, 1]])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_flipped_bit_ever_gives_other_frames(data: st.DataObject) -> None:
    masks = np.zeros((20, 16, 16), np.uint8)
    masks[:, 4:12, 5:9] = np.arange(20)[:, None, None] * 12
    blob = bytearray(codec.encode_silhouettes(masks))
    bit = data.draw(st.integers(0, 8 * len(blob) - 1))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptShard):
        codec.decode_silhouettes(bytes(blob))


def test_a_blob_cut_anywhere_is_refused(silhouettes: np.ndarray) -> None:
    blob = codec.encode_silhouettes(silhouettes[:20])
    for length in range(0, len(blob), 7):
        with pytest.raises(CorruptShard):
            codec.decode_silhouettes(blob[:length])
    with pytest.raises(CorruptShard):
        codec.decode_silhouettes(blob + b"\0")


def test_a_blob_of_another_version_says_so(silhouettes: np.ndarray) -> None:
    blob = bytearray(codec.encode_silhouettes(silhouettes[:16]))
    blob[4] = codec.CODEC_VERSION + 1
    end = len(blob) - struct.unpack_from("<I", blob, 23)[0] - 4
    struct.pack_into("<I", blob, end, zlib.crc32(blob[:end]))
    with pytest.raises(CorruptShard, match=f"version {codec.CODEC_VERSION + 1}"):
        codec.decode_silhouettes(bytes(blob))


def test_a_blob_of_another_modality_is_refused(heatmaps: np.ndarray) -> None:
    blob = codec.encode_heatmaps(_levels(heatmaps))
    with pytest.raises(CorruptShard, match="silhouettes: starts with b'RGHm'"):
        codec.decode_silhouettes(blob)


def test_a_pickle_is_refused_and_not_loaded() -> None:
    # What unpickling this would do: call print. The decoder must see only foreign bytes.
    with pytest.raises(CorruptShard):
        codec.decode_silhouettes(b"\x80\x04cbuiltins\nprint\n(V!\ntR." + bytes(40))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 4), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((2, 0, 4), np.uint8),
        np.zeros((1, 1, 8193), np.uint8),
    ],
    ids=["float", "one frame", "empty frame", "too wide"],
)
def test_what_is_no_sequence_of_masks_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="silhouettes must be"):
        codec.encode_silhouettes(array)


def _levels(heatmaps: np.ndarray) -> np.ndarray:
    return np.rint(heatmaps * 255).astype(np.uint8)


def test_heatmaps_come_back_bit_for_bit_in_any_choice_of_frames(heatmaps: np.ndarray) -> None:
    levels = _levels(heatmaps)
    blob = codec.encode_heatmaps(levels)
    np.testing.assert_array_equal(codec.decode_heatmaps(blob), levels)
    np.testing.assert_array_equal(codec.decode_heatmaps(blob, [17, 2, 2]), levels[[17, 2, 2]])
    assert len(blob) < levels.nbytes / 4


def test_crops_come_back_in_rgb_and_close() -> None:
    crops = np.zeros((3, 48, 32, 3), np.uint8)
    crops[0, ..., 0], crops[1, ..., 1], crops[2, ..., 2] = 200, 120, 250
    decoded = codec.decode_crops(codec.encode_crops(crops), [2, 0])
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded.astype(int), crops[[2, 0]], atol=6)


def test_a_damaged_crop_is_refused() -> None:
    blob = bytearray(codec.encode_crops(np.full((2, 16, 16, 3), 77, np.uint8)))
    blob[-3] ^= 0x10
    with pytest.raises(CorruptShard, match="crops"):
        codec.decode_crops(bytes(blob))
    assert codec.decode_crops(bytes(blob), [0]).shape == (1, 16, 16, 3)


def test_a_crop_of_another_size_than_the_head_says_is_refused() -> None:
    """A valid checksum over a wrong image: made on purpose, and still not believed."""
    blob = codec.encode_crops(np.zeros((1, 16, 16, 3), np.uint8))
    _, other = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    table = struct.pack("<II", len(other), zlib.crc32(other.tobytes()))
    head = blob[:23] + table
    forged = head + struct.pack("<I", zlib.crc32(head)) + other.tobytes()
    with pytest.raises(CorruptShard, match="16 x 16"):
        codec.decode_crops(forged)


def _forge(blob: bytes, *, group: int = 0, shape: tuple[int, ...] = ()) -> bytes:
    """The same payloads below another head whose checksum is right."""
    magic, version, old_group, *old_shape = struct.unpack_from("<4sBH4I", blob)
    num_groups = -(-old_shape[0] // old_group)
    payloads_at = 23 + 8 * num_groups + 4
    head = struct.pack("<4sBH4I", magic, version, group or old_group, *(shape or old_shape))
    head += blob[23 : payloads_at - 4]
    return head + struct.pack("<I", zlib.crc32(head)) + blob[payloads_at:]


@pytest.mark.parametrize(
    ("group", "shape"),
    [
        (16, (16, 3, 64, 64)),
        (16, (16, 1, 64, 65)),
        (16, (16, 1, 8192, 8192)),
        (65535, (65535, 1, 64, 64)),
        (64, (64, 1, 64, 64)),
    ],
    ids=["channels", "a column more", "a gigabyte", "frames a group", "frames"],
)
def test_a_head_that_promises_more_than_the_payload_is_refused_before_room_is_made(
    group: int, shape: tuple[int, ...], silhouettes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = _forge(codec.encode_silhouettes(silhouettes[:16]), group=group, shape=shape)
    monkeypatch.setattr(codec.pa, "decompress", lambda *_, **__: pytest.fail("was decompressed"))
    monkeypatch.setattr(codec.np, "empty", lambda *_, **__: pytest.fail("room was made"))
    with pytest.raises(CorruptShard):
        codec.decode_silhouettes(forged)


def test_the_size_that_a_compressed_group_says_is_read_at_any_width() -> None:
    for side in (1, 8, 16, 20, 64, 300, 600):
        masks = np.full((16, side, side), 9, np.uint8)
        np.testing.assert_array_equal(
            codec.decode_silhouettes(codec.encode_silhouettes(masks)), masks
        )


def test_crops_of_a_plain_colour_at_the_largest_size_are_believed() -> None:
    crops = np.full((1, 2048, 2048, 3), 128, np.uint8)
    assert codec.decode_crops(codec.encode_crops(crops)).shape == crops.shape


def test_heatmaps_of_more_joints_than_a_reader_takes_are_not_written() -> None:
    with pytest.raises(ValueError, match="at most 256 joints, got 257"):
        codec.encode_heatmaps(np.zeros((1, 257, 2, 2), np.uint8))


def test_a_crop_is_not_decoded_when_its_own_header_says_another_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = _forge(codec.encode_crops(np.zeros((1, 64, 64, 3), np.uint8)), shape=(1, 3, 64, 65))
    monkeypatch.setattr(codec.cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(CorruptShard, match="64 x 65"):
        codec.decode_crops(blob)


def test_frames_that_no_memory_can_hold_are_a_shard_error() -> None:
    """Every group is what it says, but far more is asked for than any machine has."""
    blob = codec.encode_silhouettes(np.zeros((1, 8192, 8192), np.uint8))
    repeated = np.broadcast_to(np.zeros(1, np.int64), 2**22)
    with pytest.raises(CorruptShard, match="do not fit into memory"):
        codec.decode_silhouettes(blob, repeated)


def test_a_compressed_group_that_lies_about_its_size_is_refused_before_room_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Head and group agree on a gigabyte, in a few bytes: no zstd data can become so much."""
    payload = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 16 * 8192 * 8192) + bytes(8)
    blob = codec._pack(codec._SILHOUETTES, (16, 1, 8192, 8192), 16, [payload])
    monkeypatch.setattr(codec.np, "empty", lambda *_, **__: pytest.fail("room was made"))
    with pytest.raises(CorruptShard, match="are not in"):
        codec.decode_silhouettes(blob)


def test_groups_larger_than_any_writer_makes_are_refused() -> None:
    blob = codec._deflate(codec._SILHOUETTES, np.zeros((65, 1, 4, 4), np.uint8), 65, 9)
    with pytest.raises(CorruptShard, match="groups of 65 frames, at most 64"):
        codec.decode_silhouettes(blob)
