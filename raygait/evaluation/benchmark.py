"""Score a model by its recipe's protocol, beside rows that give the numbers their scale.

A rank-1 alone says little: on an easy data set an untrained network, or the average silhouette,
finds most people too. So every table comes with three rows: chance, the same network before
training, and averaged silhouettes (GEI) as nearest neighbours.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raygait.datasets import protocols, splits
from raygait.datasets.protocols import metric_name, parts_of
from raygait.errors import DatasetError, SplitMismatch
from raygait.evaluation import submission
from raygait.evaluation.embed import Embeddings, embed
from raygait.evaluation.embedding_files import (
    model_digests,
    read_embeddings,
    read_labels,
    read_manifest,
)
from raygait.evaluation.gei import average_silhouettes
from raygait.evaluation.protocols import chance, evaluate
from raygait.evaluation.tables import CSV_HEADER, ProtocolTable, plain, shown
from raygait.recipes.saved_model import initial_model, load_model, save_model
from raygait.recipes.schema import DataOptions
from raygait.shards import reader

logger = logging.getLogger(__name__)

TRAINED, UNTRAINED, AVERAGED = "trained", "untrained", "GEI"
CHANCE = "chance"
# Numbers that a line has room for; of more, those that decide are shown.
_NUMBERS_A_LINE = 9
# Larger numbers of an embedding have no distance in float32.
_LARGEST = 1e16
_ROWS_A_LOOK = 4096


@dataclass(frozen=True)
class Benchmark:
    """Tables of one model on one split of one folder of shards.

    Attributes:
        protocol: Name of the protocol; every number is meant by its rules.
        split: Name of the split.
        num_subjects: Test subjects; unknown people are none.
        num_sequences: Sequences embedded.
        num_too_short: Sequences left out because the network needs more frames.
        rows: `trained`, and with baselines `untrained` and `GEI`.
        chance: Number -> what a random ranking gives, in percent; NaN where there is none.
        recipe: Name of the model's recipe.
        step: Training steps of the model.
        shards_digest: Digest of the shards.
        weights_sha256: Of the file of the model's weights.
        submission: Name of the submission that was written beside; empty: none was.
        num_submitted: Probes in it.
    """

    protocol: str
    split: str
    num_subjects: int
    num_sequences: int
    num_too_short: int
    rows: dict[str, ProtocolTable]
    chance: dict[str, float]
    recipe: str
    step: int
    shards_digest: str
    weights_sha256: str = ""
    submission: str = ""
    num_submitted: int = 0

    @property
    def headline(self) -> tuple[str, ...]:
        """The numbers by which one model is better than another."""
        return self.rows[TRAINED].rules.headline

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a missing number is `None`."""
        return {
            "protocol": self.protocol,
            "split": self.split,
            "num_subjects": self.num_subjects,
            "num_sequences": self.num_sequences,
            "num_too_short": self.num_too_short,
            "rows": {name: table.to_dict() for name, table in self.rows.items()},
            "chance": {name: plain(np.array([value]))[0] for name, value in self.chance.items()},
            "headline": list(self.headline),
            "recipe": self.recipe,
            "step": self.step,
            "shards_digest": self.shards_digest,
            "weights_sha256": self.weights_sha256,
        }

    def metrics(self) -> dict[str, float]:
        """Every number of every row, under names that say the protocol."""
        return metrics_of(self.to_dict())

    def to_csv(self) -> str:
        """A line a number of every row, as `ProtocolTable.to_csv`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for name, table in self.rows.items():
            writer.writerows(table.csv_rows(name))
        for number, value in self.chance.items():
            written = "" if math.isnan(value) else f"{value:.4f}"
            writer.writerow((self.protocol, CHANCE, *parts_of(number), "", "", written))
        return text.getvalue()

    def to_text(self) -> str:
        """The trained model's table as the paper has it, then a line for each row."""
        numbers = list(self.chance)
        if len(numbers) > _NUMBERS_A_LINE:
            numbers = list(self.headline)
        widths = [max(8, len(number) + 2) for number in numbers]
        what = "mean rank-1 (%)" if all(parts_of(n)[1] == "rank1" for n in numbers) else "mean (%)"
        lines = [
            f"protocol {self.protocol}, split {self.split}: {self.num_subjects} subjects, "
            f"{self.num_sequences} sequences, {self.num_too_short} too short",
            self.rows[TRAINED].to_text(),
            "",
            f"{what:<17}" + "".join(f"{n:>{w}}" for n, w in zip(numbers, widths, strict=True)),
        ]
        means = {name: table.means for name, table in self.rows.items()} | {CHANCE: self.chance}
        lines += [
            f"{name:<17}"
            + "".join(shown(values[n], w) for n, w in zip(numbers, widths, strict=True))
            for name, values in means.items()
        ]
        return "\n".join(lines)


