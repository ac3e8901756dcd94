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


def test_dark_clothes_are_no_shadow_but_what_lies_on_the_ground_is_one(write_clip) -> None:
    scene = np.full((240, 320, 3), 150, np.uint8)
    scene += np.random.default_rng(0).integers(0, 12, scene.shape, np.uint8)
    passing = []
    for left in range(20, 260, 6):
        image = scene.copy()
        image[80:180, left : left + 30] = 95  # as dark as a shadow, and of no other colour
        image[176:180, max(0, left - 40) : left] = 100  # and the shadow itself
        passing.append(image)
    images = [scene] * 20 + passing
    masks = BackgroundMasks(write_clip("dark.mp4", images))
    for image in images[:40]:
        masks.advance(image)
    left = 20 + 6 * 19
    square = Window.square_around(np.array([left, 80, left + 30, 180], np.float32))
    mask, _ = largest_part(masks.mask(square))
    person = np.zeros((240, 320), np.uint8)
    person[80:168, left : left + 30] = 255
    expected = square.cut(person, 256) > 127
    above = slice(0, 180)
    shared, either = (mask & expected)[above].sum(), (mask | expected)[above].sum()
    assert shared / either > 0.9
    shadow = np.zeros((240, 320), np.uint8)
    shadow[176:180, left - 40 : left - 2] = 255
    assert mask[square.cut(shadow, 256) > 127].mean() < 0.2
