import cv2
import numpy as np

from raygait.video.quality import largest_part, sharpness


def test_the_largest_part_is_kept_and_measured() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:80, 40:60] = True  # 1200 pixels
    mask[0:10, 0:30] = True  # 300 pixels
    part, quality = largest_part(mask)
    assert part.sum() == 1200
    assert not part[:10, :30].any()
    assert quality.area_ratio == 0.12
    assert quality.largest_part_ratio == 0.8
    assert quality.height_ratio == 0.6
    assert quality.box == (0.4, 0.2, 0.6, 0.8)
    assert not quality.is_cut


def test_pixels_that_touch_at_a_corner_are_one_part() -> None:
    _, quality = largest_part(np.eye(10, dtype=bool))
    assert quality.largest_part_ratio == 1.0


def test_an_empty_mask_measures_zero() -> None:
    part, quality = largest_part(np.zeros((10, 10), bool))
    assert not part.any()
    assert quality.area_ratio == quality.largest_part_ratio == quality.height_ratio == 0.0


def test_a_mask_that_reaches_the_upper_or_lower_border_is_cut() -> None:
    for rows in (slice(0, 50), slice(50, 100)):
        mask = np.zeros((100, 100), bool)
        mask[rows, 40:60] = True
        assert largest_part(mask)[1].is_cut


def test_arms_may_reach_over_the_sides() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:80, 40:60] = True
    mask[30:35] = True
    assert not largest_part(mask)[1].is_cut


def test_a_blurred_person_is_less_sharp_and_what_is_behind_does_not_count() -> None:
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 255, (128, 128, 3), np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[20:110, 40:90] = True
    blurred = cv2.GaussianBlur(crop, (0, 0), 2)
    assert sharpness(blurred, mask) < 0.2 * sharpness(crop, mask)
    behind = np.where(mask[..., None], blurred, crop)
    assert sharpness(behind, mask) < 0.5 * sharpness(crop, mask)
    assert sharpness(crop, np.zeros_like(mask)) == 0.0
