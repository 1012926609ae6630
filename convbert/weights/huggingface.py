"""Read and write checkpoint directories in transformers' layout: config.json, model.safetensors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from convbert.config import ConvBertConfig
from convbert.model import ConvBertModel
from convbert.weights import names

if TYPE_CHECKING:
    from convbert.model import PretrainedLayer

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# Where the encoder may lie in a file: alone, in a model with a head, in a pretraining model.
_ENCODER_PART = re.compile(
    r"(|convbert\.|discriminator\.convbert\.)(?:embeddings|embeddings_project|encoder)\."
)
# Element types that become float32 without surprise, by safetensors' names.
_FLOATS = ("F16", "F32", "F64")
# Heads of pretraining, which a fine-tuned model replaces by its own.
_PRETRAINING_HEADS = ("generator", "discriminator")
# Buffers that older versions of transformers wrote among the parameters.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


def load(cls: type[PretrainedLayer], name_or_dir: str | Path, **overrides: Any) -> PretrainedLayer:
    """Build `cls` from a directory and load its weights.

    The encoder is found wherever it lies: in a bare model, a model with a head, or the
    discriminator of a pretraining checkpoint. A head that the file does not have stays random and
    is reported; anything else that does not fit is an error, and nothing is loaded.

    Args:
        cls: one of the public models.
        name_or_dir: a directory with config.json and model.safetensors.
        **overrides: configuration fields to change, e.g. num_labels=3.

    Raises:
        FileNotFoundError: no such directory, or a file is missing in it.
        ValueError: missing, unexpected or wrongly shaped parameters, listed by name.
    """
    directory = Path(name_or_dir)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory / name} not found: give a directory that holds {CONFIG} and {WEIGHTS}"
            )
    config = ConvBertConfig.from_json_file(directory / CONFIG).replaced(**overrides)
    arrays = read(directory / WEIGHTS)
    model = cls(config)
    new = assign(model, arrays, source=str(directory))
    if new:
        print(f"{cls.__name__}: new, randomly initialized: {', '.join(new)}")
    return model


def read(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of transformers' layout into our names and layouts.

    Raises:
        ValueError: the file is torn, is not safetensors, or holds other types than floats.
    """
    arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            keys = [key for key in file.keys() if not key.endswith(_BUFFERS)]
            types = {key: file.get_slice(key).get_dtype() for key in keys}
            wrong = [f"{key} is {kind}" for key, kind in types.items() if kind not in _FLOATS]
            if wrong:
                raise ValueError(f"{path}: expected {', '.join(_FLOATS)}: {'; '.join(wrong)}")
            for key in keys:
                name = names.from_huggingface(key)
                arrays[name] = names.swap_layout(name, file.get_tensor(key))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return arrays


def assign(model: PretrainedLayer, arrays: dict[str, np.ndarray], source: str) -> list[str]:
    """Copy arrays into a model by name, or change nothing and raise.

    Args:
        model: the model to fill.
        arrays: parameters in our names and layouts.
        source: named in messages.

    Returns:
        Parameters of a task head that the source does not have at all; they keep their values.

    Raises:
        ValueError: parameters are missing, unexpected or wrongly shaped.
    """
    wanted = unique_state(model)
    arrays, left_aside = _select(model, arrays, source)
    head = [name for name in wanted if not _in_encoder(name, model)]
    new = [] if any(name in arrays for name in head) else head
    problems = [f"missing {name}" for name in wanted if name not in arrays and name not in new]
    problems += [f"unexpected {name}" for name in arrays if name not in wanted]
    for name, array in arrays.items():
        if name in wanted and list(array.shape) != list(wanted[name].shape):
            shapes = f"{list(array.shape)}, expected {list(wanted[name].shape)}"
            problems.append(f"{name} has shape {shapes}")
    if problems:
        raise ValueError(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}")
    for name, array in arrays.items():
        wanted[name].set_value(array.astype("float32"))
    if left_aside:
        print(f"{type(model).__name__}: {len(left_aside)} parameters of {source} not needed")
    return new


def unique_state(model: PretrainedLayer) -> dict[str, paddle.Tensor]:
    """Return parameters by name, a shared one under its discriminator's (or only) name."""
    state: dict[int, tuple[str, paddle.Tensor]] = {}
    for name, value in model.state_dict().items():
        if id(value) not in state or state[id(value)][0].startswith("generator."):
            state[id(value)] = (name, value)
    return dict(state.values())


def _in_encoder(name: str, model: PretrainedLayer) -> bool:
    """Whether a parameter is not a task head's: the pretraining model has no head to leave new."""
    whole = isinstance(model, ConvBertModel) or hasattr(model, "discriminator")
    return whole or name.startswith("convbert.")


def _select(
    model: PretrainedLayer, arrays: dict[str, np.ndarray], source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rename the source's encoder to the model's, and leave aside heads that pretraining leaves."""
    if hasattr(model, "discriminator"):
        return arrays, []
    found = sorted({match[1] for match in map(_ENCODER_PART.match, arrays) if match})
    if len(found) != 1:
        where = " and ".join(f"'{prefix}…'" for prefix in found) or "nowhere"
        raise ValueError(f"{source}: expected one encoder, found parts of one under {where}")
    tied = arrays.get("generator_lm_head.weight")
    table = arrays.get(found[0] + "embeddings.word_embeddings.weight")
    if tied is not None and table is not None and not np.array_equal(tied, table):
        raise ValueError(
            f"{source}: generator_lm_head.weight differs from the word table it is tied to"
        )
    prefix = "" if isinstance(model, ConvBertModel) else "convbert."
    wanted, selected, left_aside = model.state_dict(), {}, []
    for name, array in arrays.items():
        if (found[0] and name.startswith(found[0])) or not found[0]:
            selected[prefix + name.removeprefix(found[0])] = array
        elif name in wanted or not (prefix == "" or name.startswith(_PRETRAINING_HEADS)):
            selected[name] = array
        else:
            left_aside.append(name)
    return selected, left_aside


def save(model: PretrainedLayer, directory: str | Path, format: str = "huggingface") -> None:
    """Write `config.json` and `model.safetensors`, each complete or not at all.

    Args:
        model: any of the public models; a pretraining model keeps both networks under
            `generator.` and `discriminator.`, shared embeddings once.
        directory: made if it does not exist.
        format: "huggingface", transformers' names and layouts.

    Raises:
        ValueError: another format.
    """
    if format != "huggingface":
        raise ValueError(f"format={format!r}: this version writes huggingface")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, value in unique_state(model).items():
        key = names.to_huggingface(name)
        if type(model).__name__ == "ConvBertForQuestionAnswering":
            key = key.replace("classifier.", "qa_outputs.")
        arrays[key] = np.ascontiguousarray(names.swap_layout(name, value.numpy()))
    config = json.dumps(model.config.to_dict(), indent=2) + "\n"
    _replace(directory / WEIGHTS, lambda path: save_file(arrays, path, metadata={"format": "pt"}))
    _replace(directory / CONFIG, lambda path: path.write_text(config, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside `path`, then rename; safetensors makes private files, so set the usual mode."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            write(aside)
        except SafetensorError as error:  # its writer reports a full disk this way
            raise OSError(f"{path} could not be written: {error}") from error
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
