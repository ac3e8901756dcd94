"""What lies beside raw masks, from the folders of a benchmark to the rows."""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from raygait.datasets import DATASETS
from raygait.errors import SettingsMismatch
from raygait.shards import codec, reader
from raygait.shards.ingest import IngestReport, ingest
from raygait.shards.verify import verify
from raygait.video.alignment import align
from raygait.video.redraw import redraw
from raygait.video.settings import Modality, VideoSettings
from tests.video.raw_layouts import (
    boxes_of,
    colours_of,
    cut,
    walk,
    write_colours,
    write_images,
    write_people,
    write_texts,
)

CLIP = walk(num_frames=5)
PLACES = ("source", "poses", "colours", "colour_masks")
SEQ = "0000/camid0_videoid2/seq0"


def run(
    root: Path, out: Path, benchmark: str, *modalities: Modality, beside: bool = True
) -> IngestReport:
    settings = VideoSettings(modalities=("silhouettes", *modalities))
    sequences = DATASETS[benchmark].index(root)
    return ingest(sequences, root, out, settings, num_workers=1, beside=beside)


def rows(out: Path) -> dict[str, Mapping[str, Any]]:
    assert verify(out) == []
    return {row["source"]: row for row in reader.read_rows(out).to_pylist()}


def joints_of(row: Mapping[str, Any]) -> np.ndarray:
    return np.array(row["joints"], np.float32).reshape(-1, 17, 3)


def rejects(out: Path) -> dict[str, tuple[str, str]]:
    found = reader.read_rejects(out).to_pylist()
    return {row["source"]: (row["stage"], row["reason"]) for row in found}


@pytest.fixture
def gait3d(tmp_path: Path) -> Path:
    """Two walks with masks."""
    for seq in (SEQ, SEQ.replace("seq0", "seq1")):
        write_masks(tmp_path / "Gait3D", seq)
    return tmp_path / "Gait3D"


def write_masks(root: Path, seq: str) -> None:
    masks = cut(CLIP.masks, boxes_of(CLIP.masks))
    write_images(root / "2D_Silhouettes" / seq, masks, "human_crop_f{}.png")


def write_gait3d_poses(root: Path, seq: str = SEQ) -> np.ndarray:
    offsets = np.float32([[left, top, 0] for top, _, left, _ in boxes_of(CLIP.masks)])
    joints = CLIP.joints - offsets[:, None]
    write_texts(root / "2D_Poses" / seq, joints, "human_crop_f{}.txt")
    return joints


@pytest.mark.ray
def test_poses_are_read_when_asked_for_and_else_nobody_notices_them(
    ray_session: None, gait3d: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="raygait"):
        plain = run(gait3d, tmp_path / "plain", "gait3d", "joints")
    assert "; of cropped no joints" in caplog.text
    assert {row["joints"] is None for row in rows(tmp_path / "plain").values()} == {True}
    for seq in (SEQ, SEQ.replace("seq0", "seq1")):
        joints = write_gait3d_poses(gait3d, seq)
    for again in (
        run(gait3d, tmp_path / "plain", "gait3d"),
        run(gait3d, tmp_path / "plain", "gait3d", "joints", beside=False),
    ):
        assert (again.num_parts_written, again.num_parts_skipped) == (0, plain.num_parts_written)
    with pytest.raises(SettingsMismatch, match="joints"):
        run(gait3d, tmp_path / "plain", "gait3d", "joints")

    run(gait3d, tmp_path / "out", "gait3d", "joints", "heatmaps_redrawn")
    found = rows(tmp_path / "out")
    assert len(found) == 2
    for source, row in rows(tmp_path / "plain").items():
        assert found[source]["silhouettes"] == row["silhouettes"]
        np.testing.assert_array_equal(joints_of(found[source]), joints)
        drawn = codec.decode_heatmaps(found[source]["heatmaps_redrawn"])
        np.testing.assert_array_equal(drawn, redraw(joints))
        assert found[source]["source_sha256"] != row["source_sha256"]


