"""BERT's uncased WordPiece: text to ids, with offsets into the caller's own string.

The rules are BERT's, which ELECTRA and ConvBERT share: clean, isolate CJK ideographs, lower-case,
strip accents, split at blanks and punctuation, then take the longest matching entries from the
left. The `tokenizers` library does that; the rest is done here.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The vocab.txt released with ConvBERT: BERT's, with its UTF-8 bytes misread as GBK.
MISREAD_SHA256 = "ce0ab0a373c6ce1fe777eea87d927294379f2ce187e240f0a9e24d4e9ac22fa0"
COLUMNS = ("input_ids", "token_type_ids", "attention_mask", "offsets")
CHOICES = {
    "truncation": ("longest_first", "only_first", "only_second", "do_not_truncate"),
    "padding": (False, True, "longest", "max_length"),
    "padding_side": ("right", "left"),
}
# The engine refuses lone surrogates; U+FFFD takes their place, one for one, and is dropped.
LONE_SURROGATES = re.compile("[\ud800-\udfff]")


class ConvBertTokenizer:
    """WordPiece tokenizer with BERT's rules; call it on a string or on a list of strings.

    The engine differs from BERT's Python code in a capital sigma at a word's end (σ, Python: ς),
    the last 256 ideographs of CJK extension E (not isolated) and characters new to Unicode.
    """

    def __init__(
        self,
        vocab_file: str | os.PathLike | Sequence[str],
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """Load a vocabulary.

        Args:
            vocab_file: path of a vocab.txt (one entry a line, line number = id), or the entries.
            do_lower_case: lower-case the text.
            strip_accents: drop combining marks; None follows `do_lower_case`.
            vocab_size: the model's number of entries; a vocabulary of another size is refused.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not UTF-8, a special token is missing, or the size is not `vocab_size`.
        """
        if do_lower_case not in (True, False) or strip_accents not in (True, False, None):
            raise ValueError(f"{do_lower_case=}, {strip_accents=}: choose True or False")
        self.do_lower_case, self.strip_accents = do_lower_case, strip_accents
        if isinstance(vocab_file, (str, os.PathLike)):
            vocab_file = _read_vocabulary(Path(vocab_file))
        self.vocabulary = list(vocab_file)
        self.vocab_size = len(self.vocabulary)
        _check_vocabulary(self.vocabulary, vocab_size)
        self._ids = {entry: i for i, entry in enumerate(self.vocabulary)}  # the last id wins
        special_ids = [self._ids[token] for token in SPECIAL_TOKENS]
        self.pad_token_id, self.unk_token_id, self.cls_token_id = special_ids[:3]
        self.sep_token_id, self.mask_token_id = special_ids[3:]
        # The plain engine knows no special tokens, so "[MASK]" in a text is "[", "mask", "]".
        self._engine = _build_engine(self._ids, do_lower_case, strip_accents)
        self._engine_with_special_tokens = _build_engine(self._ids, do_lower_case, strip_accents)
        self._engine_with_special_tokens.add_special_tokens(list(SPECIAL_TOKENS))

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike, **overrides: Any) -> ConvBertTokenizer:
        """Load from a directory, or find the vocabulary of a published name.

        Args:
            name_or_dir: a directory with vocab.txt, and perhaps tokenizer_config.json and
                config.json (whose `vocab_size` must fit); or a published name, "convbert-base" or
                "YituTech/conv-bert-base": all use BERT's uncased vocabulary, found as data are.
            **overrides: arguments of the constructor, which also says what is raised.
        """
        if os.path.isdir(name_or_dir):
            saved = _read_json(Path(name_or_dir, "tokenizer_config.json"))
            settings = {k: v for k, v in saved.items() if k in ("do_lower_case", "strip_accents")}
            settings["vocab_size"] = _read_json(Path(name_or_dir, "config.json")).get("vocab_size")
            return cls(Path(name_or_dir, "vocab.txt"), **{**settings, **overrides})
        from convbert.weights import published  # weights build on tokens, not the reverse

        return cls(published.vocabulary(name_or_dir), **overrides)

    @classmethod
    def train(
        cls,
        files_or_texts: str | os.PathLike | Iterable[str | os.PathLike],
        vocab_size: int,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
    ) -> ConvBertTokenizer:
        """Learn a vocabulary; the same text gives the same one, with any number of threads.

        The engine numbers the characters inside words ("##a") in a hash table's order, another in
        each run, and takes the lower ids among equally frequent merges. So a first pass collects
        these characters, and the second gets them as special tokens, which are numbered first.

        Args:
            files_or_texts: a path, a list of paths (its first item names a file), or texts.
            vocab_size: entries to learn, with the special tokens, which get the ids 0 to 4.
            do_lower_case, strip_accents: as in the constructor.

        Raises:
            ValueError: no text, or `vocab_size` is too small for its characters.
        """
        _check_count("vocab_size", vocab_size, least=1)
        engine = cls(SPECIAL_TOKENS, do_lower_case, strip_accents)._engine
        if isinstance(files_or_texts, (str, os.PathLike)):
            files_or_texts = [Path(files_or_texts)]
        items = list(files_or_texts)
        trainer = trainers.WordPieceTrainer(vocab_size=0, show_progress=False)  # no merges
        engine.train_from_iterator(_lines(items), trainer)
        characters = sorted(engine.get_vocab())
        if not characters:
            raise ValueError("files_or_texts holds no text to train on")
        if vocab_size < (least := len(characters) + len(SPECIAL_TOKENS)):
            raise ValueError(f"vocab_size={vocab_size}: the text's characters alone need {least}")
        first = [*SPECIAL_TOKENS, *(entry for entry in characters if entry.startswith("##"))]
        trainer.vocab_size, trainer.special_tokens, trainer.min_frequency = vocab_size, first, 2
        engine.train_from_iterator(_lines(items), trainer)
        ids = engine.get_vocab()
        if len(ids) < vocab_size:
            warnings.warn(f"{vocab_size=}: the text yields only {len(ids)} entries", stacklevel=2)
        return cls(sorted(ids, key=ids.__getitem__), do_lower_case, strip_accents)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write vocab.txt and tokenizer_config.json, which transformers reads as well."""
        config = {"do_lower_case": self.do_lower_case, "strip_accents": self.strip_accents}
        text = json.dumps({"tokenizer_class": "ConvBertTokenizer", **config}, indent=2) + "\n"
        vocabulary = "".join(f"{entry}\n" for entry in self.vocabulary)
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, content in (("vocab.txt", vocabulary), ("tokenizer_config.json", text)):
            temporary = Path(directory, f".{name}.{os.getpid()}")
            temporary.write_bytes(content.encode("utf-8"))
            os.replace(temporary, Path(directory, name))  # readers see the old file or the new

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        max_length: int | None = None,
        stride: int = 0,
        return_overflowing: bool = False,
        truncation: str = "longest_first",
        padding: bool | str = False,
        padding_side: str = "right",
        add_special_tokens: bool = True,
        allow_special_tokens: bool = False,
    ) -> Any:
        """Encode `[CLS] text [SEP]` or `[CLS] text [SEP] text_pair [SEP]`; or a batch of them.

        Offsets count characters of the strings as given: `text[start:end]`, and where the type is
        1 `text_pair[start:end]`. Special tokens and padding have (0, 0), [UNK] spans its word.

        Args:
            text: a string or a list of strings.
            text_pair: the second part, of the same kind and number.
            max_length: most tokens of a result, special ones included.
            stride: tokens that neighboring windows share, as in transformers. BERT's `doc_stride`
                is the step between their starts instead: `stride = max(0, W - doc_stride)`, where
                `W = max_length - len(question) - 3` is the length of a window.
            return_overflowing: cut the truncated part into windows, instead of dropping its end.
            truncation: "longest_first" (token by token from the longer part, from the second when
                equal, as BERT does), "only_first", "only_second" or "do_not_truncate".
            padding: False, True or "longest" (of this call), or "max_length".
            padding_side: "right" or "left".
            add_special_tokens: add [CLS] and [SEP].
            allow_special_tokens: read "[MASK]" and the like in a text as special tokens.

        Returns:
            A dict of `input_ids`, `token_type_ids`, `attention_mask` and `offsets`; for a batch
            each is a list of lists. With `return_overflowing` one flat list of windows: such
            dicts, with `sample` (index in the batch) and `start` (first token in the cut part).

        Raises:
            TypeError: a text is not a string.
            ValueError: an unusable option, or truncation would leave no token.
        """
        texts = _as_columns(text, text_pair)
        choices = dict(truncation=truncation, padding=padding, padding_side=padding_side)
        _check_options(len(texts), max_length, stride, return_overflowing, **choices)
        room = (max_length or sys.maxsize) - (len(texts) + 1) * add_special_tokens
        overlap = stride if return_overflowing else None
        engine = self._engine_with_special_tokens if allow_special_tokens else self._engine
        encoded = [engine.encode_batch(column, add_special_tokens=False) for column in texts]
        rows = []
        for sample, encodings in enumerate(zip(*encoded, strict=True)):
            parts = [(encoding.ids, encoding.offsets) for encoding in encodings]
            for spans in _cut([len(ids) for ids, _ in parts], room, truncation, overlap):
                row = self._lay_out(parts, spans, add_special_tokens)
                if return_overflowing:
                    row |= {"sample": sample, "start": max(start for start, _ in spans)}
                rows.append(row)
        if padding:
            self._pad(rows, max_length if padding == "max_length" else None, padding_side)
        if return_overflowing:
            return rows
        return rows[0] if isinstance(text, str) else {k: [row[k] for row in rows] for k in COLUMNS}

    def _lay_out(self, parts: list, spans: list, add_special_tokens: bool) -> dict[str, Any]:
        """Join the kept spans of the parts; types are 0 up to the first [SEP], then 1."""
        n = int(add_special_tokens)
        ids, types, offsets = [self.cls_token_id] * n, [0] * n, [(0, 0)] * n
        for part, (start, end) in enumerate(spans):
            ids += parts[part][0][start:end] + [self.sep_token_id] * n
            offsets += parts[part][1][start:end] + [(0, 0)] * n
            types += [part] * (len(ids) - len(types))
        return dict(zip(COLUMNS, (ids, types, [1] * len(ids), offsets), strict=True))

    def _pad(self, rows: list[dict[str, Any]], length: int | None, side: str) -> None:
        """Lengthen each row to `length` or, when None, to the longest row."""
        length = length or max((len(row["input_ids"]) for row in rows), default=0)
        for row in rows:
            missing = length - len(row["input_ids"])
            for name, fill in zip(COLUMNS, (self.pad_token_id, 0, 0, (0, 0)), strict=True):
                pads = [fill] * missing
                row[name] = row[name] + pads if side == "right" else pads + row[name]

    def encode_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts, without special tokens and offsets: the quick way."""
        texts = _as_columns(texts, None)[0]
        return [row.ids for row in self._engine.encode_batch_fast(texts, add_special_tokens=False)]

    def tokenize(self, text: str) -> list[str]:
        """Return the entries that a text is split into, without [CLS] and [SEP]."""
        return self.convert_ids_to_tokens(self.encode_ids([text])[0])

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Return the id of an entry, or a list of ids; [UNK]'s for a string that is no entry."""
        if isinstance(tokens, str):
            return self._ids.get(tokens, self.unk_token_id)
        return [self._ids.get(token, self.unk_token_id) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> Any:
        """Return the entry of an id, or a list; an id outside the vocabulary is a ValueError."""
        if isinstance(ids, Iterable):
            return [self.convert_ids_to_tokens(operator.index(i)) for i in ids]
        if not 0 <= ids < len(self):
            raise ValueError(f"id {ids}: the vocabulary has the ids 0 to {len(self) - 1}")
        return self.vocabulary[ids]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return text: entries joined by blanks, a `##` entry to the one before it."""
        tokens, hidden = self.convert_ids_to_tokens(list(ids)), SPECIAL_TOKENS * skip_special_tokens
        return " ".join(token for token in tokens if token not in hidden).replace(" ##", "")

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of vocabulary and settings: equal for tokenizers that encode alike."""
        strips = self.do_lower_case if self.strip_accents is None else self.strip_accents
        content = json.dumps([self.do_lower_case, strips, self.vocabulary])
        return hashlib.sha256(content.encode()).hexdigest()


def _build_engine(ids: dict[str, int], lowercase: bool, strip_accents: bool | None) -> Tokenizer:
    """Build BERT's pipeline; a word of more than 200 characters is [UNK] (transformers: 100)."""
    engine = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=200))
    engine.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return engine


