"""Gradients of one worker's share of a batch, computed at once or in pieces that fit the memory.

A triplet needs the embeddings of the whole batch, so losses of pieces do not add up to the loss of
the batch. In pieces the network therefore runs twice: first without a graph, for everybody's
embeddings and logits; the loss of the whole batch then says how each of these numbers should
change; and the second time piece by piece with a graph, which carries that back to the weights.
Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
https://arxiv.org/abs/2101.06983. It costs one more forward pass and no memory but the outputs'.

The result is that of the whole share at once, but for batch norms: each piece is normalised by its
own statistics, as it would be on a worker of its own. Their running statistics move once a step, to
the mean over the pieces of where each would have moved them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raygait.batches.inputs import only_accepted
from raygait.models import Branch, GaitOutput
from raygait.training.precision import Precision


class Criterion(Protocol):
    """What `loop.BatchLoss` is here: outputs, labels, masks -> the loss and what to record."""

    def __call__(
        self, output: GaitOutput, labels: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare."""


class Piece(NamedTuple):
    """Clips that run through the network together.

    Attributes:
        start: First of them in the share.
        stop: One past the last.
        place: Place of the first in the global batch: what the piece draws at random depends on it.
    """

    start: int
    stop: int
    place: int


def pieces_of(
    num_clips: int, at_once: int | None, *, rank: int = 0, world_size: int = 1
) -> list[Piece]:
    """Cut a worker's share into pieces that differ by one clip at most.

    Args:
        num_clips: The share.
        at_once: Most clips of a piece; `None` for all.
        rank: Of the worker, who has every `world_size`-th clip of the batch.
        world_size: Workers.
    """
    num_pieces = math.ceil(num_clips / (at_once or num_clips))
    borders = [num_clips * number // num_pieces for number in range(num_pieces + 1)]
    return [
        Piece(start, stop, rank + world_size * start) for start, stop in itertools.pairwise(borders)
    ]


def backward(
    trained: nn.Module,
    criterion: Criterion,
    inputs: Mapping[str, Tensor],
    labels: Tensor,
    *,
    accepted: Collection[str] = (),
    precision: Precision | None = None,
    pieces: Sequence[Piece] = (),
    prepare: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Add the gradients of one worker's share to those of the parameters.

    Args:
        trained: The network, or its wrapper for many workers.
        criterion: The recipe's losses.
        inputs: The share, on the network's device, `frames` among them.
        labels: Class of each clip.
        accepted: What the network takes beside frames.
        precision: Of the forward pass; float32 if left out.
        pieces: Of the share, from `pieces_of`; it runs at once if there are fewer than two.
        prepare: Called with a piece's place before each forward pass of it, to seed what the
            network draws. Both passes of a piece then draw the same.

    Returns:
        What the criterion measured, on the device.
    """
    precision = precision or Precision("fp32", labels.device)
    pieces = pieces or pieces_of(len(labels), None)

    def run(network: nn.Module, piece: Piece) -> GaitOutput:
        if prepare is not None:
            prepare(piece.place)
        part = {name: tensor[piece.start : piece.stop] for name, tensor in inputs.items()}
        with precision.autocast():
            output: GaitOutput = network(part["frames"], **only_accepted(part, accepted))
        return _in_float32(output)

    if len(pieces) == 1:
        loss, measured = criterion(run(trained, pieces[0]), labels, inputs.get("masks"))
        precision.scaled(loss).backward()  # type: ignore[no-untyped-call]
        return measured

    several = trained if isinstance(trained, DistributedDataParallel) else None
    bare: nn.Module = trained if several is None else several.module
    moving = _MovingBuffers(bare)
    outputs = []
    with torch.no_grad():
        for piece in pieces:
            outputs.append(run(bare, piece))
            moving.take((piece.stop - piece.start) / len(labels))
    whole = _joined(outputs)
    loss, measured = criterion(whole, labels, inputs.get("masks"))
    precision.scaled(loss).backward()  # type: ignore[no-untyped-call]
    for piece in pieces:
        # Workers add up what all pieces have left, once, with the last.
        is_last = piece is pieces[-1]
        with nullcontext() if several is None or is_last else several.no_sync():
            pairs = [
                (result, leaf.grad[piece.start : piece.stop])
                for result, leaf in zip(
                    _trained_by(run(trained, piece)), _trained_by(whole), strict=True
                )
                if leaf.grad is not None and result.requires_grad
            ]
            torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    moving.settle()
    return measured


class _MovingBuffers:
    """The running statistics of a network while the pieces of one step run through it."""

    def __init__(self, network: nn.Module) -> None:
        self._buffers = list(network.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]
        self._after = [buffer.clone() for buffer in self._buffers]

    def take(self, share: float) -> None:
        """Count where a piece has moved them, and move them back for the next."""
        for buffer, before, after in zip(self._buffers, self._before, self._after, strict=True):
            if buffer.is_floating_point():
                # What has not moved stays, to the bit.
                after.add_(buffer - before, alpha=share)
            else:
                after.copy_(buffer)
            buffer.copy_(before)

    def settle(self) -> None:
        """Move them to where the pieces have moved them on average."""
        for buffer, after in zip(self._buffers, self._after, strict=True):
            buffer.copy_(after)


def _trained_by(output: GaitOutput) -> list[Tensor]:
    """The tensors of an output that a criterion may look at, always in the same order."""
    tensors = [
        tensor for branch in output.branches.values() for tensor in branch if tensor is not None
    ]
    masks = output.mask_logits
    return tensors if masks is None else [*tensors, masks]


def _in_float32(output: GaitOutput) -> GaitOutput:
    def full(tensor: Tensor) -> Tensor:
        halved = tensor.dtype in (torch.float16, torch.bfloat16)
        return tensor.float() if halved else tensor

    return GaitOutput(
        full(output.embedding),
        {
            name: Branch(
                full(branch.triplet_features),
                None if branch.logits is None else full(branch.logits),
            )
            for name, branch in output.branches.items()
        },
        None if output.mask_logits is None else full(output.mask_logits),
    )


def _joined(outputs: Sequence[GaitOutput]) -> GaitOutput:
    """The outputs of the pieces as one, of tensors that collect gradients."""

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).requires_grad_()

    first = outputs[0]
    branches = {}
    for name, branch in first.branches.items():
        each = [output.branches[name] for output in outputs]
        logits = None
        if branch.logits is not None:
            logits = join([one.logits for one in each if one.logits is not None])
        branches[name] = Branch(join([one.triplet_features for one in each]), logits)
    masks = None
    if first.mask_logits is not None:
        masks = join([one.mask_logits for one in outputs if one.mask_logits is not None])
    return GaitOutput(torch.cat([output.embedding for output in outputs]), branches, masks)
