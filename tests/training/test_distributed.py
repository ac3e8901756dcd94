import os
import socket
from pathlib import Path

import torch
import torch.multiprocessing

from raygait.losses.triplet import TripletLoss
from raygait.training.distributed import gather, gather_with_gradient

_LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _features() -> torch.Tensor:
    return torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0))


def _worker(rank: int, world_size: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    places = torch.arange(rank, 8, world_size)
    weight = torch.ones(5, requires_grad=True)
    features = _features()[places] * weight
    loss = TripletLoss()(gather_with_gradient(features), gather(_LABELS[places])).loss
    loss.backward()
    # What DDP does with the gradients of its parameters.
    torch.distributed.all_reduce(weight.grad)
    torch.save({"loss": loss.detach(), "grad": weight.grad / world_size}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_have_the_loss_and_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    weight = torch.ones(5, requires_grad=True)
    loss = TripletLoss()(gather_with_gradient(_features() * weight), gather(_LABELS)).loss
    loss.backward()
    torch.multiprocessing.spawn(_worker, (2, _free_port(), str(tmp_path)), nprocs=2)
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(got["loss"], loss.detach())
        torch.testing.assert_close(got["grad"], weight.grad)
