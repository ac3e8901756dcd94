"""Checkpoints of OpenGait as saved models: read, recognised, renamed. Nothing in them is run.

A checkpoint is `torch.save({"model": state_dict, "optimizer": .., "scheduler": .., "iteration":
..})`, or a state dict alone. It says nothing of the network it belongs to; the names and shapes of
its tensors do. What they cannot say has to be told or stays at the release's value: the size of a
frame, which embedding is compared, the classes' names.

    read_checkpoint              file -> tensors, with bounds, without executing a pickle
    foreign_networks.recognise   tensors -> architecture, switches, origin of each of our tensors
    import_checkpoint            both, then a folder that `saved_model.load_model` reads
"""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raygait.errors import RecipeError, RegistryError
from raygait.experiments.foreign_networks import (
    NAMED_AT_MOST,
    Embedding,
    Recognised,
    Source,
    Weights,
    listed,
    recognise,
)
from raygait.recipes.saved_model import load_weights, save_model
from raygait.recipes.schema import Recipe, build_model, from_dict

# GaitGL for 20,000 subjects with Adam's two moments takes 4.1 GB.
MAX_FILE_MB = 8192
# The pickle beside the tensors: names, shapes and numbers. Those of a large network take 100 kB.
_MAX_PICKLE_BYTES = 64 * 2**20
_MAX_RECORDS = 100_000


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, with what it says about itself.

    Attributes:
        weights: Their name -> tensor, `module.` taken off.
        step: Iterations the file says it has seen; 0 if it does not say.
        sha256: Digest of the file.
        name: Its name, without the folder.
    """

    weights: Weights
    step: int
    sha256: str
    name: str


@dataclass(frozen=True)
class Imported:
    """An imported model on disk.

    Attributes:
        folder: What `saved_model.load_model` reads.
        recognised: What the checkpoint turned out to be.
        embedding: The embedding that the model gives.
        subjects: Names of the classes.
        step: Iterations of the checkpoint.
        tags: Where it comes from, for the registry.
        remarks: What a person should know: what was assumed where the file is silent.
    """

    folder: Path
    recognised: Recognised
    embedding: Embedding
    subjects: tuple[str, ...]
    step: int
    tags: dict[str, str]
    remarks: tuple[str, ...]

    def to_lines(self) -> list[str]:
        """What a person should know of it, a line each."""
        recognised = self.recognised
        subjects = f"{len(self.subjects)} subjects" if recognised.num_subjects else "no classifier"
        return [
            f"recognised: {recognised.title}; {subjects}, {self.step} iterations",
            f"embedding: {self.embedding if recognised.embeddings else 'the only one it has'}",
            *(f"note: {remark}" for remark in self.remarks),
            f"written: {self.folder}",
        ]


def read_checkpoint(path: Path, *, max_file_mb: int = MAX_FILE_MB) -> Checkpoint:
    """Read the tensors of a checkpoint from a stranger.

    Args:
        path: A `.pt` file as torch 1.6 and later write it.
        max_file_mb: Larger files are refused unread.

    Raises:
        RegistryError: Not such a file, too large, damaged, or it holds more than tensors.
    """
    _check_archive(path, max_file_mb)
    _check_pickle(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        # Mapped into memory: the optimiser's tensors, twice the weights, are never read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"asks for {_shown(named.group(1))}" if named else "holds more than tensors and numbers"
        )
        raise RegistryError(
            f"{path}: refused, nothing in it was run: its pickle {what}; "
            "save the state dict alone, torch.save(network.state_dict(), ..), and import that"
        ) from error
    except Exception as error:  # a spoilt stream can make torch's reader raise anything
        reason = _shown(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise RegistryError(f"{path}: not a checkpoint torch can read: {reason}") from error
    weights, step = _state_dict(content, path)
    return Checkpoint(weights, step, digest, path.name)


def _shown(text: str) -> str:
    """What a stranger wrote, without what a terminal would obey, and not all of it."""
    return ascii(text[:100])[1:-1]


def _check_pickle(path: Path) -> None:
    """Refuse a pickle that makes memory out of nothing, which torch's reader would let it do."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        for name in names:
            try:
                asked = {
                    str(argument)
                    for opcode, argument, _ in pickletools.genops(archive.read(name))
                    if opcode.name == "GLOBAL" or "UNICODE" in opcode.name
                }
            except Exception:  # torch's reader says what is wrong with it
                continue
            if any(words.split(" ")[-1] == "bytearray" for words in asked):
                raise RegistryError(
                    f"{path}: refused, nothing in it was run: its pickle asks for bytearray; no "
                    "tensor needs one"
                )


