"""Error rates by hand; `test_retrieval_reference` has the literal loops."""

import numpy as np
import pytest

from raygait.evaluation import verification
from raygait.evaluation.verification import verify


def on_a_line(*places: float) -> np.ndarray:
    """Embeddings of one part and one number: the distance is the difference."""
    return np.array(places, np.float32).reshape(-1, 1, 1)


def test_by_hand_the_equal_error_rate_and_the_true_accept_rates() -> None:
    # Genuine at 1, 2, 4, 6; impostors at 3, 5, 7, 8. Accepting up to 4: three of four genuine and
    # one of four impostors, so that both error rates are 1/4.
    gallery, subjects = on_a_line(1, 2, 3, 4, 5, 6, 7, 8), list("aabababb")
    found = verify(on_a_line(0), gallery, ["a"], subjects, far=(0.0, 0.24, 0.25, 0.5, 1.0))
    assert (found.eer, found.threshold) == (0.25, 4)
    assert found.tar == {0.0: 0.5, 0.24: 0.5, 0.25: 0.75, 0.5: 1.0, 1.0: 1.0}
    assert (found.num_genuine, found.num_impostor, found.max_error) == (4, 4, 0)


def test_between_two_thresholds_the_equal_error_rate_is_on_the_line() -> None:
    # Genuine at 1, 3, 3; impostors at 2, 3. From (FAR, FRR) = (1/2, 2/3) at 2 to (1, 0) at 3:
    # 1/2 + s/2 = 2/3 - 2s/3, s = 1/7.
    found = verify(on_a_line(0), on_a_line(1, 2, 3, 3, 3), ["a"], list("abaab"))
    assert found.eer == pytest.approx(1 / 2 + 1 / 14)
    assert found.threshold == pytest.approx(3)


def test_perfect_separation_has_no_error() -> None:
    found = verify(on_a_line(0), on_a_line(1, 2, 5, 6), ["a"], list("aabb"), far=(0.0,))
    assert (found.eer, found.threshold, found.tar) == (0, 2, {0.0: 1.0})


def test_an_impostor_as_near_as_a_genuine_pair_is_accepted_with_it() -> None:
    found = verify(on_a_line(0), on_a_line(1, 1, 2), ["a"], list("abb"), far=(0.4, 0.5))
    assert found.tar == {0.4: 0.0, 0.5: 1.0}


@pytest.mark.parametrize("max_kept", [10**6, 0], ids=["kept", "in bins"])
def test_a_network_that_maps_everyone_to_one_point_is_no_better_than_chance(
    max_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_MAX_KEPT", max_kept)
    values, subjects = np.ones((30, 4, 32), np.float32), np.arange(30) // 3
    found = verify(values, values, subjects, subjects)
    assert found.eer == 0.5
    assert set(found.tar.values()) == {0.0}


def test_pairs_of_the_same_subject_and_view_are_not_compared() -> None:
    gallery, subjects, views = on_a_line(0, 1, 2, 3), list("aabb"), list("xyxy")
    found = verify(on_a_line(0), gallery, ["a"], subjects, leave_out=(["x"], views))
    assert (found.num_genuine, found.num_impostor) == (1, 2)
    assert (found.eer, found.threshold) == (0, 1)


@pytest.mark.parametrize("max_kept", [10**6, 0], ids=["kept", "in bins"])
@pytest.mark.parametrize(
    ("probe_subjects", "gallery_subjects", "num_genuine", "num_impostor"),
    [("aa", "aaa", 6, 0), ("ab", "ccc", 0, 6), ("", "aaa", 0, 0), ("aa", "", 0, 0)],
    ids=["one subject", "nobody known", "no probe", "no gallery"],
)
def test_without_genuine_or_impostor_pairs_there_is_no_rate(
    probe_subjects: str,
    gallery_subjects: str,
    num_genuine: int,
    num_impostor: int,
    max_kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "_MAX_KEPT", max_kept)
    found = verify(
        on_a_line(*range(len(probe_subjects))),
        on_a_line(*range(len(gallery_subjects))),
        list(probe_subjects),
        list(gallery_subjects),
    )
    assert (found.num_genuine, found.num_impostor) == (num_genuine, num_impostor)
    assert np.isnan([found.eer, found.threshold, *found.tar.values()]).all()
    assert list(found.tar) == [1e-1, 1e-2, 1e-3, 1e-4]


def test_many_pairs_are_counted_in_bins_and_the_bound_is_small() -> None:
    generator = np.random.default_rng(0)
    subjects = np.arange(4200) // 6
    people = generator.normal(size=(700, 1, 8))
    probe, gallery = (people[subjects] + 0.7 * generator.normal(size=(2, 4200, 1, 8))).astype(
        np.float32
    )
    found = verify(probe, gallery, subjects, subjects)
    assert found.num_genuine + found.num_impostor == 4200**2 > verification._MAX_KEPT
    assert 0 < found.max_error < 1e-3
    assert 0.05 < found.eer < 0.2
    tars = list(found.tar.values())
    assert tars == sorted(tars, reverse=True)


def test_rates_out_of_range_and_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rates \[1.5\] are not within 0..1"):
        verify(on_a_line(0), on_a_line(0), ["a"], ["a"], far=(0.1, 1.5))
    with pytest.raises(ValueError, match="2 subjects for 1 probe embeddings"):
        verify(on_a_line(0), on_a_line(0), ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="1 of 1 gallery embeddings hold NaN"):
        verify(on_a_line(0), on_a_line(np.nan), ["a"], ["a"])
