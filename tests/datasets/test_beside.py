"""What owners ship beside their masks: the index says where it is, and looks at none of it."""

from pathlib import Path

import pytest

from raygait.datasets import DATASETS
from raygait.sequences import GaitSequence
from raygait.video.pose_files import pose_paths


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def places(root: Path, benchmark: str) -> dict[str, str]:
    return {one.source: one.poses for one in DATASETS[benchmark].index(root)}


def left_out(root: Path, benchmark: str) -> dict[str, str]:
    return dict(DATASETS[benchmark].survey(root).left_out)


def test_gait3d_has_its_poses_in_a_tree_of_their_own(tmp_path: Path) -> None:
    leaf = "0000/camid0_videoid2"
    touch(tmp_path, f"2D_Silhouettes/{leaf}/seq0/1.png", f"2D_Silhouettes/{leaf}/seq1/1.png")
    assert set(places(tmp_path, "gait3d").values()) == {""}
    touch(tmp_path, f"2D_Poses/{leaf}/seq0/1.txt", f"0001/{leaf[5:]}/seq0/seq0.pkl")
    assert places(tmp_path, "gait3d") == {
        # Whether each has some is found out when it is read.
        f"2D_Silhouettes/{leaf}/{seq}": f"2D_Poses/{leaf}/{seq}"
        for seq in ("seq0", "seq1")
    } | {f"0001/{leaf[5:]}/seq0": ""}
    assert left_out(tmp_path, "gait3d") == {}


def test_grew_has_its_poses_in_the_folders_of_the_masks(tmp_path: Path) -> None:
    folders = ("train/00001/a", "test/gallery/00001/b", "test/gallery/00001/c", "test/probe/d")
    for folder in folders:
        touch(tmp_path, f"{folder}/00001.png", f"{folder}/00001_3d_pose.txt")
    assert places(tmp_path, "grew") == dict.fromkeys(folders, "")
    touch(tmp_path, "test/probe/d/00001_2d_pose.txt")
    assert places(tmp_path, "grew") == {folder: folder for folder in folders}
    assert left_out(tmp_path, "grew") == {}


@pytest.mark.parametrize("name", ["1_2D_pose.txt", "1_2d_pose.json", "1_2d_POSE.JSON"])
def test_grew_has_poses_where_their_reader_finds_some(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "train/00001/a/1.png", f"train/00001/a/{name}")
    assert places(tmp_path, "grew") == {"train/00001/a": "train/00001/a"}
    assert [path.name for path in pose_paths(tmp_path / "train/00001/a")] == [name]


@pytest.mark.parametrize(
    "root", ["", "pose", "Pose/AlphaPose", "OpenPose", "POSE/openpose", "AlphaPose"]
)
def test_poses_of_oumvlp_lie_beside_the_masks_or_in_a_folder_there(
    root: str, tmp_path: Path
) -> None:
    touch(tmp_path, "Silhouette_090-01/00001/0001.png", "Silhouette_000-00/00001/0001.png")
    assert set(places(tmp_path, "oumvlp").values()) == {""}
    touch(tmp_path, f"{root}/00001/090_01/0001.json".lstrip("/"))
    below = f"{root}/" if root else ""
    assert places(tmp_path, "oumvlp") == {
        "Silhouette_090-01/00001": f"{below}00001/090_01",
        "Silhouette_000-00/00001": f"{below}00001/000_00",
    }
    assert left_out(tmp_path, "oumvlp") == {}


def test_of_poses_that_are_there_twice_the_first_are_taken_and_the_others_named(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "Silhouette_090-01/00001/0001.png")
    for root in ("OpenPose", "AlphaPose"):
        touch(tmp_path, f"{root}/00001/090_01/0001.json")
    assert set(places(tmp_path, "oumvlp").values()) == {"AlphaPose/00001/090_01"}
    assert left_out(tmp_path, "oumvlp") == {"OpenPose": "poses once more, left out"}


@pytest.mark.parametrize("root", ["Pose", "POSE"])
def test_poses_that_are_twice_in_one_folder_are_named_too(root: str, tmp_path: Path) -> None:
    touch(tmp_path, "Silhouette_090-01/00001/0001.png", "00001/090_01/0001.json")
    for name in ("OpenPose", "AlphaPose"):
        touch(tmp_path, f"{root}/{name}/00001/090_01/0001.json")
    assert set(places(tmp_path, "oumvlp").values()) == {"00001/090_01"}
    assert left_out(tmp_path, "oumvlp") == dict.fromkeys(
        (f"{root}/AlphaPose", f"{root}/OpenPose"), "poses once more, left out"
    )


@pytest.mark.parametrize("root", ["AlphaPose", "openpose", "POSE"])
def test_poses_beside_the_tree_of_opengait_are_nobody(root: str, tmp_path: Path) -> None:
    touch(tmp_path, "00001/01/090/0001.png", f"{root}/00001/090_01/0001.json")
    assert places(tmp_path, "oumvlp") == {"00001/01/090": ""}
    assert left_out(tmp_path, "oumvlp") == {
        root: "poses without folders Silhouette_* beside them, left out"
    }


