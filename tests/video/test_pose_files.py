"""Files of joints: what each form means, and what is refused with the file's name."""

import json
from pathlib import Path

import numpy as np
import pytest

from raygait.errors import BadPose, NoPose
from raygait.video.pose_files import MAX_POSE_BYTES, pose_paths, read_people

JOINTS = np.random.default_rng(0).uniform(1, 200, (17, 3)).round(3)


def text_of(joints: np.ndarray, *, before: str = "311,438") -> str:
    return ",".join([before, *map(str, joints.reshape(-1))])


def write(path: Path, content: str | bytes | object) -> Path:
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_of_text_is_two_numbers_and_seventeen_joints(end: str, tmp_path: Path) -> None:
    found = read_people(write(tmp_path / "1.txt", text_of(JOINTS) + end))
    np.testing.assert_array_equal(found, JOINTS[None].astype(np.float32))


@pytest.mark.parametrize(
    "form",
    [
        JOINTS.tolist(),
        JOINTS.reshape(-1).tolist(),
        [JOINTS.tolist()],
        [JOINTS.reshape(-1).tolist()],
        {"version": 1.2, "people": [{"pose_keypoints_2d": JOINTS.reshape(-1).tolist()}]},
    ],
    ids=["nested", "flat", "list of nested", "list of flat", "people"],
)
def test_each_form_of_json_is_the_same_joints(form: object, tmp_path: Path) -> None:
    found = read_people(write(tmp_path / "1.JSON", form))
    np.testing.assert_array_equal(found, JOINTS[None].astype(np.float32))


def test_eighteen_joints_lose_the_neck_and_come_in_the_order_of_coco(tmp_path: Path) -> None:
    names = [
        *("nose", "neck", "right shoulder", "right elbow", "right wrist"),
        *("left shoulder", "left elbow", "left wrist"),
        *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
        *("right eye", "left eye", "right ear", "left ear"),
    ]
    values = [value for place in range(18) for value in (place, 10 * place, 0.5)]
    found = read_people(write(tmp_path / "1.json", {"people": [{"pose_keypoints_2d": values}]}))
    assert [names[int(x)] for x in found[0, :, 0]] == [
        *("nose", "left eye", "right eye", "left ear", "right ear"),
        *("left shoulder", "right shoulder", "left elbow", "right elbow"),
        *("left wrist", "right wrist", "left hip", "right hip"),
        *("left knee", "right knee", "left ankle", "right ankle"),
    ]
    assert (found[0, :, 1] == 10 * found[0, :, 0]).all()


@pytest.mark.parametrize("nobody", [{"people": []}, []])
def test_a_frame_without_anybody_is_no_fault(nobody: object, tmp_path: Path) -> None:
    assert read_people(write(tmp_path / "1.json", nobody)).shape == (0, 17, 3)


@pytest.mark.parametrize("other", [{"pose_keypoints_2d": []}, {}, None], ids=str)
def test_one_bad_person_of_several_counts_and_spoils_nobody(other: object, tmp_path: Path) -> None:
    good = {"pose_keypoints_2d": JOINTS.reshape(-1).tolist()}
    found = read_people(write(tmp_path / "1.json", {"people": [other, good]}))
    np.testing.assert_array_equal(found, np.stack([0 * JOINTS, JOINTS]).astype(np.float32))


FLAT = JOINTS.reshape(-1).tolist()
BAD = {
    "fewer.txt": (text_of(JOINTS[:16]), "50 numbers, expected 53"),
    "more.txt": (text_of(JOINTS) + ",1", "54 numbers, expected 53"),
    "empty.txt": ("", "0 numbers"),
    "nan.txt": (text_of(JOINTS).replace(str(JOINTS[3, 1]), "nan"), "not finite"),
    "huge.txt": (text_of(JOINTS).replace(str(JOINTS[3, 1]), "1e300"), "not finite"),
    "words.txt": (text_of(JOINTS, before="width,height"), "'width' among its values"),
    "lines.txt": (text_of(JOINTS, before="1_0,438"), "'1_0' among its values"),
    "bytes.txt": (b"\xff\xfe\x00", "not text"),
    "large.txt": ("1," * (MAX_POSE_BYTES // 2 + 1), "a pose has at most"),
    "none.json": ("people", "not JSON"),
    "empty.json": ("", "not JSON"),
    "cut.json": (json.dumps(FLAT)[:-9], "not JSON"),
    "deep.json": ("[" * 200_000, "lists in lists"),
    "digits.json": ("[" + "9" * 5000 + "]", "not JSON"),
    "long.json": (json.dumps([10**400, *FLAT[1:]]), "hundreds of digits"),
    "nan.json": (json.dumps([float("nan"), *FLAT[1:]]), "not finite"),
    "words.json": (json.dumps(["a", *FLAT[1:]]), "a str among"),
    "truth.json": (json.dumps([True, *FLAT[1:]]), "a bool among"),
    "fewer.json": (json.dumps(FLAT[:-3]), "48 numbers of a person, expected 17 or 18"),
    "pairs.json": (json.dumps(JOINTS[:, :2].tolist()), "a joint of 2 values"),
    "other.json": ('{"poses": []}', "without people"),
    "nameless.json": ('{"people": [{"keypoints": []}]}', "no pose_keypoints_2d"),
    "nobody.json": ('{"people": [{"pose_keypoints_2d": []}, 3]}', "no pose_keypoints_2d"),
    "crowd.json": (json.dumps({"people": [{"pose_keypoints_2d": []}] * 1001}), "1001 people"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_pose_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, why = BAD[name]
    with pytest.raises(BadPose, match=why) as caught:
        read_people(write(tmp_path / name, content))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_folder_or_a_pipe_is_no_pose(tmp_path: Path) -> None:
    import os

    (tmp_path / "1.txt").mkdir()
    os.mkfifo(tmp_path / "2.txt")
    for name in ("1.txt", "2.txt", "3.txt"):
        with pytest.raises(BadPose, match="not a regular file"):
            read_people(tmp_path / name)


def test_where_names_say_two_dimensions_no_other_text_is_a_pose(tmp_path: Path) -> None:
    for name in ("1.png", "1_2d_pose.txt", "1_3d_pose.txt", "notes.txt", ".2_2d_pose.txt"):
        write(tmp_path / name, "")
    assert [path.name for path in pose_paths(tmp_path)] == ["1_2d_pose.txt"]
    for name in ("1_2d_pose.txt", "notes.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(NoPose, match="no pose file in it"):
        pose_paths(tmp_path)


def test_a_folder_without_poses_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoPose, match="no pose file in it, expected"):
        pose_paths(tmp_path)
    with pytest.raises(NoPose, match="No such file"):
        pose_paths(tmp_path / "gone")
