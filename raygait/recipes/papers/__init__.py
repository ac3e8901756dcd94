"""The recipes of the papers, one module a paper; `raygait.recipes.named` collects them."""
