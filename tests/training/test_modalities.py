"""Training on what is not a silhouette: which inputs arrive, what the losses do with them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from raygait.batches.cache import open_cache
from raygait.batches.columns import pack, unpack
from raygait.batches.inputs import accepted_inputs
from raygait.batches.loader import Batch, ClipLoader
from raygait.errors import ShardError, TrainingError
from raygait.evaluation.benchmark import run_benchmark
from raygait.evaluation.embed import embed
from raygait.models import Branch, GaitOutput
from raygait.recipes import named
from raygait.recipes.saved_model import load_model
from raygait.recipes.schema import Recipe, with_overrides
from raygait.shards import reader
from raygait.training.launch import train
from raygait.training.loop import BatchLoss, train_step

CPU = torch.device("cpu")


def _recipe(**changes: Any) -> Recipe:
    small = {
        "model.channels": [4, 8, 8],
        "data.split": "first:2",
        "clip.num_frames": 9,
        "batch.num_subjects": 2,
        "batch.num_sequences": 2,
        "num_steps": 3,
        "checkpoint_every_steps": 3,
    }
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


class Aligning(nn.Module):
    """Reads joints and draws; says what it was given."""

    def __init__(self, num_subjects: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(17 * 3 + 17 + 1, num_subjects)
        self.seen: dict[str, Tensor] = {}

    def forward(
        self, frames: Tensor, *, joints: Tensor, align_draws: Tensor | None = None
    ) -> GaitOutput:
        self.seen = {"frames": frames, "joints": joints}
        draws = frames.new_zeros(joints.shape[:2]) if align_draws is None else align_draws
        self.seen["align_draws"] = draws
        features = torch.cat(
            [joints.mean(1).flatten(1) / 64, frames.mean((2, 3, 4)), draws.mean(1, keepdim=True)],
            dim=1,
        )[:, None]
        return GaitOutput(features, {"main": Branch(features, self.classifier(features))})


class Segmenting(nn.Module):
    """Segments by a map of where people stand and by colour; embeds the colours it finds there."""

    def __init__(self, num_subjects: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(32, 32))
        self.colour = nn.Conv3d(3, 1, (1, 5, 5), padding=(0, 2, 2))
        self.classifier = nn.Linear(4, num_subjects)
        self.seen: dict[str, Tensor] = {}

    def forward(self, frames: Tensor, *, ratios: Tensor, masks: Tensor | None = None) -> GaitOutput:
        self.seen = {"ratios": ratios, **({} if masks is None else {"masks": masks})}
        mask_logits = self.colour(frames) + self.place
        colours = (frames * mask_logits.sigmoid()).mean((2, 3, 4))
        features = torch.cat([colours, ratios.mean(1, keepdim=True)], dim=1)[:, None]
        logits = self.classifier(features)
        return GaitOutput(features, {"main": Branch(features, logits)}, mask_logits)


@pytest.fixture(scope="module")
def batches(street_shards: Path, tmp_path_factory) -> dict[str, Batch]:
    folder = tmp_path_factory.mktemp("cache")
    made = {}
    for modality, size in {"heatmaps": (64, 48), "rgb": (32, 32), "silhouettes": (64, 44)}.items():
        cache = open_cache(street_shards, modality=modality, folder=folder)
        loader = ClipLoader(
            cache,
            sorted(set(cache.subjects)),
            num_subjects=3,
            num_sequences=2,
            clip_num_frames=6,
            clip_order="ordered",
            flip_ratio=0.5,
            height_px=size[0],
            width_px=size[1],
            seed=0,
        )
        made[modality] = loader.batch(0)
    return made


def _step(network: nn.Module, batch: Batch, recipe: Recipe, rate: float = 0.1) -> dict[str, float]:
    optimiser = torch.optim.SGD(network.parameters(), lr=rate)
    accepted = accepted_inputs(network)
    return train_step(network, BatchLoss(recipe), optimiser, batch, CPU, accepted)


@pytest.mark.ray
def test_a_network_that_aligns_is_given_the_batchs_joints_and_draws(batches) -> None:
    network = Aligning(3)
    _step(network, batches["heatmaps"], _recipe())
    assert list(network.seen) == ["frames", "joints", "align_draws"]
    for name, values in network.seen.items():
        assert torch.equal(values, batches["heatmaps"].inputs[name]), name


@pytest.mark.ray
def test_a_network_that_segments_is_given_the_batchs_ratios_and_masks(batches) -> None:
    network = Segmenting(3)
    _step(network, batches["rgb"], _recipe())
    assert list(network.seen) == ["ratios", "masks"]
    for name, values in network.seen.items():
        assert torch.equal(values, batches["rgb"].inputs[name]), name


@pytest.mark.ray
def test_masks_are_learnt_where_the_recipe_weighs_them(batches) -> None:
    torch.manual_seed(0)
    recipe = _recipe(**{"loss.segmentation_weight": 10.0, "loss.triplet_weight": 0.0})
    network = Segmenting(3)
    criterion, accepted = BatchLoss(recipe), accepted_inputs(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    history = [
        train_step(network, criterion, optimiser, batches["rgb"], CPU, accepted) for _ in range(40)
    ]
    first, last = history[0], history[-1]
    expected = 0.1 * first["identity_loss"] + 10 * first["segmentation_loss"]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert last["segmentation_loss"] < 0.6 * first["segmentation_loss"]
    assert first["mask_iou"] < 0.4 < 0.6 < last["mask_iou"]


@pytest.mark.ray
def test_masks_cost_nothing_where_the_recipe_does_not_weigh_them(batches) -> None:
    torch.manual_seed(0)
    network = Segmenting(3)
    without = _step(network, batches["rgb"], _recipe())
    assert "segmentation_loss" not in without
    expected = without["triplet_loss"] + 0.1 * without["identity_loss"]
    assert without["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("network", "modality", "reason"),
    [
        pytest.param(Aligning, "heatmaps", "only data.modality rgb has masks", id="no masks"),
        pytest.param(None, "rgb", "does not segment: set it to 0", id="no segmenter"),
    ],
)
def test_a_segmentation_loss_of_nothing_is_an_error(
    batches, network, modality: str, reason: str
) -> None:
    weighed = _recipe(**{"loss.segmentation_weight": 1.0})

    class Blind(Segmenting):
        def forward(self, frames: Tensor, *, ratios: Tensor) -> GaitOutput:
            return super().forward(frames, ratios=ratios)._replace(mask_logits=None)

    with pytest.raises(TrainingError, match=reason):
        _step((network or Blind)(3), batches[modality], weighed)


def _ddp_worker(rank: int, address: str, batch: Batch, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(0)
    network = Segmenting(3)
    trained = nn.parallel.DistributedDataParallel(network)
    share = Batch(
        batch.step,
        {name: values[rank::2] for name, values in batch.inputs.items()},
        batch.labels[rank::2],
    )
    recipe = _recipe(**{"loss.segmentation_weight": 10.0})
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    train_step(trained, BatchLoss(recipe), optimiser, share, CPU, accepted_inputs(network))
    torch.save(network.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.ray
def test_two_workers_step_as_one_with_every_input_and_loss(batches, tmp_path: Path) -> None:
    batch = batches["rgb"]
    torch.manual_seed(0)
    network = Segmenting(3)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    _step(network, batch, _recipe(**{"loss.segmentation_weight": 10.0}))
    address = f"file://{tmp_path}/meeting"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(_ddp_worker, (address, batch, str(tmp_path)), nprocs=2)
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, values in network.state_dict().items():
            assert not torch.equal(values, before[name]), name
            torch.testing.assert_close(theirs[name], values, atol=1e-5, rtol=1e-4)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("modality", "size_px"),
    [
        ("heatmaps", (32, 24)),
        pytest.param("rgb", (32, 32), marks=pytest.mark.slow),
        pytest.param("silhouettes_128", (32, 22), marks=pytest.mark.slow),
    ],
)
def test_a_run_on_shards_of_clips_trains_embeds_and_is_scored(
    street_shards: Path, street_shard: Path, tmp_path: Path, modality: str, size_px: tuple[int, int]
) -> None:
    size = {"data.height_px": size_px[0], "data.width_px": size_px[1]}
    recipe = _recipe(**{"data.modality": modality, **size})
    result = train(recipe, street_shards, tmp_path, name="run", report_every_steps=1)
    assert [point["step"] for point in result.history] == [1, 2, 3]
    saved = load_model(result.checkpoint)
    assert saved.recipe.data.modality == modality

    # Embedded alone as in company of those of the same length.
    rows = {row["sequence_id"]: row for row in reader.read_rows(street_shard).to_pylist()}
    lengths = [row["num_frames"] for row in rows.values()]
    assert len(set(lengths)) < len(lengths)
    together = embed(street_shard, result.checkpoint, num_workers=0)
    assert sorted(together.sequence_ids) == sorted(rows)
    for value, sequence_id in zip(together.values, together.sequence_ids, strict=True):
        arrays = unpack(pack(rows[sequence_id], modality), modality)
        alone = saved.embed({name: values[None] for name, values in arrays.items()})
        np.testing.assert_allclose(value, alone[0], atol=1e-5)
    scores = run_benchmark(result.checkpoint, street_shards, scratch=tmp_path, num_workers=0)
    assert set(scores.rows) == {"trained", "untrained", "GEI"}


@pytest.mark.ray
def test_shards_without_the_modality_end_a_run_before_it_claims_its_name(
    ray_session, walker_shards: Path, tmp_path: Path
) -> None:
    recipe = _recipe(**{"data.modality": "heatmaps", "data.width_px": 24})
    with pytest.raises(ShardError, match=r"hold no heatmaps.*--video\.modalities"):
        train(recipe, walker_shards, tmp_path, name="run")
    assert not list(tmp_path.iterdir())
