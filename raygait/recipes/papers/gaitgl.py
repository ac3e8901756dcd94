"""Recipes of GaitGL (journal version), section 4.2, for the four data sets of Tables 1-4.

Printed: (P, K), 30 frames, margin 0.2, optimiser, learning rate, steps, plan, input size. Not
printed, and where the values are from: consecutive frames and Adam's weight decay 5e-4 with the
drop to 1e-5 at 70k steps, the ICCV release; momentum 0.9, weight decay 5e-4 and three drops of
SGD, the field's habit with that rate (DeepGaitV2's shares of the run); batch norm in the backbone
for SGD, because a rate of 0.1 without a norm may diverge; plain cross-entropy.
"""

from __future__ import annotations

from raygait.models import gaitgl
from raygait.recipes.options import model_options
from raygait.recipes.schema import BatchOptions, DataOptions, OptimOptions, Recipe

_LARGE = model_options("gaitgl", **gaitgl.large_plan(), backbone_norm=True)

CASIAB = Recipe(
    name="gaitgl-casiab",
    source="GaitGL (journal) section 4.2; expected Table 1: NM 98.0, BG 95.4, CL 87.3.",
    model=model_options("gaitgl"),
    data=DataOptions(split="casiab-lt"),
    batch=BatchOptions(num_subjects=8, num_sequences=16),
    optim=OptimOptions(milestones=(70_000,)),
    num_steps=80_000,
)


def _sgd(*milestones: int) -> OptimOptions:
    return OptimOptions(optimiser="sgd", learning_rate=0.1, milestones=milestones)


OUMVLP = Recipe(
    name="gaitgl-oumvlp",
    source=(
        "GaitGL (journal) section 4.2; expected Table 2: mean rank-1 92.0 over all probes, 98.7 "
        "without those that have no gallery."
    ),
    model=_LARGE,
    data=DataOptions(split="oumvlp", protocol="oumvlp"),
    batch=BatchOptions(num_subjects=32, num_sequences=8),
    optim=_sgd(100_000, 133_000, 167_000),
    num_steps=200_000,
)

GREW = Recipe(
    name="gaitgl-grew",
    source=(
        "GaitGL (journal) section 4.2; expected Table 3: R-1 68.0, R-5 80.7, R-10 85.0, R-20 88.2."
    ),
    model=_LARGE,
    data=DataOptions(split="grew", protocol="grew"),
    batch=BatchOptions(num_subjects=32, num_sequences=4),
    optim=_sgd(80_000, 120_000, 160_000),
    num_steps=200_000,
)

GAIT3D = Recipe(
    name="gaitgl-gait3d",
    source=(
        "GaitGL (journal) section 4.2, frames of 128 x 88; expected Table 4: R-1 63.8, R-5 80.5, "
        "mAP 55.88, mINP 36.71."
    ),
    model=_LARGE,
    data=DataOptions(
        modality="silhouettes_128",
        height_px=128,
        width_px=88,
        split="gait3d",
        protocol="gait3d",
    ),
    batch=BatchOptions(num_subjects=32, num_sequences=4),
    optim=_sgd(50_000, 100_000, 125_000),
    num_steps=150_000,
)

RECIPES = (CASIAB, OUMVLP, GREW, GAIT3D)
