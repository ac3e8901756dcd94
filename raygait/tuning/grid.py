"""A grid over dotted recipe paths, or the rows of a paper's table: each cell is trained and scored.

A cell is a Ray Train run and an MLflow child.

A trial only waits for its own training run, so it asks for no CPU: the workers it starts do. Were
it to hold one, as many trials as there are CPUs would each wait for ever for a worker. For the
same reason no more trials run at once than their workers fit into the cluster.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.tune

from raygait import ray_session
from raygait.datasets import protocols
from raygait.datasets.protocols import metric_name
from raygait.errors import (
    ClusterTooSmall,
    DatasetError,
    RaygaitError,
    RecipeError,
    TrainingError,
)
from raygait.evaluation.benchmark import score_model
from raygait.experiments import tracking
from raygait.experiments.outbox import OFFLINE, Outbox
from raygait.experiments.tracking import Run
from raygait.recipes.ablations import AblationTable
from raygait.recipes.schema import Recipe, from_dict, with_overrides
from raygait.training.launch import MLFLOW_RUN, train, with_absolute_paths
from raygait.training.validation import value_of
from raygait.training.watching import send

_CELL_TAG = "raygait.cell"
# Tune refuses a trial that asks for nothing; a byte of memory is as near as it goes.
# Overrides, the whole recipe, printed numbers.
_Planned = tuple[dict[str, Any], Recipe, Mapping[str, float]]
_NEXT_TO_NOTHING = {"CPU": 0, "memory": 1}


@dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes:
        overrides: Dotted path -> value; of a table's row, `row` -> its name.
        scores: Number of the protocol -> percent; empty if the cell failed.
        checkpoint: Folder of the trained model; empty if the cell failed.
        run_id: MLflow child run.
        error: Why the cell failed; empty if it did not.
        printed: Metric -> the number that the paper prints for a table's row.
        deciding: Numbers whose mean decides; the grid's metric, or the protocol's own.
    """

    overrides: dict[str, Any]
    scores: dict[str, float]
    checkpoint: str
    run_id: str
    error: str = ""
    printed: Mapping[str, float] = field(default_factory=dict)
    deciding: tuple[str, ...] = ()


@dataclass(frozen=True)
class GridResult:
    """All cells in grid order, and the best one by `metric`.

    Attributes:
        metric: Number that decides; empty: those of each cell's protocol.
        cells: One a point of the grid.
        protocol: Name of the protocol by whose rules all numbers are meant.
    """

    metric: str
    cells: list[Cell] = field(default_factory=list)
    protocol: str = ""

    @property
    def best(self) -> Cell:
        """The cell with the highest score.

        Raises:
            TrainingError: Every cell failed.
        """
        done = [cell for cell in self.cells if not cell.error]
        if not done:
            raise TrainingError(f"every cell of the grid failed, the first: {self.cells[0].error}")
        return max(done, key=lambda cell: value_of(cell.scores, self._deciding(cell)))

    def _deciding(self, cell: Cell) -> tuple[str, ...]:
        return (self.metric,) if self.metric else cell.deciding

    def to_text(self) -> str:
        """A line a cell, the best one marked, and by which protocol."""
        best = self.best
        lines = []
        for cell in self.cells:
            what = "  ".join(f"{path}={value}" for path, value in cell.overrides.items())
            got = cell.error or "  ".join(f"{name} {v:5.1f}" for name, v in cell.scores.items())
            if cell.printed:
                got += "   paper: " + "  ".join(f"{n} {v:5.1f}" for n, v in cell.printed.items())
            lines.append(f"{'*' if cell is best else ' '} {what}  ->  {got}")
        if self.protocol:
            lines.append(f"(%, by protocol {self.protocol})")
        return "\n".join(lines)


