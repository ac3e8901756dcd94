"""GaitBase: the baseline of "OpenGait: Revisiting Gait Recognition Toward Better Practicality".

Chao Fan, Junhao Liang, Chuanfu Shen, Saihui Hou, Yongzhen Huang, Shiqi Yu. CVPR 2023,
https://arxiv.org/abs/2211.06597. Plain blocks only: a residual network on each frame, the maximum
over time, horizontal parts, one linear layer and one batch-norm neck a part. Papers since compare
with it. Written from the shapes and the order of layers of released weights.

Symbols
    X          silhouettes                              `frames`     [n, c, t, h, w]
    F          map of one frame                         [n, c, t, r, v] after `stages`
    f_j        vector of part j                         [n, p, c] after `part_pooling`

Structure
    ResNet-like backbone  `stem`, `stages` of `layers.ResidualBlock2d`, each frame by itself
    Temporal pooling      `layers.temporal_max`
    Horizontal pyramid    `part_pooling`: mean + maximum of each of p strips
    Separate FC           `embedding_linear`
    BNNecks               `neck`, `layers.BatchNormNeck`

Ablations
    None of its tables is re-run here. `channels`, `num_blocks` and `strides` change the backbone.

Where the paper is silent (* = as the authors' release does)
    Stem             3 x 3, stride 1, no pooling, batch norm, ReLU *.
    Backbone         One basic block a stage, channels 64, 128, 256, 512, strides 1, 2, 2, 1 *:
                     a frame of 64 x 44 ends as 16 x 11, one of 128 x 88 as 32 x 22.
    Parts            16 strips whatever the input's size *.
    Triplet          On the vectors before the norm *.
    Logits           Cosines after it *; the cross-entropy needs a scale (the release: 16).
    Embedding        The vectors before the norm *. Some released weights are only as good as
                     printed with those after it: `embedding="after_norm"`.
    Initial weights  torch's own; Xavier's, part by part, for the separate layers.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

from collections import OrderedDict
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from raygait.models.layers import (
    BatchNormNeck,
    Convolution2d,
    PartPooling,
    PerFrame,
    ResidualBlock2d,
    SeparateLinear,
    channels_last,
    check_frames,
    temporal_max,
)
from raygait.models.output import Branch, GaitOutput


class GaitBase(nn.Module):
    """GaitBase, on silhouettes or anything else with values in 0..1.

    Args:
        num_subjects: k, number of subjects in training; length of the logits.
        channels: Output channels of each stage; the stem has those of the first. Time and memory
            grow with the square.
        num_blocks: Number of residual blocks in each stage, at least 1.
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
        channels: tuple[int, ...] = (64, 128, 256, 512),
        num_blocks: tuple[int, ...] = (1, 1, 1, 1),
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
        for after, count, stride in zip(channels, num_blocks, strides, strict=True):
            blocks = [ResidualBlock2d(before, after, stride=stride)]
            blocks += [ResidualBlock2d(after, after) for _ in range(count - 1)]
            self.stages.append(PerFrame(nn.Sequential(*blocks)))
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
