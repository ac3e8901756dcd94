"""Blocks that several papers share, and the check every model makes of its input.

Dimensions: `n` clips, `c` channels, `t` frames, `h w` pixels, `p` parts, `d` features.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.errors import ModelInputError

# Features of a trained neck are some ten times longer than 1 before they are scaled to it.
_SHORTEST_IN_TRAINING = 1e-3

SpatialMapping = Literal["gem", "max", "avg", "both"]


def scaled(channels: tuple[int, ...], width: float, *, least: int = 1) -> tuple[int, ...]:
    """Numbers of channels of a network that is narrower or wider than the paper's.

    Args:
        channels: The paper's.
        width: Factor on each.
        least: No number becomes smaller.
    """
    return tuple(max(least, round(count * width)) for count in channels)


def channels_last(frames: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c t h w"]:
    """Store the channels of a pixel side by side, on the CPU.

    3-D convolutions and all that follows them keep the order they are given. In this one a
    training step of GaitEdge takes a third less time, one of GaitGL a seventh, one of LMGCS 4 %;
    the weights stay as they are. The shape and the values do not change.

    Args:
        frames: Clips on any device. Only those on the CPU are reordered.

    Returns:
        The same clips.
    """
    if frames.device.type != "cpu":
        return frames
    if frames.shape[1] == 1:
        # One channel is in both orders at once, and `contiguous` would leave its strides alone.
        return frames.squeeze(1).contiguous().unsqueeze(-1).permute(0, 4, 1, 2, 3)
    return frames.contiguous(memory_format=torch.channels_last_3d)


class Convolution3d(nn.Conv3d):
    """A 3-D convolution without bias that may be given clips in any memory order.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Extent in frames, rows and columns.
        stride: Step in frames, rows and columns.
        padding: Zeros before and after, in frames, rows and columns.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=False)

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d s r v"]:
        """Convolve."""
        # The gradient of a weight takes the order of the clips, and where a dimension has size 1
        # autograd does not put it back: DDP warns that it does not fit the bucket. Going through
        # a flat view restores the weight's own strides.
        weight = self.weight.flatten()
        if (
            features.device.type == "cpu"
            and self.kernel_size[1:] == (1, 1)
            and self.stride == (1, 1, 1)
            and self.padding[1:] == (0, 0)
        ):
            return self._over_time(features, weight)
        return F.conv3d(features, weight.view_as(self.weight), None, self.stride, self.padding)

    def _over_time(self, features: Tensor, weight: Tensor) -> Tensor:
        """Convolve each pixel by itself, as a matrix product or a 2-D convolution.

        A single thread with less than 16 clips gets from torch, for a kernel of one pixel and no
        stride, a 3-D convolution that is up to six times slower and gives up the clips' order.
        """
        if self.kernel_size[0] == 1 and self.padding[0] == 0:
            by_pixel = F.linear(features.movedim(1, -1), weight.view(self.weight.shape[:2]))
            return by_pixel.movedim(-1, 1)
        pixels = features.flatten(3)  # [n, c, t, h * w]
        kernel = weight.view(self.weight.shape[:4])
        pixels = F.conv2d(pixels, kernel, None, 1, (int(self.padding[0]), 0))
        return pixels.view(*pixels.shape[:3], *features.shape[3:])


