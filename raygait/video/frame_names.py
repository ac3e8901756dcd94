"""The order of frames that are files of their own: the number that ends the name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

from raygait.errors import Undecodable

_NUMBER = re.compile(r"(?:(?P<whole>[0-9]+)\.)?(?P<digits>[0-9]+)$")


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
