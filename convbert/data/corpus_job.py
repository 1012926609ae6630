"""`convbert corpus`: from text of any size to token shards.

The text is cut into units by its bytes alone, and each unit is packed with random numbers of its
own: so any number of processes writes the same files, one shard per unit and split. A finished
unit is noted in `progress.jsonl`; when all are, the notes become the manifest. The same command
again checks what is noted and writes what is missing.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from convbert import runtime
from convbert.data import corpus, processes, shards
from convbert.data.corpus_source import Dataset, Files, Source
from convbert.tokenizer import ConvBertTokenizer

PROGRESS = "progress.jsonl"
RULES = {"electra": 1, "lines": 1}  # with the version of their code
Unit = tuple[dict[str, Any], list[np.ndarray]]  # its entry, and each split's token counts [V]
_VOCABULARY_CHARACTERS = 50_000_000  # of text to learn a vocabulary from


@dataclass(frozen=True)
class CorpusConfig:
    """Options of `convbert corpus`: give --input or --dataset."""

    output_dir: str  # folder for the shards; the same command again continues or checks it
    input: list[str] = field(default_factory=list)  # text files, or folders with text files
    dataset: str = ""  # name on the hub or local folder for the datasets library, read as a stream
    dataset_config: str = ""  # the data set's configuration, such as 20231101.en
    dataset_split: str = "train"  # the data set's split
    dataset_revision: str = ""  # the data set's revision on the hub; empty: its newest
    text_column: str = "text"  # the data set's column with the text
    vocab_file: str = ""  # vocab.txt, or a folder with a tokenizer; empty: BERT's uncased
    train_vocab: int = 0  # > 0: learn a vocabulary of so many entries from the text instead
    do_lower_case: bool = True  # lower-case the text; not for Turkish, where I is not i
    strip_accents: bool | None = None  # drop accents and other marks; by default when lower-casing
    max_seq_length: int = 128  # tokens of an example, with [CLS] and [SEP]
    rule: str = "electra"  # electra: lines gathered into two segments; lines: a line an example
    separate_documents: bool = True  # a blank line, or a row of a data set, ends a document
    held_out: float = 0.01  # share of the documents (if not separated: of the examples) for valid/
    seed: int = 42  # of the random decisions in packing and of what is held out
    shard_mb: float = 32.0  # megabytes of text for a shard; a data set has a shard for each file
    workers: int = 0  # processes; 0: as many as there are cores

    def __post_init__(self) -> None:
        if bool(self.input) == bool(self.dataset):
            raise ValueError("give either --input (files or folders) or --dataset (a name)")
        if self.vocab_file and self.train_vocab:
            raise ValueError("give either --vocab_file or --train_vocab, not both")
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: choose one of {', '.join(RULES)}")
        if not 8 <= self.max_seq_length < 1 << 16:
            raise ValueError(f"max_seq_length={self.max_seq_length}: must be 8 to 65535")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: must be at least 0 and below 1")
        if not self.shard_mb > 0:
            raise ValueError(f"shard_mb={self.shard_mb}: must be positive")
        for name in ("workers", "seed", "train_vocab"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")


@dataclass(frozen=True)
class Packing:
    """What a process needs to know to make the shards of any unit."""

    folder: Path
    source: Source
    tokenizer: ConvBertTokenizer
    length: int
    rule: str
    held_out: float
    seed: int

    def make(self, unit: int) -> Unit:
        """Write the shards of a unit; return its entry and for each split the tokens' counts."""
        writers = [
            shards.Writer(shards.shard_path(self.folder, split, unit), self.tokenizer, self.length)
            for split in shards.SPLITS
        ]
        rng = corpus.generator(self.seed, corpus.PACKING, unit)
        # The first document of all is held out, so that even a small corpus has one.
        phase = corpus.generator(self.seed, corpus.HOLDING, unit).random() if unit else 1.0
        seen, dropped = 0, 0
        with contextlib.ExitStack() as stack:
            for writer in writers:
                stack.callback(writer.discard)  # does nothing after `close`
            lines = self.source.lines(unit)
            for example in corpus.pack(lines, self.tokenizer, self.length, rng, self.rule):
                number = example.document if self.source.separate else seen
                before = math.floor(phase + (number - 1) * self.held_out)
                held = math.floor(phase + number * self.held_out) > before
                writers[held].add(example)
                seen, dropped = seen + 1, dropped + example.dropped
            entries = [writer.close() for writer in writers]
        entry = {"unit": unit, **dict(zip(shards.SPLITS, entries, strict=True)), "dropped": dropped}
        return entry, [writer.counts for writer in writers]

    def check(self, entry: dict[str, Any]) -> Unit | None:
        """Count the tokens of a finished unit again; None if its shards are not as noted."""
        record = shards.record_type(self.length, self.tokenizer.vocab_size)
        try:
            return entry, [
                shards.check(
                    shards.shard_path(self.folder, split, entry["unit"]),
                    entry[split],
                    record,
                    self.tokenizer.vocab_size,
                )
                for split in shards.SPLITS
            ]
        except ValueError as error:
            print(f"{error}: made again")
            return None


