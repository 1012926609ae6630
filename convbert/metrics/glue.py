"""GLUE's metrics, as the benchmark defines them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, rankdata
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from convbert.data.glue import TASKS

# Metrics by task; the first decides which checkpoint is best. "ax" is the diagnostic set.
METRICS = {name: task.metrics for name, task in TASKS.items()}


def score(task: str, predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Score predictions.

    Args:
        task: a GLUE task ("sst-2", "ax"), or a sample task ("sample/swap").
        predictions: class per row, or a number for sts-b.
        labels: the truth, likewise.

    Returns:
        Metric name -> value, between -1 and 1.

    Raises:
        ValueError: unknown task, no rows, lengths that differ, a class that the task does not have,
            or a number that is not finite.
    """
    name = task.lower()
    if name not in METRICS:
        raise ValueError(f"task={task!r}: choose one of {', '.join(METRICS)}")
    guess, truth = np.asarray(predictions), np.asarray(labels)
    if guess.shape != truth.shape or guess.ndim != 1 or not len(guess):
        raise ValueError(
            f"{guess.shape} predictions for {truth.shape} labels: need as many, at least one"
        )
    for what, values in (("prediction", guess), ("label", truth)):
        _check_values(what, values, TASKS[name].labels)
    return {metric: _FUNCTIONS[metric](guess, truth) for metric in METRICS[name]}


def _check_values(what: str, values: np.ndarray, classes: tuple[str, ...] | None) -> None:
    """Raise a ValueError that names the first value without meaning."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{what}s must be numbers, not {values[0]!r}")
    if classes is None:
        fine, allowed = np.isfinite(values), "finite"
    else:
        fine = np.isin(values, np.arange(len(classes)))
        allowed = f"a class from 0 to {len(classes) - 1}"
    if not fine.all():
        worst = int(np.argmin(fine))
        raise ValueError(f"{what} {worst} is not {allowed}: {values[worst]}")


def _accuracy(guess: np.ndarray, truth: np.ndarray) -> float:
    """Share of equal classes; of mnli call `score` once for each of its two dev sets."""
    return float(accuracy_score(truth, guess))


def _f1(guess: np.ndarray, truth: np.ndarray) -> float:
    """F1 of class 1; 0 if nothing is predicted or nothing is right."""
    return float(f1_score(truth, guess, pos_label=1, zero_division=0))


def _mcc(guess: np.ndarray, truth: np.ndarray) -> float:
    """Matthews correlation, also for several classes; 0 only if a side is constant."""
    if np.ptp(guess.astype(int)) == 0 or np.ptp(truth.astype(int)) == 0:
        return 0.0  # scikit-learn says so too, with a warning about something else
    return float(matthews_corrcoef(truth, guess))


def _pearson(guess: np.ndarray, truth: np.ndarray) -> float:
    """Pearson correlation in float64; 0, with a warning, if a side is constant."""
    if np.ptp(guess) == 0 or np.ptp(truth) == 0:
        warnings.warn("constant values: the correlation is undefined, reported as 0", stacklevel=4)
        return 0.0
    return float(pearsonr(guess.astype(np.float64), truth.astype(np.float64)).statistic)


def _spearman(guess: np.ndarray, truth: np.ndarray) -> float:
    """Pearson correlation of average ranks."""
    return _pearson(rankdata(guess), rankdata(truth))


_FUNCTIONS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "pearson": _pearson,
    "spearman": _spearman,
}
