"""Pictures over the words of a text; as in `charts`, each returns a Figure and its data."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from convbert.locality.figures import ATTENTION, CONVOLUTION

_WIDTH = 96  # characters in a line
_INDENT = 4  # characters
_INCH = 0.083  # width of a character at font size 9, monospaced, and some air


def judged_words(words: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw sentences as the discriminator sees them, colored by its suspicion.

    A frame is around what was really replaced; below it stands what it replaces. Where the
    generator found the original again, an equals sign.

    Args:
        words: rows of `train.pretrain.judge_words`, with a column sentence (a number).

    Returns:
        The figure, and `words`.
    """
    places, lines = _typeset(words)
    figure = Figure(figsize=(_WIDTH * _INCH, 0.46 * lines + 0.8), layout="constrained")
    axis = figure.subplots()
    colors = LinearSegmentedColormap.from_list("suspicion", ["white", CONVOLUTION])
    scale = Normalize(0, max(0.5, float(words.replaced.max())))
    for row, (left, line) in zip(words.itertuples(), places, strict=True):
        wrong = row.shown != row.original
        edge = {"edgecolor": ATTENTION, "lw": 2} if wrong else {"edgecolor": "none"}
        box = (left - 0.3, line - 0.62), len(row.shown) + 0.3, 0.5
        axis.add_patch(Rectangle(*box, facecolor=colors(scale(row.replaced)), **edge))
        style: dict[str, Any] = {"family": "monospace", "va": "center", "fontsize": 9}
        axis.text(left, line - 0.38, row.shown, **style)
        if row.chosen:
            below = row.original if wrong else "="
            axis.text(left, line + 0.05, below, color=ATTENTION, **style)
    axis.set(xlim=(-1, _WIDTH), ylim=(lines - 0.7, -0.9))
    axis.axis("off")
    key = ScalarMappable(scale, colors)
    label = "probability of being replaced"
    figure.colorbar(key, ax=axis, label=label, orientation="horizontal", aspect=40, shrink=0.5)
    return figure, words


def vocabulary_fit(fits: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw how vocabularies fit texts.

    Args:
        fits: a row per pair of text and vocabulary, the columns of `data.corpus.coverage`.

    Returns:
        The figure and the table.
    """
    figure = Figure(figsize=(9, 0.4 * len(fits) + 0.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    bars = left.barh(fits.index, 100 * fits.unknown, color=CONVOLUTION)
    left.bar_label(bars, fmt="%.2g", padding=3)
    left.set(xlabel="unknown tokens (percent)", xlim=(0, 100))
    bars = right.barh(fits.index, fits.tokens_per_word, color=ATTENTION)
    right.bar_label(bars, fmt="%.2g", padding=3)
    right.set(xlabel="tokens per word", xlim=(0, 1.2 * fits.tokens_per_word.max()))
    left.invert_yaxis()
    return figure, fits.rename_axis("text").reset_index()


def _typeset(words: pd.DataFrame) -> tuple[list[tuple[int, int]], int]:
    """Return each token's first column and its line, and the number of lines."""
    places, left, line, sentence = [], 0, 0, words.sentence.iloc[0]
    for row in words.itertuples():
        width = max(len(row.shown), len(row.original) if row.chosen else 0) + 1
        if row.sentence != sentence:
            left, line, sentence = 0, line + 1, row.sentence
        elif left + width > _WIDTH:
            left, line = _INDENT, line + 1  # the same sentence goes on
        places.append((left, line))
        left += width
    return places, line + 1
