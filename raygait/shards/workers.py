"""What runs inside the actors of `ingest`: find people, describe them, write the part.

Nothing here knows Ray: each worker is a class whose instances map one small Arrow table to another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import onnxruntime
import pyarrow as pa

import raygait
from raygait.errors import VideoError
from raygait.sequences import GaitSequence, Reject, SourceKind
from raygait.shards import codec
from raygait.shards.plan import PROCESSING_VERSION, Part, Source, look_at, settings_digest
from raygait.shards.schema import FORMAT_VERSION, PartSummary
from raygait.shards.writer import Attempt, PartWriter, printable
from raygait.video.aligned_masks import read_aligned
from raygait.video.beside import with_colours, with_joints
from raygait.video.extraction import ExtractedSequence, PeopleDescriber, RejectedTrack
from raygait.video.finding import PeopleFinder
from raygait.video.image_folders import IMAGE_EXTENSIONS
from raygait.video.mask_folders import mask_paths, read_silhouettes
from raygait.video.pickled import pickle_paths, read_pickles
from raygait.video.pose_files import POSE_EXTENSIONS
from raygait.video.settings import ONNX_FIELDS, Modality, VideoSettings
from raygait.video.tracking import Track

UNEXPECTED = "unexpected"
"""Reason of a reject that nobody foresaw: most likely a fault of raygait, not of the source."""

PASSING = frozenset(("worker-died", "changed"))
"""Reasons that may not hold the next time: the next run does the parts that have one again."""

Row = dict[str, object]

STAGES = {
    "undecodable": "decode",
    "frame-size": "decode",
    "no-person": "detect",
    "not-a-mask": "silhouette",
    "empty-silhouette": "silhouette",
    "unsafe-pickle": "decode",
    "bad-array": "decode",
    "bad-pose": "decode",
    "no-pose": "decode",
    "no-colours": "decode",
}
"""Where a source ended, by the reason that its `VideoError` gives."""

CLIP_KINDS: frozenset[SourceKind] = frozenset(("video", "images"))
"""Kinds in which people are found first; the others show one person, cut out already."""

_MASK_PACKAGES = ("numpy", "opencv-python", "pyarrow")
_CLIP_PACKAGES = (
    *("ai-edge-litert", "av", "numpy", "onnxruntime", "opencv-python", "pyarrow", "trackers"),
)
_PACKAGES: Mapping[SourceKind, tuple[str, ...]] = {
    kind: _CLIP_PACKAGES if kind in CLIP_KINDS else _MASK_PACKAGES for kind in get_args(SourceKind)
}

_MAX_DEATHS = 3

_TRACK = pa.struct(
    [
        ("number", pa.int32()),
        ("frame_indices", pa.list_(pa.int32())),
        ("boxes_px", pa.list_(pa.float32())),
        ("scores", pa.list_(pa.float32())),
    ]
)
_REJECT = pa.struct([("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
# What a finder says of each source of a part, in order: tracks, or why there are none.
_FOUND = pa.list_(pa.struct([("tracks", pa.list_(_TRACK)), ("reject", _REJECT)]))


class Finder:
    """Finds the people in the clips of a part.

    Args:
        source_root: Folder that sources are relative to.
        root: Folder of shards; holds the notes of `Attempt`.
        settings: `VideoSettings.to_dict`.
    """

    def __init__(self, source_root: str, root: str, settings: Mapping[str, object]) -> None:
        cv2.setNumThreads(1)  # one actor, one core
        self._source_root = Path(source_root)
        self._root = Path(root)
        self._find = PeopleFinder(VideoSettings.model_validate(settings))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Parts (column `part`, JSON) to parts and the boxes found in each source (`found`)."""
        found = []
        for text in batch["part"].to_pylist():
            part = Part.from_json(text)
            with Attempt(self._root, f"{part.name}.find") as attempt:
                found.append([self._look(source.sequence, attempt) for source in part.sources])
        return batch.append_column("found", pa.array(found, _FOUND))

    def _look(self, sequence: GaitSequence, attempt: Attempt) -> dict[str, object]:
        reject = (
            _reject_name(sequence)
            or _reject_outside(sequence, self._source_root)
            or _reject_if_deadly(sequence, attempt, stage="detect")
        )
        if reject is None:
            try:
                tracks = self._find(self._source_root / sequence.source)
                return {"tracks": [_pack(track) for track in tracks], "reject": None}
            except Exception as error:
                reject = _reject_of(error, sequence, stage="detect")
        detail = printable(reject.detail)
        said = {"stage": reject.stage, "reason": reject.reason, "detail": detail}
        return {"tracks": None, "reject": said}


