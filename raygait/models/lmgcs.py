"""LMGCS: Multi-view gait recognition with joint local multi-scale and global contextual features.

Wenzhe Zhai, Haomiao Li, Chaoqun Zheng, Xianglei Xing, "Multi-view gait recognition with joint
local multi-scale and global contextual spatio-temporal features". Written from the paper; its
authors have released no code.

Symbols
    I          frames                                  `frames`      [n, c, t, h, w]
    F          maps of the 3-D convolutions            `E3D`         [n, c, t, h, w]
    M          one vector per frame and strip          `HorizontalPyramid`  [n, c, t, p]
    m          strips                                  `num_strips`
    s          frames of a sub-sequence                `scales`, one branch b each
    k, b       kernels and biases of Eq. 2             `LocalFeatures`
    T_s^i      local features around frame i           [b, n, c, t, p]
    C_s^i      the same after fusion                   [b, n, c, t, p]
    C_s^max    their maximum over time                 [b, n, c, p]
    O_s        global feature                          [b, n, c, p]
    (n, m)     layers of encoder and decoder           `gsfe_layers`
    G          fully connected mapping                 `mapping`
    A, B       sub-networks of Table II                `parameter_groups`, `phase`

Equations
    1 `HorizontalPyramid`;  2 `LocalFeatures`;  3 `MFF`;  4, 5 its two kinds;  6 `GSFE`;
    7, 8 `MultiHeadAttention`;  9 `FeedForward`.  G of 10 and 11 is `mapping`; 10-14 are losses:
    L_tri1 is of the branch `local`, L_tri2 of the branch `global`, L_ce of the logits of both.

Ablations
    Table VIII  LMFE off `scales=None`, MFF off `mff=None`, GSFE off `gsfe_layers=None`
    Table IX    `scales` = (1,), (3,), (5,), (1, 3), (3, 5), (1, 5), (1, 3, 5), the rest as is
    Table X     baseline `scales=None, mff=None, gsfe_layers=None`; GSFE 1 x 1 or 4 x 4
                `gsfe_layers`; the rows with LMFE have `mff=None`
    Table XI    `mff`
    Table XII   `embedding_dim`
    Table XIII  `scales` = (1, 5, 7), (1, 3, 5), (3, 5, 7)
    Table XIV   weights of the losses

Where the paper is silent, or says two things
    E3D              One convolution for each of the four widths of section IV-B, zeros around, no
                     frame lost. Half-size pooling after the first two, where the width grows; so
                     16 rows, each a strip (m is not printed).
    Eq. 1            Concatenation (Table I): c doubles. Its printed shape is a sum's:
                     `hpm="sum"`.
    Eq. 2            Each window is padded with zeros on its own: the first convolution keeps its s
                     frames, the second makes one of them, and the first term is the middle frame
                     (nothing else has the printed shape). So T_s^i knows nothing outside its
                     window. `window="stacked"` is two ordinary convolutions over the whole clip,
                     which see 2 s - 1 frames. Kernel s; all strips share the weights (Table IX).
                     ReLU as printed, though IV-B has a Leaky ReLU after each convolution.
    Ends of a clip   Frames before the first and after the last are zero.
    Eq. 4            A sum, as the text and the shapes say; the sign is Table I's concatenation.
    Eq. 5            S is not defined. Here w_s = softmax over s of <fused, T_s> / sqrt(c), for each
                     frame and strip, and C_s = w_s T_s + T_s. Kernel 1.
    Headline         Static fusion, fine to coarse (best two columns of Table XI, the figures of
                     Table V).
    Transformer      As Vaswani et al. [28]: 8 heads, width 2048, norm after each sum. No position
                     encoding, none is printed: a clip is a set of windows. No dropout. The
                     decoder's only item reads from itself with weight 1, so that query and key of
                     that attention have a gradient of zero; Table IX's count has them.
    Shared           One GSFE for all branches and strips: a branch adds no more than its bank of G
                     (Table IX: 1.05 M = 16 x 256 x 256).
    Parameters       Table IX's 14.72, 15.77 and 16.82 M are E3D 719,712 + three LMFE branches
                     1,179,648 + the convolution of Eq. 5 196,608 + GSFE 11,575,296 + 1,048,576 for
                     each branch in use: 14,719,840, 15,768,416, 16,816,992. So they count modules
                     that their row does not use, and no class weights; the 1,792 biases of Eq. 2
                     and 5 would not show. A fit, which other layouts reach too: it does not decide
                     Eq. 1. Here a network holds what it uses.
    G                One letter in Eq. 10 and 11, one bank a branch in the count: one set of weights
                     for both, A's, so that B has to learn for the G that A left. The count could be
                     of a tested network without what only A needed: `mapping="separate"` gives B a
                     G of its own, and B's loss falls faster.
    Losses           Table II trains A, then B; Eq. 14 is one sum: `phase`. A frozen sub-network
                     is not trained, has no gradient and stays in evaluation mode.
    Branches         L_tri1 of Eq. 12 is one term: the mean over all strips of all branches.
    Logits           Separate layers without bias on G's result, one set for A, one for B. No batch
                     norm, no scale: none is printed.
    Embedding        G's result of all branches, side by side as parts. Of A alone, its own.
    Table IX         Its fine row is the baseline of VIII in figures, so MFF and GSFE may be off
                     there; here they stay on.
    Slips            VIII's text has +1.3 where the table has +1.1; VI's "GLFE" is another network's
                     row; X's MT3D is not V's.
    Adam, 0.9        The "momentum of 0.9" of Adam is its first beta.
    Initial weights  He's for E3D and Eq. 2; there is no norm to mend their scale. Xavier's
                     elsewhere, a tenth of it for the logits.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

import math
from typing import Literal, TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from raygait.models.layers import (
    Convolution3d,
    SeparateLinear,
    channels_last,
    check_frames,
    scaled,
)
from raygait.models.output import Branch, GaitOutput

HorizontalMapping = Literal["cat", "sum"]
Window = Literal["strict", "stacked"]
Fusion = Literal["static_ascending", "static_descending", "attention"]
Mapping = Literal["shared", "separate"]
Phase = Literal["a", "b", "joint"]

_NEGATIVE_SLOPE = 0.01


class Plan(TypedDict):
    """The shape of a network, as keyword arguments of `LMGCS`."""

    channels: tuple[int, int, int, int]


def casiab_plan(*, width: float = 1.0) -> Plan:
    """The plan of section IV-B for 74 subjects; the default of `LMGCS`.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `LMGCS(num_subjects, **plan)`.
    """
    return _scaled((32, 64, 128, 128), width)


def large_plan(*, width: float = 1.0) -> Plan:
    """The plan of section IV-B for thousands of subjects.

    Args:
        width: Factor on the number of channels, 1.0 is the paper's.

    Returns:
        Arguments for `LMGCS(num_subjects, **plan)`.
    """
    return _scaled((64, 128, 256, 256), width)


def _scaled(channels: tuple[int, int, int, int], width: float) -> Plan:
    a, b, c, d = scaled(channels, width)
    return Plan(channels=(a, b, c, d))


class Convolution(nn.Module):
    """A 3 x 3 x 3 convolution and a Leaky ReLU; frames, rows and columns stay.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = Convolution3d(in_channels, out_channels, (3, 3, 3), padding=(1, 1, 1))
        nn.init.kaiming_uniform_(self.convolution.weight, a=_NEGATIVE_SLOPE)

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t h w"]:
        """Convolve."""
        return F.leaky_relu_(self.convolution(features), _NEGATIVE_SLOPE)


