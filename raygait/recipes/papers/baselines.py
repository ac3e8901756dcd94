"""Recipes of the networks that the papers measure against.

Schedules, batches, sampling and augmentation are those of OpenGait's public configurations at
0efafd4 (facts; its licence grants nothing else). Expected numbers: "paper" is the network's own
paper as the five papers quote it, "OpenGait" is that project's model zoo. Two things differ on
purpose: a batch's clips have one length even where the lengths vary from step to step, and frames
are turned about their centre.
"""

from __future__ import annotations

from typing import Any

from raygait.models import gaitgl_iccv, gaitpart
from raygait.recipes.options import model_options
from raygait.recipes.schema import (
    BatchOptions,
    ClipOptions,
    DataOptions,
    LossOptions,
    OptimOptions,
    Recipe,
)

_CASIAB = DataOptions(split="casiab-lt")
_OUMVLP = DataOptions(split="oumvlp", protocol="oumvlp")
_GREW = DataOptions(split="grew", protocol="grew")
_GAIT3D = DataOptions(split="gait3d", protocol="gait3d")
_CCPG = DataOptions(split="ccpg", protocol="ccpg")
_SUSTECH1K = DataOptions(split="sustech1k", protocol="sustech1k")

_8x8 = BatchOptions(num_subjects=8, num_sequences=8)
_8x16 = BatchOptions(num_subjects=8, num_sequences=16)
_32x4 = BatchOptions(num_subjects=32, num_sequences=4)
_32x8 = BatchOptions(num_subjects=32, num_sequences=8)
_32x16 = BatchOptions(num_subjects=32, num_sequences=16)

_TRIPLET_ONLY = LossOptions(identity_weight=0.0, anchor_is_positive=True)
_PLAIN = LossOptions(anchor_is_positive=True)
_SMOOTHED = LossOptions(identity_smoothing=0.1, anchor_is_positive=True)
_COSINE = LossOptions(identity_scale=16.0, identity_smoothing=0.1, anchor_is_positive=True)


def _sgd(*milestones: int) -> OptimOptions:
    return OptimOptions(optimiser="sgd", learning_rate=0.1, milestones=milestones)


def _adam(*milestones: int, weight_decay: float = 0.0) -> OptimOptions:
    return OptimOptions(weight_decay=weight_decay, milestones=milestones)


# GaitSet: sets of frames, triplets alone.
_SET = ClipOptions(order="unordered")
_GAITSET_LARGE = model_options("gaitset", channels=(64, 128, 256))
_GAITSET = (
    Recipe(
        name="gaitset-casiab",
        source=(
            "Chao et al., GaitSet; expected (paper) NM 95.0, BG 87.2, CL 70.4; (OpenGait) 95.8, "
            "90.0, 75.4."
        ),
        model=model_options("gaitset"),
        data=_CASIAB,
        clip=_SET,
        batch=_8x16,
        loss=_TRIPLET_ONLY,
        optim=_sgd(10_000, 20_000, 30_000),
        num_steps=40_000,
    ),
    Recipe(
        name="gaitset-oumvlp",
        source="Chao et al., GaitSet; expected (paper) mean rank-1 87.1; (OpenGait) 87.2.",
        model=_GAITSET_LARGE,
        data=_OUMVLP,
        clip=_SET,
        batch=_32x16,
        loss=_TRIPLET_ONLY,
        optim=_adam(150_000),
        num_steps=250_000,
    ),
    Recipe(
        name="gaitset-grew",
        source="Chao et al., GaitSet; expected R-1 (GaitGL Table 3) 46.3; (OpenGait) 48.4.",
        model=_GAITSET_LARGE,
        data=_GREW,
        clip=_SET,
        batch=_32x4,
        loss=_TRIPLET_ONLY,
        optim=_adam(150_000),
        num_steps=250_000,
    ),
)

