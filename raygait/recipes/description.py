"""What a network is made of, measured on the network itself: sizes, shapes, cost, reach in time.

Parameters are counted, shapes are seen by hooks, multiply-adds are those of the convolutions and
matrix products that one clip runs through, and the frames that a stage sees are those with a
gradient. Nothing is worked out from a model's arguments, so that a description is of the code and
not of its author's plan. Beside it stand the figures that the papers print.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raygait.datasets import splits
from raygait.errors import RaygaitError, RecipeError
from raygait.models import MODELS
from raygait.recipes import named
from raygait.recipes.options import MODEL_OPTIONS, ModelOptions
from raygait.recipes.schema import build_model

FramesSeen = int | Literal["all"] | None

# Two lengths tell the axis of the frames, the one whose size differs, and whether a stage that sees
# all of the shorter clip sees all of any.
_NUM_FRAMES_TRIED = (32, 80)
# Columns that suffice to measure what frames a stage sees, the fewest first: the kernels are the
# same, and the clips cost less.
_WIDTHS_TRIED_PX = (8, 16)


@dataclass(frozen=True)
class PrintedFigures:
    """A row of a paper's table of sizes and times.

    Attributes:
        model: Class of the network.
        source: Paper and table.
        row: What the row is called there.
        switches: Arguments that make the row, where they differ from the constructor's defaults.
        figures: Column -> figure, as printed.
    """

    model: str
    source: str
    row: str
    switches: Mapping[str, Any]
    figures: Mapping[str, str]


def _lmgcs_table_9(scales: tuple[int, ...], row: str, *figures: str) -> PrintedFigures:
    columns = ("parameters", "FLOPs", "time (RTX 3090)")
    printed = dict(zip(columns, figures, strict=True))
    return PrintedFigures("LMGCS", "LMGCS Table IX", row, {"scales": scales}, printed)


def _lmgcs_table_11(mff: str, row: str, *figures: str) -> PrintedFigures:
    printed = dict(zip(("model size", "inference time"), figures, strict=True))
    return PrintedFigures("LMGCS", "LMGCS Table XI", row, {"mff": mff}, printed)


PRINTED: tuple[PrintedFigures, ...] = (
    _lmgcs_table_9((1,), "fine", "14.72 M", "2.58 G", "1.41 ms"),
    _lmgcs_table_9((3,), "medium", "14.72 M", "2.59 G", "5.24 ms"),
    _lmgcs_table_9((5,), "coarse", "14.72 M", "2.59 G", "5.25 ms"),
    _lmgcs_table_9((1, 3), "fine, medium", "15.77 M", "2.59 G", "5.24 ms"),
    _lmgcs_table_9((3, 5), "medium, coarse", "15.77 M", "2.59 G", "9.02 ms"),
    _lmgcs_table_9((1, 5), "fine, coarse", "15.77 M", "2.60 G", "9.00 ms"),
    _lmgcs_table_9((1, 3, 5), "fine, medium, coarse", "16.82 M", "2.60 G", "9.13 ms"),
    _lmgcs_table_11("static_ascending", "static, s = 1 to s = 5", "59.0m", "2m27s"),
    _lmgcs_table_11("static_descending", "static, s = 5 to s = 1", "59.0m", "2m27s"),
    _lmgcs_table_11("attention", "attention", "72.0m", "3m01s"),
)


@dataclass(frozen=True)
class Setup:
    """What a name stands for: an architecture with its defaults, or as a recipe has it.

    Attributes:
        options: The architecture and its switches.
        num_subjects: k, length of the logits.
        num_frames: Frames of a training clip.
        in_channels: c.
        input_size_px: Height and width of a frame.
    """

    options: ModelOptions
    num_subjects: int = 74
    num_frames: int = 30
    in_channels: int = 1
    input_size_px: tuple[int, int] = (64, 44)

    def arguments(self) -> dict[str, Any]:
        """All arguments of the model's constructor; a network inside is a mapping of its own."""
        switches = self.options.model_dump()
        return {
            "num_subjects": self.num_subjects,
            **{name: value for name, value in switches.items() if name != "architecture"},
            "in_channels": self.in_channels,
            "input_size_px": self.input_size_px,
        }

    def build(self) -> Any:
        """The network in evaluation mode, with the same fresh weights each time.

        Raises:
            RecipeError: Two arguments do not fit each other; the model's own message says which.
        """
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return self.options.build(
                    num_subjects=self.num_subjects,
                    in_channels=self.in_channels,
                    input_size_px=self.input_size_px,
                ).eval()
        except ValueError as error:
            raise RecipeError(f"{self.options.architecture}: {error}") from error


def names() -> list[str]:
    """All that `setup_of` knows: architectures, then recipes."""
    return [*sorted(MODELS), *sorted(named.RECIPES)]


