"""Every kind of source: pickles come back bit for bit, bad ones are rejects that say why."""

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.errors import SettingsMismatch
from raygait.sequences import GaitSequence
from raygait.shards import codec, reader
from raygait.shards.ingest import IngestReport, ingest
from raygait.shards.plan import look_at
from raygait.shards.verify import verify
from raygait.video.alignment import align
from raygait.video.settings import VideoSettings

T = 7
_NO_WEIGHTS = VideoSettings(
    detector="motion",
    mask="background",
    pose="none",
    modalities=("silhouettes", "silhouettes_128", "rgb"),
)
# Source -> stage, reason, and a word of the detail.
_BAD = {
    "bad/nm-01/calls": ("decode", "unsafe-pickle", "posix.mkdir"),
    "bad/nm-01/dtype": ("decode", "bad-array", "float64"),
    "bad/nm-01/ragged": ("decode", "bad-array", "ragged"),
    "bad/nm-01/short": ("decode", "bad-array", "cut short"),
    "bad/nm-01/empty": ("decode", "bad-array", "0 bytes"),
    "bad/nm-01/frames": ("decode", "bad-array", "0 frames"),
    "bad/nm-01/nothing": ("decode", "bad-array", "no .pkl"),
    "bad/nm-01/parsing": ("silhouette", "not-a-mask", "0..11"),
    "bad/nm-01/colours": ("decode", "bad-array", "without their masks"),
    "bad/nm-01/nobody": ("silhouette", "empty-silhouette", "not one"),
}


class _Trap:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, (str(self._folder),)


def _write(folder: Path, **arrays: object) -> None:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        content = array if isinstance(array, bytes) else pickle.dumps(array)
        (folder / f"{name.replace('_', '-')}.pkl").write_bytes(content)


@pytest.fixture(scope="module")
def frames(silhouettes: np.ndarray) -> dict[str, np.ndarray]:
    large = silhouettes[:T].repeat(2, axis=1).repeat(2, axis=2)
    colours = np.full((T, 3, 128, 128), 90, np.uint8)
    colours[:, 0] = large
    return {
        "silhouettes": silhouettes[:T],
        "narrow": silhouettes[T : 2 * T, :, 10:54],
        "large": large,
        "rgb": colours,
        "ratios": np.linspace(0.3, 0.5, T),
    }


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory,
    frames: dict[str, np.ndarray],
    write_mask_folders: Callable[..., list[GaitSequence]],
) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    whole = frames["silhouettes"]
    for protocol in (2, 4, 5):
        _write(root / f"001/nm-01/{protocol}", v=pickle.dumps(whole, protocol))
    _write(
        root / "002/nm-01/star",
        v_aligned_sils=frames["narrow"],
        v_ratios=frames["ratios"],
        v_rgbs=frames["rgb"],
        v_sils=frames["large"],
    )
    _write(root / "003/nm-01/large", v=frames["large"])
    for view, beside in {
        "ratios": {"v_ratios": frames["ratios"]},
        "masks": {"v_sils": frames["large"]},
        "both": {"v_sils": frames["large"], "v_ratios": frames["ratios"]},
    }.items():
        _write(root / "007/nm-01" / view, v_aligned_sils=whole, **beside)
    _write(root / "flat", walk=whole)
    bad = root / "bad/nm-01"
    _write(bad / "calls", v=_Trap(root / "trap"))
    _write(bad / "dtype", v=whole / 255)
    _write(bad / "ragged", v_sils=whole, v_ratios=frames["ratios"][1:])
    _write(bad / "short", v=pickle.dumps(whole)[:-500])
    _write(bad / "empty", v=b"")
    _write(bad / "frames", v=whole[:0])
    _write(bad / "nothing")
    _write(bad / "parsing", v=whole % 12)
    _write(bad / "colours", v_aligned_sils=whole, v_rgbs=frames["rgb"])
    _write(bad / "nobody", v=np.zeros_like(whole))
    for folder, images in (
        ("004/nm-01/aligned", list(whole)),
        ("005/nm-01/cropped", [np.pad(f[:, 16:48], ((0, 0), (n, n))) for n, f in enumerate(whole)]),
    ):
        (root / folder).mkdir(parents=True)
        for number, image in enumerate(images):
            cv2.imwrite(str(root / folder / f"{number:03d}.png"), image)
    [sequence] = write_mask_folders(root / "masks", 1, num_frames=40)
    pictures = root / "006/nm-01/pictures"
    pictures.mkdir(parents=True)
    texture = np.random.default_rng(0).integers(70, 110, (240, 320), np.uint8)
    masks = sorted((root / "masks" / sequence.source).iterdir())
    for number in range(-12, len(masks)):
        person = cv2.imread(str(masks[max(number, 0)]), 0) > 127
        picture = np.where(person & (number >= 0), np.uint8(210), texture)
        cv2.imwrite(str(pictures / f"{number + 12:03d}.png"), picture)
    return root


@pytest.fixture(scope="module")
def sequences(root: Path) -> list[GaitSequence]:
    leaves = sorted(leaf.relative_to(root).as_posix() for leaf in root.glob("*/nm-01/*"))
    kinds = {"aligned": "aligned", "cropped": "cropped", "pictures": "images"}
    labelled = [
        GaitSequence("kinds", *leaf.split("/"), leaf, kinds.get(leaf.split("/")[2], "pickles"))
        for leaf in leaves
        if not leaf.startswith("masks")
    ]
    return [*labelled, GaitSequence("kinds", "flat", "", "", "flat/walk.pkl", "pickles")]


