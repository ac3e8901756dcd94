"""Score a model by its recipe's protocol, beside rows that give the numbers their scale.

A rank-1 alone says little: on an easy data set an untrained network, or the average silhouette,
finds most people too. So every table comes with three rows: chance, the same network before
training, and averaged silhouettes (GEI) as nearest neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygait.datasets import protocols as datasets_protocols
from raygait.datasets import splits
from raygait.errors import DatasetError
from raygait.evaluation.embed import Embeddings, embed
from raygait.evaluation.gei import average_silhouettes
from raygait.evaluation.protocols import CrossViewTable, chance, evaluate_cross_view
from raygait.recipes.saved_model import initial_model, load_model, save_model
from raygait.recipes.schema import DataOptions
from raygait.shards import reader

TRAINED, UNTRAINED, AVERAGED = "trained", "untrained", "GEI"


@dataclass(frozen=True)
class Benchmark:
    """Tables of one model on one split of one folder of shards.

    Attributes:
        protocol: Name of the protocol; every number is meant by its rules.
        split: Name of the split.
        num_subjects: Test subjects.
        num_sequences: Sequences embedded.
        num_too_short: Sequences left out because the network needs more frames.
        rows: `trained`, and with baselines `untrained` and `GEI`.
        chance: Probe condition -> rank-1 of a random guess, in percent.
        recipe: Name of the model's recipe.
        step: Training steps of the model.
        shards_digest: Digest of the shards.
    """

    protocol: str
    split: str
    num_subjects: int
    num_sequences: int
    num_too_short: int
    rows: dict[str, CrossViewTable]
    chance: dict[str, float]
    recipe: str
    step: int
    shards_digest: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "protocol": self.protocol,
            "split": self.split,
            "num_subjects": self.num_subjects,
            "num_sequences": self.num_sequences,
            "num_too_short": self.num_too_short,
            "rows": {name: table.to_dict() for name, table in self.rows.items()},
            "chance": self.chance,
            "recipe": self.recipe,
            "step": self.step,
            "shards_digest": self.shards_digest,
        }

    def metrics(self) -> dict[str, float]:
        """Mean rank-1 of every row a probe set, under names that say the protocol."""
        return metrics_of(self.to_dict())

    def to_text(self) -> str:
        """The trained model's table per view and condition, then a line for each other row."""
        lines = [
            f"protocol {self.protocol}, split {self.split}: {self.num_subjects} subjects, "
            f"{self.num_sequences} sequences, {self.num_too_short} too short",
            self.rows[TRAINED].to_text(),
            "",
            "mean rank-1 (%)  " + "".join(f"{condition:>8}" for condition in self.chance),
        ]
        means = {name: table.means for name, table in self.rows.items()} | {"chance": self.chance}
        lines += [
            f"{name:<17}" + "".join(f"{values[condition]:8.1f}" for condition in self.chance)
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
    num_workers: int = 1,
    num_threads: int = 1,
) -> Benchmark:
    """Embed the test subjects and fill the protocol's tables.

    Args:
        model: Folder of a saved model.
        shards: Folder of shards.
        scratch: Folder that all workers see, for the untrained network; `None` leaves the
            untrained network and the GEI out.
        split: Split whose test subjects are scored, where the shards are of another data set than
            the model was trained on; empty: the recipe's `data.test_split`, or its `data.split`.
        protocol: Protocol of that data set; empty: the recipe's.
        num_workers: Actors that embed; 0 embeds in this process, without Ray.
        num_threads: Threads of torch and logical CPUs an actor.

    Raises:
        SplitMismatch: The shards do not hold the subjects of the recipe's split.
        DatasetError: No test sequence, or the protocol is unknown.
        RegistryError: `model` is not a saved model.
    """
    saved = load_model(model)
    data = saved.recipe.data
    split = split or data.test_split or data.split
    rules = datasets_protocols.protocol(protocol or data.protocol)
    present = reader.read_rows(shards, columns=["subject"])["subject"].to_pylist()
    test = splits.split(split, present).test

    def embedded(folder: Path) -> Embeddings:
        return embed(
            shards, folder, subjects=test, num_workers=num_workers, num_threads=num_threads
        )

    def table(embeddings: Embeddings) -> CrossViewTable:
        return evaluate_cross_view(
            embeddings.values,
            embeddings.subjects,
            embeddings.conditions,
            embeddings.views,
            rules,
        )

    trained = embedded(model)
    rows = {TRAINED: table(trained)}
    if scratch is not None:
        untrained = initial_model(saved.recipe, saved.subjects)
        save_model(scratch / "untrained", untrained.network, saved.recipe, saved.subjects, step=0)
        rows[UNTRAINED] = table(embedded(scratch / "untrained"))
        # The same frames of the same sequences as the network saw, as silhouettes in any case.
        is_silhouettes = data.modality == "silhouettes"
        averages = average_silhouettes(
            shards,
            height_px=data.height_px if is_silhouettes else DataOptions().height_px,
            width_px=data.width_px if is_silhouettes else DataOptions().width_px,
            sequence_ids=trained.sequence_ids,
        )
        rows[AVERAGED] = table(averages)
    return Benchmark(
        protocol=rules.name,
        split=split,
        num_subjects=len(set(trained.subjects)),
        num_sequences=len(trained),
        num_too_short=trained.num_too_short,
        rows=rows,
        chance=chance(trained.subjects, trained.conditions, trained.views, rules),
        recipe=saved.recipe.name,
        step=saved.step,
        shards_digest=reader.digest(shards),
    )


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """MLflow metrics of a `Benchmark.to_dict()`: `casiab/NM/rank1`, `casiab/NM/rank1-untrained`."""
    metrics = {}
    for row, table in evaluation["rows"].items():
        for probe_set, value in table["means"].items():
            if value is not None:
                suffix = "" if row == TRAINED else f"-{row}"
                metrics[f"{evaluation['protocol']}/{probe_set}/rank1{suffix}"] = float(value)
    for probe_set, value in evaluation["chance"].items():
        metrics[f"{evaluation['protocol']}/{probe_set}/rank1-chance"] = float(value)
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not an evaluation: {error!r}") from error
    if scored != (saved.recipe.name, saved.step):
        raise DatasetError(
            f"{path}: scores {scored[0]} at step {scored[1]}, the model is {saved.recipe.name} at "
            f"step {saved.step}; evaluate it first"
        )
    return metrics


def score_model(model: Path, shards: Path) -> dict[str, float]:
    """Mean rank-1 a probe set, computed in this process: what a search compares its trials by.

    Raises:
        RaygaitError: As `run_benchmark`.
    """
    return run_benchmark(model, shards, num_workers=0).rows[TRAINED].means
