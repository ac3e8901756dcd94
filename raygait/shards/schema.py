"""What a shard holds: columns, types, the version of the format, and the sidecar beside it.

A folder of shards, as `ingest` leaves it:

    dataset.json                what was asked for: settings, sources, and the names of all parts
    part-<16 hex>.parquet       rows; the name is a digest of what decides them (`plan`)
    part-<16 hex>.json          its sidecar, `PartSummary`: counts and the file's SHA-256
    rejects/part-<16 hex>.parquet   what did not become a row, and why; only where there is any
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import pyarrow as pa

from raygait.errors import CorruptShard, SchemaMismatch, WrongFormatVersion

FORMAT_VERSION = 2
"""Goes up with every change of columns, types or their meaning."""

_VERSION_KEY = b"raygait.format_version"
_METADATA = {_VERSION_KEY: str(FORMAT_VERSION).encode()}


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _list_of(kind: pa.DataType) -> pa.DataType:
    # Parquet's own name for the values; Arrow's default would not survive a file.
    return pa.list_(pa.field("element", kind))


SCHEMA = pa.schema(
    [
        # Who walked where; unique over the folder.
        _required("sequence_id", pa.string()),
        _required("dataset", pa.string()),
        _required("subject", pa.string()),  # "" when nobody has said who it is
        _required("condition", pa.string()),
        _required("view", pa.string()),
        _required("track", pa.int32()),  # number of the person within the source
        # Where the frames came from. A folder of masks: sums over its files, newest time.
        _required("source", pa.string()),
        _required("source_size_bytes", pa.int64()),
        _required("source_mtime_ns", pa.int64()),
        _required("source_sha256", pa.string()),
        _required("fps", pa.float64()),  # NaN when unknown
        _required("num_frames", pa.int32()),
        _required("height_px", pa.int32()),
        _required("width_px", pa.int32()),
        _required("frame_indices", _list_of(pa.int32())),  # number of each frame in its source
        _required("boxes_px", _list_of(pa.float32())),  # x0 y0 x1 y1 a frame, flat; NaN unknown
        # Blobs of `codec`; null where a modality was not asked for or cannot be had.
        _required("silhouettes", pa.large_binary()),
        pa.field("silhouettes_128", pa.large_binary()),
        pa.field("heatmaps", pa.large_binary()),
        pa.field("heatmap_scale", pa.float64()),
        pa.field("heatmap_windows_px", _list_of(pa.float32())),  # x0 y0 x1 y1 a frame, flat
        pa.field("heatmaps_redrawn", pa.large_binary()),  # 255 is 1.0
        pa.field("rgb", pa.large_binary()),
        pa.field("rgb_masks", pa.large_binary()),
        pa.field("rgb_windows_px", _list_of(pa.float32())),  # as above; null when only imported
        pa.field("rgb_ratio", _list_of(pa.float32())),  # width over height before it was squared
        pa.field("joints", _list_of(pa.float32())),  # 17 times x, y in source pixels, score
        # Quality, one value a frame; NaN unknown (`video.extraction.FrameQuality`).
        _required("person_score", _list_of(pa.float32())),
        _required("joint_score", _list_of(pa.float32())),
        _required("mask_area_ratio", _list_of(pa.float32())),
        _required("mask_height_px", _list_of(pa.float32())),
        _required("largest_part_ratio", _list_of(pa.float32())),
        _required("sharpness", _list_of(pa.float32())),
        _required("is_cut", _list_of(pa.bool_())),
        _required("is_walking", _list_of(pa.bool_())),
        # Of the track, or the part of it that this is (`video.extraction.ExtractedSequence`): its
        # median person score, what was left out of it and why.
        _required("track_person_score", pa.float64()),
        _required("left_out_indices", _list_of(pa.int32())),
        _required("left_out_reasons", _list_of(pa.string())),
        # JSON: versions, asset digests, settings digest.
        _required("provenance", pa.string()),
    ],
    metadata=_METADATA,
)

REJECT_SCHEMA = pa.schema(
    [
        _required("dataset", pa.string()),
        _required("source", pa.string()),
        _required("track", pa.int32()),  # -1: the whole source
        _required("stage", pa.string()),
        _required("reason", pa.string()),
        _required("detail", pa.string()),
    ],
    metadata=_METADATA,
)

BLOB_COLUMNS = (
    "silhouettes",
    "silhouettes_128",
    "heatmaps",
    "heatmaps_redrawn",
    "rgb",
    "rgb_masks",
)


def check_schema(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Refuse a file that this raygait does not know how to read.

    Args:
        found: Schema of the file, with its key-value metadata.
        expected: `SCHEMA` or `REJECT_SCHEMA`.
        where: Name of the file, for the message.

    Raises:
        WrongFormatVersion: The file says another format version, or none.
        SchemaMismatch: The version is ours, but columns or types are not the format's.
    """
    version = (found.metadata or {}).get(_VERSION_KEY, b"none").decode(errors="replace")
    if version != str(FORMAT_VERSION):
        raise WrongFormatVersion(
            f"{where}: format version {version}, this raygait ({FORMAT_VERSION=}) does not know "
            "it: use the raygait that wrote it, or run preprocess again"
        )
    differences = [
        f"column {field.name} is missing"
        if found.get_field_index(field.name) < 0
        else f"column {field.name} is {found.field(field.name)}, expected {field}"
        for field in expected
        if found.get_field_index(field.name) < 0 or not found.field(field.name).equals(field)
    ]
    differences += [
        f"column {name} is unknown" for name in found.names if name not in expected.names
    ]
    if differences:
        raise SchemaMismatch(f"{where}: {'; '.join(differences)}: run preprocess again")


@dataclass(frozen=True)
class PartSummary:
    """What a part holds, readable without opening it. Kept beside it as JSON.

    Attributes:
        name: Name of the part, without suffix.
        sha256: Digest of the Parquet file.
        size_bytes: Size of the Parquet file.
        num_sources: Sources that belong to the part.
        num_sources_without_rows: Those that gave no row at all.
        num_rows: Rows, one a sequence.
        num_frames: Frames of all rows.
        rejects: How often each (stage, reason) ended a source or a track, sorted.
        left_out: How many frames of the rows were left out for each reason, sorted; None where an
            older raygait did not count them.
    """

    name: str
    sha256: str
    size_bytes: int
    num_sources: int
    num_sources_without_rows: int
    num_rows: int
    num_frames: int
    rejects: tuple[tuple[str, str, int], ...]
    left_out: tuple[tuple[str, int], ...] | None = None

    def to_json(self) -> str:
        """One line of JSON, the same for the same part."""
        return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> PartSummary:
        """Read what `to_json` wrote.

        Raises:
            WrongFormatVersion: Written by a raygait that this one does not know.
            CorruptShard: Not a sidecar.
        """
        try:
            fields = json.loads(text)
            version = fields.pop("format_version")
            if version != FORMAT_VERSION:
                raise WrongFormatVersion(
                    f"{where}: format version {version}, this raygait knows {FORMAT_VERSION}"
                )
            rejects = tuple((str(s), str(r), int(n)) for s, r, n in fields.pop("rejects"))
            left_out = fields.pop("left_out", None)
            if left_out is not None:
                left_out = tuple((str(r), int(n)) for r, n in left_out)
            return cls(**fields, rejects=rejects, left_out=left_out)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptShard(
                f"{where}: not a sidecar of a part ({error}): run preprocess again"
            ) from error