def test_places_without_a_folder_in_them_are_named_and_promise_nothing(tmp_path: Path) -> None:
    gait3d, ccpg, oumvlp = (tmp_path / name for name in ("Gait3D", "CCPG", "OUMVLP"))
    touch(gait3d, "2D_Silhouettes/0000/camid0_videoid2/seq0/1.png")
    (gait3d / "2D_Poses").mkdir()
    assert set(places(gait3d, "gait3d").values()) == {""}
    assert left_out(gait3d, "gait3d") == {"2D_Poses": "no folder in it, left out"}

    touch(ccpg, "CCPG_G_SIL/000/U0_D0/01_0/1.png", "CCPG_D_MASK_FACE_SHOE/README")
    assert set(colours(ccpg, "ccpg").values()) == {("", "")}
    assert left_out(ccpg, "ccpg").keys() == {
        *("CCPG_D_MASK_FACE_SHOE", "CCPG_D_MASK_FACE_SHOE/README")
    }

    touch(oumvlp, "Silhouette_090-01/00001/0001.png", "Pose/OpenPose/00001/090_01/0001.json")
    (oumvlp / "AlphaPose").mkdir()
    (oumvlp / "Pose/AlphaPose").mkdir()
    assert set(places(oumvlp, "oumvlp").values()) == {"Pose/OpenPose/00001/090_01"}
    assert left_out(oumvlp, "oumvlp") == dict.fromkeys(
        ("AlphaPose", "Pose/AlphaPose"), "no folder in it, left out"
    )


def test_masks_and_pickles_of_oumvlp_are_not_taken_for_poses(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Silhouette_090-01/00001/0001.png",
        "00001/00/090/090.pkl",
        "00002/00/090/090.pkl",
        "00002/090_00/0001.json",
        "00003/090_00/0001.json",
        "smpl/00001/090_00/0001.json",
    )
    assert places(tmp_path, "oumvlp") == {
        "Silhouette_090-01/00001": "00001/090_01",
        "00001/00/090": "",
        "00002/00/090": "",
    }
    assert left_out(tmp_path, "oumvlp")["smpl"] == "no subject of the benchmark, left out"


def test_poses_of_sustech1k_are_a_folder_of_the_walk(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "0000/00-nm/000/Sils_aligned/1.png",
        "0000/00-nm/045/Sils_raw/1.png",
        "0000/00-nm/090/06-090-Camera-Sils_aligned.pkl",
    )
    assert set(places(tmp_path, "sustech1k").values()) == {""}
    touch(tmp_path, "0000/00-nm/000/Pose/1.json")
    assert places(tmp_path, "sustech1k") == {
        "0000/00-nm/000/Sils_aligned": "0000/00-nm/000/Pose",
        "0000/00-nm/045/Sils_raw": "0000/00-nm/045/Pose",
        "0000/00-nm/090": "",
    }


def colours(root: Path, benchmark: str) -> dict[str, tuple[str, str]]:
    index = DATASETS[benchmark].index(root)
    return {one.source: (one.colours, one.colour_masks) for one in index}


def test_ccpg_has_its_colours_in_a_tree_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "CCPG_G_SIL/000/U0_D0/01_0/1.png", "001/U0_D0/01_0/01_0-aligned-sils.pkl")
    assert set(colours(tmp_path, "ccpg").values()) == {("", "")}
    touch(tmp_path, "CCPG_D_MASK_FACE_SHOE/000/U0_D0/01_0/1.jpg")
    assert colours(tmp_path, "ccpg") == {
        "CCPG_G_SIL/000/U0_D0/01_0": ("CCPG_D_MASK_FACE_SHOE/000/U0_D0/01_0", ""),
        "001/U0_D0/01_0": ("", ""),
    }
    assert left_out(tmp_path, "ccpg") == {}


def test_colours_of_sustech1k_want_the_masks_that_were_cut_with_them(tmp_path: Path) -> None:
    leaf = "0000/00-nm/000"
    touch(tmp_path, f"{leaf}/Sils_aligned/1.png", f"{leaf}/RGB_raw/1.jpg")
    touch(tmp_path, "0000/00-nm/045/Sils_aligned/1.png")
    assert set(colours(tmp_path, "sustech1k").values()) == {("", "")}
    touch(tmp_path, f"{leaf}/Sils_raw/1.png", "0000/00-nm/090/Sils_raw/1.png")
    assert colours(tmp_path, "sustech1k") == {
        f"{leaf}/Sils_aligned": (f"{leaf}/RGB_raw", f"{leaf}/Sils_raw"),
        "0000/00-nm/045/Sils_aligned": ("0000/00-nm/045/RGB_raw", "0000/00-nm/045/Sils_raw"),
        "0000/00-nm/090/Sils_raw": ("0000/00-nm/090/RGB_raw", ""),
    }


def test_a_survey_says_how_many_are_expected_to_have_what(tmp_path: Path) -> None:
    touch(tmp_path, "0000/00-nm/000/Sils_raw/1.png", "0000/00-nm/045/Sils_raw/1.png")
    plain = DATASETS["sustech1k"].survey(tmp_path)
    assert plain.beside == {}
    assert "beside" not in plain.to_text()
    touch(tmp_path, "0000/00-nm/000/Pose/1.json", "0000/00-nm/000/RGB_raw/1.jpg")
    report = DATASETS["sustech1k"].survey(tmp_path)
    assert report.to_dict()["beside"] == {"colours": 2, "poses": 2}
    assert "  beside masks: colours 2, poses 2\n" in report.to_text()


def test_a_sequence_with_nothing_beside_it_is_written_as_before() -> None:
    plain = GaitSequence("gait3d", "0000", "a", "b", "x", "cropped")
    assert plain.to_dict().keys() == {
        *("dataset", "subject", "condition", "view", "source", "kind")
    }
    beside = GaitSequence("gait3d", "0000", "a", "b", "x", "cropped", poses="y")
    assert GaitSequence(**beside.to_dict()) == beside  # type: ignore[arg-type]
    assert beside.beside == ("y",)
