"""CCPG: masks or pickles of 200 people who change their clothes.

Layouts, as the owners distribute it and as OpenGait arranges it:

    CCPG_G_SIL/000/U0_D0/01_0/*.png         masks, each cut to its person
    CCPG_D_MASK_FACE_SHOE/000/U0_D0/01_0/*.jpg      their colours, cut alike
    000/U0_D0/01_0/01_0-aligned-sils.pkl    OpenGait's tree: also -rgbs, -ratios and -sils

The condition names the upper and lower clothes, and `BG` a bag; the view begins with the camera.
Where a folder of colours is there, every sequence is expected to have them; they are scaled as the
pickles hold them. OpenGait's script scales masks by areas to align them; here they are scaled as
those of all other data sets are, by bicubic interpolation. Its pickles are read as they are.
"""

from __future__ import annotations

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import Scan

_SILHOUETTES = "CCPG_G_SIL"
_COLOURS = "CCPG_D_MASK_FACE_SHOE"


def _look(scan: Scan) -> None:
    subjects: list[str] = []
    names = scan.folders("")
    for name in names:
        if name == _SILHOUETTES:
            scan.tree(scan.folders(name), masks="cropped", below=name)
        elif name == _COLOURS and _SILHOUETTES in names:
            continue
        elif name == _COLOURS:
            scan.leave_out(name, "colours without masks, left out")
        else:
            subjects.append(name)
    if _SILHOUETTES in names:
        subjects = scan.subjects_of(expected.CCPG, subjects)
        if _COLOURS in names and scan.folders(_COLOURS):
            scan.put_beside(lambda raw: {"colours": f"{_COLOURS}/{raw.source.partition('/')[2]}"})
    scan.tree(subjects, masks="cropped")


ADAPTER = Adapter(
    "ccpg",
    "CCPG_G_SIL/SUBJECT/CLOTHES/CAMERA_*/*.png, or SUBJECT/CLOTHES/CAMERA_*/*.pkl, such as "
    "000/U0_D0/01_0",
    _look,
    expected.CCPG,
)
index = ADAPTER.index
