"""The plan: which source goes where, and what a part is called."""

import dataclasses
import os
from pathlib import Path

import pytest

from raygait.errors import DatasetError
from raygait.sequences import GaitSequence
from raygait.shards.plan import Part, Source, choose_num_parts, look_up, plan

_SETTINGS = {"video": {"min_frames": 20}, "silhouettes": {"height_px": 64}}


def _sources(num: int, kind: str = "silhouettes") -> list[Source]:
    return [
        Source(GaitSequence("d", f"{n:03d}", "nm-01", "090", f"{n:03d}/nm-01/090", kind), 100, n)
        for n in range(num)
    ]


def _by_source(parts: list[Part]) -> dict[str, str]:
    return {source.sequence.source: part.name for part in parts for source in part.sources}


def test_every_source_is_in_exactly_one_part() -> None:
    sources = _sources(300) + _sources(9, "video")
    parts = plan(sources, choose_num_parts(sources), _SETTINGS)
    dealt = [source for part in parts for source in part.sources]
    assert sorted(dealt, key=repr) == sorted(sources, key=repr)
    assert all({s.sequence.kind for s in part.sources} == {part.kind} for part in parts)


def test_the_plan_does_not_depend_on_the_order_of_the_sources() -> None:
    sources = _sources(100)
    assert plan(sources, {"silhouettes": 8}, _SETTINGS) == plan(
        sources[::-1], {"silhouettes": 8}, _SETTINGS
    )


def test_one_more_source_changes_one_part() -> None:
    before = plan(_sources(100), {"silhouettes": 8}, _SETTINGS)
    after = plan(_sources(101), {"silhouettes": 8}, _SETTINGS)
    assert len({p.name for p in before} - {p.name for p in after}) == 1
    assert len(after) == len(before)


@pytest.mark.parametrize(
    "change", [{"size_bytes": 101}, {"mtime_ns": 5}], ids=["other size", "other time"]
)
def test_a_source_that_changed_renames_its_part_alone(change: dict[str, int]) -> None:
    sources = _sources(100)
    before = _by_source(plan(sources, {"silhouettes": 8}, _SETTINGS))
    sources[7] = dataclasses.replace(sources[7], **change)
    after = _by_source(plan(sources, {"silhouettes": 8}, _SETTINGS))
    mine = before[sources[7].sequence.source]
    assert {before[source] for source in before if before[source] != after[source]} == {mine}


def test_other_settings_rename_the_parts_of_their_kind_alone() -> None:
    sources = _sources(20) + _sources(5, "video")
    num_parts = choose_num_parts(sources)
    before = plan(sources, num_parts, _SETTINGS)
    after = plan(sources, num_parts, {**_SETTINGS, "video": {"min_frames": 21}})
    kept = {part.name for part in before} & {part.name for part in after}
    assert kept == {part.name for part in before if part.kind == "silhouettes"}


def test_a_handful_of_clips_hardly_shares_parts() -> None:
    sources = _sources(9, "video")
    assert len(plan(sources, choose_num_parts(sources), _SETTINGS)) >= 8


def test_a_part_crosses_a_process_border_as_text() -> None:
    (part, *_) = plan(_sources(9), {"silhouettes": 2}, _SETTINGS)
    assert Part.from_json(part.to_json()) == part


def test_the_state_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    sequence = GaitSequence("d", "001", "nm-01", "090", "a", "silhouettes")
    (tmp_path / "a").mkdir()
    for name, size, mtime_ns in (("1.png", 10, 2_000_000_000), ("2.png", 5, 3_000_000_000)):
        (tmp_path / "a" / name).write_bytes(bytes(size))
        os.utime(tmp_path / "a" / name, ns=(0, mtime_ns))
    assert look_up([sequence], tmp_path) == [Source(sequence, 15, 3_000_000_000)]


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
