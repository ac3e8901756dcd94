"""What holds for the house as a whole: imports, the README, the pinned versions."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

_IMPORT_ALL = """
import importlib, os, pkgutil, sys
before = dict(os.environ)
import raygait
for module in pkgutil.walk_packages(raygait.__path__, "raygait."):
    if module.name != "raygait.experiments.pyfunc_model":  # MLflow runs that one, we do not
        importlib.import_module(module.name)
print("torchvision" in sys.modules, os.listdir("."))
"""


def test_no_room_imports_torchvision_or_leaves_anything_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == ["False", "[]\n"]


def _readme_commands() -> list[str]:
    text = (_ROOT / "README.md").read_text().replace("\\\n", " ")
    return re.findall(r"^python (jobs/.*)$", text, re.M)


@pytest.mark.parametrize("command", _readme_commands(), ids=lambda command: command.split()[0])
def test_a_command_of_the_readme_is_one_that_the_job_accepts(command: str, tmp_path: Path) -> None:
    job, *words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, str(_ROOT / job), *words],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    if job == "jobs/describe.py" or "--list-protocols" in words:  # work on no file
        assert done.returncode == 0, done.stderr
        return
    # In an empty folder nothing is there to work on: an error of ours (1), not of the words (2).
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_the_readme_shows_every_job_that_a_user_runs() -> None:
    shown = {Path(command.split()[0]).stem for command in _readme_commands()}
    jobs = {path.stem for path in (_ROOT / "jobs").glob("*.py")}
    assert shown == jobs - {"__init__", "console", "preflight", "quickstart"}


def test_every_direct_dependency_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = (_ROOT / name).read_text().splitlines()
        for line in lines:
            if line and not line.startswith("#"):
                assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[0-9][\w.]*", line), line


def test_nothing_unpickles_and_torch_loads_weights_only() -> None:
    for path in [*(_ROOT / "raygait").rglob("*.py"), *(_ROOT / "jobs").glob("*.py")]:
        text = path.read_text()
        assert not re.search(r"pickle\.loads?\(|allow_pickle=True|cloudpickle", text), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, (path, call)
