"""Synthetic walkers on disk: CASIA-B's names, whole leaves, equal bytes."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.datasets import casiab
from raygait.errors import DatasetError
from raygait.synthetic import casiab_tree
from raygait.synthetic.walkers import WALKERS_VERSION, render_masks

SMALL = {"views": ["036", "090"], "conditions": ["nm-01", "cl-01"], "num_frames": 3}


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.png"))
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    report = casiab_tree.write(root, num_subjects=2, seed=5, **SMALL)
    assert report == casiab_tree.TreeReport(num_written=8, num_frames_written=24, num_found=0)
    return root


def test_files_are_named_as_casiab_names_them(tree: Path) -> None:
    names = list(contents(tree))
    assert len(names) == 24
    assert names[0] == "001/cl-01/036/001-cl-01-036-001.png"
    assert names[-1] == "002/nm-01/090/002-nm-01-090-003.png"


def test_defaults_are_casiabs_ten_walks_and_eleven_views() -> None:
    walks = "nm-01 nm-02 nm-03 nm-04 nm-05 nm-06 bg-01 bg-02 cl-01 cl-02"
    assert " ".join(casiab_tree.CONDITIONS) == walks
    assert casiab_tree.VIEWS[:3] == ("000", "018", "036")
    assert (len(casiab_tree.VIEWS), casiab_tree.VIEWS[-1]) == (11, "180")


def test_files_hold_the_masks_of_the_walkers(tree: Path) -> None:
    masks = render_masks(casiab_tree.walker_of(5, 2), condition="nm-01", view_deg=90, num_frames=3)
    for frame, mask in enumerate(masks, start=1):
        path = tree / f"002/nm-01/090/002-nm-01-090-{frame:03d}.png"
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert read.ndim == 2
        np.testing.assert_array_equal(read, mask)


def test_the_casiab_adapter_reads_it(tree: Path) -> None:
    sequences = casiab.index(tree)
    assert [(s.subject, s.condition, s.view) for s in sequences[:3]] == [
        ("001", "cl-01", "036"),
        ("001", "cl-01", "090"),
        ("001", "nm-01", "036"),
    ]


def test_a_second_run_writes_only_what_is_missing(tree: Path, tmp_path: Path) -> None:
    casiab_tree.write(tmp_path, num_subjects=2, seed=5, **SMALL)
    kept = tmp_path / "001/nm-01/036/001-nm-01-036-001.png"
    written_at = kept.stat().st_mtime_ns
    lost = tmp_path / "002/cl-01/090"
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()
    report = casiab_tree.write(tmp_path, num_subjects=2, seed=5, **SMALL)
    assert report == casiab_tree.TreeReport(num_written=1, num_frames_written=3, num_found=7)
    assert kept.stat().st_mtime_ns == written_at
    assert contents(tmp_path) == contents(tree)


def test_what_a_killed_run_left_is_neither_a_leaf_nor_in_the_way(
    tree: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "001/nm-01/.036-killed"
    partial.mkdir(parents=True)
    (partial / "001-nm-01-036-001.png").write_bytes(b"half a fi")
    casiab_tree.write(tmp_path, num_subjects=2, seed=5, **SMALL)
    assert [s.view for s in casiab.index(tmp_path)] == ["036", "090"] * 4
    (partial / "001-nm-01-036-001.png").unlink()
    assert contents(tmp_path) == contents(tree)


def test_a_person_does_not_depend_on_who_else_is_in_the_tree(tree: Path, tmp_path: Path) -> None:
    casiab_tree.write(tmp_path, num_subjects=1, first_subject=2, seed=5, **SMALL)
    alone = contents(tmp_path)
    assert alone == {name: png for name, png in contents(tree).items() if name in alone}
    assert len(alone) == 12


def test_another_seed_gives_other_people(tree: Path, tmp_path: Path) -> None:
    casiab_tree.write(tmp_path, num_subjects=2, seed=6, **SMALL)
    other = contents(tmp_path)
    assert all(other[name] != png for name, png in contents(tree).items())


def test_several_processes_write_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    casiab_tree.write(tmp_path, num_subjects=2, seed=5, num_workers=2, **SMALL)
    assert contents(tmp_path) == contents(tree)


@pytest.mark.parametrize(
    "other", [{"num_frames": 4}, {"seed": 6}], ids=["number of frames", "seed"]
)
def test_a_tree_of_other_settings_is_not_mixed_up(tree: Path, other: dict) -> None:
    before = contents(tree)
    with pytest.raises(DatasetError, match=r"was made from .* but .* was asked for"):
        casiab_tree.write(tree, **{"num_subjects": 3, "seed": 5, **SMALL, **other})
    assert contents(tree) == before


def test_a_tree_of_other_drawings_is_not_mixed_up(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(casiab_tree, "WALKERS_VERSION", WALKERS_VERSION + 1)
    with pytest.raises(DatasetError, match="was made from"):
        casiab_tree.write(tree, num_subjects=2, seed=5, **SMALL)


def test_a_tree_that_does_not_say_what_it_was_made_from_is_not_mixed_up(tmp_path: Path) -> None:
    casiab_tree.write(tmp_path, num_subjects=1, seed=5, **SMALL)
    (tmp_path / ".walkers.json").unlink()
    with pytest.raises(DatasetError, match=r"no \.walkers\.json says what it was made from"):
        casiab_tree.write(tmp_path, num_subjects=1, seed=5, **SMALL)


def test_a_leaf_with_frames_missing_is_not_taken_for_whole(tmp_path: Path) -> None:
    casiab_tree.write(tmp_path, num_subjects=1, seed=5, **SMALL)
    (tmp_path / "001/nm-01/036/001-nm-01-036-002.png").unlink()
    with pytest.raises(DatasetError, match="holds 2 frames, but 3 were asked for"):
        casiab_tree.write(tmp_path, num_subjects=1, seed=5, **SMALL)


def test_a_file_as_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(DatasetError, match="is a file"):
        casiab_tree.write(tmp_path / "root", num_subjects=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_subjects": 0}, "num_subjects is at least 1"),
        ({"num_frames": 0}, "num_frames is at least 1"),
        ({"num_frames": 1000}, "frame numbers have three digits"),
        ({"num_workers": 0}, "num_workers is at least 1"),
        ({"first_subject": 0}, "first_subject is at least 1"),
        ({"first_subject": 999, "num_subjects": 2}, "999 to 1000"),
        ({"views": ["90"]}, "three digits"),
        ({"views": ["9/0"]}, "three digits"),
        ({"conditions": ["nm-1"]}, "nm-01"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__() if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    wrong: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        casiab_tree.write(tmp_path / "tree", **{"num_subjects": 1, **SMALL, **wrong})
    assert not (tmp_path / "tree").exists()
