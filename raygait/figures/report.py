"""The page of a run: one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raygait.datasets.protocols import parts_of, rank_name
from raygait.figures import curves, ink, matrices, tables
from raygait.figures.contact_sheets import Row, describe, kind_order, sequence_strip, walk_grid
from raygait.figures.markup import Html, element, join, picture
from raygait.figures.page import Section, fact_list, whole_page
from raygait.shards.writer import whole_file

ABOUT = (
    "From raw video to a model that recognises people by the way they walk: people are found and "
    "followed, each becomes a sequence of silhouettes and joint heatmaps, a network learns from "
    "walkers whose identity is known, and is scored on walkers it has never seen."
)


# What CASIA-B's kinds of condition stand for.
_CONDITIONS = {"nm": "normal walking", "bg": "with a bag", "cl": "in a coat"}


@dataclass(frozen=True)
class DistanceTable:
    """Distances between sequences, as a model gave them.

    Attributes:
        labels: One a row.
        values: [n, n], one row a label.
    """

    labels: Sequence[str]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Report:
    """What a page shows. What is None or empty has no section.

    Attributes:
        title: Heading of the page.
        about: What this is, a sentence or two.
        tracks: Rows of people found in video, blobs included, whose strips are shown.
        all_tracks: Every track, blobs not needed; those shown are among them. Empty: `tracks`.
        rejects: Rows of `shards.schema.REJECT_SCHEMA`; empty says that nothing was rejected.
        walkers: Rows of known subjects, blobs included, one a cell of the grid.
        about_walkers: What these walkers are, such as that they are synthetic.
        history: Steps of a training run, `training.launch.read_history`.
        recipe: Dotted path -> value of the run's recipe.
        evaluation: `evaluation.benchmark.Benchmark.to_dict`.
        distances: Distance matrix of the real tracks.
        grid: Result of a grid of recipes as text.
        versions: Heading -> name -> version or digest.
        timings: Part -> seconds.
        commands: What a command does, and the command.
        missing: What is not on the page and why, a sentence each.
    """

    title: str = "raygait"
    about: str = ABOUT
    tracks: Sequence[Row] = ()
    all_tracks: Sequence[Row] = ()
    rejects: Sequence[Mapping[str, Any]] | None = None
    walkers: Sequence[Row] = ()
    about_walkers: str = ""
    history: Sequence[Mapping[str, float]] = ()
    recipe: Mapping[str, object] = field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None
    distances: DistanceTable | None = None
    grid: str = ""
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    commands: Sequence[tuple[str, str]] = ()
    missing: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        path: The HTML file; its folder is made if missing.
        report: What to show.

    Raises:
        CorruptShard: A row's blob does not decode.
        ValueError: A distance matrix that is not square.
    """
    page = render(report)
    with whole_file(path) as file:
        file.write(page.encode())


def render(report: Report) -> str:
    """The page as text; `write_report` says the rest."""
    sections = [section for section in (make(report) for make in _SECTIONS) if section]
    header = [element("h1", report.title), _lead(report.about), _facts(report)]
    return whole_page(report.title, header, sections)


def _lead(text: str) -> Html:
    return element("p", text, class_="lead")


def _facts(report: Report) -> Html:
    """The few numbers that someone who reads nothing else should see."""
    facts: list[tuple[str, str]] = []
    tracks = report.all_tracks or report.tracks
    if tracks:
        num_frames = sum(int(row["num_frames"]) for row in tracks)
        facts.append((f"{len(tracks):,}", "tracks of people in video"))
        facts.append((f"{num_frames:,}", "frames in them"))
    if report.rejects is not None:
        facts.append((f"{len(report.rejects):,}", "rejected, each with a reason"))
    if report.history:
        facts.append((f"{int(report.history[-1]['step']):,}", "training steps"))
    if report.evaluation is not None:
        chance = report.evaluation.get("chance", {})
        name, table = next(iter(report.evaluation["rows"].items()))
        means = table["means"]
        for number in [*report.evaluation.get("headline", []), *means]:
            mean = means.get(number)
            if mean is None or not math.isfinite(mean):
                continue
            guess = chance.get(number)
            scale = "" if guess is None else f", chance {guess:.1f} %"
            facts.append((f"{mean:.1f} %", f"{_number_words(number)}, {name}{scale}"))
            break
    return fact_list(facts)


