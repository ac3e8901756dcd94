"""Masks that are aligned already, and masks cut to their person, each of its own size."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.errors import EmptySilhouette, NotAMask, Undecodable
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.aligned_masks import read_aligned
from raygait.video.alignment import align
from raygait.video.mask_folders import read_silhouettes


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    return render_masks(Walker.from_seed(3), condition="nm-01", view_deg=90, num_frames=6)


def write(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images, start=1):
        cv2.imwrite(str(folder / f"{number:05d}.png"), image)
    return folder


def test_aligned_masks_of_64_come_out_bit_for_bit(masks: np.ndarray, tmp_path: Path) -> None:
    aligned = [align(mask) for mask in masks]
    aligned[2] = np.zeros_like(aligned[2])
    assert (read_aligned(write(tmp_path, aligned)).silhouettes == np.stack(aligned)).all()


def test_a_second_alignment_would_have_changed_them(masks: np.ndarray, tmp_path: Path) -> None:
    aligned = np.stack([align(mask) for mask in masks])
    shifted = np.roll(aligned, 3, axis=2)
    folder = write(tmp_path, list(shifted))
    assert (read_aligned(folder).silhouettes == shifted).all()
    assert (read_silhouettes(folder).silhouettes != shifted).any()


def test_44_columns_get_black_ones_on_either_side(masks: np.ndarray, tmp_path: Path) -> None:
    narrow = [align(mask)[:, 10:54] for mask in masks]
    found = read_aligned(write(tmp_path, narrow)).silhouettes
    assert (found[:, :, 10:54] == np.stack(narrow)).all()


def test_aligned_masks_of_128_are_kept_beside_smaller_ones(
    masks: np.ndarray, tmp_path: Path
) -> None:
    large = [align(mask, size_px=128) for mask in masks]
    found = read_aligned(write(tmp_path, large), ("silhouettes", "silhouettes_128"))
    assert (found.silhouettes_128 == np.stack(large)).all()
    assert found.silhouettes.shape == (6, 64, 64)
    assert read_aligned(tmp_path).silhouettes_128 is None


def test_energy_images_are_no_frames(masks: np.ndarray, tmp_path: Path) -> None:
    aligned = [align(mask) for mask in masks]
    write(tmp_path, aligned)
    cv2.imwrite(str(tmp_path / "x_GEI.png"), aligned[0] // 2)
    assert len(read_aligned(tmp_path).silhouettes) == 6
    assert len(read_silhouettes(tmp_path, one_size=False).silhouettes) == 6


def test_masks_that_are_yet_to_be_aligned_are_refused(masks: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(NotAMask, match="yet to be aligned"):
        read_aligned(write(tmp_path, list(masks)))


@pytest.mark.parametrize("shape", [(128, 88), (96, 64), (88, 44), (100, 100)])
def test_aligned_masks_of_other_sizes_are_scaled_as_those_of_sustech1k(
    shape: tuple[int, int], masks: np.ndarray, tmp_path: Path
) -> None:
    images = [cv2.resize(align(mask), shape[::-1]) for mask in masks]
    found = read_aligned(write(tmp_path, images)).silhouettes
    expected = [cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC) for image in images]
    np.testing.assert_array_equal(found, expected)
    area = [cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in images]
    assert (found != area).any()


def test_masks_wider_than_high_are_yet_to_be_aligned(masks: np.ndarray, tmp_path: Path) -> None:
    rows = np.flatnonzero(masks[0].any(axis=1))
    wide = masks[0][rows[0] : rows[-1] + 1]
    assert wide.shape[0] < wide.shape[1]
    with pytest.raises(NotAMask, match=r"higher than wide.* yet to be aligned"):
        read_aligned(write(tmp_path, [wide] * 3))


def test_upright_pictures_are_yet_to_be_aligned(masks: np.ndarray, tmp_path: Path) -> None:
    upright = [np.pad(mask, ((100, 100), (0, 0))) for mask in masks]
    assert upright[0].shape[0] > upright[0].shape[1]
    with pytest.raises(NotAMask, match=r"6 of 6 masks .* yet to be aligned"):
        read_aligned(write(tmp_path, upright))


def test_aligned_masks_of_two_sizes_are_refused(masks: np.ndarray, tmp_path: Path) -> None:
    images = [align(masks[0]), align(masks[1], size_px=128)]
    with pytest.raises(NotAMask, match="one size"):
        read_aligned(write(tmp_path, images))


def test_aligned_masks_that_a_person_fills_are_kept_and_inverted_ones_refused(
    masks: np.ndarray, tmp_path: Path
) -> None:
    aligned = np.stack([align(mask) for mask in masks])
    inverted = write(tmp_path / "inverted", list(255 - aligned))
    with pytest.raises(NotAMask, match=r"inverted: 6 of 6 frames .* are they inverted"):
        read_aligned(inverted)
    aligned[1:4] = 255
    assert (read_aligned(write(tmp_path / "full", list(aligned))).silhouettes == aligned).all()


def test_a_person_who_fills_the_cut_is_left_out_of_the_walk(
    masks: np.ndarray, tmp_path: Path
) -> None:
    images = [align(mask) for mask in masks]
    images[2] = np.full((50, 30), 255, np.uint8)
    found = read_silhouettes(write(tmp_path, images), one_size=False)
    assert found.frame_indices.tolist() == [0, 1, 3, 4, 5]
    assert found.left_out == ((2, "cut by the crop"),)
    with pytest.raises(NotAMask, match="inverted"):
        read_silhouettes(write(tmp_path, [images[2]] * 6))
    with pytest.raises(EmptySilhouette, match=r"not one of 6 masks.*100% of it is person"):
        read_silhouettes(tmp_path, one_size=False)


def test_nobody_and_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Undecodable, match=r"no \.png"):
        read_aligned(tmp_path)
    with pytest.raises(EmptySilhouette, match="not one of 2 masks"):
        read_aligned(write(tmp_path, [np.zeros((64, 64), np.uint8)] * 2))


def test_masks_cut_to_their_person_are_aligned_each_at_its_own_size(
    masks: np.ndarray, tmp_path: Path
) -> None:
    cut = []
    for number, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cut.append(np.pad(box, ((0, 0), (number, 2 * number + 9))))
    folder = write(tmp_path, cut)
    found = read_silhouettes(folder, one_size=False)
    assert (found.silhouettes == np.stack([align(mask) for mask in cut])).all()
    assert not found.quality.is_cut.any()
    assert np.isnan(found.quality.mask_area_ratio).all()
    with pytest.raises(NotAMask, match="one size"):
        read_silhouettes(folder)
