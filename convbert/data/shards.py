"""Token shards: examples in files that are mapped into memory, and the manifest beside them.

A folder of shards holds

    manifest.json                      what was packed, how, and size and SHA-256 of every file
    train/shard-00000.bin, …           the examples of unit 0, …
    train/token_counts.bin             how often each id occurs, int64
    valid/…                            the same for held-out text
    vocab.txt, tokenizer_config.json   the tokenizer

A shard is an array of records (`record_type`), nothing else: an example is found by arithmetic,
and reading one touches one or two pages of the file, whatever the size of the corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convbert.data import corpus
from convbert.tokenizer import ConvBertTokenizer

FORMAT, VERSION = "convbert token shards", 1
MANIFEST = "manifest.json"
SPLITS = ("train", "valid")
COUNTS = "token_counts.bin"
_BUFFER = 1024  # examples held back before they are written


def record_type(length: int, vocab_size: int) -> np.dtype:
    """Return how an example is stored.

    `ids` are padded to L; `length` tokens count; the second segment begins at `second`, which is
    `length` where there is none.
    """
    ids = (corpus.id_type(vocab_size).str, (length,))
    return np.dtype([("ids", *ids), ("length", "<u2"), ("second", "<u2")])


class Writer:
    """Writes one shard: aside, and under its name when it is whole."""

    def __init__(self, path: Path, tokenizer: ConvBertTokenizer, length: int) -> None:
        """Prepare; the file is made with the first example."""
        self.path, self.tokenizer = path, tokenizer
        self.buffer = np.zeros(_BUFFER, record_type(length, tokenizer.vocab_size))
        self.examples, self.filled, self.digest = 0, 0, hashlib.sha256()
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
        self.file: BinaryIO | None = None

    def add(self, example: corpus.Example) -> None:
        """Append an example."""
        tokens, second = example.tokens(self.tokenizer)
        row = self.buffer[self.filled]
        row["ids"][: len(tokens)], row["ids"][len(tokens) :] = tokens, self.tokenizer.pad_token_id
        row["length"], row["second"] = len(tokens), second
        self.filled += 1
        if self.filled == len(self.buffer):
            self._flush()

    def _flush(self) -> None:
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self._aside, "wb")
        rows = self.buffer[: self.filled]
        self.file.write(rows.tobytes())
        self.digest.update(rows.tobytes())
        self.counts += count_tokens(rows, len(self.counts))
        self.examples, self.filled = self.examples + self.filled, 0

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{os.getpid()}")

    def close(self) -> dict[str, Any]:
        """Finish the file; return examples, tokens, size and SHA-256. No example, no file."""
        if self.filled:
            self._flush()
        if self.file is None:
            self.path.unlink(missing_ok=True)  # of an earlier corpus
            return describe(0, self.counts, 0, self.digest)
        self.file.flush()
        os.fsync(self.file.fileno())
        size = self.file.tell()
        self.file.close()
        os.replace(self._aside, self.path)
        self.file = None
        return describe(self.examples, self.counts, size, self.digest)

    def discard(self) -> None:
        """Remove what was written so far, after an error."""
        if self.file is not None:
            self.file.close()
            self._aside.unlink(missing_ok=True)


def describe(examples: int, counts: np.ndarray, size: int, digest: Any) -> dict[str, Any]:
    """Return a shard's entry in the manifest."""
    return {
        "examples": examples,
        "tokens": int(counts.sum()),
        "bytes": size,
        "sha256": digest.hexdigest(),
    }