@pytest.fixture(scope="module")
def ingested(
    ray_session: None,
    root: Path,
    sequences: list[GaitSequence],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, IngestReport]:
    out = tmp_path_factory.mktemp("shards")
    return out, ingest(sequences, root, out, _NO_WEIGHTS, num_workers=2)


@pytest.fixture(scope="module")
def rows(ingested: tuple[Path, IngestReport]) -> dict[str, dict[str, object]]:
    return {row["source"]: row for row in reader.read_rows(ingested[0]).to_pylist()}


def test_every_source_is_a_row_or_a_reject(
    ingested: tuple[Path, IngestReport], rows: dict[str, dict[str, object]]
) -> None:
    out, report = ingested
    assert set(rows) == {
        *(f"001/nm-01/{protocol}" for protocol in (2, 4, 5)),
        *("002/nm-01/star", "003/nm-01/large", "004/nm-01/aligned", "005/nm-01/cropped"),
        *("006/nm-01/pictures", "flat/walk.pkl"),
        *(f"007/nm-01/{view}" for view in ("ratios", "masks", "both")),
    }
    assert report.num_sources == len(rows) + len(_BAD)
    assert report.num_sources_without_rows == len(_BAD)
    assert verify(out) == []


def test_bad_pickles_are_rejects_that_say_why_and_nothing_was_run(
    ingested: tuple[Path, IngestReport], root: Path
) -> None:
    rejects = {row["source"]: row for row in reader.read_rejects(ingested[0]).to_pylist()}
    found = {source: (row["stage"], row["reason"]) for source, row in rejects.items()}
    assert found == {source: (stage, reason) for source, (stage, reason, _) in _BAD.items()}
    for source, (_, _, word) in _BAD.items():
        assert word in rejects[source]["detail"]
    assert not (root / "trap").exists()


@pytest.mark.parametrize("source", ["001/nm-01/2", "001/nm-01/4", "001/nm-01/5", "flat/walk.pkl"])
def test_pickled_silhouettes_come_back_bit_for_bit(
    source: str, rows: dict[str, dict[str, object]], frames: dict[str, np.ndarray]
) -> None:
    row = rows[source]
    np.testing.assert_array_equal(
        codec.decode_silhouettes(row["silhouettes"]), frames["silhouettes"]
    )
    assert row["num_frames"] == T
    assert row["source_sha256"]


def test_crops_masks_and_ratios_of_a_leaf_come_back(
    rows: dict[str, dict[str, object]], frames: dict[str, np.ndarray]
) -> None:
    row = rows["002/nm-01/star"]
    silhouettes = codec.decode_silhouettes(row["silhouettes"])
    np.testing.assert_array_equal(silhouettes[:, :, 10:54], frames["narrow"])
    np.testing.assert_array_equal(codec.decode_silhouettes(row["rgb_masks"]), frames["large"])
    assert row["rgb_ratio"] == pytest.approx(frames["ratios"])
    assert row["rgb_windows_px"] is None
    colours = codec.decode_crops(row["rgb"]).transpose(0, 3, 1, 2)
    assert np.abs(colours.astype(int) - frames["rgb"]).mean() < 4  # JPEG


def test_silhouettes_of_128_come_back_bit_for_bit(
    rows: dict[str, dict[str, object]], frames: dict[str, np.ndarray]
) -> None:
    row = rows["003/nm-01/large"]
    np.testing.assert_array_equal(codec.decode_silhouettes(row["silhouettes_128"]), frames["large"])


def test_aligned_masks_stay_and_cut_ones_are_aligned(
    rows: dict[str, dict[str, object]], frames: dict[str, np.ndarray], root: Path
) -> None:
    found = codec.decode_silhouettes(rows["004/nm-01/aligned"]["silhouettes"])
    np.testing.assert_array_equal(found, frames["silhouettes"])
    found = codec.decode_silhouettes(rows["005/nm-01/cropped"]["silhouettes"])
    cut = sorted((root / "005/nm-01/cropped").iterdir())
    expected = [align(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in cut]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_a_folder_of_pictures_is_tracked_like_a_clip(
    rows: dict[str, dict[str, object]],
) -> None:
    row = rows["006/nm-01/pictures"]
    assert row["subject"] == "006"
    assert row["num_frames"] > 20
    assert row["rgb"] is not None


def test_the_same_again_does_nothing(
    ray_session: None,
    ingested: tuple[Path, IngestReport],
    root: Path,
    sequences: list[GaitSequence],
) -> None:
    out, first = ingested
    again = ingest(sequences, root, out, _NO_WEIGHTS)
    assert (again.num_parts_written, again.num_rows) == (0, first.num_rows)
    with pytest.raises(SettingsMismatch, match=r"pickles\.modalities"):
        ingest(sequences, root, out, VideoSettings(modalities=("silhouettes",)))


def test_a_pickle_that_changes_is_another_state(tmp_path: Path) -> None:
    _write(tmp_path / "leaf", v=b"one")
    for source in ("leaf", "leaf/v.pkl"):
        sequence = GaitSequence("kinds", "1", "", "", source, "pickles")
        before = look_at(sequence, tmp_path)
        (tmp_path / "leaf/v.pkl").write_bytes(b"other" + source.encode())
        assert before.size_bytes > 0
        assert look_at(sequence, tmp_path) != before
