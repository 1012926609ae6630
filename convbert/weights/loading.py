"""Put the arrays of a checkpoint into a model: all of them, or none and an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from convbert.config import ConvBertConfig
from convbert.model import ConvBertModel
from convbert.weights import huggingface, paddlenlp, published
from convbert.weights.arrays import FLOATS, Array
from convbert.weights.reading import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from convbert.model import PretrainedLayer

# Where the encoder may lie in a file: alone, in a model with a head, in a pretraining model.
_ENCODER_PART = re.compile(
    r"(|convbert\.|discriminator\.convbert\.)(?:embeddings|embeddings_project|encoder)\."
)
# Heads of pretraining, which a fine-tuned model replaces by its own.
_PRETRAINING_HEADS = ("generator", "discriminator")
# Heads that other libraries put elsewhere than on the [CLS] state, by a parameter they have.
_HEADS = {
    "ConvBertForSequenceClassification": "classifier.dense.weight",
    "ConvBertForMultipleChoice": "classifier.weight",
}
_GENERATORS, _DISCRIMINATORS = (f"{name}.convbert.embeddings." for name in _PRETRAINING_HEADS)
_TABLE = "word_embeddings.weight"


def load(
    cls: type[PretrainedLayer],
    name_or_dir: str | Path,
    config: ConvBertConfig | str | None = None,
    revision: str | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    **overrides: Any,
) -> PretrainedLayer:
    """Build `cls` from a directory and load its weights.

    The encoder is found wherever it lies: in a bare model, a model with a head, or the
    discriminator of a pretraining checkpoint. A head that the file does not have stays random and
    is reported; anything else that does not fit is an error, and nothing is loaded.

    Args:
        cls: one of the public models.
        name_or_dir: a directory in the layout of transformers, PaddleNLP, this package or the
            authors (TensorFlow, also the prefix of its files); or a published name.
        config: instead of the directory's configuration; a size's name such as "convbert-base".
        revision: commit of a published name on the hub.
        allow_missing: patterns of our parameter names that may keep their random values.
        allow_unexpected: patterns of names in the file that may be left out.
        **overrides: configuration fields to change, e.g. num_labels=3.

    Raises:
        FileNotFoundError: no such directory, or a file is missing in it.
        ValueError: an unreadable file; missing, unexpected or wrongly shaped parameters.
    """
    path = published.find(name_or_dir, revision)
    checkpoint = open_checkpoint(path)
    if isinstance(config, str):
        config = ConvBertConfig.named(config)
    base = config or published.config_of(name_or_dir, checkpoint)
    return build(cls, checkpoint, base.replaced(**overrides), allow_missing, allow_unexpected)


def build(
    cls: type[PretrainedLayer],
    checkpoint: Checkpoint,
    config: ConvBertConfig,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> PretrainedLayer:
    """Build `cls` and fill it from an open checkpoint, whose arrays are used up; see `load`."""
    source, arrays = str(checkpoint.file), dict(checkpoint.arrays)
    checkpoint.arrays.clear()  # each can then be freed as soon as it is copied
    _check_sizes(config, arrays, source)
    try:
        has_head = _HEADS.get(cls.__name__) in arrays
        if checkpoint.layout == "huggingface":
            huggingface.check_head(cls.__name__, has_head, checkpoint.values)
        else:
            arrays = paddlenlp.drop_pooler(arrays, cls.__name__, has_head, checkpoint.values)
        arrays = _without_tied_decoders(arrays)
    except ValueError as error:
        raise ValueError(f"{source} does not fit {cls.__name__}: {error}") from error
    options = {}
    if cls.__name__ == "ConvBertForPreTraining":
        arrays, options["share"] = _sharing(arrays)
    with paddle.LazyGuard():  # parameters without values: random ones would cost more than reading
        model = cls(config, **options)
    kept = assign(model, arrays, source, allow_missing, allow_unexpected)
    state = model.state_dict()
    for name in kept:
        state[name].initialize()
    return model


def _check_sizes(config: ConvBertConfig, arrays: dict[str, Array], source: str) -> None:
    """Refuse sizes that nothing in the file has, before a model of them is built."""
    longest = max((max(a.shape, default=0) for a in arrays.values() if 0 not in a.shape), default=0)
    sizes = {key: value for key, value in asdict(config).items() if type(value) is int}
    del sizes["num_labels"]  # a head may be new, and as wide as it likes
    sizes["heads·conv_kernel_size"] = config.heads * config.conv_kernel_size
    limits = {key: longest for key in sizes} | {"num_hidden_layers": len(arrays)}
    wrong = [f"{key}={sizes[key]}" for key in sizes if sizes[key] > max(limits[key], 64)]
    if wrong:
        raise ValueError(
            f"{source} does not fit the configuration: it holds {len(arrays)} arrays, none longer "
            f"than {longest}, too small for {', '.join(wrong)}"
        )


def assign(
    model: PretrainedLayer,
    arrays: dict[str, Array],
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> list[str]:
    """Copy arrays into a model by name, one after the other; or raise before the first.

    Args:
        model: the model to fill.
        arrays: parameters in our names and layouts; used up.
        source: named in messages.
        allow_missing: patterns of parameters that need not be there.
        allow_unexpected: patterns of arrays that need not be used.

    Returns:
        Parameters that got no values: a task head that the source does not have at all, and
        those of `allow_missing`.

    Raises:
        ValueError: parameters are missing, unexpected, wrongly shaped or no floats.
    """
    title, wanted = type(model).__name__, unique_state(model)
    given, (arrays, left_out) = arrays, _select(model, arrays, source)
    ignored = [name for name in arrays if name not in wanted and _matches(name, allow_unexpected)]
    arrays = {name: array for name, array in arrays.items() if name not in ignored}
    head = [name for name in wanted if not _in_encoder(name, model)]
    kept = [] if any(name in arrays for name in head) else head
    kept += [
        name
        for name in wanted
        if name not in arrays and name not in kept and _matches(name, allow_missing)
    ]
    problems = _problems(arrays, wanted, kept)
    if not problems and not arrays:
        problems = ["none of its arrays belongs to the model"]
    if problems:
        raise ValueError(f"{source} does not fit {title}: {'; '.join(problems)}")
    given.clear()
    for name in list(arrays):
        wanted[name].set_value(arrays.pop(name).values())
    if kept:
        print(f"{title}: new, randomly initialized: {', '.join(kept)}")
    if left_out or ignored:
        print(f"{title}: {len(left_out) + len(ignored)} parameters of {source} not needed")
    return kept


def _problems(
    arrays: dict[str, Array], wanted: dict[str, paddle.Tensor], kept: list[str]
) -> list[str]:
    """List everything that does not fit."""
    problems = [f"missing {name}" for name in wanted if name not in arrays and name not in kept]
    for name, array in arrays.items():
        shape = list(array.shape)
        if name not in wanted:
            problems.append(f"unexpected {name}")
        elif shape != list(wanted[name].shape):
            problems.append(f"{name} has shape {shape}, expected {list(wanted[name].shape)}")
        elif array.dtype not in FLOATS:
            problems.append(f"{name} is {array.dtype}, expected {', '.join(FLOATS)}")
    return problems


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


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
    model: PretrainedLayer, arrays: dict[str, Array], source: str
) -> tuple[dict[str, Array], list[str]]:
    """Rename the source's encoder to the model's, and leave out heads that pretraining leaves."""
    if hasattr(model, "discriminator"):
        return dict(arrays), []
    found = sorted({match[1] for match in map(_ENCODER_PART.match, arrays) if match})
    if len(found) != 1:
        where = " and ".join(f"'{prefix}…'" for prefix in found) or "nowhere"
        raise ValueError(f"{source}: expected one encoder, found parts of one under {where}")
    prefix = "" if isinstance(model, ConvBertModel) else "convbert."
    wanted, selected, left_out = model.state_dict(), {}, []
    for name, array in arrays.items():
        own = name.removeprefix("discriminator.")  # a head of its own, if the model has that one
        if name.startswith(found[0]):
            selected[prefix + name.removeprefix(found[0])] = array
        elif own in wanted:
            selected[own] = array
        elif prefix == "" or name.startswith(_PRETRAINING_HEADS):
            left_out.append(name)
        else:
            selected[name] = array
    return selected, left_out


def _without_tied_decoders(arrays: dict[str, Array]) -> dict[str, Array]:
    """Drop decoders that equal the word table they are tied to; refuse others."""
    for name in [name for name in arrays if name.endswith("generator_lm_head.weight")]:
        above = name.removesuffix("generator_lm_head.weight")
        places = (above + "convbert.embeddings.", _DISCRIMINATORS, "embeddings.")
        table = next((arrays[p + _TABLE] for p in places if p + _TABLE in arrays), None)
        decoder = arrays.pop(name)
        if table is not None and not _equal(decoder, table):
            raise ValueError(f"{name} differs from the word table it is tied to")
    return arrays


def _sharing(arrays: dict[str, Array]) -> tuple[dict[str, Array], str]:
    """Tell what generator and discriminator share, and drop the generator's copies of it.

    Returns:
        The arrays without the copies, and what `ConvBertForPreTraining` calls `share`.
    """
    own = [name for name in arrays if name.startswith(_GENERATORS)]
    twins = {name: _DISCRIMINATORS + name.removeprefix(_GENERATORS) for name in own}
    copies = [
        name for name in own if twins[name] in arrays and _equal(arrays[name], arrays[twins[name]])
    ]
    if len(copies) == len(own):
        dropped, share = own, "all"
    elif _GENERATORS + _TABLE in own and _GENERATORS + _TABLE not in copies:
        dropped, share = [], "none"
    else:
        dropped, share = [_GENERATORS + _TABLE], "words"
    return {name: array for name, array in arrays.items() if name not in dropped}, share


def _equal(one: Array, other: Array) -> bool:
    same_kind = one.dtype == other.dtype and one.shape == other.shape
    return same_kind and bool(np.array_equal(one.read(), other.read()))
