"""The training loop as one worker runs it; `launch` starts one or many of them.

Every worker maps the same frame cache, computes its share of the same global batch, and ends with
the same weights. What happens between two steps is the keeper's.
"""

from __future__ import annotations

import functools
import math
import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from raygait.batches.cache import FrameCache, open_cache
from raygait.batches.inputs import accepted_inputs
from raygait.batches.loader import Batch, ClipLoader
from raygait.batches.sampler import MASK_STREAM, NETWORK_STREAM, step_generator
from raygait.datasets import splits
from raygait.errors import RecipeError, TrainingError, UntrustedStep
from raygait.losses.identity import IdentityLoss
from raygait.losses.segmentation import SegmentationLoss
from raygait.losses.triplet import TripletLoss
from raygait.models import GaitOutput
from raygait.recipes.schema import Recipe, build_model, from_dict
from raygait.training.checkpoint import Stateful
from raygait.training.distributed import (
    gather,
    gather_with_gradient,
    mean_over_workers,
    num_workers,
)
from raygait.training.environment import (
    describe_environment,
    note_environment,
    peak_memory_mb,
)
from raygait.training.failures import Failure, name_some, whats_wrong, write_failure
from raygait.training.gradients import Piece, backward, pieces_of
from raygait.training.keeper import Keeper
from raygait.training.phases import freeze, frozen_groups, group_of, load_earlier, runnable
from raygait.training.precision import Precision, choose_precision
from raygait.training.synchronised_norm import synchronise_norms
from raygait.training.transfer import start_from
from raygait.training.workers import take_place


@dataclass(frozen=True)
class StepFailed:
    """What a worker returns of a step that cannot be trusted.

    Raised, it would have Ray replace the workers, which would compute the same step again.

    Attributes:
        sentence: What is wrong, and how to compute it again.
    """

    sentence: str


def train_worker(settings: dict[str, Any]) -> str | StepFailed:
    """Train on one worker of a Ray Train run.

    Args:
        settings: Plain values, as they cross process borders: `recipe` (`Recipe.to_dict()`),
            `shards` (folder), `num_threads` (of torch on CPU, and of the loader), `part` and
            `earlier` (`phases.load_earlier`), `start` (a model's folder, or empty),
            `compile_network`, `failures` (folder for steps that fail), and what `keeper.Keeper`
            takes.

    Returns:
        Name of the last checkpoint; empty from a worker that stood by. The step that ended the
        run, if one could not be trusted.

    Raises:
        TrainingError: A checkpoint does not fit the recipe.
        SplitMismatch: The shards do not hold the subjects of the recipe's split.
    """
    import ray.train
    import ray.train.torch

    recipe = from_dict(settings["recipe"])
    shards = Path(settings["shards"])
    torch.set_num_threads(int(settings["num_threads"]))
    place = take_place(recipe.batch.num_subjects * recipe.batch.num_sequences)
    if place is None:
        return ""
    device = ray.train.torch.get_device()

    cache = open_cache(shards, modality=recipe.data.modality)
    subjects = training_subjects(recipe, cache)
    loader = make_loader(
        recipe,
        cache,
        subjects,
        rank=place.rank,
        world_size=place.world_size,
        num_threads=int(settings["num_threads"]),
        device=device,
    )
    torch.manual_seed(recipe.seed)
    network = build_model(recipe, len(subjects))
    if settings["start"]:
        start_from(
            network,
            recipe,
            subjects,
            Path(settings["start"]),
            part=settings["part"],
            dataset=settings["origin"]["dataset"],
        )
    load_earlier(
        network, settings["part"], [(part, Path(folder)) for part, folder in settings["earlier"]]
    )
    trainer = Trainer(
        network,
        recipe,
        device,
        rank=place.rank,
        world_size=place.world_size,
        compiled=settings["compile_network"],
    )
    precision = trainer.precision
    state: dict[str, Stateful] = {
        "optimiser": trainer.optimiser,
        "scheduler": trainer.scheduler,
        "precision": precision,
    }
    keeper = Keeper(settings, recipe, subjects, place, network, state)
    if place.rank == 0:
        note_environment(
            Path(settings["record"]),
            int(settings["steps_before"]) + keeper.first_step,
            describe_environment(
                device,
                precision=precision.name,
                num_workers=place.world_size,
                num_threads=int(settings["num_threads"]),
                is_compiled=bool(settings["compile_network"]),
            ),
        )

    def keep_failure(step: int, values: Mapping[str, float], wrong: str) -> str:
        """Keep what computes a step again and say how; each worker can make the global batch."""
        if place.rank != 0:
            return ""
        num_threads = int(settings["num_threads"])
        whole = make_loader(recipe, cache, subjects, num_threads=num_threads, device=device)
        return _keep_failure(
            Path(settings["failures"]) / f"step-{settings['steps_before'] + step:08d}",
            network,
            recipe,
            subjects,
            lambda: whole.batch(step),
            values,
            wrong,
            world_size=place.world_size,
            precision=precision,
            device=device,
            origin=settings["origin"],
        )

    waiting_since = last_ended = time.perf_counter()
    for batch in loader.batches(keeper.first_step, keeper.end_step):
        started = time.perf_counter()
        learning_rate = trainer.learning_rate
        try:
            measured = trainer.step(batch, keep_failure)
        except UntrustedStep as error:
            keeper.give_up()
            return StepFailed(str(error))
        ended = time.perf_counter()
        is_over = keeper.after_step(
            batch.step + 1,
            {
                **measured,
                "learning_rate": learning_rate,
                "step_seconds": ended - started,
                "wait_seconds": started - waiting_since,
                # Of the wall clock: checkpoints between two steps count.
                "steps_per_second": 1 / (ended - last_ended),
                "peak_memory_mb": peak_memory_mb(device),
            },
        )
        last_ended = ended
        if is_over:
            break
        waiting_since = time.perf_counter()
    return keeper.finish()


