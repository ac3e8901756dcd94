"""Parts on disk: whole or not at all, and refused when anything about them is off."""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygait.errors import CorruptShard, SchemaMismatch, ShardError, WrongFormatVersion
from raygait.sequences import Reject
from raygait.shards import codec, reader, schema, writer
from raygait.shards.verify import verify

Row = dict[str, object]


def _numbered(row: Row, number: int) -> Row:
    return {**row, "sequence_id": f"clips/{number:03d}", "source": f"{number:03d}.mp4"}


def _write(root: Path, rows: list[Row], name: str = "part-a", *, num_rejects: int = 0) -> Path:
    with writer.PartWriter(root, name, num_sources=len(rows) + num_rejects) as part:
        for row in rows:
            part.add(row)
        for number in range(num_rejects):
            part.reject(
                "clips", f"bad{number}", Reject("clips:bad", -1, "decode", "undecodable", "no")
            )
        part.commit()
    manifest = reader.read_manifest(root) or reader.Manifest({}, {}, ())
    reader.Manifest({}, {}, tuple(sorted({*manifest.parts, name}))).write(root)
    return writer.shard_path(root, name)


@pytest.fixture
def root(tmp_path: Path, row: Row) -> Path:
    """Two parts: 11 rows and a reject, 1 row."""
    _write(tmp_path, [_numbered(row, number) for number in range(11)], "part-a", num_rejects=1)
    _write(tmp_path, [_numbered(row, 99)], "part-b")
    return tmp_path


def test_a_row_comes_back_as_it_was_given(tmp_path: Path, row: Row) -> None:
    _write(tmp_path, [row])
    table = reader.read_rows(tmp_path)
    assert table.schema.equals(schema.SCHEMA, check_metadata=True)
    (found,) = table.to_pylist()
    assert found.keys() == row.keys()
    for name, value in row.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_unknown_values_stay_unknown(tmp_path: Path, row: Row) -> None:
    unknown = {**row, "heatmaps": None, "heatmap_scale": None, "rgb": None, "fps": math.nan}
    _write(tmp_path, [unknown])
    (found,) = reader.read_rows(tmp_path).to_pylist()
    assert found["heatmaps"] is None
    assert found["heatmap_scale"] is None
    assert found["rgb"] is None
    assert math.isnan(found["fps"])


def test_rows_of_all_parts_come_in_the_order_of_part_and_row(root: Path) -> None:
    ids = reader.read_rows(root, ["sequence_id"])["sequence_id"].to_pylist()
    assert ids == [f"clips/{number:03d}" for number in (*range(11), 99)]


def test_only_the_columns_asked_for_are_read_in_their_order(root: Path) -> None:
    table = reader.read_rows(root, ["num_frames", "subject"])
    assert table.column_names == ["num_frames", "subject"]
    with pytest.raises(ValueError, match="no column ipts"):
        reader.read_rows(root, ["ipts"])


def test_row_groups_are_small_so_that_one_row_costs_little(root: Path) -> None:
    file = pq.ParquetFile(root / "part-a.parquet")
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    assert sizes == [writer.ROWS_PER_GROUP, 11 - writer.ROWS_PER_GROUP]


def test_rejects_come_back_with_stage_and_reason(root: Path) -> None:
    assert reader.read_rejects(root).to_pylist() == [
        {
            "dataset": "clips",
            "source": "bad0",
            "track": -1,
            "stage": "decode",
            "reason": "undecodable",
            "detail": "no",
        }
    ]


def test_the_sidecar_counts_what_the_part_holds(root: Path) -> None:
    summary = reader.read_summary(root / "part-a.parquet")
    assert (summary.num_sources, summary.num_sources_without_rows) == (12, 1)
    assert (summary.num_rows, summary.num_frames) == (11, 220)
    assert summary.rejects == (("decode", "undecodable", 1),)
    assert summary.size_bytes == (root / "part-a.parquet").stat().st_size


