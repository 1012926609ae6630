"""What the layers are made of: initialization, linear map, depthwise convolution.

Nothing here is the paper's. On a CPU, Paddle computes some gradients many times slower than a
matrix product of the same size; these layers compute the same numbers the quick way.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer


def truncated_normal(std: float) -> nn.initializer.Initializer:
    """Normal(0, std) cut at two standard deviations, as the authors initialize."""
    return nn.initializer.TruncatedNormal(0.0, std, -2 * std, 2 * std)


class Linear(nn.Linear):
    """x·W + b with W [in, out], initialized as the authors do.

    On a CPU the bias enters as ones·b: the gradient of b is then a matrix product, where Paddle's
    gradient of a broadcast addition sums row by row and costs as much as the layer's own products.
    """

    def __init__(self, size_in: int, size_out: int, std: float | None) -> None:
        """Make the layer; `std` None means Glorot's uniform initialization."""
        init = nn.initializer.XavierUniform() if std is None else truncated_normal(std)
        super().__init__(size_in, size_out, weight_attr=paddle.ParamAttr(initializer=init))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return add_bias(paddle.matmul(x, self.weight), self.bias)


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Add a bias [n] to the last axis of x [..., n]; see `Linear` for why not simply x + bias."""
    if not x.place.is_cpu_place() or x.stop_gradient:
        return x + bias
    rows = paddle.ones([x.size // x.shape[-1], 1], x.dtype)
    return x + paddle.matmul(rows, bias.unsqueeze(0)).reshape(x.shape)


class DepthwiseConv1D(nn.Layer):
    """A convolution over tokens with a kernel of its own for each channel, and no bias.

    Zeros stand at both ends. The kernels start with std 1/k.
    """

    def __init__(self, size: int, taps: int) -> None:
        """Make the layer for `size` channels; `taps` is odd."""
        super().__init__()
        init = paddle.ParamAttr(initializer=truncated_normal(1 / taps))
        self.weight = self.create_parameter([size, 1, taps], attr=init)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, L, size] to [B, L, size]."""
        size, _, taps = self.weight.shape
        if not x.place.is_cpu_place():
            return F.conv1d(x, self.weight, padding=taps // 2, groups=size, data_format="NLC")
        kernels = self.weight.squeeze(1).t()  # [k, size]
        output = _Convolve.apply(x, kernels.detach())
        return output + _LearnKernels.apply(kernels, x.detach())


class _Convolve(PyLayer):
    """Depthwise convolution as a sum of k shifted copies of the input, each times a tap.

    The gradient of the kernels is a layer of its own: a PyLayer must not return a gradient that
    was not asked for (of `paddle.grad`, say), and is not told which one was.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor) -> Tensor:
        """Map x [B, L, d] and fixed kernels [k, d] to [B, L, d]."""
        ctx.save_for_backward(kernels)
        return _shifted_sum(x, kernels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Return the gradient of x [B, L, d]."""
        (kernels,) = ctx.saved_tensor()
        return _shifted_sum(gradient, kernels.flip(0)), None


class _LearnKernels(PyLayer):
    """Zeros that are added to a depthwise convolution, and carry the gradient of its kernels."""

    @staticmethod
    def forward(ctx: Any, kernels: Tensor, x: Tensor) -> Tensor:
        """Map kernels [k, d] and fixed x [B, L, d] to zeros [B, L, d]."""
        ctx.save_for_backward(x)
        ctx.taps = len(kernels)
        return paddle.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Return the gradient of the kernels [k, d]."""
        (x,) = ctx.saved_tensor()
        taps, gaps, spread = ctx.taps, _with_gaps(x, ctx.taps), _with_gaps(gradient, ctx.taps)
        rows = len(gaps) - taps + 1
        centered = spread[taps // 2 : taps // 2 + rows]
        ones = paddle.ones([1, rows], gradient.dtype)  # ones·Y sums the rows of Y quickly
        sums = [paddle.matmul(ones, centered * gaps[j : j + rows]) for j in range(taps)]
        return paddle.concat(sums), None


def _with_gaps(x: Tensor, taps: int) -> Tensor:
    """Write the sequences of a batch one after the other, with zeros between them.

    A shift of all sequences then is a slice of rows, which needs no copy.

    Args:
        x: [B, L, d].
        taps: k, odd.

    Returns:
        Rows [(k-1)/2 + B·(L+k-1), d]: (k-1)/2 zeros, then each sequence and k-1 zeros.
    """
    batch, _, size = x.shape
    gap = paddle.zeros([batch, taps - 1, size], x.dtype)
    start = paddle.zeros([taps // 2, size], x.dtype)
    return paddle.concat([start, paddle.concat([x, gap], 1).flatten(0, 1)])


def _shifted_sum(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve x [B, L, d] with kernels [k, d]: the sum over taps of x, shifted, times the tap."""
    (batch, length, size), taps = x.shape, len(kernels)
    gaps = _with_gaps(x, taps)
    total = paddle.zeros([batch * (length + taps - 1), size], x.dtype)
    rows = len(gaps) - taps + 1
    inside, ones = total[:rows], paddle.ones([rows, 1], x.dtype)
    for j in range(taps):
        # ones·kernel spreads a kernel over all rows, more quickly than a broadcast product.
        inside.add_(gaps[j : j + rows] * paddle.matmul(ones, kernels[j : j + 1]))
    return total.reshape([batch, length + taps - 1, size])[:, :length].contiguous()
