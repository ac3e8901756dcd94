"""`jobs/evaluate.py` as a user types it, where nothing is computed."""

import subprocess
import sys
from pathlib import Path

import pytest

from raygait.datasets.protocols import PROTOCOLS
from raygait.evaluation.submission import header

_JOB = Path(__file__).parents[2] / "jobs" / "evaluate.py"


def _run(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(_JOB), *words], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("words", [["--list-protocols"], ["--protocol"]])
def test_it_lists_the_protocols_and_what_each_needs(tmp_path: Path, words: list[str]) -> None:
    lines = _run(*words, cwd=tmp_path).stdout.splitlines()
    for name, each in PROTOCOLS.items():
        at = lines.index(name)
        assert lines[at + 2].split("needs")[1].strip() == each.needs
    assert not list(tmp_path.iterdir())


def test_a_submission_is_checked_and_the_fault_named(tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    file.write_text(",".join(header(20)) + "\n" + "a7" + ",1" * 20 + "\n")
    said = _run("--check-submission", "s.csv", cwd=tmp_path).stdout
    assert said == (
        "s.csv: 1 probes, as grew-submission wants it, not compared with a data set: give "
        "--shards\n"
    )
    file.write_text(file.read_text() + "a8" + ",1" * 19 + "\n")
    done = _run("--check-submission", "s.csv", cwd=tmp_path, code=1)
    assert done.stderr == "error: s.csv, line 3: expected 21 columns, got 20\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "error: an evaluation needs --model and --shards, or --embeddings; see --help"),
        (["--embeddings", "x", "--split", "ccpg"], "error: --embeddings goes with --split and"),
        (
            ["--embeddings", "x", "--split", "ccpg", "--protocol", "ccpg"],
            "error: x: no folder of embeddings",
        ),
        (["--model", "x", "--shards", "y", "--protocol", "z"], "error: no protocol is named 'z'"),
        (["--model", "x", "--shards", "y", "--device", "abacus"], "error: --device abacus cannot"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(tmp_path: Path, words, sentence) -> None:
    done = _run(*words, cwd=tmp_path, code=1)
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert not list(tmp_path.iterdir())
