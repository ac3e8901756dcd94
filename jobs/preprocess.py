"""Turn raw clips, silhouettes or OpenGait's pickles into shards that training and evaluation read.

    python jobs/preprocess.py --dataset videos --root clips/ --out shards/mine
    python jobs/preprocess.py --dataset casiab --root CASIA-B/ --out shards/casiab --num-workers 8
    python jobs/preprocess.py --dataset grew --root GREW-pkl/ --index-only --index-report grew.json

Run it again after a crash, or after clips were added: it does what is missing and nothing else.
What cannot be used ends in `OUT/rejects/` with a reason, and the tally is printed at the end. On a
cluster (`--address`, or `ray job submit --working-dir . -- python jobs/preprocess.py ...`) both
folders have to be on storage that all nodes share. Exit code 1: too many sources gave no row, or
the run failed; what is written stays.
"""

from __future__ import annotations

import json
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
    """Turn raw clips, silhouettes or OpenGait's pickles into shards."""

    dataset: Literal[tuple(sorted(DATASETS))]  # type: ignore[valid-type]
    """Which data set. The benchmarks (casiab, oumvlp, grew, gait3d, ccpg, sustech1k) are read as
    their owners distribute them and as OpenGait arranges them, SUBJECT/CONDITION/VIEW/*.pkl.

    folder: SUBJECT/CONDITION/VIEW, each a clip, a .pkl, or a folder of masks, pictures or pickles.
    manifest: a CSV or Parquet table of path, subject, condition, view and, if you like, kind.
    videos: clips, nested as you like; SUBJECT/CONDITION/VIEW.mp4 says who walks."""
    root: Path
    """Folder of the data set; for manifest the table, or its folder."""
    out: Path | None = None
    """Folder of shards; made if missing, brought up to date if there."""
    index_only: bool = False
    """Look through the folders, print what is there, missing, extra, duplicated and unreadable, and
    do nothing else."""
    index_report: Path | None = None
    """Write that report as JSON, with every finding, to this file."""
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
    beside: bool = False
    """Join to raw masks what their owners have put beside them, as far as --video.modalities names
    it: poses (oumvlp, grew, gait3d, sustech1k) and colours (ccpg, sustech1k). A frame without is
    left out, a sequence without any is a reject, so that silhouettes are fewer than those that
    benchmarks are scored with."""
    address: str | None = None
    """Ray cluster to use; a local one if left out and none is named in the environment."""
    video: VideoSettings = field(default_factory=VideoSettings)
    """What becomes of a clip; of masks and pickles only the modalities matter, as far as they can
    be had."""


def main() -> int:
    """Parse, index, ingest, print the reports."""
    options = tyro.cli(Options, prog="preprocess.py", description=__doc__)
    if options.out is None and not options.index_only:
        print("error: name a folder of shards: --out, or --index-only", file=sys.stderr)
        return 2
    adapter = DATASETS[options.dataset]
    scan = adapter.scan(options.root, dataset=options.dataset_name)
    if options.index_only or options.index_report:
        survey = adapter.report(scan)
        if options.index_report:
            text = json.dumps(survey.to_dict(), indent=1) + "\n"
            options.index_report.write_text(text, encoding="utf-8")
        print(_shown(survey.to_text()))
    if options.out is None or options.index_only:
        return 0
    report = ingest(
        scan.sequences,
        scan.root,
        options.out,
        options.video,
        num_workers=options.num_workers,
        address=options.address,
        overwrite=options.overwrite,
        beside=options.beside,
    )
    print(report.to_text())
    findings = adapter.report(scan).to_line()
    if findings:
        print(f"{_shown(findings)}; see --index-only")
    if report.reject_share > options.max_reject_share:
        print(
            f"error: {report.reject_share:.1%} of the sources gave no row, "
            f"--max-reject-share is {options.max_reject_share:.1%}",
            file=sys.stderr,
        )
        return 1
    return 0


def _shown(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(console.run(main))
