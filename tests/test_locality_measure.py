"""Measures of mixing: closed forms, brute force, and what must not depend on what."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convbert.locality import measure


def all_content(n: int) -> np.ndarray:
    return np.ones(n, bool)


def without_ends(n: int) -> np.ndarray:
    """[CLS] first and [SEP] last are no content."""
    content = all_content(n)
    content[[0, -1]] = False
    return content


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Return rows that sum to 1, far from uniform."""
    return softmax(2 * np.random.default_rng(seed).normal(size=shape))


def matrices(n: int = 9) -> st.SearchStrategy[np.ndarray]:
    logits = arrays.arrays(np.float64, (n, n), elements=st.floats(-3, 3))
    return logits.map(softmax)


def masks(n: int = 9) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(bool, n)


# --- Kernels as matrices ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 4, 5, 12])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_taps_by_hand(n: int, k: int):
    """Tap t of row i reads token i + t - (k-1)/2, also where the kernel is wider than the text."""
    kernels = draw(n, k)
    expected = np.zeros((n, n))
    for i in range(n):
        for t in range(k):
            if 0 <= i + t - (k - 1) // 2 < n:
                expected[i, i + t - (k - 1) // 2] = kernels[i, t]
    assert (measure.expand_kernels(kernels) == expected).all()


@pytest.mark.parametrize(("n", "k"), [(1, 9), (4, 9), (30, 9), (7, 3), (5, 1)])
def test_taps_as_in_the_model(n: int, k: int):
    import paddle

    from convbert.attention import expand_kernels

    kernels = draw(2, 3, n, k).astype("float32")
    ours = measure.expand_kernels(kernels)
    assert ours.dtype == np.float32
    assert (ours == expand_kernels(paddle.to_tensor(kernels)).numpy()).all()


def test_matrix_of_a_kernel_convolves():
    n, k = 11, 5
    kernel, values = draw(k), np.random.default_rng(1).normal(size=(n, 3))
    mixed = measure.expand_kernels(np.tile(kernel, (n, 1))) @ values
    for channel in range(3):
        # numpy flips its kernel, the model does not.
        assert np.allclose(mixed[:, channel], np.convolve(values[:, channel], kernel[::-1], "same"))


@pytest.mark.parametrize("k", [2, 8])
def test_even_kernels_are_refused(k: int):
    with pytest.raises(ValueError, match=f"kernels of {k} taps have no center: k must be odd"):
        measure.expand_kernels(draw(4, k))


def test_first_and_last_tap_look_left_and_right():
    kernels = np.zeros((2, 8, 9))
    kernels[0, :, 0] = kernels[1, :, 8] = 1
    left, right = measure.expand_kernels(kernels)
    assert left[6, 2] == right[2, 6] == 1
    assert left[:4].sum() == right[4:].sum() == 0
    assert (left == right[::-1, ::-1]).all()


# --- Ledger -----------------------------------------------------------------------------------


@given(matrix=matrices(), content=masks(), valid=masks())
@settings(max_examples=40, deadline=None)
def test_ledger_of_attention_sums_to_one(matrix, content, valid):
    content = content & valid
    parts = measure.ledger(matrix, content, valid)
    assert list(parts) == ["content", "special", "padding", "outside"]
    assert np.allclose(sum(parts.values()), 1)
    assert np.abs(parts["outside"]).max() < 1e-12
    assert np.allclose(parts["special"], (matrix * (valid & ~content)).sum(1))
    assert np.allclose(parts["padding"], (matrix * ~valid).sum(1))


def test_ledger_of_a_uniform_kernel():
    """Of nine equal taps, four leave the sentence at its first token, three at its second, ..."""
    band = measure.expand_kernels(np.full((2, 12, 9), 1 / 9))  # two heads
    parts = measure.ledger(band, without_ends(12))
    outside = np.array([4, 3, 2, 1, 0, 0, 0, 0, 1, 2, 3, 4]) / 9
    assert parts["outside"].shape == (2, 12) and np.allclose(parts["outside"], outside)
    special = np.array([1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]) / 9
    assert np.allclose(parts["special"], special)
    assert (parts["padding"] == 0).all() and np.allclose(sum(parts.values()), 1)


def test_mean_ledger_is_over_content_rows():
    kernels, content = draw(2, 3, 12, 9), without_ends(12)
    band = measure.expand_kernels(kernels)
    found = measure.mean_ledger(band, content)
    assert found.shape == (3, 2, 3) and np.allclose(found.sum(0), 1)
    assert np.allclose(found[0], band[..., 1:-1, 1:-1].sum(-1).mean(-1))
    assert np.allclose(found[1], (band[..., 1:-1, 0] + band[..., 1:-1, -1]).mean(-1))


def test_a_corner_is_cut_from_long_sentences_only():
    matrix = draw(2, 7, 7)
    assert (measure.corner(matrix, 5) == matrix[:, :5, :5]).all()
    assert (measure.corner(matrix, 7) == matrix).all()
    assert measure.corner(matrix, 8).shape == (2, 8, 8)
    assert np.isnan(measure.corner(matrix, 8)).all()


def test_both_families_on_one_scale():
    attention, kernels = draw(2, 3, 7, 7), draw(2, 1, 7, 5, seed=1)
    both = measure.mixing(attention, kernels)
    assert both.shape == (2, 4, 7, 7) and (both[:, :3] == attention).all()
    assert (both[:, 3:] == measure.expand_kernels(kernels)).all()


# --- Distance ---------------------------------------------------------------------------------


def test_identity_has_distance_zero():
    assert measure.distance(np.eye(7), all_content(7)) == 0
    assert measure.distance(np.eye(7), without_ends(7)) == 0
    assert measure.median_distance(np.eye(7), all_content(7)) == 0


def test_uniform_kernel_inside_a_text():
    """r(r+1)/k: 20/9 for nine taps, where no tap leaves the text."""
    for k, expected in ((9, 20 / 9), (3, 2 / 3), (1, 0)):
        n, r = 40, (k - 1) // 2
        band = measure.expand_kernels(np.full((n, k), 1 / k))
        band[:r] = band[n - r :] = 0  # without rows at the edges
        assert measure.distance(band, all_content(n)) == pytest.approx(expected)
        assert measure.window_mass(band, all_content(n), r) == pytest.approx(1)
        assert measure.signed_mean(band, all_content(n)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 10, 37])
