"""Batches of clips for one worker, made ahead of the step that needs them."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import Tensor

from raygait.batches.augmentation import Augmentation, Draw, draw, warp_clip
from raygait.batches.cache import FrameCache
from raygait.batches.clips import ClipOrder, clip_frames, scale_to_unit
from raygait.batches.inputs import batch_shapes, fit_clip, mirror_clip
from raygait.batches.on_device import silhouettes_as_seen, to_unit
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

_Made = TypeVar("_Made")


class Batch(NamedTuple):
    """One worker's share of the global batch of one step.

    Attributes:
        step: Optimiser step that this batch is for.
        inputs: `frames` [n, c, t, h, w] first, 0..1, then what else the modality has, as `inputs`
            says, on the loader's device. Where there are joints there is also `align_draws`
            [n, t]: a number in 0..1 for every frame, for a network that aligns some frames at
            random.
        labels: Class of each clip, its subject's place in the sorted training subjects.
        sequence_ids: Sequence that each clip is cut from, as the shards call it.
    """

    step: int
    inputs: dict[str, Tensor]
    labels: Int64[Tensor, " n"]
    sequence_ids: tuple[str, ...] = ()


class _Plan(NamedTuple):
    """What one clip shows: all that is drawn for it.

    Attributes:
        row: Of the cache.
        numbers: Frames, in order.
        is_mirrored: Left and right change places.
        drawn: What else happens to silhouettes.
    """

    row: int
    numbers: Int64[ndarray, " t"]
    is_mirrored: bool
    drawn: Draw


class _Memory:
    """Memory of batches, lent again once nothing looks at it any more.

    Fresh memory costs a clip of silhouettes 0.05 ms, as much as what is then written to it.

    Args:
        num_floats: Of the largest array of each name.
    """

    def __init__(self, num_floats: Mapping[str, int]) -> None:
        self._num_floats = num_floats
        self._free: dict[str, list[ndarray]] = {name: [] for name in num_floats}

    def lend(self, name: str, shape: tuple[int, ...]) -> Float32[ndarray, "*shape"]:
        """An array whose values are whatever was in it before."""
        free = self._free[name]
        whole = free.pop() if free else np.empty(self._num_floats[name], np.float32)
        lent = whole[: math.prod(shape)].reshape(shape)
        # A tensor made of it keeps it alive, as does each view of that tensor.
        weakref.finalize(lent, _return, whole, free).atexit = False
        return lent


def _return(whole: ndarray, free: list[ndarray]) -> None:
    # One batch in use, one ahead, one that is being made.
    if len(free) < 3:
        free.append(whole)


class ClipLoader:
    """Yields a worker's share of every batch from a given step on.

    What a clip shows is a function of the sequences and (seed, step, place in the global batch),
    so it does not depend on how the sequences are cut into shards, how many workers share the
    batch, nor on threads or the device.

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
        device: Where the network is. On a GPU the batch is put together there: silhouettes are
            augmented and bytes become floats on it (`on_device`). Left out, or the CPU, all is
            done clip by clip here.
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
        device: torch.device | None = None,
    ) -> None:
        classes = {subject: number for number, subject in enumerate(sorted(set(subjects)))}
        # How shards are cut depends on when files were written; what is drawn does not.
        self._rows = sorted(
            (row for row, subject in enumerate(cache.subjects) if subject in classes),
            key=cache.sequence_ids.__getitem__,
        )
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
        self._device = None if device is None or device.type == "cpu" else device
        self._stream: torch.cuda.Stream | None = None
        self._num_threads = num_threads
        self._threads: ThreadPoolExecutor | None = None
        largest = self._shapes(self._clip_max_num_frames)
        self._memory = _Memory({name: math.prod(shape) for name, shape in largest.items()})

    def batch(self, step: int) -> Batch:
        """This worker's share of the batch of one step."""
        rows = self._sampler.batch(step)
        length = int(
            step_generator(self._seed, LENGTH_STREAM, step).integers(
                self._clip_num_frames, self._clip_max_num_frames + 1
            )
        )
        places = [int(place) for place in self._positions]
        labels = torch.tensor([self._labels[int(rows[place])] for place in places])
        plans = [self._plan(int(rows[place]), step, place, length) for place in places]
        made = self._made_here if self._device is None else self._made_on_device
        ids = tuple(self._cache.sequence_ids[plan.row] for plan in plans)
        return Batch(step, made(plans, step), labels, ids)

    def batches(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Batches `first_step` .. `num_steps - 1`; the next one is made while one is used.

        At the end, and where the caller stops before it, the threads are gone.
        """
        try:
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
                ahead: Future[Batch] | None = None
                for step in range(first_step, num_steps):
                    current = ahead or pool.submit(self.batch, step)
                    ahead = pool.submit(self.batch, step + 1) if step + 1 < num_steps else None
                    yield self._handed_over(current.result())
        finally:
            self.close()

    def close(self) -> None:
        """Wait for the threads and end them; the next batch starts new ones."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def _shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        size_px = self._height_px, self._width_px
        return batch_shapes(self._cache.modality, len(self._positions), length, *size_px)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Queue what is done inside apart from the network's work, and wait for it alone.

        In the network's own stream a copy would wait until the step that is under way has ended.
        """
        if self._device is None or self._device.type != "cuda":
            yield
            return
        if self._stream is None:
            # One for good: memory that a stream has used is kept for that stream.
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def _handed_over(self, batch: Batch) -> Batch:
        if self._device is not None and self._device.type == "cuda":
            # Its memory must not be given to the next batch before the network has read it.
            for values in batch.inputs.values():
                values.record_stream(torch.cuda.current_stream(self._device))
        return batch

    def _for_all(self, make: Callable[[int], _Made], count: int) -> list[_Made]:
        # Almost all of a clip's time is spent outside of Python, so that threads do help.
        if self._num_threads == 1:
            return [make(index) for index in range(count)]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="clips")
        return list(self._threads.map(make, range(count)))

    def _plan(self, drawn: int, step: int, place: int, length: int) -> _Plan:
        generator = step_generator(self._seed, CLIP_STREAM, step, place)
        row = self._rows[drawn]
        numbers = clip_frames(
            self._cache.num_frames[row],
            length,
            self._clip_order,
            generator,
            skip=self._clip_skip_frames,
        )
        is_mirrored = bool(generator.random() < self._flip_ratio)
        # Streams of their own: what else happens to a clip decides nothing about its frames.
        happens = Draw()
        if self._augmentation is not None:
            happens = draw(
                self._augmentation,
                self._cache.frame_size_px(row),
                (self._height_px, self._width_px),
                step_generator(self._seed, AUGMENT_STREAM, step, place),
            )
        return _Plan(row, numbers, is_mirrored, happens)

    def _stored(self, plan: _Plan, step: int, place: int) -> dict[str, ndarray]:
        stored = self._cache.clip(plan.row, plan.numbers)
        if self._shift_px:
            source = step_generator(self._seed, SHIFT_STREAM, step, place)
            stored = shift_clip(stored, draw_shifts(len(plan.numbers), self._shift_px, source))
        return stored

    def _clip(self, plan: _Plan, step: int, place: int) -> dict[str, ndarray]:
        """A clip in bytes, as the network sees it."""
        stored, drawn = self._stored(plan, step, place), plan.drawn
        if drawn.matrix is not None:
            # Of the columns that are kept: the others would be cut away.
            kept_px = stored["frames"].shape[-2] // self._height_px * self._width_px
            stored["frames"] = warp_clip(stored["frames"], drawn.matrix, kept_px)
        clip = fit_clip(stored, self._cache.modality, self._height_px, self._width_px)
        if plan.is_mirrored:
            clip = mirror_clip(clip, self._cache.modality)
        if drawn.turn is not None:
            clip["frames"] = warp_clip(np.ascontiguousarray(clip["frames"][0]), drawn.turn)[None]
        if "joints" in clip:
            draws = step_generator(self._seed, ALIGN_STREAM, step, place)
            clip["align_draws"] = draws.random(len(plan.numbers), np.float32)
        return clip

    def _made_here(self, plans: list[_Plan], step: int) -> dict[str, Tensor]:
        shapes = self._shapes(len(plans[0].numbers))
        inputs = {name: self._memory.lend(name, shape) for name, shape in shapes.items()}

        def make(index: int) -> None:
            plan = plans[index]
            for name, values in self._clip(plan, step, int(self._positions[index])).items():
                if name == "frames":
                    scale_to_unit(values, inputs[name][index])
                else:
                    inputs[name][index] = values
            if plan.drawn.box is not None:
                inputs["frames"][index][..., plan.drawn.box[0], plan.drawn.box[1]] = 0

        self._for_all(make, len(plans))
        return {name: torch.from_numpy(values) for name, values in inputs.items()}

    def _made_on_device(self, plans: list[_Plan], step: int) -> dict[str, Tensor]:
        is_silhouettes = self._cache.modality.startswith("silhouettes")
        make = self._stored if is_silhouettes else self._clip
        clips = self._for_all(
            lambda index: make(plans[index], step, int(self._positions[index])), len(plans)
        )
        stacked = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
        with self._own_stream():
            inputs = {
                name: torch.from_numpy(values).to(self._device) for name, values in stacked.items()
            }
            if is_silhouettes:
                inputs["frames"] = silhouettes_as_seen(
                    inputs["frames"],
                    [plan.drawn for plan in plans],
                    [plan.is_mirrored for plan in plans],
                    (self._height_px, self._width_px),
                )
            return {
                name: to_unit(values) if name == "frames" else values.to(torch.float32)
                for name, values in inputs.items()
            }
