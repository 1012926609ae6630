"""Numbers about mixing matrices of one sentence; numpy only.

Symbols: n tokens, L layers, h heads, k taps, r = (k-1)/2 reach, offset δ = j - i (positive looks
right), M [..., n, n] a mixing matrix: row i says how much token i takes from each token j.
`content` [n] is True for tokens that are neither [CLS] nor [SEP] nor padding. Unless said
otherwise, only content tokens ask and only content tokens are counted as answers, a row weighs as
much as its mass on content, and rows with less than `LEAST` of it are left out: a head that feeds
[SEP] alone must not shout.
"""

from __future__ import annotations

import numpy as np

LEAST = 0.05  # mass on content below which a row is left out
LEDGER = ("content", "special", "outside")  # where a row's mass can go without padding


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


def mixing(attention: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Put both families on one scale.

    Args:
        attention: probabilities [L, h, n, n].
        kernels: softmaxed taps [L, h', n, k].

    Returns:
        M [L, h + h', n, n], attention heads first, as the model's output projection has them.
    """
    return np.concatenate([attention, expand_kernels(kernels)], axis=-3)


def corner(matrix: np.ndarray, size: int) -> np.ndarray:
    """Cut a map to a common size, for a mean over sentences.

    Returns:
        The first rows and columns of M [..., size, size]; NaN throughout for a shorter sentence,
        whose rows spread over fewer tokens.
    """
    if matrix.shape[-1] < size:
        return np.full((*matrix.shape[:-2], size, size), np.nan)
    return matrix[..., :size, :size]


def ledger(
    matrix: np.ndarray, content: np.ndarray, valid: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Split each row's mass by where it goes; the parts sum to 1.

    Args:
        matrix: M [..., n, n].
        content: True at content tokens [n].
        valid: False at padding [n]; None: there is none.

    Returns:
        `content`, `special` ([CLS], [SEP]), `padding` and `outside` (taps beyond the sentence),
        [..., n] each.
    """
    valid = np.ones_like(content) if valid is None else valid
    parts = {
        "content": matrix[..., content].sum(-1),
        "special": matrix[..., valid & ~content].sum(-1),
        "padding": matrix[..., ~valid].sum(-1),
    }
    return parts | {"outside": 1.0 - sum(parts.values())}


def mean_ledger(matrix: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Average the ledger over content rows, of a sentence without padding.

    Returns:
        Shares [3, ...] on content, on special tokens, and outside.
    """
    parts = ledger(matrix, content)
    return np.stack([parts[name][..., content].mean(-1) for name in LEDGER])


def content_rows(
    matrix: np.ndarray, content: np.ndarray, least: float = LEAST
) -> tuple[np.ndarray, np.ndarray]:
    """Set to zero what is not between content tokens, and rows with too little mass on content.

    Returns:
        Weights [..., n, n] and their row sums s_i [..., n], float64.
    """
    inner = np.where(_pairs(content), matrix, 0.0)
    mass = inner.sum(-1)
    kept = mass >= least
    return np.where(kept[..., None], inner, 0.0), np.where(kept, mass, 0.0)


def average(values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Mean of a number per row, weighted by the rows' mass: [..., n] twice -> [...].

    NaN where no row is left.
    """
    return _divide((values * mass).sum(-1), mass.sum(-1))


def skipped(matrix: np.ndarray, content: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Count the content rows that are left out for lack of mass: M [..., n, n] -> [...]."""
    _, mass = content_rows(matrix, content, least)
    return content.sum() - (mass > 0).sum(-1)


def by_offset(matrix: np.ndarray, content: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Share of the mass on content that goes to each offset.

    Distance, signed mean, median and window mass are sums over it.

    Returns:
        Shares [..., 2n-1] for δ = -(n-1) … n-1; they sum to 1, or are NaN where no row is left.
    """
    inner, mass = content_rows(matrix, content, least)
    return _divide(_sum_by_offset(inner, len(content) - 1), mass.sum(-1)[..., None])


def distance(matrix: np.ndarray, content: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Mean distance |δ| in tokens, D: M [..., n, n] -> [...]."""
    shares = by_offset(matrix, content, least)
    return shares @ np.abs(_range(shares))


def median_distance(matrix: np.ndarray, content: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Smallest distance within which half of the mass lies: M [..., n, n] -> [...]."""
    shares = by_offset(matrix, content, least)
    middle = shares.shape[-1] // 2
    folded = shares[..., middle:].copy()  # |δ| = 0 … n-1
    folded[..., 1:] += shares[..., :middle][..., ::-1]
    half = folded.cumsum(-1) >= 0.5 - 1e-12
    return np.where(half.any(-1), half.argmax(-1), np.nan)


def signed_mean(matrix: np.ndarray, content: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Mean offset in tokens; positive looks right: M [..., n, n] -> [...]."""
    shares = by_offset(matrix, content, least)
    return shares @ _range(shares)


def spread_evenly(matrix: np.ndarray, content: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Return the null of a matrix: each row's mass on content, spread evenly over content."""
    _, mass = content_rows(matrix, content, least)
    return mass[..., None] * content / max(1, content.sum())


def relative_distance(matrix: np.ndarray, content: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Distance in units of that of even rows of the same mass; 1 is uniform."""
    even = spread_evenly(matrix, content, least)
    return _divide(distance(matrix, content, least), distance(even, content, 0.0))


def uniform_distance(content: np.ndarray) -> float:
    """Return the distance of a head that takes equally from every content token: the null."""
    n = len(content)
    return float(distance(np.full((n, n), 1 / n), content, 0.0))


def window_mass(
    matrix: np.ndarray,
    content: np.ndarray,
    width: int,
    corrected: bool = False,
    least: float = LEAST,
) -> np.ndarray:
    """Share of the mass within `width` tokens, W: M [..., n, n] -> [...].

    Args:
        matrix: M.
        content: True at content tokens [n].
        width: largest |δ| counted.
        corrected: rescale so that even rows have 0 and 1 stays 1; NaN where even rows have 1.
        least: rows with less mass on content are left out.
    """
    shares = by_offset(matrix, content, least)
    mass = shares @ (np.abs(_range(shares)) <= width)
    if not corrected:
        return mass
    chance = window_mass(spread_evenly(matrix, content, least), content, width, least=0.0)
    return np.where(chance < 1 - 1e-9, _divide(mass - chance, 1 - chance), np.nan)


def entropy(
    matrix: np.ndarray,
    content: np.ndarray,
    reachable: np.ndarray | None = None,
    least: float = LEAST,
) -> dict[str, np.ndarray]:
    """How many tokens a row takes from.

    Args:
        matrix: M [..., n, n].
        content: True at content tokens [n].
        reachable: True where a weight can be [n, n], for instance a convolution's band; None:
            everywhere.
        least: rows with less mass on content are left out.

    Returns:
        `nats`: the mean entropy; `support`: the mean of its exponential, the number of tokens
        that would give it if taken from evenly; `normalized`: the entropy over its largest
        possible value, NaN where only one token can be reached. [...] each.
    """
    inner, mass = content_rows(matrix, content, least)
    shares = _divide(inner, mass[..., None])
    logs = np.log(np.where(shares > 0, shares, 1.0))  # 0 log 0 = 0
    nats = np.where(mass > 0, -(shares * logs).sum(-1), 0.0)  # [..., n]
    reachable = np.ones(matrix.shape[-2:], bool) if reachable is None else reachable
    most = np.log(np.maximum(1, (reachable & content).sum(-1)))  # [n]
    able = most > 0
    return {
        "nats": average(nats, mass),
        "support": average(np.exp(nats), mass),
        "normalized": average(nats[..., able] / most[able], mass[..., able]),
    }


def offset_profile(
    matrix: np.ndarray, content: np.ndarray, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean weight m(δ) over pairs of content tokens; no row is left out or reweighted.

    Args:
        matrix: M [..., n, n].
        content: True at content tokens [n].
        reach: largest |δ|.

    Returns:
        Means [..., 2·reach + 1] for δ = -reach … reach, NaN where no pair has that offset, and
        the number of pairs [2·reach + 1].
    """
    pairs = _pairs(content)
    counts = _sum_by_offset(pairs, reach)
    return _divide(_sum_by_offset(np.where(pairs, matrix, 0.0), reach), counts), counts


def tv_dynamic(
    matrix: np.ndarray, content: np.ndarray, reach: int, least: float = LEAST
) -> np.ndarray:
    """Least that is lost when a head is replaced by *some* convolution, its taps free at each row.

    The mean total variation (0 … 1) to the nearest rows without weight beyond `reach`: 1 - W_r.
    """
    return 1.0 - window_mass(matrix, content, reach, least=least)


def tv_static(
    matrix: np.ndarray,
    content: np.ndarray,
    reach: int,
    profile: np.ndarray | None = None,
    least: float = LEAST,
) -> np.ndarray:
    """What is lost when a head is replaced by *one* kernel, the same at every row.

    The kernel is the head's own offset profile, cut at `reach` and normalized in each row over
    the content there is. An upper bound: the mean need not be the best kernel. It is never below
    `tv_dynamic`.

    Args:
        matrix: M [..., n, n].
        content: True at content tokens [n].
        reach: largest |δ| of the kernel; n - 1 or more gives position-only attention.
        profile: m(δ) [..., 2·reach + 1], for instance of a corpus; None: of this sentence.
        least: rows with less mass on content are left out.

    Returns:
        Mean total variation, 0 … 1 [...].
    """
    if profile is None:
        profile, _ = offset_profile(matrix, content, reach)
    inner, mass = content_rows(matrix, content, least)
    offsets = _offsets(len(content))
    near = np.abs(offsets) <= reach
    taps = np.nan_to_num(profile)[..., np.where(near, offsets + reach, 0)]  # [..., n, n]
    kernel = np.where(near & content, taps, 0.0)
    total = kernel.sum(-1)
    replaced = _divide(kernel, total[..., None])
    lost = 0.5 * np.abs(_divide(inner, mass[..., None]) - replaced).sum(-1)
    lost = np.where(total > 0, lost, 1.0)  # nothing can be put there: all is lost
    return average(np.where(mass > 0, lost, 0.0), mass)


def toeplitz_share(matrix: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Share of the variance of M between content tokens that the offset explains, 0 … 1.

    1: the weight depends on the offset alone. NaN where M is constant.
    """
    n = len(content)
    profile, _ = offset_profile(matrix, content, n - 1)
    pairs = _pairs(content)
    inner = np.where(pairs, matrix, 0.0)
    mean = inner.sum((-2, -1), keepdims=True) / max(1, pairs.sum())
    fitted = profile[..., _offsets(n) + n - 1]
    rest = (np.where(pairs, inner - fitted, 0.0) ** 2).sum((-2, -1))
    total = (np.where(pairs, inner - mean, 0.0) ** 2).sum((-2, -1))
    constant = total <= 1e-20 * (inner**2).sum((-2, -1))
    return 1.0 - _divide(rest, np.where(constant, 0.0, total))


def weigh_by_values(matrix: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Weigh each token by what it has to give: N_ij = M_ij·ν_j.

    Measures of offsets may be taken of N, too; the ledger may not. It is a contribution, not an
    effect: vectors that cancel each other are counted.

    Args:
        matrix: M [L, h, n, n].
        norms: ν [L, h, n], the norm of each token's value as the output projection writes it.
    """
    return matrix * norms[..., None, :]


def convolution_share(weighed: np.ndarray, attention_heads: int) -> np.ndarray:
    """Share of a layer's contribution that comes from convolution heads: N [L, h, n, n] -> [L]."""
    sums = weighed.sum((-2, -1))  # [L, h]
    return _divide(sums[:, attention_heads:].sum(-1), sums.sum(-1))


def rollout(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Follow the mixing through the layers: R_l = ½(I + B_l)·R_(l-1), B the mean over heads.

    Args:
        matrix: M [L, h, n, n].

    Returns:
        R [L, n, n], rows sum to 1; and the mass that B lacked before its rows were normalized,
        taps outside the sentence [L, n].
    """
    mean = matrix.mean(1)  # [L, n, n]
    sums = mean.sum(-1, keepdims=True)
    state, states = np.eye(matrix.shape[-1]), []
    for layer in mean / sums:
        state = 0.5 * (state + layer @ state)
        states.append(state)
    return np.array(states), 1.0 - sums[..., 0]


def _pairs(content: np.ndarray) -> np.ndarray:
    """Whether both ends are content [n, n]."""
    return content[:, None] & content


def _offsets(n: int) -> np.ndarray:
    """Offset δ = j - i of each entry [n, n]."""
    return np.arange(n) - np.arange(n)[:, None]


def _sum_by_offset(matrix: np.ndarray, reach: int) -> np.ndarray:
    """Sum the diagonals -reach … reach: [..., n, n] -> [..., 2·reach + 1]."""
    sums = np.zeros((*matrix.shape[:-2], 2 * reach + 1))
    for at, offset in enumerate(range(-reach, reach + 1)):
        if abs(offset) < matrix.shape[-1]:
            sums[..., at] = np.diagonal(matrix, offset, -2, -1).sum(-1)
    return sums


def _range(shares: np.ndarray) -> np.ndarray:
    """The offsets that the last axis of `by_offset` stands for."""
    middle = shares.shape[-1] // 2
    return np.arange(-middle, middle + 1)


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    safe = np.where(bottom > 0, bottom, 1.0)
    return np.where(bottom > 0, top / safe, np.nan)
