"""Tables of random embeddings by OpenGait's own evaluator and by ours: the same to the digit?

    python -m tests.benchmarks.parity_protocols --peer ~/OpenGait [--seeds 5] [CASE ...]

`--peer` is a checkout that you have fetched yourself (https://github.com/ShiqiYu/OpenGait; what
follows is of commit 0efafd4). Of it `opengait/evaluation` is imported and run on the CPU, in a
folder of its own; nothing is trained.

Each case draws people, and embeddings around them, labelled as the benchmark's folders are, and
scores them by their function and by our protocol, with Euclidean and with cosine distance. What
they return is compared as it is, what they only log as it is written. Distances in float32 are
exact to 1e-6 or so, theirs and ours, and two gallery walks that are nearer to each other than that
may come in either order; so each case is run again with the same numbers given to them as doubles.
`equal` counts the first, `to doubles` the second, `to either` the numbers that are equal to one of
the two, which all have to be. `difference` is the largest of those compared as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import json
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from raygait.datasets.protocols import protocol
from raygait.datasets.splits import SequenceLists
from raygait.evaluation import submission
from raygait.evaluation.protocols import evaluate

# Cells that are rounded before the mean leave nothing but the last bit of a float.
_LAST_BIT = 1e-9


@dataclass(frozen=True)
class People:
    """Embeddings and who they are of."""

    embeddings: ndarray
    subjects: list[str]
    conditions: list[str]
    views: list[str]

    def theirs(self) -> dict[str, Any]:
        """As their evaluator takes it: parts last."""
        return {
            "embeddings": np.ascontiguousarray(self.embeddings.transpose(0, 2, 1)),
            "labels": list(self.subjects),
            "types": list(self.conditions),
            "views": list(self.views),
        }

    def ours(self) -> tuple[ndarray, list[str], list[str], list[str]]:
        """As `evaluate` takes it."""
        return self.embeddings, self.subjects, self.conditions, self.views


def draw(
    seed: int,
    subjects: list[str],
    walks: list[tuple[str, str]],
    *,
    keep: float = 1.0,
    num_parts: int = 4,
) -> People:
    """People of several walks each, half of whom are told apart; some walks are missing."""
    generator = np.random.default_rng(seed)
    middle = {each: generator.normal(size=(num_parts, 8)) for each in subjects}
    rows = [(each, *walk) for each in subjects for walk in walks if generator.random() < keep]
    values = [middle[each] + generator.normal(size=(num_parts, 8)) for each, _, _ in rows]
    names = [list(column) for column in zip(*rows, strict=True)]
    return People(np.array(values, np.float32), *names)


def _numbers(count: int, width: int, start: int = 1) -> list[str]:
    return [f"{number:0{width}d}" for number in range(start, start + count)]


class Peer:
    """Their evaluator, on the CPU and without their logger."""

    def __init__(self, folder: Path) -> None:
        code = folder / "opengait"
        if not (code / "evaluation" / "evaluator.py").is_file():
            raise SystemExit(f"{folder} is no checkout of OpenGait: no opengait/evaluation")
        self.said: list[str] = []
        self.precision: type = np.float32
        log = types.SimpleNamespace(
            log_info=lambda *words: self.said.append(" ".join(map(str, words)))
        )
        stand_in = types.ModuleType("utils")
        stand_in.get_msg_mgr = lambda: log
        stand_in.mkdir = lambda path: Path(path).mkdir(parents=True, exist_ok=True)
        stand_in.is_tensor = torch.is_tensor
        sys.modules["utils"] = stand_in
        sys.path.insert(0, str(code))
        torch.Tensor.cuda = lambda self, *_, **__: self
        self.evaluator = importlib.import_module("evaluation.evaluator")

    def run(self, function: str, people: People, *words: Any, **options: Any) -> Any:
        """Call one of their functions; what it logs is in `said`."""
        self.said.clear()
        data = people.theirs()
        data["embeddings"] = data["embeddings"].astype(self.precision)
        with contextlib.redirect_stdout(None):
            return getattr(self.evaluator, function)(data, *words, **options)

    def logged(self, title: str) -> dict[str, str]:
        """`NAME: number` pairs of the line after a title, as they are written."""
        at = next(number for number, line in enumerate(self.said) if title in line)
        return dict(re.findall(r"(\w+): ([\d.]+)", self.said[at + 1]))


# A comparison: the peer, whether cosine, seed -> our number, theirs, decimals (None: as it is).
Found = Iterator[tuple[float, float, int | None]]
_METRICS = {"": "euc", "cosine:": "cos"}


def casiab(peer: Peer, seed: int, prefix: str) -> Found:
    kinds = [("nm", 6), ("bg", 2), ("cl", 2)]
    walks = [
        (f"{kind}-{number:02d}", f"{view:03d}")
        for kind, count in kinds
        for number in range(1, count + 1)
        for view in range(0, 181, 18)
    ]
    people = draw(seed, _numbers(13, 3, 75), walks)
    theirs = peer.run("evaluate_indoor_dataset", people, "CASIA-B", _METRICS[prefix])
    ours = evaluate(*people.ours(), protocol(f"rounded:{prefix}casiab")).means
    for name in ("NM", "BG", "CL"):
        yield ours[name], theirs[f"scalar/test_accuracy/{name}@R1"], None
    theirs = peer.run(
        "evaluate_indoor_dataset", people, "CASIA-B", _METRICS[prefix], cross_view_gallery=True
    )
    ours = evaluate(*people.ours(), protocol(f"rounded:{prefix}casiab-survey")).means
    for name in ("NM", "BG", "CL"):
        yield ours[name], theirs[f"scalar/test_accuracy/{name}-Rank@1"], None
        yield ours[f"{name}/mAP"], theirs[f"scalar/test_accuracy/{name}-mAP"], None


def oumvlp(peer: Peer, seed: int, prefix: str) -> Found:
    views = [*range(0, 91, 15), *range(180, 271, 15)]
    walks = [(condition, f"{view:03d}") for condition in ("00", "01") for view in views]
    people = draw(seed, _numbers(60, 5), walks, keep=0.9)
    theirs = peer.run("evaluate_indoor_dataset", people, "OUMVLP", _METRICS[prefix])
    ours = evaluate(*people.ours(), protocol(f"rounded:{prefix}oumvlp")).means
    yield ours["rank1"], theirs["scalar/test_accuracy/NM@R1"], None
    theirs = peer.run(
        "evaluate_indoor_dataset", people, "OUMVLP", _METRICS[prefix], cross_view_gallery=True
    )
    ours = evaluate(*people.ours(), protocol(f"rounded:{prefix}oumvlp-survey")).means
    yield ours["rank1"], theirs["scalar/test_accuracy/NM-Rank@1"], None
    yield ours["mAP"], theirs["scalar/test_accuracy/NM-mAP"], None


def grew(peer: Peer, seed: int, prefix: str) -> Found:
    people = draw(seed, _numbers(300, 5), [("01", "a"), ("02", "b")], keep=0.95)
    probes = draw(seed + 1000, ["probe"], [("03", f"{number:06x}") for number in range(200)])
    both = People(
        np.concatenate([people.embeddings, probes.embeddings]),
        people.subjects + probes.subjects,
        people.conditions + probes.conditions,
        people.views + probes.views,
    )
    theirs = peer.run("evaluate_real_scene", both, "GREW", _METRICS[prefix])
    ours = evaluate(*both.ours(), protocol(f"rounded:{prefix}grew")).means
    yield ours["rank1"], theirs["scalar/test_accuracy/Rank-1"], None
    yield ours["rank5"], theirs["scalar/test_accuracy/Rank-5"], None
    for k in (10, 20):
        at = peer.said.index(f"==Rank-{k}==")
        yield ours[f"rank{k}"], float(peer.said[at + 1]), 3

    with _in_new_folder() as folder:
        peer.run("GREW_submission", both, "GREW", _METRICS[prefix])
        (written,) = folder.glob("GREW_result/*.csv")
        rules = protocol(f"{prefix}grew-submission")
        submission.write(folder / "ours.csv", *both.ours(), rules, ["probe"])
        due = submission.expected(both.subjects, both.conditions, both.views, rules, ["probe"])
        yield submission.check(written, rules, due), len(probes.subjects), None
        files = [list(csv.reader(each.open())) for each in (folder / "ours.csv", written)]
    yield float(files[0][0] == files[1][0]), 1.0, None
    lines = [{line[0]: line[1:] for line in file[1:]} for file in files]
    yield sum(lines[0][video] == lines[1][video] for video in lines[1]), len(lines[1]), None


def gait3d(peer: Peer, seed: int, prefix: str) -> Found:
    walks = [(f"camid{n}_videoid{n % 3}", f"seq{n % 2}") for n in range(7)]
    people = draw(seed, _numbers(150, 4), walks, keep=0.4)
    names = [
        "-".join(labels)
        for labels in zip(people.subjects, people.conditions, people.views, strict=True)
    ]
    first = dict(zip(people.subjects, names, strict=True))
    probes = sorted(first.values())
    with _in_new_folder() as folder:
        (folder / "datasets" / "Gait3D").mkdir(parents=True)
        text = json.dumps({"PROBE_SET": probes})
        (folder / "datasets" / "Gait3D" / "Gait3D.json").write_text(text)
        theirs = peer.run("evaluate_Gait3D", people, "Gait3D", _METRICS[prefix])
    table = evaluate(
        *people.ours(), protocol(f"{prefix}gait3d"), lists=SequenceLists(frozenset(probes))
    )
    assert table.num_without_gallery > 0, "some probes are to have nobody in the gallery"
    for ours, name in {
        "rank1": "Rank-1",
        "rank5": "Rank-5",
        "rank10": "Rank-10",
        "mAP": "mAP",
        "mINP": "mINP",
    }.items():
        yield table.means[ours], float(theirs[f"scalar/test_accuracy/{name}"]), 3


def ccpg(peer: Peer, seed: int, prefix: str) -> Found:
    conditions = ["U0_D0", "U0_D0_BG", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3"]
    walks = [(c, f"{camera}_{take}") for c in conditions for camera in range(5) for take in "ab"]
    people = draw(seed, _numbers(25, 3, 100), walks, keep=0.8)
    theirs = peer.run("evaluate_CCPG", people, "CCPG", _METRICS[prefix])
    means = evaluate(*people.ours(), protocol(f"{prefix}ccpg")).means
    for title, metric in (("Rank-1", ""), ("mAP", "/mAP"), ("mINP", "/mINP")):
        logged = peer.logged(f"==={title} (Exclude identical-view cases for Person")
        for name in ("CL", "UP", "DN", "BG"):
            yield means[name + metric], float(logged[name]), 3
    table = evaluate(*people.ours(), protocol(f"rounded:{prefix}ccpg-gait"))
    included = peer.logged("===Rank-1 (Include identical-view cases)")
    for name in ("CL", "UP", "DN", "BG"):
        cells = theirs[f"scalar/test_accuracy/{name}"]
        yield table.means[name], peer.evaluator.de_diag(cells), None
        yield table.means[f"{name}/rank1-with-identical"], float(np.mean(cells)), None
        yield table.means[f"{name}/rank1-with-identical"], float(included[name]), 3


def sustech1k(peer: Peer, seed: int, prefix: str) -> Found:
    conditions = ["00-nm", "01-nm", "01-bg", "02-cl", "02-cr-ub", "03-uf-oc", "04-nt-bg"]
    views = [f"{view:03d}{far}" for view in (0, 45, 90, 180) for far in ("", "-far", "-near")]
    people = draw(seed, _numbers(20, 4), [(c, view) for c in conditions for view in views])
    theirs = peer.run("evaluate_indoor_dataset", people, "SUSTech1K", _METRICS[prefix])
    means = evaluate(*people.ours(), protocol(f"rounded:{prefix}sustech1k")).means
    logged = dict(re.findall(r"(\w+@R\d): ([\d.]+)%", " ".join(peer.said)))
    for name in protocol("sustech1k").sets:
        spelt = {"Umbrella": "Umberalla"}.get(name, name)
        yield means[name], theirs[f"scalar/test_accuracy/{spelt}@R1"], None
        yield means[f"{name}/rank5"], float(logged[f"{spelt}@R5"]), 2


def ttg200(peer: Peer, seed: int, prefix: str) -> Found:
    walks = [(f"{number}", f"{view}") for number in range(1, 7) for view in range(12)]
    people = draw(seed, _numbers(20, 3, 121), walks, keep=0.95)
    theirs = peer.run("evaluate_real_scene", people, "TTG-200", _METRICS[prefix])
    ours = evaluate(*people.ours(), protocol(f"rounded:{prefix}ttg200")).means
    yield ours["rank1"], theirs["scalar/test_accuracy/Rank-1"], None


CASES: Mapping[str, Callable[[Peer, int, str], Found]] = {
    "casiab, both protocols": casiab,
    "oumvlp, both protocols": oumvlp,
    "grew, check and file": grew,
    "gait3d": gait3d,
    "ccpg, both protocols": ccpg,
    "sustech1k": sustech1k,
    "ttg200": ttg200,
}


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="checkout of OpenGait")
    parser.add_argument("--seeds", type=int, default=5, help="draws of each case")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="beginnings of names; all")
    options = parser.parse_args()
    peer = Peer(options.peer.absolute())
    commit = subprocess.run(
        ["git", "-C", str(options.peer), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    print(f"OpenGait {commit or 'of an unknown commit'}, torch {torch.__version__}\n")  # noqa: T201
    print("| case | numbers | equal | to doubles | to either | difference |")  # noqa: T201
    print("|---|---:|---:|---:|---:|---:|")  # noqa: T201
    num_wrong = 0
    for name, case in CASES.items():
        if options.cases and not name.startswith(tuple(options.cases)):
            continue
        singles, doubles = (
            _compared(peer, case, options.seeds, precision)
            for precision in (np.float32, np.float64)
        )
        either = [a if _is_equal(*a) else b for a, b in zip(singles, doubles, strict=True)]
        equal = [sum(_is_equal(*each) for each in found) for found in (singles, doubles, either)]
        exact = [abs(ours - theirs) for ours, theirs, digits in either if digits is None]
        difference = f"{max(exact):.1e}" if exact else "as written"
        cells = [name, len(either), *equal, difference]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)  # noqa: T201
        num_wrong += len(either) - equal[-1]
    print(f"\n{num_wrong} numbers differ")  # noqa: T201
    return 0 if num_wrong == 0 else 1


def _compared(
    peer: Peer, case: Callable[[Peer, int, str], Found], num_seeds: int, precision: type
) -> list[tuple[float, float, int | None]]:
    peer.precision = precision
    return [
        each
        for prefix in _METRICS
        for seed in range(num_seeds)
        for each in case(peer, seed, prefix)
    ]


def _is_equal(ours: float, theirs: float, digits: int | None) -> bool:
    if digits is None:
        return abs(ours - theirs) <= _LAST_BIT
    return f"{ours:.{digits}f}" == f"{theirs:.{digits}f}"


@contextlib.contextmanager
def _in_new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
