"""One run at a time writes a folder of embeddings, and deletes nothing by mistake."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from raygait.errors import EmbeddingsError
from raygait.evaluation.embedding_files import (
    Manifest,
    file_names,
    file_path,
    read_manifest,
    remove_file,
)
from raygait.shards import reader

_LOCK = ".lock"
# Begins the name of a folder below the result that a model is fetched to. What a run
# that was killed leaves of them goes with the next.
_MODEL_PREFIX = ".model-"


@contextlib.contextmanager
def claim(root: Path, model: Path | Callable[[Path], Path]) -> Iterator[Path]:
    """Be the only run that writes a folder of embeddings, with the model at hand.

    A run that is refused, or that ends before anything is written, leaves no lock, and no folder
    unless several end at the same time.

    Args:
        root: Folder of embeddings, made if missing.
        model: Folder of a saved model, or what fetches one into the folder that it is given, which
            is below `root` because all workers see that place. It goes with the run.

    Yields:
        Where the model is.

    Raises:
        EmbeddingsError: It is a folder of shards, cannot be made, or another run is writing it.
    """
    with _folder(root), _only_run(root), _local(model, root) as folder:
        yield folder


def check_folder(root: Path, planned: Manifest, *, overwrite: bool) -> None:
    """Refuse to delete by mistake what took hours to compute.

    Args:
        root: Folder of embeddings.
        planned: What it is to hold.
        overwrite: Whether all that it holds may be replaced.

    Raises:
        EmbeddingsError: It holds embeddings of another model, of other subjects or other shards.
    """
    if overwrite:
        return
    there = read_manifest(root)
    if there is None or not any(file_path(root, name).is_file() for name in there.files):
        return
    if there.model.digests != planned.model.digests:
        raise EmbeddingsError(
            f"{root} holds embeddings of another model: {there.model}; asked for is "
            f"{planned.model}. Use another folder, or overwrite"
        )
    if there.subjects != planned.subjects:
        ours, theirs = (
            "all subjects" if each is None else f"{len(each)} subjects, such as {[*each][:3]}"
            for each in (planned.subjects, there.subjects)
        )
        raise EmbeddingsError(
            f"{root} holds embeddings of {theirs}; asked for are {ours}. Use another folder, or "
            "overwrite"
        )
    # A folder of shards that was moved still has those that were embedded.
    if there.shards != planned.shards and not there.files.keys() & planned.files.keys():
        raise EmbeddingsError(
            f"{root} holds embeddings of the shards in {there.shards}; asked for are those in "
            f"{planned.shards}, which have none in common. Use another folder, or overwrite"
        )


def remove_replaced(root: Path, planned: Manifest) -> int:
    """Delete the files that are no part of what is planned; how many hold embeddings."""
    replaced = file_names(root) - planned.files.keys()
    num_files = sum(file_path(root, name).is_file() for name in replaced)
    for name in replaced:
        remove_file(root, name)
    return num_files


@contextlib.contextmanager
def _folder(root: Path) -> Iterator[None]:
    """Make the folder; an error before anything is written into it takes it away again."""
    made: list[Path] = []
    try:
        try:
            if reader.read_manifest(root) is not None:
                raise EmbeddingsError(
                    f"{root} is a folder of shards: name another one for the embeddings"
                )
            made += [folder for folder in (root, *root.parents) if not folder.exists()]
            root.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:
            if root.is_symlink() or (root.exists() and not root.is_dir()):
                raise _no_folder(root, error) from error
            raise _taken_away(root) from error
        except OSError as error:
            raise _no_folder(root, error) from error
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty, what is there stays; or never made
                folder.rmdir()
        raise


@contextlib.contextmanager
def _only_run(root: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock goes with the process, however it ends."""
    path = root / _LOCK
    try:
        # Whatever lies under that name is not emptied, followed or waited for.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(path, flags, 0o666), "rb+", buffering=0)
    except FileNotFoundError as error:
        raise _taken_away(root) from error
    except OSError as error:
        raise _no_folder(root, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Else the run that held it took the file away, with a folder that it left empty.
            is_ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            raise EmbeddingsError(f"{root}: another run is writing here; wait for it to end")
        try:
            yield
        finally:
            # A run that was refused leaves nothing, not even this.
            with contextlib.suppress(OSError):  # somebody has taken the folder away
                if [each.name for each in root.iterdir()] == [_LOCK]:
                    path.unlink()


def _taken_away(root: Path) -> EmbeddingsError:
    return EmbeddingsError(
        f"{root}: another run has just ended and taken the folder away; start this one again"
    )


def _no_folder(root: Path, error: OSError) -> EmbeddingsError:
    return EmbeddingsError(f"{root}: cannot be a folder of embeddings: {error}")


@contextlib.contextmanager
def _local(model: Path | Callable[[Path], Path], root: Path) -> Iterator[Path]:
    """The model's folder. Whoever comes here holds the lock: other copies are of no living run."""
    for leftover in root.glob(f"{_MODEL_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if isinstance(model, Path):
        yield model.absolute()
        return
    with tempfile.TemporaryDirectory(prefix=_MODEL_PREFIX, dir=root) as scratch:
        yield model(Path(scratch)).absolute()
