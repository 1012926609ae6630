"""From text to what a pretraining step eats: packing documents, choosing and masking positions.

Everything here is numpy; randomness is a function of keys, never of what ran before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from convbert.data import text
from convbert.tokenizer import ConvBertTokenizer

# Streams of random numbers; part of the key, so that no two uses share numbers.
PACKING, _ORDER, _MASKING, HOLDING = 1, 2, 3, 4


class Examples(Protocol):
    """Examples to train on, wherever they lie."""

    def __len__(self) -> int:
        """Return n, the number of examples."""

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return token ids [n, L], their segments [n, L] and the examples' lengths [n]."""

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Return how often each id occurs [V], int64; padding is not counted."""

    @property
    def fingerprint(self) -> str:
        """Hex digits that are equal for equal examples in equal order."""


@dataclass(frozen=True)
class Packed:
    """Examples of fixed length in memory, right-padded."""

    ids: np.ndarray  # token ids [n, L], uint16 or uint32
    types: np.ndarray  # segment of each token [n, L], uint8
    lengths: np.ndarray  # tokens of each example [n], int32

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return token ids [n, L], their segments [n, L] and the examples' lengths [n]."""
        return self.ids[indices], self.types[indices], self.lengths[indices]

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Return how often each id occurs [V], int64; padding is not counted."""
        inside = np.arange(self.ids.shape[1]) < self.lengths[:, None]  # [n, L]
        return np.bincount(self.ids[inside], minlength=vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, types and content."""
        digest = hashlib.sha256()
        for array in (self.ids, self.types, self.lengths):
            digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()


class MaskedBatch(NamedTuple):
    """One batch, with N slots for chosen positions."""

    ids: np.ndarray  # the text [B, L], int64
    types: np.ndarray  # segments [B, L], int64
    mask: np.ndarray  # 1 for tokens, 0 for padding [B, L], float32
    masked_ids: np.ndarray  # text with [MASK] at most chosen positions [B, L], int64
    positions: np.ndarray  # chosen positions [B, N], int64; 0 in unused slots
    weights: np.ndarray  # 1 for a chosen position, 0 for an unused slot [B, N], float32
    uniform: np.ndarray  # numbers in [0, 1) for sampling [B, N], float32

    @property
    def labels(self) -> np.ndarray:
        """The original ids at the chosen positions [B, N]."""
        return np.take_along_axis(self.ids, self.positions, 1)


def generator(*key: int) -> np.random.Generator:
    """Return a random generator that depends on nothing but its key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def documents(path: str | Path) -> Iterator[list[str]]:
    """Read a text file as documents: one sentence or paragraph per line, blank lines between."""
    held: list[str] = []
    for line in text.lines(path):
        if line:
            held.append(line)
        elif held:
            yield held
            held = []


def pack_file(path: str | Path, tokenizer: ConvBertTokenizer, length: int, seed: int) -> Packed:
    """Tokenize a text file and pack it into examples of two segments.

    Args:
        path: text, one sentence or paragraph per line, a blank line between documents.
        tokenizer: makes the ids.
        length: L, tokens of an example with [CLS] and [SEP].
        seed: of the random decisions in packing.

    Raises:
        ValueError: the file gives no example.
    """
    examples = list(pack(text.lines(path), tokenizer, length, generator(seed, PACKING)))
    if not examples:
        raise ValueError(f"{path}: no text in it; expected one sentence per line")
    ids = np.full((len(examples), length), tokenizer.pad_token_id, id_type(tokenizer.vocab_size))
    types = np.zeros((len(examples), length), np.uint8)
    lengths = np.zeros(len(examples), np.int32)
    for row, example in enumerate(examples):
        tokens, second = example.tokens(tokenizer)
        ids[row, : len(tokens)], lengths[row] = tokens, len(tokens)
        types[row, second : len(tokens)] = 1
    return Packed(ids, types, lengths)


def id_type(vocab_size: int) -> np.dtype:
    """Return the smallest type that holds all ids, with the low byte first on every machine."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class Example(NamedTuple):
    """What an example is made of, without special tokens."""

    document: int  # its number, from 0
    first: list[int]
    second: list[int]  # may be empty
    dropped: int  # tokens of the example's lines that did not fit

    def tokens(self, tokenizer: ConvBertTokenizer) -> tuple[list[int], int]:
        """Return [CLS] first [SEP] (second [SEP]), and where the second segment begins."""
        tokens = [tokenizer.cls_token_id, *self.first, tokenizer.sep_token_id]
        start = len(tokens)
        return [*tokens, *self.second, tokenizer.sep_token_id] if self.second else tokens, start


