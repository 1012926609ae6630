"""Pictures of mixing: what is drawn is what was given, on one scale, in colors that differ."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from convbert.locality import figures


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


@pytest.fixture(autouse=True)
def no_open_figures():
    """A figure that pyplot keeps would be shown twice by a notebook, and never freed."""
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before


def check_png(figure) -> None:
    """Draw the figure for real; a layout that fails raises or warns here."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    assert file.getvalue().startswith(b"\x89PNG") and len(file.getvalue()) > 2000


# --- Matrices ---------------------------------------------------------------------------------


def test_matrices_are_drawn_on_one_scale():
    maps = {"attention": draw(4, 4) / 3, "convolution": draw(4, 4), "null": np.full((4, 4), 0.25)}
    figure, frame = figures.matrices(maps)
    *axes, bar = figure.axes
    assert len(axes) == 3
    top = max(matrix.max() for matrix in maps.values())
    for axis, (title, matrix) in zip(axes, maps.items(), strict=True):
        (image,) = axis.images
        assert axis.get_title() == title
        assert (image.get_array() == matrix).all()
        assert image.get_clim() == (0, top) and image.get_cmap().name == "cividis"
        assert "key" in axis.get_xlabel()
        part = frame[frame["map"] == title].pivot(index="query", columns="key", values="weight")
        assert (part.to_numpy() == matrix).all()
    assert "query" in axes[0].get_ylabel() and bar.get_ylabel() == "weight"
    assert list(frame.columns) == ["map", "query", "key", "weight"] and len(frame) == 48
    check_png(figure)


def test_query_is_the_row():
    """Row 0 takes from token 2; the first row is on top."""
    matrix = np.zeros((3, 3))
    matrix[0, 2] = 1
    figure, frame = figures.matrices({"one": matrix})
    row = frame[frame.weight > 0].iloc[0]
    assert (row["query"], row["key"]) == (0, 2)
    axis = figure.axes[0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_xlim()[0] < axis.get_xlim()[1]
    assert axis.images[0].origin == "upper"


def test_tokens_label_both_axes():
    tokens = ["[CLS]", "größe", "$x_1$", "[SEP]"]
    figure, _ = figures.matrices({"a": draw(4, 4), "b": draw(4, 4)}, tokens)
    for axis in figure.axes[:2]:
        assert [label.get_text() for label in axis.get_xticklabels()] == tokens
        assert axis.get_xticks().tolist() == [0, 1, 2, 3]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == tokens
    check_png(figure)


# --- Profiles ---------------------------------------------------------------------------------


def test_profiles_are_drawn_around_zero():
    curves = {
        "attention, layer 1": draw(9),
        "convolution, layer 1": draw(13),  # reaches further than what is drawn
        "uniform": np.full(9, 0.1),
    }
    figure, frame = figures.profiles(curves, 4)
    axis = figure.axes[0]
    lines = {line.get_label(): line for line in axis.lines if line.get_label() in curves}
    assert lines.keys() == curves.keys()
    for label, line in lines.items():
        middle = len(curves[label]) // 2
        expected = curves[label][middle - 4 : middle + 5]
        assert (line.get_ydata() == expected).all() and (frame[label] == expected).all()
        assert line.get_xdata().tolist() == frame["offset"].tolist() == list(range(-4, 5))
    colors = [lines[label].get_color() for label in curves]
    assert colors == [figures.ATTENTION, figures.CONVOLUTION, figures.NULL]
    markers = [lines[label].get_marker() for label in curves]
    assert markers[0] != markers[1]  # told apart without color, too
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(curves)
    assert "tokens" in axis.get_xlabel() and axis.get_ylabel() == "mean weight"
    check_png(figure)


def test_a_curve_with_a_gap_is_drawn():
    figure, frame = figures.profiles({"attention": np.array([np.nan, 0.5, 0.2])}, 1)
    assert np.isnan(frame["attention"][0])
    check_png(figure)


# --- Distances --------------------------------------------------------------------------------


def test_distances_are_drawn_by_layer_and_family():
    table = pd.DataFrame(
        {
            "layer": [1, 1, 2, 2, 4],
            "head": [0, 0, 0, 0, 1],
            "family": ["attention", "convolution", "attention", "convolution", "attention"],
            "distance": [5.0, 2.0, 4.0, 1.5, 3.0],
        }
    )
    figure, frame = figures.distances(table, null=7.5)
    assert frame.equals(table)
    axis = figure.axes[0]
    for dots, family, color in zip(
        axis.collections,
        ("attention", "convolution"),
        (figures.ATTENTION, figures.CONVOLUTION),
        strict=True,
    ):
        part = table[table.family == family]
        assert dots.get_offsets().tolist() == part[["layer", "distance"]].to_numpy().tolist()
        assert to_hex(dots.get_facecolor()[0]).upper() == color
    (null,) = axis.lines
    assert set(null.get_ydata()) == {7.5} and null.get_linestyle() == "--"
    assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > 7.5
    assert axis.get_xticks().tolist() == [1, 2, 4]
    paths = [dots.get_paths()[0].vertices.shape for dots in axis.collections]
    assert paths[0] != paths[1]  # circles and squares
    assert "tokens" in axis.get_ylabel()
    check_png(figure)


# --- Palette ----------------------------------------------------------------------------------


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, white point D65."""
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(np.clip(matrix @ rgb / matrix.sum(1), 1e-6, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# How dichromats see linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [
        [0.3673, 0.8606, -0.2280],
        [0.2801, 0.6728, 0.0471],
        [-0.0118, 0.0429, 0.9689],
    ],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("vision", VISION)
def test_families_differ_for_every_eye(vision: str):
    colors = []
    for color in (figures.ATTENTION, figures.CONVOLUTION, figures.NULL):
        rgb = np.array(to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        colors.append(lab(np.clip(np.array(VISION[vision]) @ linear, 0, 1)))
    attention, convolution, null = colors
    assert np.linalg.norm(attention - convolution) > 80  # 2.3 is just noticed
    assert min(np.linalg.norm(attention - null), np.linalg.norm(convolution - null)) > 20
