"""Ranks by hand; `test_retrieval_reference` has the literal loops."""

import numpy as np
import pytest
import torch

from raygait.evaluation import ranking
from raygait.evaluation.ranking import Ranks, rank, top_k


def on_a_line(*places: float) -> np.ndarray:
    """Embeddings of one part and one number: the distance is the difference."""
    return np.array(places, np.float32).reshape(-1, 1, 1)


def one(ranks: Ranks) -> tuple[int, float, float]:
    assert len(ranks.first_hit) == 1
    return ranks.first_hit[0], ranks.average_precision[0], ranks.inverse_penalty[0]


def test_by_hand_first_hit_average_precision_and_inverse_penalty() -> None:
    gallery = on_a_line(5, 1, 2, 4, 3)
    # Nearest first: b a b a b, so that a is at ranks 2 and 4, and b at 1, 3 and 5.
    ranks = rank(on_a_line(0, 0), gallery, ["a", "b"], ["b", "b", "a", "a", "b"])
    assert ranks.first_hit.tolist() == [2, 1]
    np.testing.assert_allclose(
        ranks.average_precision, [(1 / 2 + 2 / 4) / 2, (1 / 1 + 2 / 3 + 3 / 5) / 3]
    )
    np.testing.assert_allclose(ranks.inverse_penalty, [2 / 4, 3 / 5])


def test_without_precision_only_the_first_hit_is_found() -> None:
    gallery = on_a_line(5, 1, 2, 4, 3)
    ranks = rank(on_a_line(0, 0), gallery, ["a", "b"], ["b", "b", "a", "a", "b"], precision=False)
    assert ranks.first_hit.tolist() == [2, 1]
    assert np.isnan([ranks.average_precision, ranks.inverse_penalty]).all()


def test_pairs_of_the_same_subject_and_view_are_neither_hit_nor_miss() -> None:
    gallery, subjects = on_a_line(1, 2, 3, 4, 5), ["a", "b", "a", "b", "a"]
    views = ["90", "90", "00", "00", "54"]
    # Left out: a at 90. Left: b a b a. The other subject of that view stays.
    ranks = rank(on_a_line(0), gallery, ["a"], subjects, leave_out=(["90"], views))
    assert one(ranks) == (2, (1 / 2 + 2 / 4) / 2, 2 / 4)
    # Another probe view leaves nothing of a out here: a b a b a.
    ranks = rank(on_a_line(0), gallery, ["a"], subjects, leave_out=(["18"], views))
    assert one(ranks) == (1, pytest.approx((1 + 2 / 3 + 3 / 5) / 3), 3 / 5)


def test_a_probe_whose_right_sequences_are_all_left_out_has_none_to_find() -> None:
    ranks = rank(
        on_a_line(0, 0), on_a_line(0, 1), ["a", "b"], ["a", "b"], leave_out=(["x", "x"], ["x", "y"])
    )
    assert ranks.first_hit.tolist() == [0, 2]
    np.testing.assert_array_equal(ranks.average_precision, [np.nan, 0.5])
    np.testing.assert_array_equal(ranks.inverse_penalty, [np.nan, 0.5])


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_a_wrong_sequence_as_near_as_a_right_one_counts_as_nearer(order: list[int]) -> None:
    gallery, subjects = on_a_line(1, 1, 2, 2)[order], np.array(["a", "b", "b", "a"])[order]
    assert one(rank(on_a_line(0), gallery, ["a"], subjects)) == (2, (1 / 2 + 2 / 4) / 2, 2 / 4)


def test_right_sequences_as_near_as_each_other_follow_each_other() -> None:
    ranks = rank(on_a_line(0), on_a_line(1, 1, 1), ["a"], ["a", "a", "b"])
    assert one(ranks) == (2, pytest.approx((1 / 2 + 2 / 3) / 2), 2 / 3)


@pytest.mark.parametrize("precision", [True, False])
def test_a_network_that_maps_everyone_to_one_point_scores_nothing(precision: bool) -> None:
    values = np.ones((60, 4, 32), np.float32)
    subjects = np.arange(60) // 6
    ranks = rank(values, values, subjects, subjects, precision=precision)
    assert (ranks.first_hit == 55).all()


def test_a_probe_without_its_subject_in_the_gallery_has_rank_0() -> None:
    ranks = rank(on_a_line(0, 0), on_a_line(1, 2), ["z", "b"], ["a", "b"])
    assert ranks.first_hit.tolist() == [0, 2]
    np.testing.assert_array_equal(ranks.average_precision, [np.nan, 0.5])


def test_in_a_set_of_one_subject_every_rank_is_1() -> None:
    ranks = rank(on_a_line(0, 7), on_a_line(1, 2, 3), ["a", "a"], ["a", "a", "a"])
    assert ranks.first_hit.tolist() == [1, 1]
    assert ranks.average_precision.tolist() == ranks.inverse_penalty.tolist() == [1, 1]


