"""DeepGaitV2: Exploring Deep Models for Practical Gait Recognition.

Chao Fan, Saihui Hou, Yongzhen Huang, Shiqi Yu. https://arxiv.org/abs/2303.03301. GaitBase with
temporal convolutions in its last three stages, and deeper: full ones, or ones factored into space
and time. LGDiffGait builds on it. Written from the shapes and the order of layers of released
weights.

Symbols
    X          silhouettes                              `frames`     [n, c, t, h, w]
    f_j        vector of part j                         [n, p, c] after `part_pooling`
    2D, 3D, P3D                                         `mode`
    depth      10, 14, 18, 22, 30 layers                2 x (sum of `num_blocks` + 1)

Structure
    Stem, stage 1         a 3 x 3 convolution and a stage of `layers.ResidualBlock2d`, each frame by
                          itself in every mode
    Stages 2-4            `layers.ResidualBlock2d`, `ResidualBlock3d` or `PseudoResidualBlock3d`
    Temporal pooling      `layers.temporal_max`
    Horizontal pyramid    `part_pooling`: mean + maximum of each of p strips
    Separate FC, BNNecks  `embedding_linear`, `neck`

Ablations
    Kind of convolution   `mode`
    Depth                 `num_blocks` = (1, 1, 1, 1) is 10 layers, (1, 4, 4, 1) is 22
    Width                 `channels`

Where the paper is silent (* = as the authors' release does)
    Time             Never strided, padded with zeros *: every stage keeps t frames.
    P3D block        Convolution in space, norm, ReLU; plus its own convolution in time with norm,
                     ReLU; convolution in space, norm; plus the shortcut, ReLU *.
    Shortcut         1 x 1 (x 1) convolution with norm where size or channels change *.
    Strides          1, 2, 2, 1 in rows and columns: 64 x 44 ends as 16 x 11 *.
    Parts            16 strips whatever the input's size *.
    Triplet          On the vectors before the norm *.
    Logits           Cosines after it *; the cross-entropy needs a scale (the release: 16).
    Embedding        The vectors before the norm *. Some released weights are only as good as
                     printed with those after it: `embedding="after_norm"`.
    Depth            The release has 22 layers for the two large sets from the wild and 10 for all
                     others. Default 22.
    Initial weights  torch's own; Xavier's, part by part, for the separate layers.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.models.layers import (
    BatchNormNeck,
    Convolution2d,
    Convolution3d,
    PartPooling,
    PerFrame,
    ResidualBlock2d,
    SeparateLinear,
    channels_last,
    check_frames,
    temporal_max,
)
from raygait.models.output import Branch, GaitOutput

Mode = Literal["2d", "3d", "p3d"]


class ResidualBlock3d(nn.Module):
    """Two 3 x 3 x 3 convolutions with batch norm beside a shortcut (mode 3D).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Step of the first convolution in rows and columns; time is not strided.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolution1 = Convolution3d(
            in_channels, out_channels, (3, 3, 3), stride=(1, stride, stride), padding=(1, 1, 1)
        )
        self.norm1 = nn.BatchNorm3d(out_channels)
        self.convolution2 = Convolution3d(out_channels, out_channels, (3, 3, 3), padding=(1, 1, 1))
        self.norm2 = nn.BatchNorm3d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Convolve twice and add the shortcut."""
        shortcut = features if self.shortcut is None else self.shortcut(features)
        features = F.relu_(self.norm1(self.convolution1(features)))
        features = self.norm2(self.convolution2(features))
        return F.relu_(features.add_(shortcut))  # in place: as in `ResidualBlock2d`


class PseudoResidualBlock3d(nn.Module):
    """A convolution in space, one in time beside its input, and one in space (mode P3D).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Step of the first convolution in rows and columns; time is not strided.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolution1 = PerFrame(Convolution2d(in_channels, out_channels, 3, stride=stride))
        self.norm1 = nn.BatchNorm3d(out_channels)
        self.temporal_convolution = Convolution3d(
            out_channels, out_channels, (3, 1, 1), padding=(1, 0, 0)
        )
        self.temporal_norm = nn.BatchNorm3d(out_channels)
        self.convolution2 = PerFrame(Convolution2d(out_channels, out_channels, 3))
        self.norm2 = nn.BatchNorm3d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Convolve in space, time and space, and add both shortcuts."""
        shortcut = features if self.shortcut is None else self.shortcut(features)
        features = F.relu_(self.norm1(self.convolution1(features)))
        over_time = self.temporal_norm(self.temporal_convolution(features))
        features = F.relu_(over_time.add_(features))
        features = self.norm2(self.convolution2(features))
        return F.relu_(features.add_(shortcut))  # in place: as in `ResidualBlock2d`


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        Convolution3d(in_channels, out_channels, (1, 1, 1), stride=(1, stride, stride)),
        nn.BatchNorm3d(out_channels),
    )


class DeepGaitV2(nn.Module):
    """DeepGaitV2, on silhouettes or anything else with values in 0..1.

    Args:
        num_subjects: k, number of subjects in training; length of the logits.
        mode: Convolutions of all stages but the first: `2d` sees each frame by itself and is
            GaitBase, `3d` has kernels of 3 x 3 x 3, `p3d` (pseudo-3D) has 3 x 3 in space and 3 in
            time, with half of the weights of `3d`.
        channels: Output channels of each stage; the stem has those of the first. Time and memory
            grow with the square.
        num_blocks: Number of residual blocks in each stage, at least 1. (1, 1, 1, 1) is the
            10-layer network, (1, 4, 4, 1) the 22-layer one.
        strides: Step in rows and columns of the first block of each stage.
        num_parts: p, horizontal strips of the last map, each with layers of its own. Must divide
            the rows of that map.
        embedding_dim: d, length of a part's embedding.
        embedding: What is compared at test: a part's vector `before_norm`, which is what the
            triplet loss sees, or `after_norm`, scaled to length 1, whose cosines with the class
            weights are the logits.
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame.

    Attributes:
        num_parts: p.
        min_frames: 1, any clip will do.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        mode: Mode = "p3d",
        channels: tuple[int, ...] = (64, 128, 256, 512),
        num_blocks: tuple[int, ...] = (1, 4, 4, 1),
        strides: tuple[int, ...] = (1, 2, 2, 1),
        num_parts: int = 16,
        embedding_dim: int = 256,
        embedding: Literal["before_norm", "after_norm"] = "before_norm",
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if num_subjects < 1:
            raise ValueError(f"num_subjects ({num_subjects}) must be at least 1")
        if mode not in ("2d", "3d", "p3d"):
            raise ValueError(f"mode ({mode!r}) must be '2d', '3d' or 'p3d'")
        if not len(channels) == len(num_blocks) == len(strides) > 0:
            raise ValueError(
                f"channels {channels}, num_blocks {num_blocks} and strides {strides} must have "
                "one entry per stage each"
            )
        if min(*channels, *num_blocks, *strides, in_channels, num_parts, embedding_dim) < 1:
            raise ValueError(
                f"channels {channels}, num_blocks {num_blocks}, strides {strides}, in_channels "
                f"({in_channels}), num_parts ({num_parts}) and embedding_dim ({embedding_dim}) "
                "must be at least 1"
            )
        if embedding not in ("before_norm", "after_norm"):
            raise ValueError(f"embedding ({embedding!r}) must be 'before_norm' or 'after_norm'")
        height, width = input_size_px
        if min(height, width) < 1:
            raise ValueError(f"input_size_px {input_size_px} must be at least 1x1")
        rows = height
        for stride in strides:
            rows = (rows + stride - 1) // stride
        if rows % num_parts:
            raise ValueError(
                f"num_parts ({num_parts}) must divide the {rows} rows that input_size_px "
                f"{input_size_px} leaves after strides {strides}"
            )
        self.in_channels = in_channels
        self.input_size_px = (height, width)
        self.num_parts = num_parts
        self.min_frames = 1
        self.embedding = embedding

        self.stem = PerFrame(
            nn.Sequential(
                OrderedDict(
                    convolution=Convolution2d(in_channels, channels[0], 3),
                    norm=nn.BatchNorm2d(channels[0]),
                    activation=nn.ReLU(inplace=True),
                )
            )
        )
        before = channels[0]
        self.stages = nn.ModuleList()
        for index, (after, count, stride) in enumerate(
            zip(channels, num_blocks, strides, strict=True)
        ):
            kind = "2d" if index == 0 else mode
            blocks = [_block(kind, before, after, stride)]
            blocks += [_block(kind, after, after, 1) for _ in range(count - 1)]
            stage = nn.Sequential(*blocks)
            self.stages.append(PerFrame(stage) if kind == "2d" else stage)
            before = after
        self.part_pooling = PartPooling(num_parts, "both")
        self.embedding_linear = SeparateLinear(num_parts, channels[-1], embedding_dim)
        self.neck = BatchNormNeck(num_parts, embedding_dim, num_subjects)

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1. All `t` frames count: a batch of clips of unequal
                length must be split by length, not padded.

        Returns:
            The embedding of the switch `embedding`, triplet features before the norm, and cosines
            as logits.

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
        features = self.stem(channels_last(frames))
        for stage in self.stages:
            features = stage(features)
        parts = self.part_pooling(temporal_max(features))
        vectors = self.embedding_linear(parts)  # [n, p, d]
        normed, logits = self.neck(vectors)
        embedding = vectors if self.embedding == "before_norm" else normed
        return GaitOutput(embedding, {"main": Branch(vectors, logits)})

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        return {
            "stem": self.stem,
            **{f"stage {number}": stage for number, stage in enumerate(self.stages, start=1)},
            "part pooling": self.part_pooling,
            "embedding linear": self.embedding_linear,
            "neck": self.neck,
        }

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone` (stem and stages) and `head` (everything after the temporal pooling).
        """
        return {
            "backbone": [*self.stem.parameters(), *self.stages.parameters()],
            "head": [*self.embedding_linear.parameters(), *self.neck.parameters()],
        }


def _block(mode: Mode, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if mode == "2d":
        return ResidualBlock2d(in_channels, out_channels, stride=stride)
    if mode == "3d":
        return ResidualBlock3d(in_channels, out_channels, stride=stride)
    return PseudoResidualBlock3d(in_channels, out_channels, stride=stride)
