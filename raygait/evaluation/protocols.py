"""One engine for all protocols: who is compared with whom, and the numbers that come of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

from raygait.datasets.protocols import (
    EER,
    FALSE_ACCEPT_RATES,
    MEAN_AP,
    MEAN_INP,
    WITH_IDENTICAL,
    Protocol,
    number_name,
    rank_name,
    tar_name,
)
from raygait.datasets.splits import SequenceLists
from raygait.errors import DatasetError
from raygait.evaluation.chance import expected, expected_tar
from raygait.evaluation.ranking import rank
from raygait.evaluation.tables import ProtocolTable
from raygait.evaluation.verification import verify

logger = logging.getLogger(__name__)

NO_LISTS = SequenceLists()
# Rows are copied so that they lie together: of 4096 numbers each, 134 MB.
_PROBES_AT_ONCE = 8192
# Metric -> a number a row; NaN where the row is no probe or counts in no mean.
_Values = Mapping[str, Float64[ndarray, " n"]]


def evaluate(
    embeddings: Float32[ndarray, "n p d"],
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: Protocol,
    *,
    lists: SequenceLists = NO_LISTS,
    device: str = "cpu",
) -> ProtocolTable:
    """All numbers of a protocol.

    A wrong gallery walk that is exactly as near as a right one counts as nearer, so that numbers
    do not depend on the order of rows.

    Args:
        embeddings: One a sequence.
        subjects: Subject of each.
        conditions: Condition of each, as the protocol names them.
        views: View of each.
        protocol: What is compared with what.
        lists: Probes or gallery by name, for the protocols that need a partition file.
        device: Where distances are computed.

    Raises:
        DatasetError: No gallery or no probe at all, or the protocol needs lists or is a submission.
        ValueError: The labels are not one an embedding.
    """
    if not len(embeddings) == len(subjects) == len(conditions) == len(views):
        raise ValueError(
            f"{len(embeddings)} embeddings, {len(subjects)} subjects, {len(conditions)} "
            f"conditions and {len(views)} views; expected as many of each"
        )
    plan = _plan(subjects, conditions, views, protocol, lists)

    def ranked(
        probe: Int64[ndarray, " k"],
        gallery: Int64[ndarray, " m"],
        groups: ndarray | None,
    ) -> dict[str, Float64[ndarray, " k"]]:
        among = embeddings[gallery]
        found = [
            rank(
                embeddings[some],
                among,
                plan.subject[some],
                plan.subject[gallery],
                leave_out=None if groups is None else (groups[some], groups[gallery]),
                metric=protocol.metric,
                device=device,
                precision=protocol.precision,
            )
            for some in np.split(probe, range(_PROBES_AT_ONCE, len(probe), _PROBES_AT_ONCE))
        ]
        hit = np.concatenate([each.first_hit for each in found])
        values = {rank_name(k): ((hit >= 1) & (hit <= k)).astype(float) for k in protocol.ranks}
        return values | {
            MEAN_AP: np.concatenate([each.average_precision for each in found]),
            MEAN_INP: np.concatenate([each.inverse_penalty for each in found]),
        }

    def verified(
        probe: Int64[ndarray, " k"],
        gallery: Int64[ndarray, " m"],
        groups: ndarray | None,
    ) -> dict[str, float]:
        found = verify(
            embeddings[probe],
            embeddings[gallery],
            plan.subject[probe],
            plan.subject[gallery],
            leave_out=None if groups is None else (groups[probe], groups[gallery]),
            metric=protocol.metric,
            device=device,
            far=FALSE_ACCEPT_RATES,
        )
        return {EER: found.eer} | {tar_name(far): found.tar[far] for far in FALSE_ACCEPT_RATES}

    table = _open_set(plan, verified) if protocol.open_set else _closed_set(plan, ranked)
    if all(np.isnan(cells).all() for cells in table.cells.values()):
        raise DatasetError(
            f"protocol {protocol.name!r} finds nothing to compare in {len(subjects)} sequences of "
            f"conditions {_few(conditions)} and views {_few(views)}; it needs {protocol.needs}"
        )
    return table


def chance(
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: Protocol,
    *,
    lists: SequenceLists = NO_LISTS,
) -> dict[str, float]:
    """Number -> what ranking the gallery at random gives on average, in percent.

    Of the open-set question, what an order of all pairs at random gives.
    Averaged over probes and cells exactly as the number itself is. NaN for one without any pair to
    compare.

    Raises:
        DatasetError: The protocol needs lists or is a submission.
    """
    plan = _plan(subjects, conditions, views, protocol, lists)

    def guessed(
        probe: Int64[ndarray, " k"],
        gallery: Int64[ndarray, " m"],
        groups: ndarray | None,
    ) -> dict[str, Float64[ndarray, " k"]]:
        num_right, num_left_out = _counts(plan, probe, gallery, groups)
        return expected(len(gallery) - num_left_out, num_right, protocol.ranks)

    def tossed(
        probe: Int64[ndarray, " k"],
        gallery: Int64[ndarray, " m"],
        groups: ndarray | None,
    ) -> dict[str, float]:
        num_right, num_left_out = _counts(plan, probe, gallery, groups)
        num_genuine = int(num_right.sum())
        num_impostor = len(probe) * len(gallery) - int(num_left_out.sum()) - num_genuine
        known = num_genuine > 0 and num_impostor > 0
        return {EER: 0.5 if known else np.nan} | {
            tar_name(far): expected_tar(num_impostor, far) if known else np.nan
            for far in FALSE_ACCEPT_RATES
        }

    # Rounding belongs to the code that is to be matched; chance is worked out.
    table = _open_set(plan, tossed) if protocol.open_set else _closed_set(plan, guessed)
    return table.means


@dataclass(frozen=True)
class _Plan:
    """Labels as arrays, and which rows play which part.

    Attributes:
        protocol: The rules.
        subject: Of each row.
        view: Of each row: its view or its camera.
        views: Views in order.
        probes: Probe set -> whether a row is a probe of it.
        galleries: Probe set -> whether a row is in its gallery.
        kinds: Probe set -> a name of its gallery; equal ones are the same rows.
    """

    protocol: Protocol
    subject: ndarray
    view: ndarray
    views: tuple[str, ...]
    probes: dict[str, Bool[ndarray, " n"]]
    galleries: dict[str, Bool[ndarray, " n"]]
    kinds: dict[str, tuple[str, ...]]

    @property
    def groups(self) -> ndarray | None:
        """What a right pair must not share."""
        return self.view if self.protocol.left_out == "own view" else None


def _plan(
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    protocol: Protocol,
    lists: SequenceLists,
) -> _Plan:
    if protocol.submission:
        raise DatasetError(
            f"protocol {protocol.name!r} has no numbers: it writes a file for the benchmark's "
            f"server; for numbers take {protocol.beside}"
        )
    subject, condition, view = (
        np.asarray(labels, dtype=str) for labels in (subjects, conditions, views)
    )
    probes: dict[str, Bool[ndarray, " n"]] = {}
    galleries: dict[str, Bool[ndarray, " n"]] = {}
    kinds: dict[str, tuple[str, ...]] = {}
    if protocol.is_listed:
        is_probe, is_gallery = _listed(subject, condition, view, protocol, lists)
        probes[""], galleries[""], kinds[""] = is_probe, is_gallery, ()
    else:
        contains = protocol.matching == "contains"
        for name, walks in protocol.probe_sets.items():
            probes[name] = _has(condition, walks.probe, contains=contains)
            galleries[name] = _has(condition, walks.gallery, contains=contains)
            kinds[name] = walks.gallery
    if protocol.view == "camera":
        view = np.array([each.partition("_")[0] for each in view.tolist()], dtype=str)
    playing = np.zeros(len(subject), dtype=bool)
    for rows in (*probes.values(), *galleries.values()):
        playing |= rows
    return _Plan(
        protocol, subject, view, tuple(np.unique(view[playing]).tolist()), probes, galleries, kinds
    )


def _has(condition: ndarray, wanted: Sequence[str], *, contains: bool) -> Bool[ndarray, " n"]:
    if not contains:
        return np.isin(condition, wanted)
    known = [each for each in np.unique(condition).tolist() if any(sign in each for sign in wanted)]
    return np.isin(condition, known)


def _listed(
    subject: ndarray,
    condition: ndarray,
    view: ndarray,
    protocol: Protocol,
    lists: SequenceLists,
) -> tuple[Bool[ndarray, " n"], Bool[ndarray, " n"]]:
    """Whether a row is a probe, and whether it is in the gallery."""
    if not lists:
        raise DatasetError(
            f"protocol {protocol.name!r} needs the walks that the partition file lists: "
            f"{protocol.needs}"
        )
    names = [
        "-".join(labels)
        for labels in zip(subject.tolist(), condition.tolist(), view.tolist(), strict=True)
    ]
    absent = sorted((lists.probe | lists.gallery) - set(names))
    if absent:
        logger.warning(
            "protocol %r: %d of the %d listed walks are not there (%s)",
            protocol.name,
            len(absent),
            len(lists.probe | lists.gallery),
            _few(absent),
        )
    in_gallery = np.array([name in lists.gallery for name in names], dtype=bool)
    is_probe = (
        np.array([name in lists.probe for name in names], dtype=bool)
        if lists.probe
        else ~in_gallery
    )
    return is_probe, in_gallery if lists.gallery else ~is_probe


def _closed_set(
    plan: _Plan,
    score: Callable[
        [Int64[ndarray, " k"], Int64[ndarray, " m"], ndarray | None],
        dict[str, Float64[ndarray, " k"]],
    ],
) -> ProtocolTable:
    """The table of what is scored a probe: all but the open-set question."""
    protocol = plan.protocol
    pairs = protocol.cells == "view pairs"
    by_view = protocol.cells != "whole"
    # Sets that share a gallery are compared with it once, all their probes together.
    shared: dict[tuple[str, ...], Bool[ndarray, " n"]] = {}
    galleries: dict[tuple[str, ...], Bool[ndarray, " n"]] = {}
    for name, kind in plan.kinds.items():
        shared[kind] = shared.get(kind, np.zeros(len(plan.subject), dtype=bool)) | plan.probes[name]
        galleries[kind] = plan.galleries[name]
    metrics = [metric for metric in protocol.metrics if not metric.endswith(WITH_IDENTICAL)]
    shape = (len(plan.views),) * (2 if pairs else 1 if by_view else 0)
    cells = {
        number_name(name, metric): np.full(shape, np.nan)
        for name in protocol.sets
        for metric in protocol.metrics
    }
    num_empty = num_without = 0
    for kind, is_probe in shared.items():
        probe = np.flatnonzero(is_probe)
        for column, gallery_view in enumerate(plan.views if pairs else ("",)):
            gallery = np.flatnonzero(
                galleries[kind] & (plan.view == gallery_view) if pairs else galleries[kind]
            )
            values, is_found = _scored(plan, score, probe, gallery, metrics)
            for name in (each for each, other in plan.kinds.items() if other == kind):
                for row, probe_view in enumerate(plan.views if by_view else ("",)):
                    rows = plan.probes[name]
                    if by_view:
                        rows = rows & (plan.view == probe_view)
                    is_identical = pairs and row == column
                    at = ((row, column) if pairs else (row,))[: len(shape)]
                    is_counted = not (is_identical and protocol.left_out == "identical view")
                    if is_counted:
                        num_without += int((rows & ~is_found).sum()) if len(gallery) else 0
                    for metric in metrics:
                        percent = _percent(values[metric][rows], protocol)
                        if is_counted:
                            cells[number_name(name, metric)][at] = percent
                        if protocol.with_identical:
                            cells[number_name(name, metric + WITH_IDENTICAL)][at] = percent
                    if is_counted:
                        num_empty += bool(np.isnan(cells[number_name(name, metrics[0])][at]))
    return ProtocolTable(protocol, plan.views if by_view else (), cells, num_empty, num_without)


def _scored(
    plan: _Plan,
    score: Callable[
        [Int64[ndarray, " k"], Int64[ndarray, " m"], ndarray | None],
        dict[str, Float64[ndarray, " k"]],
    ],
    probe: Int64[ndarray, " k"],
    gallery: Int64[ndarray, " m"],
    metrics: Sequence[str],
) -> tuple[_Values, Bool[ndarray, " n"]]:
    """A number a row of each metric, and whether the probe's subject is in the gallery."""
    values = {metric: np.full(len(plan.subject), np.nan) for metric in metrics}
    is_found = np.zeros(len(plan.subject), dtype=bool)
    if len(probe) and len(gallery):
        is_found[probe] = _counts(plan, probe, gallery, plan.groups)[0] > 0
        found = score(probe, gallery, plan.groups)
        for metric in metrics:
            values[metric][probe] = found[metric]
            if plan.protocol.without_gallery == "left out":
                values[metric][~is_found] = np.nan
    return values, is_found


