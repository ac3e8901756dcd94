from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygait.batches.sampler import IdentitySampler, rank_positions, step_generator

_SUBJECTS = [f"{subject:03d}" for subject in range(10) for _ in range(6)]


def _sampler(subjects=_SUBJECTS, p: int = 4, k: int = 3, seed: int = 0) -> IdentitySampler:
    return IdentitySampler(subjects, num_subjects=p, num_sequences=k, seed=seed)


def test_a_batch_holds_k_different_sequences_of_each_of_p_different_subjects() -> None:
    for step in range(50):
        rows = _sampler().batch(step)
        assert len(set(rows.tolist())) == 12
        assert sorted(Counter(_SUBJECTS[row] for row in rows).values()) == [3, 3, 3, 3]


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    sampler = _sampler()
    later = [sampler.batch(step).tolist() for step in (5, 0, 9, 5)]
    fresh = [_sampler().batch(step).tolist() for step in (5, 0, 9, 5)]
    assert later == fresh
    assert _sampler(seed=1).batch(5).tolist() != later[0]


def test_every_subject_and_sequence_is_drawn_in_the_long_run_about_equally() -> None:
    counts = Counter(row for step in range(1000) for row in _sampler().batch(step).tolist())
    # 12 draws a step over 60 rows: 200 each, binomial spread about 13.
    assert len(counts) == 60
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260


@given(num_rows=st.integers(1, 5), k=st.integers(2, 9))
def test_a_subject_with_too_few_sequences_repeats_each_as_often_as_any_other(
    num_rows: int, k: int
) -> None:
    subjects = ["a"] * num_rows + ["b"] * 9
    rows = _sampler(subjects, p=2, k=k).batch(0)
    of_a = Counter(row for row in rows.tolist() if row < num_rows)
    assert sum(of_a.values()) == k
    assert max(of_a.values()) - min(of_a.values()) <= 1 or len(of_a) < num_rows
    if k >= num_rows:
        assert len(of_a) == num_rows


def test_fewer_subjects_than_p_repeat_and_the_batch_keeps_its_size() -> None:
    rows = _sampler(["a"] * 4 + ["b"] * 4, p=4, k=2).batch(3)
    assert len(rows) == 8


def test_one_subject_is_refused_because_no_triplet_exists() -> None:
    with pytest.raises(ValueError, match="at least 2 subjects"):
        _sampler(["a"] * 5)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_split_the_batch_without_overlap_or_loss(world_size: int) -> None:
    shares = [rank_positions(12, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(12))
    assert len({len(share) for share in shares}) == 1


def test_a_batch_that_cannot_be_split_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="12 clips cannot be split over 5"):
        rank_positions(12, 0, 5)


def test_streams_steps_and_places_have_random_numbers_of_their_own() -> None:
    keys = [(0, 1, 0, 0), (1, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1)]
    first = [step_generator(*key).integers(2**62) for key in keys]
    assert len(set(first)) == len(keys)
