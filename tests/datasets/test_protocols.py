"""Protocols, as text goldens against the papers' tables and the field's code."""

import pytest

from raygait.datasets import protocols
from raygait.datasets.protocols import (
    CASIAB,
    PROTOCOLS,
    is_error_rate,
    number_name,
    parts_of,
    protocol,
)
from raygait.errors import DatasetError


def lines_of(name: str) -> list[str]:
    """A protocol in few words: how it compares, then a line a probe set."""
    each = protocol(name)
    return [
        f"{each.cells}; {each.left_out} left out; without gallery {each.without_gallery}; "
        f"{each.matching} {each.view}; {', '.join(each.metrics)}; by {', '.join(each.headline)}",
        *(
            f"{key}: {' '.join(walks.probe)} in {' '.join(walks.gallery)}".strip()
            for key, walks in each.probe_sets.items()
        ),
    ]


def test_casiab_is_the_published_protocol() -> None:
    """GaitGL (journal) section 4.1."""
    assert lines_of("casiab") == [
        "view pairs; identical view left out; without gallery miss; equal view; rank1; by NM, BG, "
        "CL",
        "NM: nm-05 nm-06 in nm-01 nm-02 nm-03 nm-04",
        "BG: bg-01 bg-02 in nm-01 nm-02 nm-03 nm-04",
        "CL: cl-01 cl-02 in nm-01 nm-02 nm-03 nm-04",
    ]
    assert protocol("casiab") == CASIAB


def test_oumvlp_has_two_protocols_that_differ_in_invalid_probes() -> None:
    """GaitGL (journal) section 4.1 and Table 2."""
    how = "view pairs; identical view left out; without gallery {}; equal view; rank1; by rank1"
    assert lines_of("oumvlp") == [how.format("miss"), ": 00 in 01"]
    assert lines_of("oumvlp-valid") == [how.format("left out"), ": 00 in 01"]


def test_the_survey_leaves_out_the_own_view_of_the_own_subject() -> None:
    how = "probe views; own view left out; without gallery miss; equal view; rank1, mAP; by "
    assert lines_of("casiab-survey") == [
        how + "NM, BG, CL",
        "NM: nm-01 in nm-02 bg-02 cl-02",
        "BG: bg-01 in nm-02 bg-02 cl-02",
        "CL: cl-01 in nm-02 bg-02 cl-02",
    ]
    assert lines_of("oumvlp-survey") == [how + "rank1", ": 00 in 01"]


def test_grew_has_a_check_and_a_file() -> None:
    how = "whole; nothing left out; without gallery miss; equal view; "
    assert lines_of("grew") == [how + "rank1, rank5, rank10, rank20; by rank1", ": 02 in 01"]
    assert "unofficial" in protocol("grew").name
    file = protocol("grew-submission")
    assert (file.submission, file.beside, file.numbers) == (20, protocol("grew").name, ())
    assert lines_of("grew-submission")[1] == ": 03 in 01 02"


def test_gait3d_leaves_no_camera_out_and_reads_its_probes() -> None:
    """GaitGL (journal) Table 4."""
    (how,) = lines_of("gait3d")
    assert how == (
        "whole; nothing left out; without gallery left out; equal view; rank1, rank5, rank10, mAP, "
        "mINP; by rank1"
    )
    assert lines_of("listed") == [how]
    assert protocol("gait3d").is_listed
    assert not protocol("grew-submission").is_listed


def test_ccpg_has_two_families_over_the_same_walks() -> None:
    """GaitHeat Table 1; the names of the settings are CCPG's."""
    walks = [
        "CL: U0_D0_BG U0_D0 in U1_D1 U2_D2 U3_D3",
        "UP: U3_D3 in U0_D3",
        "DN: U1_D0 in U1_D1",
        "BG: U0_D0_BG in U0_D0",
    ]
    assert lines_of("ccpg") == [
        "whole; own view left out; without gallery left out; equal camera; rank1, mAP, mINP; by "
        "CL, UP, DN, BG",
        *walks,
    ]
    ranks = [f"rank{k}" for k in range(1, 6)]
    both = ", ".join([*ranks, *(f"{rank}-with-identical" for rank in ranks)])
    assert lines_of("ccpg-gait") == [
        "view pairs; identical view left out; without gallery miss; equal camera; "
        f"{both}; by CL, UP, DN, BG",
        *walks,
    ]