def _open_set(
    plan: _Plan,
    score: Callable[[Int64[ndarray, " k"], Int64[ndarray, " m"], ndarray | None], dict[str, float]],
) -> ProtocolTable:
    """The table of what is scored over all pairs at once."""
    protocol = plan.protocol
    by_view = protocol.cells != "whole"
    shape = (len(plan.views),) if by_view else ()
    cells = {
        number_name(name, metric): np.full(shape, np.nan)
        for name in protocol.sets
        for metric in protocol.metrics
    }
    num_empty = 0
    for name in protocol.sets:
        for row, view in enumerate(plan.views if by_view else ("",)):
            is_probe, is_gallery = plan.probes[name], plan.galleries[name]
            if by_view:
                is_probe = is_probe & (plan.view == view)
            if protocol.left_out == "identical view":
                is_gallery = is_gallery & (plan.view != view)
            if is_probe.any() and is_gallery.any():
                found = score(np.flatnonzero(is_probe), np.flatnonzero(is_gallery), plan.groups)
                for metric, share in found.items():
                    cells[number_name(name, metric)][(row,)[: len(shape)]] = 100 * share
            num_empty += bool(np.isnan(cells[number_name(name, EER)][(row,)[: len(shape)]]))
    return ProtocolTable(protocol, plan.views if by_view else (), cells, num_empty)