@runtime_checkable
class DrawsMasks(Protocol):
    """A network whose training draws random masks."""

    def set_mask_seed(self, seed: int) -> None:
        """Decide the masks of the next forward pass."""


class BatchLoss:
    """The losses of a recipe, over the global batch.

    Triplets are formed over the clips of all workers, so that a batch split over more workers has
    the same triplets; the other losses are means over this worker's clips, which DDP's averaging
    and `mean_over_workers` make means over all.
    """

    def __init__(self, recipe: Recipe) -> None:
        loss = recipe.loss
        self._triplet = TripletLoss(
            margin=loss.triplet_margin,
            squared=loss.triplet_squared,
            anchor_is_positive=loss.anchor_is_positive,
        )
        self._branches = frozenset(loss.branches)
        self._identity = IdentityLoss(scale=loss.identity_scale, smoothing=loss.identity_smoothing)
        self._segmentation = SegmentationLoss()
        self._triplet_weight = loss.triplet_weight
        self._identity_weight = loss.identity_weight
        self._segmentation_weight = loss.segmentation_weight

    def __call__(
        self, output: GaitOutput, labels: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to differentiate, the sum over the branches, and what is worth recording.

        Args:
            output: What the network returned for this worker's share.
            labels: Class of each clip.
            masks: [n, 1, t, h, w], what a segmentation is compared with.

        Raises:
            TrainingError: The recipe weighs a loss that the network or the data give nothing for.
        """
        everyones_labels = gather(labels)
        total = output.embedding.new_zeros(())
        measured: dict[str, list[Tensor]] = {}
        unknown = self._branches - output.branches.keys()
        if unknown:
            raise TrainingError(
                f"loss.branches has {sorted(unknown)}; the network has {sorted(output.branches)}"
            )
        for name, branch in output.branches.items():
            if self._branches and name not in self._branches:
                # DDP waits for a gradient of every parameter.
                for unused in branch:
                    if unused is not None:
                        total = total + 0.0 * unused.sum()
                continue
            triplet = self._triplet(gather_with_gradient(branch.triplet_features), everyones_labels)
            total = total + self._triplet_weight * triplet.loss
            values = {
                "triplet_loss": triplet.loss.detach(),
                "active_triplet_ratio": triplet.active_ratio,
                "mean_positive_distance": triplet.mean_positive,
                "mean_negative_distance": triplet.mean_negative,
            }
            if branch.logits is not None:
                identity = self._identity(branch.logits, labels)
                total = total + self._identity_weight * identity.loss
                values |= {
                    "identity_loss": identity.loss.detach(),
                    "accuracy": identity.accuracy,
                }
            elif self._identity_weight:
                raise TrainingError(
                    f"branch {name!r} has no classifier for the identity loss: "
                    "set loss.identity_weight to 0"
                )
            for metric, value in values.items():
                measured.setdefault(metric, []).append(value)
                if len(output.branches) > 1:
                    measured[f"{metric}_{name}"] = [value]
        if self._segmentation_weight:
            if output.mask_logits is None or masks is None:
                raise TrainingError(
                    f"loss.segmentation_weight is {self._segmentation_weight}, but "
                    + (
                        "the network does not segment: set it to 0"
                        if masks is not None
                        else "only data.modality rgb has masks"
                    )
                )
            segmentation = self._segmentation(output.mask_logits, masks)
            total = total + self._segmentation_weight * segmentation.loss
            measured["segmentation_loss"] = [segmentation.loss.detach()]
            measured["mask_iou"] = [segmentation.iou]
        means = {metric: torch.stack(values).mean() for metric, values in measured.items()}
        return total, {"loss": total.detach(), **means}


class Trainer:
    """A network and all that changes it: takes a recipe's steps, one batch after another.

    Attributes:
        network: The bare network, in training mode but for its frozen groups.
        optimiser: Of all parameters that train.
        scheduler: Stepped once a step.
        precision: What the network computes in.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        device: torch.device,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_clips_at_once: int | None = None,
        compiled: bool = False,
    ) -> None:
        """Put the network in place.

        Args:
            network: With the weights that it starts from, equal on all workers.
            recipe: Says everything else.
            device: This worker's.
            rank: This worker's.
            world_size: Workers that the batch is split over.
            num_clips_at_once: Clips of a forward pass on one worker, if not the recipe's number.
            compiled: Let `torch.compile` fuse the network.
        """
        self.network = network.to(device).train()
        freeze(network, frozen_groups(recipe))
        trained = runnable(network)
        self._accepted = accepted_inputs(trained)
        self._trained = shared(trained, recipe, device, compiled=compiled)
        self.optimiser = make_optimiser(recipe, network)
        self.scheduler = make_scheduler(recipe, self.optimiser)
        self.precision = choose_precision(recipe.precision, device)
        self._criterion = BatchLoss(recipe)
        self._recipe, self._device = recipe, device
        self._num_clips_at_once = num_clips_at_once or recipe.batch.num_clips_at_once
        self._rank, self._world_size = rank, world_size

    @property
    def learning_rate(self) -> float:
        """Of the next step, of the first group of parameters."""
        return float(self.scheduler.get_last_lr()[0])

    def step(
        self,
        batch: Batch,
        keep_failure: Callable[[int, Mapping[str, float], str], str] | None = None,
    ) -> dict[str, float]:
        """`train_step` of this worker's share, as the recipe says it, and one of the schedule."""
        recipe = self._recipe
        measured = train_step(
            self._trained,
            self._criterion,
            self.optimiser,
            batch,
            self._device,
            self._accepted,
            precision=self.precision,
            pieces=pieces_of(
                len(batch.labels),
                self._num_clips_at_once,
                rank=self._rank,
                world_size=self._world_size,
            ),
            prepare=functools.partial(seed_draws, self.network, recipe.seed, batch.step),
            max_gradient_norm=recipe.optim.max_gradient_norm,
            stop_above=recipe.loss.stop_above,
            keep_failure=keep_failure,
        )
        self.scheduler.step()
        return measured


