"""Who walked where: one module a data set, splits and protocols as data."""

from raygait.datasets import (
    casiab,
    ccpg,
    folder,
    gait3d,
    grew,
    manifest,
    oumvlp,
    sustech1k,
    videos,
)
from raygait.datasets.adapter import Adapter

# Name of a data set -> its layouts: `index(root, *, dataset)` and `survey(root)`.
DATASETS: dict[str, Adapter] = {
    module.ADAPTER.name: module.ADAPTER
    for module in (
        casiab,
        oumvlp,
        grew,
        gait3d,
        ccpg,
        sustech1k,
        folder,
        manifest,
        videos,
    )
}
