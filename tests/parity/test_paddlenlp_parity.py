"""Our encoder against PaddleNLP's: the same parameter names, layouts and numbers.

PaddleNLP is imported inside the test: it takes 4 to 6 seconds, adds a handler to the root logger
and makes folders in the home directory, none of which a collection of tests should pay for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import pytest
from support import assert_close, randomize, token_ids

from convbert.config import ConvBertConfig
from convbert.model import ConvBertModel

# Layers of the published sizes, few words; both compute in float64.
CONFIGS = {
    "small": ConvBertConfig.named("convbert-small", num_hidden_layers=4, vocab_size=500),
    "medium-small": ConvBertConfig.named(
        "convbert-medium-small", num_hidden_layers=2, vocab_size=500
    ),
}


def their_model(library: Any, config: ConvBertConfig) -> Any:
    """Return PaddleNLP's model of a configuration; its pooler, which ConvBERT lacks, is ignored."""
    fields = config.to_dict()
    for key in ("conv_type", "conv_sees_padding", "generator_fraction", "model_type"):
        del fields[key]
    model = library.ConvBertModel(library.ConvBertConfig(**fields))
    # With padding_idx Paddle reads zeros for that word, whatever its row holds.
    model.embeddings.word_embeddings._padding_idx = -1
    return model


@contextmanager
def mask_in_float64() -> Iterator[None]:
    """PaddleNLP makes its mask in the default type."""
    paddle.set_default_dtype("float64")
    try:
        yield
    finally:
        paddle.set_default_dtype("float32")


@pytest.mark.parametrize("name", CONFIGS)
def test_names_layers_and_gradients(name: str, paddlenlp: Any):
    config = CONFIGS[name]
    theirs, ours = their_model(paddlenlp, config), ConvBertModel(config)
    state = {key: v for key, v in theirs.state_dict().items() if not key.startswith("pooler.")}
    assert {key: v.shape for key, v in state.items()} == {
        key: v.shape for key, v in ours.state_dict().items()
    }
    randomize(theirs, seed=3)
    # Narrower than `large_value`: see the note on wide layers in test_model_parity.py.
    for value in state.values():
        if value.ndim > 1:
            value.set_value(value * config.hidden_size**-0.5 / 0.2)
    missing, unexpected = ours.set_state_dict(state)
    assert (missing, unexpected) == ([], [])
    for model in (theirs, ours):
        model.to(dtype="float64")
        model.eval()

    ids = paddle.to_tensor(token_ids(3, 21, vocab_size=500))
    ids[:, 0] = config.pad_token_id  # with a mask of ones, id 0 is a word like any other
    types = paddle.to_tensor(np.repeat([[0] * 12 + [1] * 9], 3, 0))
    mask = paddle.ones([3, 21], "int64")
    with mask_in_float64():
        output = theirs(
            ids, types, attention_mask=mask, output_hidden_states=True, return_dict=True
        )
    states = ours(ids, types, mask, output_hidden_states=True).hidden_states
    assert len(states) == len(output.hidden_states) == config.num_hidden_layers + 1
    pairs = {
        f"layer {i}": (mine.numpy(), other.numpy())
        for i, (mine, other) in enumerate(zip(states, output.hidden_states, strict=True))
    }
    assert_close(name, pairs, 1e-12)

    weights = paddle.to_tensor(np.random.default_rng(0).normal(size=states[-1].shape))
    (states[-1] * weights).sum().backward()
    (output.last_hidden_state * weights).sum().backward()
    gradients = {
        key: (value.grad.numpy(), state[key].grad.numpy()) for key, value in ours.named_parameters()
    }
    floor = 0.01 * max(float(np.abs(value).max()) for _, value in gradients.values())
    assert_close(f"{name}, gradients", gradients, 1e-12, floor)


def test_padded_batches_agree_when_the_convolution_sees_padding(paddlenlp: Any):
    config = CONFIGS["small"].replaced(conv_sees_padding=True)
    theirs, ours = their_model(paddlenlp, config), ConvBertModel(config)
    randomize(ours, seed=4)
    theirs.set_state_dict(ours.state_dict())
    for model in (theirs, ours):
        model.to(dtype="float64")
        model.eval()
    ids = token_ids(2, 12, vocab_size=500)
    ids[1, 7:] = config.pad_token_id
    with paddle.no_grad(), mask_in_float64():
        hidden, _ = theirs(paddle.to_tensor(ids))  # both take padding from the ids
    with paddle.no_grad():
        mine = ours(paddle.to_tensor(ids))
    assert_close("padded", {"last layer": (mine.numpy(), hidden.numpy())}, 1e-12)
