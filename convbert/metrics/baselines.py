"""What a fine-tuned model has to beat: the majority class, counted words, guessed names."""

from __future__ import annotations

import random
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from convbert.data.glue import TASKS, Example
from convbert.metrics import glue

_WORD = re.compile(r"\w+")
_CANDIDATE = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_a-z]\w+(?: [^\W\d_a-z]\w+)*")  # names, numbers


def scores(
    task: str, train: Sequence[Example], dev: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Return the dev metrics of baselines that see words, and no order beyond a pair of words.

    Args:
        task: says which metrics.
        train: labeled examples; the two texts of a pair are joined for counting words.
        dev: likewise.

    Returns:
        Baseline -> metric -> value. "majority": always the most frequent training label, or the
        mean score. "bag of words": a logistic regression (of scores: ridge regression) on which
        words occur. Of single texts "with bigrams": likewise on neighboring words; of pairs "word
        overlap": on the share of words that the two texts have in common.
    """
    is_score = TASKS[task].labels is None
    labels = [example.label or 0 for example in train]
    constant = float(np.mean(labels)) if is_score else Counter(labels).most_common(1)[0][0]
    guesses: dict[str, Any] = {"majority": [constant] * len(dev)}
    words, bigrams = (_counter(length) for length in (1, 2))
    features = {"bag of words": (words.fit_transform(_texts(train)), words.transform(_texts(dev)))}
    if train[0].text_b is None:
        counted = bigrams.fit_transform(_texts(train)), bigrams.transform(_texts(dev))
        features["with bigrams"] = counted
    else:
        features["word overlap"] = _shared(train), _shared(dev)
    for name, (known, asked) in features.items():
        model = Ridge() if is_score else LogisticRegression(max_iter=1000)
        guesses[name] = model.fit(known, labels).predict(asked)
    truth = [example.label or 0 for example in dev]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constant values")  # a mean has no correlation
        return {name: glue.score(task, guess, truth) for name, guess in guesses.items()}


def _counter(length: int) -> CountVectorizer:
    """Return what notes which words occur, and which `length` neighbors."""
    return CountVectorizer(ngram_range=(1, length), token_pattern=r"(?u)\b\w+\b", binary=True)


def _texts(examples: Sequence[Example]) -> list[str]:
    return [" ".join(filter(None, (example.text_a, example.text_b))) for example in examples]


def _shared(examples: Sequence[Example]) -> np.ndarray:
    """Return the share of a pair's words that both texts have [n, 1]."""
    shares = []
    for example in examples:
        a, b = (set(_WORD.findall((t or "").lower())) for t in (example.text_a, example.text_b))
        shares.append([len(a & b) / max(1, len(a | b))])
    return np.array(shares)


def extracted(
    asked: Sequence[tuple[str, str]], seed: int, reach: int = 8, blank: str = "…"
) -> dict[str, list[str]]:
    """Answer questions with a blank without a model.

    Args:
        asked: question and context of each.
        seed: of the random choice.
        reach: words to each side of a candidate that are compared with the question.
        blank: what stands for the answer.

    Returns:
        "random candidate": any name or number of the context that the question lacks. "word
        overlap": the one with most words of the question around it, the first if equal. "string
        search": what stands between the texts before and after the blank. An answer per question.
    """
    draw = random.Random(seed)
    answers: dict[str, list[str]] = {
        name: [] for name in ("random candidate", "word overlap", "string search")
    }
    for question, context in asked:
        found = list(_CANDIDATE.finditer(context))
        found = [match for match in found if match.group() not in question] or found
        overlaps = [_overlap(question, context, *match.span(), reach) for match in found]
        best = overlaps.index(max(overlaps)) if found else 0
        answers["random candidate"].append(draw.choice(found).group() if found else "")
        answers["word overlap"].append(found[best].group() if found else "")
        around = "(.*?)".join(re.escape(part) for part in question.split(blank))
        match = re.search(around, context, re.DOTALL)
        answers["string search"].append(match.group(1) if match and match.groups() else "")
    return answers


def _overlap(question: str, context: str, start: int, end: int, reach: int) -> int:
    """Count the question's words near a part of the context."""
    before = _WORD.findall(context[:start].lower())[-reach:]
    after = _WORD.findall(context[end:].lower())[:reach]
    return len(set(_WORD.findall(question.lower())).intersection(before + after))