def pack(
    lines: Iterable[str],
    tokenizer: ConvBertTokenizer,
    length: int,
    rng: np.random.Generator,
    rule: str = "electra",
) -> Iterator[Example]:
    """Make examples from a stream of lines; an empty line ends a document, and so an example.

    Args:
        lines: text, read as it is needed.
        tokenizer: makes the ids.
        length: L.
        rng: decides about segments and shorter examples.
        rule: "electra" collects lines until they reach a target length, L as a rule, and
            distributes them over two segments; "lines" makes an example of each line, which
            then is its only segment.
    """
    target, document = length, 0
    held: list[list[int]] = []
    begun = False  # whether this document has any token
    for batch in _batches(lines):
        for line, ids in zip(batch, tokenizer.encode_ids(batch), strict=True):
            if ids:
                held.append(ids)
                begun = True
            size = sum(map(len, held))
            if held and (not line or size >= target or rule == "lines"):
                first, second = _split(held, target, length, rng)
                yield Example(document, first, second, size - len(first) - len(second))
                held = []
                # Mostly full examples; one in twenty shorter, so that short inputs are seen too.
                target = int(rng.integers(5, length + 1)) if rng.random() < 0.05 else length
            if not line:
                document, begun = document + begun, False


def _batches(lines: Iterable[str], characters: int = 1 << 18) -> Iterator[list[str]]:
    """Gather lines for the tokenizer, of bounded size."""
    batch: list[str] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line) + 1
        if size >= characters:
            yield batch
            batch, size = [], 0
    yield batch


