"""Recipes by name: the papers' own, and small ones for a laptop.

A number in a table comes from a recipe here or from an ablation of one, never from flags alone.
"""

from __future__ import annotations

from raygait.errors import RecipeError
from raygait.recipes.options import model_options
from raygait.recipes.papers import baselines, gaitedge, gaitgl, gaitheat, lgdiffgait, lmgcs
from raygait.recipes.schema import (
    BatchOptions,
    ClipOptions,
    DataOptions,
    LossOptions,
    OptimOptions,
    Recipe,
)

GAITGL_DEMO = Recipe(
    name="gaitgl-demo",
    source=(
        "A quarter of GaitGL's channels on frames of half the height, for two minutes on two CPU "
        "cores and synthetic walkers; no paper prints it, the values are from trials."
    ),
    model=model_options("gaitgl", channels=(16, 32, 32), lta_kernel=(3, 1, 1)),
    data=DataOptions(height_px=32, width_px=22, split="first:32"),
    clip=ClipOptions(num_frames=15),
    batch=BatchOptions(num_subjects=8, num_sequences=4),
    # The cross-entropy stays at chance in so few steps, and its gradient is in the triplets' way.
    loss=LossOptions(identity_weight=0.1),
    optim=OptimOptions(learning_rate=3e-3, schedule="one-cycle"),
    num_steps=300,
    checkpoint_every_steps=100,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *baselines.RECIPES,
        *gaitedge.RECIPES,
        *gaitgl.RECIPES,
        *gaitheat.RECIPES,
        *lgdiffgait.RECIPES,
        *lmgcs.RECIPES,
        GAITGL_DEMO,
    )
}


def recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        RecipeError: There is none of this name.
    """
    if name not in RECIPES:
        raise RecipeError(f"no recipe is named {name!r}; there are {sorted(RECIPES)}")
    return RECIPES[name]
