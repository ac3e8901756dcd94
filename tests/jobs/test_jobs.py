"""The jobs as a user types them: in processes of their own, on real data, with exit codes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raygait.synthetic import casiab_tree
from raygait.synthetic.scenes import write_empty_scene, write_one_pixel

_ROOT = Path(__file__).parents[2]
_JOBS = sorted(
    path.stem
    for path in (_ROOT / "jobs").glob("*.py")
    if path.stem not in ("__init__", "console", "preflight")
)


def _run(name: str, *words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(_ROOT / "jobs" / f"{name}.py"), *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    casiab_tree.write(
        root,
        num_subjects=4,
        views=["054", "090"],
        conditions=["nm-01", "nm-02", "nm-05", "bg-01", "cl-01"],
        num_frames=12,
    )
    return root


@pytest.mark.parametrize("name", _JOBS)
def test_every_job_explains_itself(name: str, tmp_path: Path) -> None:
    text = _run(name, "--help", cwd=tmp_path).stdout
    assert len(text.split()) > 60
    assert f"jobs/{name}.py" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(600)
def test_silhouettes_become_a_registered_model_that_compares_walks(
    tree: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["--dataset", "casiab", "--root", tree, "--out", "shards"]
    preprocessed = _run("preprocess", *words, cwd=tmp_path)
    # The tree has four of the benchmark's people.
    # Each has 10 of the 110 walks that the benchmark has of them.
    assert ": 4 of 124 subjects, 400 missing of subjects that are there; " in preprocessed.stdout
    small = ["--model.channels", "4", "8", "8", "--clip.num-frames", "9", "--num-steps", "3"]
    small += ["--batch.num-subjects", "2", "--batch.num-sequences", "2", "--data.split", "first:2"]
    words = ["gaitgl-demo", "--shards", "shards", "--run-name", "small", "--tracking-uri", uri]
    trained = _run("train", *words, *small, "--num-workers", "2", cwd=tmp_path)
    # Nothing but progress: no warning, no note of a library, no stack trace.
    assert all(" step " in line for line in trained.stderr.splitlines())
    run_id = trained.stdout.split("mlflow run: ")[1].split()[0]

    words = ["--model", "runs/small", "--shards", "shards", "--out", "evaluation"]
    words += ["--tracking-uri", uri, "--mlflow-run", run_id]
    scored = _run("evaluate", *words, cwd=tmp_path)
    assert "untrained" in scored.stdout
    assert scored.stderr == ""
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert written["rows"]["trained"]["means"]["NM"] is not None
    table = (tmp_path / "evaluation" / "evaluation.txt").read_text()
    assert table in scored.stdout
    assert "casiab,GEI,NM,rank1,," in (tmp_path / "evaluation" / "evaluation.csv").read_text()

    words = ["--model", "runs/small", "--name", "gait", "--alias", "champion"]
    words += ["--tracking-uri", uri, "--mlflow-run", run_id]
    words += ["--evaluation", "evaluation/evaluation.json"]
    assert "models:/gait@champion" in _run("register", *words, cwd=tmp_path).stdout

    words = ["--model", "models:/gait@champion", "--shards", "shards", "--tracking-uri", uri]
    words += ["--out", "distances.json", "--num-workers", "0"]
    compared = _run("compare", *words, cwd=tmp_path)
    assert compared.stderr == ""
    distances = json.loads((tmp_path / "distances.json").read_text())
    assert len(distances["labels"]) == len(distances["values"]) == 40
    assert all(distances["values"][row][row] < 1e-2 for row in range(40))

    words = ["--shards", "shards", "--run", "runs/small", "evaluation", "--out", "page.html"]
    _run("report", *words, cwd=tmp_path)
    assert "gaitgl-demo" in (tmp_path / "page.html").read_text()


@pytest.mark.timeout(400)
def test_spoilt_sources_become_rejects_with_reasons_and_the_share_decides_the_exit_code(
    tmp_path: Path,
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "empty.mp4").write_bytes(b"")
    (clips / "text.mp4").write_text("not a video")
    write_empty_scene(clips / "nobody.mp4", num_frames=30)
    write_one_pixel(clips / "pixel.mkv")
    words = ["--dataset", "videos", "--root", "clips", "--out", "shards"]
    done = _run("preprocess", *words, cwd=tmp_path, code=1)
    for reason in ("undecodable", "no-person", "frame-size"):
        assert reason in done.stdout
    assert "100.0% of the sources gave no row" in done.stderr
    _run("preprocess", *words, "--max-reject-share", "1", cwd=tmp_path)


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        pytest.param(
            "train", ["gaitgl-nowhere"], "error: no recipe is named 'gaitgl-nowhere'", id="recipe"
        ),
        pytest.param(
            "train",
            ["gaitgl-demo", "--shards", "nowhere", "--tracking-uri", "sqlite:///a.db"],
            "error: nowhere",
            id="shards",
        ),
        pytest.param(
            "preprocess",
            ["--dataset", "casiab", "--root", "nowhere", "--out", "x"],
            "error: nowhere",
            id="root",
        ),
        pytest.param(
            "evaluate",
            ["--model", "nowhere", "--shards", "x"],
            "error: nowhere is no saved model",
            id="model",
        ),
        pytest.param(
            "tune",
            ["gaitgl-demo", "--shards", "x", "--grid", "model.drop_ratio"],
            "error: expected PATH=VALUE",
            id="grid",
        ),
        pytest.param(
            "report", ["--run", "nowhere", "--out", "page.html"], "error: nowhere", id="run"
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_1(
    name: str, words: list[str], sentence: str, tmp_path: Path
) -> None:
    done = _run(name, *words, cwd=tmp_path, code=1)
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in done.stderr


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real Ray head with a dashboard, as `ray job submit` needs; ended by its process group."""
    # Every port has to be free: the agent that runs jobs has a fixed one by default, which another
    # Ray on this machine, such as this session's own, may hold.
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        port, dashboard, agent = (each.getsockname()[1] for each in sockets)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # The head runs entry points with its own PATH: the environment's python has to come first.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with tempfile.TemporaryDirectory(prefix="rg", dir="/tmp") as folder:
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--num-cpus", "4", "--port", str(port), "--dashboard-port", str(dashboard)),
                *("--dashboard-agent-listen-port", str(agent)),
                *("--include-dashboard", "true", "--object-store-memory", "200000000"),
                *("--temp-dir", folder, "--node-ip-address", "127.0.0.1"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            deadline = time.monotonic() + 120
            while True:
                assert head.poll() is None, "the head did not start"
                assert time.monotonic() < deadline, "the dashboard did not answer in 120 s"
                try:
                    urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).read()
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()


@pytest.mark.timeout(400)
def test_a_job_runs_under_ray_job_submit(cluster: str, tree: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster),
        *("--runtime-env-json", json.dumps({"excludes": [".venv", ".git", "runs"]})),
        *("--working-dir", str(_ROOT), "--"),
        *("python", "jobs/preprocess.py", "--dataset", "casiab", "--root", str(tree)),
        *("--out", str(tmp_path / "shards"), "--num-workers", "2"),
    ]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        # The dashboard answers some seconds before the agent that runs jobs is there.
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 rows" in done.stdout
    assert list((tmp_path / "shards").glob("part-*.parquet"))
