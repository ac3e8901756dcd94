"""What a run is: one frozen, checked record with dotted paths.

A recipe's dotted path (`optim.learning_rate`) is the command-line flag, the Tune key and the MLflow
parameter. Unknown keys are errors. A recipe crosses process borders as `to_dict()`, never as an
object: the option classes of models are derived from their signatures and do not pickle by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field
from torch import nn

from raygait.batches.augmentation import Augmentation, Style
from raygait.errors import RecipeError
from raygait.recipes.options import (
    MODEL_OPTIONS,
    AnyModelOptions,
    ModelOptions,
    options_of_any,
)

# Channels of one frame of a modality, as the network sees it.
_CHANNELS = {
    "silhouettes": 1,
    "silhouettes_128": 1,
    "heatmaps": 17,
    "heatmaps_redrawn": 2,
    "rgb": 3,
}
# Part of a dotted path, and of a phase the name of its folder.
_NAME = r"^[a-z0-9_-]+$"
# Sections whose keys are names that the recipe chooses.
_FREE_SECTIONS = ("before", "optim.group_factors")


class _Frozen(pydantic.BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class FrameOptions(_Frozen):
    """What a network sees."""

    modality: Literal["silhouettes", "silhouettes_128", "heatmaps", "heatmaps_redrawn", "rgb"] = (
        "silhouettes"
    )
    """Column of the shards that feeds the model; `heatmaps` brings joints along, `rgb` masks and
    the crops' ratios."""
    height_px: Annotated[int, Field(gt=0)] = 64
    """Height of a frame as the model sees it: what the shards hold, or a whole fraction."""
    width_px: Annotated[int, Field(gt=0)] = 44
    """Width of a frame; narrower than the shard's means a cut of equal columns on both sides."""


class DataOptions(FrameOptions):
    """Which frames of which subjects a run sees."""

    split: str = "casiab-lt"
    """Training and test subjects: `casiab-st`, `casiab-mt`, `casiab-lt`, `oumvlp`, `grew`, `ccpg`,
    `ttg200`; `gait3d:PATH`, `sustech1k:PATH`, `partition:PATH` with the benchmark's or one's own
    partition file; or `first:N`."""
    test_split: str = ""
    """Split whose test subjects are scored, where the model is tested on another data set than it
    was trained on; empty: `split`."""
    protocol: str = "casiab"
    """Benchmark protocol that scores the run: `casiab`, `oumvlp`, ..., see
    `jobs/evaluate.py --list-protocols`."""
    shift_px: Annotated[int, Field(ge=0)] = 0
    """`rgb` only: half of the frames, in training and at test, are moved by up to this many pixels
    in both directions, as if a detector had not centred the person."""

    def check(self, clip: ClipOptions) -> None:
        """Refuse what is done to a clip if the modality cannot have it done.

        Raises:
            ValueError: Silhouettes' augmentation of another modality, or shifts of one.
        """
        if clip.augmentation() is not None and not self.modality.startswith("silhouettes"):
            raise ValueError(f"{self.modality} can be mirrored; other augmentation is silhouettes'")
        if self.shift_px and self.modality != "rgb":
            raise ValueError(f"shift_px ({self.shift_px}) is for rgb, not for {self.modality}")


