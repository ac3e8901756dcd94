"""Ray Tune over Ray Train: grids over dotted recipe paths."""
