"""The paper's section 3: span-based dynamic convolution, and its mix with self-attention.

Shapes: B batch, L length, d hidden size, h heads per branch, D head size, A = h·D, k taps.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from convbert.config import ConvBertConfig
from convbert.layers import DepthwiseConv1D, Linear, add_bias, truncated_normal

# Added to the scores of padding keys. Large enough that nothing of them is left (Paddle's softmax
# gives 1e-28 on a CPU), and small enough for float16, which the customary -1e9 overflows.
MASKED_SCORE = -1e4


class Mixing(NamedTuple):
    """What one mixed attention mixed with, for each query token."""

    attention: Tensor | None  # probabilities before dropout [B, h, L, L]; rows sum to 1
    # Softmaxed taps [B, h, L, k]; tap j reads token i + j - (k-1)/2. None if heads have no kernel.
    kernels: Tensor | None


class SeparableConv1D(nn.Layer):
    """Depthwise, then pointwise convolution over tokens; gives the span key K_s (eq. 4).

    No activation between the two. A learned bias per output channel.
    """

    def __init__(self, size_in: int, size_out: int, kernel_size: int, std: float) -> None:
        """Make the layer for odd `kernel_size`."""
        super().__init__()
        self.depthwise = DepthwiseConv1D(size_in, kernel_size)
        init = paddle.ParamAttr(initializer=truncated_normal(std))
        self.pointwise = nn.Conv1D(size_in, size_out, 1, weight_attr=init, bias_attr=False)
        self.bias = self.create_parameter([size_out], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, L, in] to [B, L, out], zero-padded at both ends."""
        mixed = self.depthwise(x)  # [B, L, in]
        weight = self.pointwise.weight.squeeze(-1)  # [out, in, 1] -> [out, in]
        return add_bias(paddle.matmul(mixed, weight, transpose_y=True), self.bias)


def expand_kernels(kernels: Tensor) -> Tensor:
    """Write convolution kernels as banded mixing matrices.

    Eq. 2 (light convolution) as a matrix: row i holds the taps around token i. A convolution head
    then is an attention head whose matrix is a band, and both are applied by the same product.

    Args:
        kernels: taps [B, h, L, k]; tap j of row i reads token i + j - (k-1)/2.

    Returns:
        Weights [B, h, L, L]; a row sums to less than 1 where taps leave the sentence.
    """
    length, taps = kernels.shape[2:]
    reach = (taps - 1) // 2
    return padded_band(kernels)[:, :, :, reach : reach + length]


def padded_band(kernels: Tensor) -> Tensor:
    """Write kernels as matrices over a sentence with (k-1)/2 zeros at both ends.

    Args:
        kernels: taps [B, h, L, k].

    Returns:
        Weights [B, h, L, L+k-1]: row i holds its taps from column i on, and zeros.
    """
    batch, heads, length, taps = kernels.shape
    # Between the taps of one row and of the next stand L zeros. Written one after the other and
    # read back in rows of width L + k - 1, each row's taps stand one column further right.
    zeros = paddle.zeros([batch, heads, length - 1, length], kernels.dtype)
    later = paddle.concat([zeros, kernels[:, :, 1:]], -1).flatten(2)  # [B, h, (L-1)·(L+k)]
    rows = paddle.concat([kernels[:, :, 0], later], -1)  # [B, h, L·(L+k-1)]
    return rows.reshape([batch, heads, length, length + taps - 1])


