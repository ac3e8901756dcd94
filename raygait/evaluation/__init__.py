"""Embeddings, distances, ranking, and the protocols' tables."""