def _split(
    lines: list[list[int]], target: int, length: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Distribute lines over two segments, and cut both to what fits."""
    goal = 100_000 if rng.random() < 0.1 else (target - 3) // 2
    first: list[int] = []
    second: list[int] = []
    for line in lines:
        fits = not first or len(first) + len(line) < goal
        # A line across the goal goes either way, as long as the second segment is empty.
        if fits or (not second and len(first) < goal and rng.random() < 0.5):
            first.extend(line)
        else:
            second.extend(line)
    first = first[: length - 2]
    return first, second[: max(0, length - len(first) - 3)]


def coverage(tokenizer: ConvBertTokenizer, lines: Iterable[str]) -> dict[str, float]:
    """Say how well a vocabulary fits a text.

    Returns:
        `tokens_per_word` (words are separated by blanks), and `unknown`, the share of [UNK] among
        the tokens.
    """
    lines = list(lines)
    tokens = [token for ids in tokenizer.encode_ids(lines) for token in ids]
    return {
        "tokens_per_word": len(tokens) / max(1, sum(len(line.split()) for line in lines)),
        "unknown": tokens.count(tokenizer.unk_token_id) / max(1, len(tokens)),
    }


def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch visits the examples, from (seed, epoch) alone."""
    return generator(seed, _ORDER, epoch).permutation(examples)


def epoch_rows(
    examples: int, seed: int, epoch: int, places: np.ndarray, block: int = 1 << 20
) -> np.ndarray:
    """Return which examples stand at some places of an epoch's order, in bounded memory.

    Up to `block` examples, the order is `epoch_order`. More are cut into blocks of neighbors: the
    blocks come in random order, and so do the examples of each. A place is found without what
    comes before it, so a run resumes anywhere.

    Args:
        examples: how many there are.
        seed: of the run.
        epoch: number of the epoch.
        places: positions in the epoch, from 0 [n].
        block: most examples that are shuffled among each other; 8 bytes each.
    """
    count = -(-examples // block)
    if count == 1:
        return _shuffled(examples, seed, epoch)[places]
    edges = np.arange(count + 1) * examples // count  # where each block begins and ends
    order = _shuffled(count, seed, epoch)
    ends = np.diff(edges)[order].cumsum()  # in the epoch
    numbers = np.searchsorted(ends, places, "right")
    rows = np.empty_like(places)
    for number in np.unique(numbers):
        here, chosen = numbers == number, int(order[number])
        size = int(edges[chosen + 1] - edges[chosen])
        # 1 + …, because SeedSequence takes (seed, epoch) and (seed, epoch, 0) for the same.
        shuffled = _shuffled(size, seed, epoch, 1 + chosen)
        rows[here] = edges[chosen] + shuffled[places[here] - (ends[number] - size)]
    return rows


@lru_cache(4)  # the blocks' order, and a batch across the border of two
def _shuffled(count: int, seed: int, *key: int) -> np.ndarray:
    return generator(seed, _ORDER, *key).permutation(count)


def max_chosen(length: int, share: float = 0.15) -> int:
    """Return N, the slots for chosen positions in an example of L tokens: 19 for L = 128."""
    return max(1, int((share + 0.005) * length))


def mask_batch(
    examples: Examples,
    rows: np.ndarray,
    tokenizer: ConvBertTokenizer,
    key: tuple[int, ...],
    share: float = 0.15,
    visible: float = 0.15,
    scrambled: float = 0.0,
    words: np.ndarray | None = None,
) -> MaskedBatch:
    """Choose positions and mask them, as ELECTRA does but without replacement.

    n = max(1, min(N, round(share·tokens))) positions are chosen among all tokens but [CLS],
    [SEP] and [MASK]. Most are shown as [MASK], a few stay visible. With visible=0.1 and
    scrambled=0.1 this is BERT's scheme, in which a few become random words.

    Args:
        examples: the examples.
        rows: which of them [B].
        tokenizer: gives the special ids.
        key: of the random numbers, e.g. (seed, step).
        share: part of the tokens that is chosen.
        visible: part of the chosen that is left unmasked.
        scrambled: part of the chosen that becomes a random word.
        words: ids to draw those words from.
    """
    ids, types, lengths = examples.rows(rows)
    ids = ids.astype(np.int64)
    batch, length = ids.shape
    slots = max_chosen(length, share)
    rng = generator(*key, _MASKING)
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id]
    inside = np.arange(length) < lengths[:, None]
    candidates = inside & ~np.isin(ids, special)
    draw = np.where(candidates, rng.random((batch, length)), 2.0)  # candidates come first
    positions = np.argsort(draw, axis=1)[:, :slots]
    wanted = np.clip(np.rint(share * lengths), 1, slots)  # rint: half to even
    count = np.minimum(wanted, candidates.sum(1))
    chosen = np.arange(slots) < count[:, None]
    positions = np.where(chosen, positions, 0)
    fate = rng.random((batch, slots))
    masked = ids.copy()
    row, slot = np.nonzero(chosen & (fate >= visible))
    masked[row, positions[row, slot]] = tokenizer.mask_token_id
    if words is not None:
        row, slot = np.nonzero(chosen & (fate >= visible) & (fate < visible + scrambled))
        masked[row, positions[row, slot]] = rng.choice(words, len(row))
    return MaskedBatch(
        ids,
        types.astype(np.int64),
        inside.astype(np.float32),
        masked,
        positions.astype(np.int64),
        chosen.astype(np.float32),
        rng.random((batch, slots), dtype=np.float32),
    )
