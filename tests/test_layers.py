"""The layers that compute quickly on a CPU what Paddle's own operations would."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import randomize

from convbert.layers import DepthwiseConv1D, Linear, add_bias

# --- Linear and its bias --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 5, 4)])
def test_linear_equals_plain_operations_with_gradients(shape: tuple[int, ...]):
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=shape), rng.normal(size=(*shape[:-1], 7))
    layer = randomize(Linear(4, 7, None)).to(dtype="float64")
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    given = paddle.to_tensor(x, stop_gradient=False)
    output = layer(given)
    (output * paddle.to_tensor(g)).sum().backward()
    np.testing.assert_allclose(output.numpy(), x @ weight + bias, atol=1e-12)
    np.testing.assert_allclose(given.grad.numpy(), g @ weight.T, atol=1e-12)
    flat = g.reshape(-1, 7)
    np.testing.assert_allclose(layer.weight.grad.numpy(), x.reshape(-1, 4).T @ flat, atol=1e-12)
    np.testing.assert_allclose(layer.bias.grad.numpy(), flat.sum(0), atol=1e-12)


def test_add_bias_gradient_by_differences():
    rng = np.random.default_rng(0)
    x, bias, g = rng.normal(size=(2, 3, 5)), rng.normal(size=5), rng.normal(size=(2, 3, 5))

    def value(b: np.ndarray) -> float:
        return float((np.tanh(x + b) * g).sum())

    given, b = (paddle.to_tensor(v, stop_gradient=False) for v in (x, bias))
    (paddle.tanh(add_bias(given, b)) * paddle.to_tensor(g)).sum().backward()
    steps = np.eye(5) * 1e-6
    differences = [(value(bias + step) - value(bias - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(b.grad.numpy(), differences, rtol=1e-7)


@pytest.mark.parametrize("grad", [True, False])
def test_add_bias_is_an_addition_with_and_without_gradients(grad: bool):
    rng = np.random.default_rng(0)
    x = paddle.to_tensor(rng.normal(size=(2, 3, 5)), "float32", stop_gradient=not grad)
    bias = paddle.to_tensor(rng.normal(size=5), "float32", stop_gradient=False)
    total = add_bias(x, bias)
    assert np.array_equal(total.numpy(), x.numpy() + bias.numpy())
    total.sum().backward()  # the bias learns also when its input does not
    np.testing.assert_allclose(bias.grad.numpy(), 6)


# --- Depthwise convolution ------------------------------------------------------------------


def convolve(
    layer: DepthwiseConv1D, x: np.ndarray, g: np.ndarray, paddles_own: bool
) -> list[np.ndarray]:
    """Return the output, and the gradients of input and kernels for the loss sum(output·g)."""
    size, _, taps = layer.weight.shape
    given = paddle.to_tensor(x, stop_gradient=False)
    layer.clear_gradients()
    if paddles_own:
        output = F.conv1d(given, layer.weight, None, 1, taps // 2, 1, size, data_format="NLC")
    else:
        output = layer(given)
    (output * paddle.to_tensor(g)).sum().backward()
    return [output.numpy(), given.grad.numpy(), layer.weight.grad.numpy()]


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 12),
    size=st.integers(1, 5),
    half=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_depthwise_is_paddles_convolution_with_its_gradients(batch, length, size, half, seed):
    rng = np.random.default_rng(seed)
    layer = randomize(DepthwiseConv1D(size, 2 * half + 1)).to(dtype="float64")
    x, g = rng.normal(size=(2, batch, length, size))
    ours, theirs = (convolve(layer, x, g, own) for own in (False, True))
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frozen", ["input", "kernels"])
def test_depthwise_learns_with_a_part_frozen(frozen: str):
    rng = np.random.default_rng(0)
    layer, other = (randomize(DepthwiseConv1D(4, 3)).to(dtype="float64") for _ in range(2))
    x, g = rng.normal(size=(2, 2, 5, 4))
    _, by_x, by_kernels = convolve(other, x, g, paddles_own=True)
    given = paddle.to_tensor(x, stop_gradient=frozen == "input")
    layer.weight.stop_gradient = frozen == "kernels"
    (layer(given) * paddle.to_tensor(g)).sum().backward()
    gradients = (given.grad, layer.weight.grad)
    learned, left = gradients[:: -1 if frozen == "input" else 1]
    expected = by_kernels if frozen == "input" else by_x
    np.testing.assert_allclose(learned.numpy(), expected, rtol=0, atol=1e-12)
    assert left is None


def test_depthwise_gradient_of_the_input_alone():
    """As the measures of locality ask for it, with the kernels left as they are."""
    rng = np.random.default_rng(0)
    layer = randomize(DepthwiseConv1D(4, 3)).to(dtype="float64")
    x, g = rng.normal(size=(2, 2, 5, 4))
    _, expected, _ = convolve(layer, x, g, paddles_own=True)
    given = paddle.to_tensor(x, stop_gradient=False)
    (found,) = paddle.grad([(layer(given) * paddle.to_tensor(g)).sum()], [given])
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
