"""Benchmarks as their owners distribute them, masks and what lies beside them, of one walker."""

import json
from pathlib import Path

import cv2
import numpy as np

from raygait.synthetic.walkers import Clip, Walker, render

# Places of COCO's joints among OpenPose's eighteen; the neck, 1, is between the shoulders.
OF_EIGHTEEN = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)


def walk(seed: int = 3, num_frames: int = 6) -> Clip:
    return render(Walker.from_seed(seed), condition="nm-01", view_deg=90, num_frames=num_frames)


def write_images(folder: Path, images: list[np.ndarray], name: str = "{:04d}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        assert cv2.imwrite(str(folder / name.format(number)), image)
    return folder


def boxes_of(masks: np.ndarray, margin_px: int = 3) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left and right of a person and a little round them."""
    boxes = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        boxes.append(
            (
                max(int(rows.min()) - margin_px, 0),
                int(rows.max()) + 1 + margin_px,
                max(int(columns.min()) - margin_px, 0),
                int(columns.max()) + 1 + margin_px,
            )
        )
    return boxes


def cut(frames: np.ndarray, boxes: list[tuple[int, int, int, int]]) -> list[np.ndarray]:
    return [
        frame[top:bottom, left:right]
        for frame, (top, bottom, left, right) in zip(frames, boxes, strict=True)
    ]


def colours_of(masks: np.ndarray) -> np.ndarray:
    """RGB pictures of the same frames: a blue and green scene, and somebody in red."""
    height_px, width_px = masks.shape[1:]
    y, x = np.mgrid[:height_px, :width_px]
    scene = np.stack([0 * x, 255 * y // height_px, 255 * x // width_px], axis=2).astype(np.uint8)
    return np.where(masks[..., None] > 0, np.uint8([230, 40, 30]), scene)


def write_colours(folder: Path, pictures: list[np.ndarray], name: str = "{:04d}.jpg") -> Path:
    return write_images(folder, [picture[..., ::-1] for picture in pictures], name)


def write_texts(folder: Path, joints: np.ndarray, name: str = "{:04d}.txt") -> None:
    """Joints as Gait3D and GREW write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(joints, start=1):
        values = ",".join(map(str, frame.reshape(-1).tolist()))
        (folder / name.format(number)).write_text(f"90,200,{values}\n")


def person(joints: np.ndarray) -> dict[str, list[float]]:
    """A person as OpenPose writes one."""
    values = np.zeros((18, 3))
    values[list(OF_EIGHTEEN)] = joints
    values[1] = (joints[5] + joints[6]) / 2
    return {"pose_keypoints_2d": values.reshape(-1).tolist()}


def write_people(folder: Path, people: list[list[np.ndarray]], name: str = "{:04d}.json") -> None:
    """Joints as OU-MVLP Pose holds them: of each frame several people."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(people, start=1):
        content = {"version": 1.1, "people": [person(joints) for joints in frame]}
        (folder / name.format(number)).write_text(json.dumps(content))
