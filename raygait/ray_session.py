"""One way to get a Ray session, quiet and bounded, on this machine or on a cluster.

Scripts under `jobs/` run in three ways that must not differ for the code inside: alone (a local
cluster starts and ends with the script), against a running cluster (`address`), and under
`ray job submit`, which names the cluster in the environment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raygait.errors import RaygaitError

if TYPE_CHECKING:
    import ray.data

# Read by Ray when it starts, not when it is imported; whoever has set one knows why.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's future default; without it every start warns that the default will change.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OBJECT_STORE_BYTES = 512 * 1024**2


@contextlib.contextmanager
def start(num_cpus: int | None = None, address: str | None = None) -> Iterator[None]:
    """Hold a Ray session for a `with` block; one that is already there is used and left alone.

    A local cluster has no dashboard, no token, a small object store (raygait moves paths, not
    frames, between processes) and a session folder of its own that goes when it ends. A running
    cluster gets the raygait package of this process, so that both run the same code.

    Args:
        num_cpus: Logical CPUs of a local cluster; None for as many as the machine has, at least 2,
            because Ray Data needs one beside its actors.
        address: Cluster to connect to, `auto` or `ray://...`; None for the one that the
            environment names (RAY_ADDRESS, as `ray job submit` sets it), else a local one.

    Raises:
        ConnectionError: Nothing answers at the address.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray  # after the environment, and only for those who start a session

    if ray.is_initialized():
        yield
        return
    if address is not None or os.environ.get("RAY_ADDRESS"):
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env=_shipped_package(),
        )
        try:
            yield
        finally:
            ray.shutdown()
        return
    # A local session writes no token to the home folder and asks for none.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # The session's sockets lie below its folder, and a socket's path has at most 107 bytes.
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="rg", dir=parent if len(parent) <= 30 else "/tmp")
    try:
        with _importable_by_workers():
            ray.init(
                num_cpus=num_cpus or max(2, len(os.sched_getaffinity(0))),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=folder,
            )
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shipped_package() -> dict[str, list[str]] | None:
    """What a cluster's workers need to import the raygait of this process.

    `ray job submit` has said what to ship already, and Ray lets nobody say it twice.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    return {"py_modules": [str(Path(__file__).resolve().parent)]}


@contextlib.contextmanager
def _importable_by_workers() -> Iterator[None]:
    """Let the processes that start within import raygait from where this process has it.

    Ray hands them the script's folder and the current one; raygait may be in neither.
    """
    before = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = f"{here}{os.pathsep}{before}" if before else here
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def quieten(dataset: ray.data.Dataset) -> None:
    """Keep Ray Data's bars and notes on a run out of the console; its file has the notes.

    Errors still reach the console.
    """
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.ERROR)


def actor_pool(size: int) -> ray.data.ActorPoolStrategy:
    """So many actors, each with one task at a time.

    A second one waiting in one worker could run in an idle one.
    """
    import ray.data

    return ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1)


RESTART_NOTE = "has constructor arguments in the object store"
"""Part of what Ray's core prints as an error, once a process, when Ray Data starts any pool of
actors: that they may restart and their arguments may be gone by then (ray#53727)."""


@contextlib.contextmanager
def stderr_without(*phrases: str) -> Iterator[None]:
    """Drop the lines that hold one of these phrases from stderr, and let all others pass.

    For notes of native code that no log level reaches: it writes to the process's stderr itself,
    so that is what is filtered, through a pipe.
    """
    wanted_out = [phrase.encode() for phrase in phrases]
    sys.stderr.flush()
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on() -> None:
        with os.fdopen(reading, "rb") as lines, os.fdopen(kept, "wb", buffering=0) as stderr:
            for line in lines:
                if not any(phrase in line for phrase in wanted_out):
                    stderr.write(line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        # Nobody writes to the pipe any more, which ends the thread; a child process that still
        # does keeps it alive, and is not waited for.
        os.dup2(kept, 2)
        thread.join(timeout=1)


def num_places(num_cpus: float, num_gpus: float = 0) -> int:
    """How many workers of this size the cluster can hold, whatever runs on it now.

    A worker has to fit on one node: two nodes of 4 CPUs hold no worker of 6.

    Args:
        num_cpus: Logical CPUs a worker, > 0.
        num_gpus: GPUs a worker.
    """
    import ray

    places = 0
    for node in ray.nodes():
        if node["Alive"]:
            have = node["Resources"]
            fits = int(have.get("CPU", 0) // num_cpus)
            places += min(fits, int(have.get("GPU", 0) // num_gpus)) if num_gpus else fits
    return places


def own_error(error: BaseException) -> RaygaitError | None:
    """The error that raygait raised on purpose in a worker, out of Ray's wrappings, or None."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        current = todo.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's own error of a task inherits from the cause's class and speaks in stack traces.
        if isinstance(current, RaygaitError) and not hasattr(current, "cause"):
            return current
        todo += [getattr(current, "cause", None), current.__cause__, current.__context__]
        todo += getattr(current, "worker_failures", {}).values()
    return None
