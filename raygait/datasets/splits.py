"""Which subjects train and which are tested: the benchmarks' splits as data, and a user's own.

Where a rule gives the subjects of a benchmark, the rule stands here with its source. Where only a
list does (Gait3D, SUSTech1K), it is read from the partition file that its owners publish: a JSON
object with `TRAIN_SET` and `TEST_SET`, lists of subjects, and where the benchmark says which walks
are looked for, `PROBE_SET` or `GALLERY_SET`, lists of `subject-condition-view`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygait.errors import DatasetError, SplitMismatch

logger = logging.getLogger(__name__)

# The largest published partition file has 0.3 MB; a gigabyte of JSON is a mistake.
_LARGEST_FILE_BYTES = 64_000_000
_SUBJECT_LISTS = ("TRAIN_SET", "TEST_SET")
_SEQUENCE_LISTS = ("PROBE_SET", "GALLERY_SET")


@dataclass(frozen=True)
class SequenceLists:
    """Walks that a partition file names as probes or as gallery.

    Attributes:
        probe: `subject-condition-view` of each probe; empty: all that `gallery` does not name.
        gallery: `subject-condition-view` of each gallery walk; empty: all that are no probes.
    """

    probe: frozenset[str] = frozenset()
    gallery: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.probe or self.gallery)


@dataclass(frozen=True)
class SubjectSplit:
    """Subjects that train, and others that are tested.

    Attributes:
        name: What a recipe calls it.
        train: Sorted subjects of the training set.
        test: Sorted subjects of the test set; none of them trains.
        source: Where the split is defined.
        unlabelled: Names under which the test set holds walks of unknown people, such as GREW's
            `probe`; they are no subjects and count as none.
        lists: Probes and gallery, where the partition file names them.

    Raises:
        SplitMismatch: A subject is on both sides.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    source: str
    unlabelled: tuple[str, ...] = ()
    lists: SequenceLists = SequenceLists()

    def __post_init__(self) -> None:
        leaked = sorted(set(self.train) & {*self.test, *self.unlabelled})
        if leaked:
            raise SplitMismatch(
                f"split {self.name!r} trains on subjects that it tests: {_few(leaked)}"
            )

    @property
    def embedded(self) -> tuple[str, ...]:
        """What rows of the test set are filed under: the tested subjects, and the unknown."""
        return (*self.test, *self.unlabelled)


@dataclass(frozen=True)
class _Benchmark:
    """Subjects of a benchmark, by a rule."""

    num_train: int
    num_test: int
    source: str
    subjects: Callable[[], tuple[list[str], list[str]]]
    unlabelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Listed:
    """A benchmark whose subjects no rule gives, only its partition file."""

    num_train: int
    num_test: int
    source: str
    needs_probes: bool


def _casiab(num_train: int, source: str) -> _Benchmark:
    def subjects() -> tuple[list[str], list[str]]:
        everyone = [f"{number:03d}" for number in range(1, 125)]
        return everyone[:num_train], everyone[num_train:]

    return _Benchmark(num_train, 124 - num_train, source, subjects)


def _oumvlp() -> tuple[list[str], list[str]]:
    last = 10_307
    train = [f"{number:05d}" for number in range(1, last, 2)]
    return train, [*(f"{number:05d}" for number in range(2, last, 2)), f"{last:05d}"]


def _grew() -> tuple[list[str], list[str]]:
    train = [f"{number:05d}train" for number in range(1, 20_001)]
    return train, [f"{number:05d}" for number in range(1, 6001)]


def _ccpg() -> tuple[list[str], list[str]]:
    return [f"{number:03d}" for number in range(100)], [
        f"{number:03d}" for number in range(100, 200)
    ]


