"""What guessing scores: worked out by formulas, against all orders and against guesses."""

import itertools
import math

import numpy as np
import pytest

from raygait.datasets.protocols import CASIAB, FALSE_ACCEPT_RATES, protocol
from raygait.datasets.splits import SequenceLists
from raygait.evaluation.chance import expected, expected_tar
from raygait.evaluation.protocols import chance, evaluate


def test_chance_of_a_balanced_gallery_is_one_in_its_subjects() -> None:
    rows = [
        (subject, condition, view)
        for subject in "abcdefgh"
        for condition in ("nm-01", "nm-02", "nm-05", "bg-01")
        for view in ("000", "090")
    ]
    result = chance(*zip(*rows, strict=True), CASIAB)
    assert result["NM"] == result["BG"] == pytest.approx(12.5)
    assert math.isnan(result["CL"])


def test_chance_is_what_guessing_scores() -> None:
    generator = np.random.default_rng(0)
    rows = [
        (f"{subject}", condition, view)
        for subject in range(6)
        for condition in ("nm-01", "nm-02", "nm-05", "nm-06")
        for view in ("000", "036", "090")
    ]
    labels = list(zip(*rows, strict=True))
    scores = [
        evaluate(
            generator.normal(size=(len(rows), 1, 3)).astype(np.float32), *labels, CASIAB
        ).means["NM"]
        for _ in range(40)
    ]
    assert np.mean(scores) == pytest.approx(chance(*labels, CASIAB)["NM"], abs=2.5)


class TestChance:
    def test_expectations_are_those_of_all_orders(self) -> None:
        for m, r in [(1, 1), (4, 1), (4, 2), (5, 3), (3, 3), (6, 5)]:
            orders = [set(order) for order in itertools.combinations(range(m), r)]
            literal_means = {
                "rank1": np.mean([0 in order for order in orders]),
                "rank3": np.mean([min(order) < 3 for order in orders]),
                "mAP": np.mean(
                    [
                        np.mean([(at + 1) / (place + 1) for at, place in enumerate(sorted(order))])
                        for order in orders
                    ]
                ),
                "mINP": np.mean([r / (max(order) + 1) for order in orders]),
            }
            found = expected(np.array([m]), np.array([r]), (1, 3))
            assert {name: value[0] for name, value in found.items()} == pytest.approx(literal_means)

    def test_of_a_gallery_of_thousands_it_is_a_number(self) -> None:
        found = expected(np.array([6000]), np.array([4]), (1, 20))
        assert found["rank1"] == pytest.approx([4 / 6000])
        assert 0 < found["mINP"][0] < found["mAP"][0] < found["rank20"][0] < 0.02

    def test_without_a_right_walk_rank_is_zero_and_precision_nothing(self) -> None:
        found = expected(np.array([5]), np.array([0]), (1,))
        assert found["rank1"] == 0
        assert np.isnan([found["mAP"][0], found["mINP"][0]]).all()

    @pytest.mark.parametrize(("num_genuine", "num_impostor"), [(1, 4), (3, 3), (2, 9), (2, 20)])
    def test_of_the_open_set_question_it_is_the_mean_over_all_orders_of_pairs(
        self, num_genuine: int, num_impostor: int
    ) -> None:
        """One probe at 0, so that the order of pairs is that of gallery walks 1, 2, 3, ..."""
        num_pairs = num_genuine + num_impostor
        lists = SequenceLists(probe=frozenset(["a-x-probe"]))
        rules = protocol("open-set:listed")
        views = ["probe", *map(str, range(num_pairs))]
        conditions = ["x"] * len(views)
        embeddings = np.arange(len(views), dtype=np.float32).reshape(-1, 1, 1)
        scores = []
        for order in itertools.combinations(range(num_pairs), num_genuine):
            subjects = ["a", *("a" if at in order else "b" for at in range(num_pairs))]
            labels = (subjects, conditions, views)
            scores.append(evaluate(embeddings, *labels, rules, lists=lists).means)
        means = {number: np.mean([each[number] for each in scores]) for number in rules.numbers}
        assert chance(*labels, rules, lists=lists) == pytest.approx(means)

    def test_of_many_pairs_a_tar_at_random_is_the_rate_itself(self) -> None:
        assert expected_tar(10**12, 0.001) == pytest.approx(0.001)
        assert expected_tar(7, 1.0) == 1

    @pytest.mark.parametrize("far", [*FALSE_ACCEPT_RATES, 0.29, math.nextafter(0.9, 0)])
    def test_as_many_impostors_are_accepted_as_in_the_measured_rate(self, far: float) -> None:
        """Products round: 0.29 * 100 to less than 29, the number below 0.9 times 10 to 9."""
        for num in (1, 9, 10, 50, 100, 700, 1000, 12_345):
            num_accepted = int((np.arange(num + 1) / num <= far).sum()) - 1
            assert expected_tar(num, far) == (num_accepted + 1) / (num + 1)
