"""Colours beside masks: crops with their masks and ratios, and what lacks one of them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.errors import NoColours
from raygait.video.aligned_masks import read_aligned
from raygait.video.alignment import align
from raygait.video.beside import with_colours
from raygait.video.extraction import ExtractedSequence
from raygait.video.mask_folders import mask_paths, read_silhouettes
from raygait.video.walking import is_walking
from tests.video.raw_layouts import (
    boxes_of,
    colours_of,
    cut,
    walk,
    write_colours,
    write_images,
)

CLIP = walk()
BOXES = boxes_of(CLIP.masks)
MASKS = cut(CLIP.masks, BOXES)
COLOURS = cut(colours_of(CLIP.masks), BOXES)
RATIOS = [mask.shape[1] / mask.shape[0] for mask in MASKS]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "masks", MASKS)
    write_colours(tmp_path / "colours", COLOURS)
    return tmp_path


def joined(root: Path) -> ExtractedSequence:
    found = read_silhouettes(root / "masks", one_size=False)
    return with_colours(found, mask_paths(root / "masks", leave_out="gei"), root / "colours")


def test_crops_masks_and_ratios_are_those_of_the_same_frame(root: Path) -> None:
    found = joined(root)
    assert found.rgb is not None
    assert found.rgb_masks is not None
    assert found.rgb_ratio() == pytest.approx(RATIOS)
    assert len(set(RATIOS)) > 1
    for frame, mask in enumerate(MASKS):
        expected = cv2.resize(mask, (128, 128))
        np.testing.assert_array_equal(found.rgb_masks[frame], expected)
        # The person is red, whatever JPEG makes of it.
        inside, outside = found.rgb[frame][expected == 255], found.rgb[frame][expected == 0]
        assert np.abs(np.median(inside, axis=0) - (230, 40, 30)).max() < 15
        assert np.median(outside[:, 0]) < 15
    np.testing.assert_array_equal(
        found.silhouettes, read_silhouettes(root / "masks", one_size=False).silhouettes
    )
    assert found.left_out == ()
    assert found.rgb_windows_px is None


def test_what_lacks_its_colours_or_its_mask_is_left_out_and_counted(root: Path) -> None:
    (root / "colours/0002.jpg").unlink()
    (root / "masks/0004.png").unlink()
    found = joined(root)
    assert found.frame_indices.tolist() == [0, 2, 4, 5]
    assert found.left_out == ((1, "no colours"), (3, "no mask"))
    assert found.rgb_ratio() == pytest.approx([RATIOS[i] for i in (0, 2, 4, 5)])
    np.testing.assert_array_equal(
        found.silhouettes, np.stack([align(MASKS[i]) for i in (0, 2, 4, 5)])
    )


def test_whether_somebody_walks_is_told_by_the_places_that_frames_get(tmp_path: Path) -> None:
    clip = walk(num_frames=80)
    boxes = boxes_of(clip.masks)
    write_images(tmp_path / "masks", cut(clip.masks, boxes))
    write_colours(tmp_path / "colours", cut(colours_of(clip.masks), boxes))
    for number in range(1, 81):
        if number % 11:
            (tmp_path / f"masks/{number:04d}.png").unlink()
    alone = read_silhouettes(tmp_path / "masks", one_size=False).quality.is_walking
    found = joined(tmp_path)
    assert found.frame_indices.tolist() == list(range(10, 80, 11))
    expected = is_walking(
        found.boxes_px, found.frame_indices, found.fps, silhouettes=found.silhouettes
    )
    assert (expected != alone).any()
    np.testing.assert_array_equal(found.quality.is_walking, expected)


def test_colours_without_masks_are_counted_also_where_their_names_have_no_order(
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "masks", MASKS)
    write_colours(tmp_path / "colours", COLOURS)
    (tmp_path / "colours/0003.jpg").rename(tmp_path / "colours/portrait.jpg")
    found = joined(tmp_path)
    assert found.frame_indices.tolist() == [0, 1, 3, 4, 5]
    assert found.left_out == ((2, "no colours"), (6, "no mask"))


def test_colours_of_another_crop_are_left_out(root: Path) -> None:
    wide = np.pad(COLOURS[3], ((0, 0), (9, 9), (0, 0)))
    twice = cv2.resize(COLOURS[1], None, fx=2, fy=2)
    for number, picture in ((4, wide), (2, twice)):
        cv2.imwrite(str(root / f"colours/{number:04d}.jpg"), picture)
    found = joined(root)
    assert found.left_out == ((3, "colours of another crop"),)
    assert found.rgb_ratio() == pytest.approx([RATIOS[i] for i in (0, 1, 2, 4, 5)])


def test_masks_of_the_crops_may_lie_in_a_folder_of_their_own(root: Path) -> None:
    aligned = write_images(root / "aligned", [align(mask) for mask in MASKS])
    blank = np.zeros_like(MASKS[0])
    cv2.imwrite(str(root / "masks/0001.png"), blank)
    (root / "masks/0003.png").unlink()
    found = with_colours(
        read_aligned(aligned),
        mask_paths(aligned),
        root / "colours",
        colour_masks=root / "masks",
    )
    assert found.left_out == ((0, "no mask"), (2, "no mask"))
    kept = [1, 3, 4, 5]
    np.testing.assert_array_equal(found.silhouettes, np.stack([align(MASKS[i]) for i in kept]))
    expected = np.stack([cv2.resize(MASKS[i], (128, 128)) for i in kept])
    np.testing.assert_array_equal(found.rgb_masks, expected)
    assert found.rgb_ratio() == pytest.approx([RATIOS[i] for i in kept])


def test_masks_that_lie_among_the_colours_are_no_colours(root: Path) -> None:
    write_images(root / "colours", MASKS)
    assert joined(root).left_out == ()
    for path in (root / "colours").glob("*.jpg"):
        path.unlink()
    write_colours(root / "colours", COLOURS, "{:04d}.png")
    found = joined(root)
    assert found.rgb is not None
    expected = np.stack([cv2.resize(picture, (128, 128)) for picture in COLOURS])
    np.testing.assert_array_equal(found.rgb, expected)


def test_masks_among_the_colours_are_known_by_number_and_if_colours_are_few(root: Path) -> None:
    write_images(root / "colours", MASKS, "mask_{:04d}.png")
    assert joined(root).left_out == ()
    for number, path in enumerate(sorted((root / "colours").glob("*.png")), start=1):
        path.rename(root / f"colours/{number:04d}.png")
    for number in range(2, 7):
        (root / f"colours/{number:04d}.jpg").unlink()
    assert joined(root).left_out == tuple((index, "no colours") for index in range(1, 6))


@pytest.mark.parametrize("name", ["preview.jpg", "preview1.jpg"])
def test_a_stray_picture_hides_no_colours(name: str, tmp_path: Path) -> None:
    write_images(tmp_path / "masks", MASKS)
    write_colours(tmp_path / "colours", COLOURS, "{:04d}.png")
    write_colours(tmp_path / "colours", COLOURS[:1], name)
    found = joined(tmp_path)
    assert found.frame_indices.tolist() == list(range(6))
    assert found.left_out == ((6, "no mask"),)


def test_a_walk_without_colours_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    write_images(tmp_path / "masks", MASKS)
    with pytest.raises(NoColours, match="nothing in it can be seen"):
        joined(tmp_path)
    (tmp_path / "colours").mkdir()
    with pytest.raises(NoColours, match=r"not one of 6 .*6 no colours.*--video\.modalities"):
        joined(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"no picture"])
def test_a_picture_that_cannot_be_decoded_costs_its_frame(content: bytes, root: Path) -> None:
    (root / "colours/0002.jpg").write_bytes(content)
    found = joined(root)
    assert found.left_out == ((1, "bad colours"),)
    assert found.rgb_ratio() == pytest.approx([RATIOS[i] for i in (0, 2, 3, 4, 5)])
    for path in (root / "colours").iterdir():
        path.write_bytes(content)
    said = r"6 bad colours; the last: .*0006\.jpg: not a picture that can be decoded"
    with pytest.raises(NoColours, match=said):
        joined(root)


def test_a_picture_that_claims_to_be_huge_is_not_decoded(root: Path) -> None:
    _, bmp = cv2.imencode(".bmp", COLOURS[0])
    content = bytearray(bmp.tobytes())
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    (root / "colours/0002.jpg").unlink()
    (root / "colours/0002.bmp").write_bytes(content)
    assert joined(root).left_out == ((1, "bad colours"),)
    for path in (root / "colours").glob("*.jpg"):
        path.unlink()
    with pytest.raises(NoColours, match=r"the last: .*0002\.bmp: 60000×60000 px"):
        joined(root)


def test_a_mask_of_crops_that_is_none_costs_its_frame(root: Path) -> None:
    aligned = write_images(root / "aligned", [align(mask) for mask in MASKS])
    cv2.imwrite(str(root / "masks/0002.png"), COLOURS[1])
    found = with_colours(
        read_aligned(aligned),
        mask_paths(aligned),
        root / "colours",
        colour_masks=root / "masks",
    )
    assert found.left_out == ((1, "bad colours"),)
