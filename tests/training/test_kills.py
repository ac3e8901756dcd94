"""Killed at random moments, a run ends as if nothing had happened, and its curves show nothing.

Drivers die by SIGKILL to the process group of `jobs/train.py`, workers by SIGKILL to the process
that trains. `RAYGAIT_KILLS` says how often, `RAYGAIT_KILLS_SEED` when.

Runs of November 2026 on two cores at a load of 20 to 60, all passed: weights, optimiser, the values
and scores of all 400 steps and MLflow's curves were those of the undisturbed run, bit for bit.

    workers  seed  kills                                                        said restarts  min
    1        0     20: 11 drivers (4 starting), 9 workers (2 at a checkpoint)   15             25
    2        1     8: 6 drivers (1 starting, 1 at a checkpoint), 2 workers      6              23
    1        3     5: 4 drivers (the very first command, 1 between phases),     3              10
                   1 worker
"""

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient

from raygait.experiments.tracking import recall_run
from raygait.training.launch import MLFLOW_RUN, read_history
from raygait.training.record import read_lines

pytestmark = pytest.mark.ray
logger = logging.getLogger(__name__)

_NUM_STEPS = 200
"""Of each of the two phases."""
_RECIPE = [
    "lmgcs-casiab-lt",
    *("--model.channels", "4", "8", "8", "8"),
    *("--model.gsfe-layers", "1", "1"),
    *("--model.gsfe-width", "16"),
    *("--model.gsfe-heads", "2"),
    *("--model.embedding-dim", "8"),
    *("--data.split", "first:4"),
    *("--checkpoint-every-steps", "7"),
    *("--keep-every-steps", "63"),
    *("--evaluate-every-steps", "45"),
    *(
        word
        for prefix in ("", "before.a.")
        for word in (
            *(f"--{prefix}clip.num-frames", "6"),
            *(f"--{prefix}batch.num-subjects", "2"),
            *(f"--{prefix}batch.num-sequences", "2"),
            *(f"--{prefix}num-steps", str(_NUM_STEPS)),
            # The schedule has a state to come back to.
            *(f"--{prefix}optim.milestones", "60", "150"),
        )
    ),
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_workers", [1, 2], ids=["one_worker", "two_workers"])
def test_a_run_killed_many_times_ends_as_the_undisturbed_one(
    walker_shards: Path, tmp_path: Path, num_workers: int
) -> None:
    num_kills = int(os.environ.get("RAYGAIT_KILLS", "20"))
    seed = int(os.environ.get("RAYGAIT_KILLS_SEED", "0"))
    with _trainer(walker_shards, tmp_path / "undisturbed", num_workers) as whole:
        whole.end()
    with _trainer(walker_shards, tmp_path / "killed", num_workers) as killed:
        log = _disturb(killed, num_kills, random.Random(seed))
        logger.warning("seed %d, %d workers:\n  %s", seed, num_workers, "\n  ".join(log))
        killed.end()

    assert len(log) == num_kills
    _assert_same_end(whole.run, killed.run)
    _assert_whole_curves(killed, read_history(whole.run / "history.jsonl"))
    restarts = [event for event in _events(killed.run) if event.startswith("goes on ")]
    logger.warning("%d attempts went on:\n  %s", len(restarts), "\n  ".join(restarts))
    assert len(restarts) >= sum("step" in line for line in log)
    # Nothing that a killed process was writing or deleting is left.
    assert not list(killed.run.rglob(".checkpoint-*"))
    assert not list(killed.run.rglob("*.tmp-*"))


def _assert_same_end(whole: Path, killed: Path) -> None:
    for phase in ("phase-a", "."):
        ends = [run / phase / f"checkpoint-{_NUM_STEPS:08d}" for run in (whole, killed)]
        weights = [safetensors.torch.load_file(end / "model.safetensors") for end in ends]
        assert weights[0].keys() == weights[1].keys()
        for name, tensor in weights[0].items():
            assert torch.equal(tensor, weights[1][name]), name
        optimisers = [
            torch.load(end / "training.pt", weights_only=True)["optimiser"]["state"] for end in ends
        ]
        assert optimisers[0].keys() == optimisers[1].keys()
        for number, values in optimisers[0].items():
            for name, tensor in values.items():
                assert torch.equal(tensor, optimisers[1][number][name]), name


def _assert_whole_curves(killed: "_Trainer", expected: list[dict[str, float]]) -> None:
    """Each step is on record once, and says what the undisturbed run says; so does MLflow."""
    history = read_history(killed.run / "history.jsonl")
    assert [point["step"] for point in history] == list(range(1, 2 * _NUM_STEPS + 1))
    clocks = ("second", "memory")
    for point, other in zip(history, expected, strict=True):
        assert point.keys() == other.keys()
        for name, value in point.items():
            if not any(clock in name for clock in clocks):
                assert value == other[name], f"{name} of step {point['step']}"
    run = recall_run(killed.run / MLFLOW_RUN)
    assert run is not None
    client = MlflowClient(tracking_uri=run.tracking_uri)
    names = {name for point in history for name in point} - {"step"}
    assert names <= client.get_run(run.run_id).data.metrics.keys()
    for name in names:
        there = client.get_metric_history(run.run_id, name)
        here = {int(point["step"]): point[name] for point in history if name in point}
        assert [point.step for point in there] == list(here), name
        assert {point.step: point.value for point in there} == here, name
    assert client.get_run(run.run_id).info.status == "FINISHED"


def _events(run: Path) -> list[str]:
    return [line["event"] for line in read_lines(run / "events.jsonl")]


# --- a command, and the processes that it starts -------------------------------------------------


@contextlib.contextmanager
def _trainer(shards: Path, out: Path, num_workers: int) -> Iterator["_Trainer"]:
    # Unix socket paths are short, so Ray's session directory has to be.
    folder = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))
    trainer = _Trainer(shards, out, num_workers, folder)
    try:
        yield trainer
    finally:
        trainer.kill()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Trainer:
    """`jobs/train.py`, again and again with the same words."""

    shards: Path
    out: Path
    num_workers: int
    temporary: Path
    process: subprocess.Popen | None = None

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def last_step(self) -> int:
        history = self.run / "history.jsonl"
        return int(max((point["step"] for point in read_lines(history)), default=0))

    def start(self) -> None:
        root = Path(__file__).parents[2]
        words = [
            *_RECIPE,
            *("--shards", str(self.shards)),
            *("--out", str(self.out)),
            *("--run-name", "run"),
            *("--num-workers", str(self.num_workers)),
            *("--max-failures", "100"),
            *("--tracking-uri", f"sqlite:///{self.out / 'mlflow.db'}"),
        ]
        self.out.mkdir(exist_ok=True)
        with (self.out / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(root / "jobs" / "train.py"), *words],
                env={
                    **os.environ,
                    "PYTHONPATH": str(root),
                    # All its processes are found by it, whatever sessions they live in.
                    "TMPDIR": str(self.temporary),
                    # One more than two workers: evaluations need not wait for them.
                    "RAY_OVERRIDE_RESOURCES": '{"CPU": 3}',
                    "OMP_NUM_THREADS": "1",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self) -> None:
        """Let it train to its end."""
        if self.process is None:
            self.start()
        assert self.process is not None
        code = self.process.wait(timeout=900)
        assert code == 0, (self.out / "log.txt").read_text()[-4000:]

    def kill(self) -> None:
        """End the driver's process group, and what Ray has put into others."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        # Its node would end them too, in a while; a cluster's lives on.
        until = time.monotonic() + 30
        while (left := _processes_in(self.temporary)) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """The processes that train."""
        return [
            pid for pid, title in _processes_in(self.temporary).items() if "RayTrainWorker" in title
        ]


def _processes_in(folder: Path) -> dict[int, str]:
    """Pid -> title of the living processes that name a folder, or write their output there."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            output = str((entry / "fd" / "1").readlink())
            if str(folder) in title or output.startswith(f"{folder}/"):
                found[int(entry.name)] = title
    return found


