"""GaitEdge: Beyond Plain End-to-end Gait Recognition for Better Practicality.

Junhao Liang, Chao Fan, Saihui Hou, Chuanfu Shen, Yongzhen Huang, Shiqi Yu. ECCV 2022,
https://arxiv.org/abs/2203.03972. Written from the paper.

Symbols
    P          what the segmenter says, a probability    `probabilities`  [m, 1, h, w]
    M          its silhouette                            `masks`          [m, 1, h, w]
    M_i, M_e   interior and edge of M                    `interior`, `edge`
    M_s, s_in  synthetic silhouette                      `silhouettes`    [m, 1, h, w]
    r          width / height of the crop before it      `ratios`         [m]
               was squashed to h x w
    (H, W)     what the recogniser looks at              `recogniser.input_size_px`
    s_out      aligned silhouette                                         [m, 1, H, W]
    m = n t: everything before the recogniser looks at frames, not at clips.

Equations
    1 `GaitSynthesis.forward`;  2 `GaitSynthesis.edge_and_interior`;  Algorithm 1 `GaitAlign`, its
    `bbox` `GaitAlign.boxes`, its `roi_align` `roi_weights`.  L_joint is the recipe's:
    10 `losses.segmentation.SegmentationLoss` + the losses of the recogniser.

Ablations
    Table 2, GaitGL     the recogniser alone, on aligned silhouettes
    Table 2, GaitGL-E2E `synthesis="whole"`; also Fig. 2(d)
    Table 4             `structuring_element_px` = 3, 5, 7, 9; its last rows `synthesis="whole"`
    Fig. 6(b)           `align` on, off, on frames that `batches.shift.shift_frames` disturbed

Where the paper is silent, or says two things (* = as the authors' release does)
    Recogniser       Any network of this room for silhouettes; the paper's is GaitGL of ICCV 2021.
    U-Net            The printed channels; two 3 x 3 convolutions with bias, each with batch norm
                     and ReLU, per stage, maximum over 2 x 2 between; up by repeating pixels and a
                     convolution of that kind, then the skipped map first, the new one second *.
                     Colours normalised by ImageNet's mean and deviation *, inside the U-Net, which
                     thus takes 0..1 like every network here.
    Whose M          The segmenter's own, rounded (4.1, "we segment the input RGB image"): colours
                     alone are enough at test. `mask_source="given"` * erodes a silhouette that
                     comes with the data, which weights of the release were trained with.
    Eq. 2            Prints "or", says "exclusive or": with the former M_s could pass 1.
    Borders          Pixels outside the image are neither person nor background: a person cut by
                     the border has no edge there.
    First half       Fixed are the four stages down *. Their batch norms stay in evaluation too:
                     moving statistics would not be fixed.
    Box              Rows from the first to the last one of M; as wide as the recogniser's W / H
                     asks after r is undone; the median of M's columns in the middle of column
                     W // 2. Silhouettes aligned in whole columns, as the recogniser was trained on
                     before, have it there on average; at the border between two columns the
                     overlap with them would be 0.86 instead of 0.92. No gradient passes. The
                     pseudo-code rounds s_in for it, which is M again.
    Padding          Zeros on both sides as far as the box reaches, more than w // 2 if r is small.
    RoIAlign         As many samples in a bin as it has pixels, rounded up *; pixels have their
                     centre at one half (Mask R-CNN's text; the release starts at 0).
    Release's box    `roi_convention="release"`: true to r only for a person of the crop's full
                     height and r below W / H; whole columns; kept inside W // 2 added columns.
    No alignment     The whole crop becomes H x W by the same RoIAlign, whatever r is.
    No person        A frame whose M is empty gives zeros.
    Truth of L_seg   The mask of the crop, h x w *, not the aligned 64 x 44 of section 5.1.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

import itertools
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from raygait.errors import ModelInputError
from raygait.models.layers import Convolution2d, channels_last, check_frames
from raygait.models.output import GaitOutput

Synthesis = Literal["edge", "whole"]
MaskSource = Literal["predicted", "given"]
RoiConvention = Literal["paper", "release"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean red, green and blue of ImageNet's training pictures, 0..1."""
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""Their standard deviations."""

_RATIO_RANGE = (0.05, 20.0)


class _Convolution(nn.Module):
    """3 x 3 convolution with bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = Convolution2d(in_channels, out_channels, 3, bias=True)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, features: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d h w"]:
        # In place: the norm needs its input, not its output.
        return F.relu_(self.norm(self.convolution(features)))


