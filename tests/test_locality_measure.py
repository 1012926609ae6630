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


def no_special(n: int) -> np.ndarray:
    return np.zeros(n, bool)


def ends_special(n: int) -> np.ndarray:
    """[CLS] first and [SEP] last."""
    special = no_special(n)
    special[[0, -1]] = True
    return special


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


@given(matrix=matrices(), special=masks())
@settings(max_examples=40, deadline=None)
def test_ledger_of_attention_sums_to_one(matrix: np.ndarray, special: np.ndarray):
    parts = measure.ledger(matrix, special)
    assert np.allclose(sum(parts.values()), 1)
    assert np.abs(parts["outside"]).max() < 1e-12
    assert np.allclose(parts["special"], (matrix * special).sum(1))


def test_ledger_of_a_uniform_kernel():
    """Of nine equal taps, four leave the sentence at its first token, three at its second, ..."""
    band = measure.expand_kernels(np.full((2, 12, 9), 1 / 9))  # two heads
    parts = measure.ledger(band, ends_special(12))
    outside = np.array([4, 3, 2, 1, 0, 0, 0, 0, 1, 2, 3, 4]) / 9
    assert parts["outside"].shape == (2, 12) and np.allclose(parts["outside"], outside)
    special = np.array([1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]) / 9
    assert np.allclose(parts["special"], special)
    assert np.allclose(sum(parts.values()), 1)


# --- Distance ---------------------------------------------------------------------------------


def test_identity_has_distance_zero():
    assert measure.distance(np.eye(7), no_special(7)) == 0
    assert measure.distance(np.eye(7), ends_special(7)) == 0


def test_uniform_kernel_inside_a_text():
    """r(r+1)/k: 20/9 for nine taps, where no tap leaves the text."""
    for k, expected in ((9, 20 / 9), (3, 2 / 3), (1, 0)):
        n, r = 40, (k - 1) // 2
        band = measure.expand_kernels(np.full((n, k), 1 / k))
        band[:r] = band[n - r :] = 0  # without rows at the edges
        assert measure.distance(band, no_special(n)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 3, 10, 37])
def test_uniform_attention(n: int):
    """(n² - 1)/(3n), the mean of |i - j| over all pairs."""
    assert measure.uniform_distance(no_special(n)) == pytest.approx((n * n - 1) / (3 * n))
    # [CLS] and [SEP] are no content: what is left is a shorter sentence.
    longer = ends_special(n + 2)
    assert measure.uniform_distance(longer) == pytest.approx((n * n - 1) / (3 * n))


def test_distance_by_brute_force():
    for seed in range(5):
        matrix = draw(10, 10, seed=seed)
        special = np.random.default_rng(seed).permutation(10) < 3
        total = weighted = 0.0
        for i in np.flatnonzero(~special):
            mass = sum(matrix[i, j] for j in range(10) if not special[j])
            if mass >= 0.4:
                total += mass
                weighted += sum(matrix[i, j] * abs(i - j) for j in range(10) if not special[j])
        assert measure.distance(matrix, special, least=0.4) == pytest.approx(weighted / total)


def test_mass_on_separators_does_not_count():
    """60 % on the last token and 40 % on the neighbors: near, not far."""
    n, special = 22, ends_special(22)
    matrix = np.zeros((n, n))
    for i in range(1, n - 1):
        near = [j for j in (i - 1, i + 1) if 0 < j < n - 1]
        matrix[i, near] = 0.4 / len(near)
        matrix[i, -1] += 0.6
    assert measure.distance(matrix, special) == pytest.approx(1.0)
    assert measure.distance(matrix, no_special(n)) > 5


def test_rows_without_mass_are_left_out():
    special, matrix = ends_special(6), np.zeros((6, 6))
    matrix[:, 0] = 1  # all on [CLS]
    assert np.isnan(measure.distance(matrix, special))
    matrix[1] = [0.96, 0, 0, 0, 0.04, 0]  # below one in twenty
    assert np.isnan(measure.distance(matrix, special))
    matrix[1] = [0.95, 0, 0, 0, 0.05, 0]
    assert measure.distance(matrix, special) == pytest.approx(3)
    matrix[2] = [0.5, 0, 0, 0.5, 0, 0]  # ten times the mass, distance 1
    assert measure.distance(matrix, special) == pytest.approx((3 * 0.05 + 1 * 0.5) / 0.55)
    with np.errstate(all="raise"):
        measure.distance(matrix, np.ones(6, bool))


def test_each_head_on_its_own():
    heads, special = draw(2, 3, 8, 8), ends_special(8)
    heads[1, 2] = 0
    heads[1, 2, :, 0] = 1
    found = measure.distance(heads, special)
    assert found.shape == (2, 3) and np.isnan(found[1, 2])
    for layer, head in ((0, 0), (0, 2), (1, 1)):
        assert found[layer, head] == pytest.approx(measure.distance(heads[layer, head], special))
    swapped = measure.distance(heads[:, [2, 0, 1]], special)
    assert np.array_equal(swapped, found[:, [2, 0, 1]], equal_nan=True)


