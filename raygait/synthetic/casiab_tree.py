"""Synthetic walkers on disk, named as CASIA-B names its silhouettes.

    ROOT/001/nm-01/090/001-nm-01-090-001.png

A leaf folder appears whole or not at all, and a second run writes only what is missing, so that a
killed run is finished by running it again. What it was writing stays in a folder whose name begins
with a dot; readers pass over it, and it may be removed. `.walkers.json` in the root says what the
tree is made from, so that another seed or other drawings are not taken for the same ones.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from raygait.errors import DatasetError
from raygait.synthetic.walkers import WALKERS_VERSION, Walker, parse_condition, render_masks

CONDITIONS = tuple(
    f"{kind}-{number:02d}"
    for kind, count in (("nm", 6), ("bg", 2), ("cl", 2))
    for number in range(1, count + 1)
)
VIEWS = tuple(f"{degrees:03d}" for degrees in range(0, 181, 18))


@dataclass(frozen=True)
class TreeReport:
    """What a run did: leaf folders (sequences) and frames written now, and found in place."""

    num_written: int
    num_frames_written: int
    num_found: int


def walker_of(seed: int, number: int) -> Walker:
    """The person with a number in the trees of a seed, whoever else is in the tree.

    Args:
        seed: The tree's seed.
        number: Subject number, from 1.
    """
    words = np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(2, np.uint64)
    return Walker.from_seed(int(words[0]) << 64 | int(words[1]))


def write(
    root: Path | str,
    *,
    num_subjects: int,
    views: Sequence[str] = VIEWS,
    conditions: Sequence[str] = CONDITIONS,
    num_frames: int = 60,
    seed: int = 0,
    first_subject: int = 1,
    num_workers: int = 1,
) -> TreeReport:
    """Write what is missing of a tree of silhouettes.

    Args:
        root: Where the tree goes; made if missing.
        num_subjects: People.
        views: Azimuths, as their folders are named: `000` ... `180`.
        conditions: Walks of each person, `nm-01`, `bg-01`, `cl-01`, ...
        num_frames: Frames of each sequence.
        seed: Equal seeds give the same people and the same bytes.
        first_subject: Number of the first person; trees that share no number share nobody.
        num_workers: Processes that write; 1 writes in this one.

    Returns:
        What was written and what was there.

    Raises:
        ValueError: A count below 1 or beyond three digits, or a view or condition of another
            form.
        DatasetError: The root is not a folder, or what is in it comes from another seed, another
            number of frames, other drawings or nobody knows what.
    """
    root = Path(root)
    for name, value in {
        "num_subjects": num_subjects,
        "num_frames": num_frames,
        "first_subject": first_subject,
        "num_workers": num_workers,
    }.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    if first_subject + num_subjects > 1000:
        raise ValueError(
            f"subject numbers have three digits, got {first_subject} to "
            f"{first_subject + num_subjects - 1}"
        )
    if num_frames > 999:
        raise ValueError(f"frame numbers have three digits, got num_frames {num_frames}")
    for condition in conditions:
        parse_condition(condition)
    for view in views:
        if len(view) != 3 or not view.isdecimal():
            raise ValueError(f"a view is three digits, such as 090, got {view!r}")
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is a file; the tree needs a folder of its own")
    root.mkdir(parents=True, exist_ok=True)

    leaves = [
        (number, condition, view)
        for number in range(first_subject, first_subject + num_subjects)
        for condition in conditions
        for view in views
    ]
    _claim(
        root,
        {"seed": seed, "num_frames": num_frames, "version": WALKERS_VERSION},
        [root / f"{number:03d}" / condition / view for number, condition, view in leaves],
    )
    jobs = [
        (root, seed, number, condition, view, num_frames)
        for number, condition, view in leaves
        if not _is_written(root / f"{number:03d}" / condition / view, num_frames)
    ]
    if num_workers == 1 or len(jobs) < 2:
        for job in jobs:
            _write_leaf(*job)
    else:
        # Not forked: a caller may have threads (torch, Ray), and a fork can inherit their locks.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
            for done in [pool.submit(_write_leaf, *job) for job in jobs]:
                done.result()
    return TreeReport(len(jobs), len(jobs) * num_frames, len(leaves) - len(jobs))


def _claim(root: Path, made_from: dict[str, int], leaves: list[Path]) -> None:
    """Write what the tree is made from, or check that it is what it was begun with."""
    record = root / ".walkers.json"
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = None
    except ValueError as error:
        raise DatasetError(f"{record} is damaged ({error}); choose another root") from error
    if found is None:
        unknown = next((leaf for leaf in leaves if leaf.exists()), None)
        if unknown is not None:
            raise DatasetError(
                f"{unknown} is there, but no {record.name} says what it was made from; choose "
                "another root or remove the folder"
            )
        handle, partial = tempfile.mkstemp(dir=root, prefix=".walkers-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(made_from, file)
        Path(partial).chmod(0o644)
        Path(partial).replace(record)
    elif found != made_from:
        raise DatasetError(
            f"{root} was made from {found}, but {made_from} was asked for; choose another root or "
            "remove the folder"
        )


def _is_written(leaf: Path, num_frames: int) -> bool:
    if not leaf.is_dir():
        return False
    # Folders appear by rename, so one that exists is whole.
    found = sum(1 for path in leaf.iterdir() if path.suffix == ".png")
    if found != num_frames:
        raise DatasetError(
            f"{leaf} holds {found} frames, but {num_frames} were asked for: it comes from other "
            f"settings; choose another root or remove the folder"
        )
    return True


def _write_leaf(
    root: Path, seed: int, number: int, condition: str, view: str, num_frames: int
) -> None:
    subject = f"{number:03d}"
    leaf = root / subject / condition / view
    masks = render_masks(
        walker_of(seed, number), condition=condition, view_deg=float(view), num_frames=num_frames
    )
    leaf.parent.mkdir(parents=True, exist_ok=True)
    # Beside the tree's leaves but with a dot in front, so that no reader takes it for a view.
    partial = Path(tempfile.mkdtemp(prefix=f".{view}-", dir=leaf.parent))
    try:
        for frame, mask in enumerate(masks, start=1):
            done, png = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            assert done, "a uint8 mask can always be encoded"
            (partial / f"{subject}-{condition}-{view}-{frame:03d}.png").write_bytes(png.tobytes())
        partial.chmod(0o755)
        try:
            partial.rename(leaf)
        except OSError:
            # Another run finished this leaf meanwhile; its bytes are the same.
            if not _is_written(leaf, num_frames):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
