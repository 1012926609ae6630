"""Pictures of mixing: each function returns a Figure and the data behind it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# Distinct under every common color blindness; the families also differ by marker and hatch.
ATTENTION, CONVOLUTION, NULL = "#0072B2", "#D55E00", "#666666"
SEQUENTIAL = "cividis"


def matrices(
    maps: dict[str, np.ndarray], tokens: list[str] | None = None
) -> tuple[Figure, pd.DataFrame]:
    """Draw mixing matrices side by side on one color scale.

    Args:
        maps: title -> M [n, n].
        tokens: labels of rows and columns; None: positions.

    Returns:
        The figure, and its weights in long form (map, query, key, weight).
    """
    figure = Figure(figsize=(3.4 * len(maps) + 0.8, 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(maps), sharey=True))
    top = max(float(matrix.max()) for matrix in maps.values())
    for axis, (title, matrix) in zip(axes, maps.items(), strict=True):
        image = axis.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=top)
        axis.set(title=title, xlabel="key token (taken from)")
        if tokens is not None:
            axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
            axis.set_yticks(range(len(tokens)), tokens, fontsize=7)
    axes[0].set_ylabel("query token (takes)")
    figure.colorbar(image, ax=axes.tolist(), label="weight", shrink=0.8)
    rows = [
        (title, i, j, float(matrix[i, j]))
        for title, matrix in maps.items()
        for i, j in np.ndindex(*matrix.shape)
    ]
    return figure, pd.DataFrame(rows, columns=["map", "query", "key", "weight"])


def profiles(curves: dict[str, np.ndarray], reach: int) -> tuple[Figure, pd.DataFrame]:
    """Draw mean weight by offset, one line per family.

    Args:
        curves: label -> profile [2·r + 1]; labels that begin with "conv" and "attention" get the
            family's color.
        reach: largest offset drawn.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    offsets = np.arange(-reach, reach + 1)
    frame = {}
    for label, values in curves.items():
        middle = len(values) // 2
        frame[label] = values[middle - reach : middle + reach + 1]
        conv, attention = label.startswith("conv"), label.startswith("attention")
        color = CONVOLUTION if conv else ATTENTION if attention else NULL
        marker, line = "s" if conv else "o", ":" if "untrained" in label else "-"
        axis.plot(offsets, frame[label], line, color=color, marker=marker, ms=4, label=label)
    axis.axvline(0, color="#999999", lw=0.8)
    axis.set(xlabel="offset δ = key - query, in tokens", ylabel="mean weight")
    axis.legend(frameon=False)
    return figure, pd.DataFrame({"offset": offsets, **frame})


def distances(table: pd.DataFrame, null: float) -> tuple[Figure, pd.DataFrame]:
    """Draw the mean distance of every head by layer.

    Args:
        table: columns layer, head, family ("attention" or "convolution"), distance.
        null: distance of a head that takes equally from everywhere.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for family, color, marker in (("attention", ATTENTION, "o"), ("convolution", CONVOLUTION, "s")):
        part = table[table.family == family]
        axis.scatter(part.layer, part.distance, color=color, marker=marker, label=f"{family} heads")
    axis.axhline(null, color=NULL, ls="--", lw=1, label="uniform over the sentence")
    axis.set(
        xlabel="layer (1 is nearest the words)", ylabel="mean distance, in tokens", ylim=(0, None)
    )
    axis.set_xticks(sorted(table.layer.unique()))
    axis.legend(frameon=False)
    return figure, table
