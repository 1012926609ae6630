"""Mixed attention and its parts against the paper's equations, written out in NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import randomize, small_config

from convbert.attention import (
    MASKED_SCORE,
    MixedAttention,
    SeparableConv1D,
    apply_kernels,
    expand_kernels,
)
from convbert.config import CONV_TYPES, ConvBertConfig


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def mix_naively(
    weights: dict[str, np.ndarray], config: ConvBertConfig, x: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Equations 1 to 5 for one sentence, one token, head and tap at a time.

    Args:
        weights: parameters of a `MixedAttention` by name.
        config: its configuration; padding is cleared before the convolution.
        x: hidden states [L, d].
        tokens: 1 for tokens, 0 for padding [L].
    """
    length, (h, size, taps) = len(x), (config.heads, config.head_size, config.conv_kernel_size)
    reach = (taps - 1) // 2

    def linear(name: str, value: np.ndarray) -> np.ndarray:
        return value @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    query, key, value = (linear(name, x) for name in ("q_proj", "k_proj", "v_proj"))
    mixed = np.zeros([length, 2 * h if config.conv_type != "noconv" else h, size])
    for n in range(h):
        part = slice(n * size, (n + 1) * size)
        for i in range(length):  # eq. 1, over tokens only
            scores = np.array(
                [query[i, part] @ key[j, part] / np.sqrt(size) for j in range(length)]
            )
            share = softmax(np.where(tokens > 0, scores, -np.inf))
            mixed[i, n] = sum(share[j] * value[j, part] for j in range(length))
    if config.conv_type != "noconv":
        seen = x * tokens[:, None]
        convolved = linear("conv_out_layer", x) * tokens[:, None]
        for i in range(length):
            if config.conv_type == "depthwise":  # a kernel per channel, as it is
                kernels = weights["channel_conv.weight"][:, 0].reshape(h, size, taps)
                for n, j in np.ndindex(h, taps):
                    if 0 <= i + j - reach < length:
                        part = slice(n * size, (n + 1) * size)
                        mixed[i, h + n] += kernels[n, :, j] * convolved[i + j - reach, part]
                continue
            if config.conv_type == "static":
                logits = weights["static_kernel"]
            elif config.conv_type == "dynamic":
                logits = linear("conv_kernel_layer", x[i])  # eq. 3
            else:  # eq. 4: a sum over the window, per channel, then a mix of channels
                window = np.zeros(x.shape[1])
                for j in range(taps):
                    if 0 <= i + j - reach < length:
                        depthwise = weights["key_conv_attn_layer.depthwise.weight"][:, 0, j]
                        window += depthwise * seen[i + j - reach]
                pointwise = weights["key_conv_attn_layer.pointwise.weight"][:, :, 0]
                span_key = pointwise @ window + weights["key_conv_attn_layer.bias"]
                logits = linear("conv_kernel_layer", span_key * query[i])
            kernels = softmax(logits.reshape(h, taps))
            for n in range(h):  # eq. 2
                part = slice(n * size, (n + 1) * size)
                for j in range(taps):
                    if 0 <= i + j - reach < length:
                        mixed[i, h + n] += kernels[n, j] * convolved[i + j - reach, part]
    return linear("out_proj", mixed.reshape(length, -1))  # eq. 5


SHAPES = [
    dict(),
    dict(conv_kernel_size=1),
    dict(conv_kernel_size=3, num_attention_heads=8, head_ratio=4),
    dict(conv_kernel_size=11, num_attention_heads=2, head_ratio=1),
    dict(num_attention_heads=6, head_ratio=3),
    # One nominal head, which the authors' smallest generator has and other libraries lay out
    # differently: nothing else here checks it.
    dict(num_attention_heads=1),
    dict(num_attention_heads=1, head_ratio=1, conv_kernel_size=5),
]


