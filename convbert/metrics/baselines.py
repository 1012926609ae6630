"""What a fine-tuned model has to beat: the majority class, counted words, guessed names."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from convbert.data.glue import Example

_WORD = re.compile(r"\w+")
_CANDIDATE = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_a-z]\w+(?: [^\W\d_a-z]\w+)*")  # names, numbers


def accuracies(train: Sequence[Example], dev: Sequence[Example]) -> dict[str, float]:
    """Return the dev accuracy of each baseline.

    Args:
        train: labeled examples; the two texts of a pair are joined.
        dev: likewise.

    Returns:
        "majority": always the most frequent training label. "bag of words" and "with bigrams":
        logistic regressions on which words, and which neighboring words, occur.
    """
    most_frequent = Counter(example.label for example in train).most_common(1)[0][0]
    return {
        "majority": sum(example.label == most_frequent for example in dev) / len(dev),
        "bag of words": _logistic_regression(train, dev, words=1),
        "with bigrams": _logistic_regression(train, dev, words=2),
    }


def _logistic_regression(train: Sequence[Example], dev: Sequence[Example], words: int) -> float:
    model = make_pipeline(
        CountVectorizer(ngram_range=(1, words), token_pattern=r"(?u)\b\w+\b", binary=True),
        LogisticRegression(max_iter=1000),
    )
    model.fit(_texts(train), [example.label for example in train])
    return float(model.score(_texts(dev), [example.label for example in dev]))


def _texts(examples: Sequence[Example]) -> list[str]:
    return [" ".join(filter(None, (example.text_a, example.text_b))) for example in examples]


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