class E3D(nn.Module):
    """The backbone: four convolutions, the first two of them with a pooling over 2 x 2 pixels.

    Args:
        in_channels: Channels of a frame.
        channels: Channels after each convolution.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        before = (in_channels, *channels[:-1])
        self.convolutions = nn.ModuleList(map(Convolution, before, channels))
        self.poolings = nn.ModuleList([nn.MaxPool3d((1, 2, 2)), nn.MaxPool3d((1, 2, 2))])

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t r v"]:
        """Extract maps of a quarter of the height and width."""
        features = frames
        for index, convolution in enumerate(self.convolutions):
            features = convolution(features)
            if index < len(self.poolings):
                features = self.poolings[index](features)
        return features


class HorizontalPyramid(nn.Module):
    """Eq. 1: mean and maximum of each strip of each frame.

    Args:
        num_strips: m, strips of equal height. Must divide the height of the map.
        mapping: `cat` puts mean and maximum side by side, `sum` adds them.
    """

    def __init__(self, num_strips: int, mapping: HorizontalMapping) -> None:
        super().__init__()
        self.num_strips = num_strips
        self.mapping = mapping

    def forward(self, features: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t p"]:
        """Pool; `d` is `2 c` for `cat`."""
        # reshape, not view: the map may be stored channels-last.
        strips = features.reshape(*features.shape[:3], self.num_strips, -1)
        mean, largest = strips.mean(dim=-1), strips.amax(dim=-1)
        return torch.cat((mean, largest), dim=1) if self.mapping == "cat" else mean + largest


class LocalFeatures(nn.Module):
    """Eq. 2, one branch of the LMFE: local features around each frame.

    Args:
        channels: Length of a strip's vector, in and out.
        scale: s, frames of a window and of the kernels; odd.
        window: `strict` pads each window on its own, `stacked` only the clip.
    """

    def __init__(self, channels: int, scale: int, window: Window) -> None:
        super().__init__()
        self.scale = scale
        self.window = window
        self.convolution1 = _convolution_over_time(channels, channels, scale)
        self.convolution2 = _convolution_over_time(channels, channels, scale)

    def forward(self, features: Float[Tensor, "n c t p"]) -> Float[Tensor, "n c t p"]:
        """Extract."""
        if self.window == "stacked":
            hidden = F.relu(self._padded(self.convolution1, features))
            return hidden + F.relu(self._padded(self.convolution2, hidden))
        reach = self.scale // 2
        num_clips = features.shape[0]
        windows = F.pad(features, (0, 0, reach, reach)).unfold(2, self.scale, 1)  # [n, c, t, p, s]
        windows = windows.permute(0, 2, 1, 4, 3).flatten(0, 1)  # [n * t, c, s, p]
        hidden = F.relu(self._padded(self.convolution1, windows))
        merged = F.relu(self.convolution2(hidden))  # [n * t, c, 1, p]
        local = hidden[:, :, reach] + merged.squeeze(2)
        return local.view(num_clips, -1, *local.shape[1:]).transpose(1, 2)

    def _padded(self, convolution: nn.Conv2d, features: Tensor) -> Tensor:
        reach = self.scale // 2
        result: Tensor = convolution(F.pad(features, (0, 0, reach, reach)))
        return result


def _convolution_over_time(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    """The paper's 1-D convolution: over frames, the same for every strip."""
    convolution = nn.Conv2d(in_channels, out_channels, (kernel, 1))
    nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


