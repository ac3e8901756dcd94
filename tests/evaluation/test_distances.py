"""The fast distance against the definition, number by number in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygait.evaluation import distances
from raygait.evaluation.distances import part_distances


def by_definition(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    result = np.zeros((len(query), len(gallery)))
    for i, q in enumerate(query.astype(np.float64)):
        for j, g in enumerate(gallery.astype(np.float64)):
            result[i, j] = np.mean(
                [np.sqrt(((q[p] - g[p]) ** 2).sum()) for p in range(query.shape[1])]
            )
    return result


def embeddings(seed: int, n: int, p: int = 5, d: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, p, d)).astype(np.float32)


def test_by_hand_it_is_the_mean_of_the_parts_and_not_of_the_whole() -> None:
    query = np.array([[[0, 0], [0, 0]]], np.float32)
    gallery = np.array([[[3, 4], [0, 0]], [[3, 0], [0, 3]]], np.float32)
    # (5 + 0) / 2 and (3 + 3) / 2; one Euclidean distance of all would rank them the other way.
    assert part_distances(query, gallery).tolist() == [[2.5, 3.0]]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    p=st.integers(1, 4),
    d=st.integers(1, 9),
    scale=st.sampled_from([1e-4, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_it_is_the_definition(
    seed: int, n: int, m: int, p: int, d: int, scale: float, offset: float
) -> None:
    query = ((embeddings(seed, n, p, d) + offset) * scale).astype(np.float32)
    gallery = ((embeddings(seed + 1, m, p, d) + offset) * scale).astype(np.float32)
    result = part_distances(query, gallery)
    assert result.dtype == np.float32
    np.testing.assert_allclose(
        result, by_definition(query, gallery), rtol=2e-4, atol=2e-5 * scale * max(offset, 1)
    )


def test_it_is_symmetric_and_zero_between_equals() -> None:
    values = embeddings(0, 12) * 50 + 3
    result = part_distances(values, values)
    np.testing.assert_allclose(result, result.T, rtol=1e-5)
    assert (np.diagonal(result) == 0).all()
    assert (result[~np.eye(12, dtype=bool)] > 0).all()


def test_near_duplicates_far_from_the_origin_keep_their_order() -> None:
    """A matrix product alone loses these digits; an untrained network produces such embeddings."""
    generator = np.random.default_rng(0)
    base = generator.normal(size=(1, 4, 64)).astype(np.float32) * 30
    steps = np.array([1, 2, 4, 8], np.float32)[:, None, None] * np.float32(0.01)
    away = generator.normal(size=(1, 4, 64)).astype(np.float32)
    gallery = np.concatenate([base + steps * away, -base])
    result = part_distances(base, gallery)
    np.testing.assert_allclose(result, by_definition(base, gallery), rtol=1e-3)
    assert result[0].argsort().tolist() == [0, 1, 2, 3, 4]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = embeddings(1, 23), np.concatenate([embeddings(2, 9), embeddings(1, 23)[:5]])
    whole = part_distances(query, gallery)
    monkeypatch.setattr(distances, "_MIN_ROWS", 3)
    monkeypatch.setattr(distances, "_MIN_PAIRS", 30)
    monkeypatch.setattr(distances, "_NUMBERS_A_REPAIR", 8)
    np.testing.assert_allclose(part_distances(query, gallery), whole, rtol=1e-5)


def test_inputs_are_left_as_they_were() -> None:
    query, gallery = embeddings(1, 4), embeddings(2, 3)
    before = query.copy(), gallery.copy()
    part_distances(query, gallery)
    assert (query == before[0]).all()
    assert (gallery == before[1]).all()


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_has_no_distances(n: int, m: int) -> None:
    assert part_distances(embeddings(0, n), embeddings(1, m)).shape == (n, m)


@pytest.mark.parametrize(
    "gallery",
    [embeddings(0, 3, p=4), embeddings(0, 3, d=6), embeddings(0, 3)[0]],
    ids=["other parts", "other length", "two axes"],
)
def test_embeddings_that_do_not_fit_are_refused(gallery: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        part_distances(embeddings(0, 2), gallery)


def test_embeddings_without_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="no part"):
        part_distances(embeddings(0, 2, p=0), embeddings(0, 2, p=0))
