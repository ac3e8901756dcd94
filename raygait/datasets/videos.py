"""A folder of clips, nested as its owner likes; labelled when the layout says who walks."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import CLIP_ENDINGS, Scan
from raygait.errors import DatasetError

EXTENSIONS = CLIP_ENDINGS


def _look(scan: Scan) -> None:
    """A clip at exactly `SUBJECT/CONDITION/VIEW.ext` carries these labels, any other clip none.

    Names that begin with a dot are passed over. Links are followed only to files that lie below
    the root too. Whether a file is really a video is found out when it is decoded.
    """
    root = scan.root
    real_root = root.resolve()
    sources: list[str] = []

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError) and Path(error.filename) != root:
            scan.not_readable(_below(root, Path(error.filename)), "may not be read, left out")
            return
        raise DatasetError(f"{error.filename}: cannot be read: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        for name in list(folders):
            path = Path(folder, name)
            if name.startswith("."):
                folders.remove(name)
            elif path.is_symlink():
                folders.remove(name)
                scan.leave_out(_below(root, path), "a link to a folder is not followed, left out")
        for name in files:
            path = Path(folder, name)
            source = _below(root, path)
            if name.startswith("."):
                continue
            if path.suffix.lower() not in EXTENSIONS:
                scan.leave_out(source, "no clip by its name, left out", is_logged=False)
            elif not _is_file(path):  # first: a circle of links cannot be resolved
                scan.leave_out(source, "neither a file nor a link to one, left out")
            elif not path.is_symlink():
                sources.append(source)
            elif path.resolve().is_relative_to(real_root):
                scan.follow(source)
                sources.append(source)
            else:
                scan.leave_out(source, f"a link out of {root} is not followed, left out")
    if not sources:
        raise DatasetError(
            f"{root}: no clip in it; expected files ending in {' '.join(sorted(EXTENSIONS))}"
        )
    for source in sorted(sources):
        scan.add(*_labels(source), source, "video")


def _labels(source: str) -> tuple[str, str, str]:
    path = PurePosixPath(source)
    if len(path.parts) != 3:
        return "", "", ""
    subject, condition, _ = path.parts
    return subject, condition, path.stem


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return False


ADAPTER = Adapter(
    "videos", "clips, nested as you like; SUBJECT/CONDITION/VIEW.mp4 is labelled", _look
)
index = ADAPTER.index
