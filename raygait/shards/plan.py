"""Which source goes into which part: a function of the sources and the settings alone.

Sources are dealt to a fixed number of parts by a hash of their name, so one more source changes
one part. A part's name is a digest of everything that decides its rows: the state of its sources,
the settings, the networks' files and the version of the code. A part that is there under its name
is not done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from raygait.errors import DatasetError
from raygait.sequences import GaitSequence, SourceKind
from raygait.shards.schema import FORMAT_VERSION

PROCESSING_VERSION = 3
"""Raise it by hand with every change of code that gives other rows for the same sources and
settings: decoding, detection, tracking, masks, alignment, gates, codec. Parts of an older version
are then done again; nothing else notices such a change."""

# Another number here is another deal: folders that are there would be done again.
_SOURCES_PER_PART: Mapping[SourceKind, int] = {
    "video": 2,
    "images": 2,
    "silhouettes": 64,
    "cropped": 64,
    "aligned": 128,
    "pickles": 128,
}
_FEWEST_PARTS: Mapping[SourceKind, int] = {
    "video": 64,
    "images": 64,
    "silhouettes": 8,
    "cropped": 8,
    "aligned": 8,
    "pickles": 8,
}


@dataclass(frozen=True)
class Source:
    """A sequence and the state of its file or folder.

    Attributes:
        sequence: What it is.
        size_bytes: Size of the file, or of all files of the folder and of those beside it; -1 when
            it cannot be read.
        mtime_ns: When the file, or the newest of the folders, was written; 0 when unknown.
        listing_sha256: Of folders, digest of the names, sizes and times of their files; else empty.
    """

    sequence: GaitSequence
    size_bytes: int
    mtime_ns: int
    listing_sha256: str = ""


@dataclass(frozen=True)
class Part:
    """What one worker does in one go and commits as one file.

    Attributes:
        name: `part-` and 16 hexadecimal digits: a digest of settings and sources.
        kind: Kind of all its sources.
        sources: In the order of their rows.
    """

    name: str
    kind: SourceKind
    sources: tuple[Source, ...]

    def to_json(self) -> str:
        """For crossing process borders."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Part:
        """What `to_json` wrote."""
        fields = json.loads(text)
        sources = tuple(
            Source(**{**source, "sequence": GaitSequence(**source["sequence"])})
            for source in fields.pop("sources")
        )
        return cls(**fields, sources=sources)


def look_up(sequences: Sequence[GaitSequence], source_root: Path) -> list[Source]:
    """The state of every sequence's file or folder, in the order of `source_id`.

    Raises:
        DatasetError: No sequence at all, the same source twice, or one identity for two sources.
    """
    if not sequences:
        raise DatasetError(f"{source_root}: no sequence to ingest: is it the right folder?")
    ordered = sorted(sequences, key=lambda sequence: sequence.source_id)
    owners: dict[tuple[str, ...], str] = {}
    for sequence in ordered:
        keys: list[tuple[str, ...]] = [("source", sequence.source_id)]
        if sequence.subject:
            # As the row will be called: labels with a slash can give one name twice.
            labels = (sequence.dataset, sequence.subject, sequence.condition, sequence.view)
            keys.append(("/".join(labels),))
        for key in keys:
            if key in owners:
                raise DatasetError(
                    f"{source_root}: {sequence.source} and {owners[key]} both claim to be "
                    f"{'/'.join(key)}; each walk needs a name of its own"
                )
            owners[key] = sequence.source
    return [look_at(sequence, source_root) for sequence in ordered]


def look_at(sequence: GaitSequence, source_root: Path) -> Source:
    """The state of one sequence's file or folder now, with what is beside it; never an error."""
    path = source_root / sequence.source
    try:
        # By what is there, whatever its kind: a change must show also where the kind is wrong.
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return Source(sequence, status.st_size, status.st_mtime_ns)
        states = _states_in(path)
    except OSError:
        # The worker will say why, in a reject.
        return Source(sequence, -1, 0)
    for place in dict.fromkeys(sequence.beside):
        if place != sequence.source:
            with contextlib.suppress(OSError):
                prefix = os.fsencode(place) + b"/"
                found = _states_in(source_root / place)
                states += [(prefix + name, status) for name, status in found]
    # Sums do not show that frames were renamed or swapped, nor that an empty one has gone.
    listing = "".join(
        f"{name.hex()} {status.st_size} {status.st_mtime_ns}\n" for name, status in states
    )
    return Source(
        sequence,
        sum(status.st_size for _, status in states),
        max((status.st_mtime_ns for _, status in states), default=0),
        hashlib.sha256(listing.encode()).hexdigest(),
    )


def _states_in(folder: Path) -> list[tuple[bytes, os.stat_result]]:
    """Names and states of the files of a folder, by name."""
    with os.scandir(folder) as entries:
        return sorted(
            (os.fsencode(entry.name), entry.stat()) for entry in entries if entry.is_file()
        )


def choose_num_parts(sources: Sequence[Source]) -> dict[str, int]:
    """How many parts the sources of each kind are dealt to, in a folder that is begun now.

    A part is what a crash costs and what a worker does in one go: a clip takes minutes, a folder
    of masks a tenth of a second. A few clips get so many parts that hardly two share one.
    """
    numbers: dict[str, int] = Counter(source.sequence.kind for source in sources)
    return {
        kind: max(_FEWEST_PARTS[kind], -(-numbers[kind] // _SOURCES_PER_PART[kind]))
        for kind in get_args(SourceKind)
        if kind in numbers
    }


def plan(
    sources: Sequence[Source],
    num_parts: Mapping[str, int],
    settings: Mapping[str, object],
    assets: Mapping[str, Mapping[str, str]],
) -> list[Part]:
    """Deal sources to parts and name the parts.

    Args:
        sources: From `look_up`.
        num_parts: Parts of each kind of source, fixed for the life of the folder.
        settings: What decides the rows of each kind of source, plain JSON values by kind.
        assets: SHA-256 of each file that a kind's networks are read from, by kind and name.

    Returns:
        Parts that have a source, sorted by name.
    """
    dealt: dict[tuple[SourceKind, int], list[Source]] = defaultdict(list)
    for source in sorted(sources, key=lambda source: source.sequence.source_id):
        kind = source.sequence.kind
        # A name that is not UTF-8 on disk is planned like any other; the worker rejects it.
        name = source.sequence.source_id.encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(name).digest()
        dealt[kind, int.from_bytes(digest[:8], "big") % num_parts[kind]].append(source)
    parts = [
        Part(_name(kind, members, settings[kind], assets.get(kind, {})), kind, tuple(members))
        for (kind, _), members in dealt.items()
    ]
    return sorted(parts, key=lambda part: part.name)


def settings_digest(settings: object) -> str:
    """16 hexadecimal digits of the SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _name(
    kind: SourceKind, sources: Sequence[Source], settings: object, assets: Mapping[str, str]
) -> str:
    # `to_dict` as a field that is not used must not rename the parts that are there.
    states = [
        {**dataclasses.asdict(source), "sequence": source.sequence.to_dict()} for source in sources
    ]
    content = [FORMAT_VERSION, PROCESSING_VERSION, kind, settings, dict(assets), states]
    return f"part-{settings_digest(content)}"
