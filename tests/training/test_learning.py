"""Each of the five systems, an eighth as wide, learns something about walkers it has never seen.

Walkers are synthetic, of known identity; the silhouettes are rendered masks, the heatmaps and the
RGB crops come out of our own preprocessing of rendered clips. A run takes minutes at most on one
core. What is compared: mean rank-1 of walkers that no step has seen, in other views than the
gallery's, before and after training. Recorded in `tests/benchmarks/RESULTS.md`; to repeat it:

    python -m pytest tests/training/test_learning.py -m slow -s
"""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from raygait.datasets import casiab, videos
from raygait.evaluation.benchmark import TRAINED, UNTRAINED, run_benchmark
from raygait.recipes import named
from raygait.recipes.schema import with_overrides
from raygait.shards.ingest import ingest
from raygait.synthetic import casiab_tree
from raygait.synthetic.scenes import write_street
from raygait.synthetic.street import Passer, Street, street_camera
from raygait.synthetic.walkers import Walker, speed_m_s
from raygait.training.launch import train
from raygait.video.settings import VideoSettings

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

# Rank-1 of a guess is the share of the gallery that is the right walker: one in so many.
NUM_UNSEEN = 14
_FPS = 12.5

_SILHOUETTES = {
    "data.height_px": 32,
    "data.width_px": 22,
    "data.split": "first:24",
    "clip.num_frames": 10,
    "batch.num_subjects": 8,
    "batch.num_sequences": 4,
    "optim.optimiser": "adam",
    "optim.learning_rate": 3e-3,
    "optim.schedule": "one-cycle",
}
# The cross-entropy stays near chance in so few steps, and its gradient is in the triplets' way.
_TRIPLETS_FIRST = {"loss.identity_weight": 0.1}


def _of_phase(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        f"before.{name}.{path}": value for path, value in options.items() if path != "data.split"
    }


RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gaitgl-casiab": (
        "walkers",
        {
            **_SILHOUETTES,
            **_TRIPLETS_FIRST,
            "model.channels": [8, 16, 16],
            "model.lta_kernel": [3, 1, 1],
            "num_steps": 200,
        },
    ),
    "lgdiffgait-casiab": (
        "walkers",
        {
            **_SILHOUETTES,
            "model.channels": [8, 16, 32, 64],
            "model.num_parts": 8,
            "clip.skip_frames": 2,
            # In so few steps they only make it harder to see anything.
            **{f"clip.{kind}_ratio": 0.0 for kind in ("perspective", "affine", "rotate", "erase")},
            "num_steps": 200,
        },
    ),
    "lmgcs-casiab-lt": (
        "walkers",
        {
            **_SILHOUETTES,
            **_of_phase("a", {**_SILHOUETTES, "num_steps": 500}),
            "model.channels": [4, 8, 16, 16],
            "model.num_strips": 8,
            "model.gsfe_layers": [1, 1],
            "model.gsfe_heads": 4,
            "model.gsfe_width": 64,
            "model.embedding_dim": 32,
            "num_steps": 150,
        },
    ),
    "gaitheat-casiab": (
        "street",
        {
            "model.channels": [8, 16, 32, 64],
            "model.embedding_dim": 32,
            "model.num_parts": 8,
            "model.align_to_px": [12, 8],
            "data.height_px": 32,
            "data.width_px": 24,
            "data.split": "first:22",
            "clip.num_frames": 6,
            "batch.num_sequences": 4,
            "optim.optimiser": "adam",
            "optim.learning_rate": 3e-3,
            "optim.schedule": "one-cycle",
            "num_steps": 200,
        },
    ),
    "gaitedge-casiab": (
        "street",
        {
            "model.recogniser.stem_channels": [4],
            "model.recogniser.channels": [8, 16, 16],
            "model.segmenter.channels": [4, 8, 8, 16],
            "data.height_px": 64,
            "data.width_px": 64,
            "data.split": "first:22",
            "clip.num_frames": 6,
            "batch.num_sequences": 4,
            **_TRIPLETS_FIRST,
            "optim.learning_rate": 1e-3,
            "optim.schedule": "one-cycle",
            "num_steps": 60,
            **_of_phase(
                "segmenter",
                {
                    "data.height_px": 64,
                    "data.width_px": 64,
                    "clip.num_frames": 4,
                    "batch.num_sequences": 2,
                    "optim.milestones": [],
                    "num_steps": 80,
                },
            ),
            **_of_phase(
                "recogniser",
                {
                    "clip.num_frames": 9,
                    "batch.num_sequences": 4,
                    **_TRIPLETS_FIRST,
                    "optim.learning_rate": 3e-3,
                    "optim.schedule": "one-cycle",
                    "optim.milestones": [],
                    "num_steps": 150,
                },
            ),
        },
    ),
}