@pytest.mark.ray
def test_a_pose_that_changes_has_its_part_done_again(
    ray_session: None, gait3d: Path, tmp_path: Path
) -> None:
    for seq in (SEQ, SEQ.replace("seq0", "seq1")):
        write_gait3d_poses(gait3d, seq)
    run(gait3d, tmp_path / "out", "gait3d", "joints")
    assert run(gait3d, tmp_path / "out", "gait3d", "joints").num_parts_written == 0
    (gait3d / "2D_Poses" / SEQ / "human_crop_f2.txt").unlink()
    assert run(gait3d, tmp_path / "out", "gait3d", "joints").num_parts_written == 1
    row = rows(tmp_path / "out")[f"2D_Silhouettes/{SEQ}"]
    assert row["frame_indices"] == [0, 2, 3, 4]
    assert (row["left_out_indices"], row["left_out_reasons"]) == ([1], ["no pose"])
    again = run(gait3d, tmp_path / "out", "gait3d", "joints")
    assert again.left_out == {"no pose": 1}
    assert "\nframes left out of rows: 1 no pose\n" in again.to_text()
    for path in (tmp_path / "out").rglob("part-*.json"):
        fields = json.loads(path.read_text())
        if not fields["left_out"]:
            path.write_text(json.dumps({k: v for k, v in fields.items() if k != "left_out"}))
    uncounted = run(gait3d, tmp_path / "out", "gait3d", "joints")
    assert uncounted.num_parts_written == 0
    assert "1 no pose (parts not counted: 1)\n" in uncounted.to_text()


@pytest.mark.ray
def test_a_walk_without_poses_or_with_a_bad_one_is_a_reject(
    ray_session: None, gait3d: Path, tmp_path: Path
) -> None:
    for number in range(2, 6):
        seq = SEQ.replace("seq0", f"seq{number}")
        shutil.copytree(gait3d / "2D_Silhouettes" / SEQ, gait3d / "2D_Silhouettes" / seq)
        write_gait3d_poses(gait3d, seq)
    (gait3d / "2D_Poses" / SEQ.replace("seq0", "seq2") / "human_crop_f2.txt").write_text("1,2,3")
    for path in (gait3d / "2D_Poses" / SEQ.replace("seq0", "seq5")).iterdir():
        path.write_text("1,2,3")
    outside = gait3d / "2D_Poses" / SEQ.replace("seq0", "seq3")
    shutil.move(outside, tmp_path / "outside")
    outside.symlink_to(tmp_path / "outside")
    (gait3d / "2D_Poses" / SEQ.replace("seq0", "seq1")).mkdir()
    report = run(gait3d, tmp_path / "out", "gait3d", "joints")
    assert report.num_rows == 2
    damaged = rows(tmp_path / "out")[f"2D_Silhouettes/{SEQ.replace('seq0', 'seq2')}"]
    assert (damaged["left_out_indices"], damaged["left_out_reasons"]) == ([1], ["bad pose"])
    assert rejects(tmp_path / "out") == {
        f"2D_Silhouettes/{SEQ}": ("decode", "no-pose"),
        f"2D_Silhouettes/{SEQ.replace('seq0', 'seq1')}": ("decode", "no-pose"),
        f"2D_Silhouettes/{SEQ.replace('seq0', 'seq3')}": ("decode", "outside-root"),
        f"2D_Silhouettes/{SEQ.replace('seq0', 'seq5')}": ("decode", "no-pose"),
    }


# The same frames, raw and as OpenGait's scripts pickle them.


def write_ccpg(root: Path) -> Path:
    boxes = boxes_of(CLIP.masks)
    write_images(root / "CCPG_G_SIL/000/U0_D0/01_0", cut(CLIP.masks, boxes))
    colours = cut(colours_of(CLIP.masks), boxes)
    write_colours(root / "CCPG_D_MASK_FACE_SHOE/000/U0_D0/01_0", colours)
    return root


