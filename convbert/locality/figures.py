"""Pictures of mixing. Each function returns a `Picture`: figure, tidy data, alt text.

Titles and alt texts say what was found, whatever that is: they are written from the numbers. All
work from arrays and tables alone, without a model. `lab.figure(*picture[:1], …)` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from convbert import budget
from convbert.config import ConvBertConfig
from convbert.locality import measure
from convbert.locality.looks import (
    ATTENTION,
    CONVOLUTION,
    LOOKS,
    MARKERS,
    NULL,
    SEQUENTIAL,
    SHADES,
    Picture,
    family_of,
    label_tokens,
    look,
    shade,
)
from convbert.locality.statistics import bootstrap


def matrices(maps: Mapping[str, np.ndarray], tokens: Sequence[str] | None = None) -> Picture:
    """F1: mixing matrices side by side on one color scale. Is there a diagonal?

    Args:
        maps: title -> M [n, n], of one sentence or the mean of many.
        tokens: labels of rows and columns; None: positions.

    Returns:
        Data in long form: map, query, key, weight.
    """
    figure = Figure(figsize=(3.4 * len(maps) + 0.8, 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(maps), sharey=True))
    top = max(float(matrix.max()) for matrix in maps.values())
    what = "position" if tokens is None else "token"
    for axis, (title, matrix) in zip(axes, maps.items(), strict=True):
        image = axis.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=top)
        axis.set_title(f"{title}\n{_near(matrix):.2f} within one token", fontsize=10)
        axis.set_xlabel(f"key {what} (taken from)")
        if tokens is not None:
            label_tokens(axis, tokens)
    axes[0].set_ylabel(f"query {what} (takes)")
    figure.colorbar(image, ax=axes.tolist(), label="weight", shrink=0.8)
    rows = [
        (title, i, j, float(matrix[i, j]))
        for title, matrix in maps.items()
        for i, j in np.ndindex(*matrix.shape)
    ]
    near = "; ".join(f"{title}, {_near(matrix):.2f}" for title, matrix in maps.items())
    alt = f"Mixing matrices on one color scale. Weight within one token of the diagonal: {near}."
    return Picture(figure, pd.DataFrame(rows, columns=["map", "query", "key", "weight"]), alt)


def _near(matrix: np.ndarray) -> float:
    """Mean row mass within one token of the diagonal."""
    band = sum(np.diagonal(matrix, offset).sum() for offset in (-1, 0, 1))
    return float(band) / len(matrix)


def offset_profiles(curves: Mapping[str, np.ndarray], null: float) -> Picture:
    """F2: mean weight by offset with its interval over sentences. Where does each family look?

    Args:
        curves: label -> profile of each sentence [S, 2·R + 1]; NaN where it has no such pair.
            Labels begin with the family, "attention" or "convolution".
        null: weight that even rows would have.

    Returns:
        Data in long form: curve, offset, mean, low, high.
    """
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis, parts = figure.subplots(), []
    seen: dict[str, int] = {}
    for label, profiles in curves.items():
        reach = profiles.shape[1] // 2
        offsets = np.arange(-reach, reach + 1)
        mean, low, high = bootstrap(profiles)
        color, marker, line = look(label, seen)
        axis.plot(offsets, mean, line, color=color, marker=marker, ms=3.5, label=label)
        axis.fill_between(offsets, low, high, color=color, alpha=0.25, lw=0)
        values = {"curve": label, "offset": offsets, "mean": mean, "low": low, "high": high}
        parts.append(pd.DataFrame(values))
    axis.axhline(null, color=NULL, ls="--", lw=1, label="evenly over the sentence")
    axis.axvline(0, color="#999999", lw=0.8)
    axis.set_xscale("symlog", linthresh=4)
    ticks = [t for t in (-64, -32, -16, -8, -4, -2, 0, 2, 4, 8, 16, 32, 64) if abs(t) <= reach]
    axis.set_xticks(ticks, [f"{t:+d}" if t else "0" for t in ticks])
    axis.minorticks_off()
    axis.set(xlabel="offset δ = key - query (tokens)", ylabel="mean weight", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    data = pd.concat(parts, ignore_index=True)
    peaks = data.loc[data.groupby("curve", sort=False)["mean"].idxmax()]
    found = "; ".join(
        f"{row.curve}, {row['mean']:.2f} at {row.offset:+d}" for _, row in peaks.iterrows()
    )
    first = peaks.groupby(peaks.curve.map(family_of), sort=False).head(1)
    axis.set_title(
        "highest weight: "
        + "; ".join(f"{r.curve}, {r['mean']:.2f} at {r.offset:+d}" for _, r in first.iterrows()),
        fontsize=10,
    )
    alt = f"Mean weight by offset, evenly spread it would be {null:.2f}. Highest: {found}."
    return Picture(figure, data, alt)


def by_head(values: np.ndarray, attention_heads: int) -> pd.DataFrame:
    """Write a number of every head as a table, for `atlas` and for a ranking.

    Args:
        values: per sentence [S, L, heads]; NaN is left out.
        attention_heads: the first so many heads of each layer are attention heads.

    Returns:
        Columns layer, head (from 1, within its family), family, value, low, high: the mean over
        sentences and its interval.
    """
    mean, low, high = bootstrap(values)
    rows = []
    for (layer, head), value in np.ndenumerate(mean):
        is_conv = head >= attention_heads
        family = "convolution" if is_conv else "attention"
        place = (layer + 1, head - attention_heads * is_conv + 1, family)
        rows.append((*place, float(value), float(low[layer, head]), float(high[layer, head])))
    return pd.DataFrame(rows, columns=["layer", "head", "family", "value", "low", "high"])


def atlas(table: pd.DataFrame, label: str) -> Picture:
    """F3: one number for each head of each layer. Which heads are local?

    Args:
        table: columns layer and head (from 1), family ("attention" or "convolution"), value.
        label: what the number is, with its unit.

    Returns:
        Data: the table.
    """
    families = [name for name in LOOKS if (table.family == name).any()]
    grids = [
        table[table.family == name].pivot(index="layer", columns="head", values="value")
        for name in families
    ]
    widths = [grid.shape[1] for grid in grids]
    size = (max(5.6, 0.62 * sum(widths) + 2.6), max(3.0, 0.36 * len(grids[0]) + 1.5))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(grids), sharey=True, width_ratios=widths, squeeze=False)[0]
    low, high = float(np.nanmin(table.value)), float(np.nanmax(table.value))
    digits = 1 if high >= 10 else 2
    for axis, grid, family in zip(axes, grids, families, strict=True):
        image = axis.imshow(grid, cmap=SEQUENTIAL, vmin=low, vmax=high, aspect="auto")
        axis.set_xticks(range(grid.shape[1]), grid.columns)
        axis.set_yticks(range(len(grid)), grid.index)
        axis.set_title(family, color=LOOKS[family][0], fontsize=10)
        axis.set_xlabel("head")
        for (row, column), value in np.ndenumerate(grid.to_numpy()):
            color = "black" if value > low + 0.6 * (high - low) else "white"
            axis.text(
                column,
                row,
                f"{value:.{digits}f}",
                ha="center",
                va="center",
                color=color,
                fontsize=8,
            )
    axes[0].set_ylabel("layer (1 is nearest the words)")
    figure.colorbar(image, ax=axes.tolist())
    ends = table.groupby("family").value.agg(["min", "max"])
    ranges = "; ".join(
        f"{family} {row['min']:.{digits}f} to {row['max']:.{digits}f}"
        for family, row in ends.iterrows()
    )
    figure.suptitle(f"{label}\n{ranges}", fontsize=10)
    return Picture(figure, table, f"{label} of every head. {_extremes(table)}")


def _extremes(table: pd.DataFrame) -> str:
    """Name the heads with the lowest and the highest value of each family."""
    found = []
    for family, part in table.groupby("family"):
        for word, at in (("lowest", part.value.idxmin()), ("highest", part.value.idxmax())):
            row = part.loc[at]
            found.append(
                f"{word} {family} head: layer {row.layer}, head {row['head']}, {row.value:.2f}"
            )
    return "; ".join(found) + "."


def depth_curves(table: pd.DataFrame, label: str, null: float | None = None) -> Picture:
    """F4: a number by layer, for several models. Did convolution free attention from local work?

    Args:
        table: columns model, family, layer, mean, low, high.
        label: what the number is, with its unit.
        null: its value for even rows.

    Returns:
        Data: the table.
    """
    figure = Figure(figsize=(7.2, 4.3), layout="constrained")
    axis, seen = figure.subplots(), dict[str, int]()
    groups = table.groupby(["model", "family"], sort=False)
    for number, ((model, family), part) in enumerate(groups):
        _, _, line = look(str(family), seen)
        turn = seen[str(family)] % len(MARKERS)
        errors = np.array([part["mean"] - part.low, part.high - part["mean"]])
        aside = 0.06 * (number - (len(groups) - 1) / 2)  # or the bars would hide each other
        axis.errorbar(
            part.layer + aside, part["mean"], errors, color=SHADES[str(family)][turn], ls=line,
            marker=MARKERS[turn], ms=5, capsize=3, label=f"{family}, {model}",
        )  # fmt: skip
    if null is not None:
        axis.axhline(null, color=NULL, ls="--", lw=1, label="evenly over the sentence")
    axis.set(xlabel="layer (1 is nearest the words)", ylabel=label)
    axis.set_xticks(sorted(table.layer.unique()))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    means = groups["mean"].mean()
    least, most = means.idxmin(), means.idxmax()
    axis.set_title(
        f"mean over layers: least {least[0]}, {means[least]:.3f}; most {most[0]}, "
        f"{means[most]:.3f}",
        fontsize=10,
    )
    found = "; ".join(f"{family}, {model}: {value:.3f}" for (model, family), value in means.items())
    return Picture(figure, table, f"{label} by layer. Mean over layers: {found}.")


def kernel_taps(
    taps: Mapping[str, np.ndarray], variation: pd.DataFrame, word: str, place: str
) -> Picture:
    """F5: kernels of one word in several contexts, and how much kernels vary. Do spans matter?

    Args:
        taps: context -> kernel [k] of the word in it.
        variation: columns layer, and the variance of kernels (summed over taps): `all` of a
            corpus; `word`, the part within words, C·all; `swap`, C_swap, which random neighbors
            can bring above the others.
        word: whose kernels they are.
        place: of which layer and head.

    Returns:
        Data in long form: context, offset, weight.
    """
    height = max(2.8, 0.32 * len(taps) + 1.6)
    figure = Figure(figsize=(9, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    grid = np.array(list(taps.values()))
    reach = grid.shape[1] // 2
    image = left.imshow(grid, cmap=SEQUENTIAL, vmin=0, aspect="auto")
    left.set_yticks(range(len(taps)), [name.replace("$", r"\$") for name in taps], fontsize=8)
    left.set_xticks(
        range(2 * reach + 1), [f"{t:+d}" if t else "0" for t in range(-reach, reach + 1)]
    )
    spread = max(0.5 * float(np.abs(a - b).sum()) for a in grid for b in grid)
    name = word.replace("$", r"\$")
    left.set_title(f"{place}: kernels of “{name}” differ by up to {spread:.2f}", fontsize=10)
    left.set(xlabel="offset (tokens)", ylabel="context")
    figure.colorbar(image, ax=left, label="weight")
    for name, color, marker, what in (
        ("all", NULL, "o-", "all kernels of the corpus"),
        ("word", CONVOLUTION, "s--", "one word (C)"),
        ("swap", "black", "^:", "one place, other neighbors (C_swap)"),
    ):
        right.plot(variation.layer, variation[name], marker, color=color, label=what)
    right.set_xticks(variation.layer)
    right.set(xlabel="layer", ylabel="variance of kernels", yscale="log")
    within = float((variation.word / variation["all"]).mean())
    right.set_title(f"one word, other contexts: {within:.2f} of all", fontsize=10)
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8)
    data = [
        (context, offset, float(row[offset + reach]))
        for context, row in taps.items()
        for offset in range(-reach, reach + 1)
    ]
    alt = (
        f"{place}: kernels of “{word}” in {len(taps)} contexts differ by up to {spread:.2f}. "
        f"On average over layers one word's share of all variance is {within:.2f}."
    )
    return Picture(figure, pd.DataFrame(data, columns=["context", "offset", "weight"]), alt)


def cost_split(config: ConvBertConfig, longest: int = 2048) -> Picture:
    """F6: what a layer spends on what, over sentence length. What do convolution heads cost?

    Args:
        config: a model with convolution heads.
        longest: tokens, the right end of the axis.

    Returns:
        Data in long form: part, length, macs, share.
    """
    lengths = np.unique(np.geomspace(16, longest, 40).round().astype(int))
    split = pd.DataFrame([budget.by_family(budget.layer_macs(config, int(n))) for n in lengths])
    split = split.drop(columns="normalization")[
        ["attention", "convolution", "projections", "feed-forward"]
    ]
    percent = 100 * split.div(split.sum(axis=1), axis=0)
    crossing = budget.crossover_length(config)
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis = figure.subplots()
    colors = (ATTENTION, CONVOLUTION, "#B8B8B8", "#E0E0E0")
    axis.stackplot(lengths, percent.T, labels=percent.columns, colors=colors, edgecolor="white")
    axis.axvline(crossing, color="black", ls=":", label=f"both equal, {crossing:.0f} tokens")
    axis.set_xscale("log", base=2)
    ticks = [n for n in (16, 64, 128, 256, 512, 1024, 2048) if n <= longest]
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set(xlabel="length n (tokens)", ylabel="share of a layer's arithmetic (%)")
    axis.set(xlim=(lengths[0], lengths[-1]), ylim=(0, 100))
    shown = axis.get_legend_handles_labels()
    figure.legend(
        *(part[::-1] for part in shown), loc="outside right center", frameon=False, fontsize=8
    )
    at = budget.by_family(budget.layer_macs(config, 128))
    share = {name: 100 * value / sum(at.values()) for name, value in at.items()}
    axis.set_title(
        f"at 128 tokens attention's n² part is {share['attention']:.1f} % of a layer, "
        f"the convolution {share['convolution']:.1f} %",
        fontsize=10,
    )
    data = split.assign(length=lengths).melt("length", var_name="part", value_name="macs")
    data["share"] = data.macs / data.groupby("length").macs.transform("sum")
    alt = (
        f"Share of a layer's multiplications. At 128 tokens attention's n² part takes "
        f"{share['attention']:.1f} percent, the convolution {share['convolution']:.1f}; they are "
        f"equal at {crossing:.0f} tokens."
    )
    return Picture(figure, data, alt)


def receptive_fields(fields: Mapping[str, np.ndarray], reach: int) -> Picture:
    """F7: how much a state depends on inputs at each distance, by layer. How far does news travel?

    Args:
        fields: title -> E [L, n, n], rows sum to 1.
        reach: r of the convolution; the last title's field is expected to end at r·l.

    Returns:
        Data in long form: model, layer, offset, share.
    """
    figure = Figure(figsize=(4.4 * len(fields) + 0.8, 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(fields), sharex=True, sharey=True))
    rows: list[dict[str, Any]] = []
    for axis, (title, field) in zip(axes, fields.items(), strict=True):
        layers, n, _ = field.shape
        shares = measure.by_offset(field, np.ones(n, bool))  # [L, 2n-1]
        offsets = np.arange(-(n - 1), n)
        for layer, share in enumerate(shares):
            color = shade(layer, layers)
            drawn = np.where(share > 0, share, np.nan)
            axis.semilogy(offsets, drawn, color=color, label=f"layer {layer + 1}")
            for side in (-1, 1) if reach * (layer + 1) < n else ():
                axis.axvline(side * reach * (layer + 1), color=color, ls=":", lw=0.8)
            rows += [
                {"model": title, "layer": layer + 1, "offset": int(o), "share": float(s)}
                for o, s in zip(offsets, share, strict=True)
            ]
        axis.set(xlabel="offset of the input token (tokens)")
    axes[0].set_ylabel("share of the dependence")
    axes[0].plot([], [], color="black", ls=":", lw=0.8, label=f"reach of kernels, {reach}·layer")
    shown = axes[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside right center", frameon=False, fontsize=8)
    data = pd.DataFrame(rows)
    data["beyond"] = data.offset.abs() > reach * data.layer
    beyond = data[data.beyond].groupby("model", sort=False).share.sum()
    layers_of = data.groupby("model", sort=False).layer.max()
    part = {title: float(beyond.get(title, 0) / layers_of[title]) for title in fields}
    for axis, (title, share) in zip(axes, part.items(), strict=True):
        axis.set_title(f"{title}\n{share:.3f} from beyond the kernels' reach", fontsize=10)
    found = "; ".join(f"{title}, {share:.3f}" for title, share in part.items())
    alt = f"Dependence of a state on inputs by offset. Share beyond r·l = {reach}·layer: {found}."
    return Picture(figure, data.drop(columns="beyond"), alt)
