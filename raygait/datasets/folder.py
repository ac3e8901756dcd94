"""Anybody's data set: `SUBJECT/CONDITION/VIEW`, each a clip, a pickle or a folder of frames.

    anna/coat/cam1.mp4          a clip to track people in
    anna/coat/cam2.pkl          a pickled array of aligned silhouettes
    anna/coat/cam3/*.pkl        pickles, one a modality (`video.pickled`)
    anna/coat/cam4/*.png        masks as a camera saw them, where the first one has no colours
    anna/coat/cam5/*.jpg, *.png     pictures of a scene, else

Masks that are aligned already, or cut to their person, need a manifest that says so: pixels do not
tell.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import CLIP_ENDINGS, Leaf, Scan, join
from raygait.sequences import SourceKind

_MAX_PIXELS = 2**26


def _look(scan: Scan) -> None:
    for subject in scan.folders(""):
        for condition in scan.folders(subject):

            def take_file(path: str, subject: str = subject, condition: str = condition) -> bool:
                name = PurePosixPath(path)
                ending = name.suffix.lower()
                if ending in CLIP_ENDINGS:
                    scan.add(subject, condition, name.stem, path, "video")
                elif ending == ".pkl":
                    scan.add(subject, condition, name.stem, path, "pickles")
                else:
                    return False
                return True

            parent = f"{subject}/{condition}"
            for view in scan.folders(parent, on_file=take_file):
                source = join(parent, view)
                kind = kind_of(scan.look_into(source), scan.root / source)
                scan.add(subject, condition, view, source, kind)


def kind_of(leaf: Leaf, folder: Path) -> SourceKind:
    """What a folder of frames is taken for, by their endings and the colours of the first.

    Args:
        leaf: What lies in it.
        folder: Its path.
    """
    if ".pkl" in leaf.endings:
        return "pickles"
    if ".png" not in leaf.endings:
        return "images" if leaf.endings else "silhouettes"
    return (
        "images"
        if leaf.endings - {".png"} or _has_colours(folder / leaf.first_image)
        else ("silhouettes")
    )


def _has_colours(path: Path) -> bool:
    """Whether a PNG shows more than levels of grey; no, when it cannot be read or is huge."""
    try:
        content = path.read_bytes() if path.is_file() else b""
        if len(content) < 24 or math.prod(struct.unpack_from(">II", content, 16)) > _MAX_PIXELS:
            return False
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        return False
    return image is not None and image.ndim == 3 and bool((image != image[..., :1]).any())


ADAPTER = Adapter(
    "folder",
    "SUBJECT/CONDITION/VIEW, a clip, a .pkl, or a folder of masks, pictures or pickles",
    _look,
)
index = ADAPTER.index