def _counts(
    plan: _Plan,
    probe: Int64[ndarray, " k"],
    gallery: Int64[ndarray, " m"],
    groups: ndarray | None,
) -> tuple[Int64[ndarray, " k"], Int64[ndarray, " k"]]:
    """Right gallery walks of each probe that are compared, and those of its own that are not."""
    num_own = _num_equal(plan.subject[probe], plan.subject[gallery])
    if groups is None:
        return num_own, np.zeros_like(num_own)
    both = np.char.add(np.char.add(plan.subject, "\n"), groups)
    num_left_out = _num_equal(both[probe], both[gallery])
    return num_own - num_left_out, num_left_out


def _num_equal(labels: ndarray, among: ndarray) -> Int64[ndarray, " k"]:
    """How often each label is among others."""
    known, counts = np.unique(among, return_counts=True)
    place = known.searchsorted(labels).clip(max=len(known) - 1)
    return np.where(known[place] == labels, counts[place], 0).astype(np.int64)


def _percent(values: Float64[ndarray, " k"], protocol: Protocol) -> float:
    """Mean of the numbers in percent; NaN without any."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return np.nan
    if not protocol.rounded:
        return 100 * float(numbers.mean())
    # 0.125 % rounds to 0.12, 0.12500000000000003 % to 0.13.
    exact = (
        100 * float(numbers.sum()) / len(numbers)
        if protocol.per_cent_first
        else float(numbers.mean()) * 100
    )
    return float(np.round(exact, 2))


def _few(names: Sequence[str]) -> str:
    found = sorted(set(names))
    return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