def train_step(
    trained: nn.Module,
    criterion: BatchLoss,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    device: torch.device,
    accepted: Collection[str] = (),
    *,
    precision: Precision | None = None,
    pieces: Sequence[Piece] = (),
    prepare: Callable[[int], None] | None = None,
    max_gradient_norm: float | None = None,
    stop_above: float = math.inf,
    keep_failure: Callable[[int, Mapping[str, float], str], str] | None = None,
) -> dict[str, float]:
    """One optimiser step.

    Args:
        trained: The network, or its wrapper for many workers.
        criterion: The recipe's losses.
        optimiser: Steps once; in fp16 not where a gradient has no finite value.
        batch: This worker's share.
        device: Where the network is.
        accepted: What the network takes beside frames, from `inputs.accepted_inputs`.
        precision: What the network computes in; float32 if left out.
        pieces: In which the share runs, see `gradients`; at once if left out.
        prepare: Called with a place in the global batch before each forward pass, see `gradients`.
        max_gradient_norm: Larger gradients are scaled down to it.
        stop_above: A larger loss has exploded.
        keep_failure: Given step, measured values and what is wrong with them, it keeps what
            computes the step again and returns a clause that says how.

    Returns:
        What the losses say, `gradient_norm` before it was limited, unless it is not finite, and in
        fp16 `loss_scale`.

    Raises:
        UntrustedStep: Loss or gradients are not finite, or the loss has exploded; weights and
            running statistics are left as they were before the step.
        TrainingError: The recipe weighs a loss that the network or the data give nothing for.
    """
    precision = precision or Precision("fp32", device)
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    buffers = list(trained.buffers())
    before = [buffer.clone() for buffer in buffers]
    optimiser.zero_grad(set_to_none=True)
    measured = backward(
        trained,
        criterion,
        inputs,
        batch.labels.to(device, non_blocking=True),
        accepted=accepted,
        precision=precision,
        pieces=pieces,
        prepare=prepare,
    )
    scale = {} if precision.loss_scale is None else {"loss_scale": precision.loss_scale}
    precision.unscale(optimiser)
    weights = [
        weight
        for group in optimiser.param_groups
        for weight in group["params"]
        if weight.grad is not None
    ]
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
    # One wait for the device a step, and one that all workers reach: it comes after the gradients,
    # which a loss that is not finite on one worker spoils on all.
    measured = {**measured, "gradient_norm": norm.to(device)}
    values = {**mean_over_workers(measured), **scale}
    wrong = whats_wrong(
        values, stop_above=stop_above, gradients_can_overflow=precision.can_overflow
    )
    if wrong is not None:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        kept = "" if keep_failure is None else keep_failure(batch.step, values, wrong)
        raise UntrustedStep(
            f"step {batch.step}: {wrong}; lower optim.learning_rate or look at the clips of this "
            f"step: {name_some(batch.sequence_ids)}{kept}"
        )
    if max_gradient_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(weights, max_gradient_norm, norm)
    precision.step(optimiser)
    if not math.isfinite(values["gradient_norm"]):
        del values["gradient_norm"]
    return values


