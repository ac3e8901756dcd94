"""The job's two new words: `--index-only` looks and prints, `--index-report` writes all of it."""

import json
import subprocess
import sys
from pathlib import Path

from raygait.synthetic.benchmark_trees import walks, write_tree

_JOB = Path(__file__).parents[2] / "jobs" / "preprocess.py"


def preprocess(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_JOB), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_report_of_an_index_is_printed_and_written_and_no_shard_is(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", "grew", "opengait", walks("grew", num_subjects=4))
    words = ("--dataset", "grew", "--root", tmp_path / "tree", "--index-only")
    done = preprocess(*words, "--index-report", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    assert "36 sequences of 9 subjects" in done.stdout
    assert "train: 4 of 20000 subjects, 20 of 102887 sequences" in done.stdout
    written = json.loads((tmp_path / "report.json").read_text())
    assert len(written["missing"]) == 20_000 - 4 + 6_000 - 4 + 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "tree"]


def test_without_a_folder_of_shards_the_job_says_what_it_wants(tmp_path: Path) -> None:
    done = preprocess("--dataset", "casiab", "--root", tmp_path)
    assert done.returncode == 2
    assert "--out, or --index-only" in done.stderr


def test_an_empty_root_is_one_sentence(tmp_path: Path) -> None:
    done = preprocess("--dataset", "ccpg", "--root", tmp_path, "--index-only")
    assert done.returncode == 1
    assert "no sequence of ccpg in it" in done.stderr
    assert "Traceback" not in done.stderr
