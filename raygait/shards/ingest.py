"""Sequences -> rows -> Parquet, on all cores of a laptop or a cluster: the Ray Data graph.

    parts ─> finders (decode, detect, track) ─> builders (describe, encode, commit) ─> summaries
             pool of actors, a detector each    pool of actors, a pose network each    to the driver

A part is a handful of sources and one file. Folders of masks skip the finders; poses and colours
that lie beside them are read if they are asked for (`video.beside`). Only paths, boxes and
summaries cross process borders; frames live and die inside a builder, one row group at a time.

What a run leaves behind is a function of the sources and the settings: any number of workers, any
order and any crash give the same rows, and a second run does only what is missing, damaged or ended
by bad luck (`workers.PASSING`). Bad input is a reject with stage and reason, and never stops the
rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from raygait import ray_session
from raygait.errors import SettingsMismatch, ShardError
from raygait.sequences import GaitSequence, SourceKind
from raygait.shards import reader, writer
from raygait.shards.plan import Part, Source, choose_num_parts, look_up, plan
from raygait.shards.schema import PartSummary
from raygait.shards.workers import (
    CLIP_KINDS,
    PASSING,
    UNEXPECTED,
    Builder,
    Finder,
    asset_digests,
    without_paths,
)
from raygait.video.beside import COLOUR_MODALITIES, POSE_MODALITIES
from raygait.video.extraction import PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.mask_folders import MASK_MODALITIES
from raygait.video.pickled import PICKLED_MODALITIES
from raygait.video.settings import Modality, VideoSettings

_log = logging.getLogger(__name__)

_MODALITIES: Mapping[SourceKind, Collection[Modality]] = {
    "silhouettes": MASK_MODALITIES,
    "cropped": MASK_MODALITIES,
    "aligned": MASK_MODALITIES,
    "pickles": PICKLED_MODALITIES,
}
"""What a kind of source can have that is no clip."""

_BESIDE: Mapping[str, Collection[Modality]] = {
    "poses": POSE_MODALITIES,
    "colours": COLOUR_MODALITIES,
    "colour_masks": COLOUR_MODALITIES,
}
"""Fields of `GaitSequence` that name folders beside masks, and what those can give."""


@dataclass(frozen=True)
class IngestReport:
    """What a folder of shards holds after a run, and what the run did.

    Attributes:
        out: The folder.
        num_sources: Sources that were asked for.
        num_sources_without_rows: Those that gave no row.
        num_rows: Rows in the folder, one a sequence.
        num_frames: Frames of all rows.
        size_bytes: Size of all shards.
        num_parts_written: Parts that this run wrote.
        num_frames_written: Frames in them.
        num_parts_skipped: Parts that were there already.
        num_parts_removed: Parts whose sources or settings have changed.
        rejects: How often each (stage, reason) ended a source or a track, over the whole folder.
        left_out: How many frames of all rows were left out for each reason.
        num_parts_uncounted: Parts of an older raygait, which did not count those.
        seconds: Wall time of the run.
    """

    out: Path
    num_sources: int
    num_sources_without_rows: int
    num_rows: int
    num_frames: int
    size_bytes: int
    num_parts_written: int
    num_frames_written: int
    num_parts_skipped: int
    num_parts_removed: int
    rejects: Mapping[tuple[str, str], int]
    left_out: Mapping[str, int]
    num_parts_uncounted: int
    seconds: float

    @property
    def reject_share(self) -> float:
        """Share of the sources that gave no row, 0..1."""
        return self.num_sources_without_rows / self.num_sources

    @property
    def bytes_per_frame(self) -> float:
        """Size of the shards over their frames; NaN without a frame."""
        return self.size_bytes / self.num_frames if self.num_frames else math.nan

    @property
    def num_unexpected(self) -> int:
        """Rejects that nobody foresaw."""
        return sum(number for (_, reason), number in self.rejects.items() if reason == UNEXPECTED)

    def to_text(self) -> str:
        """A few lines for a person."""
        rate = self.num_frames_written / self.seconds
        lines = [
            f"{self.out}: {self.num_rows} rows, {self.num_frames} frames from {self.num_sources} "
            f"sources ({self.size_bytes / 1e6:.1f} MB, {self.bytes_per_frame:.0f} bytes a frame)",
            f"parts: {self.num_parts_written} written, {self.num_parts_skipped} already there, "
            f"{self.num_parts_removed} replaced; {self.seconds:.1f} s, {rate:.0f} frames/s",
        ]
        if self.left_out:
            counts = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            said = ", ".join(f"{number} {reason}" for reason, number in counts)
            uncounted = self.num_parts_uncounted
            unknown = f" (parts not counted: {uncounted})" if uncounted else ""
            lines.append(f"frames left out of rows: {said}{unknown}")
        if self.rejects:
            lines.append(
                f"rejects (sources without any row: {self.num_sources_without_rows}, "
                f"{self.reject_share:.1%}); see rejects/ for each:"
            )
            width = max(len(reason) for _, reason in self.rejects)
            lines += [
                f"  {stage:<10} {reason:<{width}} {number:>6}"
                for (stage, reason), number in sorted(self.rejects.items())
            ]
        else:
            lines.append("rejects: none")
        if self.num_unexpected:
            lines.append(
                f"{self.num_unexpected} of them are {UNEXPECTED}: errors that raygait does not "
                "know, likely its own; their detail names type, message and line"
            )
        return "\n".join(lines)


def ingest(
    sequences: Sequence[GaitSequence],
    source_root: Path | str,
    out: Path | str,
    settings: VideoSettings | None = None,
    *,
    num_workers: int | None = None,
    address: str | None = None,
    overwrite: bool = False,
    beside: bool = False,
    progress_every_s: float = 5.0,
    no_progress_timeout_s: float = 4 * 3600,
) -> IngestReport:
    """Make a folder of shards hold the rows of these sequences, and of no others.

    What is there already stays; what is missing is done; what belongs to sources that have changed
    or are gone is removed once all else is there. A folder can be read when its run has finished
    (`reader.list_shards`).

    Args:
        sequences: What to ingest, from a data set's `index`.
        source_root: Folder that the sequences' sources are relative to; all workers see it.
        out: Folder of shards, made if missing; all workers see it.
        settings: What becomes of a clip; the defaults of `VideoSettings` when None.
        num_workers: Builders, and for clips as many finders, at least 1; None for one a CPU of the
            cluster.
        address: Ray cluster, see `ray_session.start`; a session that is there is used. Nothing is
            started when there is nothing to do.
        overwrite: Whether a folder that was written with other settings or from another data set
            may be replaced, and whether it may lose more than half of its sources.
        beside: Whether poses and colours that lie beside masks are joined to them, as far as the
            modalities ask for them. Frames without are left out then, so that silhouettes are
            fewer than those that benchmarks are scored with.
        progress_every_s: Seconds between two lines of progress (logging, level INFO).
        no_progress_timeout_s: Give up when no part was begun or ended for so long.

    Raises:
        DatasetError: No sequence, or two that claim to be the same.
        SettingsMismatch: The folder was written with other settings or from other sources; the
            message names them.
        AssetError: A network's file cannot be had.
        ShardError: `num_workers` is below 1, `out` is no folder, another run is writing it, or
            workers failed for good.
    """
    started_s = time.monotonic()
    if num_workers is not None and num_workers < 1:
        raise ShardError(f"num_workers is {num_workers}, expected 1 or more, or none for all CPUs")
    root, source_root = Path(out).absolute(), Path(source_root).absolute()
    video = settings or VideoSettings()
    # Where it lies in folders of its own, what is not asked for is neither read nor looked at, and
    # makes no other row when it changes. GREW's poses lie among the masks.
    asked = video.modalities if beside else ()
    sources = look_up([_as_asked(each, asked) for each in sequences], source_root)
    all_settings = _settings_by_kind(sources, video)
    kinds = choose_num_parts(sources)
    assets = {kind: asset_digests(kind, all_settings[kind]) for kind in kinds}
    recorded = {
        name: without_paths(value) if isinstance(value, Mapping) else value
        for name, value in all_settings.items()
    }
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(
            f"{root}: cannot be a folder of shards ({error.strerror}): name a folder that is there "
            "or can be made"
        ) from error
    with _only_run(root):
        manifest = reader.read_manifest(root)
        num_parts = choose_num_parts(sources)
        if manifest is not None:
            same = _same_settings(root, manifest.settings, recorded, overwrite=overwrite)
            if same:
                num_parts = {**num_parts, **manifest.num_parts}
        parts = plan(sources, num_parts, recorded, assets)
        planned = reader.Manifest(
            recorded,
            num_parts,
            tuple(part.name for part in parts),
            str(source_root),
            tuple(sorted(source.sequence.source_id for source in sources)),
        )
        if manifest is not None and not overwrite:
            _check_sources_stay(root, manifest, planned)
        planned.write(root)
        writer.remove_leftovers(root)
        done = {part.name: _summary_if_done(writer.shard_path(root, part.name)) for part in parts}
        todo = [part for part in parts if done[part.name] is None]
        summaries = [summary for summary in done.values() if summary is not None]
        written: list[PartSummary] = []
        if todo:
            _log.info(
                "%d sources in %d parts: %d to do, %d already there%s",
                len(sources),
                len(parts),
                len(todo),
                len(summaries),
                _what_stays_empty(all_settings, video.modalities),
            )
            with (
                ray_session.start(address=address),
                ray_session.stderr_without(ray_session.RESTART_NOTE),
                _Progress(len(todo), progress_every_s) as tell,
            ):
                for summary in _run(
                    todo, source_root, root, all_settings, num_workers, no_progress_timeout_s
                ):
                    written.append(summary)
                    tell.add(summary)
            _check_all_there(root, todo)
        num_removed = _remove_replaced(root, {part.name for part in parts})
        writer.remove_leftovers(root)  # of workers that died on the way
    return _report(
        root, summaries, written, num_removed=num_removed, seconds=time.monotonic() - started_s
    )


def _report(
    root: Path,
    skipped: Sequence[PartSummary],
    written: Sequence[PartSummary],
    *,
    num_removed: int,
    seconds: float,
) -> IngestReport:
    everything = [*skipped, *written]
    rejects: Counter[tuple[str, str]] = Counter()
    left_out: Counter[str] = Counter()
    for summary in everything:
        for stage, reason, number in summary.rejects:
            rejects[stage, reason] += number
        left_out.update(dict(summary.left_out or ()))
    return IngestReport(
        out=root,
        num_sources=sum(summary.num_sources for summary in everything),
        num_sources_without_rows=sum(summary.num_sources_without_rows for summary in everything),
        num_rows=sum(summary.num_rows for summary in everything),
        num_frames=sum(summary.num_frames for summary in everything),
        size_bytes=sum(summary.size_bytes for summary in everything),
        num_parts_written=len(written),
        num_frames_written=sum(summary.num_frames for summary in written),
        num_parts_skipped=len(skipped),
        num_parts_removed=num_removed,
        rejects=dict(rejects),
        left_out=dict(left_out),
        num_parts_uncounted=sum(summary.left_out is None for summary in everything),
        seconds=seconds,
    )


def _as_asked(sequence: GaitSequence, modalities: Collection[Modality]) -> GaitSequence:
    """A sequence without the folders beside it that the modalities do not need."""
    if not sequence.beside:
        return sequence
    unused = [place for place, names in _BESIDE.items() if not {*names} & {*modalities}]
    return dataclasses.replace(sequence, **dict.fromkeys(unused, ""))  # type: ignore[arg-type]


def _settings_by_kind(sources: Sequence[Source], video: VideoSettings) -> dict[str, object]:
    """What decides the rows, by kind of source; and whose rows they are."""
    kinds = {source.sequence.kind for source in sources}
    by_kind: dict[str, object] = {
        "datasets": sorted({source.sequence.dataset for source in sources})
    }
    for kind, can_have in _MODALITIES.items():
        if kind in kinds:
            beside = {
                name
                for source in sources
                if source.sequence.kind == kind and source.sequence.beside
                for place, names in _BESIDE.items()
                if getattr(source.sequence, place)
                for name in names
            }
            possible = [name for name in video.modalities if name in {*can_have, *beside}]
            by_kind[kind] = {"modalities": possible}
    if CLIP_KINDS & kinds:
        # `auto` depends on which files can be had here. Settled once, so that all workers, and
        # later runs, use the same detector. A missing file is also found here, not in an actor.
        resolved = video.resolved()
        with ray_session.stderr_without("Created TensorFlow Lite"):
            PeopleFinder(resolved)
            PeopleDescriber(resolved)
        for kind in sorted(CLIP_KINDS & kinds):
            by_kind[kind] = resolved.to_dict()
    return by_kind


def _what_stays_empty(all_settings: Mapping[str, object], asked: Collection[Modality]) -> str:
    """What was asked for and no source of a kind can give, as an end of a sentence."""
    said = ""
    for kind in _MODALITIES:
        settings = all_settings.get(kind)
        if isinstance(settings, Mapping):
            missing = [name for name in asked if name not in settings["modalities"]]
            said += f"; of {kind} no {', '.join(missing)}" if missing else ""
    return said


def _same_settings(
    root: Path, there: Mapping[str, object], asked: Mapping[str, object], *, overwrite: bool
) -> bool:
    """Whether a folder's settings are those asked for, as far as both speak of the same kinds."""
    old, new = _flat(there), _flat(asked)
    kinds = {key.partition(".")[0] for key in old} & {key.partition(".")[0] for key in new}
    differing = sorted(
        key
        for key in old.keys() | new.keys()
        if key.partition(".")[0] in kinds and old.get(key) != new.get(key)
    )
    if differing and not overwrite:
        listed = "; ".join(
            f"{key} is {old.get(key)!r} there, {new.get(key)!r} now" for key in differing
        )
        raise SettingsMismatch(
            f"{root} was written with other settings: {listed}. Use another folder, or overwrite"
        )
    return not differing


