import json

import pytest
import torch

from raygait.errors import RecipeError
from raygait.recipes import ablations, named
from raygait.recipes.ablations import TABLES
from raygait.recipes.schema import build_model

ROWS = [(table, row) for table in TABLES for row in TABLES[table].rows]


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_every_row_of_every_table_is_a_recipe_whose_network_builds(table: str, row: str) -> None:
    recipe = TABLES[table].recipe_of(row)
    with torch.device("meta"):  # full width, no memory
        for phase in (*map(recipe.phase, recipe.before), recipe):
            assert sum(weight.numel() for weight in build_model(phase, 7).parameters()) > 10_000


@pytest.mark.parametrize("table", TABLES)
def test_no_two_rows_of_a_table_are_the_same_recipe(table: str) -> None:
    recipes = [TABLES[table].recipe_of(row).to_dict() for row in TABLES[table].rows]
    assert len({json.dumps(recipe, sort_keys=True) for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("table", [name for name in TABLES if "figure" not in name])
def test_a_table_has_the_row_the_paper_proposes_and_numbers_for_every_row(table: str) -> None:
    rows = TABLES[table].rows.values()
    assert any(not row.overrides for row in rows)
    metrics = [set(row.printed) for row in rows]
    assert metrics[0]
    assert all(names == metrics[0] for names in metrics)
    assert all(0 < value <= 100 for row in rows for value in row.printed.values())


@pytest.mark.parametrize("table", TABLES)
def test_a_table_says_where_it_is_printed_and_starts_from_recipes_that_exist(table: str) -> None:
    entry = TABLES[table]
    assert any(word in entry.source for word in ("Table", "Fig."))
    for name in {entry.recipe, *(row.recipe for row in entry.rows.values() if row.recipe)}:
        assert named.recipe(name).name == name


def test_unknown_tables_and_rows_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="gaitgl-table-8"):
        ablations.table("gaitgl-table-8")
    with pytest.raises(RecipeError, match="median"):
        ablations.table("gaitgl-table-6").recipe_of("median")
