import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import raygait
from raygait.errors import EmbeddingsError, RegistryError, ShardError
from raygait.evaluation.embed import SequenceEmbedder, embed
from raygait.evaluation.embed_shards import EmbeddingReport, embed_shards
from raygait.evaluation.embedding_files import read_embeddings, read_manifest, read_rejects
from raygait.recipes import named
from raygait.recipes.saved_model import SavedModel, initial_model, save_model
from raygait.recipes.schema import with_overrides
from raygait.shards import reader
from raygait.shards.writer import Attempt
from tests.evaluation.shards_to_embed import Walk, frames_of, write_shards

# The network needs 3 frames; a batch holds 128, so that some are full and 400 are one alone.
_PARTS = {
    "part-a": [Walk(f"{n:03d}", length, n) for n, length in enumerate([12, 70, 12, 31, 12, 400])],
    "part-b": [Walk("", 15, n) for n in range(12)] + [Walk("", 1, 50), Walk("007", 2, 51)],
    "part-c": [Walk("001", 20, 60), Walk("002", 21, 61, is_damaged=True), Walk("003", 22, 62)],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    return _model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", _PARTS)


def _model(folder: Path, seed: int) -> tuple[SavedModel, Path]:
    recipe = with_overrides(named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8]})
    saved = initial_model(with_overrides(recipe, {"seed": seed}), ["001", "002"])
    save_model(folder, saved.network, recipe, saved.subjects, step=seed)
    return saved, folder


def _embed(shards: Path, model: Path, out: Path, **options) -> EmbeddingReport:
    return embed_shards(shards, model, out, **{"num_workers": 0, **options})


def _files(out: Path) -> dict[str, tuple[int, bytes]]:
    """What is in a folder of embeddings; when it was written, and its bytes."""
    paths = [*out.glob("*.parquet"), *out.glob("rejects/*.parquet")]
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


def _bytes(out: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in _files(out).items()}


def test_every_sequence_embeds_as_it_does_alone_or_is_a_reject(model, shards, tmp_path) -> None:
    saved, folder = model
    report = _embed(shards, folder, tmp_path / "out", reference="mine", version="models:/mine/3")
    found = read_embeddings(tmp_path / "out")
    walks = {
        (part, walk.num_frames, walk.seed): walk for part, all_ in _PARTS.items() for walk in all_
    }
    rows = reader.read_rows(shards, ["sequence_id", "view", "num_frames", "source"]).to_pylist()
    by_id = {
        row["sequence_id"]: walks[row["source"][:6], row["num_frames"], int(row["view"])]
        for row in rows
    }
    rejects = {row["sequence_id"]: row for row in read_rejects(tmp_path / "out").to_pylist()}
    assert found.sequence_ids == sorted(by_id.keys() - rejects.keys())
    assert len(by_id) == len(walks) == report.num_rows + len(rejects) == 23
    scale = np.abs(found.values).max()
    for value, name in zip(found.values, found.sequence_ids, strict=True):
        alone = saved.embed(frames_of(by_id[name])[None])[0]
        assert np.abs(value - alone).max() <= 1e-5 * scale
    assert found.subjects == [by_id[name].subject for name in found.sequence_ids]
    assert {(row["stage"], row["reason"], by_id[name]) for name, row in rejects.items()} == {
        ("embed", "too-short", _PARTS["part-b"][-2]),
        ("embed", "too-short", _PARTS["part-b"][-1]),
        ("decode", "undecodable", _PARTS["part-c"][1]),
    }
    assert all(row["source"].endswith(".mp4") and row["track"] == 7 for row in rejects.values())
    assert report.rejects == {("embed", "too-short"): 2, ("decode", "undecodable"): 1}
    assert (found.num_too_short, report.failures) == (2, {})
    assert "undecodable" in report.to_text()


def test_a_file_says_model_shard_and_raygait_to_any_parquet_reader(model, shards, tmp_path) -> None:
    _, folder = model
    _embed(shards, folder, tmp_path / "out", reference="models:/a@b", version="models:/a/3")
    weights = json.loads((folder / "model.json").read_text())["files"]["model.safetensors"]
    said_of = {}
    for path in (tmp_path / "out").glob("*.parquet"):
        table = pq.read_table(path)
        origin = json.loads(table.schema.metadata[b"raygait.embeddings"])
        said_of[origin["shard"]] = origin
        assert origin["raygait"] == raygait.__version__
        assert origin["num_parts"] * origin["dim"] == table.schema.field("embedding").type.list_size
        assert origin["model"]["weights_sha256"] == weights
        assert (origin["model"]["reference"], origin["model"]["version"]) == (
            "models:/a@b",
            "models:/a/3",
        )
        assert (origin["device"], origin["precision"]) == ("cpu", "fp32")
        assert table["track"].to_pylist() == [7] * table.num_rows
    for shard in reader.list_shards(shards):
        assert said_of[shard.name]["shard_sha256"] == reader.read_summary(shard).sha256
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.shards_digest == reader.digest(shards)