def _check_sources_stay(root: Path, there: reader.Manifest, planned: reader.Manifest) -> None:
    """Refuse to delete the rows of one source folder because another was named by mistake.

    Two folders of one layout have sources of the same names, so the folder counts too: when it is
    another one, at least one part has to be as it was, which is so for a folder that was moved.
    """
    if not any(writer.shard_path(root, name).is_file() for name in there.parts):
        return
    num_there = len(there.source_ids)
    num_vanished = len(set(there.source_ids).difference(planned.source_ids))
    is_moved_on = there.source_root not in ("", planned.source_root)
    if 2 * num_vanished > num_there or (is_moved_on and not {*there.parts} & {*planned.parts}):
        raise SettingsMismatch(
            f"{root} holds {num_there} sources of {there.source_root}, such as "
            f"{there.source_ids[0]}; asked for are {len(planned.source_ids)} of "
            f"{planned.source_root}, such as {planned.source_ids[0]}: {num_vanished} of the old "
            "sources would vanish, and the rows of others be replaced. Use another folder, or "
            "overwrite"
        )


def _summary_if_done(shard: Path) -> PartSummary | None:
    """The summary of a part that needs no work; None when it has to be done, or done again."""
    if not shard.is_file():
        return None
    try:
        summary = reader.check_files(shard)
    except ShardError as error:
        _log.warning("%s: that is done now", error)
        return None
    passing = sorted({reason for _, reason, _ in summary.rejects} & PASSING)
    if passing:
        _log.info("%s: tried again for its rejects: %s", shard, ", ".join(passing))
        return None
    return summary