# That the training subjects are the first is printed for LT only, and the field's habit for ST and
# MT. Which subjects of OU-MVLP, GREW and CCPG train is what the partition lists say that OpenGait
# publishes (`datasets/*/*.json`, commit 0efafd4).
_BENCHMARKS = {
    "casiab-st": _casiab(24, "LMGCS section IV-A and Table III: 24 subjects train, 100 are tested"),
    "casiab-mt": _casiab(62, "LMGCS section IV-A and Table IV: 62 subjects train, 62 are tested"),
    "casiab-lt": _casiab(74, "GaitEdge section 5.1, LGDiffGait section 4.1: the first 74 train"),
    "oumvlp": _Benchmark(
        5153,
        5154,
        "OU-MVLP's owners' list: odd numbers train; even ones and 10307 are tested",
        _oumvlp,
    ),
    "grew": _Benchmark(
        20_000,
        6000,
        "GaitGL (journal) section 4.1: 20,000 subjects train, 6000 are tested; the names are those "
        "of the distributed folders",
        _grew,
        ("probe",),
    ),
    "ccpg": _Benchmark(100, 100, "CCPG's partition list: 000-099 train, 100-199 are tested", _ccpg),
}
_LISTED = {
    "gait3d": _Listed(
        3000,
        1000,
        "GaitGL (journal) section 4.1: 3000 subjects train, 1000 are tested, one walk of each is "
        "the probe",
        needs_probes=True,
    ),
    "sustech1k": _Listed(
        250, 800, "SUSTech1K's partition list: 250 train, 800 are tested", needs_probes=False
    ),
}
_PARTITION = "partition"
_FIRST = "first"
_TTG200 = "ttg200"
_TTG200_NUM_TRAIN, _TTG200_NUM_SUBJECTS = 120, 200
_TTG200_SOURCE = "GaitEdge section 5.1: the first 120 subjects train, the last 80 are tested"


def names() -> list[str]:
    """What a split may be called; capitals stand for a number or for the path of a file."""
    return [
        *_BENCHMARKS,
        _TTG200,
        *(f"{name}:PATH" for name in _LISTED),
        f"{_PARTITION}:PATH",
        f"{_FIRST}:N",
    ]


def num_training_subjects(name: str) -> int | None:
    """How many subjects train by a split when all are there; `None`: a file says that.

    Args:
        name: As for `split`; `gait3d` and `sustech1k` may be without a path.
    """
    kind, _, rest = name.partition(":")
    if kind == _FIRST and rest.isdecimal():
        return int(rest)
    if kind in _LISTED:
        return _LISTED[kind].num_train
    if name in _BENCHMARKS:
        return _BENCHMARKS[name].num_train
    return _TTG200_NUM_TRAIN if name == _TTG200 else None


def check_name(name: str) -> None:
    """Whether a split has this name and its partition file, if it has one, can be used.

    Raises:
        DatasetError: There is no split of this name, or its file is none.
        SplitMismatch: The file lists a subject on both sides.
    """
    kind, colon, rest = name.partition(":")
    if kind in (*_LISTED, _PARTITION) and colon and rest:
        _read(name)
    elif name in _LISTED:
        listed = _LISTED[name]
        raise DatasetError(
            f"split {name!r} needs the benchmark's partition file, which lists its "
            f"{listed.num_train} training and {listed.num_test} test subjects: give {name}:PATH"
        )
    elif not (
        name in _BENCHMARKS
        or name == _TTG200
        or (kind == _FIRST and rest.isascii() and rest.isdecimal())
    ):
        raise DatasetError(f"no split is named {name!r}; there are {', '.join(names())}")


def lists_of(name: str) -> SequenceLists:
    """Probes and gallery that a split's partition file names; empty if it has none.

    Raises:
        DatasetError: As `check_name`.
    """
    check_name(name)
    return (
        _read(name).lists if name.partition(":")[0] in (*_LISTED, _PARTITION) else SequenceLists()
    )


def with_absolute_path(name: str) -> str:
    """The same split, its partition file named by a path that means the same in every process."""
    kind, colon, path = name.partition(":")
    if kind in (*_LISTED, _PARTITION) and colon and path:
        return f"{kind}:{Path(path).expanduser().absolute()}"
    return name