def _read_vocabulary(path: Path) -> list[str]:
    """Read a vocab.txt with LF or CRLF; only the line end is stripped."""
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary file {path} (for a directory, use from_pretrained)")
    content = path.read_bytes()
    try:
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: not UTF-8; save it as UTF-8") from error
    return [line.removesuffix("\r") for line in lines]


def _check_vocabulary(vocabulary: list[str], vocab_size: int | None) -> None:
    """Refuse a vocabulary that cannot serve; warn about repeated entries."""
    n_distinct, n_entries = len(set(vocabulary)), len(vocabulary)
    if missing := [token for token in SPECIAL_TOKENS if token not in vocabulary]:
        raise ValueError(f"vocabulary without {' '.join(missing)}: add a line for each")
    if vocab_size not in (None, n_entries):
        raise ValueError(f"vocabulary of {n_entries} entries: the model needs its own {vocab_size}")
    if n_distinct < n_entries:
        message = f"vocabulary of {n_entries} entries, {n_distinct} distinct: the last id encodes"
        if is_misread(vocabulary):
            message += "; this file, released with ConvBERT, has 1,900 entries misread as GBK:"
            message += " BERT's uncased vocab.txt has them right, under the same ids"
        warnings.warn(message, stacklevel=3)


def is_misread(vocabulary: list[str]) -> bool:
    """Whether these are the entries of the broken vocab.txt released with ConvBERT."""
    as_released = "".join(f"{entry}\r\n" for entry in vocabulary).encode("utf-8")
    return hashlib.sha256(as_released).hexdigest() == MISREAD_SHA256


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or {} when there is no such file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a JSON object ({error}); correct it or remove it") from error


