"""PaddleNLP's side: its configuration files, and the pooler that ConvBERT does not have.

PaddleNLP (since 2023) puts a pooler, a dense layer with tanh, on the encoder's [CLS] state. No
published weights have one; its sequence and multiple choice classifiers read it, its other models
ignore it. A pooler that changes nothing, the identity without activation, makes its classifiers
compute what the paper's do, so that is what we write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from convbert.weights.arrays import Array

if TYPE_CHECKING:
    from paddle import Tensor

    from convbert.config import ConvBertConfig

WEIGHTS, LEGACY_CONFIG = "model_state.pdparams", "model_config.json"
METADATA = {"format": "np"}  # what PaddleNLP wants to see

# Its names of our classes, and of our configuration's fields, where they differ.
CLASSES = {
    "ConvBertGenerator": "ConvBertForMaskedLM",
    "ConvBertForTotalPretraining": "ConvBertForPreTraining",
}
_FIELDS = {"num_classes": "num_labels", "dropout": "classifier_dropout"}
# Its settings of a run, which mean nothing to a model.
_OF_A_RUN = re.compile(
    r"^(num_choices|quantization_config|use_flash_attention|recompute_.*|.*_parallel_.*)$"
)
_POOLER = re.compile(r"((?:^|.*\.)pooler\.dense\.)(weight|bias)$")
# Its models that read the pooler.
_POOLED = ("ConvBertForSequenceClassification", "ConvBertForMultipleChoice")


def flatten_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of one level under our names.

    Up to 2022 PaddleNLP wrote `model_config.json`: a class and its arguments, of which the first
    is the encoder's class and its arguments, and so on.

    Raises:
        ValueError: something else under `init_args`.
    """
    inner = values.get("init_args", [])
    if not isinstance(inner, (list, tuple)):
        raise ValueError(f"init_args is {type(inner).__name__}: expected a list")
    parts = [part for part in inner if isinstance(part, dict)]
    # Of generator and discriminator the second has the configuration of the whole.
    parts.sort(key=lambda part: "Discriminator" not in str(part.get("init_class")))
    flat = flatten_config(parts[0]) if parts else {}
    for key, value in values.items():
        if key == "init_class":
            flat["architectures"] = [value]
        elif key != "init_args" and not _OF_A_RUN.match(key):
            flat[_FIELDS.get(key, key)] = value
    return flat


def drop_pooler(
    arrays: dict[str, Array], class_name: str, has_head: bool, values: Mapping[str, Any]
) -> dict[str, Array]:
    """Return the arrays without a pooler.

    Args:
        arrays: of the file.
        class_name: what is to be loaded.
        has_head: whether the file has a head by that class's names.
        values: the content of its configuration.

    Raises:
        ValueError: the head was trained on top of the pooler.
    """
    pooler = {name: array for name, array in arrays.items() if _POOLER.match(name)}
    active = [name for name in pooler if not _changes_nothing(name, arrays[name], values)]
    if active and has_head and class_name in _POOLED:
        raise ValueError(
            f"it holds {', '.join(active)}: PaddleNLP (since 2023) put a pooler between encoder "
            "and head, which ConvBERT does not have; the head is of no use without it"
        )
    if active:
        print(f"left out, because ConvBERT has no pooler: {', '.join(active)}")
    return {name: array for name, array in arrays.items() if name not in pooler}


def _changes_nothing(name: str, array: Array, values: Mapping[str, Any]) -> bool:
    """Whether an array is half of the identity: a unit matrix, or a bias of zeros."""
    shape = array.shape
    if values.get("pool_act", "tanh") == "tanh" or array.dtype != "F32" or shape != shape[::-1]:
        return False
    expected = np.eye(shape[0]) if name.endswith("weight") else np.zeros(shape)
    return expected.shape == shape and bool(np.array_equal(array.read(), expected))


def to_file(
    state: Mapping[str, Tensor], config: ConvBertConfig, class_name: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and configuration as PaddleNLP reads them, with a pooler without effect.

    Args:
        state: parameters by our names, which are PaddleNLP's.
        config: of the model.
        class_name: the model's class.

    Raises:
        ValueError: a model that PaddleNLP does not have.
    """
    only = {"conv_type": "sdconv", "head_ratio": 2}
    wrong = [key for key, value in only.items() if getattr(config, key) != value]
    if wrong or config.num_attention_heads == 1:  # for which it drops the convolution
        key = wrong[0] if wrong else "num_attention_heads"
        rule = f"{only[key]} only" if wrong else "at least 2"
        raise ValueError(f"{key}={getattr(config, key)!r}: PaddleNLP can run {rule}")
    arrays = {name: value.numpy() for name, value in state.items()}
    last = f"encoder.layers.{config.num_hidden_layers - 1}.norm2.bias"
    for name in [name for name in state if name.endswith(last)]:
        encoder, size = name.removesuffix(last), state[name].shape[0]
        arrays[f"{encoder}pooler.dense.weight"] = np.eye(size, dtype="float32")
        arrays[f"{encoder}pooler.dense.bias"] = np.zeros(size, "float32")
    theirs = {ours: name for name, ours in CLASSES.items()}
    values = {"architectures": [theirs.get(class_name, class_name)], **config.to_dict()}
    del values["conv_type"]
    return arrays, {**values, "pool_act": "identity"}