def test_uniform_attention(n: int):
    """(n² - 1)/(3n), the mean of |i - j| over all pairs."""
    assert measure.uniform_distance(all_content(n)) == pytest.approx((n * n - 1) / (3 * n))
    # [CLS] and [SEP] are no content: what is left is a shorter sentence.
    assert measure.uniform_distance(without_ends(n + 2)) == pytest.approx((n * n - 1) / (3 * n))
    uniform = np.full((n, n), 1 / n)
    assert measure.relative_distance(uniform, all_content(n)) == pytest.approx(1)


def brute_force(matrix: np.ndarray, content: np.ndarray, value, least: float) -> float:
    """Average `value(i, j)` by the definition: Σ s_i Σ_j P_ij value / Σ s_i."""
    total = weighted = 0.0
    for i in np.flatnonzero(content):
        mass = sum(matrix[i, j] for j in range(len(content)) if content[j])
        if mass >= least:
            share = sum(matrix[i, j] / mass * value(i, j) for j in np.flatnonzero(content))
            total, weighted = total + mass, weighted + mass * share
    return weighted / total


@pytest.mark.parametrize("seed", range(4))
def test_offsets_by_brute_force(seed: int):
    matrix, content = draw(10, 10, seed=seed), np.random.default_rng(seed).permutation(10) < 7
    for found, value in (
        (measure.distance(matrix, content, 0.6), lambda i, j: abs(i - j)),
        (measure.signed_mean(matrix, content, 0.6), lambda i, j: j - i),
        (measure.window_mass(matrix, content, 2, least=0.6), lambda i, j: abs(i - j) <= 2),
    ):
        assert found == pytest.approx(brute_force(matrix, content, value, 0.6))
    uniform = sum(abs(np.subtract.outer(*2 * [np.flatnonzero(content)])) / content.sum())
    mass = [matrix[i, content].sum() for i in np.flatnonzero(content)]
    expected = measure.distance(matrix, content) / np.average(uniform, weights=mass)
    assert measure.relative_distance(matrix, content) == pytest.approx(expected)


