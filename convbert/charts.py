"""Pictures of the lessons: each function returns a Figure and the data behind it.

Pictures of mixing matrices are in `convbert.locality.figures`, whose colors are used here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from convbert import budget
from convbert.config import ConvBertConfig
from convbert.locality.looks import ATTENTION, CONVOLUTION, NULL, SEQUENTIAL

LONGEST = 512  # tokens that the published models accept
_GRAYS = ("#E0E0E0", "#B8B8B8", "#8C8C8C")  # for what belongs to neither family


def kernels(taps: dict[str, np.ndarray], rows: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Draw kernels side by side on one color scale, with the weights written into the cells.

    Args:
        taps: title -> softmaxed taps [rows, k].
        rows: labels of the rows, for instance a token with its neighbors.

    Returns:
        The figure, and its weights in long form (kind, row, offset, weight).
    """
    figure = Figure(figsize=(3.1 * len(taps) + 1.2, 0.34 * len(rows) + 1.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(taps), sharey=True))
    top = max(float(each.max()) for each in taps.values())
    data = []
    for axis, (title, weights) in zip(axes, taps.items(), strict=True):
        image = axis.imshow(weights, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto")
        reach = weights.shape[1] // 2
        labels = [f"{offset:+d}" if offset else "0" for offset in range(-reach, reach + 1)]
        axis.set_xticks(range(len(labels)), labels)
        axis.set_yticks(range(len(rows)), rows)
        axis.set(title=title, xlabel="offset (tokens)")
        for row, column in np.ndindex(*weights.shape):
            weight = float(weights[row, column])
            color = "black" if weight > 0.6 * top else "white"
            text = f"{weight:.2f}".removeprefix("0")
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
            data.append((title, rows[row], column - reach, weight))
    figure.colorbar(image, ax=axes.tolist(), label="weight")
    return figure, pd.DataFrame(data, columns=["kind", "row", "offset", "weight"])


def shares(table: pd.DataFrame, xlabel: str) -> tuple[Figure, pd.DataFrame]:
    """Draw one bar of 100 percent per row.

    Args:
        table: counts, a row per bar and a column per part; the column "convolution" gets the
            family's color, up to three others a gray.
        xlabel: what is shared out.

    Returns:
        The figure, and the shares in percent.
    """
    percent = 100 * table.div(table.sum(axis=1), axis=0)
    figure = Figure(figsize=(9, 0.45 * len(table) + 1.2), layout="constrained")
    axis, left = figure.subplots(), np.zeros(len(table))
    grays = iter(_GRAYS)
    for part in percent.columns:
        is_conv = part == "convolution"
        color = CONVOLUTION if is_conv else next(grays)
        width = percent[part].to_numpy()
        bars = axis.barh(
            list(table.index),
            width,
            left=left,
            color=color,
            edgecolor="white",
            hatch="///" if is_conv else None,
            label=part,
        )
        labels = axis.bar_label(bars, fmt="%.0f", label_type="center")
        if is_conv:  # readable on the hatch
            for label in labels:
                label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        left = left + width
    axis.set(xlabel=xlabel, xlim=(0, 100))
    axis.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(table.columns), frameon=False)
    return figure, percent.reset_index(names="model")


