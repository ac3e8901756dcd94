"""Batches of clips for one worker, made ahead of the step that needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

from raygait.batches.augmentation import Augmentation, draw, erase, warp
from raygait.batches.cache import FrameCache
from raygait.batches.clips import ClipOrder, clip_frames
from raygait.batches.inputs import fit_clip, mirror_clip, to_floats
from raygait.batches.sampler import (
    ALIGN_STREAM,
    AUGMENT_STREAM,
    CLIP_STREAM,
    LENGTH_STREAM,
    SHIFT_STREAM,
    IdentitySampler,
    rank_positions,
    step_generator,
)
from raygait.batches.shift import draw_shifts, shift_clip


class Batch(NamedTuple):
    """One worker's share of the global batch of one step.

    Attributes:
        step: Optimiser step that this batch is for.
        inputs: `frames` [n, c, t, h, w] first, 0..1, then what else the modality has, as `inputs`
            says. Where there are joints there is also `align_draws` [n, t]: a number in 0..1 for
            every frame, for a network that aligns some frames at random.
        labels: Class of each clip, its subject's place in the sorted training subjects.
        sequence_ids: Sequence that each clip is cut from, as the shards call it.
    """

    step: int
    inputs: dict[str, Tensor]
    labels: Int64[Tensor, " n"]
    sequence_ids: tuple[str, ...] = ()


class ClipLoader:
    """Yields a worker's share of every batch from a given step on.

    What a clip shows is a function of (seed, step, its place in the global batch), so it does not
    depend on how many workers share the batch.

    Args:
        cache: Frames of the data set.
        subjects: Training subjects; rows of others are never drawn. Sorted, they are the classes.
        num_subjects: P, subjects in a global batch.
        num_sequences: K, sequences of each.
        clip_num_frames: Frames of a clip.
        clip_order: `ordered` or `unordered`, see `clips.clip_frames`.
        flip_ratio: Share of clips mirrored left to right, joints and masks with them.
        height_px: Height the model expects, see `clips.fit_frames`.
        width_px: Width the model expects.
        seed: The recipe's seed.
        clip_max_num_frames: If given, the length of a step's clips is drawn between
            `clip_num_frames` and this; all clips of a batch have the same.
        clip_skip_frames: Frames left out of ordered clips, see `clips.clip_frames`.
        augmentation: What else happens to silhouettes.
        shift_px: Largest shift of the frames of RGB crops, see `shift.draw_shifts`; 0 shifts none.
        rank: This worker's number.
        world_size: Number of workers.
        num_threads: Clips made at the same time; which they are does not depend on it.
    """

    def __init__(
        self,
        cache: FrameCache,
        subjects: Sequence[str],
        *,
        num_subjects: int,
        num_sequences: int,
        clip_num_frames: int,
        clip_order: ClipOrder,
        flip_ratio: float,
        height_px: int,
        width_px: int,
        seed: int,
        clip_max_num_frames: int | None = None,
        clip_skip_frames: int = 0,
        augmentation: Augmentation | None = None,
        shift_px: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 1,
    ) -> None:
        classes = {subject: number for number, subject in enumerate(sorted(set(subjects)))}
        self._rows = [row for row, subject in enumerate(cache.subjects) if subject in classes]
        self._labels = [classes[cache.subjects[row]] for row in self._rows]
        self._sampler = IdentitySampler(
            [cache.subjects[row] for row in self._rows],
            num_subjects=num_subjects,
            num_sequences=num_sequences,
            seed=seed,
        )
        self._positions = rank_positions(num_subjects * num_sequences, rank, world_size)
        self._cache = cache
        self._clip_num_frames = clip_num_frames
        self._clip_order = clip_order
        self._flip_ratio = flip_ratio
        self._height_px = height_px
        self._width_px = width_px
        self._seed = seed
        self._clip_max_num_frames = clip_max_num_frames or clip_num_frames
        self._clip_skip_frames = clip_skip_frames
        self._augmentation = augmentation
        self._shift_px = shift_px
        # Almost all of a clip's time is spent in decoders, which let other threads run.
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="clips")

    def batch(self, step: int) -> Batch:
        """This worker's share of the batch of one step."""
        drawn = self._sampler.batch(step)
        length = int(
            step_generator(self._seed, LENGTH_STREAM, step).integers(
                self._clip_num_frames, self._clip_max_num_frames + 1
            )
        )
        clips = list(
            self._threads.map(
                lambda place: self._clip(int(drawn[place]), step, int(place), length),
                self._positions,
            )
        )
        labels = [self._labels[int(drawn[place])] for place in self._positions]
        # In bytes until all are together: floats take four times the memory.
        stacked = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
        inputs = {name: torch.from_numpy(values) for name, values in to_floats(stacked).items()}
        ids = tuple(self._cache.sequence_ids[self._rows[drawn[place]]] for place in self._positions)
        return Batch(step, inputs, torch.tensor(labels, dtype=torch.int64), ids)

    def batches(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Batches `first_step` .. `num_steps - 1`; the next one is made while one is used."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            ahead: Future[Batch] | None = None
            for step in range(first_step, num_steps):
                current = ahead or pool.submit(self.batch, step)
                ahead = pool.submit(self.batch, step + 1) if step + 1 < num_steps else None
                yield current.result()

    def _clip(self, drawn: int, step: int, place: int, length: int) -> dict[str, ndarray]:
        generator = step_generator(self._seed, CLIP_STREAM, step, place)
        row, modality = self._rows[drawn], self._cache.modality
        numbers = clip_frames(
            self._cache.num_frames[row],
            length,
            self._clip_order,
            generator,
            skip=self._clip_skip_frames,
        )
        stored = self._cache.clip(row, numbers)
        # Streams of their own: what else happens to a clip decides nothing about its frames.
        if self._shift_px:
            source = step_generator(self._seed, SHIFT_STREAM, step, place)
            stored = shift_clip(stored, draw_shifts(length, self._shift_px, source))
        augmented = None
        if self._augmentation is not None:
            augmented = draw(
                self._augmentation,
                stored["frames"].shape[1:],
                (self._height_px, self._width_px),
                step_generator(self._seed, AUGMENT_STREAM, step, place),
            )
            stored["frames"] = warp(stored["frames"], augmented)
        clip = fit_clip(stored, modality, self._height_px, self._width_px)
        if generator.random() < self._flip_ratio:
            clip = mirror_clip(clip, modality)
        if augmented is not None:
            clip["frames"] = erase(clip["frames"], augmented)
        if "joints" in clip:
            draws = step_generator(self._seed, ALIGN_STREAM, step, place)
            clip["align_draws"] = draws.random(len(numbers), np.float32)
        # Axes are put in order here, by many threads, and not when the batch is put together.
        return {name: np.ascontiguousarray(values) for name, values in clip.items()}