# GaitPart: ordered windows with skips, triplets alone.
_WINDOW_OF_40 = ClipOptions(skip_frames=10)
_GAITPART_LARGE = model_options("gaitpart", **gaitpart.large_plan())
_GAITPART = (
    Recipe(
        name="gaitpart-casiab",
        source=(
            "Fan et al., GaitPart; expected (paper) NM 96.2, BG 91.5, CL 78.7; (OpenGait) 96.1, "
            "90.7, 78.7."
        ),
        model=model_options("gaitpart"),
        data=_CASIAB,
        clip=_WINDOW_OF_40,
        batch=_8x16,
        loss=_TRIPLET_ONLY,
        optim=_adam(100_000),
        num_steps=120_000,
    ),
    Recipe(
        name="gaitpart-oumvlp",
        source="Fan et al., GaitPart; expected (paper) mean rank-1 88.7; (OpenGait) 88.6.",
        model=_GAITPART_LARGE,
        data=_OUMVLP,
        clip=_WINDOW_OF_40,
        batch=_32x16,
        loss=_TRIPLET_ONLY,
        optim=_adam(150_000),
        num_steps=250_000,
    ),
    Recipe(
        name="gaitpart-grew",
        source="Fan et al., GaitPart; expected R-1 (GaitGL Table 3) 44.0; (OpenGait) 47.6.",
        model=_GAITPART_LARGE,
        data=_GREW,
        clip=_WINDOW_OF_40,
        batch=_32x4,
        loss=_TRIPLET_ONLY,
        optim=_adam(150_000),
        num_steps=250_000,
    ),
)

# GaitGL of ICCV 2021: consecutive frames, plain cross-entropy beside the triplets.
_GAITGL_ICCV = (
    Recipe(
        name="gaitgl-iccv-casiab",
        source=(
            "Lin, Zhang, Yu, GaitGL, ICCV 2021; expected (paper) NM 97.4, BG 94.5, CL 83.6; "
            "(OpenGait) 97.4, 94.5, 83.8."
        ),
        model=model_options("gaitgl_iccv"),
        data=_CASIAB,
        batch=_8x8,
        loss=_PLAIN,
        optim=_adam(70_000, weight_decay=5e-4),
        num_steps=80_000,
    ),
    Recipe(
        name="gaitgl-iccv-oumvlp",
        source="Lin, Zhang, Yu, GaitGL, ICCV 2021; expected (paper) 89.7; (OpenGait) 89.9.",
        model=model_options("gaitgl_iccv", **gaitgl_iccv.large_plan()),
        data=_OUMVLP,
        batch=_32x8,
        loss=_SMOOTHED,
        optim=_adam(150_000, 200_000),
        num_steps=210_000,
    ),
    Recipe(
        name="gaitgl-iccv-grew",
        source="Lin, Zhang, Yu, GaitGL, ICCV 2021; expected R-1 (OpenGait) 41.5.",
        model=model_options("gaitgl_iccv", **gaitgl_iccv.large_plan()),
        data=_GREW,
        batch=_32x4,
        loss=_SMOOTHED,
        optim=_adam(150_000, 200_000),
        num_steps=250_000,
    ),
    Recipe(
        name="gaitgl-iccv-bnneck-grew",
        source="OpenGait's GaitGL with a BNNeck head; expected R-1 (OpenGait) 51.7.",
        model=model_options("gaitgl_iccv", head="bnneck", **gaitgl_iccv.large_plan()),
        data=_GREW,
        batch=_32x4,
        loss=_SMOOTHED,
        optim=_adam(150_000, 200_000),
        num_steps=250_000,
    ),
)

