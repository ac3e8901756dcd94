"""Shards -> tensors: which sequences and frames, each a pure function of seed and step."""