class MFF(nn.Module):
    """Multi-branch feature fusion, Eq. 3: each branch takes something from the others.

    Args:
        channels: Length of a strip's vector.
        num_branches: Branches that come in, fine to coarse, and go out.
        fusion: `static_ascending` adds to each branch all finer ones (Eq. 4),
            `static_descending` all coarser ones, `attention` weighs them (Eq. 5).
    """

    def __init__(self, channels: int, num_branches: int, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion
        self.convolution: nn.Conv2d | None = None
        if fusion == "attention":
            self.convolution = nn.Conv2d(num_branches * channels, channels, 1)
            nn.init.xavier_uniform_(self.convolution.weight)
            assert self.convolution.bias is not None
            nn.init.zeros_(self.convolution.bias)

    def forward(self, local: Float[Tensor, "b n c t p"]) -> Float[Tensor, "b n c t p"]:
        """Fuse."""
        if self.convolution is not None:
            fused = self.convolution(torch.cat(local.unbind(), dim=1))  # [n, c, t, p]
            closeness = (fused * local).sum(dim=2, keepdim=True) / math.sqrt(local.shape[2])
            weights: Tensor = closeness.softmax(dim=0)
            return weights * local + local
        if self.fusion == "static_descending":
            return local.flip(0).cumsum(dim=0).flip(0)
        return local.cumsum(dim=0)


class MultiHeadAttention(nn.Module):
    """Eq. 7 and 8 with several heads: each item of one sequence reads from another sequence.

    Args:
        channels: Length of an item, in and out.
        num_heads: Heads that share the channels out equally.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = _linear(channels, channels)
        self.key = _linear(channels, channels)
        self.value = _linear(channels, channels)
        self.output = _linear(channels, channels)

    def forward(
        self, reader: Float[Tensor, "m q c"], source: Float[Tensor, "m t c"]
    ) -> Float[Tensor, "m q c"]:
        """Read.

        Args:
            reader: Items that ask, Q before its projection.
            source: Items that are read, K and V before theirs. The same tensor: self-attention.
        """
        query = self.query(reader).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        key = self.key(source).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        value = self.value(source).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        read = F.scaled_dot_product_attention(query, key, value)  # [m, heads, q, c / heads]
        result: Tensor = self.output(read.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Eq. 9: two linear layers with a ReLU between, on each item by itself.

    Args:
        channels: Length of an item, in and out.
        width: Length between the two layers.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear1 = _linear(channels, width)
        self.linear2 = _linear(width, channels)

    def forward(self, features: Float[Tensor, "m t c"]) -> Float[Tensor, "m t c"]:
        """Transform."""
        result: Tensor = self.linear2(F.relu(self.linear1(features)))
        return result


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    # The biases stay as torch draws them. A strip in which nothing is seen is all zeros; with
    # biases of zero it would stay so through every norm, whose gradient there is 300 times what
    # comes in: after a stack of them it is no number any more.
    return linear


class EncoderLayer(nn.Module):
    """A sequence reads from itself (Eq. 8), then Eq. 9; each is added to its input and normed.

    Args:
        channels: Length of an item.
        num_heads: Heads of the attention.
        width: Width of the feed-forward network.
    """

    def __init__(self, channels: int, num_heads: int, width: int) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(channels, num_heads)
        self.self_attention_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, width)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(self, features: Float[Tensor, "m t c"]) -> Float[Tensor, "m t c"]:
        """Encode one step further."""
        features = self.self_attention_norm(features + self.self_attention(features, features))
        result: Tensor = self.feed_forward_norm(features + self.feed_forward(features))
        return result


class DecoderLayer(nn.Module):
    """The query reads from itself, then from the encoded sequence, then Eq. 9.

    Args:
        channels: Length of an item.
        num_heads: Heads of both attentions.
        width: Width of the feed-forward network.
    """

    def __init__(self, channels: int, num_heads: int, width: int) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(channels, num_heads)
        self.self_attention_norm = nn.LayerNorm(channels)
        self.cross_attention = MultiHeadAttention(channels, num_heads)
        self.cross_attention_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, width)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(
        self, query: Float[Tensor, "m 1 c"], encoded: Float[Tensor, "m t c"]
    ) -> Float[Tensor, "m 1 c"]:
        """Decode one step further."""
        query = self.self_attention_norm(query + self.self_attention(query, query))
        query = self.cross_attention_norm(query + self.cross_attention(query, encoded))
        result: Tensor = self.feed_forward_norm(query + self.feed_forward(query))
        return result


class GSFE(nn.Module):
    """Global self-attention feature extractor, Eq. 6: a pooling over time that is learnt.

    The frames of a part encode each other; their maximum over time then asks the encoded frames.
    All parts share the weights, so their number does not depend on parts or frames. Nothing
    encodes a frame's position: the order of the frames does not matter. There is no dropout.

    Args:
        channels: c, length of a part's vector in a frame, in and out.
        num_layers: Layers of the encoder and of the decoder, (n, m) in the paper, at least 1.
        num_heads: Heads of each attention; must divide `channels`.
        feed_forward_width: Width of the feed-forward networks of Eq. 9.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        channels: int,
        num_layers: tuple[int, int] = (4, 4),
        *,
        num_heads: int = 8,
        feed_forward_width: int = 2048,
    ) -> None:
        super().__init__()
        if len(num_layers) != 2 or min(num_layers) < 1:
            raise ValueError(
                f"num_layers {num_layers} must be two numbers, encoder and decoder, of at least 1"
            )
        if min(channels, num_heads, feed_forward_width) < 1 or channels % num_heads:
            raise ValueError(
                f"channels ({channels}) must be a multiple of num_heads ({num_heads}), and "
                f"feed_forward_width ({feed_forward_width}) at least 1"
            )
        self.encoder = nn.ModuleList(
            EncoderLayer(channels, num_heads, feed_forward_width) for _ in range(num_layers[0])
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(channels, num_heads, feed_forward_width) for _ in range(num_layers[1])
        )

    def forward(self, features: Float[Tensor, "n c t p"]) -> Float[Tensor, "n c p"]:
        """Pool.

        Args:
            features: One vector per frame and part. All frames count: clips padded in time must
                not come here.
        """
        num_clips, channels, _, num_parts = features.shape
        encoded = features.permute(0, 3, 2, 1).flatten(0, 1)  # [n * p, t, c]
        query: Tensor = encoded.max(dim=1, keepdim=True).values
        for layer in self.encoder:
            encoded = layer(encoded)
        for layer in self.decoder:
            query = layer(query, encoded)
        return query.view(num_clips, num_parts, channels).transpose(1, 2)


