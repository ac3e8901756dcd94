"""Masks by background subtraction, for a fixed camera and without any network.

The other mask, BlazePose's, comes with the joints: see `pose`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from raygait.video.decode import open_video
from raygait.video.pose import CROP_PX, Square

# The background is the median over the first 200 frames, of every 8th as long as these are few.
_NUM_LEARNING_FRAMES, _LEARNING_STEP, _MAX_LEARNING_IMAGES = 200, 8, 13
# Slow, so that who stands still for some seconds does not become background.
_LEARNING_RATE = 0.002


class BackgroundMasks:
    """What differs from the background, frame by frame (OpenCV's MOG2).

    Zivkovic and van der Heijden, Efficient adaptive density estimation per image pixel, Pattern
    Recognition Letters 2006. People who touch are one blob, and a shadow may stay on: BlazePose's
    mask is better wherever its file is there.

    Args:
        path: The clip. Its first 200 frames are read once more to learn the background, as the
            median over time: people who are there at the start then leave no hole behind, as long
            as they move on. At most 14 images are in memory.
    """

    def __init__(self, path: str | Path) -> None:
        self._subtractor = cv2.createBackgroundSubtractorMOG2(
            history=500, varThreshold=25, detectShadows=True
        )
        with open_video(path) as video:
            images: list[UInt8[np.ndarray, "h w 3"]] = []
            step = _LEARNING_STEP
            for count, frame in enumerate(itertools.islice(video.frames(), _NUM_LEARNING_FRAMES)):
                if count % step == 0:
                    images.append(frame.image)
                if len(images) > _MAX_LEARNING_IMAGES:
                    del images[1::2]
                    step *= 2
        # Row by row: the median of whole images needs several times their memory.
        scene = np.stack(
            [
                np.median(np.stack(rows), axis=0).astype(np.uint8)
                for rows in zip(*images, strict=True)
            ]
        )
        self._subtractor.apply(scene, learningRate=1.0)
        self._foreground: UInt8[np.ndarray, "h w"] = np.zeros((1, 1), np.uint8)

    def advance(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Take the next frame of the clip."""
        foreground = self._subtractor.apply(image, learningRate=_LEARNING_RATE)
        moving = np.where(foreground == 255, 255, 0).astype(np.uint8)  # 127 marks shadows
        self._foreground = cv2.medianBlur(moving, 3)

    def mask(self, square: Square) -> Bool[np.ndarray, "256 256"]:
        """Foreground of the current frame in a square of it."""
        mask: np.ndarray = square.cut(self._foreground, CROP_PX) > 127
        return mask