def _number_words(number: str) -> str:
    probe_set, metric = parts_of(number)
    return f"{'rank-1' if metric == rank_name(1) else metric} {probe_set}".strip()


def _tracks(report: Report) -> Section | None:
    if not report.tracks:
        return None
    everyone = report.all_tracks or report.tracks
    shown = (
        f"All {len(everyone)} are shown."
        if len(report.tracks) == len(everyone)
        else f"{len(report.tracks)} of {len(everyone)} are shown, evenly spaced over the list."
    )
    about = element(
        "p",
        "People found in raw clips, twelve frames of each from first to last. On top the square "
        "cut-out of the frame; below it the silhouette, aligned as the network gets it; at the "
        "bottom the most probable places of the 17 joints, from red (unsure) to yellow (sure). ",
        shown,
    )
    strips = [_strip(row) for row in report.tracks]
    listed = element(
        "details", element("summary", f"All {len(everyone)} tracks"), tables.track_list(everyone)
    )
    return Section(
        "tracks",
        "Real people",
        join(about, element("div", *strips, class_="strips"), listed),
    )


def _strip(row: Row) -> Html:
    name, *rest = describe(row)
    photographic = row.get("rgb") is not None or row.get("heatmaps") is not None
    image = picture(sequence_strip(row), f"Frames of {name}", photographic=photographic)
    return element(
        "figure",
        element("figcaption", element("b", name), *(element("span", piece) for piece in rest)),
        element("div", image, class_="scroll", tabindex=0),
    )


def _rejects(report: Report) -> Section | None:
    if report.rejects is None:
        return None
    if not report.rejects:
        content = element("p", "Nothing was rejected.")
    else:
        content = join(
            element(
                "p",
                "What did not become a sequence, and why. Nothing is dropped without a reason; a "
                "clip that cannot be read does not stop the others.",
            ),
            tables.reject_counts(report.rejects),
            element(
                "details", element("summary", "Each of them"), tables.reject_list(report.rejects)
            ),
        )
    return Section("rejects", "Rejects", content)


def _walkers(report: Report) -> Section | None:
    grid = walk_grid(report.walkers)
    if not grid.subjects:
        return None
    kinds = {kind for kind, _ in grid.columns}
    legend = ", ".join(f"{kind}: {said}" for kind, said in _CONDITIONS.items() if kind in kinds)
    about = element(
        "p",
        f"{report.about_walkers} " if report.about_walkers else "",
        "A row a person, a column a condition and a view: the frame with the widest outline of "
        "one walk each",
        f" ({legend})" if legend else "",
        ". A model should find a row together and the rows apart.",
    )
    strips = [_strip(row) for row in _in_time(report.walkers)]
    return Section(
        "walkers",
        "Walkers",
        join(
            about,
            tables.walk_table(grid),
            element("p", "The first of them in time:"),
            element("div", *strips, class_="strips"),
        ),
    )