class ClipOptions(_Frozen):
    """How a training clip is cut out of a sequence."""

    num_frames: Annotated[int, Field(gt=0)] = 30
    """Frames of a training clip; at test every frame is used."""
    order: Literal["ordered", "unordered"] = "ordered"
    """`ordered`: consecutive frames from a random start. `unordered`: random frames."""
    skip_frames: Annotated[int, Field(ge=0)] = 0
    """`ordered` only: the clip is cut from a window longer by this many frames, of which as many
    are left out at random places; 0 keeps the frames consecutive."""
    max_num_frames: Annotated[int, Field(gt=0)] | None = None
    """Clips of unequal length: each step draws one between `num_frames` and this; the clips of a
    batch have the same. If left out, all clips have `num_frames`."""
    flip_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of clips mirrored left to right, the whole clip at once."""
    perspective_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of silhouette clips seen from a little higher, lower or aside."""
    affine_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of silhouette clips sheared and scaled a little."""
    rotate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of silhouette clips turned by up to 10 degrees."""
    erase_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of silhouette clips that lose a box of 5-20 % of the frame."""
    augment_like: Style = "papers"
    """How silhouettes are warped and erased. `papers`: in one resampling, about the centre.
    `opengait`: as the loader that published checkpoints were trained with does."""

    @pydantic.model_validator(mode="after")
    def _lengths_fit(self) -> ClipOptions:
        if self.max_num_frames is not None and self.max_num_frames < self.num_frames:
            raise ValueError(
                f"max_num_frames ({self.max_num_frames}) must not be below num_frames "
                f"({self.num_frames})"
            )
        if self.skip_frames and self.order == "unordered":
            raise ValueError("skip_frames has no meaning for unordered frames")
        return self

    def augmentation(self) -> Augmentation | None:
        """What happens to silhouettes beside mirroring; `None` if nothing ever does."""
        augmentation = Augmentation(
            perspective_ratio=self.perspective_ratio,
            affine_ratio=self.affine_ratio,
            rotate_ratio=self.rotate_ratio,
            erase_ratio=self.erase_ratio,
            style=self.augment_like,
        )
        return None if augmentation == Augmentation(style=self.augment_like) else augmentation


class BatchOptions(_Frozen):
    """A batch holds `num_subjects` x `num_sequences` clips, over all workers together."""

    num_subjects: Annotated[int, Field(gt=1)] = 8
    """P: subjects in a batch. More subjects make harder negatives and a larger batch."""
    num_sequences: Annotated[int, Field(gt=1)] = 16
    """K: sequences of each subject. More sequences make harder positives and a larger batch."""
    synchronise_norms: bool = True
    """Batch norms see the whole batch, not a worker's share: another number of workers computes
    the same."""
    num_clips_at_once: Annotated[int, Field(gt=1)] | None = None
    """Most clips that a worker runs through the network at once; a larger share is computed in
    pieces, for one more forward pass and the memory of one piece. The step is the same, but for
    batch norms, which then normalise each piece by itself. If left out, the share runs at once."""


class LossOptions(_Frozen):
    """Triplet, identity and segmentation losses and their weights."""

    triplet_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the triplet loss; 0 leaves it out."""
    triplet_margin: Annotated[float, Field(gt=0)] = 0.2
    """m: distance by which a negative has to be farther than a positive."""
    identity_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cross-entropy over training subjects; 0 leaves it out."""
    identity_scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the logits before the softmax."""
    identity_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all subjects."""
    triplet_squared: bool = False
    """Compare squared distances; the margin is then one of squares."""
    anchor_is_positive: bool = False
    """Count each clip as a positive of itself too, as public code of the field does."""
    branches: tuple[str, ...] = ()
    """Branches of the network that count, by name; all of them if empty."""
    segmentation_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the cross-entropy of the masks, for a network that segments; 0 leaves it out."""
    stop_above: Annotated[float, Field(gt=0)] = 1e6
    """A loss above this has exploded and ends the run, as one that is no number does. Those of the
    recipes here begin at 0.2 to 15, on four random clips and with 74 subjects."""