def apply_kernels(kernels: Tensor, values: Tensor) -> Tensor:
    """Convolve values [B, h, L, D] with a kernel for each position [B, h, L, k] (eq. 2).

    It is `expand_kernels(kernels) @ values`; padding the values spares cutting the band to size.
    """
    batch, heads, _, size = values.shape
    ends = paddle.zeros([batch, heads, kernels.shape[-1] // 2, size], values.dtype)
    padded = paddle.concat([ends, values, ends], 2)  # [B, h, L+k-1, D]
    return paddle.matmul(padded_band(kernels), padded)


class SpanDynamicConv(nn.Layer):
    """Span-based dynamic convolution (eq. 4), and the simpler ones it grew from.

    The kernel of position i comes from Q_i ⊙ K_s,i, where K_s,i summarizes the span around i.
    `conv_type` "dynamic" makes it from the token alone (eq. 3), "static" learns one kernel per
    head for all positions (eq. 2), "depthwise" one per channel, without the softmax: the plain
    depthwise convolution that light convolution simplifies. The value is a projection of its own;
    the paper's figure shares V with attention, the released code and weights do not.
    """

    def __init__(self, config: ConvBertConfig) -> None:
        """Make the branch's layers: d -> A; `noconv` has none."""
        super().__init__()
        d, taps, std = config.hidden_size, config.conv_kernel_size, config.initializer_range
        size, self.heads, self.taps = config.branch_size, config.heads, taps
        self.conv_type = config.conv_type
        if self.conv_type == "noconv":
            return
        if self.conv_type == "sdconv":
            self.key_conv_attn_layer = SeparableConv1D(d, size, taps, std)
        if self.conv_type == "depthwise":
            self.channel_conv = DepthwiseConv1D(size, taps)
        elif self.conv_type == "static":
            init = truncated_normal(std)
            self.static_kernel = self.create_parameter([self.heads, taps], default_initializer=init)
        else:
            self.conv_kernel_layer = Linear(
                size if self.conv_type == "sdconv" else d, self.heads * taps, std
            )
        self.conv_out_layer = Linear(d, size, std)

    def kernels(self, x: Tensor, query: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the softmaxed taps of each head and position.

        Args:
            x: the layer's input [B, L, d].
            query: Q, unscaled [B, L, A], shared with attention.
            keep: 1 for tokens, 0 for padding [B, L, 1]; None: convolve over everything.

        Returns:
            Kernels [B, h, L, k]; the taps sum to 1.
        """
        batch, length = x.shape[:2]
        if self.conv_type == "static":
            taps = F.softmax(self.static_kernel, -1).reshape([1, self.heads, 1, self.taps])
            return taps.expand([batch, self.heads, length, self.taps])
        source = x  # eq. 3
        if self.conv_type == "sdconv":
            source = self.key_conv_attn_layer(x if keep is None else x * keep) * query  # [B, L, A]
        logits = self.conv_kernel_layer(source)  # [B, L, h·k]
        logits = logits.reshape([batch, length, self.heads, self.taps])  # [B, L, h, k]
        return F.softmax(logits, -1).transpose([0, 2, 1, 3])  # [B, h, L, k]

    def conv_values(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what is convolved, zero at padding: [B, L, d] -> [B, L, A].

        Padding is cleared after the bias, which would otherwise put it back.
        """
        values = self.conv_out_layer(x)
        return values if keep is None else values * keep

    def convolve(
        self, x: Tensor, query: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the branch's output [B, h, L, D], and its kernels [B, h, L, k] if heads have one.

        Eq. 2, and with the arguments of `kernels` eq. 3 and 4.
        """
        values = self.conv_values(x, keep)
        if self.conv_type == "depthwise":
            return self.split_heads(self.channel_conv(values)), None
        kernels = self.kernels(x, query, keep)
        return apply_kernels(kernels, self.split_heads(values)), kernels

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, L, A] -> [B, h, L, D]."""
        batch, length = x.shape[:2]
        return x.reshape([batch, length, self.heads, -1]).transpose([0, 2, 1, 3])


class MixedAttention(SpanDynamicConv):
    """Mixed attention (eq. 5): h attention heads beside h convolution heads, then a projection.

    Both branches share the query. It extends the convolution instead of holding it, so that the
    parameters have the flat names of the published Paddle checkpoints.
    """

    def __init__(self, config: ConvBertConfig) -> None:
        """Make the layer: d -> d."""
        super().__init__(config)
        d, size, std = config.hidden_size, config.branch_size, config.initializer_range
        self.dropout = config.attention_probs_dropout_prob
        self.q_proj = Linear(d, size, std)
        self.k_proj = Linear(d, size, std)
        self.v_proj = Linear(d, size, std)
        # On a GPU, flash attention never writes the [L, L] probabilities; recording needs them.
        self.fused = paddle.get_device().startswith("gpu")
        self.out_proj = Linear(size if self.conv_type == "noconv" else 2 * size, d, std)

    def forward(
        self,
        x: Tensor,
        scores_mask: Tensor | None = None,
        keep: Tensor | None = None,
        return_mixing: bool = False,
    ) -> Tensor | tuple[Tensor, Mixing]:
        """Mix tokens.

        Args:
            x: hidden states [B, L, d].
            scores_mask: added to the attention scores [B, 1, 1, L]; None: every key is seen.
            keep: 1 for tokens, 0 for padding [B, L, 1]; None: the convolution sees everything.
            return_mixing: also return the probabilities and kernels that were used.

        Returns:
            Hidden states [B, L, d]; with `return_mixing` also a `Mixing`.
        """
        query = self.q_proj(x)  # [B, L, A]
        keys, values = self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))
        attention, kernels = None, None
        if return_mixing or not self.fused:
            scores = paddle.matmul(self.split_heads(query), keys, transpose_y=True)  # [B, h, L, L]
            scores = scores * (keys.shape[-1] ** -0.5)
            attention = F.softmax(scores if scores_mask is None else scores + scores_mask, -1)
            dropped = F.dropout(attention, self.dropout, training=self.training)
            mixed = paddle.matmul(dropped, values)  # [B, h, L, D]
        else:
            mixed = self.fused_attention(self.split_heads(query), keys, values, scores_mask)
        if self.conv_type != "noconv":
            convolved, kernels = self.convolve(x, query, keep)  # [B, h, L, D]
            mixed = paddle.concat([mixed, convolved], 1)  # [B, 2h, L, D]
        mixed = mixed.transpose([0, 2, 1, 3]).flatten(2)  # [B, L, 2A]
        output = self.out_proj(mixed)
        return (output, Mixing(attention, kernels)) if return_mixing else output

    def fused_attention(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Eq. 1 by Paddle's fused kernel: [B, h, L, D] three times -> [B, h, L, D]."""
        batch, heads, length, _ = query.shape
        if mask is not None:
            mask = mask.astype(query.dtype).expand([batch, heads, length, length])
        query, keys, values = (
            t.transpose([0, 2, 1, 3]) for t in (query, keys, values)
        )  # [B, L, h, D]
        mixed = F.scaled_dot_product_attention(
            query, keys, values, mask, self.dropout, training=self.training
        )
        return mixed.transpose([0, 2, 1, 3])
