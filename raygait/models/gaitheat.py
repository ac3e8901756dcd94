"""GaitHeat: Cut out the Middleman: Revisiting Pose-based Gait Recognition.

ECCV 2024, https://www.ecva.net/papers/eccv_2024/papers_ECCV/papers/04501.pdf. Written from the
paper. The input is the heatmaps of a pose estimator, one map for each joint. GaitHeat++ "maintains
the same architecture but differs by employing heatmaps from ViTPose" instead of HRNet (section
4.1): it is this class on better maps.

Symbols
    V          joints, one channel each                 `in_channels`   17, COCO's order
    X          heatmaps of a clip                       `frames`   [n, c, t, h, w]
    P_neck     middle of the two shoulders              `neck`     [..., 2], x and y in pixels
    P_hip      middle of the two hips                   `hip`      [..., 2]
    P_mid      middle of those                          `midpoint`
    P_align    where the neck comes to lie              `align_to_px`   x, y
    theta      tilt of the spine                        `spine_angle`   radians
    gamma      tilt that is put right                   `angle_threshold_deg`
    M_R, M_T   rotation, translation                    `rotation_about`, `alignment_matrix`
    M          pixel of the result -> pixel of X        [..., 2, 3]
    u_1..u_K   groups of joints                         `partitions`
    X_l, X_g   maximum over a group, over all joints    `fuse`     [(K + 1) n, 1, t, h, w]
    F_share    stem and residual stages, one per frame  `stem`, `stages`
    F_fusion   residual stages 2-4 of their own         `fusion_stages`
    MR         maximum over maps                        `max_response`

Equations
    1 `spine_angle`;  2 `rotation_about`;  3 `alignment_matrix`;  4 `sample`;  5 `fuse`;
    6 `GaitHeat.stages`;  7 `max_response`;  8 `GaitHeat._pooled`.  9 is a sum of losses: one
    triplet and one cross-entropy for each of the three branches.

Ablations
    Table 5    `alignment` = False, True (the caption's "PGFA" is PGHA)
    Table 4    the same network on maps that are drawn from joints: data, and `partitions` if they
               have other channels
    Sec. 4.1   `angle_threshold_deg` = 5, or 20 for one of the three data sets

Where the paper is silent, or says two things (* = as the authors' release does)
    Eq. 1-4          They cannot all hold as printed: Eq. 1 gives half a turn to a person who
                     stands upright in an image whose y points down; Eq. 2 moves the body
                     to where it shall be, the sign in Eq. 3 undoes a shift, and Eq. 4 goes from the
                     result back to the input. Here theta = atan2(dx, -dy) of the way from hip to
                     neck; M_R and the bias as printed; M = inverse(M_R) M_T, which leads from the
                     result back to the input, and a body tilted by 20 degrees comes out upright
                     with its neck on P_align.
    Sampling         Once, with the product M: one after the other, as Fig. 4 draws it, the two
                     samplings would blur twice. In pixels: in the coordinates -1..1 of a map that
                     is not square a rotation would shear.
    Neck, hip        Middle of COCO's joints 5 and 6, of 11 and 12 *. Without `joints` those of the
                     maps' highest values, as printed; with `joints` they may lie between pixels.
    P_align          (24, 16) of 48 x 64 pixels *.
    Threshold        On |theta|: a body may lean either way *. Up to gamma nothing moves, not even
                     the neck; in training a frame that leans less is aligned with a chance of 0.2
                     (at test *, too, there; here never: the embedding of a clip is one thing).
    No spine         A frame in which one of the four joints has no score, or in which neck and hip
                     are less than a pixel apart, stays as it is.
    Outside          What comes into view from beyond the map is 0; `padding="border"` *.
    Order            Align the V maps, then fuse (Eq. 5); the release fuses first.
    Partitions       "A variety of strategies", none printed. K = 2 *: upper body (head, arms,
                     shoulders; joints 0-10) and lower body (hips, legs; 11-16).
    X_g              Every joint is in one group, so the maximum over the groups is the one over
                     all joints.
    Values           The lowest and highest value of a clip become 0 and 1 *, of the clip and not
                     of the batch. Networks that are trained to draw peaks of height 1 do not keep
                     to 0..1: -0.5..1.5 is accepted. The outside's 0 is a clip's lowest value.
    Backbone         A 3 x 3 convolution, then four residual blocks with strides 1, 2, 2, 1 *: 16
                     rows of 64. A batch norm sees the K + 1 maps as one batch *.
    Eq. 8            f_1 = MR: there is no f_0 *. MR is over all K + 1 maps. No activation after
                     the sum: none is printed.
    Local branch     Eq. 7: MR over the K maps of the last stage.
    Head             Of each branch, sharing nothing *: maximum over time, mean plus maximum of 16
                     strips of one scale *, a separate layer for each part, `layers.BatchNormNeck`.
    Features         The triplet features are what enters the norm *; the embedding is what leaves
                     it *, scaled to length 1, of the fusion branch (section 3.2).
    Initial weights  A tenth of Xavier's for the separate layers (the release's come to about
                     that); torch's own elsewhere.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

import contextlib
import functools
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raygait.errors import ModelInputError
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

Padding = Literal["zeros", "border"]
Embedding = Literal["before_norm", "after_norm"]
BranchName = Literal["global", "local", "fusion"]

_BRANCHES: tuple[BranchName, ...] = ("global", "local", "fusion")
_NUM_JOINTS = 17
_SHOULDERS = [5, 6]
_HIPS = [11, 12]
_STRIDES = (1, 2, 2, 1)
# Below this no angle is known: a tenth of a pixel more or less would be many degrees.
_MIN_SPINE_PX = 1.0
_VALUE_RANGE = (-0.5, 1.5)
# At test: 64 frames of one clip with two groups. More take more memory and no less time.
_MAPS_AT_ONCE = 192


def spine_angle(
    neck: Float[Tensor, "*frames 2"], hip: Float[Tensor, "*frames 2"]
) -> Float[Tensor, "*frames"]:
    """Tilt theta of the way from hip to neck, Eq. 1.

    Args:
        neck: x and y in pixels, y down.
        hip: As `neck`.

    Returns:
        Radians, 0 for an upright body, positive if its neck is to the right of its hip.
    """
    way = neck - hip
    return torch.atan2(way[..., 0], -way[..., 1])


def rotation_about(
    midpoint: Float[Tensor, "*frames 2"], angle: Float[Tensor, "*frames"]
) -> Float[Tensor, "*frames 2 3"]:
    """Matrix that turns pixels about a point, Eq. 2 with `angle` = -theta.

    Args:
        midpoint: x and y of the point that stays, in pixels.
        angle: Radians; positive turns clockwise as seen on the screen, where y points down.

    Returns:
        Matrices for columns (x, y, 1).
    """
    x, y = midpoint.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    across = torch.stack((cos, -sin, (1 - cos) * x + sin * y), dim=-1)
    down = torch.stack((sin, cos, -sin * x + (1 - cos) * y), dim=-1)
    return torch.stack((across, down), dim=-2)


def transform(
    matrix: Float[Tensor, "*frames 2 3"], point: Float[Tensor, "*frames 2"]
) -> Float[Tensor, "*frames 2"]:
    """Multiply a matrix with the column (x, y, 1)."""
    # Not matmul: under autocast it would round pixels to eight bits.
    moved: Tensor = (matrix[..., :2] * point[..., None, :]).sum(-1) + matrix[..., 2]
    return moved


def alignment_matrix(
    neck: Float[Tensor, "*frames 2"],
    hip: Float[Tensor, "*frames 2"],
    align_to_px: tuple[float, float],
) -> Float[Tensor, "*frames 2 3"]:
    """M of Eq. 4: where in the input each pixel of the upright, shifted result comes from.

    Args:
        neck: x and y in pixels.
        hip: As `neck`.
        align_to_px: P_align, x and y of the neck in the result.

    Returns:
        inverse(M_R) M_T as one matrix for columns (x, y, 1).
    """
    angle = spine_angle(neck, hip)
    midpoint = (neck + hip) / 2
    rotated_neck = transform(rotation_about(midpoint, -angle), neck)
    bias = neck.new_tensor(align_to_px) - rotated_neck  # Eq. 3
    inverse = rotation_about(midpoint, angle)
    # M_T subtracts the bias before the rotation is undone.
    return torch.cat((inverse[..., :2], transform(inverse, -bias)[..., None]), dim=-1)


def sample(
    maps: Float[Tensor, "m c h w"],
    matrix: Float[Tensor, "m 2 3"],
    padding: Padding = "zeros",
) -> Float[Tensor, "m c h w"]:
    """Look up each pixel of the result in the input, Eq. 4, between pixels bilinearly.

    Args:
        maps: Maps of single frames.
        matrix: M of each frame, pixels to pixels; the centre of the first pixel is (0, 0).
        padding: What is outside the map: `zeros`, or the nearest pixel of the `border`.

    Returns:
        Maps of the same size.
    """
    height, width = maps.shape[2:]
    columns = torch.arange(width, dtype=matrix.dtype, device=matrix.device)
    rows = torch.arange(height, dtype=matrix.dtype, device=matrix.device)[:, None]
    (a, b, c), (d, e, f) = (row.unbind(1) for row in matrix[..., None, None].unbind(1))
    x = a * columns + b * rows + c
    y = d * columns + e * rows + f
    # From pixels to grid_sample's coordinates, in which -1 and 1 are the outer edges of the map.
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    # In the grid's type: half precision would round places to a sixteenth of a pixel.
    sampled = F.grid_sample(
        maps.to(grid.dtype), grid, mode="bilinear", padding_mode=padding, align_corners=False
    )
    return sampled.to(maps.dtype)


def peaks(frames: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n t c 3"]:
    """The place and height of each map's highest value: joints as section 3.2 finds them.

    Args:
        frames: Heatmaps.

    Returns:
        x and y in whole pixels, and the value.
    """
    width = frames.shape[4]
    scores, places = frames.detach().flatten(3).max(dim=-1)
    x, y = places % width, places.div(width, rounding_mode="floor")
    return torch.stack((x.to(scores), y.to(scores), scores), dim=-1).transpose(1, 2)


class PoseGuidedAlignment(nn.Module):
    """PGHA, Fig. 4: turn leaning bodies upright and put their necks in one place.

    Args:
        align_to_px: P_align, x and y in pixels of the map.
        angle_threshold_deg: gamma, degrees. Frames that lean more are aligned. A higher one leaves
            more frames as they are.
        small_ratio: Chance, 0..1, that a frame which leans less is aligned in training.
        padding: What comes into view from outside the map.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        align_to_px: tuple[float, float] = (24.0, 16.0),
        angle_threshold_deg: float = 5.0,
        small_ratio: float = 0.2,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        if not 0.0 <= angle_threshold_deg <= 180.0:
            raise ValueError(
                f"angle_threshold_deg ({angle_threshold_deg}) must be between 0 and 180"
            )
        if not 0.0 <= small_ratio <= 1.0:
            raise ValueError(f"align_small_ratio ({small_ratio}) must be between 0 and 1")
        if padding not in ("zeros", "border"):
            raise ValueError(f"padding ({padding!r}) must be 'zeros' or 'border'")
        if len(align_to_px) != 2 or not all(map(math.isfinite, align_to_px)):
            raise ValueError(f"align_to_px {align_to_px} must be x and y")
        self.align_to_px = (float(align_to_px[0]), float(align_to_px[1]))
        self.angle_threshold_deg = angle_threshold_deg
        self.small_ratio = small_ratio
        self.padding: Padding = padding

    def forward(
        self,
        frames: Float[Tensor, "n c t h w"],
        joints: Float[Tensor, "n t 17 3"],
        draws: Float[Tensor, "n t"] | None = None,
    ) -> Float[Tensor, "n c t h w"]:
        """Align.

        Args:
            frames: Heatmaps.
            joints: COCO's 17: x and y in pixels of the maps, and the score.
            draws: Numbers in 0..1, looked at in training only: a frame that leans less than the
                threshold is aligned where its number is below `small_ratio`. `None` draws them
                from torch's global generator.

        Returns:
            Frames of which some have moved; the others are as they were, bit by bit.
        """
        # Places need more digits than half precision has.
        joints = joints.detach().to(torch.promote_types(joints.dtype, torch.float32))
        neck = joints[:, :, _SHOULDERS, :2].mean(dim=2)
        hip = joints[:, :, _HIPS, :2].mean(dim=2)
        moves = self._moves(neck, hip, draws)
        moves &= (joints[:, :, _SHOULDERS + _HIPS, 2] > 0).all(dim=-1)
        by_frame = frames.transpose(1, 2)
        matrix = alignment_matrix(neck[moves], hip[moves], self.align_to_px)
        moved = sample(by_frame[moves], matrix, self.padding)
        return by_frame.index_put((moves,), moved).transpose(1, 2)

    def _moves(self, neck: Tensor, hip: Tensor, draws: Tensor | None) -> Bool[Tensor, "n t"]:
        tilts = spine_angle(neck, hip).abs() > math.radians(self.angle_threshold_deg)
        if self.training:
            if draws is None:
                draws = torch.rand(tilts.shape, device=tilts.device)
            tilts |= draws < self.small_ratio
        # Compared so that a place that is not a number has no spine either.
        moves: Tensor = tilts & ((neck - hip).norm(dim=-1) >= _MIN_SPINE_PX)
        return moves


