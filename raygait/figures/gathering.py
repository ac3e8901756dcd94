"""Fill a `Report` with what jobs have left on disk."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import pydantic

import raygait
from raygait.errors import RecipeError, TrainingError
from raygait.figures.contact_sheets import Row, choose_walks, shown_frames
from raygait.figures.report import ABOUT, DistanceTable, Report
from raygait.shards import reader
from raygait.shards.schema import BLOB_COLUMNS, SCHEMA

_PACKAGES = ("ray", "torch", "mlflow", "pyarrow", "numpy", "opencv-python", "matplotlib")
_DIGEST_LETTERS = 16
_UNSHOWN = (
    *("boxes_px", "heatmap_windows_px", "rgb_windows_px", "rgb_ratio", "joints"),
    *("mask_height_px", "largest_part_ratio", "sharpness", "is_cut"),
    *("left_out_indices", "left_out_reasons"),
)


class _Table(pydantic.BaseModel, extra="allow"):
    """What the page needs of a `ProtocolTable.to_dict()`."""

    views: list[str]
    per_view: dict[str, list[float | None]]
    means: dict[str, float | None]


class _Evaluation(pydantic.BaseModel, extra="allow"):
    """What the page needs of a `Benchmark.to_dict()`."""

    protocol: str
    split: str
    rows: Annotated[dict[str, _Table], pydantic.Field(min_length=1)]


class _Distances(pydantic.BaseModel):
    labels: list[str]
    values: list[list[float]]


_EVALUATION = pydantic.TypeAdapter(_Evaluation)
_DISTANCES = pydantic.TypeAdapter(_Distances)
_HISTORY = pydantic.TypeAdapter(list[dict[str, float]])
_TIMINGS = pydantic.TypeAdapter(dict[str, float])
_COMMANDS = pydantic.TypeAdapter(list[tuple[str, str]])


def gather(
    shards: Sequence[Path],
    runs: Sequence[Path],
    *,
    title: str = "raygait",
    about: str = ABOUT,
    about_walkers: str = "",
    max_tracks: int = 12,
    max_subjects: int = 8,
    commands: Sequence[tuple[str, str]] = (),
) -> Report:
    """Read folders of shards and of runs; what is not there is left out, and said.

    A row with a track number is a person found in video and gets a strip; a row without one whose
    subject is known is a walker. Of a run these files are read, from the first folder that has
    each: `history.jsonl` and `recipe.json` (`training.launch.train`), `evaluation.json`
    (`evaluation.benchmark.Benchmark.to_dict`), `distances.json` (`{"labels": [...], "values":
    [[...], ...]}`), `grid.txt`, `timings.json` (`{part: seconds}`) and `commands.json`
    (`[[what it does, command], ...]`).

    Args:
        shards: Folders that `shards.ingest` wrote.
        runs: Folders of a run.
        title: Heading of the page.
        about: What this is.
        about_walkers: What the walkers are.
        max_tracks: Tracks shown, evenly spaced over all of them, in order of clip and track.
        max_subjects: Walkers shown, evenly spaced over all.
        commands: More commands, after those of `commands.json`.

    Raises:
        ShardError: A folder of shards cannot be read.
        TrainingError: A folder of a run does not exist.
    """
    for folder in runs:
        if not folder.is_dir():
            raise TrainingError(f"{folder}: no such folder; a run is what jobs/train.py leaves")
    files = _RunFiles(runs)
    missing: list[str] = []
    tracks: list[dict[str, Any]] = []
    walks: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    # Boxes and frame numbers of every row would be most of the memory, and nothing shows them.
    plain = [name for name in SCHEMA.names if name not in {*BLOB_COLUMNS, *_UNSHOWN}]
    for root in shards:
        for row in reader.read_rows(root, columns=plain).to_pylist():
            row["root"] = root
            if row["track"] > 0:
                tracks.append(row)
            elif row["subject"]:
                walks.append(row)
        rejects += reader.read_rejects(root).to_pylist()
    tracks.sort(key=lambda row: (row["dataset"], row["source"], row["track"]))
    rejects.sort(key=lambda row: (row["dataset"], row["source"], row["track"]))
    wanted = [_key(tracks[at]) for at in shown_frames(len(tracks), max_tracks)]
    keys = {row["sequence_id"]: _key(row) for row in walks}
    chosen = [keys[sequence_id] for sequence_id in choose_walks(walks, max_subjects=max_subjects)]
    whole = _read_whole(shards, {*wanted, *chosen})
    if not tracks:
        missing.append("Real people: no folder of shards holds tracks of a clip.")
    if not walks:
        missing.append("Walkers: no folder of shards holds sequences of known subjects.")

    evaluation = files.json("evaluation.json", "Benchmark", _EVALUATION)
    distances = files.distances()
    grid = files.text("grid.txt", "Grid")
    history, recipe = files.training()
    timings = files.json("timings.json", "Time", _TIMINGS)
    recorded = files.json("commands.json", "Commands", _COMMANDS) or []
    return Report(
        title=title,
        about=about,
        tracks=[whole[key] for key in wanted],
        all_tracks=tracks,
        rejects=rejects if shards else None,
        walkers=[whole[key] for key in chosen],
        about_walkers=about_walkers,
        history=history,
        recipe=recipe,
        evaluation=None if evaluation is None else evaluation.model_dump(),
        distances=distances,
        grid=grid,
        versions={**_written_by([*tracks, *walks], shards), **_here()},
        timings=timings or {},
        commands=[*recorded, *commands],
        missing=[*missing, *files.missing],
    )


class _RunFiles:
    """The files of some folders of runs; remembers what it did not find."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self._runs = runs
        self.missing: list[str] = []

    def path(self, name: str, part: str) -> Path | None:
        for folder in self._runs:
            if (folder / name).is_file():
                return folder / name
        where = ", ".join(map(str, self._runs)) or "any folder: none was given"
        self.missing.append(f"{part}: there is no {name} in {where}.")
        return None

    def text(self, name: str, part: str) -> str:
        path = self.path(name, part)
        return "" if path is None else path.read_text(errors="replace")

    def json(self, name: str, part: str, form: pydantic.TypeAdapter[Any]) -> Any:
        """The file's value if it has the form that its job writes, else None, and it is said."""
        path = self.path(name, part)
        if path is None:
            return None
        try:
            return form.validate_json(path.read_bytes())
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            self.missing.append(
                f"{part}: {path} is not what its job writes: {where}: {first['msg']}."
            )
            return None

    def distances(self) -> DistanceTable | None:
        """The distance matrix of the real tracks."""
        value = self.json("distances.json", "Distances", _DISTANCES)
        if value is None:
            return None
        table = DistanceTable(value.labels, value.values)
        n = len(table.labels)
        if [len(row) for row in table.values] != [n] * n:
            self.missing.append(
                f"Distances: distances.json has no {n} x {n} values for its labels."
            )
            return None
        return table

    def training(self) -> tuple[list[dict[str, float]], dict[str, object]]:
        """History and recipe of the run."""
        history_path = self.path("history.jsonl", "Training curves")
        recipe_path = self.path("recipe.json", "Recipe")
        history: list[dict[str, float]] = []
        recipe: dict[str, object] = {}
        if history_path is not None:
            # Imported late: it pulls in Ray Train, which a page without a run need not wait for.
            from raygait.training.record import read_history

            try:
                history = _HISTORY.validate_python(read_history(history_path))
            except ValueError:
                self.missing.append(f"Training curves: {history_path} is not a run's history.")
            if any("step" not in point for point in history):
                history = []
                self.missing.append(f"Training curves: {history_path} has points without a step.")
        if recipe_path is not None:
            from raygait.recipes.schema import from_json

            try:
                recipe = from_json(recipe_path.read_text(errors="replace")).to_flat()
            except RecipeError as error:
                self.missing.append(f"Recipe: {recipe_path} is not one: {error}.")
        return history, recipe