def crossover(models: dict[str, ConvBertConfig]) -> tuple[Figure, pd.DataFrame]:
    """Draw what attention's L² part and the convolution branch cost per token, over length.

    Args:
        models: title -> configuration.

    Returns:
        The figure, and its points (model, part, length, macs_per_token).
    """
    lengths = [2**power for power in range(5, 12)]
    figure = Figure(figsize=(3 * len(models), 3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
    data = []
    for axis, (title, config) in zip(axes, models.items(), strict=True):
        axis.axvspan(LONGEST, lengths[-1], color=_GRAYS[0], label="longer than any input")
        crossing = budget.crossover_length(config)
        for part, color, marker in (
            ("attention", ATTENTION, "o"),
            ("convolution", CONVOLUTION, "s"),
        ):
            macs = [budget.by_family(budget.layer_macs(config, n))[part] / n for n in lengths]
            label = "attention, L² part" if part == "attention" else part
            axis.loglog(
                lengths, np.array(macs) / 1e6, color=color, marker=marker, ms=4, label=label
            )
            data += [(title, part, n, cost) for n, cost in zip(lengths, macs, strict=True)]
        axis.axvline(crossing, color="black", ls=":")
        axis.set(title=f"{title}: equal at {crossing:.0f}", xlabel="length L (tokens)")
        axis.set(xlim=(lengths[0], lengths[-1]))
        axis.set_xticks(lengths[1::2], [str(n) for n in lengths[1::2]])
        axis.minorticks_off()
    axes[0].set_ylabel("cost of one layer\n(million MACs per token)")
    axes[-1].legend(fontsize=8, loc="lower right", framealpha=1, edgecolor="none")
    return figure, pd.DataFrame(data, columns=["model", "part", "length", "macs_per_token"])


def padding_changes(
    changes: dict[str, np.ndarray], tokens: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """Draw how much padding changes each token, layer by layer, on a logarithmic color scale.

    Args:
        changes: title -> largest absolute change [layers + 1, L]; row 0 is the input.
        tokens: the sentence.

    Returns:
        The figure, and its values in long form (model, layer, position, change).
    """
    floor, top = -8, 0
    figure = Figure(figsize=(4.2 * len(changes) + 0.8, 2.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(changes), sharey=True))
    data = []
    for axis, (title, change) in zip(axes, changes.items(), strict=True):
        exponents = np.log10(np.maximum(change, 10.0**floor))
        image = axis.imshow(exponents, cmap=SEQUENTIAL, vmin=floor, vmax=top, aspect="auto")
        axis.set_xticks(range(len(tokens)), tokens, rotation=90)
        axis.set_yticks(range(len(change)), ["input", *(str(n) for n in range(1, len(change)))])
        axis.set(title=title, xlabel="token of the sentence")
        data += [(title, *place, float(change[place])) for place in np.ndindex(*change.shape)]
    axes[0].set_ylabel("after layer")
    ticks = range(floor, top + 1, 2)
    bar = figure.colorbar(image, ax=axes.tolist(), label="largest change", ticks=list(ticks))
    bar.ax.set_yticklabels([f"$10^{{{power}}}$" for power in ticks])
    return figure, pd.DataFrame(data, columns=["model", "layer", "position", "change"])


def race(curves: pd.DataFrame, mark: int) -> tuple[Figure, pd.DataFrame]:
    """Draw learning curves, a panel per learning rate: mean over seeds, and lowest to highest.

    Args:
        curves: columns model, rate, seed, step, accuracy; the first model gets the color of
            convolution, the second that of attention.
        mark: number of updates marked by a line.

    Returns:
        The figure, and `curves`.
    """
    rates, models = curves.rate.unique(), curves.model.unique()
    figure = Figure(figsize=(4.5 * len(rates), 3.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(rates), sharey=True))
    styles = [(CONVOLUTION, "-"), (ATTENTION, "--")]
    for axis, rate in zip(axes, rates, strict=True):
        axis.axvline(mark, color="black", ls=":", lw=0.8)
        for model, (color, line) in zip(models, styles, strict=True):
            chosen = curves[(curves.model == model) & (curves.rate == rate)]
            by_step = chosen.groupby("step").accuracy
            low, mean, high = by_step.min(), by_step.mean(), by_step.max()
            axis.plot(mean, color=color, ls=line, label=model)
            axis.fill_between(mean.index, low, high, color=color, alpha=0.25, lw=0)
        axis.set(title=f"learning rate {rate:g}", xlabel="updates", ylim=(-0.02, 1.04))
    axes[0].set_ylabel("accuracy on unseen sequences")
    axes[0].legend(frameon=False, loc="upper left")
    return figure, curves


def learning_curves(log: pd.DataFrame, ends: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw pretraining runs: the generator's loss, and how well replaced tokens are found.

    Args:
        log: rows of `log.jsonl` with a column seed.
        ends: rows of `results.json` with a column seed; nulls included.

    Returns:
        The figure, and the held-out values it draws.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    measures = ["mlm_loss", "rtd_auc", "rtd_auc_unigram"]
    final = ends.rename(columns={"steps": "step"})[["seed", "step", *measures]]
    held_out = pd.concat([log[["seed", "step", *measures]].dropna(), final], ignore_index=True)
    held_out = held_out.drop_duplicates(["seed", "step"])  # the last evaluation is in both
    for number, (seed, points) in enumerate(held_out.groupby("seed")):
        batches = log[log.seed == seed].dropna(subset=["generator_loss"])
        labels = ["training batches", "held out", "by its own generator", "drawn by word frequency"]
        labels = labels if number == 0 else ["_"] * 4  # one legend entry for all seeds
        left.plot(batches.step, batches.generator_loss, color="#999999", lw=0.8, label=labels[0])
        left.plot(points.step, points.mlm_loss, "o-", color=ATTENTION, label=labels[1])
        right.plot(points.step, points.rtd_auc, "o-", color=ATTENTION, label=labels[2])
        right.plot(points.step, points.rtd_auc_unigram, "s-", color=CONVOLUTION, label=labels[3])
    left.axhline(ends.null_mlm_loss.mean(), ls="--", color=NULL, label="word frequencies alone")
    right.axhline(0.5, ls="--", color=NULL, label="a coin")
    left.set(xlabel="step", ylabel="generator's loss (nats per chosen word)")
    right.set(xlabel="step", ylabel="AUC of the discriminator")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8, title="replaced tokens", title_fontsize=8)
    return figure, held_out.sort_values(["seed", "step"])


def accuracies(
    results: pd.DataFrame,
    nulls: dict[str, dict[str, float]],
    measure: str = "accuracy",
    names: Mapping[str, str] | None = None,
) -> tuple[Figure, pd.DataFrame]:
    """Draw a dev score by start, a point per seed, with what has to be beaten.

    Args:
        results: columns task, start ("pretrained" or "scratch"), seed, and the score.
        nulls: task -> names of at most three baselines -> score.
        measure: the score's column.
        names: task -> what the score is called; by default as its column.
    """
    figure = Figure(figsize=(4.2 * len(nulls), 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(nulls)))
    looks = {
        "pretrained": ("pretrained", ATTENTION, "o"),
        "scratch": ("from scratch", CONVOLUTION, "s"),
    }
    starts = [start for start in looks if start in set(results.start)]
    for axis, (task, baselines) in zip(axes, nulls.items(), strict=True):
        for x, start in enumerate(starts):
            _, color, marker = looks[start]
            values = results[(results.task == task) & (results.start == start)][measure]
            if values.empty:
                continue
            axis.plot([x] * len(values), values, marker, color=color)
            axis.hlines(values.mean(), x - 0.2, x + 0.2, color=color)
        for (name, value), style in zip(baselines.items(), (":", "--", "-."), strict=False):
            axis.axhline(value, ls=style, color=NULL, lw=1, label=name)
        name = (names or {}).get(task, measure)
        right = max(1.2, len(starts) - 0.4)  # leaves room for the legend
        axis.set(title=task, ylabel=f"dev {name}, last step", xlim=(-0.6, right))
        axis.set_xticks(range(len(starts)), [looks[start][0] for start in starts])
        axis.legend(frameon=False, fontsize=8)
    return figure, results


def variants(found: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw the loss of models that differ in one part, a panel per part and a point per seed.

    Args:
        found: columns question, answer, seed, mlm_loss, null_mlm_loss and gain, which is 0 for
            the model itself; that answer gets the color of convolution.

    Returns:
        The figure, and `found`.
    """
    panels = dict(list(found.groupby("question", sort=False)))
    widths = [group.answer.nunique() for group in panels.values()]
    figure = Figure(figsize=(1.0 * sum(widths) + 0.8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, width_ratios=widths, squeeze=False)[0]
    for axis, (question, group) in zip(axes, panels.items(), strict=True):
        by_answer = dict(list(group.groupby("answer", sort=False)))
        for x, rows in enumerate(by_answer.values()):
            color, marker = (NULL, "s") if rows.gain.any() else (CONVOLUTION, "o")
            axis.plot([x] * len(rows), rows.mlm_loss, marker, color=color, alpha=0.7)
            axis.hlines(rows.mlm_loss.mean(), x - 0.3, x + 0.3, color=color)
        null = group.null_mlm_loss.mean()
        axis.axhline(null, ls="--", color=NULL, lw=1, label="word frequencies alone")
        axis.set(xlabel=question, xlim=(-0.6, len(by_answer) - 0.4))
        axis.set_xticks(range(len(by_answer)), by_answer)
    axes[0].set_ylabel("held-out loss\n(nats per masked word)")
    axes[0].legend(frameon=False, fontsize=8)
    return figure, found


def layer_gaps(gaps: dict[str, list[float]], tolerance: float) -> tuple[Figure, pd.DataFrame]:
    """Draw how far a model is from its reference after each layer, on a logarithmic scale.

    Args:
        gaps: title -> largest |difference| in the embeddings and after each layer; the first
            title is the sound model.
        tolerance: drawn as a line.

    Returns:
        The figure, and its points (model, layer, gap).
    """
    floor = 1e-8  # for exact zeros, which have no logarithm
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axis, data = figure.subplots(), []
    looks = [(ATTENTION, "o-"), (CONVOLUTION, "s--"), (NULL, "^:")]
    for (title, values), (color, style) in zip(gaps.items(), looks, strict=False):
        axis.semilogy(np.maximum(values, floor), style, color=color, label=title)
        data += [(title, layer, value) for layer, value in enumerate(values)]
    axis.axhline(tolerance, color="black", lw=0.8, ls=":")
    axis.text(0, tolerance * 1.4, f"tolerance {tolerance:g}", fontsize=8)
    count = len(next(iter(gaps.values())))
    axis.set_xticks(range(count), ["embeddings", *map(str, range(count - 1))])
    axis.set(xlabel="encoder layer", ylabel="largest |difference|", ylim=(floor / 2, 10.0))
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(0, 0.72))
    return figure, pd.DataFrame(data, columns=["model", "layer", "gap"])


def training_days(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw how long pretraining takes, on a logarithmic scale.

    Args:
        table: days, a row per size and a column per device.

    Returns:
        The figure and the table.
    """
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    axis = figure.subplots()
    places, height = np.arange(len(table)), 0.8 / table.shape[1]
    for number, device in enumerate(table):
        shade = str(0.2 + 0.6 * number / max(1, table.shape[1] - 1))
        at = places + (number - (table.shape[1] - 1) / 2) * height
        bars = axis.barh(at, table[device], height * 0.9, color=shade, label=device)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
    axis.set_yticks(places, table.index)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="days for a million updates, one device (assumed utilization)")
    axis.margins(x=0.1)
    axis.legend(frameon=False, fontsize=8)
    return figure, table.rename_axis("size").reset_index()


def span_scores(
    tokens: Sequence[str], start: np.ndarray, end: np.ndarray, answer: tuple[int, int]
) -> tuple[Figure, pd.DataFrame]:
    """Draw how likely each token starts the answer, and ends it, over the tokens of a text.

    Args:
        tokens: of the text.
        start: probability of each token to be the answer's first [L].
        end: to be its last [L].
        answer: the right first and last token; framed.

    Returns:
        The figure, and its values (token, start, end).
    """
    figure = Figure(figsize=(max(6.0, 0.17 * len(tokens)), 3.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    places, top = np.arange(len(tokens)), 1.1 * float(max(start.max(), end.max()))
    for axis, values, name, color in (
        (upper, start, "start", ATTENTION),
        (lower, end, "end", CONVOLUTION),
    ):
        axis.axvspan(answer[0] - 0.5, answer[1] + 0.5, color=_GRAYS[0], label="right answer")
        axis.bar(places, values, color=color)
        axis.set(ylabel=f"{name} probability", ylim=(0, top), xlim=(-0.7, len(tokens) - 0.3))
    upper.legend(frameon=False, fontsize=8, loc="upper right")
    lower.set_xticks(places, tokens, rotation=90, fontsize=7)
    lower.set_xlabel("token of the text")
    return figure, pd.DataFrame({"token": list(tokens), "start": start, "end": end})


def threshold_curve(
    thresholds: np.ndarray, scores: np.ndarray, chosen: float, xlabel: str
) -> tuple[Figure, pd.DataFrame]:
    """Draw a score over the threshold above which a model gives no answer.

    Args:
        thresholds: increasing [T].
        scores: in percent [T].
        chosen: threshold marked by a line.
        xlabel: what the threshold cuts.

    Returns:
        The figure, and its points (threshold, score).
    """
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.step(thresholds, scores, where="post", color=ATTENTION)
    axis.axhline(scores[0], ls="--", color=NULL, lw=1, label="never answer")
    axis.axhline(scores[-1], ls=":", color=NULL, lw=1, label="always answer")
    axis.axvline(chosen, color="black", lw=0.8, ls="-.", label="chosen on the other half")
    axis.set(xlabel=xlabel, ylabel="exact match (percent)")
    axis.legend(frameon=False, fontsize=8)
    return figure, pd.DataFrame({"threshold": thresholds, "score": scores})
