"""The file of nearest gallery walks that a benchmark's server scores (GREW), and its check.

A line a probe: the video's id, then the ids of the nearest gallery walks' subjects, the nearest
first; a subject may come more than once. Subjects' ids are whole numbers without leading zeros.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from raygait.datasets.protocols import Protocol
from raygait.errors import DatasetError
from raygait.evaluation.ranking import top_k

# GREW's file has 18,000 lines of 150 characters; a hundred times that is no submission.
_LARGEST_FILE_BYTES = 300_000_000
_VIDEO = "videoId"
_LONGEST_VIDEO = 1000


@dataclass(frozen=True)
class Expected:
    """What a complete submission is about.

    Attributes:
        videos: Ids of the probes.
        subjects: Ids of the gallery's subjects, as the file has them.
    """

    videos: frozenset[str]
    subjects: frozenset[str]


def header(num_ranks: int) -> list[str]:
    """Names of the columns."""
    return [_VIDEO, *(f"rank{k}" for k in range(1, num_ranks + 1))]


def expected(
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: Protocol,
    unlabelled: Collection[str],
) -> Expected:
    """What the submission of a data set has to hold.

    Args:
        subjects: Subject of each sequence, or the name that unknown ones are filed under.
        conditions: Condition of each.
        views: View of each; of a probe, the id of its video.
        protocol: The submission.
        unlabelled: Names that unknown people are filed under.

    Raises:
        DatasetError: There is no probe or no gallery, or the gallery has too few walks; the id of a
            probe's video is nothing, has spaces around it, or is another's too; a subject of the
            gallery is no number, or two are the same one but for leading zeros.
    """
    subject, _, view = (np.asarray(labels, dtype=str) for labels in (subjects, conditions, views))
    probe, gallery = _roles(subjects, conditions, protocol, unlabelled)
    if len(gallery) < protocol.submission:
        raise DatasetError(
            f"protocol {protocol.name!r} names the {protocol.submission} nearest gallery walks, "
            f"there are {len(gallery)}"
        )
    videos = view[probe].tolist()
    for video in videos:
        _check_video(video, f"protocol {protocol.name!r}: a probe's view is its video id")
    repeated = [video for video, times in Counter(videos).items() if times > 1]
    if repeated:
        raise DatasetError(
            f"protocol {protocol.name!r}: two probes have the video id {_few(repeated)}; each "
            f"needs its own, as the view"
        )
    by_number: dict[str, list[str]] = {}
    for each in np.unique(subject[gallery]).tolist():
        by_number.setdefault(_number(each), []).append(each)
    for number, names in by_number.items():
        if len(names) > 1:
            raise DatasetError(
                f"protocol {protocol.name!r}: subjects {_few(names)} of the gallery are one "
                f"number, {number}, in the submission; each needs its own"
            )
    return Expected(frozenset(videos), frozenset(by_number))


def write(
    path: Path,
    embeddings: Float32[ndarray, "n p d"],
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: Protocol,
    unlabelled: Collection[str],
    *,
    device: str = "cpu",
) -> int:
    """Rank the gallery for each probe and write the file, whole or not at all.

    Args:
        path: File to write.
        embeddings: One a sequence.
        subjects: As in `expected`, and so is what follows.
        conditions: Condition of each.
        views: View of each.
        protocol: The submission.
        unlabelled: Names that unknown people are filed under.
        device: Where distances are computed.

    Returns:
        Number of probes.

    Raises:
        DatasetError: As `expected`. Nothing is written then.
        OSError: The file cannot be written.
    """
    due = expected(subjects, conditions, views, protocol, unlabelled)
    probe, gallery = _roles(subjects, conditions, protocol, unlabelled)
    view = np.asarray(views, dtype=str)
    probe = probe[np.argsort(view[probe], kind="stable")]
    found = top_k(
        embeddings[probe],
        embeddings[gallery],
        protocol.submission,
        metric=protocol.metric,
        device=device,
    )
    numbers = np.array([_number(each) for each in np.asarray(subjects)[gallery].tolist()])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(protocol.submission))
    writer.writerows(
        [video, *line]
        for video, line in zip(view[probe].tolist(), numbers[found].tolist(), strict=True)
    )
    _check_text(text.getvalue(), path, protocol, due)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text.getvalue(), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return len(probe)


def check(path: Path, protocol: Protocol, due: Expected | None = None) -> int:
    """Whether a file is what the server expects.

    Args:
        path: The file.
        protocol: The submission.
        due: What it has to hold; `None` looks at its form alone.

    Returns:
        Number of probes in it.

    Raises:
        DatasetError: It is not; the message says what is wrong and in which line.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise DatasetError(f"{path} has {path.stat().st_size} bytes; no submission is so large")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not a submission: {error}") from error
    return _check_text(text, path, protocol, due)


