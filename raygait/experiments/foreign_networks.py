"""Which network a checkpoint of OpenGait holds, and where each of our tensors comes from.

A function a network: it reads widths and depths off the shapes, and writes down every tensor that
the file has to hold. Names and shapes are facts about the files of OpenGait at commit 0efafd4; no
code of it is here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from raygait.errors import RegistryError

Embedding = Literal["default", "before_norm", "after_norm"]
Weights = Mapping[str, Tensor]

NAMED_AT_MOST = 20
"""Tensors that a message names."""


@dataclass(frozen=True)
class Source:
    """One of our tensors and what it is made of.

    Attributes:
        ours: Name in our state dict.
        theirs: Name in theirs; of several, one after another along the first axis.
        shape: Shape of each of theirs.
        order: `same`; `scalar`, a vector of one that becomes a number; `by_part`, a vector whose
            index there is feature x parts + part, and here part x features + feature.
        num_parts: Parts of a `by_part` vector.
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    order: Literal["same", "scalar", "by_part"] = "same"
    num_parts: int = 1


@dataclass(frozen=True)
class Recognised:
    """What a checkpoint's names and shapes say.

    Attributes:
        title: Architecture in words.
        architecture: Key of `raygait.models.MODELS`.
        switches: Arguments of its constructor.
        in_channels: Channels of a frame.
        num_subjects: Classes of the classifier; 0 if the network has none.
        num_parts: Parts of an embedding.
        sources: Where each of our tensors comes from.
        embeddings: Embeddings that can be chosen, the release's own first; none if there is one.
        input_size_px: Height and width of a frame in the release's own recipes.
        untold: Switch that no tensor tells -> what it is taken to be; the other such switches have
            the value of all of the release's recipes.
        remarks: What else a person should know.
    """

    title: str
    architecture: str
    switches: dict[str, Any]
    in_channels: int
    num_subjects: int
    num_parts: int
    sources: tuple[Source, ...]
    embeddings: tuple[()] | tuple[Embedding, Embedding]
    input_size_px: tuple[int, int] = (64, 44)
    untold: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def recognise(weights: Weights) -> Recognised:
    """Tell the architecture and its switches from names and shapes.

    Only the names decide which network it is, so that one tensor that is missing or has another
    shape is named later instead of making the network unknown.

    Args:
        weights: Their name -> tensor.

    Raises:
        RegistryError: No network that can be imported has such names.
    """

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in weights)

    for prefixes, build in _NETWORKS:
        if all(has(prefix) for prefix in prefixes):
            return build(weights)
    if has("Backbone.Conv1.") and has("Backbone.Conv_1x1."):
        raise RegistryError(
            "this is the segmenter of GaitEdge alone, which embeds nobody; import the file of its "
            "last phase, which holds both networks"
        )
    raise RegistryError(
        f"none of the networks that can be imported ({', '.join(_TITLES)}) has tensors named "
        f"{listed(sorted(weights)) or 'nothing'}"
    )