def _flat(settings: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


@contextlib.contextmanager
def _only_run(root: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock goes with the process, however it ends."""
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(f"{root}: another run is writing here; wait for it to end") from None
        yield


def _check_all_there(root: Path, parts: Iterable[Part]) -> None:
    missing = [part.name for part in parts if not writer.shard_path(root, part.name).is_file()]
    if missing:
        raise ShardError(
            f"{root}: {len(missing)} parts that workers wrote cannot be seen here, such as "
            f"{missing[0]}: the folder must be one that all machines of the cluster share"
        )


def _remove_replaced(root: Path, current: set[str]) -> int:
    replaced = writer.part_names(root) - current
    num_parts = sum(writer.shard_path(root, name).is_file() for name in replaced)
    for name in replaced:
        writer.remove_part(root, name)
    return num_parts


# The graph


def _run(
    parts: Sequence[Part],
    source_root: Path,
    root: Path,
    settings: Mapping[str, object],
    num_workers: int | None,
    no_progress_timeout_s: float,
) -> Iterator[PartSummary]:
    """Do the parts, one kind of source after the other; yield each as it is committed."""
    import ray
    import ray.data
    import ray.exceptions
    from ray.data.exceptions import ExecutionTimeoutError

    num_cpus = ray.cluster_resources().get("CPU", 1.0)
    for kind in sorted({part.kind for part in parts}):
        # The biggest first, so that the last worker to finish is not far behind.
        todo = sorted(
            (part for part in parts if part.kind == kind),
            key=lambda part: -sum(source.size_bytes for source in part.sources),
        )
        num_builders = min(num_workers or max(1, int(num_cpus)), len(todo))
        # As many finders: either stage can be the slower one, and the machine shares its cores
        # between whoever has work.
        num_finders = num_builders if kind in CLIP_KINDS else 0
        # Ray Data stalls without an error where its actors take every CPU.
        share = max(0.5, num_cpus - 1) / (num_builders + num_finders)
        cpus_each = max(0.01, math.floor(100 * min(1.0, share)) / 100)
        dataset = ray.data.from_items(
            [{"part": part.to_json()} for part in todo], override_num_blocks=len(todo)
        )
        if kind in CLIP_KINDS:
            dataset = dataset.map_batches(
                Finder,
                fn_constructor_args=(str(source_root), str(root), settings[kind]),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray_session.actor_pool(num_finders),
                num_cpus=cpus_each,
            )
        dataset = dataset.map_batches(
            Builder,
            fn_constructor_args=(str(source_root), str(root), kind, settings[kind]),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray_session.actor_pool(num_builders),
            num_cpus=cpus_each,
        )
        ray_session.quieten(dataset)
        dataset.context.execution_no_progress_timeout_s = no_progress_timeout_s
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                for table in ray.get(list(bundle.block_refs)):
                    for row in table.to_pylist():
                        if row["failure"] is not None:
                            raise ShardError(
                                f"{root}: a part cannot be written: {row['failure']}; those that "
                                "are written stay, run it again to continue"
                            )
                        yield PartSummary.from_json(row["summary"], "summary of a part")
        except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
            raise ShardError(
                f"{root}: workers failed for good ({error}); parts that are written stay, run it "
                "again to continue"
            ) from error


class _Progress:
    """A line every few seconds, from a thread of its own, while the parts come in."""

    def __init__(self, num_parts: int, every_s: float) -> None:
        self._num_parts = num_parts
        self._every_s = every_s
        self._started_s = self._last_s = time.monotonic()
        self._num_done = self._num_rows = self._num_frames = self._num_rejects = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def add(self, summary: PartSummary) -> None:
        self._last_s = time.monotonic()
        self._num_done += 1
        self._num_rows += summary.num_rows
        self._num_frames += summary.num_frames
        self._num_rejects += sum(number for _, _, number in summary.rejects)

    def _tell(self) -> None:
        while not self._ended.wait(self._every_s):
            now_s = time.monotonic()
            if self._num_done:
                rate = self._num_frames / (now_s - self._started_s)
                state = f"{rate:.0f} frames/s, the last part {now_s - self._last_s:.0f} s ago"
            else:
                state = f"at the first for {now_s - self._started_s:.0f} s"
            _log.info(
                "parts %d/%d, rows %d, rejects %d, %s",
                self._num_done,
                self._num_parts,
                self._num_rows,
                self._num_rejects,
                state,
            )