def run_benchmark(
    model: Path,
    shards: Path,
    *,
    scratch: Path | None = None,
    split: str = "",
    protocol: str = "",
    submission_path: Path | None = None,
    num_workers: int = 1,
    num_threads: int = 1,
    device: str = "cpu",
) -> Benchmark:
    """Embed the test subjects and fill the protocol's tables.

    Args:
        model: Folder of a saved model.
        shards: Folder of shards.
        scratch: Folder that all workers see, for the untrained network; `None` leaves the
            untrained network and the GEI out.
        split: Split whose test subjects are scored, where the shards are of another data set than
            the model was trained on; empty: the recipe's `data.test_split`, or its `data.split`.
        protocol: Protocol of that data set; empty: the recipe's. With one that is a submission the
            numbers are those of the protocol beside it.
        submission_path: File for the submission, where the protocol is one.
        num_workers: Actors that embed; 0 embeds in this process, without Ray.
        num_threads: Threads of torch and logical CPUs an actor.
        device: Where distances are computed.

    Raises:
        SplitMismatch: The shards do not hold the subjects of the recipe's split, or the model was
            trained on one of those to test.
        DatasetError: No test sequence, the protocol is unknown or finds nothing to compare, or an
            embedding is not finite.
        RegistryError: `model` is not a saved model.
    """
    saved = load_model(model)
    data = saved.recipe.data
    asked = protocols.protocol(protocol or data.protocol)
    rules = protocols.protocol(asked.beside) if asked.submission else asked
    rows_there = reader.read_rows(shards, columns=["dataset", "subject", "condition", "view"])
    present = {name: rows_there[name].to_pylist() for name in rows_there.column_names}
    sides = splits.split(split or data.test_split or data.split, present["subject"], trains=False)
    trained_dataset = saved.origin.get("dataset", "")
    rows = zip(present.pop("dataset"), present["subject"], strict=True)
    _check_not_trained_on(saved.subjects, trained_dataset, sides, rows)
    _check_pairs(present, sides, rules, asked)

    def embedded(folder: Path) -> Embeddings:
        found = embed(
            shards,
            folder,
            subjects=sides.embedded,
            num_workers=num_workers,
            num_threads=num_threads,
        )
        _check_finite(found)
        return found

    def table(embeddings: Embeddings) -> ProtocolTable:
        return evaluate(
            embeddings.values, *_labels(embeddings), rules, lists=sides.lists, device=device
        )

    trained = embedded(model)
    num_submitted = _submit(submission_path, trained, asked, sides, device)
    tables = {TRAINED: table(trained)}
    if scratch is not None:
        untrained = initial_model(saved.recipe, saved.subjects)
        save_model(scratch / "untrained", untrained.network, saved.recipe, saved.subjects, step=0)
        tables[UNTRAINED] = table(embedded(scratch / "untrained"))
        # The same frames of the same sequences as the network saw, as silhouettes in any case.
        is_silhouettes = data.modality == "silhouettes"
        averages = average_silhouettes(
            shards,
            height_px=data.height_px if is_silhouettes else DataOptions().height_px,
            width_px=data.width_px if is_silhouettes else DataOptions().width_px,
            sequence_ids=trained.sequence_ids,
        )
        tables[AVERAGED] = table(averages)
    return Benchmark(
        protocol=rules.name,
        split=sides.name,
        num_subjects=len(set(trained.subjects) - set(sides.unlabelled)),
        num_sequences=len(trained),
        num_too_short=trained.num_too_short,
        rows=tables,
        chance=chance(*_labels(trained), rules, lists=sides.lists),
        recipe=saved.recipe.name,
        step=saved.step,
        shards_digest=reader.digest(shards),
        weights_sha256=model_digests(model)[0],
        submission=asked.name if num_submitted else "",
        num_submitted=num_submitted,
    )


