"""Masks by background subtraction, for a fixed camera and without any network.

The other mask, BlazePose's, comes with the joints: see `pose`.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from raygait.video.image_folders import open_clip
from raygait.video.pose import CROP_PX, Window

# The background is the median over the first 200 frames, of every 8th as long as these are few.
_NUM_LEARNING_FRAMES, _LEARNING_STEP, _MAX_LEARNING_IMAGES = 200, 8, 13
# Slow, so that who stands still for some seconds does not become background.
_LEARNING_RATE = 0.002
# MOG2 takes 100 bytes a pixel, 3.3 GB at 8K; up to 1920×1200 nothing is made smaller.
_MAX_AREA_PX2 = 1920 * 1200

# MOG2's labels.
_SHADOW, _FOREGROUND = 127, 255
# Row of the crop below which the lowest fifth of the box lies.
_GROUND_ROW = round((0.1 + 0.8 * 0.88) * CROP_PX)
_RIM = np.ones((3, 3), np.uint8)
_ROUND = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))


class BackgroundMasks:
    """What differs from the background, frame by frame (OpenCV's MOG2).

    Zivkovic and van der Heijden, Efficient adaptive density estimation per image pixel, Pattern
    Recognition Letters 2006. People who touch are one blob, and a shadow may stay on: BlazePose's
    mask is better wherever its file is there.

    Args:
        path: The clip. Its first 200 frames are read once more to learn the background, as the
            median over time: people who are there at the start then leave no hole behind, as long
            as they move on. At most 14 images are in memory. Frames larger than 1920×1200 are
            made as small as that first, so that memory does not grow with them: about 0.4 GB.
    """

    def __init__(self, path: str | Path) -> None:
        self._subtractor = cv2.createBackgroundSubtractorMOG2(
            history=500, varThreshold=25, detectShadows=True
        )
        with open_clip(path) as video:
            area_px2 = video.height_px * video.width_px
            self._scale = min(1.0, math.sqrt(_MAX_AREA_PX2 / area_px2))
            images: list[UInt8[np.ndarray, "h w 3"]] = []
            step = _LEARNING_STEP
            for count, frame in enumerate(itertools.islice(video.frames(), _NUM_LEARNING_FRAMES)):
                if count % step == 0:
                    images.append(self._smaller(frame.image))
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
        self._sure: UInt8[np.ndarray, "h w"] = np.zeros((1, 1), np.uint8)
        self._dark = self._sure

    def advance(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Take the next frame of the clip."""
        labels = self._subtractor.apply(self._smaller(image), learningRate=_LEARNING_RATE)
        is_shadow = (labels == _SHADOW).astype(np.uint8)
        # A thin rim of shadow is the blend of the person's outline with what is behind.
        shadow = cv2.morphologyEx(is_shadow, cv2.MORPH_OPEN, _RIM)
        sure = np.where(labels == _FOREGROUND, np.uint8(255), np.uint8(0))
        self._sure = cv2.medianBlur(sure, 3)
        self._dark = cv2.medianBlur(np.where(shadow > 0, np.uint8(255), sure), 3)

    def mask(self, square: Window) -> Bool[np.ndarray, "256 256"]:
        """The person whose box the square was drawn around: the current frame's foreground."""
        is_person = self._cut(self._sure, square)
        # Where MOG2 takes dark clothes for a shadow it is overruled, but for the ground: there the
        # shadows are.
        is_person[:_GROUND_ROW] |= self._cut(self._dark, square)[:_GROUND_ROW]
        closed = cv2.morphologyEx(is_person.astype(np.uint8), cv2.MORPH_CLOSE, _ROUND)
        mask: np.ndarray = closed.astype(bool)
        return mask

    def _cut(self, levels: UInt8[np.ndarray, "h w"], square: Window) -> Bool[np.ndarray, "256 256"]:
        if self._scale == 1:
            return square.cut(levels, CROP_PX) > 127
        # Not `Window.cut`: on whole pixels of the small image the mask would be beside the person.
        step = self._scale * square.width_px / CROP_PX
        first = self._scale * np.array([square.left_px, square.top_px]) + (step - 1) / 2
        cut: np.ndarray = cv2.warpAffine(
            levels,
            np.array([[step, 0, first[0]], [0, step, first[1]]]),
            (CROP_PX, CROP_PX),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cut > 127

    def _smaller(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        if self._scale == 1:
            return image
        small: np.ndarray = cv2.resize(
            image, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_AREA
        )
        return small
