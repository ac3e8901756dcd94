"""The workers of one attempt of a run: how many of them train, and what rank 0 decides for all.

An elastic run gets as many workers as there are places for, and not every number of them splits a
batch evenly. The surplus ones then stand by: a batch of 128 clips on three workers is computed by
two, as it was on four.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch.distributed

_END = "end of the run"


@dataclass(frozen=True)
class Place:
    """A worker's place among those that train.

    Attributes:
        rank: 0 writes checkpoints and record.
        world_size: Workers that train.
        num_surplus: Workers that stand by.
    """

    rank: int
    world_size: int
    num_surplus: int

    def agree(self, value: Any) -> Any:
        """What rank 0 says; every worker has to ask, and waits for it as long as it takes.

        Args:
            value: Small and plain; of the other workers it does not matter.
        """
        if self.world_size + self.num_surplus == 1:
            return value
        return _from_rank_zero(value)

    def leave(self) -> None:
        """End the run for those that stand by; every worker that trains calls it last."""
        if self.num_surplus:
            _from_rank_zero(_END)


def take_place(num_clips: int) -> Place | None:
    """Find this worker's place; called once, by all workers of a Ray Train run.

    Args:
        num_clips: Clips of a batch, over all workers.

    Returns:
        The place, or `None` to one that has stood by until the run ended.
    """
    import ray.train

    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    world_size = num_that_train(num_clips, num_workers)
    place = Place(rank, world_size, num_workers - world_size)
    if not place.num_surplus:
        return place
    # Without the surplus ones, which would be waited for in every gradient.
    backend = torch.distributed.get_backend()
    torch.distributed.destroy_process_group()
    port = _from_rank_zero(_free_port() if rank == 0 else None)
    if rank >= world_size:
        while _from_rank_zero(None) != _END:
            pass
        return None
    if world_size > 1:
        torch.distributed.init_process_group(
            backend,
            init_method=f"tcp://{os.environ['MASTER_ADDR']}:{port}",
            rank=rank,
            world_size=world_size,
        )
    return place


def num_that_train(num_clips: int, num_workers: int) -> int:
    """The largest number of workers, of those there are, that splits a batch evenly."""
    return max(number for number in range(1, num_workers + 1) if num_clips % number == 0)


def _from_rank_zero(value: Any) -> Any:
    # Through Ray, not through torch: its operations give up after minutes, an evaluation may not
    # be done by then.
    from ray.train.collective import broadcast_from_rank_zero

    return broadcast_from_rank_zero(value)


def _free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port
