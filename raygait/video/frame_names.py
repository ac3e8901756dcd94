"""The order of frames that are files of their own: the number that ends the name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from raygait.errors import Undecodable

_NUMBER = re.compile(r"(?:(?P<whole>[0-9]+)\.)?(?P<digits>[0-9]+)$")


def in_order(paths: Iterable[Path]) -> list[tuple[int, Path]]:
    """Files in the order of their frames, each with its number; `8.png` before `12.png`.

    Where no name ends in a number, the order is that of the names; where what is before a point
    changes too (`12.9.png`, `13.0.png`), the names end in time stamps. Both are counted from 0.

    Raises:
        Undecodable: The order is not clear: some names end in a number and some do not, two end in
            the same, or time stamps have different numbers of decimals.
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
    is_stamped = len({match["whole"] for match in numbered.values()}) > 1
    if is_stamped:
        _check_stamps(numbered)
    by_number: dict[int, Path] = {}
    for path, match in numbered.items():
        number = int((match["whole"] if is_stamped else "") + match["digits"])
        other = by_number.setdefault(number, path)
        if other != path:
            raise Undecodable(
                f"{path}: frame {number}, and so is {other.name}; each frame is there once"
            )
    ordered = sorted(by_number.items())
    return list(enumerate(path for _, path in ordered)) if is_stamped else ordered


def _check_stamps(numbered: dict[Path, re.Match[str]]) -> None:
    """That digits compare as numbers do: as many behind the point, the same text before all."""
    forms = {
        (match.string[: match.start()], match["whole"] is None, len(match["digits"])): path
        for path, match in numbered.items()
    }
    if len(forms) > 1:
        one, other = list(forms.values())[:2]
        raise Undecodable(
            f"{one}: ends in a number with a point, and {other.name} in one with other decimals or "
            "another text before it; expected as many decimals in every name: rename them"
        )
