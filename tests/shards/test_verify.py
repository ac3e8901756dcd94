"""`verify` finds each kind of damage, says where, and has nothing to say of a good folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raygait.shards import codec, reader, writer
from raygait.shards.verify import verify

Row = dict[str, object]


def _write(root: Path, name: str, rows: list[Row]) -> None:
    with writer.PartWriter(root, name, num_sources=len(rows)) as part:
        for row in rows:
            part.add(row)
        part.commit()


@pytest.fixture
def root(tmp_path: Path, row: Row) -> Path:
    _write(tmp_path, "part-a", [row, {**row, "sequence_id": "second"}])
    _write(tmp_path, "part-b", [{**row, "sequence_id": "third"}])
    reader.Manifest({}, {}, ("part-a", "part-b")).write(tmp_path)
    return tmp_path


def test_a_good_folder_has_no_findings(root: Path) -> None:
    assert verify(root) == []


def test_a_flipped_byte_is_found_and_the_rest_is_still_checked(root: Path, row: Row) -> None:
    path = root / "part-a.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    _write(root, "part-b", [{**row, "sequence_id": "third", "num_frames": 19}])
    found = verify(root)
    assert any(f.shard == "part-a.parquet" and "SHA-256" in f.problem for f in found)
    assert any(f.shard == "part-b.parquet" and f.sequence_id == "third" for f in found)


def test_a_sequence_in_two_parts_is_found(root: Path, row: Row) -> None:
    _write(root, "part-b", [row])
    (found,) = verify(root)
    assert (found.shard, found.sequence_id) == ("part-b.parquet", row["sequence_id"])
    assert "also in part-a.parquet" in found.problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: {"num_frames": 19}, "silhouettes has 20 frames, num_frames says 19"),
        (lambda _: {"height_px": 32}, "height_px and width_px say (32, 64)"),
        (lambda row: {"silhouettes": row["silhouettes"][:-1]}, "the table says"),
        (lambda row: {"rgb": row["heatmaps"]}, "crops: starts with b'RGHm'"),
        (lambda _: {"boxes_px": [0.0] * 79}, "boxes_px has 79 values for 20 frames"),
        (lambda _: {"heatmap_scale": None}, "must be there together"),
    ],
    ids=["frames", "size", "cut blob", "other blob", "boxes", "no scale"],
)
def test_a_row_that_contradicts_itself_is_found(
    root: Path, row: Row, change: Callable[[Row], Row], problem: str
) -> None:
    _write(root, "part-b", [{**row, "sequence_id": "third", **change(row)}])
    assert any(
        f.sequence_id == "third" and f.shard == "part-b.parquet" and problem in f.problem
        for f in verify(root)
    )


def test_a_sidecar_that_counts_otherwise_is_found(root: Path) -> None:
    path = root / "part-a.json"
    path.write_text(path.read_text().replace('"num_rows": 2', '"num_rows": 3'))
    (found,) = verify(root)
    assert "2 rows and 40 frames, the sidecar says 3 and 40" in found.problem


def test_a_part_that_is_missing_is_found(root: Path) -> None:
    (root / "part-a.parquet").unlink()
    (found,) = verify(root)
    assert "1 of 2 parts are not written" in found.problem


def test_damage_inside_a_blob_is_found_although_all_digests_agree(root: Path, row: Row) -> None:
    """Written wrong, not damaged later: only decoding shows it."""
    blob = bytearray(codec.encode_silhouettes(codec.decode_silhouettes(row["silhouettes"])))
    blob[-1] ^= 1
    _write(root, "part-b", [{**row, "sequence_id": "third", "silhouettes": bytes(blob)}])
    (found,) = verify(root)
    assert "checksum of frames from 16 on" in found.problem
