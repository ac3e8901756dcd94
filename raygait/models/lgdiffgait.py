"""LGDiffGait: Local and Global Difference Learning for Gait Recognition with Silhouettes.

Anonymous authors, under double-blind review; the newest references are of 2024. Written from the
paper; no code of it is public. What it inherits is from DeepGaitV2,
https://arxiv.org/abs/2303.03301.

Symbols
    G          clip                                     `frames`   [n, c, t, h, w]
    F_in       input of a block                         `features` [n, c, t, h, w]
    F_out      what the main module makes of it         `main`     [n, d, t, r, v]
    F_l,diff   local difference                         `local_difference(features)`
    F_g,diff   global difference                        `global_difference(features)`
    F_diff     either, after its convolution            `difference` [n, d, t, r, v]
    F_main     F_out, as Eq. 4 and 5 call it            `main`
    C          base channel, 64                         `channels[0]`
    HPP        mean plus maximum of each strip          `part_pooling`
    BNNeck     batch norm and cosine logits             `neck`

Equations
    1 `ConvolutionModule`;  2 `local_difference`, `LocalDifferenceModule`;  3 `global_difference`,
    `GlobalDifferenceModule`;  4, 5 `TemporalAlignmentModule`.  6, 7 and 8 are losses.

Ablations
    Table 5    `local_difference`, `global_difference`, `temporal_alignment`: False False False,
               True False False, False True False, True True False, and the default
    Row 1      What remains is the stem and, in each block, one convolution with batch norm and
               ReLU (Eq. 1) plus the shortcut: a plain 3-D residual network. It is not DeepGaitV2,
               whose blocks have two convolutions (`convs_per_module=2`), whose first stage is
               2-D and which has an activation after the sum; Table 4 gives that one 72.8, not 71.2.
    Sec. 4.3   `num_blocks`: `casiab_plan`, `large_plan`

Where the paper is silent, or says two things (* = as DeepGaitV2, which section 4.3 follows)
    Stem             One Eq. 1 of C channels ("a 3D convolution", section 3.1).
    Stages           Channels C, 2C, 4C, 8C *; rows and columns halve in the first block of stages
                     2 and 3 *, time never *. All four stages are LGDiff blocks (Fig. 2).
    Eq. 1            One convolution is all of it: `convs_per_module=1`.
    Eq. 2            "A stride of 3 x 1 x 1" contradicts "without changing the temporal length":
                     stride 1, first and last frame repeated. The abstract has the difference "of
                     adjacent frames", Eq. 2 that to the window's mean. The mean over three frames
                     makes it a third of the step into a frame minus the step out of it, so it is
                     computed from those steps: a static clip gives 0, not a rounding error.
    Place            The differences are of F_in, before the block's stride (Eq. 2, 3). Their
                     convolutions take channels and stride from F_in to F_out as the main one does.
    Weights          Nothing is shared: section 3.2.3 says so of the global module alone, and
                     "shares the same architecture" of the local one is about the architecture.
    TAM              One for each difference ("after each"), no norm or activation between Eq. 4
                     and 5. No bias anywhere: a norm follows.
    End of a block   Aligned local + aligned global + shortcut. F_main is inside each aligned term
                     (Eq. 5), so it counts twice; with one difference, once. Without TAM the terms
                     are F_main, the local and the global features, each once. No activation
                     after the sum: none is printed.
    Shortcut         The input itself, or its 1 x 1 x 1 convolution and batch norm where size or
                     channels change *.
    Temporal pooling Maximum *.
    HPP              16 strips of one scale *, not the pyramid of the paper that is cited for it.
    Head             A separate layer for each part, 512 to 256 *, then `layers.BatchNormNeck`. The
                     triplet features are what enters the norm *. So is the embedding *;
                     `embedding="after_norm"` takes what leaves it, scaled to length 1.
    Logits           Eq. 7 prints plain products; a BNNeck's are cosines here, unscaled.
    Initial weights  A tenth of Xavier's for the separate layers: DeepGaitV2's come to about that,
                     and an eighth-width network trains as with all of it. Elsewhere torch's own.
    Unequal lengths  Eq. 3 and the temporal pooling see every frame: no padding in time.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

from itertools import pairwise
from typing import Literal, TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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

Embedding = Literal["before_norm", "after_norm"]


_CHANNELS = (64, 128, 256, 512)


class Plan(TypedDict):
    """The shape of a network, as keyword arguments of `LGDiffGait`."""

    channels: tuple[int, ...]
    num_blocks: tuple[int, ...]


def casiab_plan(*, width: float = 1.0) -> Plan:
    """One block a stage, the plan of section 4.3 for walks in a hall; the default of `LGDiffGait`.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `LGDiffGait(num_subjects, **plan)`.
    """
    return Plan(channels=scaled(_CHANNELS, width), num_blocks=(1, 1, 1, 1))


def large_plan(*, width: float = 1.0) -> Plan:
    """Seven blocks, the plan of section 4.3 for walks in the wild.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `LGDiffGait(num_subjects, **plan)`.
    """
    return Plan(channels=scaled(_CHANNELS, width), num_blocks=(1, 3, 2, 1))


def local_difference(features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c t h w"]:
    """Subtract from each frame the mean of itself and its two neighbours, Eq. 2.

    Args:
        features: Feature maps of whole clips. Beyond its ends a clip repeats its outermost frames.

    Returns:
        The differences, 0 where nothing moves or everything moves evenly.
    """
    # x - (before + x + after) / 3 = ((x - before) - (after - x)) / 3; beyond the ends a step is 0.
    steps = features.diff(dim=2)
    into, out_of = F.pad(steps, (0, 0, 0, 0, 1, 0)), F.pad(steps, (0, 0, 0, 0, 0, 1))
    return (into - out_of) / 3


def global_difference(features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c t h w"]:
    """Subtract from each frame the mean of all frames, Eq. 3.

    Args:
        features: Feature maps of whole clips, not padded in time.

    Returns:
        The differences; over the frames of a clip they add up to 0.
    """
    return features - features.mean(dim=2, keepdim=True)


class ConvolutionModule(nn.Module):
    """Convolution, batch norm and ReLU, Eq. 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        spatial_stride: Step of the first convolution in rows and columns.
        num_convolutions: How many times Eq. 1 is applied.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_stride: int = 1,
        num_convolutions: int = 1,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            Convolution3d(
                out_channels if position else in_channels,
                out_channels,
                (3, 3, 3),
                stride=(1, 1, 1) if position else (1, spatial_stride, spatial_stride),
                padding=(1, 1, 1),
            )
            for position in range(num_convolutions)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(out_channels) for _ in range(num_convolutions))

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Convolve; as many frames leave as come."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = F.relu_(norm(convolution(features)))
        return features