@given(matrix=matrices(), special=masks())
@settings(max_examples=60, deadline=None)
def test_distance_sees_only_how_far(matrix: np.ndarray, special: np.ndarray):
    found = measure.distance(matrix, special)
    content = np.flatnonzero(~special)
    if len(content) == 0:
        assert np.isnan(found)
        return
    if not np.isnan(found):
        assert 0 <= found <= content[-1] - content[0]
    mirrored = measure.distance(matrix[::-1, ::-1], special[::-1])
    assert np.allclose(found, mirrored, equal_nan=True)
    # Moved to the right by words that nobody looks at.
    moved = np.zeros((12, 12))
    moved[3:, 3:] = matrix
    there = measure.distance(moved, np.concatenate([np.ones(3, bool), special]))
    assert np.allclose(found, there, equal_nan=True)


# --- Averages ---------------------------------------------------------------------------------


def test_mean_map_is_of_the_first_tokens():
    maps = [draw(n, n, seed=n) for n in (5, 9, 6)]
    found = measure.mean_map(maps, 5)
    assert found.shape == (5, 5)
    assert found[3, 4] == pytest.approx(np.mean([m[3, 4] for m in maps]))
    assert (measure.mean_map(maps[:1], 5) == maps[0]).all()


def test_mean_map_refuses():
    maps = [draw(n, n) for n in (9, 4, 6)]
    with pytest.raises(
        ValueError, match="mean map of 7 tokens: got 3 sentences, the shortest of 4"
    ):
        measure.mean_map(maps, 7)
    with pytest.raises(ValueError, match="mean map of 7 tokens: got 0 sentences"):
        measure.mean_map([], 7)


def test_profile_of_one_kernel_is_that_kernel():
    kernel = draw(9)
    bands = [measure.expand_kernels(np.tile(kernel, (n, 1))) for n in (12, 20)]
    found = measure.offset_profile(bands, [no_special(12), ends_special(20)], 4)
    assert np.allclose(found, kernel)
    wide = measure.offset_profile(bands, [no_special(12), ends_special(20)], 6)
    assert np.allclose(wide, [0, 0, *kernel, 0, 0])


def test_profile_is_the_mean_of_the_taps():
    """Kernels that differ from token to token: each tap's mean over pairs of content tokens."""
    kernels = [draw(14, 9, seed=1), draw(11, 9, seed=2)]
    special = [ends_special(14), np.arange(11) % 4 == 0]
    found = measure.offset_profile([measure.expand_kernels(k) for k in kernels], special, 4)
    for tap in range(9):
        weights = [
            k[i, tap]
            for k, marks in zip(kernels, special, strict=True)
            for i in range(len(k))
            if 0 <= i + tap - 4 < len(k) and not marks[i] and not marks[i + tap - 4]
        ]
        assert found[tap] == pytest.approx(np.mean(weights))


def test_sign_of_an_offset():
    """Positive looks right: a head that takes from the next token peaks at +1."""
    following = np.eye(8, k=1)
    found = measure.offset_profile([following], [no_special(8)], 2)
    assert found.tolist() == [0, 0, 0, 1, 0]
    found = measure.offset_profile([following.T], [no_special(8)], 2)
    assert found.tolist() == [0, 1, 0, 0, 0]


def test_profile_without_a_pair_has_no_number():
    found = measure.offset_profile([draw(3, 3)], [np.array([False, True, False])], 3)
    assert np.isnan(found).tolist() == [True, False, True, False, True, False, True]
    assert np.isnan(measure.offset_profile([], [], 2)).all()


@given(matrix=matrices(), special=masks())
@settings(max_examples=40, deadline=None)
def test_mirrored_text_mirrors_the_profile(matrix: np.ndarray, special: np.ndarray):
    found = measure.offset_profile([matrix], [special], 8)
    mirrored = measure.offset_profile([matrix[::-1, ::-1]], [special[::-1]], 8)
    assert np.allclose(found[::-1], mirrored, equal_nan=True)
    # Weighted by the number of pairs, the profile holds all the mass between content tokens.
    places = np.flatnonzero(~special)
    offsets = (places[None, :] - places[:, None]).ravel()
    counts = np.bincount(offsets + 8, minlength=17)
    total = matrix[np.ix_(places, places)].sum()
    assert np.nansum(found * counts) == pytest.approx(total)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        measure.offset_profile([draw(3, 3)], [], 1)


def test_needs_numpy_only():
    code = "import sys\n"
    code += "for name in ('paddle', 'matplotlib', 'pandas'): sys.modules[name] = None\n"
    code += "import convbert.locality.measure"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
