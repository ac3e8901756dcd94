import numpy as np
import pytest

from raygait.video.appearance import describe_boxes, describe_clothes, split_by_clothes

# Chest, belly, thighs, shins in CIELAB.
RED_JACKET = np.array([(40, 45, 30), (40, 45, 30), (25, 0, -10), (25, 0, -10)], np.float32)
BLACK_COAT = np.array([(12, 0, 0), (12, 0, 0), (12, 0, 0), (30, 0, -15)], np.float32)
BLUE_COAT = np.array([(50, 0, -30), (50, 0, -30), (35, 0, -10), (35, 0, -10)], np.float32)


def walk(*parts: tuple[np.ndarray, int], noise: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    looks = np.concatenate([np.repeat(look[None], count, axis=0) for look, count in parts])
    return (looks + rng.normal(0, noise, looks.shape)).astype(np.float32)


def split(clothes: np.ndarray, fps: float = 10) -> list[int]:
    return split_by_clothes(clothes, fps, max_change=12.0).tolist()


@pytest.mark.parametrize(
    ("clothes", "expected"),
    [
        (walk((RED_JACKET, 60)), [0] * 60),
        (walk((RED_JACKET, 30), (BLACK_COAT, 30)), [0] * 30 + [1] * 30),
        (
            walk((RED_JACKET, 20), (BLACK_COAT, 20), (BLUE_COAT, 20)),
            [0] * 20 + [1] * 20 + [2] * 20,
        ),
        (
            walk((RED_JACKET, 20), (BLACK_COAT, 20), (RED_JACKET, 20)),
            [0] * 20 + [1] * 20 + [0] * 20,
        ),
        (walk((RED_JACKET, 3)), [0] * 3),
    ],
    ids=["one person", "an exchange", "three in turn", "hidden and back", "three frames"],
)
def test_a_track_is_parted_where_the_clothes_change(clothes, expected) -> None:
    assert split(clothes) == expected


def test_a_few_frames_of_somebody_else_are_left_out_without_a_cut() -> None:
    people = split(walk((RED_JACKET, 30), (BLACK_COAT, 2), (RED_JACKET, 30)))
    assert people == [0] * 30 + [-1] * 2 + [0] * 30


def test_light_that_fades_slowly_is_no_other_person() -> None:
    clothes = walk((RED_JACKET, 100), noise=0.5)
    clothes[:, :, 0] -= np.linspace(0, 12, 100, dtype=np.float32)[:, None]
    assert set(split(clothes)) == {0}


def test_a_larger_threshold_parts_less() -> None:
    clothes = walk((RED_JACKET, 30), (BLACK_COAT, 30))
    assert split_by_clothes(clothes, 10, max_change=60.0).max() == 0


def test_a_band_that_is_never_seen_does_not_matter() -> None:
    clothes = walk((RED_JACKET, 30), (BLACK_COAT, 30))
    clothes[:, 3] = np.nan
    assert split(clothes) == [0] * 30 + [1] * 30


def test_an_unknown_frame_rate_is_taken_as_ten() -> None:
    clothes = walk((RED_JACKET, 30), (BLACK_COAT, 30))
    assert split(clothes, float("nan")) == split(clothes, 10)


def test_bands_have_the_colours_of_the_clothes() -> None:
    crop = np.full((128, 128, 3), 255, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[14:114, 50:80] = True
    crop[14:64, 50:80] = (200, 0, 0)
    crop[64:114, 50:80] = (0, 0, 0)
    bands = describe_clothes(crop, mask)
    assert (bands[:2, 1] > 50).all()  # red
    np.testing.assert_allclose(bands[2:], 0, atol=0.5)  # black


def test_a_mask_too_thin_to_look_into_has_no_colour() -> None:
    mask = np.zeros((128, 128), bool)
    mask[14:114, 64] = True
    assert np.isnan(describe_clothes(np.zeros((128, 128, 3), np.uint8), mask)).all()


def test_an_empty_mask_has_no_colour() -> None:
    crop = np.zeros((128, 128, 3), np.uint8)
    assert np.isnan(describe_clothes(crop, np.zeros((128, 128), bool))).all()


def painted(*people: tuple[tuple[int, int, int, int], tuple[int, int, int]]) -> np.ndarray:
    """Grey image of 200×200 with people in one colour, the later ones before the earlier."""
    image = np.full((200, 200, 3), 128, np.uint8)
    for (x0, y0, x1, y1), colour in people:
        image[y0:y1, x0:x1] = colour
    return image


def test_boxes_have_the_colours_of_their_middle() -> None:
    # Half as wide as its box, as a person is.
    image = painted(((90, 50, 110, 100), (200, 0, 0)), ((90, 100, 110, 150), (0, 0, 0)))
    (look,) = describe_boxes(image, np.array([[80, 50, 120, 150]], np.float32))
    assert (look[:2, 1] > 50).all()  # red
    np.testing.assert_allclose(look[2:], 0, atol=1.0)  # black


def test_who_stands_behind_has_no_look_where_hidden_and_who_stands_before_has_one() -> None:
    behind, before = (80, 40, 120, 140), (85, 80, 125, 180)
    image = painted((behind, (200, 0, 0)), (before, (0, 0, 200)))
    looks = describe_boxes(image, np.array([behind, before], np.float32))
    assert np.isnan(looks[0, 2:]).all()
    assert (looks[0, 0, 1:] > 30).all()  # the chest is free, and red
    assert (looks[1, :, 2] < -50).all()  # blue from head to foot


def test_a_box_out_of_the_image_has_no_look_there() -> None:
    image = painted(((0, 50, 40, 200), (200, 0, 0)))
    looks = describe_boxes(image, np.array([[-60, 50, 20, 190], [0, 100, 40, 260]], np.float32))
    assert np.isnan(looks[0]).all()
    assert not np.isnan(looks[1, :2]).any()
    assert np.isnan(looks[1, 3]).all()


def test_nobody_has_no_look() -> None:
    assert describe_boxes(painted(), np.zeros((0, 4), np.float32)).shape == (0, 4, 3)
