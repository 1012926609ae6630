"""From a model and texts to records of what every head mixed.

Symbols in `locality`: n tokens of a sentence, L layers, k taps. (Elsewhere L is the length.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from convbert.model import ConvBertModel
    from convbert.tokenizer import ConvBertTokenizer


@dataclass(frozen=True)
class MixingRecord:
    """What each head of each layer mixed in one sentence, without padding."""

    tokens: list[str]  # n entries
    ids: np.ndarray  # token ids [n]
    special: np.ndarray  # True at [CLS] and [SEP] [n]
    attention: np.ndarray  # probabilities before dropout [L, h, n, n]; rows sum to 1
    kernels: np.ndarray  # softmaxed taps [L, h, n, k]; [L, 0, n, 1] without convolution heads
    metadata: dict[str, Any] = field(default_factory=dict)  # where it came from

    def save(self, path: str | Path) -> None:
        """Write one `.npz`; the strings are stored as JSON, nothing is pickled."""
        text = json.dumps({"tokens": self.tokens, "metadata": self.metadata})
        np.savez_compressed(
            path,
            ids=self.ids,
            special=self.special,
            attention=self.attention,
            kernels=self.kernels,
            text=np.frombuffer(text.encode("utf-8"), np.uint8),
        )

    @classmethod
    def load(cls, path: str | Path) -> MixingRecord:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            text = json.loads(file["text"].tobytes().decode("utf-8"))
            arrays = {name: file[name] for name in ("ids", "special", "attention", "kernels")}
        return cls(tokens=text["tokens"], metadata=text["metadata"], **arrays)


def record(
    model: ConvBertModel,
    tokenizer: ConvBertTokenizer,
    texts: Iterable[str],
    max_length: int | None = None,
    **metadata: Any,
) -> list[MixingRecord]:
    """Run an encoder on one sentence at a time and keep what was mixed.

    Args:
        model: the encoder; put into evaluation mode for the run.
        tokenizer: its tokenizer.
        texts: one sentence each.
        max_length: cut longer sentences to so many tokens; None: the model's limit.
        **metadata: kept with every record, e.g. the checkpoint's name.

    Returns:
        One record per text.
    """
    import paddle

    was_training = model.training
    model.eval()
    records = []
    with paddle.no_grad():
        for text in texts:
            limit = max_length or model.config.max_position_embeddings
            encoded = tokenizer(text, max_length=limit)
            ids = np.array(encoded["input_ids"])
            output = model(
                paddle.to_tensor(ids[None]),
                attention_mask=paddle.ones([1, len(ids)]),
                output_mixing=True,
            )
            attention = np.stack([mixing.attention.numpy()[0] for mixing in output.mixing])
            kernels = np.zeros((len(attention), 0, len(ids), 1), np.float32)
            if output.mixing[0].kernels is not None:
                kernels = np.stack([mixing.kernels.numpy()[0] for mixing in output.mixing])
            special = np.isin(ids, [tokenizer.cls_token_id, tokenizer.sep_token_id])
            tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
            records.append(MixingRecord(tokens, ids, special, attention, kernels, dict(metadata)))
    if was_training:
        model.train()
    return records
