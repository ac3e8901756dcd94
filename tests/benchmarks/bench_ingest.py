"""Frames a second from PNG silhouettes to shards: `python -m tests.benchmarks ingest`.

A tree of synthetic walkers named as CASIA-B, 320 x 240. `theirs` is OpenGait's pretreatment: about
1 ms of CPU a frame, so 1000 frames/s a process, start-up not counted. Ours counts the wall time of
`ingest` in a Ray session that is there, so the start of the actors is in it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pyarrow as pa

from raygait import ray_session
from raygait.sequences import GaitSequence
from raygait.shards.ingest import ingest
from raygait.shards.plan import Part, look_up
from raygait.shards.workers import Builder
from raygait.synthetic import casiab_tree

_COMMAND = "python -m tests.benchmarks ingest"
_THEIRS_FRAMES_PER_S = 1000.0
_NUM_FRAMES = 60


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as folder:
        root = Path(folder) / "tree"
        casiab_tree.write(
            root, num_subjects=24, views=("000", "054", "090", "126"), num_frames=_NUM_FRAMES
        )
        sequences = [
            GaitSequence(
                "casiab", *leaf.relative_to(root).parts, str(leaf.relative_to(root)), "silhouettes"
            )
            for leaf in sorted(root.glob("*/*/*"))
        ]
        rows.append(_one_builder(root, sequences[:64], Path(folder) / "one"))
        with ray_session.start(num_cpus=4):
            for num_workers in (1, 2):
                out = Path(folder) / f"out{num_workers}"
                report = ingest(sequences, root, out, num_workers=num_workers)
                rate = report.num_frames / report.seconds
                theirs = num_workers * _THEIRS_FRAMES_PER_S
                rows.append(
                    _row(
                        f"ingest, {num_workers} workers, {report.num_frames} frames, frames/s",
                        rate,
                        theirs,
                    )
                )
    return rows


def _one_builder(root: Path, sequences: list[GaitSequence], out: Path) -> dict[str, object]:
    part = Part("part-bench", "silhouettes", tuple(look_up(sequences, root)))
    build = Builder(str(root), str(out), "silhouettes", {"modalities": ["silhouettes"]})
    batch = pa.table({"part": [part.to_json()]})
    start_s = time.process_time()
    build(batch)
    cpu_s = time.process_time() - start_s
    rate = len(sequences) * _NUM_FRAMES / cpu_s
    return _row("read, align, encode and commit, frames/s of CPU", rate, _THEIRS_FRAMES_PER_S)


def _row(claim: str, ours: float, theirs: float) -> dict[str, object]:
    return {
        "part": "shards.ingest",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": ours / theirs,
        "command": _COMMAND,
    }


if __name__ == "__main__":
    for row in measure():
        print(  # noqa: T201
            f"{row['claim']:<60} {row['ours']:>8.0f} {row['theirs']:>8.0f} {row['ratio']:>6.2f}x"
        )
