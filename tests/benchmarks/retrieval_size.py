"""Rank N probes against N gallery sequences: `python -m tests.benchmarks.retrieval_size 5000`.

Prints CPU and wall seconds of the ranking and the peak memory of the process, embeddings included:
random ones of 16 parts by 256, float32. OU-MVLP's test set has about 67,000 of either side. Memory
grows as N and time as N^2.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy import ndarray

from raygait.evaluation.ranking import rank
from raygait.evaluation.verification import verify

NUM_PARTS, NUM_NUMBERS = 16, 256
# Noise of a sequence, per number, on a subject of length-one numbers: rank-1 is neither 0 nor 1.
_NOISE = 4.0


def main() -> int:
    """Rank once and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", type=int, metavar="N", help="probes, and gallery sequences")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--metric", choices=("euclidean", "cosine"), default="euclidean")
    parser.add_argument("--per-subject", type=int, default=10, help="gallery sequences a subject")
    parser.add_argument("--first-hit-only", action="store_true", help="no mAP and mINP")
    parser.add_argument("--verify", action="store_true", help="EER and TAR instead of ranks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    probe, gallery, subjects = embeddings(options.size, options.per_subject)
    idle_mb = _peak_mb()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    kind = {"metric": options.metric, "device": options.device}
    if options.verify:
        result = verify(probe, gallery, subjects, subjects, **kind)
        scores = f"EER {result.eer:.4f}, TAR {result.tar}, off by {result.max_error:.1e} at most"
    else:
        ranks = rank(
            probe, gallery, subjects, subjects, precision=not options.first_hit_only, **kind
        )
        scores = (
            f"rank-1 {(ranks.first_hit == 1).mean():.4f}, "
            f"mAP {ranks.average_precision.mean():.4f}, mINP {ranks.inverse_penalty.mean():.4f}"
        )
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    print(  # noqa: T201
        f"{options.size} x {options.size} of {NUM_PARTS} parts by {NUM_NUMBERS}, {options.metric}, "
        f"{options.threads} threads: {wall_s:.2f} s, {cpu_s:.2f} CPU s; peak {_peak_mb():.0f} MB, "
        f"{idle_mb:.0f} of it before; {scores}"
    )
    return 0


def embeddings(
    size: int, per_subject: int
) -> tuple[Float32[ndarray, "n p d"], Float32[ndarray, "n p d"], Int64[ndarray, " n"]]:
    """Probes, gallery and the subjects of both, from a fixed seed."""
    generator = np.random.default_rng(0)
    subjects = np.arange(size) // per_subject
    shape = (NUM_PARTS, NUM_NUMBERS)
    sides = np.empty((2, size, *shape), dtype=np.float32)
    for first in range(0, size, per_subject):
        rows = slice(first, min(first + per_subject, size))
        person = generator.standard_normal(shape, dtype=np.float32)
        for side in sides:
            generator.standard_normal(out=side[rows], dtype=np.float32)
            side[rows] *= _NOISE
            side[rows] += person
    return sides[0], sides[1], subjects


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
