"""The fast distance against the definition, number by number in float64."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raygait.evaluation import distances
from raygait.evaluation.distances import Metric, distance_blocks, part_distances

both_metrics = pytest.mark.parametrize("metric", get_args(Metric))


def by_definition(
    query: np.ndarray, gallery: np.ndarray, metric: Metric = "euclidean"
) -> np.ndarray:
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        query = query / np.linalg.norm(query, axis=2, keepdims=True)
        gallery = gallery / np.linalg.norm(gallery, axis=2, keepdims=True)
    result = np.zeros((len(query), len(gallery)))
    for i, q in enumerate(query):
        for j, g in enumerate(gallery):
            squares = ((q - g) ** 2).sum(axis=1)
            # 1 - q.g = |q - g|^2 / 2 of vectors of length one, without cancelling.
            result[i, j] = np.mean(squares / 2 if metric == "cosine" else np.sqrt(squares))
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


def test_by_hand_the_cosine_is_averaged_over_parts() -> None:
    query = np.array([[[2, 0], [0, 3]]], np.float32)
    gallery = np.array([[[0, 1], [0, 5]], [[3, 4], [0, -1]]], np.float32)
    # Cosines 0 and 1; 3/5 and -1.
    np.testing.assert_allclose(
        part_distances(query, gallery, metric="cosine"), [[0.5, 1.2]], rtol=1e-6
    )


def test_a_part_of_length_zero_has_cosine_zero_with_every_other() -> None:
    query = np.array([[[0, 0], [1, 0]]], np.float32)
    gallery = np.array([[[1, 0], [1, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]], np.float32)
    np.testing.assert_allclose(
        part_distances(query, gallery, metric="cosine"), [[0.5, 0.5, 1]], rtol=1e-6
    )


@both_metrics
def test_it_is_symmetric_and_zero_between_equals(metric: Metric) -> None:
    values = embeddings(0, 12) * 50 + 3
    result = part_distances(values, values, metric=metric)
    np.testing.assert_allclose(result, result.T, rtol=1e-5)
    assert (np.diagonal(result) == 0).all()
    assert (result[~np.eye(12, dtype=bool)] > 0).all()


def _hard_cases() -> dict[str, np.ndarray]:
    """What networks do that are untrained, half trained or broken."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(40, 4, 64)).astype(np.float32)
    side = np.sign(values[:, :1, :1])
    dead, outlier, two_valued = values.copy(), values.copy(), values.copy()
    dead[:, 1] = 7
    outlier[0] *= 1e4
    two_valued[:, 2] = np.where(side[:, 0] > 0, values[0, 2], values[1, 2])
    return {
        "a common offset": values * np.float32(1e-3) + 5,
        "two clusters": (values * np.float32(1e-3) + 3 * side).astype(np.float32),
        "two clusters within rounding": (values * np.float32(1e-6) + side).astype(np.float32),
        "a dead part": dead,
        "a part of two values": two_valued,
        "an outlier": outlier,
        "tiny": values * np.float32(1e-12),
        "the smallest": values * np.float32(1e-20),  # parts 1e-19 apart
        "large": values * np.float32(1e12),
    }


@both_metrics
@pytest.mark.parametrize("case", _hard_cases())
def test_it_is_exact_where_a_matrix_product_loses_its_digits(case: str, metric: Metric) -> None:
    values = _hard_cases()[case]
    expected = by_definition(values[:9], values, metric)
    result = part_distances(values[:9], values, metric=metric)
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    assert ((result == 0) == (expected == 0)).all()


def test_below_what_float32_can_square_only_the_cosine_tells_embeddings_apart() -> None:
    values = embeddings(0, 9) * np.float32(1e-25)
    assert (part_distances(values, values) == 0).all()
    np.testing.assert_allclose(
        part_distances(values, values, metric="cosine"),
        by_definition(values, values, "cosine"),
        rtol=1e-4,
    )


@both_metrics
@pytest.mark.parametrize("n", [1, 5, 100])
# Products may round differently in the last columns of odd widths.
@pytest.mark.parametrize("m", [5, 33, 129])
def test_copies_are_equally_far_from_every_query_to_the_last_bit(
    n: int, m: int, metric: Metric
) -> None:
    gallery, num_people = embeddings(0, m, d=64), m // 2
    # Two zeros are one number.
    gallery[:num_people, 0, 0] = 0.0
    gallery[num_people:] = gallery[np.arange(m - num_people) % num_people]
    gallery[-1, 0, 0] = -0.0
    result = part_distances(embeddings(2, n, d=64), gallery, metric=metric)
    same = (gallery[:, None] == gallery).all(axis=(2, 3))
    assert same.sum() > m
    for first, second in np.argwhere(same):
        assert (result[:, first] == result[:, second]).all()
    assert len(np.unique(result[0])) == num_people


