"""Protocols as data, each with the table or section it comes from.

A protocol says which walks of the tested subjects are the gallery, which are probes, and which
pairs are compared; `splits` says who is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raygait.errors import DatasetError


@dataclass(frozen=True)
class CrossViewProtocol:
    """Rank-1 for every probe view against every other gallery view, as CASIA-B is scored.

    Attributes:
        name: What a recipe calls it.
        source: Where the protocol is defined.
        gallery_conditions: Walks whose subjects are known.
        probe_conditions: Name of a probe set -> its walks.
        exclude_identical_view: Whether a probe is compared with other views only.
    """

    name: str
    source: str
    gallery_conditions: tuple[str, ...]
    probe_conditions: Mapping[str, tuple[str, ...]]
    exclude_identical_view: bool = True


CASIAB = CrossViewProtocol(
    name="casiab",
    source=(
        "GaitGL (journal) section 4.1 and Table 1; GaitEdge section 5.1 and Table 3: gallery "
        "NM#01-04, probes NM#05-06, BG#01-02, CL#01-02, identical views left out"
    ),
    gallery_conditions=("nm-01", "nm-02", "nm-03", "nm-04"),
    probe_conditions={
        "NM": ("nm-05", "nm-06"),
        "BG": ("bg-01", "bg-02"),
        "CL": ("cl-01", "cl-02"),
    },
)

PROTOCOLS: dict[str, CrossViewProtocol] = {CASIAB.name: CASIAB}


def protocol(name: str) -> CrossViewProtocol:
    """A protocol by its name.

    Raises:
        DatasetError: There is none of this name.
    """
    if name not in PROTOCOLS:
        raise DatasetError(f"no protocol is named {name!r}; there are {sorted(PROTOCOLS)}")
    return PROTOCOLS[name]
