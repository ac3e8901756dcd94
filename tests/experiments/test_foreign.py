"""Checkpoints of OpenGait by their facts: names and shapes as its files have them, random values.

The literal forward passes below run on the file's own tensors, in double precision and in the order
of axes of the file ([n, d, p]); nothing of the importer or of our networks is in them.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raygait.errors import RegistryError
from raygait.experiments import foreign
from raygait.experiments.foreign_networks import recognise
from raygait.recipes.saved_model import load_model

Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, Tensor]

# --- names and shapes ----------------------------------------------------------------------------


def _norm_shapes(name: str, width: int) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.num_batches_tracked": ()} | {f"{name}.{each}": (width,) for each in vectors}


def _gaitset(c: tuple[int, ...] = (2, 3, 4), dim: int = 5) -> Shapes:
    shapes = {}
    for block, (before, after) in enumerate(zip((1, *c[:-1]), c, strict=True), start=1):
        k = 5 if block == 1 else 3
        names = [f"set_block{block}.forward_block"] + [f"gl_block{block}"] * (block > 1)
        for name in names:
            shapes[f"{name}.0.conv.weight"] = (after, before, k, k)
            shapes[f"{name}.2.conv.weight"] = (after, after, 3, 3)
    return shapes | {"Head.fc_bin": (62, c[-1], dim)}


def _gaitpart(c: tuple[int, ...] = (2, 3, 8), dim: int = 5) -> Shapes:
    shapes: Shapes = {}
    before = 1
    for place, after in zip((0, 2, 5, 7, 10, 12, 14, 16), [w for w in c for _ in "12"]):  # noqa: B905
        k = 3 if place else 5
        shapes[f"Backbone.forward_block.feature.{place}.conv.weight"] = (after, before, k, k)
        before = after
    for part in range(16):
        for name, last in (("conv1d3x1", 1), ("conv1d3x3", 3)):
            motion = f"TFA.pooling_func.{name}.{part}"
            shapes[f"{motion}.0.conv.weight"] = (before // 4, before, 3)
            shapes[f"{motion}.2.conv.weight"] = (before, before // 4, last)
    return shapes | {"Head.fc_bin": (16, before, dim)}


def _gaitgl(c: tuple[int, ...] = (2, 3, 4), classes: int = 6, *, neck: bool = False) -> Shapes:
    shapes: Shapes = {"conv3d.0.conv3d.weight": (c[0], 1, 3, 3, 3)}
    layers = {"GLConvA0": c[:2], "GLConvA1": c[1:3], "GLConvB2": (c[2], c[2])}
    if len(c) == 4:
        shapes["conv3d.2.conv3d.weight"] = (c[0], c[0], 3, 3, 3)
        steps = [("GLConvA0", c[0], c[1]), ("GLConvA1", c[1], c[2]), ("GLConvB2", c[2], c[3])]
        layers = {f"{name}.0": (before, after) for name, before, after in steps}
        layers |= {f"{name}.1": (after, after) for name, _, after in steps}
    shapes["LTA.0.conv3d.weight"] = (c[0], c[0], 3, 1, 1)
    for name, (before, after) in layers.items():
        for branch in ("global", "local"):
            shapes[f"{name}.{branch}_conv3d.conv3d.weight"] = (after, before, 3, 3, 3)
    d = c[-1]
    shapes |= {"HPP.p": (1,), "Head0.fc_bin": (64, d, d)}
    if neck:
        return shapes | {"BNNecks.fc_bin": (64, d, classes)} | _norm_shapes("BNNecks.bn1d", 64 * d)
    return shapes | {"Head1.fc_bin": (64, d, classes)} | _norm_shapes("Bn", d)


def _residual(
    mode: str = "gaitbase",
    blocks: tuple[int, ...] = (1, 1, 1, 1),
    c: tuple[int, ...] = (2, 3, 4, 5),
    dim: int = 6,
    classes: int = 7,
    channels: int = 1,
) -> Shapes:
    root = "Backbone.forward_block."
    stem, norm = (
        (f"{root}conv1.conv", f"{root}bn1")
        if mode == "gaitbase"
        else ("layer0.forward_block.0", "layer0.forward_block.1")
    )
    shapes = {f"{stem}.weight": (c[0], channels, 3, 3)} | _norm_shapes(norm, c[0])
    before = c[0]
    for stage, after in enumerate(c, start=1):
        folded = stage == 1 or mode == "2d"
        layer = f"{root}layer{stage}" if mode == "gaitbase" else f"layer{stage}"
        if folded and mode != "gaitbase":
            layer += ".forward_block"
        kernel = (3, 3, 3) if mode == "3d" and stage > 1 else (3, 3)
        for block in range(blocks[stage - 1]):
            name = f"{layer}.{block}"
            for i, width in ((1, after if block else before), (2, after)):
                if mode == "p3d" and stage > 1:
                    conv, bn = f"{name}.conv{i}.forward_block.0", f"{name}.conv{i}.forward_block.1"
                else:
                    conv, bn = f"{name}.conv{i}", f"{name}.bn{i}"
                shapes[f"{conv}.weight"] = (after, width, *kernel)
                shapes |= _norm_shapes(bn, after)
            if mode == "p3d" and stage > 1:
                shapes[f"{name}.shortcut3d.weight"] = (after, after, 3, 1, 1)
                shapes |= _norm_shapes(f"{name}.sbn", after)
            if stage > 1 and block == 0:
                ones = (1, 1, 1) if mode in ("3d", "p3d") else (1, 1)
                shapes[f"{name}.downsample.0.weight"] = (after, before, *ones)
                shapes |= _norm_shapes(f"{name}.downsample.1", after)
        before = after
    shapes |= {"FCs.fc_bin": (16, before, dim), "BNNecks.fc_bin": (16, dim, classes)}
    return shapes | _norm_shapes("BNNecks.bn1d", 16 * dim)


def _unet(c: tuple[int, ...] = (2, 3, 4, 5)) -> Shapes:
    shapes = {"Backbone.Conv_1x1.weight": (1, c[0], 1, 1), "Backbone.Conv_1x1.bias": (1,)}
    convolutions = []
    for number, (before, after) in enumerate(zip((3, *c[:-1]), c, strict=True), start=1):
        name = f"Backbone.Conv{number}.conv"
        convolutions += [(name, 0, before, after), (name, 3, after, after)]
    for number in (4, 3, 2):
        low, high = c[number - 1], c[number - 2]
        convolutions.append((f"Backbone.Up{number}.up", 1, low, high))
        name = f"Backbone.Up_conv{number}.conv"
        convolutions += [(name, 0, 2 * high, high), (name, 3, high, high)]
    for name, place, before, after in convolutions:
        shapes |= {
            f"{name}.{place}.weight": (after, before, 3, 3),
            f"{name}.{place}.bias": (after,),
        }
        shapes |= _norm_shapes(f"{name}.{place + 1}", after)
    return shapes


def _weights(shapes: Shapes, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(11)
        elif name.endswith("running_var"):
            weights[name] = 0.5 + values.square()
        elif name == "HPP.p":
            weights[name] = 3.0 + values.abs()
        elif len(shape) == 1:
            weights[name] = 1.0 + 0.3 * values if name.endswith("weight") else 0.2 * values
        else:
            fan = shape[1] if name.endswith("fc_bin") else torch.Size(shape[1:]).numel()
            weights[name] = values * (2 / fan) ** 0.5
    return weights


def _save(path: Path, weights: Weights, **more: object) -> Path:
    # As their training leaves it: the schedule's milestones are a Counter.
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [20_000, 40_000])
    states = {"optimizer": optimiser.state_dict(), "scheduler": schedule.state_dict()}
    torch.save({"model": weights, "iteration": 60_000, **states, **more}, path)
    return path


# --- literal forward passes ----------------------------------------------------------------------


def _leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def _bn(x: Tensor, w: Weights, name: str) -> Tensor:
    mean, var, scale, shift = (
        w[f"{name}.{each}"].view(-1, *[1] * (x.ndim - 2))
        for each in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def _strips(x: Tensor, bins: tuple[int, ...]) -> Tensor:
    """[n, c, h, w] -> [n, c, p]: mean and maximum of each strip."""
    pooled = []
    for count in bins:
        rows = x.shape[2] // count
        for part in range(count):
            strip = x[:, :, part * rows : (part + 1) * rows].flatten(2)
            pooled.append(strip.mean(2) + strip.amax(2))
    return torch.stack(pooled, dim=2)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([x[:, :, p] @ weight[p] for p in range(x.shape[2])], dim=2)


def _neck(x: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    normed = F.normalize(_bn(x.flatten(1), w, "BNNecks.bn1d").view_as(x), dim=1)
    return normed, _linear(normed, F.normalize(w["BNNecks.fc_bin"], dim=1))


Result = tuple[Tensor, Tensor | None, Tensor | None]
"""Before the norm, after it, logits; each [n, d, p]. The first alone where there is no norm."""


def _run_gaitset(x: Tensor, w: Weights) -> Result:
    n, t = x.shape[0], x.shape[2]

    def block(x: Tensor, name: str, halve: bool) -> Tensor:
        for place in (0, 2):
            kernel = w[f"{name}.{place}.conv.weight"]
            x = _leaky(F.conv2d(x, kernel, padding=kernel.shape[-1] // 2))
        return F.max_pool2d(x, 2) if halve else x

    def over_set(x: Tensor) -> Tensor:
        return x.unflatten(0, (n, t)).amax(1)

    one = block(x.transpose(1, 2).flatten(0, 1), "set_block1.forward_block", True)
    two = block(one, "set_block2.forward_block", True)
    three = over_set(block(two, "set_block3.forward_block", False))
    both = block(over_set(one), "gl_block2", True) + over_set(two)
    both = block(both, "gl_block3", False) + three
    bins = (16, 8, 4, 2, 1)
    parts = torch.cat((_strips(three, bins), _strips(both, bins)), dim=2)
    return _linear(parts, w["Head.fc_bin"]), None, None


def _run_gaitpart(x: Tensor, w: Weights) -> Result:
    n, t = x.shape[0], x.shape[2]
    large = "Backbone.forward_block.feature.16.conv.weight" in w
    strips = (1, 1, 1, 1, 8, 8, 8, 8) if large else (1, 1, 4, 4, 8, 8)
    x = x.transpose(1, 2).flatten(0, 1)
    for place, count in zip((0, 2, 5, 7, 10, 12, 14, 16), strips):  # noqa: B905
        kernel = w[f"Backbone.forward_block.feature.{place}.conv.weight"]
        pad = kernel.shape[-1] // 2
        x = torch.cat([_leaky(F.conv2d(s, kernel, padding=pad)) for s in x.chunk(count, 2)], 2)
        if place in (2, 7):
            x = F.max_pool2d(x, 2)
    x = _strips(x, (16,)).unflatten(0, (n, t))  # [n, t, c, p]
    parts = []
    for part in range(16):
        clip = x[..., part].transpose(1, 2)
        moved = torch.zeros_like(clip)
        for name, size in (("conv1d3x1", 3), ("conv1d3x3", 5)):
            first, last = (
                w[f"TFA.pooling_func.{name}.{part}.{place}.conv.weight"] for place in (0, 2)
            )
            scores = F.conv1d(_leaky(F.conv1d(clip, first, padding=1)), last, padding=size // 4)
            padded = F.pad(clip, (size // 2, size // 2)).unfold(2, size, 1)
            lowest = F.pad(clip, (size // 2, size // 2), value=-1e9).unfold(2, size, 1)
            moved = moved + scores.sigmoid() * (padded.mean(3) + lowest.amax(3))
        parts.append(moved.amax(2))
    return _linear(torch.stack(parts, dim=2), w["Head.fc_bin"]), None, None


def _run_gaitgl(x: Tensor, w: Weights) -> Result:
    large = "GLConvA0.0.global_conv3d.conv3d.weight" in w
    for place in (0, 2) if large else (0,):
        x = _leaky(F.conv3d(x, w[f"conv3d.{place}.conv3d.weight"], padding=1))
    x = _leaky(F.conv3d(x, w["LTA.0.conv3d.weight"], stride=(3, 1, 1)))
    ends = (".0", ".1") if large else ("",)
    layers = [f"{stage}{end}" for stage in ("GLConvA0", "GLConvA1", "GLConvB2") for end in ends]
    for number, layer in enumerate(layers):
        whole, local = (w[f"{layer}.{b}_conv3d.conv3d.weight"] for b in ("global", "local"))
        strips = x.chunk(2 if large else 8, dim=3)
        above = _leaky(F.conv3d(x, whole, padding=1))
        below = _leaky(torch.cat([F.conv3d(s, local, padding=1) for s in strips], dim=3))
        is_last = number == len(layers) - 1
        x = torch.cat((above, below), dim=3) if is_last else above + below
        if layer in ("GLConvA0", "GLConvA0.1"):
            x = F.max_pool3d(x, (1, 2, 2))
    power = w["HPP.p"]
    rows = x.amax(2).clamp(min=1e-6).pow(power).mean(3).pow(1 / power)
    before = _linear(rows, w["Head0.fc_bin"])
    if "Bn.weight" not in w:
        return before, *_neck(before, w)
    after = _bn(before, w, "Bn")
    return before, after, _linear(after, w["Head1.fc_bin"])


def _run_residual(x: Tensor, w: Weights) -> Result:
    is_base = "Backbone.forward_block.bn1.weight" in w

    def conv(x: Tensor, name: str, step: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        if kernel.ndim == 4:
            kernel = kernel[:, :, None]
        return F.conv3d(x, kernel, None, (1, step, step), [size // 2 for size in kernel.shape[2:]])

    root = "Backbone.forward_block."
    stem = (f"{root}conv1.conv", f"{root}bn1")
    if not is_base:
        stem = ("layer0.forward_block.0", "layer0.forward_block.1")
    x = _bn(conv(x, stem[0]), w, stem[1]).relu()
    for stage, step in enumerate((1, 2, 2, 1), start=1):
        layer = f"{root}layer{stage}" if is_base else f"layer{stage}"
        if not any(name.startswith(f"{layer}.0.") for name in w):
            layer += ".forward_block"
        block = 0
        while any(name.startswith(f"{layer}.{block}.") for name in w):
            name = f"{layer}.{block}"
            stride = step if block == 0 else 1
            if f"{name}.sbn.weight" in w:
                y = conv(x, f"{name}.conv1.forward_block.0", stride)
                y = _bn(y, w, f"{name}.conv1.forward_block.1").relu()
                y = (y + _bn(conv(y, f"{name}.shortcut3d"), w, f"{name}.sbn")).relu()
                y = conv(y, f"{name}.conv2.forward_block.0")
                y = _bn(y, w, f"{name}.conv2.forward_block.1")
            else:
                y = _bn(conv(x, f"{name}.conv1", stride), w, f"{name}.bn1").relu()
                y = _bn(conv(y, f"{name}.conv2"), w, f"{name}.bn2")
            if f"{name}.downsample.0.weight" in w:
                x = _bn(conv(x, f"{name}.downsample.0", stride), w, f"{name}.downsample.1")
            x = (x + y).relu()
            block += 1
    before = _linear(_strips(x.amax(2), (16,)), w["FCs.fc_bin"])
    return before, *_neck(before, w)


def _run_unet(x: Tensor, w: Weights) -> Tensor:
    def twice(x: Tensor, name: str, places: tuple[int, ...] = (0, 3)) -> Tensor:
        for place in places:
            kernel, bias = w[f"{name}.{place}.weight"], w[f"{name}.{place}.bias"]
            x = _bn(F.conv2d(x, kernel, bias, padding=1), w, f"{name}.{place + 1}").relu()
        return x

    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).to(x)
    x = (x - mean[:, None, None]) / deviation[:, None, None]
    maps = []
    for number in (1, 2, 3, 4):
        x = twice(x if number == 1 else F.max_pool2d(x, 2), f"Backbone.Conv{number}.conv")
        maps.append(x)
    for number in (4, 3, 2):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = twice(x, f"Backbone.Up{number}.up", (1,))
        x = twice(torch.cat((maps[number - 2], x), 1), f"Backbone.Up_conv{number}.conv")
    return F.conv2d(x, w["Backbone.Conv_1x1.weight"], w["Backbone.Conv_1x1.bias"])


# --- the imported network embeds as the file's tensors say ---------------------------------------

_CASES: dict[str, tuple[Shapes, Callable[[Tensor, Weights], Result], str, int]] = {
    "GaitSet": (_gaitset(), _run_gaitset, "gaitset", 0),
    "GaitPart": (_gaitpart(), _run_gaitpart, "gaitpart", 0),
    "GaitPart, large": (_gaitpart((2, 3, 4, 8)), _run_gaitpart, "gaitpart", 0),
    "GaitGL": (_gaitgl(), _run_gaitgl, "gaitgl_iccv", 6),
    "GaitGL, neck": (_gaitgl(neck=True), _run_gaitgl, "gaitgl_iccv", 6),
    "GaitGL, large": (_gaitgl((2, 3, 4, 5)), _run_gaitgl, "gaitgl_iccv", 6),
    "GaitGL, large, neck": (_gaitgl((2, 3, 4, 5), neck=True), _run_gaitgl, "gaitgl_iccv", 6),
    "GaitBase": (_residual(), _run_residual, "gaitbase", 7),
    "GaitBase, 2 blocks": (_residual(blocks=(1, 2, 1, 1)), _run_residual, "gaitbase", 7),
    "DeepGaitV2 2d": (_residual("2d", (1, 1, 2, 1)), _run_residual, "deepgaitv2", 7),
    "DeepGaitV2 3d": (_residual("3d", (1, 2, 1, 1)), _run_residual, "deepgaitv2", 7),
    "DeepGaitV2 p3d": (_residual("p3d"), _run_residual, "deepgaitv2", 7),
    "DeepGaitV2 p3d, deep": (_residual("p3d", (1, 4, 4, 1)), _run_residual, "deepgaitv2", 7),
    "DeepGaitV2, 2 channels": (_residual("p3d", channels=2), _run_residual, "deepgaitv2", 7),
}


def _compared(embedding: Tensor, expected: Tensor) -> None:
    assert embedding.shape == expected.transpose(1, 2).shape
    torch.testing.assert_close(embedding, expected.transpose(1, 2), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", _CASES)
def test_an_imported_network_embeds_as_the_files_tensors_say(name: str, tmp_path: Path) -> None:
    shapes, run, architecture, num_classes = _CASES[name]
    weights = _weights(shapes)
    path = _save(tmp_path / "Peer-60000.pt", weights)
    imported = foreign.import_checkpoint(path, tmp_path / "model", input_size_px=(64, 8))
    assert imported.recognised.architecture == architecture
    assert imported.recognised.num_subjects == num_classes
    saved = load_model(tmp_path / "model")
    assert (saved.step, len(saved.subjects)) == (60_000, max(1, num_classes))

    channels = next(shape for shape in shapes.values() if len(shape) > 3)[1]
    frames = torch.rand(2, channels, 7, 64, 8, dtype=torch.float64)
    doubles = {key: value.double() for key, value in weights.items()}
    before, after, logits = run(frames, doubles)
    network = saved.network.double()
    with torch.inference_mode():
        output = network(frames)
    default = after if architecture == "gaitgl_iccv" and "Bn.weight" in shapes else before
    assert default is not None
    _compared(output.embedding, default)
    if logits is not None:
        assert output.branches["main"].logits is not None
        _compared(output.branches["main"].logits, logits)
    if after is None:
        assert not imported.recognised.embeddings
        with pytest.raises(RegistryError, match="one embedding"):
            foreign.import_checkpoint(path, tmp_path / "other", embedding="after_norm")
        return
    for choice, expected in (("before_norm", before), ("after_norm", after)):
        imported = foreign.import_checkpoint(
            path, tmp_path / choice, embedding=choice, input_size_px=(64, 8)
        )
        assert imported.embedding == imported.tags["embedding"] == choice
        with torch.inference_mode():
            chosen = load_model(tmp_path / choice).network.double()(frames)
        _compared(chosen.embedding, expected)


def test_gaitedge_becomes_a_segmenter_and_a_recogniser_that_each_do_as_the_file_says(
    tmp_path: Path,
) -> None:
    weights = _weights(_gaitgl() | _unet())
    path = _save(tmp_path / "e.pt", weights)
    imported = foreign.import_checkpoint(path, tmp_path / "model")
    saved = load_model(tmp_path / "model")
    assert (saved.recipe.data.modality, saved.recipe.data.height_px) == ("rgb", 128)
    network = saved.network.double()
    doubles = {key: value.double() for key, value in weights.items()}
    crops = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    silhouettes = torch.rand(1, 1, 4, 64, 44, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(network.segmenter(crops), _run_unet(crops, doubles))
        embedded = network.recogniser(silhouettes).embedding
    _, after, _ = _run_gaitgl(silhouettes, doubles)
    assert after is not None
    _compared(embedded, after)

    # As the release: given masks, its box. Said to be GaitGL-E2E, everything passes.
    assert (network.mask_source, imported.recognised.switches["roi_convention"]) == (
        "given",
        "release",
    )
    assert "'whole' is GaitGL-E2E" in "\n".join(imported.remarks)
    end_to_end = {"synthesis": "whole", "mask_source": "predicted"}
    again = foreign.import_checkpoint(
        path, tmp_path / "e2e", switches=end_to_end, embedding="before_norm"
    )
    other = load_model(tmp_path / "e2e").network
    assert "GaitGL-E2E" not in "\n".join(again.remarks)
    assert other.synthesis is None
    assert other.recogniser.embedding == "before_norm"


@pytest.mark.parametrize(
    ("shapes", "num_entries", "num_parameters", "title"),
    [
        (_gaitset((32, 64, 128), 256), 11, 2_594_592, "GaitSet"),
        (_gaitpart((32, 64, 128), 128), 71, 1_204_000, "GaitPart"),
        (_gaitgl((32, 64, 128), 74), 16, 3_096_673, "GaitGL of ICCV 2021, plan for CASIA-B"),
        (_gaitgl((32, 64, 128, 256), 5153), 23, 95_620_449, "plan for thousands of subjects"),
        (_residual(c=(64, 128, 256, 512), dim=256, classes=74), 79, 7_305_408, "GaitBase"),
        (
            _residual("2d", c=(64, 128, 256, 512), dim=256, classes=74),
            *(79, 7_305_408, "DeepGaitV2, 2d, 10 layers"),
        ),
        (
            _residual("3d", c=(64, 128, 256, 512), dim=256, classes=74),
            *(79, 16_595_136, "DeepGaitV2, 3d, 10 layers"),
        ),
        (
            _residual("p3d", c=(64, 128, 256, 512), dim=256, classes=74),
            *(97, 8_339_392, "DeepGaitV2, p3d, 10 layers"),
        ),
        (
            _residual("p3d", (1, 4, 4, 1), (64, 128, 256, 512), dim=256, classes=3000),
            *(205, 25_492_160, "DeepGaitV2, p3d, 22 layers"),
        ),
        (
            _gaitgl((32, 64, 128), 74) | _unet((16, 32, 64, 128)),
            *(137, 3_634_098, "GaitEdge"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_released_sizes_are_recognised_by_names_and_shapes_alone(
    shapes: Shapes, num_entries: int, num_parameters: int, title: str
) -> None:
    counted = ("running_mean", "running_var", "num_batches_tracked")
    total = sum(
        torch.Size(shape).numel() for name, shape in shapes.items() if not name.endswith(counted)
    )
    assert (len(shapes), total) == (num_entries, num_parameters)
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    recognised = recognise(meta)
    assert title in recognised.title
    sources = {name: source.shape for source in recognised.sources for name in source.theirs}
    assert sources == shapes


def test_a_plain_state_dict_and_one_of_a_wrapped_network_import_as_well(tmp_path: Path) -> None:
    weights = _weights(_residual())
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "m.pt")
    plain = foreign.read_checkpoint(tmp_path / "plain.pt")
    wrapped = foreign.read_checkpoint(tmp_path / "m.pt")
    assert plain.step == wrapped.step == 0
    assert plain.weights.keys() == wrapped.weights.keys() == weights.keys()
    assert all(torch.equal(wrapped.weights[name], weights[name]) for name in weights)


def test_half_precision_and_a_file_that_did_not_count_batches_become_plain_weights(
    tmp_path: Path,
) -> None:
    weights = {
        name: value.half() if value.ndim else value
        for name, value in _weights(_residual()).items()
        if not name.endswith("num_batches_tracked")
    }
    foreign.import_checkpoint(_save(tmp_path / "h.pt", weights), tmp_path / "model")
    state = load_model(tmp_path / "model").network.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert torch.equal(state["embedding_linear.weight"], weights["FCs.fc_bin"].float())


def test_a_saved_model_says_which_file_it_comes_from_and_what_was_assumed(tmp_path: Path) -> None:
    path = _save(tmp_path / "GaitBase-60000.pt", _weights(_residual()))
    imported = foreign.import_checkpoint(path, tmp_path / "model")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    written = json.loads((tmp_path / "model" / "model.json").read_text())
    assert written["origin"]["origin_sha256"] == imported.tags["origin_sha256"] == digest
    assert written["subjects"][:2] == ["class-00000", "class-00001"]
    assert digest in load_model(tmp_path / "model").recipe.source
    text = "\n".join(imported.to_lines())
    for fact in ("GaitBase", "7 subjects", "60000 iterations", "embedding: before_norm", "64 x 44"):
        assert fact in text


def test_names_of_subjects_have_to_be_as_many_as_the_classes(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pt", _weights(_residual()))
    names = [f"{number:03d}" for number in range(7)]
    foreign.import_checkpoint(path, tmp_path / "model", subjects=names)
    assert load_model(tmp_path / "model").subjects == tuple(names)
    with pytest.raises(RegistryError, match=r"got 6 names .* expected 7"):
        foreign.import_checkpoint(path, tmp_path / "other", subjects=names[:6])


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", _CASES)
def test_every_tensor_that_is_missing_unknown_or_of_another_shape_is_named(
    name: str, tmp_path: Path
) -> None:
    shapes = _CASES[name][0]
    weights = _weights(shapes)
    first, *_, last = (key for key in shapes if not key.endswith("num_batches_tracked"))
    del weights[first]
    weights["Extra.weight"] = torch.zeros(3)
    weights[last] = torch.zeros(2, 2, 2, 2, 2, 2)
    path = _save(tmp_path / "a.pt", weights)
    with pytest.raises(RegistryError) as caught:
        foreign.import_checkpoint(path, tmp_path / "model")
    message = str(caught.value)
    assert "recognised as" in message
    assert f"missing {first}" in message
    assert "unknown Extra.weight (3,)" in message
    assert f"{last} is (2, 2, 2, 2, 2, 2), expected" in message
    assert not (tmp_path / "model").exists()


def test_any_single_missing_tensor_is_named_as_such() -> None:
    for shapes, *_ in _CASES.values():
        weights = _weights(shapes)
        for name in weights:
            if name.endswith("num_batches_tracked"):
                continue
            without = {key: value for key, value in weights.items() if key != name}
            with pytest.raises(RegistryError, match=f"missing {name} "):
                foreign.translate(without, recognise(without), where="file")


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        pytest.param(lambda x: x / 0, "not finite", id="infinite"),
        pytest.param(lambda x: x.to(torch.int32), "int32", id="whole numbers"),
        pytest.param(lambda x: x.to_sparse(), "sparse", id="sparse"),
        pytest.param(
            lambda x: x[:1].clone().expand_as(x), "larger than its storage", id="expanded"
        ),
        pytest.param(lambda x: x.to("meta"), "on meta", id="without values"),
    ],
)
def test_tensors_that_are_no_plain_finite_numbers_are_named(
    spoil: Callable[[Tensor], Tensor], fault: str, tmp_path: Path
) -> None:
    weights = _weights(_residual())
    weights["FCs.fc_bin"] = spoil(weights["FCs.fc_bin"])
    path = _save(tmp_path / "a.pt", weights)
    with pytest.raises(RegistryError, match=rf"FCs\.fc_bin .*{fault}"):
        foreign.import_checkpoint(path, tmp_path / "model")


def test_a_shape_that_only_claims_to_be_huge_is_refused_before_anything_is_made_of_it(
    tmp_path: Path,
) -> None:
    weights = _weights(_residual())
    weights["BNNecks.fc_bin"] = torch.zeros(1).expand(16, 6, 10**12)
    with pytest.raises(RegistryError, match=r"BNNecks\.fc_bin is larger than its storage"):
        foreign.import_checkpoint(_save(tmp_path / "a.pt", weights), tmp_path / "model")


def test_a_network_of_another_kind_and_a_segmenter_alone_are_refused_by_what_they_hold(
    tmp_path: Path,
) -> None:
    other = _save(tmp_path / "a.pt", {"transformer.blocks.0.weight": torch.zeros(2)})
    with pytest.raises(RegistryError, match=r"GaitSet.*transformer\.blocks\.0\.weight"):
        foreign.import_checkpoint(other, tmp_path / "model")
    segmenter = _save(tmp_path / "b.pt", _weights(_unet()))
    with pytest.raises(RegistryError, match=r"b\.pt: .* segmenter of GaitEdge alone"):
        foreign.import_checkpoint(segmenter, tmp_path / "model")


def test_a_frame_size_that_does_not_make_the_files_parts_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pt", _weights(_gaitgl()))
    with pytest.raises(RegistryError, match=r"64 parts, but frames of 128x88 px .* make 128"):
        foreign.import_checkpoint(path, tmp_path / "model", input_size_px=(128, 88))


def test_a_switch_the_network_does_not_have_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pt", _weights(_gaitset()))
    with pytest.raises(RegistryError, match="synthesis"):
        foreign.import_checkpoint(path, tmp_path / "model", switches={"synthesis": "whole"})


# --- files of strangers --------------------------------------------------------------------------


class _Shell:
    """Unpickled, it runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("place", ["model", "beside it"])
