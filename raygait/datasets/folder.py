"""Anybody's data set: `SUBJECT/CONDITION/VIEW`, each a clip, a pickle or a folder of frames.

    anna/coat/cam1.mp4          a clip to track people in
    anna/coat/cam2.pkl          a pickled array of aligned silhouettes
    anna/coat/cam3/*.pkl        pickles, one a modality (`video.pickled`)
    anna/coat/cam4/*.png        masks as a camera saw them, where they have no colours
    anna/coat/cam5/*.jpg, *.png     pictures of a scene, else

Masks that are aligned already, or cut to their person, need a manifest that says so: pixels do not
tell.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import CLIP_ENDINGS, IMAGE_ENDINGS, Scan, join
from raygait.sequences import SourceKind

_MAX_PIXELS = 2**26
_MAX_BYTES = 2**26
_PICTURES = frozenset((".png", *IMAGE_ENDINGS))


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
                kind = kind_of(scan, source)
                scan.add(subject, condition, view, source, kind)


def kind_of(scan: Scan, source: str) -> SourceKind:
    """What a folder of frames is taken for, by their endings and the colours of three of them.

    Args:
        scan: The pass over the root; takes note of what lies in the folder besides.
        source: Path of the folder below the root.
    """
    leaf = scan.look_into(source)
    if scan.reads_pickles(source, leaf, pictures=_PICTURES):
        return "pickles"
    if leaf.endings & IMAGE_ENDINGS:
        return "images"
    names = sorted(name for name in leaf.frames if name.lower().endswith(".png"))
    # The first may be black, before anybody walks in.
    looked_at = {names[0], names[len(names) // 2], names[-1]} if names else set()
    has_colours = any(_has_colours(scan.root / source / name) for name in sorted(looked_at))
    return "images" if has_colours else "silhouettes"


def _has_colours(path: Path) -> bool:
    """Whether a PNG shows more than levels of grey; no, when it cannot be read or is huge."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            header = file.read(24)
            num_pixels = math.prod(struct.unpack_from(">II", header.ljust(24, b"\0"), 16))
            if os.fstat(file.fileno()).st_size > _MAX_BYTES or not 0 < num_pixels <= _MAX_PIXELS:
                return False
            content = header + file.read()
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
