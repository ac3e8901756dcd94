"""A step that failed, computed again: is it the same, and where does it go wrong first?"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raygait.batches.inputs import accepted_inputs
from raygait.recipes.description import tensors_in
from raygait.recipes.schema import Recipe
from raygait.training.failures import Failure, name_some, read_failure, whats_wrong
from raygait.training.gradients import Piece, backward, pieces_of
from raygait.training.loop import BatchLoss, seed_draws, shared
from raygait.training.phases import freeze, frozen_groups, runnable
from raygait.training.precision import Precision, PrecisionName


@dataclass(frozen=True)
class Replay:
    """What a step did when it was computed again.

    Attributes:
        failure: What is known of the first time.
        recipe: Name of its recipe.
        values: What was measured this time.
        wrong: What was wrong this time; `None` if nothing was.
        precision: What it was computed in this time.
        device: Where.
        first: The first module whose result is not finite, and whether what it was given is;
            empty if there is none.
        gradients: Parameters whose gradient is not finite.
    """

    failure: Failure
    recipe: str
    values: dict[str, float]
    wrong: str | None
    precision: PrecisionName
    device: str
    first: str
    gradients: tuple[str, ...]

    def to_text(self) -> str:
        """A few lines for a terminal."""
        then, now = self.failure.values, self.values
        lines = [
            f"{self.recipe}, step {self.failure.step}, {self.failure.world_size} worker(s), "
            f"{self.failure.precision} on {self.failure.device}: {self.failure.wrong}",
            f"again, {self.precision} on {self.device}: {self.wrong or 'nothing is wrong'}",
            *(
                f"  {name}: {then.get(name, math.nan):g} then, {value:g} now"
                for name, value in now.items()
            ),
        ]
        if self.first:
            lines.append(f"first result that is not finite: {self.first}")
        if self.gradients:
            lines.append(f"gradients that are not finite: {name_some(self.gradients)}")
        lines.append(f"sequences: {', '.join(self.failure.sequence_ids)}")
        return "\n".join(lines)


def replay(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    precision: PrecisionName | None = None,
) -> Replay:
    """Compute a step that failed again, in this process.

    What several workers had shared is normalised as it was: all shares together, or each by
    itself where the recipe does not synchronise norms.

    Args:
        folder: What the run left, see `failures`.
        device: Where to compute it.
        precision: In what; as the run did if left out.

    Raises:
        TrainingError: The folder is not complete.
    """
    failure, saved, batch = read_failure(folder)
    device = torch.device(device)
    recipe, network = saved.recipe, saved.network.to(device).train()
    freeze(network, frozen_groups(recipe))
    number_format = Precision(precision or failure.precision, device)
    if number_format.name == failure.precision:
        number_format.load_state_dict({"name": failure.precision, "scaler": failure.scaler})
    trained = shared(runnable(network), recipe, device)
    order, pieces = _shares(len(batch.labels), failure.world_size, recipe)
    with _first_not_finite(network) as first:
        measured = backward(
            trained,
            BatchLoss(recipe),
            {name: values[order].to(device) for name, values in batch.inputs.items()},
            batch.labels[order].to(device),
            accepted=accepted_inputs(trained),
            precision=number_format,
            pieces=pieces,
            prepare=functools.partial(seed_draws, network, recipe.seed, batch.step),
        )
    gradients = {
        name: weight.grad / (number_format.loss_scale or 1.0)
        for name, weight in network.named_parameters()
        if weight.grad is not None
    }
    values = {name: float(value) for name, value in measured.items()}
    values["gradient_norm"] = float(torch.nn.utils.get_total_norm(list(gradients.values())))
    return Replay(
        failure=failure,
        recipe=recipe.name,
        values=values,
        wrong=whats_wrong(
            values,
            stop_above=recipe.loss.stop_above,
            gradients_can_overflow=number_format.can_overflow,
        ),
        precision=number_format.name,
        device=device.type,
        first=first[0] if first else "",
        gradients=tuple(
            name for name, values in gradients.items() if not bool(values.isfinite().all())
        ),
    )


def _shares(num_clips: int, world_size: int, recipe: Recipe) -> tuple[torch.Tensor, list[Piece]]:
    """An order of the clips, and the pieces of it in which the workers ran them."""
    share, at_once = num_clips // world_size, recipe.batch.num_clips_at_once
    if recipe.batch.synchronise_norms:
        # Workers have every `world_size`-th clip, so what all ran at a time lies side by side.
        pieces = [
            Piece(world_size * piece.start, world_size * piece.stop, piece.place)
            for piece in pieces_of(share, at_once, world_size=world_size)
        ]
        return torch.arange(num_clips), pieces
    order = torch.arange(num_clips).view(share, world_size).T.flatten()
    pieces = [
        Piece(rank * share + piece.start, rank * share + piece.stop, piece.place)
        for rank in range(world_size)
        for piece in pieces_of(share, at_once, rank=rank, world_size=world_size)
    ]
    return order, pieces


@contextmanager
def _first_not_finite(network: nn.Module) -> Iterator[list[str]]:
    """Collects, in the order they ran, the modules whose result is not finite."""
    found: list[str] = []

    def is_finite(values: Any) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in tensors_in(values))

    def look(name: str, module: nn.Module, given: Any, result: Any) -> None:
        if not is_finite(result):
            before = "finite" if is_finite(given) else "not finite either"
            weights = "" if is_finite(list(module.parameters())) else ", its weights are not"
            kind = type(module).__name__
            found.append(f"{name or 'the network'} ({kind}); its input is {before}{weights}")

    handles = [
        module.register_forward_hook(
            lambda module, given, result, name=name: look(name, module, given, result)
        )
        for name, module in network.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
