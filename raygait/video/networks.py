"""Run a TFLite network on one core; what any network that describes a person has to do."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from jaxtyping import Bool, Float32, UInt8


class Network:
    """A TFLite file with one image input, run by LiteRT on one thread.

    Args:
        path: The `.tflite` file.
        outputs: Names of the output tensors to return, in this order.
    """

    def __init__(self, path: Path, outputs: tuple[str, ...]) -> None:
        # One thread: two gave nothing on these networks, and Ray places one actor per core.
        self._interpreter = Interpreter(str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        places = {entry["name"]: entry["index"] for entry in self._interpreter.get_output_details()}
        self._outputs = [places[name] for name in outputs]

    def __call__(self, image: Float32[np.ndarray, "h w 3"]) -> list[np.ndarray]:
        """Outputs for one image, each with a leading axis of 1."""
        self._interpreter.set_tensor(self._input, image[np.newaxis])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(place) for place in self._outputs]


@runtime_checkable
class PoseEstimator(Protocol):
    """The joints of the person in the middle of a crop."""

    def __call__(self, crop: UInt8[np.ndarray, "256 256 3"]) -> UInt8[np.ndarray, "17 64 48"]:
        """Probability of each COCO joint, 255 = 1.0, over the middle three quarters of a crop."""


@runtime_checkable
class Segmenter(Protocol):
    """The pixels of the person in the middle of a crop."""

    def __call__(self, crop: UInt8[np.ndarray, "256 256 3"]) -> Bool[np.ndarray, "256 256"]:
        """The person's pixels of an RGB crop."""
