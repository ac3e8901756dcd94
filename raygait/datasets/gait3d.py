"""Gait3D: masks or pickles of 4000 people in a supermarket, from 39 cameras.

Layouts, as the owners distribute it and as OpenGait arranges it:

    2D_Silhouettes/0000/camid0_videoid2/seq0/*.png      masks, each cut to its person
    2D_Poses/0000/camid0_videoid2/seq0/*.txt            their joints, a file a mask
    0000/camid0_videoid2/seq0/seq0.pkl                  OpenGait's tree; merged: sils-seq0.pkl, ...

Camera and video are the condition, the sequence is the view. Joints are places in the crop that the
mask was made of. Where `2D_Poses` has a folder in it, every sequence is expected to have them.
Meshes (`smpls-*.pkl`) and parsing are not read.
"""

from __future__ import annotations

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import Scan

_SILHOUETTES = "2D_Silhouettes"
_POSES = "2D_Poses"
_OTHERS = frozenset(("2D_Parsings", "3D_SMPLs", "2D_Keypoints"))


def _look(scan: Scan) -> None:
    subjects: list[str] = []
    names = scan.folders("")
    for name in names:
        if name == _SILHOUETTES:
            scan.tree(scan.folders(name), masks="cropped", below=name)
        elif name == _POSES and _SILHOUETTES in names:
            continue
        elif name in (_POSES, *_OTHERS):
            scan.leave_out(name, "no silhouettes, left out")
        else:
            subjects.append(name)
    if _SILHOUETTES in names:
        subjects = scan.subjects_of(expected.GAIT3D, subjects)
        if _POSES in names and scan.folders(_POSES):
            scan.put_beside(lambda raw: {"poses": f"{_POSES}/{raw.source.partition('/')[2]}"})
    scan.tree(subjects, masks="cropped")


ADAPTER = Adapter(
    "gait3d",
    "2D_Silhouettes/SUBJECT/CAMERA_VIDEO/SEQ/*.png, or SUBJECT/CAMERA_VIDEO/SEQ/*.pkl, such as "
    "0000/camid0_videoid2/seq0",
    _look,
    expected.GAIT3D,
)
index = ADAPTER.index
