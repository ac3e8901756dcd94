"""Turn raw clips, or folders of silhouettes, into shards that training and evaluation read.

    python jobs/preprocess.py --dataset videos --root clips/ --out shards/mine
    python jobs/preprocess.py --dataset casiab --root CASIA-B/ --out shards/casiab --num-workers 8

Run it again after a crash, or after clips were added: it does what is missing and nothing else.
What cannot be used ends in `OUT/rejects/` with a reason, and the tally is printed at the end. On a
cluster (`--address`, or `ray job submit --working-dir . -- python jobs/preprocess.py ...`) both
folders have to be on storage that all nodes share. Exit code 1: too many sources gave no row, or
the run failed; what is written stays.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait.datasets import DATASETS
from raygait.shards.ingest import ingest
from raygait.video.settings import VideoSettings


@dataclass(frozen=True)
class Options:
    """Turn raw clips, or folders of silhouettes, into shards."""

    dataset: Literal[tuple(sorted(DATASETS))]  # type: ignore[valid-type]
    """Layout of the source folder.

    casiab: silhouettes, SUBJECT/CONDITION/VIEW/*.png.
    videos: clips, nested as you like; SUBJECT/CONDITION/VIEW.mp4 says who walks."""
    root: Path
    """Folder of the data set."""
    out: Path
    """Folder of shards; made if missing, brought up to date if there."""
    dataset_name: str = ""
    """Name that the rows carry; that of the layout if left out."""
    num_workers: int | None = None
    """Processes that read and encode, and for clips as many that find people; one a CPU of the
    cluster if left out."""
    max_reject_share: float = 0.5
    """Share of sources without any row, 0..1, above which the exit code is 1."""
    overwrite: bool = False
    """Replace a folder that was written with other settings, from another data set or another
    folder, or that would lose more than half of its sources."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""
    video: VideoSettings = field(default_factory=VideoSettings)
    """What becomes of a clip; of folders of silhouettes only `silhouettes_128` among the
    modalities matters."""


def main() -> int:
    """Parse, ingest, print the report."""
    options = tyro.cli(Options, prog="preprocess.py", description=__doc__)
    name = options.dataset_name or options.dataset
    report = ingest(
        DATASETS[options.dataset].index(options.root, dataset=name),
        options.root,
        options.out,
        options.video,
        num_workers=options.num_workers,
        address=options.address,
        overwrite=options.overwrite,
    )
    print(report.to_text())
    if report.reject_share > options.max_reject_share:
        print(
            f"error: {report.reject_share:.1%} of the sources gave no row, "
            f"--max-reject-share is {options.max_reject_share:.1%}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
