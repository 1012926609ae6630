"""What pretraining is measured by on held-out text, each beside what knows nothing reaches.

"Knows nothing" is a guesser by word frequency for masked words, and one that ignores the text for
replaced tokens. A number without its baseline says little: a precision of 0.2 is poor if 20 % of
all tokens are replaced, and remarkable if 2 % are.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score


def masked_words(
    loss_sum: float, right: float, count: float, labels: np.ndarray, share: np.ndarray
) -> dict[str, float]:
    """Return loss (nats) and accuracy of guesses of masked words.

    Args:
        loss_sum: cross-entropy summed over the masked words.
        right: how many were guessed.
        count: how many there are; with none, everything is 0.
        labels: the words that were masked [count].
        share: of each word in the training text [V], for the baseline.
    """
    share = np.maximum(share, 1e-6)
    count = max(count, 1.0)
    return {
        "mlm_loss": loss_sum / count,
        "mlm_accuracy": right / count,
        "null_mlm_loss": float(-np.log(share[labels]).sum() / count),
        "null_mlm_accuracy": float((labels == share.argmax()).sum() / count),
    }


def replaced_tokens(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return how well replaced tokens are found.

    Args:
        truth: whether each token was replaced [n], bool.
        scores: logits [n]; above 0 the token is called replaced.

    Returns:
        Loss (nats), precision, recall and area under the ROC curve. The baselines: always the
        share of replaced tokens as probability (loss); calling as many tokens replaced, but any
        (precision, recall); a coin (area). A ratio without cases is 0.
    """
    called, replaced = scores > 0, float(truth.mean())
    hits = float((called & truth).sum())
    entropy = sum(-p * np.log(p) for p in (replaced, 1 - replaced) if p > 0)
    losses = np.logaddexp(0.0, np.where(truth, -scores, scores).astype("float64"))
    return {
        "rtd_loss": float(losses.mean()),
        "rtd_precision": hits / max(called.sum(), 1),
        "rtd_recall": hits / max(truth.sum(), 1),
        "rtd_auc": auc(truth, scores),
        "null_rtd_loss": float(entropy),
        "null_rtd_precision": replaced,
        "null_rtd_recall": float(called.mean()),
        "null_rtd_auc": 0.5,
    }


def auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: how often a replaced token scores above an original one.

    Where all are replaced or none is, there is nothing to rank, and a coin does as well: 0.5.
    """
    if truth.all() or not truth.any():
        return 0.5
    return float(roc_auc_score(truth, scores))