def run_grid(
    recipe: Recipe,
    grid: Mapping[str, Sequence[Any]],
    shards: Path,
    out: Path,
    *,
    name: str,
    parent: Run | Outbox,
    metric: str = "",
    num_workers: int = 1,
    num_threads: int = 1,
    use_gpu: bool = False,
    max_failures: int = 2,
) -> GridResult:
    """Train and score every combination of the grid's values.

    A cell's run is named by what it overrides, so the same grid under the same name again picks up
    where it stopped and repeats nothing that is done.

    Args:
        recipe: What all cells start from.
        grid: Dotted path -> values.
        shards: Folder of shards, readable by every node.
        out: Folder of runs on storage that all nodes share; the grid's runs lie in `out/name`.
        name: Name of the grid.
        parent: MLflow run that the cells' runs are children of.
        metric: Number of the protocol that decides, `NM` or `mAP`; empty: the mean of those that
            decide by the protocol. It is scored on the recipe's test subjects, as the papers'
            ablations are, so the best cell's own score is optimistic.
        num_workers: Workers of each cell's training run.
        num_threads: Threads and logical CPUs a worker.
        use_gpu: One GPU a worker.
        max_failures: Times a cell's lost worker is replaced before the cell fails.

    Raises:
        RecipeError: A path, a value or the metric does not fit, or two cells are the same; nothing
            has run then.
        ClusterTooSmall: Not one cell's workers fit into the cluster.
        TrainingError: Every cell failed.
    """
    if not grid or not all(grid.values()):
        raise RecipeError(f"a grid needs at least one path with a value each, got {dict(grid)}")
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    cells: list[_Planned] = [
        (overrides, with_overrides(recipe, overrides), {}) for overrides in combinations
    ]
    return _run_cells(
        cells,
        shards,
        out / name,
        parent=parent,
        metric=metric,
        num_workers=num_workers,
        num_threads=num_threads,
        use_gpu=use_gpu,
        max_failures=max_failures,
    )


def run_table(
    table: AblationTable,
    shared: Mapping[str, Any],
    shards: Path,
    out: Path,
    *,
    name: str,
    parent: Run | Outbox,
    metric: str = "",
    num_workers: int = 1,
    num_threads: int = 1,
    use_gpu: bool = False,
    max_failures: int = 2,
) -> GridResult:
    """Train and score every row of a paper's table.

    Args:
        table: The table; rows keep its order and its printed numbers.
        shared: Dotted path -> value that every row gets beside its own, if it has the path: a
            shorter run, say. A row that trains in one phase has none before.
        shards: As in `run_grid`, and so is what follows.
        out: Folder of runs.
        name: Name of the table's runs.
        parent: MLflow run that the rows' runs are children of.
        metric: Number of the protocol that decides; empty: those of the protocol.
        num_workers: Workers of each row's training run.
        num_threads: Threads and logical CPUs a worker.
        use_gpu: One GPU a worker.
        max_failures: Times a row's lost worker is replaced before the row fails.

    Raises:
        RecipeError: No row has a path, or a value or the metric does not fit; nothing has run
            then.
        ClusterTooSmall: Not one row's workers fit into the cluster.
        TrainingError: Every row failed.
    """
    cells: list[_Planned] = []
    unused = set(shared)
    for row, entry in table.rows.items():
        recipe = table.recipe_of(row)
        own = {path: value for path, value in shared.items() if path in recipe.to_flat()}
        unused -= own.keys()
        cells.append(({"row": row}, with_overrides(recipe, own), dict(entry.printed)))
    if unused:
        raise RecipeError(f"no row of the table has an option {', '.join(sorted(unused))}")
    return _run_cells(
        cells,
        shards,
        out / name,
        parent=parent,
        metric=metric,
        num_workers=num_workers,
        num_threads=num_threads,
        use_gpu=use_gpu,
        max_failures=max_failures,
    )


def _run_cells(
    planned: Sequence[_Planned],
    shards: Path,
    folder: Path,
    *,
    parent: Run | Outbox,
    metric: str,
    num_workers: int,
    num_threads: int,
    use_gpu: bool,
    max_failures: int,
) -> GridResult:
    planned = [
        (overrides, with_absolute_paths(recipe), printed) for overrides, recipe, printed in planned
    ]
    recipes = [recipe for _, recipe, _ in planned]
    if len({json.dumps(each.to_dict(), sort_keys=True) for each in recipes}) < len(recipes):
        raise RecipeError("two cells are the same recipe; name each value once")
    names = sorted({protocols.protocol(recipe.data.protocol).name for recipe in recipes})
    if len(names) > 1:
        raise RecipeError(
            f"cells of protocols {' and '.join(names)} have no numbers to compare: one grid each"
        )
    for recipe in recipes:
        protocol = protocols.protocol(recipe.data.protocol)
        if not protocol.numbers:
            raise RecipeError(f"protocol {protocol.name!r} writes a file and has no number")
        if metric and metric not in protocol.numbers:
            raise RecipeError(f"metric {metric!r} is none of {', '.join(protocol.numbers)}")
    settings = {
        "shards": str(shards.absolute()),
        "out": str(folder.absolute()),
        "parent": str(parent.path.absolute()) if isinstance(parent, Outbox) else parent,
        "num_workers": num_workers,
        "num_threads": num_threads,
        "use_gpu": use_gpu,
        "max_failures": max_failures,
        "metric": metric,
    }
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(
            ray.tune.with_parameters(_run_cell, settings=settings), _NEXT_TO_NOTHING
        ),
        param_space={
            "cell": ray.tune.grid_search(
                [
                    {"overrides": overrides, "recipe": recipe.to_dict()}
                    for overrides, recipe, _ in planned
                ]
            )
        },
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=_places(num_workers, num_threads, use_gpu=use_gpu)
        ),
        run_config=ray.tune.RunConfig(
            name="trials", storage_path=str(folder.absolute()), verbose=0
        ),
    )
    results = {_key(result.config["cell"]["overrides"]): result.metrics for result in tuner.fit()}
    cells = []
    for overrides, recipe, printed in planned:
        got = results.get(_key(overrides)) or {}
        cells.append(
            Cell(
                overrides=overrides,
                scores=got.get("scores", {}),
                checkpoint=got.get("checkpoint", ""),
                run_id=got.get("run_id", ""),
                error=got.get("error", "" if "scores" in got else "the trial was lost"),
                printed=printed,
                deciding=protocols.protocol(recipe.data.protocol).headline,
            )
        )
    _settle([folder / _name(overrides) for overrides, _, _ in planned])
    result = GridResult(metric, cells, names[0])
    parent.log_metrics(
        {
            f"{metric_name(names[0], name)}-best": value
            for name, value in result.best.scores.items()
            if not math.isnan(value)
        }
    )
    parent.log_text(result.to_text() + "\n", "grid.txt")
    parent.log_tags({"raygait.best_run": result.best.run_id})
    return result