class _Down(nn.Module):
    """One stage of the U-Net's first half: two convolutions, after a pooling layer or none."""

    def __init__(self, in_channels: int, out_channels: int, *, pools: bool) -> None:
        super().__init__()
        self.pools = pools
        self.first = _Convolution(in_channels, out_channels)
        self.second = _Convolution(out_channels, out_channels)

    def forward(self, features: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d r v"]:
        if self.pools:
            features = F.max_pool2d(features, 2)
        result: Tensor = self.second(self.first(features))
        return result


class _Up(nn.Module):
    """One stage of the second half: twice the size, the skipped map beside it, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.expansion = _Convolution(in_channels, out_channels)
        self.first = _Convolution(2 * out_channels, out_channels)
        self.second = _Convolution(out_channels, out_channels)

    def forward(
        self, features: Float[Tensor, "m c r v"], skipped: Float[Tensor, "m d h w"]
    ) -> Float[Tensor, "m d h w"]:
        expanded = self.expansion(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        result: Tensor = self.second(self.first(torch.cat((skipped, expanded), dim=1)))
        return result


class UNetEncoder(nn.Module):
    """First half of the U-Net.

    Args:
        in_channels: Channels of a frame.
        channels: Output channels of each stage.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            _Down(before, after, pools=index > 0)
            for index, (before, after) in enumerate(
                zip((in_channels, *channels), channels, strict=False)
            )
        )

    def forward(self, frames: Float[Tensor, "m c h w"]) -> list[Tensor]:
        """One map a stage, each of half the size of the one before."""
        maps = []
        features = frames
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


class UNetDecoder(nn.Module):
    """Second half of the U-Net, with the 1 x 1 convolution to one logit a pixel.

    Args:
        channels: Output channels of the first half's stages.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        upwards = channels[::-1]
        self.stages = nn.ModuleList(
            _Up(before, after) for before, after in itertools.pairwise(upwards)
        )
        self.output = Convolution2d(channels[0], 1, 1, bias=True)

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "m 1 h w"]:
        """Logits from the first half's maps."""
        features = maps[-1]
        for stage, skipped in zip(self.stages, maps[-2::-1], strict=True):
            features = stage(features, skipped)
        logits: Tensor = self.output(features)
        return logits