def setup_of(name: str) -> Setup:
    """The network of a recipe, or an architecture with its defaults for 74 subjects.

    Raises:
        RecipeError: No recipe and no architecture has this name.
    """
    if name in named.RECIPES:
        recipe = named.RECIPES[name]
        num_subjects = splits.num_training_subjects(recipe.data.split) or Setup.num_subjects
        # For its input alone: the classifier of a large benchmark would cost a gigabyte.
        model: Any = build_model(recipe, 2)
        options, num_frames = recipe.model, recipe.clip.num_frames
    elif name in MODELS:
        options = MODEL_OPTIONS[name].model_validate({})
        num_subjects, num_frames = Setup.num_subjects, Setup.num_frames
        model = options.build(num_subjects=num_subjects)
    else:
        raise RecipeError(f"no architecture or recipe is named {name!r}; there are {names()}")
    return Setup(options, num_subjects, num_frames, model.in_channels, model.input_size_px)


@dataclass(frozen=True)
class Stage:
    """One of a model's named stages.

    Attributes:
        name: What the model calls it.
        num_parameters: Its own; parameters that two stages share count for the first.
        multiply_adds: Of one clip.
        shapes: Of the tensors it returns for one clip.
        frames_seen: Frames that one frame of its output depends on, counted from the first to the
            last; `all` where that is the whole of any clip, `None` where no gradient tells.
    """

    name: str
    num_parameters: int
    multiply_adds: int
    shapes: tuple[tuple[int, ...], ...]
    frames_seen: FramesSeen


@dataclass(frozen=True)
class Description:
    """What `describe` found.

    Attributes:
        model: Class of the network.
        arguments: All arguments of its constructor.
        clip_shape: `(c, t, h, w)` of the clip that multiply-adds and shapes are of.
        num_parameters: Of the whole network.
        groups: Name of each parameter group -> number of its parameters.
        multiply_adds: Of the whole network for one clip: convolutions and matrix products.
        stages: In the order they run.
        outputs: Name -> shape of what the network returns for one clip.
        printed: The papers' rows for this class, each with whether it is of these arguments.
    """

    model: str
    arguments: Mapping[str, Any]
    clip_shape: tuple[int, ...]
    num_parameters: int
    groups: Mapping[str, int]
    multiply_adds: int
    stages: tuple[Stage, ...]
    outputs: Mapping[str, tuple[int, ...]]
    printed: tuple[tuple[PrintedFigures, bool], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {
            "model": self.model,
            "arguments": {name: _plain(value) for name, value in self.arguments.items()},
            "clip_shape": list(self.clip_shape),
            "num_parameters": self.num_parameters,
            "groups": dict(self.groups),
            "multiply_adds": self.multiply_adds,
            "stages": [
                {
                    "name": stage.name,
                    "num_parameters": stage.num_parameters,
                    "multiply_adds": stage.multiply_adds,
                    "shapes": [list(shape) for shape in stage.shapes],
                    "frames_seen": stage.frames_seen,
                }
                for stage in self.stages
            ],
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "printed": [
                {
                    "source": row.source,
                    "row": row.row,
                    "figures": dict(row.figures),
                    "is_this_network": same,
                }
                for row, same in self.printed
            ],
        }

    def to_text(self) -> str:
        """Tables for a terminal."""
        channels, num_frames, height, width = self.clip_shape
        beside = (
            self.num_parameters - sum(stage.num_parameters for stage in self.stages),
            self.multiply_adds - sum(stage.multiply_adds for stage in self.stages),
        )
        stages = [
            (
                stage.name,
                f"{stage.num_parameters:,}",
                _millions(stage.multiply_adds),
                "?" if stage.frames_seen is None else str(stage.frames_seen),
                ", ".join(map(_by, stage.shapes)),
            )
            for stage in self.stages
        ]
        if any(beside):
            stages.append(("elsewhere", f"{beside[0]:,}", _millions(beside[1]), "", ""))
        stages.append(("total", f"{self.num_parameters:,}", _millions(self.multiply_adds), "", ""))
        blocks = [
            f"{self.model} for {self.arguments['num_subjects']} subjects; one clip of "
            f"{num_frames} frames, {height} x {width} px, "
            f"{channels} channel{'s' if channels > 1 else ''}",
            _table(("stage", "parameters", "M mult-adds", "frames seen", "output"), stages),
            _table(
                ("parameter group", "parameters"),
                [(name, f"{count:,}") for name, count in self.groups.items()],
            ),
            _table(
                ("result", "shape"), [(name, _by(shape)) for name, shape in self.outputs.items()]
            ),
        ]
        if self.printed:
            rows = [
                (
                    f"{'*' if same else ' '} {row.source}: {row.row}",
                    ", ".join(f"{name} {figure}" for name, figure in row.figures.items()),
                )
                for row, same in self.printed
            ]
            blocks.append(_table(("printed (* = these switches)", "figures"), rows))
        return "\n\n".join(blocks)


def describe(setup: Setup) -> Description:
    """Build a network on the CPU and measure it in evaluation mode.

    Args:
        setup: What to build; the clip has its frames and size.

    Raises:
        RecipeError: Two arguments do not fit each other; the model's own message says which.
        ModelInputError: The clip is shorter than the model can take.
    """
    model = setup.build()
    clip = run_clip(model, setup.num_frames)
    seen = _frames_seen_by(setup)
    stages = [
        Stage(name, count, clip.stage_multiply_adds[name], clip.shapes[name], seen[name])
        for name, count in stage_parameters(model).items()
    ]
    output = clip.output
    outputs = {"embedding": tuple(output.embedding.shape)}
    for branch, result in output.branches.items():
        outputs[f"{branch} triplet features"] = tuple(result.triplet_features.shape)
        if result.logits is not None:
            outputs[f"{branch} logits"] = tuple(result.logits.shape)
    if output.mask_logits is not None:
        outputs["mask logits"] = tuple(output.mask_logits.shape)
    return Description(
        model=type(model).__name__,
        arguments=setup.arguments(),
        clip_shape=(setup.in_channels, setup.num_frames, *setup.input_size_px),
        num_parameters=sum(p.numel() for p in model.parameters()),
        groups={
            name: sum(p.numel() for p in group) for name, group in model.parameter_groups().items()
        },
        multiply_adds=clip.multiply_adds,
        stages=tuple(stages),
        outputs=outputs,
        printed=printed_for(type(model), setup.arguments()),
    )


def stage_parameters(model: Any) -> dict[str, int]:
    """Parameters of each named stage; those that two stages share count for the first."""
    counted: set[int] = set()
    counts = {}
    for name, stage in model.named_stages().items():
        own = {id(p): p.numel() for p in stage.parameters() if id(p) not in counted}
        counted.update(own)
        counts[name] = sum(own.values())
    return counts


@dataclass(frozen=True)
class Clip:
    """What was seen while one clip ran through a network.

    Attributes:
        output: What the network returned.
        multiply_adds: Of everything.
        stage_multiply_adds: Name of a stage -> its own.
        shapes: Name of a stage -> shapes of the tensors it returned.
    """

    output: Any
    multiply_adds: int
    stage_multiply_adds: Mapping[str, int]
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]


