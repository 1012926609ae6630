"""What the pictures of the architecture lesson draw, read back from the figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from convbert import ConvBertConfig, charts
from convbert.locality.figures import ATTENTION, CONVOLUTION


def labels(figure):
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]


def test_kernels_share_a_color_scale_and_show_their_numbers():
    taps = {"one": np.array([[0.2, 0.5, 0.3]]), "two": np.array([[0.1, 0.1, 0.8]])}
    figure, data = charts.kernels(taps, ["a word"])
    panels = figure.axes[:2]
    assert {axis.images[0].get_clim() for axis in panels} == {(0, 0.8)}
    assert [text.get_text() for text in panels[1].texts] == [".10", ".10", ".80"]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["-1", "0", "+1"]
    assert data.weight.sum() == pytest.approx(2)
    assert data.offset.tolist() == [-1, 0, 1] * 2


def test_shares_add_up_to_a_hundred():
    counts = pd.DataFrame({"rest": [3, 1], "convolution": [1, 1]}, index=["small", "base"])
    figure, data = charts.shares(counts, "share (%)")
    assert data.columns.tolist() == ["model", "rest", "convolution"]
    assert data.convolution.tolist() == [25, 50]
    (axis,) = figure.axes
    ends = [bar.get_x() + bar.get_width() for bar in axis.containers[1]]
    assert ends == pytest.approx([100, 100])
    assert to_hex(axis.containers[1][0].get_facecolor()) == CONVOLUTION.lower()
    assert labels(figure) == [("share (%)", "")]


def test_crossover_is_where_the_lines_meet():
    figure, data = charts.crossover({"base": ConvBertConfig.named("convbert-base")})
    parts = {part: rows.set_index("length").macs_per_token for part, rows in data.groupby("part")}
    difference = parts["attention"] - parts["convolution"]
    assert difference[512] < 0 < difference[1024]  # 809
    colors = [line.get_color() for line in figure.axes[0].lines[:2]]
    assert colors == [ATTENTION, CONVOLUTION]
    assert "809" in figure.axes[0].get_title()


def test_padding_changes_are_drawn_on_one_logarithmic_scale():
    changes = {"seen": np.array([[0, 0], [1e-3, 1]]), "hidden": np.zeros([2, 2])}
    figure, data = charts.padding_changes(changes, ["a", "b"])
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.tolist() == [[-8, -8], [-3, 0]]
    assert data[data.model == "seen"].change.tolist() == [0, 0, 1e-3, 1]
    assert len({axis.images[0].get_clim() for axis in figure.axes[:2]}) == 1


@pytest.mark.parametrize("rates", [(0.1,), (0.1, 0.2)])
def test_race_draws_means_and_extremes(rates):
    points = [
        (model, rate, seed, step, height + 0.1 * seed)
        for model, height in (("ConvBERT", 0.5), ("attention only", 0.1))
        for rate in rates
        for seed in (0, 2)
        for step in (0, 5)
    ]
    curves = pd.DataFrame(points, columns=["model", "rate", "seed", "step", "accuracy"])
    figure, data = charts.race(curves, mark=5)
    assert data is curves
    assert len(figure.axes) == len(rates)
    for axis in figure.axes:
        mean, twin = (line for line in axis.lines if line.get_label() in curves.model.unique())
        assert mean.get_ydata().tolist() == pytest.approx([0.6, 0.6])
        assert twin.get_ydata().tolist() == pytest.approx([0.2, 0.2])
        assert (mean.get_color(), twin.get_color()) == (CONVOLUTION, ATTENTION)
    assert labels(figure)[0] == ("updates", "accuracy on unseen sequences")


def test_layer_gaps_are_drawn_against_the_tolerance():
    gaps = {"converted": [0.0, 1e-6, 2e-6], "broken": [0.0, 1e-6, 0.3]}
    figure, data = charts.layer_gaps(gaps, 1e-5)
    (axis,) = figure.axes
    converted, broken, limit = axis.lines
    assert converted.get_ydata().tolist() == [1e-8, 1e-6, 2e-6]  # a zero has no logarithm
    assert broken.get_ydata().tolist() == [1e-8, 1e-6, 0.3]
    assert limit.get_ydata() == [1e-5, 1e-5]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["embeddings", "0", "1"]
    assert labels(figure) == [("encoder layer", "largest |difference|")]
    assert data[data.model == "broken"].gap.tolist() == [0, 1e-6, 0.3]


def test_days_are_drawn_as_given():
    table = pd.DataFrame({"slow": [4.0, 80.0], "fast": [1.0, 20.0]}, index=["small", "base"])
    figure, data = charts.training_days(table)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [4.0, 80.0, 1.0, 20.0]
    assert figure.axes[0].get_xscale() == "log"
    assert data.set_index("size").loc["base", "fast"] == 20.0


def test_variants_are_drawn_by_question():
    rows = [("kernel", "9", seed, 6.0 + seed / 10, 7.0, 0.0) for seed in (0, 1)]
    rows += [("kernel", "15", seed, 5.0, 7.0, 1.0 + seed / 10) for seed in (0, 1)]
    rows += [("ratio", "2", seed, 6.0 + seed / 10, 7.0, 0.0) for seed in (0, 1)]
    columns = ["question", "answer", "seed", "mlm_loss", "null_mlm_loss", "gain"]
    found = pd.DataFrame(rows, columns=columns)
    figure, data = charts.variants(found)
    assert data is found
    kernel, ratio = figure.axes
    model, other, null = kernel.lines
    assert model.get_xydata().tolist() == [[0, 6.0], [0, 6.1]]
    assert other.get_xydata().tolist() == [[1, 5.0], [1, 5.0]]
    assert model.get_color() == CONVOLUTION != other.get_color()
    assert null.get_ydata() == [7.0, 7.0]
    assert [text.get_text() for text in kernel.get_xticklabels()] == ["9", "15"]
    assert (kernel.get_xlabel(), ratio.get_xlabel()) == ("kernel", "ratio")
    assert "nats" in kernel.get_ylabel()
