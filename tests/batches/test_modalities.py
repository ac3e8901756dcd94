"""Real shards of every modality, from the cache to the batch."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raygait.batches.cache import FrameCache, open_cache
from raygait.batches.columns import pack, unpack
from raygait.batches.inputs import INPUTS
from raygait.batches.loader import ClipLoader
from raygait.errors import CorruptShard, ShardError
from raygait.shards import codec, reader
from raygait.shards.schema import SCHEMA
from raygait.video.pose import joints_of

pytestmark = pytest.mark.ray

SIZES = {
    "silhouettes": (64, 44),
    "silhouettes_128": (128, 88),
    "heatmaps": (64, 48),
    "heatmaps_redrawn": (64, 48),
    "rgb": (128, 128),
}
CHANNELS = {"heatmaps": 17, "heatmaps_redrawn": 2, "rgb": 3}


@pytest.fixture(scope="module")
def caches(street_shards: Path, tmp_path_factory) -> dict[str, FrameCache]:
    folder = tmp_path_factory.mktemp("cache")
    return {name: open_cache(street_shards, modality=name, folder=folder) for name in SIZES}


@pytest.fixture(scope="module")
def rows(street_shards: Path) -> dict[str, dict]:
    return {row["sequence_id"]: row for row in reader.read_rows(street_shards).to_pylist()}


def _loader(cache: FrameCache, **changes) -> ClipLoader:
    height_px, width_px = SIZES[cache.modality]
    options = {
        "num_subjects": 3,
        "num_sequences": 2,
        "clip_num_frames": 14,
        "clip_order": "ordered",
        "flip_ratio": 0.5,
        "height_px": height_px,
        "width_px": width_px,
        "seed": 3,
    }
    return ClipLoader(cache, sorted(set(cache.subjects)), **{**options, **changes})


@pytest.mark.parametrize("modality", list(SIZES))
def test_a_batch_has_the_shapes_and_ranges_that_are_promised(caches, modality: str) -> None:
    inputs = _loader(caches[modality]).batch(0).inputs
    size = SIZES[modality]
    assert next(iter(inputs)) == "frames"
    assert inputs["frames"].shape == (6, CHANNELS.get(modality, 1), 14, *size)
    assert 0 <= float(inputs["frames"].min()) < 0.2 < 0.6 < float(inputs["frames"].max()) <= 1
    others = {
        "joints": (6, 14, 17, 3),
        "align_draws": (6, 14),
        "masks": (6, 1, 14, *size),
        "ratios": (6, 14),
    }
    expected = [*INPUTS[modality], *(["align_draws"] if modality == "heatmaps" else [])]
    assert list(inputs) == expected
    for name, values in inputs.items():
        assert values.dtype == torch.float32
        assert values.shape == others.get(name, values.shape), name


@pytest.mark.parametrize("flip_ratio", [0.0, 1.0])
def test_the_maps_peak_where_the_joints_are_mirrored_or_not(caches, flip_ratio: float) -> None:
    inputs = _loader(caches["heatmaps"], flip_ratio=flip_ratio).batch(1).inputs
    frames, joints = inputs["frames"], inputs["joints"]
    heights = frames.amax(dim=(3, 4)).permute(0, 2, 1)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")
    distance_px = torch.hypot(x - joints[..., 0, None, None], y - joints[..., 1, None, None])
    # Of several equally high pixels the nearest counts.
    is_peak = frames.permute(0, 2, 1, 3, 4) == heights[..., None, None]
    distance_px = torch.where(is_peak, distance_px, torch.inf).amin(dim=(3, 4))
    # A joint lies up to half a pixel off its peak in x and in y.
    assert float(distance_px.max()) <= 0.71
    torch.testing.assert_close(joints[..., 2], heights, atol=1e-6, rtol=0)


def test_joints_of_shards_without_them_are_the_same_from_the_maps(rows, caches) -> None:
    row = next(iter(rows.values()))
    given = unpack(pack(row, "heatmaps"), "heatmaps")["joints"]
    found = unpack(pack({**row, "joints": None}, "heatmaps"), "heatmaps")["joints"]
    maps = codec.decode_heatmaps(row["heatmaps"])
    np.testing.assert_allclose(found, np.stack([joints_of(one) for one in maps]))
    np.testing.assert_allclose(given, found, atol=1e-3)


def test_heatmaps_of_another_scale_become_what_they_stand_for(rows) -> None:
    row = next(iter(rows.values()))
    low = {**row, "heatmap_scale": 0.6 / 255, "joints": None}
    scaled = unpack(pack(low, "heatmaps"), "heatmaps")
    maps = codec.decode_heatmaps(row["heatmaps"])
    assert np.abs(scaled["frames"] - 0.6 * maps).max() <= 0.5001
    high = unpack(pack({**low, "heatmap_scale": 2 / 255}, "heatmaps"), "heatmaps")["frames"]
    np.testing.assert_array_equal(high, np.minimum(2 * maps.astype(int), 255))


@pytest.mark.parametrize("flip_ratio", [0.0, 1.0])
def test_masks_lie_on_the_person_in_the_crop_mirrored_or_not(caches, flip_ratio: float) -> None:
    """Walkers differ from the street: colours change most at the outline of the mask."""
    inputs = _loader(caches["rgb"], flip_ratio=flip_ratio).batch(1).inputs
    frames, masks = inputs["frames"], inputs["masks"]
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    change = (frames[..., 1:] - frames[..., :-1]).abs().mean(dim=1, keepdim=True)
    outline = (masks[..., 1:] != masks[..., :-1]).float()

    def on_outline(mask_edges: torch.Tensor) -> float:
        return float((change * mask_edges).sum() / mask_edges.sum())

    here = on_outline(outline)
    assert here > 2 * float(change.mean())
    # Anywhere else the colours change less, the mirror image of the mask included.
    for moved in (outline.roll(8, -1), outline.roll(-8, -1), outline.roll(9, -2), outline.flip(-1)):
        assert here > 1.3 * on_outline(moved)


def test_ratios_are_the_shards_and_belong_to_the_frames(rows, caches) -> None:
    cache = caches["rgb"]
    for number, sequence_id in enumerate(cache.sequence_ids):
        row = rows[sequence_id]
        order = np.array([3, 0, 9, 9])
        clip = cache.clip(number, order)
        windows_px = np.array(row["rgb_windows_px"]).reshape(-1, 4)[order]
        sides_px = windows_px[:, 2:] - windows_px[:, :2]
        np.testing.assert_allclose(clip["ratios"], sides_px[:, 0] / sides_px[:, 1], rtol=1e-6)
        crops, masks = codec.decode_crops(row["rgb"]), codec.decode_silhouettes(row["rgb_masks"])
        np.testing.assert_array_equal(clip["frames"], crops[order])
        np.testing.assert_array_equal(clip["masks"], masks[order])


@pytest.mark.parametrize("modality", list(SIZES))
def test_mirrored_batches_are_the_mirror_images(caches, modality: str) -> None:
    plain = _loader(caches[modality], flip_ratio=0.0).batch(2).inputs
    mirrored = _loader(caches[modality], flip_ratio=1.0).batch(2).inputs
    swap = [0, *(joint + 1 if joint % 2 else joint - 1 for joint in range(1, 17))]
    frames = plain["frames"].flip(-1)
    if modality == "heatmaps":
        frames = frames[:, swap]
        places = plain["joints"][:, :, swap]
        places[..., 0] = 47 - places[..., 0]
        assert torch.equal(mirrored["joints"], places)
        assert torch.equal(mirrored["align_draws"], plain["align_draws"])
    if modality == "rgb":
        assert torch.equal(mirrored["masks"], plain["masks"].flip(-1))
        assert torch.equal(mirrored["ratios"], plain["ratios"])
    assert torch.equal(mirrored["frames"], frames)


@pytest.mark.parametrize("modality", list(SIZES))
@pytest.mark.parametrize("order", ["ordered", "unordered"])
def test_two_workers_together_see_what_one_sees(caches, modality: str, order: str) -> None:
    options = {"clip_num_frames": 5, "clip_order": order}
    whole = _loader(caches[modality], **options).batch(7)
    shares = [
        _loader(caches[modality], **options, rank=rank, world_size=2).batch(7) for rank in (0, 1)
    ]
    for name, values in whole.inputs.items():
        assert torch.equal(values[0::2], shares[0].inputs[name]), name
        assert torch.equal(values[1::2], shares[1].inputs[name]), name


@pytest.mark.parametrize("modality", ["heatmaps", "rgb"])
def test_the_number_of_threads_changes_nothing(caches, modality: str) -> None:
    one, four = (_loader(caches[modality], num_threads=number).batch(3) for number in (1, 4))
    for name, values in one.inputs.items():
        assert torch.equal(values, four.inputs[name]), name


def test_draws_differ_from_frame_to_frame_clip_to_clip_and_step_to_step(caches) -> None:
    loader = _loader(caches["heatmaps"])
    draws = torch.cat([loader.batch(step).inputs["align_draws"] for step in range(20)])
    assert len(draws.flatten().unique()) == draws.numel()
    assert 0 <= float(draws.min()) <= float(draws.max()) < 1
    assert abs(float(draws.mean()) - 0.5) < 0.05
    again = _loader(caches["heatmaps"]).batch(5).inputs["align_draws"]
    assert torch.equal(again, draws[5 * 6 : 6 * 6])
    other = _loader(caches["heatmaps"], seed=4).batch(5).inputs["align_draws"]
    assert not torch.equal(again, other)


def test_the_cache_keeps_what_it_does_not_decode_as_small_as_the_shards_do(
    caches, rows, street_shards: Path, tmp_path: Path
) -> None:
    num_frames = sum(row["num_frames"] for row in rows.values())
    for modality, columns in {
        "silhouettes_128": ["silhouettes_128"],
        "heatmaps": ["heatmaps"],
        "heatmaps_redrawn": ["heatmaps_redrawn"],
        "rgb": ["rgb", "rgb_masks"],
    }.items():
        open_cache(street_shards, modality=modality, folder=tmp_path)
        (path,) = tmp_path.glob(f"{modality}-[0-9]*.arrow")
        encoded = sum(len(row[name]) for row in rows.values() for name in columns)
        # Joints, ratios and identity come on top.
        assert encoded < path.stat().st_size < encoded + 220 * num_frames + 10_000


def test_damage_to_the_cache_is_noticed_when_the_frame_is_drawn(
    street_shards: Path, tmp_path: Path
) -> None:
    cache = open_cache(street_shards, modality="heatmaps", folder=tmp_path)
    whole = cache.frames(0)
    (path,) = tmp_path.glob("*.arrow")
    content = bytearray(path.read_bytes())
    start = content.index(b"RGHm")
    content[start + 400] ^= 1
    path.write_bytes(bytes(content))
    damaged = FrameCache(path)
    with pytest.raises(CorruptShard):
        damaged.frames(0)
    assert whole.shape[1:] == (17, 64, 48)


def test_shards_without_a_modality_are_refused_and_the_way_out_is_named(
    walker_shards: Path, tmp_path: Path
) -> None:
    for modality in ("silhouettes_128", "heatmaps", "heatmaps_redrawn", "rgb"):
        with pytest.raises(
            ShardError, match=rf"hold no {modality}, .*preprocess.* --video\.modalities"
        ):
            open_cache(walker_shards, modality=modality, folder=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_one_row_without_the_modality_is_enough_to_be_refused(
    street_shard: Path, tmp_path: Path
) -> None:
    shutil.copytree(street_shard, tmp_path / "shards")
    (shard,) = reader.list_shards(tmp_path / "shards")
    rows = reader.read_shard(shard).to_pylist()
    rows[-1]["rgb"] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), shard)
    with pytest.raises(ShardError, match=f"1 of {len(rows)} rows .*{rows[-1]['sequence_id']}"):
        open_cache(tmp_path / "shards", modality="rgb", folder=tmp_path / "cache")


def test_shifted_crops_and_masks_move_together_and_ratios_stay(caches) -> None:
    plain = _loader(caches["rgb"], flip_ratio=0.0).batch(0).inputs
    shifted = _loader(caches["rgb"], flip_ratio=0.0, shift_px=9).batch(0).inputs
    assert torch.equal(plain["ratios"], shifted["ratios"])
    moved = (plain["masks"] != shifted["masks"]).flatten(3).any(-1)[:, 0]  # [n, t]
    assert 0.3 < moved.float().mean() < 0.7
    unmoved = ~moved
    pictures = (plain["frames"] - shifted["frames"]).abs().amax(dim=(1, 3, 4))
    assert float(pictures[unmoved].max()) == 0.0
    assert float(pictures[moved].min()) > 0.0
