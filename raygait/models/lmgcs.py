"""LMGCS: multi-view gait recognition with joint local multi-scale and global contextual features.

The part of the paper that other networks use too: the global self-attention feature extractor.
"""

# Annotations are evaluated here: recipes read the constructor's signature.

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
    nn.init.zeros_(linear.bias)
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
        num_clips = features.shape[0]
        encoded = features.permute(0, 3, 2, 1).flatten(0, 1)  # [n * p, t, c]
        query = encoded.max(dim=1, keepdim=True).values
        for layer in self.encoder:
            encoded = layer(encoded)
        for layer in self.decoder:
            query = layer(query, encoded)
        return query.squeeze(1).unflatten(0, (num_clips, -1)).transpose(1, 2)
