"""Pictures over words: everything that is said is drawn, at its place."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from convbert import word_charts
from convbert.locality.figures import ATTENTION, CONVOLUTION

COLUMNS = ["sentence", "original", "shown", "chosen", "replaced"]


def test_judged_words_are_colored_framed_and_explained():
    rows = [
        (0, "the", "the", False, 0.0),
        (0, "cat", "tree", True, 1.0),
        (0, "sat", "sat", True, 0.5),
        (1, "end", "end", False, 0.2),
    ]
    words = pd.DataFrame(rows, columns=COLUMNS)
    figure, data = word_charts.judged_words(words)
    assert data is words
    axis, bar = figure.axes
    texts = [(text.get_text(), text.get_position()[0]) for text in axis.texts]
    assert texts == [("the", 0), ("tree", 4), ("cat", 4), ("sat", 9), ("=", 9), ("end", 0)]
    height = {text.get_text(): text.get_position()[1] for text in axis.texts}
    assert height["the"] == height["tree"] < height["cat"] < height["end"]  # downwards
    boxes = axis.patches
    assert [box.get_facecolor() for box in boxes[:2]] == [to_rgba("white"), to_rgba(CONVOLUTION)]
    frames = [box.get_edgecolor() == to_rgba(ATTENTION) for box in boxes]
    assert frames == [False, True, False, False]
    assert "probability" in bar.get_xlabel()


def test_a_long_sentence_goes_on_in_the_next_line_and_no_words_overlap():
    words = pd.DataFrame([(0, "a" * 9, "b" * 9, False, 0.1)] * 30, columns=COLUMNS)
    places, lines = word_charts._typeset(words)
    assert lines == 4 and len(set(places)) == 30
    for (left, line), (after, other) in itertools.pairwise(places):
        assert after >= left + 10 if other == line else after == word_charts._INDENT
        assert after + 9 <= word_charts._WIDTH


def test_the_fit_of_vocabularies():
    fits = pd.DataFrame({"tokens_per_word": [1.5, 3.0], "unknown": [0.0, 0.4]}, index=["a", "b"])
    figure, data = word_charts.vocabulary_fit(fits)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0, 40])
    assert [bar.get_width() for bar in right.patches] == [1.5, 3.0]
    assert "percent" in left.get_xlabel() and right.get_xlabel() == "tokens per word"
    assert data.text.tolist() == ["a", "b"]