def _in_time(walkers: Sequence[Row]) -> list[Row]:
    """The walks of the first subject in the middle view: one person in everything they wear."""
    first = min(row["subject"] for row in walkers)
    theirs = [row for row in walkers if row["subject"] == first]
    views = sorted({row["view"] for row in theirs})
    shown = [row for row in theirs if row["view"] == views[len(views) // 2]]
    return sorted(shown, key=lambda row: kind_order(row["condition"]))


def _training(report: Report) -> Section | None:
    if not report.history and not report.recipe:
        return None
    parts: list[Html] = []
    panels = curves.recorded_panels(report.history)
    if panels:
        charts = []
        for panel in panels:
            image = ink.to_rgba(curves.panel_figure(panel, report.history))
            charts.append(
                element(
                    "figure",
                    element("h3", panel.title),
                    picture(image, f"{panel.title} over the steps of the run", scale=2),
                    element("figcaption", panel.about),
                )
            )
        parts.append(element("p", "Faint: each step. Strong: a running mean."))
        parts.append(element("div", *charts, class_="charts"))
    if report.recipe:
        recipe = dict(report.recipe)
        name, source = str(recipe.get("name", "")), str(recipe.pop("source", ""))
        parts.append(element("h3", f"Recipe {name}"))
        if source:
            parts.append(element("p", source, class_="soft"))
        parts.append(
            element(
                "details",
                element("summary", f"All {len(recipe)} options"),
                tables.key_values(recipe),
            )
        )
    return Section("training", "Training", join(*parts))


def _benchmark(report: Report) -> Section | None:
    evaluation = report.evaluation
    if evaluation is None:
        return None
    said = [f"Protocol {evaluation['protocol']}", f"split {evaluation['split']}"]
    if "num_subjects" in evaluation:
        said.append(f"{evaluation['num_subjects']} test subjects")
    if "num_sequences" in evaluation:
        said.append(f"{evaluation['num_sequences']} sequences")
    if evaluation.get("num_too_short"):
        said.append(f"{evaluation['num_too_short']} too short for the network and left out")
    about = join(
        element("p", ", ".join(said) + "."),
        element(
            "p",
            "Rank-1: how often the nearest walk of the gallery is the same person's; rank-k: one "
            "of the k nearest. mAP and mINP: how early all of that person's walks come. EER: how "
            "often two walks are wrongly taken for the same person's, or for two people's, at the "
            "threshold where both are as frequent. A number means little alone, so there are rows "
            "for scale: the same network before training, averaged silhouettes (GEI) as nearest "
            "neighbours, and a guess.",
        ),
    )
    return Section("benchmark", "Benchmark", join(about, tables.benchmark_table(evaluation)))


def _distances(report: Report) -> Section | None:
    if report.distances is None or not report.distances.labels:
        return None
    labels = report.distances.labels
    figure = matrices.distance_matrix(labels, np.asarray(report.distances.values, np.float64))
    image = picture(ink.to_rgba(figure), f"Distances between {len(labels)} tracks", scale=2)
    about = element(
        "p",
        "Distance between each two real tracks by the registered model, as it comes out: nothing "
        "is sorted, scaled or left out. Dark is near, pale is far. Read along a row: its darkest "
        "cell is the track that the model takes for the most similar walk; two tracks of one "
        "person should be darker than any two of different people.",
    )
    frame = element("figure", element("div", image, class_="scroll", tabindex=0), class_="matrix")
    return Section("distances", "Distances", join(about, frame))


def _grid(report: Report) -> Section | None:
    if not report.grid.strip():
        return None
    about = element(
        "p",
        "Each combination trained and scored by the same protocol, in percent. The "
        "star marks the best one.",
    )
    return Section("grid", "Grid", join(about, element("pre", report.grid.strip("\n"))))


def _versions(report: Report) -> Section | None:
    if not report.versions and not report.timings:
        return None
    parts = [tables.key_values(values, caption=name) for name, values in report.versions.items()]
    timings = [element("h3", "Time"), tables.timing_table(report.timings)] if report.timings else []
    return Section(
        "versions", "Versions and time", join(*timings, element("div", *parts, class_="columns"))
    )


def _commands(report: Report) -> Section | None:
    if not report.commands:
        return None
    lines = [
        join(element("dt", what), element("dd", element("pre", command)))
        for what, command in report.commands
    ]
    return Section("commands", "Do it again", element("dl", *lines, class_="commands"))


def _missing(report: Report) -> Section | None:
    if not report.missing:
        return None
    return Section(
        "missing",
        "Not on this page",
        element("ul", *(element("li", what) for what in report.missing), class_="soft"),
    )


_SECTIONS = (
    _tracks,
    _rejects,
    _walkers,
    _training,
    _benchmark,
    _distances,
    _grid,
    _versions,
    _commands,
    _missing,
)