class LocalDifferenceModule(nn.Module):
    """LDM, section 3.2.2: the local difference, through a convolution module of its own.

    Args:
        convolution: What the difference goes through.
    """

    def __init__(self, convolution: ConvolutionModule) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Subtract (Eq. 2) and convolve."""
        convolved: Tensor = self.convolution(local_difference(features))
        return convolved


class GlobalDifferenceModule(nn.Module):
    """GDM, section 3.2.3: the global difference, through a convolution module of its own.

    Args:
        convolution: What the difference goes through.
    """

    def __init__(self, convolution: ConvolutionModule) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Subtract (Eq. 3) and convolve."""
        convolved: Tensor = self.convolution(global_difference(features))
        return convolved


class TemporalAlignmentModule(nn.Module):
    """TAM, Eq. 4 and 5: the main features, corrected by what they and a difference say together.

    Args:
        channels: Channels of the main features, of the difference and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = Convolution3d(2 * channels, channels, (1, 1, 1))
        self.convolution = Convolution3d(channels, channels, (3, 3, 3), padding=(1, 1, 1))
        self.norm = nn.BatchNorm3d(channels)

    def forward(
        self, main: Float[Tensor, "n c t h w"], difference: Float[Tensor, "n c t h w"]
    ) -> Float[Tensor, "n c t h w"]:
        """Align the difference with the main features."""
        reduced = self.reduction(torch.cat((main, difference), dim=1))  # Eq. 4
        # In place: the gradients of a batch norm and of a sum need nothing of their results.
        return F.relu_(self.norm(self.convolution(reduced)).add_(main))  # Eq. 5


class LocalGlobalDifferenceBlock(nn.Module):
    """LGDiff block, section 3.2 and Fig. 3: main module, two differences, two alignments, shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        spatial_stride: Step in rows and columns of the main module, the differences' convolutions
            and the shortcut.
        convs_per_module: Convolutions in the main module and in each difference module.
        local_difference: LDM exists.
        global_difference: GDM exists.
        temporal_alignment: A TAM follows each difference module.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_stride: int = 1,
        convs_per_module: int = 1,
        local_difference: bool = True,
        global_difference: bool = True,
        temporal_alignment: bool = True,
    ) -> None:
        super().__init__()

        def convolution() -> ConvolutionModule:
            return ConvolutionModule(
                in_channels,
                out_channels,
                spatial_stride=spatial_stride,
                num_convolutions=convs_per_module,
            )

        self.main = convolution()
        self.local_difference: LocalDifferenceModule | None = None
        self.local_alignment: TemporalAlignmentModule | None = None
        if local_difference:
            self.local_difference = LocalDifferenceModule(convolution())
            if temporal_alignment:
                self.local_alignment = TemporalAlignmentModule(out_channels)
        self.global_difference: GlobalDifferenceModule | None = None
        self.global_alignment: TemporalAlignmentModule | None = None
        if global_difference:
            self.global_difference = GlobalDifferenceModule(convolution())
            if temporal_alignment:
                self.global_alignment = TemporalAlignmentModule(out_channels)
        self.shortcut: nn.Sequential | None = None
        if spatial_stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                Convolution3d(
                    in_channels,
                    out_channels,
                    (1, 1, 1),
                    stride=(1, spatial_stride, spatial_stride),
                ),
                nn.BatchNorm3d(out_channels),
            )

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Add aligned differences, or main features and plain differences, to the shortcut."""
        main = self.main(features)
        terms: list[Tensor] = []
        for difference, alignment in (
            (self.local_difference, self.local_alignment),
            (self.global_difference, self.global_alignment),
        ):
            if difference is not None:
                term = difference(features)
                terms.append(term if alignment is None else alignment(main, term))
        if self.local_alignment is None and self.global_alignment is None:
            terms.append(main)  # otherwise it is inside each aligned term
        total: Tensor = features if self.shortcut is None else self.shortcut(features)
        total = total + terms[0]
        for term in terms[1:]:
            total.add_(term)
        return total


class LGDiffGait(nn.Module):
    """LGDiffGait, on silhouettes or anything else with values in 0..1.

    Args:
        num_subjects: k, number of subjects in training; length of the logits.
        channels: Output channels of each stage; the first are also the stem's (C). Time and memory
            grow with the square.
        num_blocks: Number of LGDiff blocks in each stage, at least 1. More make it deeper.
        spatial_strides: Step in rows and columns of each stage's first block: 1 keeps the size, 2
            halves it and costs a quarter.
        local_difference: LDM, each frame against the mean of it and its neighbours (Eq. 2,
            Table 5).
        global_difference: GDM, each frame against the mean of the clip (Eq. 3, Table 5).
        temporal_alignment: TAM, differences corrected by the main features (Eq. 4 and 5, Table 5).
            Needs a difference.
        convs_per_module: Convolutions in the main module and in each difference module, at least
            1. Eq. 1 prints one; DeepGaitV2's blocks have two.
        num_parts: p, number of horizontal strips; must divide the rows of the last map.
        embedding_dim: d, length of a part's embedding.
        embedding: What is compared at test: the features that the triplet loss sees
            (`before_norm`), or the normed ones of length 1 that the logits are cosines of
            (`after_norm`).
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame.

    Attributes:
        min_frames: 1; a single frame has differences of 0.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        num_blocks: tuple[int, ...] = (1, 1, 1, 1),
        spatial_strides: tuple[int, ...] = (1, 2, 2, 1),
        local_difference: bool = True,
        global_difference: bool = True,
        temporal_alignment: bool = True,
        convs_per_module: int = 1,
        num_parts: int = 16,
        embedding_dim: int = 256,
        embedding: Embedding = "before_norm",
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if not len(channels) == len(num_blocks) == len(spatial_strides) > 0:
            raise ValueError(
                f"channels {channels}, num_blocks {num_blocks} and spatial_strides "
                f"{spatial_strides} must have one entry per stage each"
            )
        at_least_1: dict[str, int | tuple[int, ...]] = {
            "num_subjects": num_subjects,
            "channels": channels,
            "num_blocks": num_blocks,
            "spatial_strides": spatial_strides,
            "convs_per_module": convs_per_module,
            "num_parts": num_parts,
            "embedding_dim": embedding_dim,
            "in_channels": in_channels,
            "input_size_px": input_size_px,
        }
        for name, value in at_least_1.items():
            if (value if isinstance(value, int) else min(value)) < 1:
                raise ValueError(f"{name} ({value}) must be at least 1")
        if temporal_alignment and not (local_difference or global_difference):
            raise ValueError(
                f"temporal_alignment ({temporal_alignment}) aligns differences, and both "
                "local_difference and global_difference are False; set it to False too"
            )
        if embedding not in ("before_norm", "after_norm"):
            raise ValueError(f"embedding ({embedding!r}) must be 'before_norm' or 'after_norm'")
        height, width = input_size_px
        rows = height
        for stride in spatial_strides:
            rows = (rows - 1) // stride + 1
        if rows % num_parts:
            raise ValueError(
                f"num_parts ({num_parts}) must divide the {rows} rows that input_size_px "
                f"({input_size_px}) and spatial_strides {spatial_strides} leave"
            )

        self.in_channels = in_channels
        self.input_size_px = (height, width)
        self.num_parts = num_parts
        self.min_frames = 1
        self.embedding = embedding

        self.stem = ConvolutionModule(in_channels, channels[0])
        self.stages = nn.ModuleList()
        for (before, after), count, stride in zip(
            pairwise((channels[0], *channels)), num_blocks, spatial_strides, strict=True
        ):
            self.stages.append(
                nn.Sequential(
                    *(
                        LocalGlobalDifferenceBlock(
                            after if position else before,
                            after,
                            spatial_stride=1 if position else stride,
                            convs_per_module=convs_per_module,
                            local_difference=local_difference,
                            global_difference=global_difference,
                            temporal_alignment=temporal_alignment,
                        )
                        for position in range(count)
                    )
                )
            )
        self.part_pooling = PartPooling(num_parts, "both")
        self.embedding_linear = SeparateLinear(num_parts, channels[-1], embedding_dim, gain=0.1)
        self.neck = BatchNormNeck(num_parts, embedding_dim, num_subjects)

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1. All `t` frames count: a batch of clips of unequal
                length must be split by length, not padded. In training at least two clips, or the
                norm of the head has no variance.

        Returns:
            The embedding that `embedding` names, the triplet features, which are those before the
            norm, and the cosines.

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
        parts = self.part_pooling(temporal_max(features))  # [n, p, c]
        mapped = self.embedding_linear(parts)
        normed, logits = self.neck(mapped)
        embedding = mapped if self.embedding == "before_norm" else normed
        return GaitOutput(embedding, {"main": Branch(mapped, logits)})

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks: dict[str, nn.Module] = {"stem": self.stem}
        for number, stage in enumerate(self.stages, start=1):
            assert isinstance(stage, nn.Sequential)
            for position, block in enumerate(stage, start=1):
                blocks[f"stage {number} block {position}"] = block
        blocks["part pooling"] = self.part_pooling
        blocks["embedding linear"] = self.embedding_linear
        return blocks

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone` (every convolution and its norm) and `head` (the separate layers, the norm
            and the class weights).
        """
        return {
            "backbone": [*self.stem.parameters(), *self.stages.parameters()],
            "head": [*self.embedding_linear.parameters(), *self.neck.parameters()],
        }
