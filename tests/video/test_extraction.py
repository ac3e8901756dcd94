import csv
import dataclasses
import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from PIL import Image

from raygait.assets import ASSETS, asset
from raygait.errors import EmptySilhouette, FrameSizeRefused, NoPerson, NotAMask, Undecodable
from raygait.video import extraction
from raygait.video.alignment import align
from raygait.video.decode import open_video
from raygait.video.extraction import ExtractedSequence, FrameQuality, PeopleDescriber, RejectedTrack
from raygait.video.finding import PeopleFinder
from raygait.video.mask_folders import read_silhouettes
from raygait.video.pose import Window
from raygait.video.redraw import redraw
from raygait.video.settings import Modality, VideoSettings
from raygait.video.tracking import Track

WITHOUT_NETWORKS = {
    "detector": "motion",
    "mask": "background",
    "pose": "none",
    "modalities": ("silhouettes", "rgb"),
}
QUALITY = [field.name for field in dataclasses.fields(FrameQuality)]
VERDICTS = Path(__file__).with_name("vtest_verdicts.csv")


def extract(
    path: Path, settings: VideoSettings
) -> tuple[list[ExtractedSequence], list[RejectedTrack]]:
    return PeopleDescriber(settings)(path, PeopleFinder(settings)(path))


@pytest.fixture(scope="module")
def walk(walker_clip: Path) -> tuple[list[Track], list[ExtractedSequence], list[RejectedTrack]]:
    settings = VideoSettings()
    # A man on a roof behind her is found too, and is no concern of these tests.
    tracks = [max(PeopleFinder(settings)(walker_clip), key=len)]
    return tracks, *PeopleDescriber(settings)(walker_clip, tracks)


def standing_still(number: int, num_frames: int) -> Track:
    return Track(
        number,
        np.arange(num_frames, dtype=np.int32),
        np.tile(np.array([100, 60, 160, 180], np.float32), (num_frames, 1)),
        np.ones(num_frames, np.float32),
    )


def test_a_walker_in_full_view_is_one_clean_sequence(walk) -> None:
    _, (walker,), _ = walk
    assert set(range(2, 90)) <= set(walker.frame_indices.tolist())
    assert_is_a_good_walk(walker)


@pytest.mark.slow
def test_the_sports2d_walker_is_one_long_clean_sequence() -> None:
    sequences, _ = extract(asset("sports2d-demo"), VideoSettings())
    # A man on a roof is found too, half as tall.
    walker = max(sequences, key=lambda seq: float(np.median(seq.quality.mask_height_px)))
    # In full view from frame 50 (out from behind a tree) to 185 (before the border).
    assert set(range(50, 185)) <= set(walker.frame_indices.tolist())
    assert_is_a_good_walk(walker)


def assert_is_a_good_walk(walker: ExtractedSequence) -> None:
    assert np.median(walker.quality.person_score) > 0.95
    assert np.median(walker.quality.joint_score) > 0.7
    widths = (walker.silhouettes > 127).any(axis=1).sum(axis=1)
    assert widths.min() >= 10
    assert 25 <= widths.max() <= 50  # legs together, legs apart


def test_the_legs_open_and_close_at_the_rate_of_steps(walk) -> None:
    _, (walker,), _ = walk
    legs = (walker.silhouettes[:, 48:] > 127).any(axis=1).sum(axis=1).astype(float)
    spectrum = np.abs(np.fft.rfft(legs - legs.mean()))
    steps_per_s = np.fft.rfftfreq(len(legs), 1 / walker.fps)[spectrum.argmax()]
    assert 1.3 < steps_per_s < 2.5


def test_a_sequence_keeps_the_stated_shapes_and_types(walk) -> None:
    _, sequences, _ = walk
    for seq in sequences:
        num_frames = len(seq.frame_indices)
        assert seq.fps == 30
        assert seq.silhouettes.shape == (num_frames, 64, 64)
        assert seq.heatmaps is not None
        assert seq.heatmaps.shape == (num_frames, 17, 64, 48)
        assert seq.rgb is not None
        assert seq.rgb.shape == (num_frames, 128, 128, 3)
        for images in (seq.silhouettes, seq.heatmaps, seq.rgb):
            assert images.dtype == np.uint8
        assert seq.frame_indices.dtype == np.int32
        assert (np.diff(seq.frame_indices) > 0).all()
        assert seq.boxes_px.shape == (num_frames, 4)
        quality = [getattr(seq.quality, name) for name in QUALITY]
        numbers = [values for values in quality if values.dtype != bool]
        assert len(quality) - len(numbers) == 2
        for measure in (seq.boxes_px, *numbers):
            assert measure.dtype == np.float32
            assert np.isfinite(measure).all()
        assert seq.silhouettes.any(axis=(1, 2)).all()


