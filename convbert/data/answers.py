"""From start and end logits to answers: the best spans of every question.

As in BERT's post-processing for SQuAD, with spans compared in a fixed order, so that results do
not depend on the order of batches: higher score, then earlier window, earlier start, shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from convbert.data.squad import Features


class Answer(NamedTuple):
    """An answer and its place: `context[start:end]`; "no answer" is empty, at 0."""

    text: str
    start: int
    end: int
    probability: float  # among the n-best answers to the question
    score: float  # start logit + end logit


@dataclass
class Predictions:
    """What is known about every question, by id."""

    nbest: dict[str, list[Answer]] = field(default_factory=dict)  # best first
    texts: dict[str, str] = field(default_factory=dict)  # the best answer that is not empty
    null_odds: dict[str, float] = field(default_factory=dict)  # null score - best other score

    def final(self, threshold: float | None) -> dict[str, str]:
        """Return the answers: "" where the null odds are above the threshold; None: nowhere."""
        if threshold is None:
            return dict(self.texts)
        odds = self.null_odds
        return {name: "" if odds[name] > threshold else text for name, text in self.texts.items()}


# Negative score, window, first and last character: Python's order of tuples is the fixed order.
Candidate = tuple[float, int, int, int]


class Decoder:
    """Takes the logits of batches in any order, keeps the best candidates of each question."""

    def __init__(
        self, features: Features, n_best_size: int = 20, max_answer_length: int = 30
    ) -> None:
        """Start without logits.

        Args:
            features: the windows.
            n_best_size: starts and ends to combine in a window, and answers kept of a question.
            max_answer_length: in tokens.

        Raises:
            ValueError: a limit below 1.
        """
        if n_best_size < 1 or max_answer_length < 1:
            raise ValueError(f"{n_best_size=}, {max_answer_length=}: must be at least 1")
        self.features = features
        self.n_best_size, self.max_answer_length = n_best_size, max_answer_length
        count = len(features.questions)
        self.best: list[dict[str, Candidate]] = [{} for _ in range(count)]  # text -> where
        self.single: list[Candidate | None] = [None] * count  # best single token
        self.null = np.full(count, np.inf)
        self.missing = np.ones(len(features), bool)

    def add(self, rows: np.ndarray, start_logits: np.ndarray, end_logits: np.ndarray) -> None:
        """Take the logits of some windows.

        Only tokens of the context are ranked: what a model says at the question, at separators
        and at padding has no influence.

        Args:
            rows: their numbers, [B].
            start_logits: [B, L], padded on the right.
            end_logits: likewise.

        Raises:
            FloatingPointError: a logit of a token is not a finite number.
        """
        features, rows = self.features, np.asarray(rows)
        position = np.arange(start_logits.shape[1])  # [L]
        first = features.offset[rows][:, None]  # [B, 1]
        token = position - first + features.start[rows][:, None]  # [B, L], in the context
        inside = (position >= first) & (token < features.end[rows][:, None])
        owned = (token >= features.owned_start[rows][:, None]) & (
            token < features.owned_end[rows][:, None]
        )
        used = inside | (position == 0)
        if not np.isfinite(np.where(used, start_logits + end_logits, 0)).all():
            raise FloatingPointError("a logit is not a finite number: the model is broken")
        start = np.where(inside & owned, start_logits.astype(np.float64), -np.inf)  # [B, L]
        end = np.where(inside, end_logits.astype(np.float64), -np.inf)
        null = start_logits[:, 0].astype(np.float64) + end_logits[:, 0]
        np.minimum.at(self.null, features.question[rows], null)
        ranked = self._rank(start, end)
        alone = (start + end).argmax(1)
        for i, row in enumerate(rows.tolist()):
            self._keep(row, token[i], *(part[i].tolist() for part in ranked))
            self._keep_single(row, token[i, alone[i]], start[i, alone[i]] + end[i, alone[i]])
        self.missing[rows] = False

    def _rank(
        self, start: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Combine the best starts and ends of each window.

        Args:
            start: logits [B, L], -inf where no answer may start.
            end: likewise.

        Returns:
            Scores, start and end positions of n·n spans, [B, n·n] each, in the fixed order.
            Spans that are not allowed come last and score -inf.
        """
        n = min(self.n_best_size, start.shape[1])
        # A stable sort prefers the earlier of equal logits. Then by position, so that the spans
        # come in the order of starts and ends, and another stable sort keeps that among equals.
        starts = np.sort(np.argsort(-start, axis=1, kind="stable")[:, :n], axis=1)  # [B, n]
        ends = np.sort(np.argsort(-end, axis=1, kind="stable")[:, :n], axis=1)
        score = (
            np.take_along_axis(start, starts, 1)[:, :, None]
            + np.take_along_axis(end, ends, 1)[:, None, :]
        )  # [B, n, n]
        length = ends[:, None, :] - starts[:, :, None] + 1
        score[(length < 1) | (length > self.max_answer_length)] = -np.inf
        flat = score.reshape(len(score), n * n)
        order = np.argsort(-flat, axis=1, kind="stable")
        return (
            np.take_along_axis(flat, order, 1),
            np.take_along_axis(starts, order // n, 1),
            np.take_along_axis(ends, order % n, 1),
        )

    def _keep(self, row: int, token: np.ndarray, scores: list, starts: list, ends: list) -> None:
        """Merge a window's spans into its question's, equal texts only once."""
        number = int(self.features.question[row])
        tokens, context = self.features.context(number), self.features.questions[number].context
        found: dict[str, Candidate] = {}
        for score, first, last in zip(scores, starts, ends, strict=True):
            if score == -np.inf or len(found) == self.n_best_size:
                break
            a, b = int(tokens.starts[token[first]]), int(tokens.ends[token[last]])
            found.setdefault(context[a:b], (-score, row, a, b))
        best = self.best[number]
        if best:
            for text, candidate in found.items():
                best[text] = min(candidate, best.get(text, candidate))
            found = dict(sorted(best.items(), key=lambda item: item[1])[: self.n_best_size])
        self.best[number] = found

    def _keep_single(self, row: int, token: int, score: float) -> None:
        """Remember the best answer of one token, for a question that gets no other."""
        if score == -np.inf:
            return
        number = int(self.features.question[row])
        tokens, before = self.features.context(number), self.single[number]
        here = (-float(score), row, int(tokens.starts[token]), int(tokens.ends[token]))
        self.single[number] = here if before is None else min(before, here)

    def finish(self, version_2: bool) -> Predictions:
        """Return answers to all questions.

        Args:
            version_2: "no answer" is one of the n-best, with the smallest null score of the
                question's windows. A question none of whose spans is allowed then gets "" with
                odds of 0; otherwise it gets its best single token.

        Raises:
            ValueError: logits of a window are missing.
        """
        if self.missing.any():
            raise ValueError(f"no logits for {self.missing.sum()} of {len(self.missing)} windows")
        result = Predictions()
        for number, question in enumerate(self.features.questions):
            candidates = list(self.best[number].values())
            single, null = self.single[number], float(self.null[number])
            if not candidates and single is not None and not version_2:
                candidates = [single]
            spans = [(-score, first, last) for score, _, first, last in candidates]
            result.null_odds[question.id] = null - spans[0][0] if spans else 0.0
            result.texts[question.id] = question.context[slice(*spans[0][1:])] if spans else ""
            if version_2 or not spans:
                spans = sorted([*spans, (null, 0, 0)], key=lambda span: -span[0])
            result.nbest[question.id] = _with_probabilities(question.context, spans)
        return result


def _with_probabilities(context: str, spans: list[tuple[float, int, int]]) -> list[Answer]:
    """Turn (score, start, end) into answers; probabilities are the softmax of the scores."""
    scores = np.array([score for score, _, _ in spans])
    weights = np.exp(scores - scores.max())
    probabilities = (weights / weights.sum()).tolist()
    return [
        Answer(context[start:end], start, end, probability, score)
        for (score, start, end), probability in zip(spans, probabilities, strict=True)
    ]
