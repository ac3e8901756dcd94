"""Splits and protocols as data, each with the table or section it comes from.

A split says which subjects train and which are tested; a protocol says which walks of the tested
subjects are the gallery, which are probes, and which pairs are compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raygait.errors import DatasetError, SplitMismatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubjectSplit:
    """Subjects that train, and others that are tested.

    Attributes:
        name: What a recipe calls it.
        train: Sorted subjects of the training set.
        test: Sorted subjects of the test set; none of them trains.
        source: Where the split is defined.

    Raises:
        SplitMismatch: A subject is on both sides.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        leaked = sorted(set(self.train) & set(self.test))
        if leaked:
            raise SplitMismatch(
                f"split {self.name!r} trains on subjects that it tests: {_few(leaked)}"
            )


@dataclass(frozen=True)
class CrossViewProtocol:
    """Rank-1 for every probe view against every other gallery view, as CASIA-B is scored.

    Attributes:
        name: What a recipe calls it.
        source: Where the protocol is defined.
        gallery_conditions: Walks whose subjects are known.
        probe_conditions: Name of a probe set -> its walks.
        exclude_identical_view: Whether a probe is compared with other views only.
    """

    name: str
    source: str
    gallery_conditions: tuple[str, ...]
    probe_conditions: Mapping[str, tuple[str, ...]]
    exclude_identical_view: bool = True


CASIAB = CrossViewProtocol(
    name="casiab",
    source=(
        "GaitGL (journal) section 4.1 and Table 1; GaitEdge section 5.1 and Table 3: gallery "
        "NM#01-04, probes NM#05-06, BG#01-02, CL#01-02, identical views left out"
    ),
    gallery_conditions=("nm-01", "nm-02", "nm-03", "nm-04"),
    probe_conditions={
        "NM": ("nm-05", "nm-06"),
        "BG": ("bg-01", "bg-02"),
        "CL": ("cl-01", "cl-02"),
    },
)

PROTOCOLS: dict[str, CrossViewProtocol] = {CASIAB.name: CASIAB}

# Name -> training subjects of CASIA-B's 124 and where the number is printed. That they are the
# first is printed for LT only and the field's habit for the other two.
_CASIAB_TRAIN = {
    "casiab-st": (24, "LMGCS section IV-A and Table III: 24 subjects train, 100 are tested"),
    "casiab-mt": (62, "LMGCS section IV-A and Table IV: 62 subjects train, 62 are tested"),
    "casiab-lt": (74, "GaitEdge section 5.1, LGDiffGait section 4.1: the first 74 train"),
}
_CASIAB_SUBJECTS = 124


def protocol(name: str) -> CrossViewProtocol:
    """A protocol by its name.

    Raises:
        DatasetError: There is none of this name.
    """
    if name not in PROTOCOLS:
        raise DatasetError(f"no protocol is named {name!r}; there are {sorted(PROTOCOLS)}")
    return PROTOCOLS[name]


def check_name(name: str) -> None:
    """Whether a split has this name, without any data.

    Raises:
        DatasetError: There is no split of this name.
    """
    is_first = name.startswith("first:") and name.removeprefix("first:").isdecimal()
    if name not in _CASIAB_TRAIN and not is_first:
        raise DatasetError(
            f"no split is named {name!r}; there are {', '.join(_CASIAB_TRAIN)} and first:N"
        )


def split(name: str, subjects: Iterable[str]) -> SubjectSplit:
    """Split the subjects that a data set has.

    Args:
        name: `casiab-st`, `casiab-mt`, `casiab-lt` (the first 24, 62 or 74 of CASIA-B's 124
            subjects train), or `first:N`: the first N subjects in sorted order train, the others
            are tested.
        subjects: Subjects that are there; repeats and the unknown subject (empty) do not count.

    Returns:
        The subjects that are there, on their sides. Subjects of a benchmark that are not there
        are named in the log: a table without them is not the benchmark's.

    Raises:
        SplitMismatch: No subject is left on one side, or a subject is on neither.
        DatasetError: There is no split of this name.
    """
    check_name(name)
    present = sorted({subject for subject in subjects if subject})
    if name in _CASIAB_TRAIN:
        num_train, source = _CASIAB_TRAIN[name]
        known = [f"{number:03d}" for number in range(1, _CASIAB_SUBJECTS + 1)]
        strangers = sorted(set(present) - set(known))
        if strangers:
            raise SplitMismatch(
                f"split {name!r} knows subjects 001 to {known[-1]}, the data set also has "
                f"{_few(strangers)}; use first:N for other data sets"
            )
        train = [subject for subject in known[:num_train] if subject in present]
        absent = sorted(set(known) - set(present))
        if absent:
            logger.warning(
                "split %r: %d of its %d subjects are not there (%s); its numbers are not the "
                "benchmark's",
                name,
                len(absent),
                _CASIAB_SUBJECTS,
                _few(absent),
            )
    else:
        train = present[: int(name.removeprefix("first:"))]
        source = "the subjects in sorted order"
    test = [subject for subject in present if subject not in set(train)]
    if not train or not test:
        raise SplitMismatch(
            f"split {name!r} of {len(present)} subjects leaves {len(train)} to train and "
            f"{len(test)} to test; both need at least one"
        )
    return SubjectSplit(name, tuple(train), tuple(test), source)


def _few(subjects: list[str]) -> str:
    return ", ".join(subjects[:5]) + (", ..." if len(subjects) > 5 else "")
