"""A root one level off, or with more in it than the benchmark: no folder becomes a person."""

import logging
from pathlib import Path

import pytest

from raygait.datasets import DATASETS
from raygait.errors import DatasetError
from raygait.synthetic.benchmark_trees import BENCHMARKS, Layout, Walk, walks, write_tree

_RAW_FOLDERS = [name for name in BENCHMARKS if name not in ("casiab", "sustech1k")]
"""Benchmarks whose owners' folders tell by their names that the data is as they distribute it."""


def masks(root: Path, path: str) -> None:
    (root / path).mkdir(parents=True)
    (root / path / "1.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("benchmark", "path", "root"),
    [
        ("oumvlp", "raw/Silhouette_000-00/00001", ""),
        ("oumvlp", "OUMVLP/00001/00/000", ""),
        ("grew", "test/gallery/00001/aa", "test"),
        ("gait3d", "Gait3D/2D_Silhouettes/0000/camid0_videoid2/seq0", ""),
        ("gait3d", "3D_Meshes/0000/camid0_videoid2", ""),
        ("ccpg", "CCPG/CCPG_G_SIL/000/U0_D0/01_0", ""),
        ("sustech1k", "people/00-nm/000/Sils_aligned", ""),
    ],
)
def test_a_root_without_one_subject_of_the_benchmark_is_an_error(
    benchmark: str, path: str, root: str, tmp_path: Path
) -> None:
    masks(tmp_path, path)
    with pytest.raises(DatasetError, match=f"not one subject of {benchmark}.*is this the root"):
        DATASETS[benchmark].index(tmp_path / root)


@pytest.mark.parametrize("layout", ["raw", "opengait"])
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_one_subject_of_a_benchmark_is_enough(
    benchmark: str, layout: Layout, tmp_path: Path
) -> None:
    last = list(walks(benchmark, num_subjects=2))[-1]
    write_tree(tmp_path, benchmark, layout, [last])
    [found] = DATASETS[benchmark].index(tmp_path)
    assert (found.subject, found.condition) == last[:2]


def test_any_tree_can_be_read_as_casiab_and_a_warning_says_that_it_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks(tmp_path, "anna/coat/front")
    with caplog.at_level(logging.WARNING):
        [found] = DATASETS["casiab"].index(tmp_path)
    assert found.subject == "anna"
    assert "not one subject of casiab" in caplog.text


def test_a_tree_of_ones_own_that_looks_like_a_benchmark_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks(tmp_path, "Silhouette_000-00/00001/x")
    masks(tmp_path, "train/00001/x")
    with caplog.at_level(logging.WARNING):
        found = DATASETS["folder"].index(tmp_path)
    assert [s.subject for s in found] == ["Silhouette_000-00", "train"]
    assert caplog.text == ""


@pytest.mark.parametrize("benchmark", _RAW_FOLDERS)
def test_beside_the_owners_folders_only_known_subjects_are_people(
    benchmark: str, tmp_path: Path
) -> None:
    first, *_, last = walks(benchmark, num_subjects=2)
    write_tree(tmp_path, benchmark, "raw", [first])
    write_tree(tmp_path, benchmark, "opengait", [last, Walk("3D_Meshes", "0000", "camid0")])
    report = DATASETS[benchmark].survey(tmp_path)
    found = {s.subject for s in DATASETS[benchmark].index(tmp_path)}
    assert found == {first.subject, last.subject}
    assert [(one.path, one.why) for one in report.left_out] == [
        ("3D_Meshes", "no subject of the benchmark, left out")
    ]
