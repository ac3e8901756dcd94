"""Make one page of pictures and tables of what the other jobs have left on disk.

    python jobs/report.py --shards runs/demo/real runs/demo/walkers --run runs/demo/train
        --out runs/demo/report.html

The page is one HTML file that needs no network: contact sheets of the people found in video,
rejects with reasons, walkers of known identity, training curves, the benchmark table, the distance
matrix, the grid, versions and times. Of a run these files are shown, where they are: history.jsonl,
recipe.json, evaluation.json, distances.json, grid.txt, timings.json, commands.json. What is missing
is left out, and the page says so at its end.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait.figures.gathering import gather
from raygait.figures.report import ABOUT, write_report


@dataclass(frozen=True)
class Options:
    """Make one page of pictures and tables of what the other jobs have left on disk."""

    out: Path
    """HTML file to write."""
    shards: tuple[Path, ...] = ()
    """Folders of shards: of clips, of walkers, or of both."""
    run: tuple[Path, ...] = ()
    """Folders of a run; a file that several have is read from the first."""
    title: str = "raygait"
    """Heading of the page."""
    about: str = ABOUT
    """What this is, a sentence or two."""
    about_walkers: str = ""
    """What the walkers of known identity are, such as that they are synthetic."""
    max_tracks: int = 12
    """People found in video that get a strip of pictures; all are listed."""
    max_subjects: int = 8
    """Walkers of known identity that are shown."""


def main() -> int:
    """Parse, read, write the page."""
    options = tyro.cli(Options, prog="report.py", description=__doc__)
    report = gather(
        options.shards,
        options.run,
        title=options.title,
        about=options.about,
        about_walkers=options.about_walkers,
        max_tracks=options.max_tracks,
        max_subjects=options.max_subjects,
        commands=[("Make this page", shlex.join(["python", "jobs/report.py", *sys.argv[1:]]))],
    )
    write_report(options.out, report)
    for sentence in report.missing:
        print(f"left out: {sentence}")
    print(f"page: {options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
