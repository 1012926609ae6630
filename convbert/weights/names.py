"""Parameter names and layouts: this package's (which are PaddleNLP's) against transformers'."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

# (ours, transformers') name parts; the longer of two that overlap comes first in both columns.
_PAIRS = (
    ("encoder.layers.", "encoder.layer."),
    ("self_attn.q_proj.", "attention.self.query."),
    ("self_attn.k_proj.", "attention.self.key."),
    ("self_attn.v_proj.", "attention.self.value."),
    ("self_attn.out_proj.", "attention.output.dense."),
    ("self_attn.key_conv_attn_layer.", "attention.self.key_conv_attn_layer."),
    ("self_attn.conv_kernel_layer.", "attention.self.conv_kernel_layer."),
    ("self_attn.conv_out_layer.", "attention.self.conv_out_layer."),
    ("self_attn.static_kernel", "attention.self.static_kernel"),
    ("norm1.", "attention.output.LayerNorm."),
    ("linear1.", "intermediate.dense."),
    ("linear2.", "output.dense."),
    ("norm2.", "output.LayerNorm."),
    ("embeddings.layer_norm.", "embeddings.LayerNorm."),
    ("generator_predictions.layer_norm.", "generator_predictions.LayerNorm."),
    ("generator_lm_head_bias", "generator_lm_head.bias"),
)


def _renamer(pairs: list[tuple[str, str]]) -> tuple[re.Pattern, dict[str, str]]:
    """Compile the pairs; a part only matches at the start of a name or after a dot."""
    parts = "|".join(re.escape(old) for old, _ in pairs)
    return re.compile(rf"(?:(?<=\.)|^)(?:{parts})"), dict(pairs)


_LAYER = re.compile(r"(?:^|\.)encoder\.(layers?)\.\d")
_TO_HF = _renamer(list(_PAIRS))
_FROM_HF = _renamer([(theirs, ours) for ours, theirs in _PAIRS] + [("qa_outputs.", "classifier.")])


def to_huggingface(name: str) -> str:
    """Return transformers' name of one of our parameters."""
    pattern, table = _TO_HF
    return pattern.sub(lambda match: table[match[0]], name)


def from_huggingface(name: str) -> str:
    """Return our name of one of transformers' parameters."""
    pattern, table = _FROM_HF
    return pattern.sub(lambda match: table[match[0]], name)


def from_paddlenlp(name: str) -> str:
    """Return our name of one of PaddleNLP's: the same, but for an untied decoder's bias."""
    return re.sub(r"(^|\.)generator_lm_head\.bias$", r"\1generator_lm_head_bias", name)


def layout_of(names: Iterable[str]) -> str:
    """Tell by the names of the encoder's layers whose they are.

    Returns:
        "huggingface", or "paddlenlp" (which are also this package's own).

    Raises:
        ValueError: no name of an encoder's layer, or names of both kinds.
    """
    found = {match[1] for match in map(_LAYER.search, names) if match}
    if len(found) != 1:
        kinds = "names of both kinds" if found else "neither"
        raise ValueError(
            "expected encoder.layer.0.… (transformers) or encoder.layers.0.… (PaddleNLP), "
            f"found {kinds}"
        )
    return "huggingface" if found == {"layer"} else "paddlenlp"


def swap_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Turn an array from our layout into transformers', or back: the same operation both ways.

    Linear weights are [in, out] here and [out, in] there. Embedding tables (and the decoder that
    is tied to one), convolution filters and grouped weights [g, in, out] are the same in both. The
    separable convolution's bias is [A] here and [A, 1] there.

    Args:
        name: our name of the parameter.
        array: its value in one layout.

    Returns:
        A view of the array.
    """
    if name.endswith("key_conv_attn_layer.bias"):
        return array[:, None] if array.ndim == 1 else array[:, 0]
    is_table = name.endswith(("_embeddings.weight", "generator_lm_head.weight"))
    if array.ndim == 2 and name.endswith(".weight") and not is_table:
        return array.T
    return array