class UNet(nn.Module):
    """The U-Net of section 5.1: frames to one logit a pixel, "is this the person?".

    Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    https://arxiv.org/abs/1505.04597, with padding, batch norm, one stage and many channels less.

    Args:
        channels: Output channels of the stages of the first half, largest map first; the second
            half mirrors them. Time and memory grow with the first ones most.
        mean: What is subtracted from each channel of a frame in 0..1. Its length is the number of
            channels.
        deviation: What each channel is divided by after that.

    Attributes:
        encoder: First half.
        decoder: Second half, to the logits.
        in_channels: Channels of a frame.
        size_factor: Height and width of a frame must be multiples of this.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...] = (16, 32, 64, 128),
        mean: tuple[float, ...] = IMAGENET_MEAN,
        deviation: tuple[float, ...] = IMAGENET_DEVIATION,
    ) -> None:
        super().__init__()
        channels = tuple(channels)
        if not channels or min(channels) < 1:
            raise ValueError(f"channels {channels} must be one or more numbers of at least 1")
        if not len(mean) == len(deviation) > 0 or min(deviation) <= 0:
            raise ValueError(
                f"mean {mean} and deviation {deviation} must have one entry per channel each, "
                "and deviations be positive"
            )
        self.in_channels = len(mean)
        self.size_factor = 2 ** (len(channels) - 1)
        self.encoder = UNetEncoder(self.in_channels, channels)
        self.decoder = UNetDecoder(channels)
        # x * scale + offset is (x - mean) / deviation without a second copy of all frames.
        scale = 1.0 / torch.tensor(deviation)
        offset = -torch.tensor(mean) * scale
        self.register_buffer("_scale", scale[:, None, None], persistent=False)
        self.register_buffer("_offset", offset[:, None, None], persistent=False)

    def forward(self, frames: Float[Tensor, "m c h w"]) -> Float[Tensor, "m 1 h w"]:
        """Segment.

        Args:
            frames: Red, green, blue, 0..1.

        Returns:
            Logits; their sigmoid is P.

        Raises:
            ModelInputError: Channels or size do not fit.
        """
        height, width = frames.shape[2:]
        if (
            frames.shape[1] != self.in_channels
            or height % self.size_factor
            or (width % self.size_factor)
        ):
            raise ModelInputError(
                f"U-Net: got frames {tuple(frames.shape)}, expected [m, {self.in_channels}, h, w] "
                f"with h and w multiples of {self.size_factor}"
            )
        if frames.device.type == "cpu":  # a fifth less time, see `layers.channels_last`
            frames = frames.contiguous(memory_format=torch.channels_last)
        assert isinstance(self._offset, Tensor)
        assert isinstance(self._scale, Tensor)
        logits: Tensor = self.decoder(
            self.encoder(torch.addcmul(self._offset, frames, self._scale))
        )
        return logits

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks: dict[str, nn.Module] = {
            f"down {number}": stage for number, stage in enumerate(self.encoder.stages, start=1)
        }
        for number, stage in enumerate(self.decoder.stages, start=1):
            blocks[f"up {number}"] = stage
        blocks["logits"] = self.decoder.output
        return blocks


class GaitSynthesis(nn.Module):
    """Gait Synthesis, Eq. 1 and 2: the edge stays a probability, all else becomes 0 or 1.

    Args:
        structuring_element_px: Side of the square that masks are eroded and dilated with, odd. The
            edge is one pixel less wide, half of it inside the silhouette. From twice the frame's
            size on all is edge and the output is P (5.3).
    """

    def __init__(self, structuring_element_px: int = 3) -> None:
        super().__init__()
        if structuring_element_px < 3 or structuring_element_px % 2 == 0:
            raise ValueError(
                f"structuring_element_px ({structuring_element_px}) must be odd and at least 3"
            )
        self.structuring_element_px = structuring_element_px

    @torch.no_grad()
    def edge_and_interior(
        self, masks: Float[Tensor, "m 1 h w"]
    ) -> tuple[Bool[Tensor, "m 1 h w"], Bool[Tensor, "m 1 h w"]]:
        """M_e and M_i of Eq. 2.

        Args:
            masks: M, of zeros and ones.
        """
        interior = _largest(-masks, self.structuring_element_px) < -0.5  # eroded
        dilated = _largest(masks, self.structuring_element_px) > 0.5
        return interior ^ dilated, interior

    def forward(
        self, probabilities: Float[Tensor, "m 1 h w"], masks: Float[Tensor, "m 1 h w"]
    ) -> Float[Tensor, "m 1 h w"]:
        """M_s of Eq. 1. Only the probabilities of the edge get a gradient.

        Args:
            probabilities: P.
            masks: M, of zeros and ones.
        """
        edge, interior = self.edge_and_interior(masks)
        return probabilities * edge + interior


def _largest(values: Tensor, size_px: int) -> Tensor:
    """Largest value in a square round each pixel; what is outside the image never is it."""
    # One side after the other. A square that already reaches past both borders needs no more.
    rows, columns = (min(size_px // 2, extent - 1) for extent in values.shape[2:])
    values = F.max_pool2d(values, (2 * rows + 1, 1), stride=1, padding=(rows, 0))
    return F.max_pool2d(values, (1, 2 * columns + 1), stride=1, padding=(0, columns))


class Boxes(NamedTuple):
    """Where people are, one box a frame, in pixels from the frame's upper left corner.

    Attributes:
        left: Of the person, the frame's left border is 0. May lie outside the frame.
        right: May lie outside the frame.
        top: Upper end of the first row with a pixel.
        bottom: Lower end of the last row with a pixel.
        has_person: Whether there is a pixel at all.
    """

    left: Float[Tensor, " m"]
    right: Float[Tensor, " m"]
    top: Float[Tensor, " m"]
    bottom: Float[Tensor, " m"]
    has_person: Bool[Tensor, " m"]


class GaitAlign(nn.Module):
    """GaitAlign, Algorithm 1: centre a silhouette, let it fill the height, undo the squashing.

    RoIAlign's bilinear samples of a box lie on a grid, so that their mean in each bin is two
    products with matrices, one for rows and one for columns. These carry no gradient; the
    silhouette does.

    Args:
        output_size_px: (H, W), height and width of the result.
        roi_convention: `paper`, a box that keeps the person's proportions and pixels with their
            centre at one half. `release`, what weights of the authors' release expect.
    """

    def __init__(
        self,
        output_size_px: tuple[int, int] = (64, 44),
        *,
        roi_convention: RoiConvention = "paper",
    ) -> None:
        super().__init__()
        if roi_convention not in ("paper", "release"):
            raise ValueError(f"roi_convention ({roi_convention!r}) must be 'paper' or 'release'")
        if min(output_size_px) < 1:
            raise ValueError(f"output_size_px {output_size_px} must be at least 1x1")
        self.output_size_px = (output_size_px[0], output_size_px[1])
        self.roi_convention: RoiConvention = roi_convention

    @torch.no_grad()
    def boxes(self, masks: Float[Tensor, "m 1 h w"], ratios: Float[Tensor, " m"]) -> Boxes:
        """`bbox` of Algorithm 1.

        Args:
            masks: M, of zeros and ones.
            ratios: r.
        """
        out_height, out_width = self.output_size_px
        height, width = masks.shape[2:]
        masks = masks.squeeze(1)
        ratios = ratios.to(masks)
        filled = masks.amax(dim=2).to(torch.uint8)  # [m, h]
        has_person = filled.amax(dim=1).bool()
        top = filled.argmax(dim=1).to(masks)  # the first of equals
        bottom = height - filled.flip(1).argmax(dim=1).to(masks)
        box_height = bottom - top
        columns = masks.sum(dim=1)
        running = columns.cumsum(dim=1)
        half = running[:, -1:] / 2
        if self.roi_convention == "release":
            centre = (running < half).sum(dim=1).to(masks)
            # The crop's own shape, and what it lacks to W target pixels if it filled the height.
            lacking = (out_width - out_height * ratios).clamp(min=0) * width / (out_height * ratios)
            half_width = (box_height * width / height + lacking) / 2
            pad = out_width // 2
            left = (centre - half_width).clamp(-pad, width + pad)
            right = (centre + half_width).clamp(-pad, width + pad)
        else:
            box_width = box_height * (width / height) * (out_width / out_height) / ratios
            # The median column, and how far into it the median lies.
            column = (running <= half).sum(dim=1, keepdim=True).clamp(max=width - 1)
            here = columns.gather(1, column).clamp(min=1)
            before = running.gather(1, column) - here
            median = (column + (half - before) / here).squeeze(1)
            # Into the middle of a column: see "Box" above.
            centre = median - box_width / out_width / 2
            left, right = centre - box_width / 2, centre + box_width / 2
        return Boxes(left, right, top, bottom, has_person)

    def forward(
        self,
        silhouettes: Float[Tensor, "m 1 h w"],
        masks: Float[Tensor, "m 1 h w"],
        ratios: Float[Tensor, " m"],
    ) -> Float[Tensor, "m 1 r v"]:
        """Align.

        Args:
            silhouettes: s_in; gets a gradient.
            masks: M, of zeros and ones: decides the box and gets none.
            ratios: r.

        Returns:
            s_out; zeros where `masks` is empty.
        """
        boxes = self.boxes(masks, ratios)
        is_aligned = self.roi_convention == "paper"
        rows, columns = roi_weights(
            boxes, silhouettes.shape[2:], self.output_size_px, is_aligned=is_aligned
        )
        rows = rows * boxes.has_person[:, None, None]
        return _resampled(silhouettes, rows, columns)


class WholeCrop(nn.Module):
    """Without GaitAlign (Fig. 6(b)): the whole squashed crop, by RoIAlign to the output's size.

    Args:
        output_size_px: (H, W), height and width of the result.
    """

    def __init__(self, output_size_px: tuple[int, int] = (64, 44)) -> None:
        super().__init__()
        self.output_size_px = (output_size_px[0], output_size_px[1])

    def forward(self, silhouettes: Float[Tensor, "m 1 h w"]) -> Float[Tensor, "m 1 r v"]:
        """Resize."""
        height, width = silhouettes.shape[2:]
        zero = silhouettes.new_zeros(len(silhouettes))
        boxes = Boxes(zero, zero + width, zero, zero + height, torch.ones_like(zero).bool())
        rows, columns = roi_weights(
            boxes, silhouettes.shape[2:], self.output_size_px, is_aligned=True
        )
        return _resampled(silhouettes, rows, columns)


@torch.no_grad()
def roi_weights(
    boxes: Boxes,
    input_size_px: tuple[int, ...],
    output_size_px: tuple[int, int],
    *,
    is_aligned: bool,
) -> tuple[Float[Tensor, "m r h"], Float[Tensor, "m v w"]]:
    """RoIAlign as matrices: each bin's mean of bilinear samples, for rows and for columns.

    He et al., "Mask R-CNN", https://arxiv.org/abs/1703.06870. A bin has as many samples a side as
    it is pixels long, rounded up. Columns outside the image read zero; rows never lie outside.

    Args:
        boxes: Regions, in pixels from the image's corner.
        input_size_px: Height and width of the image.
        output_size_px: Bins in height and width.
        is_aligned: A pixel's centre is half a pixel from its corner. Otherwise no distance, as
            RoIAlign's first implementations had it.

    Returns:
        Weights: `rows @ image @ columns.T` is the result.
    """
    shift = 0.5 if is_aligned else 0.0
    height, width = input_size_px
    rows = _bin_weights(
        boxes.top - shift, boxes.bottom - shift, height, output_size_px[0], repeats_border=True
    )
    columns = _bin_weights(
        boxes.left - shift, boxes.right - shift, width, output_size_px[1], repeats_border=False
    )
    return rows, columns


def _bin_weights(
    start: Float[Tensor, " m"],
    end: Float[Tensor, " m"],
    num_pixels: int,
    num_bins: int,
    *,
    repeats_border: bool,
) -> Float[Tensor, "m b x"]:
    bin_px = (end - start) / num_bins
    # The margin: a box of whole pixels must not gain a sample by rounding.
    num_samples = (bin_px - 1e-4).ceil().clamp(min=1)  # [m]
    pixels = torch.arange(num_pixels, device=start.device, dtype=start.dtype)
    bins = torch.arange(num_bins, device=start.device, dtype=start.dtype)
    weights = start.new_zeros(len(start), num_bins, num_pixels)
    for sample in range(int(num_samples.max())):  # the only wait for a GPU
        inside_bin = (sample + 0.5) / num_samples  # [m], in bins
        positions = start[:, None] + (bins + inside_bin[:, None]) * bin_px[:, None]
        if repeats_border:
            positions = positions.clamp(0, num_pixels - 1)
        hat = (1 - (positions[:, :, None] - pixels).abs_()).clamp_(min=0)
        weights += hat * (sample < num_samples)[:, None, None]
    return weights / num_samples[:, None, None]


def _resampled(
    silhouettes: Float[Tensor, "m 1 h w"],
    rows: Float[Tensor, "m r h"],
    columns: Float[Tensor, "m v w"],
) -> Float[Tensor, "m 1 r v"]:
    # Half precision would round the weights, and the outline with them, to a part of 256.
    with torch.autocast(silhouettes.device.type, enabled=False):
        narrow = torch.bmm(silhouettes.squeeze(1), columns.transpose(1, 2))
        return torch.bmm(rows, narrow).unsqueeze(1)


class GaitEdge(nn.Module):
    """GaitEdge: segmenter, Gait Synthesis, GaitAlign and recogniser as one trainable network.

    The paper trains in three phases: `segmenter` alone, `recogniser` alone, both together with
    the segmenter's first half fixed. The first two use the attributes of that name as networks of
    their own; call `set_encoder_frozen(False)` before the first and `set_encoder_frozen(True)`
    after it.

    Args:
        num_subjects: k, number of subjects in training; what `recogniser` was built for.
        recogniser: Network of this room for frames of one channel. Its `input_size_px` is what
            silhouettes are aligned to.
        segmenter: Any network from `[m, c, h, w]` with values in 0..1 to logits `[m, 1, h, w]`.
            To be frozen by half it must have a module `encoder`.
        structuring_element_px: Side of the square of Eq. 2, odd (Table 4). A larger one makes a
            wider trainable edge: better where it was trained, worse elsewhere.
        synthesis: `edge` is GaitEdge. `whole` passes all of P on, which is GaitGL-E2E.
        mask_source: Silhouette M of Eq. 2 and of the box: `predicted`, the segmenter's own,
            rounded; or `given` with the frames, at test too.
        align: Align silhouettes by GaitAlign. Without it (Fig. 6(b)) the whole squashed crop is
            resized to what the recogniser takes.
        roi_convention: Box and pixel grid of GaitAlign: `paper` keeps proportions exactly,
            `release` is for weights of the authors' release. Unused without `align`.
        freeze_encoder: Fix the segmenter's first half, its batch norms' statistics included.
        in_channels: c, 3 for colours.
        input_size_px: Height and width of a frame, the crop after squashing.

    Attributes:
        num_parts: p, of the recogniser.
        min_frames: Shortest clip that the recogniser takes.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        recogniser: nn.Module,
        segmenter: nn.Module,
        structuring_element_px: int = 3,
        synthesis: Synthesis = "edge",
        mask_source: MaskSource = "predicted",
        align: bool = True,
        roi_convention: RoiConvention = "paper",
        freeze_encoder: bool = True,
        in_channels: int = 3,
        input_size_px: tuple[int, int] = (128, 128),
    ) -> None:
        super().__init__()
        if num_subjects < 1:
            raise ValueError(f"num_subjects ({num_subjects}) must be at least 1")
        if synthesis not in ("edge", "whole"):
            raise ValueError(f"synthesis ({synthesis!r}) must be 'edge' or 'whole'")
        if mask_source not in ("predicted", "given"):
            raise ValueError(f"mask_source ({mask_source!r}) must be 'predicted' or 'given'")
        if synthesis == "whole" and mask_source == "given":
            raise ValueError("mask_source 'given' needs synthesis 'edge': 'whole' uses P alone")
        if in_channels < 1 or min(input_size_px) < 1:
            raise ValueError(
                f"in_channels ({in_channels}) and input_size_px {input_size_px} must be at least 1"
            )
        for name in ("in_channels", "input_size_px", "num_parts", "min_frames"):
            if not hasattr(recogniser, name):
                raise ValueError(f"recogniser ({type(recogniser).__name__}) must have {name!r}")
        taken: Any = recogniser
        if taken.in_channels != 1:
            raise ValueError(
                f"recogniser ({type(recogniser).__name__}) takes {taken.in_channels} channels, "
                "must take 1"
            )
        self.num_subjects = num_subjects
        self.in_channels = in_channels
        self.input_size_px = (input_size_px[0], input_size_px[1])
        self.num_parts = int(taken.num_parts)
        self.min_frames = int(taken.min_frames)
        self.mask_source: MaskSource = mask_source

        self.segmenter = segmenter
        self.synthesis = GaitSynthesis(structuring_element_px) if synthesis == "edge" else None
        self.alignment = (
            GaitAlign(taken.input_size_px, roi_convention=roi_convention)
            if align
            else WholeCrop(taken.input_size_px)
        )
        self.recogniser = recogniser
        self._is_encoder_frozen = False
        self.set_encoder_frozen(freeze_encoder)

    def set_encoder_frozen(self, is_frozen: bool) -> None:
        """Fix the segmenter's first half, or let it learn again.

        Frozen parameters want no gradient, and the half is in evaluation mode whatever `train`
        says, so that no step changes any of its state.

        Args:
            is_frozen: Whether it is fixed from now on.

        Raises:
            ValueError: The segmenter has no module `encoder` to freeze.
        """
        encoder = getattr(self.segmenter, "encoder", None)
        if isinstance(encoder, nn.Module):
            encoder.requires_grad_(not is_frozen)
        elif is_frozen:
            raise ValueError(
                f"freeze_encoder needs a segmenter with a module 'encoder', got a "
                f"{type(self.segmenter).__name__} without"
            )
        self._is_encoder_frozen = is_frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> "GaitEdge":
        """Switch between training and evaluation; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self._is_encoder_frozen:
            encoder = self.segmenter.encoder
            assert isinstance(encoder, nn.Module)
            encoder.eval()
        return self

    def set_mask_seed(self, seed: int) -> None:
        """Say which masks the recogniser's next training passes draw, if it draws any.

        Args:
            seed: As the recogniser's method of that name takes it.
        """
        if hasattr(self.recogniser, "set_mask_seed"):
            recogniser: Any = self.recogniser
            recogniser.set_mask_seed(seed)

    def forward(
        self,
        frames: Float[Tensor, "n c t h w"],
        *,
        ratios: Float[Tensor, "n t"] | None = None,
        masks: Float[Tensor, "n 1 t h w"] | None = None,
    ) -> GaitOutput:
        """Segment, synthesise, align and embed clips of equal length.

        Args:
            frames: Crops of a person, squashed to a square, with values in 0..1. All `t` frames
                count.
            ratios: r, width over height of each crop before it was squashed. Needed with `align`.
            masks: Silhouettes of the frames, 0..1, rounded here. Needed with
                `mask_source="given"` and not looked at otherwise.

        Returns:
            What the recogniser returns, with P before the sigmoid as `mask_logits`.

        Raises:
            ModelInputError: Rank, type, channels, size, length or values do not fit, or an input
                that is needed is missing.
            ValueError: The recogniser was built for another number of subjects.
        """
        name = type(self).__name__
        check_frames(
            frames,
            model=name,
            in_channels=self.in_channels,
            input_size_px=self.input_size_px,
            min_frames=self.min_frames,
        )
        clip_shape = (frames.shape[0], frames.shape[2])
        if isinstance(self.alignment, GaitAlign):
            ratios = _checked_ratios(ratios, clip_shape, model=name)
        if self.mask_source == "given":
            masks = _checked_masks(masks, frames, self.min_frames, model=name)

        logits = self.segmenter(channels_last(frames).transpose(1, 2).flatten(0, 1))
        if logits.shape != (clip_shape[0] * clip_shape[1], 1, *self.input_size_px):
            raise ValueError(
                f"segmenter ({type(self.segmenter).__name__}) gave {tuple(logits.shape)}, must "
                "give one logit a pixel, [m, 1, h, w]"
            )
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        probabilities = logits.sigmoid()
        if masks is not None and self.mask_source == "given":
            person = masks.transpose(1, 2).flatten(0, 1).to(probabilities.dtype).round()
        else:
            person = probabilities.detach().round()
        silhouettes = probabilities
        if self.synthesis is not None:
            silhouettes = self.synthesis(probabilities, person)
        if isinstance(self.alignment, GaitAlign):
            assert ratios is not None
            silhouettes = self.alignment(silhouettes, person, ratios.flatten())
        else:
            silhouettes = self.alignment(silhouettes)

        # One channel: frames become clips again without a copy.
        output: GaitOutput = self.recogniser(silhouettes.unflatten(0, clip_shape).transpose(1, 2))
        for branch in output.branches.values():
            if branch.logits is not None and branch.logits.shape[-1] != self.num_subjects:
                raise ValueError(
                    f"num_subjects ({self.num_subjects}) must be what the recogniser was built "
                    f"for, {branch.logits.shape[-1]}"
                )
        return output._replace(
            # Not P: where that is rounded to 0 or 1 no loss can move it any more.
            mask_logits=logits.unflatten(0, clip_shape).transpose(1, 2)
        )

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks = _stages_of(self.segmenter, "segmenter")
        if self.synthesis is not None:
            blocks["synthesis"] = self.synthesis
        blocks["alignment"] = self.alignment
        return blocks | _stages_of(self.recogniser, "recogniser")

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `segmenter_encoder` (the first half, empty if the segmenter has no `encoder`),
            `segmenter_decoder` (the rest of the segmenter) and `recogniser`.
        """
        encoder = getattr(self.segmenter, "encoder", None)
        first_half = list(encoder.parameters()) if isinstance(encoder, nn.Module) else []
        known = set(map(id, first_half))
        return {
            "segmenter_encoder": first_half,
            "segmenter_decoder": [p for p in self.segmenter.parameters() if id(p) not in known],
            "recogniser": list(self.recogniser.parameters()),
        }


