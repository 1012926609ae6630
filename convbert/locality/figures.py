"""Pictures of mixing. Each function returns a `Picture`: figure, tidy data, alt text.

They work from arrays and tables alone, without a model. `lab.figure(*picture[:1], …)` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convbert import budget
from convbert.config import ConvBertConfig
from convbert.locality import measure
from convbert.locality.statistics import bootstrap

# Distinct under every common color blindness; the families also differ by marker and hatch.
ATTENTION, CONVOLUTION, NULL = "#0072B2", "#D55E00", "#666666"
SEQUENTIAL = "cividis"
_LOOKS = {"attention": (ATTENTION, "o"), "convolution": (CONVOLUTION, "s")}
_LINES = ("-", ":", "--", "-.")


class Picture(NamedTuple):
    """A figure, the numbers it draws, and the finding in words for those who cannot see it."""

    figure: Figure
    data: pd.DataFrame
    alt: str


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
    for axis, (title, matrix) in zip(axes, maps.items(), strict=True):
        image = axis.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=top)
        axis.set(title=title, xlabel="key token (taken from)")
        if tokens is not None:
            label_tokens(axis, tokens)
    axes[0].set_ylabel("query token (takes)")
    figure.colorbar(image, ax=axes.tolist(), label="weight", shrink=0.8)
    rows = [
        (title, i, j, float(matrix[i, j]))
        for title, matrix in maps.items()
        for i, j in np.ndindex(*matrix.shape)
    ]
    near = "; ".join(f"{title}, {_near(matrix):.2f}" for title, matrix in maps.items())
    alt = f"Mixing matrices on one color scale. Weight within one token of the diagonal: {near}."
    return Picture(figure, pd.DataFrame(rows, columns=["map", "query", "key", "weight"]), alt)


def label_tokens(axis: Axes, tokens: Sequence[str]) -> None:
    """Write the tokens at both axes; a `$` in a token is no formula."""
    labels = [token.replace("$", r"\$") for token in tokens]
    size = 7 if len(tokens) <= 32 else 4
    axis.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(tokens)), labels, fontsize=size)


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
        color, marker, line = _look(label, seen)
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
    axis.set(xlabel="offset δ = key - query, in tokens", ylabel="mean weight", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    data = pd.concat(parts, ignore_index=True)
    peaks = data.loc[data.groupby("curve", sort=False)["mean"].idxmax()]
    found = "; ".join(
        f"{row.curve}, {row['mean']:.2f} at {row.offset:+d}" for _, row in peaks.iterrows()
    )
    alt = f"Mean weight by offset, evenly spread it would be {null:.2f}. Highest: {found}."
    return Picture(figure, data, alt)


def _look(label: str, seen: dict[str, int]) -> tuple[str, str, str]:
    """Color and marker by family, line style by how often the family has come."""
    family = label.split(",")[0].split(" ")[0]
    color, marker = _LOOKS.get(family, (NULL, "^"))
    seen[family] = seen.get(family, -1) + 1
    return color, marker, _LINES[seen[family] % len(_LINES)]


def atlas(table: pd.DataFrame, label: str) -> Picture:
    """F3: one number for each head of each layer. Which heads are local?

    Args:
        table: columns layer and head (from 1), family ("attention" or "convolution"), value.
        label: what the number is, with its unit.

    Returns:
        Data: the table.
    """
    families = [name for name in _LOOKS if (table.family == name).any()]
    grids = [
        table[table.family == name].pivot(index="layer", columns="head", values="value")
        for name in families
    ]
    widths = [grid.shape[1] for grid in grids]
    size = (0.62 * sum(widths) + 2.6, 0.36 * len(grids[0]) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(grids), sharey=True, width_ratios=widths, squeeze=False)[0]
    low, high = float(np.nanmin(table.value)), float(np.nanmax(table.value))
    for axis, grid, family in zip(axes, grids, families, strict=True):
        image = axis.imshow(grid, cmap=SEQUENTIAL, vmin=low, vmax=high, aspect="auto")
        axis.set_xticks(range(grid.shape[1]), grid.columns)
        axis.set_yticks(range(len(grid)), grid.index)
        axis.set_title(family, color=_LOOKS[family][0], fontsize=10)
        axis.set_xlabel("head")
        for (row, column), value in np.ndenumerate(grid.to_numpy()):
            color = "black" if value > low + 0.6 * (high - low) else "white"
            axis.text(
                column, row, f"{value:.3g}", ha="center", va="center", color=color, fontsize=8
            )
    axes[0].set_ylabel("layer (1 is nearest the words)")
    figure.colorbar(image, ax=axes.tolist(), label=label)
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
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis, seen = figure.subplots(), dict[str, int]()
    for (model, family), part in table.groupby(["model", "family"], sort=False):
        color, marker, line = _look(str(family), seen)
        errors = np.array([part["mean"] - part.low, part.high - part["mean"]])
        axis.errorbar(
            part.layer, part["mean"], errors, color=color, marker=marker, ls=line, ms=5,
            capsize=3, label=f"{family}, {model}",
        )  # fmt: skip
    if null is not None:
        axis.axhline(null, color=NULL, ls="--", lw=1, label="evenly over the sentence")
    axis.set(xlabel="layer (1 is nearest the words)", ylabel=label)
    axis.set_xticks(sorted(table.layer.unique()))
    axis.legend(frameon=False, fontsize=8)
    means = table.groupby(["model", "family"], sort=False)["mean"].mean()
    found = "; ".join(f"{family}, {model}: {value:.2f}" for (model, family), value in means.items())
    return Picture(figure, table, f"{label} by layer. Mean over layers: {found}.")


def kernel_taps(taps: Mapping[str, np.ndarray], variation: pd.DataFrame, word: str) -> Picture:
    """F5: kernels of one word in several contexts, and how much kernels vary. Do spans matter?

    Args:
        taps: context -> kernel [k] of the word in it.
        variation: columns layer, C, C_swap (0 … 1 each).
        word: whose kernels they are.

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
    left.set(title=f"kernels of “{word}”", xlabel="offset (tokens)")
    figure.colorbar(image, ax=left, label="weight")
    places = np.arange(len(variation))
    for shift, name, color, hatch in ((-0.2, "C", CONVOLUTION, None), (0.2, "C_swap", NULL, "///")):
        right.bar(places + shift, variation[name], 0.38, color=color, hatch=hatch, label=name)
    right.set_xticks(places, variation.layer)
    right.set(xlabel="layer", ylabel="share of the variance of kernels", ylim=(0, 1))
    right.legend(frameon=False, fontsize=8)
    data = [
        (context, offset, float(row[offset + reach]))
        for context, row in taps.items()
        for offset in range(-reach, reach + 1)
    ]
    spread = max(0.5 * float(np.abs(a - b).sum()) for a in grid for b in grid)
    alt = (
        f"Kernels of “{word}” in {len(taps)} contexts differ by up to {spread:.2f}. "
        f"One word's share of all variance is {variation.C.mean():.2f}; with its position fixed "
        f"and its neighbors swapped, {variation.C_swap.mean():.2f}."
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
    axis.axvline(crossing, color="black", ls=":", label=f"equal at {crossing:.0f}")
    axis.set_xscale("log", base=2)
    ticks = [n for n in (16, 64, 128, 256, 512, 1024, 2048) if n <= longest]
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set(xlabel="length n (tokens)", ylabel="share of a layer's arithmetic (%)")
    axis.set(xlim=(lengths[0], lengths[-1]), ylim=(0, 100))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    at = budget.by_family(budget.layer_macs(config, 128))
    share = {name: 100 * value / sum(at.values()) for name, value in at.items()}
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
            color = _shade(layer, layers)
            drawn = np.where(share > 0, share, np.nan)
            axis.semilogy(offsets, drawn, color=color, label=f"layer {layer + 1}")
            axis.axvline(reach * (layer + 1), color=color, ls=":", lw=0.8)
            axis.axvline(-reach * (layer + 1), color=color, ls=":", lw=0.8)
            rows += [
                {"model": title, "layer": layer + 1, "offset": int(o), "share": float(s)}
                for o, s in zip(offsets, share, strict=True)
            ]
        axis.set(title=title, xlabel="offset of the input token (tokens)")
    axes[0].set_ylabel("share of the dependence")
    axes[0].legend(frameon=False, fontsize=8)
    data = pd.DataFrame(rows)
    data["beyond"] = data.offset.abs() > reach * data.layer
    beyond = data[data.beyond].groupby("model", sort=False).share.sum()
    layers_of = data.groupby("model", sort=False).layer.max()
    found = "; ".join(f"{title}, {beyond.get(title, 0) / layers_of[title]:.3f}" for title in fields)
    alt = f"Dependence of a state on inputs by offset. Share beyond r·l = {reach}·layer: {found}."
    return Picture(figure, data.drop(columns="beyond"), alt)


def _shade(layer: int, layers: int) -> Any:
    """A shade of the sequential map for one of several layers, neither of its pale ends."""
    from matplotlib import colormaps

    return colormaps[SEQUENTIAL](0.05 + 0.75 * layer / max(1, layers - 1))
