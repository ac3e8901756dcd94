"""SUSTech1K: silhouettes of 1050 people beside point clouds, by attribute, from twelve views.

Layouts, as the owners distribute it and as OpenGait arranges it:

    0000/00-nm/000/Sils_aligned/*.png           aligned masks; without them Sils_raw/, cut masks
    0000/00-nm/000/Pose/*.json                  their joints, a file a mask
    0000/00-nm/000/RGB_raw/*.jpg                their colours, cut as Sils_raw/*.png is
    0000/00-nm/000/06-000-Camera-Sils_aligned.pkl   the released pickles, sixteen a leaf

Where one walk has joints, every one is expected to, and so it is with colours and their masks. Of
the pickles the aligned silhouettes and the poses are read (`video.pickled`); their colours are of
64×64 and are not. What comes from the LiDAR is not read, nor what is resampled to its rate.
"""

from __future__ import annotations

from raygait.datasets import expected
from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import Leaf, Scan, holds_silhouettes
from raygait.sequences import GaitSequence, SourceKind

# The better first.
_FOLDERS: dict[str, SourceKind] = {"Sils_aligned": "aligned", "Sils_raw": "cropped"}
_POSES, _COLOURS, _COLOUR_MASKS = "Pose", "RGB_raw", "Sils_raw"


def _look(scan: Scan) -> None:
    has_poses = has_colours = False
    for subject in scan.folders(""):
        for condition in scan.folders(subject):
            for view in scan.folders(f"{subject}/{condition}"):
                source = f"{subject}/{condition}/{view}"
                leaf = scan.look_into(source, folders_expected=True)
                walk = (subject, condition, view)
                # Point clouds may be pickled where masks are not.
                masks = None if holds_silhouettes(source, leaf) else _masks_in(scan, source, leaf)
                has_poses |= _POSES in leaf.folders
                has_colours |= {_COLOURS, _COLOUR_MASKS} <= {*leaf.folders}
                if masks is not None:
                    scan.add(*walk, *masks)
                elif scan.reads_pickles(source, leaf):
                    scan.add(*walk, source, "pickles")
                elif ".png" in leaf.endings:
                    scan.add(*walk, source, "aligned")
                else:
                    scan.leave_out(source, "no silhouettes in it, left out")
    if has_poses:
        scan.put_beside(lambda raw: {"poses": f"{_leaf_of(raw)}/{_POSES}"})
    if has_colours:
        scan.put_beside(_colours_of)


def _leaf_of(raw: GaitSequence) -> str:
    return "/".join(raw.source.split("/")[:3])


def _colours_of(raw: GaitSequence) -> dict[str, str]:
    leaf = _leaf_of(raw)
    masks = f"{leaf}/{_COLOUR_MASKS}"
    return {
        "colours": f"{leaf}/{_COLOURS}",
        "colour_masks": "" if raw.source == masks else masks,
    }


def _masks_in(scan: Scan, source: str, leaf: Leaf) -> tuple[str, SourceKind] | None:
    """Folder and kind of the masks of a walk; of folders that hold none, the first."""
    there = [(f"{source}/{name}", kind) for name, kind in _FOLDERS.items() if name in leaf.folders]
    for number, (folder, kind) in enumerate(there):
        if ".png" in scan.look_into(folder).endings:
            if number:
                scan.excuse_empty(there[number - 1][0])
            return folder, kind
    return there[0] if there else None


ADAPTER = Adapter(
    "sustech1k",
    "SUBJECT/CONDITION/VIEW/Sils_aligned/*.png, or SUBJECT/CONDITION/VIEW/*.pkl, such as "
    "0000/00-nm/000",
    _look,
    expected.SUSTECH1K,
)
index = ADAPTER.index
