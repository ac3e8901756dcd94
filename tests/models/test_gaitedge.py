import copy
import functools
import inspect
import itertools
import json
import math
from typing import Any, get_type_hints

import cv2
import docstring_parser
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygait.batches.shift import draw_shifts, shift_frames
from raygait.errors import ModelInputError
from raygait.losses.identity import IdentityLoss
from raygait.losses.segmentation import SegmentationLoss
from raygait.losses.triplet import TripletLoss
from raygait.models.gaitedge import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    GaitAlign,
    GaitEdge,
    GaitSynthesis,
    UNet,
    WholeCrop,
)
from raygait.models.gaitgl import GaitGL
from raygait.models.output import Branch, GaitOutput
from raygait.synthetic.walkers import Walker, render
from raygait.video.alignment import align

CONVENTIONS = ["paper", "release"]


class MeanRecogniser(nn.Module):
    """Another recogniser than the paper's: one vector a clip, of two halves."""

    in_channels = 1
    num_parts = 2
    min_frames = 1

    def __init__(self, num_subjects: int, input_size_px: tuple[int, int]) -> None:
        super().__init__()
        self.input_size_px = input_size_px
        self.seen: list[Tensor] = []
        self.linear = nn.Linear(input_size_px[0] * input_size_px[1] // 2, 3)
        self.identity = nn.Linear(3, num_subjects)

    def forward(self, frames: Tensor) -> GaitOutput:
        self.seen.append(frames)
        embedding = self.linear(frames.mean(dim=(1, 2)).unflatten(1, (2, -1)).flatten(2))
        return GaitOutput(embedding, {"main": Branch(embedding, self.identity(embedding))})


class StoredLogits(nn.Module):
    """A segmenter that says what it was told: its logits are parameters."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, frames: Tensor) -> Tensor:
        assert len(frames) == len(self.logits)
        return self.logits


@functools.cache
def settled_unet(channels: tuple[int, ...]) -> UNet:
    """A small U-Net that calls half of the pixels of random crops a person, and means it."""
    torch.manual_seed(0)
    model = UNet(channels=channels)
    images = crops(n=4).transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        for _ in range(30):  # until the norms' statistics are those of the crops
            logits = model(images)
        model.decoder.output.weight.mul_(2 / logits.std())
        model.decoder.output.bias.zero_()
        model.decoder.output.bias.sub_(model.eval()(images).median())
    return model.train()


def small(num_subjects: int = 5, **switches: Any) -> GaitEdge:
    """A network for 16 x 16 crops and silhouettes of 8 x 12; seeded, so that switches compare."""
    torch.manual_seed(0)
    segmenter = copy.deepcopy(settled_unet((2, 3, 4)))
    options: dict[str, Any] = {"input_size_px": (16, 16), "segmenter": segmenter}
    if "recogniser" not in switches:
        options["recogniser"] = GaitGL(
            num_subjects, channels=(2, 3, 3), input_size_px=(8, 12), mask_strategy="pixel"
        )
    return GaitEdge(num_subjects, **(options | switches))


def crops(n: int = 2, t: int = 3, size: int = 16, c: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, size, size, generator=torch.Generator().manual_seed(seed))


def ratios_for(frames: Tensor) -> Tensor:
    shape = (frames.shape[0], frames.shape[2])
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(7), dtype=frames.dtype)
    return drawn * 0.6 + 0.3


def blobs(m: int, height: int, width: int, seed: int = 0, hole_ratio: float = 0.15) -> Tensor:
    """Masks [m, 1, h, w] of 0 and 1: a random rectangle each, with random holes."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(m, 1, height, width, dtype=torch.float64)
    for mask in masks[:, 0]:
        top, left = (
            int(torch.randint(extent - 4, (), generator=generator)) for extent in mask.shape
        )
        mask[top : top + height // 2 + 1, left : left + width // 2 + 1] = 1
    holes = torch.rand(masks.shape, generator=generator) < hole_ratio
    return masks.masked_fill(holes, 0.0)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Literal transcriptions.


def literal_edge_and_interior(masks: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Eq. 2, pixel by pixel over the neighbours that exist."""
    edge, interior = torch.zeros_like(masks), torch.zeros_like(masks)
    height, width = masks.shape[2:]
    reach = size_px // 2
    for i, y, x in itertools.product(range(len(masks)), range(height), range(width)):
        neighbours = [
            float(masks[i, 0, v, u])
            for v in range(max(0, y - reach), min(height, y + reach + 1))
            for u in range(max(0, x - reach), min(width, x + reach + 1))
        ]
        eroded, dilated = min(neighbours), max(neighbours)
        interior[i, 0, y, x] = eroded
        edge[i, 0, y, x] = float(eroded != dilated)
    return edge, interior


def literal_box(
    mask: Tensor, ratio: float, output_size_px: tuple[int, int], convention: str
) -> tuple[float, float, float, float]:
    """`bbox` of Algorithm 1 in plain loops: left, top, right, bottom."""
    height, width = mask.shape
    out_height, out_width = output_size_px
    rows = [y for y in range(height) if float(mask[y].sum()) >= 1]
    top, bottom = rows[0], rows[-1] + 1
    columns = [float(mask[:, x].sum()) for x in range(width)]
    running = [sum(columns[: x + 1]) for x in range(width)]
    half = running[-1] / 2
    if convention == "release":
        centre = float(len([total for total in running if total < half]))
        box_width = (bottom - top) * width / height
        target_px = out_height * ratio / width  # of one source pixel
        box_width += 2 * (max(0.0, (out_width - out_height * ratio) / 2) / target_px)
        pad = out_width // 2
        left = min(max(centre + pad - box_width / 2, 0), width + 2 * pad) - pad
        right = min(max(centre + pad + box_width / 2, 0), width + 2 * pad) - pad
        return left, top, right, bottom
    column = next(x for x in range(width) if running[x] > half)
    median = column + (half - (running[column] - columns[column])) / columns[column]
    box_width = (bottom - top) * (width / height) * (out_width / out_height) / ratio
    # The median in the middle of the target's column W // 2.
    left = median - (out_width / 2 + 0.5) * box_width / out_width
    return left, top, left + box_width, bottom


def literal_roi_align(
    image: Tensor,
    box: tuple[float, float, float, float],
    output_size_px: tuple[int, int],
    *,
    aligned: bool,
) -> Tensor:
    """RoIAlign bin by bin, sample by sample, on an image with plenty of zero columns round it."""
    pad = 400
    image = F.pad(image, (pad, pad))
    height = len(image)
    shift = 0.5 if aligned else 0.0
    left, top, right, bottom = (value - shift for value in box)
    left, right = left + pad, right + pad
    bin_height = (bottom - top) / output_size_px[0]
    bin_width = (right - left) / output_size_px[1]
    down, across = math.ceil(round(bin_height, 9)), math.ceil(round(bin_width, 9))
    bins = []
    for i, j in itertools.product(range(output_size_px[0]), range(output_size_px[1])):
        total = image.sum() * 0
        for k, m in itertools.product(range(down), range(across)):
            y = min(max(top + (i + (k + 0.5) / down) * bin_height, 0), height - 1)
            x = left + (j + (m + 0.5) / across) * bin_width
            y0, x0 = math.floor(y), math.floor(x)
            for v, u in itertools.product((y0, y0 + 1), (x0, x0 + 1)):
                weight = (1 - abs(y - v)) * (1 - abs(x - u))
                if weight > 0 and v < height:
                    total = total + weight * image[v, u]
        bins.append(total / (down * across))
    return torch.stack(bins).view(output_size_px)


def literal_align(
    silhouettes: Tensor, masks: Tensor, ratios: Tensor, size_px: tuple[int, int], convention: str
) -> Tensor:
    return torch.stack(
        [
            literal_roi_align(
                silhouette[0],
                literal_box(mask[0], float(ratio), size_px, convention),
                size_px,
                aligned=convention == "paper",
            )
            for silhouette, mask, ratio in zip(silhouettes, masks, ratios, strict=True)
        ]
    ).unsqueeze(1)


def literal_unet(model: UNet, frames: Tensor) -> Tensor:
    """The table of layers, from torch's functions and the weights alone, in training mode."""
    weights = dict(model.named_parameters())

    def convolved(x: Tensor, name: str) -> Tensor:
        x = F.conv2d(
            x, weights[f"{name}.convolution.weight"], weights[f"{name}.convolution.bias"], padding=1
        )
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        variance = x.var(dim=(0, 2, 3), keepdim=True, correction=0)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * weights[f"{name}.norm.weight"].view(1, -1, 1, 1)
        return (x + weights[f"{name}.norm.bias"].view(1, -1, 1, 1)).clamp(min=0)

    x = torch.stack(
        [(frames[:, c] - (0.485, 0.456, 0.406)[c]) / (0.229, 0.224, 0.225)[c] for c in range(3)],
        dim=1,
    )
    maps = []
    for number in range(len(model.encoder.stages)):
        if number:
            corners = [x[..., i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))]
            x = torch.stack(corners).amax(dim=0)
        for name in ("first", "second"):
            x = convolved(x, f"encoder.stages.{number}.{name}")
        maps.append(x)
    for number in range(len(model.decoder.stages)):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = convolved(x, f"decoder.stages.{number}.expansion")
        x = torch.cat([maps[-2 - number], x], dim=1)
        for name in ("first", "second"):
            x = convolved(x, f"decoder.stages.{number}.{name}")
    output = weights["decoder.output.weight"][0, :, 0, 0]
    return torch.einsum("mchw,c->mhw", x, output).unsqueeze(1) + weights["decoder.output.bias"]


def assert_same(
    result: Tensor, expected: Tensor, wanted: list[Tensor], *, rtol: float = 1e-7
) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected, rtol=rtol, atol=rtol)
    pull = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad((result * pull).sum(), wanted),
        torch.autograd.grad((expected * pull).sum(), wanted),
        rtol=rtol,
        atol=rtol,
    )


