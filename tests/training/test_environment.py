import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import pytest
import torch

import raygait
from raygait.training import environment
from raygait.training.environment import note_environment
from raygait.training.record import read_lines


def test_software_hardware_and_workers_are_described_in_plain_values() -> None:
    found = environment.describe_environment(
        torch.device("cpu"), precision="fp32", num_workers=2, num_threads=3, is_compiled=False
    )
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert (found["num_workers"], found["num_threads"], found["precision"]) == (2, 3, "fp32")
    assert found["cpu"]
    assert found["gpu"] is None


def test_the_commit_is_that_of_a_checkout_of_raygait_and_says_if_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    package = tmp_path / "raygait" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(raygait, "__file__", str(package))
    assert environment.git_commit() == ""  # no checkout
    git("init", "-q")
    assert environment.git_commit() == ""  # somebody else's
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert environment.git_commit() == git("rev-parse", "HEAD")
    package.write_text("changed = True")
    assert environment.git_commit() == git("rev-parse", "HEAD") + "-dirty"


def test_an_environment_is_recorded_when_it_changes(tmp_path: Path) -> None:
    for step, num_workers in ((0, 2), (4, 2), (8, 1), (9, 2)):
        note_environment(tmp_path, step, {"num_workers": num_workers, "packages": {"torch": "2"}})
        with (tmp_path / "environment.jsonl").open("a") as file:
            file.write('{"step"')  # the worker was killed while it wrote
    assert [
        (line["step"], line["num_workers"]) for line in read_lines(tmp_path / "environment.jsonl")
    ] == [(0, 2), (8, 1), (9, 2)]
