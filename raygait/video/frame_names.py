"""The order of frames that are files of their own, and which files show the same frame.

Both are told by the number that ends the name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from raygait.errors import Undecodable

_NUMBER = re.compile(r"(?:(?P<whole>[0-9]+)\.)?(?P<digits>[0-9]+)$")

# What a name says beside the frame: `0001_keypoints.json`, `00001_2d_pose.txt`.
_WHAT = re.compile(r"[._-](?:(?:2d[._-])?(?:pose|poses|keypoints|joints))$", re.IGNORECASE)
# Of the picture that it was found in: `1.jpg.json`.
_OF_PICTURE = re.compile(r"[.](?:png|jpe?g|bmp)$", re.IGNORECASE)
# Where a name does not end in its frame's number; so it is in a part of OU-MVLP's poses.
_FOUR_DIGITS = re.compile(r"(?<![0-9])(?<![0-9][.])[0-9]{4}(?![0-9]|[.][0-9])")


def in_order(paths: Iterable[Path]) -> list[tuple[int, Path]]:
    """Files in the order of their frames, each with its number; `8.png` before `12.png`.

    Where no name ends in a number, the order is that of the names; where what is before a point
    changes too (`12.9.png`, `13.0.png`), the names end in time stamps. Both are counted from 0.

    Raises:
        Undecodable: The order is not clear: some names end in a number and some do not, two end in
            the same, time stamps follow different texts, or are in another order where what is
            behind the point is a number of its own (`12.9.png`, `12.10.png`).
    """
    paths = sorted(paths)
    found = {path: _NUMBER.search(path.stem) for path in paths}
    numbered = {path: match for path, match in found.items() if match is not None}
    if not numbered:
        return list(enumerate(paths))
    for path in paths:
        if path not in numbered:
            raise Undecodable(
                f"{path}: the name does not end in a frame number, those of others do"
            )
    if len({match["whole"] for match in numbered.values()}) > 1:
        numbers = {path: Decimal(".".join(_halves(match))) for path, match in numbered.items()}
        ordered = _each_once(numbers)
        _check_stamps({path: numbered[path] for path in ordered})
        return list(enumerate(ordered))
    numbers = {path: Decimal(match["digits"]) for path, match in numbered.items()}
    return [(int(numbers[path]), path) for path in _each_once(numbers)]


def _each_once(numbers: Mapping[Path, Decimal]) -> list[Path]:
    """The files by their numbers, none of which two have."""
    by_number: dict[Decimal, Path] = {}
    for path, number in numbers.items():
        other = by_number.setdefault(number, path)
        if other != path:
            raise Undecodable(
                f"{path}: frame {number}, and so is {other.name}; each frame is there once"
            )
    return [path for _, path in sorted(by_number.items())]


def _halves(stamp: re.Match[str]) -> tuple[str, str]:
    """What is before the point and behind it; `13` has no decimals."""
    return (stamp["digits"], "") if stamp["whole"] is None else (stamp["whole"], stamp["digits"])


def _check_stamps(ordered: Mapping[Path, re.Match[str]]) -> None:
    """That no other order is meant than that of time stamps, in which they are here.

    Counters behind a point, `2.9` and `2.10`, are in another one, if counters they can be: nobody
    writes the fifth as `05` beside `1`.
    """
    decimals = [_halves(stamp)[1] for stamp in ordered.values()]
    fewest = min(map(len, decimals))
    is_certain = any(len(behind) > fewest and behind.startswith("0") for behind in decimals)
    for (path, before), (next_path, after) in itertools.pairwise(ordered.items()):
        names = f"{path} and {next_path.name}"
        if before.string[: before.start()] != after.string[: after.start()]:
            raise Undecodable(f"{names}: time stamps after different texts: rename them")
        if not is_certain and _as_counters(before) >= _as_counters(after):
            raise Undecodable(
                f"{names}: in this order as time stamps, and in another one if what is behind the "
                "point is a number of its own; expected as many decimals in every name: rename them"
            )


def _as_counters(stamp: re.Match[str]) -> tuple[int, int]:
    whole, behind = _halves(stamp)
    return int(whole), int(behind or -1)


class Matched(NamedTuple):
    """Which files show the same frames as some others.

    Attributes:
        by_frame: Frame -> the file that shows it; those that have none are missing.
        alone: Files that show no such frame, by name.
    """

    by_frame: dict[Path, Path]
    alone: list[Path]


def match(frames: Iterable[Path], files: Iterable[Path]) -> Matched:
    """Find to each frame the file that shows it: by name, and where no name is shared by number.

    Names are compared without their endings, also those of pictures before them (`1.jpg.json`),
    without the zeros before the number that ends them, and without a last word such as `_keypoints`
    or `_2d_pose`. Of a number with a point both halves
    count: time stamps of other seconds are other frames, and no counter is a time stamp.

    Raises:
        Undecodable: Two files have one name.
    """
    frames, files = list(frames), sorted(files)
    by_name: dict[str, Path] = {}
    for path in files:
        other = by_name.setdefault(_name(path), path)
        if other != path:
            raise Undecodable(f"{path}: of the frame of {other.name}; expected one file a frame")
    found = {frame: by_name[_name(frame)] for frame in frames if _name(frame) in by_name}
    if not found:
        found = _by_number(frames, files)
    used = set(found.values())
    return Matched(found, [path for path in files if path not in used])


def _name(path: Path) -> str:
    """The name without what does not tell frames apart."""
    stem = _stem(path)
    number = _NUMBER.search(stem)
    if number is None or number["whole"] is not None:  # decimals begin with zeros that count
        return stem
    return f"{stem[: number.start('digits')]}{int(number['digits'])}"


def _stem(path: Path) -> str:
    return _OF_PICTURE.sub("", _WHAT.sub("", path.stem))


def _by_number(frames: list[Path], files: list[Path]) -> dict[Path, Path]:
    """Frames and the files of their numbers; none where these are not of one kind."""
    of_frames, of_files = _numbers(frames), _numbers(files)
    have_points = [
        any("." in number for number in numbers.values()) for numbers in (of_frames, of_files)
    ]
    if have_points[0] != have_points[1]:  # time stamps and counters
        return {}
    are_stamps = any(
        len({number.rpartition(".")[0] for number in numbers.values()}) > 1
        for numbers in (of_frames, of_files)
    )
    # Behind one and the same point may be a counter or decimals: only the same text is the same.
    key = Decimal if are_stamps or not have_points[0] else str
    by_number = _if_each_is_once(of_files, key)
    return {
        frame: by_number[number]
        for number, frame in _if_each_is_once(of_frames, key).items()
        if number in by_number
    }


def _numbers(paths: list[Path]) -> dict[Path, str]:
    """The number in each name, with what is before its point; names without one are missing."""
    numbers: dict[Path, str] = {}
    for path in paths:
        stem = _stem(path)
        found = _NUMBER.search(stem) or _FOUR_DIGITS.search(stem)
        if found:
            numbers[path] = found[0]
    return numbers


def _if_each_is_once(
    numbers: Mapping[Path, str], key: Callable[[str], Decimal | str]
) -> dict[Decimal | str, Path]:
    """Files by their numbers; none where two have the same: then it is no number of frames."""
    by_number: dict[Decimal | str, Path] = {}
    for path, number in numbers.items():
        if by_number.setdefault(key(number), path) != path:
            return {}
    return by_number
