"""What the pictures of fine-tuning draw, read back from the figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from convbert import charts, glue_charts
from convbert.locality.figures import ATTENTION, CONVOLUTION
from convbert.metrics import calibration
from convbert.train import recipes


def test_learning_curves_have_a_line_per_run():
    rows = [
        {"task": task, "start": start, "seed": seed, "step": step} | values
        for task in ("a", "b")
        for start in ("pretrained", "scratch")
        for seed in (1, 2)
        for step, values in ((5, {"loss": 1.0}), (10, {"loss": 0.5 * seed}), (10, {"mcc": 0.3}))
    ]
    figure, data = glue_charts.learning_curves(pd.DataFrame(rows), {"a": "mcc", "b": "mcc"})
    upper, _, lower, _ = figure.axes
    assert [line.get_ydata().tolist() for line in upper.lines] == [[1, 0.5], [1, 1]] * 2
    assert [line.get_ydata().tolist() for line in lower.lines] == [[0.3]] * 4
    assert [line.get_color() for line in upper.lines] == [ATTENTION] * 2 + [CONVOLUTION] * 2
    shown = [text.get_text() for text in lower.get_legend().get_texts()]
    assert shown == ["pretrained", "scratch"]  # once, not for every seed
    assert len(data) == len(rows) and data.dev.count() == 8


def test_rates_are_drawn_with_what_an_update_did():
    parts = {"embeddings": 0.5, "head": 1.0}
    figure, data = glue_charts.layer_rates({"base": parts, "own": parts}, {"own": {**parts}})
    for axis in figure.axes:
        assert [bar.get_height() for bar in axis.patches] == [0.5, 1.0]
    assert not figure.axes[0].lines
    assert figure.axes[1].lines[0].get_ydata().tolist() == [0.5, 1.0]
    assert data[data.model == "own"].measured.tolist() == [0.5, 1.0]


def test_parity_draws_the_stored_curves():
    curves = recipes.parity_curves()
    assert list(curves) == ["cola", "rte", "sts-b"]
    figure, data = glue_charts.parity(curves)
    assert len(data) == 3 * 200
    for axis, sides in zip(figure.axes, curves.values(), strict=True):
        ours, theirs = (line.get_ydata().tolist() for line in axis.lines)
        assert (ours, theirs) == (sides["ours"], sides["transformers"])
        assert f"{sides['largest_relative_difference']:.0e}" in axis.get_title()
        assert np.ptp(ours) > 0.1  # no straight line


def test_confusions_show_every_count_in_its_row():
    figure, data = glue_charts.confusions({"a": np.array([[8, 2], [0, 5]])}, {"a": ("no", "yes")})
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["8", "2", "0", "5"]
    assert axis.images[0].get_array().tolist() == [[0.8, 0.2], [0, 1]]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "right")
    missed = data[(data.truth == "no") & (data.guess == "yes")]
    assert missed["count"].tolist() == [2]


def test_reliability_draws_its_bins():
    odds = np.array([[0.95, 0.05], [0.95, 0.05], [0.3, 0.7]])
    found = calibration.reliability(odds, [0, 1, 1])
    figure, data = glue_charts.reliability({"a": found})
    upper, lower = figure.axes
    heights = {round(bar.get_x(), 1): bar.get_height() for bar in upper.patches}
    assert (heights[0.9], heights[0.6]) == (0.5, 1.0) and np.isnan(heights[0.5])
    assert [bar.get_height() for bar in lower.patches][-4:] == [1, 0, 0, 2]
    assert f"{found.error:.3f}" in upper.get_title()
    assert data.counts.tolist()[-4:] == [1, 0, 0, 2] and data.accuracy.iloc[-1] == 0.5


@pytest.mark.parametrize("start", ["pretrained", "scratch"])
def test_scores_of_one_start_alone(start):
    rows = pd.DataFrame({"task": ["a", "a"], "start": start, "seed": [1, 2], "score": [0.1, 0.3]})
    figure, _ = charts.accuracies(rows, {"a": {"majority": 0.2}}, "score", {"a": "mcc"})
    points, null = figure.axes[0].lines
    assert points.get_ydata().tolist() == [0.1, 0.3]
    assert set(null.get_ydata()) == {0.2}
    color = {"pretrained": ATTENTION, "scratch": CONVOLUTION}[start]
    assert to_hex(points.get_color()) == color.lower()
    assert figure.axes[0].get_ylabel() == "dev mcc, last step"