def shared(
    network: nn.Module, recipe: Recipe, device: torch.device, *, compiled: bool = False
) -> nn.Module:
    """The network as each of a run's workers trains it, on its share of the batch.

    Args:
        network: In place on `device`, equal on all workers.
        recipe: Says whether its batch norms see the whole batch.
        device: This worker's.
        compiled: Let `torch.compile` fuse it.
    """
    if recipe.batch.synchronise_norms:
        synchronise_norms(network)
    if compiled:
        network.compile()
    if num_workers() == 1:
        return network
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        # Synchronised norms have the same statistics on all workers.
        forward_sync_buffers=not recipe.batch.synchronise_norms,
    )


def _keep_failure(
    folder: Path,
    network: nn.Module,
    recipe: Recipe,
    subjects: Sequence[str],
    make_batch: Callable[[], Batch],
    values: Mapping[str, float],
    wrong: str,
    *,
    world_size: int,
    precision: Precision,
    device: torch.device,
    origin: Mapping[str, str],
) -> str:
    """Write a failure's folder; a clause that says where it is or why it is not."""
    state = precision.state_dict()
    try:
        batch = make_batch()
        failure = Failure(
            step=batch.step,
            wrong=wrong,
            values=dict(values),
            sequence_ids=batch.sequence_ids,
            world_size=world_size,
            precision=state["name"],
            scaler=state["scaler"],
            device=device.type,
        )
        write_failure(folder, failure, network, recipe, subjects, batch, origin=origin)
    except Exception as error:  # a full disk or memory must not hide what was wrong
        return f"; what computes it again could not be kept: {error}"
    return f"; to compute it again: python jobs/train.py --replay {shlex.quote(str(folder))}"


