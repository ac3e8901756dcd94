"""P x K identity sampling: the batch of a step is a function of (seed, step) and nothing else.

A run that is killed and resumed, or that runs on another number of workers, therefore sees the
same batches. Workers split one global batch; they do not draw their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

# What a random stream is for. Part of its key, so that streams of one step never coincide.
BATCH_STREAM, CLIP_STREAM, MASK_STREAM, ALIGN_STREAM = 1, 2, 3, 4
AUGMENT_STREAM, SHIFT_STREAM, LENGTH_STREAM, NETWORK_STREAM = 5, 6, 7, 8


def step_generator(seed: int, stream: int, step: int, position: int = 0) -> np.random.Generator:
    """Random numbers that belong to one purpose at one place of a run.

    Args:
        seed: The recipe's seed.
        stream: One of the `*_STREAM` constants.
        step: Optimiser step, from 0.
        position: Place in the global batch.
    """
    words = (seed, stream, step, position)
    # The same numbers in two thirds of the time: the conversion of a tuple is done by digits.
    entropy = np.array(words, np.uint32) if max(words) < 2**32 else words
    return np.random.default_rng(np.random.SeedSequence(entropy))


class IdentitySampler:
    """Draws P subjects without replacement and K sequences of each.

    With fewer than P subjects, subjects repeat and each time draw sequences anew; with fewer than
    K sequences of a subject, each of them is used as often as any other give or take one.

    Args:
        subjects: Subject of each row that may be drawn, in row order.
        num_subjects: P, subjects in a batch.
        num_sequences: K, sequences of each subject.
        seed: The recipe's seed.

    Raises:
        ValueError: No rows, or fewer than two subjects: no triplet exists then.
    """

    def __init__(
        self, subjects: Sequence[str], *, num_subjects: int, num_sequences: int, seed: int
    ) -> None:
        rows: dict[str, list[int]] = {}
        for row, subject in enumerate(subjects):
            rows.setdefault(subject, []).append(row)
        if len(rows) < 2:
            raise ValueError(f"triplets need sequences of at least 2 subjects, got {len(rows)}")
        self.num_subjects = num_subjects
        self.num_sequences = num_sequences
        self.seed = seed
        self._rows = [np.asarray(rows[subject], dtype=np.int64) for subject in sorted(rows)]

    def batch(self, step: int) -> Int64[ndarray, " n"]:
        """Rows of the global batch of one step, subject by subject; n = P * K."""
        generator = step_generator(self.seed, BATCH_STREAM, step)
        chosen = _draw(generator, np.arange(len(self._rows)), self.num_subjects)
        return np.concatenate(
            [_draw(generator, self._rows[subject], self.num_sequences) for subject in chosen]
        )


def _draw(
    generator: np.random.Generator, items: Int64[ndarray, " m"], count: int
) -> Int64[ndarray, " n"]:
    """`count` of the items, each used as often as any other give or take one."""
    whole, rest = divmod(count, len(items))
    drawn = generator.permutation(items)[:rest]
    if whole:
        drawn = generator.permutation(np.concatenate([np.repeat(items, whole), drawn]))
    return drawn


def rank_positions(num_clips: int, rank: int, world_size: int) -> Int64[ndarray, " n"]:
    """Places of the global batch that one worker computes.

    Raises:
        ValueError: The batch cannot be split evenly; uneven shares would weigh clips unequally.
    """
    if num_clips % world_size:
        raise ValueError(
            f"a batch of {num_clips} clips cannot be split over {world_size} workers evenly; "
            f"choose batch.num_subjects * batch.num_sequences divisible by the workers"
        )
    return np.arange(rank, num_clips, world_size, dtype=np.int64)
