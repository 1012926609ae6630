"""Texts into a classifier, logits out: what training, evaluation and prediction share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from convbert.data.glue import Example
from convbert.heads import ConvBertForSequenceClassification
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import loop, parallel


def encode(
    tokenizer: ConvBertTokenizer, examples: Sequence[Example], max_length: int
) -> dict[str, paddle.Tensor]:
    """Return model inputs [B, L], padded to the longest of the batch."""
    seconds = [example.text_b for example in examples if example.text_b is not None]
    encoded = tokenizer(
        [example.text_a for example in examples],
        seconds or None,
        max_length=max_length,
        padding="longest",
    )
    names = ("input_ids", "token_type_ids", "attention_mask")
    return {name: paddle.to_tensor(np.array(encoded[name], np.int64)) for name in names}


def predict(
    model: ConvBertForSequenceClassification,
    tokenizer: ConvBertTokenizer,
    examples: Sequence[Example],
    max_length: int = 128,
    batch_size: int = 32,
    by_length: bool = True,
) -> np.ndarray:
    """Return logits [n, C] in the order of the examples, with dropout off.

    Args:
        model: of C labels.
        tokenizer: the model's.
        examples: their labels do not matter.
        max_length: longer inputs are truncated.
        batch_size: examples at a time.
        by_length: put texts of similar length into a batch, which saves padding. No result
            depends on it, because padding changes none. Several processes share the batches.
    """
    lengths = [len(example.text_a) + len(example.text_b or "") for example in examples]
    order = np.argsort(lengths, kind="stable") if by_length else np.arange(len(examples))
    places = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    logits = np.zeros((len(examples), model.config.num_labels), "float64")

    def run() -> None:
        for rows in places[parallel.rank() :: parallel.world()]:
            inputs = encode(tokenizer, [examples[row] for row in rows], max_length)
            logits[rows] = model(**inputs).numpy()

    loop.evaluating(model, run)
    return parallel.add_arrays(logits)


def decide(logits: np.ndarray) -> np.ndarray:
    """Return the class of each row [n], the first of equals; of regression the score in [0, 5]."""
    return np.clip(logits[:, 0], 0, 5) if logits.shape[1] == 1 else logits.argmax(1)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax [n, C] of logits [n, C]."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
