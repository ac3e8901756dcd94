"""Shards -> tensors: which sequences, which frames, in which order; each a pure function of a seed."""
