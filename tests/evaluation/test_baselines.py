"""The rows beside a model's own: the untrained network and averaged silhouettes."""

from pathlib import Path

import pytest

from raygait.evaluation.benchmark import AVERAGED, TRAINED, UNTRAINED, run_benchmark
from raygait.recipes import named
from raygait.recipes.saved_model import initial_model, save_model
from raygait.recipes.schema import with_overrides
from tests.evaluation.shards_to_embed import Walk, write_shards

_PEOPLE = ("001", "002", "003", "004")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    recipe = with_overrides(
        named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8], "data.split": "first:2"}
    )
    saved = initial_model(recipe, _PEOPLE[:2])
    save_model(tmp_path / "model", saved.network, recipe, saved.subjects, step=0)
    return tmp_path / "model"


def test_no_row_has_people_of_the_training_part_in_its_gallery(tmp_path: Path, model: Path) -> None:
    """Each tested person has a twin who was trained on, and who would be as near."""
    walks = [
        Walk(subject, 12, seed=number % 2, condition=condition)
        for number, subject in enumerate(_PEOPLE)
        for condition in ("1", "2")
    ]
    shards = write_shards(tmp_path / "shards", {"part-a": walks})
    result = run_benchmark(
        model, shards, protocol="ttg200", num_workers=0, scratch=tmp_path / "scratch"
    )
    assert {name: table.means for name, table in result.rows.items()} == {
        name: {"rank1": 100} for name in (TRAINED, UNTRAINED, AVERAGED)
    }
    assert (result.num_subjects, result.num_sequences) == (2, 4)
    assert result.chance == {"rank1": 50}
