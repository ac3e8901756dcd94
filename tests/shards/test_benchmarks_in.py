"""From the folders of each benchmark, raw and as pickles, to the same rows, bit for bit."""

import dataclasses
import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raygait.datasets import DATASETS
from raygait.shards import codec, reader
from raygait.shards.ingest import ingest
from raygait.synthetic.benchmark_trees import BENCHMARKS, Layout, Walk, walks, write_tree
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.alignment import align

_ALIGNED_BY_OWNERS = ("grew", "sustech1k")
_CUT_BY_OWNERS = ("gait3d", "ccpg")
_LAYOUTS: tuple[Layout, ...] = ("raw", "opengait")


def walks_of(benchmark: str) -> list[Walk]:
    """A few walks; of GREW one that trains, a subject's two of the gallery, and a probe."""
    some = list(walks(benchmark, num_subjects=1))
    return some[4:8] if benchmark == "grew" else [some[0], some[len(some) // 2], some[-1]]


def masks_of(walk: Walk) -> np.ndarray:
    """Masks as a camera saw them, other ones for every walk."""
    seed = zlib.crc32("/".join(walk).encode())
    return render_masks(Walker.from_seed(seed), condition="nm-01", view_deg=90, num_frames=3)


def cut_of(walk: Walk) -> list[np.ndarray]:
    """The same masks, each cut to its person."""
    cut = []
    for mask in masks_of(walk):
        rows, columns = np.nonzero(mask)
        cut.append(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return cut


def aligned_of(benchmark: str, walk: Walk) -> np.ndarray:
    frames = cut_of(walk) if benchmark in _CUT_BY_OWNERS else masks_of(walk)
    return np.stack([align(mask) for mask in frames])


def frames_of(benchmark: str, layout: Layout) -> Callable[[Walk], Any]:
    if layout == "opengait" or benchmark in _ALIGNED_BY_OWNERS:
        return lambda walk: aligned_of(benchmark, walk)
    return cut_of if benchmark in _CUT_BY_OWNERS else masks_of


@pytest.fixture(scope="module")
def rows(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], dict[Walk, np.ndarray]]:
    """Silhouettes of each walk, by benchmark and layout; one ingest of all of them."""
    root = tmp_path_factory.mktemp("benchmarks")
    sequences = []
    for benchmark, layout in itertools.product(BENCHMARKS, _LAYOUTS):
        below = f"{benchmark}-{layout}"
        write_tree(
            root / below,
            benchmark,
            layout,
            walks_of(benchmark),
            frames=frames_of(benchmark, layout),
        )
        sequences += [
            dataclasses.replace(sequence, source=f"{below}/{sequence.source}")
            for sequence in DATASETS[benchmark].index(root / below, dataset=below)
        ]
    out = root / "shards"
    report = ingest(sequences, root, out, num_workers=2)
    assert not report.rejects
    found: dict[tuple[str, str], dict[Walk, np.ndarray]] = {}
    for row in reader.read_rows(out).to_pylist():
        benchmark, layout = row["dataset"].split("-")
        walk = Walk(row["subject"], row["condition"], row["view"])
        found.setdefault((benchmark, layout), {})[walk] = codec.decode_silhouettes(
            row["silhouettes"]
        )
    return found


def test_the_walks_of_these_tests_can_be_told_apart_and_so_can_cut_masks_from_whole_ones() -> None:
    for benchmark in BENCHMARKS:
        frames = {aligned_of(benchmark, walk).tobytes() for walk in walks_of(benchmark)}
        assert len(frames) == len(walks_of(benchmark)) >= 3
        if benchmark in _CUT_BY_OWNERS:
            for walk in walks_of(benchmark):
                assert len({mask.shape for mask in cut_of(walk)}) > 1
                assert (aligned_of("casiab", walk) != aligned_of(benchmark, walk)).any()
    assert [walk.condition for walk in walks_of("grew")] == ["00", "01", "02", "03"]


@pytest.mark.parametrize("layout", _LAYOUTS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_walk_is_a_row_with_the_aligned_silhouettes(
    benchmark: str, layout: Layout, rows: dict[tuple[str, str], dict[Walk, np.ndarray]]
) -> None:
    expected = walks_of(benchmark)
    found = rows[benchmark, layout]
    assert sorted(found) == sorted(expected)
    for walk in expected:
        np.testing.assert_array_equal(found[walk], aligned_of(benchmark, walk))