@both_metrics
def test_the_order_of_rows_changes_nothing(metric: Metric) -> None:
    query, gallery = embeddings(0, 50), embeddings(1, 300)
    order, other = np.random.default_rng(0).permutation(300), np.arange(50)[::-1]
    result = part_distances(query[other], gallery[order], metric=metric)
    np.testing.assert_allclose(
        result, part_distances(query, gallery, metric=metric)[other][:, order], rtol=2e-6
    )


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


@both_metrics
def test_blocks_and_tiles_change_nothing(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = np.concatenate([embeddings(2, 190), embeddings(1, 23)[:5]])
    query = embeddings(1, 23)
    whole = part_distances(query, gallery, metric=metric)
    for name, value in {
        "_MIN_ROWS": 3,
        "_MIN_PAIRS": 30,
        "_PAIRS_A_TILE": 1,
        "_NUMBERS_A_REPAIR": 8,
        "_NUMBERS_A_LOOK": 50,
    }.items():
        monkeypatch.setattr(distances, name, value)
    np.testing.assert_allclose(part_distances(query, gallery, metric=metric), whole, rtol=1e-5)


def test_never_more_than_a_block_is_held() -> None:
    query, gallery = embeddings(0, 5000, 1, 2), embeddings(1, 5000, 1, 2)
    blocks = [(rows, block.shape) for rows, block in distance_blocks(query, gallery)]
    assert [row for rows, _ in blocks for row in range(5000)[rows]] == list(range(5000))
    assert max(num_rows for _, (num_rows, _) in blocks) <= 1024
    most = [len(block) for _, block in distance_blocks(query[:9], gallery, max_rows=2)]
    assert most == [2, 2, 2, 2, 1]


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was() -> None:
    query, gallery = embeddings(0, 300), embeddings(1, 3000)
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            results.append(part_distances(query, gallery))
            assert torch.get_num_threads() == num_threads
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == num_threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_the_caller_may_overwrite_a_block() -> None:
    query, gallery = embeddings(0, 8), embeddings(1, 5)
    found = []
    for _, block in distance_blocks(query, gallery, max_rows=3):
        found.append(block.numpy().copy())
        block.fill_(-1)
    np.testing.assert_allclose(np.concatenate(found), part_distances(query, gallery), rtol=1e-6)


def test_products_are_in_full_precision_whatever_the_process_asked_for() -> None:
    query, gallery = embeddings(0, 256, 1, 256), embeddings(1, 512, 1, 256)
    expected = part_distances(query, gallery)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        result = part_distances(query, gallery)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.gpu
@both_metrics
def test_a_gpu_finds_the_same(metric: Metric) -> None:
    query, gallery = embeddings(0, 50), np.concatenate([embeddings(1, 70), embeddings(0, 50)[:9]])
    np.testing.assert_allclose(
        part_distances(query, gallery, metric=metric, device="cuda"),
        part_distances(query, gallery, metric=metric),
        rtol=1e-5,
    )


def test_inputs_are_left_as_they_were() -> None:
    query, gallery = embeddings(1, 4), embeddings(2, 3)
    before = query.copy(), gallery.copy()
    part_distances(query, gallery)
    assert (query == before[0]).all()
    assert (gallery == before[1]).all()


@pytest.mark.parametrize(
    "changed",
    [
        lambda values: values[::-1],
        lambda values: np.asfortranarray(values),
        lambda values: np.frombuffer(values.tobytes(), np.float32).reshape(values.shape),
    ],
    ids=["backwards", "columns first", "read-only"],
)
def test_any_layout_of_memory_will_do(changed: Callable[[np.ndarray], np.ndarray]) -> None:
    values, query = embeddings(1, 9), embeddings(2, 4)
    np.testing.assert_allclose(
        part_distances(changed(query), changed(values)),
        part_distances(np.array(changed(query)), np.array(changed(values))),
        rtol=1e-6,
    )


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


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e17], ids=["NaN", "infinite", "too large"])
def test_rows_that_have_no_distance_are_counted_and_refused(number: float) -> None:
    gallery = embeddings(0, 5)
    gallery[[2, 4], 1, 3] = number
    with pytest.raises(ValueError, match=r"2 of 5 gallery embeddings hold .* first is row 2"):
        part_distances(embeddings(0, 2), gallery)
    with pytest.raises(ValueError, match="2 of 5 query embeddings"):
        part_distances(gallery, embeddings(0, 2))


def test_other_numbers_and_other_metrics_are_refused() -> None:
    values = embeddings(0, 2)
    with pytest.raises(ValueError, match="gallery embeddings are float64; expected float32"):
        part_distances(values, values.astype(np.float64))
    with pytest.raises(ValueError, match="'euc' is none of euclidean, cosine"):
        part_distances(values, values, metric="euc")  # type: ignore[arg-type]
