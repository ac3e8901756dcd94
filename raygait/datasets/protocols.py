"""Protocols as data, each with the table or section it comes from.

A protocol says which walks of the tested subjects are the gallery, which are probes, and which
pairs are compared; `splits` says who is tested and `evaluation.protocols` computes the numbers.

A number's name is that of its probe set for rank-1 (`NM`), else `SET/METRIC` (`CL/mAP`); protocols
with a single, nameless probe set have the metric alone (`rank1`, `mINP`).

Names may have prefixes. `rounded:NAME` rounds each cell to two decimals before the mean, as
OpenGait does with most: needed to match its numbers to the last digit. `cosine:NAME` ranks by
cosine instead of Euclidean distance. `open-set:NAME` compares the same pairs and answers another
question: not who it is, but whether it is the same person (EER, TAR at a FAR).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raygait.errors import DatasetError

MEAN_AP, MEAN_INP, EER = "mAP", "mINP", "EER"
# False accept rates of the open-set question; smaller ones need more pairs than a benchmark has.
FALSE_ACCEPT_RATES = (0.1, 0.01, 0.001)
WITH_IDENTICAL = "-with-identical"
"""End of the name of a metric whose mean includes identical views."""


def rank_name(k: int) -> str:
    """Name of the rank-k accuracy as a metric, `rank5`."""
    return f"rank{k}"


def tar_name(far: float) -> str:
    """Name of the true accept rate at a false accept rate as a metric, `TAR-at-FAR-0.01`."""
    return f"TAR-at-FAR-{far:g}"


_METRIC = re.compile(rf"rank\d+({WITH_IDENTICAL})?|{MEAN_AP}|{MEAN_INP}|{EER}|TAR-at-FAR-[\d.e-]+")


def number_name(probe_set: str, metric: str) -> str:
    """Name of a protocol's number: `NM`, `CL/mAP`, `rank1`."""
    if not probe_set:
        return metric
    return probe_set if metric == rank_name(1) else f"{probe_set}/{metric}"


def parts_of(number: str) -> tuple[str, str]:
    """Probe set and metric of a number's name; the reverse of `number_name`."""
    probe_set, slash, metric = number.rpartition("/")
    if slash:
        return probe_set, metric
    return ("", number) if _METRIC.fullmatch(number) else (number, rank_name(1))


def metric_name(protocol: str, number: str) -> str:
    """Name under which a run records a protocol's number: `casiab/NM/rank1`, `gait3d/mAP`."""
    return "/".join(filter(None, (protocol, *parts_of(number))))


def is_error_rate(number: str) -> bool:
    """Whether a lower number is the better one."""
    return parts_of(number)[1] == EER


@dataclass(frozen=True)
class ProbeSet:
    """Walks that are looked for, and those among which.

    Attributes:
        probe: Conditions of the probes.
        gallery: Conditions of the gallery.
    """

    probe: tuple[str, ...]
    gallery: tuple[str, ...]


