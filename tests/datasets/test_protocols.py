"""Protocols, as text goldens against the papers' tables."""

import pytest

from raygait.datasets import protocols
from raygait.datasets.protocols import CASIAB
from raygait.errors import DatasetError


def test_casiab_is_the_published_protocol() -> None:
    """GaitGL (journal) section 4.1."""
    assert CASIAB.gallery_conditions == ("nm-01", "nm-02", "nm-03", "nm-04")
    assert CASIAB.probe_conditions == {
        "NM": ("nm-05", "nm-06"),
        "BG": ("bg-01", "bg-02"),
        "CL": ("cl-01", "cl-02"),
    }
    assert CASIAB.exclude_identical_view
    assert protocols.protocol("casiab") is CASIAB
    for name, entry in protocols.PROTOCOLS.items():
        assert (entry.name, bool(entry.source)) == (name, True)


def test_an_unknown_protocol_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(DatasetError, match=r"no protocol is named 'oumvlp'.*casiab"):
        protocols.protocol("oumvlp")