@pytest.mark.parametrize(("n", "m"), [(0, 2), (2, 0), (0, 0)])
def test_an_empty_side_has_nothing_to_find(n: int, m: int) -> None:
    ranks = rank(on_a_line(*range(n)), on_a_line(*range(m)), ["a"] * n, ["a"] * m)
    assert ranks.first_hit.tolist() == [0] * n
    assert np.isnan(ranks.average_precision).tolist() == [True] * n
    assert ranks.inverse_penalty.shape == (n,)


def test_many_right_sequences_are_ranked_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    probe, gallery = generator.normal(size=(2, 40, 3, 5)).astype(np.float32)
    subjects = generator.integers(0, 3, 40)
    few = rank(probe, gallery, subjects, subjects)
    monkeypatch.setattr(ranking, "_MAX_COUNTS", 2)
    many = rank(probe, gallery, subjects, subjects)
    np.testing.assert_array_equal(few.first_hit, many.first_hit)
    np.testing.assert_array_equal(few.average_precision, many.average_precision)


@pytest.mark.parametrize("max_counts", [24, 2], ids=["counted", "sorted"])
def test_torch_counts_as_numpy_does(max_counts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_MAX_COUNTS", max_counts)
    generator = np.random.default_rng(0)
    distances = torch.from_numpy(generator.integers(0, 9, (20, 30)).astype(np.float32))
    distances[3, 4] = torch.inf
    limits = np.sort(generator.integers(0, 9, (20, 5)).astype(np.float32), axis=1)
    expected = [
        [(row <= limit).sum() for limit in of]
        for row, of in zip(distances.numpy(), limits, strict=True)
    ]
    assert ranking._num_within_by_torch(distances, limits).tolist() == expected
    assert ranking._num_within(distances, limits).tolist() == expected


@pytest.mark.gpu
def test_a_gpu_ranks_as_a_cpu_does() -> None:
    generator = np.random.default_rng(0)
    probe, gallery = generator.normal(size=(2, 300, 3, 5)).astype(np.float32)
    for subjects in (generator.integers(0, 3, 300), generator.integers(0, 60, 300)):
        cpu = rank(probe, gallery, subjects, subjects)
        gpu = rank(probe, gallery, subjects, subjects, device="cuda")
        assert (cpu.first_hit == gpu.first_hit).mean() > 0.99
        np.testing.assert_allclose(cpu.average_precision, gpu.average_precision, rtol=0.01)
    assert (top_k(probe, gallery, 1) == top_k(probe, gallery, 1, device="cuda")).mean() > 0.99


def test_the_nearest_k_come_nearest_first_and_ties_in_gallery_order() -> None:
    gallery = on_a_line(3, 1, 2, 1, -1, 0)
    assert top_k(on_a_line(0, 3), gallery, 4).tolist() == [[5, 1, 3, 4], [0, 2, 1, 3]]
    assert top_k(on_a_line(0), on_a_line(2, 2, 2), 3).tolist() == [[0, 1, 2]]
    assert top_k(on_a_line(), gallery, 2).shape == (0, 2)


def test_the_nearest_k_may_be_asked_for_by_cosine() -> None:
    gallery = np.array([[[9, 9]], [[1, 0]], [[0, 1]]], np.float32)
    assert top_k(np.array([[[1, 0.1]]], np.float32), gallery, 3, metric="cosine").tolist() == [
        [1, 0, 2]
    ]


@pytest.mark.parametrize(("k", "num_gallery"), [(0, 3), (4, 3), (1, 0)])
def test_top_k_of_a_k_that_is_not_there_is_refused(k: int, num_gallery: int) -> None:
    with pytest.raises(ValueError, match=rf"k \({k}\) must be between 1 and the gallery's"):
        top_k(on_a_line(0), on_a_line(*range(num_gallery)), k)


def test_labels_that_do_not_fit_are_refused() -> None:
    two, three = on_a_line(0, 1), on_a_line(0, 1, 2)
    with pytest.raises(ValueError, match="3 subjects for 2 probe embeddings"):
        rank(two, three, ["a"] * 3, ["a"] * 3)
    with pytest.raises(ValueError, match="2 subjects for 3 gallery embeddings"):
        rank(two, three, ["a"] * 2, ["a"] * 2)
    with pytest.raises(ValueError, match="2 groups to leave out for 3 gallery embeddings"):
        rank(two, three, ["a"] * 2, ["a"] * 3, leave_out=(["x"] * 2, ["x"] * 2))


def test_nan_is_refused_with_the_number_of_rows() -> None:
    with pytest.raises(ValueError, match="1 of 2 query embeddings hold NaN"):
        rank(on_a_line(0, np.nan), on_a_line(0), ["a", "b"], ["a"])