def _key(row: Row) -> tuple[Path, str]:
    """An id is unique in its own folder only."""
    return row["root"], row["sequence_id"]


def _read_whole(
    shards: Iterable[Path], wanted: set[tuple[Path, str]]
) -> dict[tuple[Path, str], Row]:
    """Rows by folder and id, blobs included; memory holds the wanted ones and one row group."""
    found: dict[tuple[Path, str], Row] = {}
    for root in shards:
        for shard in reader.list_shards(root):
            ids = reader.read_shard(shard, ["sequence_id"])["sequence_id"].to_pylist()
            if any((root, sequence_id) in wanted for sequence_id in ids):
                found |= {
                    (root, row["sequence_id"]): row
                    for row in reader.iterate_rows(shard)
                    if (root, row["sequence_id"]) in wanted
                }
    return found


def _written_by(rows: Iterable[Row], shards: Iterable[Path]) -> dict[str, dict[str, str]]:
    """What the rows say of the software and the files that made them, and the shards' digests."""
    sections: dict[str, dict[str, str]] = {}
    for text, dataset in sorted({(row["provenance"], row["dataset"]) for row in rows}):
        said: Mapping[str, Any] = json.loads(text)
        values = {"raygait": str(said.get("raygait", "")), **said.get("packages", {})}
        assets: Mapping[str, str] = said.get("assets", {})
        values |= {name: f"SHA-256 {sha[:_DIGEST_LETTERS]}…" for name, sha in assets.items()}
        heading = f"Rows of {dataset} were made with"
        sections[heading] = sections.get(heading, {}) | values
    digests = {str(root): f"{reader.digest(root)[:_DIGEST_LETTERS]}…" for root in shards}
    return {**sections, **({"Digests of the shards": digests} if digests else {})}


def _here() -> dict[str, dict[str, str]]:
    values = {"raygait": raygait.__version__, "Python": platform.python_version()}
    values |= {name: metadata.version(name) for name in _PACKAGES}
    values["system"] = f"{platform.system()} {platform.machine()}"
    return {"This page was made with": values}