def test_mass_on_separators_does_not_count():
    """60 % on the last token and 40 % on the neighbors: near, not far."""
    n, content = 22, without_ends(22)
    matrix = np.zeros((n, n))
    for i in range(1, n - 1):
        near = [j for j in (i - 1, i + 1) if 0 < j < n - 1]
        matrix[i, near] = 0.4 / len(near)
        matrix[i, -1] += 0.6
    assert measure.distance(matrix, content) == pytest.approx(1.0)
    assert measure.median_distance(matrix, content) == 1
    assert measure.distance(matrix, all_content(n)) > 5


def test_rows_without_mass_are_left_out():
    content, matrix = without_ends(6), np.zeros((6, 6))
    matrix[:, 0] = 1  # all on [CLS]
    assert np.isnan(measure.distance(matrix, content))
    assert measure.skipped(matrix, content) == 4
    matrix[1] = [0.96, 0, 0, 0, 0.04, 0]  # below one in twenty
    assert np.isnan(measure.distance(matrix, content))
    matrix[1] = [0.95, 0, 0, 0, 0.05, 0]
    assert measure.distance(matrix, content) == pytest.approx(3)
    matrix[2] = [0.5, 0, 0, 0.5, 0, 0]  # ten times the mass, distance 1
    assert measure.distance(matrix, content) == pytest.approx((3 * 0.05 + 1 * 0.5) / 0.55)
    assert measure.median_distance(matrix, content) == 1 and measure.skipped(matrix, content) == 2
    nothing = np.zeros(6, bool)
    with np.errstate(all="raise"):
        for found in (
            measure.distance(matrix, nothing),
            measure.median_distance(matrix, nothing),
            measure.relative_distance(matrix, nothing),
            measure.window_mass(matrix, nothing, 2, corrected=True),
            measure.entropy(matrix, nothing)["nats"],
            measure.tv_static(matrix, nothing, 2),
        ):
            assert np.isnan(found)


ALL = {
    "distance": measure.distance,
    "median": measure.median_distance,
    "relative": measure.relative_distance,
    "signed": measure.signed_mean,
    "window": lambda m, c: measure.window_mass(m, c, 2),
    "corrected": lambda m, c: measure.window_mass(m, c, 2, corrected=True),
    "nats": lambda m, c: measure.entropy(m, c)["nats"],
    "support": lambda m, c: measure.entropy(m, c)["support"],
    "normalized": lambda m, c: measure.entropy(m, c)["normalized"],
    "tv_dynamic": lambda m, c: measure.tv_dynamic(m, c, 2),
    "tv_static": lambda m, c: measure.tv_static(m, c, 2),
    "toeplitz": measure.toeplitz_share,
    "skipped": measure.skipped,
}


@pytest.mark.parametrize("name", ALL)
def test_each_head_on_its_own(name: str):
    heads, content = draw(2, 3, 8, 8), without_ends(8)
    heads[1, 2] = 0
    heads[1, 2, :, 0] = 1
    found = ALL[name](heads, content)
    assert found.shape == (2, 3) and (np.isnan(found[1, 2]) or name == "skipped")
    for layer, head in ((0, 0), (0, 2), (1, 1)):
        assert found[layer, head] == pytest.approx(ALL[name](heads[layer, head], content))
    swapped = ALL[name](heads[:, [2, 0, 1]], content)
    assert np.allclose(swapped, found[:, [2, 0, 1]], equal_nan=True)


@pytest.mark.parametrize("name", ALL)
@given(matrix=matrices(), content=masks())
@settings(max_examples=25, deadline=None)
def test_only_offsets_count(name: str, matrix: np.ndarray, content: np.ndarray):
    """Mirroring flips the sign of the mean offset alone; words nobody looks at change nothing."""
    found = ALL[name](matrix, content)
    mirrored = ALL[name](matrix[::-1, ::-1], content[::-1])
    sign = -1 if name == "signed" else 1
    assert np.allclose(found, sign * mirrored, equal_nan=True)
    moved = np.zeros((12, 12))
    moved[3:, 3:] = matrix
    there = ALL[name](moved, np.concatenate([np.zeros(3, bool), content]))
    assert np.allclose(found, there, equal_nan=True)


