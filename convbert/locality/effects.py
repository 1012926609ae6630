"""The effect of convolution heads: pairs of models, their interval over seeds, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convbert.lab import MIN_SEEDS
from convbert.locality.looks import ATTENTION, NULL, Picture
from convbert.locality.statistics import Interval, over_seeds


def judge(effects: Sequence[float]) -> str:
    """Say in words whether an effect is there, by its interval over seeds.

    Args:
        effects: one per seed, paired within the seed.
    """
    if len(effects) < MIN_SEEDS:
        return f"{len(effects)} seeds cannot say, at least {MIN_SEEDS} are needed"
    mean = over_seeds(effects)
    if mean.low <= 0 <= mean.high:
        return f"no effect found, {mean:+.2f}"
    return f"{'positive' if mean.low > 0 else 'negative'}, {mean:+.2f}"


def forest(groups: Mapping[str, Sequence[Interval]], label: str) -> Picture:
    """F4: the effect in each pair of models, and its mean over seeds. Is it more than chance?

    The two kinds of intervals answer different questions and are drawn differently: over
    sentences, for one pair of models; over seeds, for the recipe.

    Args:
        groups: title -> effect of each seed with its interval over sentences; the last group is
            judged in the title.
        label: what the effect is, with its unit.

    Returns:
        Data: group, seed (from 1, or "mean" with its interval over seeds), mean, low, high.
    """
    figure = Figure(figsize=(7.6, 0.9 * len(groups) + 1.5), layout="constrained")
    axis, rows = figure.subplots(), []
    for place, (title, intervals) in enumerate(groups.items()):
        for number, each in enumerate(intervals):
            _draw(axis, place - 0.3 + 0.4 * number / len(intervals), each, ATTENTION, "o")
            rows.append((title, str(number + 1), *map(float, each)))
        if len(intervals) >= MIN_SEEDS:
            mean = over_seeds([float(each.mean) for each in intervals])
            _draw(axis, place + 0.25, mean, "black", "D")
            rows.append((title, "mean", *map(float, mean)))
    axis.axvline(0, color=NULL, ls="--", lw=1)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set(xlabel=label, ylim=(len(groups) - 0.5, -0.5))
    verdict = f"{title}: {judge([float(each.mean) for each in intervals])}"
    axis.set_title(verdict, fontsize=10)
    axis.plot([], [], "o-", color=ATTENTION, ms=5, label="one seed, 95 % over sentences")
    axis.plot([], [], "D-", color="black", ms=5, label="mean, 95 % over seeds")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    data = pd.DataFrame(rows, columns=["group", "seed", "mean", "low", "high"])
    means = data.groupby("group", sort=False)["mean"].mean()
    found = "; ".join(f"{group}, {value:+.2f}" for group, value in means.items())
    return Picture(figure, data, f"{label}. Means: {found}. {verdict}.")


def _draw(axis: Axes, at: float, interval: Interval, color: str, marker: str) -> None:
    """Draw a mean with its interval as a horizontal line."""
    axis.plot([interval.low, interval.high], [at, at], color=color, lw=1.3)
    axis.plot([interval.mean], [at], marker, color=color, ms=5)
