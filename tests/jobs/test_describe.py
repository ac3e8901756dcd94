"""`jobs/describe.py` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raygait.models import MODELS
from raygait.recipes.description import names

_JOB = Path(__file__).parents[2] / "jobs" / "describe.py"
_SMALL = ["--model.channels", "2", "3", "3", "--input-size", "8", "12"]


def _run(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(_JOB), *words], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_without_words_it_lists_all_that_it_can_describe(tmp_path: Path) -> None:
    listed = _run(cwd=tmp_path).stdout.split("Architectures and recipes:")[1].split()
    assert listed == names()


def test_the_table_ends_in_totals_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = _run("gaitgl", *_SMALL, "--num-frames", "7", cwd=tmp_path)
    assert done.stderr == ""
    assert "one clip of 7 frames, 8 x 12 px" in done.stdout
    assert "stage 3 layer 2" in done.stdout
    assert not list(tmp_path.iterdir())


def test_json_follows_every_flag(tmp_path: Path) -> None:
    flags = [*_SMALL, "--num-frames", "9", "--num-subjects", "5", "--in-channels", "2"]
    words = ["gaitgl-demo", "--model.branches", "global", *flags, "--json"]
    found = json.loads(_run(*words, cwd=tmp_path).stdout)
    assert found["clip_shape"] == [2, 9, 8, 12]
    assert found["arguments"]["branches"] == "global"
    assert found["arguments"]["lta_kernel"] == [3, 1, 1]  # the recipe's
    model = MODELS["gaitgl"](**found["arguments"])
    assert found["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert found["outputs"]["main logits"] == [1, 4, 5]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        pytest.param(["gaitgl2"], 1, "error: no architecture or recipe is named", id="name"),
        pytest.param(
            ["gaitgl", "--input-size", "7", "12"], 1, "error: gaitgl: input_size_px", id="size"
        ),
        pytest.param(
            ["gaitgl", *_SMALL, "--num-frames", "1"], 1, "error: GaitGL: got clips of 1", id="short"
        ),
        pytest.param(["--json", "gaitgl"], 2, "the first word has to be a model", id="order"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    done = _run(*words, cwd=tmp_path, code=code)
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in done.stderr


def test_help_of_a_model_explains_its_switches(tmp_path: Path) -> None:
    text = _run("gaitgl", "--help", cwd=tmp_path).stdout
    assert "--model.drop-ratio" in text
    assert "--num-subjects" in text