@pytest.mark.parametrize("conv_type", CONV_TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_equations(conv_type: str, shape: dict):
    config = small_config(hidden_size=24, conv_type=conv_type, **shape)
    layer = randomize(MixedAttention(config))
    layer.to(dtype="float64")
    weights = {name: value.numpy() for name, value in layer.named_parameters()}
    rng, tokens = np.random.default_rng(1), np.array([[1] * 7, [1] * 4 + [0] * 3])
    x = rng.normal(size=(2, 7, 24))
    mask = paddle.to_tensor((1.0 - tokens) * MASKED_SCORE).unsqueeze([1, 2])
    keep = paddle.to_tensor(tokens.astype("float64")).unsqueeze(-1)
    ours = layer(paddle.to_tensor(x), mask, keep).numpy()
    for row in range(2):
        expected = mix_naively(weights, config, x[row], tokens[row])
        here = tokens[row] > 0
        np.testing.assert_allclose(ours[row][here], expected[here], rtol=0, atol=1e-12)


def test_parts_by_conv_type():
    """Each simpler convolution has exactly the parameters it needs."""
    attention = {"q_proj", "k_proj", "v_proj", "out_proj"}
    parts = {
        "sdconv": {"key_conv_attn_layer", "conv_kernel_layer", "conv_out_layer"},
        "dynamic": {"conv_kernel_layer", "conv_out_layer"},
        "static": {"static_kernel", "conv_out_layer"},
        "depthwise": {"channel_conv", "conv_out_layer"},
        "noconv": set(),
    }
    for conv_type, expected in parts.items():
        layer = MixedAttention(small_config(conv_type=conv_type))
        names = {name.split(".")[0] for name, _ in layer.named_parameters()}
        assert names == attention | expected


# --- The band -------------------------------------------------------------------------------


def band_naively(kernels: np.ndarray) -> np.ndarray:
    """Eq. 2: row i of the matrix holds tap j at column i + j - (k-1)/2, if that is a token."""
    batch, heads, length, taps = kernels.shape
    band = np.zeros([batch, heads, length, length])
    for b, n, i, j in np.ndindex(batch, heads, length, taps):
        column = i + j - (taps - 1) // 2
        if 0 <= column < length:
            band[b, n, i, column] = kernels[b, n, i, j]
    return band


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 14),
    half=st.integers(0, 7),
    seed=st.integers(0, 99),
)
def test_the_band_puts_each_tap_where_equation_2_says(batch, heads, length, half, seed):
    kernels = np.random.default_rng(seed).normal(size=(batch, heads, length, 2 * half + 1))
    band = expand_kernels(paddle.to_tensor(kernels)).numpy()
    assert np.array_equal(band, band_naively(kernels))


def test_the_band_equals_unfold():
    """The same convolution as the released code writes it: unfolded windows times taps."""
    rng, (b, h, length, size, taps) = np.random.default_rng(0), (2, 3, 10, 4, 5)
    kernels = F.softmax(paddle.to_tensor(rng.normal(size=(b, h, length, taps))), -1)
    values = paddle.to_tensor(rng.normal(size=(b, h, length, size)))
    flat = values.transpose([0, 1, 3, 2]).reshape([b, h * size, length, 1])  # channels first
    windows = F.unfold(flat, [taps, 1], paddings=[taps // 2, 0])  # [b, h·D·k, L]
    windows = windows.reshape([b, h, size, taps, length])
    expected = paddle.einsum("bhdkl,bhlk->bhld", windows, kernels)
    ours = paddle.matmul(expand_kernels(kernels), values)
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("length", [1, 2, 10])
def test_convolving_is_the_band_times_the_values_also_backward(length: int):
    rng = np.random.default_rng(0)
    kernels, values, g = (rng.normal(size=(2, 3, length, last)) for last in (5, 4, 4))
    found = []
    for product in (apply_kernels, lambda taps, x: paddle.matmul(expand_kernels(taps), x)):
        given = [paddle.to_tensor(x, stop_gradient=False) for x in (kernels, values)]
        output = product(*given)
        (output * paddle.to_tensor(g)).sum().backward()
        found.append([output.numpy(), *(x.grad.numpy() for x in given)])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-14)


def test_the_band_carries_gradients():
    """The gradient of sum(band·G) with respect to a tap is G at the tap's place, 0 outside."""
    kernels = paddle.ones([1, 2, 6, 5])
    kernels.stop_gradient = False
    weights = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 2, 6, 6)), "float32")
    (expand_kernels(kernels) * weights).sum().backward()
    for i in range(6):
        for j in range(5):
            column = i + j - 2
            expected = weights[0, 1, i, column].item() if 0 <= column < 6 else 0.0
            assert kernels.grad[0, 1, i, j].item() == expected


