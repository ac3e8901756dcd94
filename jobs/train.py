"""Train a model by a recipe on shards that `jobs/preprocess.py` wrote.

    python jobs/train.py RECIPE --shards DIR [--num-workers 2] [--optim.learning-rate 1e-3 ...]
    python jobs/train.py                      lists the recipes
    python jobs/train.py RECIPE --help        lists every option of that recipe
    python jobs/train.py RECIPE --shards DIR --dry-run        prints what the run would be: recipe,
                                              sizes, memory, seconds a step; nothing is written
    python jobs/train.py --replay DIR         computes a step again that ended a run, and says where
                                              it went wrong
    python jobs/train.py --send DIR           sends MLflow what it does not have of a run's folder

Each dotted option of the recipe is a flag, a Tune key and an MLflow parameter of the same name. The
same --run-name again continues from the last checkpoint; with another recipe it is refused.
--from MODEL fine-tunes.

MLflow may be away, from the start or at any time: the run's folder keeps everything, and what is
missing is sent as soon as the server answers, by the same command again or by --send. With
--tracking-uri offline no server is asked for.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait import ray_session
from raygait.errors import RaygaitError, RegistryError
from raygait.experiments import tracking
from raygait.experiments.outbox import OFFLINE, Outbox
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
    compile_network: bool = False
    """Let torch compile the network first; on a CPU it does not pay, see training/launch.py."""
    dry_run: bool = False
    """Say what the run would be, measured on three steps in this process; write nothing."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here. `offline`: keep
    what is to be recorded in the run's folder, for --send."""
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


@dataclass(frozen=True)
class SendOptions:
    """Send MLflow what it does not have of a run's folder."""

    send: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the run, or of a grid's."""
    tracking_uri: str = ""
    """Server or store; the one that the run was given if left out."""


def main() -> int:
    """Parse, train, print where the result is."""
    words = sys.argv[1:]
    first = words[0].partition("=")[0] if words else ""
    if first == "--replay":
        return _replay(tyro.cli(ReplayOptions, prog="train.py", args=words))
    if first == "--send":
        return _send(tyro.cli(SendOptions, prog="train.py", args=words))
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
    from raygait.training.launch import MLFLOW_RUN, check_out, check_recipe, train
    from raygait.training.transfer import find_start, remembered_start

    check_out(options.out)
    name = options.run_name or recipe.name
    stack = contextlib.ExitStack()
    start = None
    if options.start:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder, uri = options.out / name, ""
        # A run that goes on has kept what it began with.
        is_kept = remembered_start(folder).get("start") == options.start
        if options.start.startswith("models:/") and not is_kept:
            if options.tracking_uri == OFFLINE:
                raise RegistryError(f"--from {options.start} needs its server: --tracking-uri URI")
            uri = tracking.prepare(options.tracking_uri)
        start = find_start(options.start, folder, tracking_uri=uri, scratch=scratch)
    # Before an MLflow run is opened, which every mistake would leave behind as failed.
    check_recipe(
        options.recipe,
        options.shards,
        options.num_workers,
        min_workers=options.min_workers,
        start=start,
    )
    if options.dry_run:
        from raygait.training.rehearsal import rehearse

        with stack:
            return _say(
                rehearse(
                    options.recipe,
                    options.shards,
                    num_workers=options.num_workers,
                    num_threads=options.num_threads,
                    use_gpu=options.use_gpu,
                    compile_network=options.compile_network,
                ).to_text()
            )
    from raygait.training.environment import git_commit

    commit = git_commit()
    run = Outbox.open(
        options.out / name / MLFLOW_RUN,
        options.tracking_uri,
        options.experiment,
        name,
        parameters=options.recipe.to_flat() | ({"from": start.reference} if start else {}),
        tags={"mlflow.source.git.commit": commit} if commit else {},
        data=[tracking.data_of(options.shards)],
    )
    with stack, tracking.closing(run), _noting(run), ray_session.start(address=options.address):
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
            compile_network=options.compile_network,
        )
    print(f"checkpoint: {result.checkpoint}")
    if result.best is not None:
        print(f"best, as the test subjects have it: {result.best}")
    if run.run_id:
        print(f"mlflow run: {run.run_id}")
    else:
        print(f"mlflow run: kept in {options.out / name}, send it by --send")
    return 0


@contextlib.contextmanager
def _noting(run: Outbox) -> Iterator[None]:
    """What a run has failed by belongs to what is known of it."""
    try:
        yield
    except RaygaitError as error:
        run.log_tags({"raygait.error": str(error)})
        raise


def _say(text: str) -> int:
    print(text)
    return 0


def _send(options: SendOptions) -> int:
    from raygait.training.launch import MLFLOW_RUN
    from raygait.training.watching import send

    # A grid's own first, its cells are children of it.
    folders = [options.send, *sorted(path.parent for path in options.send.glob(f"*/{MLFLOW_RUN}"))]
    all_sent = True
    for folder in folders:
        run = Outbox(folder / MLFLOW_RUN)
        if options.tracking_uri or run.tracking_uri == OFFLINE:
            run.redirect(options.tracking_uri)
        all_sent &= send(folder, run)
        print(f"{folder}: {f'mlflow run: {run.run_id}' if run.run_id else 'not sent'}")
    return 0 if all_sent else 1


def _replay(options: ReplayOptions) -> int:
    from raygait.training.replay import replay

    print(replay(options.replay, device=options.device, precision=options.precision).to_text())
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