class OptimOptions(_Frozen):
    """Optimiser and learning-rate steps."""

    optimiser: Literal["adam", "sgd"] = "adam"
    """`adam`, or `sgd` with `momentum`."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate before the first milestone, or at the top of the cycle."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2 penalty as the optimiser applies it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of `sgd`; not used by `adam`."""
    schedule: Literal["milestones", "one-cycle"] = "milestones"
    """`milestones`: steps down. `one-cycle`: up to the learning rate in the first tenth of the
    run, then down to nearly nothing along a cosine; for short runs."""
    milestones: tuple[int, ...] = ()
    """Steps at which the learning rate is multiplied by `gamma`; not used by `one-cycle`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor on the learning rate at each milestone."""
    group_factors: dict[Annotated[str, Field(pattern=_NAME)], Annotated[float, Field(ge=0)]] = {}
    """Factor on the learning rate of a group of the model's parameters, by its name; a group with
    factor 0 is frozen: its weights and the statistics of its norms stay as they are."""
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients whose norm, of all parameters together, is larger are scaled down to it. If left
    out, they are taken as they are."""


class PhaseOptions(_Frozen):
    """A phase that trains before the recipe's own, which goes on from its weights."""

    part: str = ""
    """Network inside the model that runs and trains alone, by the name of its argument
    (`segmenter`, `recogniser`); the whole model if empty."""
    switches: dict[str, Any] = {}
    """Switches of the model that have another value in this phase, by name."""
    data: FrameOptions = FrameOptions()
    """Split, protocol and shifts are the recipe's: all phases see the same subjects."""
    clip: ClipOptions = ClipOptions()
    batch: BatchOptions = BatchOptions()
    loss: LossOptions = LossOptions()
    optim: OptimOptions = OptimOptions()
    num_steps: Annotated[int, Field(gt=0)] = 80_000
    """Optimiser steps of the phase."""


