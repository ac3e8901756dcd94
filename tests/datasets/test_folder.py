"""Anybody's folders: what a folder of frames is taken for, and what is beside what."""

import pickle
import struct
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.datasets import DATASETS
from raygait.sequences import SourceKind

BLACK = np.zeros((48, 48, 3), np.uint8)
COLOURS = np.full((48, 48, 3), (1, 2, 3), np.uint8)


def write(folder: Path, **pictures: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / f"{name.removeprefix('f')}.png"), picture)


def kind_of(root: Path, dataset: str = "folder") -> SourceKind:
    [sequence] = DATASETS[dataset].index(root)
    return sequence.kind


@pytest.mark.parametrize("black", [0, 1, 2])
def test_a_black_frame_makes_no_mask_folder_of_pictures_wherever_it_is(
    black: int, tmp_path: Path
) -> None:
    frames = {f"f{n}": BLACK if n == black else COLOURS for n in range(3)}
    write(tmp_path / "anna/coat/front", **frames)
    assert kind_of(tmp_path) == "images"


def test_one_picture_in_colours_is_looked_at_by_its_name_and_not_by_chance(tmp_path: Path) -> None:
    for order in (range(9), reversed(range(9))):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for number in order:
            write(root / "a/b/c", **{f"f{number}": COLOURS if number == 4 else BLACK})
        assert kind_of(root) == "images"


def test_pictures_of_other_endings_beside_masks_are_pictures(tmp_path: Path) -> None:
    write(tmp_path / "a/b/c", f1=BLACK)
    cv2.imwrite(str(tmp_path / "a/b/c/2.jpg"), COLOURS)
    assert kind_of(tmp_path) == "images"


@pytest.mark.parametrize("dataset", ["casiab", "folder"])
@pytest.mark.parametrize(
    ("name", "expected", "note"),
    [
        ("cache", "silhouettes", "a pickle that is not named for silhouettes beside pictures"),
        ("front", "pickles", "pictures beside pickles, which are read instead of them"),
        ("x-aligned-sils", "pickles", "pictures beside pickles, which are read instead of them"),
    ],
)
def test_beside_masks_only_pickles_of_silhouettes_are_read_and_a_note_says_which(
    dataset: str, name: str, expected: str, note: str, tmp_path: Path
) -> None:
    write(tmp_path / "001/coat/front", f1=BLACK)
    (tmp_path / f"001/coat/front/{name}.pkl").write_bytes(pickle.dumps(BLACK))
    assert kind_of(tmp_path, dataset) == expected
    [one] = DATASETS[dataset].survey(tmp_path).left_out
    assert one.path == "001/coat/front"
    assert one.why.startswith(note)


def test_a_pickle_of_something_else_beside_pictures_of_a_scene_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a/b/c")
    cv2.imwrite(str(tmp_path / "a/b/c/2.jpg"), COLOURS)
    (tmp_path / "a/b/c/calibration.pkl").write_bytes(b"")
    assert kind_of(tmp_path) == "images"


def test_of_sustech1k_point_clouds_do_not_hide_masks(tmp_path: Path) -> None:
    leaf = tmp_path / "0000/00-nm/000"
    write(leaf / "Sils_aligned", f1=BLACK)
    (leaf / "00-000-LiDAR-PCDs.pkl").write_bytes(b"")
    assert kind_of(tmp_path, "sustech1k") == "aligned"
    (leaf / "06-000-Camera-Sils_aligned.pkl").write_bytes(b"")
    assert kind_of(tmp_path, "sustech1k") == "pickles"


def test_a_folder_named_as_a_frame_is_none(tmp_path: Path) -> None:
    (tmp_path / "001/nm-01/000/1.pkl").mkdir(parents=True)
    (tmp_path / "001/nm-01/018/1.png").mkdir(parents=True)
    report = DATASETS["casiab"].survey(tmp_path)
    assert report.unreadable == (
        ("001/nm-01/000", "no frame in it"),
        ("001/nm-01/018", "no frame in it"),
    )
    assert {one.path for one in report.left_out} == {"001/nm-01/000/1.pkl", "001/nm-01/018/1.png"}


@pytest.mark.parametrize("side_px", [0, 64, 2**20], ids=["none", "small", "huge"])
def test_a_huge_png_is_not_read_by_the_index(side_px: int, tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    with (tmp_path / "a/b/c/1.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", side_px, side_px))
        file.truncate(2**27)
    tracemalloc.start()
    assert kind_of(tmp_path) == "silhouettes"
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
