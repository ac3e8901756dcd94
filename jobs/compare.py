"""Embed the sequences of a folder of shards with a model, and print how far apart they are.

    python jobs/compare.py --model models:/gait@champion --shards shards/mine --out distances.json

Nobody has to be labelled: this is for one's own clips. Small distances are alike walks. How small
is small depends on the model and the camera; compare with clips whose people you know.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait import ray_session


@dataclass(frozen=True)
class Options:
    """Embed the sequences of a folder of shards, and print how far apart they are."""

    model: str
    """A checkpoint's folder, a training run's folder, or models:/NAME@ALIAS."""
    shards: Path
    """Folder of shards, readable under this path by every node."""
    out: Path = Path("runs/distances.json")
    """File for labels and distances, on storage that all nodes share."""
    num_workers: int = 1
    """Actors that embed; 0 embeds in this process, without Ray."""
    num_threads: int = 1
    """Threads and logical CPUs an actor."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""


def main() -> int:
    """Parse, embed, print and write the distances."""
    options = tyro.cli(Options, prog="compare.py", description=__doc__)
    # Imported late: torch and MLflow take seconds that --help need not wait for.
    from raygait.evaluation.distances import part_distances
    from raygait.evaluation.embed import embed
    from raygait.experiments import tracking
    from raygait.experiments.resolve import resolve_model

    uri = tracking.prepare(options.tracking_uri) if options.model.startswith("models:/") else ""
    out = options.out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    shards = options.shards.absolute()
    # Beside the result, because all nodes see that folder.
    with tempfile.TemporaryDirectory(prefix=".model-", dir=out.parent) as folder:
        model = resolve_model(options.model, tracking_uri=uri, scratch=Path(folder)).absolute()
        if options.num_workers:
            with ray_session.start(address=options.address):
                embeddings = embed(
                    shards, model, num_workers=options.num_workers, num_threads=options.num_threads
                )
        else:
            embeddings = embed(shards, model, num_workers=0)
    distances = part_distances(embeddings.values, embeddings.values)
    labels = embeddings.sequence_ids
    width = max(len(label) for label in labels)
    for label, row in zip(labels, distances, strict=True):
        print(f"{label:<{width}}" + "".join(f"{value:7.2f}" for value in row))
    if embeddings.num_too_short:
        print(f"{embeddings.num_too_short} sequences are too short for this model and left out")
    values = [[round(float(value), 4) for value in row] for row in distances]
    out.write_text(json.dumps({"labels": labels, "values": values}, indent=1) + "\n")
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
