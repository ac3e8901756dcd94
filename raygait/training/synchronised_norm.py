"""Batch norms that see the whole batch, however many workers share it.

`torch.nn.SyncBatchNorm` refuses tensors on the CPU; these run wherever torch's collectives do. Each
worker sums its share, one all-reduce adds the sums, and all normalise by the same statistics. The
backward pass does the same once more: through the statistics the gradient of a clip reaches the
clips of all workers.

Shares may differ in size. All workers have to pass the same norms in the same order, which those
of one network do; where a forward pass is computed again for its gradients, it is on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from raygait.training.distributed import num_workers, sum_over_workers

# Torch's kernel adds up channels-last maps on the CPU in float32, one pixel after the other. The
# mean of 300,000 ReLUs was off by 6e-4, and otherwise for half of them: no two numbers of workers
# would agree. So no sum is longer than this; float64 adds up the short ones.
_LONGEST_SUM = 128
# Short sums of one call, side by side as if each were a channel: as many as stay in the cache.
_SUMS_AT_ONCE = 16384


class _Synchronised(_BatchNorm):
    """The forward pass of the three norms below."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalise; in evaluation mode as torch does."""
        is_alone = num_workers() == 1
        # Alone torch's own would do, but for the sums of its CPU kernel.
        if not self.training or (is_alone and input.device.type != "cpu"):
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        if is_alone and input.numel() == input.shape[1]:
            raise ValueError(
                f"batch norm: got {tuple(input.shape)}, expected more than one value of a channel"
            )
        running: tuple[Tensor, Tensor] | None = None
        update = 0.0
        if self.track_running_stats:
            assert self.num_batches_tracked is not None
            assert self.running_mean is not None
            assert self.running_var is not None
            self.num_batches_tracked.add_(1)
            # Without momentum they are the mean over all batches so far.
            update = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            running = self.running_mean, self.running_var
        # Of halves the CPU's kernels would keep the statistics in halves.
        is_half = input.dtype in (torch.float16, torch.bfloat16)
        features = input.float() if is_half and input.device.type == "cpu" else input
        # Of halves, too, weights and statistics of a batch are float32.
        kind = torch.promote_types(input.dtype, torch.float32)
        weight, bias = (None if own is None else own.to(kind) for own in (self.weight, self.bias))
        normed: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            features, weight, bias, running, update, self.eps
        )
        return normed.to(input.dtype)


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the clips of all workers."""


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the clips of all workers."""


class SynchronisedBatchNorm3d(_Synchronised, nn.BatchNorm3d):
    """`nn.BatchNorm3d` over the clips of all workers."""


_COUNTERPARTS: dict[type[nn.Module], type[_Synchronised]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
    nn.BatchNorm3d: SynchronisedBatchNorm3d,
}


def synchronise_norms(network: nn.Module) -> None:
    """Let every batch norm of a network see the clips of all workers.

    In place: modules, parameters, buffers and their names stay, so an optimiser, a state dictionary
    or whoever else holds a part of the network need not know. Norms in evaluation mode use their
    running statistics as ever, and one worker, or no process group, makes plain batch norms.

    Args:
        network: Any network.

    Raises:
        TypeError: It has a batch norm of another class, which would see its own share only.
    """
    norms: list[nn.Module] = []
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, _Synchronised):
            if type(module) not in _COUNTERPARTS:
                raise TypeError(
                    f"{name or 'the network'} is a {type(module).__name__}, expected one of "
                    f"{', '.join(known.__name__ for known in _COUNTERPARTS)}"
                )
            norms.append(module)
    for norm in norms:
        # A new module would leave hooks and references to this one behind.
        norm.__class__ = _COUNTERPARTS[type(norm)]


