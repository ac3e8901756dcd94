"""CCPG: masks or pickles of 200 people who change their clothes.

Layouts, as the owners distribute it and as OpenGait arranges it:

    CCPG_G_SIL/000/U0_D0/01_0/*.png         masks, each cut to its person
    000/U0_D0/01_0/01_0-aligned-sils.pkl    OpenGait's tree: also -rgbs, -ratios and -sils

The condition names the upper and lower clothes, and `BG` a bag; the view begins with the camera.
The RGB crops of the raw distribution (`CCPG_D_MASK_FACE_SHOE`) are not read: people are cut out of
them already; the pickles hold them. OpenGait's script scales masks by areas; here they are scaled
as those of all other data sets are, by bicubic interpolation. Its pickles are read as they are.
"""

from __future__ import annotations

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import Scan

_SILHOUETTES = "CCPG_G_SIL"
_CROPS = "CCPG_D_MASK_FACE_SHOE"


def _look(scan: Scan) -> None:
    subjects: list[str] = []
    names = scan.folders("")
    for name in names:
        if name == _SILHOUETTES:
            scan.tree(scan.folders(name), masks="cropped", below=name)
        elif name == _CROPS:
            scan.leave_out(name, "crops without a scene, left out")
        else:
            subjects.append(name)
    if _SILHOUETTES in names:
        subjects = scan.subjects_of(expected.CCPG, subjects)
    scan.tree(subjects, masks="cropped")


ADAPTER = Adapter(
    "ccpg",
    "CCPG_G_SIL/SUBJECT/CLOTHES/CAMERA_*/*.png, or SUBJECT/CLOTHES/CAMERA_*/*.pkl, such as "
    "000/U0_D0/01_0",
    _look,
    expected.CCPG,
)
index = ADAPTER.index