def test_every_track_ends_as_a_sequence_or_as_a_reject(walk) -> None:
    tracks, sequences, rejects = walk
    numbers = {seq.track for seq in sequences} | {reject.track for reject in rejects}
    assert {track.number for track in tracks} <= numbers
    assert len(numbers) == len(sequences) + len(rejects)


def test_tracks_and_settings_cross_process_borders(walk) -> None:
    tracks, _, _ = walk
    for before, after in zip(tracks, pickle.loads(pickle.dumps(tracks)), strict=True):
        np.testing.assert_array_equal(before.boxes_px, after.boxes_px)
    settings = VideoSettings(min_frames=7)
    assert VideoSettings(**json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_second_run_gives_the_same_bytes(walk, walker_clip: Path) -> None:
    tracks, (first,), _ = walk
    (second,), _ = PeopleDescriber(VideoSettings())(walker_clip, tracks)
    np.testing.assert_array_equal(first.frame_indices, second.frame_indices)
    np.testing.assert_array_equal(first.silhouettes, second.silhouettes)
    np.testing.assert_array_equal(first.heatmaps, second.heatmaps)
    np.testing.assert_array_equal(first.rgb, second.rgb)


def test_frames_with_hidden_joints_are_left_out(walk, walker_clip: Path) -> None:
    tracks, _, _ = walk
    settings = VideoSettings(min_joint_score=1.0)
    sequences, rejects = PeopleDescriber(settings)(walker_clip, tracks[:1])
    assert sequences == []
    assert rejects[0].reason == "bad-masks"
    assert f"{len(tracks[0])} hidden" in rejects[0].detail


@pytest.mark.samples
def test_people_of_a_street_scene_become_sequences(vtest_start: Path) -> None:
    settings = VideoSettings(min_frames=15)
    sequences, rejects = extract(vtest_start, settings)
    assert len(sequences) >= 3
    for seq in sequences:
        assert np.median(seq.quality.person_score) > 0.9
        assert 60 < np.median(seq.boxes_px[:, 3] - seq.boxes_px[:, 1]) < 130
    # The sign that stands in the middle is found too, and told from a person.
    assert {reject.reason for reject in rejects} & {"not-a-person", "low-track", "short-track"}


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("empty.mp4", b"", Undecodable),
        ("text.mp4", b"a text file that somebody has called a video\n" * 9, Undecodable),
    ],
    ids=["empty file", "text named mp4"],
)
def test_what_is_no_video_raises_what_ingest_turns_into_a_reject(
    tmp_path: Path, name: str, content: bytes, error: type[Exception]
) -> None:
    (tmp_path / name).write_bytes(content)
    finder = PeopleFinder(VideoSettings(detector="motion"))
    with pytest.raises(error) as caught:
        finder(tmp_path / name)
    assert caught.value.reason == "undecodable"  # type: ignore[attr-defined]


def test_a_clip_of_one_pixel_is_refused(write_clip) -> None:
    pixel = np.zeros((1, 1, 3), np.uint8)
    with pytest.raises(FrameSizeRefused):
        PeopleFinder(VideoSettings(detector="motion"))(
            write_clip("pixel.avi", [pixel] * 3, codec="png")
        )


@pytest.mark.parametrize("detector", ["ssd", "blazepose", "motion"])
def test_a_clip_without_people_has_no_person(texture_clip: Path, detector) -> None:
    with pytest.raises(NoPerson, match=f"detector {detector} found nobody in 30 frames"):
        PeopleFinder(VideoSettings(detector=detector))(texture_clip)


def test_a_finder_goes_on_after_a_clip_it_could_not_read(
    tmp_path: Path, texture_clip: Path, write_clip, moving_block_images
) -> None:
    finder = PeopleFinder(VideoSettings(detector="motion"))
    block = write_clip("block.mp4", moving_block_images)
    first = finder(block)
    (tmp_path / "empty.mp4").touch()
    for bad in (tmp_path / "empty.mp4", texture_clip):
        with pytest.raises((Undecodable, NoPerson)):
            finder(bad)
    again = finder(block)
    assert [track.number for track in again] == [track.number for track in first] == [1]
    np.testing.assert_array_equal(again[0].boxes_px, first[0].boxes_px)


