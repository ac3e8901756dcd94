"""GaitPart: Temporal Part-based Model for Gait Recognition.

Chao Fan, Yunjie Peng, Chunshui Cao, Xu Liu, Saihui Hou, Jiannan Chi, Yongzhen Huang, Qing Li,
Zhiqiang He. CVPR 2020. A baseline of every paper here. Written from the description of the method
and facts about public releases.

Symbols (shapes are `[n, c, t, h, w]`)
    FPFE       network applied to each frame            `frame_blocks`
    FConv, p   focal convolution, its strips            `FocalBlock`, `num_strips`
    HP         horizontal pooling                       `part_pooling`, per frame
    MCM, s     micro-motion capture of a part, squeeze  `MicroMotion`, `squeeze`
    TFA        all MCMs, then the maximum over time     `TemporalFeatureAggregation`

Equations, in words
    FConv      the map is cut into p strips of equal height; one convolution runs over each, padded
               on its own; p = 1 is a plain convolution
    HP         each of the parts of each frame is its maximum plus its mean
    MCM        at each frame: (mean + maximum of the frames around it) x sigmoid(two 1-D
               convolutions over time), weights of its own for each part
    TFA        two MCMs, of 3 and of 5 frames, are added; the maximum over all frames remains

Where the paper is silent, or has several versions (* = as public releases do)
    Activation       LeakyReLU 0.01 after each convolution of FPFE and between the two of an MCM;
                     no norm, no bias anywhere *.
    Large plan       A fourth block behind the third, of 256 channels, no pooling between them; 8
                     strips in the last two blocks, none in the first two *.
    MCM              Of 3 frames: convolutions of 3 and 1 frames. Of 5: of 3 and 3, which together
                     see 5. The first has c / s channels, s = 4.
    Ends of a clip   Convolutions and means see zeros beyond them, and the mean divides by 3 or 5
                     even there *; the maximum sees nothing beyond.
    Initial weights  Xavier's for convolutions *; of each part by itself. The last layers start at a
                     tenth of it, as in `gaitset`.
    Embedding        What the triplet loss sees; there is no classifier.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

from typing import TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.models.layers import (
    Convolution2d,
    PartPooling,
    PerFrame,
    SeparateLinear,
    channels_last,
    check_frames,
)
from raygait.models.output import Branch, GaitOutput

_NEGATIVE_SLOPE = 0.01


class Plan(TypedDict):
    """The shape of a network, as keyword arguments of `GaitPart`."""

    channels: tuple[int, ...]
    num_strips: tuple[int, ...]
    num_halvings: int
    embedding_dim: int


def casiab_plan(*, width: float = 1.0) -> Plan:
    """Three blocks, for 74 subjects; the default of `GaitPart`.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `GaitPart(num_subjects, **plan)`.
    """
    return Plan(
        channels=_scaled((32, 64, 128), width),
        num_strips=(1, 4, 8),
        num_halvings=2,
        embedding_dim=_scaled((128,), width)[0],
    )


def large_plan(*, width: float = 1.0) -> Plan:
    """Four blocks, for thousands of subjects.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `GaitPart(num_subjects, **plan)`.
    """
    return Plan(
        channels=_scaled((32, 64, 128, 256), width),
        num_strips=(1, 1, 8, 8),
        num_halvings=2,
        embedding_dim=_scaled((256,), width)[0],
    )


def _scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    # Multiples of 4, the default of `squeeze`.
    return tuple(4 * max(1, round(count * width / 4)) for count in channels)


class FocalBlock(nn.Module):
    """Two focal convolutions, each with an activation, then a pooling or none.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Rows and columns of the first convolution, odd; the second has 3 x 3.
        num_strips: p, strips that do not see each other. 1 is a plain convolution.
        halves: Maximum over 2 x 2 at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        num_strips: int = 1,
        halves: bool = False,
    ) -> None:
        super().__init__()
        self.convolution1 = Convolution2d(in_channels, out_channels, kernel)
        self.convolution2 = Convolution2d(out_channels, out_channels, 3)
        self.num_strips = num_strips
        self.halves = halves

    def forward(self, features: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d r v"]:
        """Convolve twice; half the rows and columns if it pools."""
        # Both convolutions cut at the same rows: the strips stay apart, as images of a larger
        # batch, until both are done.
        strips = torch.cat(features.chunk(self.num_strips, dim=2), dim=0)
        strips = F.leaky_relu_(self.convolution1(strips), _NEGATIVE_SLOPE)
        strips = F.leaky_relu_(self.convolution2(strips), _NEGATIVE_SLOPE)
        features = torch.cat(strips.chunk(self.num_strips, dim=0), dim=2)
        return F.max_pool2d(features, 2) if self.halves else features


class MicroMotion(nn.Module):
    """MCM: what a part looks like around each frame, weighted by how telling it is.

    Args:
        num_parts: Parts, each with weights of its own.
        channels: c, length of a part's vector.
        squeeze: s, factor by which the first convolution narrows; must divide `channels`.
        window: Frames of the mean and the maximum, odd.
        kernel: Frames of the second convolution, odd; the first has 3.
    """

    def __init__(
        self, num_parts: int, channels: int, *, squeeze: int, window: int, kernel: int
    ) -> None:
        super().__init__()
        self.window = window
        narrow = channels // squeeze
        # One group a part: weights are stored part by part, [p * d, c, frames].
        self.squeeze = nn.Conv1d(
            num_parts * channels, num_parts * narrow, 3, padding=1, groups=num_parts, bias=False
        )
        self.expand = nn.Conv1d(
            num_parts * narrow,
            num_parts * channels,
            kernel,
            padding=kernel // 2,
            groups=num_parts,
            bias=False,
        )
        for convolution in (self.squeeze, self.expand):
            for weight in convolution.weight.chunk(num_parts):
                nn.init.xavier_uniform_(weight)

    def forward(self, parts: Float[Tensor, "n e t"]) -> Float[Tensor, "n e t"]:
        """Summarise the frames around each, `e = p * c` features, part by part."""
        narrow = F.leaky_relu_(self.squeeze(parts), _NEGATIVE_SLOPE)
        attention: Tensor = self.expand(narrow).sigmoid()
        mean = F.avg_pool1d(parts, self.window, 1, self.window // 2)
        largest = F.max_pool1d(parts, self.window, 1, self.window // 2)
        return attention * (mean + largest)


class TemporalFeatureAggregation(nn.Module):
    """TFA: short and longer micro-motions of each part, the strongest of the clip.

    Args:
        num_parts: p, parts with weights of their own.
        channels: c, length of a part's vector.
        squeeze: s of the micro-motions.
    """

    def __init__(self, num_parts: int, channels: int, *, squeeze: int) -> None:
        super().__init__()
        self.short = MicroMotion(num_parts, channels, squeeze=squeeze, window=3, kernel=1)
        self.long = MicroMotion(num_parts, channels, squeeze=squeeze, window=5, kernel=3)

    def forward(self, parts: Float[Tensor, "n t p c"]) -> Float[Tensor, "n p c"]:
        """Make one vector of each part."""
        features = parts.flatten(2).transpose(1, 2).contiguous()  # [n, p * c, t]
        strongest: Tensor = (self.short(features) + self.long(features)).max(dim=2).values
        return strongest.view(parts.shape[0], *parts.shape[2:])


class GaitPart(nn.Module):
    """GaitPart, on silhouettes or anything else with values in 0..1.

    Args:
        num_subjects: Number of subjects in training. Unused: there is no classifier.
        channels: Output channels of each block. Time and memory grow with the square.
        num_strips: p of the focal convolutions of each block; must divide the rows that the block
            sees. Higher ones see less of the body at once.
        num_halvings: The first this many blocks halve rows and columns.
        num_parts: Horizontal parts, each with micro-motions of its own; must divide the rows of
            the last map.
        squeeze: s, narrowing inside a micro-motion; must divide the last channels. Higher has
            fewer weights.
        embedding_dim: d, length of a part's embedding.
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame.

    Attributes:
        min_frames: 1, the shortest clip.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        channels: tuple[int, ...] = (32, 64, 128),
        num_strips: tuple[int, ...] = (1, 4, 8),
        num_halvings: int = 2,
        num_parts: int = 16,
        squeeze: int = 4,
        embedding_dim: int = 128,
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if num_subjects < 1:
            raise ValueError(f"num_subjects ({num_subjects}) must be at least 1")
        if not len(channels) == len(num_strips) > 0:
            raise ValueError(
                f"channels {channels} and num_strips {num_strips} must have one entry per block"
            )
        if min(*channels, *num_strips, num_parts, squeeze, embedding_dim, in_channels) < 1:
            raise ValueError(
                f"channels {channels}, num_strips {num_strips}, num_parts ({num_parts}), squeeze "
                f"({squeeze}), embedding_dim ({embedding_dim}) and in_channels ({in_channels}) "
                "must be at least 1"
            )
        if not 0 <= num_halvings <= len(channels):
            raise ValueError(
                f"num_halvings ({num_halvings}) must be between 0 and the {len(channels)} blocks"
            )
        if channels[-1] % squeeze:
            raise ValueError(f"squeeze ({squeeze}) must divide the last of channels {channels}")
        height, width = input_size_px
        if height % 2**num_halvings or width < 2**num_halvings:
            raise ValueError(
                f"input_size_px {tuple(input_size_px)} must have a height that {2**num_halvings} "
                f"divides and at least as many columns: {num_halvings} blocks halve it"
            )
        for index, strips in enumerate(num_strips):
            rows = height >> min(index, num_halvings)
            if rows % strips:
                raise ValueError(
                    f"num_strips {num_strips}: {strips} must divide the {rows} rows of block "
                    f"{index + 1}"
                )
        if (height >> num_halvings) % num_parts:
            raise ValueError(
                f"num_parts ({num_parts}) must divide the {height >> num_halvings} rows of the "
                "last map"
            )

        self.in_channels = in_channels
        self.input_size_px = (height, width)
        self.num_parts = num_parts
        self.min_frames = 1

        before = (in_channels, *channels[:-1])
        self.frame_blocks = nn.ModuleList(
            PerFrame(
                FocalBlock(
                    before[index],
                    channels[index],
                    kernel=3 if index else 5,
                    num_strips=num_strips[index],
                    halves=index < num_halvings,
                )
            )
            for index in range(len(channels))
        )
        self.part_pooling = PartPooling(num_parts, "both")
        self.temporal_aggregation = TemporalFeatureAggregation(
            num_parts, channels[-1], squeeze=squeeze
        )
        self.embedding_linear = SeparateLinear(num_parts, channels[-1], embedding_dim, gain=0.1)
        for module in self.frame_blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1, consecutive frames. All `t` of them count: a batch of
                clips of unequal length must be split by length, not padded.

        Returns:
            The embedding, which is what the triplet loss sees; no logits.

        Raises:
            ModelInputError: Rank, type, channels, size, length or values do not fit.
        """
        check_frames(
            frames,
            model=type(self).__name__,
            in_channels=self.in_channels,
            input_size_px=self.input_size_px,
            min_frames=self.min_frames,
        )
        features = channels_last(frames)
        for block in self.frame_blocks:
            features = block(features)
        parts = self.part_pooling(features.transpose(1, 2).flatten(0, 1))  # [n * t, p, c]
        parts = parts.unflatten(0, (features.shape[0], -1))
        embedding = self.embedding_linear(self.temporal_aggregation(parts))
        return GaitOutput(embedding, {"main": Branch(embedding, None)})

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks: dict[str, nn.Module] = {
            f"block {number}": block for number, block in enumerate(self.frame_blocks, start=1)
        }
        blocks["part pooling"] = self.part_pooling
        blocks["temporal aggregation"] = self.temporal_aggregation
        blocks["embedding linear"] = self.embedding_linear
        return blocks

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone` (the convolutions of each frame) and `head` (everything over time and after).
        """
        return {
            "backbone": list(self.frame_blocks.parameters()),
            "head": [
                *self.temporal_aggregation.parameters(),
                *self.embedding_linear.parameters(),
            ],
        }