def test_the_last_frame_of_a_long_sequence_counts(model, tmp_path) -> None:
    walk = Walk("001", 300)
    frames = frames_of(walk)[None]
    frames[0, -1] = 255 - frames[0, -1]
    write_shards(tmp_path / "shards", {"part-a": [walk]})
    _embed(tmp_path / "shards", model[1], tmp_path / "out")
    (value,) = read_embeddings(tmp_path / "out").values
    changed = model[0].embed(frames)[0]
    assert np.abs(value - changed).max() > 1e-3 * np.abs(value).max()


@pytest.mark.ray
def test_workers_leave_the_same_bytes_whatever_their_number_and_whatever_fails_beside(
    ray_session, model, tmp_path
) -> None:
    shards = write_shards(tmp_path / "shards", {**_PARTS, "part-d": [Walk("001", 40, 70)]})
    whole = (shards / "part-d.parquet").read_bytes()
    (shards / "part-d.parquet").write_bytes(whole[:-50])
    report = _embed(shards, model[1], tmp_path / "one", num_workers=1)
    assert (report.num_files_written, report.num_rows) == (3, 20)
    assert list(report.failures) == [str(shards / "part-d.parquet")]
    (shards / "part-d.parquet").write_bytes(whole)
    report = _embed(shards, model[1], tmp_path / "three", num_workers=3)
    assert (report.num_files_written, report.num_rows, report.failures) == (4, 21, {})
    one, three = _bytes(tmp_path / "one"), _bytes(tmp_path / "three")
    assert len(one) == 3 + 2
    assert one == {name: three[name] for name in one}
    sound = write_shards(tmp_path / "sound", {**_sound(), "part-d": [Walk("001", 40, 70)]})
    here, there = embed(sound, model[1], num_workers=0), read_embeddings(tmp_path / "three")
    assert here.sequence_ids == there.sequence_ids
    np.testing.assert_allclose(here.values, there.values, atol=1e-5 * np.abs(here.values).max())


def _sound() -> dict[str, list[Walk]]:
    return {name: [walk for walk in part if not walk.is_damaged] for name, part in _PARTS.items()}


def test_a_second_run_writes_nothing(model, shards, tmp_path) -> None:
    out = tmp_path / "out"
    _embed(shards, model[1], out)
    before = _files(out)
    report = _embed(shards, model[1], out)
    assert _files(out) == before
    assert (report.num_files_written, report.num_files_skipped, report.num_rows) == (0, 3, 20)
    assert report.rejects[("embed", "too-short")] == 2


def test_only_a_shard_that_changed_is_done_again_and_one_that_is_gone_is_removed(
    model, shards, tmp_path
) -> None:
    out = tmp_path / "out"
    _embed(shards, model[1], out)
    before = _files(out)
    parts = {"part-a": _PARTS["part-a"], "part-c": [*_PARTS["part-c"][:1], Walk("009", 30, 90)]}
    shutil.rmtree(shards)
    write_shards(shards, parts)
    report = _embed(shards, model[1], out)
    assert (report.num_files_written, report.num_files_skipped) == (1, 1)
    assert report.num_files_removed == 2
    after = _files(out)
    assert len(after) == 2
    assert len(before.items() & after.items()) == 1
    found = read_embeddings(out)
    assert (len(found), "009" in found.subjects, "" in found.subjects) == (8, True, False)


def test_another_model_is_refused_by_name_and_replaces_only_when_told_to(
    model, shards, tmp_path
) -> None:
    out = tmp_path / "out"
    _embed(shards, model[1], out, reference="the first")
    before = _files(out)
    _, other = _model(tmp_path / "other", seed=1)
    with pytest.raises(EmbeddingsError, match=r"of another model: the first.*asked for is the sec"):
        _embed(shards, other, out, reference="the second")
    assert _files(out) == before
    report = _embed(shards, other, out, reference="the second", overwrite=True)
    assert (report.num_files_written, report.num_files_removed) == (3, 3)
    assert not _files(out).keys() & before.keys()
    assert len(read_embeddings(out)) == 20
    # The same model under another name is no other model.
    shutil.copytree(other, tmp_path / "copy")
    assert _embed(shards, tmp_path / "copy", out).num_files_skipped == 3


