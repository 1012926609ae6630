"""`convbert convert`: a checkpoint of any known layout becomes a directory of another library."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from convbert.config import ConvBertConfig
from convbert.tokenizer import ConvBertTokenizer, is_misread

if TYPE_CHECKING:
    from convbert.model import PretrainedLayer
    from convbert.weights.reading import Checkpoint

# What each class has beside the encoder, by the end of a parameter's name; the first that fits.
# Heads of one linear layer look alike: token classification, question answering, multiple choice.
_SIGNS = {
    "ConvBertForPreTraining": r"generator\..*",
    "ConvBertForMaskedLM": r"generator_predictions\.dense\.weight",
    "ConvBertDiscriminator": r"(discriminator\.)?discriminator_predictions\.dense\.weight",
    "ConvBertForSequenceClassification": r"classifier\.dense\.weight",
    "": r"classifier\.weight",
    "ConvBertModel": r".*",
}


@dataclass(frozen=True)
class ConvertConfig:
    """Options of `convbert convert`."""

    source: str  # directory, prefix of a TensorFlow checkpoint, or a published name
    target: str  # directory to make; it must not exist or be empty
    format: str = "huggingface"  # huggingface (for transformers) or paddlenlp
    config: str = ""  # a size such as convbert-base, or a config.json, where the source has none
    architecture: str = ""  # class such as ConvBertForQuestionAnswering; empty: the source says it
    revision: str = ""  # commit of a published name on the hub; empty: the one that is found

    def __post_init__(self) -> None:
        if self.format not in ("huggingface", "paddlenlp"):
            raise ValueError(f"format={self.format!r}: choose one of huggingface, paddlenlp")


def convert(options: ConvertConfig) -> Path:
    """Read a checkpoint and write weights, configuration and vocabulary, all of them or nothing.

    Of a pretraining checkpoint the target gets the discriminator, from which fine-tuning starts,
    and its folder `generator` the generator.

    Returns:
        The target.

    Raises:
        FileNotFoundError: the source, or a file in it, does not exist.
        FileExistsError: the target is not empty.
        ValueError: the source cannot be read or does not fit together.
    """
    from convbert.weights import loading, published, reading

    target = Path(options.target).expanduser()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty directory: choose another")
    path = published.find(options.source, options.revision or None)
    checkpoint = reading.open_checkpoint(path)
    config = _config(options, checkpoint)
    name = options.architecture or _architecture(checkpoint)
    print(f"{checkpoint.file}: {checkpoint.layout} layout, {len(checkpoint.arrays)} arrays, {name}")
    if checkpoint.file.is_file():
        print(f"  {published.describe(checkpoint.file)}")
    model = loading.build(_class(name), checkpoint, config)
    tokenizer = _tokenizer(path if path.is_dir() else path.parent, config)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _write(model, tokenizer, aside, options.format)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for file in sorted(target.rglob("*.*")):
        print(f"{file.relative_to(target).parent / published.describe(file)}")
    return target


def _write(
    model: PretrainedLayer, tokenizer: ConvBertTokenizer | None, folder: Path, format: str
) -> None:
    """Write one network, or discriminator and generator, with the vocabulary beside each."""
    parts = [(folder, getattr(model, "discriminator", model), format)]
    if hasattr(model, "generator"):
        if model.generator.config.num_attention_heads == 1:
            format = "huggingface"
            print(
                "the generator has one nominal head, for which the authors' layers have other "
                "shapes than those of transformers and PaddleNLP: only this package reads it"
            )
        parts.append((folder / "generator", model.generator, format))
    for place, part, its_format in parts:
        part.save_pretrained(place, its_format)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)


def _config(options: ConvertConfig, checkpoint: Checkpoint) -> ConvBertConfig:
    """Return the configuration: the option's, else the source's."""
    from convbert.weights import published

    if not options.config:
        return published.config_of(options.source, checkpoint)
    if options.config.endswith(".json"):
        return ConvBertConfig.from_json_file(options.config)
    return ConvBertConfig.named(options.config)


def _class(name: str) -> type[PretrainedLayer]:
    """Return one of our classes by name."""
    from convbert import heads

    cls = getattr(heads, name, None)
    if not name.startswith("ConvBert") or not hasattr(cls, "from_pretrained"):
        known = [key for key in vars(heads) if re.match(r"ConvBert(For|Model|Disc)", key)]
        raise ValueError(f"architecture={name!r}: choose one of {', '.join(known)}")
    return cast("type[PretrainedLayer]", cls)


def _architecture(checkpoint: Checkpoint) -> str:
    """Return the class that a checkpoint is of, by its parameters, else by its configuration."""
    from convbert.weights import paddlenlp

    fits = (
        name
        for name, sign in _SIGNS.items()
        if any(re.fullmatch(sign, parameter) for parameter in checkpoint.arrays)
    )
    found = next(fits, "ConvBertModel")
    if found:
        return found
    for stated in checkpoint.values.get("architectures") or ():
        if isinstance(stated, str) and stated.startswith("ConvBertFor"):
            return paddlenlp.CLASSES.get(stated, stated)
    raise ValueError(
        f"{checkpoint.file}: classifier.weight may be token classification's, question "
        "answering's or multiple choice's; say which by --architecture"
    )


def _tokenizer(folder: Path, config: ConvBertConfig) -> ConvBertTokenizer | None:
    """Return the source's tokenizer, with the clean vocabulary in place of the broken one."""
    from convbert.data import sources

    if not (folder / "vocab.txt").is_file():
        print(f"{folder} has no vocab.txt: none is written")
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said below
        tokenizer = ConvBertTokenizer.from_pretrained(folder, vocab_size=config.vocab_size)
    if not is_misread(tokenizer.vocabulary):
        return tokenizer
    print(
        f"{folder / 'vocab.txt'} is the broken one released with ConvBERT: BERT's uncased, with "
        "1,900 non-ASCII entries misread as GBK and 1,008 of them repeated; the ids are BERT's"
    )
    try:
        clean = sources.find("vocab", allow_sample=False).path
    except FileNotFoundError as error:
        print(f"it is kept, because the clean one is missing: {error}")
        return tokenizer
    print(f"{clean} is written instead")
    return ConvBertTokenizer(clean, tokenizer.do_lower_case, tokenizer.strip_accents)
