"""OU-MVLP: masks or pickles of 10307 people, two walks, fourteen views.

Layouts, as the owners distribute it and as OpenGait arranges it:

    Silhouette_090-00/00001/0001.png        view 090, walk 00, subject 00001
    00001/00/090/090.pkl, or *.png          OpenGait's tree

The walk is the condition: `01` is the gallery, `00` are the probes. People who came once lack half
of theirs; the report names what is missing.
"""

from __future__ import annotations

import re

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import Scan, join

_RAW = re.compile(r"Silhouette_(\d{3})-(\d\d)")


def _look(scan: Scan) -> None:
    subjects: list[str] = []
    names = scan.folders("")
    for name in names:
        raw = _RAW.fullmatch(name)
        if raw is None:
            subjects.append(name)
            continue
        view, condition = raw.groups()
        for subject in scan.folders(name):
            scan.add_leaf(subject, condition, view, join(name, subject), masks="silhouettes")
    if len(subjects) < len(names):
        subjects = scan.subjects_of(expected.OUMVLP, subjects)
    scan.tree(subjects, masks="silhouettes")


ADAPTER = Adapter(
    "oumvlp",
    "Silhouette_VIEW-WALK/SUBJECT/*.png, such as Silhouette_090-00/00001, or "
    "SUBJECT/WALK/VIEW/*.pkl, such as 00001/00/090",
    _look,
    expected.OUMVLP,
)
index = ADAPTER.index
