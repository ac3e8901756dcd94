"""What a run computes on: software with versions, hardware, workers.

`environment.jsonl` in the run's folder has one line for each environment, and from which step on.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import raygait
from raygait.training.record import cut_torn_line, read_lines

ENVIRONMENT = "environment.jsonl"
# What the numbers of a run may depend on, and what carries them.
_PACKAGES = (
    *("torch", "numpy", "ray", "mlflow", "pyarrow", "safetensors", "pydantic"),
    *("opencv-python", "av", "ai-edge-litert", "onnxruntime"),
)


def describe_environment(
    device: torch.device,
    *,
    precision: str,
    num_workers: int,
    num_threads: int,
    is_compiled: bool,
) -> dict[str, Any]:
    """The environment of this process, as plain values.

    Args:
        device: What the network is on; of a GPU the name is told.
        precision: Number format of the network.
        num_workers: Workers that share a batch.
        num_threads: Threads of each.
        is_compiled: Whether torch compiles the network.
    """
    is_gpu = device.type == "cuda"
    return {
        "raygait": raygait.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "cuda": torch.version.cuda if is_gpu else None,
        "gpu": torch.cuda.get_device_name(device) if is_gpu else None,
        "cpu": _cpu(),
        "num_cpus": os.cpu_count(),
        "num_workers": num_workers,
        "num_threads": num_threads,
        "precision": precision,
        "compiled": is_compiled,
    }


def note_environment(folder: Path, step: int, environment: Mapping[str, Any]) -> None:
    """Record what a run computes on from a step on, if it is not what it has computed on so far.

    Args:
        folder: The run's.
        step: Steps done.
        environment: Plain values.
    """
    path = folder / ENVIRONMENT
    cut_torn_line(path)
    before = read_lines(path)
    if not before or {**before[-1], "step": 0} != {"step": 0, **environment}:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **environment}) + "\n")


def git_commit() -> str:
    """The commit that this raygait was checked out at; `-dirty` behind it if files differ.

    Returns:
        Empty where it is not in a checkout of its own, or git is not there.
    """
    folder = Path(raygait.__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An installed package may lie inside somebody else's checkout.
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu() -> str:
    """The processor as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def peak_memory_mb(device: torch.device) -> float:
    """The most memory so far: tensors on a GPU, else all that this process has held in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not getrusage's: that begins with what the process which started this one held.
    return process_sizes_mb()["VmHWM"]


def process_sizes_mb() -> dict[str, float]:
    """This process's sizes in MB by their names in /proc: `VmRSS`, `VmHWM`, `VmData`."""
    sizes = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            sizes[name] = int(value.split()[0]) / 1024
    return sizes
