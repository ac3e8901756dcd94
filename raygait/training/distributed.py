"""What the workers of one run say to each other beyond DDP's gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor


class _GatherWithGradient(torch.autograd.Function):
    """All workers' tensors; the gradient of each goes home summed over workers."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        del ctx
        return _everyones(local)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        # gloo has no reduce-scatter, so every worker sums all slices and keeps its own.
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(summed)
        return summed[torch.distributed.get_rank() :: torch.distributed.get_world_size()]


def num_workers() -> int:
    """Workers of this run; 1 without a process group."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 1
    return torch.distributed.get_world_size()


def gather_with_gradient(local: Float[Tensor, "n ..."]) -> Float[Tensor, "m ..."]:
    """The global batch's tensors on every worker, in its order, differentiable.

    Every worker then computes the same loss on the global batch, to the bit of what one worker
    with the same tensors would: sums are in the same order. A worker's share of the gradient
    arrives once from each of the W workers, and DDP divides by W: together the gradient of the
    global batch, as if one worker had computed it.

    Args:
        local: This worker's share, as `sampler.rank_positions` deals it; equally long on all.
    """
    if num_workers() == 1:
        return local
    gathered: Tensor = _GatherWithGradient.apply(local)  # type: ignore[no-untyped-call]
    return gathered


def gather(local: Tensor) -> Tensor:
    """The global batch's tensors on every worker, in its order, without gradient."""
    return local if num_workers() == 1 else _everyones(local)


def sum_over_workers(local: Tensor) -> Tensor:
    """The sum of all workers' tensors, the same bits on each of them, without gradient."""
    if num_workers() == 1:
        return local
    total = local.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def mean_over_workers(local: Mapping[str, Tensor]) -> dict[str, float]:
    """Numbers of the global batch from those of equal shares.

    Args:
        local: Means over this worker's share; of the same names on all workers.
    """
    means = sum_over_workers(torch.stack([value.double() for value in local.values()]))
    return dict(zip(local, (means / num_workers()).tolist(), strict=True))


def _everyones(local: Tensor) -> Tensor:
    gathered = [torch.empty_like(local) for _ in range(num_workers())]
    torch.distributed.all_gather(gathered, local.contiguous())
    # Worker r has the clips r, r + W, and so on: one of each, then the next of each.
    return torch.stack(gathered, dim=1).flatten(0, 1)