def count_tokens(rows: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return how often each id occurs in records [n], without padding: [V]."""
    inside = np.arange(rows["ids"].shape[1]) < rows["length"][:, None]  # [n, L]
    return np.bincount(rows["ids"][inside], minlength=vocab_size)


def check(path: Path, entry: dict[str, Any], record: np.dtype, vocab_size: int) -> np.ndarray:
    """Read a shard, compare it with its entry in the manifest, and count its tokens [V].

    Raises:
        ValueError: missing, torn or changed; the message names the file.
    """
    counts, digest, size = np.zeros(vocab_size, np.int64), hashlib.sha256(), 0
    if path.is_file() and path.stat().st_size == entry["bytes"]:
        with open(path, "rb") as file:
            while chunk := file.read(record.itemsize * _BUFFER):
                digest.update(chunk)
                size += len(chunk)
                whole = len(chunk) // record.itemsize * record.itemsize
                rows = np.frombuffer(chunk[:whole], record)
                counts += count_tokens(rows, vocab_size)[:vocab_size]  # a torn file has any ids
    elif not entry["bytes"] and not path.exists():
        return counts
    if size != entry["bytes"] or digest.hexdigest() != entry["sha256"]:
        raise ValueError(f"{path}: torn or changed; the same convbert corpus command repairs it")
    return counts


def shard_path(folder: Path, split: str, unit: int) -> Path:
    """Return where a unit's examples lie."""
    return folder / split / f"shard-{unit:05d}.bin"


def write_aside(path: Path, content: bytes) -> None:
    """Write a file such that readers see the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a folder of shards.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another kind or version.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: {folder} holds no finished token shards")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a manifest of token shards ({error!r})") from error
    if kind != (FORMAT, VERSION):
        raise ValueError(f"{path}: {kind[0]} {kind[1]}; this program reads {FORMAT} {VERSION}")
    return dict(manifest)


class Shards:
    """The examples of one split of a folder of shards, in the order of the text."""

    def __init__(self, folder: str | Path, split: str = "train", verify: bool = False) -> None:
        """Map the files.

        Args:
            folder: written by `convbert corpus`.
            split: "train" or "valid".
            verify: compare every byte with the manifest, instead of the sizes alone.

        Raises:
            FileNotFoundError: no manifest.
            ValueError: a shard is missing, torn or changed, or the split is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
        self.folder, self.split = Path(folder), split
        self.manifest = read_manifest(folder)
        self.length: int = self.manifest["max_seq_length"]
        vocab_size: int = self.manifest["vocab_size"]
        record = record_type(self.length, vocab_size)
        self._maps: list[np.ndarray] = []
        for unit, entries in enumerate(self.manifest["units"]):
            path, entry = shard_path(self.folder, split, unit), entries[split]
            if verify:
                check(path, entry, record, vocab_size)
            elif entry["bytes"] and (not path.is_file() or path.stat().st_size != entry["bytes"]):
                raise ValueError(f"{path}: missing or torn; run convbert corpus again to repair it")
            if entry["bytes"]:
                self._maps.append(np.memmap(path, record, "r"))
        sizes = [len(rows) for rows in self._maps]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return token ids [n, L], their segments [n, L] and the examples' lengths [n].

        Raises:
            IndexError: an index is not below the number of examples.
        """
        indices = np.asarray(indices)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"examples 0 to {len(self) - 1} of {self.folder}: {indices} asked for")
        shard = np.searchsorted(self._starts, indices, "right") - 1
        found = np.empty(len(indices), record_type(self.length, self.manifest["vocab_size"]))
        for number in np.unique(shard):
            here = shard == number
            found[here] = self._maps[number][indices[here] - self._starts[number]]
        place, lengths = np.arange(self.length), found["length"].astype(np.int32)
        types = (place >= found["second"][:, None]) & (place < lengths[:, None])  # [n, L]
        return found["ids"], types.astype(np.uint8), lengths

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Return how often each id occurs [V], int64; padding is not counted."""
        content = Path(self.folder, self.split, COUNTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest[self.split]["counts_sha256"]:
            raise ValueError(f"{self.folder / self.split / COUNTS}: torn or changed")
        counts = np.frombuffer(content, "<i8")
        return np.pad(counts, (0, vocab_size - len(counts)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the examples' format and of every shard's SHA-256."""
        entries = [entries[self.split]["sha256"] for entries in self.manifest["units"]]
        kept = [self.manifest[key] for key in ("max_seq_length", "vocab_size")]
        return hashlib.sha256(json.dumps([FORMAT, VERSION, kept, entries]).encode()).hexdigest()


def write_manifest(
    folder: Path, plan: dict[str, Any], units: list[dict[str, Any]], counts: Iterable[np.ndarray]
) -> dict[str, Any]:
    """Write the token counts and, last of all, the manifest.

    Args:
        folder: of the shards.
        plan: what was packed and how.
        units: an entry for each unit, with those of its shards by split.
        counts: for each split how often each id occurs [V].
    """
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, **plan}
    for split, values in zip(SPLITS, counts, strict=True):
        content = values.astype("<i8").tobytes()
        write_aside(folder / split / COUNTS, content)
        totals = {key: sum(u[split][key] for u in units) for key in ("examples", "tokens", "bytes")}
        manifest[split] = {**totals, "counts_sha256": hashlib.sha256(content).hexdigest()}
    manifest["units"] = units
    write_aside(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest
