"""Checkpoints of OpenGait's own classes, imported: do they embed the same?

    python -m tests.benchmarks.parity_opengait --peer ~/OpenGait [--keep runs/parity] [CASE ...]

`--peer` is a checkout that you have fetched yourself (https://github.com/ShiqiYu/OpenGait; the
recorded run is of commit 0efafd4). Its classes are imported from there, in an environment that has
what they ask for beside raygait's requirements: torchvision, kornia, einops and tensorboard. They
run on the CPU; no data, loader or optimiser of theirs is made.

Each case builds one of their networks with random weights and random statistics of every batch
norm, saves what they would save, embeds two random clips, imports the file with
`raygait.experiments.foreign` and embeds the same clips. The error is the largest over clips and
parts of |theirs - ours| / |theirs|; that of the logits likewise. `apart` is the same between the
two clips: how large the error is of a network that gets nothing right but the mean.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raygait.experiments import foreign
from raygait.recipes.saved_model import load_model

_LARGEST_ERROR = 1e-4
_NUM_FRAMES = 9
# Mean and deviation that their loader takes colours by.
_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """One of their networks.

    Attributes:
        module: Module of `modeling.models` that holds it.
        network: Class.
        options: Its `model_cfg`.
        dataset: Name of the data set, which GaitGL chooses its plan by.
        choices: Options of `foreign.import_checkpoint`.
        channels: Channels of a frame.
        has_masks: It takes colours, silhouettes and ratios.
    """

    module: str
    network: str
    options: dict[str, Any]
    dataset: str = "CASIA-B"
    choices: dict[str, Any] = field(default_factory=dict)
    channels: int = 1
    size_px: tuple[int, int] = (64, 44)
    has_masks: bool = False


def _gaitset(*channels: int) -> Case:
    linear = {"in_channels": channels[-1], "out_channels": 256, "parts_num": 62}
    options = {"in_channels": [1, *channels], "SeparateFCs": linear, "bin_num": [16, 8, 4, 2, 1]}
    return Case("gaitset", "GaitSet", options)


def _gaitpart(layers: str, width: int) -> Case:
    options = {
        "backbone_cfg": {"type": "Plain", "in_channels": 1, "layers_cfg": layers.split()},
        "SeparateFCs": {"in_channels": width, "out_channels": width, "parts_num": 16},
        "bin_num": [16],
    }
    return Case("gaitpart", "GaitPart", options)


def _gaitgl(*channels: int, dataset: str, neck: bool = False) -> Case:
    options: dict[str, Any] = {"channels": list(channels), "class_num": 5}
    if neck:
        options["SeparateBNNecks"] = {
            "class_num": 5,
            "in_channels": channels[-1],
            "parts_num": 64,
        }
    return Case("gaitgl", "GaitGL", options, dataset)


def _gaitbase(size_px: tuple[int, int] = (64, 44)) -> Case:
    options = {
        "backbone_cfg": {
            "type": "ResNet9",
            "block": "BasicBlock",
            "channels": [64, 128, 256, 512],
            "layers": [1, 1, 1, 1],
            "strides": [1, 2, 2, 1],
            "maxpool": False,
        },
        "SeparateFCs": {"in_channels": 512, "out_channels": 256, "parts_num": 16},
        "SeparateBNNecks": {"class_num": 5, "in_channels": 256, "parts_num": 16},
        "bin_num": [16],
    }
    choices = {"input_size_px": size_px}
    return Case("baseline", "Baseline", options, choices=choices, size_px=size_px)


def _deepgaitv2(
    mode: str, *layers: int, channels: int = 1, after_norm: bool = False, num_classes: int = 5
) -> Case:
    options = {
        "Backbone": {
            "mode": mode,
            "in_channels": channels,
            "layers": list(layers),
            "channels": [64, 128, 256, 512],
        },
        "SeparateBNNecks": {"class_num": num_classes},
        "use_emb2": after_norm,
    }
    choices = {"embedding": "after_norm"} if after_norm else {}
    return Case("deepgaitv2", "DeepGaitV2", options, choices=choices, channels=channels)


def _gaitedge(*, edge: bool) -> Case:
    options = {
        "GaitGL": {"channels": [32, 64, 128], "class_num": 5},
        "Segmentation": {"type": "U_Net", "in_channels": 3, "freeze_half": True},
        "edge": edge,
        "align": True,
        "seg_lr": 1e-5,
        "kernel_size": 3,
    }
    return Case(
        "gaitedge",
        "GaitEdge",
        options,
        choices={} if edge else {"switches": {"synthesis": "whole", "mask_source": "predicted"}},
        channels=3,
        size_px=(128, 128),
        has_masks=True,
    )


_SMALL_PART = "BC-32 BC-32 M FC-64-2 FC-64-2 M FC-128-3 FC-128-3"
_LARGE_PART = "BC-32 BC-32 M BC-64 BC-64 M FC-128-3 FC-128-3 FC-256-3 FC-256-3"

CASES: dict[str, Case] = {
    "GaitSet, CASIA-B widths": _gaitset(32, 64, 128),
    "GaitSet, OUMVLP widths": _gaitset(64, 128, 256),
    "GaitPart, CASIA-B plan": _gaitpart(_SMALL_PART, 128),
    "GaitPart, OUMVLP plan": _gaitpart(_LARGE_PART, 256),
    "GaitGL, CASIA-B plan": _gaitgl(32, 64, 128, dataset="CASIA-B"),
    "GaitGL, CASIA-B plan, BNNeck": _gaitgl(32, 64, 128, dataset="CASIA-B", neck=True),
    "GaitGL, OUMVLP plan": _gaitgl(32, 64, 128, 256, dataset="OUMVLP"),
    "GaitGL, GREW plan, BNNeck": _gaitgl(32, 64, 128, 256, dataset="GREW", neck=True),
    "GaitBase": _gaitbase(),
    "GaitBase, 128 x 88": _gaitbase((128, 88)),
    "DeepGaitV2 2d [1,1,1,1]": _deepgaitv2("2d", 1, 1, 1, 1),
    "DeepGaitV2 3d [1,1,1,1]": _deepgaitv2("3d", 1, 1, 1, 1),
    "DeepGaitV2 3d [1,4,4,1]": _deepgaitv2("3d", 1, 4, 4, 1),
    "DeepGaitV2 p3d [1,1,1,1]": _deepgaitv2("p3d", 1, 1, 1, 1),
    "DeepGaitV2 p3d [1,4,4,1]": _deepgaitv2("p3d", 1, 4, 4, 1),
    "DeepGaitV2 p3d [1,4,4,1], after the norm": _deepgaitv2("p3d", 1, 4, 4, 1, after_norm=True),
    "SkeletonGait: DeepGaitV2 p3d, 2 channels": _deepgaitv2("p3d", 1, 1, 1, 1, channels=2),
    "GaitEdge, given masks": _gaitedge(edge=True),
    "GaitGL-E2E": _gaitedge(edge=False),
}


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="checkout of OpenGait")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints and embeddings")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="beginnings of names; all")
    options = parser.parse_args()
    chosen = {
        name: case
        for name, case in CASES.items()
        if not options.cases or name.startswith(tuple(options.cases))
    }
    if not chosen:
        parser.error(f"no such case; there are {'; '.join(CASES)}")
    torch.set_num_threads(1)
    classes = _peer(options.peer)
    commit = subprocess.run(
        ["git", "-C", str(options.peer), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    print(f"OpenGait {commit or 'of an unknown commit'}, torch {torch.__version__}, fp32\n")  # noqa: T201
    print("| network | recognised as | tensors | parameters | embedding | error | logits | apart |")  # noqa: T201
    print("|---|---|---:|---:|---|---:|---:|---:|")  # noqa: T201
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, case) in enumerate(chosen.items()):
            folder = Path(scratch) if options.keep is None else options.keep
            row = _compare(case, classes(case), folder / f"case-{number:02d}", seed=number)
            worst = max(worst, row["error"], row["logits"] or 0.0)
            cells = [name, row["title"], row["tensors"], f"{row['parameters']:,}"]
            cells += [f"{row['embedding']} {row['shape']}", f"{row['error']:.1e}"]
            cells += ["" if row["logits"] is None else f"{row['logits']:.1e}"]
            print(f"| {' | '.join(map(str, cells))} | {row['apart']:.1e} |", flush=True)  # noqa: T201
    print(f"\nworst {worst:.1e}, allowed {_LARGEST_ERROR:g}")  # noqa: T201
    return 0 if worst <= _LARGEST_ERROR else 1


def _peer(folder: Path) -> Callable[[Case], type[nn.Module]]:
    """Their classes, without the modules of networks that no case needs."""
    code = folder / "opengait"
    if not (code / "modeling" / "models").is_dir():
        raise SystemExit(f"{folder} is no checkout of OpenGait: no opengait/modeling/models")
    sys.path.insert(0, str(code))
    # Their package imports every network, and with them what only some need.
    package = types.ModuleType("modeling.models")
    package.__path__ = [str(code / "modeling" / "models")]
    sys.modules["modeling.models"] = package
    return lambda case: getattr(
        importlib.import_module(f"modeling.models.{case.module}"), case.network
    )


def _compare(case: Case, peer: type[nn.Module], folder: Path, *, seed: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    theirs = _built(case, peer)
    frames, masks, ratios = _inputs(case, num_clips=2)
    embedding, logits = _embedded_by_them(case, theirs, frames, masks, ratios)

    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [20_000, 40_000])
    checkpoint = {
        "model": theirs.state_dict(),
        "optimizer": optimiser.state_dict(),
        "scheduler": schedule.state_dict(),
        "iteration": 1234,
    }
    torch.save(checkpoint, folder / "Peer-01234.pt")
    torch.save({"embedding": embedding, "logits": logits}, folder / "reference.pt")

    imported = foreign.import_checkpoint(folder / "Peer-01234.pt", folder / "ours", **case.choices)
    ours = load_model(folder / "ours")
    inputs = {"masks": masks, "ratios": ratios} if case.has_masks else {}
    if case.has_masks and case.choices:
        del inputs["masks"]  # the network's own are taken
    with torch.inference_mode():
        output = ours.network(frames, **inputs)
    own_logits = output.branches["main"].logits
    row = {
        "title": imported.recognised.title,
        "tensors": len(theirs.state_dict()),
        "parameters": sum(parameter.numel() for parameter in theirs.parameters()),
        "embedding": imported.embedding,
        "shape": list(output.embedding.shape[1:]),
        "error": _error(embedding, output.embedding),
        "logits": None if logits is None or own_logits is None else _error(logits, own_logits),
        "apart": _error(embedding[:1], embedding[1:]),
    }
    (folder / "row.json").write_text(json.dumps(row, indent=2) + "\n")
    return row


def _built(case: Case, peer: type[nn.Module]) -> nn.Module:
    """Their network as their base class builds it, but without loader, device and optimiser."""
    network: Any = peer.__new__(peer)
    nn.Module.__init__(network)
    network.cfgs = {"data_cfg": {"dataset_name": case.dataset}}
    network.build_network({"model": case.network, **case.options})
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            # Activations of size 1, as a trained network has: torch's own initial weights let them
            # shrink layer by layer, down to where x^6.5 of GaitGL's pooling underflows in fp32.
            nn.init.kaiming_normal_(module.weight)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    if hasattr(network, "HPP") and hasattr(network.HPP, "p"):
        nn.init.uniform_(network.HPP.p, 4.0, 8.0)
    # Statistics of one pass, as training leaves them. With arbitrary ones a clip's signal drowns in
    # the biases, all clips embed nearly alike, and a wrong import would look like a right one.
    network.train()
    with torch.no_grad():
        network((_given(case, *_inputs(case, num_clips=4)), torch.zeros(4), None, None, None))
    for norm in norms:
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= 0.5 + torch.rand_like(norm.running_var)
    return network.eval()


def _inputs(case: Case, *, num_clips: int) -> tuple[Tensor, Tensor, Tensor]:
    height, width = case.size_px
    frames = torch.rand(num_clips, case.channels, _NUM_FRAMES, height, width)
    # Upright ellipses that sway: what a box of a person has to be found in.
    rows = torch.linspace(-1, 1, height)[:, None]
    columns = torch.linspace(-1, 1, width)[None, :]
    masks = torch.zeros(num_clips, 1, _NUM_FRAMES, height, width)
    for clip in range(num_clips):
        for frame in range(_NUM_FRAMES):
            middle = 0.2 * torch.randn(2)
            radii = 0.4 + 0.4 * torch.rand(2)
            inside = ((rows - middle[0]) / radii[0]) ** 2 + ((columns - middle[1]) / radii[1]) ** 2
            masks[clip, 0, frame] = inside < 1
    ratios = 0.25 + 0.65 * torch.rand(num_clips, _NUM_FRAMES)
    # A person's own look, or the clips would differ by noise alone.
    frames *= 0.2 + 0.8 * torch.rand(num_clips, 1, 1, height // 4, 1).repeat_interleave(4, dim=3)
    return frames, masks, ratios


def _embedded_by_them(
    case: Case, network: nn.Module, frames: Tensor, masks: Tensor, ratios: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Clip by clip, as some of their networks insist, and turned to [n, p, d]."""
    embeddings, logits = [], []
    for clip in range(len(frames)):
        one = slice(clip, clip + 1)
        given = _given(case, frames[one], masks[one], ratios[one])
        with torch.inference_mode():
            result = network((given, torch.zeros(1), None, None, None))
        embeddings.append(result["inference_feat"]["embeddings"])
        if "softmax" in result["training_feat"]:
            logits.append(result["training_feat"]["softmax"]["logits"])
    turned = torch.cat(embeddings).transpose(1, 2)
    return turned, torch.cat(logits).transpose(1, 2) if logits else None


def _given(case: Case, frames: Tensor, masks: Tensor, ratios: Tensor) -> list[Tensor]:
    """Clips in the order of axes that their networks take."""
    if case.has_masks:
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in _COLOURS)
        colours = (frames.transpose(1, 2) - mean) / deviation
        return [ratios, colours.contiguous(), masks[:, 0]]
    return [frames.transpose(1, 2) if case.channels > 1 else frames[:, 0]]


def _error(theirs: Tensor, ours: Tensor) -> float:
    difference = (theirs - ours).norm(dim=-1) / theirs.norm(dim=-1)
    return float(difference.max())


if __name__ == "__main__":
    sys.exit(main())
