"""What the actors do, without Ray: sources in, a committed part out, bad ones as rejects."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raygait.assets import ASSETS
from raygait.errors import AssetError
from raygait.sequences import GaitSequence, SourceKind
from raygait.shards import codec, reader, workers, writer
from raygait.shards.plan import Part, look_up
from raygait.shards.schema import PartSummary
from raygait.shards.verify import verify
from raygait.shards.workers import Builder, Finder
from raygait.video.extraction import ExtractedSequence, RejectedTrack
from raygait.video.mask_folders import read_silhouettes
from raygait.video.settings import Modality, VideoSettings

_NO_WEIGHTS = VideoSettings(
    detector="motion", mask="background", pose="none", modalities=("silhouettes", "rgb")
).to_dict()


def _build(sequences: list[GaitSequence], source_root: Path, root: Path) -> PartSummary:
    (kind,) = {sequence.kind for sequence in sequences}
    part = Part("part-a", kind, tuple(look_up(sequences, source_root)))
    batch = pa.table({"part": [part.to_json()]})
    settings = _NO_WEIGHTS if kind == "video" else {"modalities": ["silhouettes"]}
    if kind == "video":
        batch = Finder(str(source_root), str(root), settings)(batch)
    (text,) = Builder(str(source_root), str(root), kind, settings)(batch)["summary"].to_pylist()
    reader.Manifest({}, {}, ("part-a",)).write(root)
    return PartSummary.from_json(text, "test")


def _rejects(root: Path) -> dict[str, tuple[str, str]]:
    rows = reader.read_rejects(root).to_pylist()
    return {row["source"]: (row["stage"], row["reason"]) for row in rows}


def test_a_folder_of_masks_becomes_one_row_named_after_its_walk(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    sequences = write_mask_folders(tmp_path / "in", 2)
    summary = _build(sequences, tmp_path / "in", tmp_path / "out")
    assert (summary.num_rows, summary.num_sources_without_rows, summary.rejects) == (2, 0, ())
    first = reader.read_rows(tmp_path / "out").to_pylist()[0]
    expected = read_silhouettes(tmp_path / "in" / sequences[0].source)
    np.testing.assert_array_equal(
        codec.decode_silhouettes(first["silhouettes"]), expected.silhouettes
    )
    assert first["sequence_id"] == "tree/001/nm-01/090"
    assert first["frame_indices"] == expected.frame_indices.tolist()
    assert np.isnan(first["boxes_px"]).all()
    assert len(first["source_sha256"]) == 64
    assert json.loads(first["provenance"]).keys() >= {"raygait", "packages", "settings", "assets"}
    assert verify(tmp_path / "out") == []


def test_other_pixels_of_the_same_size_give_another_source_digest(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    (sequence,) = write_mask_folders(tmp_path / "in", 1)
    folder = tmp_path / "in" / sequence.source
    before = workers._sha256(folder, "silhouettes")
    (folder / "007.png").rename(folder / "008.png")  # still the last
    renamed = workers._sha256(folder, "silhouettes")
    content = bytearray((folder / "008.png").read_bytes())
    content[-1] ^= 1
    (folder / "008.png").write_bytes(content)
    assert len({before, renamed, workers._sha256(folder, "silhouettes")}) == 3


def test_only_masks_count_for_the_digest_and_no_file_is_held_whole(
    tmp_path: Path,
    write_mask_folders: Callable[..., list[GaitSequence]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sequence,) = write_mask_folders(tmp_path / "in", 1)
    folder = tmp_path / "in" / sequence.source
    before = workers._sha256(folder, "silhouettes")
    (folder / "notes.txt").write_text("taken on a sunny day")
    (folder / "._000.png").write_bytes(b"what a Mac leaves behind")
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read whole"))
    assert workers._sha256(folder, "silhouettes") == before
    (folder / "007.png").rename(folder / "007.PNG")
    renamed = workers._sha256(folder, "silhouettes")
    (folder / "007.PNG").unlink()
    assert len({before, renamed, workers._sha256(folder, "silhouettes")}) == 3


def test_provenance_names_the_files_that_the_settings_use() -> None:
    settings = VideoSettings(detector="ssd")
    assert workers.asset_digests("video", settings.to_dict()) == {
        name: ASSETS[name].sha256 for name in settings.asset_names()
    }
    assert len(settings.asset_names()) == 2
    assert workers.asset_digests("video", _NO_WEIGHTS) == {}
    assert workers.asset_digests("silhouettes", {"modalities": ["silhouettes"]}) == {}


def test_a_folder_whose_name_is_not_utf8_becomes_a_reject_and_the_rest_rows(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    (good,) = write_mask_folders(tmp_path, 1)
    weird = os.fsdecode(b"caf\xe9")
    shutil.copytree(tmp_path / "001", tmp_path / weird)
    bad = GaitSequence("tree", weird, "nm-01", "090", f"{weird}/nm-01/090", "silhouettes")
    summary = _build([good, bad], tmp_path, tmp_path / "out")
    assert (summary.num_rows, summary.num_sources_without_rows) == (1, 1)
    (reject,) = reader.read_rejects(tmp_path / "out").to_pylist()
    assert (reject["stage"], reject["reason"]) == ("decode", "bad-name")
    assert reject["source"] == r"caf\xe9/nm-01/090"
    assert verify(tmp_path / "out") == []


def test_a_clip_whose_name_is_not_utf8_becomes_a_reject_and_the_rest_rows(
    tmp_path: Path, write_walk_clip: Callable[..., Path]
) -> None:
    weird = os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(write_walk_clip(tmp_path / "walk.mp4"), tmp_path / weird)
    clips = [GaitSequence("clips", "", "", "", name, "video") for name in ("walk.mp4", weird)]
    assert _build(clips, tmp_path, tmp_path / "out").num_rows == 1
    assert _rejects(tmp_path / "out") == {r"caf\xe9.mp4": ("decode", "bad-name")}


def test_bad_clips_below_a_root_that_is_not_utf8_are_rejects_all_the_same(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    root.mkdir()
    (root / "empty.mp4").write_bytes(b"")
    clip = GaitSequence("clips", "", "", "", "empty.mp4", "video")
    _build([clip], root, tmp_path / "out")
    assert _rejects(tmp_path / "out") == {"empty.mp4": ("decode", "undecodable")}


def _build_planned(
    sequences: list[GaitSequence], source_root: Path, root: Path, meanwhile: Callable[[], object]
) -> PartSummary:
    """Build masks as planned, with something done between plan and work."""
    part = Part("part-a", "silhouettes", tuple(look_up(sequences, source_root)))
    meanwhile()
    build = Builder(str(source_root), str(root), "silhouettes", {"modalities": ["silhouettes"]})
    (result,) = build(pa.table({"part": [part.to_json()]})).to_pylist()
    assert result["failure"] is None
    reader.Manifest({}, {}, ("part-a",)).write(root)
    return PartSummary.from_json(result["summary"], "test")


def test_a_source_that_changed_since_the_plan_becomes_a_reject(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    sequences = write_mask_folders(tmp_path / "in", 3)
    folders = [tmp_path / "in" / sequence.source for sequence in sequences]

    def meanwhile() -> None:
        (folders[0] / "003.png").rename(folders[0] / "zzz.png")
        shutil.rmtree(folders[1])

    summary = _build_planned(sequences, tmp_path / "in", tmp_path / "out", meanwhile)
    assert (summary.num_rows, summary.num_sources_without_rows) == (1, 2)
    assert _rejects(tmp_path / "out") == {
        sequence.source: ("decode", "changed") for sequence in sequences[:2]
    }


@pytest.mark.parametrize("restored", [False, True], ids=["for good", "and changed back"])
def test_a_source_that_changes_while_it_is_read_becomes_a_reject_and_the_others_rows(
    tmp_path: Path,
    write_mask_folders: Callable[..., list[GaitSequence]],
    monkeypatch: pytest.MonkeyPatch,
    restored: bool,
) -> None:
    sequences = write_mask_folders(tmp_path / "in", 3)
    touched = tmp_path / "in" / sequences[1].source / "003.png"
    before_ns = touched.stat().st_mtime_ns
    calls: list[Path] = []

    def read_while_somebody_writes(
        folder: Path, modalities: tuple[Modality, ...]
    ) -> ExtractedSequence:
        calls.append(folder)
        if len(calls) == 2:
            os.utime(touched, ns=(0, 1))
        if len(calls) == 3 and restored:
            os.utime(touched, ns=(0, before_ns))
        return read_silhouettes(folder, modalities)

    monkeypatch.setattr(workers, "read_silhouettes", read_while_somebody_writes)
    summary = _build_planned(sequences, tmp_path / "in", tmp_path / "out", lambda: None)
    assert summary.num_rows == 2
    assert _rejects(tmp_path / "out") == {sequences[1].source: ("decode", "changed")}
    assert verify(tmp_path / "out") == []
    assert not list((tmp_path / "out").glob("*.tmp-*"))


def test_bad_folders_become_rejects_and_the_good_one_a_row(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    sequences = write_mask_folders(tmp_path, 1)
    for number, name in enumerate(("empty", "text", "gone", "x" * 300)):
        if name in ("empty", "text"):
            (tmp_path / name).mkdir()
        sequences.append(
            GaitSequence("tree", f"{900 + number}", "nm-01", "090", name, "silhouettes")
        )
    (tmp_path / "text" / "000.png").write_text("no image")
    summary = _build(sequences, tmp_path, tmp_path / "out")
    assert (summary.num_rows, summary.num_sources_without_rows) == (1, 4)
    assert _rejects(tmp_path / "out") == {
        "empty": ("decode", "undecodable"),
        "text": ("decode", "undecodable"),
        "gone": ("decode", "undecodable"),
        "x" * 300: ("decode", "undecodable"),
    }


def test_what_nobody_foresaw_is_a_reject_with_the_place_of_the_error(tmp_path: Path) -> None:
    # No file system has such a name; nothing in raygait expects the error it gives.
    sequence = GaitSequence("tree", "1", "nm-01", "090", "x" * 300, "pickles")
    _build([sequence], tmp_path, tmp_path / "out")
    assert _rejects(tmp_path / "out") == {"x" * 300: ("silhouette", "unexpected")}
    detail = reader.read_rejects(tmp_path / "out").to_pylist()[-1]["detail"]
    assert detail.startswith("OSError: ")
    assert ".py:" in detail


@pytest.mark.parametrize(
    ("source", "member", "kind", "expected"),
    [
        ("leaf", "leaf/v.pkl", "pickles", ("decode", "bad-array")),
        ("v.pkl", "v.pkl", "pickles", ("decode", "bad-array")),
        ("leaf", "leaf/1.png", "silhouettes", ("decode", "undecodable")),
        ("leaf", "leaf/1.png", "cropped", ("decode", "undecodable")),
        ("leaf", "leaf/1.png", "aligned", ("decode", "undecodable")),
    ],
)
@pytest.mark.parametrize("is_link", [True, False], ids=["dangling link", "folder"])
def test_a_frame_that_is_no_file_is_a_reject_of_its_reader(
    is_link: bool,
    source: str,
    member: str,
    kind: SourceKind,
    expected: tuple[str, str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "in" / member
    path.parent.mkdir(parents=True)
    if is_link:
        path.symlink_to("gone")
    else:
        path.mkdir()
    sequence = GaitSequence("tree", "1", "nm-01", "090", source, kind)
    _build([sequence], tmp_path / "in", tmp_path / "out")
    assert _rejects(tmp_path / "out") == {source: expected}


@pytest.mark.parametrize("is_link", [True, False], ids=["dangling link", "folder"])
def test_what_no_reader_looks_at_costs_no_walk(
    is_link: bool, tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    [sequence] = write_mask_folders(tmp_path / "in", 1)
    path = tmp_path / "in" / sequence.source / "GEI.png"
    if is_link:
        path.symlink_to("gone")
    else:
        path.mkdir()
    sequence = dataclasses.replace(sequence, kind="cropped")
    assert _build([sequence], tmp_path / "in", tmp_path / "out").num_rows == 1


def test_an_unlabelled_clip_gives_a_row_for_each_person(
    tmp_path: Path, write_walk_clip: Callable[..., Path]
) -> None:
    write_walk_clip(tmp_path / "walk.mp4", num_people=2)
    sequence = GaitSequence("clips", "", "", "", "walk.mp4", "video")
    assert _build([sequence], tmp_path, tmp_path / "out").num_rows == 2
    rows = reader.read_rows(tmp_path / "out").to_pylist()
    assert {row["sequence_id"] for row in rows} == {"clips/walk.mp4#1", "clips/walk.mp4#2"}
    assert all(row["fps"] == 25 for row in rows)
    assert all(row["rgb"] is not None and row["heatmaps"] is None for row in rows)
    assert verify(tmp_path / "out") == []


def test_the_label_of_a_clip_goes_to_its_longest_track(
    tmp_path: Path, write_walk_clip: Callable[..., Path]
) -> None:
    (tmp_path / "anna" / "nm-01").mkdir(parents=True)
    write_walk_clip(tmp_path / "anna" / "nm-01" / "090.mp4", num_people=2)
    sequence = GaitSequence("clips", "anna", "nm-01", "090", "anna/nm-01/090.mp4", "video")
    assert _build([sequence], tmp_path, tmp_path / "out").num_rows == 1
    (row,) = reader.read_rows(tmp_path / "out").to_pylist()
    assert row["sequence_id"] == "clips/anna/nm-01/090"
    (reject,) = reader.read_rejects(tmp_path / "out").to_pylist()
    assert (reject["stage"], reject["reason"]) == ("gate", "extra-person")
    assert reject["track"] != row["track"]


def test_the_longest_of_many_tracks_is_kept_and_all_others_are_named(
    extracted: ExtractedSequence,
) -> None:
    def cut(track: int, length: int, *, part_of: int | None = None) -> ExtractedSequence:
        return dataclasses.replace(
            extracted,
            track=track,
            part_of=track if part_of is None else part_of,
            frame_indices=extracted.frame_indices[:length],
        )

    early = RejectedTrack(9, "gate", "short-track", "3 frames")
    results = list(workers._one_person([cut(4, 5), early, cut(2, 9), cut(1, 9), cut(3, 8)]))
    assert [r.track for r in results if isinstance(r, ExtractedSequence)] == [1]
    reasons = {r.track: r.reason for r in results if isinstance(r, RejectedTrack)}
    assert reasons == {9: "short-track", **dict.fromkeys((2, 3, 4), "extra-person")}
    # A walk that was cut for its length is not several people.
    parts = workers._one_person([cut(1, 9), cut(5, 9, part_of=1), cut(6, 4, part_of=1)])
    rejects = {r.track: r.reason for r in parts if isinstance(r, RejectedTrack)}
    assert rejects == {5: "long-track", 6: "long-track"}


def test_bad_clips_become_rejects_with_stage_and_reason(
    tmp_path: Path, write_bad_clips: Callable[[Path], dict[str, tuple[str, str]]]
) -> None:
    expected = write_bad_clips(tmp_path)
    sequences = [GaitSequence("clips", "", "", "", name, "video") for name in expected]
    summary = _build(sequences, tmp_path, tmp_path / "out")
    assert (summary.num_rows, summary.num_sources_without_rows) == (0, len(expected))
    assert _rejects(tmp_path / "out") == expected
    assert verify(tmp_path / "out") == []


def test_what_is_no_fault_of_a_source_fails_the_part_and_leaves_nothing(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    sequences = write_mask_folders(tmp_path / "in", 1)
    root = tmp_path / "out"
    writer.shard_path(root, "part-a").mkdir(parents=True)  # the name is taken: the rename fails
    part = Part("part-a", "silhouettes", tuple(look_up(sequences, tmp_path / "in")))
    build = Builder(str(tmp_path / "in"), str(root), "silhouettes", {"modalities": []})
    (result,) = build(pa.table({"part": [part.to_json()]})).to_pylist()
    assert result["summary"] is None
    assert result["failure"].startswith("IsADirectoryError: ")
    assert "writer.py:" in result["failure"]
    assert [path.name for path in root.glob("*.parquet*")] == ["part-a.parquet"]


def test_a_source_that_takes_its_worker_along_three_times_becomes_a_reject(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    sequences = write_mask_folders(tmp_path / "in", 2)
    deadly = sequences[0].source_id
    for _ in range(3):
        _die(tmp_path / "out", deadly)
    notes = list((tmp_path / "out").iterdir())
    assert len(notes) == 3
    summary = _build(sequences, tmp_path / "in", tmp_path / "out")
    assert (summary.num_rows, summary.rejects) == (1, (("silhouette", "worker-died", 1),))
    (reject,) = reader.read_rejects(tmp_path / "out").to_pylist()
    assert (reject["source"], reject["reason"]) == (sequences[0].source, "worker-died")
    assert "run preprocess again" in reject["detail"]
    writer.remove_leftovers(tmp_path / "out")
    assert not any(note.exists() for note in notes)


def test_a_worker_that_died_twice_at_a_source_is_given_another_chance(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    sequences = write_mask_folders(tmp_path / "in", 1)
    for _ in range(2):
        _die(tmp_path / "out", sequences[0].source_id)
    assert _build(sequences, tmp_path / "in", tmp_path / "out").num_rows == 1


def _die(root: Path, source_id: str) -> None:
    """A worker process ends while it is at a source."""
    code = """