@given(matrix=matrices(), content=masks())
@settings(max_examples=40, deadline=None)
def test_ranges(matrix: np.ndarray, content: np.ndarray):
    found = {name: float(function(matrix, content)) for name, function in ALL.items()}
    if not content.any():
        return
    reach = np.ptp(np.flatnonzero(content))
    assert np.isnan(found["distance"]) or 0 <= found["distance"] <= reach
    for name in ("window", "normalized", "tv_dynamic", "tv_static", "toeplitz"):
        assert np.isnan(found[name]) or -1e-9 <= found[name] <= 1 + 1e-9, name
    if not np.isnan(found["tv_static"]):
        assert found["tv_static"] >= found["tv_dynamic"] - 1e-9
    assert np.isnan(found["support"]) or found["support"] <= content.sum() + 1e-9


# --- Sign, window, entropy --------------------------------------------------------------------


def test_next_token_is_positive():
    following, content = np.eye(8, k=1), all_content(8)
    assert measure.signed_mean(following, content) == 1
    assert measure.signed_mean(following.T, content) == -1
    shares = measure.by_offset(following, content)
    assert shares.argmax() == 7 + 1 and shares.sum() == pytest.approx(1)


def test_window_above_chance():
    uniform, content = np.full((20, 20), 0.05), without_ends(20)
    assert measure.window_mass(uniform, content, 2, corrected=True) == pytest.approx(0)
    assert measure.window_mass(np.eye(20), content, 0, corrected=True) == pytest.approx(1)
    assert np.isnan(measure.window_mass(uniform, content, 20, corrected=True))  # always 1


def test_entropy_of_even_rows_is_the_support():
    uniform, content = np.full((11, 11), 1 / 11), without_ends(11)
    found = measure.entropy(uniform, content)
    assert found["nats"] == pytest.approx(np.log(9)) and found["support"] == pytest.approx(9)
    assert found["normalized"] == pytest.approx(1)
    # An even kernel reaches its maximum, too, if only what it can reach is counted.
    band = measure.expand_kernels(np.full((11, 5), 0.2))
    even = measure.entropy(band, content, reachable=band > 0)
    assert even["normalized"] == pytest.approx(1) and even["support"] < 5
    assert measure.entropy(band, content)["normalized"] < 0.8


def test_entropy_where_one_token_can_be_reached():
    found = measure.entropy(np.eye(5), all_content(5), reachable=np.eye(5, dtype=bool))
    assert found["nats"] == 0 and found["support"] == 1 and np.isnan(found["normalized"])


# --- Profile ----------------------------------------------------------------------------------


def test_profile_of_one_kernel_is_that_kernel():
    kernel = draw(9)
    for n, content in ((12, all_content(12)), (20, without_ends(20))):
        band = measure.expand_kernels(np.tile(kernel, (n, 1)))
        found, counts = measure.offset_profile(band, content, 6)
        assert np.allclose(found, [0, 0, *kernel, 0, 0])
        assert counts.tolist() == [content.sum() - abs(offset) for offset in range(-6, 7)]


def test_profile_is_the_mean_of_the_taps():
    """Kernels that differ from token to token: each tap's mean over pairs of content tokens."""
    kernels, content = draw(2, 14, 9, seed=1), np.arange(14) % 4 != 0
    found, counts = measure.offset_profile(measure.expand_kernels(kernels), content, 4)
    for tap in range(9):
        rows = [
            i for i in range(14) if 0 <= i + tap - 4 < 14 and content[i] and content[i + tap - 4]
        ]
        assert counts[tap] == len(rows)
        for head in range(2):
            assert found[head, tap] == pytest.approx(np.mean(kernels[head, rows, tap]))


def test_profile_without_a_pair_has_no_number():
    found, counts = measure.offset_profile(draw(3, 3), np.array([True, False, True]), 3)
    assert np.isnan(found).tolist() == [True, False, True, False, True, False, True]
    assert counts.tolist() == [0, 1, 0, 2, 0, 1, 0]


@given(matrix=matrices(), content=masks())
@settings(max_examples=40, deadline=None)
def test_profile_holds_all_mass(matrix: np.ndarray, content: np.ndarray):
    found, counts = measure.offset_profile(matrix, content, 8)
    total = matrix[np.ix_(content, content)].sum()
    assert np.nansum(found * counts) == pytest.approx(total)


# --- Can a convolution replace it? ------------------------------------------------------------


def test_a_dynamic_kernel_loses_nothing_to_a_dynamic_kernel():
    band = measure.expand_kernels(draw(15, 9))
    assert measure.tv_dynamic(band, without_ends(15), 4) == pytest.approx(0, abs=1e-12)
    assert measure.tv_static(band, without_ends(15), 4) > 0.2


