"""From sentences to a corpus: means, intervals, strata, spread of kernels; numpy and scipy only.

Numbers are taken per sentence and then averaged over sentences, never over pooled tokens: the
tokens of one sentence are not independent, and long sentences would outvote short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from convbert.locality.record import MixingRecord

RESAMPLES = 2000
FEW = 200  # with fewer sentences than this a number is a smoke test
STRATA = ((8, 15), (16, 31), (32, 63), (64, 127))  # tokens in a sentence, with [CLS] and [SEP]


class Interval(NamedTuple):
    """A mean over sentences with its 95 percent bootstrap interval."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __format__(self, spec: str) -> str:
        """Write one number as "mean [low, high]"."""
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


class Variation(NamedTuple):
    """Sums of squares of kernels around their means; within + between = total. [L, h] each."""

    within: np.ndarray  # around the mean of the same word
    between: np.ndarray  # of the words' means around the mean of all
    total: np.ndarray
    occurrences: int  # of words, each with its kernel

    @property
    def variance(self) -> np.ndarray:
        """Variance of all kernels, summed over taps [L, h]."""
        return self.total / self.occurrences

    @property
    def share(self) -> np.ndarray:
        """C: the part of the variation that one word shows across contexts, 0 … 1 [L, h]."""
        return self.within / np.where(self.total > 0, self.total, np.nan)


