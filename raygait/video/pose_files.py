"""Files of joints, one a frame, as owners of data sets and pose networks write them.

| file | holds | who writes it |
|---|---|---|
| `.txt` | 53 numbers after commas: two that are passed over, 17 times x, y, score | Gait3D, GREW |
| `.json` | `people`, each with `pose_keypoints_2d`: 18 or 17 times x, y, score | OU-MVLP Pose |
| `.json` | a list of 17 times x, y, score, nested or flat, or of such lists | SUSTech1K |

Seventeen joints are COCO's. Eighteen are OpenPose's COCO model: the neck is left out, the others
are put into COCO's order.

Facts of the formats: OpenGait's `datasets/pretreatment.py`, `datasets/OUMVLP/oumvlp17.py` and
`datasets/SUSTech1K/pretreatment_SUSTech1K.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from raygait.errors import BadPose, NoPose

POSE_EXTENSIONS = frozenset((".txt", ".json"))
"""Files that are taken for poses; case does not matter."""

MAX_POSE_BYTES = 2**20
"""Largest file that is read: some thousand people, where a frame has a handful."""

_NUM_JOINTS = 17
# Numbers before the joints in a line of text: in Gait3D's, width and height of the crop.
_NUM_BEFORE = 2
# Where the joints of COCO are among OpenPose's eighteen, whose second is the neck.
_OF_EIGHTEEN = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
_MAX_PEOPLE = 1000


def pose_paths(folder: Path) -> list[Path]:
    """The pose files of a folder, by name.

    Where some names end in `_2d_pose`, as GREW's, no other file is one; `_3d_pose` never is.

    Raises:
        NoPose: No such folder, or no pose file in it.
    """
    try:
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in POSE_EXTENSIONS
            and not path.name.startswith(".")
            and not path.stem.lower().endswith("_3d_pose")
        )
    except OSError as error:
        raise NoPose(f"{folder}: no pose file in it can be seen: {error.strerror}") from error
    named = [path for path in paths if path.stem.lower().endswith("_2d_pose")]
    if not paths:
        raise NoPose(f"{folder}: no pose file in it, expected a .txt or .json for each mask")
    return named or paths


def read_people(path: Path) -> Float32[np.ndarray, "p 17 3"]:
    """The joints of each person that a pose file tells of, in its order; maybe of nobody.

    Returns:
        COCO-17: x, y in pixels of the picture that the pose was found in, and a score. Of several
        people one whose joints are not as below is counted, with zeros: not a joint was seen.

    Raises:
        BadPose: No file, over `MAX_POSE_BYTES`, not text, not of one of the forms above, or nobody
            in it whose joints are as many as they should be, each value a finite number.
    """
    text = _text(path)
    if path.suffix.lower() == ".txt":
        values = [_number(path, word) for word in text.replace(",", " ").split()]
        expected = _NUM_BEFORE + 3 * _NUM_JOINTS
        if len(values) != expected:
            raise BadPose(
                f"{path}: {len(values)} numbers, expected {expected}: {_NUM_BEFORE} and 17 times "
                "x, y, score"
            )
        return _joints(path, values[_NUM_BEFORE:])[None]
    people = _people(path, _parsed(path, text))
    if len(people) > _MAX_PEOPLE:
        raise BadPose(f"{path}: {len(people)} people, expected at most {_MAX_PEOPLE}")
    joints = np.zeros((len(people), _NUM_JOINTS, 3), np.float32)
    bad: list[BadPose] = []
    for place, person in enumerate(people):
        try:
            joints[place] = _joints(path, _flat(path, person))
        except BadPose as error:
            bad.append(error)
    if bad and len(bad) == len(people):
        raise bad[-1]
    return joints


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise BadPose(f"{path}: not a regular file, expected a pose")
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            content = file.read(num_bytes) if num_bytes <= MAX_POSE_BYTES else b""
    except OSError as error:
        raise BadPose(f"{path}: cannot be read ({error.strerror})") from error
    if num_bytes > MAX_POSE_BYTES:
        raise BadPose(f"{path}: {num_bytes} bytes, a pose has at most {MAX_POSE_BYTES}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPose(f"{path}: not text ({len(content)} bytes), expected a pose") from error


def _number(path: Path, word: str) -> float:
    try:
        if "_" in word:  # Python reads 1_0 as ten
            raise ValueError
        return float(word)
    except ValueError as error:
        raise BadPose(f"{path}: {word[:20]!r} among its values, expected numbers") from error


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BadPose(f"{path}: lists in lists without end, expected a pose") from error
    except ValueError as error:
        raise BadPose(f"{path}: not JSON ({str(error)[:80]})") from error


def _people(path: Path, value: Any) -> list[Any]:
    """One value a person, whatever the form."""
    match value:
        case {"people": list(people)}:
            return [p.get("pose_keypoints_2d") if isinstance(p, dict) else None for p in people]
        case []:
            return []
        case [[[*_], *_], *_] | [[_, _, _, _, *_], *_]:
            return list(value)
        case [*_]:
            return [value]
    raise BadPose(f"{path}: JSON without people and no list of joints either")


def _flat(path: Path, person: Any) -> list[float]:
    """The numbers of a person, `[x, y, score, x, ...]` or `[[x, y, score], ...]`."""
    if not isinstance(person, list):
        raise BadPose(f"{path}: joints that are no list, or no pose_keypoints_2d")
    values = []
    for item in person:
        numbers = item if isinstance(item, list) else [item]
        if isinstance(item, list) and len(item) != 3:
            raise BadPose(f"{path}: a joint of {len(item)} values, expected x, y, score")
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise BadPose(f"{path}: a {type(number).__name__} among its joints' values")
            values.append(number)
    return values


def _joints(path: Path, values: list[float]) -> Float32[np.ndarray, "17 3"]:
    num_joints, rest = divmod(len(values), 3)
    if rest or num_joints not in (_NUM_JOINTS, len(_OF_EIGHTEEN) + 1):
        raise BadPose(
            f"{path}: {len(values)} numbers of a person, expected 17 or 18 times x, y, score"
        )
    try:
        with np.errstate(over="ignore"):  # refused below
            joints = np.array(values, np.float64).astype(np.float32).reshape(-1, 3)
    except OverflowError as error:
        raise BadPose(f"{path}: a number of hundreds of digits among its values") from error
    if not np.isfinite(joints).all():
        raise BadPose(
            f"{path}: values that are not finite, expected x, y and a score of each joint"
        )
    return joints if num_joints == _NUM_JOINTS else joints[list(_OF_EIGHTEEN)]
