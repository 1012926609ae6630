"""The effect of convolution heads: which interval answers, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from convbert.locality import effects
from convbert.locality.statistics import Interval, bootstrap


def seeds(*means: float) -> list[Interval]:
    rng = np.random.default_rng(0)
    return [bootstrap(mean + 0.1 * rng.normal(size=50)) for mean in means]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.2, 1.1], "positive, +1.10 [+0.85, +1.35]"),
        ([-1.0, -1.2, -1.1], "negative, -1.10 [-1.35, -0.85]"),
        ([1.0, 1.5, -0.8], "no effect found, +0.57 [-2.44, +3.57]"),
        ([9.0, 9.1], "2 seeds cannot say, at least 3 are needed"),
    ],
)
def test_the_verdict_is_that_of_the_seeds(values: list[float], expected: str):
    assert effects.judge(values) == expected


def test_many_sentences_do_not_make_up_for_seeds_that_disagree():
    """Each pair of models is far from 0 by its sentences, and the recipe has no effect."""
    figure, data, alt = effects.forest({"after": seeds(1.5, -0.8, 1.2)}, "effect (tokens)")
    each = data[data.seed != "mean"]
    assert ((each.low > 0) | (each.high < 0)).all()
    (mean,) = data[data.seed == "mean"].itertuples()
    assert mean.low < 0 < mean.high
    assert "after: no effect found" in figure.axes[0].get_title() and "no effect found" in alt


def test_the_picture_has_both_kinds_of_intervals():
    groups = {"before": seeds(0.0, 0.1, -0.1), "after": seeds(2.0, 2.1, 2.2)}
    figure, data, alt = effects.forest(groups, "effect (tokens)")
    axis = figure.axes[0]
    drawn = [tuple(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2]
    for row in data.itertuples():
        assert (row.low, row.high) in drawn
    assert data.seed.tolist() == ["1", "2", "3", "mean"] * 2
    assert [label.get_text() for label in axis.get_yticklabels()] == ["before", "after"]
    assert axis.get_xlabel() == "effect (tokens)" and axis.get_ylim()[0] > axis.get_ylim()[1]
    assert axis.get_title().startswith("after: positive, +2.1")
    assert "before, " in alt and "after, +2.1" in alt
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == ["one seed, 95 % over sentences", "mean, 95 % over seeds"]


def test_one_seed_is_drawn_and_not_judged():
    figure, data, _ = effects.forest({"after": seeds(2.0)}, "effect (tokens)")
    assert data.seed.tolist() == ["1"] and "cannot say" in figure.axes[0].get_title()
