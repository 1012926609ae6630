"""Outputs of the released weights that others published, to hold loaded weights against.

Slices of base: the integration tests of transformers (PyTorch and TensorFlow classes) and of
PaddleNLP. Sentence: the authors' TensorFlow outputs in the repository JunnYu/ConvBert_huggingface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-4  # of those integration tests; published values have four digits

# Input ids -> last hidden state of base at the first three tokens and channels.
BASE_SLICES = {
    (1, 2, 3, 4, 5, 6): (
        (-0.0864, -0.4898, -0.3677),
        (0.1434, -0.2952, -0.7640),
        (-0.0112, -0.4432, -0.5432),
    ),
    (0, 1, 2, 3, 4, 5): (
        (-0.03475493, -0.4686034, -0.30638832),
        (0.22637248, -0.26988646, -0.7423424),
        (0.10324868, -0.45013508, -0.58280784),
    ),
}

# "[CLS] it is a sunny day , i want to go out ! [SEP]"
SENTENCE = (101, 2009, 2003, 1037, 11559, 2154, 1010, 1045, 2215, 2000, 2175, 2041, 999, 102)


class Summary(NamedTuple):
    """What is published of a last hidden state [1, 14, d]."""

    first: tuple[float, ...]  # five values at [CLS]
    mean: float  # of all values
    largest: float  # |value|


SENTENCE_VALUES = {
    "convbert-small": Summary(
        (-0.244703, 0.860123, 0.579206, 0.184085, -1.010074), -0.1009596, 6.609091
    ),
    "convbert-medium-small": Summary(
        (0.395774, 0.440221, -0.414261, -1.289360, -0.527860), -0.0267946, 4.351172
    ),
    "convbert-base": Summary(
        (-0.472864, -0.430030, -0.017772, -0.441697, 0.094893), -0.0237555, 20.490166
    ),
}  # fmt: skip


def check(
    size: str, encode: Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
) -> dict[str, float]:
    """Measure how far an encoder is from what was published.

    Args:
        size: convbert-small, convbert-medium-small or convbert-base.
        encode: inputs by name, [1, L] each, to hidden states [1, L, d]; the last one counts.

    Returns:
        Largest |difference| by what was compared.
    """

    def last_hidden_state(ids: tuple[int, ...]) -> np.ndarray:
        words = np.array([ids])
        # With the mask: id 0 would be taken for padding.
        given = {"input_ids": words, "attention_mask": np.ones_like(words)}
        return encode({**given, "token_type_ids": np.zeros_like(words)})[-1]

    found, wanted = last_hidden_state(SENTENCE), SENTENCE_VALUES[size]
    pairs: dict[str, tuple[np.ndarray, Any]] = {
        "authors' output, first values": (found[0, 0, :5], wanted.first),
        "authors' output, mean": (found.mean(), wanted.mean),
        "authors' output, largest": (np.abs(found).max(), wanted.largest),
    }
    for ids, values in BASE_SLICES.items() if size == "convbert-base" else ():
        pairs[f"integration test, ids {ids[0]} to {ids[-1]}"] = (
            last_hidden_state(ids)[0, :3, :3],
            values,
        )
    return {name: float(np.abs(np.subtract(*pair)).max()) for name, pair in pairs.items()}
