"""Embed the sequences of a folder of shards with a model, into Parquet files; no protocol needed.

    python jobs/embed.py --model runs/gaitgl-casiab --shards shards/casiab --out embeddings/casiab
    python jobs/embed.py --model models:/gait@champion --shards shards/mine --out embeddings/mine \
        --num-workers 8

Every frame of every sequence is used, whoever it is. OUT gets one file a shard, each with labels,
`num_frames` and `embedding` a row, and in its metadata the model (as named, registered version,
digest of the weights), the shard and its digest; read them with any Parquet reader, or with
`raygait.evaluation.embedding_files.read_embeddings`. Run it again after a crash, or after shards
were added: it does what is missing and nothing else. What cannot be embedded ends in `OUT/rejects/`
with a reason. On a cluster both folders have to be on storage that all nodes share. Exit code 1: a
shard cannot be read, nothing was embedded, or the run failed; what is written stays.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console


@dataclass(frozen=True)
class Options:
    """Embed the sequences of a folder of shards with a model, into Parquet files."""

    model: str
    """A checkpoint's folder, a training run's folder, or models:/NAME@ALIAS."""
    shards: Path
    """Folder of shards, readable under this path by every node."""
    out: Path
    """Folder of embeddings; made if missing, brought up to date if there."""
    subjects: Path | None = None
    """Text file (UTF-8) that names one subject a line; all rows are embedded if left out."""
    overwrite: bool = False
    """Replace a folder of another model, of other subjects or of another folder of shards."""
    num_workers: int = 1
    """Actors that embed; 0 embeds in this process, without Ray."""
    num_threads: int = 1
    """Threads and logical CPUs an actor."""
    use_gpu: bool = False
    """A GPU an actor."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""


def main() -> int:
    """Parse, embed, print the report."""
    options = tyro.cli(Options, prog="embed.py", description=__doc__)
    subjects = None if options.subjects is None else read_subjects(options.subjects)
    # Imported late: torch and MLflow take seconds that --help need not wait for.
    from raygait.evaluation.embed_shards import embed_shards
    from raygait.evaluation.embedding_files import read_labels, read_rejects
    from raygait.experiments import tracking
    from raygait.experiments.resolve import pin_version, resolve_model

    is_registered = options.model.startswith("models:/")
    uri = tracking.prepare(options.tracking_uri) if is_registered else ""
    out = options.out.absolute()
    # An alias may move while the version that it pointed to is fetched.
    pinned = pin_version(options.model, tracking_uri=uri)

    def fetch(scratch: Path) -> Path:
        return resolve_model(pinned, tracking_uri=uri, scratch=scratch)

    report = embed_shards(
        options.shards,
        fetch if is_registered else fetch(out),
        out,
        reference=options.model,
        version=pinned if is_registered else "",
        subjects=subjects,
        num_workers=options.num_workers,
        num_threads=options.num_threads,
        use_gpu=options.use_gpu,
        overwrite=options.overwrite,
        address=options.address,
    )
    print(report.to_text())
    if subjects is not None and not report.failures:
        unseen = sorted(set(subjects).difference(read_labels(out)["subject"].to_pylist()))
        if unseen:
            print(
                f"no embedding of {len(unseen)} of {len(set(subjects))} subjects that were asked "
                f"for, such as {unseen[0]!r}"
            )
    if report.failures:
        print(
            f"error: {len(report.failures)} of {report.num_shards} shards were not embedded, "
            f"because of the first: {next(iter(report.failures.values()))}",
            file=sys.stderr,
        )
        return 1
    if not report.num_rows:
        rejects = read_rejects(out)
        why = rejects["detail"][0].as_py() if len(rejects) else "none is of a wanted subject"
        print(f"error: no sequence in {options.shards} was embedded: {why}", file=sys.stderr)
        return 1
    return 0


def read_subjects(path: Path) -> list[str]:
    """Subjects that a text file names, one a line; blank lines are none.

    Raises:
        DatasetError: It is not UTF-8.
    """
    from raygait.errors import DatasetError

    data = path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{path}: line {number} is not UTF-8 ({error.reason}), expected one subject a line: "
            "save it as UTF-8"
        ) from error
    return [line.strip() for line in lines if line.strip()]


if __name__ == "__main__":
    sys.exit(console.run(main))
