"""Gait recognition networks, one paper a file. `MODELS` is the list of them.

A model takes `[n, c, t, h, w]` frames and returns a `GaitOutput`. It knows nothing of losses,
optimisers, data sets or devices. Its constructor takes plain values only, so that a recipe can
declare, check, store and override each of them.
"""

from torch import nn

from raygait.models.gaitgl import GaitGL
from raygait.models.output import Branch, GaitOutput

MODELS: dict[str, type[nn.Module]] = {
    "gaitgl": GaitGL,
}

__all__ = ["MODELS", "Branch", "GaitOutput"]