@dataclass(frozen=True)
class Protocol:
    """Who is compared with whom, and what is counted.

    Attributes:
        name: What a recipe calls it; every number is printed under it.
        title: What it is, for people.
        source: Where it is defined.
        needs: Conditions and split that a data set must have.
        probe_sets: Name -> walks. Empty where the split's partition file lists the walks.
        cells: What a number is first computed for, and then averaged over, all alike:
            `view pairs`: each probe view against each gallery view; the mean over gallery views is
            that of a probe view;
            `probe views`: each probe view against the gallery of all views;
            `whole`: all probes against all of the gallery.
        left_out: `identical view`: cells of equal views count in no mean; `own view`: of a probe's
            own subject, gallery walks of the same view are not compared.
        without_gallery: A probe whose subject is not in the gallery is a `miss`, or `left out`.
        matching: Whether a walk's condition equals one of the conditions, or contains it.
        view: A walk's view is its `view`, or its `camera`: the view up to the first underscore.
        ranks: The k of rank-k.
        precision: Whether mAP and mINP are counted.
        mean_inverse_penalty: Whether mINP is, where mAP is.
        with_identical: Whether means that include identical views are given beside.
        headline: Numbers whose mean says which of two models is better.
        layout: Columns of the paper's table: `views`, or the numbers.
        peers_round: Whether OpenGait computes it and rounds its cells, so that `rounded:` has a
            meaning.
        per_cent_first: How that code gets from a share to a rounded percentage, which differs in
            the last bit: 100 n / m, or 100 (n / m).
        submission: Number of ranks of the file that a benchmark's server scores; 0: there is none.
        beside: For a submission, the protocol whose numbers are computed beside.
        rounded: Cells are rounded to two decimals.
        metric: Distance.
        open_set: EER and TAR at a FAR are computed, in place of ranks.
    """

    name: str
    title: str
    source: str
    needs: str
    probe_sets: Mapping[str, ProbeSet]
    cells: Literal["view pairs", "probe views", "whole"] = "whole"
    left_out: Literal["nothing", "identical view", "own view"] = "nothing"
    without_gallery: Literal["miss", "left out"] = "miss"
    matching: Literal["equal", "contains"] = "equal"
    view: Literal["view", "camera"] = "view"
    ranks: tuple[int, ...] = (1,)
    precision: bool = False
    mean_inverse_penalty: bool = True
    with_identical: bool = False
    headline: tuple[str, ...] = ()
    layout: Literal["views", "numbers"] = "numbers"
    peers_round: bool = True
    per_cent_first: bool = True
    submission: int = 0
    beside: str = ""
    rounded: bool = False
    metric: Literal["euclidean", "cosine"] = "euclidean"
    open_set: bool = False

    @property
    def is_listed(self) -> bool:
        """Whether the split's partition file says which walks are probes."""
        return not self.probe_sets and not self.submission

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is counted of each probe set."""
        if self.open_set:
            return (EER, *(tar_name(far) for far in FALSE_ACCEPT_RATES))
        ranks = tuple(rank_name(k) for k in self.ranks)
        if self.with_identical:
            ranks += tuple(f"{rank}{WITH_IDENTICAL}" for rank in ranks)
        if not self.precision:
            return ranks
        return (*ranks, MEAN_AP, MEAN_INP) if self.mean_inverse_penalty else (*ranks, MEAN_AP)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the probe sets; of one that has none, the empty name."""
        return tuple(self.probe_sets) or ("",)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of all numbers; none of a submission, which a server scores."""
        if self.submission:
            return ()
        return tuple(number_name(each, metric) for each in self.sets for metric in self.metrics)


def _single(probe: tuple[str, ...], gallery: tuple[str, ...]) -> dict[str, ProbeSet]:
    return {"": ProbeSet(probe, gallery)}


_CASIAB_GALLERY = ("nm-01", "nm-02", "nm-03", "nm-04")
CASIAB = Protocol(
    name="casiab",
    title="CASIA-B, each view against each other view",
    source=(
        "GaitGL (journal) section 4.1 and Table 1; GaitEdge section 5.1 and Table 3: gallery "
        "NM#01-04, probes NM#05-06, BG#01-02, CL#01-02, identical views left out"
    ),
    needs="conditions nm-01..06, bg-01..02, cl-01..02; split casiab-st, casiab-mt or casiab-lt",
    probe_sets={
        "NM": ProbeSet(("nm-05", "nm-06"), _CASIAB_GALLERY),
        "BG": ProbeSet(("bg-01", "bg-02"), _CASIAB_GALLERY),
        "CL": ProbeSet(("cl-01", "cl-02"), _CASIAB_GALLERY),
    },
    cells="view pairs",
    left_out="identical view",
    headline=("NM", "BG", "CL"),
    layout="views",
)

OUMVLP = Protocol(
    name="oumvlp",
    title="OU-MVLP, each view against each other view",
    source=(
        "GaitGL (journal) section 4.1 and Table 2, upper half: gallery Seq#01, probes Seq#00, "
        "identical views left out"
    ),
    needs="conditions 00 and 01; split oumvlp",
    probe_sets=_single(("00",), ("01",)),
    cells="view pairs",
    left_out="identical view",
    headline=("rank1",),
    layout="views",
)

OUMVLP_VALID = dataclasses.replace(
    OUMVLP,
    name="oumvlp-valid",
    title="OU-MVLP without invalid probes, those whose subject the gallery view does not have",
    source="GaitGL (journal) Table 2, last eight rows: excluding invalid probe sequences",
    without_gallery="left out",
    peers_round=False,
)

_SURVEY = (
    "the cross-view gallery of 'A Comprehensive Study on the Evaluation of Silhouette-based Gait "
    "Recognition' (IEEE 9928336), as OpenGait computes it"
)
CASIAB_SURVEY = Protocol(
    name="casiab-survey",
    title="CASIA-B, each view against all views but the own, all clothes in the gallery",
    source=f"{_SURVEY}: gallery NM#02, BG#02, CL#02, probes NM#01, BG#01, CL#01",
    needs="conditions nm-01..02, bg-01..02, cl-01..02; split casiab-st, casiab-mt or casiab-lt",
    probe_sets={
        name: ProbeSet((f"{name.lower()}-01",), ("nm-02", "bg-02", "cl-02"))
        for name in ("NM", "BG", "CL")
    },
    cells="probe views",
    left_out="own view",
    precision=True,
    mean_inverse_penalty=False,
    headline=("NM", "BG", "CL"),
    layout="views",
    per_cent_first=False,
)

OUMVLP_SURVEY = dataclasses.replace(
    CASIAB_SURVEY,
    name="oumvlp-survey",
    title="OU-MVLP, each view against all views but the own",
    source=f"{_SURVEY}: gallery Seq#01, probes Seq#00",
    needs="conditions 00 and 01; split oumvlp",
    probe_sets=_single(("00",), ("01",)),
    headline=("rank1",),
)

GREW = Protocol(
    name="grew-unofficial",
    title="GREW's labelled test walks, one against the other; not the official score",
    source=(
        "OpenGait's check of GREW: gallery 01, probe 02 of the labelled test walks. The score that "
        "papers print (GaitGL, journal, Table 3) is the server's, see grew-submission"
    ),
    needs="conditions 01 and 02; split grew",
    probe_sets=_single(("02",), ("01",)),
    ranks=(1, 5, 10, 20),
    headline=("rank1",),
)

GREW_SUBMISSION = Protocol(
    name="grew-submission",
    title="GREW's file for its server: the 20 nearest gallery walks of each unknown probe",
    source="GREW's competition, as OpenGait writes the file: gallery 01 and 02, probes 03",
    needs="conditions 01 and 02, and 03 of the subject `probe` with the video's id as view; "
    "split grew",
    probe_sets=_single(("03",), ("01", "02")),
    submission=20,
    beside="grew-unofficial",
    peers_round=False,
)

GAIT3D = Protocol(
    name="gait3d",
    title="Gait3D, one probe a subject against all its other walks",
    source=(
        "GaitGL (journal) section 4.1 and Table 4, LGDiffGait Table 4: probes as the benchmark "
        "lists them, the other test walks are the gallery, no camera is left out"
    ),
    needs="split gait3d:PATH, whose file lists PROBE_SET",
    probe_sets={},
    without_gallery="left out",
    ranks=(1, 5, 10),
    precision=True,
    headline=("rank1",),
    peers_round=False,
)

LISTED = dataclasses.replace(
    GAIT3D,
    name="listed",
    title="any data set whose partition file lists probes or gallery, scored as Gait3D is",
    source=f"as {GAIT3D.name}",
    needs="split partition:PATH, whose file lists PROBE_SET or GALLERY_SET or both",
)

CCPG = Protocol(
    name="ccpg",
    title="CCPG as person re-identification is scored: same person by the same camera left out",
    source=(
        "GaitHeat Table 1 (rank-1 and mAP of CL, UP, DN, BG); CCPG's evaluation, as OpenGait "
        "computes it"
    ),
    needs="conditions U0_D0, U0_D0_BG, U0_D3, U1_D0, U1_D1, U2_D2, U3_D3, views CAMERA_...; "
    "split ccpg",
    probe_sets={
        "CL": ProbeSet(("U0_D0_BG", "U0_D0"), ("U1_D1", "U2_D2", "U3_D3")),
        "UP": ProbeSet(("U3_D3",), ("U0_D3",)),
        "DN": ProbeSet(("U1_D0",), ("U1_D1",)),
        "BG": ProbeSet(("U0_D0_BG",), ("U0_D0",)),
    },
    left_out="own view",
    without_gallery="left out",
    view="camera",
    precision=True,
    headline=("CL", "UP", "DN", "BG"),
    peers_round=False,
)

CCPG_GAIT = dataclasses.replace(
    CCPG,
    name="ccpg-gait",
    title="CCPG as gait is scored: each camera against each other camera",
    source="CCPG's evaluation per pair of cameras, as OpenGait computes it",
    cells="view pairs",
    left_out="identical view",
    without_gallery="miss",
    ranks=(1, 2, 3, 4, 5),
    precision=False,
    with_identical=True,
    peers_round=True,
)

_SUSTECH1K_GALLERY = ("00-nm",)
SUSTECH1K = Protocol(
    name="sustech1k",
    title="SUSTech1K by attribute, each view against each other view",
    source=(
        "GaitHeat Table 2 (rank-1 by attribute, overall rank-1 and rank-5); OpenGait: gallery "
        "00-nm, a probe has an attribute whose sign its condition contains"
    ),
    needs="conditions 00-nm, 01-nm, and others with bg, cl, cr, ub, uf, oc or nt in them; split "
    "sustech1k:PATH",
    probe_sets={
        name: ProbeSet(signs, _SUSTECH1K_GALLERY)
        for name, signs in {
            "Normal": ("01-nm",),
            "Bag": ("bg",),
            "Clothing": ("cl",),
            "Carrying": ("cr",),
            "Umbrella": ("ub",),
            "Uniform": ("uf",),
            "Occlusion": ("oc",),
            "Night": ("nt",),
            "Overall": ("01", "02", "03", "04"),
        }.items()
    },
    cells="view pairs",
    left_out="identical view",
    matching="contains",
    ranks=(1, 5),
    headline=("Overall",),
)

TTG200 = Protocol(
    name="ttg200",
    title="TTG-200, the first walk of each subject against the other five",
    source=(
        "GaitEdge section 5.1 and Table 2: gallery #1, probes #2-6, all views together; OpenGait "
        "computes and rounds it as GREW's check"
    ),
    needs="conditions 1 to 6; split ttg200",
    probe_sets=_single(("2", "3", "4", "5", "6"), ("1",)),
    headline=("rank1",),
)

PROTOCOLS: dict[str, Protocol] = {
    each.name: each
    for each in (
        CASIAB,
        OUMVLP,
        OUMVLP_VALID,
        CASIAB_SURVEY,
        OUMVLP_SURVEY,
        GREW,
        GREW_SUBMISSION,
        GAIT3D,
        LISTED,
        CCPG,
        CCPG_GAIT,
        SUSTECH1K,
        TTG200,
    )
}
# What recipes call it; the number's own name says that it is not the official one.
_ALIASES = {"grew": GREW.name}
_ROUNDED, _COSINE, _OPEN_SET = PREFIXES = ("rounded", "cosine", "open-set")


def protocol(name: str) -> Protocol:
    """A protocol by its name, `casiab`, with any of the prefixes, `rounded:cosine:casiab`.

    Returns:
        The protocol, whose own name has the prefixes in one order whatever theirs was.

    Raises:
        DatasetError: There is none of this name, or a prefix has no meaning for it.
    """
    *prefixes, base = name.split(":")
    base = _ALIASES.get(base, base)
    strangers = [prefix for prefix in prefixes if prefix not in PREFIXES]
    if base not in PROTOCOLS or strangers:
        raise DatasetError(
            f"no protocol is named {name!r}; there are {', '.join(PROTOCOLS)}, and before them "
            f"{', '.join(f'{prefix}:' for prefix in PREFIXES)}"
        )
    if len(set(prefixes)) < len(prefixes):
        raise DatasetError(f"protocol {name!r} has a prefix twice")
    found = PROTOCOLS[base]
    if _ROUNDED in prefixes and (_OPEN_SET in prefixes or not found.peers_round):
        what = "the open-set question" if _OPEN_SET in prefixes else base
        raise DatasetError(
            f"protocol {name!r}: no code of the field rounds cells of {what}; leave out rounded:"
        )
    if _OPEN_SET in prefixes:
        found = _open_set(found)
    return dataclasses.replace(
        found,
        name=":".join([*(prefix for prefix in PREFIXES if prefix in prefixes), base]),
        rounded=_ROUNDED in prefixes,
        metric="cosine" if _COSINE in prefixes else "euclidean",
    )


def _open_set(found: Protocol) -> Protocol:
    if found.submission:
        raise DatasetError(
            f"protocol {found.name!r} writes a file and has no pairs of known people"
        )
    return dataclasses.replace(
        found,
        # Of a pair of views there are too few pairs of people for the rates.
        cells="probe views" if found.cells == "view pairs" else found.cells,
        open_set=True,
        with_identical=False,
        headline=tuple(number_name(parts_of(each)[0], EER) for each in found.headline),
    )


def describe() -> str:
    """All protocols: what each is, what it needs and where it is defined."""
    lines = []
    for each in PROTOCOLS.values():
        lines += [each.name, f"    {each.title}", f"    needs   {each.needs}"]
        lines.append(f"    numbers {', '.join(each.numbers) or 'none: the server has them'}")
        lines.append(f"    source  {each.source}")
    lines += [
        "",
        "Before any of these names:",
        "    rounded:   each cell is rounded to two decimals, as OpenGait does with most",
        "    cosine:    cosine in place of Euclidean distance",
        "    open-set:  same person or not: EER, and TAR at a FAR, over the same pairs",
    ]
    return "\n".join(lines)
