"""Score a model by a benchmark's protocol, beside rows for scale.

    python jobs/evaluate.py --list-protocols
    python jobs/evaluate.py --model runs/gaitgl-demo --shards DIR
    python jobs/evaluate.py --model models:/gait@champion --shards DIR --num-workers 4
    python jobs/evaluate.py --model runs/mine --shards DIR --split gait3d:FILE --protocol gait3d
    python jobs/evaluate.py --model runs/mine --shards DIR --protocol grew-submission
    python jobs/evaluate.py --embeddings embeddings/ccpg --split ccpg --protocol ccpg
    python jobs/evaluate.py --check-submission submission.csv --shards DIR

Prints the table as the papers lay it out; writes it as OUT/evaluation.json, .csv and .txt, and into
an MLflow run with --mlflow-run. A submission for a benchmark's server becomes OUT/submission.csv.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait import ray_session
from raygait.datasets import protocols
from raygait.errors import RaygaitError

if TYPE_CHECKING:
    from raygait.evaluation.benchmark import Benchmark
    from raygait.experiments.tracking import Run

_SUBMISSION = "submission.csv"


@dataclass(frozen=True)
class Options:
    """Score a model by a benchmark's protocol."""

    model: str = ""
    """A checkpoint's folder, a training run's or an imported checkpoint's folder, or
    models:/NAME@ALIAS."""
    shards: Path | None = None
    """Folder of shards, readable under this path by every node."""
    embeddings: Path | None = None
    """Folder that jobs/embed.py wrote, in place of --model and --shards: scored by --split and
    --protocol; of the rows for scale there is chance alone."""
    out: Path = Path("runs/evaluation")
    """Folder for the results, on storage that all nodes share."""
    split: str = ""
    """Split whose test subjects are scored, where the shards are of another data set than the
    model was trained on, or its partition file lies elsewhere; the recipe's if left out."""
    protocol: str = ""
    """Protocol of that data set; the recipe's if left out."""
    list_protocols: bool = False
    """Only say what protocols there are and what each needs; so does --protocol without a name."""
    check_submission: Path | None = None
    """Only check this submission: its form, and with --shards that it is complete."""
    baselines: bool = True
    """Also score the same network untrained, and averaged silhouettes (GEI)."""
    num_workers: int = 1
    """Actors that embed."""
    num_threads: int = 1
    """Threads and logical CPUs an actor."""
    device: str = "cpu"
    """Where distances are computed: cpu, cuda, cuda:1."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here."""
    mlflow_run: str = ""
    """Id of an existing MLflow run that gets the numbers and the files."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""


def main() -> int:
    """Parse, then list, check, or evaluate, print and write."""
    if sys.argv[1:] == ["--protocol"]:
        sys.argv[1:] = ["--list-protocols"]
    options = tyro.cli(Options, description=__doc__)
    if options.list_protocols:
        print(protocols.describe())
        return 0
    if options.check_submission is not None:
        return _check(options.check_submission, options)
    if options.protocol:
        protocols.protocol(options.protocol)  # a typo leaves no folder
    if options.embeddings is not None:
        if options.model or not (options.split and options.protocol):
            raise RaygaitError(
                "--embeddings goes with --split and --protocol, and not with --model: the folder "
                "says which model it is of"
            )
        return _score(options, options.embeddings)
    if not options.model or options.shards is None:
        raise RaygaitError("an evaluation needs --model and --shards, or --embeddings; see --help")
    return _evaluate(options, options.shards.absolute())


def _check(path: Path, options: Options) -> int:
    from raygait.evaluation.benchmark import check_submission

    protocol = options.protocol or protocols.GREW_SUBMISSION.name
    num_probes = check_submission(
        path,
        None if options.shards is None else options.shards.absolute(),
        split=options.split or "grew",
        protocol=protocol,
    )
    known = "" if options.shards is not None else ", not compared with a data set: give --shards"
    print(f"{path}: {num_probes} probes, as {protocol} wants it{known}")
    return 0


def _check_device(device: str) -> None:
    # Imported late: torch and MLflow take seconds that --help need not wait for.
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RaygaitError(f"--device {device} cannot be used: {reason}") from error


def _score(options: Options, embeddings: Path) -> int:
    from raygait.evaluation.benchmark import score_embeddings
    from raygait.experiments import tracking

    _check_device(options.device)
    uri = tracking.prepare(options.tracking_uri) if options.mlflow_run else ""
    run = tracking.find_run(uri, options.mlflow_run) if options.mlflow_run else None
    out = options.out.absolute()
    result = score_embeddings(
        embeddings,
        split=options.split,
        protocol=options.protocol,
        submission_path=out / _SUBMISSION,
        device=options.device,
    )
    shards = None if options.shards is None else options.shards.absolute()
    return _write(result, out, run, shards)


def _evaluate(options: Options, shards: Path) -> int:
    from raygait.evaluation.benchmark import run_benchmark
    from raygait.experiments import tracking
    from raygait.experiments.resolve import resolve_model

    _check_device(options.device)
    needs_server = options.mlflow_run or options.model.startswith("models:/")
    uri = tracking.prepare(options.tracking_uri) if needs_server else ""
    out = options.out.absolute()
    run = tracking.find_run(uri, options.mlflow_run) if options.mlflow_run else None
    if not options.model.startswith("models:/"):
        resolve_model(options.model, tracking_uri=uri, scratch=out)  # a typo leaves no folder
    out.mkdir(parents=True, exist_ok=True)
    # Below the result, because all nodes see that folder.
    with tempfile.TemporaryDirectory(prefix=".models-", dir=out) as folder:
        scratch = Path(folder)
        model = resolve_model(options.model, tracking_uri=uri, scratch=scratch).absolute()
        with ray_session.start(address=options.address):
            result = run_benchmark(
                model,
                shards,
                scratch=scratch if options.baselines else None,
                split=options.split,
                protocol=options.protocol,
                submission_path=out / _SUBMISSION,
                num_workers=options.num_workers,
                num_threads=options.num_threads,
                device=options.device,
            )
    return _write(result, out, run, shards)


def _write(result: Benchmark, out: Path, run: Run | None, shards: Path | None) -> int:
    from raygait.evaluation.benchmark import check_submission

    out.mkdir(parents=True, exist_ok=True)
    text = result.to_text() + "\n"
    written = {
        "evaluation.json": json.dumps(result.to_dict(), indent=2) + "\n",
        "evaluation.csv": result.to_csv(),
        "evaluation.txt": text,
    }
    for name, content in written.items():
        (out / name).write_text(content)
    print(text)
    print(f"written: {', '.join(str(out / name) for name in written)}")
    if run is not None:
        run.log_metrics(result.metrics())
        run.log_dict(result.to_dict(), "evaluation.json")
        run.log_text(written["evaluation.csv"], "evaluation.csv")
        run.log_text(text, "evaluation.txt")
    if result.num_submitted:
        submission = out / _SUBMISSION
        if run is not None:
            run.log_text(submission.read_text(), _SUBMISSION)
        print(f"written: {submission}: {result.num_submitted} probes")
        # A probe that is too short for the network has no line, and the server wants all.
        check_submission(submission, shards, split=result.split, protocol=result.submission)
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
