"""What each benchmark has, as data with its source: subjects, conditions, views, sequences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class SubjectGroup:
    """A part of a benchmark whose subjects have walks of one form.

    Attributes:
        name: What a report calls it.
        subjects: Who is in it.
        conditions: Names, or a regular expression as the only one, of the conditions there are.
        views: Names, or a regular expression, of the views there are.
        is_grid: Whether every subject walks in every condition and view.
        num_sequences: Sequences that the source counts; -1 when it does not.
        num_walks_each: Sequences of every subject, where they are no grid; 0 when it varies.
    """

    name: str
    subjects: tuple[str, ...]
    conditions: tuple[str, ...] | re.Pattern[str]
    views: tuple[str, ...] | re.Pattern[str]
    is_grid: bool = False
    num_sequences: int = -1
    num_walks_each: int = 0

    def has_condition(self, condition: str) -> bool:
        """Whether there is such a condition."""
        return _is_among(condition, self.conditions)

    def has_view(self, view: str) -> bool:
        """Whether there is such a view."""
        return _is_among(view, self.views)

    def grid(self) -> Iterable[tuple[str, str]]:
        """Every condition and view of a subject; nothing where they are no grid."""
        if not self.is_grid:
            return ()
        assert isinstance(self.conditions, tuple)
        assert isinstance(self.views, tuple)
        return itertools.product(self.conditions, self.views)


@dataclass(frozen=True)
class Expected:
    """What a benchmark has.

    Attributes:
        groups: Its parts; they share no subject.
        source: Where the numbers are printed.
    """

    groups: tuple[SubjectGroup, ...]
    source: str

    @cached_property
    def subjects(self) -> frozenset[str]:
        """Everybody in it."""
        return frozenset(subject for group in self.groups for subject in group.subjects)


def _is_among(name: str, names: tuple[str, ...] | re.Pattern[str]) -> bool:
    return name in names if isinstance(names, tuple) else names.fullmatch(name) is not None


def _numbered(
    first: int, last: int, digits: int, *, without: Iterable[int] = ()
) -> tuple[str, ...]:
    left_out = set(without)
    return tuple(f"{n:0{digits}d}" for n in range(first, last + 1) if n not in left_out)


def _degrees(*angles: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{angle:03d}" for angle in itertools.chain(*angles))


_ANY = re.compile(r".+")

CASIAB = Expected(
    (
        SubjectGroup(
            "all",
            _numbered(1, 124, 3),
            tuple(
                f"{kind}-{number:02d}"
                for kind, count in (("nm", 6), ("bg", 2), ("cl", 2))
                for number in range(1, count + 1)
            ),
            _degrees(range(0, 181, 18)),
            is_grid=True,
            num_sequences=13_640,
        ),
    ),
    "LGDiffGait section 4.1: 124 subjects, 11 views, 10 sequences each (13640)",
)

OUMVLP = Expected(
    (
        SubjectGroup(
            "all",
            _numbered(1, 10_307, 5),
            ("00", "01"),
            _degrees(range(0, 91, 15), range(180, 271, 15)),
            is_grid=True,
            num_sequences=288_596,
        ),
    ),
    "LMGCS section IV-B: 10307 subjects, 14 views, two sequences each (288596); people who came "
    "once lack some, which the protocols call invalid probes",
)

GREW = Expected(
    (
        SubjectGroup(
            "train",
            tuple(f"{subject}train" for subject in _numbered(1, 20_000, 5)),
            ("00",),
            _ANY,
            num_sequences=102_887,
        ),
        SubjectGroup(
            "gallery",
            _numbered(1, 6_000, 5),
            ("01", "02"),
            _ANY,
            num_sequences=12_000,
            num_walks_each=2,
        ),
        SubjectGroup("probe", ("probe",), ("03",), _ANY, num_sequences=12_000),
    ),
    "GaitGL (journal) section 4.1: 20000 subjects train (102887 sequences), 6000 are tested with "
    "four sequences each, two of them the gallery; the validation set is not used",
)

GAIT3D = Expected(
    (
        SubjectGroup(
            "all",
            _numbered(0, 3_999, 4),
            re.compile(r"camid\d+_videoid\d+"),
            re.compile(r"seq\d+"),
            num_sequences=25_309,
        ),
    ),
    "LGDiffGait section 4.1: 4000 subjects, 25309 sequences (18940 train, 6369 are tested)",
)

CCPG = Expected(
    (
        SubjectGroup(
            "all",
            _numbered(0, 199, 3),
            ("U0_D0", "U0_D0_BG", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3"),
            re.compile(r"\d+(_.*)?"),
        ),
    ),
    "Li et al., An In-Depth Exploration of Person Re-Identification and Gait Recognition in "
    "Cloth-Changing Conditions, CVPR 2023: 200 subjects; conditions as its protocol names them",
)

SUSTECH1K = Expected(
    (
        SubjectGroup(
            "all",
            _numbered(0, 1_057, 4, without=(352, 1047, 1048, *range(1050, 1055))),
            re.compile(r"\d\d-[a-z]{2}(-.+)?"),
            re.compile(r"\d{3}(-(far|near))?"),
            num_sequences=25_239,
        ),
    ),
    "Shen et al., LidarGait: Benchmarking 3D Gait Recognition with Point Clouds, CVPR 2023: 1050 "
    "subjects, 25239 sequences; numbers of the subjects as in the public partition",
)