def make_corpus(config: CorpusConfig, tokenizer: ConvBertTokenizer | None = None) -> Path:
    """Write the token shards of a corpus, or what is missing of them.

    Args:
        config: the options.
        tokenizer: one that is there already, instead of that which the options describe.

    Returns:
        The folder, which `shards.Shards` reads.

    Raises:
        FileNotFoundError: an input, or the vocabulary.
        ValueError: no text, text that is not UTF-8, or the folder holds another corpus.
    """
    folder, source = Path(config.output_dir), _source(config)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        noted, entries = _read_notes(folder)
        tokenizer = tokenizer or _tokenizer(config, source, folder if noted else None)
        plan = _plan(config, source, tokenizer)
        _refuse_other(folder, noted, plan)
        tokenizer.save_pretrained(folder)
        packing = Packing(
            folder,
            source,
            tokenizer,
            config.max_seq_length,
            config.rule,
            config.held_out,
            config.seed,
        )
        sizes = source.sizes
        workers = max(1, min(config.workers or runtime.usable_cores(), len(sizes)))
        described = ", ".join(f"{key} {value}" for key, value in source.describe().items())
        print(f"corpus: {described}; {len(sizes)} units, {workers} processes", flush=True)
        units, counts = _work(packing, plan, entries, sizes, workers)
        if not any(unit["train"]["examples"] for unit in units):
            (folder / PROGRESS).unlink()  # another try with other options may use the folder
            if any(unit["valid"]["examples"] for unit in units):
                raise ValueError(
                    "the text is a single document, which was held out: set held_out to 0, or "
                    "separate_documents to false"
                )
            raise ValueError(f"no text in {', '.join(config.input) or config.dataset}")
        manifest = shards.write_manifest(folder, plan, units, counts)
        (folder / PROGRESS).unlink(missing_ok=True)
    _report(folder, manifest)
    return folder


def _source(config: CorpusConfig) -> Source:
    if config.dataset:
        return Dataset(
            config.dataset,
            config.dataset_config,
            config.dataset_split,
            config.dataset_revision,
            config.text_column,
            config.separate_documents,
        )
    size, outside = max(1, round(config.shard_mb * 1e6)), Path(config.output_dir)
    return Files(config.input, outside, size, config.separate_documents)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write; the system lifts the lock when it ends, even if killed."""
    import fcntl  # not on Windows

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: waiting for another process that writes here", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_notes(folder: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the plan of the corpus in a folder and its finished units; None if there is none."""
    if (folder / shards.MANIFEST).is_file():
        manifest = shards.read_manifest(folder)
        return manifest, manifest["units"]
    notes = []
    if (folder / PROGRESS).is_file():
        for line in (folder / PROGRESS).read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # torn by a kill: that unit is made again
                notes.append(json.loads(line))
    return (notes[0], notes[1:]) if notes else (None, [])


def _tokenizer(config: CorpusConfig, source: Source, begun: Path | None) -> ConvBertTokenizer:
    """Return the tokenizer; one that an earlier run has learned is not learned again."""
    settings: dict[str, Any] = {
        "do_lower_case": config.do_lower_case,
        "strip_accents": config.strip_accents,
    }
    if config.train_vocab and begun and (begun / "vocab.txt").is_file():
        return ConvBertTokenizer(begun / "vocab.txt", **settings)
    if config.train_vocab:
        print(f"corpus: learning a vocabulary of {config.train_vocab} entries", flush=True)
        return ConvBertTokenizer.train(_sample(source), config.train_vocab, **settings)
    if config.vocab_file and Path(config.vocab_file).is_dir():
        return ConvBertTokenizer.from_pretrained(config.vocab_file)
    if config.vocab_file:
        return ConvBertTokenizer(config.vocab_file, **settings)
    return ConvBertTokenizer.from_pretrained("convbert-base", **settings)


