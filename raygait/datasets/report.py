"""What an index found, held against what the benchmark has: missing, extra, twice, unreadable."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from raygait.datasets.expected import Expected, SubjectGroup
from raygait.datasets.layout import Finding, Scan

_NUM_SHOWN = 5
_NUM_NAMES_SHOWN = 14


@dataclass(frozen=True)
class IndexReport:
    """A data set on disk beside the benchmark that it should be.

    Attributes:
        dataset: Name of the layout.
        root: Folder that was looked through.
        expected_from: Where the benchmark's numbers are printed; empty where nothing is expected.
        num_sequences: Sequences that were found.
        num_subjects: Subjects that have one.
        groups: Name of a part of the benchmark -> subjects and sequences found and expected, -1
            where a number is not known, and the walks that subjects who are there lack.
        kinds: Sequences by kind of source.
        beside: Sequences of masks that are expected to have `poses` or `colours` beside them.
        conditions: Sequences by condition.
        views: Sequences by view.
        missing: Subjects, and walks of subjects that are there, that the benchmark has.
        extra: Subjects, conditions and views that it has not.
        duplicated: Sources of a walk that another source has already.
        unreadable: What cannot be read, and sequences without a frame.
        left_out: What is no sequence.
    """

    dataset: str
    root: str
    expected_from: str
    num_sequences: int
    num_subjects: int
    groups: Mapping[str, Mapping[str, int]]
    kinds: Mapping[str, int]
    beside: Mapping[str, int]
    conditions: Mapping[str, int]
    views: Mapping[str, int]
    missing: tuple[Finding, ...] = field(default=(), repr=False)
    extra: tuple[Finding, ...] = field(default=(), repr=False)
    duplicated: tuple[Finding, ...] = field(default=(), repr=False)
    unreadable: tuple[Finding, ...] = field(default=(), repr=False)
    left_out: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether all that the benchmark has is there, can be read, and nothing besides."""
        return not (self.missing or self.extra or self.duplicated or self.unreadable)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON; every finding is in it."""
        findings = ("missing", "extra", "duplicated", "unreadable", "left_out")
        return {
            "dataset": self.dataset,
            "root": self.root,
            "expected_from": self.expected_from,
            "is_complete": self.is_complete,
            "num_sequences": self.num_sequences,
            "num_subjects": self.num_subjects,
            "groups": {name: dict(numbers) for name, numbers in self.groups.items()},
            "kinds": dict(self.kinds),
            "beside": dict(self.beside),
            "conditions": dict(self.conditions),
            "views": dict(self.views),
            **{name: [one._asdict() for one in getattr(self, name)] for name in findings},
        }

    def to_line(self) -> str:
        """How much of the benchmark is there where not all is, and counts of what is wrong.

        A part of a benchmark may be there on purpose: subjects that are not are no fault, walks
        that others lack may be. Empty where nothing is wrong and all is there.
        """
        said = []
        for name, numbers in self.groups.items():
            of_group = f" of {name}" if len(self.groups) > 1 else ""
            for what in ("subjects", "sequences"):
                found, expected = numbers[f"num_{what}"], numbers[f"num_{what}_expected"]
                # Of subjects that are not there, nobody expects sequences.
                if found < expected and not (what == "sequences" and numbers["num_walks_missing"]):
                    said.append(f"{found} of {expected} {what}{of_group}")
                    break
        num_lacking = sum(numbers["num_walks_missing"] for numbers in self.groups.values())
        counts = {
            "missing of subjects that are there": num_lacking,
            "extra": len(self.extra),
            "duplicated": len(self.duplicated),
            "unreadable": len(self.unreadable),
        }
        said += [f"{number} {title}" for title, number in counts.items() if number]
        return f"index of {self.root}: {', '.join(said)}" if said else ""

    def to_text(self) -> str:
        """A page for a person: counts, and the first of each finding."""
        lines = [
            f"{self.root}: {self.dataset}, {self.num_sequences} sequences of {self.num_subjects} "
            "subjects"
        ]
        for name, numbers in self.groups.items():
            subjects = _of(numbers["num_subjects"], numbers["num_subjects_expected"])
            sequences = _of(numbers["num_sequences"], numbers["num_sequences_expected"])
            lines.append(f"  {name}: {subjects} subjects, {sequences} sequences")
        for title, counts in (
            ("kinds", self.kinds),
            ("beside masks", self.beside),
            ("conditions", self.conditions),
            ("views", self.views),
        ):
            shown = [f"{name} {number}" for name, number in list(counts.items())[:_NUM_NAMES_SHOWN]]
            more = len(counts) - len(shown)
            if shown:
                lines.append(
                    f"  {title}: {', '.join(shown)}" + (f", and {more} more" if more else "")
                )
        for title, findings in (
            ("missing", self.missing),
            ("extra", self.extra),
            ("duplicated", self.duplicated),
            ("unreadable", self.unreadable),
            ("left out", self.left_out),
        ):
            if findings:
                lines.append(f"{title}: {len(findings)}")
                lines += [f"  {one.path}: {one.why}" for one in findings[:_NUM_SHOWN]]
                if len(findings) > _NUM_SHOWN:
                    lines.append(f"  ... and {len(findings) - _NUM_SHOWN} more")
        if not self.expected_from:
            lines.append("nothing is expected of this layout, so nothing is missing or extra")
        elif self.is_complete:
            lines.append(f"complete: as {self.expected_from}")
        else:
            lines.append(f"expected: {self.expected_from}")
        return "\n".join(lines)


def compare(scan: Scan, layout: str, expected: Expected | None) -> IndexReport:
    """Hold what was found against what a benchmark has.

    Args:
        scan: What was found.
        layout: Name of the layout.
        expected: What the benchmark has; None where nothing is known.
    """
    by_subject: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for sequence in scan.sequences:
        by_subject[sequence.subject].append((sequence.condition, sequence.view, sequence.source))
    missing: list[Finding] = []
    extra: list[Finding] = []
    groups: dict[str, dict[str, int]] = {}
    known: set[str] = set()
    for group in expected.groups if expected else ():
        known.update(group.subjects)
        groups[group.name] = _compare_group(group, by_subject, missing, extra)
    if expected:
        extra += [
            Finding(subject, f"{len(by_subject[subject])} sequences of a subject it has not")
            for subject in sorted(by_subject.keys() - known)
        ]
    return IndexReport(
        dataset=layout,
        root=str(scan.root),
        expected_from=expected.source if expected else "",
        num_sequences=len(scan.sequences),
        num_subjects=len(by_subject.keys() - {""}),
        groups=groups,
        kinds=_counts(sequence.kind for sequence in scan.sequences),
        beside=_counts(
            name
            for sequence in scan.sequences
            for name in ("poses", "colours")
            if getattr(sequence, name)
        ),
        conditions=_counts(sequence.condition for sequence in scan.sequences),
        views=_counts(sequence.view for sequence in scan.sequences),
        missing=tuple(missing),
        extra=tuple(extra),
        duplicated=tuple(scan.duplicated),
        unreadable=tuple(scan.unreadable),
        left_out=tuple(scan.left_out),
    )


def _compare_group(
    group: SubjectGroup,
    by_subject: Mapping[str, list[tuple[str, str, str]]],
    missing: list[Finding],
    extra: list[Finding],
) -> dict[str, int]:
    num_subjects = num_sequences = num_lacking = 0
    for subject in group.subjects:
        walks = by_subject.get(subject)
        if not walks:
            missing.append(Finding(subject, "no sequence of this subject"))
            continue
        num_subjects += 1
        num_sequences += len(walks)
        there = set()
        for condition, view, source in walks:
            there.add((condition, view))
            if not group.has_condition(condition):
                extra.append(Finding(source, f"condition {condition!r}, which it has not"))
            elif not group.has_view(view):
                extra.append(Finding(source, f"view {view!r}, which it has not"))
        lacking = [
            Finding(f"{subject}/{condition}/{view}", "no such sequence")
            for condition, view in group.grid()
            if (condition, view) not in there
        ]
        missing += lacking
        num_lacking += len(lacking)
        if not group.is_grid and group.num_walks_each not in (0, len(walks)):
            findings = missing if len(walks) < group.num_walks_each else extra
            num_lacking += max(0, group.num_walks_each - len(walks))
            findings.append(
                Finding(subject, f"{len(walks)} sequences, expected {group.num_walks_each}")
            )
    if not group.is_grid and 0 <= num_sequences < group.num_sequences and not group.num_walks_each:
        missing.append(
            Finding(group.name, f"{num_sequences} sequences, expected {group.num_sequences}")
        )
    elif not group.is_grid and num_sequences > group.num_sequences >= 0:
        extra.append(
            Finding(group.name, f"{num_sequences} sequences, expected {group.num_sequences}")
        )
    return {
        "num_subjects": num_subjects,
        "num_subjects_expected": len(group.subjects),
        "num_sequences": num_sequences,
        "num_sequences_expected": group.num_sequences,
        "num_walks_missing": num_lacking,
    }


def _counts(names: object) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))  # type: ignore[call-overload]


def _of(found: int, expected: int) -> str:
    return f"{found} of {expected}" if expected >= 0 else str(found)