def normalise_clips(frames: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c t h w"]:
    """Stretch the values of each clip to 0..1, all its joints and frames alike.

    Args:
        frames: Heatmaps. A clip of one value becomes zeros.
    """
    low, high = torch.aminmax(frames.flatten(1), dim=1, keepdim=True)
    span = high - low
    span = torch.where(span > 0, span, torch.ones_like(span))
    return (frames - low[..., None, None, None]) / span[..., None, None, None]


def max_response(maps: Sequence[Tensor]) -> Tensor:
    """MR, Eq. 7: the largest of several maps, place by place.

    Args:
        maps: One or more tensors of one shape.
    """
    # Not stacked: that would copy them, and amax would lose their memory order.
    largest: Tensor = functools.reduce(torch.maximum, maps)
    return largest


def fuse(
    frames: Float[Tensor, "n c t h w"], groups: Sequence[Sequence[int]]
) -> Float[Tensor, "m 1 t h w"]:
    """X_l and X_g, Eq. 5: the maximum over each group of joints, and over all of them.

    Args:
        frames: Heatmaps.
        groups: K groups of channels. Together they have to hold every channel.

    Returns:
        `m = (K + 1) n` clips: all clips of the first group, of the second, and so on; the global
        ones come last.
    """
    local = [frames[:, list(group)].amax(dim=1) for group in groups]
    return torch.cat((*local, max_response(local))).unsqueeze(1)


def _recomputed(
    network: nn.Sequential, features: Float[Tensor, "m c t h w"]
) -> Float[Tensor, "m d t h w"]:
    """Run a network, and in the backward pass run it again instead of keeping what it computed."""
    result: Tensor = checkpoint(
        network,
        features,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), _UnmovedStatistics(network)),
    )
    return result


