"""From the folders of each benchmark, raw and as pickles, to the same rows, bit for bit."""

import dataclasses
import itertools

import numpy as np
import pytest

from raygait.datasets import DATASETS
from raygait.shards import codec, reader
from raygait.shards.ingest import ingest
from raygait.synthetic.benchmark_trees import BENCHMARKS, Layout, Walk, walks, write_tree
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.alignment import align

_NUM_WALKS = 3
_ALIGNED_BY_OWNERS = ("grew", "sustech1k")
_LAYOUTS: tuple[Layout, ...] = ("raw", "opengait")


def masks_of(walk: Walk) -> np.ndarray:
    seed = sum(map(ord, "".join(walk)))
    return render_masks(Walker.from_seed(seed), condition="nm-01", view_deg=90, num_frames=3)


def aligned_of(walk: Walk) -> np.ndarray:
    return np.stack([align(mask) for mask in masks_of(walk)])


@pytest.fixture(scope="module")
def rows(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], dict[Walk, np.ndarray]]:
    """Silhouettes of each walk, by benchmark and layout; one ingest of all of them."""
    root = tmp_path_factory.mktemp("benchmarks")
    sequences = []
    for benchmark, layout in itertools.product(BENCHMARKS, _LAYOUTS):
        is_aligned = layout == "opengait" or benchmark in _ALIGNED_BY_OWNERS
        below = f"{benchmark}-{layout}"
        write_tree(
            root / below,
            benchmark,
            layout,
            itertools.islice(walks(benchmark), _NUM_WALKS),
            frames=aligned_of if is_aligned else masks_of,
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


@pytest.mark.parametrize("layout", _LAYOUTS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_walk_is_a_row_with_the_aligned_silhouettes(
    benchmark: str, layout: Layout, rows: dict[tuple[str, str], dict[Walk, np.ndarray]]
) -> None:
    expected = list(itertools.islice(walks(benchmark), _NUM_WALKS))
    found = rows[benchmark, layout]
    assert sorted(found) == sorted(expected)
    for walk in expected:
        np.testing.assert_array_equal(found[walk], aligned_of(walk))
