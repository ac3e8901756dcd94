"""jobs/train.py beside the plain run that `test_jobs` makes: servers away, steps that fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raygait.experiments import tracking
from raygait.shards import reader

_ROOT = Path(__file__).parents[2]
_SMALL = (
    *("gaitgl-demo", "--model.channels", "4", "8", "8", "--clip.num-frames", "9"),
    *("--batch.num-subjects", "4", "--batch.num-sequences", "2", "--data.split", "first:4"),
)


def _train(*words: object, cwd: Path, code: int = 0, **more: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, str(_ROOT / "jobs" / "train.py"), *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **more},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_run_without_a_server_fails_by_its_own_fault_alone_and_is_sent_later(
    walker_shards: Path, tmp_path: Path
) -> None:
    words = [*_SMALL, "--shards", walker_shards, "--run-name", "wild", "--num-steps", "8"]
    words += ["--optim.optimiser", "sgd", "--optim.learning-rate", "1e30"]
    words += ["--tracking-uri", "http://127.0.0.1:9"]
    done = _train(*words, cwd=tmp_path, code=1, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert "MLflow does not answer at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: run 'wild' failed: step ")
    assert "loss is nan" in sentence
    (folder,) = (tmp_path / "runs" / "wild" / "failures").iterdir()
    assert sentence.endswith(f"--replay {folder}")
    assert "again, fp32 on cpu: loss is nan" in _train("--replay", folder, cwd=tmp_path).stdout

    uri = tracking.prepare(f"sqlite:///{tmp_path}/mlflow.db")
    sent = _train("--send", "runs/wild", "--tracking-uri", uri, cwd=tmp_path)
    run_id = sent.stdout.split("mlflow run: ")[1].split()[0]
    client = MlflowClient(tracking_uri=uri)
    stored = client.get_run(run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["raygait.error"] == sentence.removeprefix("error: ")
    assert stored.data.params["optim.learning_rate"] == "1e+30"
    (read,) = stored.inputs.dataset_inputs
    assert read.dataset.digest == reader.digest(walker_shards)[:36]
    num_steps = int(folder.name.removeprefix("step-"))
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == [
        *range(1, num_steps + 1)
    ]
    recorded = {
        *("loss", "triplet_loss", "identity_loss", "accuracy", "active_triplet_ratio"),
        *("mean_positive_distance", "mean_negative_distance", "gradient_norm", "learning_rate"),
        *("steps_per_second", "wait_seconds", "peak_memory_mb"),
    }
    assert recorded <= stored.data.metrics.keys()
    assert {item.path for item in client.list_artifacts(run_id)} == {
        "recipe.json",
        "environment.jsonl",
    }


def test_a_folder_of_no_run_has_nothing_to_send(tmp_path: Path) -> None:
    done = _train("--send", "nowhere", cwd=tmp_path, code=1)
    assert "nowhere/mlflow.json: no run has left here" in done.stderr
