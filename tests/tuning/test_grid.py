from pathlib import Path

import pytest

from raygait.errors import ClusterTooSmall, RecipeError, TrainingError
from raygait.experiments import tracking
from raygait.experiments.outbox import Outbox
from raygait.recipes import named
from raygait.recipes.ablations import AblationTable, Row
from raygait.recipes.saved_model import load_model
from raygait.recipes.schema import Recipe, with_overrides
from raygait.shards import reader
from raygait.tuning.grid import Cell, GridResult, run_grid, run_table


def _recipe() -> Recipe:
    return with_overrides(
        named.recipe("gaitgl-demo"),
        {
            "model.channels": [4, 8, 8],
            "data.split": "first:4",
            "clip.num_frames": 9,
            "batch.num_subjects": 4,
            "batch.num_sequences": 2,
            "num_steps": 2,
            "checkpoint_every_steps": 2,
        },
    )


@pytest.mark.ray
@pytest.mark.timeout(420)
def test_a_table_trains_its_rows_in_order_and_shows_the_papers_numbers(
    walker_shards: Path, tmp_path: Path
) -> None:
    uri = tracking.prepare(f"sqlite:///{tmp_path}/mlflow.db")
    parent = tracking.open_run(uri, "tests", "table")
    table = AblationTable(
        "a table",
        "gaitgl-demo",
        {
            "max": Row({"model.spatial_mapping": "max"}, {"NM": 97.8}),
            "wide": Row({"data.split": "first:3"}, {}, recipe="gaitgl-casiab"),
            "gem": Row({}, {"NM": 98.0}),
        },
    )
    own = _recipe().to_flat()
    shared = {
        path: own[path]
        for path in (
            "model.channels",
            "clip.num_frames",
            "batch.num_subjects",
            "batch.num_sequences",
            "num_steps",
            "checkpoint_every_steps",
        )
    } | {"data.split": "first:4"}
    with pytest.raises(RecipeError, match=r"no row.*before\.a\.num_steps"):
        run_table(
            table,
            {"before.a.num_steps": 2},
            walker_shards,
            tmp_path / "runs",
            name="t",
            parent=parent,
        )
    with tracking.closing(parent):
        result = run_table(
            table, shared, walker_shards, tmp_path / "runs", name="t", parent=parent, max_failures=0
        )
    assert [cell.overrides for cell in result.cells] == [
        {"row": "max"},
        {"row": "wide"},
        {"row": "gem"},
    ]
    assert all(0 <= cell.scores["NM"] <= 100 for cell in result.cells)
    lines = result.to_text().splitlines()
    assert lines[-1] == "(%, by protocol casiab)"
    assert "paper: NM  97.8" in lines[0]
    assert "paper" not in lines[1]
    # A row that starts from another recipe has that recipe's input size.
    assert load_model(Path(result.cells[1].checkpoint)).recipe.data.height_px == 64
    assert load_model(Path(result.cells[2].checkpoint)).recipe.data.height_px == 32