def split(name: str, subjects: Iterable[str], *, trains: bool = True) -> SubjectSplit:
    """Split the subjects that a data set has.

    Args:
        name: One of
            `casiab-st`, `casiab-mt`, `casiab-lt`: the first 24, 62 or 74 of CASIA-B's 124 train;
            `oumvlp`, `grew`, `ccpg`: these benchmarks' subjects, by their numbers;
            `ttg200`: the first 120 of 200 subjects in order train;
            `gait3d:PATH`, `sustech1k:PATH`: as the benchmark's partition file lists them;
            `partition:PATH`: as any partition file lists them;
            `first:N`: the first N subjects in sorted order train, the others are tested.
        subjects: Subjects that are there; repeats and the unknown subject (empty) do not count.
        trains: Whether subjects to train are needed too, and not only those to test.

    Returns:
        The subjects that are there, on their sides. Subjects of a benchmark that are not there
        are named in the log: a table without them is not the benchmark's.

    Raises:
        SplitMismatch: No subject is left on one side, or a subject is on neither or on both.
        DatasetError: There is no split of this name, or its partition file is none.
    """
    check_name(name)
    present = sorted({subject for subject in subjects if subject})
    if name.startswith(f"{_FIRST}:"):
        whole = _first(name, present, int(name.partition(":")[2]), "the subjects in sorted order")
    elif name == _TTG200:
        if len(present) != _TTG200_NUM_SUBJECTS:
            # Who is the 120th depends on all before being there.
            raise SplitMismatch(
                f"split {name!r} takes the first {_TTG200_NUM_TRAIN} of {_TTG200_NUM_SUBJECTS} "
                f"subjects, the data set has {len(present)}; use first:N or partition:PATH"
            )
        whole = _first(name, present, _TTG200_NUM_TRAIN, _TTG200_SOURCE)
    else:
        whole = _whole(name)
        _compare(whole, present)
    there = set(present)
    result = SubjectSplit(
        name,
        tuple(subject for subject in whole.train if subject in there),
        tuple(subject for subject in whole.test if subject in there),
        whole.source,
        tuple(subject for subject in whole.unlabelled if subject in there),
        whole.lists,
    )
    if not result.test or (trains and not result.train):
        raise SplitMismatch(
            f"split {name!r} of {len(present)} subjects leaves {len(result.train)} to train and "
            f"{len(result.test)} to test; "
            + ("both need at least one" if trains else "none can be tested")
        )
    return result


def _first(name: str, present: list[str], num_train: int, source: str) -> SubjectSplit:
    return SubjectSplit(name, tuple(present[:num_train]), tuple(present[num_train:]), source)


def _whole(name: str) -> SubjectSplit:
    """All subjects of a benchmark or of a partition file, whether they are there or not."""
    if name in _BENCHMARKS:
        benchmark = _BENCHMARKS[name]
        train, test = benchmark.subjects()
        return SubjectSplit(name, tuple(train), tuple(test), benchmark.source, benchmark.unlabelled)
    return _read(name)


def _compare(whole: SubjectSplit, present: list[str]) -> None:
    """Raise for subjects of neither side, and log those that are not there."""
    known = {*whole.train, *whole.test}
    if not known:
        raise DatasetError(f"split {whole.name!r} lists no subject, neither to train nor to test")
    strangers = sorted(set(present) - known - set(whole.unlabelled))
    if strangers:
        raise SplitMismatch(
            f"split {whole.name!r} knows {len(known)} subjects, {min(known)} to {max(known)}, the "
            f"data set also has {_few(strangers)}; use first:N or partition:PATH for other data "
            f"sets"
        )
    absent = sorted(known - set(present))
    if absent:
        logger.warning(
            "split %r: %d of its %d subjects are not there (%s); its numbers are not the "
            "benchmark's",
            whole.name,
            len(absent),
            len(known),
            _few(absent),
        )


