"""GaitGL: Learning Discriminative Global-Local Feature Representations for Gait Recognition.

Beibei Lin, Shunli Zhang, Ming Wang, Lincheng Li, Xin Yu. Journal version,
https://arxiv.org/abs/2208.01380, of the network of ICCV 2021. Written from the paper.

Symbols
    X          input of a layer                         `features`   [n, c, t, h, w]
    M~p, M~q   pair of complementary masks              `mask`, 1 - `mask`   [h, w]
    d          dropping ratio                           `drop_ratio`
    a, b       kernel and temporal stride of LTA        `lta_kernel`, `lta_stride`
    k          kernel of every other convolution        3
    n          parts of the fixed partition             `num_fixed_parts`
    p          power of GeM                             `spatial_mapping.generalized_mean.power`
    alpha,beta max and mean of the spatial mapping      `spatial_mapping`
    Y_STFM     one vector per row of the last map       [n, p, d] before `embedding_norm`

Equations
    1 `LocalTemporalAggregation`;  2, 3 `GlobalLocalLayer`, `join`;  4 its `global_convolution`;
    5, 6 `GlobalLocalLayer._local`;  7 `layers.temporal_max`;  8, 9, 10 `layers.PartPooling`;
    11 `layers.SeparateLinear`.  12 and 13 are losses.  Masks of section 3.3.2: `draw_mask`.

Ablations
    Table 5 rows 1, 2  `branches="global"`, `"local"`; the others `"both"`
    Table 5 rows 3-8   `mask_strategy` = fixed_parts, part_horizontal, part_vertical,
                       strip_horizontal, strip_vertical, pixel
    Table 6            `spatial_mapping` = max, avg, both, gem
    Table 7            `pooling` of stages 1 and 2 = sp sp, sp lta, lta sp, lta lta; stage 3 `None`
    Fig. 4             `drop_ratio`

Where the paper is silent, or says two things (* = as the authors' ICCV release does)
    Stem             None: stage 1 is a global-local layer on the input (section 4.2, channels 64,
                     128, 128). The ICCV network begins with a plain convolution.
    Place of LTA     First pooling layer (3.1), not the second (3.2): Table 7 calls "LTA, SP" its
                     best row, which has the accuracy of Table 1.
    LTA              a = b = 3 (the release: 3 x 1 x 1, stride 3), no padding in time, a // 2 in
                     space, so Eq. 1's length is floor((T - a) / b) + 1 (the printed bracket has
                     lost its bar). An activation follows, as after every other convolution.
    Large plan       Two pooling layers and one LTA over four stages: SP, LTA, SP, none.
    Eq. 2 or 3       The layers add (Eq. 2), the last one concatenates (Eq. 3) *: 64 rows from 32.
                     3.1's shapes would have it add: `join_last="sum"`. A single branch has nothing
                     to join and gives 32 rows.
    Activation       LeakyReLU 0.01 * inside each term of Eq. 2, 3 and 6. Eq. 6 alone is linear: the
                     two masked convolutions would add up to one without masks.
    Sums of Eq. 6    "For every channel and frame": one [h, w] mask for all of them.
    Masks            One pair per layer and forward pass, for all clips: no index of a clip is
                     printed. A part is floor(d H) rows (the printed set holds one more), strips and
                     pixels are counted the same way; never fewer than one.
    Masks at test    Not random: the same share, evenly spread (a part: the middle one), so that
                     the embedding of a clip is one thing.
    d                Not printed for the headline; Fig. 4 is flat over 0.1-0.5. Here 0.3.
    Fixed parts      Eq. 5 with n = 8 *, each strip padded with zeros of its own.
    Weights          Shared by the two convolutions of Eq. 6 (Fig. 3), not with the global one.
    Norm             None in the backbone *. SGD with rate 0.1 (section 4.2) may need
                     `backbone_norm`. It sees both maps of Eq. 6 as one batch.
    GeM              One power for all rows *; needs positive values: floor 1e-6 *.
    Spatial pooling  Maximum over 2 x 2 *.
    Head             Eq. 11, one batch norm whose statistics and weights all parts share *, then a
                     second set of separate layers, without bias, for the logits. The triplet
                     features and the embedding are both what leaves the norm.
    Initial weights  A tenth of Xavier's for Eq. 11 and the logits; torch's own elsewhere.
    Table 6          Its caption swaps "Max" and "Avg"; the columns are right.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

import math
from typing import Literal, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.models.layers import (
    Convolution3d,
    PartPooling,
    SeparateLinear,
    SpatialMapping,
    channels_last,
    check_frames,
    scaled,
    temporal_max,
)
from raygait.models.output import Branch, GaitOutput

Branches = Literal["both", "global", "local"]
Join = Literal["concat", "sum"]
Pooling = Literal["lta", "sp"] | None
MaskStrategy = Literal[
    "fixed_parts",
    "part_horizontal",
    "part_vertical",
    "strip_horizontal",
    "strip_vertical",
    "pixel",
]

_NEGATIVE_SLOPE = 0.01
_MASK_STRATEGIES = (
    "fixed_parts",
    "part_horizontal",
    "part_vertical",
    "strip_horizontal",
    "strip_vertical",
    "pixel",
)


class Plan(TypedDict):
    """The shape of a network, as keyword arguments of `GaitGL`."""

    channels: tuple[int, ...]
    num_layers: tuple[int, ...]
    pooling: tuple[Pooling, ...]


def casiab_plan(*, width: float = 1.0) -> Plan:
    """Three stages, the plan of section 4.2 for 74 subjects; the default of `GaitGL`.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `GaitGL(num_subjects, **plan)`.
    """
    return Plan(
        channels=scaled((64, 128, 128), width),
        num_layers=(1, 1, 2),
        pooling=("lta", "sp", None),
    )


def large_plan(*, width: float = 1.0) -> Plan:
    """Four stages, the plan of section 4.2 for thousands of subjects.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `GaitGL(num_subjects, **plan)`.
    """
    return Plan(
        channels=scaled((64, 128, 256, 512), width),
        num_layers=(2, 2, 2, 4),
        pooling=("sp", "lta", "sp", None),
    )


def draw_mask(
    strategy: MaskStrategy,
    height: int,
    width: int,
    drop_ratio: float,
    generator: torch.Generator | None,
) -> Float[Tensor, "h w"]:
    """Draw the mask M~p of section 3.3.2; its partner M~q is `1 - mask`.

    Args:
        strategy: Any but `fixed_parts`, which has no masks.
        height: Rows of the map.
        width: Columns of the map.
        drop_ratio: d, share of rows, columns or pixels that are 1 here and 0 in the partner.
        generator: Source of randomness, on the CPU. `None` gives the evenly spread mask that is
            used at test.

    Returns:
        Zeros and ones, on the CPU.

    Raises:
        ValueError: `strategy` has no mask.
    """
    mask = torch.zeros(height, width)
    if strategy == "pixel":
        count = _num_dropped(height * width, drop_ratio)
        if generator is None:
            order = _evenly_ordered_pixels(height, width)
        else:
            order = torch.randperm(height * width, generator=generator)
        mask.view(-1)[order[:count]] = 1.0
        return mask
    if strategy not in _MASK_STRATEGIES[1:]:
        raise ValueError(f"strategy ({strategy!r}) must be one of {_MASK_STRATEGIES[1:]}")
    level, axis = strategy.split("_")
    size = height if axis == "horizontal" else width
    count = _num_dropped(size, drop_ratio)
    if level == "part":
        if generator is None:
            start = (size - count) // 2
        else:
            start = int(torch.randint(size - count + 1, (), generator=generator))
        lines = torch.arange(start, start + count)
    elif generator is None:
        # The middle of each of `count` equal spans; spans are >= 1 wide, so no line comes twice.
        lines = (torch.arange(count) * 2 + 1) * size // (2 * count)
    else:
        lines = torch.randperm(size, generator=generator)[:count]
    mask.index_fill_(0 if axis == "horizontal" else 1, lines, 1.0)
    return mask


def _num_dropped(size: int, drop_ratio: float) -> int:
    # 0.29 * 100 is 28.999...: without the margin the floor would depend on the spelling of d.
    return max(1, math.floor(drop_ratio * size + 1e-6))


def _evenly_ordered_pixels(height: int, width: int) -> Tensor:
    """Order all pixels so that every beginning of the order is spread evenly over the map.

    Every i-th pixel in reading order would be columns whenever i divides the width. The R2
    sequence (Roberts 2018, the golden ratio's kin in two dimensions) has no such periods.
    """
    rows = torch.arange(height, dtype=torch.float64)[:, None] * 0.7548776662466927
    columns = torch.arange(width, dtype=torch.float64)[None, :] * 0.5698402909980532
    return (rows + columns).remainder(1.0).flatten().argsort(stable=True)


class LocalTemporalAggregation(nn.Module):
    """LTA, Eq. 1: a convolution that strides in time only.

    Args:
        channels: Channels in and out.
        kernel: a, as (frames, rows, columns). Rows and columns must be odd.
        stride: b, in frames. A higher one leaves fewer frames.
        norm: Batch norm between convolution and activation.
    """

    def __init__(
        self, channels: int, *, kernel: tuple[int, int, int], stride: int, norm: bool
    ) -> None:
        super().__init__()
        self.convolution = Convolution3d(
            channels,
            channels,
            kernel,
            stride=(stride, 1, 1),
            padding=(0, kernel[1] // 2, kernel[2] // 2),
        )
        self.norm = nn.BatchNorm3d(channels) if norm else None

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c s h w"]:
        """Merge frames: `s = floor((t - a) / b) + 1`; rows and columns stay."""
        return _activated(self.convolution(features), self.norm)


class GlobalLocalLayer(nn.Module):
    """GLCL, Eq. 2-6: a convolution over the whole map beside one that sees it in pieces.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        branches: Which of the two extractors exist.
        fixed_parts: Number of strips n of Eq. 5, or `None` for the masks of Eq. 6.
        join: `sum` is Eq. 2; `concat` is Eq. 3, global rows above local rows.
        norm: Batch norm after each convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        branches: Branches = "both",
        fixed_parts: int | None = None,
        join: Join = "sum",
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.fixed_parts = fixed_parts
        self.join = join
        self.global_convolution: Convolution3d | None = None
        self.local_convolution: Convolution3d | None = None
        self.global_norm: nn.BatchNorm3d | None = None
        self.local_norm: nn.BatchNorm3d | None = None
        if branches != "local":
            self.global_convolution = Convolution3d(
                in_channels, out_channels, (3, 3, 3), padding=(1, 1, 1)
            )
            self.global_norm = nn.BatchNorm3d(out_channels) if norm else None
        if branches != "global":
            self.local_convolution = Convolution3d(
                in_channels, out_channels, (3, 3, 3), padding=(1, 1, 1)
            )
            self.local_norm = nn.BatchNorm3d(out_channels) if norm else None

    def forward(
        self,
        features: Float[Tensor, "n c t h w"],
        mask: Float[Tensor, "h w"] | None = None,
    ) -> Float[Tensor, "n d t r w"]:
        """Extract.

        Args:
            features: Input maps.
            mask: M~p of Eq. 6. Needed if there is a local branch without fixed parts.

        Returns:
            Maps with `r = h` rows, or `r = 2 h` when two branches are concatenated.
        """
        results = []
        if self.global_convolution is not None:
            results.append(_activated(self.global_convolution(features), self.global_norm))
        if self.local_convolution is not None:
            results.append(self._local(features, mask))
        if len(results) == 1:
            return results[0]
        return torch.cat(results, dim=3) if self.join == "concat" else results[0] + results[1]

    def _local(self, features: Tensor, mask: Tensor | None) -> Tensor:
        assert self.local_convolution is not None
        if self.fixed_parts is not None:  # Eq. 5: the strips are clips of a larger batch
            strips = torch.cat(features.chunk(self.fixed_parts, dim=3), dim=0)
            strips = _activated(self.local_convolution(strips), self.local_norm)
            return torch.cat(strips.chunk(self.fixed_parts, dim=0), dim=3)
        assert mask is not None, "a local branch without fixed parts needs a mask"
        # Two convolutions and not one on a batch of twice the size: without its copies, faster.
        kept = self.local_convolution(features * mask)
        dropped = self.local_convolution(features * (1.0 - mask))
        if self.local_norm is None:
            return _activated(kept, None) + _activated(dropped, None)
        pair = _activated(torch.cat((kept, dropped), dim=0), self.local_norm)
        kept, dropped = pair.chunk(2, dim=0)
        return kept + dropped


def _activated(features: Tensor, norm: nn.BatchNorm3d | None) -> Tensor:
    if norm is not None:
        features = norm(features)
    # In place: a bias-free convolution and a batch norm need their input, not their output.
    return F.leaky_relu_(features, _NEGATIVE_SLOPE)


class _Stage(nn.Module):
    """Global-local layers of one width, then a pooling layer or none."""

    def __init__(self, layers: list[GlobalLocalLayer], pooling: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.pooling = pooling


class GaitGL(nn.Module):
    """GaitGL of the journal paper, on silhouettes or anything else with values in 0..1.

    Args:
        num_subjects: k, number of subjects in training; length of the logits.
        channels: Output channels of each stage. The last is also d, the length of a part's
            embedding. Time and memory grow with the square.
        num_layers: Number of global-local layers (GLCL) in each stage, at least 1.
        pooling: What ends each stage: `lta` merges frames (Eq. 1), `sp` halves rows and columns,
            `None` keeps the size. Table 7 varies the first two.
        branches: Extractors in each layer (Table 5): the whole map, its pieces, or both.
        mask_strategy: How the local extractor cuts the map (Fig. 1, Table 5): fixed horizontal
            strips, or a random pair of complementary masks of one block of rows or columns,
            single rows, single columns, or pixels.
        drop_ratio: d, share of the map that one mask of a pair keeps and the other drops, 0..1
            exclusive. At 0.5 both see equally much. Unused by `fixed_parts`.
        num_fixed_parts: n of Eq. 5, strips of `fixed_parts`; must divide the rows of every stage.
        join_last: Joins the branches of the last layer: `concat` (Eq. 3) keeps them apart as twice
            the parts, `sum` (Eq. 2) adds them as all other layers do.
        spatial_mapping: How a row becomes a vector (Table 6): `gem`, `max`, `avg`, or `both`, the
            sum of the latter two.
        gem_power: Initial power p of Eq. 10, > 0; higher starts nearer to the maximum.
        lta_kernel: a of Eq. 1 in frames, rows, columns; rows and columns odd. (3, 1, 1) merges
            frames pixel by pixel.
        lta_stride: b of Eq. 1 in frames; higher leaves fewer frames and costs less.
        backbone_norm: Batch norm after each convolution of the backbone. The paper shows none.
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame. The number of parts follows from the height.

    Attributes:
        num_parts: p, rows of the last map.
        min_frames: Shortest clip that the plan leaves at least one frame of.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        channels: tuple[int, ...] = (64, 128, 128),
        num_layers: tuple[int, ...] = (1, 1, 2),
        pooling: tuple[Pooling, ...] = ("lta", "sp", None),
        branches: Branches = "both",
        mask_strategy: MaskStrategy = "strip_vertical",
        drop_ratio: float = 0.3,
        num_fixed_parts: int = 8,
        join_last: Join = "concat",
        spatial_mapping: SpatialMapping = "gem",
        gem_power: float = 6.5,
        lta_kernel: tuple[int, int, int] = (3, 3, 3),
        lta_stride: int = 3,
        backbone_norm: bool = False,
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if num_subjects < 1:
            raise ValueError(f"num_subjects ({num_subjects}) must be at least 1")
        if not len(channels) == len(num_layers) == len(pooling) > 0:
            raise ValueError(
                f"channels {channels}, num_layers {num_layers} and pooling {pooling} must have "
                "one entry per stage each"
            )
        if min(*channels, *num_layers, in_channels) < 1:
            raise ValueError(
                f"channels {channels}, num_layers {num_layers} and in_channels ({in_channels}) "
                "must be at least 1"
            )
        if not set(pooling) <= {"lta", "sp", None}:
            raise ValueError(f"pooling {pooling} must consist of 'lta', 'sp' and None")
        if branches not in ("both", "global", "local"):
            raise ValueError(f"branches ({branches!r}) must be 'both', 'global' or 'local'")
        if mask_strategy not in _MASK_STRATEGIES:
            raise ValueError(f"mask_strategy ({mask_strategy!r}) must be one of {_MASK_STRATEGIES}")
        if join_last not in ("concat", "sum"):
            raise ValueError(f"join_last ({join_last!r}) must be 'concat' or 'sum'")
        if not 0.0 < drop_ratio < 1.0:
            raise ValueError(f"drop_ratio ({drop_ratio}) must be between 0 and 1, exclusive")
        if min(*lta_kernel, lta_stride) < 1 or not (lta_kernel[1] % 2 and lta_kernel[2] % 2):
            raise ValueError(
                f"lta_kernel {lta_kernel} and lta_stride ({lta_stride}) must be at least 1, and "
                "the kernel's rows and columns odd"
            )

        self.in_channels = in_channels
        self.input_size_px = (input_size_px[0], input_size_px[1])
        self.mask_strategy: MaskStrategy = mask_strategy
        self.drop_ratio = drop_ratio
        self._needs_masks = branches != "global" and mask_strategy != "fixed_parts"
        self._mask_seed = 0
        self._num_masked_passes = 0

        fixed_parts = num_fixed_parts if mask_strategy == "fixed_parts" else None
        height, width = self.input_size_px
        self.layer_sizes_px: list[tuple[int, int]] = []
        stages = []
        for index, (count, end) in enumerate(zip(num_layers, pooling, strict=True)):
            layers = []
            for position in range(count):
                if branches != "global" and fixed_parts is not None and height % fixed_parts:
                    raise ValueError(
                        f"num_fixed_parts ({fixed_parts}) must divide the {height} rows of "
                        f"stage {index + 1}"
                    )
                is_last = index == len(channels) - 1 and position == count - 1
                before = channels[index - 1] if index else in_channels
                layers.append(
                    GlobalLocalLayer(
                        channels[index] if position else before,
                        channels[index],
                        branches=branches,
                        fixed_parts=fixed_parts,
                        join=join_last if is_last else "sum",
                        norm=backbone_norm,
                    )
                )
                self.layer_sizes_px.append((height, width))
            pool: nn.Module | None = None
            if end == "lta":
                pool = LocalTemporalAggregation(
                    channels[index], kernel=lta_kernel, stride=lta_stride, norm=backbone_norm
                )
            elif end == "sp":
                if height % 2 or width < 2:
                    raise ValueError(
                        f"input_size_px {self.input_size_px} leaves {height} rows and {width} "
                        f"columns in stage {index + 1}, where pooling 'sp' needs an even number "
                        "of rows and two columns"
                    )
                pool = nn.MaxPool3d((1, 2, 2))
                height, width = height // 2, width // 2
            stages.append(_Stage(layers, pool))
        if min(height, width) < 1:
            raise ValueError(f"input_size_px {self.input_size_px} must be at least 1x1")
        self.stages = nn.ModuleList(stages)

        joins_two = branches == "both" and join_last == "concat"
        # A pooling layer after the last stage comes after the join.
        self.num_parts = 2 * height if joins_two else height
        self.min_frames = 1
        for end in reversed(pooling):
            if end == "lta":
                self.min_frames = (self.min_frames - 1) * lta_stride + lta_kernel[0]

        embedding_dim = channels[-1]
        self.spatial_mapping = PartPooling(self.num_parts, spatial_mapping, gem_power=gem_power)
        # Small weights before a norm change nothing but how fast they turn: 150 steps at a rate of
        # 1e-3 take a quarter-width network to 38 % rank-1 on unseen walkers instead of 26 %.
        self.embedding_linear = SeparateLinear(
            self.num_parts, embedding_dim, embedding_dim, gain=0.1
        )
        self.embedding_norm = nn.BatchNorm1d(embedding_dim)
        # Small weights here make no subject likelier at first: the cross-entropy starts at log k,
        # and there are no opinions of the initial weights to unlearn.
        self.identity_linear = SeparateLinear(self.num_parts, embedding_dim, num_subjects, gain=0.1)

    def set_mask_seed(self, seed: int) -> None:
        """Say which masks the next training passes draw.

        The masks of a layer are a function of the seed, of the number of training passes since
        this call, and of the layer's index: not of the batch, the device or the worker. Workers
        that are given the same seed before a step therefore draw the same masks, and a run that
        is resumed draws what it would have drawn.

        Args:
            seed: Any integer >= 0; the number of the step mixed with the run's seed is one.

        Raises:
            ValueError: The seed is negative.
        """
        if seed < 0:
            raise ValueError(f"mask seed ({seed}) must not be negative")
        self._mask_seed = seed
        self._num_masked_passes = 0

    def masks(self) -> list[Float[Tensor, "h w"]]:
        """The masks M~p that the next forward pass will use, one a layer.

        Returns:
            In training mode those of `set_mask_seed`, otherwise the evenly spread ones. Empty if
            the model has no masks.
        """
        if not self._needs_masks:
            return []
        masks = []
        for index, (height, width) in enumerate(self.layer_sizes_px):
            generator = None
            if self.training:
                # Mixed by numpy's seed sequence, which is fixed for good: a torch generator
                # keeps 32 bits of its seed, so that sums and shifts would collide.
                key = (self._mask_seed, self._num_masked_passes, index)
                mixed = int(np.random.SeedSequence(key).generate_state(1)[0])
                generator = torch.Generator().manual_seed(mixed)
            masks.append(draw_mask(self.mask_strategy, height, width, self.drop_ratio, generator))
        return masks

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1. All `t` frames count: a batch of clips of unequal
                length must be split by length, not padded.

        Returns:
            Embedding and triplet features, both after `embedding_norm`, and the logits.

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
        masks = iter(self.masks())
        if self.training:
            self._num_masked_passes += 1
        features = channels_last(frames)
        for stage in self.stages:
            assert isinstance(stage, _Stage)
            for layer in stage.layers:
                mask = next(masks, None)
                features = layer(features, None if mask is None else mask.to(features))
            if stage.pooling is not None:
                features = stage.pooling(features)
        rows = self.spatial_mapping(temporal_max(features))  # [n, p, c]
        mapped = self.embedding_linear(rows)
        # Flattened to [n * p, d]: the norm knows nothing of parts.
        embedding = self.embedding_norm(mapped.flatten(0, 1)).unflatten(0, mapped.shape[:2])
        return GaitOutput(embedding, {"main": Branch(embedding, self.identity_linear(embedding))})

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks: dict[str, nn.Module] = {}
        for number, stage in enumerate(self.stages, start=1):
            assert isinstance(stage, _Stage)
            for position, layer in enumerate(stage.layers, start=1):
                blocks[f"stage {number} layer {position}"] = layer
            if stage.pooling is not None:
                blocks[f"stage {number} pooling"] = stage.pooling
        blocks["spatial mapping"] = self.spatial_mapping
        blocks["embedding linear"] = self.embedding_linear
        return blocks

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone` (every convolution and its norm) and `head` (everything after Eq. 7).
        """
        return {
            "backbone": list(self.stages.parameters()),
            "head": [
                parameter
                for block in (
                    self.spatial_mapping,
                    self.embedding_linear,
                    self.embedding_norm,
                    self.identity_linear,
                )
                for parameter in block.parameters()
            ],
        }
