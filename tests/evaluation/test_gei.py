"""Averaged silhouettes, read back from shards."""

from pathlib import Path

import numpy as np
import pytest

from raygait.batches.clips import cut_columns, fit_frames
from raygait.errors import DatasetError
from raygait.evaluation.gei import average_silhouettes
from raygait.shards import codec, reader

pytestmark = pytest.mark.ray  # its shards come from an ingest on the session's cluster


def test_it_is_the_mean_of_the_aligned_frames_as_one_part(walker_shards: Path) -> None:
    result = average_silhouettes(walker_shards, height_px=64, width_px=44)
    rows = {row["sequence_id"]: row for row in reader.read_rows(walker_shards).to_pylist()}
    assert len(result) == len(rows)
    assert result.sequence_ids == sorted(rows)
    assert result.values.shape == (len(rows), 1, 64 * 44)
    assert result.values.dtype == np.float32
    assert 0 <= result.values.min() < 0.01 < 0.9 < result.values.max() <= 1
    for i in (0, len(rows) - 1):
        row = rows[result.sequence_ids[i]]
        assert (result.subjects[i], result.conditions[i], result.views[i]) == (
            row["subject"],
            row["condition"],
            row["view"],
        )
        frames = cut_columns(codec.decode_silhouettes(row["silhouettes"]), 44).astype(np.float64)
        expected = frames.mean(axis=0).ravel() / 255
        np.testing.assert_allclose(result.values[i, 0], expected, atol=1e-6)


def test_at_half_the_height_it_is_the_mean_of_what_a_network_of_that_size_sees(
    walker_shards: Path,
) -> None:
    result = average_silhouettes(walker_shards, height_px=32, width_px=22)
    row = reader.read_rows(walker_shards).to_pylist()[0]
    seen = fit_frames(codec.decode_silhouettes(row["silhouettes"]), 32, 22).mean(axis=0)
    place = result.sequence_ids.index(row["sequence_id"])
    np.testing.assert_allclose(result.values[place, 0], seen.ravel() / 255, atol=1e-6)


def test_only_the_wanted_sequences_are_averaged(walker_shards: Path) -> None:
    wanted = reader.read_rows(walker_shards)["sequence_id"].to_pylist()[3:7]
    result = average_silhouettes(walker_shards, height_px=64, width_px=44, sequence_ids=wanted)
    assert result.sequence_ids == sorted(wanted)


def test_nothing_left_is_an_error(walker_shards: Path) -> None:
    with pytest.raises(DatasetError, match="none of the wanted sequences"):
        average_silhouettes(walker_shards, height_px=64, width_px=44, sequence_ids=["nobody"])