def test_frames_that_rows_leave_out_are_counted_and_may_be_unknown(
    tmp_path: Path, row: Row
) -> None:
    reasons = ["no pose", "hidden", "no pose", "hidden"]
    left = {"left_out_indices": [101, 102, 107, 109], "left_out_reasons": reasons}
    shard = _write(tmp_path, [_numbered(row, 0) | left, _numbered(row, 1) | left])
    summary = reader.read_summary(shard)
    assert summary.left_out == (("hidden", 4), ("no pose", 4))
    sidecar = writer.summary_path(tmp_path, shard.stem)
    fields = json.loads(sidecar.read_text())
    for left_out, findings in (([["hidden", 4], ["no pose", 5]], 1), (None, 0)):
        sidecar.write_text(json.dumps(fields | {"left_out": left_out}))
        assert [found.problem for found in verify(tmp_path)] == [
            "frames left out are not those that the sidecar counts"
        ] * findings
    del fields["left_out"]  # as before they were counted
    sidecar.write_text(json.dumps(fields))
    assert reader.read_summary(shard) == dataclasses.replace(summary, left_out=None)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, row: Row) -> None:
    rows = [_numbered(row, number) for number in range(10)]
    first, second = _write(tmp_path / "1", rows), _write(tmp_path / "2", rows)
    assert first.read_bytes() == second.read_bytes()
    assert reader.digest(tmp_path / "1") == reader.digest(tmp_path / "2")
    _write(tmp_path / "3", rows[::-1])
    assert reader.digest(tmp_path / "3") != reader.digest(tmp_path / "1")


def test_a_part_that_was_not_committed_leaves_nothing(tmp_path: Path, row: Row) -> None:
    def fail() -> None:
        with writer.PartWriter(tmp_path, "part-a", num_sources=9) as part:
            for number in range(9):
                part.add(_numbered(row, number))
            raise RuntimeError("the disk went away")

    with pytest.raises(RuntimeError, match="went away"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_part_has_its_name_only_when_sidecar_and_rejects_are_there(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    replace = Path.replace

    def watch(self: Path, target: Path) -> Path:
        seen.append({path.name for path in tmp_path.rglob("part-a.*") if ".tmp-" not in path.name})
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    with writer.PartWriter(tmp_path, "part-a", num_sources=2) as part:
        part.add(row)
        part.reject("clips", "bad", Reject("clips:bad", -1, "decode", "undecodable", "no"))
        part.commit()
    assert seen == [set(), {"part-a.parquet"}, {"part-a.parquet", "part-a.json"}]
    assert (tmp_path / "part-a.parquet").is_file()


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text("old")

    def fail() -> None:
        with writer.whole_file(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("dataset.json", "old")]


def test_leftovers_of_killed_runs_go_and_parts_stay(root: Path) -> None:
    before = sorted(root.rglob("*"))
    (root / "part-c.parquet.tmp-1a2b").write_bytes(b"half")
    (root / "rejects" / "part-c.parquet.tmp-1a2b").write_bytes(b"half")
    writer.remove_leftovers(root)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    "suffix", ["{}.parquet", "{}.json", "rejects/{}.parquet"], ids=["rows", "sidecar", "rejects"]
)
def test_what_a_crash_leaves_of_a_part_is_found_and_removed(root: Path, suffix: str) -> None:
    files = [writer.shard_path(root, "part-a"), writer.summary_path(root, "part-a")]
    for path in (*files, writer.rejects_path(root, "part-a")):
        if path != root / suffix.format("part-a"):
            path.unlink()
    assert writer.part_names(root) == {"part-a", "part-b"}
    writer.remove_part(root, "part-a")
    assert writer.part_names(root) == {"part-b"}


def test_a_part_that_is_removed_first_ceases_to_be_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    unlink = Path.unlink

    def watch(self: Path, missing_ok: bool = False) -> None:
        order.append(self.relative_to(root).as_posix())
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", watch)
    writer.remove_part(root, "part-a")
    assert order == ["part-a.parquet", "rejects/part-a.parquet", "part-a.json"]


def test_a_part_that_is_done_again_without_rejects_keeps_none_of_the_old(
    root: Path, row: Row
) -> None:
    _write(root, [_numbered(row, 1)], "part-a")
    assert not (root / "rejects" / "part-a.parquet").exists()
    assert reader.read_rejects(root).num_rows == 0


def test_names_that_are_not_utf8_are_escaped_in_the_rejects(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    with writer.PartWriter(tmp_path, "part-a", num_sources=1) as part:
        part.reject("clips", name, Reject(f"clips:{name}", -1, "decode", "bad-name", f"{name}: no"))
        part.commit()
    reader.Manifest({}, {}, ("part-a",)).write(tmp_path)
    (reject,) = reader.read_rejects(tmp_path).to_pylist()
    assert (reject["source"], reject["detail"]) == (r"caf\xe9.mp4", r"caf\xe9.mp4: no")


def test_files_that_are_as_the_sidecar_says_pass(root: Path) -> None:
    assert reader.check_files(root / "part-a.parquet").num_rows == 11


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "part-a.json").write_text("{"), "not a sidecar"),
        (lambda root: (root / "part-a.json").unlink(), "sidecar .* is missing"),
        (lambda root: (root / "part-a.parquet").write_bytes(b"PAR1"), "4 bytes, the sidecar says"),
        (lambda root: (root / "rejects" / "part-a.parquet").unlink(), "missing"),
    ],
    ids=["bad sidecar", "no sidecar", "other size", "no rejects"],
)
def test_files_that_are_not_as_the_sidecar_says_are_refused(
    root: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(root)
    with pytest.raises(CorruptShard, match=message):
        reader.check_files(root / "part-a.parquet")


def test_the_manifest_says_which_sources_of_which_folder(tmp_path: Path) -> None:
    manifest = reader.Manifest({}, {}, (), "/in", ("d:a", os.fsdecode(b"d:\xff")))
    manifest.write(tmp_path)
    assert reader.read_manifest(tmp_path) == manifest


def test_parts_that_are_no_longer_wanted_are_not_read(root: Path) -> None:
    reader.Manifest({}, {}, ("part-b",)).write(root)
    assert reader.list_shards(root) == [root / "part-b.parquet"]


def test_a_folder_that_is_not_finished_is_refused_unless_asked_for(root: Path) -> None:
    reader.Manifest({}, {}, ("part-a", "part-b", "part-c")).write(root)
    with pytest.raises(ShardError, match="1 of 3 parts are not written"):
        reader.read_rows(root)
    assert len(reader.list_shards(root, unfinished=True)) == 2


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no folder of shards"):
        reader.list_shards(tmp_path)


def test_a_flipped_bit_inside_a_page_is_found(root: Path) -> None:
    """Parquet reads such a file without complaint unless page checksums are written and asked."""
    path = root / "part-b.parquet"
    place = pq.ParquetFile(path).metadata.row_group(0)
    column = place.column(schema.SCHEMA.names.index("silhouettes"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptShard, match=r"part-b\.parquet"):
        reader.read_rows(root)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999], ids=["empty", "half", "no footer"])