class Recipe(_Frozen):
    """Everything that decides what a run computes; where it runs is not in it."""

    name: str
    """Name of the recipe this one started from."""
    source: str = ""
    """Paper and table the values come from, and the origin of each value the paper leaves out."""
    model: AnyModelOptions
    """Architecture and its switches."""
    data: DataOptions = DataOptions()
    clip: ClipOptions = ClipOptions()
    batch: BatchOptions = BatchOptions()
    loss: LossOptions = LossOptions()
    optim: OptimOptions = OptimOptions()
    num_steps: Annotated[int, Field(gt=0)] = 80_000
    """Optimiser steps of the run; of its last phase, where it has phases before."""
    before: dict[Annotated[str, Field(pattern=_NAME)], PhaseOptions] = {}
    """Phases that train before, in this order, by name. The recipe itself is the last phase."""
    checkpoint_every_steps: Annotated[int, Field(gt=0)] = 1000
    """Steps between checkpoints; the last step always leaves one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of what the network computes: float32, or half of it; weights, losses and
    distances are float32 in all. `auto`: `bf16` on a GPU that has it, `fp16` on one that has not,
    `fp32` on the CPU. It is the same in all phases."""
    keep_every_steps: Annotated[int, Field(ge=0)] = 0
    """Checkpoints of each so many steps are kept for good, beside the newest two and the best; 0
    keeps no others."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations by the protocol while training goes on, the last step included; 0
    evaluates nothing. Phases before the last are not evaluated."""
    best_metric: str = ""
    """Number of the protocol (`NM` for its rank-1, `mAP`) that says which checkpoint is the best;
    the mean of those that decide by the protocol if empty. It is scored on the test subjects, so
    the best checkpoint's own score is optimistic."""
    patience: Annotated[int, Field(ge=0)] = 0
    """The run stops at the first evaluation that follows so many in a row without a better one; 0
    never stops early."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights, the batches, the clips and the masks."""

    @pydantic.model_validator(mode="after")
    def _parts_fit_each_other(self) -> Recipe:
        self.data.check(self.clip)
        for name in self.before:
            phase = self.phase(name)
            phase.data.check(phase.clip)
        if self.patience and not self.evaluate_every_steps:
            raise ValueError(f"patience ({self.patience}) needs evaluate_every_steps")
        return self

    def phase(self, name: str) -> Recipe:
        """The recipe of one phase by itself, without phases before.

        Args:
            name: Key of `before`.

        Raises:
            ValueError: The phase's part is no network of the model, or its switches do not fit.
        """
        options = self.before[name]
        model = self.model
        if options.part:
            inside = getattr(model, options.part, None)
            if not isinstance(inside, ModelOptions):
                raise ValueError(
                    f"before.{name}.part ({options.part!r}) is no network of the model"
                )
            model = inside
        changed = {**model.model_dump(mode="json"), **options.switches}
        return self.model_copy(
            update={
                "name": f"{self.name}/{name}",
                "model": options_of_any(changed),
                "data": self.data.model_copy(
                    update={
                        **options.data.model_dump(),
                        "shift_px": self.data.shift_px if options.data.modality == "rgb" else 0,
                    }
                ),
                "clip": options.clip,
                "batch": options.batch,
                "loss": options.loss,
                "optim": options.optim,
                "num_steps": options.num_steps,
                "before": {},
                "evaluate_every_steps": 0,
                "patience": 0,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON; `from_dict` is its inverse."""
        return self.model_dump(mode="json")

    def to_flat(self) -> dict[str, Any]:
        """Dotted path -> plain value, one entry an option: MLflow parameters, Tune keys."""
        return _flatten(self.to_dict())


def build_model(recipe: Recipe, num_subjects: int) -> nn.Module:
    """The network that a recipe describes, with fresh weights from torch's global seed.

    Args:
        recipe: Its model options, input size and modality are used.
        num_subjects: Training subjects, the classes of the identity loss.

    Raises:
        RecipeError: Two switches do not fit each other; the model's own message says which.
    """
    data = recipe.data
    try:
        return recipe.model.build(
            num_subjects=num_subjects,
            in_channels=_CHANNELS[data.modality],
            input_size_px=(data.height_px, data.width_px),
        )
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name!r}: {error}") from error


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat.update(_flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from `Recipe.to_dict()`.

    Raises:
        RecipeError: An option is missing, unknown or out of range; the message names its path.
    """
    try:
        return Recipe.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise RecipeError(_explain(error)) from None


def from_json(text: str) -> Recipe:
    """Build a recipe from the JSON text that a checkpoint holds.

    Raises:
        RecipeError: Not JSON, or not a recipe.
    """
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecipeError(f"a recipe has to be JSON: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"a recipe has to be a JSON object, got {type(values).__name__}")
    return from_dict(values)


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with some dotted paths changed, checked as a whole.

    Another `architecture` starts from that architecture's defaults, whatever the recipe's own
    had. A section whose keys are free (`before`, `optim.group_factors`) can be given as a whole.

    Args:
        recipe: Where to start from; it is not changed.
        overrides: Dotted path -> value, such as `{"optim.learning_rate": 1e-3}`.

    Raises:
        RecipeError: A path does not exist, or a value does not fit.
    """
    values = recipe.to_dict()
    # Architectures first: they decide which other paths there are.
    for path in sorted(overrides, key=lambda path: not path.endswith(".architecture")):
        value = overrides[path]
        known = _flatten(values)
        if path not in known and path not in _FREE_SECTIONS:
            raise RecipeError(
                f"recipe {recipe.name!r} has no option {path!r}; "
                f"near it: {_nearest(path, known) or sorted(known)}"
            )
        *parents, leaf = path.split(".")
        if leaf == "architecture" and value != known[path]:
            *parents, leaf = parents
            value = _defaults_of(value, path)
        node = values
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return from_dict(values)


def _defaults_of(architecture: object, path: str) -> dict[str, Any]:
    if not isinstance(architecture, str) or architecture not in MODEL_OPTIONS:
        raise RecipeError(f"{path} is {architecture!r}; known are {sorted(MODEL_OPTIONS)}")
    return MODEL_OPTIONS[architecture](architecture=architecture).model_dump(mode="json")


def _nearest(path: str, known: Mapping[str, Any]) -> list[str]:
    import difflib

    return difflib.get_close_matches(path, known, n=3, cutoff=0.6)


def _explain(error: pydantic.ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "recipe"
        got = item.get("input")
        # What is wrong with a whole section says its message; the section would bury it.
        lines.append(
            f"{path}: {item['msg']}" + ("" if isinstance(got, Mapping) else f" (got {got!r})")
        )
    return "; ".join(lines)