def _stages_of(network: nn.Module, name: str) -> dict[str, nn.Module]:
    if not hasattr(network, "named_stages"):
        return {name: network}
    described: Any = network
    return {f"{name} {stage}": block for stage, block in described.named_stages().items()}


def _checked_ratios(ratios: Tensor | None, clip_shape: tuple[int, int], *, model: str) -> Tensor:
    if ratios is None:
        raise ModelInputError(f"{model}: got no ratios, expected width / height of each crop")
    if tuple(ratios.shape) != clip_shape or not ratios.is_floating_point():
        raise ModelInputError(
            f"{model}: got ratios {ratios.dtype} {tuple(ratios.shape)}, expected floating-point "
            f"[clips, frames] {clip_shape}"
        )
    low, high = torch.stack(torch.aminmax(ratios.detach())).tolist()
    if not (low >= _RATIO_RANGE[0] and high <= _RATIO_RANGE[1]):  # refuses NaN too
        raise ModelInputError(
            f"{model}: got ratios in {low:g}..{high:g}, expected width / height of each crop "
            f"before it was squashed, in {_RATIO_RANGE[0]:g}..{_RATIO_RANGE[1]:g}"
        )
    return ratios


def _checked_masks(masks: Tensor | None, frames: Tensor, min_frames: int, *, model: str) -> Tensor:
    if masks is None:
        raise ModelInputError(f"{model}: got no masks, expected them with mask_source 'given'")
    check_frames(
        masks,
        model=f"{model} masks",
        in_channels=1,
        input_size_px=(frames.shape[3], frames.shape[4]),
        min_frames=min_frames,
    )
    if masks.shape[0] != frames.shape[0] or masks.shape[2] != frames.shape[2]:
        raise ModelInputError(
            f"{model}: got masks {tuple(masks.shape)} for frames {tuple(frames.shape)}, expected "
            "as many clips and frames"
        )
    return masks
