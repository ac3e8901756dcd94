import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raygait.errors import ClusterTooSmall, CorruptShard, DatasetError
from raygait.evaluation.benchmark import TRAINED, metrics_of, run_benchmark
from raygait.evaluation.embed import embed, reorder
from raygait.recipes import named
from raygait.recipes.saved_model import SavedModel, initial_model, save_model
from raygait.recipes.schema import with_overrides
from raygait.shards import codec, reader

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    recipe = with_overrides(
        named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8], "data.split": "first:4"}
    )
    folder = tmp_path_factory.mktemp("model")
    saved = initial_model(recipe, ["001", "002", "003", "004"])
    save_model(folder, saved.network, recipe, saved.subjects, step=0)
    return saved, folder


def test_rows_embed_as_they_do_one_by_one_with_every_frame(walker_shards: Path, model) -> None:
    saved, folder = model
    embeddings = embed(walker_shards, folder, num_workers=2)
    rows = reader.read_rows(walker_shards, columns=["sequence_id", "silhouettes"]).to_pylist()
    assert embeddings.sequence_ids == sorted(row["sequence_id"] for row in rows)
    by_id = {row["sequence_id"]: codec.decode_silhouettes(row["silhouettes"]) for row in rows}
    for number in range(0, len(embeddings), 7):
        alone = saved.embed(by_id[embeddings.sequence_ids[number]][None])[0]
        np.testing.assert_allclose(embeddings.values[number], alone, atol=1e-5)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_number_of_workers_changes_nothing(walker_shards, model, num_workers: int) -> None:
    two = embed(walker_shards, model[1], num_workers=2)
    other = embed(walker_shards, model[1], num_workers=num_workers)
    assert other.sequence_ids == two.sequence_ids
    np.testing.assert_array_equal(other.values, two.values)


def test_only_the_wanted_subjects_are_embedded(walker_shards: Path, model) -> None:
    embeddings = embed(walker_shards, model[1], subjects=["005", "002"], num_workers=0)
    assert set(embeddings.subjects) == {"005", "002"}


def test_nothing_to_embed_is_an_error(walker_shards: Path, model) -> None:
    with pytest.raises(DatasetError, match="no sequence to embed"):
        embed(walker_shards, model[1], subjects=["nobody"], num_workers=0)


def test_a_worker_that_fits_nowhere_is_an_error_and_not_a_wait(walker_shards, model) -> None:
    with pytest.raises(ClusterTooSmall, match="no node has the 99 CPUs"):
        embed(walker_shards, model[1], num_workers=1, num_threads=99)


def test_a_damaged_shard_is_the_same_error_from_a_worker_as_from_here(
    walker_shards: Path, model, tmp_path: Path
) -> None:
    shutil.copytree(walker_shards, tmp_path / "shards")
    shard = reader.list_shards(tmp_path / "shards")[0]
    group = pq.ParquetFile(shard).metadata.row_group(0)
    frames = next(
        column
        for column in (group.column(index) for index in range(group.num_columns))
        if column.path_in_schema == "silhouettes"
    )
    whole = bytearray(shard.read_bytes())
    whole[frames.data_page_offset + frames.total_compressed_size // 2] ^= 0xFF
    shard.write_bytes(bytes(whole))
    for num_workers in (0, 1):
        with pytest.raises(CorruptShard, match=shard.name):
            embed(tmp_path / "shards", model[1], num_workers=num_workers)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_rows_change_places_without_a_copy_of_them_all(order: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).random((4, 3, 2)).astype(np.float32)
    expected = values[list(order)]
    reorder(values, order)
    np.testing.assert_array_equal(values, expected)


_PEAK = """
from pathlib import Path
import numpy as np, pyarrow as pa
from raygait.evaluation import embed
from raygait.training.environment import process_sizes_mb

rows, numbers = 200, 16 * 256

def tables(num):
    for shard in range(num):
        values = np.repeat(np.arange(rows, dtype=np.float32), numbers)
        lists = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * numbers, values)
        # Backwards and between each other, as actors may leave them.
        ids = pa.array([f"{rows - row:03d}-{shard:02d}" for row in range(rows)])
        parts, fine = pa.array([16] * rows, pa.int32()), pa.array([""] * rows)
        columns = [ids, ids, ids, ids, parts, lists, fine]
        yield pa.Table.from_arrays(columns, schema=embed._SCHEMA)

embed._collect(tables(1), Path("shards"))
before = process_sizes_mb()["VmHWM"]
found = embed._collect(tables(80), Path("shards"))
assert found.sequence_ids == sorted(found.subjects)
for row in range(0, len(found), 97):
    assert (found.values[row] == rows - int(found.sequence_ids[row][:3])).all()
print(process_sizes_mb()["VmHWM"] - before, found.values.nbytes / 2**20)
"""


def test_gathering_takes_little_more_memory_than_what_is_gathered() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PEAK], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak_mb, result_mb = map(float, done.stdout.split())
    assert result_mb == 250
    assert peak_mb < 1.3 * result_mb


def test_a_benchmark_scores_the_test_subjects_beside_three_rows_for_scale(
    walker_shards: Path, model, tmp_path: Path
) -> None:
    result = run_benchmark(model[1], walker_shards, scratch=tmp_path, num_workers=0)
    assert (result.protocol, result.split, result.num_subjects) == ("casiab", "first:4", 2)
    assert list(result.rows) == ["trained", "untrained", "GEI"]
    # Two subjects with as many gallery walks each: a guess is right half of the time.
    assert result.chance["NM"] == pytest.approx(50)
    # This model has not been trained, so the two rows are one network.
    assert result.rows["trained"].means == result.rows["untrained"].means
    text = result.to_text()
    for word in ("casiab", "first:4", "untrained", "GEI", "chance"):
        assert word in text


def test_metrics_carry_the_protocols_name(walker_shards: Path, model) -> None:
    result = run_benchmark(model[1], walker_shards, num_workers=0)
    metrics = metrics_of(result.to_dict())
    assert metrics["casiab/NM/rank1"] == pytest.approx(result.rows[TRAINED].means["NM"], abs=1e-3)
    assert metrics["casiab/NM/rank1-chance"] == pytest.approx(50)
    assert all(name.startswith("casiab/") for name in metrics)


def test_another_split_than_the_one_trained_on_is_scored_when_the_recipe_or_the_caller_says_so(
    walker_shards: Path, model, tmp_path: Path
) -> None:
    saved, folder = model
    elsewhere = with_overrides(saved.recipe, {"data.test_split": "first:2"})
    save_model(tmp_path / "model", saved.network, elsewhere, saved.subjects, step=0)
    by_recipe = run_benchmark(tmp_path / "model", walker_shards, num_workers=0)
    assert (by_recipe.split, by_recipe.num_subjects) == ("first:2", 4)
    by_caller = run_benchmark(folder, walker_shards, split="first:3", num_workers=0)
    assert (by_caller.split, by_caller.num_subjects) == ("first:3", 3)
    with pytest.raises(DatasetError, match="marathon"):
        run_benchmark(folder, walker_shards, protocol="marathon", num_workers=0)
