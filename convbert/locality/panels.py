"""Pictures behind the widgets: one selection each, quick to draw; see `figures` for a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from convbert.locality import measure
from convbert.locality.looks import ATTENTION, CONVOLUTION, NULL, SEQUENTIAL, Picture
from convbert.locality.record import MixingRecord

_PARTS = {"content": None, "special": "//", "padding": "..", "outside": "xx"}  # hatch of each
_SHOWN = 12  # heads in a ranking


def explorer(
    records: Mapping[str, MixingRecord], layer: int, attention: int, convolution: int, row: int
) -> Picture:
    """W1: both branches of a layer for one or two texts, and where the weight of one row goes.

    Args:
        records: label -> record of a text.
        layer: from 0.
        attention: which attention head, from 0.
        convolution: which convolution head, from 0; ignored if the model has none.
        row: the query token whose ledger is shown; a shorter text shows its last.

    Returns:
        Data in long form: text, family, key, weight of the chosen row.
    """
    count = len(records)
    figure = Figure(figsize=(11, 4.1 * count))
    grid = figure.add_gridspec(
        count, 3, width_ratios=[1, 1, 0.75], left=0.09, right=0.985, wspace=0.42, hspace=0.45,
        top=1 - 0.35 / (4.1 * count), bottom=0.8 / (4.1 * count),
    )  # fmt: skip
    branches = {k: _branches(r, layer, attention, convolution) for k, r in records.items()}
    top = max(float(matrix.max()) for maps in branches.values() for matrix in maps.values())
    rows, found = [], []
    for number, (label, record) in enumerate(records.items()):
        chosen = min(row, len(record.tokens) - 1)
        maps = branches[label]
        for column, (family, matrix) in enumerate(maps.items()):
            axis = figure.add_subplot(grid[number, column])
            _draw_matrix(axis, f"{label}: {family}", matrix, record.tokens, chosen, top)
            rows += [
                (label, family, j, record.tokens[j], float(w)) for j, w in enumerate(matrix[chosen])
            ]
        parts = {
            family: measure.ledger(matrix, record.content, record.valid)
            for family, matrix in maps.items()
        }
        axis = figure.add_subplot(grid[number, 2])
        _draw_ledger(axis, parts, chosen, f"where {record.tokens[chosen]!r} takes from")
        for family, ledger in parts.items():
            best = record.tokens[int(maps[family][chosen].argmax())]
            weight = float(maps[family][chosen].max())
            found.append(
                f"{label}: {family} takes most from {best!r} ({weight:.2f}), "
                f"{ledger['content'][chosen]:.2f} from content"
            )
    alt = f"Layer {layer + 1}, token {row + 1}: {'; '.join(found)}."
    data = pd.DataFrame(rows, columns=["text", "family", "position", "key", "weight"])
    return Picture(figure, data, alt)


def _branches(
    record: MixingRecord, layer: int, attention: int, convolution: int
) -> dict[str, np.ndarray]:
    """Return the chosen head of each family as a matrix [n, n]."""
    maps = {f"attention head {attention + 1}": record.attention[layer, attention]}
    if record.kernels.shape[1]:
        band = measure.expand_kernels(record.kernels[layer, convolution])
        maps[f"convolution head {convolution + 1}"] = band
    return maps


def _draw_matrix(
    axis: Axes, title: str, matrix: np.ndarray, tokens: Sequence[str], row: int, top: float
) -> None:
    axis.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=top)
    frame = Rectangle((-0.5, row - 0.5), len(tokens), 1, fill=False, edgecolor=CONVOLUTION, lw=1.5)
    axis.add_patch(frame)
    axis.set_title(f"{title}, weight 0 to {top:.2f}", fontsize=10)  # a color bar takes too long
    axis.set(xticks=[], yticks=[])  # plain text draws twice as fast as labels of ticks
    size = min(8.0, 200 / len(tokens))
    for place, token in enumerate(token.replace("$", r"\$") for token in tokens):
        down = {"rotation": 90, "ha": "center", "va": "top", "fontsize": size}
        axis.text(place, len(tokens) - 0.2, token, **down)  # type: ignore[arg-type]
        axis.text(-0.8, place, token, ha="right", va="center", fontsize=size)


def _draw_ledger(
    axis: Axes, parts: Mapping[str, Mapping[str, np.ndarray]], row: int, title: str
) -> None:
    """Draw one bar per head that adds up to 1."""
    for place, (family, ledger) in enumerate(parts.items()):
        color, left = ATTENTION if family.startswith("attention") else CONVOLUTION, 0.0
        named = []
        for part, hatch in _PARTS.items():
            width = max(0.0, float(ledger[part][row]))
            bar = {"color": color if part == "content" else "none", "edgecolor": color}
            axis.barh(place, width, 0.6, left, hatch=hatch, **bar)  # type: ignore[arg-type]
            left += width
            if width > 0.005:
                named.append(f"{part} {width:.2f}")
        axis.text(0, place + 0.42, ", ".join(named), va="center", size=7)
    axis.set_yticks(range(len(parts)), [family.replace(" head ", "\n") for family in parts], size=8)
    axis.set(xlim=(0, 1.02), ylim=(len(parts) - 0.4, -0.6), xlabel="weight of the row")
    axis.set_title(title.replace("$", r"\$"), fontsize=10)


def silenced(before: float, after: float, what: str, heads: int) -> Picture:
    """W2: the prediction with all heads and with some silenced.

    Args:
        before: probability with all heads.
        after: probability without the silenced ones.
        what: the probability is of.
        heads: how many are silenced.
    """
    figure = Figure(figsize=(7, 1.7))
    axis = figure.add_axes((0.2, 0.32, 0.62, 0.62))
    labels = ["all heads", f"{heads} silenced"]
    bars = axis.barh(labels, [before, after], color=[NULL, ATTENTION], hatch=["", "///"])
    axis.bar_label(bars, fmt="%.4f", padding=3)
    axis.invert_yaxis()
    axis.set(xlabel=what, xlim=(0, 1.15 * max(before, after, 1e-6)))
    data = pd.DataFrame({"heads": labels, "probability": [before, after]})
    change = round(after - before, 4) + 0.0  # no minus before a zero
    alt = f"The {what} goes from {before:.4f} to {after:.4f}, a change of {change:+.4f}."
    return Picture(figure, data, alt)


def ranking(changes: np.ndarray, distances: np.ndarray, attention_heads: int, what: str) -> Picture:
    """W2: what silencing each head alone changes, ranked, and against how far the head looks.

    Args:
        changes: of the probability [L, heads].
        distances: mean distance of each head in this sentence [L, heads].
        attention_heads: the first so many of each layer are attention heads.
        what: the probability is of.

    Returns:
        Data: layer, head (from 1, within its family), family, change, distance; ranked.
    """
    rows = []
    for (layer, head), change in np.ndenumerate(changes):
        is_conv = head >= attention_heads
        family = "convolution" if is_conv else "attention"
        place = head - attention_heads * is_conv + 1
        rows.append((layer + 1, place, family, float(change), float(distances[layer, head])))
    table = pd.DataFrame(rows, columns=["layer", "head", "family", "change", "distance"])
    table = table.reindex(table.change.abs().sort_values(ascending=False).index, axis=0)
    table = table.reset_index(drop=True)
    figure = Figure(figsize=(9, 3.6))
    left = figure.add_axes((0.13, 0.16, 0.36, 0.76))
    right = figure.add_axes((0.6, 0.16, 0.37, 0.76))
    shown = table.head(_SHOWN)
    short = {"attention": "att.", "convolution": "conv."}
    names = [f"{short[row.family]} {row.layer}.{row['head']}" for _, row in shown.iterrows()]
    for place, (_, row) in enumerate(shown.iterrows()):
        is_conv = row.family == "convolution"
        color, hatch = (CONVOLUTION, "///") if is_conv else (ATTENTION, None)
        left.barh(place, row.change, color=color, hatch=hatch)
    left.set_yticks(range(len(shown)), names, fontsize=8)
    left.invert_yaxis()
    left.axvline(0, color=NULL, lw=0.8)
    left.set(xlabel="change of the probability", ylabel="family, layer.head")
    left.set_title(f"largest change: {names[0]}, {table.change.iloc[0]:+.2g}", fontsize=10)
    left.locator_params(axis="x", nbins=4)
    left.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
    right.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    for family, color, marker in (("attention", ATTENTION, "o"), ("convolution", CONVOLUTION, "s")):
        part = table[table.family == family]
        right.scatter(part.distance, part.change, color=color, marker=marker, label=family)
    right.axhline(0, color=NULL, lw=0.8)
    right.set(xlabel="mean distance (tokens)", ylabel="change of the probability")
    right.set_title("do near or far heads matter?", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    first = table.iloc[0]
    alt = (
        f"Silencing one head at a time changes the {what} most for {first.family} head "
        f"{first['head']} of layer {first.layer}: {first.change:+.4f}."
    )
    return Picture(figure, table, alt)


def checkpoints(
    steps: Sequence[int], profiles: np.ndarray, distances: np.ndarray, attention_heads: int
) -> Picture:
    """W3: where heads look after some numbers of updates, a column for each.

    Args:
        steps: updates behind each column.
        profiles: mean weight by offset [len(steps), heads of all layers, 2·R + 1].
        distances: mean distance [len(steps), L, heads].
        attention_heads: the first so many of each layer are attention heads.

    Returns:
        Data in long form: step, family, offset, weight.
    """
    count = len(steps)
    figure = Figure(figsize=(max(5.5, 3 * count), 5))
    axes = figure.subplots(2, count, sharex="row", sharey="row", squeeze=False)
    space = 0.8 / figure.get_figwidth()
    figure.subplots_adjust(left=space, right=0.98, bottom=0.1, top=0.93, hspace=0.35, wspace=0.12)
    reach, heads, rows = profiles.shape[-1] // 2, distances.shape[-1], []
    offsets = np.arange(-reach, reach + 1)
    by_head = profiles.reshape(count, -1, heads, 2 * reach + 1)  # [steps, L, heads, 2R+1]
    families = {"attention": slice(0, attention_heads)}
    if attention_heads < heads:
        families["convolution"] = slice(attention_heads, None)
    for column, step in enumerate(steps):
        for family, chosen in families.items():
            color, marker = (ATTENTION, "o") if family == "attention" else (CONVOLUTION, "s")
            mean = by_head[column, :, chosen].mean((0, 1))
            look = {"color": color, "marker": marker, "label": family}
            axes[0, column].plot(offsets, mean, ms=3, **look)
            points = distances[column, :, chosen]  # [L, heads of the family]
            layers = np.repeat(np.arange(1, len(points) + 1), points.shape[1])
            axes[1, column].plot(layers, points.ravel(), ls="", **look)
            rows += [(step, family, int(o), float(w)) for o, w in zip(offsets, mean, strict=True)]
        axes[0, column].set(title=f"step {step:,}", xlabel="offset δ (tokens)")
        axes[1, column].set(xlabel="layer", xticks=range(1, distances.shape[1] + 1))
    top, far = float(np.nanmax(profiles)), float(np.nanmax(distances))
    axes[0, 0].set(ylabel="mean weight", ylim=(0, 1.05 * top))
    axes[1, 0].set(ylabel="mean distance (tokens)", ylim=(0, 1.1 * far))
    axes[0, 0].legend(frameon=False, fontsize=8)
    found = "; ".join(
        f"step {step}, " + ", ".join(
            f"{family} {np.nanmean(distances[column, :, chosen]):.1f}"
            for family, chosen in families.items()
        )
        for column, step in enumerate(steps)
    )  # fmt: skip
    data = pd.DataFrame(rows, columns=["step", "family", "offset", "weight"])
    return Picture(figure, data, f"Mean distance in tokens: {found}.")
