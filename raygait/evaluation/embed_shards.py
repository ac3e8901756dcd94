"""Shards -> a folder of embeddings, one file a shard, on all cores of a laptop or a cluster.

    shards ─> embedders (check, decode, embed, commit) ─> summaries
              pool of actors, a network each              to the driver

Only paths and counts cross process borders. A file's name is a digest of the model's files, the
shard's and the subjects asked for, and it appears whole or not at all: any number of workers, any
order and any crash leave the same rows, and a second run does only what is missing, damaged or
ended by bad luck. What cannot be embedded is a reject, what cannot be read a failure; neither stops
the rest.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raygait import ray_session
from raygait.errors import CorruptShard, EmbeddingsError, RaygaitError, ShardError
from raygait.evaluation.embed import Row, SequenceEmbedder, map_shards
from raygait.evaluation.embedding_files import (
    COLUMNS,
    FileSummary,
    Manifest,
    ModelIdentity,
    Origin,
    file_name,
    file_path,
    model_digests,
    read_summary,
    write_file,
)
from raygait.evaluation.embedding_folder import check_folder, claim, remove_replaced
from raygait.recipes.saved_model import load_model
from raygait.sequences import Reject
from raygait.shards import reader
from raygait.shards.writer import Attempt, printable, remove_leftovers

_log = logging.getLogger(__name__)

_WORKER_DIED = "worker-died"
# Reasons that may not hold the next time: such files are done again.
_PASSING = frozenset((_WORKER_DIED,))
_MAX_DEATHS = 3
_PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class EmbeddingReport:
    """What a folder of embeddings holds after a run, and what the run did.

    Attributes:
        out: The folder.
        model: The model.
        num_shards: Shards that were asked for.
        num_rows: Embeddings in the folder.
        num_frames: Frames of all of them.
        num_unwanted: Rows of the shards of subjects that were not asked for.
        size_bytes: Size of all files.
        num_files_written: Files that this run wrote.
        num_rows_written: Embeddings in them.
        num_files_skipped: Files that were there already.
        num_files_removed: Files of other models, shards or subjects.
        rejects: How often each (stage, reason) left a row without an embedding.
        failures: Path of each shard that has no file, and why.
        seconds: Wall time of the run.
    """

    out: Path
    model: ModelIdentity
    num_shards: int
    num_rows: int
    num_frames: int
    num_unwanted: int
    size_bytes: int
    num_files_written: int
    num_rows_written: int
    num_files_skipped: int
    num_files_removed: int
    rejects: Mapping[tuple[str, str], int]
    failures: Mapping[str, str]
    seconds: float

    def to_text(self) -> str:
        """A few lines for a person."""
        unwanted = f", {self.num_unwanted} of other subjects" if self.num_unwanted else ""
        lines = [
            f"{self.out}: {self.num_rows} embeddings, {self.num_frames} frames from "
            f"{self.num_shards} shards ({self.size_bytes / 1e6:.1f} MB){unwanted}",
            f"model: {self.model}",
            f"files: {self.num_files_written} written, {self.num_files_skipped} already there, "
            f"{self.num_files_removed} removed; {self.seconds:.1f} s, "
            f"{self.num_rows_written / self.seconds:.2f} sequences/s",
        ]
        if self.rejects:
            lines.append(f"rejects: {sum(self.rejects.values())}; see rejects/ for each:")
            width = max(len(reason) for _, reason in self.rejects)
            lines += [
                f"  {stage:<10} {reason:<{width}} {number:>6}"
                for (stage, reason), number in sorted(self.rejects.items())
            ]
        else:
            lines.append("rejects: none")
        lines += [f"failed: {shard}: {why}" for shard, why in sorted(self.failures.items())]
        return "\n".join(lines)


def embed_shards(
    shards: Path,
    model: Path | Callable[[Path], Path],
    out: Path,
    *,
    reference: str = "",
    version: str = "",
    subjects: Collection[str] | None = None,
    num_workers: int = 1,
    num_threads: int = 1,
    use_gpu: bool = False,
    overwrite: bool = False,
    address: str | None = None,
) -> EmbeddingReport:
    """Make a folder hold the embeddings of a folder of shards, and no others.

    What is there already stays; what is missing is done; files whose shard is gone or has changed
    are removed once all else is there, so a run with failures removes nothing.

    Args:
        shards: Folder that `shards.ingest` wrote; all workers see it.
        model: Folder of a saved model; all workers see it. Or what fetches one into the folder
            below `out` that it is given, and returns where it is; it goes when the run ends.
        out: Folder of embeddings, made if missing; all workers see it.
        reference: How a person named the model; its folder if left out.
        version: Registered version that `model` is a copy of; empty for none.
        subjects: Leave out rows of other subjects; None embeds all.
        num_workers: Actors, each a shard at a time; 0 embeds in this process, without Ray.
        num_threads: Threads of torch and logical CPUs an actor.
        use_gpu: A GPU an actor.
        overwrite: Whether a folder of another model, of other subjects or of another folder of
            shards may be replaced.
        address: Ray cluster, see `ray_session.start`; a session that is there is used. Nothing is
            started when there is nothing to do.

    Raises:
        EmbeddingsError: The folder is of another model, of other subjects or of other shards;
            it is a folder of shards; another run is writing it; workers failed for good; or a
            number is out of range.
        ShardError: `shards` is no folder of shards, or not finished.
        RegistryError: `model` is not a saved model.
        ClusterTooSmall: No node has room for one worker.
    """
    started_s = time.monotonic()
    if num_workers < 0 or num_threads < 1:
        raise EmbeddingsError(
            f"num_workers is {num_workers}, expected 0 or more; num_threads is {num_threads}, "
            "expected 1 or more"
        )
    shards, root = shards.absolute(), out.absolute()
    wanted = None if subjects is None else tuple(sorted(set(subjects)))
    reader.list_shards(shards)  # raises, before a model is fetched for nothing
    with claim(root, model) as folder:
        identity = ModelIdentity.of(folder, reference, version)
        saved = load_model(folder)
        tasks, failures = _plan(shards, identity, wanted)
        planned = Manifest(
            model=identity,
            subjects=wanted,
            shards=str(shards),
            shards_digest="" if failures else reader.digest(shards),
            files={task["name"]: Path(task["shard"]).name for task in tasks},
            trained_subjects=saved.subjects,
            trained_dataset=saved.origin.get("dataset", ""),
        )
        del saved
        check_folder(root, planned, overwrite=overwrite)
        planned.write(root)
        remove_leftovers(root)
        done = {task["name"]: _summary_if_done(root, task["name"]) for task in tasks}
        todo = [
            task for task in tasks if done[task["name"]] is None and task["shard"] not in failures
        ]
        skipped = [summary for summary in done.values() if summary is not None]
        if todo:
            _log.info("%d shards: %d to do, %d there", len(tasks), len(todo), len(skipped))
            settings = (str(root), str(folder), identity, wanted)
            failures |= _run(
                todo,
                settings,
                num_workers=num_workers,
                num_threads=num_threads,
                use_gpu=use_gpu,
                address=address,
            )
        written = _summaries(root, [task for task in todo if task["shard"] not in failures])
        num_removed = 0 if failures else remove_replaced(root, planned)
        remove_leftovers(root)
    everything = [*skipped, *written]
    rejects: Counter[tuple[str, str]] = Counter()
    for summary in everything:
        for stage, reason, number in summary.rejects:
            rejects[stage, reason] += number
    return EmbeddingReport(
        out=root,
        model=identity,
        num_shards=len(tasks),
        num_rows=sum(each.num_rows for each in everything),
        num_frames=sum(each.num_frames for each in everything),
        num_unwanted=sum(each.num_unwanted for each in everything),
        size_bytes=sum(each.size_bytes for each in everything),
        num_files_written=len(written),
        num_rows_written=sum(each.num_rows for each in written),
        num_files_skipped=len(skipped),
        num_files_removed=num_removed,
        rejects=dict(rejects),
        failures=failures,
        seconds=time.monotonic() - started_s,
    )


def _plan(
    shards: Path, model: ModelIdentity, subjects: Sequence[str] | None
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """A task a shard, the biggest first; and shards that nobody need try to read."""
    failures: dict[str, str] = {}
    tasks: list[tuple[int, dict[str, str]]] = []
    for path in reader.list_shards(shards):
        size_bytes, sha256 = 0, ""
        try:
            summary = reader.read_summary(path)
            size_bytes, sha256 = summary.size_bytes, summary.sha256
        except ShardError as error:
            failures[str(path)] = str(error)
        # The name of a file that is never there is kept, so that the folder is not complete.
        name = file_name(model, subjects, path.name, sha256)
        tasks.append((size_bytes, {"name": name, "shard": str(path), "sha256": sha256}))
    # So that the last worker to finish is not far behind.
    return [task for _, task in sorted(tasks, key=lambda each: -each[0])], failures


def _summary_if_done(root: Path, name: str) -> FileSummary | None:
    """The summary of a file that needs no work; None when it has to be done, or done again."""
    path = file_path(root, name)
    if not path.is_file():
        return None
    try:
        summary = read_summary(path)
    except EmbeddingsError as error:
        _log.warning("%s: that is done now", error)
        return None
    if any(reason in _PASSING for _, reason, _ in summary.rejects):
        _log.info("%s: tried again for the worker that died", path)
        return None
    return summary


def _summaries(root: Path, tasks: Sequence[Mapping[str, str]]) -> list[FileSummary]:
    missing = [task for task in tasks if not file_path(root, task["name"]).is_file()]
    if missing:
        raise EmbeddingsError(
            f"{root}: {len(missing)} files that workers wrote cannot be seen here, such as "
            f"{missing[0]['name']}: the folder must be one that all machines of the cluster share"
        )
    return [read_summary(file_path(root, task["name"])) for task in tasks]


def _run(
    todo: Sequence[dict[str, str]],
    settings: tuple[str, str, ModelIdentity, Sequence[str] | None],
    *,
    num_workers: int,
    num_threads: int,
    use_gpu: bool,
    address: str | None,
) -> dict[str, str]:
    """Do the tasks; path of each shard that failed, and why."""
    failures: dict[str, str] = {}
    if num_workers == 0:
        worker = _FileEmbedder(*settings, None, use_gpu)
        for task in todo:
            failures |= worker.embed_shard(task)
        return failures
    import ray.exceptions

    num_done, last_s = 0, time.monotonic()
    with ray_session.start(address=address):
        try:
            for table in map_shards(
                _FileEmbedder,
                (*settings, num_threads, use_gpu),
                todo,
                num_workers=num_workers,
                num_threads=num_threads,
                use_gpu=use_gpu,
            ):
                for row in table.to_pylist():
                    num_done += 1
                    if row["failure"]:
                        failures[row["shard"]] = row["failure"]
                if time.monotonic() - last_s > _PROGRESS_EVERY_S:
                    last_s = time.monotonic()
                    _log.info("shards %d/%d, failed %d", num_done, len(todo), len(failures))
        except ray.exceptions.RayError as error:
            raise EmbeddingsError(
                f"workers failed for good ({error}); files that are written stay, run it again to "
                "continue"
            ) from error
    return failures


class _FileEmbedder:
    """What runs inside an actor: embeds one shard after another, and commits a file of each.

    Args:
        root: Folder of embeddings.
        model: Folder of the saved model.
        identity: What the files say of it.
        subjects: Leave out rows of other subjects; None embeds all.
        num_threads: Threads of torch; None leaves them as they are.
        use_gpu: Whether the network goes to this process's GPU.
    """

    def __init__(
        self,
        root: str,
        model: str,
        identity: ModelIdentity,
        subjects: Sequence[str] | None,
        num_threads: int | None,
        use_gpu: bool,
    ) -> None:
        self._root = Path(root)
        self._identity = identity
        self._subjects = None if subjects is None else frozenset(subjects)
        self._embedder = SequenceEmbedder(Path(model), num_threads=num_threads, use_gpu=use_gpu)
        self._shape = self._embedder.embedding_shape()
        # After it was read: a run in training, say, may have put another in its place.
        self._is_other = model_digests(Path(model)) != identity.digests

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Tasks to the shards of them, each with what went wrong (`failure`, empty for most)."""
        rows = []
        for task in batch.to_pylist():
            failure = self.embed_shard(task).get(task["shard"], "")
            rows.append({"shard": task["shard"], "failure": printable(failure)})
        return pa.Table.from_pylist(rows)

    def embed_shard(self, task: Mapping[str, str]) -> dict[str, str]:
        """Embed one shard; what went wrong, by its path.

        As a value: an exception would arrive as Ray's, with its own cause lost on the way, and
        end the other shards.
        """
        try:
            self._embed_shard(Path(task["shard"]), task["sha256"], task["name"])
        except RaygaitError as error:
            return {task["shard"]: str(error)}
        except Exception as error:
            _log.exception("%s", task["shard"])
            return {task["shard"]: f"{type(error).__name__}: {error}"}
        return {}

    def _embed_shard(self, shard: Path, sha256: str, name: str) -> None:
        if self._is_other:
            raise EmbeddingsError(f"the model is no longer {self._identity}: embed again")
        found = _sha256(shard)
        if found != sha256:
            raise CorruptShard(
                f"{shard}: SHA-256 {found}, its sidecar says {sha256}: delete it and run "
                "preprocess again"
            )
        num_parts, dim = self._shape
        origin = Origin(
            self._identity, shard.name, sha256, num_parts, dim, device=self._embedder.device
        )
        with Attempt(self._root, f"{name}.embed") as attempt:
            write_file(
                self._root,
                name,
                origin,
                self._results(shard, attempt),
                num_rows=reader.read_summary(shard).num_rows,
            )

    def _results(
        self, shard: Path, attempt: Attempt
    ) -> Iterator[tuple[Row, np.ndarray[Any, np.dtype[np.float32]] | Reject]]:
        columns = dict.fromkeys([*COLUMNS, *self._embedder.columns])
        rows = (
            row
            for row in reader.iterate_rows(shard, list(columns))
            if self._subjects is None or row["subject"] in self._subjects
        )
        for batch in self._embedder.batches(rows):
            first = str(batch[0]["sequence_id"])
            if attempt.num_deaths[first] < _MAX_DEATHS:
                attempt.begin(first)
                results = self._embedder.embed_batch(batch)
            else:
                detail = (
                    f"{_MAX_DEATHS} workers ended at this sequence of {batch[0]['num_frames']} "
                    f"frames, or at one of {len(batch)} embedded together, likely for want of "
                    "memory"
                )
                results = [_reject(row, _WORKER_DIED, detail) for row in batch]
            for row, result in zip(batch, results, strict=True):
                if isinstance(result, Reject) or np.isfinite(result).all():
                    yield row, result
                else:
                    num = int((~np.isfinite(result)).sum())
                    detail = f"{num} of {result.size} numbers of the embedding are not finite"
                    yield row, _reject(row, "not-finite", detail)


def _reject(row: Row, reason: str, detail: str) -> Reject:
    return Reject(row["sequence_id"], row["track"], "embed", reason, detail)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
