"""The whole product on real video, in one command: what `make demo` runs.

    python jobs/quickstart.py --out runs/demo

Real clips -> people tracked -> silhouettes and joint heatmaps in shards; synthetic walkers with
known identity -> training on two workers -> benchmark -> a version in the MLflow registry under the
alias `champion` -> that version loaded back in another process to embed the people of the real
clips -> OUT/report.html. Each step is one of the other jobs, printed as it would be typed.

The clips come with two packages of the Python package index (Sports2D and Pose2Sim, BSD-3) and stay
in the asset cache. Licensed benchmarks cannot be shipped, hence walkers; their numbers say that the
system works, not how good it is on people.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console

_JOBS = Path(__file__).resolve().parent
# Angles from CASIA-B's eleven, far enough apart that an average silhouette does not carry over.
_VIEWS = ("036", "072", "108", "144")
_WALKS = ("nm-01", "nm-02", "nm-03", "nm-04", "nm-05", "nm-06", "bg-01", "bg-02", "cl-01", "cl-02")
_MODEL = "gait-demo"
_ABOUT_WALKERS = (
    "Synthetic people: jointed bodies whose limbs, girths and gait are drawn from a seed."
)


@dataclass(frozen=True)
class Options:
    """The whole product on real video, in one command."""

    out: Path = Path("runs/demo")
    """Folder for everything. A second run into it keeps clips, shards and training; it scores and
    registers again."""
    num_train: int = 32
    """Synthetic subjects that train."""
    num_test: int = 12
    """Synthetic subjects that are tested; none of them trains."""
    num_frames: int = 30
    """Frames of a synthetic walk."""
    num_steps: int = 300
    """Training steps."""
    num_workers: int = 2
    """Workers of each step."""


class Steps:
    """Runs the other jobs one after another; keeps their times and their command lines."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._seconds: dict[str, float] = {}
        self._commands: list[tuple[str, str]] = []

    def job(self, what: str, name: str, *words: str) -> None:
        """Run a job in a process of its own; a failure ends the demo with the job's exit code."""
        shown = shlex.join(["python", f"jobs/{name}.py", *words])
        print(f"\n== {what}\n$ {shown}", flush=True)
        started = time.perf_counter()
        code = subprocess.run([sys.executable, str(_JOBS / f"{name}.py"), *words]).returncode
        if code:
            sys.exit(code)
        self._done(what, started, shown)

    def own(self, what: str, started: float) -> None:
        """Record a step that this process did itself."""
        self._done(what, started, "")

    def _done(self, what: str, started: float, command: str) -> None:
        self._seconds[what] = round(time.perf_counter() - started, 1)
        if command:
            self._commands.append((what, command))
        (self._out / "timings.json").write_text(json.dumps(self._seconds, indent=2) + "\n")
        (self._out / "commands.json").write_text(json.dumps(self._commands, indent=2) + "\n")


def main() -> int:
    """Run every step."""
    options = tyro.cli(Options, prog="quickstart.py", description=__doc__)
    started = time.perf_counter()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    tracking_uri = f"sqlite:///{out.absolute() / 'mlflow.db'}"
    workers = ("--num-workers", str(options.num_workers))
    real, walkers = out / "shards" / "real", out / "shards" / "walkers"
    steps = Steps(out)

    print("== Collect real clips", flush=True)
    began = time.perf_counter()
    collect_clips(out / "clips")
    steps.own("Collect real clips", began)
    # Four of the sources are spoilt on purpose: the page shows how they are turned away.
    steps.job(
        "Real clips to shards",
        "preprocess",
        *("--dataset", "videos", "--root", str(out / "clips"), "--out", str(real)),
        *("--dataset-name", "clips", *workers),
    )
    print("\n== Draw synthetic walkers", flush=True)
    began = time.perf_counter()
    draw_walkers(out / "walkers", options)
    steps.own("Draw synthetic walkers", began)
    steps.job(
        "Walkers to shards",
        "preprocess",
        *("--dataset", "casiab", "--root", str(out / "walkers"), "--out", str(walkers)),
        *("--dataset-name", "walkers", *workers),
    )
    steps.job(
        f"Train on {options.num_workers} workers",
        "train",
        *("gaitgl-demo", "--shards", str(walkers), "--out", str(out), "--run-name", "train"),
        *("--data.split", f"first:{options.num_train}", "--num-steps", str(options.num_steps)),
        *("--tracking-uri", tracking_uri, *workers),
    )
    steps.job(
        "Score on unseen subjects",
        "evaluate",
        *("--model", str(out / "train"), "--shards", str(walkers), "--out", str(out), *workers),
    )
    steps.job(
        "Register",
        "register",
        *("--model", str(out / "train"), "--name", _MODEL, "--alias", "champion"),
        *("--evaluation", str(out / "evaluation.json"), "--tracking-uri", tracking_uri),
    )
    steps.job(
        "Load the champion and embed the real people",
        "compare",
        *("--model", f"models:/{_MODEL}@champion", "--shards", str(real)),
        *("--out", str(out / "distances.json"), "--tracking-uri", tracking_uri),
        *("--num-workers", "0"),
    )
    steps.job(
        "Make the page",
        "report",
        *("--shards", str(real), str(walkers), "--run", str(out / "train"), str(out)),
        *("--out", str(out / "report.html"), "--title", "raygait demo"),
        *("--about-walkers", _ABOUT_WALKERS),
    )
    print(f"\n{time.perf_counter() - started:.0f} s in all. Open {out / 'report.html'}")
    return 0


def collect_clips(folder: Path) -> None:
    """Put the sample clips, and four sources that are none, into a folder.

    The spoilt ones are what people have in such folders: an empty file, a text that was named
    .mp4, a clip of an empty scene, and one of a single pixel.
    """
    from raygait.assets import asset
    from raygait.synthetic.scenes import write_empty_scene, write_one_pixel

    folder.mkdir(parents=True, exist_ok=True)
    names = ["sports2d-demo"]
    names += [f"pose2sim-{scene}-cam{n:02d}" for scene in ("single", "multi") for n in range(1, 5)]
    # Files that are there stay: shards tell by size and time whether a source has changed.
    for name in names:
        path = folder / f"{name}.mp4"
        if not path.exists():
            # Beside and renamed, so that a stop in between leaves no half a clip.
            whole = path.with_name(f".tmp-{path.name}")
            shutil.copyfile(asset(name), whole)
            whole.replace(path)
    if not (folder / "spoilt-one-pixel.mkv").exists():
        (folder / "spoilt-empty.mp4").write_bytes(b"")
        (folder / "spoilt-text.mp4").write_text("this is not a video\n")
        write_empty_scene(folder / "spoilt-empty-scene.mp4")
        write_one_pixel(folder / "spoilt-one-pixel.mkv")


def draw_walkers(folder: Path, options: Options) -> None:
    """Write the walkers' silhouettes as CASIA-B names its files."""
    from raygait.synthetic import casiab_tree

    report = casiab_tree.write(
        folder,
        num_subjects=options.num_train + options.num_test,
        views=_VIEWS,
        conditions=_WALKS,
        num_frames=options.num_frames,
        num_workers=options.num_workers,
    )
    print(f"{report.num_written} walks written, {report.num_found} there already")


if __name__ == "__main__":
    sys.exit(console.run(main))