def run_clip(model: Any, num_frames: int) -> Clip:
    """Run one clip and watch the named stages.

    Args:
        model: A network in evaluation mode, with `named_stages`; it is left with hooks.
        num_frames: t.
    """
    frames, others = example_inputs(model, num_frames)
    counter = FlopCounterMode(display=False)
    spent: dict[str, int] = {}
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    for name, stage in model.named_stages().items():

        def enter(*_: Any, name: str = name) -> None:
            spent[name] = -counter.get_total_flops()

        def leave(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            spent[name] += counter.get_total_flops()
            shapes[name] = tuple(tuple(tensor.shape) for tensor in tensors_in(output))

        stage.register_forward_pre_hook(enter)
        stage.register_forward_hook(leave)
    with torch.no_grad(), _plain_attention(), counter:
        output = model(frames, **others)
    # The counter takes a multiplication and an addition for two.
    return Clip(
        output,
        counter.get_total_flops() // 2,
        {name: count // 2 for name, count in spent.items()},
        shapes,
    )


def example_inputs(
    model: nn.Module, num_frames: int, *, seed: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """One clip that a model takes, and what else it needs beside the frames.

    Args:
        model: Its `in_channels`, `input_size_px` and the signature of its `forward` are read.
        num_frames: t.
        seed: Of the random values.

    Returns:
        Frames `[1, c, t, h, w]` with values in 0..1, and by keyword what its `forward` takes:
        `joints [1, t, 17, 3]`, a person who stands in the frame, `ratios [1, t]`, and, where they
        have no default, `masks [1, 1, t, h, w]`.

    Raises:
        TypeError: The model needs something else.
    """
    generator = torch.Generator().manual_seed(seed)
    described: Any = model
    height, width = described.input_size_px
    frames = torch.rand(1, described.in_channels, num_frames, height, width, generator=generator)
    others = {}
    _, *wanted = inspect.signature(model.forward).parameters.values()
    for parameter in wanted:
        needed = parameter.default is inspect.Parameter.empty
        if parameter.name == "joints":
            # COCO's order goes down the body, two sides in turn.
            place = torch.arange(17.0)
            x = width * (0.5 + 0.1 * (place.remainder(2) - 0.5))
            joints = torch.stack((x, height * (place + 1) / 18, torch.ones(17)), dim=-1)
            others["joints"] = joints.expand(1, num_frames, 17, 3).clone()
        elif parameter.name == "ratios":
            others["ratios"] = torch.full((1, num_frames), 0.5)
        elif parameter.name == "masks" and needed:
            masks = torch.zeros(1, 1, num_frames, height, width)
            masks[..., height // 8 : -height // 8, width // 3 : -width // 3] = 1.0
            others["masks"] = masks
        elif needed:
            raise TypeError(
                f"{type(model).__name__}.forward needs {parameter.name!r}: say here what that is"
            )
    return frames, others


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as matrix products, which are counted; its fused kernels on the CPU are not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _frames_seen_by(setup: Setup) -> dict[str, FramesSeen]:
    """`frames_seen` of a network for frames of fewer columns, where it can be built so."""
    height, width = setup.input_size_px
    for narrow in _WIDTHS_TRIED_PX:
        if narrow < width:
            narrowed = dataclasses.replace(setup, input_size_px=(height, narrow))
            try:
                return frames_seen(narrowed.build())
            except (RaygaitError, RuntimeError, ValueError):
                continue  # not every network can be narrow
    return frames_seen(setup.build())


def frames_seen(model: Any) -> dict[str, FramesSeen]:
    """How many frames of a clip one frame of each stage's output depends on.

    Measured by the gradient of the middle one, on a clip of 32 frames and, where the first or the
    last of them has one too, on a clip of 80. Stages whose output has no axis of frames see all of
    them. Where it depends on the values, it is true of this clip alone: GaitHeat's maps are scaled
    by the largest value of a clip, wherever that is.

    Args:
        model: A network in evaluation mode, with `named_stages`; it is left with hooks.

    Returns:
        Name of the stage -> frames from the first to the last; `all` if that is the whole of the
        longer clip; `None` if no gradient comes back to the frames.
    """
    results: dict[str, Tensor] = {}
    for name, stage in model.named_stages().items():

        def leave(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            results[name] = next(tensors_in(output))

        stage.register_forward_hook(leave)
    short, long = (max(num_frames, 2 * model.min_frames) for num_frames in _NUM_FRAMES_TRIED)
    with torch.no_grad():
        frames, others = example_inputs(model, short + 12)
        model(frames, **others)
    shapes = {name: result.shape for name, result in results.items()}

    seen: dict[str, FramesSeen] = {}
    undecided = list(shapes)
    for num_frames in (short, long):
        frames, others = example_inputs(model, num_frames)
        frames.requires_grad_()
        model(frames, **others)
        touching = []
        for name in undecided:
            result = results[name]
            axis = next((i for i, n in enumerate(result.shape) if n != shapes[name][i]), None)
            if axis is None:
                seen[name] = "all"  # the frames have been pooled
                continue
            reached = _reached(result.select(axis, result.shape[axis] // 2), frames)
            if not reached:
                seen[name] = None
                continue
            whole = reached[-1] - reached[0] + 1 == num_frames
            seen[name] = "all" if whole else reached[-1] - reached[0] + 1
            if reached[0] == 0 or reached[-1] == num_frames - 1:
                touching.append(name)
        undecided = touching
        if not undecided:
            break
    return seen


def _reached(result: Tensor, frames: Tensor) -> list[int]:
    """Indices of the frames that have a gradient from a random weighting of the result."""
    if not result.requires_grad:
        return []
    pull = torch.rand(result.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    gradient = torch.autograd.grad(
        result, frames, pull.to(result), retain_graph=True, allow_unused=True
    )[0]
    if gradient is None:
        return []
    touched = (gradient != 0).any(dim=0).any(dim=0).flatten(1).any(dim=1)
    return [int(index) for index in touched.nonzero()]


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors in what a module returns, whatever holds them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from tensors_in(item)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for item in output:
            yield from tensors_in(item)


def printed_for(
    model: type[nn.Module], arguments: Mapping[str, Any]
) -> tuple[tuple[PrintedFigures, bool], ...]:
    """The printed rows of a class, each with whether it is the network of these arguments.

    Args:
        model: Class of the network.
        arguments: All arguments of its constructor. The number of subjects is not compared.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    given = {name: _plain(arguments[name]) for name in defaults}
    return tuple(
        (
            row,
            all(
                given[name] == _plain(value) for name, value in {**defaults, **row.switches}.items()
            ),
        )
        for row in PRINTED
        if row.model == model.__name__
    )


def _plain(value: Any) -> Any:
    """As JSON gives it back: no tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    numeric = [
        any(row[i] for row in rows)
        and all(row[i].replace(",", "").replace(".", "").isdecimal() for row in rows if row[i])
        for i in range(len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])
