"""What the pictures of the lessons draw, read back from the figures."""

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


def test_learning_curves_end_with_the_last_evaluation():
    """Held-out values of the log and of the results, each once; nulls as lines; a seed a line."""
    rows = [
        {"seed": s, "step": step, "generator_loss": 9.0 - step, "mlm_loss": loss, "rtd_auc": 0.5,
         "rtd_auc_unigram": 0.6}
        for s in (1, 2)
        for step, loss in ((1, None), (2, 7.0 + s))
    ]  # fmt: skip
    end = {"steps": 4, "mlm_loss": 5.0, "rtd_auc": 0.8, "rtd_auc_unigram": 0.9}
    ends = pd.DataFrame([{"seed": s, **end, "null_mlm_loss": 6.0 + s} for s in (1, 2)])
    figure, data = charts.learning_curves(pd.DataFrame(rows), ends)
    assert data[["seed", "step", "mlm_loss"]].to_numpy().tolist() == [
        [1, 2, 8.0], [1, 4, 5.0], [2, 2, 9.0], [2, 4, 5.0],
    ]  # fmt: skip
    left, right = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    assert list(lines["training batches"]) == [8.0, 7.0]  # the first seed has the legend
    assert list(lines["held out"]) == [8.0, 5.0]
    assert list(lines["word frequencies alone"]) == [7.5, 7.5]
    drawn = [list(line.get_ydata()) for line in right.lines]
    assert drawn.count([0.5, 0.8]) == drawn.count([0.6, 0.9]) == 2 and [0.5, 0.5] in drawn
    assert len(left.get_legend().texts) == len(right.get_legend().texts) == 3
    assert labels(figure)[0] == ("step", "generator's loss (nats per chosen word)")


def test_accuracies_draw_each_seed_its_mean_and_the_nulls():
    results = pd.DataFrame(
        [("cola", "pretrained", 1, 80.0), ("cola", "pretrained", 2, 60.0),
         ("cola", "scratch", 1, 30.0), ("rte", "pretrained", 1, 55.0), ("rte", "scratch", 1, 50.0)],
        columns=["task", "start", "seed", "exact match"],
    )  # fmt: skip
    nulls = {"cola": {"coin": 50.0, "words": 40.0}, "rte": {"coin": 52.0}}
    figure, data = charts.accuracies(results, nulls, "exact match")
    assert data is results
    cola, rte = figure.axes
    pretrained, scratch = cola.lines[:2]
    assert list(pretrained.get_ydata()) == [80, 60] and list(scratch.get_ydata()) == [30]
    assert (pretrained.get_color(), scratch.get_color()) == (ATTENTION, CONVOLUTION)
    assert pretrained.get_marker() != scratch.get_marker()
    means = [bar.get_segments()[0][0][1] for bar in cola.collections]
    assert means == [70, 30]
    assert {line.get_label(): line.get_ydata()[0] for line in cola.lines[2:]} == nulls["cola"]
    assert len({line.get_linestyle() for line in cola.lines[2:]}) == 2
    assert [tick.get_text() for tick in rte.get_xticklabels()] == ["pretrained", "from scratch"]
    assert rte.get_title() == "rte" and rte.get_ylabel() == "dev exact match, last step"
    figure, _ = charts.accuracies(results[results.start == "pretrained"], nulls, "exact match")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["pretrained"]


def test_span_scores_lie_over_their_tokens():
    start, end = np.array([0.1, 0.7, 0.2]), np.array([0.2, 0.2, 0.6])
    figure, data = charts.span_scores(["in", "rome", "##s"], start, end, (1, 2))
    assert data.to_dict("list") == {"token": ["in", "rome", "##s"], "start": [0.1, 0.7, 0.2],
                                    "end": [0.2, 0.2, 0.6]}  # fmt: skip
    upper, lower = figure.axes
    for axis, values, color in ((upper, start, ATTENTION), (lower, end, CONVOLUTION)):
        frame, *bars = axis.patches
        assert [bar.get_height() for bar in bars] == values.tolist()
        assert {to_hex(bar.get_facecolor()).upper() for bar in bars} == {color}
        assert (frame.get_x(), frame.get_x() + frame.get_width()) == (0.5, 2.5)
        assert axis.get_ylim() == (0, pytest.approx(0.77))  # one scale for both
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["in", "rome", "##s"]
    assert labels(figure) == [("", "start probability"), ("token of the text", "end probability")]


def test_threshold_curve_begins_with_never_and_ends_with_always():
    thresholds, scores = np.array([-2.0, 0.0, 3.0]), np.array([33.0, 60.0, 50.0])
    figure, data = charts.threshold_curve(thresholds, scores, 0.5, "odds (logits)")
    assert data.to_dict("list") == {"threshold": [-2, 0, 3], "score": [33, 60, 50]}
    (axis,) = figure.axes
    curve, never, always, chosen = axis.lines
    assert list(curve.get_xdata()) == [-2, 0, 3] and list(curve.get_ydata()) == [33, 60, 50]
    # A threshold holds until the next one.
    assert curve.get_drawstyle() == "steps-post"
    assert (never.get_label(), never.get_ydata()[0]) == ("never answer", 33)
    assert (always.get_label(), always.get_ydata()[0]) == ("always answer", 50)
    assert chosen.get_xdata()[0] == 0.5 and chosen.get_label() == "chosen on the other half"
    assert len({line.get_linestyle() for line in axis.lines}) == 4
    assert labels(figure) == [("odds (logits)", "exact match (percent)")]
