"""Sentences to corpus: intervals, strata, and how kernels vary."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convbert.locality import statistics


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.gamma(2.0, 1.5, (60, 400))  # 400 corpora of 60 sentences, mean 3
    found = statistics.bootstrap(samples)
    covered = ((found.low <= 3) & (3 <= found.high)).mean()
    assert 0.90 < covered < 0.98
    assert (found.low < found.mean).all() and (found.mean < found.high).all()


def test_an_interval_shrinks_with_the_root_of_the_sentences():
    rng = np.random.default_rng(1)
    widths = []
    for count in (100, 1600):
        found = statistics.bootstrap(rng.normal(size=count))
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)


def test_the_same_sentences_give_the_same_interval():
    values = np.random.default_rng(2).normal(size=(30, 2, 3))
    one, two = statistics.bootstrap(values), statistics.bootstrap(values)
    assert (one.low == two.low).all() and one.mean.shape == (2, 3)
    assert np.allclose(one.mean, values.mean(0))
    assert (statistics.bootstrap(values, seed=1).low != one.low).any()
    first = statistics.bootstrap(values[:, 0, 0])
    assert first.low == pytest.approx(
        one.low[0, 0]
    )  # columns share their draws: differences are paired


def test_missing_numbers_are_left_out():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    found = statistics.bootstrap(values)
    assert found.mean[:2].tolist() == [2, 5] and found.low[1] == found.high[1] == 5
    assert np.isnan([found.mean[2], found.low[2], found.high[2]]).all()


@pytest.mark.parametrize("values", [[], np.zeros((0, 3)), 1.0])
def test_no_sentence_no_mean(values):
    with pytest.raises(ValueError, match="at least one sentence"):
        statistics.bootstrap(values)


def test_an_interval_in_words():
    assert f"{statistics.Interval(1.234, 0.5, 2.0):.1f}" == "1.2 [0.5, 2.0]"


def test_records_are_measured_one_by_one():
    alive = 0

    def stream():
        nonlocal alive
        for number in range(5):
            alive += 1
            yield SimpleNamespace(value=number)

    seen = []

    def measure(record):
        seen.append(alive)
        return [record.value, 2 * record.value]

    found = statistics.collect(stream(), {"a": measure, "b": lambda record: record.value})
    assert found["a"].tolist() == [[n, 2 * n] for n in range(5)]
    assert found["b"].shape == (5,) and seen == [1, 2, 3, 4, 5]  # none was read ahead
    with pytest.raises(ValueError, match="no sentence"):
        statistics.collect([], {"a": measure})


@pytest.mark.parametrize(
    ("length", "expected"),
    [(7, "under 8"), (8, "8–15"), (15, "8–15"), (16, "16–31"), (127, "64–127"), (128, "over 127")],
)
def test_strata(length: int, expected: str):
    assert statistics.stratum(length) == expected


# --- Kernels of one word ----------------------------------------------------------------------


@given(
    taps=arrays.arrays(np.float64, (2, 1, 20, 3), elements=st.floats(0, 1)),
    ids=arrays.arrays(np.int64, 20, elements=st.integers(1, 4)),
)
@settings(max_examples=40, deadline=None)
def test_sums_of_squares_add_up(taps: np.ndarray, ids: np.ndarray):
    content = np.arange(20) % 5 != 0
    if np.unique(ids[content], return_counts=True)[1].max() < 3:
        return
    found = statistics.kernel_variation([taps], [ids], [content], occurrences=3)
    assert np.allclose(found.within + found.between, found.total)
    assert (found.within >= -1e-12).all() and found.total.shape == (2, 1)


def test_a_kernel_that_only_knows_the_word_does_not_vary():
    by_word = np.random.default_rng(0).random((9, 3))
    sentences = [np.array([1, 2, 3, 2, 1]), np.array([3, 1, 2, 8])]
    kernels = [by_word[ids][None, None] for ids in sentences]
    content = [np.ones(len(ids), bool) for ids in sentences]
    found = statistics.kernel_variation(kernels, sentences, content, occurrences=2)
    assert found.within[0, 0] == pytest.approx(0, abs=1e-12) and found.between[0, 0] > 0.01
    assert found.share[0, 0] == pytest.approx(0, abs=1e-9)
    assert found.occurrences == 8  # the word that occurs once is left out
    assert found.variance[0, 0] == pytest.approx(found.total[0, 0] / 8)


def test_a_kernel_that_only_knows_the_place_varies_within_words():
    by_place = np.random.default_rng(0).random((1, 1, 4, 3))
    ids = np.array([5, 5, 5, 5])
    found = statistics.kernel_variation([by_place], [ids], [np.ones(4, bool)], occurrences=4)
    assert found.share[0, 0] == pytest.approx(1)
    with pytest.raises(ValueError, match="no token occurs 5 times"):
        statistics.kernel_variation([by_place], [ids], [np.ones(4, bool)])
