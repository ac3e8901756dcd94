"""What lies beside raw masks, from the folders of a benchmark to the rows."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from tests.video.raw_layouts import boxes_of, cut, walk, write_images, write_people, write_texts

CLIP = walk(num_frames=5)
SEQ = "0000/camid0_videoid2/seq0"


def run(root: Path, out: Path, benchmark: str, *modalities: Modality) -> IngestReport:
    settings = VideoSettings(modalities=("silhouettes", *modalities))
    return ingest(DATASETS[benchmark].index(root), root, out, settings, num_workers=1)


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
    root = tmp_path / "Gait3D"
    masks = cut(CLIP.masks, boxes_of(CLIP.masks))
    for seq in (SEQ, SEQ.replace("seq0", "seq1")):
        write_images(root / "2D_Silhouettes" / seq, masks, "human_crop_f{}.png")
    return root


def write_gait3d_poses(root: Path, seq: str = SEQ) -> np.ndarray:
    offsets = np.float32([[left, top, 0] for top, _, left, _ in boxes_of(CLIP.masks)])
    joints = CLIP.joints - offsets[:, None]
    write_texts(root / "2D_Poses" / seq, joints, "human_crop_f{}.txt")
    return joints


@pytest.mark.ray
def test_poses_are_read_when_asked_for_and_else_nobody_notices_them(
    ray_session: None, gait3d: Path, tmp_path: Path
) -> None:
    plain = run(gait3d, tmp_path / "plain", "gait3d", "joints")
    assert {row["joints"] is None for row in rows(tmp_path / "plain").values()} == {True}
    for seq in (SEQ, SEQ.replace("seq0", "seq1")):
        joints = write_gait3d_poses(gait3d, seq)
    again = run(gait3d, tmp_path / "plain", "gait3d")
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


@pytest.mark.ray
def test_a_walk_without_poses_or_with_a_bad_one_is_a_reject(
    ray_session: None, gait3d: Path, tmp_path: Path
) -> None:
    for number in range(2, 5):
        seq = SEQ.replace("seq0", f"seq{number}")
        shutil.copytree(gait3d / "2D_Silhouettes" / SEQ, gait3d / "2D_Silhouettes" / seq)
        write_gait3d_poses(gait3d, seq)
    (gait3d / "2D_Poses" / SEQ.replace("seq0", "seq2") / "human_crop_f2.txt").write_text("1,2,3")
    outside = gait3d / "2D_Poses" / SEQ.replace("seq0", "seq3")
    shutil.move(outside, tmp_path / "outside")
    outside.symlink_to(tmp_path / "outside")
    (gait3d / "2D_Poses" / SEQ.replace("seq0", "seq1")).mkdir()
    report = run(gait3d, tmp_path / "out", "gait3d", "joints")
    assert report.num_rows == 1
    assert rejects(tmp_path / "out") == {
        f"2D_Silhouettes/{SEQ}": ("decode", "no-pose"),
        f"2D_Silhouettes/{SEQ.replace('seq0', 'seq1')}": ("decode", "no-pose"),
        f"2D_Silhouettes/{SEQ.replace('seq0', 'seq2')}": ("decode", "bad-pose"),
        f"2D_Silhouettes/{SEQ.replace('seq0', 'seq3')}": ("decode", "outside-root"),
    }


@pytest.mark.ray
def test_each_benchmarks_poses_become_joints(ray_session: None, tmp_path: Path) -> None:
    aligned = [align(mask) for mask in CLIP.masks]
    passer_by = walk(seed=8, num_frames=5).joints + np.float32([90, 0, 0])
    grew = tmp_path / "grew"
    write_images(grew / "test/probe/etaGVnWf", aligned, "{:05d}.png")
    write_texts(grew / "test/probe/etaGVnWf", CLIP.joints, "{:05d}_2d_pose.txt")
    oumvlp = tmp_path / "oumvlp"
    write_images(oumvlp / "Silhouette_090-01/00001", list(CLIP.masks))
    write_people(
        oumvlp / "AlphaPose/00001/090_01", list(map(list, zip(passer_by, CLIP.joints, strict=True)))
    )
    sustech1k = tmp_path / "sustech1k"
    leaf = sustech1k / "0000/00-nm/000"
    write_images(leaf / "Sils_aligned", aligned, "1662{:012d}.png")
    write_people(leaf / "Pose", [[joints] for joints in CLIP.joints], "1662{:012d}.json")
    for root in (grew, oumvlp, sustech1k):
        out = tmp_path / f"{root.name}-out"
        report = run(root, out, root.name, "joints")
        assert not report.rejects
        [row] = rows(out).values()
        np.testing.assert_array_equal(joints_of(row), CLIP.joints)
        np.testing.assert_array_equal(codec.decode_silhouettes(row["silhouettes"]), aligned)
