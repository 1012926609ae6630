"""What all pictures of mixing share: the colors and marks of both families, labels of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Distinct under every common color blindness; the families also differ by marker and hatch.
ATTENTION, CONVOLUTION, NULL = "#0072B2", "#D55E00", "#666666"
SEQUENTIAL = "cividis"
LOOKS = {"attention": (ATTENTION, "o"), "convolution": (CONVOLUTION, "s")}
LINES = ("-", ":", "--", "-.")
# Several models of one family, told apart by lightness, marker and line.
SHADES = {"attention": (ATTENTION, "#000000", "#56B4E9", "#999999"),
           "convolution": (CONVOLUTION, "#5A2700", "#F0A060", "#BBA08F")}  # fmt: skip
MARKERS = ("o", "^", "s", "D")


class Picture(NamedTuple):
    """A figure, the numbers it draws, and the finding in words for those who cannot see it."""

    figure: Figure
    data: pd.DataFrame
    alt: str


def label_tokens(axis: Axes, tokens: Sequence[str]) -> None:
    """Write the tokens at both axes; a `$` in a token is no formula."""
    labels = [token.replace("$", r"\$") for token in tokens]
    size = 7 if len(tokens) <= 32 else 4
    axis.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(tokens)), labels, fontsize=size)


def look(label: str, seen: dict[str, int]) -> tuple[str, str, str]:
    """Color and marker by family, line style by how often the family has come."""
    family = family_of(label)
    color, marker = LOOKS.get(family, (NULL, "^"))
    seen[family] = seen.get(family, -1) + 1
    return color, marker, LINES[seen[family] % len(LINES)]


def family_of(label: str) -> str:
    """Return the first word of a label."""
    return label.split(",")[0].split(" ")[0]


def shade(layer: int, layers: int) -> Any:
    """A shade of the sequential map for one of several layers, neither of its pale ends."""
    return colormaps[SEQUENTIAL](0.05 + 0.75 * layer / max(1, layers - 1))
