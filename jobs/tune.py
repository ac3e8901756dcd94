r"""Train and score every combination of some recipe options, or a paper's ablation table.

    python jobs/tune.py gaitgl-demo --shards DIR --grid model.drop_ratio=0.1,0.3 \
        --grid optim.learning_rate=1e-3,3e-3 --num-workers 2
    python jobs/tune.py gaitgl-table-5 --shards DIR          every row, beside the paper's numbers
    python jobs/tune.py                                      lists recipes and tables

Each --grid is a dotted path of the recipe and its values, in JSON where a value is a list:
--grid 'model.channels=[8,16,16],[16,32,32]'. One MLflow run holds the grid, one child run each
combination. The same --run-name again does only what is missing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait import ray_session
from raygait.errors import RecipeError


@dataclass(frozen=True)
class Options:
    """Train and score every combination of some recipe options, and print the best."""

    recipe: tyro.conf.Positional[str]
    """Name of the recipe that all combinations start from, or of an ablation table."""
    shards: Path
    """Folder of shards, readable under this path by every node."""
    grid: Annotated[list[str], tyro.conf.arg(metavar="PATH=VALUE,VALUE"), tyro.conf.UseAppendAction]
    """A dotted path and its values; give it once a path."""
    shared: Annotated[
        list[str], tyro.conf.arg(name="set", metavar="PATH=VALUE"), tyro.conf.UseAppendAction
    ]
    """A dotted path and the value that all combinations share."""
    out: Path = Path("runs")
    """Folder of runs, on storage that all nodes share."""
    run_name: str = ""
    """Name of the grid; `grid`, or the table's name, if left out."""
    metric: str = ""
    """Number of the protocol that decides (`NM`: its rank-1; `mAP`); those that the protocol
    decides by, their mean, if left out."""
    num_workers: int = 1
    """Workers of each training run."""
    num_threads: int = 1
    """Threads and logical CPUs a worker."""
    use_gpu: bool = False
    """One GPU a worker."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here. `offline`: as for
    train.py, whose --send takes the folder of a grid too."""
    experiment: str = "raygait"
    """MLflow experiment."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""


def main() -> int:
    """Parse, run the grid or the table, print a line a cell."""
    if len(sys.argv) < 2:
        from raygait.recipes import ablations, named

        print(__doc__)
        print("Recipes:\n  " + "\n  ".join(sorted(named.RECIPES)))
        print("Tables:\n  " + "\n  ".join(sorted(ablations.TABLES)))
        return 0
    options = tyro.cli(Options, prog="tune.py", description=__doc__)
    # Imported late: torch, Ray and MLflow take seconds that --help need not wait for.
    from raygait.experiments import tracking
    from raygait.experiments.outbox import Outbox
    from raygait.recipes import ablations, named
    from raygait.recipes.schema import with_overrides
    from raygait.training.launch import MLFLOW_RUN, check_out
    from raygait.tuning.grid import run_grid, run_table

    shared = {}
    for path, values in map(parse_values, options.shared):
        if len(values) != 1:
            raise RecipeError(f"--set {path} has {len(values)} values; --grid takes several")
        shared[path] = values[0]
    grid = dict(map(parse_values, options.grid))
    table = ablations.TABLES.get(options.recipe)
    name = options.run_name or (options.recipe if table else "grid")
    if table is not None and grid:
        raise RecipeError(f"{options.recipe} is a table, its rows are given: leave --grid out")
    recipe = named.recipe(table.recipe if table else options.recipe)
    recipe = recipe if table else with_overrides(recipe, shared)
    check_out(options.out)
    parent = Outbox.open(
        options.out / name / MLFLOW_RUN,
        options.tracking_uri,
        options.experiment,
        name,
        parameters={
            **({"table": options.recipe} if table else {}),
            "recipe": recipe.name,
            **{f"grid.{path}": values for path, values in grid.items()},
        },
        data=[tracking.data_of(options.shards)],
    )
    parent.begin()
    parent.try_to_connect()
    where = {
        "shards": options.shards,
        "out": options.out,
        "name": name,
        "parent": parent,
        "metric": options.metric,
        "num_workers": options.num_workers,
        "num_threads": options.num_threads,
        "use_gpu": options.use_gpu,
    }
    with tracking.closing(parent), ray_session.start(address=options.address):
        if table is not None:
            result = run_table(table, shared, **where)
        else:
            result = run_grid(recipe, grid, **where)
    folder = options.out / name
    (folder / "grid.txt").write_text(result.to_text() + "\n")
    print(result.to_text())
    print(f"best: {json.dumps(result.best.overrides)} in {result.best.checkpoint}")
    return 0


def parse_values(text: str) -> tuple[str, list[Any]]:
    """`path=1,2` -> ("path", [1, 2]); values are JSON, and plain words are strings.

    Raises:
        RecipeError: No `=` or no value.
    """
    path, equals, values = text.partition("=")
    if not (path and equals and values):
        raise RecipeError(f"expected PATH=VALUE or PATH=VALUE,VALUE, got {text!r}")
    try:
        return path, list(json.loads(f"[{values}]"))
    except json.JSONDecodeError:
        return path, values.split(",")


if __name__ == "__main__":
    sys.exit(console.run(main))
