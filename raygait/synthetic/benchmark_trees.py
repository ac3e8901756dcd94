"""The folders of the benchmarks, filled with synthetic walkers or with next to nothing.

`walks` lists who walks where in a benchmark at full size, with the numbers its paper prints;
`write_tree` lays some or all of them out as the owners distribute the data, or as OpenGait arranges
it. Frames are a walker's, for tests that look at them, or one tiny file linked into every folder,
for tests that count folders.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

Layout = Literal["raw", "opengait"]
BENCHMARKS = ("casiab", "oumvlp", "grew", "gait3d", "ccpg", "sustech1k")
"""Names of the benchmarks that can be laid out."""

Frames = UInt8[np.ndarray, "t h w"]


class Walk(NamedTuple):
    """One walk, labelled as OpenGait's tree labels it."""

    subject: str
    condition: str
    view: str


def walks(benchmark: str, *, num_subjects: int | None = None) -> Iterator[Walk]:
    """Every walk of a benchmark, or those of its first subjects.

    Args:
        benchmark: One of `BENCHMARKS`.
        num_subjects: How many subjects of each part (training, gallery); all of them if None.
            Probes of GREW are two for each gallery subject.
    """
    return _WALKS[benchmark](num_subjects)


def folder_of(benchmark: str, layout: Layout, walk: Walk) -> str:
    """Where the frames of a walk lie below the root."""
    subject, condition, view = walk
    if layout == "opengait":
        return f"{subject}/{condition}/{view}"
    match benchmark:
        case "oumvlp":
            return f"Silhouette_{view}-{condition}/{subject}"
        case "grew" if condition == "00":
            return f"train/{subject.removesuffix('train')}/{view}"
        case "grew" if subject == "probe":
            return f"test/probe/{view}"
        case "grew":
            return f"test/gallery/{subject}/{view}"
        case "gait3d":
            return f"2D_Silhouettes/{subject}/{condition}/{view}"
        case "ccpg":
            return f"CCPG_G_SIL/{subject}/{condition}/{view}"
        case "sustech1k":
            return f"{subject}/{condition}/{view}/Sils_aligned"
        case _:
            return f"{subject}/{condition}/{view}"


def file_of(benchmark: str, layout: Layout, walk: Walk, frame: int = 0) -> str:
    """Name of the pickle of a walk, or of one of its images."""
    subject, condition, view = walk
    if layout == "opengait":
        prefix = {"ccpg": f"{view}-aligned-sils", "sustech1k": f"06-{view}-Camera-Sils_aligned"}
        return f"{prefix.get(benchmark, view)}.pkl"
    if benchmark == "casiab":
        return f"{subject}-{condition}-{view}-{frame + 1:03d}.png"
    return f"{frame + 1:05d}.png"


