"""The plan: which source goes where, and what a part is called."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raygait.errors import DatasetError
from raygait.sequences import GaitSequence
from raygait.shards.plan import (
    PROCESSING_VERSION,
    Part,
    Source,
    choose_num_parts,
    look_at,
    look_up,
    plan,
)

_SETTINGS = {"video": {"min_frames": 20}, "silhouettes": {"height_px": 64}}
_ASSETS = {"video": {"detector": "ab", "pose": "cd"}}


def _sources(num: int, kind: str = "silhouettes") -> list[Source]:
    return [
        Source(GaitSequence("d", f"{n:03d}", "nm-01", "090", f"{n:03d}/nm-01/090", kind), 100, n)
        for n in range(num)
    ]


def _by_source(parts: list[Part]) -> dict[str, str]:
    return {source.sequence.source: part.name for part in parts for source in part.sources}


def test_every_source_is_in_exactly_one_part() -> None:
    sources = _sources(300) + _sources(9, "video")
    parts = plan(sources, choose_num_parts(sources), _SETTINGS, _ASSETS)
    dealt = [source for part in parts for source in part.sources]
    assert sorted(dealt, key=repr) == sorted(sources, key=repr)
    assert all({s.sequence.kind for s in part.sources} == {part.kind} for part in parts)


def test_the_plan_does_not_depend_on_the_order_of_the_sources() -> None:
    sources = _sources(100)
    assert plan(sources, {"silhouettes": 8}, _SETTINGS, _ASSETS) == plan(
        sources[::-1], {"silhouettes": 8}, _SETTINGS, _ASSETS
    )


def test_one_more_source_changes_one_part() -> None:
    before = plan(_sources(100), {"silhouettes": 8}, _SETTINGS, _ASSETS)
    after = plan(_sources(101), {"silhouettes": 8}, _SETTINGS, _ASSETS)
    assert len({p.name for p in before} - {p.name for p in after}) == 1
    assert len(after) == len(before)


@pytest.mark.parametrize(
    "change",
    [{"size_bytes": 101}, {"mtime_ns": 5}, {"listing_sha256": "ab"}],
    ids=["other size", "other time", "other names"],
)
def test_a_source_that_changed_renames_its_part_alone(change: dict[str, int | str]) -> None:
    sources = _sources(100)
    before = _by_source(plan(sources, {"silhouettes": 8}, _SETTINGS, _ASSETS))
    sources[7] = dataclasses.replace(sources[7], **change)
    after = _by_source(plan(sources, {"silhouettes": 8}, _SETTINGS, _ASSETS))
    mine = before[sources[7].sequence.source]
    assert {before[source] for source in before if before[source] != after[source]} == {mine}


def test_two_walks_whose_rows_would_have_one_name_are_refused(tmp_path: Path) -> None:
    one = GaitSequence("d", "a/b", "c", "v", "1.pkl", "pickles")
    other = GaitSequence("d", "a", "b/c", "v", "2.pkl", "pickles")
    with pytest.raises(DatasetError, match=r"2\.pkl and 1\.pkl both claim to be d/a/b/c/v"):
        look_up([one, other], tmp_path)


@pytest.mark.parametrize("kind", ["images", "aligned"])
def test_a_file_that_changes_is_another_state_whatever_its_kind(kind: str, tmp_path: Path) -> None:
    sequence = GaitSequence("d", "1", "", "", "a.mp4", kind)
    (tmp_path / "a.mp4").write_bytes(b"one")
    before = look_at(sequence, tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"other")
    assert (before.size_bytes, look_at(sequence, tmp_path).size_bytes) == (3, 5)


def test_a_folder_that_is_named_as_a_clip_is_another_state_when_a_file_in_it_changes(
    tmp_path: Path,
) -> None:
    sequence = GaitSequence("d", "1", "", "", "frames", "video")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/1.png").write_bytes(b"one")
    before = look_at(sequence, tmp_path)
    (tmp_path / "frames/1.png").write_bytes(b"other")
    after = look_at(sequence, tmp_path)
    assert (before.size_bytes, after.size_bytes) == (3, 5)
    assert before.listing_sha256 != after.listing_sha256


def test_other_settings_rename_the_parts_of_their_kind_alone() -> None:
    sources = _sources(20) + _sources(5, "video")
    num_parts = choose_num_parts(sources)
    before = plan(sources, num_parts, _SETTINGS, _ASSETS)
    after = plan(sources, num_parts, {**_SETTINGS, "video": {"min_frames": 21}}, _ASSETS)
    kept = {part.name for part in before} & {part.name for part in after}
    assert kept == {part.name for part in before if part.kind == "silhouettes"}


def test_other_weights_rename_the_parts_of_their_kind_alone() -> None:
    sources = _sources(20) + _sources(5, "video")
    num_parts = choose_num_parts(sources)
    before = plan(sources, num_parts, _SETTINGS, _ASSETS)
    assets = {"video": {**_ASSETS["video"], "pose": "ce"}}
    after = plan(sources, num_parts, _SETTINGS, assets)
    kept = {part.name for part in before} & {part.name for part in after}
    assert kept == {part.name for part in before if part.kind == "silhouettes"}


def test_code_that_gives_other_rows_renames_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = _sources(20)
    before = plan(sources, {"silhouettes": 8}, _SETTINGS, _ASSETS)
    monkeypatch.setattr("raygait.shards.plan.PROCESSING_VERSION", PROCESSING_VERSION + 1)
    after = plan(sources, {"silhouettes": 8}, _SETTINGS, _ASSETS)
    assert not {part.name for part in before} & {part.name for part in after}


def test_a_handful_of_clips_hardly_shares_parts() -> None:
    sources = _sources(9, "video")
    assert len(plan(sources, choose_num_parts(sources), _SETTINGS, _ASSETS)) >= 8


def test_a_part_crosses_a_process_border_as_text() -> None:
    (part, *_) = plan(_sources(9), {"silhouettes": 2}, _SETTINGS, _ASSETS)
    assert Part.from_json(part.to_json()) == part


_FOLDER = GaitSequence("d", "001", "nm-01", "090", "a", "silhouettes")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """A folder of three files of one time; two are of one size, one is empty."""
    folder = tmp_path / "a"
    folder.mkdir()
    for name, size in (("1.png", 10), ("2.png", 5), ("3.png", 0)):
        (folder / name).write_bytes(bytes(size))
        os.utime(folder / name, ns=(0, 2_000_000_000))
    return folder


def test_the_state_of_a_folder_is_that_of_its_files(masks: Path) -> None:
    (before,) = look_up([_FOLDER], masks.parent)
    assert (before.size_bytes, before.mtime_ns) == (15, 2_000_000_000)
    os.utime(masks)
    assert look_up([_FOLDER], masks.parent) == [before]
    os.utime(masks / "2.png", ns=(0, 3_000_000_000))
    assert look_up([_FOLDER], masks.parent)[0].mtime_ns == 3_000_000_000


def _swap(masks: Path) -> None:
    (masks / "1.png").rename(masks / "other")
    (masks / "2.png").rename(masks / "1.png")
    (masks / "other").rename(masks / "2.png")


@pytest.mark.parametrize(
    "change",
    [
        lambda masks: (masks / "2.png").rename(masks / "4.png"),
        _swap,
        lambda masks: (masks / "3.png").unlink(),
        lambda masks: (masks / "2.png").rename(masks / os.fsdecode(b"2\xff.png")),
    ],
    ids=["renamed", "swapped", "an empty one deleted", "renamed to what is not UTF-8"],
)
def test_a_folder_whose_sums_stay_is_seen_to_have_changed(
    masks: Path, change: Callable[[Path], object]
) -> None:
    (before,) = look_up([_FOLDER], masks.parent)
    change(masks)
    (after,) = look_up([_FOLDER], masks.parent)
    assert (after.size_bytes, after.mtime_ns) == (before.size_bytes, before.mtime_ns)
    assert after != before


def test_a_name_that_is_not_utf8_is_planned_like_any_other(tmp_path: Path) -> None:
    sequence = GaitSequence("d", "", "", "", os.fsdecode(b"\xff.mp4"), "video")
    (source,) = look_up([sequence], tmp_path)
    (part,) = plan([source], {"video": 4}, _SETTINGS, _ASSETS)
    assert Part.from_json(part.to_json()) == part


def test_a_source_that_is_gone_is_planned_and_left_to_the_worker(tmp_path: Path) -> None:
    sequence = GaitSequence("d", "", "", "", "gone.mp4", "video")
    assert look_up([sequence], tmp_path) == [Source(sequence, -1, 0)]


def test_two_sources_with_one_identity_are_refused(tmp_path: Path) -> None:
    sequences = [
        GaitSequence("d", "001", "nm-01", "090", f"001/nm-01/090.{suffix}", "video")
        for suffix in ("mp4", "avi")
    ]
    with pytest.raises(DatasetError, match=r"090\.mp4 and 001/nm-01/090\.avi both claim"):
        look_up(sequences, tmp_path)


def test_no_sequence_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="right folder"):
        look_up([], tmp_path)
