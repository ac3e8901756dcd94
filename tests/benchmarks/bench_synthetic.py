"""Walkers, how fast and how hard to tell apart: `python -m tests.benchmarks synthetic`.

Speeds count CPU seconds of one core, so that a busy machine does not blur them. There is no
`theirs`: the figures to hold are 1000 masks/s and a GEI cross-view rank-1 of 25-50 % (NM).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from raygait.datasets.protocols import CASIAB
from raygait.evaluation.protocols import chance, evaluate
from raygait.synthetic import casiab_tree
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.alignment import align

_COMMAND = "python -m tests.benchmarks synthetic"
_NUM_FRAMES = 60


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    rows = [_row("masks/s at 320x240, one core", round(_masks_per_s()))]
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as folder:
        started_s = time.process_time()
        report = casiab_tree.write(Path(folder), num_subjects=1, num_frames=_NUM_FRAMES)
        rate = report.num_frames_written / (time.process_time() - started_s)
        rows.append(_row("masks/s as PNG in a CASIA-B tree, one core", round(rate)))
    for views in ((36, 72, 108, 144), (0, 54, 90, 126)):
        named = " ".join(f"{view:03d}" for view in views)
        for probe_set, (rank_1, guess) in _averaged_silhouettes(views).items():
            claim = f"GEI rank-1 (%), {probe_set}, 12 subjects, views {named}; theirs: chance"
            rows.append(_row(claim, round(rank_1, 1), round(guess, 1)))
    return rows


def _masks_per_s() -> float:
    started_s = time.process_time()
    num_masks = 0
    for seed in range(4):
        for condition in ("nm-01", "bg-01", "cl-01"):
            for view in (0, 54, 90, 144):
                masks = render_masks(
                    Walker.from_seed(seed), condition=condition, view_deg=view, num_frames=60
                )
                num_masks += len(masks)
    return num_masks / (time.process_time() - started_s)


def _averaged_silhouettes(views: tuple[int, ...]) -> dict[str, tuple[float, float]]:
    """Probe set -> rank-1 of the nearest average silhouette, and of a guess; three dozen people."""
    groups = []
    for first in (1, 101, 201):
        averages, labels = [], []
        for number in range(first, first + 12):
            walker = casiab_tree.walker_of(0, number)
            for condition in casiab_tree.CONDITIONS:
                for view in views:
                    masks = render_masks(
                        walker, condition=condition, view_deg=view, num_frames=_NUM_FRAMES
                    )
                    aligned = np.stack([align(mask)[:, 10:54] for mask in masks])
                    averages.append(aligned.mean(axis=0, dtype=np.float32).reshape(1, -1) / 255)
                    labels.append((str(number), condition, f"{view:03d}"))
        subjects, conditions, named = zip(*labels, strict=True)
        table = evaluate(np.stack(averages), subjects, conditions, named, CASIAB)
        guesses = chance(subjects, conditions, named, CASIAB)
        groups.append({name: (mean, guesses[name]) for name, mean in table.means.items()})
    return {
        name: (
            float(np.mean([group[name][0] for group in groups])),
            float(np.mean([group[name][1] for group in groups])),
        )
        for name in groups[0]
    }


def _row(claim: str, ours: float, theirs: float | None = None) -> dict[str, object]:
    return {
        "part": "synthetic",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": None if theirs is None else round(ours / theirs, 2),
        "command": _COMMAND,
    }


if __name__ == "__main__":
    for row in measure():
        print(row)  # noqa: T201