def by_areas(mask: np.ndarray) -> np.ndarray:
    """An aligned mask of 64×64, scaled by areas, as CCPG's script does."""
    rows = np.flatnonzero(mask.any(axis=1))
    person = mask[rows[0] : rows[-1] + 1]
    width_px = int(64 * (person.shape[1] / person.shape[0]))
    small = cv2.resize(person, (width_px, 64), interpolation=cv2.INTER_AREA)
    total = small.sum(dtype=np.int64)
    centre = int(np.flatnonzero(small.sum(axis=0, dtype=np.int64).cumsum() > total / 2)[0])
    return np.pad(small, ((0, 0), (32, 32)))[:, centre : centre + 64]


def pickle_ccpg(root: Path, raw: Path) -> Path:
    leaf = root / "000/U0_D0/01_0"
    leaf.mkdir(parents=True)
    pictures = sorted((raw / "CCPG_D_MASK_FACE_SHOE/000/U0_D0/01_0").iterdir())
    rgbs = [cv2.imread(str(path)) for path in pictures]
    masks = [
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        for path in sorted((raw / "CCPG_G_SIL/000/U0_D0/01_0").iterdir())
    ]
    arrays = {
        "rgbs": [cv2.resize(rgb, (128, 128))[..., ::-1].transpose(2, 0, 1) for rgb in rgbs],
        "sils": [cv2.resize(mask, (128, 128)) for mask in masks],
        "ratios": [rgb.shape[1] / rgb.shape[0] for rgb in rgbs],
        "aligned-sils": [by_areas(mask) for mask in masks],
    }
    for name, frames in arrays.items():
        (leaf / f"01_0-{name}.pkl").write_bytes(pickle.dumps(np.asarray(frames)))
    return root


def write_grew(root: Path) -> None:
    folder = root / "test/probe/etaGVnWf"
    write_images(folder, [align(mask) for mask in CLIP.masks], "{:05d}.png")
    write_texts(folder, CLIP.joints, "{:05d}_2d_pose.txt")


def write_oumvlp(root: Path) -> None:
    write_images(root / "Silhouette_090-01/00001", list(CLIP.masks))
    passer_by = walk(seed=8, num_frames=5).joints + np.float32([90, 0, 0])
    people = [list(pair) for pair in zip(passer_by, CLIP.joints, strict=True)]
    write_people(root / "AlphaPose/00001/090_01", people)


def write_sustech1k(root: Path) -> None:
    leaf, boxes = root / "0000/00-nm/000", boxes_of(CLIP.masks)
    masks = cut(CLIP.masks, boxes)
    write_images(leaf / "Sils_aligned", [align(mask) for mask in masks], "1662{:012d}.png")
    write_images(leaf / "Sils_raw", masks, "1662{:012d}.png")
    write_colours(leaf / "RGB_raw", cut(colours_of(CLIP.masks), boxes), "1662{:012d}.jpg")
    write_people(leaf / "Pose", [[joints] for joints in CLIP.joints], "1662{:012d}.json")
    (leaf / "Pose/1662000000000002.json").unlink()
    (leaf / "Sils_raw/1662000000000004.png").unlink()


def pickle_gait3d(root: Path, joints: np.ndarray) -> None:
    leaf = root / SEQ
    leaf.mkdir(parents=True)
    masks = [align(mask) for mask in cut(CLIP.masks, boxes_of(CLIP.masks))]
    (leaf / "0_pose.pkl").write_bytes(pickle.dumps(joints.astype(np.float64)))
    (leaf / "1_sil.pkl").write_bytes(pickle.dumps(np.asarray(masks)))


