import copy
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_FILES = sorted((_ROOT / "cluster" / "kuberay").glob("*.yaml"))
_SCHEMA = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())

pytestmark = pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)


def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def _containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [c for group in groups for c in group["template"]["spec"]["containers"]]


def test_a_cluster_file_fits_our_schema(path: Path) -> None:
    jsonschema.validate(_load(path), _SCHEMA)


@pytest.mark.parametrize(
    "where",
    [
        ("spec", "shutdownAfterJobsFinish"),
        ("spec", "rayClusterSpec", "workerGroups"),
        ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParameters"),
    ],
)
def test_a_misspelt_field_is_found(path: Path, where: tuple[str, ...]) -> None:
    job = copy.deepcopy(_load(path))
    node = job
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = {}
    with pytest.raises(jsonschema.ValidationError, match=where[-1]):
        jsonschema.validate(job, _SCHEMA)


@pytest.mark.samples
def test_a_cluster_file_fits_kuberays_own_definition(path: Path, samples_dir: Path) -> None:
    definition = samples_dir / "kuberay" / "ray.io_rayjobs.yaml"
    if not definition.is_file():
        pytest.skip(
            "RAYGAIT_SAMPLES has no kuberay/ray.io_rayjobs.yaml (KubeRay's helm chart, crds/)"
        )
    versions = _load(definition)["spec"]["versions"]
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    jsonschema.validate(_load(path), _closed(schema))


def _closed(schema: Any) -> Any:
    """Kubernetes drops fields it does not know in silence; here they are errors."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    # `metadata` is an object of Kubernetes itself, whose fields the definition leaves out.
    if "properties" in closed and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed


def test_the_ray_version_is_the_one_that_is_installed(path: Path) -> None:
    pinned = re.search(r"^ray\[.*\]==(\S+)$", (_ROOT / "requirements.txt").read_text(), re.M)
    assert pinned is not None
    assert _load(path)["spec"]["rayClusterSpec"]["rayVersion"] == pinned.group(1)


def test_every_pod_of_a_job_runs_the_same_image_and_mounts_what_it_names(path: Path) -> None:
    job = _load(path)
    assert len({container["image"] for container in _containers(job)}) == 1
    cluster = job["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        declared = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == declared


def test_the_workers_of_the_commands_fit_into_the_cluster(path: Path) -> None:
    job = _load(path)
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [
        (group["replicas"], group["template"]["spec"]["containers"][0]["resources"]["limits"])
        for group in groups
    ]
    cpus = sum(replicas * int(limit["cpu"]) for replicas, limit in limits)
    gpus = sum(replicas * int(limit.get("nvidia.com/gpu", 0)) for replicas, limit in limits)
    for words in _commands(job):
        workers = int(_option(words, "--num-workers", "1"))
        threads = int(_option(words, "--num-threads", "1"))
        assert workers * threads <= cpus
        if "--use-gpu" in words:
            assert workers <= gpus


def test_the_commands_are_ones_that_the_jobs_accept(path: Path, tmp_path: Path) -> None:
    commands = _commands(_load(path))
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    assert [Path(words[1]).stem for words in commands] == ["preprocess", "train", "evaluate"]
    for words in commands:
        # Everything is parsed; the folders are not there, which is the one error that is left.
        done = subprocess.run(
            [sys.executable, str(_ROOT / words[1]), *words[2:]],
            cwd=tmp_path,
            env={**os.environ, **tracking},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1, done.stderr
        assert re.search(r"^error: .*/data/", done.stderr, re.M), done.stderr


def _commands(job: dict[str, Any]) -> list[list[str]]:
    shell, flags, script = shlex.split(job["spec"]["entrypoint"])
    assert (shell, flags) == ("bash", "-euc")
    return [words for line in script.split(";") if (words := shlex.split(line))]


def _option(words: list[str], name: str, default: str) -> str:
    return words[words.index(name) + 1] if name in words else default
