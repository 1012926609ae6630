"""Read a checkpoint directory in any known layout into our names and layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from convbert.config import ConvBertConfig
from convbert.weights import arrays as files
from convbert.weights import huggingface, names, paddlenlp, pickles
from convbert.weights.arrays import Array

# Weight files and their readers, in the order in which they are looked for.
READERS: dict[str, Callable[[Path], dict[str, Array]]] = {
    huggingface.WEIGHTS: files.read_safetensors,
    huggingface.TORCH_WEIGHTS: pickles.read_torch,
    paddlenlp.WEIGHTS: pickles.read_pdparams,
}
# Buffers that older versions of transformers wrote among the parameters.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


class Checkpoint(NamedTuple):
    """What a directory holds."""

    file: Path  # the weights; of a TensorFlow checkpoint its prefix or directory
    layout: str  # huggingface, paddlenlp or tensorflow
    arrays: dict[str, Array]  # by our names, in our layouts
    values: dict[str, Any]  # the content of the configuration file, {} if there is none

    def config(self) -> ConvBertConfig:
        """Return the configuration; a TensorFlow checkpoint's follows from the shapes.

        Raises:
            FileNotFoundError: there is none.
            ValueError: an unknown key or an unusable value in it.
        """
        from convbert.weights import tensorflow

        folder = self.file if self.file.is_dir() else self.file.parent
        if not self.values and self.layout == "tensorflow":
            print(f"{self.file}: no {huggingface.CONFIG}; the sizes are those of the arrays")
            return tensorflow.derive_config(cast("Any", self.arrays))  # it looks at shapes only
        if not self.values:
            raise FileNotFoundError(
                f"{folder / huggingface.CONFIG} not found: give a directory that holds "
                f"{huggingface.CONFIG} beside the weights, or say which size they are, e.g. "
                "config='convbert-base'"
            )
        try:
            return ConvBertConfig.from_dict(self.values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder / huggingface.CONFIG}: {error}") from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Find the weights in a directory, and describe them in our names and layouts.

    Args:
        path: a directory, or the prefix of a TensorFlow checkpoint.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: a file that cannot be read, or arrays whose names are not ConvBERT's.
    """
    from convbert.weights import tensorflow  # only where there are no weights of another kind

    found = [path / name for name in READERS if (path / name).is_file()]
    if not found and tensorflow.is_checkpoint(path):
        read = {name: files.of_numpy(array) for name, array in tensorflow.read(path).items()}
        return Checkpoint(path, "tensorflow", read, _config_values(path))
    if not found:
        *most, last = READERS
        raise FileNotFoundError(
            f"{path / most[0]} not found: give a directory that holds {huggingface.CONFIG} and "
            f"{', '.join(most)} or {last}, or the prefix of a TensorFlow checkpoint"
        )
    if len(found) > 1:
        others = ", ".join(file.name for file in found[1:])
        print(f"{path}: reading {found[0].name}, not {others}")
    described = READERS[found[0].name](found[0])
    try:
        layout = names.layout_of(described)
        ours = _in_our_layout(described, layout)
    except ValueError as error:
        raise ValueError(f"{found[0]}: {error}") from error
    return Checkpoint(found[0], layout, ours, _config_values(path))


def _in_our_layout(described: dict[str, Array], layout: str) -> dict[str, Array]:
    """Rename arrays to our names, and turn them into our layout when they are read."""
    rename = names.from_huggingface if layout == "huggingface" else names.from_paddlenlp
    arrays: dict[str, Array] = {}
    for key, array in described.items():
        name = rename(key)
        if key.endswith(_BUFFERS):
            continue
        if name in arrays:
            raise ValueError(f"{name} is there under two names, one of them {key}")
        # PaddleNLP's layout is ours, except that it keeps an untied decoder as a linear layer.
        if layout == "huggingface":
            array = _map(array, partial(names.swap_layout, name))
        elif name.endswith("generator_lm_head.weight"):
            array = _map(array, np.transpose)
        arrays[name] = array
    return arrays


def _map(array: Array, change: Callable[[np.ndarray], np.ndarray]) -> Array:
    """Apply a change of layout to an array that is not read yet."""
    shape = change(np.broadcast_to(np.float32(0), array.shape)).shape  # takes no memory
    return Array(array.dtype, shape, lambda: change(array.read()))


def _config_values(path: Path) -> dict[str, Any]:
    """Return the content of the configuration file, {} if there is none."""
    folder = path if path.is_dir() else path.parent
    for name in (huggingface.CONFIG, paddlenlp.LEGACY_CONFIG):
        if (folder / name).is_file():
            try:
                values = json.loads((folder / name).read_text(encoding="utf-8"))
                if not isinstance(values, dict):
                    raise ValueError(f"expected a JSON object, found {type(values).__name__}")
                return paddlenlp.flatten_config(values)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{folder / name}: {error}") from error
    return {}
