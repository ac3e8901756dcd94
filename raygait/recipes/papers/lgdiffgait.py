"""Recipes of LGDiffGait, section 4.3, for the four data sets of Tables 1-4.

Printed: SGD 0.1 with weight decay 5e-4, steps, drops, (P, K), blocks, frames of 64 x 44, the five
kinds of augmentation. Not printed, and where the values are from: momentum, windows of 34 frames
of which 30 are kept, cosine logits x 16 with smoothing 0.1, and the shares of flipped, rotated and
stretched clips (0.2) are DeepGaitV2's, whose settings the paper says it follows; the share erased
(0.3) is GaitBase's; the share of affine moves (0.2) is ours, as no public configuration uses them.
Distances in the triplet loss are not squared (Eq. 6 prints squares: `loss.triplet_squared`).
"""

from __future__ import annotations

from raygait.models import lgdiffgait
from raygait.recipes.options import model_options
from raygait.recipes.schema import (
    BatchOptions,
    ClipOptions,
    DataOptions,
    LossOptions,
    OptimOptions,
    Recipe,
)

_SOURCE = "LGDiffGait section 4.3; expected"


def _recipe(
    data_set: str,
    plan: lgdiffgait.Plan,
    split: str,
    batch: tuple[int, int],
    milestones: tuple[int, ...],
    num_steps: int,
    expected: str,
) -> Recipe:
    return Recipe(
        name=f"lgdiffgait-{data_set}",
        source=f"{_SOURCE} {expected}.",
        model=model_options("lgdiffgait", **plan),
        data=DataOptions(split=split, protocol=data_set),
        clip=ClipOptions(
            skip_frames=4,
            flip_ratio=0.2,
            perspective_ratio=0.2,
            affine_ratio=0.2,
            rotate_ratio=0.2,
            erase_ratio=0.3,
        ),
        batch=BatchOptions(num_subjects=batch[0], num_sequences=batch[1]),
        loss=LossOptions(identity_scale=16.0, identity_smoothing=0.1),
        optim=OptimOptions(optimiser="sgd", learning_rate=0.1, milestones=milestones),
        num_steps=num_steps,
    )


CASIAB = _recipe(
    "casiab",
    lgdiffgait.casiab_plan(),
    "casiab-lt",
    (8, 16),
    (20_000, 40_000, 60_000),
    80_000,
    "Table 1: NM 98.8, BG 96.7, CL 90.2",
)
OUMVLP = _recipe(
    "oumvlp",
    lgdiffgait.casiab_plan(),
    "oumvlp",
    (32, 8),
    (60_000, 80_000, 100_000),
    120_000,
    'Table 2: mean rank-1 92.3 (the probe "02" of section 4.1 does not exist; 00 is meant)',
)
GREW = _recipe(
    "grew",
    lgdiffgait.large_plan(),
    "grew",
    (32, 4),
    (80_000, 120_000, 160_000),
    200_000,
    "Table 3: R-1 82.7, R-5 91.2, R-10 93.7, R-20 95.6",
)
GAIT3D = _recipe(
    "gait3d",
    lgdiffgait.large_plan(),
    "gait3d",
    (32, 4),
    (40_000, 80_000, 120_000),
    160_000,
    "Table 4: R-1 74.2, R-5 89.3, mAP 65.7, mINP 48.6 (section 4.4 leaves identical views out; "
    "Gait3D has none to leave out)",
)

RECIPES = (CASIAB, OUMVLP, GREW, GAIT3D)
