"""Ranks by hand, and against a literal sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygait.evaluation.ranking import nearest, rank_k

DISTANCES = np.array([[3, 1, 2, 4], [1, 1, 1, 0]], np.float32)


def test_nearest_first_and_ties_in_gallery_order() -> None:
    assert nearest(DISTANCES, 4).tolist() == [[1, 2, 0, 3], [3, 0, 1, 2]]
    assert nearest(DISTANCES).tolist() == [[1], [3]]
    assert nearest(np.zeros((1, 3), np.float32)).tolist() == [[0]]


@pytest.mark.parametrize(
    ("k", "hits"),
    [(1, [False, True]), (2, [True, True]), (3, [True, True]), (9, [True, True])],
    ids=["rank 1", "rank 2", "rank 3", "more than there are"],
)
def test_a_hit_is_the_right_subject_among_the_first_k(k: int, hits: list[bool]) -> None:
    assert rank_k(DISTANCES, ["b", "c"], ["a", "a", "b", "c"], k).tolist() == hits


def test_a_probe_without_gallery_is_a_miss() -> None:
    assert rank_k(DISTANCES, ["z", "c"], ["a", "a", "b", "c"], 4).tolist() == [False, True]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 5), m=st.integers(1, 8))
def test_it_is_a_literal_sort_and_monotone_in_k(seed: int, n: int, m: int) -> None:
    generator = np.random.default_rng(seed)
    distances = generator.integers(0, 4, (n, m)).astype(np.float32)
    probes, gallery = generator.integers(0, 3, n), generator.integers(0, 3, m)
    before = np.zeros(n, bool)
    for k in range(1, m + 1):
        hits = rank_k(distances, probes, gallery, k)
        for i in range(n):
            order = sorted(range(m), key=lambda j, i=i: (distances[i, j], j))
            assert hits[i] == (probes[i] in [gallery[j] for j in order[:k]])
        assert (hits >= before).all()
        before = hits


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="must be between 1 and the gallery's 4"):
        nearest(DISTANCES, k)


def test_a_nan_has_no_rank() -> None:
    distances = DISTANCES.copy()
    distances[1, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 2 probes have a NaN"):
        nearest(distances)


def test_subjects_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 1 probes and 4"):
        rank_k(DISTANCES, ["a"], ["a", "a", "b", "c"])