class LMGCS(nn.Module):
    """LMGCS, on silhouettes or anything else with values in 0..1.

    Args:
        num_subjects: k, number of subjects in training; length of the logits.
        channels: Channels after each convolution of the backbone E3D. Time and memory of the
            backbone grow with the square; strips have twice the last with `hpm` = `cat`.
        num_strips: m, horizontal strips of the last map; must divide its height, a quarter of the
            frame's.
        hpm: Horizontal pyramid mapping (Eq. 1): mean and maximum of a strip side by side (`cat`)
            or added (`sum`).
        scales: s of each branch of the LMFE, in frames, odd and growing; as many branches as
            numbers (Tables IX, XIII). `None`: no LMFE, one branch of single frames (Table VIII).
        window: `strict` keeps each sub-sequence to itself (Eq. 2); `stacked` is two convolutions
            over the whole clip, cheaper, and sees 2 s - 1 frames.
        mff: Fusion of the branches (Table XI): `static_ascending` adds finer to coarser ones
            (Eq. 4), `static_descending` coarser to finer ones, `attention` weighs them (Eq. 5).
            `None`: each branch by itself (Table VIII).
        gsfe_layers: Layers of the GSFE's encoder and decoder, (n, m) of section IV-B (Table X).
            `None`: no GSFE, the maximum over time instead (Table VIII).
        gsfe_heads: Attention heads of the GSFE; must divide the length of a strip's vector.
        gsfe_width: Width of the GSFE's feed-forward networks (Eq. 9).
        embedding_dim: d, length of a part's embedding (Table XII).
        mapping: `shared`: one fully connected layer G for local and global features (Eq. 10, 11),
            part of A. `separate`: B has its own.
        phase: What a run trains (Table II): `a` everything but the GSFE (L_tri1), which is then
            left out, `b` the GSFE and its logits on top of an A that is frozen (L_tri2), `joint`
            both at once (Eq. 14). The weights have the same names in all three.
        in_channels: c, 1 for silhouettes.
        input_size_px: Height and width of a frame.

    Attributes:
        num_parts: p of the output, strips times branches.
        min_frames: Shortest clip, 1.

    Raises:
        ValueError: An argument is out of range, or two do not fit each other.
    """

    def __init__(
        self,
        num_subjects: int,
        *,
        channels: tuple[int, int, int, int] = (32, 64, 128, 128),
        num_strips: int = 16,
        hpm: HorizontalMapping = "cat",
        scales: tuple[int, ...] | None = (1, 3, 5),
        window: Window = "strict",
        mff: Fusion | None = "static_ascending",
        gsfe_layers: tuple[int, int] | None = (4, 4),
        gsfe_heads: int = 8,
        gsfe_width: int = 2048,
        embedding_dim: int = 256,
        mapping: Mapping = "shared",
        phase: Phase = "joint",
        in_channels: int = 1,
        input_size_px: tuple[int, int] = (64, 44),
    ) -> None:
        super().__init__()
        if num_subjects < 1:
            raise ValueError(f"num_subjects ({num_subjects}) must be at least 1")
        if len(channels) != 4 or min(*channels, in_channels, embedding_dim) < 1:
            raise ValueError(
                f"channels {channels} must be four, they, in_channels ({in_channels}) and "
                f"embedding_dim ({embedding_dim}) at least 1"
            )
        height, width = input_size_px
        if height % 4 or width % 2 or width < 4:
            raise ValueError(
                f"input_size_px {tuple(input_size_px)} must have rows that 4 divides, and an even "
                "number of columns, at least 4: two poolings halve them"
            )
        if num_strips < 1 or height // 4 % num_strips:
            raise ValueError(
                f"num_strips ({num_strips}) must divide the {height // 4} rows of the last map"
            )
        if hpm not in ("cat", "sum"):
            raise ValueError(f"hpm ({hpm!r}) must be 'cat' or 'sum'")
        if scales is not None and (
            not scales
            or min(scales) < 1
            or any(scale % 2 == 0 for scale in scales)
            or list(scales) != sorted(set(scales))
        ):
            raise ValueError(f"scales {scales} must be None or odd numbers that grow")
        if window not in ("strict", "stacked"):
            raise ValueError(f"window ({window!r}) must be 'strict' or 'stacked'")
        if mff not in ("static_ascending", "static_descending", "attention", None):
            raise ValueError(
                f"mff ({mff!r}) must be 'static_ascending', 'static_descending', 'attention' or "
                "None"
            )
        num_branches = 1 if scales is None else len(scales)
        if mff == "attention" and num_branches == 1:
            raise ValueError(f"mff ({mff!r}) has nothing to weigh with scales {scales}")
        if mapping not in ("shared", "separate"):
            raise ValueError(f"mapping ({mapping!r}) must be 'shared' or 'separate'")
        if phase not in ("a", "b", "joint"):
            raise ValueError(f"phase ({phase!r}) must be 'a', 'b' or 'joint'")
        if phase == "b" and gsfe_layers is None:
            raise ValueError(f"phase ({phase!r}) trains the GSFE, and gsfe_layers is None")

        self.in_channels = in_channels
        self.input_size_px = (height, width)
        self.phase: Phase = phase
        self.num_parts = num_branches * num_strips
        self.min_frames = 1

        self.e3d = E3D(in_channels, tuple(channels))
        self.horizontal_pyramid = HorizontalPyramid(num_strips, hpm)
        length = 2 * channels[-1] if hpm == "cat" else channels[-1]
        self.lmfe: nn.ModuleDict | None = None
        if scales is not None:
            self.lmfe = nn.ModuleDict(
                {f"scale_{scale}": LocalFeatures(length, scale, window) for scale in scales}
            )
        self.mff = None if mff is None else MFF(length, num_branches, mff)
        self.mapping = SeparateLinear(self.num_parts, length, embedding_dim)
        # Small weights make no subject likelier at first: the cross-entropy starts near log k.
        self.local_identity_linear = SeparateLinear(
            self.num_parts, embedding_dim, num_subjects, gain=0.1
        )
        self.gsfe: GSFE | None = None
        self.global_mapping: SeparateLinear | None = None
        self.global_identity_linear: SeparateLinear | None = None
        if gsfe_layers is not None:
            self.gsfe = GSFE(
                length, gsfe_layers, num_heads=gsfe_heads, feed_forward_width=gsfe_width
            )
            if mapping == "separate":
                self.global_mapping = SeparateLinear(self.num_parts, length, embedding_dim)
            self.global_identity_linear = SeparateLinear(
                self.num_parts, embedding_dim, num_subjects, gain=0.1
            )
        # Frozen from the start, because DDP and optimisers look at the parameters once.
        groups = self.parameter_groups()
        for parameter in groups["subnetwork_a"]:
            parameter.requires_grad_(phase != "b")
        for parameter in groups.get("subnetwork_b", []):
            parameter.requires_grad_(phase != "a")

    def train(self, mode: bool = True) -> "LMGCS":
        """Switch to training; what `phase` freezes stays in evaluation mode."""
        super().train(mode)
        if self.phase == "b":
            for block in self._subnetworks()["subnetwork_a"]:
                block.eval()
        return self

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> GaitOutput:
        """Embed clips of equal length.

        Args:
            frames: Clips with values in 0..1. All `t` frames count: a batch of clips of unequal
                length must be split by length, not padded.

        Returns:
            The branches that `phase` trains: `local` (sub-network A, Eq. 10) and `global` (B,
            Eq. 11). The embedding is the global triplet features, or the local ones without a
            GSFE or in phase `a`.

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
        # In evaluation a gradient with respect to the frames is somebody's wish.
        is_frozen = self.phase == "b" and self.training
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen):
            fused = self._fused(channels_last(frames))
        pooled: dict[str, Tensor] = {}
        if self.phase != "b":
            pooled["local"] = fused.max(dim=3).values
        if self.gsfe is not None and self.phase != "a":
            pooled["global"] = self.gsfe(fused.flatten(0, 1)).view(*fused.shape[:3], -1)
        # [b, n, c, p] -> [n, b * p, c]
        rows = {name: value.permute(1, 0, 3, 2).flatten(1, 2) for name, value in pooled.items()}
        if self.global_mapping is None:
            mapped = self.mapping(torch.cat(list(rows.values()))).chunk(len(rows))
        else:
            mapped = [
                self.mapping(value) if name == "local" else self.global_mapping(value)
                for name, value in rows.items()
            ]
        branches: dict[str, Branch] = {}
        for name, features in zip(rows, mapped, strict=True):
            classifier = (
                self.local_identity_linear if name == "local" else self.global_identity_linear
            )
            assert classifier is not None
            branches[name] = Branch(features, classifier(features))
        return GaitOutput(mapped[-1], branches)

    def _fused(self, frames: Float[Tensor, "n c t h w"]) -> Float[Tensor, "b n d t p"]:
        """C_s^i of all branches: everything before time is pooled."""
        features = self.horizontal_pyramid(self.e3d(frames))
        if self.lmfe is None:
            fused: Tensor = features.unsqueeze(0)
        else:
            fused = torch.stack([branch(features) for branch in self.lmfe.values()])
        if self.mff is not None:
            fused = self.mff(fused)
        return fused

    def named_stages(self) -> dict[str, nn.Module]:
        """The blocks whose output a description of the network shows, in order."""
        blocks: dict[str, nn.Module] = {}
        for number, convolution in enumerate(self.e3d.convolutions, start=1):
            blocks[f"convolution {number}"] = convolution
            if number <= len(self.e3d.poolings):
                blocks[f"pooling {number}"] = self.e3d.poolings[number - 1]
        blocks["horizontal pyramid"] = self.horizontal_pyramid
        if self.lmfe is not None:
            for name, branch in self.lmfe.items():
                blocks[f"local features {name.replace('_', ' ')}"] = branch
        if self.mff is not None:
            blocks["fusion"] = self.mff
        if self.gsfe is not None and self.phase != "a":
            blocks["global self-attention"] = self.gsfe
        if self.global_mapping is None or self.phase != "b":
            blocks["mapping"] = self.mapping
        if self.global_mapping is not None and self.phase != "a":
            blocks["global mapping"] = self.global_mapping
        return blocks

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by the sub-network of Table II they belong to, frozen or not.

        Returns:
            `subnetwork_a` (E3D, LMFE, MFF, G and the local logits) and, with a GSFE,
            `subnetwork_b` (it, a G of its own if there is one, and the global logits).
        """
        groups = {
            name: [parameter for block in blocks for parameter in block.parameters()]
            for name, blocks in self._subnetworks().items()
        }
        return {name: parameters for name, parameters in groups.items() if parameters}

    def _subnetworks(self) -> dict[str, list[nn.Module]]:
        a = (self.e3d, self.horizontal_pyramid, self.lmfe, self.mff, self.mapping)
        b = (self.gsfe, self.global_mapping, self.global_identity_linear)
        return {
            "subnetwork_a": [
                block for block in (*a, self.local_identity_linear) if block is not None
            ],
            "subnetwork_b": [block for block in b if block is not None],
        }
