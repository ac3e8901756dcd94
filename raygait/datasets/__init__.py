"""Who walked where: one module a data set, splits and protocols as data."""

from collections.abc import Callable

from raygait.datasets import casiab, videos
from raygait.sequences import GaitSequence

# Name of a layout -> its `index(root, *, dataset)`.
DATASETS: dict[str, Callable[..., list[GaitSequence]]] = {
    "casiab": casiab.index,
    "videos": videos.index,
}
