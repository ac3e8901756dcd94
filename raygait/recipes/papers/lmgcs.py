"""Recipes of LMGCS, sections IV-A and IV-B and Table II, for the data sets of Tables III-VII.

Printed: two phases, sub-network A and then B on top of it, with steps, rates and the one drop of A;
(P, K), 30 frames, Adam, margin 0.2, channels. Not printed, and where the values are from: weight
decay 5e-4 and consecutive frames, GaitGL's ICCV release; plain cross-entropy; no augmentation. For
Gait3D nothing is printed: OU-MVLP's schedule with the field's batch of 32 x 4. That the model was
trained there, and not on another set, is a reading: the figures beside it are.
"""

from __future__ import annotations

from raygait.models import lmgcs
from raygait.recipes.options import model_options
from raygait.recipes.schema import (
    BatchOptions,
    DataOptions,
    LossOptions,
    OptimOptions,
    PhaseOptions,
    Recipe,
)


def _recipe(
    name: str,
    plan: lmgcs.Plan,
    data: DataOptions,
    batch: tuple[int, int],
    steps_of_a: int,
    drop_of_a: int,
    steps_of_b: int,
    expected: str,
) -> Recipe:
    batches = BatchOptions(num_subjects=batch[0], num_sequences=batch[1])
    return Recipe(
        name=name,
        source=f"LMGCS section IV-B and Table II; expected {expected}.",
        model=model_options("lmgcs", **plan, phase="b"),
        data=data,
        batch=batches,
        optim=OptimOptions(),
        num_steps=steps_of_b,
        before={
            "a": PhaseOptions(
                switches={"phase": "a"},
                batch=batches,
                optim=OptimOptions(milestones=(drop_of_a,)),
                num_steps=steps_of_a,
            )
        },
    )


_CASIAB = tuple(
    _recipe(
        f"lmgcs-{split}",
        lmgcs.casiab_plan(),
        DataOptions(split=split),
        (8, 8),
        80_000,
        70_000,
        30_000,
        expected,
    )
    for split, expected in (
        ("casiab-st", "Table III: NM 86.4, BG 79.1, CL 57.7"),
        ("casiab-mt", "Table IV: NM 96.4, BG 92.4, CL 78.7"),
        ("casiab-lt", "Table V: NM 98.0, BG 95.4, CL 85.0"),
    )
)
OUMVLP = _recipe(
    "lmgcs-oumvlp",
    lmgcs.large_plan(),
    DataOptions(split="oumvlp", protocol="oumvlp"),
    (32, 8),
    100_000,
    80_000,
    40_000,
    "Table VI: mean rank-1 90.9",
)
GAIT3D = _recipe(
    "lmgcs-gait3d",
    lmgcs.large_plan(),
    DataOptions(split="gait3d", protocol="gait3d"),
    (32, 4),
    100_000,
    80_000,
    40_000,
    "Table VII: R-1 17.9, R-5 35.8, mAP 13.8",
)
MT3D = Recipe(
    name="mt3d-casiab",
    source=(
        "Lin, Zhang, Bao, MT3D, a reconstruction; expected LMGCS Table V: NM 96.7, BG 93.0, CL "
        "81.5 (its Table X prints 96.5, 93.4, 81.6). Nothing of its training is printed there: "
        "triplets alone, GaitGL's ICCV schedule."
    ),
    model=model_options("mt3d"),
    data=DataOptions(split="casiab-lt"),
    batch=BatchOptions(num_subjects=8, num_sequences=16),
    loss=LossOptions(identity_weight=0.0),
    optim=OptimOptions(milestones=(70_000,)),
    num_steps=80_000,
)

RECIPES = (*_CASIAB, OUMVLP, GAIT3D, MT3D)
