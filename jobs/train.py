"""Train a model by a recipe on shards that `jobs/preprocess.py` wrote.

    python jobs/train.py RECIPE --shards DIR [--num-workers 2] [--optim.learning-rate 1e-3 ...]
    python jobs/train.py                      lists the recipes
    python jobs/train.py RECIPE --help        lists every option of that recipe
    python jobs/train.py --replay DIR         computes a step again that ended a run, and says where
                                              it went wrong

Each dotted option of the recipe is a flag, a Tune key and an MLflow parameter of the same name. The
same --run-name again continues from the last checkpoint; with another recipe it is refused.
--from MODEL fine-tunes.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait import ray_session
from raygait.experiments import tracking
from raygait.recipes import named
from raygait.recipes.schema import Recipe


@dataclass(frozen=True)
class Options:
    """Train a model by a recipe."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    shards: Path
    """Folder of shards, readable under this path by every node."""
    out: Path = Path("runs")
    """Folder of runs, on storage that all nodes share."""
    run_name: str = ""
    """Name of the run; the recipe's name if left out."""
    num_workers: int = 1
    """Workers; the P x K batch is split over them."""
    min_workers: int | None = None
    """Begin, or go on, with as few as these when there are no places for all."""
    start: Annotated[str, tyro.conf.arg(name="from", metavar="MODEL")] = ""
    """Start from the weights of a model: a checkpoint's folder, a run's, or models:/NAME@ALIAS.
    Identities that it does not know get fresh rows in the classifier."""
    num_threads: int = 1
    """Threads and logical CPUs a worker."""
    use_gpu: bool = False
    """One GPU a worker, gradients over nccl; otherwise CPUs and gloo."""
    max_failures: int = 2
    """Times a lost worker is replaced before the run fails."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here."""
    experiment: str = "raygait"
    """MLflow experiment."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""


@dataclass(frozen=True)
class ReplayOptions:
    """Compute a step again that ended a run."""

    replay: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder that the run has named: `failures/step-...` of the run's own."""
    device: str = "cpu"
    """Where to compute it: cpu, cuda."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """In what; as the run did if left out."""


def main() -> int:
    """Parse, train, print where the result is."""
    words = sys.argv[1:]
    if words[:1] == ["--replay"]:
        return _replay(tyro.cli(ReplayOptions, prog="train.py", args=words))
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        print(f"the first word has to be a recipe, got {words[0]}", file=sys.stderr)
        return 2
    if not words or words[0].startswith("-"):
        print(__doc__)
        print("Recipes:\n  " + "\n  ".join(sorted(named.RECIPES)))
        return 0
    recipe = named.recipe(words[0])
    options = tyro.cli(
        Options,
        prog=f"train.py {recipe.name}",
        args=words[1:],
        default=Options(recipe=recipe, shards=tyro.MISSING),
    )
    # Imported late: it pulls in torch and Ray Train, which --help need not wait for.
    from raygait.training.launch import MLFLOW_RUN, check_recipe, train
    from raygait.training.transfer import find_start

    name = options.run_name or recipe.name
    stack = contextlib.ExitStack()
    start = None
    if options.start:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        needs_server = options.start.startswith("models:/")
        uri = tracking.prepare(options.tracking_uri) if needs_server else ""
        start = find_start(options.start, options.out / name, tracking_uri=uri, scratch=scratch)
    # Before an MLflow run is opened, which every mistake would leave behind as failed.
    check_recipe(
        options.recipe,
        options.shards,
        options.num_workers,
        min_workers=options.min_workers,
        start=start,
    )
    run = tracking.remembered_run(
        options.out / name / MLFLOW_RUN,
        tracking.prepare(options.tracking_uri),
        options.experiment,
        name,
        parameters=options.recipe.to_flat() | ({"from": start.reference} if start else {}),
    )
    with stack, tracking.closing(run), ray_session.start(address=options.address):
        result = train(
            options.recipe,
            options.shards,
            options.out,
            name=name,
            num_workers=options.num_workers,
            min_workers=options.min_workers,
            num_threads=options.num_threads,
            use_gpu=options.use_gpu,
            start=start,
            run=run,
            max_failures=options.max_failures,
        )
    print(f"checkpoint: {result.checkpoint}")
    if result.best is not None:
        print(f"best, as the test subjects have it: {result.best}")
    print(f"mlflow run: {run.run_id}")
    return 0


def _replay(options: ReplayOptions) -> int:
    from raygait.training.replay import replay

    print(replay(options.replay, device=options.device, precision=options.precision).to_text())
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
