"""Pictures of mixing: what is drawn is what was given, on one scale, in colors that differ."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from convbert.config import ConvBertConfig
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


# --- F1: matrices -----------------------------------------------------------------------------


def test_matrices_are_drawn_on_one_scale():
    maps = {"attention": draw(4, 4) / 3, "convolution": draw(4, 4), "null": np.full((4, 4), 0.25)}
    figure, frame, alt = figures.matrices(maps)
    *axes, bar = figure.axes
    assert len(axes) == 3
    top = max(matrix.max() for matrix in maps.values())
    for axis, (title, matrix) in zip(axes, maps.items(), strict=True):
        (image,) = axis.images
        assert axis.get_title().startswith(f"{title}\n")
        assert (image.get_array() == matrix).all()
        assert image.get_clim() == (0, top) and image.get_cmap().name == "cividis"
        assert axis.get_xlabel() == "key position (taken from)"
        part = frame[frame["map"] == title].pivot(index="query", columns="key", values="weight")
        assert (part.to_numpy() == matrix).all()
    assert "query" in axes[0].get_ylabel() and bar.get_ylabel() == "weight"
    assert list(frame.columns) == ["map", "query", "key", "weight"] and len(frame) == 48
    assert "null, 0.62" in alt  # ten of sixteen cells within one of the diagonal
    assert axes[2].get_title() == "null\n0.62 within one token"
    check_png(figure)


def test_query_is_the_row():
    """Row 0 takes from token 2; the first row is on top."""
    matrix = np.zeros((3, 3))
    matrix[0, 2] = 1
    figure, frame, _ = figures.matrices({"one": matrix})
    row = frame[frame.weight > 0].iloc[0]
    assert (row["query"], row["key"]) == (0, 2)
    axis = figure.axes[0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_xlim()[0] < axis.get_xlim()[1]
    assert axis.images[0].origin == "upper"


def test_tokens_label_both_axes():
    tokens = ["[CLS]", "größe", "$x_1$", "[SEP]"]
    figure, _, _ = figures.matrices({"a": draw(4, 4), "b": draw(4, 4)}, tokens)
    for axis in figure.axes[:2]:
        labels = [label.get_text().replace("\\$", "$") for label in axis.get_xticklabels()]
        assert labels == tokens
        assert axis.get_xticks().tolist() == [0, 1, 2, 3]
    check_png(figure)


# --- F2: profiles -----------------------------------------------------------------------------


def test_profiles_have_their_mean_interval_and_sign():
    rng = np.random.default_rng(0)
    right = np.zeros((40, 9))
    right[:, 5] = 0.6 + 0.1 * rng.normal(size=40)  # the next token
    curves = {
        "attention, trained": right,
        "attention, untrained": np.full((40, 9), 0.1),
        "convolution, trained": right[:, ::-1],
    }
    figure, frame, alt = figures.offset_profiles(curves, null=0.1)
    axis = figure.axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    for label, profiles in curves.items():
        part = frame[frame.curve == label]
        assert part.offset.tolist() == list(range(-4, 5))
        assert np.allclose(part["mean"], profiles.mean(0))
        assert (lines[label].get_ydata() == part["mean"]).all()
    peak = frame[(frame.curve == "attention, trained") & (frame.offset == 1)].iloc[0]
    assert peak.low < 0.6 < peak.high and peak.high - peak.low < 0.15
    assert "attention, trained, 0.59" in alt and "at +1" in alt and "at -1" in alt
    assert lines["evenly over the sentence"].get_ydata()[0] == 0.1
    expected = "highest weight: attention, trained, 0.59 at +1; convolution, trained, 0.59 at -1"
    assert axis.get_title() == expected
    assert axis.get_xscale() == "symlog" and "tokens" in axis.get_xlabel()
    assert lines["attention, trained"].get_color() == figures.ATTENTION
    assert lines["convolution, trained"].get_color() == figures.CONVOLUTION
    assert lines["attention, trained"].get_marker() != lines["convolution, trained"].get_marker()
    styles = [lines[f"attention, {kind}"].get_linestyle() for kind in ("trained", "untrained")]
    assert styles[0] != styles[1]
    for band, label in zip(axis.collections, curves, strict=True):
        part, edges = frame[frame.curve == label], band.get_paths()[0].vertices
        assert set(edges[:, 1]) == {*part.low, *part.high}, label
    check_png(figure)


def test_an_offset_without_pairs_leaves_a_gap():
    profiles = np.array([[np.nan, 0.5, 0.2], [np.nan, 0.3, 0.2]])
    figure, frame, _ = figures.offset_profiles({"attention": profiles}, 0.1)
    assert np.isnan(frame["mean"][0]) and frame["mean"][1] == pytest.approx(0.4)
    check_png(figure)


# --- F3: atlas --------------------------------------------------------------------------------


def heads_table(layers: int = 3, heads: int = 2, families=("attention", "convolution")):
    rows = [
        (layer + 1, head + 1, family, 10 * layer + head + (100 if family == "attention" else 0))
        for family in families
        for layer in range(layers)
        for head in range(heads)
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "family", "value"])


def test_atlas_shows_every_head_and_names_the_extremes():
    table = heads_table()
    figure, frame, alt = figures.atlas(table, "mean distance (tokens)")
    assert frame.equals(table)
    left, right, bar = figure.axes
    for axis, family in ((left, "attention"), (right, "convolution")):
        grid = axis.images[0].get_array()
        for _, row in table[table.family == family].iterrows():
            assert grid[row.layer - 1, row["head"] - 1] == row.value
        texts = [text.get_text() for text in axis.texts]
        assert texts == [f"{value:.1f}" for value in grid.ravel()]
        assert axis.images[0].get_clim() == (0, 121) and axis.get_title() == family
    title = "mean distance (tokens)\nattention 100.0 to 121.0; convolution 0.0 to 21.0"
    assert figure.get_suptitle() == title and len(bar.get_yticks()) > 2
    assert "lowest attention head: layer 1, head 1, 100.00" in alt
    assert "highest convolution head: layer 3, head 2, 21.00" in alt
    check_png(figure)


def test_atlas_of_a_model_without_convolution():
    figure, _, alt = figures.atlas(heads_table(families=("attention",)), "entropy (nats)")
    assert len(figure.axes) == 2 and "convolution" not in alt
    check_png(figure)


def test_numbers_of_heads_have_their_places_and_intervals():
    values = np.zeros((40, 2, 3))
    values[:, 1, 2] = 5 + np.random.default_rng(0).normal(size=40)
    values[:, 0, 1] = np.nan
    table = figures.by_head(values, attention_heads=2)
    assert len(table) == 6 and list(table.family).count("convolution") == 2
    (row,) = table[table.value > 1].itertuples()
    assert (row.layer, row.head, row.family) == (2, 1, "convolution")
    assert row.low < row.value < row.high and 0.3 < row.high - row.low < 1
    (gap,) = table[table.value.isna()].itertuples()
    assert (gap.layer, gap.head, gap.family) == (1, 2, "attention")


# --- F4: depth --------------------------------------------------------------------------------


def test_depth_curves_have_their_intervals():
    table = pd.DataFrame(
        [
            (model, "attention", layer, 2.0 * layer, 2.0 * layer - 1, 2.0 * layer + 0.5)
            for model in ("with convolution", "attention only")
            for layer in (1, 2, 3)
        ],
        columns=["model", "family", "layer", "mean", "low", "high"],
    )
    figure, frame, alt = figures.depth_curves(table, "mean distance (tokens)", null=5.5)
    assert frame.equals(table)
    axis = figure.axes[0]
    assert len(axis.containers) == 2
    for container in axis.containers:
        line, _, (bars,) = container
        assert line.get_ydata().tolist() == [2, 4, 6]
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        assert ends == [[1, 2.5], [3, 4.5], [5, 6.5]]
    styles = {container[0].get_linestyle() for container in axis.containers}
    assert len(styles) == 2  # two models of one family
    assert "attention, attention only: 4.000" in alt
    assert "most with convolution, 4.000" in axis.get_title()
    places = [container[0].get_xdata()[0] for container in axis.containers]
    colors = {container[0].get_color() for container in axis.containers}
    assert 0.9 < places[0] < 1 < places[1] < 1.1 and len(colors) == 2  # side by side
    assert axis.get_xticks().tolist() == [1, 2, 3]
    check_png(figure)


# --- F5 to F7 ---------------------------------------------------------------------------------


def test_kernels_of_a_word():
    taps = {"you can go": np.eye(5)[2], "a can of": np.full(5, 0.2)}
    columns = {"layer": [1, 2], "all": [0.5, 0.1], "word": [0.1, 0.04], "swap": [0.02, 0.2]}
    variation = pd.DataFrame(columns)
    figure, frame, alt = figures.kernel_taps(taps, variation, "can", "Layer 3, head 1")
    left, right = figure.axes[:2]
    assert (left.images[0].get_array() == np.array(list(taps.values()))).all()
    assert [label.get_text() for label in left.get_xticklabels()] == ["-2", "-1", "0", "+1", "+2"]
    assert left.get_title() == "Layer 3, head 1: kernels of “can” differ by up to 0.80"
    drawn = {line.get_label()[:8]: list(line.get_ydata()) for line in right.lines}
    assert drawn == {"all kern": [0.5, 0.1], "one word": [0.1, 0.04], "one plac": [0.02, 0.2]}
    assert len({line.get_marker() for line in right.lines}) == 3
    assert "0.30 of all" in right.get_title() and right.get_yscale() == "log"
    assert [text.get_text()[:3] for text in figure.legends[0].get_texts()] == ["all", "one", "one"]
    assert frame.weight.sum() == pytest.approx(2) and len(frame) == 10
    assert "up to 0.80" in alt and "0.30" in alt
    check_png(figure)


@pytest.mark.parametrize(("name", "equal"), [("small", 279), ("medium-small", 416), ("base", 809)])
def test_cost_split_says_where_convolution_pays(name: str, equal: int):
    figure, frame, alt = figures.cost_split(ConvBertConfig.named(f"convbert-{name}"))
    assert f"equal at {equal} tokens" in alt
    assert np.allclose(frame.groupby("length").share.sum(), 1)
    wide = frame.pivot(index="length", columns="part", values="macs")
    assert ((wide.attention > wide.convolution) == (wide.index > equal)).all()
    if name == "base":
        assert "takes 1.4 percent, the convolution 9.0" in alt
        assert "n² part is 1.4 % of a layer, the convolution 9.0 %" in figure.axes[0].get_title()
    parts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert parts[1:] == ["feed-forward", "projections", "convolution", "attention"]  # as stacked
    check_png(figure)


def test_receptive_fields_mark_no_reach_beyond_the_sentence():
    figure, _, _ = figures.receptive_fields({"all heads": np.full((5, 6, 6), 1 / 6)}, reach=2)
    axis = figure.axes[0]
    marks = {abs(line.get_xdata()[0]) for line in axis.lines if len(line.get_xdata()) == 2}
    assert marks == {2, 4} and axis.get_xlim()[1] < 6


def test_receptive_fields_end_where_the_kernels_do():
    n, reach = 15, 2
    offset = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    bands = np.array([(offset <= reach * layer).astype(float) for layer in (1, 2)])
    fields = {
        "all heads": np.full((2, n, n), 1 / n),
        "attention silenced": bands / bands.sum(-1, keepdims=True),
    }
    figure, frame, alt = figures.receptive_fields(fields, reach)
    silenced = frame[frame.model == "attention silenced"]
    assert (silenced[silenced.offset.abs() > reach * silenced.layer].share == 0).all()
    assert np.allclose(frame.groupby(["model", "layer"]).share.sum(), 1)
    assert alt.endswith("attention silenced, 0.000.") and "all heads, 0.000" not in alt
    assert figure.axes[1].get_title() == "attention silenced\n0.000 from beyond the kernels' reach"
    marks = {
        abs(line.get_xdata()[0]) for line in figure.axes[0].lines if len(line.get_xdata()) == 2
    }
    assert marks == {2, 4}
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
