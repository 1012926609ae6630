"""Write a model as a directory that transformers or PaddleNLP reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import save_file

from convbert.weights import huggingface, paddlenlp
from convbert.weights.loading import unique_state

if TYPE_CHECKING:
    from convbert.model import PretrainedLayer

FORMATS = {"huggingface": huggingface, "paddlenlp": paddlenlp}


def save(model: PretrainedLayer, directory: str | Path, format: str = "huggingface") -> None:
    """Write `config.json` and `model.safetensors`, each complete or not at all.

    A pretraining model keeps both networks under `generator.` and `discriminator.`, shared
    embeddings once; no class of the other libraries reads that. `model.generator` and
    `model.discriminator` can be saved on their own.

    Args:
        model: any of the public models.
        directory: made if it does not exist.
        format: "huggingface" for transformers' names and layouts, "paddlenlp" for PaddleNLP's.

    Raises:
        ValueError: another format, or a model that PaddleNLP does not have.
        OSError: a file could not be written; the one before it is untouched.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: choose one of {', '.join(FORMATS)}")
    side: Any = FORMATS[format]
    arrays, values = side.to_file(unique_state(model), model.config, type(model).__name__)
    config = json.dumps(values, indent=2) + "\n"
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _replace(
        directory / huggingface.WEIGHTS,
        lambda path: save_file(arrays, path, metadata=side.METADATA),
    )
    _replace(directory / huggingface.CONFIG, lambda path: path.write_text(config, encoding="utf-8"))


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
    except SafetensorError as error:  # its writer reports a full disk this way
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
