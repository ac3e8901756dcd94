"""Fixtures every room's tests share: one small local Ray cluster, the sample videos."""

import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports ray or mlflow: both read these once.
for _name, _value in {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(_name, _value)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local cluster for a process of pytest: four logical CPUs, a bounded object store."""
    import ray

    # Unix socket paths are short, so the session directory has to be.
    temp_dir = tempfile.mkdtemp(prefix="rg", dir="/tmp")
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=temp_dir,
    )
    yield
    ray.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """The folder of sample videos that cannot be shipped; it holds `video/vtest.avi`."""
    folder = os.environ.get("RAYGAIT_SAMPLES", "")
    if not (Path(folder) / "video" / "vtest.avi").is_file():
        message = (
            "set RAYGAIT_SAMPLES to a folder that holds video/vtest.avi "
            "(Debian: apt-get install opencv-doc, then copy "
            "/usr/share/doc/opencv-doc/examples/data/vtest.avi)"
        )
        if os.environ.get("RAYGAIT_SAMPLES_REQUIRED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return Path(folder)


@pytest.fixture(scope="session")
def walker_shards(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of six synthetic walkers, two views, eight walks; shared by all tests."""
    from raygait.datasets import casiab
    from raygait.shards.ingest import ingest
    from raygait.synthetic import casiab_tree

    folder = tmp_path_factory.mktemp("walkers")
    casiab_tree.write(
        folder / "tree",
        num_subjects=6,
        views=["054", "090"],
        conditions=["nm-01", "nm-02", "nm-03", "nm-04", "nm-05", "nm-06", "bg-01", "cl-01"],
        num_frames=18,
    )
    sequences = casiab.index(folder / "tree", dataset="walkers")
    ingest(sequences, folder / "tree", folder / "shards", num_workers=2)
    return folder / "shards"


@pytest.fixture(scope="session")
def street_shards(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with every modality: clips of three rendered walkers, two walks each."""
    from raygait.datasets import videos
    from raygait.shards.ingest import ingest
    from raygait.synthetic.scenes import write_street
    from raygait.synthetic.street import Passer, Street, street_camera
    from raygait.synthetic.walkers import FPS, Walker, speed_m_s
    from raygait.video.settings import VideoSettings

    folder = tmp_path_factory.mktemp("street")
    for seed, (condition, view_deg, num_frames) in itertools.product(
        (1, 2, 3), (("nm-01", 90, 18), ("bg-01", 108, 15))
    ):
        walker, view = Walker.from_seed(seed), math.radians(view_deg)
        half_m = speed_m_s(walker.walk(condition)) * num_frames / FPS / 2
        x_m, y_m = half_m * math.sin(view), half_m * math.cos(view)
        passer = Passer(walker, condition, ((x_m, y_m - 1), (-x_m, -y_m - 1)))
        path = folder / "clips" / f"{seed:03d}" / condition / f"{view_deg:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_street(Street(street_camera(), (passer,), num_frames, seed=seed), path)
    modalities = ("silhouettes_128", "heatmaps", "heatmaps_redrawn", "rgb", "joints")
    settings = VideoSettings(
        detector="ssd", detect_every=2, tiles="never", min_frames=10, modalities=modalities
    )
    sequences = videos.index(folder / "clips", dataset="street")
    ingest(sequences, folder / "clips", folder / "shards", settings, num_workers=2)
    return folder / "shards"


@pytest.fixture(scope="session")
def street_shard(street_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of `street_shards` in one shard, so that some are embedded together."""
    import pyarrow.parquet as pq

    from raygait.shards import reader

    first = reader.list_shards(street_shards)[0]
    folder = tmp_path_factory.mktemp("one-shard")
    pq.write_table(reader.read_rows(street_shards), folder / first.name)
    # Its size and digest are another shard's: nothing that embeds looks at them.
    (folder / f"{first.stem}.json").write_text(reader.read_summary(first).to_json())
    reader.Manifest({}, {}, (first.stem,)).write(folder)
    return folder
