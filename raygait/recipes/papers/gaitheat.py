"""Recipes of GaitHeat and GaitHeat++, section 4.1, for the data sets of Tables 1-3.

The two are one network: GaitHeat reads HRNet's heatmaps, GaitHeat++ ViTPose's, so the recipes are
the same and the shards differ. Printed: 30 random frames, the threshold of the alignment (20
degrees for CCPG, 5 elsewhere), triplets and cross-entropy on three branches. Not printed: batch,
optimiser and schedule are the authors' release's for CASIA-B, taken for the other sets too; margin,
scale and smoothing are the release's. On a foreign test set the threshold stays the training set's.
"""

from __future__ import annotations

from raygait.recipes.options import model_options
from raygait.recipes.schema import (
    BatchOptions,
    ClipOptions,
    DataOptions,
    LossOptions,
    OptimOptions,
    Recipe,
)

# Data set -> split, threshold of the alignment in degrees.
_DATA_SETS = {"casiab": ("casiab-lt", 5.0), "ccpg": ("ccpg", 20.0), "sustech1k": ("sustech1k", 5.0)}

_EXPECTED = {
    "casiab": (
        "Table 1: GaitHeat NM 98.22, BG 92.14, CL 74.15; GaitHeat++ NM 99.60, BG 97.88, CL 90.35"
    ),
    "ccpg": (
        "Table 1: R-1 and mAP of CL, UP, DN, BG: GaitHeat 73.59 41.06, 83.19 58.04, 86.47 60.27, "
        "90.53 66.36; GaitHeat++ 83.04 54.74, 89.86 71.43, 91.32 72.40, 93.09 77.21"
    ),
    "sustech1k": (
        "Table 2: overall R-1 and R-5: GaitHeat 76.94, 91.63; GaitHeat++ 90.00, 97.37; night R-1 "
        "61.45; 73.01"
    ),
}
_EXPECTED_CROSS = {
    ("ccpg", "casiab"): "Table 3a: GaitHeat 54.18 46.30 32.98; GaitHeat++ 58.85 50.45 35.14",
    ("sustech1k", "casiab"): "Table 3a: GaitHeat 77.59 63.57 23.16; GaitHeat++ 74.78 66.37 26.73",
    ("ccpg", "sustech1k"): "Table 3b: GaitHeat R-1 11.45, R-5 25.00; GaitHeat++ 20.40, 38.99",
    ("casiab", "sustech1k"): "Table 3b: GaitHeat R-1 10.51, R-5 22.41; GaitHeat++ 15.56, 31.53",
    (
        "casiab",
        "ccpg",
    ): "Table 3c: GaitHeat 5.63 9.79 18.30 21.59; GaitHeat++ 8.16 13.69 17.19 20.48",
    (
        "sustech1k",
        "ccpg",
    ): "Table 3c: GaitHeat 5.41 11.90 19.06 27.47; GaitHeat++ 2.36 4.42 7.15 13.06",
}


def _recipe(train: str, test: str, expected: str) -> Recipe:
    split, threshold_deg = _DATA_SETS[train]
    return Recipe(
        name=f"gaitheat-{train}" if train == test else f"gaitheat-{train}-to-{test}",
        source=f"GaitHeat section 4.1; expected {expected}.",
        model=model_options("gaitheat", angle_threshold_deg=threshold_deg),
        data=DataOptions(
            modality="heatmaps",
            height_px=64,
            width_px=48,
            split=split,
            test_split="" if train == test else _DATA_SETS[test][0],
            protocol=test,
        ),
        clip=ClipOptions(order="unordered"),
        batch=BatchOptions(num_subjects=8, num_sequences=8),
        loss=LossOptions(identity_scale=16.0, identity_smoothing=0.1),
        optim=OptimOptions(optimiser="sgd", learning_rate=0.1, milestones=(20_000, 40_000, 50_000)),
        num_steps=60_000,
    )


RECIPES = (
    *(_recipe(data_set, data_set, expected) for data_set, expected in _EXPECTED.items()),
    *(_recipe(train, test, expected) for (train, test), expected in _EXPECTED_CROSS.items()),
)
