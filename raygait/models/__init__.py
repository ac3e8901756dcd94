"""Gait recognition networks, one paper a file. `MODELS` is the list of them.

A model takes `[n, c, t, h, w]` frames and returns a `GaitOutput`. It knows nothing of losses,
optimisers, data sets or devices. Its constructor takes plain values, or whole networks where the
paper puts one network into another, so that a recipe can declare, check, store and override each.
"""

from torch import nn

from raygait.models.gaitgl import GaitGL
from raygait.models.output import Branch, GaitOutput

MODELS: dict[str, type[nn.Module]] = {
    "gaitgl": GaitGL,
}

# Networks [m, 3, h, w] -> [m, 1, h, w] that find the person in a crop, for GaitEdge.
SEGMENTERS: dict[str, type[nn.Module]] = {}

# Architecture -> argument that is a network -> what the paper puts there.
PARTS: dict[str, dict[str, str]] = {}

__all__ = ["MODELS", "PARTS", "SEGMENTERS", "Branch", "GaitOutput"]