def test_a_file_cut_short_is_found(root: Path, kept: float) -> None:
    path = root / "part-b.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CorruptShard, match=r"part-b\.parquet"):
        reader.read_rows(root)


def test_a_shard_of_an_unknown_version_is_refused_by_name(root: Path) -> None:
    path = root / "part-b.parquet"
    table = pq.read_table(path)
    metadata = {b"raygait.format_version": b"999"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(WrongFormatVersion, match=r"part-b\.parquet: format version 999"):
        reader.read_shard(path)


def test_parquet_that_is_none_of_ours_is_refused(root: Path) -> None:
    path = root / "part-b.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(WrongFormatVersion, match="format version none"):
        reader.read_shard(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("view"), "column view is missing"),
        (lambda t: t.append_column("sils", pa.array([1])), "column sils is unknown"),
        (
            lambda t: t.set_column(10, "fps", pa.array([25], pa.int64())),
            "column fps is pyarrow.Field<fps: int64>, expected",
        ),
    ],
    ids=["missing", "unknown", "other type"],
)
def test_columns_that_are_not_the_formats_are_named(root: Path, change, message: str) -> None:
    path = root / "part-b.parquet"
    table = change(pq.read_table(path)).replace_schema_metadata(schema.SCHEMA.metadata)
    pq.write_table(table, path)
    with pytest.raises(SchemaMismatch, match=message):
        reader.read_shard(path)


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 2}', "\xff"], ids=repr)
def test_a_damaged_sidecar_or_manifest_is_refused(root: Path, text: str) -> None:
    (root / "part-a.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptShard, match=r"part-a\.json"):
        reader.digest(root)
    (root / "dataset.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptShard, match=r"dataset\.json"):
        reader.list_shards(root)


def test_a_manifest_of_an_unknown_version_is_refused(root: Path) -> None:
    fields = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**fields, "format_version": 999}))
    with pytest.raises(WrongFormatVersion, match="format version 999"):
        reader.list_shards(root)


def test_missing_rejects_are_not_taken_for_none(root: Path) -> None:
    shutil.rmtree(root / "rejects")
    with pytest.raises(CorruptShard, match="missing"):
        reader.read_rejects(root)


def test_blobs_stay_encoded_until_a_decoder_is_asked(root: Path, silhouettes: np.ndarray) -> None:
    blob = reader.read_rows(root, ["silhouettes"])["silhouettes"][0].as_py()
    np.testing.assert_array_equal(codec.decode_silhouettes(blob), silhouettes[:20])
