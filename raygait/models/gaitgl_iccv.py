"""GaitGL with fixed parts: the network of ICCV 2021, from which the journal's (`gaitgl`) grew.

Beibei Lin, Shunli Zhang, Xin Yu. Gait Recognition via Effective Global-Local Feature
Representation and Local Temporal Aggregation. ICCV 2021, https://arxiv.org/abs/2011.01461.
The journal paper calls it "our preliminary"; GaitEdge recognises with it. Written from the two
papers, and from facts about public releases where the papers say nothing.

Symbols (`gaitgl` explains them; shapes are `[n, c, t, h, w]`)
    n          strips of the local branch               `num_strips`
    a, b       kernel and stride of LTA                 (a, 1, 1) and b = a, `lta_frames`
    p          power of GeM                             `spatial_mapping.generalized_mean.power`

Layers, in order
    stem                  plain 3 x 3 x 3 convolutions, one per entry of `stem_channels`
    temporal aggregation  `gaitgl.LocalTemporalAggregation`: 30 frames become 10
    layers                `gaitgl.GlobalLocalLayer` with fixed parts: the global and the local map
                          add up ("GLConvA"), in the last layer they are concatenated, global rows
                          above local rows ("GLConvB")
    spatial pooling       maximum over 2 x 2, once, after layer number `pool_after_layer`
    head                  maximum over time, GeM of each row, separate layers, norm, logits

Differences from the journal's network
    A stem; LTA directly behind it, pixel by pixel and not as a stage's pooling; strips, no masks;
    one spatial pooling; fewer channels.

Where the paper is silent, or has several versions (* = as public releases do)
    Large plan       Two convolutions in the stem, two layers each of 64, 128, 256 channels, two
                     strips *. Another release has one of the stem and one of 64 channels less:
                     `stem_channels=(32,)`, `channels=(64, 128, 128, 256, 256)`,
                     `pool_after_layer=1`, `num_strips=2`.
    Strips           8 in the plan for 74 subjects, 2 in the large one *; each is padded with zeros
                     of its own, all share weights.
    Activation       LeakyReLU 0.01 after each convolution *, before the branches are added.
    Norm             None in the backbone *.
    GeM              One power for all rows, 6.5 at first, floor 1e-6 *.
    Head             `shared_norm` *: one batch norm whose statistics and weights all parts share,
                     and a second set of separate layers for the logits; the embedding and the
                     triplet features are what leaves the norm. `bnneck` *, for GREW: statistics of
                     its own for each feature of each part, logits are cosines; the embedding and
                     the triplet features are what enters the norm.
    Logits           Without bias, unscaled and not smoothed for 74 subjects *.
    Initial weights  Xavier's for convolutions *, a tenth of it in the head, as in `gaitgl`.
    Short clips      Refused here. A release repeats those of one or two frames; so can the data.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

from typing import Literal, TypedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.models.gaitgl import GlobalLocalLayer, LocalTemporalAggregation
from raygait.models.layers import (
    BatchNormNeck,
    Convolution3d,
    PartPooling,
    SeparateLinear,
    channels_last,
    check_frames,
    scaled,
    temporal_max,
)
from raygait.models.output import Branch, GaitOutput

Head = Literal["shared_norm", "bnneck"]

_NEGATIVE_SLOPE = 0.01


class Plan(TypedDict):
    """The shape of a network, as keyword arguments of `GaitGLFixed`."""

    stem_channels: tuple[int, ...]
    channels: tuple[int, ...]
    pool_after_layer: int
    num_strips: int


def casiab_plan(*, width: float = 1.0) -> Plan:
    """One convolution and three layers, for 74 subjects; the default of `GaitGLFixed`.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `GaitGLFixed(num_subjects, **plan)`.
    """
    return Plan(
        stem_channels=scaled((32,), width),
        channels=scaled((64, 128, 128), width),
        pool_after_layer=1,
        num_strips=8,
    )


def large_plan(*, width: float = 1.0) -> Plan:
    """Two convolutions and six layers, for thousands of subjects.

    Args:
        width: Factor on the number of channels, 1.0 is the release's.

    Returns:
        Arguments for `GaitGLFixed(num_subjects, **plan)`.
    """
    return Plan(
        stem_channels=scaled((32, 32), width),
        channels=scaled((64, 64, 128, 128, 256, 256), width),
        pool_after_layer=2,
        num_strips=2,
    )


class Stem(nn.Module):
    """Plain 3 x 3 x 3 convolutions, each with an activation.

    Args:
        in_channels: Channels of the input.
        channels: Output channels of each convolution.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        before = (in_channels, *channels[:-1])
        self.convolutions = nn.ModuleList(
            Convolution3d(i, o, (3, 3, 3), padding=(1, 1, 1))
            for i, o in zip(before, channels, strict=True)
        )

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t h w"]:
        """Convolve."""
        for convolution in self.convolutions:
            features = F.leaky_relu_(convolution(features), _NEGATIVE_SLOPE)
        return features