def listed(names: Iterable[str]) -> str:
    """The first names of many, for a message."""
    ordered = list(names)
    more = len(ordered) - NAMED_AT_MOST
    return ", ".join(ordered[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


class _Table:
    """Collects where each of our tensors comes from."""

    def __init__(self) -> None:
        self.sources: list[Source] = []

    def weight(self, ours: str, theirs: str | Sequence[str], *shape: int) -> None:
        names = (theirs,) if isinstance(theirs, str) else tuple(theirs)
        self.sources.append(Source(ours, names, shape))

    def scalar(self, ours: str, theirs: str) -> None:
        self.sources.append(Source(ours, (theirs,), (1,), "scalar"))

    def norm(self, ours: str, theirs: str, channels: int, *, num_parts: int = 1) -> None:
        order: Literal["same", "by_part"] = "same" if num_parts == 1 else "by_part"
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.sources.append(
                Source(f"{ours}.{name}", (f"{theirs}.{name}",), (channels,), order, num_parts)
            )
        counter = "num_batches_tracked"
        self.sources.append(Source(f"{ours}.{counter}", (f"{theirs}.{counter}",), ()))

    def neck(self, ours: str, num_parts: int, dim: int, num_subjects: int) -> None:
        shape = (num_parts, dim, num_subjects)
        self.weight(f"{ours}.identity_linear.weight", "BNNecks.fc_bin", *shape)
        self.norm(f"{ours}.norm", "BNNecks.bn1d", num_parts * dim, num_parts=num_parts)

    def convolution_and_norm(self, ours: str, theirs: str, place: int, *shape: int) -> None:
        """A convolution with bias and the norm after it, in a `Sequential` of theirs."""
        self.weight(f"{ours}.convolution.weight", f"{theirs}.{place}.weight", *shape)
        self.weight(f"{ours}.convolution.bias", f"{theirs}.{place}.bias", shape[0])
        self.norm(f"{ours}.norm", f"{theirs}.{place + 1}", shape[0])


def _size(weights: Weights, name: str, axis: int, default: int) -> int:
    """A width as the tensor shows it; the release's where the tensor is missing."""
    tensor = weights.get(name)
    return int(tensor.shape[axis]) if tensor is not None and tensor.ndim > axis else default


def _num_blocks(weights: Weights, prefix: str) -> int:
    """Blocks of a stage: `prefix` is followed by the number of the block."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    numbers = {match.group(1) for name in weights if (match := pattern.match(name))}
    return max(1, len(numbers))


def _gaitset(weights: Weights) -> Recognised:
    blocks = [f"set_block{number}.forward_block" for number in (1, 2, 3)]
    channels = tuple(
        _size(weights, f"{block}.2.conv.weight", 0, width)
        for block, width in zip(blocks, (32, 64, 128), strict=True)
    )
    in_channels = _size(weights, f"{blocks[0]}.0.conv.weight", 1, 1)
    dim = _size(weights, "Head.fc_bin", 2, 256)
    table = _Table()
    before = (in_channels, *channels[:-1])
    for index, block in enumerate(blocks):
        kernel = 3 if index else 5
        shapes = [(before[index], kernel), (channels[index], 3)]
        for place, (width, size) in zip((0, 2), shapes, strict=True):
            shape = (channels[index], width, size, size)
            number = 1 if place == 0 else 2
            table.weight(
                f"frame_blocks.{index}.network.convolution{number}.weight",
                f"{block}.{place}.conv.weight",
                *shape,
            )
            if index:
                table.weight(
                    f"set_blocks.{index - 1}.convolution{number}.weight",
                    f"gl_block{index + 1}.{place}.conv.weight",
                    *shape,
                )
    table.weight("embedding_linear.weight", "Head.fc_bin", 62, channels[-1], dim)
    return Recognised(
        title="GaitSet",
        architecture="gaitset",
        switches={"channels": channels, "embedding_dim": dim},
        in_channels=in_channels,
        num_subjects=0,
        num_parts=62,
        sources=tuple(table.sources),
        embeddings=(),
    )


def _gaitpart(weights: Weights) -> Recognised:
    feature = "Backbone.forward_block.feature"
    # A pooling layer takes a place of its own after each of the first two blocks.
    places = [0, 2, 5, 7, 10, 12]
    large = f"{feature}.14.conv.weight" in weights or f"{feature}.16.conv.weight" in weights
    channels: tuple[int, ...] = (32, 64, 128)
    if large:
        places += [14, 16]
        channels = (32, 64, 128, 256)
    channels = tuple(
        _size(weights, f"{feature}.{places[2 * index + 1]}.conv.weight", 0, width)
        for index, width in enumerate(channels)
    )
    in_channels = _size(weights, f"{feature}.0.conv.weight", 1, 1)
    dim = _size(weights, "Head.fc_bin", 2, channels[-1])
    motions = "TFA.pooling_func"
    parts = max(16, _num_blocks(weights, f"{motions}.conv1d3x1."))
    width = channels[-1]
    hidden = _size(weights, f"{motions}.conv1d3x1.0.0.conv.weight", 0, width // 4)
    table = _Table()
    before = (in_channels, *channels[:-1])
    for index, after in enumerate(channels):
        for number in (1, 2):
            place = places[2 * index + number - 1]
            size = 5 if place == 0 else 3
            table.weight(
                f"frame_blocks.{index}.network.convolution{number}.weight",
                f"{feature}.{place}.conv.weight",
                *(after, before[index] if number == 1 else after, size, size),
            )
    for ours, theirs, last in (("short", "conv1d3x1", 1), ("long", "conv1d3x3", 3)):
        for name, place, shape in (
            ("squeeze", 0, (hidden, width, 3)),
            ("expand", 2, (width, hidden, last)),
        ):
            table.weight(
                f"temporal_aggregation.{ours}.{name}.weight",
                [f"{motions}.{theirs}.{part}.{place}.conv.weight" for part in range(parts)],
                *shape,
            )
    table.weight("embedding_linear.weight", "Head.fc_bin", parts, width, dim)
    return Recognised(
        title="GaitPart" + (", plan for thousands of subjects" if large else ""),
        architecture="gaitpart",
        switches={
            "channels": channels,
            "num_strips": (1, 1, 8, 8) if large else (1, 4, 8),
            "num_parts": parts,
            "squeeze": max(1, width // max(1, hidden)),
            "embedding_dim": dim,
        },
        in_channels=in_channels,
        num_subjects=0,
        num_parts=parts,
        sources=tuple(table.sources),
        embeddings=(),
    )


def _gaitgl(weights: Weights) -> Recognised:
    return _gaitgl_below(weights, "")


def _gaitgl_below(weights: Weights, below: str) -> Recognised:
    """GaitGL of ICCV 2021, whose tensors have the prefix `below` in our network."""
    large = any(re.match(r"GLConvA0\.[01]\.", name) for name in weights)
    stages = ("GLConvA0", "GLConvA1", "GLConvB2")
    layers = [f"{stage}.{i}" for stage in stages for i in (0, 1)] if large else list(stages)
    widths = (64, 64, 128, 128, 256, 256) if large else (64, 128, 128)
    channels = tuple(
        _size(weights, f"{layer}.global_conv3d.conv3d.weight", 0, width)
        for layer, width in zip(layers, widths, strict=True)
    )
    places = (0, 2) if large else (0,)
    stem = tuple(_size(weights, f"conv3d.{place}.conv3d.weight", 0, 32) for place in places)
    in_channels = _size(weights, "conv3d.0.conv3d.weight", 1, 1)
    lta_frames = _size(weights, "LTA.0.conv3d.weight", 2, 3)
    cosine = any(name.startswith("BNNecks.") for name in weights)
    classifier = "BNNecks.fc_bin" if cosine else "Head1.fc_bin"
    parts = _size(weights, "Head0.fc_bin", 0, 64)
    dim = channels[-1]
    num_subjects = _size(weights, classifier, 2, 74)

    table = _Table()
    kernel = (3, 3, 3)
    for index, place in enumerate(places):
        before = stem[index - 1] if index else in_channels
        table.weight(
            f"{below}stem.convolutions.{index}.weight",
            f"conv3d.{place}.conv3d.weight",
            *(stem[index], before, *kernel),
        )
    table.weight(
        f"{below}temporal_aggregation.convolution.weight",
        "LTA.0.conv3d.weight",
        *(stem[-1], stem[-1], lta_frames, 1, 1),
    )
    for index, layer in enumerate(layers):
        before = channels[index - 1] if index else stem[-1]
        for branch in ("global", "local"):
            table.weight(
                f"{below}layers.{index}.{branch}_convolution.weight",
                f"{layer}.{branch}_conv3d.conv3d.weight",
                *(channels[index], before, *kernel),
            )
    table.scalar(f"{below}spatial_mapping.generalized_mean.power", "HPP.p")
    table.weight(f"{below}embedding_linear.weight", "Head0.fc_bin", parts, dim, dim)
    if cosine:
        table.neck(f"{below}neck", parts, dim, num_subjects)
    else:
        table.norm(f"{below}embedding_norm", "Bn", dim)
        table.weight(f"{below}identity_linear.weight", "Head1.fc_bin", parts, dim, num_subjects)
    switches: dict[str, Any] = {
        "stem_channels": stem,
        "channels": channels,
        "pool_after_layer": 2 if large else 1,
        "num_strips": 2 if large else 8,
        "lta_frames": lta_frames,
        "head": "bnneck" if cosine else "shared_norm",
    }
    plan = "plan for thousands of subjects" if large else "plan for CASIA-B"
    return Recognised(
        title=f"GaitGL of ICCV 2021, {plan}" + (", BNNeck head" if cosine else ""),
        architecture="gaitgl_iccv",
        switches=switches,
        in_channels=in_channels,
        num_subjects=num_subjects,
        num_parts=parts,
        sources=tuple(table.sources),
        embeddings=("before_norm", "after_norm") if cosine else ("after_norm", "before_norm"),
        remarks=(f"clips of fewer than {lta_frames} frames are refused; the release repeats them",),
    )


def _gaitedge(weights: Weights) -> Recognised:
    recogniser = _gaitgl_below(weights, "recogniser.")
    downs = [f"Backbone.Conv{number}.conv" for number in (1, 2, 3, 4)]
    channels = tuple(
        _size(weights, f"{down}.3.weight", 0, width)
        for down, width in zip(downs, (16, 32, 64, 128), strict=True)
    )
    in_channels = _size(weights, f"{downs[0]}.0.weight", 1, 3)
    table = _Table()
    before = (in_channels, *channels[:-1])
    for index, down in enumerate(downs):
        ours = f"segmenter.encoder.stages.{index}"
        after = channels[index]
        table.convolution_and_norm(f"{ours}.first", down, 0, after, before[index], 3, 3)
        table.convolution_and_norm(f"{ours}.second", down, 3, after, after, 3, 3)
    for index, number in enumerate((4, 3, 2)):
        ours = f"segmenter.decoder.stages.{index}"
        below, after = channels[number - 1], channels[number - 2]
        up, join = f"Backbone.Up{number}.up", f"Backbone.Up_conv{number}.conv"
        table.convolution_and_norm(f"{ours}.expansion", up, 1, after, below, 3, 3)
        table.convolution_and_norm(f"{ours}.first", join, 0, after, 2 * after, 3, 3)
        table.convolution_and_norm(f"{ours}.second", join, 3, after, after, 3, 3)
    output = "segmenter.decoder.output"
    table.weight(f"{output}.weight", "Backbone.Conv_1x1.weight", 1, channels[0], 1, 1)
    table.weight(f"{output}.bias", "Backbone.Conv_1x1.bias", 1)
    return dataclasses.replace(
        recogniser,
        title=f"GaitEdge or GaitGL-E2E around {recogniser.title}",
        architecture="gaitedge",
        switches={
            "recogniser": {"architecture": recogniser.architecture, **recogniser.switches},
            "segmenter": {"architecture": "unet", "channels": channels},
            "mask_source": "given",
            "roi_convention": "release",
        },
        in_channels=in_channels,
        input_size_px=(128, 128),
        sources=(*recogniser.sources, *table.sources),
        untold={
            "synthesis": "synthesis 'edge'; 'whole' is GaitGL-E2E, which has the same tensors",
            "mask_source": "mask_source 'given': a silhouette beside each frame, at test too, as "
            "the release has it; 'predicted' takes the network's own",
        },
    )


_WIDTHS = (64, 128, 256, 512)


def _gaitbase(weights: Weights) -> Recognised:
    root = "Backbone.forward_block"
    names = {
        "stem": f"{root}.conv1.conv",
        "stem norm": f"{root}.bn1",
        **{f"stage {number}": f"{root}.layer{number}" for number in (1, 2, 3, 4)},
    }
    return _residual(weights, names, title="GaitBase", architecture="gaitbase", mode="2d")


def _deepgaitv2(weights: Weights) -> Recognised:
    if any(name.startswith("layer2.forward_block.") for name in weights):
        mode = "2d"
    elif any(re.match(r"layer[234]\.\d+\.(shortcut3d|sbn|conv1\.forward)", n) for n in weights):
        mode = "p3d"
    else:
        mode = "3d"
    names = {
        "stem": "layer0.forward_block.0",
        "stem norm": "layer0.forward_block.1",
        "stage 1": "layer1.forward_block",
        **{
            f"stage {number}": f"layer{number}" + (".forward_block" if mode == "2d" else "")
            for number in (2, 3, 4)
        },
    }
    return _residual(
        weights, names, title=f"DeepGaitV2, {mode}", architecture="deepgaitv2", mode=mode
    )


def _residual(
    weights: Weights, names: Mapping[str, str], *, title: str, architecture: str, mode: str
) -> Recognised:
    """GaitBase and DeepGaitV2, which differ in names and blocks; `names` says where a stage is."""
    stages = [names[f"stage {number}"] for number in (1, 2, 3, 4)]
    modes = ["2d", mode, mode, mode]
    num_blocks = tuple(_num_blocks(weights, f"{stage}.") for stage in stages)
    channels = tuple(
        _size(
            weights,
            f"{stage}.0.conv1" + (".forward_block.0.weight" if kind == "p3d" else ".weight"),
            *(0, width),
        )
        for stage, kind, width in zip(stages, modes, _WIDTHS, strict=True)
    )
    in_channels = _size(weights, f"{names['stem']}.weight", 1, 1)
    parts = _size(weights, "FCs.fc_bin", 0, 16)
    dim = _size(weights, "FCs.fc_bin", 2, 256)
    num_subjects = _size(weights, "BNNecks.fc_bin", 2, 74)

    table = _Table()
    table.weight(
        "stem.network.convolution.weight",
        f"{names['stem']}.weight",
        *(channels[0], in_channels, 3, 3),
    )
    table.norm("stem.network.norm", names["stem norm"], channels[0])
    before = channels[0]
    for index, (stage, kind) in enumerate(zip(stages, modes, strict=True)):
        # Frame by frame, our stage is inside a wrapper.
        ours = f"stages.{index}" + (".network" if kind == "2d" else "")
        for block in range(num_blocks[index]):
            strided = block == 0 and index > 0
            _block(
                table, kind, f"{ours}.{block}", f"{stage}.{block}", before, channels[index], strided
            )
            before = channels[index]
    table.weight("embedding_linear.weight", "FCs.fc_bin", parts, channels[-1], dim)
    table.neck("neck", parts, dim, num_subjects)
    switches: dict[str, Any] = {
        "channels": channels,
        "num_blocks": num_blocks,
        "strides": (1, 2, 2, 1),
        "num_parts": parts,
        "embedding_dim": dim,
    }
    if architecture == "deepgaitv2":
        switches["mode"] = mode
    depth = 2 * (sum(num_blocks) + 1)
    return Recognised(
        title=f"{title}, {depth} layers {list(num_blocks)}",
        architecture=architecture,
        switches=switches,
        in_channels=in_channels,
        num_subjects=num_subjects,
        num_parts=parts,
        sources=tuple(table.sources),
        embeddings=("before_norm", "after_norm"),
        remarks=(
            "some released weights reach their printed numbers only with the embedding after_norm",
        )
        if architecture == "deepgaitv2"
        else (),
    )


def _block(
    table: _Table, mode: str, ours: str, theirs: str, before: int, after: int, shortcut: bool
) -> None:
    kernel = (3, 3, 3) if mode == "3d" else (3, 3)
    for number, width in ((1, before), (2, after)):
        if mode == "p3d":
            inner = f"{theirs}.conv{number}.forward_block"
            table.weight(
                f"{ours}.convolution{number}.network.weight",
                f"{inner}.0.weight",
                *(after, width, *kernel),
            )
            table.norm(f"{ours}.norm{number}", f"{inner}.1", after)
        else:
            table.weight(
                f"{ours}.convolution{number}.weight",
                f"{theirs}.conv{number}.weight",
                *(after, width, *kernel),
            )
            table.norm(f"{ours}.norm{number}", f"{theirs}.bn{number}", after)
    if mode == "p3d":
        table.weight(
            f"{ours}.temporal_convolution.weight",
            f"{theirs}.shortcut3d.weight",
            *(after, after, 3, 1, 1),
        )
        table.norm(f"{ours}.temporal_norm", f"{theirs}.sbn", after)
    if shortcut:
        ones = (1, 1) if mode == "2d" else (1, 1, 1)
        table.weight(
            f"{ours}.shortcut.0.weight", f"{theirs}.downsample.0.weight", *(after, before, *ones)
        )
        table.norm(f"{ours}.shortcut.1", f"{theirs}.downsample.1", after)


# Prefixes that all have to be there -> what reads the rest. The first that fits is taken.
_NETWORKS: tuple[tuple[tuple[str, ...], Callable[[Weights], Recognised]], ...] = (
    (("GLConvA0.", "GLConvB2.", "Backbone.Conv1."), _gaitedge),
    (("GLConvA0.", "GLConvB2."), _gaitgl),
    (("set_block1.", "gl_block2."), _gaitset),
    (("Backbone.forward_block.feature.", "TFA."), _gaitpart),
    (("Backbone.forward_block.layer1.", "BNNecks."), _gaitbase),
    (("layer0.forward_block.", "layer1.forward_block.", "BNNecks."), _deepgaitv2),
)
_TITLES = ("GaitEdge", "GaitGL", "GaitSet", "GaitPart", "GaitBase", "DeepGaitV2")
