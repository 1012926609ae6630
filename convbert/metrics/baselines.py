"""What a fine-tuned model has to beat: the majority class, and a bag of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from convbert.data.glue import Example


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
