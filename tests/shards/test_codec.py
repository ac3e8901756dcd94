"""The blobs: nothing lost, nothing guessed, and nothing decoded that was not asked for."""

import struct
import zlib

import cv2
import hypothesis.strategies as st
import numpy as np
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
    blob = codec.encode_heatmaps(codec.quantise_heatmaps(heatmaps)[0])
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


_floats = st.floats(0, 2.0**20, width=32)


@given(numpy_strategies.arrays(np.float32, (3, 2, 4, 5), elements=_floats))
def test_quantised_heatmaps_are_off_by_at_most_half_a_scale(heatmaps: np.ndarray) -> None:
    levels, scale = codec.quantise_heatmaps(heatmaps)
    error = np.abs(levels * scale - heatmaps.astype(np.float64))
    assert error.max() <= scale / 2 * (1 + 1e-9)


def test_the_largest_value_of_a_sequence_becomes_255() -> None:
    levels, scale = codec.quantise_heatmaps(np.array([0.25, 0.5], np.float32).reshape(1, 1, 1, 2))
    assert levels.tolist() == [[[[128, 255]]]]
    assert scale == pytest.approx(0.5 / 255)


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf], ids=["negative", "nan", "infinite"])
def test_heatmaps_that_are_no_probabilities_are_refused(bad: float) -> None:
    heatmaps = np.zeros((1, 17, 64, 48), np.float32)
    heatmaps[0, 3, 2, 1] = bad
    with pytest.raises(ValueError, match="finite and not negative"):
        codec.quantise_heatmaps(heatmaps)


def test_heatmaps_come_back_bit_for_bit_in_any_choice_of_frames(heatmaps: np.ndarray) -> None:
    levels, _ = codec.quantise_heatmaps(heatmaps)
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
