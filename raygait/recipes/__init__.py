"""What a run is: the schema, the recipes by name, and models saved with the recipe they follow."""
