"""What a fine-tuned model has to beat: the majority class, and a bag of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def majority(labels: Sequence[int]) -> float:
    """Return the accuracy of always saying the most frequent label of these."""
    return Counter(labels).most_common(1)[0][1] / len(labels)


def bag_of_words(
    train: tuple[Sequence[str], Sequence[int]],
    dev: tuple[Sequence[str], Sequence[int]],
    words: int = 1,
) -> float:
    """Return the dev accuracy of a logistic regression on word counts.

    Args:
        train: texts and labels.
        dev: texts and labels.
        words: longest run of neighboring words that is counted; 2 adds bigrams.
    """
    model = make_pipeline(
        CountVectorizer(ngram_range=(1, words), token_pattern=r"(?u)\b\w+\b", binary=True),
        LogisticRegression(C=1.0, max_iter=1000),
    )
    model.fit(*train)
    return float(model.score(*dev))
