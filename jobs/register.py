"""Put a trained model into the MLflow registry, under an alias if one is given.

    python jobs/register.py --model runs/gaitgl-demo --name gait --alias champion

The version holds weights, recipe, signature and an input example, and no pickle. Load it anywhere
with MLflow alone: mlflow.pyfunc.load_model("models:/gait@champion").
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait.errors import RegistryError


@dataclass(frozen=True)
class Options:
    """Put a trained model into the MLflow registry."""

    model: Path
    """A checkpoint's folder, or a training run's folder (its newest checkpoint)."""
    name: str
    """Registered model; made if it does not exist."""
    alias: str = ""
    """Moved to the new version, `champion` for instance."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here."""
    experiment: str = "raygait"
    """Experiment of a run made for the version, if the run that trained it is not known."""
    mlflow_run: str = ""
    """Id of the MLflow run that trained the model; a training run's folder remembers its own."""
    evaluation: Path | None = None
    """evaluation.json of this model; its numbers become tags of the version."""


def main() -> int:
    """Parse, register, print the version's address."""
    options = tyro.cli(Options, description=__doc__)
    # Imported late: torch and MLflow take seconds that --help need not wait for.
    from raygait.evaluation.benchmark import metrics_of_file
    from raygait.experiments import registry, tracking
    from raygait.experiments.resolve import resolve_model

    if str(options.model).startswith("models:"):
        raise RegistryError(f"--model has to be a folder, got {options.model}")
    uri = tracking.prepare(options.tracking_uri)
    model = resolve_model(str(options.model), tracking_uri=uri, scratch=Path())
    tags = {}
    if options.evaluation is not None:
        metrics = metrics_of_file(options.evaluation, model)
        tags = {name: f"{value:.2f}" for name, value in metrics.items()}
    run = None
    if options.mlflow_run:
        run = tracking.find_run(uri, options.mlflow_run)
    else:
        remembered = tracking.recall_run(options.model / "mlflow.json")
        if remembered is not None and remembered.tracking_uri == uri:
            run = remembered
    if run is not None:
        version = registry.register(model, options.name, run=run, alias=options.alias, tags=tags)
    else:
        run = tracking.open_run(uri, options.experiment, f"register {options.name}")
        with tracking.closing(run):
            version = registry.register(
                model, options.name, run=run, alias=options.alias, tags=tags
            )
    print(f"registered: {version.name} version {version.version}, load it as {version.uri}")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
