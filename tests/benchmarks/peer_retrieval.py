"""CMC, mAP and mINP beside OpenGait's evaluator: the same embeddings, a process for each side.

    python -m tests.benchmarks.peer_retrieval --peer ~/OpenGait [--size 5000] [--rounds 3]

`--peer` is a checkout that you have fetched yourself, as in `parity_opengait`. Theirs is what its
Gait3D evaluation does: `cuda_dist`, then `evaluate_rank`, with subjects as text. Its `.cuda()` is
made to return the tensor as it is, and of its `utils` only what the file imports is there, so that
it runs without a GPU, torchvision and tensorboard. Sides take turns; each figure is the best of the
rounds, in CPU seconds of the process, and its peak memory, embeddings included. Only ranking is
timed. The scores of both are printed: they are to be the same.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray

from raygait.evaluation.ranking import rank
from tests.benchmarks.retrieval_size import embeddings

_RANKS = (1, 5, 10)


def main() -> int:
    """Run both sides in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="checkout of OpenGait")
    parser.add_argument("--size", type=int, default=5000, help="probes, and gallery sequences")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.peer / "opengait" / "evaluation" / "metric.py").is_file():
        raise SystemExit(f"{options.peer} is no checkout of OpenGait: no opengait/evaluation")
    torch.set_num_threads(options.threads)
    if options.side:
        _say(json.dumps(_measure(options.side, options.peer, options.size)))
        return 0
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for _ in range(options.rounds):
        for side, results in runs.items():
            command = [sys.executable, "-m", "tests.benchmarks.peer_retrieval", *sys.argv[1:]]
            done = subprocess.run([*command, "--side", side], check=True, capture_output=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    _say("| side | CPU s | s | peak MB | rank-1, 5, 10, mAP, mINP (%) |")
    _say("|---|---:|---:|---:|---|")
    best = {}
    for side, results in runs.items():
        best[side] = min(result["cpu_s"] for result in results)
        wall_s = min(result["wall_s"] for result in results)
        peak_mb = max(result["peak_mb"] for result in results)
        scores = ", ".join(f"{score:.3f}" for score in results[0]["scores"])
        _say(f"| {side} | {best[side]:.2f} | {wall_s:.2f} | {peak_mb:.0f} | {scores} |")
    _say(f"theirs / ours, CPU s: {best['theirs'] / best['ours']:.1f}")
    return 0


def _measure(side: str, peer: Path, size: int) -> dict[str, Any]:
    probe, gallery, numbers = embeddings(size, 10)
    subjects = np.array([f"{number:04d}" for number in numbers])
    if side == "theirs":
        metric = _their_metric(peer)
        # They keep parts last.
        probe, gallery = _parts_last(probe), _parts_last(gallery)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    if side == "ours":
        ranks = rank(probe, gallery, subjects, subjects)
        cmc = [float((ranks.first_hit <= k).mean()) for k in _RANKS]
        precisions, penalties = ranks.average_precision, ranks.inverse_penalty
    else:
        distances = metric.cuda_dist(probe, gallery).cpu().numpy()
        curve, precisions, penalties = metric.evaluate_rank(distances, subjects, subjects)
        cmc = [float(curve[k - 1]) for k in _RANKS]
    scores = [*cmc, float(np.mean(precisions)), float(np.mean(penalties))]
    return {
        "cpu_s": time.process_time() - started_cpu_s,
        "wall_s": time.perf_counter() - started_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "scores": [100 * score for score in scores],
    }


def _parts_last(values: Float32[ndarray, "n p d"]) -> Float32[ndarray, "n d p"]:
    return np.ascontiguousarray(values.transpose(0, 2, 1))


def _their_metric(peer: Path) -> Any:
    utils: Any = types.ModuleType("utils")
    utils.is_tensor = torch.is_tensor
    sys.modules["utils"] = utils
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    sys.path.insert(0, str(peer / "opengait"))
    return importlib.import_module("evaluation.metric")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
