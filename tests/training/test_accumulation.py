"""A share computed in pieces is the share computed at once."""

import copy
import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from raygait.batches.inputs import accepted_inputs
from raygait.batches.loader import Batch
from raygait.models import Branch, GaitOutput
from raygait.recipes import named
from raygait.recipes.schema import Recipe, build_model, with_overrides
from raygait.training.gradients import Piece, backward, pieces_of
from raygait.training.loop import BatchLoss, make_optimiser, seed_draws, train_step

CPU = torch.device("cpu")
NUM_SUBJECTS = 4
# No batch norm at all.
_GAITSET = {"model.channels": [4, 8, 16], "model.embedding_dim": 16}


def _gaitgl(**changes: Any) -> Recipe:
    small = {"model.channels": [4, 8, 8], "loss.identity_weight": 1.0}
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


def _without_statistics(recipe: Recipe) -> nn.Module:
    """GaitGL whose only norm is left out of training, as a frozen one is."""
    torch.manual_seed(0)
    network = build_model(recipe, NUM_SUBJECTS).train()
    network.embedding_norm.eval().requires_grad_(False)
    return network


def _batch(height: int, width: int, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    frames = torch.rand(8, 1, 3, height, width, generator=generator)
    return Batch(step, {"frames": frames}, torch.arange(8) // 2)


def _step(
    network: nn.Module, recipe: Recipe, batch: Batch, pieces: list[Piece]
) -> dict[str, float]:
    optimiser = make_optimiser(recipe, network)
    accepted = accepted_inputs(network)
    return train_step(
        network,
        BatchLoss(recipe),
        optimiser,
        batch,
        CPU,
        accepted,
        pieces=pieces,
        prepare=functools.partial(seed_draws, network, 0, batch.step),
    )


@pytest.mark.parametrize(
    ("num_clips", "at_once", "sizes"),
    [
        pytest.param(8, None, [8], id="all"),
        pytest.param(8, 8, [8], id="just all"),
        pytest.param(8, 4, [4, 4], id="halves"),
        pytest.param(8, 3, [2, 3, 3], id="as equal as can be"),
        pytest.param(8, 100, [8], id="more than there are"),
    ],
)
def test_pieces_cover_the_share_and_differ_by_one_clip_at_most(
    num_clips: int, at_once: int | None, sizes: list[int]
) -> None:
    pieces = pieces_of(num_clips, at_once, rank=1, world_size=3)
    assert [piece.stop - piece.start for piece in pieces] == sizes
    assert [clip for piece in pieces for clip in range(piece.start, piece.stop)] == [*range(8)]
    # The worker's i-th clip has the place rank + world_size * i in the global batch.
    assert [piece.place for piece in pieces] == [1 + 3 * piece.start for piece in pieces]


@pytest.mark.parametrize("at_once", [4, 3])
def test_pieces_give_the_losses_and_gradients_of_the_whole_share(at_once: int) -> None:
    # Doubles, so that what is left of a difference is no rounding. GaitGL also draws masks: the
    # pieces of a step draw the same ones.
    recipe = _gaitgl()
    whole = _without_statistics(recipe).double()
    pieced = copy.deepcopy(whole)
    batch = _batch(32, 22)
    batch.inputs["frames"] = batch.inputs["frames"].double()
    expected = _step(whole, recipe, batch, pieces_of(8, None))
    got = _step(pieced, recipe, batch, pieces_of(8, at_once))
    # There are triplets, across pieces too, which losses of the pieces would not have.
    assert expected["active_triplet_ratio"] > 0.1
    assert got == pytest.approx(expected, rel=1e-6)
    for (name, one), other in zip(whole.named_parameters(), pieced.parameters(), strict=True):
        if one.requires_grad:
            assert one.grad.any(), name
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-14)


def test_pieces_give_the_step_of_the_whole_share_of_a_network_without_batch_norm() -> None:
    recipe = with_overrides(
        named.recipe("gaitset-casiab"), {"model.channels": [4, 8, 16], "model.embedding_dim": 16}
    )
    torch.manual_seed(0)
    whole = build_model(recipe, NUM_SUBJECTS).train()
    assert not list(whole.buffers())
    pieced = copy.deepcopy(whole)
    before = copy.deepcopy(whole.state_dict())
    for step in range(2):
        expected = _step(whole, recipe, _batch(64, 44, step), pieces_of(8, None))
        got = _step(pieced, recipe, _batch(64, 44, step), pieces_of(8, 3))
        assert got == pytest.approx(expected, rel=1e-4)
    for name, weight in whole.state_dict().items():
        assert not torch.equal(weight, before[name]), name
        torch.testing.assert_close(pieced.state_dict()[name], weight, rtol=1e-5, atol=1e-5)


class _Dropping(nn.Module):
    """Drops features at random, and segments."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8 * 8, 8)
        self.dropout = nn.Dropout(0.5)
        self.masking = nn.Conv3d(1, 1, 1)
        self.classifier = nn.Linear(8, NUM_SUBJECTS)
        self.dropped: list[Tensor] = []

    def forward(self, frames: Tensor) -> GaitOutput:
        features = self.dropout(self.linear(frames.mean((1, 2)).flatten(1)))[:, None]
        self.dropped.append((features == 0).detach())
        branch = Branch(features, self.classifier(features))
        return GaitOutput(features, {"main": branch}, self.masking(frames).sigmoid())


def test_both_passes_of_a_piece_drop_the_same_and_pieces_drop_differently() -> None:
    recipe = _gaitgl(**{"loss.segmentation_weight": 1.0})
    torch.manual_seed(0)
    network = _Dropping()
    batch = _batch(8, 8)
    batch.inputs["masks"] = (batch.inputs["frames"] > 0.5).float()
    _step(network, recipe, batch, pieces_of(8, 4))
    first, second, first_again, second_again = network.dropped
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.equal(first, second)
    # What was dropped has no share in the gradient: the same in both passes, or it would have.
    alive = ~torch.cat([first, second]).all(dim=0)[0]
    assert torch.equal(network.linear.weight.grad.abs().sum(1) > 0, alive)
    assert float(network.masking.weight.grad.abs().sum()) > 0


def test_statistics_move_once_to_the_mean_over_the_pieces() -> None:
    recipe = _gaitgl(**{"model.backbone_norm": True, "model.mask_strategy": "fixed_parts"})
    torch.manual_seed(0)
    network = build_model(recipe, NUM_SUBJECTS).train()
    batch = _batch(32, 22)
    alone = []
    for start in (0, 4):
        lone = copy.deepcopy(network)
        lone(batch.inputs["frames"][start : start + 4])
        alone.append(dict(lone.named_buffers()))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    _step(network, recipe, batch, pieces_of(8, 4))
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            torch.testing.assert_close(buffer, (alone[0][name] + alone[1][name]) / 2)
            assert not torch.equal(buffer, before[name]), name
        else:
            assert int(buffer) == int(before[name]) + 1


def _ddp_worker(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    recipe = _gaitgl(**{"optim.optimiser": "sgd", "optim.learning_rate": 0.1})
    batch = _batch(32, 22)
    network = _without_statistics(recipe)
    trained = nn.parallel.DistributedDataParallel(network)
    share = Batch(0, {"frames": batch.inputs["frames"][rank::2]}, batch.labels[rank::2])
    optimiser = make_optimiser(recipe, network)
    pieces = pieces_of(4, 2, rank=rank, world_size=2)
    for step in range(2):
        prepare = functools.partial(seed_draws, network, 0, step)
        train_step(
            trained, BatchLoss(recipe), optimiser, share, CPU, pieces=pieces, prepare=prepare
        )
    torch.save(network.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_in_pieces_step_as_one_at_once(tmp_path: Path) -> None:
    recipe = _gaitgl(**{"optim.optimiser": "sgd", "optim.learning_rate": 0.1})
    network = _without_statistics(recipe)
    optimiser = make_optimiser(recipe, network)
    before = copy.deepcopy(network.state_dict())
    for step in range(2):
        prepare = functools.partial(seed_draws, network, 0, step)
        train_step(network, BatchLoss(recipe), optimiser, _batch(32, 22), CPU, prepare=prepare)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    address = f"file://{tmp_path}/meeting"
    torch.multiprocessing.spawn(_ddp_worker, (address, str(tmp_path)), nprocs=2)
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, values in network.state_dict().items():
            if not name.startswith("embedding_norm"):
                assert not torch.equal(values, before[name]), name
            torch.testing.assert_close(theirs[name], values, rtol=1e-5, atol=1e-5)


def test_what_the_pieces_do_not_move_stays_to_the_bit() -> None:
    class Still(nn.Module):
        """Holds what a forward pass reads and never changes."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406, 1 / 3]))
            self.linear = nn.Linear(4, 4)

        def forward(self, frames: torch.Tensor) -> GaitOutput:
            features = self.linear(frames.mean(dim=(2, 3, 4)).repeat(1, 4) - self.mean)[:, None]
            return GaitOutput(features, {"main": Branch(features, features)})

    torch.manual_seed(0)
    network, before = Still(), Still().mean.clone()
    frames = torch.rand(12, 1, 2, 4, 4)
    recipe = named.recipe("gaitgl-demo")
    labels = torch.arange(12) // 4
    backward(network, BatchLoss(recipe), {"frames": frames}, labels, pieces=pieces_of(12, 4))
    assert torch.equal(network.mean, before)