# --- Recording ------------------------------------------------------------------------------


@pytest.mark.parametrize("conv_type", CONV_TYPES)
def test_recorded_weights_reproduce_the_output(conv_type: str):
    layer = randomize(MixedAttention(small_config(conv_type=conv_type)))
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 9, 24)), "float32")
    plain = layer(x)
    output, (attention, kernels) = layer(x, return_mixing=True)
    assert np.array_equal(plain.numpy(), output.numpy())
    heads = layer.heads
    assert attention.shape == [2, heads, 9, 9]
    np.testing.assert_allclose(attention.sum(-1).numpy(), 1, atol=1e-6)
    mixed = paddle.matmul(attention, layer.split_heads(layer.v_proj(x)))
    if conv_type in ("depthwise", "noconv"):
        assert kernels is None
    if conv_type == "depthwise":
        convolved = layer.channel_conv(layer.conv_out_layer(x))
        mixed = paddle.concat([mixed, layer.split_heads(convolved)], 1)
    elif conv_type != "noconv":
        assert kernels.shape == [2, heads, 9, 9]  # k = L = 9
        np.testing.assert_allclose(kernels.sum(-1).numpy(), 1, atol=1e-6)
        values = layer.split_heads(layer.conv_out_layer(x))
        mixed = paddle.concat([mixed, paddle.matmul(expand_kernels(kernels), values)], 1)
    again = layer.out_proj(mixed.transpose([0, 2, 1, 3]).flatten(2))
    np.testing.assert_allclose(again.numpy(), output.numpy(), atol=1e-6)


def test_recorded_attention_is_before_dropout():
    layer = randomize(MixedAttention(small_config(attention_probs_dropout_prob=0.5)))
    layer.train()
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 9, 24)), "float32")
    _, mixing = layer(x, return_mixing=True)
    np.testing.assert_allclose(mixing.attention.sum(-1).numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_dropout_acts_on_attention_and_not_on_the_convolution(fused: bool):
    layer = randomize(MixedAttention(small_config(attention_probs_dropout_prob=0.5)))
    layer.fused = fused
    seen: list[np.ndarray] = []
    layer.out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].numpy()))
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 9, 24)), "float32")
    for training in (False, True):
        layer.train() if training else layer.eval()
        layer(x)
    before, dropped = seen  # [B, L, 2A]: attention heads, then convolution heads
    assert np.abs(dropped[..., :12] - before[..., :12]).min(-1).max() > 1e-3
    assert np.array_equal(dropped[..., 12:], before[..., 12:])


@pytest.mark.parametrize("conv_type", CONV_TYPES)
@pytest.mark.parametrize("padded", [False, True])
def test_fused_attention_equals_explicit(conv_type: str, padded: bool):
    layer = randomize(MixedAttention(small_config(conv_type=conv_type)))
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 9, 24)), "float32")
    mask = paddle.zeros([2, 1, 1, 9])
    mask[1, :, :, 5:] = MASKED_SCORE
    results = []
    for fused in (False, True):
        layer.fused = fused
        layer.clear_gradients()
        output = layer(x, mask if padded else None)
        (output * paddle.arange(24, dtype="float32")).sum().backward()
        results.append((output.numpy(), layer.q_proj.weight.grad.numpy()))
    (explicit, gradient), (fused, fused_gradient) = results
    np.testing.assert_allclose(fused, explicit, rtol=0, atol=1e-5)
    np.testing.assert_allclose(fused_gradient, gradient, rtol=1e-4, atol=1e-3)
    layer.fused = True
    output, mixing = layer(x, mask, return_mixing=True)  # recording takes the explicit path
    assert mixing.attention is not None


