"""Score a model by its recipe's protocol: rank-1 per view and condition, beside rows for scale.

    python jobs/evaluate.py --model runs/gaitgl-demo --shards DIR
    python jobs/evaluate.py --model models:/gait@champion --shards DIR --num-workers 4

Prints the table; writes it as OUT/evaluation.json, and into an MLflow run with --mlflow-run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait import ray_session


@dataclass(frozen=True)
class Options:
    """Score a model by its recipe's protocol."""

    model: str
    """A checkpoint's folder, a training run's folder, or models:/NAME@ALIAS."""
    shards: Path
    """Folder of shards, readable under this path by every node."""
    out: Path = Path("runs/evaluation")
    """Folder for evaluation.json, on storage that all nodes share."""
    split: str = ""
    """Split whose test subjects are scored, where the shards are of another data set than the
    model was trained on; the recipe's if left out."""
    protocol: str = ""
    """Protocol of that data set; the recipe's if left out."""
    baselines: bool = True
    """Also score the same network untrained, and averaged silhouettes (GEI)."""
    num_workers: int = 1
    """Actors that embed."""
    num_threads: int = 1
    """Threads and logical CPUs an actor."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here."""
    mlflow_run: str = ""
    """Id of an existing MLflow run that gets the numbers and the table."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""


def main() -> int:
    """Parse, evaluate, print and write the table."""
    options = tyro.cli(Options, description=__doc__)
    # Imported late: torch and MLflow take seconds that --help need not wait for.
    from raygait.evaluation.benchmark import run_benchmark
    from raygait.experiments import tracking
    from raygait.experiments.resolve import resolve_model

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
                options.shards.absolute(),
                scratch=scratch if options.baselines else None,
                split=options.split,
                protocol=options.protocol,
                num_workers=options.num_workers,
                num_threads=options.num_threads,
            )
    (out / "evaluation.json").write_text(json.dumps(result.to_dict(), indent=2) + "\n")
    print(result.to_text())
    print(f"\nwritten: {out / 'evaluation.json'}")
    if run is not None:
        run.log_metrics(result.metrics())
        run.log_dict(result.to_dict(), "evaluation.json")
        run.log_text(result.to_text() + "\n", "evaluation.txt")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
