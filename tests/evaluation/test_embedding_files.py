import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygait.errors import EmbeddingsError
from raygait.evaluation.embedding_files import (
    Manifest,
    ModelIdentity,
    Origin,
    file_path,
    read_embeddings,
    read_labels,
    read_rejects,
    read_summary,
    write_file,
)
from raygait.sequences import Reject

_MODEL = ModelIdentity("runs/a", "", "gaitgl-demo", 300, "ab" * 32, "cd" * 32)


def _row(number: int) -> dict[str, object]:
    return {
        **{"sequence_id": f"s/{number:04d}", "dataset": "s", "subject": f"{number % 7:03d}"},
        **{"condition": "nm-01", "view": "090", "track": 1, "source": f"{number}.mp4"},
        "num_frames": 10 + number,
    }


def _value(number: int) -> np.ndarray:
    return np.arange(12, dtype=np.float32).reshape(3, 4) + number


def _write(root: Path, files: dict[str, list[int]], model: ModelIdentity = _MODEL) -> Path:
    for name, numbers in files.items():
        results = [(_row(number), _value(number)) for number in numbers]
        origin = Origin(model, f"{name}.parquet", "ef" * 32, 3, 4, "cpu")
        write_file(root, name, origin, results, num_rows=len(numbers))
    shards = {name: f"{name}.parquet" for name in files}
    Manifest(model, None, "shards", "12" * 32, shards).write(root)
    return root


def test_what_is_written_is_read_in_the_order_of_sequence_ids(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(300).tolist()
    _write(tmp_path, {"embeddings-b": numbers[:170], "embeddings-a": numbers[170:]})
    found = read_embeddings(tmp_path)
    assert found.sequence_ids == [f"s/{number:04d}" for number in range(300)]
    assert found.subjects == [f"{number % 7:03d}" for number in range(300)]
    np.testing.assert_array_equal(found.values, np.stack([_value(n) for n in range(300)]))
    labels = read_labels(tmp_path).sort_by("sequence_id")
    assert labels.slice(5, 1).to_pylist() == [_row(5)]


def test_a_file_without_an_embedding_is_a_file(tmp_path: Path) -> None:
    _write(tmp_path, {"embeddings-a": [3, 1]})
    why = Reject("s/0009", 1, "embed", "too-short", "1 frames, the network needs 3")
    origin = Origin(_MODEL, "b.parquet", "ef" * 32, 3, 4, "cpu")
    write_file(tmp_path, "embeddings-b", origin, [(_row(9), why)], num_rows=5)
    files = {"embeddings-a": "a.parquet", "embeddings-b": "b.parquet"}
    Manifest(_MODEL, None, "shards", "", files).write(tmp_path)
    found = read_embeddings(tmp_path)
    assert (len(found), found.num_too_short) == (2, 1)
    summary = read_summary(file_path(tmp_path, "embeddings-b"))
    assert (summary.num_rows, summary.num_unwanted) == (0, 4)
    assert read_rejects(tmp_path).to_pylist() == [
        {
            **{"sequence_id": "s/0009", "dataset": "s", "source": "9.mp4", "track": 1},
            **{"stage": "embed", "reason": "too-short"},
            "detail": "1 frames, the network needs 3",
        }
    ]


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def results():
        yield _row(1), _value(1)
        raise OSError("no space left")

    origin = Origin(_MODEL, "a.parquet", "ef" * 32, 3, 4, "cpu")
    with pytest.raises(OSError, match="no space left"):
        write_file(tmp_path, "embeddings-a", origin, results(), num_rows=1)
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_in_an_embedding_is_found(tmp_path: Path) -> None:
    path = file_path(_write(tmp_path, {"embeddings-a": list(range(90))}), "embeddings-a")
    group = pq.ParquetFile(path).metadata.row_group(1)
    column = group.column(group.num_columns - 1)
    assert column.path_in_schema.startswith("embedding")
    whole = bytearray(path.read_bytes())
    whole[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(EmbeddingsError, match=r"embeddings-a\.parquet.*embed again"):
        read_embeddings(tmp_path)


def test_a_sequence_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, {"embeddings-a": [1, 2, 3], "embeddings-b": [4, 2]})
    with pytest.raises(EmbeddingsError, match=r"'s/0002' is there twice"):
        read_embeddings(tmp_path)


def test_files_of_two_models_are_not_one_folder(tmp_path: Path) -> None:
    _write(tmp_path, {"embeddings-a": [1]}, ModelIdentity("b", "", "r", 1, "00" * 32, "cd" * 32))
    _write(tmp_path, {"embeddings-b": [2]})
    files = {"embeddings-a": "a.parquet", "embeddings-b": "b.parquet"}
    Manifest(_MODEL, None, "shards", "", files).write(tmp_path)
    with pytest.raises(EmbeddingsError, match=r"embeddings-a\.parquet: embeddings of b, r at step"):
        read_embeddings(tmp_path)


@pytest.mark.parametrize("case", ["nowhere", "newer", "foreign", "fewer rows", "spoilt manifest"])
def test_what_cannot_be_trusted_is_refused_by_name(tmp_path: Path, case: str) -> None:
    path = file_path(_write(tmp_path, {"embeddings-a": [1, 2]}), "embeddings-a")
    table = pq.read_table(path)
    counts = pq.read_metadata(path).metadata[b"raygait.embeddings.counts"]
    if case == "nowhere":
        (tmp_path / "embeddings.json").unlink()
    elif case == "newer":
        said = json.loads(table.schema.metadata[b"raygait.embeddings"])
        metadata = {b"raygait.embeddings": json.dumps({**said, "format_version": 9}).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    elif case == "foreign":
        pq.write_table(pa.table({"a": [1]}), path)
    elif case == "fewer rows":
        metadata = {**table.schema.metadata, b"raygait.embeddings.counts": counts}
        pq.write_table(table[:1].replace_schema_metadata(metadata), path)
    else:
        (tmp_path / "embeddings.json").write_text('{"format_version": 1}')
    words = {
        "nowhere": "no folder of embeddings",
        "newer": "format version 9",
        "foreign": "not a file of embeddings",
        "fewer rows": "1 rows, it says 2",
        "spoilt manifest": "not a manifest",
    }
    with pytest.raises(EmbeddingsError, match=words[case]):
        read_embeddings(tmp_path)
