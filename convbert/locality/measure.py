"""Numbers about mixing matrices; numpy only.

Symbols: n tokens, L layers, h heads, k taps, r = (k-1)/2 reach, offset δ = j - i (positive looks
right), M [..., n, n] a mixing matrix: row i says how much token i takes from each token j.
"""

from __future__ import annotations

import numpy as np


def expand_kernels(kernels: np.ndarray) -> np.ndarray:
    """Write convolution kernels as banded mixing matrices.

    Eq. 2 (light convolution) as a matrix: row i holds the taps around token i.

    Args:
        kernels: softmaxed taps [..., n, k]; tap t reads token i + t - (k-1)/2.

    Returns:
        Weights [..., n, n]; a row sums to less than 1 where taps leave the sentence.

    Raises:
        ValueError: k is even.
    """
    *front, n, k = kernels.shape
    if k % 2 == 0:
        raise ValueError(f"kernels of {k} taps have no center: k must be odd")
    rows = np.arange(n)[:, None]
    columns = rows + np.arange(k) - (k - 1) // 2  # [n, k]
    inside = (columns >= 0) & (columns < n)
    band = np.zeros((*front, n, n), kernels.dtype)
    band[..., np.broadcast_to(rows, inside.shape)[inside], columns[inside]] = kernels[..., inside]
    return band


def ledger(matrix: np.ndarray, special: np.ndarray) -> dict[str, np.ndarray]:
    """Split each row's mass by where it goes; the parts sum to 1.

    Args:
        matrix: M [..., n, n] of one sentence without padding.
        special: True at [CLS] and [SEP] [n].

    Returns:
        `content`, `special` and `outside` (taps beyond the sentence), [..., n] each.
    """
    content = matrix[..., ~special].sum(-1)
    on_special = matrix[..., special].sum(-1)
    return {"content": content, "special": on_special, "outside": 1.0 - content - on_special}


def distance(matrix: np.ndarray, special: np.ndarray, least: float = 0.05) -> np.ndarray:
    """Mean distance |δ| between a content token and the content tokens it takes from.

    Each row is normalized over content keys and weighted by its mass on them, so that a head that
    only feeds [SEP] does not count.

    Args:
        matrix: M [..., n, n].
        special: True at [CLS] and [SEP] [n].
        least: rows with less mass on content are left out.

    Returns:
        Distance in tokens [...]; NaN where no row is left.
    """
    content = ~special
    inner = matrix[..., content, :][..., content]  # [..., c, c]
    places = np.flatnonzero(content)
    offsets = np.abs(places[None, :] - places[:, None])
    mass = inner.sum(-1)  # [..., c]
    kept = mass >= least
    total = (np.where(kept, mass, 0)).sum(-1)
    weighted = np.where(kept, (inner * offsets).sum(-1), 0).sum(-1)
    return np.where(total > 0, weighted / np.where(total > 0, total, 1), np.nan)


def mean_distances(matrices: list[np.ndarray], special: list[np.ndarray]) -> np.ndarray:
    """Mean over sentences of every head's distance; M [L, h, n, n] per sentence -> [L, h]."""
    each = [distance(matrix, marks) for matrix, marks in zip(matrices, special, strict=True)]
    return np.nanmean(each, axis=0)


def entropy(kernels: np.ndarray) -> float:
    """Mean entropy of the taps in nats, at most ln k: kernels [..., k] -> one number."""
    return float(-(kernels * np.log(np.maximum(kernels, 1e-30))).sum(-1).mean())


def uniform_distance(special: np.ndarray) -> float:
    """Return the distance of a head that takes equally from every content token: the null."""
    n = len(special)
    return float(distance(np.full((n, n), 1 / n), special))


def mean_map(matrices: list[np.ndarray], size: int) -> np.ndarray:
    """Average the first `size` rows and columns over sentences.

    Args:
        matrices: M [n_s, n_s] of each sentence s, at least `size` tokens each.
        size: rows and columns of the result.

    Raises:
        ValueError: no sentence, or a shorter one.
    """
    short = [len(matrix) for matrix in matrices if len(matrix) < size]
    if short or not matrices:
        found = f"{len(matrices)} sentences, the shortest of {min(short, default=0)} tokens"
        raise ValueError(f"mean map of {size} tokens: got {found}")
    return np.mean([matrix[:size, :size] for matrix in matrices], axis=0)


def offset_profile(matrices: list[np.ndarray], special: list[np.ndarray], reach: int) -> np.ndarray:
    """Mean weight by offset δ, over pairs of content tokens of all sentences.

    Args:
        matrices: M [n_s, n_s] per sentence.
        special: True at [CLS] and [SEP], per sentence [n_s].
        reach: largest |δ|.

    Returns:
        Means [2·reach + 1] for δ = -reach … reach; NaN where no pair has that offset.
    """
    sums, counts = np.zeros(2 * reach + 1), np.zeros(2 * reach + 1)
    for matrix, marks in zip(matrices, special, strict=True):
        places = np.flatnonzero(~marks)
        offsets = places[None, :] - places[:, None]
        inner = matrix[np.ix_(places, places)]
        near = np.abs(offsets) <= reach
        sums += np.bincount(offsets[near] + reach, inner[near], 2 * reach + 1)
        counts += np.bincount(offsets[near] + reach, minlength=2 * reach + 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
