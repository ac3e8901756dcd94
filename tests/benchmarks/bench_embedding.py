"""Embedding a folder of shards: `python -m tests.benchmarks embedding`.

Ours is everything from the shard's bytes to the Parquet file of embeddings, as a worker does it,
and reading the model twice and one blank pass, which count among so few sequences.
Theirs is the same network on the same frames, decoded already, one sequence at a time, which is all
that public code does. One CPU each, in processes of their own. Nearly all of the time is the
convolutions' either way: what there is to be won on a CPU is memory that is kept from one layer to
the next, and of a small network batches. A GPU was not measured. Lengths are 40 to 100 frames,
hardly two alike, as real ones are; `equal` are all 60. `farthest` is the largest difference of any
number, over the largest of the numbers.

Last, two workers beside one process of two threads, seconds on the clock: workers have to start.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from raygait import ray_session
from raygait.evaluation.embed import KEEP_FREED_MEMORY
from raygait.evaluation.embed_shards import embed_shards
from raygait.evaluation.embedding_files import read_embeddings
from raygait.recipes import named
from raygait.recipes.saved_model import initial_model, load_model, save_model
from tests.evaluation.shards_to_embed import Walk, frames_of, write_shards

_COMMAND = "python -m tests.benchmarks embedding"
# Recipe, sequences, whether they are equally long; the large networks take seconds a sequence.
_CASES = (
    ("gaitgl-casiab", 4, False),
    ("gaitbase-casiab", 4, False),
    ("gaitset-casiab", 16, False),
    ("gaitgl-demo", 48, False),
    ("gaitgl-demo", 48, True),
)
_NUM_FOR_TWO = 16


def measure() -> list[dict[str, object]]:
    """One row a claim."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="raygait-bench-") as name:
        folder = Path(name)
        for recipe in {recipe for recipe, _, _ in _CASES}:
            saved = initial_model(named.recipe(recipe), [f"{n:03d}" for n in range(74)])
            save_model(folder / recipe, saved.network, saved.recipe, saved.subjects, step=0)
        for recipe, num, is_equal in _CASES:
            rows += _beside_one_by_one(folder, recipe, _walks(num, is_equal=is_equal), is_equal)
        rows.append(_two_workers(folder, "gaitbase-casiab"))
    return rows


def _walks(num: int, *, is_equal: bool = False) -> list[Walk]:
    lengths = np.random.default_rng(0).integers(40, 101, num).tolist()
    return [Walk(f"{n:03d}", 60 if is_equal else t, n) for n, t in enumerate(lengths)]


def _beside_one_by_one(
    folder: Path, recipe: str, walks: list[Walk], is_equal: bool
) -> list[dict[str, object]]:
    model, root = folder / recipe, Path(tempfile.mkdtemp(dir=folder))
    shards = write_shards(root / "shards", {"part-a": walks})
    # Twice in turn, and the better counts: what else the machine does only adds.
    ours_s = theirs_s = float("inf")
    for attempt in range(2):
        seconds, alone = _in_a_process({}, _one_by_one, model, walks)
        theirs_s = min(theirs_s, seconds)
        seconds = _in_a_process(KEEP_FREED_MEMORY, _all, shards, model, root / str(attempt))
        ours_s = min(ours_s, seconds)
    found = read_embeddings(root / "0")
    by_subject = dict(zip(found.subjects, found.values, strict=True))
    values = np.stack([by_subject[walk.subject] for walk in walks])
    farthest = np.abs(values - alone).max() / np.abs(alone).max()
    what = f"{recipe}, {len(walks)} sequences{', equal' if is_equal else ''}"
    num = len(walks)
    return [
        _row(f"{what}, a CPU second", num / ours_s, num / theirs_s, theirs_s / ours_s),
        _row(f"{what}, farthest from one by one", float(farthest), None, None),
    ]


def _in_a_process(environment: Mapping[str, str], call, *arguments):
    """What a call returns in a fresh process, whose allocator reads its environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(call, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _one_by_one(model: Path, walks: list[Walk]) -> tuple[float, np.ndarray]:
    torch.set_num_threads(1)
    saved = load_model(model)
    clips = [frames_of(walk) for walk in walks]
    started_s = time.process_time()
    values = [saved.embed(clip[None])[0] for clip in clips]
    return time.process_time() - started_s, np.stack(values)


def _all(shards: Path, model: Path, out: Path) -> float:
    torch.set_num_threads(1)
    started_s = time.process_time()
    embed_shards(shards, model, out, num_workers=0)
    return time.process_time() - started_s


def _two_workers(folder: Path, recipe: str) -> dict[str, object]:
    walks = _walks(_NUM_FOR_TWO)
    parts = {f"part-{n}": walks[n::8] for n in range(8)}
    shards = write_shards(folder / "shards", parts)
    with ray_session.start(num_cpus=4):
        started_s = time.perf_counter()
        embed_shards(shards, folder / recipe, folder / "two", num_workers=2)
        ours_s = time.perf_counter() - started_s
    torch.set_num_threads(2)
    started_s = time.perf_counter()
    embed_shards(shards, folder / recipe, folder / "one", num_workers=0)
    theirs_s = time.perf_counter() - started_s
    claim = f"{recipe}, {len(walks)} sequences, two workers, s; theirs: two threads"
    return _row(claim, ours_s, theirs_s, theirs_s / ours_s)


def _row(claim: str, ours: float, theirs: float | None, ratio: float | None) -> dict[str, object]:
    return {
        "part": "embedding",
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "command": _COMMAND,
    }


if __name__ == "__main__":
    for row in measure():
        print(row)  # noqa: T201
