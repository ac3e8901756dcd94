"""Joints beside masks: who of several is taken, what is left out, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from raygait.errors import NoPose
from raygait.video.aligned_masks import read_aligned
from raygait.video.alignment import align
from raygait.video.beside import with_joints
from raygait.video.extraction import ExtractedSequence
from raygait.video.mask_folders import mask_paths, read_silhouettes
from raygait.video.redraw import redraw
from tests.video.raw_layouts import walk, write_images, write_people, write_texts

CLIP = walk()
BOTH = ("silhouettes", "heatmaps_redrawn", "joints")


def joined(
    root: Path, modalities: tuple[str, ...] = BOTH, *, of_one_picture: bool = True
) -> ExtractedSequence:
    masks = mask_paths(root / "masks")
    found = read_silhouettes(root / "masks")
    return with_joints(
        found,
        masks,
        root / "poses",
        modalities,  # type: ignore[arg-type]
        of_one_picture=of_one_picture,
    )


def test_joints_come_out_as_they_are_and_are_drawn(tmp_path: Path) -> None:
    write_images(tmp_path / "masks", list(CLIP.masks))
    write_texts(tmp_path / "poses", CLIP.joints)
    found = joined(tmp_path)
    np.testing.assert_array_equal(found.joints, CLIP.joints)
    np.testing.assert_array_equal(found.heatmaps_redrawn, redraw(CLIP.joints))
    np.testing.assert_array_equal(
        found.silhouettes, read_silhouettes(tmp_path / "masks").silhouettes
    )
    assert found.left_out == ()
    only_drawn = joined(tmp_path, ("silhouettes", "heatmaps_redrawn"))
    assert only_drawn.joints is None
    assert only_drawn.heatmaps_redrawn is not None
    assert joined(tmp_path, ("silhouettes", "joints")).heatmaps_redrawn is None


def test_of_several_people_the_one_on_the_mask_is_taken_wherever_they_are_listed(
    tmp_path: Path,
) -> None:
    away = CLIP.joints + np.float32([130, 0, 0])
    half_on = CLIP.joints.copy()
    half_on[:, 5:, 0] += 200
    half_on[..., 2] = 1
    write_images(tmp_path / "masks", list(CLIP.masks))
    others = list(zip(away, half_on, CLIP.joints, strict=True))
    turned = [
        [frame[(place + turn) % 3] for place in range(3)] for turn, frame in enumerate(others)
    ]
    write_people(tmp_path / "poses", turned)
    np.testing.assert_array_equal(joined(tmp_path).joints, CLIP.joints)


def test_joints_that_were_not_seen_are_on_no_mask(tmp_path: Path) -> None:
    unseen = CLIP.joints.copy()
    unseen[:, 2:, 2] = 0
    seen = CLIP.joints.copy()
    seen[:, 9:, 0] += 200
    write_images(tmp_path / "masks", list(CLIP.masks))
    write_people(tmp_path / "poses", [list(pair) for pair in zip(unseen, seen, strict=True)])
    np.testing.assert_array_equal(joined(tmp_path).joints, seen)


def test_who_only_touches_the_mask_is_not_the_walker(tmp_path: Path) -> None:
    columns = [np.flatnonzero(mask.any(axis=0)) for mask in CLIP.masks]
    people = []
    for joints, own in zip(CLIP.joints, columns, strict=True):
        half_a_width = np.float32([np.ptp(own) / 2, 0, 0])
        people.append([joints + half_a_width])
    people[2] = [CLIP.joints[2]]
    one_joint = CLIP.joints[3] + np.float32([400, 0, 0])
    one_joint[15] = CLIP.joints[3, 15]
    people[3] = [one_joint]
    write_images(tmp_path / "masks", list(CLIP.masks))
    write_people(tmp_path / "poses", people)
    found = joined(tmp_path)
    assert found.frame_indices.tolist() == [2]
    assert found.left_out == tuple((index, "no pose") for index in (0, 1, 3, 4, 5))


def test_frames_without_a_pose_are_left_out_of_everything_and_counted(tmp_path: Path) -> None:
    people = [[joints] for joints in CLIP.joints]
    people[1] = []  # nobody was found
    people[2] = [CLIP.joints[2] + np.float32([400, 0, 0])]  # somebody outside of the picture
    write_images(tmp_path / "masks", list(CLIP.masks))
    write_people(tmp_path / "poses", people)
    (tmp_path / "poses/0005.json").unlink()
    found = joined(tmp_path)
    kept = [0, 3, 5]
    assert found.frame_indices.tolist() == kept
    assert found.left_out == ((1, "no pose"), (2, "no pose"), (4, "no pose"))
    np.testing.assert_array_equal(found.joints, CLIP.joints[kept])
    np.testing.assert_array_equal(found.silhouettes, np.stack([align(CLIP.masks[i]) for i in kept]))
    whole = read_silhouettes(tmp_path / "masks")
    np.testing.assert_array_equal(found.quality.mask_height_px, whole.quality.mask_height_px[kept])
    assert len(found.quality.is_walking) == len(found.boxes_px) == 3


def test_what_the_masks_had_left_out_stays_counted_in_order(tmp_path: Path) -> None:
    masks = CLIP.masks.copy()
    masks[3] = 0
    write_images(tmp_path / "masks", list(masks))
    write_texts(tmp_path / "poses", CLIP.joints)
    (tmp_path / "poses/0005.txt").unlink()
    (tmp_path / "poses/0001.txt").unlink()
    found = joined(tmp_path)
    assert found.left_out == ((0, "no pose"), (3, "small mask"), (4, "no pose"))
    np.testing.assert_array_equal(found.joints, CLIP.joints[[1, 2, 5]])


def test_where_masks_are_not_of_the_picture_one_person_is_taken_and_several_are_not(
    tmp_path: Path,
) -> None:
    elsewhere = CLIP.joints + np.float32([500, 500, 0])
    people = [[joints] for joints in elsewhere]
    people[4].append(CLIP.joints[4])
    write_images(tmp_path / "masks", [align(mask) for mask in CLIP.masks])
    write_people(tmp_path / "poses", people)
    found = with_joints(
        read_aligned(tmp_path / "masks"),
        mask_paths(tmp_path / "masks"),
        tmp_path / "poses",
        ("joints",),
        of_one_picture=False,
    )
    assert found.left_out == ((4, "several poses"),)
    np.testing.assert_array_equal(found.joints, elsewhere[[0, 1, 2, 3, 5]])


def test_a_walk_without_any_pose_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    write_images(tmp_path / "masks", list(CLIP.masks))
    with pytest.raises(NoPose, match="no pose file in it can be seen"):
        joined(tmp_path)
    write_people(tmp_path / "poses", [[] for _ in CLIP.masks])
    with pytest.raises(NoPose, match=r"not one of 6 masks .*6 no pose.* --video.modalities"):
        joined(tmp_path)


def test_a_damaged_file_costs_its_frame_and_not_the_walk(tmp_path: Path) -> None:
    write_images(tmp_path / "masks", list(CLIP.masks))
    write_texts(tmp_path / "poses", CLIP.joints)
    (tmp_path / "poses/0003.txt").write_text("90,200,1,2")
    found = joined(tmp_path)
    assert found.left_out == ((2, "bad pose"),)
    np.testing.assert_array_equal(found.joints, CLIP.joints[[0, 1, 3, 4, 5]])
    for path in (tmp_path / "poses").iterdir():
        path.write_text("90,200,1,2")
    with pytest.raises(NoPose, match=r"6 bad pose; the last: .*0006\.txt: 4 numbers"):
        joined(tmp_path)