def _run_cell(config: dict[str, Any], settings: dict[str, Any]) -> None:
    """One trial: train by the changed recipe, score it, report once.

    A cell that fails reports why instead of raising: the other cells go on, and the reason reaches
    the table rather than a log on some node.
    """
    overrides = config["cell"]["overrides"]
    recipe = from_dict(config["cell"]["recipe"])
    shards, parent = Path(settings["shards"]), settings["parent"]
    run = _child(
        Outbox(Path(parent)) if isinstance(parent, str) else parent,
        overrides,
        recipe,
        shards,
        Path(settings["out"]),
    )
    try:
        with tracking.closing(run):
            result = train(
                recipe,
                shards,
                Path(settings["out"]),
                name=_name(overrides),
                num_workers=settings["num_workers"],
                num_threads=settings["num_threads"],
                use_gpu=settings["use_gpu"],
                max_failures=settings["max_failures"],
                run=run,
            )
            scores = score_model(result.checkpoint, shards)
            metric = settings["metric"]
            protocol = protocols.protocol(recipe.data.protocol)
            deciding = (metric,) if metric else protocol.headline
            if math.isnan(value_of(scores, deciding)):
                raise DatasetError(f"the shards have no pair to score {', '.join(deciding)} by")
            run.log_metrics(
                {
                    metric_name(protocol.name, name): value
                    for name, value in scores.items()
                    if not math.isnan(value)
                }
            )
    except RaygaitError as error:
        ray.tune.report({"error": str(error), "run_id": run.run_id})
        return
    ray.tune.report({"scores": scores, "checkpoint": str(result.checkpoint), "run_id": run.run_id})


def _child(
    parent: Run | Outbox, overrides: Mapping[str, Any], recipe: Recipe, shards: Path, out: Path
) -> Outbox:
    """The cell's MLflow run: the one it already has when the grid is run again, else a new one."""
    return Outbox.open(
        out / _name(overrides) / MLFLOW_RUN,
        parent.tracking_uri,
        parent.experiment,
        ", ".join(f"{path}={value}" for path, value in overrides.items()),
        parent=parent,
        parameters=recipe.to_flat(),
        tags={_CELL_TAG: _name(overrides)},
        data=[tracking.data_of(shards)],
    )


def _settle(children: Sequence[Path]) -> None:
    """Close the runs of trials that were lost, and send what the server has missed of any."""
    for folder in children:
        if (folder / MLFLOW_RUN).exists():
            child = Outbox(folder / MLFLOW_RUN)
            if child.status == "RUNNING":
                child.end("FAILED")
            if child.tracking_uri != OFFLINE:
                send(folder, child)


def _key(overrides: Mapping[str, Any]) -> str:
    return json.dumps(overrides, sort_keys=True)


def _name(overrides: Mapping[str, Any]) -> str:
    return "cell-" + hashlib.sha256(_key(overrides).encode()).hexdigest()[:12]


def _places(num_workers: int, num_threads: int, *, use_gpu: bool) -> int:
    """How many cells the cluster trains at once."""
    places = ray_session.num_places(num_threads, 1 if use_gpu else 0) // num_workers
    if places < 1:
        raise ClusterTooSmall(
            f"a cell needs {num_workers} workers of {num_threads} CPUs"
            f"{' and a GPU' if use_gpu else ''}, which do not fit into the cluster"
        )
    return places