@pytest.mark.ray
@pytest.mark.timeout(420)
def test_a_grid_trains_every_cell_under_one_parent_run_and_names_the_best(
    walker_shards: Path, tmp_path: Path
) -> None:
    uri = tracking.prepare(f"sqlite:///{tmp_path}/mlflow.db")
    parent = Outbox.open(tmp_path / "runs" / "grid" / "mlflow.json", uri, "tests", "grid")
    parent.begin()
    grid = {"model.drop_ratio": [0.1, 0.5], "optim.learning_rate": [1e-3, 1e30]}
    with tracking.closing(parent):
        result = run_grid(
            _recipe(),
            grid,
            walker_shards,
            tmp_path / "runs",
            name="grid",
            parent=parent,
            max_failures=0,
        )

    assert [cell.overrides for cell in result.cells] == [
        {"model.drop_ratio": 0.1, "optim.learning_rate": 1e-3},
        {"model.drop_ratio": 0.1, "optim.learning_rate": 1e30},
        {"model.drop_ratio": 0.5, "optim.learning_rate": 1e-3},
        {"model.drop_ratio": 0.5, "optim.learning_rate": 1e30},
    ]
    # A rate of 1e30 cannot train; its cells fail with the reason and the others are done.
    failed = [cell for cell in result.cells if cell.overrides["optim.learning_rate"] == 1e30]
    assert all("loss is" in cell.error for cell in failed)
    assert result.best.overrides["optim.learning_rate"] == 1e-3
    assert 0 <= result.best.scores["NM"] <= 100

    client = parent.connect().client()
    experiment = client.get_experiment_by_name("tests")
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
    )
    assert {child.info.run_id for child in children} == {cell.run_id for cell in result.cells}
    statuses = {child.info.run_id: child.info.status for child in children}
    for cell in result.cells:
        assert statuses[cell.run_id] == ("FAILED" if cell.error else "FINISHED")
    of_grid = client.get_run(parent.run_id).data.metrics
    assert of_grid["casiab/NM/rank1-best"] == pytest.approx(result.best.scores["NM"])
    stored = client.get_run(result.best.run_id).data
    assert stored.metrics["casiab/NM/rank1"] == pytest.approx(result.best.scores["NM"])
    assert stored.params["optim.learning_rate"] == "0.001"
    # The record of a cell is that of any run.
    assert [p.step for p in client.get_metric_history(result.best.run_id, "loss")] == [1, 2]
    (read,) = client.get_run(result.best.run_id).inputs.dataset_inputs
    assert read.dataset.digest == reader.digest(walker_shards)[:36]
    files = {item.path for item in client.list_artifacts(result.best.run_id)}
    assert {"recipe.json", "environment.jsonl"} <= files
    best = client.get_run(parent.run_id).data.tags["raygait.best_run"]
    assert best == result.best.run_id


@pytest.mark.ray
@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        pytest.param({}, "at least one path", id="empty grid"),
        pytest.param({"model.drop_ratio": []}, "at least one path", id="path without values"),
        pytest.param({"model.drop": [1]}, "no option 'model.drop'", id="typo"),
        pytest.param({"model.drop_ratio": [0.1, "x"]}, r"model\.drop_ratio", id="bad value"),
        pytest.param({"seed": [1, 1.0]}, "same recipe", id="one cell twice"),
        pytest.param(
            {"data.protocol": ["casiab", "open-set:casiab"]},
            "no numbers to compare",
            id="protocols",
        ),
    ],
)
def test_a_grid_that_cannot_run_is_refused_before_anything_runs(
    walker_shards: Path, tmp_path: Path, grid: dict, reason: str
) -> None:
    parent = tracking.Run("sqlite://", "tests", "none")
    with pytest.raises(RecipeError, match=reason):
        run_grid(_recipe(), grid, walker_shards, tmp_path, name="grid", parent=parent)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_a_cell_that_fits_nowhere_is_an_error_and_not_a_wait(
    walker_shards: Path, tmp_path: Path
) -> None:
    parent = tracking.Run("sqlite://", "tests", "none")
    with pytest.raises(ClusterTooSmall, match="needs 64 workers of 2 CPUs"):
        run_grid(
            _recipe(),
            {"model.drop_ratio": [0.1]},
            walker_shards,
            tmp_path,
            name="grid",
            parent=parent,
            num_workers=64,
            num_threads=2,
        )


def test_the_table_marks_the_best_cell_and_gives_the_reason_of_a_failed_one() -> None:
    result = GridResult(
        "NM",
        [
            Cell({"a": 1}, {"NM": 40.0}, "x", "1"),
            Cell({"a": 2}, {"NM": 60.0}, "y", "2"),
            Cell({"a": 3}, {}, "", "3", error="loss is nan"),
        ],
    )
    lines = result.to_text().splitlines()
    assert lines[1].startswith("* a=2")
    assert "60.0" in lines[1]
    assert lines[2].endswith("loss is nan")
    assert [line[0] for line in lines] == [" ", "*", " "]
    with pytest.raises(TrainingError, match="every cell"):
        _ = GridResult("NM", [Cell({"a": 3}, {}, "", "3", error="lost")]).best
