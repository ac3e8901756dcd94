"""A dry run says what a run would be, from real steps, and leaves nothing behind."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raygait.errors import TrainingError
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.rehearsal import recipe_text, rehearse

pytestmark = pytest.mark.ray
_JOB = Path(__file__).parents[2] / "jobs" / "train.py"


def _recipe(**changes: Any) -> Recipe:
    small = {
        "model.channels": [4, 8, 8],
        "data.split": "first:4",
        "clip.num_frames": 9,
        "batch.num_subjects": 4,
        "batch.num_sequences": 2,
        "num_steps": 100,
    }
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


def _dry_run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(_JOB), *map(str, words), "--dry-run"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def _numbers(pattern: str, text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(pattern, text)]


def test_the_job_says_what_a_run_would_be_and_writes_nothing(
    walker_shards: Path, tmp_path: Path
) -> None:
    words = ["gaitgl-demo", "--shards", walker_shards, "--data.split", "first:4"]
    words += ["--model.channels", "4", "8", "8", "--clip.num-frames", "9", "--num-steps", "5000"]
    words += ["--batch.num-subjects", "4", "--batch.num-sequences", "2", "--num-workers", "2"]
    done = _dry_run(*words, cwd=tmp_path)
    assert done.stderr == ""
    text = done.stdout
    assert "recipe gaitgl-demo, 5 options differ" in text or "6 options differ" in text
    assert "* num_steps = 5000   (300)" in text
    assert "  optim.learning_rate = 0.003\n" in text
    recipe = _recipe()
    count = sum(weight.numel() for weight in build_model(recipe, 4).parameters())
    assert f"{count:,} (" in text
    assert "8 clips of 9 frames, 32 x 22 px, 1 channel; a worker of 2 has 4" in text
    (weights_mb,) = _numbers(r"weights ([\d.,]+)", text)
    assert weights_mb == pytest.approx(count * 4 / 2**20, abs=0.1)
    # Adam has two numbers a weight.
    (optimiser_mb,) = _numbers(r"optimiser ([\d.,]+)", text)
    assert optimiser_mb == pytest.approx(2 * weights_mb, abs=0.2)
    ((step_s, wait_s),) = re.findall(r"seconds a step ([\d.]+), ([\d.]+) of it waiting", text)
    assert 0 <= float(wait_s) < float(step_s)
    assert re.search(r"whole run: 5,000 steps, \S+ .*without what workers wait", text)
    assert not list(tmp_path.iterdir())


def test_every_phase_is_rehearsed_by_the_same_command(walker_shards: Path, tmp_path: Path) -> None:
    words = ["lmgcs-casiab-lt", "--shards", walker_shards, "--data.split", "first:4"]
    words += ["--model.channels", "4", "8", "8", "8", "--model.gsfe-layers", "1", "1"]
    words += ["--model.gsfe-width", "16", "--model.gsfe-heads", "2", "--model.embedding-dim", "8"]
    for prefix, num_steps in (("", 30), ("before.a.", 20)):
        words += [f"--{prefix}clip.num-frames", "6", f"--{prefix}batch.num-subjects", "4"]
        words += [f"--{prefix}batch.num-sequences", "2", f"--{prefix}num-steps", num_steps]
    text = _dry_run(*words, cwd=tmp_path).stdout
    assert re.findall(r"^phase (\w+): (\d+) steps, LMGCS in fp32", text, re.MULTILINE) == [
        ("a", "20"),
        ("last", "30"),
    ]
    # One trains what the other has frozen.
    counts = re.findall(r"parameters +([\d,]+) .*\), ([\d,]+) of them frozen$", text, re.MULTILINE)
    (total, of_a), (_, of_last) = [[int(n.replace(",", "")) for n in pair] for pair in counts]
    assert 0 < of_a < of_last
    assert of_a + of_last == total
    assert len(_numbers(r"seconds a step ([\d.]+)", text)) == 2
    assert "whole run: 50 steps" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.split", "first:6"], "leaves 6 to train and 0 to test"),
        (["--data.split", "first:4", "--num-workers", "3"], "cannot be split over 3 workers"),
    ],
)
def test_what_a_run_would_be_refused_for_is_said(
    walker_shards: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    done = _dry_run("gaitgl-demo", "--shards", walker_shards, *words, cwd=tmp_path, code=1)
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(420)
def test_a_step_that_does_not_fit_into_memory_is_tried_in_pieces(walker_shards: Path) -> None:
    large = {"model.channels": [16, 32, 64], "clip.num_frames": 60, "batch.num_subjects": 2}
    recipe = _recipe(**large, **{"data.height_px": 64, "data.width_px": 44})
    whole = rehearse(recipe, walker_shards).phases[0]
    assert whole.clips_at_once is None
    fixed_mb = whole.weights_mb + whole.gradients_mb + whole.optimiser_mb
    less = rehearse(recipe, walker_shards, memory_mb=fixed_mb + 0.8 * whole.others_mb)
    (phase,) = less.phases
    assert (phase.refused, phase.clips_at_once) == ((4,), 2)
    assert phase.others_mb < 0.8 * whole.others_mb
    assert "does not fit   with 4 clips at once" in less.to_text()
    with pytest.raises(TrainingError, match="does not fit into memory, not even with 2 clips"):
        rehearse(recipe, walker_shards, memory_mb=40)


def test_a_step_that_cannot_be_trusted_is_said(walker_shards: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 0: loss is .*above loss.stop_above"):
        rehearse(_recipe(**{"loss.stop_above": 1e-3}), walker_shards)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_cannot_be_measured_on(walker_shards: Path) -> None:
    with pytest.raises(TrainingError, match="this machine, which has no GPU"):
        rehearse(_recipe(), walker_shards, use_gpu=True)


def test_options_that_differ_from_the_named_recipe_are_marked() -> None:
    assert "differ" not in recipe_text(named.recipe("gaitgl-demo"))
    text = recipe_text(_recipe(**{"optim.group_factors": {"head": 0.5}}))
    assert "* clip.num_frames = 9   (15)" in text
    assert "* optim.group_factors.head = 0.5   (not there)" in text
    assert "* optim.group_factors = (not there)   ({})" in text
