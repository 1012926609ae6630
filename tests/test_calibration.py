"""Reliability and the expected calibration error, against their definition."""

from __future__ import annotations

import numpy as np
import pytest

from convbert.metrics.calibration import reliability


def test_by_hand():
    """Two bins: four predictions of 0.6, three of them right; two of 0.9, one of them right."""
    odds = [[0.6, 0.4]] * 4 + [[0.1, 0.9]] * 2
    found = reliability(odds, [0, 0, 0, 1, 1, 0])
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 4, 0, 0, 2, 0]  # (0.5, 0.6] and (0.8, 0.9]
    assert found.confidence[[5, 8]] == pytest.approx([0.6, 0.9])
    assert found.accuracy[[5, 8]] == pytest.approx([0.75, 0.5])
    assert np.isnan(found.accuracy[0])
    assert found.error == pytest.approx((4 * 0.15 + 2 * 0.4) / 6)


@pytest.mark.parametrize("classes", [2, 3])
def test_labels_drawn_from_the_probabilities_leave_no_error(classes):
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.ones(classes), 100_000)
    labels = (rng.random((len(odds), 1)) > odds.cumsum(1)).sum(1)
    assert reliability(odds, labels).error < 0.01
    assert reliability(odds, rng.permutation(labels)).error > 0.1


def test_against_a_loop_over_bins():
    rng = np.random.default_rng(1)
    odds, labels = rng.dirichlet([1, 2, 3], 500), rng.integers(0, 3, 500)
    error, found = 0.0, reliability(odds, labels, bins=7)
    for low in np.arange(7) / 7:
        chosen = (odds.max(1) > low) & (odds.max(1) <= low + 1 / 7)
        if chosen.any():
            right = (odds.argmax(1) == labels)[chosen].mean()
            error += abs(right - odds.max(1)[chosen].mean()) * chosen.mean()
    assert found.error == pytest.approx(error) and found.counts.sum() == 500


@pytest.mark.parametrize(
    ("odds", "labels", "message"),
    [
        ([], [], "need"),
        ([[0.5, 0.5]], [0, 1], "need"),
        ([[0.5, 0.6]], [0], "sum to 1"),
        ([[1.5, -0.5]], [0], "not be negative"),
        ([[0.5, 0.5]], [2], "from 0 to 1"),
    ],
)
def test_values_without_meaning(odds, labels, message):
    with pytest.raises(ValueError, match=message):
        reliability(odds, labels)