@pytest.mark.parametrize(
    ("track", "stage", "reason"),
    [
        (standing_still(1, 10), "gate", "short-track"),
        (
            Track(
                1,
                np.arange(30, dtype=np.int32),
                np.tile(np.array([9, 9, 20, 40], np.float32), (30, 1)),
                np.ones(30, np.float32),
            ),
            "gate",
            "low-track",
        ),
        (standing_still(1, 30), "gate", "not-a-person"),
    ],
    ids=["ten frames", "31 px high", "a piece of texture"],
)
def test_a_track_that_is_no_sequence_is_rejected_with_a_reason(
    texture_clip: Path, track: Track, stage: str, reason: str
) -> None:
    sequences, rejects = PeopleDescriber(VideoSettings())(texture_clip, [track])
    assert sequences == []
    assert [(r.track, r.stage, r.reason) for r in rejects] == [(1, stage, reason)]
    assert "expected at least" in rejects[0].detail


def test_masks_without_a_network_come_from_the_background(write_clip, moving_block_images) -> None:
    settings = VideoSettings(**WITHOUT_NETWORKS, min_frames=10)
    sequences, rejects = extract(write_clip("block.mp4", moving_block_images), settings)
    (seq,) = sequences
    assert rejects == []
    assert seq.heatmaps is None
    assert np.isnan(seq.quality.person_score).all()
    assert np.isnan(seq.quality.joint_score).all()
    block = seq.silhouettes[len(seq.silhouettes) // 2] > 127
    assert abs(block.any(axis=0).sum() - 64 * 40 / 100) <= 4


def test_a_track_without_usable_masks_is_rejected_and_says_why(
    write_clip, moving_block_images
) -> None:
    settings = VideoSettings(**WITHOUT_NETWORKS)
    path = write_clip("still.mp4", [moving_block_images[0]] * 30)
    sequences, rejects = PeopleDescriber(settings)(path, [standing_still(4, 30)])
    assert sequences == []
    assert rejects[0][:3] == (4, "silhouette", "bad-masks")
    assert rejects[0].detail == (
        "0 of 30 frames show the person well, expected at least 20 (the others: 30 small mask)"
    )


def test_two_tracks_on_one_person_do_not_both_keep_them(write_clip, moving_block_images) -> None:
    settings = VideoSettings(**WITHOUT_NETWORKS, min_frames=10)
    path = write_clip("block.mp4", moving_block_images)
    (track,) = PeopleFinder(settings)(path)
    shadow = Track(2, track.frame_indices, track.boxes_px + np.float32(6), track.scores)
    sequences, rejects = PeopleDescriber(settings)(path, [track, shadow])
    assert [seq.track for seq in sequences] == [1]
    assert "another track's person" in rejects[0].detail


def sight_of(box_px: tuple[float, float, float, float], *, off_px: float) -> extraction._Sight:
    """A mask in a place, of a track whose box is so far beside it."""
    mask_box_px = np.array(box_px, np.float32)
    return extraction._Sight(
        frame_index=0,
        box_px=mask_box_px + np.float32(off_px),
        square=Window.square_around(mask_box_px),
        mask_box_px=mask_box_px,
        silhouette=np.zeros((64, 64), np.uint8),
        silhouette_128=None,
        heatmaps=None,
        window=None,
        rgb=None,
        rgb_mask=None,
        clothes=np.zeros((4, 3), np.float32),
        person_score=1.0,
        joint_score=1.0,
        mask_area_ratio=0.1,
        mask_height_px=100.0,
        largest_part_ratio=1.0,
        sharpness=9.0,
        is_cut=False,
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=["abc", "cba", "bca"])
def test_a_sight_that_was_given_up_takes_no_mask_from_a_third(order: tuple[int, ...]) -> None:
    # b shares its mask with a and with c, which have nothing to do with each other.
    a = sight_of((0, 0, 100, 100), off_px=9)
    b = sight_of((20, 0, 120, 100), off_px=5)
    c = sight_of((40, 0, 140, 100), off_px=1)
    left = extraction._without_repeats([[a, b, c][place] for place in order])
    assert [left[order.index(place)] for place in range(3)] == [a, "another track's person", c]


def damage(path: Path) -> Path:
    """Cut off the last third of an AVI."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def test_a_damaged_clip_gives_its_good_frames_and_says_what_is_lost(
    write_clip, moving_block_images
) -> None:
    settings = VideoSettings(**WITHOUT_NETWORKS, min_frames=8)
    path = damage(write_clip("block.avi", moving_block_images))
    sequences, rejects = extract(path, settings)
    assert len(sequences) == 1
    (told,) = rejects
    assert told[:3] == (-1, "decode", "damaged")
    assert "of 40 frames lost, the others are used" in told.detail


def test_damage_is_told_when_no_track_is_left_or_begins(write_clip, moving_block_images) -> None:
    path = damage(write_clip("still.avi", [moving_block_images[0]] * 20 + moving_block_images))
    describer = PeopleDescriber(VideoSettings(**WITHOUT_NETWORKS))
    for tracks in ([], [standing_still(1, 5)], [standing_still(1, 20)]):
        _, rejects = describer(path, tracks)
        assert [reject.reason for reject in rejects if reject.track == -1] == ["damaged"]
    with pytest.raises(NoPerson, match="frames lost"):
        PeopleFinder(VideoSettings(detector="motion"))(
            damage(write_clip("empty.avi", [moving_block_images[0]] * 40))
        )


def test_a_long_track_is_cut_into_sequences_that_bound_memory(
    write_clip, moving_block_images
) -> None:
    path = write_clip("block.mp4", moving_block_images)
    settings = VideoSettings(**WITHOUT_NETWORKS, min_frames=5)
    tracks = PeopleFinder(settings)(path)
    (whole,), _ = PeopleDescriber(settings)(path, tracks)
    cut = settings.model_copy(update={"max_frames": 11})
    results = list(PeopleDescriber(cut).stream(path, tracks))
    sequences = [result for result in results if isinstance(result, ExtractedSequence)]
    rejects = [result for result in results if isinstance(result, RejectedTrack)]
    lengths = [len(seq.frame_indices) for seq in sequences]
    assert lengths[:2] == [11, 11]
    assert max(lengths) == 11
    assert [result.track for result in results] == list(range(1, len(results) + 1))
    joined = np.concatenate([seq.silhouettes for seq in sequences])
    np.testing.assert_array_equal(joined, whole.silhouettes[: len(joined)])
    if len(joined) < len(whole.silhouettes):
        assert [(reject.stage, reject.reason) for reject in rejects] == [("gate", "short-track")]


def test_the_end_of_a_cut_track_that_is_too_short_is_a_reject(
    write_clip, moving_block_images
) -> None:
    path = write_clip("block.mp4", moving_block_images)
    settings = VideoSettings(**WITHOUT_NETWORKS, min_frames=5)
    tracks = PeopleFinder(settings)(path)
    (whole,), _ = PeopleDescriber(settings)(path, tracks)
    cut = settings.model_copy(update={"max_frames": len(whole.frame_indices) - 2})
    sequences, rejects = PeopleDescriber(cut)(path, tracks)
    assert [seq.track for seq in sequences] == [1]
    assert [reject[:3] for reject in rejects] == [(2, "gate", "short-track")]
    assert "are left of track 1" in rejects[0].detail


def test_a_cut_shorter_than_the_shortest_sequence_is_an_error() -> None:
    with pytest.raises(ValueError, match="max_frames is 10, expected at least min_frames, 20"):
        VideoSettings(max_frames=10)


def test_a_clip_that_got_shorter_between_the_readings_is_undecodable(texture_clip: Path) -> None:
    with pytest.raises(Undecodable, match="changed between the two readings"):
        PeopleDescriber(VideoSettings())(texture_clip, [standing_still(1, 50)])


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="min_frame\n"):
        VideoSettings(min_frame=3)  # type: ignore[call-arg]


def test_auto_is_resolved_to_the_detector_that_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert VideoSettings().resolved().detector == "ssd"
    assert VideoSettings().asset_names() == ("ssd-mobilenetv2-oidv4", "blazepose-landmark-full")
    assert VideoSettings(**WITHOUT_NETWORKS).asset_names() == ()
    assert set(VideoSettings(detector="blazepose").asset_names()) <= set(ASSETS)


def write_masks(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, mask in masks.items():
        (folder / name).write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    return folder


def person_mask(shift_px: int = 0) -> np.ndarray:
    mask = np.zeros((240, 320), np.uint8)
    cv2.ellipse(mask, (160 + shift_px, 120), (25, 90), 0, 0, 360, 255, -1)
    return mask


def test_a_folder_of_masks_is_read_in_order_of_name_and_aligned(tmp_path: Path) -> None:
    masks = {"003.png": person_mask(20), "001.png": person_mask(), "002.png": person_mask(-30)}
    seq = read_silhouettes(write_masks(tmp_path / "090", masks))
    assert seq.frame_indices.tolist() == [0, 1, 2]
    for name, aligned in zip(sorted(masks), seq.silhouettes, strict=True):
        np.testing.assert_array_equal(aligned, align(masks[name]))
    assert seq.track == 0
    assert seq.heatmaps is seq.rgb is None
    assert np.isnan(seq.fps)
    assert np.isnan(seq.boxes_px).all()
    assert seq.quality.mask_area_ratio[0] == pytest.approx(np.pi * 25 * 90 / (240 * 320), rel=0.05)


def test_empty_masks_are_left_out_and_frame_indices_tell(tmp_path: Path) -> None:
    masks = {f"{i:03}.png": person_mask() for i in range(4)}
    masks["001.png"] = np.zeros((240, 320), np.uint8)
    seq = read_silhouettes(write_masks(tmp_path / "090", masks))
    assert seq.frame_indices.tolist() == [0, 2, 3]


def test_colour_masks_are_read_as_grey(tmp_path: Path) -> None:
    colour = np.repeat(person_mask()[..., None], 3, axis=2)
    seq = read_silhouettes(write_masks(tmp_path / "090", {"001.png": colour}))
    np.testing.assert_array_equal(seq.silhouettes[0], align(person_mask()))


def test_a_folder_of_empty_masks_is_an_empty_silhouette(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "090", {"001.png": np.zeros((240, 320), np.uint8)})
    with pytest.raises(EmptySilhouette, match="not one of 1 masks"):
        read_silhouettes(folder)


@pytest.mark.parametrize("content", [b"", b"no picture"], ids=["empty", "text"])
def test_a_png_that_is_none_is_undecodable_with_its_path(tmp_path: Path, content: bytes) -> None:
    folder = write_masks(tmp_path / "090", {"001.png": person_mask()})
    (folder / "002.png").write_bytes(content)
    with pytest.raises(Undecodable, match=r"002\.png"):
        read_silhouettes(folder)


@pytest.mark.parametrize("exists", [True, False], ids=["no png in it", "no such folder"])
def test_a_folder_without_masks_is_undecodable(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "090"
    if exists:
        write_masks(folder, {})
    with pytest.raises(Undecodable, match=r"no \.png in it"):
        read_silhouettes(folder)


def test_a_palette_of_black_and_white_is_a_mask(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "090", {})
    picture = Image.fromarray((person_mask() > 0).astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(folder / "001.png")
    seq = read_silhouettes(folder)
    np.testing.assert_array_equal(seq.silhouettes[0], align(person_mask()))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (person_mask().astype(np.uint16) * 257, "values of 16 bits"),
        (np.dstack([person_mask()] * 4), "alpha channel"),
        (np.dstack([person_mask(), person_mask(), person_mask(9)]), "has colours"),
        (person_mask() // 255, r"values 0\.\.1, expected 0\.\.255"),
        (255 - person_mask()[:, 60:], "is it inverted"),
        (person_mask()[:200], "320×200 px, those before it 320×240"),
    ],
    ids=["16 bits", "alpha", "colours", "0 and 1", "inverted", "another size"],
)
def test_an_image_that_is_no_mask_is_refused_with_its_path(
    tmp_path: Path, image: np.ndarray, message: str
) -> None:
    if "inverted" in message:
        image = np.pad(image, 400, constant_values=255)[:240, :320]
    folder = write_masks(tmp_path / "090", {"001.png": person_mask(), "002.png": image})
    with pytest.raises(NotAMask, match=rf"002\.png: .*{message}") as caught:
        read_silhouettes(folder)
    assert caught.value.reason == "not-a-mask"


@pytest.mark.parametrize("extension", [".jpg", ".bmp"])
def test_another_format_named_png_is_undecodable(tmp_path: Path, extension: str) -> None:
    folder = write_masks(tmp_path / "090", {"001.png": person_mask()})
    (folder / "002.png").write_bytes(cv2.imencode(extension, person_mask())[1].tobytes())
    with pytest.raises(Undecodable, match=r"002\.png: not a PNG"):
        read_silhouettes(folder)


def test_a_png_too_large_to_decode_is_undecodable(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "090", {"001.png": person_mask()})
    content = bytearray((folder / "001.png").read_bytes())
    content[16:24] = struct.pack(">2I", 200_000, 200_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "001.png").write_bytes(content)
    with pytest.raises(Undecodable, match=r"001\.png"):
        read_silhouettes(folder)


def test_masks_are_ordered_by_frame_number_and_others_are_not_looked_at(tmp_path: Path) -> None:
    masks = {f"{number}.png": person_mask(2 * number) for number in (8, 9, 10, 11)}
    masks["12.PNG"] = person_mask(24)
    folder = write_masks(tmp_path / "090", masks)
    (folder / "._8.png").write_bytes(b"what macOS leaves")
    (folder / "notes.txt").write_text("")
    seq = read_silhouettes(folder)
    expected = [align(person_mask(2 * number)) for number in range(8, 13)]
    np.testing.assert_array_equal(seq.silhouettes, expected)


@pytest.mark.parametrize(
    "names",
    [
        ("12.8", "12.9", "13.0", "13.1"),
        ("12.8", "12.85", "13", "13.1"),
        ("cam1.8", "cam1.9", "cam1.10", "cam1.11"),
        ("f.0008", "f.0009", "f.0010", "f.0011"),
        ("a3", "b4", "c10", "a11"),
    ],
    ids=["time stamps", "other decimals", "behind a point", "padded", "other texts"],
)
def test_a_point_before_the_number_does_not_change_the_order(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    masks = [person_mask(4 * number) for number in range(4)]
    folder = write_masks(
        tmp_path / "090", {f"{name}.png": mask for name, mask in zip(names, masks, strict=True)}
    )
    found = read_silhouettes(folder).silhouettes
    np.testing.assert_array_equal(found, [align(mask) for mask in masks])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["12.8.png", "12.10.png", "13.0.png"], "as many decimals"),
        (["1.png", "001.png"], "frame 1, and so is"),
        (["a-001.png", "b-001.png"], "frame 1, and so is"),
        (["001.png", "cover.png"], "cover.png: the name does not end in a frame number"),
    ],
    ids=["decimals", "two widths", "two walks", "no number"],
)
def test_masks_without_a_clear_order_are_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    folder = write_masks(tmp_path / "090", {name: person_mask() for name in names})
    with pytest.raises(Undecodable, match=message):
        read_silhouettes(folder)


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_a_png_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    folder = write_masks(tmp_path / "090", {"001.png": person_mask()})
    if kind == "folder":
        (folder / "002.png").mkdir()
    else:
        (folder / "002.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(Undecodable, match=r"002\.png: not a regular file"):
        read_silhouettes(folder)


@pytest.mark.slow
@pytest.mark.samples
@pytest.mark.timeout(900)
def test_the_tracks_of_vtest_are_the_ones_that_were_looked_at(vtest_clip: Path) -> None:
    """Every track has a verdict made by eye, and no verdict says it is not a person."""
    with VERDICTS.open(encoding="utf-8") as file:
        verdicts = list(csv.DictReader(line for line in file if not line.startswith("#")))
    sequences, _ = extract(vtest_clip, VideoSettings())

    def spans(rows) -> list[tuple[int, int, int]]:
        return sorted((int(first), int(last), int(count)) for first, last, count in rows)

    seen = spans(
        (seq.frame_indices[0], seq.frame_indices[-1], len(seq.frame_indices)) for seq in sequences
    )
    judged = spans((v["first_frame"], v["last_frame"], v["num_frames"]) for v in verdicts)
    assert len(seen) == len(judged)
    # Rounding differs between processors; a track may then begin or end some frames apart.
    np.testing.assert_allclose(seen, judged, atol=8)
    assert sum(count >= 40 for _, _, count in seen) >= 20
    assert {v["person"] for v in verdicts} == {"yes"}
    # Of one the last stored frame is another person's: its note says where.
    assert sum(v["one_person"] == "yes" for v in verdicts) >= len(verdicts) - 1
    assert {v["mask"] for v in verdicts} <= {"good", "fair", "bad"}


EVERY_MODALITY = get_args(Modality)


@pytest.fixture(scope="module")
def rich_walk(walk, walker_clip: Path) -> ExtractedSequence:
    """The walker with everything that can be kept."""
    tracks, _, _ = walk
    settings = VideoSettings(modalities=EVERY_MODALITY)
    (walker,), _ = PeopleDescriber(settings)(walker_clip, tracks)
    return walker


def iou_within_a_pixel(a: np.ndarray, b: np.ndarray) -> float:
    """Of two silhouettes whose centre column may be rounded otherwise."""
    shifted = [np.roll(a, shift, axis=1) > 127 for shift in (-1, 0, 1)]
    return max((one & (b > 127)).sum() / (one | (b > 127)).sum() for one in shifted)


def test_every_modality_comes_in_one_pass_and_shows_the_same_person(walk, rich_walk) -> None:
    _, (plain,), _ = walk
    t = len(plain.frame_indices)
    np.testing.assert_array_equal(rich_walk.silhouettes, plain.silhouettes)
    np.testing.assert_array_equal(rich_walk.heatmaps, plain.heatmaps)
    np.testing.assert_array_equal(rich_walk.rgb, plain.rgb)
    np.testing.assert_array_equal(rich_walk.joints, plain.joints)
    assert plain.silhouettes_128 is plain.heatmaps_redrawn is None
    assert rich_walk.silhouettes_128.shape == (t, 128, 128)
    halved = rich_walk.silhouettes_128.reshape(t, 64, 2, 64, 2).mean(axis=(2, 4))
    for small, silhouette in zip(halved, plain.silhouettes, strict=True):
        assert iou_within_a_pixel(small, silhouette) > 0.85
    assert rich_walk.heatmaps_redrawn.shape == (t, 2, 64, 64)
    np.testing.assert_array_equal(rich_walk.heatmaps_redrawn, redraw(rich_walk.joints))


def test_the_mask_of_an_rgb_crop_is_the_silhouette_once_its_ratio_is_restored(rich_walk) -> None:
    ratios = rich_walk.rgb_ratio()
    for frame in range(0, len(ratios), 8):
        mask = rich_walk.rgb_masks[frame]
        assert set(np.unique(mask)) == {0, 255}
        wide = cv2.resize(mask, (max(1, round(256 * ratios[frame])), 256))
        # Grey rows would count as the person's.
        restored = align(np.where(wide > 127, np.uint8(255), np.uint8(0)))
        assert iou_within_a_pixel(restored, rich_walk.silhouettes[frame]) > 0.85
        # The window holds the whole person and a margin.
        assert mask[1:-1, 1:-1].sum() == mask.sum()


def test_the_rgb_crop_is_the_frame_seen_through_its_window(rich_walk, walker_clip: Path) -> None:
    row = 20
    with open_video(walker_clip) as video:
        index = rich_walk.frame_indices[row]
        image = next(frame.image for frame in video.frames() if frame.index == index)
    x0, y0, x1, y1 = rich_walk.rgb_windows_px[row].astype(int)
    assert 0 <= x0 < x1 <= image.shape[1]
    assert 0 <= y0 < y1 <= image.shape[0]
    cut = cv2.resize(image[y0:y1, x0:x1], (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(cut.astype(int) - rich_walk.rgb[row]).mean() < 3
    box_px = rich_walk.boxes_px[row]
    assert x0 <= box_px[0]
    assert y0 <= box_px[1]
    assert x1 >= box_px[2]
    assert y1 >= box_px[3]


def test_joints_lie_on_the_person_in_the_frame(rich_walk) -> None:
    windows = rich_walk.rgb_windows_px
    for frame in range(0, len(windows), 8):
        x0, y0, x1, y1 = windows[frame]
        for x, y, score in rich_walk.joints[frame, [5, 6, 11, 12, 13, 14]]:
            assert 0 <= score <= 1
            column = int((x + 0.5 - x0) / (x1 - x0) * 128)
            row = int((y + 0.5 - y0) / (y1 - y0) * 128)
            around = rich_walk.rgb_masks[frame, row - 4 : row + 5, column - 6 : column + 7]
            assert around.any()


def test_what_is_left_out_of_a_track_is_kept_with_its_reason(walk, walker_clip: Path) -> None:
    tracks, (plain,), _ = walk
    joint_scores = np.sort(plain.quality.joint_score)
    settings = VideoSettings(min_joint_score=float(joint_scores[len(joint_scores) // 4]))
    (walker,), _ = PeopleDescriber(settings)(walker_clip, tracks)
    track = next(track for track in tracks if track.number == walker.track)
    left_out = [index for index, _ in walker.left_out]
    assert left_out == sorted(left_out)
    assert sorted([*left_out, *walker.frame_indices]) == track.frame_indices.tolist()
    assert sum(reason == "hidden" for _, reason in walker.left_out) >= len(joint_scores) // 8


def test_people_cut_by_the_border_are_left_out_or_kept_and_marked(
    write_clip, moving_block_images
) -> None:
    images = [image[:, :140] for image in moving_block_images]  # the block leaves to the right
    path = write_clip("block.mp4", images)
    settings = VideoSettings(**WITHOUT_NETWORKS, min_frames=10)
    tracks = PeopleFinder(settings)(path)
    (whole,), _ = PeopleDescriber(settings)(path, tracks)
    assert not whole.quality.is_cut.any()
    assert "cut by the border" in {reason for _, reason in whole.left_out}
    keep = settings.model_copy(update={"keep_cut": True})
    (kept,), _ = PeopleDescriber(keep)(path, tracks)
    assert len(kept.frame_indices) > len(whole.frame_indices)
    assert kept.quality.is_cut.any()
    np.testing.assert_array_equal(kept.silhouettes[~kept.quality.is_cut], whole.silhouettes)


def test_who_reaches_over_the_crop_is_told_from_who_leaves_the_picture(
    write_clip, moving_block_images
) -> None:
    path = write_clip("block.mp4", moving_block_images)
    settings = VideoSettings(**WITHOUT_NETWORKS, min_frames=10)
    (track,) = PeopleFinder(settings)(path)
    low = dataclasses.replace(track, boxes_px=track.boxes_px + np.float32([0, 40, 0, 0]))
    sequences, rejects = PeopleDescriber(settings)(path, [low])
    assert sequences == []
    assert "cut by the crop" in rejects[0].detail


def test_blurred_frames_are_left_out_when_asked(walk, walker_clip: Path) -> None:
    tracks, (plain,), _ = walk
    limit = float(np.median(plain.quality.sharpness))
    (walker,), _ = PeopleDescriber(VideoSettings(min_sharpness=limit))(walker_clip, tracks)
    np.testing.assert_array_equal(
        walker.frame_indices, plain.frame_indices[plain.quality.sharpness >= limit]
    )
    assert "blurred" in {reason for _, reason in walker.left_out}


def test_the_height_of_the_mask_is_that_of_the_person_in_the_frame(rich_walk) -> None:
    boxes_px = rich_walk.boxes_px
    ratio = rich_walk.quality.mask_height_px / (boxes_px[:, 3] - boxes_px[:, 1])
    assert 0.85 < np.median(ratio) < 1.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pose": "none"}, "heatmaps, joints come from a pose network"),
        ({"detector": "onnx"}, "detector is onnx, and detector_onnx names no file"),
        ({"mask_onnx": "net.onnx"}, "mask_onnx names a file, and mask is blazepose"),
        ({"modalities": ("depth",)}, "Input should be"),
    ],
    ids=["no pose network", "no file", "a file for nothing", "unknown modality"],
)
def test_settings_that_contradict_each_other_are_errors(fields, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoSettings(**fields)


def test_silhouettes_are_always_kept_and_modalities_have_one_order() -> None:
    settings = VideoSettings(modalities=("rgb", "heatmaps", "rgb"))
    assert settings.modalities == ("silhouettes", "heatmaps", "rgb")


def test_masks_of_a_folder_can_be_aligned_at_twice_the_size(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "090", {"001.png": person_mask()})
    seq = read_silhouettes(folder, ("silhouettes", "silhouettes_128"))
    np.testing.assert_array_equal(seq.silhouettes_128, [align(person_mask(), size_px=128)])
    assert seq.quality.mask_height_px[0] == 181
    assert seq.quality.largest_part_ratio[0] == 1
    assert not seq.quality.is_cut[0]