class _UnmovedStatistics(contextlib.AbstractContextManager[None]):
    """Lets no batch norm learn from a batch: the second run sees one that the first has counted.

    Entered anew by every backward pass through the same graph.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._before: list[tuple[nn.BatchNorm2d | nn.SyncBatchNorm, float | None, Tensor]] = []

    def __enter__(self) -> None:
        for norm in self._network.modules():
            if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
                assert norm.num_batches_tracked is not None
                self._before.append((norm, norm.momentum, norm.num_batches_tracked.clone()))
                norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        while self._before:
            norm, momentum, count = self._before.pop()
            norm.momentum = momentum
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.copy_(count)


class _Head(nn.Module):
    """What turns the parts of one branch into its features and logits."""

    def __init__(
        self, num_parts: int, in_features: int, embedding_dim: int, num_subjects: int
    ) -> None:
        super().__init__()
        self.linear = SeparateLinear(num_parts, in_features, embedding_dim, gain=0.1)
        self.neck = BatchNormNeck(num_parts, embedding_dim, num_subjects)

    def forward(
        self, parts: Float[Tensor, "n p c"]
    ) -> tuple[Float[Tensor, "n p d"], Float[Tensor, "n p d"], Float[Tensor, "n p k"]]:
        """Features before the norm, after it, and the cosines."""
        mapped = self.linear(parts)
        normed, logits = self.neck(mapped)
        return mapped, normed, logits


class GaitHeat(nn.Module):
    """GaitHeat on the heatmaps of a pose estimator; GaitHeat++ on those of a better one.

    Args:
        num_subjects: k, number of subjects in training; length of the logits.
        alignment: PGHA (Table 5): turn leaning bodies upright and put their necks in one place.
        angle_threshold_deg: gamma, degrees of tilt beyond which a frame is aligned. The paper takes
            5, and 20 where it has people who change clothes. A higher one leaves more as they are.
        align_small_ratio: Chance, 0..1, that a frame which leans less is aligned in training.
        align_to_px: P_align, x and y in pixels of the map, where the neck of an aligned body is.
        padding: What comes into view from outside a map: `zeros`, or the nearest pixel of the
            `border`.
        partitions: For each channel the number of its group, 0..K-1; a local map is the maximum
            over a group. The default is K = 2, COCO's upper body and lower body. More groups make
            the local maps finer; time and memory grow with K + 1.
        channels: Output channels of the four stages; the stem has as many as the first. Memory
            grows with them, time with their square.
        num_parts: p, horizontal strips of the last map; must divide its height, a quarter of the
            frame's.
        embedding_dim: d, length of a part's embedding.
        embedding: What is compared at test: the features that the triplet loss sees
            (`before_norm`) or those the cosines are made of (`after_norm`, of length 1).
        embedding_branch: Branch whose features are compared. The paper takes `fusion`; `global`
            and `local` have one of their own.
        recompute: Compute the stem and the first stage a second time in the backward pass instead
            of keeping what they computed: the same gradients, for a quarter less memory and a
            tenth more time.
        in_channels: V, number of maps. Other than 17 they are not joints, and the alignment needs
            `joints` from elsewhere.
        input_size_px: Height and width of a map.

    Attributes:
        num_parts: p.
        min_frames: Shortest clip, 1.
        groups: Channels of each group.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        alignment: bool = True,
        angle_threshold_deg: float = 5.0,
        align_small_ratio: float = 0.2,
        align_to_px: tuple[float, float] = (24.0, 16.0),
        padding: Padding = "zeros",
        partitions: tuple[int, ...] = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1),
        channels: tuple[int, ...] = (64, 128, 256, 512),
        num_parts: int = 16,
        embedding_dim: int = 256,
        embedding: Embedding = "after_norm",
        embedding_branch: BranchName = "fusion",
        recompute: bool = True,
        in_channels: int = 17,
        input_size_px: tuple[int, int] = (64, 48),
    ) -> None:
        super().__init__()
        if min(num_subjects, embedding_dim, in_channels) < 1:
            raise ValueError(
                f"num_subjects ({num_subjects}), embedding_dim ({embedding_dim}) and in_channels "
                f"({in_channels}) must be at least 1"
            )
        if len(channels) != len(_STRIDES) or min(channels) < 1:
            raise ValueError(f"channels {channels} must be {len(_STRIDES)} numbers of at least 1")
        if len(partitions) != in_channels:
            raise ValueError(
                f"partitions {partitions} must give a group to each of the {in_channels} channels "
                "(in_channels)"
            )
        if set(partitions) != set(range(len(set(partitions)))):
            raise ValueError(f"partitions {partitions} must number the groups 0, 1, 2 ...")
        height, width = input_size_px
        if min(height, width) < 1:
            raise ValueError(f"input_size_px {input_size_px} must be at least 1x1")
        last_height = math.ceil(height / math.prod(_STRIDES))
        if num_parts < 1 or last_height % num_parts:
            raise ValueError(
                f"num_parts ({num_parts}) must divide the {last_height} rows that frames of "
                f"{height} rows end with"
            )
        if embedding not in ("before_norm", "after_norm"):
            raise ValueError(f"embedding ({embedding!r}) must be 'before_norm' or 'after_norm'")
        if embedding_branch not in _BRANCHES:
            raise ValueError(f"embedding_branch ({embedding_branch!r}) must be one of {_BRANCHES}")

        self.in_channels = in_channels
        self.input_size_px = (height, width)
        self.num_parts = num_parts
        self.min_frames = 1
        self.groups = tuple(
            tuple(channel for channel, group in enumerate(partitions) if group == number)
            for number in range(max(partitions) + 1)
        )
        self.embedding: Embedding = embedding
        self.embedding_branch: BranchName = embedding_branch
        self.recompute = recompute

        # Built without alignment too: wrong values are refused, and it has no parameters.
        aligner = PoseGuidedAlignment(
            align_to_px=align_to_px,
            angle_threshold_deg=angle_threshold_deg,
            small_ratio=align_small_ratio,
            padding=padding,
        )
        self.alignment = aligner if alignment else None
        self.stem = PerFrame(
            nn.Sequential(
                OrderedDict(
                    convolution=Convolution2d(1, channels[0], 3),
                    norm=nn.BatchNorm2d(channels[0]),
                    activation=nn.ReLU(inplace=True),
                )
            )
        )
        plan = list(zip((channels[0], *channels), channels, _STRIDES, strict=False))
        self.stages = nn.ModuleList(_stage(*step) for step in plan)
        self.fusion_stages = nn.ModuleList(_stage(*step) for step in plan[1:])
        self.part_pooling = PartPooling(num_parts, "both")
        self.heads = nn.ModuleDict(
            {
                name: _Head(num_parts, channels[-1], embedding_dim, num_subjects)
                for name in _BRANCHES
            }
        )

    def forward(
        self,
        frames: Float[Tensor, "n c t h w"],
        *,
        joints: Float[Tensor, "n t j 3"] | None = None,
        align_draws: Float[Tensor, "n t"] | None = None,
    ) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Heatmaps with values in -0.5..1.5, as networks give them. All `t` frames count:
                a batch of clips of unequal length must be split by length, not padded.
            joints: x and y of the 17 COCO joints in pixels of the maps (column, row; the centre of
                the first pixel is 0, 0), and their scores, 0 for a joint that was not found.
                `None` takes the highest value of each map. Not used without alignment.
            align_draws: Numbers in 0..1 that decide in training which upright frames are aligned
                as well; `None` draws them from torch's global generator. Not used at test.

        Returns:
            The embedding of the branch that `embedding_branch` names, and three branches, `global`,
            `local` and `fusion`: their triplet features, which are those before the norm, and
            their cosines.

        Raises:
            ModelInputError: Rank, type, channels, size, length or values do not fit.
        """
        check_frames(
            frames,
            model=type(self).__name__,
            in_channels=self.in_channels,
            input_size_px=self.input_size_px,
            min_frames=self.min_frames,
            value_range=_VALUE_RANGE,
        )
        normalised = normalise_clips(frames)
        if self.alignment is not None:
            if joints is None:
                if self.in_channels != _NUM_JOINTS:
                    raise ModelInputError(
                        f"{type(self).__name__}: got no joints, expected joints beside frames of "
                        f"{self.in_channels} channels: they are not the maps of {_NUM_JOINTS} "
                        "joints; give joints or switch the alignment off"
                    )
                joints = peaks(frames)
            self._check_alignment(frames, joints, align_draws)
            normalised = self.alignment(normalised, joints, align_draws)
        if self.training or torch.is_grad_enabled():
            pooled = self._pooled(normalised)
        else:
            # Frames meet in the maximum over time alone: a long clip needs no more memory.
            num_frames = max(1, _MAPS_AT_ONCE // ((len(self.groups) + 1) * len(frames)))
            num_pieces = math.ceil(frames.shape[2] / num_frames)
            pieces = [self._pooled(piece) for piece in normalised.chunk(num_pieces, dim=2)]
            pooled = [max_response(maps) for maps in zip(*pieces, strict=True)]

        branches: dict[str, Branch] = {}
        embedding: Tensor | None = None
        for name, maps in zip(_BRANCHES, pooled, strict=True):
            mapped, normed, logits = self.heads[name](self.part_pooling(maps))
            branches[name] = Branch(mapped, logits)
            if name == self.embedding_branch:
                embedding = mapped if self.embedding == "before_norm" else normed
        assert embedding is not None
        return GaitOutput(embedding, branches)

    def _pooled(self, frames: Float[Tensor, "n c t h w"]) -> list[Float[Tensor, "n d r v"]]:
        """Eq. 5-8 and the maximum over time: a map of each branch, in the order of `_BRANCHES`."""
        features = self._first_stage(channels_last(fuse(frames, self.groups)))  # Eq. 5
        local, whole = self._split(features)
        fused = torch.maximum(local, whole)  # f_1 of Eq. 8
        for stage, fusion_stage in zip(list(self.stages)[1:], self.fusion_stages, strict=True):
            features = stage(features)  # Eq. 6
            local, whole = self._split(features)
            # In place: the gradient of a maximum needs what went in, not the result.
            fused = torch.maximum(local, whole).add_(fusion_stage(fused))  # Eq. 8
        return [temporal_max(maps) for maps in (whole, local, fused)]

    def _first_stage(self, maps: Float[Tensor, "m 1 t h w"]) -> Float[Tensor, "m c t h w"]:
        first = nn.Sequential(self.stem, self.stages[0])
        # Half of all that a training step has to keep comes from here, for a seventh of the work.
        recomputed = self.recompute and torch.is_grad_enabled()
        features: Tensor = _recomputed(first, maps) if recomputed else first(maps)
        return features

    def _split(
        self, features: Float[Tensor, "m c t h w"]
    ) -> tuple[Float[Tensor, "n c t h w"], Float[Tensor, "n c t h w"]]:
        """Eq. 7: the local maps' maximum, and the global maps."""
        *local, whole = features.chunk(len(self.groups) + 1)
        return max_response(local), whole

    def _check_alignment(self, frames: Tensor, joints: Tensor, draws: Tensor | None) -> None:
        model = type(self).__name__
        num_clips, num_frames = frames.shape[0], frames.shape[2]
        expected = (num_clips, num_frames, _NUM_JOINTS, 3)
        if tuple(joints.shape) != expected or not joints.is_floating_point():
            raise ModelInputError(
                f"{model}: got joints {tuple(joints.shape)} of {joints.dtype}, expected "
                f"{expected}: [clips, frames, joints, (x, y, score)] of a floating-point type"
            )
        scored = joints[..., 2:] > 0
        # Compared so that a score that is not a number is refused as well.
        bad = torch.where(scored, joints, 0.0).isfinite().logical_not() | joints[..., 2:].isnan()
        if bool(bad.any()):
            raise ModelInputError(
                f"{model}: got joints that are not finite, expected x and y in pixels; a joint "
                "that was not found has score 0"
            )
        if draws is None or not self.training:
            return
        if tuple(draws.shape) != expected[:2]:
            raise ModelInputError(
                f"{model}: got align_draws {tuple(draws.shape)}, expected {expected[:2]}: "
                "[clips, frames]"
            )

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order.

        The first dimension of the stem and the stages holds K + 1 maps of every clip. At test a
        clip of more than 64 frames passes them in pieces.
        """
        blocks: dict[str, nn.Module] = {}
        if self.alignment is not None:
            blocks["alignment"] = self.alignment
        blocks["stem"] = self.stem
        for number, stage in enumerate(self.stages, start=1):
            blocks[f"stage {number}"] = stage
            if number > 1:
                blocks[f"fusion stage {number}"] = self.fusion_stages[number - 2]
        for name in _BRANCHES:
            head = self.heads[name]
            assert isinstance(head, _Head)
            blocks[f"{name} embedding linear"] = head.linear
        return blocks

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by purpose, so that a recipe may give each group its own rate.

        Returns:
            `backbone` (stem and stages, which all maps share), `fusion` (the fusion branch's own
            stages) and `head` (the separate layers, norms and class weights of the branches).
        """
        return {
            "backbone": [*self.stem.parameters(), *self.stages.parameters()],
            "fusion": list(self.fusion_stages.parameters()),
            "head": list(self.heads.parameters()),
        }


def _stage(before: int, after: int, stride: int) -> PerFrame:
    return PerFrame(ResidualBlock2d(before, after, stride=stride))
