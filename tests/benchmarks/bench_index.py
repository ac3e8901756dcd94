"""Data sets in: `python -m tests.benchmarks index`.

A tree of 270,000 sequences of OU-MVLP as OpenGait arranges it (one pickle a leaf, every folder and
link real), and one of masks, 20 a leaf. `theirs` is what OpenGait does at every start: three levels
of sorted `os.listdir`, and one of each leaf; it checks nothing. The tree was just written, so the
file system's cache is warm. Pickles in are CPU seconds of one builder, from the file to the
committed Parquet part: digest, read, check, encode, write; `theirs` of reading alone is
`pickle.loads`.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raygait.datasets import DATASETS
from raygait.datasets.pickles import parse_array
from raygait.sequences import GaitSequence
from raygait.shards.plan import Part, look_up
from raygait.shards.workers import Builder
from raygait.synthetic.benchmark_trees import Walk, file_of, folder_of, walks, write_tree
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.alignment import align

_COMMAND = "python -m tests.benchmarks index"
_NUM_SUBJECTS = 9_643  # of 28 sequences each: 270,004
_NUM_MASKED_SUBJECTS, _NUM_MASKS = 200, 20
_NUM_FRAMES = 90


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    folder = Path(tempfile.mkdtemp(prefix="raygait-bench-"))
    try:
        return [
            *_index_rows(folder / "pickled", "opengait", _NUM_SUBJECTS, 1),
            *_index_rows(folder / "masks", "raw", _NUM_MASKED_SUBJECTS, _NUM_MASKS),
            *_pickle_rows(folder / "walkers", folder / "out"),
        ]
    finally:
        shutil.rmtree(folder)


def _index_rows(
    root: Path, layout: str, num_subjects: int, num_files: int
) -> list[dict[str, object]]:
    some = list(walks("oumvlp", num_subjects=num_subjects))
    assert layout in ("raw", "opengait")
    write_tree(root, "oumvlp", layout, some)  # type: ignore[arg-type]
    for walk in some if num_files > 1 else ():
        leaf = root / folder_of("oumvlp", "raw", walk)
        content = (leaf / file_of("oumvlp", "raw", walk)).read_bytes()
        for frame in range(1, num_files):
            (leaf / file_of("oumvlp", "raw", walk, frame)).write_bytes(content)
    adapter = DATASETS["oumvlp"]
    scan, wall_s, cpu_s = _timed(lambda: adapter.scan(root))
    assert len(scan.sequences) == len(some)
    _, survey_s, _ = _timed(lambda: adapter.report(scan))
    _, theirs_s, theirs_cpu_s = _timed(lambda: _as_opengait(root, layout))
    sources, states_s, _ = _timed(lambda: look_up(scan.sequences, root))
    assert len(sources) == len(some)
    what = f"of {len(some)} sequences, {num_files} file{'s' if num_files > 1 else ''} each"
    return [
        _row(f"index {what}, wall s", wall_s, theirs_s, smaller_is_better=True),
        _row(f"index {what}, CPU s", cpu_s, theirs_cpu_s, smaller_is_better=True),
        _row(f"report of missing and extra {what}, wall s", survey_s, None),
        _row(f"state of every file before an ingest {what}, wall s", states_s, None),
    ]


def _as_opengait(root: Path, layout: str) -> list[list[object]]:
    """Names of all leaves and of their files, by sorted listings."""
    found: list[list[object]] = []
    for first in sorted(os.listdir(root)):  # noqa: PTH208
        for second in sorted(os.listdir(root / first)):  # noqa: PTH208
            inner = os.path.join(root, first, second)  # noqa: PTH118
            thirds = sorted(os.listdir(inner)) if layout == "opengait" else [""]  # noqa: PTH208
            for third in thirds:
                leaf = os.path.join(inner, third)  # noqa: PTH118
                names = sorted(os.listdir(leaf))  # noqa: PTH208
                found.append([first, second, third, [os.path.join(leaf, n) for n in names]])  # noqa: PTH118
    return found


def _pickle_rows(root: Path, out: Path) -> list[dict[str, object]]:
    clips = {
        number: np.stack(
            [
                align(mask)
                for mask in render_masks(
                    Walker.from_seed(number),
                    condition="nm-01",
                    view_deg=18 * number,
                    num_frames=_NUM_FRAMES,
                )
            ]
        )
        for number in range(8)
    }
    some = list(walks("casiab", num_subjects=2))[:128]

    def frames(walk: Walk) -> np.ndarray:
        return clips[(int(walk.view) // 18 + int(walk.subject)) % len(clips)]

    write_tree(root, "casiab", "opengait", some, frames=frames)
    sequences = DATASETS["casiab"].index(root)
    part = Part("part-bench", "pickles", tuple(look_up(sequences, root)))
    build = Builder(str(root), str(out), "pickles", {"modalities": ["silhouettes"]})
    batch = pa.table({"part": [part.to_json()]})
    summary, _, cpu_s = _timed(lambda: build(batch))
    assert summary["failure"].to_pylist() == [None]
    num_frames = _NUM_FRAMES * len(some)
    contents = [_content(root, sequence) for sequence in sequences]
    _, _, parse_s = _timed(lambda: [parse_array(content, "a.pkl") for content in contents])
    _, _, theirs_s = _timed(lambda: [pickle.loads(content) for content in contents])
    return [
        _row("OpenGait's pickles into shards, frames/s of CPU", num_frames / cpu_s, None),
        _row(
            "a pickled array read, sequences/s of CPU",
            len(contents) / parse_s,
            len(contents) / theirs_s,
        ),
    ]


def _content(root: Path, sequence: GaitSequence) -> bytes:
    (path,) = (root / sequence.source).iterdir()
    return path.read_bytes()


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, its wall seconds and its CPU seconds."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall_s, time.process_time() - cpu_s


def _row(
    claim: str, ours: float, theirs: float | None, *, smaller_is_better: bool = False
) -> dict[str, object]:
    ratio = None
    if theirs is not None:
        ratio = theirs / ours if smaller_is_better else ours / theirs
    return {
        "part": "datasets",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "command": _COMMAND,
    }


if __name__ == "__main__":
    for row in measure():
        print(row["claim"], row["ours"], row["theirs"], row["ratio"])  # noqa: T201
