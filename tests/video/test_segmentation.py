import tracemalloc

import numpy as np

from raygait.video.pose import Window
from raygait.video.quality import largest_part
from raygait.video.segmentation import BackgroundMasks


def test_what_moves_is_the_mask(write_clip, moving_block_images) -> None:
    path = write_clip("block.mp4", moving_block_images)
    masks = BackgroundMasks(path)
    for image in moving_block_images[:31]:
        masks.advance(image)
    # At frame 30 the block's columns are 100 to 140, its rows 80 to 180.
    mask, _ = largest_part(masks.mask(Window(57, 67, 126, 126)))  # compression leaves specks
    rows, columns = np.nonzero(mask)
    scale = 126 / 256
    assert abs(67 + scale * rows.min() - 80) < 6
    assert abs(67 + scale * rows.max() - 180) < 6
    assert abs(57 + scale * columns.min() - 100) < 6
    assert abs(57 + scale * columns.max() - 140) < 6
    assert mask[rows.min() : rows.max(), columns.min() : columns.max()].mean() > 0.9


def test_somebody_there_from_the_start_leaves_no_ghost(write_clip, moving_block_images) -> None:
    images = moving_block_images[20:] + [moving_block_images[0]] * 40
    masks = BackgroundMasks(write_clip("block.mp4", images))
    for image in images:
        masks.advance(image)
    assert masks.mask(Window(0, 0, 240, 240)).mean() < 0.01


def test_learning_the_background_holds_few_images(write_clip) -> None:
    image = np.full((480, 640, 3), 90, np.uint8)
    path = write_clip("long.mp4", [image] * 200)
    tracemalloc.start()
    BackgroundMasks(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * image.nbytes