def test_a_folder_of_other_subjects_or_other_shards_is_refused(model, shards, tmp_path) -> None:
    out = tmp_path / "out"
    report = _embed(shards, model[1], out, subjects=["001", "003"])
    assert (report.num_rows, report.num_unwanted) == (4, 19)
    assert set(read_embeddings(out).subjects) == {"001", "003"}
    with pytest.raises(EmbeddingsError, match=r"2 subjects, such as .*asked for are all subjects"):
        _embed(shards, model[1], out)
    _embed(shards, model[1], out, overwrite=True)
    elsewhere = write_shards(tmp_path / "elsewhere", {"part-z": [Walk("001", 20)]})
    with pytest.raises(EmbeddingsError, match="none in common"):
        _embed(elsewhere, model[1], out)
    with pytest.raises(EmbeddingsError, match="is a folder of shards"):
        _embed(shards, model[1], shards, overwrite=True)
    assert not (shards / ".lock").exists()
    # Shards that were moved are the same shards.
    shutil.move(shards, tmp_path / "moved")
    assert _embed(tmp_path / "moved", model[1], out).num_files_skipped == 3


@pytest.mark.parametrize("spoil", ["truncated", "emptied", "rejects gone"])
def test_a_file_that_is_not_whole_is_done_again(model, shards, tmp_path, spoil: str) -> None:
    out = tmp_path / "out"
    _embed(shards, model[1], out)
    before = _files(out)
    rejects = next(out.glob("rejects/*.parquet"))
    spoilt = out / rejects.name
    if spoil == "truncated":
        os.truncate(spoilt, spoilt.stat().st_size - 9)
    elif spoil == "emptied":
        spoilt.write_bytes(b"")
    else:
        rejects.unlink()
    with pytest.raises(EmbeddingsError, match=spoilt.name):
        read_embeddings(out)
    assert _embed(shards, model[1], out).num_files_written == 1
    after = _files(out)
    assert {name: data for name, (_, data) in before.items()} == _bytes(out)
    assert sum(after[name][0] != before[name][0] for name in before if "rejects" not in name) == 1


def test_a_damaged_shard_stops_no_other_and_leaves_the_folder_unfinished(
    model, shards, tmp_path
) -> None:
    out = tmp_path / "out"
    whole = {path: path.read_bytes() for path in shards.iterdir()}
    (shards / "part-a.parquet").write_bytes(whole[shards / "part-a.parquet"][:-50])
    (shards / "part-b.json").write_text("{")
    report = _embed(shards, model[1], out)
    assert sorted(report.failures) == [
        str(shards / "part-a.parquet"),
        str(shards / "part-b.parquet"),
    ]
    assert "SHA-256" in report.failures[str(shards / "part-a.parquet")]
    assert (report.num_rows, report.num_files_written) == (2, 1)
    assert "failed: " in report.to_text()
    with pytest.raises(EmbeddingsError, match="2 of 3 files are not written"):
        read_embeddings(out)
    for path, data in whole.items():
        path.write_bytes(data)
    report = _embed(shards, model[1], out)
    assert (report.num_files_written, report.num_files_skipped) == (2, 1)
    assert len(read_embeddings(out)) == 20


def test_a_network_that_gives_no_numbers_gives_rejects(model, tmp_path) -> None:
    saved, _ = _model(tmp_path / "model", seed=0)
    for weight in saved.network.parameters():
        weight.data.fill_(float("nan"))
    save_model(tmp_path / "model", saved.network, saved.recipe, saved.subjects, step=0)
    shards = write_shards(tmp_path / "shards", {"part-a": [Walk("001", 20)]})
    report = _embed(shards, tmp_path / "model", tmp_path / "out")
    assert report.rejects == {("embed", "not-finite"): 1}


def test_rows_without_the_models_modality_are_rejects_that_say_what_to_do(
    model, shards, tmp_path
) -> None:
    recipe = with_overrides(named.recipe("gaitset-casiab"), {"data.modality": "silhouettes_128"})
    saved = initial_model(recipe, ["001"])
    save_model(tmp_path / "large", saved.network, recipe, saved.subjects, step=0)
    report = _embed(shards, tmp_path / "large", tmp_path / "out")
    assert report.rejects == {("decode", "no-such-modality"): 23}
    details = read_rejects(tmp_path / "out")["detail"].to_pylist()
    assert all("--video.modalities" in detail for detail in details)


