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


LENGTHS = [5, 8, 9, 15, 16, 20, 31, 31, 32, 40, 63, 64, 127, 128, 10, 12] * 10


@pytest.mark.parametrize(("longest", "classes"), [(15, 0), (16, 1), (32, 2), (64, 3), (128, 4)])
def test_as_many_sentences_of_each_class(longest: int, classes: int):
    if not classes:
        with pytest.raises(ValueError, match="no sentence has 8 to 15 tokens"):
            statistics.stratified(LENGTHS, 12, longest)
        return
    chosen = statistics.stratified(LENGTHS, 12, longest)
    names = [statistics.stratum(LENGTHS[place]) for place in chosen]
    assert len(chosen) == len(set(chosen)) == 12 and (np.diff(chosen) > 0).all()
    assert [names.count(name) for name in dict.fromkeys(names)] == [12 // classes] * classes
    assert max(LENGTHS[place] for place in chosen) <= longest
    assert chosen[0] < 30 and chosen[-1] > 130  # from all of the corpus


def test_a_class_with_few_sentences_gives_all():
    chosen = statistics.stratified([8, 20, 20, 20, 20], 6, 32)
    assert chosen[0] == 0 and len(chosen) == 4


def test_strata_have_their_own_means():
    lengths, values = [40, 8, 9, 41], np.array([[1.0, 2], [5, np.nan], [7, 0], [3, 2]])
    found = statistics.by_stratum(lengths, values)
    assert list(found) == ["8–15", "32–63"]
    assert found["8–15"].mean.tolist() == [6, 0] and found["32–63"].mean.tolist() == [2, 2]
    assert (found["8–15"].low[0], found["8–15"].high[0]) == (5, 7)


def test_an_interval_over_seeds_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    found = [statistics.over_seeds(draws) for draws in rng.normal(2.0, 1.0, (2000, 3))]
    covered = np.mean([each.low <= 2 <= each.high for each in found])
    assert 0.935 < covered < 0.965  # a percentile of three seeds would cover three in four
    assert found[0].mean - found[0].low == pytest.approx(found[0].high - found[0].mean)
    for values in ([1.0], [], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="over seeds needs at least two"):
            statistics.over_seeds(values)


# --- Kernels of one word ----------------------------------------------------------------------


def test_entropy_of_kernels():
    even, one = np.full((2, 3, 4, 9), 1 / 9), np.zeros((2, 3, 4, 9))
    one[..., 2] = 1
    assert statistics.kernel_entropy(even) == pytest.approx(np.log(9))
    assert statistics.kernel_entropy(one) == 0
    assert statistics.kernel_entropy(np.zeros((2, 0, 4, 1))) == 0
    both = np.concatenate([even, one], 1)
    assert statistics.kernel_entropy(both) == pytest.approx(np.log(9) / 2)


def test_the_word_whose_kernels_vary_most():
    rng = np.random.default_rng(0)
    ids = [np.array([1, 2, 3, 2, 9]), np.array([1, 3, 2, 1, 9])]
    taps = [np.full((5, 3), 1 / 3) for _ in ids]
    for kernels, words in zip(taps, ids, strict=True):
        kernels[words == 1] += 0.01 * rng.normal(size=((words == 1).sum(), 3))
        kernels[words == 2] += rng.normal(size=((words == 2).sum(), 3))
        kernels[words == 3] += 5 * rng.normal(size=((words == 3).sum(), 3))  # twice only
        kernels[words == 9] += 9 * rng.normal(size=((words == 9).sum(), 3))  # not content
    content = [words != 9 for words in ids]
    assert statistics.most_variable_word(taps, ids, content, occurrences=3) == 2
    with pytest.raises(ValueError, match="no token occurs 4 times"):
        statistics.most_variable_word(taps, ids, content, occurrences=4)


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