class TestSynthesis:
    @pytest.mark.parametrize("size_px", [3, 5, 7])
    def test_eq1_and_eq2_equal_loops_in_values_and_gradients(self, size_px: int) -> None:
        masks = blobs(3, 10, 9)
        p = torch.rand(masks.shape, dtype=torch.float64).requires_grad_()
        edge, interior = literal_edge_and_interior(masks, size_px)
        synthesis = GaitSynthesis(size_px)
        found = synthesis.edge_and_interior(masks)
        assert torch.equal(found[0].double(), edge)
        assert torch.equal(found[1].double(), interior)
        assert edge.any()
        assert_same(synthesis(p, masks), edge * p + interior, [p])

    @pytest.mark.parametrize("size_px", [3, 5, 7, 9])
    def test_eq2_edge_and_interior_are_disjoint_and_m_s_stays_in_0_to_1(self, size_px: int) -> None:
        masks = blobs(8, 24, 20, seed=size_px)
        synthesis = GaitSynthesis(size_px)
        edge, interior = synthesis.edge_and_interior(masks)
        assert not (edge & interior).any()
        result = synthesis(torch.ones_like(masks), masks)
        assert float(result.max()) == 1.0
        assert float(synthesis(torch.zeros_like(masks), masks).min()) == 0.0

    def test_a_mask_of_ones_has_no_edge_and_one_of_zeros_neither(self) -> None:
        synthesis = GaitSynthesis(9)
        for value in (0.0, 1.0):
            masks = torch.full((1, 1, 12, 12), value)
            edge, interior = synthesis.edge_and_interior(masks)
            assert not edge.any()
            assert torch.equal(interior.float(), masks)

    @pytest.mark.parametrize("inside", [0.0, 1.0], ids=["lonely-pixel", "lonely-hole"])
    def test_an_element_of_twice_the_frame_leaves_p_alone(self, inside: float) -> None:
        # Section 5.3: GaitGL-E2E is GaitEdge with an infinite element.
        masks = torch.full((1, 1, 128, 128), inside)
        masks[..., 0, 0] = 1 - inside
        p = torch.rand(1, 1, 128, 128)
        assert torch.equal(GaitSynthesis(2 * 128 - 1)(p, masks), p)
        assert torch.equal(GaitSynthesis(2 * 128 + 51)(p, masks), p)
        assert not torch.equal(GaitSynthesis(2 * 128 - 3)(p, masks), p)

    def test_a_larger_element_makes_a_wider_edge(self) -> None:
        masks = blobs(4, 32, 32)
        sizes = [int(GaitSynthesis(px).edge_and_interior(masks)[0].sum()) for px in (3, 5, 7, 9)]
        assert sizes == sorted(set(sizes))

    def test_a_straight_edge_is_one_pixel_less_wide_than_the_element(self) -> None:
        masks = torch.zeros(1, 1, 20, 20)
        masks[..., 10:] = 1
        for px in (3, 5, 7, 9):
            edge, _ = GaitSynthesis(px).edge_and_interior(masks)
            assert edge[0, 0, 0].nonzero().flatten().tolist() == list(
                range(10 - px // 2, 10 + px // 2)
            )

    @pytest.mark.parametrize("size_px", [1, 4, -3])
    def test_an_even_or_too_small_element_is_refused(self, size_px: int) -> None:
        with pytest.raises(ValueError, match=rf"structuring_element_px \({size_px}\)"):
            GaitSynthesis(size_px)


def ellipse(
    aspect: float, ratio: float, *, height_px: float, centre: tuple[float, float] = (64.0, 64.0)
) -> Tensor:
    """An upright ellipse of a width / height, squashed with its crop of `ratio` to 128 x 128."""
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    half_height = height_px / 2
    half_width = half_height * aspect / ratio
    inside = ((y - centre[0]) / half_height) ** 2 + ((x - centre[1]) / half_width) ** 2 <= 1
    return inside.float()[None, None]


class TestAlign:
    @pytest.mark.parametrize("convention", CONVENTIONS)
    @pytest.mark.parametrize("size_px", [(8, 6), (7, 5), (16, 11)])
    def test_algorithm_1_equals_loops_in_values_and_gradients(
        self, size_px: tuple[int, int], convention: Any
    ) -> None:
        masks = blobs(4, 16, 16, seed=3)
        silhouettes = torch.rand(masks.shape, dtype=torch.float64).requires_grad_()
        ratios = torch.tensor([0.25, 0.5, 0.7, 1.3], dtype=torch.float64)
        align_by_us = GaitAlign(size_px, roi_convention=convention)
        expected = literal_align(silhouettes, masks, ratios, size_px, convention)
        assert_same(align_by_us(silhouettes, masks, ratios), expected, [silhouettes])

    @pytest.mark.parametrize("ratio", [0.25, 0.5, 0.7, 0.9])
    @pytest.mark.parametrize("share", [0.6, 0.9], ids=["slim", "wide"])
    @pytest.mark.parametrize("height_px", [100.0, 128.0])
    def test_an_ellipse_keeps_its_proportions_within_a_pixel(
        self, ratio: float, share: float, height_px: float
    ) -> None:
        aspect = share * min(ratio, 44 / 64)
        mask = ellipse(aspect, ratio, height_px=height_px)
        aligned = GaitAlign()(mask, mask, torch.tensor([ratio]))[0, 0]
        assert float(aligned[32].sum()) == pytest.approx(64 * aspect, abs=1.0)
        # An ellipse's first and last row are short: the second ones are what must be there.
        assert float(aligned[1].max()) > 0.3
        assert float(aligned[-2].max()) > 0.3
        columns = aligned.sum(dim=0)
        half = float(columns.cumsum(0)[22] - columns[22] / 2)
        assert half == pytest.approx(float(columns.sum()) / 2, abs=0.01 * float(columns.sum()))

    @pytest.mark.parametrize("ratio", [0.25, 0.9])
    def test_the_releases_box_loses_the_proportions(self, ratio: float) -> None:
        # Why there are two conventions.
        aspect = 0.8 * min(ratio, 44 / 64)
        mask = ellipse(aspect, ratio, height_px=100.0)
        aligned = GaitAlign(roi_convention="release")(mask, mask, torch.tensor([ratio]))[0, 0]
        assert abs(float(aligned[32].sum()) - 64 * aspect) > 1.5

    @pytest.mark.parametrize("height_px", [60.0, 100.0])
    def test_where_the_person_stands_in_the_crop_changes_nothing(self, height_px: float) -> None:
        alignment = GaitAlign()
        ratio = torch.tensor([0.6])
        still = ellipse(0.2, 0.6, height_px=height_px)
        for down, right in [(13, 0), (0, -40), (-10, 33)]:
            moved = ellipse(0.2, 0.6, height_px=height_px, centre=(64.0 + down, 64.0 + right))
            torch.testing.assert_close(
                alignment(moved, moved, ratio), alignment(still, still, ratio), rtol=0, atol=1e-4
            )

    def test_a_person_at_the_border_is_centred_beside_zeros(self) -> None:
        mask = torch.zeros(1, 1, 128, 128)
        mask[..., :20] = 1
        aligned = GaitAlign()(mask, mask, torch.tensor([0.4]))[0, 0]
        px = 20 * 64 * 0.4 / 128  # width in the result
        assert float(aligned[32].sum()) == pytest.approx(px, abs=0.1)
        assert float(aligned[:, 22].min()) == 1.0
        assert float(aligned[:, :19].max()) == 0.0

    def test_the_box_is_not_kept_inside_the_crop(self) -> None:
        mask = torch.ones(1, 1, 128, 128)
        boxes = GaitAlign().boxes(mask, torch.tensor([0.25]))
        assert float(boxes.right - boxes.left) == pytest.approx(128 * 44 / 64 / 0.25)
        released = GaitAlign(roi_convention="release").boxes(mask, torch.tensor([0.25]))
        assert (float(released.left), float(released.right)) == (-22.0, 150.0)

    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_a_frame_without_a_person_gives_zeros_and_no_gradient(self, convention: Any) -> None:
        masks = blobs(2, 16, 16)
        masks[1] = 0
        silhouettes = torch.rand(masks.shape, dtype=torch.float64).requires_grad_()
        alignment = GaitAlign((8, 6), roi_convention=convention)
        ratios = torch.tensor([0.5, 0.5])
        aligned = alignment(silhouettes, masks, ratios)
        (gradient,) = torch.autograd.grad(aligned.sum(), silhouettes)
        assert not aligned[1].any()
        assert not gradient[1].any()
        assert gradient[0].any()
        torch.testing.assert_close(aligned[:1], alignment(silhouettes[:1], masks[:1], ratios[:1]))

    def test_walkers_overlap_with_the_offline_normalisation(self) -> None:
        overlaps, in_whole_columns = [], []
        for number, view_deg in itertools.product(range(4), (0, 36, 90, 126)):
            condition = ("nm-01", "bg-01", "cl-01", "nm-02")[number]
            clip = render(
                Walker.from_seed(number),
                condition=condition,
                view_deg=view_deg,
                num_frames=2,
                in_place=True,
            )
            for mask in clip.masks:
                crop = around_the_person(mask, margin_px=3 * number + 1)
                squashed = cv2.resize(crop, (128, 128), interpolation=cv2.INTER_LINEAR)
                person = torch.from_numpy(squashed / np.float32(255)).round()[None, None]
                ratio = torch.tensor([crop.shape[1] / crop.shape[0]])
                aligned = GaitAlign()(person, person, ratio)[0, 0].numpy()
                overlaps.append(overlap(aligned, finely_aligned(crop)))
                in_whole_columns.append(overlap(aligned, align(crop)[:, 10:54] / 255))
        assert np.mean(overlaps) >= 0.97
        assert np.min(overlaps) >= 0.92
        # What remains is that the offline one rounds the width and the centre to whole columns.
        assert np.mean(in_whole_columns) >= 0.9

    def test_without_alignment_the_whole_crop_is_averaged(self) -> None:
        silhouettes = torch.rand(2, 1, 16, 16)
        resized = WholeCrop((8, 4))(silhouettes)
        torch.testing.assert_close(resized, F.avg_pool2d(silhouettes, (2, 4)))

    def test_without_alignment_a_moved_person_stays_moved(self) -> None:
        mask = ellipse(0.3, 0.6, height_px=80.0)
        moved = ellipse(0.3, 0.6, height_px=80.0, centre=(80.0, 50.0))
        ratio = torch.tensor([0.6])
        off, on = WholeCrop(), GaitAlign()
        assert overlap(off(mask)[0, 0].numpy(), off(moved)[0, 0].numpy()) < 0.6
        assert overlap(
            on(mask, mask, ratio)[0, 0].numpy(), on(moved, moved, ratio)[0, 0].numpy()
        ) == pytest.approx(1.0)

    def test_half_precision_does_not_round_the_outline(self) -> None:
        mask = ellipse(0.3, 0.6, height_px=100.0)
        exact = GaitAlign()(mask, mask, torch.tensor([0.6]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            aligned = GaitAlign()(mask, mask, torch.tensor([0.6]))
        assert torch.equal(aligned, exact)

    def test_an_unknown_convention_is_refused(self) -> None:
        with pytest.raises(ValueError, match="roi_convention"):
            GaitAlign(roi_convention="exact")  # type: ignore[arg-type]


def around_the_person(mask: np.ndarray, margin_px: int) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = max(0, rows[0] - margin_px), max(0, columns[0] - 2 * margin_px)
    return np.ascontiguousarray(
        mask[top : rows[-1] + 1 + margin_px, left : columns[-1] + 1 + margin_px]
    )


def finely_aligned(crop: np.ndarray) -> np.ndarray:
    """The offline normalisation at eight times the size, then averaged: without its roundings.

    Its centre is the left end of column 256 of 512; the middle of column 22 of 44 is 180 of 352.
    """
    fine = align(crop, size_px=512)[:, 256 - 180 : 256 - 180 + 352] / 255
    averaged: np.ndarray = fine.reshape(64, 8, 44, 8).mean(axis=(1, 3))
    return averaged


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union at one half."""
    return float(((one > 0.5) & (other > 0.5)).sum() / ((one > 0.5) | (other > 0.5)).sum())


class TestUNet:
    def test_it_equals_its_transcription_in_values_and_gradients(self) -> None:
        torch.manual_seed(0)
        model = UNet(channels=(2, 3, 4)).double()
        frames = torch.rand(2, 3, 8, 12, dtype=torch.float64).requires_grad_()
        # The constants of the normalisation were rounded to float32 before they became float64.
        expected = literal_unet(model, frames)
        assert_same(model(frames), expected, [frames, model.decoder.output.bias], rtol=1e-5)
        first, last = (
            model.encoder.stages[0].first.convolution.weight,  # type: ignore[union-attr]
            model.decoder.stages[-1].expansion.convolution.weight,  # type: ignore[union-attr]
        )
        assert_same(model(frames), literal_unet(model, frames), [first, last], rtol=1e-5)

    def test_parameters_are_the_derived_number(self) -> None:
        with torch.device("meta"):
            model = UNet()
        assert num_parameters(model) == 537_425
        # With the 3,096,673 of the ICCV network this is what the paper's model holds.
        assert num_parameters(model) + 3_096_673 == 3_634_098

    def test_the_first_half_is_the_four_stages_down(self) -> None:
        with torch.device("meta"):
            model = UNet()
        assert num_parameters(model.encoder) == 294_480
        assert num_parameters(model.encoder) + num_parameters(model.decoder) == 537_425

    def test_channels_and_depth_follow_the_tuple(self) -> None:
        model = UNet(channels=(2, 4))
        assert model.size_factor == 2
        assert model(torch.rand(1, 3, 6, 10)).shape == (1, 1, 6, 10)
        assert UNet(channels=(3,))(torch.rand(1, 3, 5, 7)).shape == (1, 1, 5, 7)
        grey = UNet(channels=(2, 3), mean=(0.5,), deviation=(0.25,))
        assert grey(torch.rand(1, 1, 4, 4)).shape == (1, 1, 4, 4)

    def test_normalisation_is_no_part_of_the_state(self) -> None:
        keys = list(UNet(channels=(2, 3)).state_dict())
        assert {key.split(".")[0] for key in keys} == {"encoder", "decoder"}
        assert (len(IMAGENET_MEAN), len(IMAGENET_DEVIATION)) == (3, 3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"channels": ()}, "channels", id="no-stage"),
            pytest.param({"channels": (2, 0)}, "channels", id="no-channels"),
            pytest.param({"mean": (0.5,)}, "mean", id="lengths-differ"),
            pytest.param({"deviation": (0.2, 0.0, 0.2)}, "deviation", id="no-deviation"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            UNet(**arguments)

    @pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 10, 8), (1, 3, 8, 6)])
    def test_frames_that_do_not_fit_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ModelInputError, match=r"U-Net: got frames .*expected \[m, 3.*of 4"):
            UNet(channels=(2, 3, 4))(torch.rand(shape))


def stored_case(**switches: Any) -> tuple[GaitEdge, Tensor, Tensor]:
    """A network whose probabilities are parameters: a blurred blob in each of 2 x 3 frames."""
    masks = blobs(6, 16, 16).float()
    noise = torch.randn(masks.shape, generator=torch.Generator().manual_seed(1))
    logits = (masks - 0.5) * 4 + 0.5 * noise
    model = small(segmenter=StoredLogits(logits), freeze_encoder=False, **switches)
    frames = crops()
    return model, frames, ratios_for(frames)


class TestGradient:
    @pytest.mark.parametrize("size_px", [3, 5])
    def test_recognition_reaches_the_edge_of_p_and_nothing_else(self, size_px: int) -> None:
        model, frames, ratios = stored_case(structuring_element_px=size_px)
        logits = model.segmenter.logits
        assert isinstance(logits, Tensor)
        model(frames, ratios=ratios).branches["main"].logits.square().sum().backward()
        assert logits.grad is not None
        person = logits.detach().sigmoid().round()
        edge, _ = literal_edge_and_interior(person, size_px)
        assert not logits.grad[edge == 0].any()
        assert int(logits.grad[edge == 1].count_nonzero()) > 0.8 * int(edge.sum())

    def test_segmentation_reaches_every_pixel(self) -> None:
        model, frames, ratios = stored_case()
        logits = model.segmenter.logits
        assert isinstance(logits, Tensor)
        # Sure of itself and wrong, too: a probability would be rounded there.
        logits.data[:, :, :4] = -60.0
        found = model(frames, ratios=ratios).mask_logits
        (10 * SegmentationLoss()(found, torch.ones_like(found)).loss).backward()
        assert logits.grad is not None
        assert logits.grad.all()

    def test_end_to_end_recognition_reaches_more_than_the_edge(self) -> None:
        model, frames, ratios = stored_case(synthesis="whole")
        logits = model.segmenter.logits
        assert isinstance(logits, Tensor)
        model(frames, ratios=ratios).branches["main"].logits.square().sum().backward()
        assert logits.grad is not None
        edge, _ = literal_edge_and_interior(logits.detach().sigmoid().round(), 3)
        assert int(logits.grad[edge == 0].count_nonzero()) > 0.3 * int((edge == 0).sum())

    def test_an_infinite_element_is_end_to_end_in_values_and_gradients(self) -> None:
        results = []
        for switches in ({"structuring_element_px": 31}, {"synthesis": "whole"}):
            model, frames, ratios = stored_case(**switches)
            model.set_mask_seed(0)
            output = model(frames, ratios=ratios).branches["main"].logits
            assert output is not None
            results.append((output, torch.autograd.grad(output.sum(), model.segmenter.logits)))
        torch.testing.assert_close(*results)


class TestWholeNetwork:
    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_it_equals_its_transcription_in_values_and_gradients(self, convention: Any) -> None:
        recogniser = MeanRecogniser(5, (8, 6))
        model = small(recogniser=recogniser, roi_convention=convention).double()
        # Training: what both compute of the batch norm is then the batch's.
        model.set_encoder_frozen(False)
        frames = crops().double().requires_grad_()
        ratios = ratios_for(frames)
        output = model(frames, ratios=ratios)
        segmenter = model.segmenter
        assert isinstance(segmenter, UNet)
        images = torch.stack([frames[i, :, j] for i in range(2) for j in range(3)])
        p = 1 / (1 + (-literal_unet(segmenter, images)).exp())
        person = (p.detach() > 0.5).double()
        assert 0.2 < float(person.mean()) < 0.8
        edge, interior = literal_edge_and_interior(person, 3)
        aligned = literal_align(edge * p + interior, person, ratios.flatten(), (8, 6), convention)
        clips = aligned.view(2, 1, 3, 8, 6)
        torch.testing.assert_close(recogniser.seen[-1], clips, rtol=1e-5, atol=1e-5)
        expected = recogniser(clips)
        wanted = [frames, segmenter.decoder.output.weight, recogniser.linear.weight]
        assert_same(output.embedding, expected.embedding, wanted, rtol=1e-5)
        assert output.mask_logits is not None
        torch.testing.assert_close(
            output.mask_logits.sigmoid(), p.view(2, 1, 3, 16, 16), rtol=1e-5, atol=1e-5
        )

    @pytest.mark.parametrize("size_px", [(8, 12), (32, 22)])
    def test_silhouettes_are_aligned_to_what_the_recogniser_takes(
        self, size_px: tuple[int, int]
    ) -> None:
        for switches in ({}, {"align": False}):
            recogniser = MeanRecogniser(4, size_px)
            model = small(4, recogniser=recogniser, **switches)
            output = model(crops(), ratios=ratios_for(crops()))
            assert recogniser.seen[-1].shape == (2, 1, 3, *size_px)
            assert output.embedding.shape == (2, 2, 3)
            assert (model.num_parts, model.min_frames) == (2, 1)

    def test_output_is_the_recognisers_with_the_probabilities(self) -> None:
        model = small()
        frames = crops()
        output = model(frames, ratios=ratios_for(frames))
        shapes = [tuple(value.shape) for value in (output.embedding, *output.branches["main"])]
        assert shapes == [(2, 8, 3), (2, 8, 3), (2, 8, 5)]
        assert output.mask_logits is not None
        assert output.mask_logits.shape == (2, 1, 3, 16, 16)
        assert (model.num_parts, model.min_frames) == (8, 3)

    def test_colours_alone_are_enough_and_masks_are_not_looked_at(self) -> None:
        model = small().eval()
        frames = crops()
        ratios = ratios_for(frames)
        alone = model(frames, ratios=ratios)
        assert torch.equal(
            model(frames, ratios=ratios, masks=crops(c=1)).embedding, alone.embedding
        )

    def test_given_masks_decide_interior_and_box(self) -> None:
        frames = crops()
        ratios = ratios_for(frames)
        given = small(mask_source="given").eval()
        masks = blobs(6, 16, 16).float().view(2, 1, 3, 16, 16)
        seen: list[Tensor] = []
        given.recogniser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        p = given(frames, ratios=ratios, masks=masks).mask_logits.sigmoid()
        given(frames, ratios=ratios, masks=masks * 0.4 + 0.3)  # grey is rounded
        assert torch.equal(seen[0], seen[1])
        edge, interior = literal_edge_and_interior(masks.view(6, 1, 16, 16), 3)
        expected = GaitAlign((8, 12))(
            edge * p.reshape(6, 1, 16, 16) + interior, masks.view(6, 1, 16, 16), ratios.flatten()
        )
        torch.testing.assert_close(seen[0], expected.view(2, 1, 3, 8, 12))
        # The segmenter's own rounded masks are what the default uses.
        given(frames, ratios=ratios, masks=p.round())
        predicted = small().eval()
        predicted.recogniser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        predicted(frames, ratios=ratios)
        assert torch.equal(seen[2], seen[3])

    def test_ratios_are_of_frames(self) -> None:
        model = small().eval()
        frames = crops()
        ratios = ratios_for(frames)
        seen: list[Tensor] = []
        model.recogniser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(frames, ratios=ratios)
        ratios[1, 2] = 0.95
        model(frames, ratios=ratios)
        changed = (seen[0] != seen[1]).any(dim=4).any(dim=3)[:, 0]
        assert changed.tolist() == [[False, False, False], [False, False, True]]

    def test_without_alignment_ratios_are_neither_needed_nor_used(self) -> None:
        model = small(align=False).eval()
        frames = crops()
        output = model(frames)
        assert torch.equal(model(frames, ratios=ratios_for(frames)).embedding, output.embedding)


class TestModes:
    def test_a_clip_embeds_alone_as_in_a_batch_with_others(self) -> None:
        model = small()
        frames = crops(n=4, t=5)
        ratios = ratios_for(frames)
        model(frames, ratios=ratios)
        model.eval()
        with torch.no_grad():
            together = model(frames, ratios=ratios).embedding
            alone = torch.cat(
                [model(frames[i : i + 1], ratios=ratios[i : i + 1]).embedding for i in range(4)]
            )
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_a_frozen_encoder_is_bit_equal_after_joint_steps_and_all_else_learns(self) -> None:
        model = small().train()
        before = copy.deepcopy(model.state_dict())
        groups = model.parameter_groups()
        optimizer = torch.optim.Adam(
            [
                {"params": groups["segmenter_encoder"] + groups["segmenter_decoder"], "lr": 1e-2},
                {"params": groups["recogniser"], "lr": 1e-2},
            ],
            weight_decay=5e-4,
        )
        for step in range(3):
            frames = crops(seed=step)
            joint_loss(model, frames, ratios_for(frames), torch.tensor([0, 1]), optimizer)
        for name, value in model.state_dict().items():
            is_encoder = name.startswith("segmenter.encoder.")
            assert torch.equal(value, before[name]) == is_encoder, name

    def test_an_encoder_that_is_not_frozen_learns_too(self) -> None:
        model = small(freeze_encoder=False).train()
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        frames = crops()
        joint_loss(model, frames, ratios_for(frames), torch.tensor([0, 1]), optimizer)
        same = {
            name for name, value in model.state_dict().items() if torch.equal(value, before[name])
        }
        # A bias before a batch norm has no gradient.
        assert {name for name in same if not name.endswith("convolution.bias")} == set()

    def test_freezing_keeps_norms_in_evaluation_and_can_be_undone_for_pretraining(self) -> None:
        model = small().train()
        encoder, decoder = model.segmenter.encoder, model.segmenter.decoder
        assert isinstance(encoder, nn.Module)
        assert isinstance(decoder, nn.Module)
        assert not any(module.training for module in encoder.modules())
        assert all(module.training for module in decoder.modules())
        assert not any(p.requires_grad for p in encoder.parameters())
        assert all(p.requires_grad for p in decoder.parameters())
        model.set_encoder_frozen(False)
        assert all(module.training for module in model.modules())
        assert all(p.requires_grad for p in model.parameters())
        model.eval()
        model.set_encoder_frozen(True)
        assert not any(module.training for module in model.modules())

    def test_segmenter_and_recogniser_train_as_networks_of_their_own(self) -> None:
        model = small()
        model.set_encoder_frozen(False)
        frames = crops()
        model.segmenter(frames.transpose(1, 2).flatten(0, 1)).sum().backward()
        assert all(p.grad is not None for p in model.segmenter.parameters())
        assert all(p.grad is None for p in model.recogniser.parameters())
        clips = torch.rand(2, 1, 3, 8, 12)
        model.recogniser(clips).branches["main"].logits.sum().backward()
        assert all(p.grad is not None for p in model.recogniser.parameters())

    def test_evaluation_is_bit_identical_between_calls(self) -> None:
        model = small().eval()
        frames = crops()
        ratios = ratios_for(frames)
        assert torch.equal(
            model(frames, ratios=ratios).embedding, model(frames, ratios=ratios).embedding
        )

    def test_the_mask_seed_reaches_the_recogniser(self) -> None:
        model = small()
        recogniser = model.recogniser
        assert isinstance(recogniser, GaitGL)
        model.set_mask_seed(3)
        first = recogniser.masks()
        model.set_mask_seed(4)
        assert not torch.equal(first[0], recogniser.masks()[0])
        small(recogniser=MeanRecogniser(5, (8, 12))).set_mask_seed(3)  # draws none

    def test_bfloat16_under_autocast_is_close_and_probabilities_stay_float32(self) -> None:
        recogniser = MeanRecogniser(5, (8, 12))
        model, frames, ratios = stored_case(recogniser=recogniser)
        exact = model(frames, ratios=ratios)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(frames, ratios=ratios)
        torch.testing.assert_close(output.embedding.float(), exact.embedding, rtol=0.02, atol=0.02)
        assert torch.equal(*recogniser.seen)
        unet = small(recogniser=recogniser)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = unet(frames, ratios=ratios)
            assert output.mask_logits is not None
            loss = SegmentationLoss()(output.mask_logits, torch.ones(2, 1, 3, 16, 16)).loss
        assert output.mask_logits.dtype == loss.dtype == torch.float32
        (loss + output.embedding.float().sum()).backward()


def joint_loss(
    model: GaitEdge,
    frames: Tensor,
    ratios: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
) -> None:
    """One step of L_joint."""
    output = model(frames, ratios=ratios)
    assert output.mask_logits is not None
    masks = (frames.mean(dim=1, keepdim=True) > 0.5).float()
    branch = output.branches["main"]
    loss = 10 * SegmentationLoss()(output.mask_logits, masks).loss
    loss = loss + TripletLoss()(branch.triplet_features, labels).loss
    loss = loss + IdentityLoss()(branch.logits, labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


SWITCHES: dict[str, dict[str, Any]] = {
    "table-4-5x5": {"structuring_element_px": 5},
    "table-4-7x7": {"structuring_element_px": 7},
    "table-4-9x9": {"structuring_element_px": 9},
    "table-2-and-4-end-to-end": {"synthesis": "whole"},
    "fig-6b-without-alignment": {"align": False},
    "given-masks": {"mask_source": "given"},
    "release": {"roi_convention": "release"},
    "size": {"input_size_px": (48, 48)},
}


class TestSwitches:
    def test_every_switch_changes_parameters_or_output(self) -> None:
        seen: dict[str, Tensor] = {}
        for name, switches in {"default": {}, **SWITCHES}.items():
            size = switches.get("input_size_px", (32, 32))
            recogniser = MeanRecogniser(5, (8, 12))
            options = {
                "input_size_px": size,
                "segmenter": Brightness(),
                "freeze_encoder": False,
                "recogniser": recogniser,
            }
            people = blobs(8, *size, hole_ratio=0.0).float()
            others = blobs(8, *size, seed=1, hole_ratio=0.0).float()
            # A little light on the background, less than full on the person: P is grey.
            frames = (people * 0.1 + 0.45).view(2, 4, 1, *size).transpose(1, 2)
            small(**(options | switches))(
                frames.expand(2, 3, 4, *size),
                ratios=ratios_for(frames),
                masks=others.view(2, 4, 1, *size).transpose(1, 2),
            )
            seen[name] = recogniser.seen[-1]
        for (a, seen_a), (b, seen_b) in itertools.combinations(seen.items(), 2):
            assert not torch.allclose(seen_a, seen_b, atol=1e-3), f"{a} and {b} are the same"

    def test_no_switch_of_the_paper_changes_the_parameters(self) -> None:
        counts = {
            num_parameters(small(**switches))
            for name, switches in SWITCHES.items()
            if name.startswith(("table", "fig"))
        }
        assert counts == {num_parameters(small())}

    def test_a_disturbed_crop_moves_the_silhouette_only_without_alignment(self) -> None:
        # Fig. 6(b): four times the shift of a row is a row of the recogniser's 16.
        generator = np.random.default_rng(0)
        people = np.zeros((6, 64, 64, 3), np.uint8)
        people[:, 16:48, 26:38] = 255
        disturbed = shift_frames(people, draw_shifts(6, 12, generator, probability=1.0))
        segmenter = Brightness()
        changes = {}
        for align_it in (True, False):
            recogniser = MeanRecogniser(5, (16, 11))
            model = small(
                recogniser=recogniser,
                segmenter=segmenter,
                align=align_it,
                freeze_encoder=False,
                input_size_px=(64, 64),
            )
            for images in (people, disturbed):
                frames = torch.from_numpy(images).permute(3, 0, 1, 2)[None] / 255
                model(frames, ratios=torch.full((1, 6), 0.5))
            changes[align_it] = float((recogniser.seen[0] - recogniser.seen[1]).abs().mean())
        assert changes[True] < 1e-4
        assert changes[False] > 0.1


class Brightness(nn.Module):
    """A segmenter for people in white on black."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.mean(dim=1, keepdim=True) * 40 - 20


class TestContract:
    def test_every_constructor_argument_is_typed_and_documented(self) -> None:
        for model in (GaitEdge, UNet):
            hints = get_type_hints(model.__init__)
            documented = {
                entry.arg_name: entry.description
                for entry in docstring_parser.parse(inspect.getdoc(model) or "").params
            }
            for name, parameter in inspect.signature(model).parameters.items():
                assert name in hints
                assert documented.get(name), f"{name} is not described"
                assert not isinstance(parameter.annotation, str)
                if name == "num_subjects":
                    continue
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                if name not in ("recogniser", "segmenter"):
                    json.dumps(parameter.default)

    def test_parameter_groups_hold_every_parameter_once(self) -> None:
        for switches in ({}, {"segmenter": nn.Conv2d(3, 1, 1), "freeze_encoder": False}):
            model = small(**switches)
            groups = model.parameter_groups()
            grouped = [p for group in groups.values() for p in group]
            assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
            assert list(groups) == ["segmenter_encoder", "segmenter_decoder", "recogniser"]
            assert bool(groups["segmenter_encoder"]) == (not switches)

    def test_every_stage_runs_once_in_order(self) -> None:
        model = small()
        calls: list[str] = []
        for name, stage in model.named_stages().items():
            stage.register_forward_hook(lambda *_, name=name: calls.append(name))
        model(crops(), ratios=ratios_for(crops()))
        assert calls == list(model.named_stages())
        assert calls[:7] == [
            "segmenter down 1",
            "segmenter down 2",
            "segmenter down 3",
            "segmenter up 1",
            "segmenter up 2",
            "segmenter logits",
            "synthesis",
        ]
        plain = small(recogniser=MeanRecogniser(5, (8, 6)), synthesis="whole")
        assert list(plain.named_stages())[-3:] == ["segmenter logits", "alignment", "recogniser"]

    @pytest.mark.parametrize("channels", [(2, 3, 4), (1, 1)])
    def test_gradients_have_the_strides_of_their_weights(self, channels: tuple[int, ...]) -> None:
        # DDP warns of others, and safetensors refuses weights that are not contiguous.
        model = small(segmenter=UNet(channels=channels), freeze_encoder=False)
        output = model(crops(), ratios=ratios_for(crops()))
        (output.mask_logits.mean() + output.branches["main"].logits.sum()).backward()
        for parameter in model.parameters():
            assert parameter.is_contiguous()
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride()

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small().eval()
        frames = crops()
        ordered = frames.transpose(1, 2).contiguous().transpose(1, 2)
        ratios = ratios_for(frames)
        torch.testing.assert_close(model(ordered, ratios=ratios), model(frames, ratios=ratios))

    def test_state_dict_keys_are_public(self) -> None:
        keys = list(small().segmenter.state_dict())
        assert keys[:8] == [
            "encoder.stages.0.first.convolution.weight",
            "encoder.stages.0.first.convolution.bias",
            "encoder.stages.0.first.norm.weight",
            "encoder.stages.0.first.norm.bias",
            "encoder.stages.0.first.norm.running_mean",
            "encoder.stages.0.first.norm.running_var",
            "encoder.stages.0.first.norm.num_batches_tracked",
            "encoder.stages.0.second.convolution.weight",
        ]
        assert keys[-2:] == ["decoder.output.weight", "decoder.output.bias"]
        assert "decoder.stages.0.expansion.convolution.weight" in keys
        assert {key.split(".")[0] for key in small().state_dict()} == {"segmenter", "recogniser"}

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            pytest.param(crops()[0], "got 4 dimensions", id="rank"),
            pytest.param(crops(c=1), "got 1 channels.*expected 3", id="channels"),
            pytest.param(crops(size=8), "got frames of 8x8 px.*expected 16x16", id="size"),
            pytest.param(crops(t=2), "got clips of 2 frames, expected at least 3", id="length"),
            pytest.param((crops() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(crops() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_frames_that_do_not_fit_are_refused(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"GaitEdge: {message}"):
            small()(frames, ratios=torch.full((2, 3), 0.5))

    @pytest.mark.parametrize(
        ("ratios", "message"),
        [
            pytest.param(None, "got no ratios", id="missing"),
            pytest.param(torch.ones(2), r"got ratios .*\(2,\), expected .*\(2, 3\)", id="rank"),
            pytest.param(
                torch.ones(3, 2), r"got ratios .*\(3, 2\), expected .*\(2, 3\)", id="turned"
            ),
            pytest.param(torch.ones(2, 3).int(), "got ratios torch.int32", id="whole-numbers"),
            pytest.param(torch.zeros(2, 3), r"got ratios in 0\.\.0", id="zero"),
            pytest.param(torch.full((2, 3), 128.0), r"got ratios in 128", id="a-width-in-pixels"),
            pytest.param(torch.full((2, 3), math.nan), "got ratios in nan", id="not-a-number"),
        ],
    )
    def test_ratios_that_do_not_fit_are_refused(self, ratios: Tensor | None, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"GaitEdge: {message}"):
            small()(crops(), ratios=ratios)

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            pytest.param(None, ": got no masks", id="missing"),
            pytest.param(crops(c=3), " masks: got 3 channels", id="colours"),
            pytest.param(crops(c=1, size=8), " masks: got frames of 8x8", id="size"),
            pytest.param(crops(c=1) * 255, " masks: got values in", id="bytes"),
            pytest.param(crops(n=1, c=1), r": got masks \(1, 1", id="a-clip-too-few"),
            pytest.param(crops(t=4, c=1), r": got masks \(2, 1, 4", id="a-frame-too-many"),
        ],
    )
    def test_masks_that_do_not_fit_are_refused(self, masks: Tensor | None, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"GaitEdge{message}"):
            small(mask_source="given")(crops(), ratios=torch.full((2, 3), 0.5), masks=masks)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, "num_subjects", id="no-subjects"),
            pytest.param({"synthesis": "both"}, "synthesis", id="unknown-synthesis"),
            pytest.param({"mask_source": "truth"}, "mask_source", id="unknown-source"),
            pytest.param(
                {"synthesis": "whole", "mask_source": "given"}, "'given' needs", id="unused-masks"
            ),
            pytest.param({"roi_convention": "mask"}, "roi_convention", id="unknown-convention"),
            pytest.param({"structuring_element_px": 4}, "structuring_element_px", id="even"),
            pytest.param({"in_channels": 0}, "in_channels", id="no-channels"),
            pytest.param({"input_size_px": (0, 16)}, "input_size_px", id="no-height"),
            pytest.param({"segmenter": Brightness()}, "freeze_encoder", id="nothing-to-freeze"),
            pytest.param({"recogniser": Brightness()}, "must have 'in_channels'", id="no-network"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            small(**arguments)

    def test_a_recogniser_for_colours_is_refused(self) -> None:
        recogniser = GaitGL(5, channels=(2, 3, 3), input_size_px=(8, 12), in_channels=3)
        with pytest.raises(ValueError, match="takes 3 channels, must take 1"):
            small(recogniser=recogniser)

    def test_a_recogniser_for_other_subjects_is_refused(self) -> None:
        model = small(6, recogniser=MeanRecogniser(5, (8, 6)))
        with pytest.raises(ValueError, match=r"num_subjects \(6\) must be .* built for, 5"):
            model(crops(), ratios=ratios_for(crops()))

    def test_a_segmenter_of_another_shape_is_refused(self) -> None:
        model = small(segmenter=nn.Conv2d(3, 2, 1), freeze_encoder=False)
        with pytest.raises(ValueError, match=r"segmenter \(Conv2d\) gave \(6, 2, 16, 16\)"):
            model(crops(), ratios=ratios_for(crops()))


def walking_in_colour(
    num_subjects: int, num_clips: int, num_frames: int, size: int = 32
) -> tuple[Tensor, Tensor, Tensor]:
    """Crops, their masks and labels; the subject is girth, waist and swing, colours are random."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, size)[:, None]
    columns = torch.linspace(-1, 1, size)[None, :]
    clips, masks = [], []
    for _ in range(num_subjects):
        girth, waist, swing = (torch.rand(3, generator=generator) * 0.3 + 0.3).tolist()
        for _ in range(num_clips):
            phase, tint, ground = torch.rand(3, generator=generator).tolist()
            times = (torch.arange(num_frames) * 0.8 + phase * 6.28)[:, None, None]
            width = girth * (1 - waist * (4 * rows).cos() + swing * times.sin() * rows)
            mask = (columns.abs() < width).float()
            colours = torch.tensor([0.6 + 0.4 * tint, 0.5, 0.2 + 0.3 * tint])[:, None, None, None]
            backdrop = torch.tensor([0.1, 0.2 + 0.2 * ground, 0.6])[:, None, None, None]
            noise = 0.1 * torch.rand(3, num_frames, size, size, generator=generator)
            clips.append(mask * colours * 0.9 + (1 - mask) * backdrop * 0.9 + noise)
            masks.append(mask[None])
    labels = torch.arange(num_subjects).repeat_interleave(num_clips)
    return torch.stack(clips), torch.stack(masks), labels


def test_three_phases_learn_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    frames, masks, labels = walking_in_colour(num_subjects=4, num_clips=3, num_frames=3)
    ratios = torch.full((12, 3), 0.6)
    model = GaitEdge(
        4,
        recogniser=GaitGL(
            4,
            channels=(8, 16, 16),
            mask_strategy="fixed_parts",
            num_fixed_parts=4,
            input_size_px=(32, 22),
        ),
        segmenter=UNet(channels=(4, 8, 8)),
        input_size_px=(32, 32),
    )
    segmentation, triplet_of, identity_of = SegmentationLoss(), TripletLoss(0.2), IdentityLoss()

    model.set_encoder_frozen(False)
    optimizer = torch.optim.SGD(model.segmenter.parameters(), lr=0.1, momentum=0.9)
    images = frames.transpose(1, 2).flatten(0, 1)
    overlaps = []
    for _ in range(15):
        found = model.segmenter(images).unflatten(0, (12, 3)).transpose(1, 2)
        segmented = segmentation(found, masks)
        optimizer.zero_grad()
        segmented.loss.backward()
        optimizer.step()
        overlaps.append(float(segmented.iou))
    assert overlaps[-1] > 0.95 > overlaps[0]

    model.set_encoder_frozen(True)
    groups = model.parameter_groups()
    optimizer = torch.optim.Adam(
        [
            {"params": groups["segmenter_decoder"], "lr": 1e-4},
            {"params": groups["recogniser"], "lr": 5e-3},
        ]
    )
    history = []
    for _ in range(45):
        output = model(frames, ratios=ratios)
        assert output.mask_logits is not None
        branch = output.branches["main"]
        segmented = segmentation(output.mask_logits, masks)
        triplet = triplet_of(branch.triplet_features, labels)
        identity = identity_of(branch.logits, labels)
        optimizer.zero_grad()
        (10 * segmented.loss + triplet.loss + identity.loss).backward()
        optimizer.step()
        history.append((float(triplet.active_ratio), float(identity.loss.detach())))
    assert history[0][1] == pytest.approx(math.log(4), rel=0.1)
    assert history[-1][0] < 0.2 * history[0][0]
    assert history[-1][1] < 0.6 * history[0][1]
    assert float(segmented.iou) > 0.95

    model.eval()
    with torch.no_grad():
        output = model(frames, ratios=ratios)
    assert float(identity_of(output.branches["main"].logits, labels).accuracy) == 1.0


@pytest.mark.slow
def test_one_joint_step_at_full_width() -> None:
    torch.manual_seed(0)
    model = GaitEdge(74, recogniser=GaitGL(74), segmenter=UNet())
    frames = crops(n=2, t=6, size=128)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    before = copy.deepcopy(model.state_dict())
    joint_loss(model, frames, torch.full((2, 6), 0.45), torch.tensor([0, 1]), optimizer)
    moved = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert "segmenter.decoder" in moved
    assert "segmenter.encoder" not in moved
    assert all(value.isfinite().all() for value in model.state_dict().values())