def test_sustech1k_finds_attributes_in_the_names_of_walks() -> None:
    """GaitHeat Table 2."""
    assert lines_of("sustech1k") == [
        "view pairs; identical view left out; without gallery miss; contains view; rank1, rank5; "
        "by Overall",
        "Normal: 01-nm in 00-nm",
        "Bag: bg in 00-nm",
        "Clothing: cl in 00-nm",
        "Carrying: cr in 00-nm",
        "Umbrella: ub in 00-nm",
        "Uniform: uf in 00-nm",
        "Occlusion: oc in 00-nm",
        "Night: nt in 00-nm",
        "Overall: 01 02 03 04 in 00-nm",
    ]


def test_ttg200_compares_the_first_walk_with_the_others() -> None:
    """GaitEdge section 5.1."""
    assert lines_of("ttg200") == [
        "whole; nothing left out; without gallery miss; equal view; rank1; by rank1",
        ": 2 3 4 5 6 in 1",
    ]


class TestNames:
    def test_every_protocol_has_its_own_name_a_source_and_says_what_it_needs(self) -> None:
        for name, each in PROTOCOLS.items():
            assert each.name == name
            assert each.title
            assert each.source
            assert "split" in each.needs
            text = protocols.describe()
            assert f"\n{name}\n" in f"\n{text}"
            assert each.needs in text

    def test_a_number_is_named_after_its_set_and_what_is_counted(self) -> None:
        for probe_set, metric, name in [
            ("NM", "rank1", "NM"),
            ("CL", "mAP", "CL/mAP"),
            ("", "rank1", "rank1"),
            ("", "TAR-at-FAR-0.001", "TAR-at-FAR-0.001"),
            ("UP", "rank5-with-identical", "UP/rank5-with-identical"),
        ]:
            assert number_name(probe_set, metric) == name
            assert parts_of(name) == (probe_set, metric)
        for each in PROTOCOLS.values():
            for number in each.numbers:
                assert parts_of(number)[0] in each.sets
                assert parts_of(number)[1] in each.metrics

    def test_prefixes_change_how_the_same_walks_are_scored(self) -> None:
        found = protocol("cosine:rounded:casiab")
        assert found.name == "rounded:cosine:casiab" == protocol("rounded:cosine:casiab").name
        assert (found.rounded, found.metric, found.probe_sets) == (
            True,
            "cosine",
            CASIAB.probe_sets,
        )
        found = protocol("open-set:ccpg")
        assert found.headline == ("CL/EER", "UP/EER", "DN/EER", "BG/EER")
        assert all(map(is_error_rate, found.headline))
        assert protocol("cosine:grew").name == "cosine:grew-unofficial"

    def test_cells_are_rounded_where_the_code_that_is_to_be_matched_rounds_them(self) -> None:
        """OpenGait has a function for each of these; oumvlp-valid it does not compute."""
        assert {name for name, each in PROTOCOLS.items() if each.peers_round} == {
            "casiab",
            "oumvlp",
            "casiab-survey",
            "oumvlp-survey",
            "grew-unofficial",
            "ccpg-gait",
            "sustech1k",
            "ttg200",
        }
        assert protocol("rounded:ttg200").rounded

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("oumvlp2", r"no protocol is named 'oumvlp2'; there are casiab, oumvlp, .*open-set:"),
            ("square:casiab", "no protocol is named 'square:casiab'"),
            ("casiab:rounded", "no protocol is named"),
            ("", "no protocol is named ''"),
            ("cosine:cosine:casiab", "has a prefix twice"),
            ("rounded:gait3d", "no code of the field rounds cells of gait3d"),
            ("rounded:ccpg", "no code of the field rounds cells of ccpg"),
            ("rounded:oumvlp-valid", "no code of the field rounds cells of oumvlp-valid"),
            ("rounded:open-set:casiab", "rounds cells of the open-set question"),
            ("open-set:grew-submission", "writes a file and has no pairs of known people"),
        ],
    )
    def test_a_name_without_a_meaning_is_an_error(self, name: str, says: str) -> None:
        with pytest.raises(DatasetError, match=says):
            protocol(name)