def _check_archive(path: Path, max_file_mb: int) -> None:
    size = path.stat().st_size
    if size > max_file_mb * 2**20:
        raise RegistryError(
            f"{path}: {size / 2**20:.0f} MB, expected at most {max_file_mb} MB; raise the limit if "
            "you trust the file"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            pickles = [r for r in records if r.filename.split("/")[-1] == "data.pkl"]
            if len(pickles) != 1:
                raise RegistryError(
                    f"{path}: a zip file, but not one of torch.save: it holds {len(pickles)} "
                    "data.pkl, expected 1"
                )
            # torch stores its records as they are. Anything else may unfold to any size.
            if any(r.compress_type != zipfile.ZIP_STORED for r in records):
                raise RegistryError(f"{path}: holds compressed records, expected none")
            if (
                len(records) > _MAX_RECORDS
                or pickles[0].file_size > _MAX_PICKLE_BYTES
                or sum(r.file_size for r in records) > size
            ):
                raise RegistryError(
                    f"{path}: {len(records)} records of {sum(r.file_size for r in records)} bytes, "
                    f"{pickles[0].file_size} of them a pickle, in a file of {size} bytes: not what "
                    "torch.save writes"
                )
            damaged = archive.testzip()
    except RegistryError:
        raise
    except (
        zipfile.BadZipFile,
        struct.error,
        OSError,  # a record is said to begin before the file
        EOFError,
        ValueError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        with path.open("rb") as file:
            begins_as_zip = file.read(4) == b"PK\x03\x04"
        reason = (
            "it begins as one but is cut off or damaged"
            if begins_as_zip
            else "it is something else, or torch older than 1.6 wrote it"
        )
        raise RegistryError(f"{path}: not a zip file as torch.save writes it: {reason}") from error
    if damaged is not None:
        raise RegistryError(f"{path}: record {damaged} is damaged, its checksum does not fit")


def _state_dict(content: object, path: Path) -> tuple[dict[str, Tensor], int]:
    found, step = content, 0
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        found = content["model"]
        iteration = content.get("iteration")
        if isinstance(iteration, int) and not isinstance(iteration, bool):
            step = max(iteration, 0)
    if not isinstance(found, Mapping) or not found:
        raise RegistryError(
            f"{path}: holds {type(found).__name__}, expected a state dict or one under 'model'"
        )
    # What a name holds may be printed on a terminal.
    strangers = [
        ascii(name)
        for name, value in found.items()
        if not isinstance(name, str) or not name.isprintable() or not isinstance(value, Tensor)
    ]
    if strangers:
        raise RegistryError(
            f"{path}: expected names of tensors, got something else under {listed(strangers)}"
        )
    weights = dict(found)
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights, step


def translate(weights: Weights, recognised: Recognised, *, where: str) -> dict[str, Tensor]:
    """Their tensors under our names and in our order, in float32.

    Args:
        weights: Their name -> tensor.
        recognised: What `recognise` made of them.
        where: File, for the message.

    Raises:
        RegistryError: Tensors are missing, unknown, of another shape or type, or hold values that
            are not finite; they are named as the file names them.
    """
    expected = {name: source.shape for source in recognised.sources for name in source.theirs}
    # Old versions of torch did not count batches, and nothing depends on it.
    optional = {name for name in expected if name.endswith(".num_batches_tracked")}
    missing = [
        f"missing {name} {expected[name]}" for name in expected.keys() - weights.keys() - optional
    ]
    unknown = [f"unknown {name} {tuple(weights[name].shape)}" for name in weights.keys() - expected]
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    faults = sorted(missing) + sorted(unknown) + shapes
    faults = faults or [
        f"{name} {fault}"
        for name in expected
        if name in weights and (fault := _fault(weights[name]))
    ]
    if faults:
        raise RegistryError(
            f"{where}: recognised as {recognised.title}, but the tensors do not fit: "
            f"{'; '.join(faults[:NAMED_AT_MOST])}"
            + (f"; and {len(faults) - NAMED_AT_MOST} more" if len(faults) > NAMED_AT_MOST else "")
        )
    return {source.ours: _made(source, weights) for source in recognised.sources}


def _fault(tensor: Tensor) -> str:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return f"is {tensor.layout} on {tensor.device}, expected a plain tensor"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "is larger than its storage"
    if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        counts = tensor.ndim == 0 and tensor.dtype == torch.int64 and int(tensor) >= 0
        return "" if counts else f"is {tensor.dtype}, expected floating-point numbers"
    if not tensor.numel():
        return f"is empty, {list(tensor.shape)}"
    # As float32, which the network will hold: a larger number is none there.
    if not bool(torch.isfinite(tensor.float()).all()):
        return "holds values that are not finite"
    if tensor.ndim == 0 and float(tensor) > 2**53:
        return f"is {float(tensor):g}, which no network needs"
    return ""


def _made(source: Source, weights: Weights) -> Tensor:
    if source.ours.endswith(".num_batches_tracked"):
        counter = weights.get(source.theirs[0])
        return torch.tensor(0 if counter is None else int(counter), dtype=torch.int64)
    parts = [weights[name].detach().to(torch.float32) for name in source.theirs]
    made = torch.cat(parts) if len(parts) > 1 else parts[0]
    if source.order == "scalar":
        made = made.reshape(())
    elif source.order == "by_part":
        made = made.reshape(-1, source.num_parts).T
        made = made.reshape(-1)
    return made.clone(memory_format=torch.contiguous_format)


def import_checkpoint(
    path: Path,
    folder: Path,
    *,
    embedding: Embedding = "default",
    input_size_px: tuple[int, int] | None = None,
    subjects: Sequence[str] | None = None,
    switches: Mapping[str, Any] | None = None,
    max_file_mb: int = MAX_FILE_MB,
) -> Imported:
    """Turn a checkpoint of OpenGait into a saved model.

    Args:
        path: The `.pt` file.
        folder: Written as `saved_model.save_model` does; files of the same names are replaced.
        embedding: `default`, what the release compares; or the vectors `before_norm` or
            `after_norm` where a network has both.
        input_size_px: Height and width of a frame in training, which no tensor tells; those of the
            release's own recipes if left out.
        subjects: Names of the classes, in order; numbered if left out.
        switches: Arguments of the model's constructor that no tensor tells, instead of the
            release's values.
        max_file_mb: Larger files are refused unread.

    Raises:
        RegistryError: The file cannot be read, recognised or fitted; the message names the
            tensors.
    """
    checkpoint = read_checkpoint(path, max_file_mb=max_file_mb)
    try:
        recognised = recognise(checkpoint.weights)
    except RegistryError as error:
        raise RegistryError(f"{path}: {error}") from error
    remarks = [*recognised.remarks]
    remarks += [text for name, text in recognised.untold.items() if name not in (switches or {})]
    if input_size_px is None:
        height, width = recognised.input_size_px
        remarks.insert(0, f"frames of {height} x {width} px, as the release's recipes have")
    if embedding == "default" and recognised.embeddings:
        first, second = recognised.embeddings
        remarks.append(f"the embedding {first}, which the release compares; the other is {second}")
    if subjects is None and recognised.num_subjects:
        remarks.append("subjects numbered from class-00000, since the file does not name them")
    recognised = dataclasses.replace(
        recognised,
        switches={**recognised.switches, **(switches or {})},
        input_size_px=input_size_px or recognised.input_size_px,
    )
    chosen = _choose(recognised, embedding, path)
    # First: a shape that passes here has that many numbers in the file behind it.
    weights = translate(checkpoint.weights, recognised, where=str(path))
    names = _subjects(recognised, subjects, path)
    try:
        recipe = _recipe(recognised, chosen, checkpoint)
        network = build_model(recipe, len(names))
    except RecipeError as error:
        raise RegistryError(f"{path}: recognised as {recognised.title}, but {error}") from error
    if network.num_parts != recognised.num_parts:
        height, width = recognised.input_size_px
        raise RegistryError(
            f"{path}: recognised as {recognised.title} with {recognised.num_parts} parts, but "
            f"frames of {height}x{width} px (height x width) would make {network.num_parts}; "
            "give the size it was trained on"
        )
    load_weights(network, weights, where=str(path))
    tags = {
        "origin": f"OpenGait checkpoint {checkpoint.name}",
        "origin_sha256": checkpoint.sha256,
        "embedding": chosen,
    }
    save_model(folder, network.eval(), recipe, names, step=checkpoint.step, origin=tags)
    return Imported(folder, recognised, chosen, names, checkpoint.step, tags, tuple(remarks))


def _choose(recognised: Recognised, embedding: Embedding, path: Path) -> Embedding:
    if embedding == "default":
        return recognised.embeddings[0] if recognised.embeddings else "default"
    if embedding not in recognised.embeddings:
        raise RegistryError(
            f"{path}: {recognised.title} has one embedding and no norm before or after which "
            f"another could be taken, got {embedding!r}"
        )
    return embedding


def _subjects(
    recognised: Recognised, subjects: Sequence[str] | None, path: Path
) -> tuple[str, ...]:
    # A network without a classifier has forgotten its subjects; a saved model names at least one.
    num_subjects = max(1, recognised.num_subjects)
    if subjects is None:
        return tuple(f"class-{number:05d}" for number in range(num_subjects))
    if len(subjects) != num_subjects or len(set(subjects)) != len(subjects):
        raise RegistryError(
            f"{path}: got {len(subjects)} names of subjects, {len(set(subjects))} of them "
            f"different, expected {num_subjects}"
        )
    return tuple(subjects)


def _recipe(recognised: Recognised, embedding: Embedding, checkpoint: Checkpoint) -> Recipe:
    model = {"architecture": recognised.architecture, **recognised.switches}
    if recognised.embeddings:
        if isinstance(model.get("recogniser"), dict):
            model["recogniser"] = {**model["recogniser"], "embedding": embedding}
        else:
            model["embedding"] = embedding
    height, width = recognised.input_size_px
    return from_dict(
        {
            "name": f"imported-{recognised.architecture}",
            "source": (
                f"Imported from {checkpoint.name}, sha256 {checkpoint.sha256}: "
                f"{recognised.title}. Trained elsewhere: the file does not hold how. Only `model` "
                "and the frames in `data` describe it; every other value is this house's default."
            ),
            "model": model,
            "data": {
                "modality": _modality(recognised.in_channels, height),
                "height_px": height,
                "width_px": width,
            },
        }
    )


def _modality(in_channels: int, height_px: int) -> str:
    if in_channels == 1:
        return "silhouettes" if height_px <= 64 else "silhouettes_128"
    return {2: "heatmaps_redrawn", 3: "rgb"}.get(in_channels, f"{in_channels} channels")