def write_tree(
    root: Path | str,
    benchmark: str,
    layout: Layout,
    some: Iterable[Walk],
    *,
    frames: Callable[[Walk], Frames] | None = None,
) -> int:
    """Lay walks out on disk; returns how many.

    Args:
        root: Folder of the tree; made if missing.
        benchmark: One of `BENCHMARKS`.
        layout: `raw`, as its owners distribute it, or `opengait`.
        some: Which walks.
        frames: Gives the masks of a walk, uint8 [t, h, w]: images of them in `raw`, one pickle in
            `opengait`. Without it every folder holds one file of one black frame, which is a link
            to that of the first.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    made: set[str] = set()
    first = ""
    number = 0
    for walk in some:
        number += 1
        folder = f"{root}/{folder_of(benchmark, layout, walk)}"
        parent = folder.rpartition("/")[0]
        if parent not in made:
            Path(parent).mkdir(parents=True, exist_ok=True)
            made.add(parent)
        Path(folder).mkdir()
        if frames is not None:
            _write(Path(folder), benchmark, layout, walk, frames(walk))
            continue
        path = f"{folder}/{file_of(benchmark, layout, walk)}"
        try:
            if not first:
                raise OSError
            os.link(first, path)
        except OSError:  # the first, or one that has all the links that its file system allows
            _write(Path(folder), benchmark, layout, walk, np.zeros((1, 64, 64), np.uint8))
            first = path
    return number


def _write(folder: Path, benchmark: str, layout: Layout, walk: Walk, frames: Frames) -> None:
    if layout == "opengait":
        content = io.BytesIO()
        pickle.dump(frames, content)
        (folder / file_of(benchmark, layout, walk)).write_bytes(content.getvalue())
        return
    for index, frame in enumerate(frames):
        _, png = cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        (folder / file_of(benchmark, layout, walk, index)).write_bytes(png.tobytes())


# Who walks where. Numbers of subjects, views and sequences are those that the papers print.


def _casiab(num_subjects: int | None) -> Iterator[Walk]:
    for subject in range(1, 1 + (num_subjects or 124)):
        for kind, count in (("bg", 2), ("cl", 2), ("nm", 6)):
            for number in range(1, count + 1):
                for view in range(0, 181, 18):
                    yield Walk(f"{subject:03d}", f"{kind}-{number:02d}", f"{view:03d}")


def _oumvlp(num_subjects: int | None) -> Iterator[Walk]:
    for subject in range(1, 1 + (num_subjects or 10_307)):
        for condition in ("00", "01"):
            for view in (*range(0, 91, 15), *range(180, 271, 15)):
                yield Walk(f"{subject:05d}", condition, f"{view:03d}")


def _grew(num_subjects: int | None) -> Iterator[Walk]:
    num_train, num_test = num_subjects or 20_000, num_subjects or 6_000
    # 102,887 walks of 20,000 people: five each, and a sixth of some.
    num_more = 2_887 if num_subjects is None else 0
    video = iter(range(10**9))
    for subject in range(1, 1 + num_train):
        for _ in range(6 if subject <= num_more else 5):
            yield Walk(f"{subject:05d}train", "00", _video_name(next(video)))
    for subject in range(1, 1 + num_test):
        for condition in ("01", "02"):
            yield Walk(f"{subject:05d}", condition, _video_name(next(video)))
    for _ in range(2 * num_test):
        yield Walk("probe", "03", _video_name(next(video)))


def _video_name(number: int) -> str:
    """Eight characters; later numbers sort later."""
    return f"v{number:07d}"


def _gait3d(num_subjects: int | None) -> Iterator[Walk]:
    # 25,309 walks of 4,000 people: six each, and a seventh of some.
    num_more = 1_309 if num_subjects is None else 0
    for subject in range(num_subjects or 4_000):
        for walk in range(7 if subject < num_more else 6):
            camera = (subject + walk) % 39
            yield Walk(f"{subject:04d}", f"camid{camera}_videoid{1 + walk // 2}", f"seq{walk % 2}")


def _ccpg(num_subjects: int | None) -> Iterator[Walk]:
    conditions = ("U0_D0", "U0_D0_BG", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3")
    for subject in range(num_subjects or 200):
        for condition in conditions:
            for camera in range(1, 11):
                yield Walk(f"{subject:03d}", condition, f"{camera:02d}_0")


def _sustech1k(num_subjects: int | None) -> Iterator[Walk]:
    absent = {352, 1047, 1048, *range(1050, 1055)}
    subjects = [number for number in range(1_058) if number not in absent][:num_subjects]
    views = [f"{degrees:03d}" for degrees in range(0, 360, 45)]
    views += ["000-far", "180-far", "090-near", "270-near"]
    # 25,239 walks of 1,050 people: two walks of twelve views each, and one view more of some.
    num_more = 39 if num_subjects is None else 0
    for place, subject in enumerate(subjects):
        for condition in ("00-nm", "01-bg" if place % 2 else "01-nm"):
            for view in views:
                yield Walk(f"{subject:04d}", condition, view)
        if place < num_more:
            yield Walk(f"{subject:04d}", "02-cl", views[0])


_WALKS: dict[str, Callable[[int | None], Iterator[Walk]]] = {
    "casiab": _casiab,
    "oumvlp": _oumvlp,
    "grew": _grew,
    "gait3d": _gait3d,
    "ccpg": _ccpg,
    "sustech1k": _sustech1k,
}
