"""Material for the shards tests: walkers' silhouettes, folders of masks, rows."""

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from raygait.sequences import GaitSequence
from raygait.shards.plan import Source
from raygait.shards.workers import to_row
from raygait.synthetic.walkers import Walker, render_masks
from raygait.video.alignment import align
from raygait.video.extraction import ExtractedSequence, FrameQuality


@pytest.fixture(scope="session")
def silhouettes() -> np.ndarray:
    """Aligned silhouettes [120, 64, 64] of two walkers from two sides, with gray edges."""
    clips = [
        render_masks(Walker.from_seed(seed), condition="nm-01", view_deg=view, num_frames=60)
        for seed, view in ((1, 90.0), (2, 36.0))
    ]
    return np.stack([align(mask) for clip in clips for mask in clip])


@pytest.fixture(scope="session")
def heatmaps() -> np.ndarray:
    """Heatmaps [20, 17, 64, 48] of wandering joints, 0..1, with a faint floor."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:64, :48]
    t, j = np.mgrid[:20, :17]
    distance = (x - (8 + 2 * j + 0.2 * t)[..., None, None]) ** 2
    distance = distance + (y - (4 + 3.5 * j)[..., None, None]) ** 2
    floor = generator.random((20, 17, 64, 48)) * 0.004
    return np.maximum(0.93 * np.exp(-distance / 12), floor).astype(np.float32)


@pytest.fixture
def extracted(silhouettes: np.ndarray, heatmaps: np.ndarray) -> ExtractedSequence:
    """A track of 20 frames with every modality."""
    generator = np.random.default_rng(1)
    t = 20
    return ExtractedSequence(
        track=3,
        frame_indices=np.arange(5, 5 + 2 * t, 2, dtype=np.int32),
        boxes_px=generator.uniform(0, 500, (t, 4)).astype(np.float32),
        fps=25.0,
        silhouettes=silhouettes[:t],
        heatmaps=np.rint(heatmaps * 255).astype(np.uint8),
        quality=FrameQuality(
            person_score=generator.random(t, np.float32),
            joint_score=generator.random(t, np.float32),
            mask_area_ratio=generator.random(t, np.float32),
            mask_height_px=generator.uniform(50, 200, t).astype(np.float32),
            largest_part_ratio=generator.random(t, np.float32),
            sharpness=generator.uniform(5, 30, t).astype(np.float32),
            is_cut=generator.random(t) < 0.5,
            is_walking=generator.random(t) < 0.5,
        ),
        left_out=((6, "hidden"), (8, "small mask")),
        track_person_score=0.97,
        silhouettes_128=silhouettes[:t].repeat(2, axis=1).repeat(2, axis=2),
        heatmap_windows_px=generator.uniform(0, 500, (t, 4)).astype(np.float32),
        heatmaps_redrawn=generator.integers(0, 256, (t, 2, 64, 64), np.uint8),
        rgb=cv2.resize(generator.integers(0, 256, (8, 8, 3 * t), np.uint8), (128, 128))
        .reshape(128, 128, t, 3)
        .transpose(2, 0, 1, 3)
        .copy(),
        rgb_masks=silhouettes[:t].repeat(2, axis=1).repeat(2, axis=2),
        rgb_windows_px=np.tile(np.array([10, 20, 60, 120], np.float32), (t, 1)),
        joints=generator.uniform(0, 500, (t, 17, 3)).astype(np.float32),
    )


@pytest.fixture
def source() -> Source:
    sequence = GaitSequence("clips", "anna", "nm-01", "cam1", "anna/nm-01/cam1.mp4", "video")
    return Source(sequence, 1234, 1_700_000_000_000_000_000)


@pytest.fixture
def row(source: Source, extracted: ExtractedSequence) -> dict[str, object]:
    """A row with every modality."""
    return to_row(source, extracted, "ab" * 32, "{}")


@pytest.fixture(scope="session")
def write_mask_folders() -> Callable[..., list[GaitSequence]]:
    """Writes SUBJECT/nm-01/090/*.png for some subjects; `render_masks` at 320 x 240."""

    def write(
        root: Path, num_subjects: int, *, num_frames: int = 8, first_subject: int = 1
    ) -> list[GaitSequence]:
        sequences = []
        for number in range(first_subject, first_subject + num_subjects):
            subject = f"{number:03d}"
            folder = root / subject / "nm-01" / "090"
            folder.mkdir(parents=True)
            masks = render_masks(
                Walker.from_seed(number), condition="nm-01", view_deg=90, num_frames=num_frames
            )
            for index, mask in enumerate(masks):
                cv2.imwrite(str(folder / f"{index:03d}.png"), mask)
            source = folder.relative_to(root).as_posix()
            sequences.append(GaitSequence("tree", subject, "nm-01", "090", source, "silhouettes"))
        return sequences

    return write


def _write_clip(path: Path, images: np.ndarray, *, codec: str = "mpeg4") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p" if codec == "mpeg4" else "rgb24"
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def write_walk_clip() -> Callable[..., Path]:
    """Writes a clip of bright walkers before a still texture, each in a picture of their own.

    The first frames show nobody, and each further person is gone ten frames earlier, so that
    everyone is found without any network's file and no two tracks are equally long.
    """

    def write(path: Path, *, num_people: int = 1, num_frames: int = 60) -> Path:
        pictures = []
        for number in range(num_people):
            masks = render_masks(
                Walker.from_seed(1 + number), condition="nm-01", view_deg=90, num_frames=num_frames
            )
            masks[num_frames - 10 * number :] = 0
            texture = np.random.default_rng(number).integers(70, 110, masks.shape[1:], np.uint8)
            masks = np.concatenate([np.zeros_like(masks[:12]), masks])
            pictures.append(np.where(masks > 127, np.uint8(210), texture))
        gray = np.concatenate(pictures, axis=2)
        return _write_clip(path, np.repeat(gray[..., None], 3, axis=-1))

    return write


@pytest.fixture(scope="session")
def write_bad_clips() -> Callable[[Path], dict[str, tuple[str, str]]]:
    """Writes clips that cannot become rows, and says the stage and reason of each."""

    def write(root: Path) -> dict[str, tuple[str, str]]:
        (root / "empty.mp4").write_bytes(b"")
        (root / "text.mp4").write_text("I am not a video\n" * 50)
        _write_clip(root / "nobody.mp4", np.full((30, 96, 128, 3), 120, np.uint8))
        _write_clip(root / "dot.avi", np.zeros((5, 1, 1, 3), np.uint8), codec="rawvideo")
        return {
            "empty.mp4": ("decode", "undecodable"),
            "text.mp4": ("decode", "undecodable"),
            "nobody.mp4": ("detect", "no-person"),
            "dot.avi": ("decode", "frame-size"),
        }

    return write