# --- when to kill --------------------------------------------------------------------------------


def _disturb(trainer: _Trainer, num_kills: int, chance: random.Random) -> list[str]:
    """Kill a run so many times, at random; a line about each.

    Most come at random steps; one in five while a command starts, the very first among them, one in
    eight while a checkpoint is written, and one between the phases.
    """
    num_starts, num_writes, between = num_kills // 5, num_kills // 8, min(1, num_kills // 4)
    num_steps = num_kills - num_starts - num_writes - between
    # Not among the last: it is to be killed before it ends.
    last = int(1.8 * _NUM_STEPS)
    moments = [("step", step) for step in sorted(chance.sample(range(last), num_steps))]
    for kind, number in (("write", num_writes), ("start", num_starts)):
        for _ in range(number):
            place = chance.randrange(len(moments))
            moments.insert(place, (kind, moments[place][1]))
    if num_starts:
        # One of them before there is anything: it dies as it makes folder, store and cache.
        moments.remove(next(moment for moment in moments if moment[0] == "start"))
        moments.insert(0, ("start", 0))
    if between:
        # After it nothing comes before the phase ends.
        place = sum(step <= 0.9 * _NUM_STEPS for _, step in moments)
        moments.insert(place, ("between", _NUM_STEPS))

    lines = []
    killed_at = 0
    for kind, step in moments:
        if trainer.process is None:
            trainer.start()
        if kind == "start":
            trainer.kill()
            trainer.start()
            until = time.monotonic() + chance.uniform(0, 15)
            _wait(trainer, lambda until=until: time.monotonic() > until)
            victim = "driver"
        else:
            # What came before has been overcome.
            step = max(step, killed_at + 1)
            _wait(trainer, lambda step=step: trainer.last_step >= step)
            if kind == "write":
                _wait(trainer, lambda: _is_writing(trainer.run))
            elif kind == "between":
                _wait(trainer, (trainer.run / "phase-a" / "finished.json").exists)
                time.sleep(chance.uniform(0, 3))
            else:
                time.sleep(chance.uniform(0, 0.2))
            victim = chance.choice(["driver", "worker"])
        killed_at = trainer.last_step
        if victim == "worker" and (workers := trainer.workers()):
            os.kill(chance.choice(workers), signal.SIGKILL)
        else:
            victim = "driver"
            trainer.kill()
        lines.append(
            f"{victim} at step {killed_at}"
            if kind == "step"
            else f"{victim}, {kind}, {killed_at} done"
        )
    return lines


def _is_writing(run: Path) -> bool:
    return any(run.glob(".checkpoint-*")) or any(run.glob("phase-a/.checkpoint-*"))


def _wait(trainer: _Trainer, happens: Callable[[], bool], timeout_s: float = 300) -> None:
    until = time.monotonic() + timeout_s
    while not happens():
        assert trainer.process is not None
        code = trainer.process.poll()
        log = trainer.out / "log.txt"
        assert code is None, f"it ended by itself, with {code}: {log.read_text()[-3000:]}"
        assert time.monotonic() < until, f"nothing happens: {log.read_text()[-3000:]}"
        time.sleep(0.002)
