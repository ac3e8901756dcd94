"""CASIA-B: masks, clips or pickles of 124 people, ten walks, eleven views.

Layouts, as the owners distribute them and as OpenGait arranges them:

    001/nm-01/090/001-nm-01-090-001.png     masks (GaitDatasetB-silh), frames of one size
    .../001-nm-01-090.avi                   clips (DatasetB-1/video/ and the like)
    001/nm-01/090/090.pkl                   OpenGait's pickles; of CASIA-B* four a leaf

Every other data set of `SUBJECT/CONDITION/VIEW/` folders of whole masks can be read with it too.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import CLIP_ENDINGS, Scan

_CLIP = re.compile(r"(\d{3})-((?:nm|bg|cl)-\d\d)-(\d{3})")
_EMPTY_SCENE = re.compile(r"\d{3}-bkgrd-\d{3}")


def _look(scan: Scan) -> None:
    def take_clip(path: str) -> bool:
        name = PurePosixPath(path)
        if name.suffix.lower() not in CLIP_ENDINGS:
            return False
        walk = _CLIP.fullmatch(name.stem)
        if walk is not None:
            subject, condition, view = walk.groups()
            scan.add(subject, condition, view, path, "video")
        # A scene without anybody is of use to background subtraction, and here to nobody.
        return walk is not None or _EMPTY_SCENE.fullmatch(name.stem) is not None

    scan.tree(scan.folders("", on_file=take_clip), masks="silhouettes", on_file=take_clip)


ADAPTER = Adapter(
    "casiab",
    "SUBJECT/CONDITION/VIEW/*.png or *.pkl, such as 001/nm-01/090, or clips 001-nm-01-090.avi",
    _look,
    expected.CASIAB,
    takes_others=True,
)
index = ADAPTER.index
