"""A folder of clips, nested as its owner likes; labelled when the layout says who walks."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath

from raygait.datasets.adapter import Adapter
from raygait.datasets.layout import CLIP_ENDINGS, Scan
from raygait.errors import DatasetError
from raygait.sequences import GaitSequence

logger = logging.getLogger(__name__)

EXTENSIONS = CLIP_ENDINGS


def index(root: Path | str, *, dataset: str = "videos") -> list[GaitSequence]:
    """Every clip below the root, sorted by path.

    A clip at exactly `SUBJECT/CONDITION/VIEW.ext` carries these three labels; any other clip
    carries none. Whether a file is really a video is found out when it is decoded.

    Not looked at: files with other extensions, and names that begin with a dot. Links are followed
    only to files that lie below the root too; any other link, to a folder or out of the root, is
    left out and named in the log, and so is a folder that may not be read.

    Args:
        root: Folder of clips.
        dataset: Name that the sequences get.

    Raises:
        DatasetError: The root cannot be read, a folder in it fails to be, or there is no clip.
    """
    root = Path(root)
    sources: list[str] = []
    num_other = 0

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError) and Path(error.filename) != root:
            logger.warning("%s: may not be read, left out", error.filename)
            return
        raise DatasetError(f"{error.filename}: cannot be read: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        for name in list(folders):
            path = Path(folder, name)
            if name.startswith("."):
                folders.remove(name)
            elif path.is_symlink():
                folders.remove(name)
                logger.warning("%s: a link to a folder is not followed, left out", path)
        for name in files:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in EXTENSIONS:
                num_other += 1
            elif not _is_file(path):  # first: a circle of links cannot be resolved
                logger.warning("%s: neither a file nor a link to one, left out", path)
            elif path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                logger.warning("%s: a link out of %s is not followed, left out", path, root)
            else:
                sources.append(path.relative_to(root).as_posix())
    if num_other:
        logger.info("%s: %d files are no clips by their names, left out", root, num_other)
    if not sources:
        raise DatasetError(
            f"{root}: no clip in it; expected files ending in {' '.join(sorted(EXTENSIONS))}"
        )
    return [_sequence(dataset, source) for source in sorted(sources)]


def _sequence(dataset: str, source: str) -> GaitSequence:
    path = PurePosixPath(source)
    if len(path.parts) == 3:
        subject, condition, _ = path.parts
        return GaitSequence(dataset, subject, condition, path.stem, source, "video")
    return GaitSequence(dataset, "", "", "", source, "video")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return False


def _look(scan: Scan) -> None:
    scan.sequences = index(scan.root, dataset=scan.dataset)


ADAPTER = Adapter(
    "videos", "clips, nested as you like; SUBJECT/CONDITION/VIEW.mp4 is labelled", _look
)
