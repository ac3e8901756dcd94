"""CASIA-B and every data set laid out like it: `SUBJECT/CONDITION/VIEW/` folders of mask images.

Layout as the owners of CASIA-B distribute the silhouettes: `001/nm-01/090/001-nm-01-090-001.png`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from raygait.errors import DatasetError
from raygait.sequences import GaitSequence

logger = logging.getLogger(__name__)


def index(root: Path | str, *, dataset: str = "casiab") -> list[GaitSequence]:
    """Every folder at `SUBJECT/CONDITION/VIEW`, sorted; a sequence each.

    Whether it holds masks is found out when it is read. Names that begin with a dot are not looked
    at. Files beside the folders, folders without folders, folders inside a sequence, links to
    folders out of the root and folders that may not be read are left out and named in the log. A
    sequence that may not be read is listed.

    Args:
        root: Folder of subjects.
        dataset: Name that the sequences get.

    Raises:
        DatasetError: The root cannot be read, a folder in it fails to be, or no folder fits the
            layout.
    """
    root = Path(root)
    sequences = [
        GaitSequence(
            dataset=dataset,
            subject=subject.name,
            condition=condition.name,
            view=view.name,
            source=view.relative_to(root).as_posix(),
            kind="silhouettes",
        )
        for subject in _folders(root, root)
        for condition in _folders(subject, root)
        for view in _folders(condition, root)
    ]
    if not sequences:
        raise DatasetError(
            f"{root}: no SUBJECT/CONDITION/VIEW folder, such as 001/nm-01/090; is this the root?"
        )
    for sequence in sequences:
        _warn_of_folders_inside(root / sequence.source)
    return sequences


def _folders(parent: Path, root: Path) -> Iterator[Path]:
    try:
        entries = [(entry, entry.is_dir()) for entry in _entries(parent)]
    except PermissionError as error:
        if parent == root:
            raise _cannot_be_read(parent, error) from error
        logger.warning("%s: may not be read, left out", parent)
        return
    except OSError as error:
        raise _cannot_be_read(parent, error) from error
    found = False
    for entry, is_folder in entries:
        if is_folder and entry.is_symlink() and not _is_below(entry, root):
            logger.warning("%s: a link out of %s is not followed, left out", entry, root)
        elif is_folder:
            found = True
            yield entry
        else:
            logger.warning("%s: a file where a folder was expected, left out", entry)
    if not found:
        logger.warning("%s: no folder in it, left out", parent)


def _warn_of_folders_inside(leaf: Path) -> None:
    # Not by `_entries`: a data set has a hundred times more masks than folders.
    try:
        with os.scandir(leaf) as entries:
            inside = [entry.name for entry in entries if entry.is_dir()]
    except PermissionError:
        logger.warning("%s: may not be read", leaf)
        return
    except OSError as error:
        raise _cannot_be_read(leaf, error) from error
    for name in sorted(inside):
        logger.warning("%s: a folder inside a sequence, left out", leaf / name)


def _entries(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if not entry.name.startswith("."))


def _is_below(link: Path, root: Path) -> bool:
    return link.resolve().is_relative_to(root.resolve())


def _cannot_be_read(folder: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{folder}: cannot be read: {error.strerror}")