class Builder:
    """Turns the sources of a part into rows and commits the part.

    Args:
        source_root: Folder that sources are relative to.
        root: Folder of shards.
        kind: Kind of all sources.
        settings: What decides the rows of that kind; for clips, `VideoSettings.to_dict`, for
            others the `modalities` of it that the kind can have.
    """

    def __init__(
        self, source_root: str, root: str, kind: SourceKind, settings: Mapping[str, Any]
    ) -> None:
        cv2.setNumThreads(1)  # one actor, one core
        self._source_root = Path(source_root)
        self._root = Path(root)
        self._kind = kind
        self._provenance = _provenance(kind, settings)
        self._modalities: tuple[Modality, ...] = tuple(settings["modalities"])
        self._describer = (
            PeopleDescriber(VideoSettings.model_validate(settings)) if kind in CLIP_KINDS else None
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Parts, with what finders found in clips, to their summaries (column `summary`, JSON).

        A part that cannot be written has none, and an error in the column `failure` instead: raised
        here, it would reach the driver wrapped in Ray's own, its cause lost.
        """
        summaries: list[str | None] = []
        failures: list[str | None] = []
        for fields in batch.to_pylist():
            try:
                summaries.append(self._build(fields).to_json())
                failures.append(None)
            except Exception as error:
                summaries.append(None)
                failures.append(printable(_describe(error)))
        return pa.table(
            {
                "summary": pa.array(summaries, pa.string()),
                "failure": pa.array(failures, pa.string()),
            }
        )

    def _build(self, fields: Mapping[str, Any]) -> PartSummary:
        part = Part.from_json(fields["part"])
        found = fields.get("found") or [None] * len(part.sources)
        changed: set[Source] = set()
        while True:
            try:
                return self._write(part, found, changed)
            except _ChangedOnTheWay as error:
                # Rows of it are in the file by now: the others are written anew, without it.
                changed.add(error.args[0])

    def _write(
        self, part: Part, found: Sequence[Mapping[str, Any] | None], changed: Set[Source]
    ) -> PartSummary:
        with (
            Attempt(self._root, f"{part.name}.build") as attempt,
            PartWriter(self._root, part.name, num_sources=len(part.sources)) as writer,
        ):
            for source, looked in zip(part.sources, found, strict=True):
                reject = _reject_name(source.sequence) or _reject_outside(
                    source.sequence, self._source_root
                )
                if reject is None and (source in changed or self._is_changed(source)):
                    reject = _reject_changed(source)
                for result in [reject] if reject else self._rows(source, looked, attempt):
                    # What fails here, a full disk say, is no fault of the source: it ends the run.
                    if isinstance(result, Reject):
                        sequence = source.sequence
                        writer.reject(sequence.dataset, sequence.source, result)
                    else:
                        writer.add(result)
                if reject is None and self._is_changed(source):
                    raise _ChangedOnTheWay(source)
            return writer.commit()

    def _is_changed(self, source: Source) -> bool:
        return look_at(source.sequence, self._source_root) != source

    def _rows(
        self, source: Source, looked: Mapping[str, Any] | None, attempt: Attempt
    ) -> Iterator[Row | Reject]:
        """Rows and rejects of one source; an error that ends it is its last reject."""
        sequence = source.sequence
        path = self._source_root / sequence.source
        if looked is not None and looked["reject"] is not None:
            yield Reject(sequence.source_id, -1, **looked["reject"])
            return
        reject = _reject_if_deadly(sequence, attempt, stage="silhouette")
        if reject is not None:
            yield reject
            return
        try:
            results: Iterable[ExtractedSequence | RejectedTrack]
            if self._describer is None:
                # Before the digest: what cannot be read is for the reader to say.
                results = [_read(sequence, self._source_root, self._modalities)]
                sha256 = _digest(sequence, self._source_root)
            else:
                sha256 = _sha256(path, self._kind)
                assert looked is not None
                tracks = [_unpack(track) for track in looked["tracks"]]
                results = self._describer.stream(path, tracks)
                if sequence.subject:
                    results = _one_person(results)
            for result in results:
                if isinstance(result, RejectedTrack):
                    yield Reject(sequence.source_id, *result)
                else:
                    yield to_row(source, result, sha256, self._provenance)
        except Exception as error:
            yield _reject_of(error, sequence, stage="silhouette")


def to_row(
    source: Source, extracted: ExtractedSequence, source_sha256: str, provenance: str
) -> Row:
    """A row of `schema.SCHEMA`: the frames encoded, the identity spelled out.

    A source with a known subject is one walk, `dataset/subject/condition/view`; of any other clip
    the row is one person, `dataset/source#track`. Both stay the same whatever else is ingested.
    """
    sequence = source.sequence
    num_frames, height_px, width_px = extracted.silhouettes.shape
    named = "/".join((sequence.dataset, sequence.subject, sequence.condition, sequence.view))
    seen = f"{sequence.dataset}/{sequence.source}#{extracted.track}"
    heatmaps, quality = extracted.heatmaps, extracted.quality

    def silhouettes_or_none(frames: np.ndarray | None) -> bytes | None:
        return None if frames is None else codec.encode_silhouettes(frames)

    def heatmaps_or_none(frames: np.ndarray | None) -> bytes | None:
        return None if frames is None else codec.encode_heatmaps(frames)

    def flat_or_none(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values.reshape(-1)

    return {
        "sequence_id": named if sequence.subject else seen,
        "dataset": sequence.dataset,
        "subject": sequence.subject,
        "condition": sequence.condition,
        "view": sequence.view,
        "track": extracted.track,
        "source": sequence.source,
        "source_size_bytes": source.size_bytes,
        "source_mtime_ns": source.mtime_ns,
        "source_sha256": source_sha256,
        "fps": extracted.fps,
        "num_frames": num_frames,
        "height_px": height_px,
        "width_px": width_px,
        "frame_indices": extracted.frame_indices,
        "boxes_px": extracted.boxes_px.reshape(-1),
        "silhouettes": codec.encode_silhouettes(extracted.silhouettes),
        "silhouettes_128": silhouettes_or_none(extracted.silhouettes_128),
        "heatmaps": heatmaps_or_none(heatmaps),
        "heatmap_scale": None if heatmaps is None else 1 / 255,  # 255 is probability 1
        "heatmap_windows_px": flat_or_none(extracted.heatmap_windows_px),
        "heatmaps_redrawn": heatmaps_or_none(extracted.heatmaps_redrawn),
        "rgb": None if extracted.rgb is None else codec.encode_crops(extracted.rgb),
        "rgb_masks": silhouettes_or_none(extracted.rgb_masks),
        "rgb_windows_px": flat_or_none(extracted.rgb_windows_px),
        "rgb_ratio": extracted.rgb_ratio(),
        "joints": flat_or_none(extracted.joints),
        **{field.name: getattr(quality, field.name) for field in dataclasses.fields(quality)},
        "track_person_score": extracted.track_person_score,
        "left_out_indices": [index for index, _ in extracted.left_out],
        "left_out_reasons": [reason for _, reason in extracted.left_out],
        "provenance": provenance,
    }


def _one_person(
    results: Iterable[ExtractedSequence | RejectedTrack],
) -> Iterator[ExtractedSequence | RejectedTrack]:
    """Of a clip whose subject is known keep the longest track: the label names one person.

    Of equally long ones, the first to appear.
    """
    kept: ExtractedSequence | None = None
    for result in results:
        if isinstance(result, RejectedTrack):
            yield result
            continue
        if kept is None:
            kept = result
            continue
        longer, shorter = sorted(
            (kept, result), key=lambda one: (-len(one.frame_indices), one.track)
        )
        if shorter.part_of == longer.part_of:
            reason = "long-track"
            detail = (
                f"{len(shorter.frame_indices)} frames, a part of track {shorter.part_of}, which is "
                "cut for its length; the clip's label is given to its longest part: raise "
                "max_frames to keep all"
            )
        else:
            reason = "extra-person"
            detail = (
                f"{len(shorter.frame_indices)} frames; the clip's label is given to its longest "
                f"track, {longer.track} with {len(longer.frame_indices)} frames or a longer one"
            )
        yield RejectedTrack(shorter.track, "gate", reason, detail)
        kept = longer
    if kept is not None:
        yield kept


class _ChangedOnTheWay(Exception):
    """A source, its argument, was written to while it was read."""


def _reject_changed(source: Source) -> Reject:
    return Reject(
        source.sequence.source_id,
        -1,
        "decode",
        "changed",
        f"{source.sequence.source}: written to, moved or deleted since the run began, or workers "
        "do not see the folder that the run was started on; run preprocess again",
    )


def _reject_name(sequence: GaitSequence) -> Reject | None:
    """A reject for a source whose name or labels no row can hold."""
    for text in sequence.to_dict().values():
        try:
            text.encode()
        except UnicodeEncodeError:
            detail = f"{printable(text)}: not valid UTF-8: rename it"
            return Reject(sequence.source_id, -1, "decode", "bad-name", detail)
    return None


def _reject_outside(sequence: GaitSequence, source_root: Path) -> Reject | None:
    """A reject for what is not below the root, by its name or by a link in its path."""
    for place in (sequence.source, *sequence.beside):
        why = _why_outside(Path(place), source_root)
        if why:
            detail = f"{place}: {why}, expected a path below the source folder; it was not read"
            return Reject(sequence.source_id, -1, "decode", "outside-root", detail)
    return None


def _why_outside(place: Path, source_root: Path) -> str:
    if not place.parts:
        return "names no file"
    if place.is_absolute() or ".." in place.parts:
        return "leaves the source folder by its name"
    try:
        if not (source_root / place).resolve().is_relative_to(source_root.resolve()):
            return "leaves the source folder by a link"
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a zero byte
        return f"cannot be followed to a file ({error})"
    return ""


def _reject_if_deadly(sequence: GaitSequence, attempt: Attempt, *, stage: str) -> Reject | None:
    """A reject for a source that has taken its worker along too often; else it is begun."""
    num_deaths = attempt.num_deaths[sequence.source_id]
    if num_deaths < _MAX_DEATHS:
        attempt.begin(sequence.source_id)
        return None
    return Reject(
        sequence.source_id,
        -1,
        stage,
        "worker-died",
        f"{num_deaths} worker processes ended while at this source: out of memory, a fault in a "
        "decoder, or bad luck with the machines; run preprocess again to try it once more",
    )


def _reject_of(error: Exception, sequence: GaitSequence, *, stage: str) -> Reject:
    if isinstance(error, VideoError):
        stage = STAGES.get(error.reason, stage)
        return Reject(sequence.source_id, -1, stage, error.reason, str(error))
    return Reject(sequence.source_id, -1, stage, UNEXPECTED, _describe(error))


def _describe(error: Exception) -> str:
    """Type, message, and the last two places it came through: enough to find it."""
    frames = traceback.extract_tb(error.__traceback__)[-2:]
    where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {error} ({where})"


def _pack(track: Track) -> dict[str, object]:
    return {
        "number": track.number,
        "frame_indices": track.frame_indices,
        "boxes_px": track.boxes_px.reshape(-1),
        "scores": track.scores,
    }


def _unpack(fields: Mapping[str, Any]) -> Track:
    return Track(
        number=fields["number"],
        frame_indices=np.array(fields["frame_indices"], np.int32),
        boxes_px=np.array(fields["boxes_px"], np.float32).reshape(-1, 4),
        scores=np.array(fields["scores"], np.float32),
    )


def _read(
    sequence: GaitSequence, source_root: Path, modalities: tuple[Modality, ...]
) -> ExtractedSequence:
    """The one sequence of a source that is no clip, with what is asked for of what is beside it."""
    path = source_root / sequence.source
    match sequence.kind:
        case "silhouettes":
            found = read_silhouettes(path, modalities)
        case "cropped":
            found = read_silhouettes(path, modalities, one_size=False)
        case "aligned":
            found = read_aligned(path, modalities)
        case "pickles":
            return read_pickles(path, modalities)
        case "video" | "images":
            raise ValueError(f"{path}: people in {sequence.kind} have to be found first")
    if not sequence.beside:
        return found
    is_whole = sequence.kind == "silhouettes"
    masks = mask_paths(path, leave_out="" if is_whole else "gei")
    if sequence.poses:
        found = with_joints(
            found, masks, source_root / sequence.poses, modalities, of_one_picture=is_whole
        )
    if sequence.colours:
        colour_masks = source_root / sequence.colour_masks if sequence.colour_masks else None
        found = with_colours(
            found, masks, source_root / sequence.colours, colour_masks=colour_masks
        )
    return found


# Extensions of the files that each kind's reader looks at.
_MEMBERS: Mapping[SourceKind, Collection[str]] = {
    "silhouettes": (".png",),
    "cropped": (".png",),
    "aligned": (".png",),
    "pickles": (".pkl",),
    "images": IMAGE_EXTENSIONS,
}
_BESIDE = IMAGE_EXTENSIONS | POSE_EXTENSIONS


def _sha256(path: Path, kind: SourceKind) -> str:
    """Digest of a file, or of the names and digests of a folder's frames; empty when not there."""
    if path.is_file():
        return _file_digest(path).hex()
    if not path.is_dir() or kind == "video":
        return ""
    members = pickle_paths(path) if kind == "pickles" else path.iterdir()
    return _members_digest(members, _MEMBERS[kind]).hex()


def _members_digest(paths: Iterable[Path], extensions: Collection[str]) -> bytes:
    digest = hashlib.sha256()
    for member in sorted(paths):
        is_member = member.suffix.lower() in extensions and not member.name.startswith(".")
        # No reader reads anything else than files: a folder so named, a link that leads nowhere.
        if is_member and member.is_file():
            digest.update(os.fsencode(member.name) + b"\0" + _file_digest(member))
    return digest.digest()


def _digest(sequence: GaitSequence, source_root: Path) -> str:
    """`_sha256` of a source, or of it and of the folders beside it."""
    of_source = _sha256(source_root / sequence.source, sequence.kind)
    if not sequence.beside:
        return of_source
    digest = hashlib.sha256(of_source.encode())
    for place in sequence.beside:
        digest.update(b"\0" + os.fsencode(place) + b"\0")
        digest.update(_members_digest((source_root / place).iterdir(), _BESIDE))
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def asset_digests(kind: str, settings: object) -> dict[str, str]:
    """SHA-256 by name of the files that the networks for a kind of source are read from."""
    return VideoSettings.model_validate(settings).file_digests() if kind in CLIP_KINDS else {}


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are the same wherever a user's own networks lie: digests in place of paths."""
    named = {field for field in ONNX_FIELDS if settings.get(field)}
    if not named:
        return dict(settings)
    digests = VideoSettings.model_validate(settings).file_digests()
    return {**settings, **{field: f"sha256:{digests[field]}" for field in named}}


def _provenance(kind: SourceKind, settings: Mapping[str, Any]) -> str:
    """What made the rows, as JSON: the same text for every row of a run."""
    return json.dumps(
        {
            "raygait": raygait.__version__,
            "format_version": FORMAT_VERSION,
            "processing_version": PROCESSING_VERSION,
            "packages": {name: _version(name) for name in _PACKAGES[kind]},
            "assets": asset_digests(kind, settings),
            "settings": settings_digest(without_paths(settings)),
        },
        sort_keys=True,
    )


def _version(package: str) -> str:
    # Its build for GPUs is the same module under another name.
    if package == "onnxruntime":
        return str(onnxruntime.__version__)
    return metadata.version(package)
