"""SQuAD's files, and the windows of text a model reads, with labels in tokens.

A window is `[CLS] question [SEP] part of the context [SEP]`. Offsets count characters of the
context as it is in the file: nothing is stripped.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from convbert.tokenizer import ConvBertTokenizer

OFFICIAL_MD5 = MappingProxyType(
    {
        "train-v1.1.json": "981b29407e0affa3b1b156f72073b945",
        "dev-v1.1.json": "3e85deb501d4e538b6bc56f786231552",
        "train-v2.0.json": "62108c273c268d70893182d5cf8df740",
        "dev-v2.0.json": "246adae8b7002f8679c027697b0b7cf8",
    }
)


class Annotation(NamedTuple):
    """An answer that a person marked."""

    text: str
    start: int  # its first character in the context, as the file says


@dataclass(frozen=True)
class Question:
    """A question about a context."""

    id: str
    text: str
    context: str
    annotations: tuple[Annotation, ...] = ()
    is_impossible: bool = False  # the context does not answer it (version 2.0)

    @property
    def aligned(self) -> list[Annotation]:
        """The annotations that stand in the context where they say."""
        return [gold for gold in self.annotations if self._holds(gold)]

    def _holds(self, gold: Annotation) -> bool:
        return gold.start >= 0 and self.context.startswith(gold.text, gold.start)


def read(path: str | os.PathLike) -> list[Question]:
    """Read a SQuAD file of version 1.1 or 2.0; a file to predict on needs no answers.

    Warns if a file with an official name has other content than the official one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not in SQuAD's layout, or an id appears twice; the message says where.
    """
    path = Path(path)
    content = path.read_bytes()
    expected = OFFICIAL_MD5.get(path.name)
    if expected and hashlib.md5(content, usedforsecurity=False).hexdigest() != expected:
        warnings.warn(f"{path}: not the official file of this name", stacklevel=2)
    try:
        articles = _take(json.loads(content), "data", list, "the file")
        questions = [q for i, article in enumerate(articles) for q in _article(article, i)]
    except ValueError as error:  # json's and ours
        raise ValueError(f"{path}: not a SQuAD file: {error}") from error
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(f"{path}: two questions have the id {question.id}")
        seen.add(question.id)
    if not questions:
        raise ValueError(f"{path}: expected questions, found none")
    return questions


def count_misaligned(questions: Sequence[Question]) -> int:
    """Count the annotations that do not stand where they say."""
    return sum(len(question.annotations) - len(question.aligned) for question in questions)


def _article(article: Any, i: int) -> Iterator[Question]:
    for j, paragraph in enumerate(_take(article, "paragraphs", list, f"data[{i}]")):
        where = f"data[{i}].paragraphs[{j}]"
        context = _take(paragraph, "context", str, where)
        for k, qa in enumerate(_take(paragraph, "qas", list, where)):
            yield _question(qa, context, f"{where}.qas[{k}]")


def _question(qa: Any, context: str, where: str) -> Question:
    name, text = _take(qa, "id", str, where), _take(qa, "question", str, where)
    golds = []
    for n, gold in enumerate(_take({"answers": [], **qa}, "answers", list, where)):
        place = f"{where}.answers[{n}]"
        start = _take(gold, "answer_start", int, place)
        golds.append(Annotation(_take(gold, "text", str, place), start))
    impossible = _take({"is_impossible": False, **qa}, "is_impossible", bool, where)
    if impossible and golds:
        raise ValueError(f"{where}: is_impossible, and yet it has answers")
    return Question(name, text, context, tuple(golds), impossible)


def _take(value: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(key), kind):
        raise ValueError(f"{where}: expected {key!r} with a {kind.__name__}")
    return value[key]


class Tokens(NamedTuple):
    """A tokenized context."""

    ids: np.ndarray  # int32 [n]
    starts: np.ndarray  # int32 [n], first character of each token
    ends: np.ndarray  # int32 [n], the character after it


class Span(NamedTuple):
    """Tokens of a context, both included."""

    first: int
    last: int


class Features:
    """Windows over the contexts of questions, in the order of the questions.

    Every context is tokenized once; the padded inputs exist only while a batch does.

    Attributes:
        question: index of each window's question, [F].
        start, end: each window's tokens in the context, [F] each.
        owned_start, owned_end: the tokens whose answers this window decides, [F] each.
        offset: position in the input of the window's first token, [F].
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: ConvBertTokenizer,
        max_seq_length: int = 512,
        doc_stride: int = 128,
        max_query_length: int = 64,
        max_context: bool = True,
    ) -> None:
        """Tokenize and cut.

        Args:
            questions: what `read` returned.
            tokenizer: of the model.
            max_seq_length: most tokens of an input.
            doc_stride: the step from one window's start to the next's, as in BERT.
                (transformers' `stride` is the overlap instead: window - doc_stride.)
            max_query_length: longer questions lose their end.
            max_context: let only the window with the most context around a token decide answers
                that start there (BERT's rule); without it every window does.

        Raises:
            ValueError: no questions, a limit below 1, or no room beside a question for its context.
        """
        limits = dict(max_seq_length=max_seq_length, doc_stride=doc_stride)
        for name, value in (limits | {"max_query_length": max_query_length}).items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.questions, self.tokenizer = questions, tokenizer
        self.asked = [
            tokens.ids[:max_query_length]
            for tokens in tokenize([question.text for question in questions], tokenizer)
        ]
        distinct = list(dict.fromkeys(question.context for question in questions))
        self.contexts = dict(zip(distinct, tokenize(distinct, tokenizer), strict=True))
        rows: list[np.ndarray] = []
        for number, question in enumerate(questions):
            room = max_seq_length - len(self.asked[number]) - 3
            if room < 1:
                raise ValueError(
                    f"question {question.id} leaves no room for its context: raise max_seq_length"
                    f"={max_seq_length}, or lower max_query_length={max_query_length}"
                )
            windows = cut_windows(len(self.contexts[question.context].ids), room, doc_stride)
            if not max_context:
                windows = windows[:, [0, 1, 0, 1]]
            rows.append(np.insert(windows, 0, number, axis=1))
        table = np.concatenate(rows)  # [F, 5]
        self.question, self.start, self.end = table[:, 0], table[:, 1], table[:, 2]
        self.owned_start, self.owned_end = table[:, 3], table[:, 4]
        lengths = np.array([len(ids) for ids in self.asked], np.int64)
        self.offset = lengths[self.question] + 2  # after [CLS] question [SEP]

    def __len__(self) -> int:
        return len(self.question)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each input, [F]."""
        return self.offset + self.end - self.start + 1

    def context(self, number: int) -> Tokens:
        """Return the tokens of a question's context."""
        return self.contexts[self.questions[number].context]

    def batch(self, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of some windows, int64 [B, L], padded to the longest."""
        lengths = self.lengths[rows]
        shape = len(rows), int(lengths.max())
        ids = np.full(shape, self.tokenizer.pad_token_id, np.int64)
        types, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            number, first = self.question[row], self.offset[row]
            ids[i, 0], ids[i, 1 : first - 1] = self.tokenizer.cls_token_id, self.asked[number]
            ids[i, first : length - 1] = self.context(number).ids[self.start[row] : self.end[row]]
            ids[i, [first - 1, length - 1]] = self.tokenizer.sep_token_id
            types[i, first:length], mask[i, :length] = 1, 1
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}

    def find(self, number: int, gold: Annotation) -> Span | None:
        """Return the context's tokens that cover an answer; None if none does.

        The first one reaches beyond the answer's start, the last one begins before its end: for
        words that is the token with the first and the token with the last character.
        """
        tokens = self.context(number)
        first = int(np.searchsorted(tokens.ends, gold.start, "right"))
        last = int(np.searchsorted(tokens.starts, gold.start + len(gold.text), "left")) - 1
        return Span(first, last) if first <= last else None

    def training_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows to train on, and the positions of start and end in their inputs.

        The label is the first annotation that stands where it says and consists of whole tokens,
        else the first that stands there. Windows that do not hold all of it, and those of
        impossible questions, point to [CLS]. Questions whose annotations stand elsewhere are left
        out.

        Returns:
            Rows int64 [T] and positions int64 [T, 2].

        Raises:
            ValueError: a question has no answer and is not marked as impossible.
        """
        rows, positions = [], []
        spans = [self.label(number) for number in range(len(self.questions))]
        for row, number in enumerate(self.question):
            span = spans[number]
            if span is not None:
                rows.append(row)
                inside = self.start[row] <= span.first and span.last < self.end[row]
                shift = self.offset[row] - self.start[row]
                positions.append([p + shift if inside else 0 for p in span])
        return np.array(rows, np.int64), np.array(positions, np.int64).reshape(-1, 2)

    def label(self, number: int) -> Span | None:
        """Return the tokens a model should mark; (-1, -1) if a question is impossible.

        Some annotations cut a word in two ("8" in "18"); another one may not.
        """
        question = self.questions[number]
        if question.is_impossible:
            return Span(-1, -1)
        if not question.annotations:
            raise ValueError(f"question {question.id} has no answer to train on")
        spans = {gold: self.find(number, gold) for gold in question.aligned}
        found = {gold: span for gold, span in spans.items() if span is not None}
        whole = [span for gold, span in found.items() if self.text(number, span) == gold.text]
        return next(iter([*whole, *found.values()]), None)

    def text(self, number: int, span: Span) -> str:
        """Return the part of a question's context that some tokens cover."""
        tokens = self.context(number)
        return self.questions[number].context[tokens.starts[span.first] : tokens.ends[span.last]]


def tokenize(texts: Sequence[str], tokenizer: ConvBertTokenizer) -> Iterator[Tokens]:
    """Yield the tokens of texts, without special ones."""
    for start in range(0, len(texts), 1000):  # lists of Python numbers take much memory
        encoded = tokenizer(list(texts[start : start + 1000]), add_special_tokens=False)
        for ids, offsets in zip(encoded["input_ids"], encoded["offsets"], strict=True):
            pairs = np.array(offsets, np.int32).reshape(-1, 2)
            yield Tokens(np.array(ids, np.int32), pairs[:, 0].copy(), pairs[:, 1].copy())


@functools.lru_cache(maxsize=10_000)
def cut_windows(count: int, room: int, step: int) -> np.ndarray:
    """Cut a context into windows, and say which tokens belong to which.

    A token belongs to the window that shows most context around it: the smaller of the numbers of
    tokens to its left and right, plus a hundredth of the window's length; the earlier one if equal
    (BERT's "max context").

    Args:
        count: tokens of the context; 0 makes one empty window.
        room: most tokens of a window.
        step: from one window's start to the next's, if the windows are not shorter.

    Returns:
        Start and end of each window, start and end of what it owns, [windows, 4].
    """
    starts = [0]
    while starts[-1] + room < count:
        starts.append(starts[-1] + min(room, step))
    start = np.array(starts)[:, None]  # [windows, 1]
    end = np.minimum(start + room, count)
    token = np.arange(count)
    context = np.minimum(token - start, end - 1 - token)  # [windows, count], negative outside
    context = np.where(context < 0, -np.inf, context + 0.01 * (end - start))
    owner = context.argmax(0)  # never decreasing: a later window's context rises and falls later
    edges = np.searchsorted(owner, np.arange(len(starts) + 1))
    return np.concatenate([start, end, edges[:-1, None], edges[1:, None]], axis=1)
