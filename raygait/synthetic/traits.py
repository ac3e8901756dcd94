"""What differs between people, and what differs between two walks of the same person.

A trait is a number with a mean and two spreads: `between` people, drawn once for a person, and
`within` a person, drawn anew for each walk. The ratio of the two is how hard recognition is.
A class of traits is a frozen dataclass whose fields are made by `size` or `offset`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, TypeVar, cast

import numpy as np

# Draws beyond this many standard deviations are clipped: no two-headed giants.
MAX_DEVIATIONS = 2.2


class Traits(Protocol):
    """A frozen dataclass whose fields are all traits."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=Traits)


def size(mean: float, *, between: float, within: float = 0.0, shape: tuple[int, ...] = ()) -> Any:
    """A positive trait; its spreads are relative (log-normal), 0.1 = 10 %.

    Args:
        mean: Median over people, in the unit of the field's name.
        between: Spread over people.
        within: Spread over the walks of one person.
        shape: Shape of an array of independent draws; a plain float when empty.
    """
    return dataclasses.field(metadata={"trait": ("size", mean, between, within, shape)})


def offset(mean: float, *, between: float, within: float = 0.0, shape: tuple[int, ...] = ()) -> Any:
    """A trait of either sign; its spreads are in the unit of the field's name (normal).

    Args:
        mean: Mean over people.
        between: Spread over people.
        within: Spread over the walks of one person.
        shape: Shape of an array of independent draws; a plain float when empty.
    """
    return dataclasses.field(metadata={"trait": ("offset", mean, between, within, shape)})


def draw(kind: type[T], generator: np.random.Generator) -> T:
    """A person: every trait around its mean, with the spread between people."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        law, mean, between, _, shape = field.metadata["trait"]
        values[field.name] = _spread(law, np.full(shape, mean), between, generator)
    return kind(**values)


def vary(traits: T, generator: np.random.Generator) -> T:
    """One walk of a person: every trait around the person's own value."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(traits):
        law, _, _, within, shape = field.metadata["trait"]
        own = np.asarray(getattr(traits, field.name), dtype=np.float64).reshape(shape)
        values[field.name] = _spread(law, own, within, generator)
    return cast("T", dataclasses.replace(cast("Any", traits), **values))


def _spread(law: str, centre: Any, spread: float, generator: np.random.Generator) -> Any:
    # Drawn even when the spread is 0, so that changing one spread moves no other trait.
    noise = generator.standard_normal(centre.shape)
    noise = np.clip(noise, -MAX_DEVIATIONS, MAX_DEVIATIONS) * spread
    value = centre * np.exp(noise) if law == "size" else centre + noise
    return float(value) if value.ndim == 0 else value