def test_a_static_kernel_loses_nothing_to_a_static_kernel():
    band = measure.expand_kernels(np.tile(draw(9), (15, 1)))
    assert measure.tv_static(band, all_content(15), 4) == pytest.approx(0, abs=1e-12)
    assert measure.toeplitz_share(band, all_content(15)) == pytest.approx(1)


def test_the_kernel_of_a_corpus_may_be_given():
    band = measure.expand_kernels(np.tile(draw(9), (15, 1)))
    other = np.roll(draw(9), 3)
    assert measure.tv_static(band, all_content(15), 4, other) > 0.1


def test_loss_by_brute_force():
    matrix, content, reach = draw(9, 9), without_ends(9), 2
    profile, _ = measure.offset_profile(matrix, content, reach)
    total = lost = 0.0
    places = np.flatnonzero(content)
    for i in places:
        kernel = np.array([profile[j - i + 2] if abs(j - i) <= 2 else 0 for j in places])
        row = matrix[i, places]
        distance = 0.5 * np.abs(row / row.sum() - kernel / kernel.sum()).sum()
        total, lost = total + row.sum(), lost + row.sum() * distance
    assert measure.tv_static(matrix, content, reach) == pytest.approx(lost / total)


def test_a_far_head_cannot_be_replaced():
    far = np.roll(np.eye(20), 9, axis=1)
    assert measure.tv_dynamic(far, all_content(20), 4) == 1
    assert measure.tv_static(far, all_content(20), 4) == 1
    assert measure.tv_static(far, all_content(20), 19) < 0.6  # position alone says more


def test_toeplitz_share_is_what_a_fit_by_offset_explains():
    matrix, content = draw(9, 9, seed=2), np.arange(9) % 3 != 0
    places = np.flatnonzero(content)
    weights = matrix[np.ix_(places, places)].ravel()
    offsets = np.subtract.outer(places, places).ravel()
    dummies = (offsets[:, None] == np.unique(offsets)).astype(float)
    fitted = dummies @ np.linalg.lstsq(dummies, weights, rcond=None)[0]
    share = 1 - np.var(weights - fitted) / np.var(weights)
    assert 0.1 < share < 0.9
    assert measure.toeplitz_share(matrix, content) == pytest.approx(share)


def test_toeplitz_share_of_a_constant_has_no_number():
    assert np.isnan(measure.toeplitz_share(np.full((7, 7), 1 / 7), all_content(7)))
    assert measure.toeplitz_share(np.eye(7, k=2) + 0.1, all_content(7)) == pytest.approx(1)


# --- Values, rollout --------------------------------------------------------------------------


def test_values_weigh_keys():
    matrix, norms = draw(2, 3, 5, 5), 1 + draw(2, 3, 5)
    weighed = measure.weigh_by_values(matrix, norms)
    assert weighed[1, 2, 3, 4] == matrix[1, 2, 3, 4] * norms[1, 2, 4]
    even = measure.weigh_by_values(matrix, np.full((2, 3, 5), 2.0))
    assert np.allclose(
        measure.distance(even, all_content(5)), measure.distance(matrix, all_content(5))
    )
    shares = measure.convolution_share(weighed, 2)
    assert shares == pytest.approx(weighed[:, 2].sum((1, 2)) / weighed.sum((1, 2, 3)))


def test_rollout_of_bands():
    band = measure.expand_kernels(np.full((3, 2, 12, 3), 1 / 3))
    states, lost = measure.rollout(band)
    assert states.shape == (3, 12, 12) and np.allclose(states.sum(-1), 1)
    far = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    for layer in range(3):
        assert (states[layer][far > layer + 1] == 0).all() and (
            states[layer][far <= layer + 1] > 0
        ).all()
    assert np.allclose(lost[:, [0, -1]], 1 / 3) and np.allclose(lost[:, 1:-1], 0)
    assert np.allclose(measure.rollout(np.eye(5)[None, None])[0], np.eye(5))


def test_needs_numpy_only():
    names = ("measure", "statistics")
    code = "import sys\n"
    code += "for name in ('paddle', 'matplotlib', 'pandas'): sys.modules[name] = None\n"
    code += "\n".join(f"import convbert.locality.{name}" for name in names)
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
