"""The import job as a user types it: a file becomes a model that the registry has."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from raygait.experiments import registry, tracking
from raygait.recipes.saved_model import load_model

_ROOT = Path(__file__).parents[2]


def _run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(_ROOT / "jobs" / "import_checkpoint.py"), *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """GaitSet of width 2, 3, 4."""
    weights = {}
    for block, (before, after) in enumerate(((1, 2), (2, 3), (3, 4)), start=1):
        size = 5 if block == 1 else 3
        names = [f"set_block{block}.forward_block"] + [f"gl_block{block}"] * (block > 1)
        for name in names:
            weights[f"{name}.0.conv.weight"] = torch.randn(after, before, size, size)
            weights[f"{name}.2.conv.weight"] = torch.randn(after, after, 3, 3)
    weights["Head.fc_bin"] = torch.randn(62, 4, 5)
    torch.save({"model": weights, "iteration": 40_000}, tmp_path / "GaitSet-40000.pt")
    return tmp_path / "GaitSet-40000.pt"


def test_a_checkpoint_becomes_a_version_that_says_where_it_comes_from(
    checkpoint: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = [checkpoint, "--out", "model", "--register", "gait", "--alias", "champion"]
    done = _run(*words, "--tracking-uri", uri, cwd=tmp_path)
    assert done.stderr == ""
    assert "recognised: GaitSet; no classifier, 40000 iterations" in done.stdout
    assert "note: frames of 64 x 44 px" in done.stdout
    assert "models:/gait@champion" in done.stdout

    tracking.prepare(uri)
    found = mlflow.MlflowClient(uri).get_model_version_by_alias("gait", "champion")
    assert found.tags["origin"] == "OpenGait checkpoint GaitSet-40000.pt"
    assert len(found.tags["origin_sha256"]) == 64
    assert (found.tags["architecture"], found.tags["step"]) == ("gaitset", "40000")
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 64, 64), dtype=np.uint8)
    np.testing.assert_array_equal(
        registry.load("models:/gait@champion", uri).embed(frames),
        load_model(tmp_path / "model").embed(frames),
    )


class _Shell:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch ran",)


def test_a_malicious_file_and_a_wrong_word_are_one_sentence_and_leave_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "note": _Shell()}, tmp_path / "evil.pt")
    before = sorted(path.name for path in tmp_path.iterdir())
    for words, sentence in (
        (["evil.pt", "--out", "model"], "nothing in it was run: its pickle asks for posix.system"),
        ([checkpoint, "--out", "model", "--alias", "champion"], "needs --register"),
    ):
        done = _run(*words, cwd=tmp_path, code=1)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert sentence in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before
