"""Whether a classifier is as often right as it says: reliability diagram and expected error.

Not in the paper; the definitions are those of Guo et al. 2017 (arXiv 1706.04599), section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Reliability(NamedTuple):
    """Predictions in bins of equal width, by how sure the classifier is."""

    edges: np.ndarray  # of the bins, from 0 to 1 [bins + 1]
    counts: np.ndarray  # predictions in each bin [bins]
    confidence: np.ndarray  # their mean probability [bins]; NaN of an empty bin
    accuracy: np.ndarray  # share of them that is right [bins]; NaN of an empty bin
    error: float  # expected calibration error (eq. 3 there): mean |accuracy - confidence|


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> Reliability:
    """Compare how sure a classifier is with how often it is right.

    Args:
        probabilities: of each class [n, C]; the highest is the prediction's confidence.
        labels: index of the right class [n].
        bins: (0, 1/bins], … up to 1.

    Raises:
        ValueError: no rows, other numbers of rows, no probabilities, or a label without class.
    """
    odds, truth = np.asarray(probabilities, float), np.asarray(labels)
    if odds.ndim != 2 or truth.shape != odds.shape[:1] or not len(odds):
        raise ValueError(
            f"{odds.shape} probabilities for {truth.shape} labels: need [n, C] and [n]"
        )
    if not np.allclose(odds.sum(1), 1, atol=1e-4) or odds.min() < 0:
        raise ValueError("probabilities must not be negative, and sum to 1 in each row")
    if not np.isin(truth, np.arange(odds.shape[1])).all():
        raise ValueError(f"labels must be classes from 0 to {odds.shape[1] - 1}")
    sure, right = odds.max(1), odds.argmax(1) == truth
    places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 of empty bins
        confidence = np.bincount(places, sure, bins) / count
        accuracy = np.bincount(places, right, bins) / count
    error = float(np.nansum(count * np.abs(accuracy - confidence)) / len(odds))
    return Reliability(np.linspace(0, 1, bins + 1), count, confidence, accuracy, error)