class _Normalise(torch.autograd.Function):
    """Batch norm by the statistics of all workers' features."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        update: float,
        eps: float,
    ) -> Tensor:
        moments = sum_over_workers(_moments(features))
        count = moments[-1]
        mean, square = (moments[:-1] / count).view(2, -1)
        # A mean of 10,000 standard deviations still leaves the variance eight digits of float64.
        variance = (square - mean.square()).clamp_(min=0)
        if running is not None:
            unbiased = variance * (count / (count - 1))
            for kept, new in zip(running, (mean, unbiased), strict=True):
                kept.lerp_(new.to(kept.dtype), update)
        kind = torch.promote_types(features.dtype, torch.float32)
        mean, variance = mean.to(kind), variance.to(kind)
        ctx.save_for_backward(features, weight, mean, variance, count)
        ctx.eps = eps
        return _normalised(features, weight, bias, mean, variance, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, variance, count = ctx.saved_tensors
        own = _gradient_sums(features, gradient, mean, variance, ctx.eps)
        for_features: Tensor | None = None
        if ctx.needs_input_grad[0]:
            scale = (variance + ctx.eps).rsqrt()
            if weight is not None:
                scale = scale * weight
            # The gradient, less its mean and its share along the normed features.
            mean_gradients = (sum_over_workers(own) / count).to(scale.dtype)
            shift, slope = mean_gradients.view(2, -1) * -scale
            for_features = _normalised(features, slope, shift, mean, variance, ctx.eps)
            for_features.addcmul_(gradient, scale.view(-1, *[1] * (features.ndim - 2)))
        # DDP adds up the gradients of parameters.
        for_bias, for_weight = own.to(mean.dtype).view(2, -1)
        return (
            for_features,
            for_weight if ctx.needs_input_grad[1] else None,
            for_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def _normalised(
    features: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> Tensor:
    normed: Tensor = torch.native_batch_norm(
        features, weight, bias, mean, variance, False, 0.0, eps
    )[0]
    return normed


def _moments(features: Tensor) -> Float64[Tensor, " m"]:
    """Sums of each channel, sums of its squares, and the number of values of a channel."""
    channels = features.shape[1]
    moments = features.new_zeros(2 * channels + 1, dtype=torch.float64)
    for (piece,) in _pieces(features):
        means, variances = torch.batch_norm_update_stats(piece, None, None, 0.0)
        means, variances = means.double(), variances.double()
        both = torch.stack((means, variances + means.square())).view(2, -1, channels).sum(1)
        moments[:-1].add_(both.flatten(), alpha=piece.numel() // means.numel())
    moments[-1] = features.numel() // channels
    return moments


def _gradient_sums(
    features: Tensor, gradient: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> Float64[Tensor, " m"]:
    """Sums of each channel's gradient, and of its product with the normed features."""
    channels = features.shape[1]
    if features.device.type != "cpu":
        # What torch's own SyncBatchNorm asks of a GPU; the kernel below is the CPU's alone.
        inverse = (variance + eps).rsqrt()
        totals, products, _, _ = torch.batch_norm_backward_reduce(
            gradient.contiguous(), features.contiguous(), mean, inverse, None, True, False, False
        )
        return torch.cat((totals, products * inverse)).double()
    sums = features.new_zeros(2 * channels, dtype=torch.float64)
    for piece, of_piece in _pieces(features, gradient):
        abreast = piece.shape[1] // channels
        _, dots, totals = torch.ops.aten.native_batch_norm_backward(
            of_piece,
            piece,
            None,
            mean.repeat(abreast),
            variance.repeat(abreast),
            None,
            None,
            False,  # by the statistics given, not by its own
            eps,
            [False, True, True],
        )
        both = torch.stack((totals, dots)).double()
        sums.add_(both.view(2, -1, channels).sum(1).flatten())
    return sums


def _pieces(first: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut maps of one shape so that torch's kernels sum each piece well.

    Pieces of channels-last maps on the CPU have the short sums of a channel as channels: c at the
    first, c at the second, and so on.
    """
    maps = (first, *others)
    if not first.numel():
        return
    if first.device.type != "cpu" or not first.movedim(1, -1).is_contiguous():
        yield maps
        return
    channels = first.shape[1]
    rows = [each.movedim(1, -1).reshape(-1, channels) for each in maps]
    length = _LONGEST_SUM * max(1, _SUMS_AT_ONCE // channels)
    for chunks in zip(*(torch.split(each, length) for each in rows), strict=True):
        abreast = -(-len(chunks[0]) // _LONGEST_SUM)
        even = len(chunks[0]) // abreast * abreast
        yield tuple(_side_by_side(chunk[:even], abreast) for chunk in chunks)
        if even < len(chunks[0]):
            yield tuple(_side_by_side(chunk[even:], 1) for chunk in chunks)


def _side_by_side(rows: Tensor, abreast: int) -> Tensor:
    # A map of one clip, stored channels-last: torch has a fast kernel for it.
    return rows.reshape(1, -1, 1, abreast * rows.shape[1]).permute(0, 3, 1, 2)