def test_a_pickle_that_would_run_a_command_is_refused_and_not_run(
    place: str, tmp_path: Path
) -> None:
    weights: dict[str, object] = dict(_weights(_residual()))
    shell = _Shell(tmp_path / "ran")
    more: dict[str, object] = {"epoch": shell} if place != "model" else {}
    if place == "model":
        weights["FCs.fc_bin"] = shell
    path = _save(tmp_path / "evil.pt", weights, **more)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match=r"nothing in it was run.*posix\.system"):
        foreign.import_checkpoint(path, tmp_path / "model")
    assert not (tmp_path / "ran").exists()
    # The pickle is a live one: whoever trusts it runs it.
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


class _Memory:
    """Asks for memory that no tensor needs; torch's own reader would give it."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return bytearray, (2**20,)


def test_a_pickle_that_asks_for_memory_is_refused_before_it_gets_any(tmp_path: Path) -> None:
    path = _save(tmp_path / "bomb.pt", _weights(_residual()), epoch=_Memory())
    assert torch.load(path, weights_only=True)["epoch"] == bytearray(2**20)
    with pytest.raises(RegistryError, match="asks for bytearray"):
        foreign.import_checkpoint(path, tmp_path / "model")


def test_a_number_that_float32_cannot_hold_is_named(tmp_path: Path) -> None:
    weights = _weights(_gaitset())
    weights["Head.fc_bin"] = torch.full_like(weights["Head.fc_bin"], 1e300, dtype=torch.float64)
    path = _save(tmp_path / "large.pt", weights)
    with pytest.raises(RegistryError, match=r"Head\.fc_bin holds values that are not finite"):
        foreign.import_checkpoint(path, tmp_path / "model")


def test_what_a_terminal_would_obey_is_shown_as_text(tmp_path: Path) -> None:
    pickled = b"\x80\x02cposix\x1b[31mHACK\nsystem\x1b]0;x\x07\n."
    path = tmp_path / "escape.pt"
    path.write_bytes(_zip({"a/data.pkl": pickled, "a/byteorder": b"little", "a/version": b"3\n"}))
    with pytest.raises(RegistryError) as caught:
        foreign.import_checkpoint(path, tmp_path / "model")
    assert str(caught.value).isprintable()


def _zip(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _good(tmp_path: Path) -> bytes:
    return _save(tmp_path / "good.pt", _weights(_residual())).read_bytes()


def _flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 0xFF
    return bytes(changed)


def _compressed(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return _zip(files, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(lambda _: b"", "not a zip file .* something else", id="empty"),
        pytest.param(lambda _: b"<html>404</html>" * 9, "something else", id="a page"),
        pytest.param(lambda good: good[: len(good) // 2], "cut off", id="half"),
        pytest.param(lambda good: good[:-30], "cut off", id="without its end"),
        pytest.param(lambda good: good[:100] + good[200:], "damaged|cut off", id="a hole"),
        pytest.param(_flipped, "damaged", id="a changed byte"),
        pytest.param(_compressed, "compressed", id="compressed"),
        pytest.param(lambda _: _zip({"a.txt": b"a"}), "0 data.pkl", id="another zip"),
        pytest.param(
            lambda _: _zip({"a/data.pkl": b"\x80\x02garbage", "a/version": b"3\n"}),
            "not a checkpoint torch can read|was run",
            id="garbage inside",
        ),
    ],
)
def test_a_file_that_is_no_whole_checkpoint_is_an_error_that_says_what_it_is(
    spoil: Callable[[bytes], bytes], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(spoil(_good(tmp_path)))
    with pytest.raises(RegistryError, match=rf"(?s)file\.pt.*({sentence})"):
        foreign.import_checkpoint(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_format_of_old_torch_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(_weights(_gaitset()), tmp_path / "o.ptm", _use_new_zipfile_serialization=False)
    with pytest.raises(RegistryError, match=r"torch older than 1\.6"):
        foreign.read_checkpoint(tmp_path / "o.ptm")


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(RegistryError, match="3 MB, expected at most 2 MB"):
        foreign.read_checkpoint(path, max_file_mb=2)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param([torch.zeros(1)], "holds list", id="a list"),
        pytest.param({"model": {}}, "state dict", id="an empty model"),
        pytest.param({"epoch": 3}, "something else under 'epoch'", id="numbers"),
        pytest.param({1: torch.zeros(1)}, "something else under 1", id="a number for a name"),
        pytest.param({"a\x1b[2J": torch.zeros(1)}, r"under 'a\\x1b\[2J'", id="a terminal's words"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(
    content: object, fault: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(RegistryError, match=fault):
        foreign.read_checkpoint(tmp_path / "a.pt")
