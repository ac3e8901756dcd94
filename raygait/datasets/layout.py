"""Looking through a data set's folders: what is a sequence, and what is left out and why.

Folders are listed, files are not touched: `os.scandir` tells folders from files without a `stat`,
so that a tree of 270,000 sequences takes under a minute.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from raygait.datasets.expected import Expected
from raygait.errors import DatasetError
from raygait.sequences import GaitSequence, SourceKind

logger = logging.getLogger(__name__)

IMAGE_ENDINGS = frozenset((".jpg", ".jpeg", ".bmp"))
"""Pictures that are no masks; a PNG may be either."""

CLIP_ENDINGS = frozenset(
    (
        *(".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv"),
        *(".h264", ".h265", ".hevc", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv"),
        *(".mod", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".tod", ".ts"),
        *(".vob", ".webm", ".wmv", ".y4m"),
    )
)
"""What FFmpeg reads and cameras, phones and data sets write; case does not matter."""

_FRAME_ENDINGS = frozenset((".png", ".pkl", *IMAGE_ENDINGS))

# Words in the names of pickles; `video.pickled` goes by the same.
SILHOUETTE_WORDS = frozenset(("sil", "sils", "silhouette", "silhouettes", "mask", "masks"))
NOT_READ_WORDS = frozenset(
    ("lidar", "pcd", "pcds", "smpl", "smpls", "parsing", "raw", "sync", "hw")
)
_MASK_KINDS = frozenset(("silhouettes", "cropped", "aligned"))
# As `video.pose_files` knows them.
_POSE_NAMES = ("_2d_pose.txt", "_2d_pose.json")
_WORD = re.compile(r"[a-z0-9]+")

_MAX_LOGGED = 100
_NO_FRAME = "no frame in it"


class Finding(NamedTuple):
    """Something in a data set that is no sequence, or not a whole one.

    Attributes:
        path: Where, below the root.
        why: Half a sentence for a person.
    """

    path: str
    why: str


class Leaf(NamedTuple):
    """What lies in a folder that is a sequence.

    Attributes:
        endings: Of its files, lower case; only those of frames.
        folders: Names of folders in it, sorted.
        frames: Names of its files of frames, in the order that the file system lists them.
        has_poses: Whether a file is named `*_2d_pose.txt` or `.json`; case does not matter.
    """

    endings: frozenset[str]
    folders: tuple[str, ...]
    frames: tuple[str, ...]
    has_poses: bool = False


class Scan:
    """One pass over a data set; collects sequences and what else was met.

    Args:
        asked: What the user named: the folder of the data set, or a table of one.
        dataset: Name that the sequences get.
        takes_file: Whether a file may be named; its folder is the root then.

    Attributes:
        asked: As above.
        root: Folder that sources are below.
        dataset: As above.
        sequences: What was found, in the order of finding; one for each walk.
        left_out: Files and folders that are no sequences.
        unreadable: Folders that may not be or cannot be read, and sequences without a frame.
        duplicated: Sources of a walk that another source has already, and links to such.
    """

    def __init__(self, asked: Path, dataset: str, *, takes_file: bool = False) -> None:
        self.asked = asked
        self.root = root = asked.parent if takes_file and asked.is_file() else asked
        self.dataset = dataset
        self.sequences: list[GaitSequence] = []
        self.left_out: list[Finding] = []
        self.unreadable: list[Finding] = []
        self.duplicated: list[Finding] = []
        self._root_text = os.fspath(root)
        self._real_root = os.path.realpath(root)
        self._owners: dict[tuple[str, str, str], str] = {}
        self._sources: set[str] = set()
        self._links: dict[str, str] = {}
        self._real_folders: dict[str, str] = {}
        self._num_logged = 0

    def add(
        self, subject: str, condition: str, view: str, source: str, kind: SourceKind
    ) -> GaitSequence | None:
        """Note a sequence, unless its source or its walk is there already."""
        walk = (subject, condition, view)
        if source in self._sources:
            self._once_more(source, f"named once more, as {'/'.join(walk)}: left out")
            return None
        owner = self._owners.setdefault(walk, source) if subject else source
        if owner != source:
            why = f"the walk {'/'.join(walk)} once more, after {owner}: left out"
            self._once_more(source, why)
            return None
        self._sources.add(source)
        sequence = GaitSequence(self.dataset, subject, condition, view, source, kind)
        self.sequences.append(sequence)
        return sequence

    def follow(self, link: str, real: str = "") -> None:
        """Note that a sequence may lie behind a link; `real`: where it leads, if that is known."""
        self._links[link] = real

    def leave_out_linked(self, known: Collection[str]) -> None:
        """Leave out each labelled sequence whose frames, behind a link, another one has.

        The same frames under two names are one walk of one person. A clip without labels claims
        nothing; a link may say who is in it.

        Args:
            known: Subjects of the benchmark: one of them has the frames before anybody else, who
                is a folder that the links point into. Without any, both names stay and are noted:
                which of them is meant, nobody can tell.
        """
        if not self._links:
            return
        labelled = [sequence for sequence in self.sequences if sequence.subject]
        linked = {s.source: real for s in labelled if (real := self._behind_links(s.source))}
        real_root = self._real_root.rstrip("/")
        owners = {f"{real_root}/{s.source}": s.source for s in labelled if s.source not in linked}
        again: set[str] = set()
        subject_of = {s.source: s.subject for s in labelled}
        for source in sorted(linked, key=lambda each: (subject_of[each] not in known, each)):
            owner = owners.setdefault(linked[source], source)
            if owner == source:
                continue
            if not known:
                self._once_more(source, f"a link to the frames of {owner}, under another name")
                continue
            if subject_of[source] in known and subject_of[owner] not in known:
                owners[linked[source]] = source
                source, owner = owner, source
            self._once_more(
                source, f"a link to the frames of {owner}, under another name: left out"
            )
            again.add(source)
        self.sequences = [s for s in self.sequences if s.source not in again]

    def leave_out(self, path: str, why: str, *, is_logged: bool = True) -> None:
        """Note what is no sequence."""
        self.left_out.append(Finding(path, why))
        if is_logged:
            self._log(path, why)

    def not_readable(self, path: str, why: str) -> None:
        """Note what cannot be read."""
        self.unreadable.append(Finding(path, why))
        self._log(path, why)

    def folders(self, parent: str, *, on_file: Callable[[str], bool] | None = None) -> list[str]:
        """Names of the folders in a folder, sorted; names that begin with a dot are passed over.

        Files, links to folders out of the root and folders without folders are left out by name.

        Args:
            parent: Path below the root, empty for the root itself.
            on_file: Takes the path of a file that lies there, and says whether it was of use.

        Raises:
            DatasetError: The root itself cannot be read.
        """
        found: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(self._path(parent)) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        found.append(name)
                    elif _leads_to_folder(entry):
                        real = self._real_of_link(entry.path, parent)
                        if self._is_inside(real):
                            found.append(name)
                            self.follow(join(parent, name), real)
                        else:
                            self.leave_out(
                                join(parent, name),
                                f"a link out of {self._root_text} is not followed, left out",
                            )
                    else:
                        files.append(name)
                        if entry.is_symlink():
                            self.follow(join(parent, name))
        except OSError as error:
            self._cannot_be_read(parent, error)
            return []
        num_used = 0
        for name in sorted(files):
            if on_file is not None and on_file(join(parent, name)):
                num_used += 1
            else:
                self.leave_out(join(parent, name), "a file where a folder was expected, left out")
        if not found and not num_used:
            self.leave_out(parent, "no folder in it, left out")
        return sorted(found)

    def look_into(self, source: str, *, folders_expected: bool = False) -> Leaf:
        """What lies in the folder of a sequence; nothing when it cannot be read.

        Args:
            source: Path of the folder below the root.
            folders_expected: Whether folders in it are part of the layout.
        """
        endings: set[str] = set()
        inside: list[str] = []
        frames: list[str] = []
        has_poses = False
        try:
            with os.scandir(self._path(source)) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    if not entry.is_file(follow_symlinks=False) and _is_folder(entry):
                        inside.append(name)
                        continue
                    ending = _ending(name)
                    if ending in _FRAME_ENDINGS:
                        endings.add(ending)
                        frames.append(name)
                    elif name.lower().endswith(_POSE_NAMES):
                        has_poses = True
        except OSError as error:
            why = "may not be read" if isinstance(error, PermissionError) else _said(error)
            self.not_readable(source, why)
            return Leaf(frozenset(), (), ())
        inside.sort()
        if not folders_expected:
            for name in inside:
                self.leave_out(join(source, name), "a folder inside a sequence, left out")
            if not endings:
                self.unreadable.append(Finding(source, _NO_FRAME))
        return Leaf(frozenset(endings), tuple(inside), tuple(frames), has_poses)

    def excuse_empty(self, source: str) -> None:
        """Of a folder without a frame that was looked into last: its walk is read from another."""
        if self.unreadable[-1:] == [Finding(source, _NO_FRAME)]:
            self.unreadable.pop()
            self.leave_out(source, "no frame in it, another folder of the walk has some, left out")

    def reads_pickles(
        self, source: str, leaf: Leaf, *, pictures: frozenset[str] = frozenset((".png",))
    ) -> bool:
        """Whether the pickles of a folder are its walk; notes what lies beside them.

        Beside pictures that could be read, only pickles that are named for silhouettes or as the
        folder are: anybody may have left another one there.

        Args:
            source: Path of the folder below the root.
            leaf: What lies in it.
            pictures: Endings of pictures that are read where pickles are not.
        """
        if ".pkl" not in leaf.endings:
            return False
        if not leaf.endings & pictures or holds_silhouettes(source, leaf):
            if len(leaf.endings) > 1:
                self.leave_out(source, "pictures beside pickles, which are read instead of them")
            return True
        why = "a pickle that is not named for silhouettes beside pictures, which are read"
        self.leave_out(source, why)
        return False

    def add_leaf(
        self, subject: str, condition: str, view: str, source: str, *, masks: SourceKind
    ) -> Leaf:
        """Note the folder of a sequence; `masks` is its kind where it holds no pickles."""
        leaf = self.look_into(source)
        is_pickled = self.reads_pickles(source, leaf)
        self.add(subject, condition, view, source, "pickles" if is_pickled else masks)
        return leaf

    def put_beside(self, places: Callable[[GaitSequence], Mapping[str, str]]) -> None:
        """Note of each sequence of masks what its owner has put beside it.

        Nobody looks whether it is there: that is one folder a sequence, and is found out when the
        sequence is read.

        Args:
            places: Gives paths below the root by field of `GaitSequence`.
        """
        self.sequences = [
            dataclasses.replace(sequence, **places(sequence))  # type: ignore[arg-type]
            if sequence.kind in _MASK_KINDS
            else sequence
            for sequence in self.sequences
        ]

    def subjects_of(self, benchmark: Expected, names: Iterable[str]) -> list[str]:
        """Those names of folders that are subjects of a benchmark; the others are left out.

        For data that lies as its owners distribute it: what else they ship, meshes or poses, lies
        beside it and nests as people do.
        """
        known = []
        for name in names:
            if name in benchmark.subjects:
                known.append(name)
            else:
                self.leave_out(name, "no subject of the benchmark, left out")
        return known

    def tree(
        self,
        subjects: Iterable[str],
        *,
        masks: SourceKind,
        below: str = "",
        on_file: Callable[[str], bool] | None = None,
    ) -> None:
        """Note every `SUBJECT/CONDITION/VIEW/` folder of some subjects.

        Args:
            subjects: Names of folders in `below`.
            masks: Kind of those that hold no pickles.
            below: Path below the root.
            on_file: As for `folders`.
        """
        for subject in subjects:
            subject_path = join(below, subject)
            for condition in self.folders(subject_path, on_file=on_file):
                condition_path = join(subject_path, condition)
                for view in self.folders(condition_path, on_file=on_file):
                    self.add_leaf(subject, condition, view, join(condition_path, view), masks=masks)

    def _once_more(self, source: str, why: str) -> None:
        self.duplicated.append(Finding(source, why))
        self._log(source, why)

    def _log(self, path: str, why: str) -> None:
        if self._num_logged < _MAX_LOGGED:
            logger.warning("%s: %s", self._path(path), why)
        elif self._num_logged == _MAX_LOGGED:
            logger.warning("%s: and more of the kind; a report names all", self._root_text)
        self._num_logged += 1

    def _path(self, below: str) -> str:
        return f"{self._root_text}/{below}" if below else self._root_text

    def _behind_links(self, source: str) -> str:
        """Where the frames of a source lie; empty where it is behind no link."""
        link = source
        while link and link not in self._links:
            link = link.rpartition("/")[0]
        if not link:
            return ""
        self._links[link] = self._links[link] or os.path.realpath(self._path(link))
        return self._links[link] + source[len(link) :]

    def _real_of_link(self, path: str, parent: str) -> str:
        """`os.path.realpath` of a link to a folder that lies in `parent`, below the root.

        That looks at each part of a path, which a network file system answers slowly. Links of a
        data set lead to few folders: each of these is looked at once.
        """
        real_parent = self._behind_links(parent) or join(self._real_root, parent)
        target = Path(real_parent, Path(path).readlink())
        folder = os.fspath(target.parent)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        real = Path(self._real_folders[folder], target.name)
        is_more = target.name in ("", "..") or real.is_symlink()
        return os.path.realpath(path) if is_more else os.fspath(real)

    def _is_inside(self, real: str) -> bool:
        return real == self._real_root or real.startswith(self._real_root.rstrip("/") + "/")

    def _cannot_be_read(self, parent: str, error: OSError) -> None:
        if not parent:
            raise DatasetError(f"{self._root_text}: cannot be read: {_said(error)}") from error
        is_forbidden = isinstance(error, PermissionError)
        why = "may not be read, left out" if is_forbidden else f"{_said(error)}, left out"
        self.not_readable(parent, why)


def join(parent: str, name: str) -> str:
    """A path below the root, `/` separated."""
    return f"{parent}/{name}" if parent else name


def holds_silhouettes(source: str, leaf: Leaf) -> bool:
    """Whether a pickle in a folder is named for silhouettes, or as the folder."""
    stems = [name[:-4].lower() for name in leaf.frames if _ending(name) == ".pkl"]
    folder = source.rpartition("/")[2].lower()
    words = {stem: set(_WORD.findall(stem)) for stem in stems}
    return any(
        not words[stem] & NOT_READ_WORDS and (stem == folder or words[stem] & SILHOUETTE_WORDS)
        for stem in stems
    )


def _ending(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or _leads_to_folder(entry)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to a folder; a circle of links leads nowhere."""
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:
        return False


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__