def _sample(source: Source) -> Iterator[str]:
    """Yield lines from the beginning of every unit, no more in all than memory easily holds."""
    units = len(source.sizes)
    for unit in range(units):
        room = _VOCABULARY_CHARACTERS // units
        for line in source.lines(unit):
            yield line
            room -= len(line)
            if room <= 0:
                break


def _plan(config: CorpusConfig, source: Source, tokenizer: ConvBertTokenizer) -> dict[str, Any]:
    """Return everything that the bytes of the shards depend on."""
    return {
        "rule": config.rule,
        "rule_version": RULES[config.rule],
        "max_seq_length": config.max_seq_length,
        "separate_documents": config.separate_documents,
        "held_out": config.held_out,
        "seed": config.seed,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "train_vocab": config.train_vocab,
        "source": source.describe(),
    }


def _refuse_other(folder: Path, noted: dict[str, Any] | None, plan: dict[str, Any]) -> None:
    """Raise a ValueError that names the first difference from what the folder holds."""

    def flat(values: dict[str, Any]) -> dict[str, Any]:
        inner = values.get("source", {}).items()
        return {**values, **{f"source {key}": value for key, value in inner}, "source": None}

    if noted is None:
        return
    old, new = flat(noted), flat(plan)
    for key in [key for key in old if key.startswith("source ")] + list(new):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{folder} holds another corpus: {key} is {old.get(key)} there and "
                f"{new.get(key)} here; choose another output_dir, or remove that one"
            )


def _work(
    packing: Packing,
    plan: dict[str, Any],
    entries: list[dict[str, Any]],
    sizes: list[int],
    workers: int,
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Check the finished units and make the others; return all entries, and the tokens' counts."""
    for aside in packing.folder.glob("*/.shard-*"):  # of processes that were killed
        aside.unlink(missing_ok=True)
    counts = [np.zeros(packing.tokenizer.vocab_size, np.int64) for _ in shards.SPLITS]
    kept: dict[int, dict[str, Any]] = {}

    def keep(unit: Unit) -> None:
        kept[unit[0]["unit"]] = unit[0]
        for total, values in zip(counts, unit[1], strict=True):
            total += values

    finished = {entry["unit"]: entry for entry in entries}.values()
    checked = processes.each(packing, "check", finished, workers)
    for unit in filter(None, tqdm(checked, "check", len(finished), disable=not finished)):
        keep(unit)
    notes = [plan, *kept.values()]
    lines = "".join(json.dumps(note) + "\n" for note in notes)
    shards.write_aside(packing.folder / PROGRESS, lines.encode())
    missing = [unit for unit in range(len(sizes)) if unit not in kept]
    made = processes.each(packing, "make", missing, workers)
    with (
        open(packing.folder / PROGRESS, "a", encoding="utf-8") as progress,
        tqdm(
            desc="corpus",
            total=sum(sizes),
            initial=sum(sizes[unit] for unit in kept),
            unit=packing.source.unit,
            unit_scale=True,
        ) as bar,
    ):
        for unit in made:
            keep(unit)
            progress.write(json.dumps(unit[0]) + "\n")
            progress.flush()
            bar.update(sizes[unit[0]["unit"]])
    return [kept[unit] for unit in range(len(sizes))], counts


def _report(folder: Path, manifest: dict[str, Any]) -> None:
    """Print what the folder holds now."""
    train, valid = manifest["train"], manifest["valid"]
    dropped = sum(unit["dropped"] for unit in manifest["units"])
    share = dropped / max(1, dropped + train["tokens"] + valid["tokens"])
    print(
        f"{folder}: {train['examples']:,} examples of up to {manifest['max_seq_length']} tokens "
        f"({train['tokens']:,} tokens), {valid['examples']:,} held out; "
        f"{share:.1%} of the tokens did not fit into their examples"
    )