def bootstrap(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over sentences and its percentile interval, sentences drawn with replacement.

    For a paired comparison pass the differences on the same sentences.

    Args:
        values: a number, or an array of them, per sentence [S, ...]; NaN is left out.
        resamples: number of draws.
        seed: of the draws; the same sentences give the same interval.

    Raises:
        ValueError: no sentence.
    """
    values = np.asarray(values, float)
    if values.ndim == 0 or not len(values):
        raise ValueError("a mean over sentences needs at least one sentence")
    flat = values.reshape(len(values), -1)
    present = np.isfinite(flat).astype(float)
    filled = np.where(present > 0, flat, 0.0)
    count = len(flat)
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, resamples)
    shape = values.shape[1:]
    with np.errstate(invalid="ignore"):  # a column without any number stays NaN
        mean = filled.sum(0) / present.sum(0)
        means = (draws @ filled) / (draws @ present)  # [resamples, ...]
    low, high = _percentiles(means)
    return Interval(mean.reshape(shape)[()], low.reshape(shape)[()], high.reshape(shape)[()])


def _percentiles(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5 and 97.5 percentiles of each column that has numbers, else NaN."""
    bounds = np.full((2, means.shape[1]), np.nan)
    some = np.isfinite(means).any(0)
    bounds[:, some] = np.nanpercentile(means[:, some], [2.5, 97.5], axis=0)
    return bounds[0], bounds[1]


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's 95 percent interval: what another seed's mean may be.

    An interval over sentences speaks of the models at hand; this one of the recipe that made them.

    Args:
        values: one number per seed; for a paired comparison the differences within each seed.

    Raises:
        ValueError: fewer than two seeds have no spread.
    """
    numbers = np.asarray(values, float)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise ValueError(f"an interval over seeds needs at least two, got {numbers.size}")
    mean, half = numbers.mean(), stats.sem(numbers) * stats.t.ppf(0.975, len(numbers) - 1)
    return Interval(mean, mean - half, mean + half)


def collect(
    records: Iterable[MixingRecord],
    measures: Mapping[str, Callable[[MixingRecord], np.ndarray]],
) -> dict[str, np.ndarray]:
    """Take measures of each record as it comes, keeping the numbers and not the matrices.

    Args:
        records: a list, or the stream of `record.stream`.
        measures: name -> function of one record, giving arrays of one shape.

    Returns:
        Name -> values [S, ...].

    Raises:
        ValueError: no record.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for record in records:
        for name, measure in measures.items():
            found[name].append(np.asarray(measure(record)))
    if not all(found.values()):
        raise ValueError("no sentence to measure")
    return {name: np.stack(values) for name, values in found.items()}


def stratum(length: int) -> str:
    """Return the class of length that a sentence of so many tokens belongs to."""
    for low, high in STRATA:
        if low <= length <= high:
            return f"{low}–{high}"
    return f"under {STRATA[0][0]}" if length < STRATA[0][0] else f"over {STRATA[-1][1]}"


def stratified(lengths: Sequence[int], total: int, longest: int) -> np.ndarray:
    """Choose about equally many sentences of each class of length, spread over the corpus.

    A class is left out where `longest` cuts off its longer half.

    Args:
        lengths: tokens of each sentence, with [CLS] and [SEP].
        total: number of sentences, at most; classes with too few sentences give all they have.
        longest: longer sentences are left out.

    Returns:
        Indices into `lengths`, increasing.

    Raises:
        ValueError: no sentence has a length of a class.
    """
    known = np.asarray(lengths)
    classes = [(low, min(high, longest)) for low, high in STRATA if 2 * low <= longest]
    chosen = [np.empty(0, int)]
    for number, (low, high) in enumerate(classes):
        share = total * (number + 1) // len(classes) - total * number // len(classes)
        fits = np.flatnonzero((low <= known) & (known <= high))
        places = np.linspace(0, len(fits) - 1, min(share, len(fits))).round().astype(int)
        chosen.append(fits[places])
    found = np.sort(np.concatenate(chosen))
    if not len(found):
        raise ValueError(f"no sentence has {STRATA[0][0]} to {longest} tokens: take other text")
    return found


def by_stratum(lengths: Sequence[int], values: np.ndarray) -> dict[str, Interval]:
    """Take the mean and its interval within each class of length that has a sentence.

    Args:
        lengths: tokens of each sentence [S].
        values: a number, or an array of them, per sentence [S, ...].

    Returns:
        Class -> mean over its sentences with its interval, from short to long.
    """
    names = np.array([stratum(length) for length in lengths])
    order = sorted(set(names), key=lambda name: min(np.asarray(lengths)[names == name]))
    return {str(name): bootstrap(values[names == name]) for name in order}


def most_variable_word(
    taps: Sequence[np.ndarray],
    ids: Sequence[np.ndarray],
    content: Sequence[np.ndarray],
    occurrences: int = 5,
) -> int:
    """Return the id of the token whose kernels of one head differ most between its contexts.

    Args:
        taps: kernels of the head [n, k] per sentence.
        ids: token ids [n] per sentence.
        content: True at content tokens [n] per sentence.
        occurrences: tokens that occur less often are left out.

    Raises:
        ValueError: no token occurs often enough.
    """
    words = np.concatenate([i[c] for i, c in zip(ids, content, strict=True)])
    kernels = np.concatenate([k[c] for k, c in zip(taps, content, strict=True)])
    known, counts = np.unique(words, return_counts=True)
    often = known[counts >= occurrences]
    if not len(often):
        raise ValueError(f"no token occurs {occurrences} times: take more text, or fewer times")
    spread = [kernels[words == word].astype(float).var(0).sum() for word in often]
    return int(often[int(np.argmax(spread))])


def kernel_entropy(kernels: np.ndarray) -> float:
    """Mean entropy of kernels [L, h, n, k] in nats, at most log k; 0 where there is none."""
    logs = np.log(np.where(kernels > 0, kernels, 1.0))
    return float(-(kernels * logs).sum() / max(1, kernels[..., 0].size))


def kernel_variation(
    kernels: Sequence[np.ndarray],
    ids: Sequence[np.ndarray],
    content: Sequence[np.ndarray],
    occurrences: int = 5,
) -> Variation:
    """Split the variation of kernels into that between words and that of one word in contexts.

    Positions differ between occurrences, too, so a kernel made from the token alone also varies:
    `record.swap_variation` holds the position fixed.

    Args:
        kernels: taps [L, h, n, k] per sentence.
        ids: token ids [n] per sentence.
        content: True at content tokens [n] per sentence.
        occurrences: tokens that occur less often are left out.

    Raises:
        ValueError: no token occurs often enough.
    """
    words = np.concatenate([i[c] for i, c in zip(ids, content, strict=True)])
    taps = np.concatenate([k[:, :, c] for k, c in zip(kernels, content, strict=True)], 2)
    _, group, counts = np.unique(words, return_inverse=True, return_counts=True)
    often = counts[group] >= occurrences
    if not often.any():
        raise ValueError(f"no token occurs {occurrences} times: take more text, or fewer times")
    taps, group = taps[:, :, often].astype(float), group[often]  # [L, h, N, k]
    mean = taps.mean(2, keepdims=True)
    own = np.empty_like(taps)  # each occurrence's word mean
    for word in np.unique(group):
        own[:, :, group == word] = taps[:, :, group == word].mean(2, keepdims=True)
    return Variation(
        ((taps - own) ** 2).sum((2, 3)),
        ((own - mean) ** 2).sum((2, 3)),
        ((taps - mean) ** 2).sum((2, 3)),
        len(group),
    )
