"""`jobs/inspect_clip.py` as a user types it, on a real clip; its numbers are the describer's."""

import dataclasses
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from raygait.assets import asset
from raygait.synthetic.scenes import write_empty_scene
from raygait.video.decode import open_video
from raygait.video.extraction import PeopleDescriber
from raygait.video.finding import PeopleFinder
from raygait.video.settings import VideoSettings

_JOB = Path(__file__).parents[2] / "jobs" / "inspect_clip.py"
_NAME = 'it\'s <b>步態 & "co" $x$.mp4'
_NUM_FRAMES = 70


def _run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(_JOB), *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 50 to 119 of the Sports2D clip at half its size: one walks, one jumps on a roof."""
    path = tmp_path_factory.mktemp("odd names") / "clip.mp4"
    with open_video(asset("sports2d-demo")) as video, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, width=884, height=496, pix_fmt="yuv420p")
        stream.bit_rate = 8_000_000
        for frame in itertools.islice(video.frames(), 50, 50 + _NUM_FRAMES):
            image = cv2.resize(frame.image, (884, 496), interpolation=cv2.INTER_AREA)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path.rename(path.with_name(_NAME))


@pytest.fixture(scope="module")
def looked_at(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looked")
    done = _run(clip, "--json", "numbers.json", cwd=folder)
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_its_numbers_are_those_of_the_describer(clip: Path, looked_at: Path) -> None:
    tracks = PeopleFinder(VideoSettings())(clip)
    sequences, rejects = PeopleDescriber(VideoSettings())(clip, tracks)
    said = json.loads((looked_at / "numbers.json").read_text())
    assert [one["track"] for one in said["tracks"]] == [track.number for track in tracks]
    assert [tuple(one.values()) for one in said["rejects"]] == [tuple(one) for one in rejects]
    assert sequences
    for one, sequence in zip(said["sequences"], sequences, strict=True):
        assert one["frame_indices"] == sequence.frame_indices.tolist()
        assert [*zip(one["left_out_indices"], one["left_out_reasons"], strict=True)] == list(
            sequence.left_out
        )
        for field in dataclasses.fields(sequence.quality):
            np.testing.assert_allclose(one[field.name], getattr(sequence.quality, field.name))
    assert said["num_frames"] == _NUM_FRAMES
    assert said["size_px"] == said["stored_size_px"] == [884, 496]
    looks = [len(one["frame_indices"]) + len(one["left_out_indices"]) for one in said["sequences"]]
    assert said["num_crops"] >= sum(looks)


def test_the_page_shows_each_sequence_and_the_clip_s_odd_name(looked_at: Path) -> None:
    page = (looked_at / f"{Path(_NAME).stem}-inspection.html").read_text()
    assert html.escape(_NAME) in page
    assert "<b>步態" not in page
    said = json.loads((looked_at / "numbers.json").read_text())
    shown = {int(number) for number in re.findall(r'alt="Quality of track (\d+)"', page)}
    assert shown == {one["track"] for one in said["sequences"]}
    assert len(re.findall(r'alt="Frame \d+ with boxes"', page)) == 6


def test_the_terminal_says_what_was_kept_and_where_the_time_went(looked_at: Path) -> None:
    text = (looked_at / "said.txt").read_text()
    said = json.loads((looked_at / "numbers.json").read_text())
    assert text.startswith(f"{_NAME}: 884×496 px, 30 fps, {_NUM_FRAMES} frames, 2.3 s, detector ")
    assert f"{len(said['sequences'])} sequence" in text
    assert f"networks (detect and pose) {said['network_ratio']:.0%}" in text
    for stage in ("decode", "detect", "track", "decode again", "crop", "pose", "silhouette"):
        assert said["seconds"][stage] > 0
        assert re.search(rf"^  {stage} .* ms a frame", text, re.M)


def test_a_clip_without_a_sequence_has_a_page_that_says_why_and_exit_code_1(
    clip: Path, tmp_path: Path
) -> None:
    words = ["--video.min-frames", "1000", "--out", "page.html"]
    done = _run(clip, *words, cwd=tmp_path, code=1)
    assert done.stderr.splitlines()[-1].endswith("no track became a sequence, see the rejects")
    assert "short-track" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("name", "stage", "reason"),
    [
        ("missing.mp4", "decode", "undecodable"),
        ("empty.mp4", "decode", "undecodable"),
        ("text.mp4", "decode", "undecodable"),
        ("nobody.mp4", "detect", "no-person"),
    ],
)
def test_what_preprocessing_would_reject_is_an_error_with_stage_and_reason(
    name: str, stage: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    write_empty_scene(tmp_path / "nobody.mp4", width_px=320, height_px=180, num_frames=8)
    done = _run(name, cwd=tmp_path, code=1)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {name}: ")
    assert last.endswith(f"(stage {stage}, reason {reason})")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.html"))


def test_a_name_that_no_row_can_hold_is_refused_as_preprocessing_does(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / name).touch()
    done = _run(name, cwd=tmp_path, code=1)
    assert done.stderr.splitlines()[-1].endswith("rename it (stage decode, reason bad-name)")


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_the_clip_itself_is_never_written_over(option: str, clip: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(clip, tmp_path / "clip.mp4"))
    done = _run("clip.mp4", option, f"../{tmp_path.name}/clip.mp4", cwd=tmp_path, code=1)
    assert "is the clip: name another" in done.stderr
    assert copy.read_bytes() == clip.read_bytes()
