"""Gait recognition networks, one paper a file. `MODELS` is the list of them.

A model takes `[n, c, t, h, w]` frames and returns a `GaitOutput`. It knows nothing of losses,
optimisers, data sets or devices. Its constructor takes plain values, or whole networks where the
paper puts one network into another, so that a recipe can declare, check, store and override each.
"""

from torch import nn

from raygait.models.deepgaitv2 import DeepGaitV2
from raygait.models.gaitbase import GaitBase
from raygait.models.gaitedge import GaitEdge, UNet
from raygait.models.gaitgl import GaitGL
from raygait.models.gaitgl_iccv import GaitGLFixed
from raygait.models.gaitheat import GaitHeat
from raygait.models.gaitpart import GaitPart
from raygait.models.gaitset import GaitSet
from raygait.models.lgdiffgait import LGDiffGait
from raygait.models.lmgcs import LMGCS
from raygait.models.mt3d import MT3D
from raygait.models.output import Branch, GaitOutput

MODELS: dict[str, type[nn.Module]] = {
    "deepgaitv2": DeepGaitV2,
    "gaitbase": GaitBase,
    "gaitedge": GaitEdge,
    "gaitgl": GaitGL,
    "gaitgl_iccv": GaitGLFixed,
    "gaitheat": GaitHeat,
    "gaitpart": GaitPart,
    "gaitset": GaitSet,
    "lgdiffgait": LGDiffGait,
    "lmgcs": LMGCS,
    "mt3d": MT3D,
}

# Networks [m, 3, h, w] -> [m, 1, h, w] that find the person in a crop, for GaitEdge.
SEGMENTERS: dict[str, type[nn.Module]] = {"unet": UNet}

# Architecture -> argument that is a network -> what the paper puts there.
PARTS: dict[str, dict[str, str]] = {
    "gaitedge": {"recogniser": "gaitgl_iccv", "segmenter": "unet"},
}

__all__ = ["MODELS", "PARTS", "SEGMENTERS", "Branch", "GaitOutput"]
