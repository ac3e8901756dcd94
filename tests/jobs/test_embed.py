"""The embedding job as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.embed import read_subjects
from raygait.evaluation.embedding_files import read_embeddings
from raygait.recipes import named
from raygait.recipes.saved_model import initial_model, save_model
from tests.evaluation.shards_to_embed import Walk, write_shards

_ROOT = Path(__file__).parents[2]
# As an actor has it, so that the same bytes can be asked for.
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _command(*words: object) -> list[str]:
    return [sys.executable, str(_ROOT / "jobs" / "embed.py"), *map(str, words)]


def _run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        _command(*words), cwd=cwd, capture_output=True, text=True, timeout=280, env=_ENVIRONMENT
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    saved = initial_model(named.recipe("gaitgl-demo"), ["001", "002"])
    save_model(folder, saved.network, saved.recipe, saved.subjects, step=0)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of some tenths of a second of work each."""
    parts = {
        f"part-{part}": [Walk(f"{n:03d}", 50 + n % 5, 100 * part + n) for n in range(9)]
        for part in range(6)
    }
    return write_shards(tmp_path_factory.mktemp("shards"), parts)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_leaves_whole_files_and_the_next_does_the_rest(
    model: Path, shards: Path, tmp_path: Path, num_workers: int
) -> None:
    words = ["--model", model, "--shards", shards, "--num-workers"]
    _run(*words, 0, "--out", "undisturbed", cwd=tmp_path)
    wanted = _files(tmp_path / "undisturbed")
    out = tmp_path / "killed"
    driver = subprocess.Popen(
        _command(*words, num_workers, "--out", "killed"),
        cwd=tmp_path,
        env=_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not _files(out):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    left = _files(out)
    assert 0 < len(left) < len(wanted)
    assert all(wanted[name] == data for name, data in left.items())
    written_ns = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}

    done = _run(*words, num_workers, "--out", "killed", cwd=tmp_path)
    assert "0 already there" not in done.stdout
    assert _files(out) == wanted
    assert all(path.stat().st_mtime_ns == at_ns for path, at_ns in written_ns.items())
    assert len(read_embeddings(out)) == 54
    assert not [path for path in out.rglob("*") if "tmp" in path.name]


def test_embeddings_of_an_alias_say_which_version_it_was(
    model: Path, shards: Path, tmp_path: Path
) -> None:
    from raygait.experiments import tracking
    from raygait.experiments.registry import register

    uri = tracking.prepare(f"sqlite:///{tmp_path}/mlflow.db")
    run = tracking.open_run(uri, "tests", "register")
    with tracking.closing(run):
        register(model, "gait", run=run, alias="champion")
    words = ["--model", "models:/gait@champion", "--tracking-uri", uri, "--shards", shards]
    (tmp_path / "subjects.txt").write_text("001\n003\n\nnobody\n")
    words += ["--num-workers", "0", "--subjects", "subjects.txt", "--out", "out"]
    done = _run(*words, cwd=tmp_path)
    assert "models:/gait@champion (models:/gait/1)" in done.stdout
    assert "12 embeddings" in done.stdout
    assert "no embedding of 1 of 3 subjects that were asked for, such as 'nobody'" in done.stdout
    for path in (tmp_path / "out").glob("*.parquet"):
        said = json.loads(pq.read_schema(path).metadata[b"raygait.embeddings"])
        assert said["model"]["version"] == "models:/gait/1"
    # The copy of the model is not part of the result.
    assert not list((tmp_path / "out").glob(".model-*"))
    words[1] = "models:/gait/99"
    done = _run(*words[:-1], "none", cwd=tmp_path, code=1)
    assert "models:/gait/99" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("text", "where"), [("001\nL\u00fcders\n", "line 2"), ("\xe9", "line 1")])
def test_subjects_that_are_not_utf8_are_refused_with_their_line(
    tmp_path: Path, text: str, where: str
) -> None:
    (tmp_path / "subjects.txt").write_bytes(text.encode("latin-1"))
    words = ["--model", "model", "--shards", "shards", "--out", "out"]
    done = _run(*words, "--subjects", "subjects.txt", cwd=tmp_path, code=1)
    assert done.stderr.startswith(f"error: subjects.txt: {where} is not UTF-8")
    assert [path.name for path in tmp_path.iterdir()] == ["subjects.txt"]


def test_subjects_are_read_as_any_editor_saves_them(tmp_path: Path) -> None:
    (tmp_path / "subjects.txt").write_bytes(b"\xef\xbb\xbf001\r\n\r\n L\xc3\xbcders \r\n")
    assert read_subjects(tmp_path / "subjects.txt") == ["001", "L\u00fcders"]


def test_a_shard_that_cannot_be_read_is_a_sentence_and_exit_code_1_after_the_others(
    model: Path, tmp_path: Path
) -> None:
    parts = {"part-a": [Walk("001", 20)], "part-b": [Walk("002", 20)]}
    write_shards(tmp_path / "shards", parts)
    damaged = tmp_path / "shards" / "part-b.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    words = ["--model", model, "--shards", "shards", "--out", "out", "--num-workers", "0"]
    done = _run(*words, cwd=tmp_path, code=1)
    assert "1 embeddings" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: 1 of 2 shards were not embedded")
    assert "part-b.parquet: SHA-256" in done.stderr


def test_nothing_embedded_is_exit_code_1_and_says_why(model: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", {"part-a": [Walk("001", 1), Walk("002", 2)]})
    words = ["--model", model, "--shards", "shards", "--out", "out", "--num-workers", "0"]
    done = _run(*words, cwd=tmp_path, code=1)
    assert "no sequence in shards was embedded: 1 frames, the network needs 3" in done.stderr