@pytest.fixture(scope="module")
def walkers(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Silhouettes of 38 walkers, three views, eight walks of 30 frames."""
    folder = tmp_path_factory.mktemp("walkers")
    casiab_tree.write(
        folder / "tree",
        num_subjects=24 + NUM_UNSEEN,
        views=["036", "072", "108"],
        conditions=["nm-01", "nm-02", "nm-03", "nm-05", "bg-01", "bg-02", "cl-01", "cl-02"],
        num_frames=30,
    )
    sequences = casiab.index(folder / "tree", dataset="walkers")
    ingest(sequences, folder / "tree", folder / "shards", num_workers=2)
    return folder / "shards"


@pytest.fixture(scope="module")
def street(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 36 rendered walkers, two views, four walks of 16 frames, through the video room."""
    folder = tmp_path_factory.mktemp("street")
    for number, condition, view_deg in itertools.product(
        range(1, 22 + NUM_UNSEEN + 1), ("nm-01", "nm-05", "bg-01", "cl-01"), (72, 108)
    ):
        walker, view = Walker.from_seed(number), math.radians(view_deg)
        half_m = speed_m_s(walker.walk(condition)) * 16 / _FPS / 2
        x_m, y_m = half_m * math.sin(view), half_m * math.cos(view)
        passer = Passer(walker, condition, ((x_m, y_m - 2), (-x_m, -y_m - 2)))
        path = folder / "clips" / f"{number:03d}" / condition / f"{view_deg:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another wall and floor for every clip: a background must not tell who walks.
        seed = 1000 * number + 10 * view_deg + len(condition) + ord(condition[0])
        write_street(Street(street_camera(), (passer,), 16, fps=_FPS, seed=seed), path)
    settings = VideoSettings(
        detector="ssd",
        detect_every=2,
        tiles="never",
        min_frames=10,
        modalities=("heatmaps", "rgb"),
    )
    sequences = videos.index(folder / "clips", dataset="street")
    ingest(sequences, folder / "clips", folder / "shards", settings, num_workers=2)
    return folder / "shards"


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_trained_network_knows_walkers_it_has_never_seen_better_than_an_untrained_one(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data, overrides = RECIPES[name]
    shards: Path = request.getfixturevalue(data)
    recipe = with_overrides(named.recipe(name), overrides)
    result = train(recipe, shards, tmp_path / "runs", name="run")
    scores = run_benchmark(result.checkpoint, shards, scratch=tmp_path, num_workers=0)
    trained = scores.rows[TRAINED].means
    untrained = scores.rows[UNTRAINED].means
    seconds = sum(point["step_seconds"] for point in result.history)
    print(  # noqa: T201
        f"\n| {name} | {data} | {scores.num_subjects} | {len(result.history)} | {seconds:.0f} | "
        + " | ".join(
            f"{untrained[probe]:.0f} -> {trained[probe]:.0f} ({scores.chance[probe]:.0f})"
            for probe in trained
        )
        + " |"
    )
    assert scores.num_subjects == NUM_UNSEEN
    # Over the three probe sets: one of 28 or 56 probes alone is worth 2 to 4 points each.
    before, after = (sum(means.values()) / len(means) for means in (untrained, trained))
    assert after > before + 15
    assert after > 3 * sum(scores.chance.values()) / len(scores.chance)