def _read(name: str) -> SubjectSplit:
    """The split of a partition file.

    Raises:
        DatasetError: Not such a file; the message says what is wrong with it.
        SplitMismatch: It lists a subject on both sides.
    """
    kind, _, rest = name.partition(":")
    path = Path(rest).expanduser()
    content = _content(path)
    lists = {key: _strings(path, key, content[key]) for key in content}
    train, test = (lists[key] for key in _SUBJECT_LISTS)
    probe, gallery = (frozenset(lists.get(key, ())) for key in _SEQUENCE_LISTS)
    source = f"partition file {path.name}"
    unlabelled = _unlabelled(train, test)
    result = SubjectSplit(
        name,
        tuple(sorted(train)),
        tuple(sorted(set(test) - set(unlabelled))),
        source,
        unlabelled,
        SequenceLists(probe, gallery),
    )
    both = sorted(probe & gallery)
    if both:
        raise DatasetError(f"{path}: PROBE_SET and GALLERY_SET both name {_few(both)}")
    _check_tested(path, [*probe, *gallery], set(test))
    listed = _LISTED.get(kind)
    if listed is None:
        return result
    if listed.needs_probes and not probe:
        raise DatasetError(f"{path}: split {kind!r} needs PROBE_SET, the walks to look for")
    if (len(train), len(test)) != (listed.num_train, listed.num_test):
        logger.warning(
            "%s lists %d training and %d test subjects, %s has %d and %d; its numbers are not the "
            "benchmark's",
            path,
            len(train),
            len(test),
            kind,
            listed.num_train,
            listed.num_test,
        )
    return SubjectSplit(
        name, result.train, result.test, f"{listed.source}; {source}", lists=result.lists
    )


def _unlabelled(train: list[str], test: list[str]) -> tuple[str, ...]:
    """Names in a test list that are no subjects: GREW's, told by who is beside them."""
    grew = _BENCHMARKS["grew"]
    unknown = tuple(name for name in grew.unlabelled if name in test)
    if not unknown:
        return ()
    known_train, known_test = map(set, grew.subjects())
    is_grew = known_train.issuperset(train) and known_test.issuperset({*test} - {*unknown})
    return unknown if is_grew else ()


def _content(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DatasetError(f"{path} is no file; expected a partition file")
        if size > _LARGEST_FILE_BYTES:
            raise DatasetError(
                f"{path} has {size} bytes; a partition file lists names and has less than "
                f"{_LARGEST_FILE_BYTES}"
            )
        content = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except OSError as error:
        raise DatasetError(
            f"{path}: the partition file cannot be read: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a partition file: {error}") from error
    known = (*_SUBJECT_LISTS, *_SEQUENCE_LISTS)
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path}: not a partition file: expected an object with {', '.join(known)}"
        )
    missing = [key for key in _SUBJECT_LISTS if key not in content]
    unknown = sorted(set(content) - set(known))
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has unknown {_few(unknown)}"] if unknown else []
        raise DatasetError(
            f"{path} {' and '.join(said)}; a partition file has TRAIN_SET, TEST_SET and perhaps "
            f"PROBE_SET or GALLERY_SET"
        )
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {_few(_repeated(keys))} twice")
    return found


def _strings(path: Path, key: str, values: Any) -> list[str]:
    if not isinstance(values, list):
        raise DatasetError(f"{path}: {key} is {type(values).__name__}, expected a list of names")
    for value in values:
        if not isinstance(value, str) or not value:
            raise DatasetError(
                f"{path}: {key} holds {str(value)[:40]!r} ({type(value).__name__}), expected names "
                f'as text, such as "001"'
            )
    repeated = _repeated(values)
    if repeated:
        raise DatasetError(f"{path}: {key} names {_few(repeated)} more than once")
    return values


def _check_tested(path: Path, sequences: Iterable[str], tested: set[str]) -> None:
    """Each listed walk is of a tested subject; a subject may have dashes in its name."""

    def is_tested(sequence: str) -> bool:
        parts = sequence.split("-")
        return any("-".join(parts[:end]) in tested for end in range(1, len(parts)))

    strangers = sorted(sequence for sequence in sequences if not is_tested(sequence))
    if strangers:
        raise DatasetError(
            f"{path}: PROBE_SET or GALLERY_SET names walks of subjects that TEST_SET does not "
            f"have: {_few(strangers)}; expected subject-condition-view"
        )


def _repeated(values: list[str]) -> list[str]:
    return sorted(value for value, times in Counter(values).items() if times > 1)


def _few(subjects: list[str]) -> str:
    return ", ".join(subjects[:5]) + (", ..." if len(subjects) > 5 else "")
