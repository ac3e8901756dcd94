"""GREW: aligned masks or pickles of 26000 people in the wild, and probes whose names are secret.

Layouts, as the owners distribute it and as OpenGait arranges it:

    train/00001/4XPn5Z28/*.png              subject 00001train, condition 00, view 4XPn5Z28
    .../*_2d_pose.txt, or .json             joints of each mask, in the same folder
    test/gallery/00001/79XJefi8/*.png       subject 00001, condition 01 or 02, view 79XJefi8
    test/probe/etaGVnWf/*.png               subject probe, condition 03, view etaGVnWf
    00001train/00/4XPn5Z28/4XPn5Z28.pkl     OpenGait's tree, and probe/03/etaGVnWf/

The view is the name of the video, which the submission asks for. Of the two walks of a gallery
subject the first by name is 01 (in OpenGait's tree it is the first that the file system lists).
Masks are 64×64 and aligned by the owners; they get no second alignment. Joints are places in a
picture that is not distributed. Where one sequence has them, every sequence is expected to.
"""

from __future__ import annotations

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import Scan, join

_NOT_USED = "not part of the benchmark's split, left out"


def _look(scan: Scan) -> None:
    subjects: list[str] = []
    has_poses = False
    names = scan.folders("")
    for name in names:
        match name:
            case "train":
                for subject in scan.folders(name):
                    for video in scan.folders(join(name, subject)):
                        source = f"{name}/{subject}/{video}"
                        walk = (f"{subject}train", "00", video)
                        has_poses |= scan.add_leaf(*walk, source, masks="aligned").has_poses
            case "test":
                has_poses |= _look_into_test(scan)
            case "distractor" | "val":
                scan.leave_out(name, _NOT_USED)
            case _:
                subjects.append(name)
    if "train" in names or "test" in names:
        subjects = scan.subjects_of(expected.GREW, subjects)
    if has_poses:
        scan.put_beside(lambda raw: {"poses": raw.source})
    scan.tree(subjects, masks="aligned")


def _look_into_test(scan: Scan) -> bool:
    """Note galleries and probes; returns whether there are poses beside them."""
    has_poses = False
    for name in scan.folders("test"):
        side = join("test", name)
        if name == "gallery":
            for subject in scan.folders(side):
                videos = scan.folders(join(side, subject))
                for number, video in enumerate(videos, start=1):
                    source = f"{side}/{subject}/{video}"
                    walk = (subject, f"{number:02d}", video)
                    has_poses |= scan.add_leaf(*walk, source, masks="aligned").has_poses
        elif name == "probe":
            for video in scan.folders(side):
                walk = ("probe", "03", video)
                has_poses |= scan.add_leaf(*walk, join(side, video), masks="aligned").has_poses
        else:
            scan.leave_out(side, _NOT_USED)
    return has_poses


ADAPTER = Adapter(
    "grew",
    "train/SUBJECT/VIDEO/*.png with test/gallery/ and test/probe/, or SUBJECT/WALK/VIDEO/*.pkl, "
    "such as 00001train/00/4XPn5Z28",
    _look,
    expected.GREW,
)
index = ADAPTER.index