class GaitGLFixed(nn.Module):
    """GaitGL of ICCV 2021: fixed horizontal strips instead of the journal's random masks.

    Args:
        num_subjects: k, number of subjects in training; length of the logits.
        stem_channels: Output channels of each plain convolution before the temporal aggregation.
        channels: Output channels of each global-local layer. The last is also d, the length of a
            part's embedding. Time and memory grow with the square.
        pool_after_layer: Number of the layer, counted from 1, whose maps are halved in rows and
            columns. A later one costs more and keeps no more parts.
        num_strips: n, strips of the local branch; must divide the rows of every layer. More strips
            see less of the body at once.
        lta_frames: Frames that the temporal aggregation merges into one (a = b). Higher is
            cheaper and asks for longer clips.
        head: `shared_norm` embeds after one batch norm shared by all parts; `bnneck` embeds before
            a batch norm of all features, behind which logits are cosines (use an identity scale
            above 1 for training; a release has 1).
        embedding: What is compared at test: a part's vector `before_norm` or `after_norm`, of the
            head's norm; `None` is what the triplet loss sees. After that of `bnneck` it is scaled
            to length 1.
        gem_power: Initial power p of the pooling of a row, > 0; higher starts nearer to the
            maximum.
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame. The number of parts follows from the height.

    Attributes:
        num_parts: p, rows of the last map, global ones above local ones.
        min_frames: Shortest clip that leaves at least one frame after the temporal aggregation.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        stem_channels: tuple[int, ...] = (32,),
        channels: tuple[int, ...] = (64, 128, 128),
        pool_after_layer: int = 1,
        num_strips: int = 8,
        lta_frames: int = 3,
        head: Head = "shared_norm",
        embedding: Literal["before_norm", "after_norm"] | None = None,
        gem_power: float = 6.5,
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if num_subjects < 1:
            raise ValueError(f"num_subjects ({num_subjects}) must be at least 1")
        if not stem_channels or not channels or min(*stem_channels, *channels, in_channels) < 1:
            raise ValueError(
                f"stem_channels {stem_channels} and channels {channels} must not be empty, and "
                f"they and in_channels ({in_channels}) must be at least 1"
            )
        if not 1 <= pool_after_layer <= len(channels):
            raise ValueError(
                f"pool_after_layer ({pool_after_layer}) must be one of the {len(channels)} layers"
            )
        if min(num_strips, lta_frames) < 1:
            raise ValueError(
                f"num_strips ({num_strips}) and lta_frames ({lta_frames}) must be at least 1"
            )
        if head not in ("shared_norm", "bnneck"):
            raise ValueError(f"head ({head!r}) must be 'shared_norm' or 'bnneck'")
        if embedding not in ("before_norm", "after_norm", None):
            raise ValueError(
                f"embedding ({embedding!r}) must be 'before_norm', 'after_norm' or None"
            )
        height, width = input_size_px
        if height % 2 or min(height, width) < 2:
            raise ValueError(
                f"input_size_px {tuple(input_size_px)} must have an even height and two columns"
            )
        # The smallest map any layer sees; what divides its rows divides those of the others.
        least_rows = height if pool_after_layer == len(channels) else height // 2
        if least_rows % num_strips:
            raise ValueError(
                f"num_strips ({num_strips}) must divide the {least_rows} rows that the layers see"
            )

        self.in_channels = in_channels
        self.input_size_px = (height, width)
        # Two maps of half the height above each other.
        self.num_parts = height
        self.min_frames = lta_frames
        self.pool_after_layer = pool_after_layer
        self.embedding = embedding

        self.stem = Stem(in_channels, tuple(stem_channels))
        self.temporal_aggregation = LocalTemporalAggregation(
            stem_channels[-1], kernel=(lta_frames, 1, 1), stride=lta_frames, norm=False
        )
        before = (stem_channels[-1], *channels[:-1])
        self.layers = nn.ModuleList(
            GlobalLocalLayer(
                before[index],
                channels[index],
                fixed_parts=num_strips,
                join="concat" if index == len(channels) - 1 else "sum",
            )
            for index in range(len(channels))
        )
        self.spatial_pooling = nn.MaxPool3d((1, 2, 2))

        dim = channels[-1]
        self.spatial_mapping = PartPooling(self.num_parts, "gem", gem_power=gem_power)
        self.embedding_linear = SeparateLinear(self.num_parts, dim, dim, gain=0.1)
        self.embedding_norm: nn.BatchNorm1d | None = None
        self.identity_linear: SeparateLinear | None = None
        self.neck: BatchNormNeck | None = None
        if head == "bnneck":
            self.neck = BatchNormNeck(self.num_parts, dim, num_subjects)
        else:
            self.embedding_norm = nn.BatchNorm1d(dim)
            self.identity_linear = SeparateLinear(self.num_parts, dim, num_subjects, gain=0.1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1. All `t` frames count: a batch of clips of unequal
                length must be split by length, not padded.

        Returns:
            The embedding of the switch `embedding`, the triplet features of the head, and the
            logits.

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
        features = self.temporal_aggregation(self.stem(channels_last(frames)))
        for number, layer in enumerate(self.layers, start=1):
            features = layer(features)
            if number == self.pool_after_layer:
                features = self.spatial_pooling(features)
        mapped = self.embedding_linear(self.spatial_mapping(temporal_max(features)))  # [n, p, d]
        if self.neck is not None:
            normed, logits = self.neck(mapped)
            embedding = normed if self.embedding == "after_norm" else mapped
            return GaitOutput(embedding, {"main": Branch(mapped, logits)})
        assert self.embedding_norm is not None
        assert self.identity_linear is not None
        # Flattened to [n * p, d]: the norm knows nothing of parts.
        normed = self.embedding_norm(mapped.flatten(0, 1)).unflatten(0, mapped.shape[:2])
        embedding = mapped if self.embedding == "before_norm" else normed
        return GaitOutput(embedding, {"main": Branch(normed, self.identity_linear(normed))})

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks: dict[str, nn.Module] = {
            "stem": self.stem,
            "temporal aggregation": self.temporal_aggregation,
        }
        for number, layer in enumerate(self.layers, start=1):
            blocks[f"layer {number}"] = layer
            if number == self.pool_after_layer:
                blocks["spatial pooling"] = self.spatial_pooling
        blocks["spatial mapping"] = self.spatial_mapping
        blocks["embedding linear"] = self.embedding_linear
        return blocks

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone` (every convolution) and `head` (everything after the maximum over time).
        """
        backbone = [
            parameter
            for block in (self.stem, self.temporal_aggregation, self.layers)
            for parameter in block.parameters()
        ]
        in_backbone = {id(parameter) for parameter in backbone}
        head = [parameter for parameter in self.parameters() if id(parameter) not in in_backbone]
        return {"backbone": backbone, "head": head}
