"""Show what a network is made of: parameters, shapes, multiply-adds, and how many frames it sees.

    python jobs/describe.py gaitgl                      an architecture with its defaults
    python jobs/describe.py gaitgl-casiab               a recipe's network and clip
    python jobs/describe.py gaitgl --model.mask-strategy pixel --num-subjects 5153 --json
    python jobs/describe.py                             lists architectures and recipes
    python jobs/describe.py MODEL --help                lists every switch of that model

The network is built on the CPU with random weights and runs one clip. A line is a stage; "frames
seen" are the frames of the clip that one frame of its output depends on. Where a paper prints
sizes, its rows stand below.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait.recipes.description import Setup, describe, names, setup_of
from raygait.recipes.options import ModelOptions


@dataclass(frozen=True)
class Options:
    """Show what a network is made of."""

    model: ModelOptions
    num_subjects: int
    """Training subjects, the length of the logits."""
    num_frames: int
    """Frames of the clip that shapes and multiply-adds are of."""
    in_channels: int
    """Channels of a frame."""
    input_size: tuple[int, int]
    """Height and width of a frame in pixels."""
    json: bool = False
    """Print JSON instead of tables."""


def main() -> int:
    """Parse, measure, print."""
    words = sys.argv[1:]
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        print(f"the first word has to be a model or a recipe, got {words[0]}", file=sys.stderr)
        return 2
    if not words or words[0].startswith("-"):
        print(__doc__)
        print("Architectures and recipes:\n  " + "\n  ".join(names()))
        return 0
    start = setup_of(words[0])
    options = tyro.cli(
        Options,
        prog=f"describe.py {words[0]}",
        args=words[1:],
        default=Options(
            start.options,
            start.num_subjects,
            start.num_frames,
            start.in_channels,
            start.input_size_px,
        ),
    )
    found = describe(
        Setup(
            options.model,
            options.num_subjects,
            options.num_frames,
            options.in_channels,
            options.input_size,
        )
    )
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.to_text())
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
