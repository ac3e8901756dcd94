"""Every benchmark at full size, in both layouts: the papers' numbers of people, walks, splits."""

import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raygait.datasets import DATASETS
from raygait.datasets.splits import split
from raygait.sequences import GaitSequence
from raygait.synthetic.benchmark_trees import Layout, walks, write_tree

# Subjects and sequences by part, as the papers print them (`datasets.expected` says which).
PRINTED = {
    "casiab": {"all": (124, 13_640)},
    "oumvlp": {"all": (10_307, 288_596)},
    "grew": {"train": (20_000, 102_887), "gallery": (6_000, 12_000), "probe": (1, 12_000)},
    "gait3d": {"all": (4_000, 25_309)},
    "ccpg": {"all": (200, 14_000)},  # the paper prints the subjects only
    "sustech1k": {"all": (1_050, 25_239)},
}
# Split -> subjects that train and that are tested.
SPLITS = {
    "casiab": {"casiab-lt": (74, 50), "casiab-mt": (62, 62), "casiab-st": (24, 100)},
    "oumvlp": {"oumvlp": (5153, 5154)},
    "grew": {"grew": (20_000, 6_000)},
    "gait3d": {"gait3d:PATH": (3000, 1000)},
    "ccpg": {"ccpg": (100, 100)},
    "sustech1k": {"sustech1k:PATH": (250, 800)},
}
_MAX_INDEX_S = 60.0
"""Of 270,000 sequences."""


@pytest.fixture
def root() -> Iterator[Path]:
    # Not `tmp_path`: pytest keeps some of those, and this has half a million folders.
    folder = Path(tempfile.mkdtemp(prefix="raygait-full-size-"))
    yield folder / "tree"
    shutil.rmtree(folder)


def check(root: Path, benchmark: str, layout: Layout) -> float:
    num_written = write_tree(root, benchmark, layout, walks(benchmark))
    started_s = time.process_time()
    scan = DATASETS[benchmark].scan(root)
    index_s = time.process_time() - started_s
    report = DATASETS[benchmark].report(scan)
    assert report.num_sequences == num_written == len({s.source for s in scan.sequences})
    assert {
        name: (numbers["num_subjects"], numbers["num_sequences"])
        for name, numbers in report.groups.items()
    } == PRINTED[benchmark]
    assert report.is_complete, report.to_text()
    assert not report.left_out
    subjects = {sequence.subject for sequence in scan.sequences}
    for name, (num_train, num_test) in SPLITS[benchmark].items():
        partition = write_partition(root.parent, scan.sequences, num_train)
        found = split(name.replace("PATH", str(partition)), subjects)
        assert (len(found.train), len(found.test)) == (num_train, num_test)
        assert {*found.train, *found.embedded} == subjects
    return index_s


def write_partition(folder: Path, sequences: list[GaitSequence], num_train: int) -> Path:
    """A partition file of the owners' form: some train, a walk of each other one is a probe.

    Which subjects the owners list may not be shipped; that many of them are taken in order.
    """
    first_walk: dict[str, str] = {}
    for sequence in sequences:
        walk = f"{sequence.subject}-{sequence.condition}-{sequence.view}"
        first_walk.setdefault(sequence.subject, walk)
    subjects = sorted(first_walk)
    train, test = subjects[:num_train], subjects[num_train:]
    path = folder / "partition.json"
    probes = [first_walk[subject] for subject in test]
    path.write_text(json.dumps({"TRAIN_SET": train, "TEST_SET": test, "PROBE_SET": probes}))
    return path


@pytest.mark.parametrize("benchmark", ["casiab", "ccpg"])
def test_a_small_benchmark_has_the_numbers_that_its_paper_prints(
    benchmark: str, root: Path
) -> None:
    check(root, benchmark, "opengait")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", ["raw", "opengait"])
@pytest.mark.parametrize("benchmark", sorted(PRINTED))
def test_a_benchmark_has_the_numbers_that_its_paper_prints(
    benchmark: str, layout: Layout, root: Path
) -> None:
    index_s = check(root, benchmark, layout)
    num_sequences = sum(number for _, number in PRINTED[benchmark].values())
    assert index_s <= _MAX_INDEX_S * max(1.0, num_sequences / 270_000)
    # The sequences themselves, and no more: 0.5 kB each and what pytest has loaded.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000  # kB