def seed_draws(network: nn.Module, seed: int, step: int, place: int) -> None:
    """Make all that the next forward pass draws a function of the recipe's seed and the step.

    Args:
        network: The bare network.
        seed: The recipe's seed.
        step: Optimiser step, from 0.
        place: Place in the global batch of the first clip of the pass. Masks do not depend on it,
            what torch's global generator draws does: dropout.
    """
    generator = step_generator(seed, NETWORK_STREAM, step, place)
    torch.manual_seed(int(generator.integers(2**62)))
    draw_masks(network, seed, step)


def draw_masks(network: nn.Module, seed: int, step: int) -> None:
    """Seed a step's random masks, for the models that draw any: equal on all workers."""
    if isinstance(network, DrawsMasks):
        network.set_mask_seed(int(step_generator(seed, MASK_STREAM, step).integers(2**62)))


def training_subjects(recipe: Recipe, cache: FrameCache) -> list[str]:
    """Subjects of the recipe's split that train, in class order.

    Raises:
        SplitMismatch: The shards do not hold the subjects of the split.
    """
    split = splits.split(recipe.data.split, cache.subjects)
    return sorted(set(split.train) & set(cache.subjects))


def make_loader(
    recipe: Recipe,
    cache: FrameCache,
    subjects: list[str],
    *,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int = 1,
    device: torch.device | None = None,
) -> ClipLoader:
    """The loader that the recipe describes."""
    return ClipLoader(
        cache,
        subjects,
        num_subjects=recipe.batch.num_subjects,
        num_sequences=recipe.batch.num_sequences,
        clip_num_frames=recipe.clip.num_frames,
        clip_order=recipe.clip.order,
        flip_ratio=recipe.clip.flip_ratio,
        height_px=recipe.data.height_px,
        width_px=recipe.data.width_px,
        seed=recipe.seed,
        clip_max_num_frames=recipe.clip.max_num_frames,
        clip_skip_frames=recipe.clip.skip_frames,
        augmentation=recipe.clip.augmentation(),
        shift_px=recipe.data.shift_px,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads,
        device=device,
    )


def make_optimiser(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the recipe describes, of all parameters that train.

    Raises:
        RecipeError: The recipe names a group of parameters that the network does not have.
    """
    optim = recipe.optim
    apart: set[int] = set()
    groups: list[dict[str, Any]] = []
    for name, factor in optim.group_factors.items():
        weights = [weight for weight in group_of(network, name) if weight.requires_grad]
        apart.update(map(id, weights))
        if weights:
            groups.append({"params": weights, "lr": optim.learning_rate * factor})
    others = [
        weight
        for weight in network.parameters()
        if weight.requires_grad and id(weight) not in apart
    ]
    if others:
        groups.insert(0, {"params": others})
    if not groups:
        raise RecipeError("optim.group_factors freezes every group: nothing is left to train")
    # Fused: ms a step on one CPU core, against a loop over the parameters, Adam and SGD:
    #     gaitgl-demo 0.26, 0.16 against 0.69, 0.29; gaitgl-casiab 5.3, 3.5 against 19.7, 7.1;
    #     gaitbase-casiab 9.4, 6.5 against 42.3, 16.6; lmgcs-casiab-lt's second phase, Adam, 16.8
    #     against 53.5, and 65.0 with `foreach`.
    if optim.optimiser == "adam":
        return torch.optim.Adam(
            groups, lr=optim.learning_rate, weight_decay=optim.weight_decay, fused=True
        )
    return torch.optim.SGD(
        groups,
        lr=optim.learning_rate,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def make_scheduler(recipe: Recipe, optimiser: torch.optim.Optimizer) -> LRScheduler:
    """The learning-rate schedule that the recipe describes, stepped once an optimiser step."""
    optim = recipe.optim
    if optim.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            [group["lr"] for group in optimiser.param_groups],
            # The schedule is stepped after the last batch too; without the one more it would
            # have begun to rise again by then.
            total_steps=recipe.num_steps + 1,
            pct_start=0.1,
            # By default it also moves momentum, which is an option of its own here.
            cycle_momentum=False,
        )
    return torch.optim.lr_scheduler.MultiStepLR(optimiser, list(optim.milestones), optim.gamma)
