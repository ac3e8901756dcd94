"""GaitSet: Regarding Gait as a Set for Cross-View Gait Recognition.

Hanqing Chao, Yiwei He, Junping Zhang, Jianfeng Feng. AAAI 2019, https://arxiv.org/abs/1811.06186.
A baseline of every paper here, and a host of LMGCS's pooling over frames (its Table X). Written
from the description of the method and facts about public releases.

Symbols (shapes are `[n, c, t, h, w]`)
    F          network applied to each frame            `frame_blocks`
    G          set pooling                              `layers.temporal_max`, or `GSFE`
    MGP        multilayer global pipeline               `set_blocks`
    HPM, S     horizontal pyramid mapping, its scales   `HorizontalPyramid`, `scales`
    f          one vector per strip                     [n, p, c] before `embedding_linear`

Equations, in words
    G          the largest value over all frames, at each place of a map
    HPM        scale s cuts the map into s strips, each pooled to its maximum plus its mean; each
               strip has a fully connected layer of its own
    MGP        the set-pooled map of block 1 runs through blocks of its own; behind each, the
               set-pooled map of the frame block of the same depth is added

Ablations
    LMGCS Table X      `frame_pooling` = max, gsfe with `gsfe_layers` = 1 or 4

Where the paper is silent, or has several versions (* = as public releases do)
    Activation       LeakyReLU 0.01 after each convolution; no norm, no bias anywhere *.
    Pooling          Maximum over 2 x 2 behind each block but the last *.
    Order of parts   The strips of the frame branch, scale by scale and top to bottom, then those
                     of the global pipeline *: 2 x 31 = 62.
    Initial weights  Xavier's for convolutions *. Separate layers start at a tenth of it (a release
                     has 0.09, from taking the parts for a dimension of the kernel).
    Embedding        What the triplet loss sees; there is no classifier.
    GSFE             LMGCS calls it a set pooling and does not say where it stands in GaitSet. Here
                     in place of the last G of the frame branch, behind the pyramid, because it
                     takes strips and not maps; the global pipeline keeps the maximum.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

from typing import Literal

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
    temporal_max,
)
from raygait.models.lmgcs import GSFE
from raygait.models.output import Branch, GaitOutput

FramePooling = Literal["max", "gsfe"]

_NEGATIVE_SLOPE = 0.01


class Block(nn.Module):
    """Two convolutions without bias, each with an activation, then a pooling or none.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Rows and columns of the first convolution, odd; the second has 3 x 3.
        halves: Maximum over 2 x 2 at the end.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 3, halves: bool
    ) -> None:
        super().__init__()
        self.convolution1 = Convolution2d(in_channels, out_channels, kernel)
        self.convolution2 = Convolution2d(out_channels, out_channels, 3)
        self.halves = halves

    def forward(self, features: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d r v"]:
        """Convolve twice; half the rows and columns if it pools."""
        features = F.leaky_relu_(self.convolution1(features), _NEGATIVE_SLOPE)
        features = F.leaky_relu_(self.convolution2(features), _NEGATIVE_SLOPE)
        return F.max_pool2d(features, 2) if self.halves else features


class HorizontalPyramid(nn.Module):
    """HPM without its layers: strips of several heights, each as its maximum plus its mean.

    Args:
        scales: Number of strips at each scale; each must divide the rows of the map.
    """

    def __init__(self, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(PartPooling(count, "both") for count in scales)

    def forward(self, features: Float[Tensor, "m c h w"]) -> Float[Tensor, "m p c"]:
        """Pool, scale by scale, top to bottom."""
        return torch.cat([level(features) for level in self.levels], dim=1)


class GaitSet(nn.Module):
    """GaitSet, on silhouettes or anything else with values in 0..1. Frames have no order.

    Args:
        num_subjects: Number of subjects in training. Unused: there is no classifier.
        channels: Output channels of each block. All but the last block halve rows and columns.
            Time and memory grow with the square.
        scales: S, number of strips at each scale of the pyramid; each must divide the rows of the
            last map. More and larger ones make more parts, seen by both branches.
        embedding_dim: d, length of a part's embedding.
        frame_pooling: How the frame branch forgets time: `max` (the paper) or `gsfe`, the
            transformer of LMGCS (its Table X).
        gsfe_layers: Encoder layers, and as many decoder layers, of `gsfe`; unused by `max`. More
            cost time and weights.
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame.

    Attributes:
        num_parts: p, strips of both branches.
        min_frames: 1, the shortest clip.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        channels: tuple[int, ...] = (32, 64, 128),
        scales: tuple[int, ...] = (16, 8, 4, 2, 1),
        embedding_dim: int = 256,
        frame_pooling: FramePooling = "max",
        gsfe_layers: int = 4,
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if num_subjects < 1:
            raise ValueError(f"num_subjects ({num_subjects}) must be at least 1")
        if len(channels) < 2 or min(*channels, in_channels, embedding_dim) < 1:
            raise ValueError(
                f"channels {channels} must have two entries or more, and they, in_channels "
                f"({in_channels}) and embedding_dim ({embedding_dim}) must be at least 1"
            )
        if frame_pooling not in ("max", "gsfe"):
            raise ValueError(f"frame_pooling ({frame_pooling!r}) must be 'max' or 'gsfe'")
        if gsfe_layers < 1:
            raise ValueError(
                f"gsfe_layers ({gsfe_layers}) must be at least 1; without GSFE, frame_pooling "
                "is 'max'"
            )
        height, width = input_size_px
        shrink = 2 ** (len(channels) - 1)
        if height % shrink or width < shrink:
            raise ValueError(
                f"input_size_px {tuple(input_size_px)} must have a height that {shrink} divides "
                f"and at least {shrink} columns: {len(channels) - 1} blocks halve it"
            )
        if not scales or min(scales) < 1 or any(height // shrink % count for count in scales):
            raise ValueError(
                f"scales {scales} must each divide the {height // shrink} rows of the last map"
            )

        self.in_channels = in_channels
        self.input_size_px = (height, width)
        self.num_parts = 2 * sum(scales)
        self.min_frames = 1

        last = len(channels) - 1
        before = (in_channels, *channels[:-1])
        self.frame_blocks = nn.ModuleList(
            PerFrame(
                Block(
                    before[index],
                    channels[index],
                    kernel=3 if index else 5,
                    halves=index < last,
                )
            )
            for index in range(len(channels))
        )
        self.set_blocks = nn.ModuleList(
            Block(before[index], channels[index], halves=index < last)
            for index in range(1, len(channels))
        )
        self.frame_pyramid = HorizontalPyramid(scales)
        self.set_pyramid = HorizontalPyramid(scales)
        self.gsfe: GSFE | None = None
        if frame_pooling == "gsfe":
            self.gsfe = GSFE(channels[-1], (gsfe_layers, gsfe_layers))
        self.embedding_linear = SeparateLinear(
            self.num_parts, channels[-1], embedding_dim, gain=0.1
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1. All `t` frames count, their order does not.

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
        features = self.frame_blocks[0](channels_last(frames))
        collected = temporal_max(features)  # the global pipeline, [n, c, h, w]
        for frame_block, set_block in zip(self.frame_blocks[1:], self.set_blocks, strict=True):
            features = frame_block(features)
            of_frames = temporal_max(features)
            collected = set_block(collected) + of_frames
        if self.gsfe is None:
            frame_parts = self.frame_pyramid(of_frames)
        else:
            num_clips = features.shape[0]
            strips = self.frame_pyramid(features.transpose(1, 2).flatten(0, 1))  # [n * t, p, c]
            strips = strips.unflatten(0, (num_clips, -1)).permute(0, 3, 1, 2)  # [n, c, t, p]
            frame_parts = self.gsfe(strips).transpose(1, 2)
        parts = torch.cat((frame_parts, self.set_pyramid(collected)), dim=1)
        embedding = self.embedding_linear(parts)
        return GaitOutput(embedding, {"main": Branch(embedding, None)})

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks: dict[str, nn.Module] = {"frame block 1": self.frame_blocks[0]}
        for number, (frame_block, set_block) in enumerate(
            zip(self.frame_blocks[1:], self.set_blocks, strict=True), start=2
        ):
            blocks[f"frame block {number}"] = frame_block
            blocks[f"set block {number}"] = set_block
        blocks["frame pyramid"] = self.frame_pyramid
        if self.gsfe is not None:
            blocks["gsfe"] = self.gsfe
        blocks["set pyramid"] = self.set_pyramid
        blocks["embedding linear"] = self.embedding_linear
        return blocks

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone` (every convolution) and `head` (the separate layers, and GSFE).
        """
        head: list[nn.Module] = [self.embedding_linear]
        if self.gsfe is not None:
            head.append(self.gsfe)
        return {
            "backbone": [
                parameter
                for blocks in (self.frame_blocks, self.set_blocks)
                for parameter in blocks.parameters()
            ],
            "head": [parameter for block in head for parameter in block.parameters()],
        }
