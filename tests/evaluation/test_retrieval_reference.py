"""Ranking and verification on random embeddings against slow loops that say what they mean.

The embeddings are drawn from a small pool, so that many are equal: within a subject, between
subjects, and between probes and gallery.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygait.evaluation import distances, pairs, ranking, verification
from raygait.evaluation.distances import Metric
from raygait.evaluation.ranking import rank, top_k
from raygait.evaluation.verification import Verification, verify

FAR = (0.0, 0.01, 0.1, 0.5, 1.0)


@dataclass
class Case:
    """A probe set and a gallery with labels, and the distances by definition."""

    probe: np.ndarray
    gallery: np.ndarray
    probe_subjects: np.ndarray
    gallery_subjects: np.ndarray
    leave_out: tuple[np.ndarray, np.ndarray] | None
    metric: Metric

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return self.probe_subjects, self.gallery_subjects

    @property
    def options(self) -> dict:
        return {"leave_out": self.leave_out, "metric": self.metric}

    def distance(self, i: int, j: int) -> float:
        q, g = self.probe[i].astype(np.float64), self.gallery[j].astype(np.float64)
        if self.metric == "euclidean":
            return float(np.mean([np.linalg.norm(a - b) for a, b in zip(q, g, strict=True)]))
        if (q == g).all():
            return 0.0
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(q, g, strict=True)]
        return float(1 - np.mean(cosines))

    def compared(self, i: int) -> list[tuple[float, bool, int]]:
        """Distance, whether it is right, and row of each gallery sequence that is compared."""
        found = []
        for j in range(len(self.gallery)):
            is_right = bool(self.probe_subjects[i] == self.gallery_subjects[j])
            if is_right and self.leave_out and self.leave_out[0][i] == self.leave_out[1][j]:
                continue
            found.append((self.distance(i, j), is_right, j))
        return found


def draw(seed: int, metric: Metric, *, with_groups: bool) -> Case:
    generator = np.random.default_rng(seed)
    n, m = generator.integers(1, 25, 2)
    pool = generator.normal(size=(generator.integers(1, 30), 3, 6)).astype(np.float32)
    subjects = generator.integers(1, 8)
    groups = generator.integers(0, 3, n), generator.integers(0, 3, m)
    return Case(
        pool[generator.integers(0, len(pool), n)],
        pool[generator.integers(0, len(pool), m)],
        # Probes of one subject more than there are in the gallery.
        generator.integers(0, subjects + 1, n),
        generator.integers(0, subjects, m),
        groups if with_groups else None,
        metric,
    )


cases = given(
    seed=st.integers(0, 10**6),
    metric=st.sampled_from(["euclidean", "cosine"]),
    with_groups=st.booleans(),
)


@settings(deadline=None, max_examples=60)
@cases
def test_ranks_are_those_of_a_literal_sort(seed: int, metric: Metric, with_groups: bool) -> None:
    case = draw(seed, metric, with_groups=with_groups)
    ranks = rank(case.probe, case.gallery, *case.labels, **case.options)
    only_first = rank(case.probe, case.gallery, *case.labels, **case.options, precision=False)
    for i in range(len(case.probe)):
        # Of equally near ones, False comes before True.
        ordered = [is_right for _, is_right, _ in sorted(case.compared(i))]
        hits = [place for place, is_right in enumerate(ordered, start=1) if is_right]
        assert ranks.first_hit[i] == only_first.first_hit[i] == (hits[0] if hits else 0)
        if not hits:
            assert np.isnan([ranks.average_precision[i], ranks.inverse_penalty[i]]).all()
            continue
        precisions = [sum(ordered[:place]) / place for place in hits]
        assert ranks.average_precision[i] == pytest.approx(sum(precisions) / len(hits))
        assert ranks.inverse_penalty[i] == pytest.approx(len(hits) / hits[-1])


@settings(deadline=None, max_examples=40)
@cases
def test_the_nearest_k_are_those_of_a_stable_sort(
    seed: int, metric: Metric, with_groups: bool
) -> None:
    case = draw(seed, metric, with_groups=False)
    k = 1 + seed % len(case.gallery)
    found = top_k(case.probe, case.gallery, k, metric=metric)
    for i in range(len(case.probe)):
        expected = sorted((distance, j) for distance, _, j in case.compared(i))[:k]
        assert found[i].tolist() == [j for _, j in expected]


def literal_rates(case: Case) -> Verification:
    compared = [pair for i in range(len(case.probe)) for pair in case.compared(i)]
    genuine = [distance for distance, is_right, _ in compared if is_right]
    impostor = [distance for distance, is_right, _ in compared if not is_right]
    if not genuine or not impostor:
        nan = float("nan")
        return Verification(nan, nan, dict.fromkeys(FAR, nan), len(genuine), len(impostor), 0.0)
    points = [(-1.0, Fraction(0), Fraction(0))]
    for threshold in sorted({*genuine, *impostor}):
        accepted = sum(distance <= threshold for distance in impostor)
        right = sum(distance <= threshold for distance in genuine)
        points.append((threshold, Fraction(accepted, len(impostor)), Fraction(right, len(genuine))))
    tar = {rate: float(max(t for _, f, t in points if f <= Fraction(str(rate)))) for rate in FAR}
    for (_, f0, t0), (threshold, f1, t1) in pairwise(points):
        if f1 >= 1 - t1:
            # Where the line from one point to the next crosses f = 1 - t.
            share = (1 - t0 - f0) / ((f1 - f0) + (t1 - t0))
            eer = float(f0 + share * (f1 - f0))
            return Verification(eer, threshold, tar, len(genuine), len(impostor), 0.0)
    raise AssertionError("the last threshold accepts all")


@settings(deadline=None, max_examples=60)
@cases
def test_error_rates_are_those_of_trying_every_threshold(
    seed: int, metric: Metric, with_groups: bool
) -> None:
    case = draw(seed, metric, with_groups=with_groups)
    found = verify(case.probe, case.gallery, *case.labels, **case.options, far=FAR)
    expected = literal_rates(case)
    assert (found.num_genuine, found.num_impostor) == (expected.num_genuine, expected.num_impostor)
    assert found.eer == pytest.approx(expected.eer, abs=1e-12, nan_ok=True)
    assert found.threshold == pytest.approx(expected.threshold, rel=1e-4, abs=1e-9, nan_ok=True)
    assert found.tar == pytest.approx(expected.tar, abs=1e-12, nan_ok=True)
    assert found.max_error == 0


@settings(deadline=None, max_examples=30)
@cases
def test_the_order_of_rows_changes_no_score(seed: int, metric: Metric, with_groups: bool) -> None:
    case = draw(seed, metric, with_groups=with_groups)
    generator = np.random.default_rng(seed)
    i, j = generator.permutation(len(case.probe)), generator.permutation(len(case.gallery))
    groups = None if case.leave_out is None else (case.leave_out[0][i], case.leave_out[1][j])
    shuffled = Case(
        case.probe[i],
        case.gallery[j],
        case.probe_subjects[i],
        case.gallery_subjects[j],
        groups,
        metric,
    )
    before = rank(case.probe, case.gallery, *case.labels, **case.options)
    after = rank(shuffled.probe, shuffled.gallery, *shuffled.labels, **shuffled.options)
    np.testing.assert_array_equal(after.first_hit, before.first_hit[i])
    np.testing.assert_array_equal(after.average_precision, before.average_precision[i])
    np.testing.assert_array_equal(after.inverse_penalty, before.inverse_penalty[i])
    rates = [
        verify(each.probe, each.gallery, *each.labels, **each.options) for each in (case, shuffled)
    ]
    assert rates[1].eer == pytest.approx(rates[0].eer, abs=0.02, nan_ok=True)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_size_of_blocks_changes_no_score(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [draw(seed, metric, with_groups=seed % 2 == 0) for seed in range(20)]

    def scores() -> list[np.ndarray]:
        results = []
        for case in made:
            ranks = rank(case.probe, case.gallery, *case.labels, **case.options)
            results += [ranks.first_hit, ranks.average_precision, ranks.inverse_penalty]
            results.append(top_k(case.probe, case.gallery, 1, metric=metric))
        return results

    whole = scores()
    monkeypatch.setattr(distances, "_MIN_ROWS", 2)
    monkeypatch.setattr(distances, "_MIN_PAIRS", 3)
    monkeypatch.setattr(distances, "_PAIRS_A_TILE", 1)
    monkeypatch.setattr(pairs, "_MAX_PAIRS", 5)
    monkeypatch.setattr(ranking, "_MAX_COUNTS", 1)
    for expected, found in zip(whole, scores(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dropped_bits", [8, 16, 19, 20, 21])
def test_counted_in_bins_the_rates_are_off_by_no_more_than_they_say(
    dropped_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(dropped_bits)
    people = generator.normal(size=(12, 4, 8)).astype(np.float32)
    largest = 0.0
    for noise in (0.3, 0.6, 1.0, 1.4, 2.0):
        subjects = np.repeat(np.arange(12), 5)
        probe, gallery = (
            people[subjects] + noise * generator.normal(size=(2, 60, 4, 8)).astype(np.float32)
        ).astype(np.float32)
        exact = verify(probe, gallery, subjects, subjects, far=FAR)
        with monkeypatch.context() as patch:
            patch.setattr(verification, "_MAX_KEPT", 0)
            patch.setattr(verification, "_DROPPED_BITS", dropped_bits)
            binned = verify(probe, gallery, subjects, subjects, far=FAR)
            only_eer = verify(probe, gallery, subjects, subjects, far=())
        assert (exact.num_genuine, exact.num_impostor) == (300, 3300)
        assert (binned.num_genuine, binned.num_impostor) == (300, 3300)
        assert binned.eer == only_eer.eer
        assert abs(binned.eer - exact.eer) <= only_eer.max_error + 1e-12
        assert only_eer.max_error <= binned.max_error
        assert binned.threshold == pytest.approx(exact.threshold, rel=2.0 ** (dropped_bits - 22))
        for rate in FAR:
            assert -1e-12 <= exact.tar[rate] - binned.tar[rate] <= binned.max_error + 1e-12
        largest = max(largest, binned.max_error)
    # The bound says something: fine bins are all but exact, coarse ones are not.
    assert largest < 0.01 if dropped_bits == 8 else largest > 0
