"""Recipes of GaitEdge, section 5.1, for CASIA-B* and TTG-200, alone and across.

Three phases: the segmenter alone, the recogniser alone on aligned silhouettes, both together with
the first half of the segmenter fixed. Printed: SGD 0.1 with two drops of ten thousand steps each,
batches of 960 frames; the recogniser as its own paper says; 10 times the segmentation loss, rates
1e-5 and 1e-4, 20k steps with a drop at 10k. Not printed: 15 random frames a clip, 25k steps of the
segmenter (the release drops its rate at 15k too), Adam and weight decay 5e-4 of the joint phase,
(8, 8) are the authors' release's; 960 frames are (8, 8) clips of 15, where the release has twice
as many.

TTG-200 is private. Its recipes name the split and the protocol `ttg200`; a data set of one's own
with a manifest stands in by `--data.split` and `--data.protocol`. GaitGL-E2E is
`--model.synthesis whole`.
"""

from __future__ import annotations

from raygait.recipes.options import model_options
from raygait.recipes.schema import (
    BatchOptions,
    ClipOptions,
    DataOptions,
    FrameOptions,
    LossOptions,
    OptimOptions,
    PhaseOptions,
    Recipe,
)

_SPLITS = {"casiab": "casiab-lt", "ttg200": "ttg200"}
_CROPS = FrameOptions(modality="rgb", height_px=128, width_px=128)
_8x8 = BatchOptions(num_subjects=8, num_sequences=8)
_EXPECTED = {
    ("casiab", "casiab"): "Table 2: NM 97.94, BG 96.06, CL 86.36",
    ("ttg200", "ttg200"): "Table 2: R-1 88.66",
    ("casiab", "ttg200"): "Table 2: R-1 49.12",
    ("ttg200", "casiab"): "Table 2: NM 54.76, BG 49.85, CL 38.16",
}


def _recipe(train: str, test: str) -> Recipe:
    return Recipe(
        name=f"gaitedge-{train}" if train == test else f"gaitedge-{train}-to-{test}",
        source=f"GaitEdge section 5.1; expected {_EXPECTED[train, test]}.",
        model=model_options("gaitedge"),
        data=DataOptions(
            **_CROPS.model_dump(),
            split=_SPLITS[train],
            test_split="" if train == test else _SPLITS[test],
            protocol=test,
        ),
        batch=_8x8,
        loss=LossOptions(segmentation_weight=10.0),
        optim=OptimOptions(
            learning_rate=1e-4, milestones=(10_000,), group_factors={"segmenter_decoder": 0.1}
        ),
        num_steps=20_000,
        before={
            "segmenter": PhaseOptions(
                part="segmenter",
                data=_CROPS,
                clip=ClipOptions(num_frames=15, order="unordered"),
                batch=_8x8,
                loss=LossOptions(triplet_weight=0.0, identity_weight=0.0, segmentation_weight=1.0),
                optim=OptimOptions(optimiser="sgd", learning_rate=0.1, milestones=(10_000, 20_000)),
                num_steps=25_000,
            ),
            "recogniser": PhaseOptions(
                part="recogniser",
                batch=_8x8,
                optim=OptimOptions(milestones=(70_000,)),
                num_steps=80_000,
            ),
        },
    )


RECIPES = tuple(_recipe(train, test) for train, test in _EXPECTED)