def test_a_sequence_at_which_workers_end_is_left_out_and_tried_again_by_the_next_run(
    model, tmp_path
) -> None:
    walks = [Walk("001", 20, 1), Walk("002", 30, 2)]
    shards = write_shards(tmp_path / "shards", {"part-a": walks})
    out = tmp_path / "out"
    _embed(shards, model[1], out)
    (name,) = (path.stem for path in out.glob("*.parquet"))
    deadly = "test/002/nm-01/002"
    from raygait.evaluation.embed_shards import _FileEmbedder
    from raygait.evaluation.embedding_files import ModelIdentity, read_summary

    for _ in range(3):
        # As a process leaves it that is killed.
        Attempt(out, f"{name}.embed").begin(deadly)
    worker = _FileEmbedder(str(out), str(model[1]), ModelIdentity.of(model[1]), None, None, False)
    shard = reader.list_shards(shards)[0]
    sha256 = reader.read_summary(shard).sha256
    assert worker.embed_shard({"shard": str(shard), "name": name, "sha256": sha256}) == {}
    assert read_summary(out / f"{name}.parquet").rejects == (("embed", "worker-died", 1),)
    assert read_embeddings(out).subjects == ["001"]
    report = _embed(shards, model[1], out)
    assert (report.num_files_written, report.num_rows, report.rejects) == (1, 2, {})
    assert not list(out.glob("*tmp*"))


def test_a_model_that_was_replaced_after_the_run_began_embeds_nothing(
    model, shards, tmp_path
) -> None:
    from raygait.evaluation.embed_shards import _FileEmbedder
    from raygait.evaluation.embedding_files import ModelIdentity

    _, folder = _model(tmp_path / "model", seed=0)
    identity = ModelIdentity.of(folder)
    _model(folder, seed=1)
    worker = _FileEmbedder(str(tmp_path / "out"), str(folder), identity, None, None, False)
    shard = reader.list_shards(shards)[0]
    task = {"shard": str(shard), "name": "embeddings-a", "sha256": ""}
    assert "no longer" in worker.embed_shard(task)[str(shard)]
    assert not (tmp_path / "out").exists()


def test_only_one_run_writes_a_folder_at_a_time(model, shards, tmp_path) -> None:
    import fcntl

    out = tmp_path / "out"
    _embed(shards, model[1], out)
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EmbeddingsError, match="another run is writing"):
            _embed(shards, model[1], out)


def test_a_model_that_is_fetched_is_left_alone_by_a_second_run_which_fetches_none(
    model, shards, tmp_path
) -> None:
    out = tmp_path / "out"
    leftover = out / ".model-of-a-killed-run"
    leftover.mkdir(parents=True)
    fetched = []

    def fetch(scratch: Path) -> Path:
        assert scratch.parent == out
        assert not leftover.exists()
        folder = Path(shutil.copytree(model[1], scratch / "copy"))
        fetched.append(folder)
        if len(fetched) == 1:
            with pytest.raises(EmbeddingsError, match="another run is writing"):
                _embed(shards, fetch, out)
        return folder

    assert _embed(shards, fetch, out).num_rows == 20
    assert len(fetched) == 1
    assert not list(out.glob(".model-*"))


@pytest.mark.parametrize("why", ["no model", "no shards", "no saved model"])
def test_a_run_that_cannot_begin_leaves_no_folder(model, shards, tmp_path, why: str) -> None:
    def fetch(scratch: Path) -> Path:
        if why == "no model":
            raise RegistryError("there is no such version")
        return scratch

    source = tmp_path / "nowhere" if why == "no shards" else shards
    before = sorted(tmp_path.iterdir())
    with pytest.raises((RegistryError, ShardError)):
        _embed(source, fetch, tmp_path / "new" / "deeper" / "out")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "there").mkdir()
    with pytest.raises((RegistryError, ShardError)):
        _embed(source, fetch, tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_batches_hold_one_length_each_within_the_frames_that_a_cpu_likes(model) -> None:
    embedder = SequenceEmbedder(model[1])
    rows = [
        {"sequence_id": f"{n:03d}", "num_frames": length, "silhouettes": b""}
        for n, length in enumerate([30, 500, 30, 40] * 10)
    ]
    batches = list(embedder.batches(rows))
    assert sorted(row["sequence_id"] for batch in batches for row in batch) == sorted(
        row["sequence_id"] for row in rows
    )
    for batch in batches:
        assert len({row["num_frames"] for row in batch}) == 1
        assert len(batch) == 1 or sum(row["num_frames"] for row in batch) <= 128
    assert max(len(batch) for batch in batches) == 4


def test_a_long_shard_is_embedded_window_by_window(model) -> None:
    embedder = SequenceEmbedder(model[1])
    read = []

    def rows():
        for n in range(5000):
            read.append(n)
            yield {"sequence_id": f"{n:05d}", "num_frames": 20, "silhouettes": bytes(2**20)}

    next(iter(embedder.batches(rows())))
    assert len(read) == 64
