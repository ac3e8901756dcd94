"""Rows as shards hold them, made without a video."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raygait.shards import codec

MAGENTA = (255, 0, 255)
MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def make_row() -> MakeRow:
    return _make_row


def _make_row(
    sequence_id: str = "clips/a.mp4#1",
    *,
    silhouettes: np.ndarray | None = None,
    num_frames: int = 30,
    pictures: bool = True,
    joint: tuple[int, int] = (16, 24),
    crop_rgb: tuple[int, int, int] = MAGENTA,
    **columns: Any,
) -> dict[str, Any]:
    """A row: a bar that walks to the right, a crop of one colour, all joints at one place."""
    if silhouettes is None:
        silhouettes = np.zeros((num_frames, 64, 64), np.uint8)
        for number, frame in enumerate(silhouettes):
            frame[8:56, number : number + 8] = 255
    num_frames = len(silhouettes)
    heatmaps = np.zeros((num_frames, 17, 64, 48), np.uint8)
    heatmaps[:, 3, joint[0] - 2 : joint[0] + 3, joint[1] - 2 : joint[1] + 3] = 255
    crops = np.full((num_frames, 128, 128, 3), crop_rgb, np.uint8)
    return {
        "sequence_id": sequence_id,
        "dataset": "clips",
        "subject": "",
        "condition": "",
        "view": "",
        "track": 1,
        "source": "a.mp4",
        "source_size_bytes": 1,
        "source_mtime_ns": 1,
        "source_sha256": "00",
        "fps": 25.0 if pictures else float("nan"),
        "num_frames": num_frames,
        "height_px": 64,
        "width_px": 64,
        "frame_indices": list(range(5, 5 + num_frames)),
        "boxes_px": [float("nan")] * 4 * num_frames,
        "silhouettes": codec.encode_silhouettes(silhouettes),
        "heatmaps": codec.encode_heatmaps(heatmaps) if pictures else None,
        "heatmap_scale": 1 / 255 if pictures else None,
        "heatmap_windows_px": [8.0, 0.0, 56.0, 64.0] * num_frames if pictures else None,
        "rgb": codec.encode_crops(crops) if pictures else None,
        "rgb_masks": codec.encode_silhouettes(crops[..., 0]) if pictures else None,
        "rgb_windows_px": [0.0, 0.0, 64.0, 64.0] * num_frames if pictures else None,
        "rgb_ratio": [1.0] * num_frames if pictures else None,
        "person_score": [0.9 if pictures else float("nan")] * num_frames,
        "joint_score": [0.8] * num_frames,
        "mask_area_ratio": [0.2] * num_frames,
        "mask_height_px": [48.0] * num_frames,
        "largest_part_ratio": [1.0] * num_frames,
        "sharpness": [9.0] * num_frames,
        "is_cut": [False] * num_frames,
        "is_walking": [True] * num_frames,
        "track_person_score": 0.9 if pictures else float("nan"),
        "left_out_indices": [],
        "left_out_reasons": [],
        "provenance": '{"raygait": "9.9", "packages": {"av": "1.2"}, "assets": {"net": "abcdef"}}',
    } | columns


@pytest.fixture(scope="session")
def history() -> list[dict[str, float]]:
    names = (
        "loss", "triplet_loss", "identity_loss", "active_triplet_ratio", "mean_positive_distance",
        "mean_negative_distance", "accuracy", "learning_rate", "step_seconds", "wait_seconds",
    )  # fmt: skip
    return [{"step": step, **dict.fromkeys(names, 1 / step)} for step in range(1, 121)]


@pytest.fixture(scope="session")
def evaluation() -> dict[str, Any]:
    """As `Benchmark.to_dict` writes it; GEI is the better one with bags."""

    def table(nm: float, bg: float) -> dict[str, Any]:
        return {
            "protocol": "casiab",
            "views": ["000", "090"],
            "per_view": {"NM": [nm - 1, nm + 1], "BG": [bg, None]},
            "cells": {},
            "means": {"NM": nm, "BG": bg},
            "num_empty": 0,
        }

    return {
        "protocol": "casiab",
        "split": "first:6",
        "num_subjects": 4,
        "num_sequences": 80,
        "num_too_short": 0,
        "rows": {"trained": table(91.5, 40.25), "untrained": table(30, 20), "GEI": table(55, 61)},
        "chance": {"NM": 25.0, "BG": 25.0},
    }