def _check_text(text: str, path: Path, protocol: Protocol, due: Expected | None) -> int:
    """`check` of what the file at `path` holds or is going to hold."""
    columns = header(protocol.submission)
    try:
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DatasetError(f"{path}: not a submission: {error}") from error
    if not lines or lines[0] != columns:
        raise DatasetError(
            f"{path}, line 1: expected {columns[0]},{columns[1]},...,{columns[-1]}, got "
            f"{','.join(lines[0])[:80] if lines else 'nothing'}"
        )
    place: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path}, line {number}"
        if len(line) != len(columns):
            raise DatasetError(f"{where}: expected {len(columns)} columns, got {len(line)}")
        video, ranked = line[0], line[1:]
        _check_video(video, where)
        if video in place:
            raise DatasetError(f"{where}: video {video} is in line {place[video]} too")
        place[video] = number
        for rank, subject in enumerate(ranked, start=1):
            if not _is_number(subject) or subject != _number(subject):
                raise DatasetError(
                    f"{where}, rank{rank}: expected the number of a subject without leading "
                    f"zeros, got {subject[:40]!r}"
                )
            if due is not None and subject not in due.subjects:
                raise DatasetError(f"{where}, rank{rank}: {subject} is not in the gallery")
    if due is not None:
        unknown = sorted(place.keys() - due.videos)
        missing = sorted(due.videos - place.keys())
        said = [f"{len(missing)} probes are missing: {_few(missing)}"] if missing else []
        said += [f"{len(unknown)} videos are no probes: {_few(unknown)}"] if unknown else []
        if said:
            raise DatasetError(f"{path}: {'; '.join(said)}")
    elif not place:
        raise DatasetError(f"{path}: there is no probe in it")
    return len(place)


def _check_video(video: str, where: str) -> None:
    if not video:
        raise DatasetError(f"{where}: there is no video id")
    if video != video.strip():
        raise DatasetError(f"{where}: the video id has spaces around it: {video[:40]!r}")
    if not video.isprintable() or len(video) > _LONGEST_VIDEO:
        raise DatasetError(
            f"{where}: a video id of {len(video)} characters, {video[:40]!r}; expected at most "
            f"{_LONGEST_VIDEO} that can be printed"
        )


def _roles(
    subjects: Sequence[str],
    conditions: Sequence[str],
    protocol: Protocol,
    unlabelled: Collection[str],
) -> tuple[ndarray, ndarray]:
    """Rows of the probes and of the gallery."""
    (walks,) = protocol.probe_sets.values()
    is_unknown = np.isin(np.asarray(subjects, dtype=str), sorted(unlabelled))
    condition = np.asarray(conditions, dtype=str)
    probe = np.flatnonzero(np.isin(condition, walks.probe) & is_unknown)
    gallery = np.flatnonzero(np.isin(condition, walks.gallery) & ~is_unknown)
    if not len(probe) or not len(gallery):
        raise DatasetError(
            f"protocol {protocol.name!r} finds {len(probe)} unknown probes and {len(gallery)} "
            f"gallery walks; it needs {protocol.needs}"
        )
    return probe, gallery


def _is_number(subject: str) -> bool:
    return subject.isascii() and subject.isdecimal()


def _number(subject: str) -> str:
    if not _is_number(subject):
        raise DatasetError(
            f"subject {subject!r} of the gallery is no number, which the submission needs"
        )
    return subject.lstrip("0") or "0"


def _few(names: Collection[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