def score_embeddings(
    folder: Path,
    *,
    split: str,
    protocol: str,
    submission_path: Path | None = None,
    device: str = "cpu",
) -> Benchmark:
    """Fill a protocol's tables from embeddings that are on disk already.

    Args:
        folder: Folder of embeddings, as `embed_shards` leaves it.
        split: Split whose test subjects are scored.
        protocol: Protocol of that data set, as for `run_benchmark`.
        submission_path: File for the submission, where the protocol is one.
        device: Where distances are computed.

    Returns:
        Tables with the row `trained` alone; sequences that were too short are those of the whole
        folder.

    Raises:
        EmbeddingsError: The folder is not one of embeddings, or is not finished.
        SplitMismatch: It does not hold the subjects of the split, or the model was trained on one
            of those to test.
        DatasetError: The split or the protocol is unknown, or finds nothing to compare.
    """
    asked = protocols.protocol(protocol)
    rules = protocols.protocol(asked.beside) if asked.submission else asked
    splits.check_name(split)
    everything = read_embeddings(folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    sides = splits.split(split, everything.subjects, trains=False)
    labels = read_labels(folder)
    _check_not_trained_on(
        manifest.trained_subjects,
        manifest.trained_dataset,
        sides,
        zip(*(labels[name].to_pylist() for name in ("dataset", "subject")), strict=True),
    )
    tested = everything.of_subjects(sides.embedded)
    del everything
    _check_finite(tested)
    num_submitted = _submit(submission_path, tested, asked, sides, device)
    table = evaluate(tested.values, *_labels(tested), rules, lists=sides.lists, device=device)
    return Benchmark(
        protocol=rules.name,
        split=sides.name,
        num_subjects=len(set(tested.subjects) - set(sides.unlabelled)),
        num_sequences=len(tested),
        num_too_short=tested.num_too_short,
        rows={TRAINED: table},
        chance=chance(*_labels(tested), rules, lists=sides.lists),
        recipe=manifest.model.recipe,
        step=manifest.model.step,
        shards_digest=manifest.shards_digest,
        weights_sha256=manifest.model.weights_sha256,
        submission=asked.name if num_submitted else "",
        num_submitted=num_submitted,
    )


def check_submission(path: Path, shards: Path | None, *, split: str, protocol: str) -> int:
    """Whether a submission is complete.

    Args:
        path: The file.
        shards: Folder of shards with the probes and the gallery; `None` looks at the form alone.
        split: Split whose test subjects are the gallery.
        protocol: The submission.

    Returns:
        Number of probes in it.

    Raises:
        DatasetError: It is not, or the protocol is no submission.
    """
    rules = protocols.protocol(protocol)
    if not rules.submission:
        raise DatasetError(f"protocol {rules.name!r} writes no submission")
    if shards is None:
        return submission.check(path, rules)
    table = reader.read_rows(shards, columns=["subject", "condition", "view"])
    columns = {name: table[name].to_pylist() for name in table.column_names}
    sides = splits.split(split, columns["subject"], trains=False)
    tested = set(sides.embedded)
    rows = [
        row
        for row in zip(columns["subject"], columns["condition"], columns["view"], strict=True)
        if row[0] in tested
    ]
    subjects, conditions, views = zip(*rows, strict=True)
    due = submission.expected(subjects, conditions, views, rules, sides.unlabelled)
    return submission.check(path, rules, due)


def _check_not_trained_on(
    subjects: Collection[str],
    dataset: str,
    sides: splits.SubjectSplit,
    rows: Iterable[tuple[str, str]],
) -> None:
    """Refuse to test people that the model was trained on; names mean people in one data set.

    Args:
        subjects: Those that the model was trained on.
        dataset: Of which data set; empty where that is not known.
        sides: Who is tested.
        rows: Data set and subject of each sequence.

    Raises:
        SplitMismatch: There is such a subject; it is named.
    """
    known, tested = {dataset, *dataset.split("+")}, set(sides.test).intersection(subjects)
    leaked = sorted(
        {subject for name, subject in rows if subject in tested and (not dataset or name in known)}
    )
    if not leaked:
        return
    said = (
        f"split {sides.name!r} tests {len(leaked)} of the {len(subjects)} subjects that the "
        f"model was trained on, such as {leaked[0]}"
    )
    if dataset:
        raise SplitMismatch(
            f"{said}, of {dataset}: its numbers would say nothing. If they are other people, name "
            "their data set otherwise: preprocess with another --dataset-name"
        )
    logger.warning("%s, unless it was another data set: the model does not say which", said)


def _check_pairs(
    present: Mapping[str, list[str]],
    sides: splits.SubjectSplit,
    rules: protocols.Protocol,
    asked: protocols.Protocol,
) -> None:
    """Refuse a protocol that has nothing to compare; hours of embedding need not come first.

    Raises:
        DatasetError: There is no pair, no probe, or the protocol needs lists.
    """
    tested = set(sides.embedded)
    chosen = [row for row, subject in enumerate(present["subject"]) if subject in tested]
    subjects, conditions, views = (
        [present[name][row] for row in chosen] for name in ("subject", "condition", "view")
    )
    if asked.submission:
        submission.expected(subjects, conditions, views, asked, sides.unlabelled)
    pairs = chance(subjects, conditions, views, rules, lists=sides.lists)
    if all(math.isnan(value) for value in pairs.values()):
        raise DatasetError(
            f"protocol {rules.name!r} finds nothing to compare in {len(chosen)} sequences of the "
            f"{len(sides.test)} test subjects of split {sides.name!r}; it needs {rules.needs}"
        )


def _check_finite(embeddings: Embeddings) -> None:
    """Refuse embeddings that have no distance.

    Raises:
        DatasetError: There are some; one is named.
    """
    bad: list[int] = []
    for start in range(0, len(embeddings), _ROWS_A_LOOK):
        values = np.abs(embeddings.values[start : start + _ROWS_A_LOOK])
        # NaN compares as false.
        found = np.flatnonzero(~(values <= _LARGEST).all(axis=(1, 2)))
        bad += (start + found).tolist()
    if bad:
        raise DatasetError(
            f"{len(bad)} of {len(embeddings)} embeddings hold NaN, infinity or numbers above "
            f"{_LARGEST:g}, that of {embeddings.sequence_ids[bad[0]]} first: the network's weights "
            "are spoilt, or its input is"
        )


def _submit(
    path: Path | None,
    tested: Embeddings,
    asked: protocols.Protocol,
    sides: splits.SubjectSplit,
    device: str,
) -> int:
    """Write the submission where one is asked for; the number of probes in it."""
    if not asked.submission or path is None:
        return 0
    return submission.write(
        path, tested.values, *_labels(tested), asked, sides.unlabelled, device=device
    )


def _labels(embeddings: Embeddings) -> tuple[list[str], list[str], list[str]]:
    return embeddings.subjects, embeddings.conditions, embeddings.views


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """MLflow metrics of a `Benchmark.to_dict()`: `casiab/NM/rank1`, `gait3d/mAP-untrained`."""
    rows = {name: table["means"] for name, table in evaluation["rows"].items()}
    metrics = {}
    for row, means in (rows | {CHANCE: evaluation["chance"]}).items():
        for number, value in means.items():
            if value is not None and not math.isnan(value):
                suffix = "" if row == TRAINED else f"-{row}"
                metrics[f"{metric_name(evaluation['protocol'], number)}{suffix}"] = float(value)
    return metrics


def metrics_of_file(path: Path, model: Path) -> dict[str, float]:
    """`metrics_of` an `evaluation.json` of a model.

    Raises:
        DatasetError: Not a file that an evaluation wrote, or one of another model.
        RegistryError: `model` is not a saved model.
    """
    saved = load_model(model)
    try:
        evaluation = json.loads(path.read_text())
        metrics = metrics_of(evaluation)
        scored = (evaluation["recipe"], evaluation["step"])
        weights = evaluation.get("weights_sha256", "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not an evaluation: {error!r}") from error
    if scored != (saved.recipe.name, saved.step):
        raise DatasetError(
            f"{path}: scores {scored[0]} at step {scored[1]}, the model is {saved.recipe.name} at "
            f"step {saved.step}; evaluate it first"
        )
    if weights and weights != model_digests(model)[0]:
        raise DatasetError(
            f"{path}: scores other weights of {scored[0]} at step {scored[1]} than the model's; "
            "evaluate it first"
        )
    return metrics


def score_model(model: Path, shards: Path) -> dict[str, float]:
    """Number -> percent by the recipe's protocol, computed in this process without baselines.

    Raises:
        RaygaitError: As `run_benchmark`.
    """
    return run_benchmark(model, shards, num_workers=0).rows[TRAINED].means
