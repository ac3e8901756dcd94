"""The graph: every source once, whatever the workers, the order, the second run or the crash."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.datasets import casiab
from raygait.errors import DatasetError, SettingsMismatch, ShardError
from raygait.sequences import GaitSequence, Reject
from raygait.shards import reader, writer
from raygait.shards.ingest import IngestReport, ingest
from raygait.shards.verify import verify
from raygait.video.settings import VideoSettings

_JOB = Path(__file__).parents[2] / "jobs" / "preprocess.py"
_NO_WEIGHTS = VideoSettings(
    detector="motion", mask="background", pose="none", modalities=("silhouettes", "rgb")
)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    write_mask_folders: Callable[..., list[GaitSequence]],
    write_walk_clip: Callable[..., Path],
    write_bad_clips: Callable[[Path], dict[str, tuple[str, str]]],
) -> tuple[Path, list[GaitSequence]]:
    """Twelve folders of masks and one without any, a clip of two people, four bad clips."""
    root = tmp_path_factory.mktemp("world")
    sequences = write_mask_folders(root, 12)
    (root / "013" / "nm-01" / "090").mkdir(parents=True)
    sequences.append(GaitSequence("tree", "013", "nm-01", "090", "013/nm-01/090", "silhouettes"))
    write_walk_clip(root / "walk.mp4", num_people=2)
    clips = ["walk.mp4", *write_bad_clips(root)]
    sequences += [GaitSequence("tree", "", "", "", name, "video") for name in clips]
    return root, sequences


@pytest.fixture(scope="module")
def ingested(
    ray_session: None,
    world: tuple[Path, list[GaitSequence]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, IngestReport]:
    """The world in shards, by two workers and without disturbance."""
    root, sequences = world
    out = tmp_path_factory.mktemp("shards")
    return out, ingest(sequences, root, out, _NO_WEIGHTS, num_workers=2)


@pytest.mark.ray
def test_bad_input_is_counted_by_reason_and_the_rest_is_done(
    ingested: tuple[Path, IngestReport],
) -> None:
    out, report = ingested
    assert (report.num_sources, report.num_rows, report.num_sources_without_rows) == (18, 14, 5)
    assert report.rejects == {
        ("decode", "frame-size"): 1,
        ("decode", "undecodable"): 3,
        ("detect", "no-person"): 1,
    }
    assert report.num_unexpected == 0
    assert report.reject_share == pytest.approx(5 / 18)
    assert "undecodable" in report.to_text()
    assert "14 rows" in report.to_text()
    assert verify(out) == []


@pytest.mark.ray
def test_every_row_has_an_identity_of_its_own(ingested: tuple[Path, IngestReport]) -> None:
    rows = reader.read_rows(ingested[0], ["sequence_id", "subject", "source"]).to_pylist()
    walks = {f"tree/{number:03d}/nm-01/090" for number in range(1, 13)}
    people = {"tree/walk.mp4#1", "tree/walk.mp4#2"}
    assert {row["sequence_id"] for row in rows} == walks | people
    assert len(rows) == 14


@pytest.mark.ray
def test_a_second_run_does_nothing(
    ingested: tuple[Path, IngestReport], world: tuple[Path, list[GaitSequence]]
) -> None:
    out, first = ingested
    before = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    report = ingest(world[1][::-1], world[0], out, _NO_WEIGHTS)
    assert (report.num_parts_written, report.num_parts_removed) == (0, 0)
    assert report.num_parts_skipped == first.num_parts_written
    assert (report.num_rows, report.rejects) == (first.num_rows, first.rejects)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == before


@pytest.mark.ray
def test_another_number_of_workers_gives_the_same_bytes(
    ingested: tuple[Path, IngestReport], world: tuple[Path, list[GaitSequence]], tmp_path: Path
) -> None:
    report = ingest(world[1], world[0], tmp_path, _NO_WEIGHTS, num_workers=1)
    assert report.num_parts_written == ingested[1].num_parts_written
    assert reader.digest(tmp_path) == reader.digest(ingested[0])
    for shard in reader.list_shards(tmp_path):
        assert shard.read_bytes() == (ingested[0] / shard.name).read_bytes()


@pytest.mark.ray
def test_one_more_source_changes_one_part_and_the_old_one_goes(
    ingested: tuple[Path, IngestReport],
    world: tuple[Path, list[GaitSequence]],
    tmp_path: Path,
    write_mask_folders: Callable[..., list[GaitSequence]],
) -> None:
    out = tmp_path / "shards"
    shutil.copytree(ingested[0], out)
    before = {shard.name for shard in reader.list_shards(out)}
    more = world[1] + write_mask_folders(world[0], 1, first_subject=21)
    report = ingest(more, world[0], out, _NO_WEIGHTS)
    after = {shard.name for shard in reader.list_shards(out)}
    assert (report.num_parts_written, report.num_rows) == (1, 15)
    assert len(after - before) == 1
    assert {path.name for path in out.glob("*.parquet")} == after
    assert verify(out) == []


@pytest.mark.ray
def test_a_worker_that_cannot_write_fails_the_run_and_says_why(
    ray_session: None, world: tuple[Path, list[GaitSequence]], tmp_path: Path
) -> None:
    (tmp_path / "rejects").write_text("a file where a folder should be")
    bad = [sequence for sequence in world[1] if sequence.subject == "013"]
    with pytest.raises(ShardError, match=r"cannot be written: NotADirectoryError: .*rejects"):
        ingest(bad, world[0], tmp_path)
    with pytest.raises(ShardError, match="1 of 1 parts are not written"):
        reader.list_shards(tmp_path)


def _snapshot(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.ray
def test_other_settings_are_refused_by_name_and_change_nothing(
    ingested: tuple[Path, IngestReport], world: tuple[Path, list[GaitSequence]]
) -> None:
    before = _snapshot(ingested[0])
    other = _NO_WEIGHTS.model_copy(update={"min_frames": 21})
    with pytest.raises(SettingsMismatch, match=r"video\.min_frames is 20 there, 21 now"):
        ingest(world[1], world[0], ingested[0], other)
    renamed = [GaitSequence("x", "", "", "", "walk.mp4", "video")]
    with pytest.raises(SettingsMismatch, match=r"datasets is \['tree'\] there, \['x'\] now"):
        ingest(renamed, world[0], ingested[0], _NO_WEIGHTS)
    assert _snapshot(ingested[0]) == before


@pytest.mark.ray
def test_overwrite_replaces_what_other_settings_made(
    ingested: tuple[Path, IngestReport], world: tuple[Path, list[GaitSequence]], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    shutil.copytree(ingested[0], out)
    renamed = [GaitSequence("x", "", "", "", "walk.mp4", "video")]
    report = ingest(renamed, world[0], out, _NO_WEIGHTS, overwrite=True)
    assert (report.num_rows, report.num_parts_written) == (2, 1)
    assert report.num_parts_removed == ingested[1].num_parts_written
    assert len(list(out.rglob("part-*"))) == 2
    assert set(reader.read_rows(out, ["dataset"])["dataset"].to_pylist()) == {"x"}


@pytest.mark.ray
@pytest.mark.parametrize("first_subject", [1, 21], ids=["of the same names", "of other names"])
def test_another_source_folder_is_refused_and_changes_nothing(
    ingested: tuple[Path, IngestReport],
    tmp_path: Path,
    write_mask_folders: Callable[..., list[GaitSequence]],
    first_subject: int,
) -> None:
    before = _snapshot(ingested[0])
    # Of the same names, all folders of masks are found again and only the five clips vanish.
    others = write_mask_folders(tmp_path, 14, num_frames=2, first_subject=first_subject)
    with pytest.raises(SettingsMismatch, match=r"holds 18 sources of .* asked for are 14 ") as e:
        ingest(others, tmp_path, ingested[0])
    assert f"{tmp_path}, such as tree:" in str(e.value)
    assert f": {18 if first_subject == 21 else 5} of the old sources would vanish" in str(e.value)
    assert _snapshot(ingested[0]) == before


@pytest.mark.ray
def test_a_folder_that_would_lose_more_than_half_of_its_sources_is_refused(
    ingested: tuple[Path, IngestReport], world: tuple[Path, list[GaitSequence]]
) -> None:
    before = _snapshot(ingested[0])
    with pytest.raises(SettingsMismatch, match="10 of the old sources would vanish"):
        ingest(world[1][10:], world[0], ingested[0], _NO_WEIGHTS)
    assert _snapshot(ingested[0]) == before


@pytest.mark.ray
def test_sources_that_were_moved_with_their_times_are_not_done_again(
    ingested: tuple[Path, IngestReport], world: tuple[Path, list[GaitSequence]], tmp_path: Path
) -> None:
    shutil.copytree(world[0], tmp_path / "moved")
    shutil.copytree(ingested[0], tmp_path / "shards")
    report = ingest(world[1], tmp_path / "moved", tmp_path / "shards", _NO_WEIGHTS)
    assert (report.num_parts_written, report.num_parts_removed) == (0, 0)


@pytest.mark.ray
def test_parts_that_are_damaged_or_had_bad_luck_are_done_again(
    ingested: tuple[Path, IngestReport],
    world: tuple[Path, list[GaitSequence]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "shards"
    shutil.copytree(ingested[0], out)
    shards = reader.list_shards(out)
    (rejects, *_) = [shard for shard in shards if reader.read_summary(shard).rejects]
    cut, text, unlucky = [shard for shard in shards if shard != rejects][:3]
    writer.rejects_path(out, rejects.stem).unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    writer.summary_path(out, text.stem).write_text("{")
    with writer.PartWriter(out, unlucky.stem, num_sources=1) as part:
        part.reject("tree", "x", Reject("tree:x", -1, "silhouette", "worker-died", "no memory"))
        part.commit()
    orphan = writer.rejects_path(out, "part-0123456789abcdef")
    orphan.write_bytes(b"of a part that was removed half")
    with caplog.at_level("INFO", logger="raygait"):
        report = ingest(world[1], world[0], out, _NO_WEIGHTS)
    assert (report.num_parts_written, report.num_parts_removed) == (4, 0)
    for shard in (cut, text, rejects, unlucky):
        assert shard.stem in caplog.text
    assert report.rejects == ingested[1].rejects
    assert _snapshot(out) == _snapshot(ingested[0])
    assert not orphan.exists()


@pytest.mark.ray
def test_a_name_that_is_not_utf8_does_not_keep_the_others_from_being_done(
    ray_session: None, tmp_path: Path, write_mask_folders: Callable[..., list[GaitSequence]]
) -> None:
    write_mask_folders(tmp_path / "in", 2)
    (tmp_path / "in" / "002").rename(tmp_path / "in" / os.fsdecode(b"\xe9ve"))
    report = ingest(casiab.index(tmp_path / "in"), tmp_path / "in", tmp_path / "out")
    assert (report.num_rows, report.rejects) == (1, {("decode", "bad-name"): 1})
    (reject,) = reader.read_rejects(tmp_path / "out").to_pylist()
    assert reject["source"] == r"\xe9ve/nm-01/090"


@pytest.mark.parametrize("num_workers", [0, -1])
def test_fewer_workers_than_one_are_refused(
    world: tuple[Path, list[GaitSequence]], tmp_path: Path, num_workers: int
) -> None:
    with pytest.raises(ShardError, match=f"num_workers is {num_workers}, expected 1 or more"):
        ingest(world[1], world[0], tmp_path / "out", _NO_WEIGHTS, num_workers=num_workers)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_where_the_shards_should_go_is_refused(
    world: tuple[Path, list[GaitSequence]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ShardError, match="cannot be a folder of shards"):
        ingest(world[1], world[0], tmp_path / name, _NO_WEIGHTS)
    assert (tmp_path / "file").read_text() == "mine"


def test_two_runs_never_write_the_same_folder(
    world: tuple[Path, list[GaitSequence]], tmp_path: Path
) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ShardError, match="another run is writing"):
            ingest(world[1], world[0], tmp_path, _NO_WEIGHTS)


def test_an_empty_source_folder_does_not_empty_the_shards(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no sequence to ingest"):
        ingest([], tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def big_tree(tmp_path: Path) -> Path:
    """64 folders of 20 large masks: seconds of work out of 20 files on disk."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(20):
        mask = np.zeros((960, 1280), np.uint8)
        cv2.ellipse(mask, (640, 480), (120 + 4 * index, 400), 0, 0, 360, 255, -1)
        cv2.imwrite(str(masks / f"{index:03d}.png"), mask)
    root = tmp_path / "tree"
    for number in range(64):
        folder = root / f"{number:03d}" / "nm-01" / "090"
        folder.mkdir(parents=True)
        for mask_path in masks.iterdir():
            (folder / f"{number:03d}-nm-01-090-{mask_path.name}").hardlink_to(mask_path)
    return root


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `jobs/preprocess.py` from a folder that is not the repository; ends what is left."""
    started: list[subprocess.Popen[str]] = []
    short = tempfile.mkdtemp(prefix="rgk", dir="/tmp")

    def start(*words: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, str(_JOB), *words],
                cwd=tmp_path,
                env={**os.environ, "TMPDIR": short},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    shutil.rmtree(short, ignore_errors=True)


@pytest.mark.ray
def test_a_killed_job_is_finished_by_running_it_again(
    ray_session: None,
    big_tree: Path,
    tmp_path: Path,
    job: Callable[..., subprocess.Popen[str]],
) -> None:
    out = tmp_path / "out"
    words = ("--dataset", "casiab", "--root", str(big_tree), "--out", str(out))
    killed = job(*words, "--num-workers", "1")
    deadline_s = time.monotonic() + 150
    while not list(out.glob("*.parquet")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    os.killpg(killed.pid, signal.SIGKILL)
    num_there = len(list(out.glob("*.parquet")))
    with pytest.raises(ShardError, match="parts are not written"):
        reader.list_shards(out)

    sequences = casiab.index(big_tree)
    report = ingest(sequences, big_tree, out, num_workers=3)
    assert (report.num_parts_written, report.num_parts_skipped) == (8 - num_there, num_there)
    assert (report.num_rows, report.num_frames) == (64, 1280)
    assert verify(out) == []
    assert not list(out.glob("*.tmp-*"))
    undisturbed = tmp_path / "undisturbed"
    ingest(sequences, big_tree, undisturbed, num_workers=2)
    assert reader.digest(undisturbed) == reader.digest(out)
    for shard in reader.list_shards(undisturbed):
        assert shard.read_bytes() == (out / shard.name).read_bytes()


@pytest.mark.ray
def test_the_job_ends_without_noise_and_by_the_share_of_rejects(
    tmp_path: Path,
    write_mask_folders: Callable[..., list[GaitSequence]],
    job: Callable[..., subprocess.Popen[str]],
) -> None:
    write_mask_folders(tmp_path / "tree", 1)
    for subject in ("801", "802"):
        folder = tmp_path / "tree" / subject / "nm-01" / "090"
        folder.mkdir(parents=True)
        (folder / "001.png").write_text("no image")
    words = ("--dataset", "casiab", "--root", str(tmp_path / "tree"), "--out", str(tmp_path / "o"))
    strict = job(*words)
    output, errors = strict.communicate(timeout=200)
    assert strict.returncode == 1
    assert "1 rows" in output
    # Progress and the verdict; neither a warning nor a stack trace, Ray's own included.
    noise = [line for line in errors.splitlines() if " parts" not in line]
    assert noise == ["error: 66.7% of the sources gave no row, --max-reject-share is 50.0%"]
    lenient = job(*words, "--max-reject-share", "0.7")
    output, errors = lenient.communicate(timeout=200)
    assert (lenient.returncode, errors) == (0, "")
    assert "0 written" in output