def test_the_fused_path_is_chosen_on_a_gpu_only():
    on_gpu = paddle.get_device().startswith("gpu")
    assert MixedAttention(small_config()).fused == on_gpu


# --- What a kernel depends on ---------------------------------------------------------------


def kernels_of(layer: MixedAttention, x: np.ndarray) -> np.ndarray:
    _, mixing = layer(paddle.to_tensor(x, "float32"), return_mixing=True)
    return mixing.kernels.numpy()


def test_a_static_kernel_is_the_same_everywhere():
    layer = randomize(MixedAttention(small_config(conv_type="static")))
    rng = np.random.default_rng(0)
    kernels = kernels_of(layer, rng.normal(size=(2, 12, 24)))
    assert np.array_equal(kernels, np.broadcast_to(kernels[:1, :, :1], kernels.shape))
    assert np.array_equal(kernels, kernels_of(layer, rng.normal(size=(2, 12, 24))))
    expected = softmax(layer.static_kernel.numpy())
    np.testing.assert_allclose(kernels[0, :, 0], expected, rtol=1e-6)
    assert np.abs(kernels[0, 0] - kernels[0, 1]).max() > 0.01  # heads differ


@pytest.mark.parametrize(("conv_type", "reach"), [("dynamic", 0), ("sdconv", 2)])
def test_a_kernel_depends_on_its_token_or_on_its_span(conv_type: str, reach: int):
    """Eq. 3 sees the token, eq. 4 the (k-1)/2 tokens on each side too, and neither sees more."""
    layer = randomize(MixedAttention(small_config(conv_type=conv_type, conv_kernel_size=5)))
    x = np.random.default_rng(0).normal(size=(1, 12, 24))
    before = kernels_of(layer, x)
    changed = x.copy()
    changed[0, 6] += 1.0
    moved = np.abs(kernels_of(layer, changed) - before).max((0, 1, 3))  # per position
    near = np.abs(np.arange(12) - 6) <= reach
    assert moved[near].min() > 1e-4
    assert moved[~near].max() == 0


def test_padding_is_cleared_after_the_bias():
    """Cleared before it, the bias would come back into the windows of the last tokens."""
    layer = randomize(MixedAttention(small_config()))
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 6, 24)), "float32")
    keep = paddle.to_tensor([[1.0, 1, 1, 1, 0, 0]]).unsqueeze(-1)
    assert np.abs(layer.conv_out_layer.bias.numpy()).max() > 0.1
    values = layer.conv_values(x, keep).numpy()
    assert (values[0, 4:] == 0).all() and (values[0, :4] != 0).all()


def test_the_span_key_is_two_convolutions_without_activation():
    layer = randomize(SeparableConv1D(6, 4, 3, 0.02)).to(dtype="float64")
    rng = np.random.default_rng(0)
    x, y = (paddle.to_tensor(rng.normal(size=(2, 5, 6))) for _ in range(2))
    bias = layer.bias.numpy()
    linear = layer(x).numpy() + 2 * layer(y).numpy() - 2 * bias
    np.testing.assert_allclose(layer(x + 2 * y).numpy(), linear, atol=1e-12)
    expected = np.zeros([2, 5, 4])
    filters, mix = layer.depthwise.weight.numpy(), layer.pointwise.weight.numpy()
    padded = np.pad(x.numpy(), [(0, 0), (1, 1), (0, 0)])
    for j in range(3):
        expected += padded[:, j : j + 5] * filters[:, 0, j] @ mix[:, :, 0].T
    np.testing.assert_allclose(layer(x).numpy(), expected + bias, atol=1e-12)