@pytest.fixture(scope="module")
def mixed(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A row of each benchmark, by the name of its tree; all of one ingest."""
    root = tmp_path_factory.mktemp("mixed")
    write_grew(root / "grew")
    write_oumvlp(root / "oumvlp")
    write_sustech1k(root / "sustech1k")
    write_masks(root / "gait3d", SEQ)
    pickle_gait3d(root / "gait3d-pickles", write_gait3d_poses(root / "gait3d"))
    pickle_ccpg(root / "ccpg-pickles", write_ccpg(root / "ccpg"))
    sequences = []
    for tree in sorted(root.iterdir()):
        for one in DATASETS[tree.name.split("-")[0]].index(tree):
            places = {name: f"{tree.name}/{getattr(one, name)}" for name in PLACES}
            moved = {name: place for name, place in places.items() if getattr(one, name)}
            sequences.append(dataclasses.replace(one, dataset=tree.name, **moved))
    settings = VideoSettings(modalities=("joints", "heatmaps_redrawn", "rgb"))
    assert not ingest(sequences, root, root / "out", settings, num_workers=1, beside=True).rejects
    found = {row["dataset"]: row for row in rows(root / "out").values()}
    assert len(found) == len(sequences) == 7
    return found


@pytest.mark.ray
def test_each_benchmarks_poses_become_joints(mixed: dict[str, Any]) -> None:
    for name in ("grew", "oumvlp"):
        np.testing.assert_array_equal(joints_of(mixed[name]), CLIP.joints)
        np.testing.assert_array_equal(
            codec.decode_silhouettes(mixed[name]["silhouettes"]),
            np.stack([align(mask) for mask in CLIP.masks]),
        )
        assert mixed[name]["rgb"] is None


@pytest.mark.ray
def test_raw_colours_of_ccpg_are_those_of_its_pickles(mixed: dict[str, Any]) -> None:
    ours, theirs = mixed["ccpg"], mixed["ccpg-pickles"]
    assert ours["num_frames"] == 5
    # Bit for bit what GaitEdge reads.
    for column in ("rgb", "rgb_masks", "rgb_ratio", "frame_indices", "left_out_indices"):
        assert ours[column] == theirs[column], column
    # Within interpolation: by areas there, bicubic here.
    silhouettes, by_area = (
        codec.decode_silhouettes(row["silhouettes"]).astype(float) for row in (ours, theirs)
    )
    assert 0 < np.abs(silhouettes - by_area).mean() < 3
    assert ((silhouettes > 127) == (by_area > 127)).mean() > 0.99


@pytest.mark.ray
def test_raw_poses_of_gait3d_are_those_of_its_pickles(mixed: dict[str, Any]) -> None:
    ours, theirs = mixed["gait3d"], mixed["gait3d-pickles"]
    for column in ("silhouettes", "joints", "heatmaps_redrawn", "frame_indices"):
        assert ours[column] is not None
        assert ours[column] == theirs[column], column


@pytest.mark.ray
def test_colours_of_sustech1k_come_with_the_masks_of_their_crop(mixed: dict[str, Any]) -> None:
    row, kept = mixed["sustech1k"], [0, 2, 4]
    assert row["frame_indices"] == kept
    assert (row["left_out_indices"], row["left_out_reasons"]) == ([1, 3], ["no pose", "no mask"])
    np.testing.assert_array_equal(joints_of(row), CLIP.joints[kept])
    masks = [cut(CLIP.masks, boxes_of(CLIP.masks))[frame] for frame in kept]
    expected = np.stack([cv2.resize(mask, (128, 128)) for mask in masks])
    np.testing.assert_array_equal(codec.decode_silhouettes(row["rgb_masks"]), expected)
    assert row["rgb_ratio"] == pytest.approx([mask.shape[1] / mask.shape[0] for mask in masks])


@pytest.mark.ray
def test_masks_alone_are_read_as_before_whatever_lies_beside_them(
    ray_session: None, tmp_path: Path
) -> None:
    raw = write_ccpg(tmp_path / "raw")
    for path in (raw / "CCPG_D_MASK_FACE_SHOE/000/U0_D0/01_0").iterdir():
        path.write_bytes(b"no picture")
    assert run(raw, tmp_path / "out", "ccpg").num_rows == 1
    [row] = rows(tmp_path / "out").values()
    assert row["rgb"] is row["rgb_masks"] is row["rgb_ratio"] is row["joints"] is None
    assert run(raw, tmp_path / "rgb-out", "ccpg", "rgb").num_rows == 0
    assert rejects(tmp_path / "rgb-out") == {"CCPG_G_SIL/000/U0_D0/01_0": ("decode", "no-colours")}