import os, pathlib, sys
from raygait.shards.writer import Attempt
with Attempt(pathlib.Path(sys.argv[1]), "part-a.build") as attempt:
    attempt.begin(sys.argv[2])
    os._exit(1)
"""
    words = [sys.executable, "-c", code, str(root), source_id]
    subprocess.run(words, cwd=Path(__file__).parents[2], check=False)


def test_a_users_network_counts_by_what_is_in_it_and_not_by_where_it_lies(tmp_path: Path) -> None:
    def recorded(name: str, content: bytes) -> dict[str, object]:
        (tmp_path / name).write_bytes(content)
        settings = VideoSettings(mask="onnx", mask_onnx=str(tmp_path / name), detector="motion")
        return workers.without_paths(settings.to_dict())

    first = recorded("first.onnx", b"weights")
    assert recorded("moved.onnx", b"weights") == first
    assert recorded("other.onnx", b"other weights") != first
    assert str(tmp_path) not in json.dumps(first)
    digest = hashlib.sha256(b"weights").hexdigest()
    assert first["mask_onnx"] == f"sha256:{digest}"
    settings = VideoSettings(mask="onnx", mask_onnx=str(tmp_path / "first.onnx"))
    assert workers.asset_digests("video", settings.to_dict())["mask_onnx"] == digest


def test_a_users_network_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    settings = VideoSettings(pose="onnx", pose_onnx=str(tmp_path / "gone.onnx"), detector="motion")
    with pytest.raises(AssetError, match=r"pose_onnx: .*gone\.onnx cannot be read"):
        workers.without_paths(settings.to_dict())
