"""Gait recognition from raw video to a registered model, from a laptop to a cluster."""

__version__ = "0.1.0"
