"""Each of the five systems trains through `launch.train` on its own modality; what is frozen stays.

GaitEdge and LMGCS have phases, and are trained by `test_phases`: GaitEdge on RGB crops in three,
with half of its U-Net frozen in the last; LMGCS on silhouettes in two, with a frozen A.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from raygait.recipes import named
from raygait.recipes.saved_model import initial_model, load_model
from raygait.recipes.schema import with_overrides
from raygait.training.launch import train

_WALKERS = {
    "data.height_px": 32,
    "data.width_px": 22,
    "data.split": "first:4",
    "clip.num_frames": 6,
    "batch.num_subjects": 4,
    "batch.num_sequences": 2,
}
_STREET = {
    "data.height_px": 32,
    "data.width_px": 24,
    "data.split": "first:2",
    "clip.num_frames": 6,
    "batch.num_subjects": 2,
    "batch.num_sequences": 2,
}
# Recipe -> shards, what makes it small, the group that is frozen.
_SYSTEMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gaitgl-casiab": (
        "walker_shards",
        {**_WALKERS, "model.channels": [4, 8, 8]},
        "backbone",
    ),
    "lgdiffgait-casiab": (
        "walker_shards",
        {**_WALKERS, "model.channels": [4, 8, 16, 16], "model.num_parts": 8},
        "backbone",
    ),
    "gaitheat-casiab": (
        "street_shards",
        {
            **_STREET,
            "model.channels": [4, 8, 16, 16],
            "model.embedding_dim": 8,
            "model.num_parts": 8,
            "model.align_to_px": [12, 8],
        },
        "backbone",
    ),
}


@pytest.mark.ray
@pytest.mark.timeout(420)
@pytest.mark.parametrize("name", list(_SYSTEMS))
def test_a_system_trains_on_its_modality_and_its_frozen_part_does_not_move(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixture, small, frozen = _SYSTEMS[name]
    shards: Path = request.getfixturevalue(fixture)
    changes = {
        **small,
        "optim.group_factors": {frozen: 0.0},
        "num_steps": 3,
        "checkpoint_every_steps": 3,
    }
    recipe = with_overrides(named.recipe(name), changes)
    result = train(recipe, shards, tmp_path, name="run", num_workers=2, report_every_steps=1)
    assert [point["step"] for point in result.history] == [1, 2, 3]
    assert all(math.isfinite(point["loss"]) for point in result.history)

    after = load_model(result.checkpoint)
    assert after.recipe.data.modality == named.recipe(name).data.modality
    before = initial_model(recipe, list(after.subjects)).network
    group = {id(weight) for weight in before.parameter_groups()[frozen]}
    modules = {
        path
        for path, module in before.named_modules()
        if (own := [id(weight) for weight in module.parameters()]) and group.issuperset(own)
    }
    frozen_names = {path for path, weight in before.named_parameters() if id(weight) in group}
    # The statistics of a norm belong to its weights.
    frozen_names |= {
        path for path, _ in before.named_buffers() if path.rpartition(".")[0] in modules
    }
    there = after.network.state_dict()
    moved = {
        path for path, value in before.state_dict().items() if not torch.equal(value, there[path])
    }
    assert frozen_names
    assert not moved & frozen_names
    trained = {path for path, weight in before.named_parameters() if id(weight) not in group}
    assert trained
    assert trained <= moved