class Convolution2d(nn.Conv2d):
    """A 2-D convolution that may be given frames in any memory order.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Extent in rows and columns, odd; the input is padded so that stride 1 keeps its
            size.
        stride: Step in rows and columns.
        bias: Add a number of its own to each channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)

    def forward(self, features: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d r v"]:
        """Convolve."""
        weight = self.weight.flatten().view_as(self.weight)  # as in `Convolution3d`
        if (
            features.device.type == "cpu"
            and self.kernel_size == (1, 1)
            and self.in_channels < 16
            and self.stride != (1, 1)
        ):
            # oneDNN 3.12 goes beyond its buffers for this weight's gradient (AVX-512, channels
            # last, maps of 64 x 44 and more), and the process ends somewhere later. A kernel of
            # one pixel needs no others; with more channels the slice costs a fifth of the time.
            rows, columns = self.stride
            return F.conv2d(features[..., ::rows, ::columns], weight, self.bias)
        return F.conv2d(features, weight, self.bias, self.stride, self.padding)


def temporal_max(features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c h w"]:
    """Keep the largest value over all frames (GaitGL Eq. 7), so that any length gives one map.

    Args:
        features: Feature maps of whole clips. Clips that were padded in time must not come here:
            a padded frame could win.

    Returns:
        One map per clip and channel.
    """
    # Not amax: its gradient is shared among ties at the cost of two more passes over the clip,
    # and ties are frequent only where both values come from background.
    return features.max(dim=2).values


class GeneralizedMean(nn.Module):
    """Generalised-mean (GeM) pooling over the last dimension with one learnable power.

    `(mean(x^p))^(1/p)`, GaitGL Eq. 10: the mean at `p = 1`, towards the maximum as `p` grows.

    Args:
        power: Initial `p` of the equation, > 0. A higher one starts closer to max pooling.
        floor: Smallest value that takes part, > 0. Activations may be negative or zero, where a
            real power and its gradient do not exist; anything below the floor counts as the floor.

    Raises:
        ValueError: `power` or `floor` is not positive.
    """

    def __init__(self, power: float = 6.5, *, floor: float = 1e-6) -> None:
        super().__init__()
        if power <= 0 or floor <= 0:
            raise ValueError(f"power ({power}) and floor ({floor}) must be positive")
        self.floor = floor
        self.power = nn.Parameter(torch.tensor(float(power)))

    def forward(self, features: Float[Tensor, "*rows w"]) -> Float[Tensor, "*rows"]:
        """Pool `w` values to one; half-precision input is pooled in float32."""
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        features = features.clamp(min=self.floor)
        # x^6.5 of the floor is below what float32 can hold, and 0^(1/p) has no finite gradient.
        # Taking the row's largest value out of the mean changes nothing in the equation and keeps
        # every intermediate in 1/w .. 1; as a constant it drops out of the gradient too.
        largest = features.detach().amax(dim=-1, keepdim=True)
        mean = (features / largest).pow(self.power).mean(dim=-1)
        return largest.squeeze(-1) * mean.pow(1.0 / self.power)


class PartPooling(nn.Module):
    """Cut a map into horizontal parts of equal height and pool each to one vector.

    GaitGL Eq. 8-10, where a part is one row; GaitSet's horizontal mapping, where it is several.

    Args:
        num_parts: Number of parts, top to bottom. Must divide the height of the map.
        mapping: `max`, `avg`, `both` (their sum, Eq. 8 with alpha = beta = 1) or `gem`.
        gem_power: Initial power of `gem`; unused otherwise.

    Raises:
        ValueError: `mapping` is not one of the four, or a number is out of range.
    """

    def __init__(
        self, num_parts: int, mapping: SpatialMapping = "gem", *, gem_power: float = 6.5
    ) -> None:
        super().__init__()
        if num_parts < 1:
            raise ValueError(f"num_parts ({num_parts}) must be at least 1")
        if mapping not in ("gem", "max", "avg", "both"):
            raise ValueError(f"mapping ({mapping!r}) must be 'gem', 'max', 'avg' or 'both'")
        self.num_parts = num_parts
        self.mapping = mapping
        self.generalized_mean = GeneralizedMean(gem_power) if mapping == "gem" else None

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n p c"]:
        """Pool each part.

        Raises:
            ModelInputError: The height cannot be cut into `num_parts` equal parts.
        """
        height = features.shape[2]
        if height % self.num_parts:
            raise ModelInputError(
                f"part pooling: got a map of {height} rows, expected a multiple of "
                f"{self.num_parts} (num_parts)"
            )
        num_clips, channels = features.shape[:2]
        # reshape, not view: the map may be stored channels-last.
        parts = features.reshape(num_clips, channels, self.num_parts, -1).transpose(1, 2)
        if self.generalized_mean is not None:
            pooled: Tensor = self.generalized_mean(parts)
        elif self.mapping == "max":
            pooled = parts.amax(dim=-1)
        elif self.mapping == "avg":
            pooled = parts.mean(dim=-1)
        else:
            pooled = parts.amax(dim=-1) + parts.mean(dim=-1)
        return pooled


class SeparateLinear(nn.Module):
    """One fully connected layer per part, without bias (GaitGL Eq. 11; GaitSet's separate FC).

    Args:
        num_parts: Number of parts, each with weights of its own.
        in_features: Length of a part's vector.
        out_features: Length of its result.
        gain: Factor on the Xavier-uniform initial weights. Near 0 all results start out alike.
    """

    def __init__(
        self, num_parts: int, in_features: int, out_features: int, *, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_parts, in_features, out_features))
        # Part by part: over the whole tensor the initialiser would take the parts for a fan.
        for part in self.weight:
            nn.init.xavier_uniform_(part, gain)

    def forward(self, features: Float[Tensor, "n p d"]) -> Float[Tensor, "n p k"]:
        """Multiply each part's vectors with that part's matrix."""
        return torch.bmm(features.transpose(0, 1), self.weight).transpose(0, 1)


class BatchNormNeck(nn.Module):
    """Batch norm over all features of all parts, then cosine logits, part by part.

    The "BNNeck" of Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person
    Re-identification", https://arxiv.org/abs/1903.07071, as gait networks with separate parts use
    it: each feature of each part has statistics of its own, features and class weights are scaled
    to length 1, so that a logit is a cosine. Softmax needs a `scale` of 16 or so on top.

    Args:
        num_parts: Number of parts, each with class weights of its own.
        in_features: Length of a part's vector.
        num_subjects: k, length of the logits.
    """

    def __init__(self, num_parts: int, in_features: int, num_subjects: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_parts * in_features)
        self.identity_linear = SeparateLinear(num_parts, in_features, num_subjects)

    def forward(
        self, features: Float[Tensor, "n p d"]
    ) -> tuple[Float[Tensor, "n p d"], Float[Tensor, "n p k"]]:
        """Normalise and classify.

        Returns:
            The features after the norm, of length 1 in each part, and the cosines.
        """
        normed = self.norm(features.flatten(1)).view_as(features)
        # Where all clips of a batch are alike in a part the norm leaves zeros; scaled to length 1
        # from a length of nearly nothing they would have a gradient that destroys the weights.
        shortest = _SHORTEST_IN_TRAINING if self.training else 1e-12
        normed = F.normalize(normed, dim=-1, eps=shortest)
        weight = F.normalize(self.identity_linear.weight, dim=1)
        return normed, torch.bmm(normed.transpose(0, 1), weight).transpose(0, 1)


class PerFrame(nn.Module):
    """Run a 2-D network on each frame of a clip by itself.

    Args:
        network: Takes and returns `[m, c, h, w]`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Fold the frames into the batch, run, unfold."""
        num_clips, num_frames = features.shape[0], features.shape[2]
        # Clips stored channels-last become frames stored channels-last without a copy.
        frames = features.transpose(1, 2).flatten(0, 1)
        if frames.device.type == "cpu" and frames.shape[1] == 1:
            # But for one channel, whose stride the view has made up.
            frames = frames.squeeze(1).contiguous().unsqueeze(-1).permute(0, 3, 1, 2)
        frames = self.network(frames)
        unfolded: Tensor = frames.unflatten(0, (num_clips, num_frames)).transpose(1, 2)
        return unfolded


class ResidualBlock2d(nn.Module):
    """Two 3 x 3 convolutions with batch norm beside a shortcut: ResNet's basic block.

    He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385.
    The shortcut is a 1 x 1 convolution with batch norm where size or channels change.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Step of the first convolution in rows and columns.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolution1 = Convolution2d(in_channels, out_channels, 3, stride=stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.convolution2 = Convolution2d(out_channels, out_channels, 3)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                Convolution2d(in_channels, out_channels, 1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d r v"]:
        """Convolve twice and add the shortcut."""
        shortcut = features if self.shortcut is None else self.shortcut(features)
        features = F.relu_(self.norm1(self.convolution1(features)))
        features = self.norm2(self.convolution2(features))
        # In place: the gradients of a batch norm and of a sum need nothing of their results.
        return F.relu_(features.add_(shortcut))


def check_frames(
    frames: Tensor,
    *,
    model: str,
    in_channels: int,
    input_size_px: tuple[int, int],
    min_frames: int,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Refuse a batch that the model would turn into features without complaint.

    The values are looked at in one pass; on a GPU this waits for the batch to arrive.

    Args:
        frames: What was given as `[n, c, t, h, w]`.
        model: Name of the model, for the message.
        in_channels: The only `c` accepted.
        input_size_px: The only `(h, w)` accepted.
        min_frames: The smallest `t` accepted.
        value_range: Smallest and largest value expected; 0.001 beyond is taken as rounding.

    Raises:
        ModelInputError: Rank, type, number of clips, channels, size, length or values do not fit.
    """
    if frames.ndim != 5:
        raise ModelInputError(
            f"{model}: got {frames.ndim} dimensions {tuple(frames.shape)}, expected 5: "
            "[clips, channels, frames, height, width]"
        )
    num_clips, channels, num_frames, height, width = frames.shape
    if not frames.is_floating_point():
        raise ModelInputError(
            f"{model}: got {frames.dtype}, expected a floating-point type with values in "
            f"{value_range[0]:g}..{value_range[1]:g} (divide uint8 frames by 255)"
        )
    if num_clips == 0:
        raise ModelInputError(f"{model}: got an empty batch, expected at least one clip")
    if channels != in_channels:
        raise ModelInputError(
            f"{model}: got {channels} channels in {tuple(frames.shape)}, expected {in_channels}"
        )
    if (height, width) != tuple(input_size_px):
        raise ModelInputError(
            f"{model}: got frames of {height}x{width} px (height x width), expected "
            f"{input_size_px[0]}x{input_size_px[1]}; resize them or build the model with "
            "input_size_px to match"
        )
    if num_frames < min_frames:
        raise ModelInputError(
            f"{model}: got clips of {num_frames} frames, expected at least {min_frames}; "
            "leave out shorter clips or repeat their frames before the model"
        )
    low, high = torch.stack(torch.aminmax(frames.detach())).tolist()
    # Written so that NaN, which is smaller and larger than nothing, is refused as well.
    if not (low >= value_range[0] - 1e-3 and high <= value_range[1] + 1e-3):
        raise ModelInputError(
            f"{model}: got values in {low:g}..{high:g}, expected finite values in "
            f"{value_range[0]:g}..{value_range[1]:g} (divide uint8 frames by 255)"
        )
