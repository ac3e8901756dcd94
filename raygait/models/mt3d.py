"""MT3D: Gait Recognition with Multiple-Temporal-Scale 3D Convolutional Neural Network.

Beibei Lin, Shunli Zhang, Feng Bao, ACM Multimedia 2020. **A reconstruction**: its authors have
released no code, and this file is not written from the paper. It follows the abstract (two temporal
scales, a local transformation that makes intervals of frames, a 3-D basic block, a pooling over
frames), a public summary of it (two equal branches; the small scale is added to the large one
several times; mean and maximum of horizontal strips) and the layout of a rebuild by others (facts
only; it carries no licence). It is here because LMGCS puts its GSFE on it (Table X). Numbers it
reaches are those of this reconstruction.

Symbols
    small, large  temporal scales                     `small`, `large` of each layer
    LT            local transformation                `LocalTransformation`
    B3D           3-D basic block                     `BasicBlock3d`

Ablations
    LMGCS Table X   `frame_pooling` = max, gsfe

What is reconstructed
    Layers           1: a convolution; its transformed result begins the large scale. 2: a basic
                     block and a pooling over 2 x 2 pixels. 3: two basic blocks. After 2 and 3 the
                     transformed small scale is added to the large one.
    Channels         32, 64, 128, as other networks of the time.
    B3D              The sum of three convolutions of the same input, 3 x 3 x 3, 1 x 3 x 3 and
                     3 x 1 x 1, each with its activation.
    LT               A convolution 3 x 1 x 1 with stride 3, as the LTA of the same first author's
                     GaitGL, so that an interval is three frames without overlap.
    Activation       Leaky ReLU 0.01.
    Frame pooling    Maximum over the frames of a map; strips after it. The GSFE needs strips
                     before; one for both scales, as LMGCS has one for all branches.
    Head             Mean plus maximum of each strip, 32 strips a scale, separate layers, the two
                     scales side by side as parts. Triplets alone: no logits unless `classifier`.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.models.layers import (
    Convolution3d,
    PartPooling,
    SeparateLinear,
    channels_last,
    check_frames,
    temporal_max,
)
from raygait.models.lmgcs import GSFE, HorizontalPyramid
from raygait.models.output import Branch, GaitOutput

_NEGATIVE_SLOPE = 0.01


class LocalTransformation(nn.Module):
    """Merge each interval of frames into one, pixel by pixel.

    Args:
        channels: Channels in and out.
        interval: Frames of an interval; a remainder at the end is left out.
    """

    def __init__(self, channels: int, interval: int) -> None:
        super().__init__()
        self.convolution = Convolution3d(
            channels, channels, (interval, 1, 1), stride=(interval, 1, 1)
        )

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c s h w"]:
        """Merge."""
        return F.leaky_relu_(self.convolution(features), _NEGATIVE_SLOPE)


class BasicBlock3d(nn.Module):
    """B3D: one convolution of space and time beside one of space and one of time.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.space_time = Convolution3d(in_channels, out_channels, (3, 3, 3), padding=(1, 1, 1))
        self.space = Convolution3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1))
        self.time = Convolution3d(in_channels, out_channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t h w"]:
        """Convolve three times and add."""
        result = F.leaky_relu_(self.space_time(features), _NEGATIVE_SLOPE)
        result = result + F.leaky_relu_(self.space(features), _NEGATIVE_SLOPE)
        return result + F.leaky_relu_(self.time(features), _NEGATIVE_SLOPE)


class MT3D(nn.Module):
    """MT3D as reconstructed here, on silhouettes or anything else with values in 0..1.

    Args:
        num_subjects: k, number of subjects in training; length of the logits, if there are any.
        channels: Channels of the three layers. Time and memory grow with the square.
        interval: Frames that the large temporal scale takes as one.
        num_strips: Horizontal strips of the last map, half as high as the frame; must divide its
            rows.
        frame_pooling: How the frames of a scale become one: `max`, or `gsfe`, the transformer of
            LMGCS (its Table X).
        gsfe_layers: Layers of the GSFE's encoder, and of its decoder; unused by `max`.
        gsfe_heads: Attention heads of the GSFE; must divide the last of `channels`.
        gsfe_width: Width of the GSFE's feed-forward networks.
        embedding_dim: d, length of a part's embedding.
        classifier: Also give logits, for an identity loss.
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame.

    Attributes:
        num_parts: p, strips of the small scale, then those of the large one.
        min_frames: Shortest clip, one interval.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        channels: tuple[int, int, int] = (32, 64, 128),
        interval: int = 3,
        num_strips: int = 32,
        frame_pooling: Literal["max", "gsfe"] = "max",
        gsfe_layers: int = 4,
        gsfe_heads: int = 8,
        gsfe_width: int = 2048,
        embedding_dim: int = 256,
        classifier: bool = False,
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if min(num_subjects, interval) < 1:
            raise ValueError(
                f"num_subjects ({num_subjects}) and interval ({interval}) must be at least 1"
            )
        if len(channels) != 3 or min(*channels, in_channels, embedding_dim) < 1:
            raise ValueError(
                f"channels {channels} must be three, they, in_channels ({in_channels}) and "
                f"embedding_dim ({embedding_dim}) at least 1"
            )
        height, width = input_size_px
        if height % 2 or height < 2 or width < 2:
            raise ValueError(
                f"input_size_px {tuple(input_size_px)} must have an even number of rows and at "
                "least two columns: a pooling halves them"
            )
        if num_strips < 1 or height // 2 % num_strips:
            raise ValueError(
                f"num_strips ({num_strips}) must divide the {height // 2} rows of the last map"
            )
        if frame_pooling not in ("max", "gsfe"):
            raise ValueError(f"frame_pooling ({frame_pooling!r}) must be 'max' or 'gsfe'")
        self.in_channels = in_channels
        self.input_size_px = (height, width)
        self.num_parts = 2 * num_strips
        self.min_frames = interval

        first, second, third = channels
        self.convolution = Convolution3d(in_channels, first, (3, 3, 3), padding=(1, 1, 1))
        self.pooling = nn.MaxPool3d((1, 2, 2))
        self.small_blocks = _blocks(first, second, third)
        self.large_blocks = _blocks(first, second, third)
        self.transformations = nn.ModuleList(
            LocalTransformation(count, interval) for count in (first, second, third)
        )
        self.strips: PartPooling | HorizontalPyramid = PartPooling(num_strips, "both")
        self.gsfe: GSFE | None = None
        if frame_pooling == "gsfe":
            self.strips = HorizontalPyramid(num_strips, "sum")
            self.gsfe = GSFE(
                third,
                (gsfe_layers, gsfe_layers),
                num_heads=gsfe_heads,
                feed_forward_width=gsfe_width,
            )
        self.embedding_linear = SeparateLinear(self.num_parts, third, embedding_dim)
        self.identity_linear: SeparateLinear | None = None
        if classifier:
            self.identity_linear = SeparateLinear(
                self.num_parts, embedding_dim, num_subjects, gain=0.1
            )

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1. All `t` frames count, but for a remainder of the
                last interval at the large scale: a batch of clips of unequal length must be split
                by length, not padded.

        Returns:
            Embedding, which is the triplet features, and logits if there is a classifier.

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
        small = F.leaky_relu_(self.convolution(channels_last(frames)), _NEGATIVE_SLOPE)
        large = self.transformations[0](small)
        small = self.pooling(self.small_blocks[0](small))
        large = self.pooling(self.large_blocks[0](large)) + self.transformations[1](small)
        small = self.small_blocks[2](self.small_blocks[1](small))
        large = self.large_blocks[2](self.large_blocks[1](large))
        large = large + self.transformations[2](small)
        parts = torch.cat([self._pooled(small), self._pooled(large)], dim=1)
        embedding = self.embedding_linear(parts)
        logits = None if self.identity_linear is None else self.identity_linear(embedding)
        return GaitOutput(embedding, {"main": Branch(embedding, logits)})

    def _pooled(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n p c"]:
        if self.gsfe is not None:
            pooled: Tensor = self.gsfe(self.strips(features)).transpose(1, 2)
        else:
            pooled = self.strips(temporal_max(features))
        return pooled

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        return {
            "convolution": self.convolution,
            "transformation 1": self.transformations[0],
            "small block 1": self.small_blocks[0],
            "large block 1": self.large_blocks[0],
            "transformation 2": self.transformations[1],
            "small block 2": self.small_blocks[1],
            "small block 3": self.small_blocks[2],
            "large block 2": self.large_blocks[1],
            "large block 3": self.large_blocks[2],
            "transformation 3": self.transformations[2],
            "embedding linear": self.embedding_linear,
        }

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone`, with `frame_pooling` = `gsfe` also `gsfe`, and `head` (everything after).
        """
        blocks: dict[str, list[nn.Module | None]] = {
            "backbone": [
                self.convolution,
                self.small_blocks,
                self.large_blocks,
                self.transformations,
            ],
            "gsfe": [self.gsfe],
            "head": [self.embedding_linear, self.identity_linear],
        }
        groups = {
            name: [
                parameter
                for block in members
                if block is not None
                for parameter in block.parameters()
            ]
            for name, members in blocks.items()
        }
        return {name: parameters for name, parameters in groups.items() if parameters}


def _blocks(first: int, second: int, third: int) -> nn.ModuleList:
    return nn.ModuleList(
        [BasicBlock3d(first, second), BasicBlock3d(second, third), BasicBlock3d(third, third)]
    )