def _as_columns(text: Any, text_pair: Any) -> list[list[str]]:
    """Return `[texts]` or `[texts, pairs]`, of the same length and ready for the engine."""
    given = {"text": text} if text_pair is None else {"text": text, "text_pair": text_pair}
    columns = []
    for name, value in given.items():
        items = value if isinstance(value, (list, tuple)) else [value]
        if wrong := [type(item).__name__ for item in items if not isinstance(item, str)]:
            raise TypeError(f"{name} must be a string or a list of strings, not {wrong[0]}")
        columns.append([LONE_SURROGATES.sub("\ufffd", item) for item in items])
    kinds = {isinstance(value, str) for value in given.values()}
    if len(kinds) > 1 or len(columns[0]) != len(columns[-1]):
        raise ValueError("text and text_pair must be two strings or two lists of equal length")
    return columns


def _check_count(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {least}")


def _check_options(n: int, max_length: Any, stride: Any, windows: bool, **choices: Any) -> None:
    """Raise a ValueError for an option that cannot be obeyed for n texts beside the others."""
    _check_count("stride", stride, least=0)
    if max_length is not None:
        _check_count("max_length", max_length, least=1)
    for name, allowed in CHOICES.items():
        if choices[name] not in allowed:
            raise ValueError(f"{name}={choices[name]!r}: choose one of {allowed}")
    truncation = choices["truncation"]
    if truncation == "only_second" and n == 1:
        raise ValueError("truncation='only_second' needs a text_pair")
    if windows and truncation not in ("only_first", "only_second" if n == 2 else "longest_first"):
        raise ValueError(f"truncation={truncation!r}: windows need only_first or only_second")
    if max_length is None and (windows or choices["padding"] == "max_length"):
        raise ValueError("return_overflowing=True and padding='max_length' need a max_length")
    if stride and not windows:
        raise ValueError(f"stride={stride}: only windows overlap; set return_overflowing=True")


def _cut(lengths: list[int], room: int, truncation: str, overlap: int | None) -> list[list]:
    """Return windows: spans (start, end), one a text, of what is kept of texts of these lengths."""
    if (excess := sum(lengths) - room) <= 0 or truncation == "do_not_truncate":
        return [[(0, length) for length in lengths]]
    part = 1 if truncation == "only_second" else 0
    cuts_both = truncation == "longest_first" and len(lengths) == 2
    window = room if cuts_both else lengths[part] - excess
    if window < 1:
        where = "text and text_pair" if cuts_both else ("text", "text_pair")[part]
        raise ValueError(f"max_length leaves no token of {where}: raise it by {1 - window} or more")
    if cuts_both:  # in the order of BERT's _truncate_seq_pair
        ends = list(lengths)
        for _ in range(excess):
            ends[0 if ends[0] > ends[1] else 1] -= 1
        return [[(0, end) for end in ends]]
    if overlap is not None and overlap >= window:
        raise ValueError(f"stride={overlap}: must be less than the window of {window} tokens")
    starts = [0] if overlap is None else range(0, lengths[part] - overlap, window - overlap)
    windows = [(start, min(start + window, lengths[part])) for start in starts]
    return [[kept if i == part else (0, n) for i, n in enumerate(lengths)] for kept in windows]


def _lines(items: list[Any]) -> Iterator[str]:
    """Yield training texts, or the lines of UTF-8 files when the first item names one."""
    if not (items and (isinstance(items[0], os.PathLike) or os.path.isfile(items[0]))):
        yield from (LONE_SURROGATES.sub("\ufffd", text) for text in items)
        return
    for path in items:
        try:
            with open(path, encoding="utf-8") as file:
                yield from file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