# GaitBase: residual network on sets of frames, cosine logits.
# Augmented as their published checkpoints were.
_DA_OUTDOORS: dict[str, Any] = {
    "perspective_ratio": 0.2,
    "flip_ratio": 0.2,
    "rotate_ratio": 0.2,
    "augment_like": "opengait",
}
_GAITBASE = (
    Recipe(
        name="gaitbase-casiab",
        source="Fan et al., OpenGait (GaitBase); expected (OpenGait) NM 97.6, BG 94.0, CL 77.4.",
        model=model_options("gaitbase"),
        data=_CASIAB,
        clip=ClipOptions(
            order="unordered", rotate_ratio=0.3, erase_ratio=0.3, augment_like="opengait"
        ),
        batch=_8x16,
        loss=_COSINE,
        optim=_sgd(20_000, 40_000, 50_000),
        num_steps=60_000,
    ),
    Recipe(
        name="gaitbase-oumvlp",
        source="Fan et al., OpenGait (GaitBase); expected (OpenGait) mean rank-1 90.8.",
        model=model_options("gaitbase"),
        data=_OUMVLP,
        clip=_SET,
        batch=_32x8,
        loss=_COSINE,
        optim=_sgd(60_000, 80_000, 100_000),
        num_steps=120_000,
    ),
    Recipe(
        name="gaitbase-grew",
        source="Fan et al., OpenGait (GaitBase); expected (OpenGait) R-1 60.1.",
        model=model_options("gaitbase"),
        data=_GREW,
        clip=ClipOptions(order="unordered", num_frames=20, max_num_frames=40, **_DA_OUTDOORS),
        batch=_32x4,
        loss=_COSINE,
        optim=_sgd(80_000, 120_000, 150_000),
        num_steps=180_000,
    ),
    Recipe(
        name="gaitbase-gait3d",
        source="Fan et al., OpenGait (GaitBase); expected (OpenGait) R-1 64.6.",
        model=model_options("gaitbase"),
        data=_GAIT3D,
        clip=ClipOptions(order="unordered", num_frames=10, max_num_frames=50, **_DA_OUTDOORS),
        batch=_32x4,
        loss=_COSINE,
        optim=_sgd(20_000, 40_000, 50_000),
        num_steps=60_000,
    ),
    Recipe(
        name="gaitbase-ccpg",
        source="Fan et al., OpenGait (GaitBase); CCPG by OpenGait's configuration.",
        model=model_options("gaitbase"),
        data=_CCPG,
        clip=_SET,
        batch=_8x16,
        loss=_COSINE,
        optim=_sgd(20_000, 40_000, 50_000),
        num_steps=60_000,
    ),
)

# DeepGaitV2, which LGDiffGait builds on: ordered windows with skips, cosine logits.
_WINDOW_OF_34 = ClipOptions(skip_frames=4, **_DA_OUTDOORS)
_SHALLOW = model_options("deepgaitv2", num_blocks=(1, 1, 1, 1))
_DEEP = model_options("deepgaitv2", num_blocks=(1, 4, 4, 1))
_DEEPGAITV2 = tuple(
    Recipe(
        name=f"deepgaitv2-{data.protocol}",
        source=f"Fan et al., DeepGaitV2-P3D; {expected}.",
        model=model,
        data=data,
        clip=clip,
        batch=batch,
        loss=_COSINE,
        optim=_sgd(*milestones),
        num_steps=num_steps,
    )
    for data, model, clip, batch, milestones, num_steps, expected in (
        (
            _CASIAB,
            _SHALLOW,
            _WINDOW_OF_34,
            _8x16,
            (20_000, 40_000, 50_000),
            60_000,
            "CASIA-B by OpenGait's configuration",
        ),
        (
            _OUMVLP,
            _SHALLOW,
            _WINDOW_OF_34,
            _32x8,
            (60_000, 80_000, 100_000),
            120_000,
            "expected mean rank-1 (OpenGait, mode 3d) 92.0",
        ),
        (
            _GREW,
            _DEEP,
            _WINDOW_OF_34,
            _32x4,
            (80_000, 120_000, 150_000),
            180_000,
            "expected R-1 (OpenGait, mode 3d) 79.4",
        ),
        (
            _GAIT3D,
            _DEEP,
            _WINDOW_OF_34,
            _32x4,
            (20_000, 40_000, 50_000),
            60_000,
            "expected R-1 (OpenGait) 74.4",
        ),
        (
            _CCPG,
            _SHALLOW,
            _WINDOW_OF_34,
            _8x16,
            (20_000, 40_000, 50_000),
            60_000,
            "CCPG by OpenGait's configuration",
        ),
        (
            _SUSTECH1K,
            _SHALLOW,
            ClipOptions(num_frames=10, skip_frames=4, **_DA_OUTDOORS),
            _8x8,
            (20_000, 30_000, 40_000),
            50_000,
            "expected R-1 (OpenGait) normal 87.5, bag 84.1, clothing 53.4, carrying 81.3, "
            "umbrella 86.2, uniform 84.8, occlusion 88.5, night 28.8, overall 82.4, R-5 92.6",
        ),
    )
)

RECIPES = (*_GAITSET, *_GAITPART, *_GAITGL_ICCV, *_GAITBASE, *_DEEPGAITV2)
