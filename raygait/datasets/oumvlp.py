"""OU-MVLP: masks or pickles of 10307 people, two walks, fourteen views.

Layouts, as the owners distribute it and as OpenGait arranges it:

    Silhouette_090-00/00001/0001.png        view 090, walk 00, subject 00001
    00001/090_00/*.json                     joints of its frames (OU-MVLP Pose)
    00001/00/090/090.pkl, or *.png          OpenGait's tree

The walk is the condition: `01` is the gallery, `00` are the probes. People who came once lack half
of theirs; the report names what is missing.

OU-MVLP Pose is distributed by itself, once as AlphaPose and once as OpenPose found the joints. Lay
its folders of subjects beside `Silhouette_*`, or into a folder `AlphaPose`, `OpenPose` or `Pose`
there, or into `Pose/AlphaPose` or `Pose/OpenPose` (upper or lower case). Of several the first of
these is taken. Every sequence is then expected to have a folder of joints; which person in a frame
is the walker, the mask tells (`video.beside`). Beside OpenGait's tree poses are not read. Links out
of the root are not followed, so poses have to lie below it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import Scan, join
from raygait.sequences import GaitSequence

_RAW = re.compile(r"Silhouette_(\d{3})-(\d\d)")
_POSE_WALK = re.compile(r"\d{3}_\d\d")
# Lower case, the first that is there before the others.
_POSE_FOLDERS = ("alphapose", "openpose", "pose")


def _look(scan: Scan) -> None:
    others: list[str] = []
    names = scan.folders("")
    for name in names:
        raw = _RAW.fullmatch(name)
        if raw is None:
            others.append(name)
            continue
        view, condition = raw.groups()
        for subject in scan.folders(name):
            scan.add_leaf(subject, condition, view, join(name, subject), masks="silhouettes")
    if len(others) < len(names):
        others = _put_poses_beside(scan, others)
        others = scan.subjects_of(expected.OUMVLP, others)
    for name in others:
        if _is_of_poses(name):
            scan.leave_out(name, "poses without folders Silhouette_* beside them, left out")
    scan.tree([name for name in others if not _is_of_poses(name)], masks="silhouettes")


def _put_poses_beside(scan: Scan, names: list[str]) -> list[str]:
    """Note where the poses are; returns the names of folders that hold something else."""
    roots: list[str] = []
    rest: list[str] = []
    for name in sorted(names, key=_rank):
        if name in expected.OUMVLP.subjects:
            are_poses = _are_poses(scan.root / name)
            roots += [""] if any(are_poses) else []
            rest += [] if are_poses and all(are_poses) else [name]
        elif _is_of_poses(name):
            below = scan.folders(name)
            inside = [join(name, one) for one in sorted(below, key=_rank) if _is_of_poses(one)]
            roots += [one for one in inside if scan.folders(one)]
            roots += [name] if below and not inside else []
        else:
            rest.append(name)
    # Beside the masks, then in folders of their own.
    roots = sorted(dict.fromkeys(roots), key=bool)
    for again in roots[1:]:
        scan.leave_out(again, "poses once more, left out")
    if roots:
        scan.put_beside(lambda raw: {"poses": _poses_of(raw, roots[0])})
    return sorted(rest)


def _are_poses(subject: Path) -> list[bool]:
    """Of each folder of a subject whether it is one of poses: these have the view first."""
    try:
        with os.scandir(subject) as entries:
            return [bool(_POSE_WALK.fullmatch(entry.name)) for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _is_of_poses(name: str) -> bool:
    return name.lower() in _POSE_FOLDERS


def _rank(name: str) -> int:
    lower = name.lower()
    return _POSE_FOLDERS.index(lower) if _is_of_poses(name) else len(_POSE_FOLDERS)


def _poses_of(raw: GaitSequence, root: str) -> str:
    return join(root, f"{raw.subject}/{raw.view}_{raw.condition}")


ADAPTER = Adapter(
    "oumvlp",
    "Silhouette_VIEW-WALK/SUBJECT/*.png, such as Silhouette_090-00/00001, or "
    "SUBJECT/WALK/VIEW/*.pkl, such as 00001/00/090",
    _look,
    expected.OUMVLP,
)
index = ADAPTER.index
