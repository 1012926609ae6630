"""Small ConvBERTs with large random weights, and comparisons that name the worst array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convbert.config import ConvBertConfig


def small_config(**changes: Any) -> ConvBertConfig:
    """Return a configuration that runs in milliseconds; e differs from d, no dropout."""
    values: dict[str, Any] = dict(
        vocab_size=61,
        embedding_size=12,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ConvBertConfig(**{**values, **changes})


def large_value(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, std: float = 0.2
) -> np.ndarray:
    """Draw one parameter, float32; a mistake that 0.02 would hide shows at 0.2.

    Depthwise filters are larger still, because k taps of 0.2 make a faint span key. LayerNorm
    gains and biases differ from 1 and 0. Values are multiples of 1/128, exact in 16 bits.
    """
    is_norm = "norm" in name.lower()
    std = 0.5 if "depthwise" in name else 0.3 if is_norm else std
    value = rng.normal(float(is_norm and name.endswith("weight")), std, shape)
    return (np.round(value * 128) / 128).astype("float32")


def randomize(model: Any, seed: int = 0) -> Any:
    """Fill a Paddle model with `large_value`s and switch dropout off; returns the model."""
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        parameter.set_value(large_value(name, tuple(parameter.shape), rng))
    model.eval()
    return model


def token_ids(*shape: int, seed: int = 0, vocab_size: int = 61) -> np.ndarray:
    """Return random ids without the padding id 0."""
    return np.random.default_rng(seed).integers(1, vocab_size, shape)


def assert_close(
    case: str, pairs: Mapping[str, tuple[Any, Any]], tolerance: float, floor: float = 0.0
) -> None:
    """Compare arrays by name; the message names the case, the worst array and the difference.

    Args:
        case: what is compared, for the message.
        pairs: (ours, reference) by name.
        tolerance: largest |difference| allowed, relative to the reference's largest magnitude.
        floor: smallest magnitude to compare with, for arrays that are zero but for rounding.
    """
    assert pairs, f"{case}: nothing to compare"
    off = {}
    for name, (ours, reference) in pairs.items():
        ours, reference = np.asarray(ours, "float64"), np.asarray(reference, "float64")
        assert ours.shape == reference.shape, (
            f"{case}: {name} has shape {ours.shape}, reference {reference.shape}"
        )
        scale = max(float(np.abs(reference).max()), floor)
        difference = float(np.abs(ours - reference).max()) / scale if scale else np.abs(ours).max()
        off[name] = difference if np.isfinite(difference) else np.inf
    worst = max(off, key=off.__getitem__)
    assert off[worst] <= tolerance, (
        f"{case}: worst is {worst}, off by {off[worst]:.2e} of its magnitude "
        f"(allowed {tolerance:.0e}); above tolerance: "
        f"{', '.join(name for name in off if off[name] > tolerance)}"
    )


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays under a prefix, without it."""
    return {
        key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)
    }


def run_ours(model: Any, arrays: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Run a model of ours on `input.*` and `label.*` of a reference; see `make_golden.py`.

    Returns:
        Values in the order of computation (`hidden.*`, `output.*`, `loss`) under the reference's
        names, and gradients under our parameters' names.
    """
    import paddle

    encoder = getattr(model, "convbert", model)
    dtype = encoder.embeddings.word_embeddings.weight.dtype
    states: list[np.ndarray] = []
    layers = encoder.encoder.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0].numpy()))]
    hooks += [
        layer.register_forward_post_hook(lambda _, args, out: states.append(out[0].numpy()))
        for layer in layers
    ]

    def tensor(value: np.ndarray) -> Any:
        return paddle.to_tensor(value, dtype=dtype if value.dtype.kind == "f" else "int64")

    inputs = {key: tensor(value) for key, value in part(arrays, "input.").items()}
    labels = {key: tensor(value) for key, value in part(arrays, "label.").items()}
    output = model(inputs.pop("input_ids", None), **inputs)
    if "coefficients" in labels:
        outputs = {"last_hidden_state": output}
        loss = (output * labels["coefficients"]).sum()
    elif "start_positions" in labels:
        outputs = dict(zip(("start_logits", "end_logits"), output, strict=True))
        loss = model.loss(output, (labels["start_positions"], labels["end_positions"]))
    else:
        outputs = {"logits": output}
        loss = model.loss(output, labels["labels"])
    model.clear_gradients()
    loss.backward()
    for hook in hooks:
        hook.remove()
    values = {f"hidden.{i}": state for i, state in enumerate(states)}
    values |= {f"output.{key}": value.numpy() for key, value in outputs.items()}
    gradients = {
        name: np.zeros(value.shape) if value.grad is None else value.grad.numpy()
        for name, value in model.named_parameters()
    }
    return values | {"loss": loss.numpy()}, gradients


def check_against(
    case: str, model: Any, arrays: Mapping[str, np.ndarray], values: float, gradients: float
) -> None:
    """Hold a model of ours equal to a reference: every layer, output, loss and gradient.

    Args:
        case: what is compared, for messages.
        model: ours, with the reference's weights.
        arrays: the reference, named as in `make_golden.py`.
        values: tolerance of layers, outputs and loss, relative to each array's magnitude.
        gradients: tolerance of gradients.
    """
    from convbert.weights import names

    ours, our_gradients = run_ours(model, arrays)
    stored = [key for key in arrays if key.startswith(("hidden.", "output.", "loss"))]
    assert ours.keys() == set(stored), f"{case}: {ours.keys() ^ set(stored)} on one side only"
    assert_close(f"{case}, values", {key: (ours[key], arrays[key]) for key in stored}, values)
    wanted = {}
    for key, value in part(arrays, "grad.").items():
        name = names.from_huggingface(key)
        wanted[name] = names.swap_layout(name, value)
    assert wanted.keys() == our_gradients.keys(), f"{case}: {wanted.keys() ^ our_gradients.keys()}"
    # Some gradients are zero but for rounding (a bias of all keys moves every score alike), so
    # none is compared with less than this share of the model's largest gradient.
    floor = 0.01 * max(float(np.abs(value).max()) for value in wanted.values())
    pairs = {name: (our_gradients[name], value) for name, value in wanted.items()}
    assert_close(f"{case}, gradients", pairs, gradients, floor)
