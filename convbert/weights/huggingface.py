"""transformers' side: its files, and what it reads in them besides the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from convbert.weights import names

if TYPE_CHECKING:
    from paddle import Tensor

    from convbert.config import ConvBertConfig

WEIGHTS, TORCH_WEIGHTS, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"
METADATA = {"format": "pt"}  # transformers refuses files without it


def to_file(
    state: Mapping[str, Tensor], config: ConvBertConfig, class_name: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and configuration as transformers reads them.

    Args:
        state: parameters by our names.
        config: of the model.
        class_name: the model's class; only its name decides what question answering's head is
            called, and where multiple choice looks.
    """
    arrays = {}
    for name, value in state.items():
        key = names.to_huggingface(name)
        if class_name == "ConvBertForQuestionAnswering":
            key = key.replace("classifier.", "qa_outputs.")
        arrays[key] = np.ascontiguousarray(names.swap_layout(name, value.numpy()))
    values = {"architectures": [class_name], **config.to_dict()}
    if class_name == "ConvBertForMultipleChoice":
        values["summary_type"] = "first"  # read [CLS]; transformers' default is the last position
    return arrays, values


def check_head(class_name: str, has_head: bool, values: Mapping[str, Any]) -> None:
    """Refuse a head that transformers applies elsewhere than this package does.

    Args:
        class_name: what is to be loaded.
        has_head: whether the file has a head by that class's names.
        values: the content of its config.json.

    Raises:
        ValueError: a multiple choice head that does not read [CLS].
    """
    place = values.get("summary_type", "last")
    if class_name == "ConvBertForMultipleChoice" and has_head and place != "first":
        raise ValueError(
            f"this multiple choice head reads the position summary_type={place!r}, and the one "
            "here reads [CLS]: its outputs would differ; load the encoder and train a new head"
        )
