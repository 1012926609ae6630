"""ConvBERT on PaddlePaddle: mixed attention of self-attention and span-based dynamic convolution.

Jiang et al., "ConvBERT: Improving BERT with Span-based Dynamic Convolution", NeurIPS 2020,
arXiv 2008.02496.
"""

from __future__ import annotations

import importlib
from typing import Any

from convbert import runtime

runtime.prepare()  # before Paddle is imported by anybody

__version__ = "0.1.0"

# Public name -> module. Loaded when first used, so that what needs no Paddle does not wait for it.
_HOMES = {
    "ConvBertConfig": "config",
    "ConvBertTokenizer": "tokenizer",
    "ConvBertModel": "model",
    "ConvBertForPreTraining": "heads",
    "ConvBertForMaskedLM": "heads",
    "ConvBertForSequenceClassification": "heads",
    "ConvBertForTokenClassification": "heads",
    "ConvBertForQuestionAnswering": "heads",
    "ConvBertForMultipleChoice": "heads",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'convbert' has no attribute {name!r}")
    return getattr(importlib.import_module(f"convbert.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
