"""Pictures of fine-tuning: each function returns a Figure and the data behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from convbert.locality.figures import ATTENTION, CONVOLUTION, NULL, SEQUENTIAL
from convbert.metrics.calibration import Reliability

_LOOKS = {"pretrained": (ATTENTION, "-", "o"), "scratch": (CONVOLUTION, "--", "s")}
_GRAY = "#B8B8B8"


def learning_curves(log: pd.DataFrame, metrics: Mapping[str, str]) -> tuple[Figure, pd.DataFrame]:
    """Draw the loss of training batches, and below it the dev metric, a panel per task.

    Args:
        log: rows of `log.jsonl` with columns task, start ("pretrained" or "scratch") and seed.
        metrics: task -> the metric's column.

    Returns:
        The figure, and its points (task, start, seed, step, loss, dev); one of the last two is
        missing where a step was not logged, or not evaluated.
    """
    figure = Figure(figsize=(3.6 * len(metrics) + 0.6, 4.6), layout="constrained")
    axes, parts = figure.subplots(2, len(metrics), sharex="col", squeeze=False), []
    for column, (task, metric) in enumerate(metrics.items()):
        upper, lower = axes[:, column]
        points = log[log.task == task][["task", "start", "seed", "step", "loss", metric]]
        points = points.rename(columns={metric: "dev"})
        parts.append(points)
        for (start, _), run in points.groupby(["start", "seed"]):
            color, line, marker = _LOOKS[str(start)]
            losses, devs = run.dropna(subset=["loss"]), run.dropna(subset=["dev"])
            upper.plot(losses.step, losses.loss, color=color, ls=line, lw=1, label=start)
            lower.plot(devs.step, devs.dev, color=color, ls=line, marker=marker, label=start)
        upper.set_title(task)
        lower.set(xlabel="step", ylabel=f"dev {metric}")
    axes[0, 0].set_ylabel("loss of training batches")
    once = dict(zip(*reversed(axes[1, 0].get_legend_handles_labels()), strict=True))
    axes[1, 0].legend(once.values(), once.keys(), frameon=False, fontsize=8)
    return figure, pd.concat(parts, ignore_index=True)


def layer_rates(
    factors: Mapping[str, Mapping[str, float]], measured: Mapping[str, Mapping[str, float]]
) -> tuple[Figure, pd.DataFrame]:
    """Draw the factor of each part's learning rate, from the embeddings up to the head.

    Args:
        factors: model -> part -> factor, from the bottom up.
        measured: for some of these models, how far an update moved the part, over the peak rate.

    Returns:
        The figure, and its values (model, part, factor, measured).
    """
    figure = Figure(figsize=(4.4 * len(factors), 3.4), layout="constrained")
    axes, data = np.atleast_1d(figure.subplots(1, len(factors), sharey=True)), []
    for axis, (model, parts) in zip(axes, factors.items(), strict=True):
        seen = measured.get(model, {})
        places = range(len(parts))
        axis.bar(places, list(parts.values()), color=_GRAY, label="factor, by name")
        if seen:
            axis.plot(places, [seen[part] for part in parts], "o", color=ATTENTION,
                      label="an update's largest step, over the rate")  # fmt: skip
        axis.set_xticks(places, list(parts), rotation=90)
        axis.set(title=model)
        data += [(model, part, factor, seen.get(part)) for part, factor in parts.items()]
    axes[0].set_ylabel("share of the peak learning rate")
    axes[-1].legend(frameon=False, fontsize=8, loc="upper left")
    return figure, pd.DataFrame(data, columns=["model", "part", "factor", "measured"])


def parity(curves: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, pd.DataFrame]:
    """Draw two trainings' losses on top of each other, a panel per task.

    Args:
        curves: task -> "ours" and "transformers": loss of every step; and their
            "largest_relative_difference".

    Returns:
        The figure, and its points (task, step, ours, transformers).
    """
    figure = Figure(figsize=(3.9 * len(curves), 3.0), layout="constrained")
    axes, data = np.atleast_1d(figure.subplots(1, len(curves))), []
    for axis, (task, sides) in zip(axes, curves.items(), strict=True):
        ours, theirs = (np.asarray(sides[side]) for side in ("ours", "transformers"))
        steps = np.arange(1, len(ours) + 1)
        axis.plot(steps, ours, color=CONVOLUTION, lw=3, alpha=0.6, label="this package")
        axis.plot(steps, theirs, color="black", lw=0.8, label="transformers and torch")
        gap = sides["largest_relative_difference"]
        axis.set(title=f"{task}: apart by less than {gap:.0e}", xlabel="step")
        data.append(
            pd.DataFrame({"task": task, "step": steps, "ours": ours, "transformers": theirs})
        )
    axes[0].set_ylabel("loss of the training batch")
    axes[0].legend(frameon=False, fontsize=8)
    return figure, pd.concat(data, ignore_index=True)


def confusions(
    counts: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[str]]
) -> tuple[Figure, pd.DataFrame]:
    """Draw confusion matrices, with the counts written into the cells; colors are shares of a row.

    Args:
        counts: task -> counts [C, C], rows are the right classes.
        labels: task -> names of the classes.

    Returns:
        The figure, and its counts in long form (task, truth, guess, count).
    """
    figure = Figure(figsize=(3.4 * len(counts) + 0.6, 3.2), layout="constrained")
    axes, data = np.atleast_1d(figure.subplots(1, len(counts))), []
    for axis, (task, table) in zip(axes, counts.items(), strict=True):
        shares = table / np.maximum(1, table.sum(1, keepdims=True))
        axis.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1)
        names, places = labels[task], range(len(table))
        axis.set_xticks(places, names, rotation=30 if max(map(len, names)) > 3 else 0)
        axis.set_yticks(places, names)
        axis.set(title=task, xlabel="predicted", ylabel="right")
        for row, column in np.ndindex(*table.shape):
            color = "black" if shares[row, column] > 0.6 else "white"
            axis.text(column, row, int(table[row, column]), ha="center", va="center", color=color)
            data.append((task, names[row], names[column], int(table[row, column])))
    return figure, pd.DataFrame(data, columns=["task", "truth", "guess", "count"])


def reliability(found: Mapping[str, Reliability]) -> tuple[Figure, pd.DataFrame]:
    """Draw how often a classifier is right over how sure it is; below, how many predictions.

    Args:
        found: title -> what `metrics.calibration.reliability` returns.

    Returns:
        The figure, and its bins (model, above, counts, confidence, accuracy).
    """
    figure = Figure(figsize=(3.4 * len(found) + 0.6, 4.2), layout="constrained")
    axes = figure.subplots(2, len(found), sharex=True, squeeze=False, height_ratios=[3, 1])
    parts = []
    for column, (title, bins) in enumerate(found.items()):
        upper, lower = axes[:, column]
        width = np.diff(bins.edges)
        upper.bar(bins.edges[:-1], bins.accuracy, width, align="edge", color=_GRAY, ec="white")
        upper.plot(bins.confidence, bins.accuracy, "o", color=ATTENTION)
        upper.plot([0, 1], [0, 1], ls="--", color=NULL, lw=1)
        lower.bar(bins.edges[:-1], bins.counts, width, align="edge", color=_GRAY, ec="white")
        lowest = bins.edges[np.flatnonzero(bins.counts)[0]]
        upper.set(title=f"{title}: error {bins.error:.3f}", ylim=(0, 1))
        lower.set(xlabel="confidence", xlim=(min(0.5, lowest), 1))
        values = bins._asdict() | {"model": title, "above": bins.edges[:-1]}
        names = ["model", "above", "counts", "confidence", "accuracy"]
        parts.append(pd.DataFrame({name: values[name] for name in names}))
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("predictions")
    return figure, pd.concat(parts, ignore_index=True)
