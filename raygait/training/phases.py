"""A run of several phases, one after the other: GaitEdge's three, LMGCS's two.

Each phase is a Ray Train run of its own, by a recipe of its own (`Recipe.phase`), on the weights
that the phases before have left. Which weights those are is decided by name: a phase may train the
whole network, or one network inside it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from raygait.errors import RecipeError
from raygait.models import SEGMENTERS, GaitOutput
from raygait.models.layers import PerFrame
from raygait.recipes.saved_model import load_model, load_weights
from raygait.recipes.schema import Recipe


@dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
        name: Key of `Recipe.before`; empty for the last phase, which is the recipe itself.
        part: Network inside the model that it trains; empty for the whole.
        recipe: What it computes.
        steps_before: Steps of the phases before it: where its curves go on.
    """

    name: str
    part: str
    recipe: Recipe
    steps_before: int


def phases_of(recipe: Recipe) -> list[Phase]:
    """The phases of a recipe in their order; one, where it has none before."""
    phases: list[Phase] = []
    steps = 0
    for name, options in recipe.before.items():
        phases.append(Phase(name, options.part, recipe.phase(name), steps))
        steps += options.num_steps
    return [*phases, Phase("", "", recipe, steps)]


def load_earlier(network: nn.Module, part: str, earlier: Sequence[tuple[str, Path]]) -> None:
    """Put what earlier phases have trained into a network.

    Args:
        network: What this phase trains, as the recipe builds it.
        part: Which network inside the model that is; empty for the whole.
        earlier: Part and checkpoint of each phase before, the oldest first.

    Raises:
        RegistryError: A checkpoint is damaged, or its weights do not fit.
    """
    for their_part, folder in earlier:
        weights = load_model(folder).network.state_dict()
        target = network
        if their_part != part:
            if part and their_part:
                continue  # another network inside the model
            if their_part:
                target = getattr(network, their_part)
            else:
                prefix = f"{part}."
                weights = {
                    name.removeprefix(prefix): tensor
                    for name, tensor in weights.items()
                    if name.startswith(prefix)
                }
        load_weights(target, weights, where=str(folder))


class SegmenterAlone(nn.Module):
    """A segmenter as the training loop sees a network: masks, and nobody is recognised.

    Args:
        segmenter: Frames `[m, 3, h, w]` -> logits `[m, 1, h, w]`.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, frames: Float[Tensor, "n 3 t h w"]) -> GaitOutput:
        """Say of every pixel whether it is the person; the embedding is empty."""
        logits = PerFrame(self.segmenter)(frames)
        nothing = logits.new_zeros(len(frames), 1, 1)
        return GaitOutput(nothing, {}, logits.float())


def runnable(network: nn.Module) -> nn.Module:
    """The network as the loop runs it: itself, or a segmenter in what the loop understands."""
    return SegmenterAlone(network) if isinstance(network, tuple(SEGMENTERS.values())) else network


def frozen_groups(recipe: Recipe) -> set[str]:
    """Groups of parameters that a recipe freezes."""
    return {name for name, factor in recipe.optim.group_factors.items() if factor == 0}


def freeze(network: nn.Module, groups: Collection[str]) -> None:
    """Let the parameters of some groups, and the norms they belong to, stay as they are.

    Comes after every `network.train()`, which would wake the norms up.

    Args:
        network: With `parameter_groups`, if any group is named.
        groups: Names of groups.

    Raises:
        RecipeError: The network has no such group.
    """
    if not groups:
        return
    parameters = [weight for name in sorted(groups) for weight in group_of(network, name)]
    for weight in parameters:
        weight.requires_grad_(False)
    frozen = {id(weight) for weight in parameters}
    for module in network.modules():
        own = [id(weight) for weight in module.parameters()]
        if own and frozen.issuperset(own):
            module.eval()


def group_of(network: nn.Module, name: str) -> list[nn.Parameter]:
    """Parameters of one of a network's groups.

    Raises:
        RecipeError: The network has no such group.
    """
    described: Any = network
    groups: dict[str, list[nn.Parameter]] = (
        described.parameter_groups() if hasattr(network, "parameter_groups") else {}
    )
    if name not in groups:
        raise RecipeError(
            f"optim.group_factors: {type(network).__name__} has no group {name!r}; there are "
            f"{sorted(groups)}"
        )
    return groups[name]
