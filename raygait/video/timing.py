"""Where the time of a clip goes, stage by stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

NETWORK_STAGES = ("detect", "pose")
"""Stages that are a network's passes, with what is done to its input and output."""


class StageTimes:
    """Adds up wall time by stage; a stage inside another is counted in both.

    Attributes:
        seconds: By stage, in order of their first appearance.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, stage: str) -> Generator[None, None, None]:
        """Count what runs inside the `with` block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def iterate(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items, counting what it takes to get each."""
        iterator = iter(items)
        while True:
            with self.time(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
