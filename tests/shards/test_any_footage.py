"""A stranger's folder, through finder and builder: good clips give rows, bad ones a reason."""

import itertools
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from raygait.datasets import videos
from raygait.sequences import GaitSequence
from raygait.shards import reader
from raygait.shards.plan import Part, look_up
from raygait.shards.verify import verify
from raygait.shards.workers import Builder, Finder
from raygait.video.decode import open_video
from raygait.video.settings import VideoSettings

WriteClip = Callable[..., Path]


def build(
    source_root: Path,
    root: Path,
    sequences: list[GaitSequence] | None = None,
    **settings: object,
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Rows and rejects of some sources, or of every clip below a folder; without weights."""
    sequences = videos.index(source_root) if sequences is None else sequences
    (kind,) = {sequence.kind for sequence in sequences}
    part = Part("part-a", kind, tuple(look_up(sequences, source_root)))
    batch = pa.table({"part": [part.to_json()]})
    said: dict[str, object] = {"modalities": ["silhouettes"]}
    if kind == "video":
        without_weights = {"detector": "motion", "mask": "background", "pose": "none"}
        modalities = ("silhouettes", "rgb")
        said = VideoSettings(**without_weights, modalities=modalities, **settings).to_dict()
        batch = Finder(str(source_root), str(root), said)(batch)
    (result,) = Builder(str(source_root), str(root), kind, said)(batch).to_pylist()
    assert result["failure"] is None
    reader.Manifest({}, {}, ("part-a",)).write(root)
    assert verify(root) == []
    return reader.read_rows(root).to_pylist(), reader.read_rejects(root).to_pylist()


def clip_of(source: str) -> GaitSequence:
    return GaitSequence("clips", "", "", "", source, "video")


# Names

NAMES = [
    "holiday in spring.mp4",
    " leading and trailing .mp4",
    "-i.mp4",
    "--help.mp4",
    'it\'s "quoted".mp4',
    "走路 – Gehweg é \N{PEDESTRIAN}.mp4",
    "e\N{COMBINING ACUTE ACCENT}.mp4",
    "two\nlines.mp4",
    "carriage\rreturn\tand tab.mp4",
    "clip%03d.mp4",
    "%d.mp4",
    "100%.mp4",
    "12:30:05.mp4",
    "file:a.mp4",
    "concat:a.mp4|b.mp4",
    "https:/a.mp4",
    "a..b.mp4",
    "back\\slash.mp4",
    "star*?[ab]{1}.mp4",
    "$(touch x);&#.mp4",
    f"{'x' * 251}.mp4",
    f"{'d' * 250}/{'e' * 250}/{'f' * 250}/clip.mp4",
]


def test_any_name_becomes_a_row_under_that_name(tmp_path: Path, write_walk_clip: WriteClip) -> None:
    walk = write_walk_clip(tmp_path / "walk.mp4", num_frames=16)
    for name in NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(walk, path)
    rows, rejects = build(tmp_path / "in", tmp_path / "out", min_frames=8)
    assert rejects == []
    assert sorted(row["source"] for row in rows) == sorted(NAMES)
    assert {row["sequence_id"] for row in rows} == {f"videos/{name}#1" for name in NAMES}
    assert len({row["source_sha256"] for row in rows}) == 1


# Paths


@pytest.fixture
def secret(tmp_path: Path, write_walk_clip: WriteClip) -> Path:
    """A good clip beside the source folder `in`, which holds another."""
    (tmp_path / "in").mkdir()
    shutil.copy(write_walk_clip(tmp_path / "secret.mp4"), tmp_path / "in" / "good.mp4")
    return tmp_path / "secret.mp4"


@pytest.mark.parametrize(
    "source",
    [
        "../secret.mp4",
        "good.mp4/../../secret.mp4",
        "../in/good.mp4",
        "{absolute}",
        "link.mp4",
        "relative.mp4",
        "folder/secret.mp4",
        "circle.mp4",
        "",
        ".",
    ],
)
def test_a_clip_outside_the_source_folder_is_refused_and_not_read(
    tmp_path: Path, secret: Path, source: str
) -> None:
    root = tmp_path / "in"
    (root / "link.mp4").symlink_to(secret)
    (root / "relative.mp4").symlink_to("../secret.mp4")
    (root / "folder").symlink_to(tmp_path)
    (root / "circle.mp4").symlink_to("circle.mp4")
    before_ns = secret.stat().st_atime_ns
    os.utime(secret, ns=(0, secret.stat().st_mtime_ns))
    source = source.format(absolute=secret)
    rows, rejects = build(root, tmp_path / "out", [clip_of("good.mp4"), clip_of(source)])
    assert [row["source"] for row in rows] == ["good.mp4"]
    (reject,) = rejects
    assert (reject["stage"], reject["reason"], reject["track"]) == ("decode", "outside-root", -1)
    assert "expected a path below the source folder; it was not read" in reject["detail"]
    assert secret.stat().st_atime_ns == 0 < before_ns


@pytest.mark.parametrize("source", ["../masks/001/nm-01/090", "linked/nm-01/090"])
def test_masks_outside_the_source_folder_are_refused(
    tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]], source: str
) -> None:
    write_mask_folders(tmp_path / "masks", 1)
    (good,) = write_mask_folders(tmp_path / "in", 1)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "masks" / "001")
    bad = GaitSequence("tree", "002", "nm-01", "090", source, "silhouettes")
    rows, rejects = build(tmp_path / "in", tmp_path / "out", [good, bad])
    assert [row["source"] for row in rows] == [good.source]
    assert [(one["stage"], one["reason"]) for one in rejects] == [("decode", "outside-root")]


def test_a_link_to_a_clip_in_the_same_folder_is_read(tmp_path: Path, secret: Path) -> None:
    root = tmp_path / "in"
    (root / "again.mp4").symlink_to("good.mp4")
    (tmp_path / "link").symlink_to(root)
    rows, rejects = build(tmp_path / "link", tmp_path / "out")
    assert ([row["source"] for row in rows], rejects) == (["again.mp4", "good.mp4"], [])


# What is not, or not wholly, a clip of people


def write(path: Path, images: list[np.ndarray], *, faststart: bool = False) -> Path:
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=10, options={"g": "5"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        stream.bit_rate = 4_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as video:
        return [frame.image for frame in video.frames()]


def declare_in_avi(path: Path, num_frames: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"avih") + 24, num_frames)
    struct.pack_into("<I", content, content.index(b"strh") + 40, num_frames)
    path.write_bytes(content)


def test_each_bad_clip_is_a_reject_with_its_stage_and_reason_and_the_good_one_a_row(
    tmp_path: Path, write_walk_clip: WriteClip
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    walk = write_walk_clip(root / "good.mp4")
    content = walk.read_bytes()
    (root / "text.mp4").write_text("milk, bread, a camera\n" * 50)
    (root / "zero.mp4").write_bytes(b"")
    (root / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(20_000))
    (root / "picture.mp4").write_bytes(
        cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))[1].tobytes()
    )
    (root / "archive.mov").write_bytes(b"PK\x03\x04" + bytes(2000))
    (root / "no index.mp4").write_bytes(content[: content.index(b"moov") - 4])
    (root / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    grey = [np.full((240, 320, 3), 120, np.uint8)] * 30
    write(root / "nobody.mp4", grey)
    hollow = write(root / "hollow.avi", grey)
    data = bytearray(hollow.read_bytes())
    first = data.index(b"movi") + 4
    data[first:] = bytes(len(data) - first)
    hollow.write_bytes(data)
    promised = write(root / "promised.avi", grey[:1])
    declare_in_avi(promised, 1000)
    (root / "folder.mp4" / "inside").mkdir(parents=True)
    rows, rejects = build(root, tmp_path / "out")
    assert [row["source"] for row in rows] == ["good.mp4"]
    assert {one["source"]: (one["stage"], one["reason"]) for one in rejects} == {
        "text.mp4": ("decode", "undecodable"),
        "zero.mp4": ("decode", "undecodable"),
        "noise.mkv": ("decode", "undecodable"),
        "picture.mp4": ("detect", "no-person"),
        "archive.mov": ("decode", "undecodable"),
        "no index.mp4": ("decode", "undecodable"),
        "list.mp4": ("decode", "undecodable"),
        "hollow.avi": ("decode", "undecodable"),
        "nobody.mp4": ("detect", "no-person"),
        "promised.avi": ("detect", "no-person"),
    }
    told = {one["source"]: one["detail"] for one in rejects}
    assert "about 999 of 1000 frames lost" in told["promised.avi"]
    assert all(str(source) in str(detail) for source, detail in told.items())


@pytest.mark.parametrize("name", ["cut.mp4", "cut.avi", "cut.mkv"])
def test_a_truncated_clip_gives_a_row_of_its_good_frames_and_a_reject_that_counts_the_others(
    tmp_path: Path, write_walk_clip: WriteClip, name: str
) -> None:
    images = frames_of(write_walk_clip(tmp_path / "walk.mp4"))
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / name, images, faststart=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    rows, rejects = build(tmp_path / "in", tmp_path / "out")
    (row,) = rows
    assert 20 <= row["num_frames"] < len(images)
    (damaged,) = [one for one in rejects if one["track"] == -1]
    assert (damaged["stage"], damaged["reason"]) == ("decode", "damaged")
    assert f"of {len(images)} frames lost, the others are used" in damaged["detail"]


def test_frames_that_a_header_promises_and_are_not_there_are_told(
    tmp_path: Path, write_walk_clip: WriteClip
) -> None:
    images = frames_of(write_walk_clip(tmp_path / "walk.mp4"))
    (tmp_path / "in").mkdir()
    declare_in_avi(write(tmp_path / "in" / "few.avi", images), 5000)
    rows, rejects = build(tmp_path / "in", tmp_path / "out")
    assert len(rows) == 1
    (told,) = [one for one in rejects if one["track"] == -1]
    assert (told["stage"], told["reason"]) == ("decode", "damaged")
    assert f"about {5000 - len(images)} of 5000 frames lost" in told["detail"]


@pytest.mark.samples
def test_a_clip_of_people_too_small_says_how_tall_they_are(
    tmp_path: Path, samples_dir: Path
) -> None:
    with open_video(samples_dir / "video" / "vtest.avi") as video:
        images = [
            cv2.resize(frame.image, (306, 230), interpolation=cv2.INTER_AREA)
            for frame in itertools.islice(video.frames(), 60)
        ]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "far.mp4", images)
    rows, rejects = build(tmp_path / "in", tmp_path / "out")
    assert rows == []
    low = [str(one["detail"]) for one in rejects if one["reason"] == "low-track"]
    assert len(low) >= 3
    heights_px = [int(detail.split()[2]) for detail in low]
    assert all(15 < height_px < 48 for height_px in heights_px)  # they are 65 to 100 px × 0.4
    assert all(detail.endswith("px, expected at least 48") for detail in low)
    assert {one["reason"] for one in rejects} <= {"low-track", "short-track"}
