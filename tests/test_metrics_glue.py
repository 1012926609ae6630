"""GLUE metrics against published values and by their definitions at the edges."""

import numpy as np
import pytest

from convbert.metrics import glue


def from_table(tp, fp, fn, tn):
    """Predictions and labels with the given confusion counts."""
    cells = [(1, 1, tp), (1, 0, fp), (0, 1, fn), (0, 0, tn)]
    guess = np.concatenate([np.full(n, g) for g, _, n in cells])
    truth = np.concatenate([np.full(n, t) for _, t, n in cells])
    return guess, truth


# Confusion counts and values logged by an earlier ConvBERT reproduction (JunnYu/paddle_convbert).
@pytest.mark.parametrize(
    ("task", "table", "expected"),
    [
        ("cola", (670, 83, 51, 239), {"mcc": 0.6923818944138798}),
        ("cola", (714, 273, 7, 49), {"mcc": 0.2919790524372276}),
        ("cola", (674, 101, 47, 221), {"mcc": 0.656708330806228}),
        ("mrpc", (264, 24, 15, 105), {"accuracy": 0.9044117647058824, "f1": 0.9312169312169313}),
        (
            "qqp",
            (13523, 1857, 1362, 23688),
            {"accuracy": 0.920380905268365, "f1": 0.8936395175945813},
        ),
        ("rte", (100, 26, 20, 131), {"accuracy": 231 / 277}),
    ],
)
def test_logged_values(task, table, expected):
    scores = glue.score(task, *from_table(*table))
    assert list(scores) == list(expected)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-12)


def test_perfect_classifier_has_mcc_one():
    assert glue.score("cola", [0, 1, 1], [0, 1, 1]) == {"mcc": 1.0}


def test_constant_prediction_has_mcc_zero():
    assert glue.score("cola", [1, 1, 1], [0, 1, 1]) == {"mcc": 0.0}


def test_ties_get_average_ranks():
    scores = glue.score("sts-b", [0.1, 1, 2.4, 0.9], [0, 1, 2.9, 1])
    assert scores["spearman"] == pytest.approx(0.948683, abs=1e-6)
    assert scores["pearson"] == pytest.approx(0.998523, abs=1e-6)


def test_constant_regression_is_zero_with_a_warning():
    with pytest.warns(UserWarning, match="constant"):
        assert glue.score("sts-b", [2.0, 2.0], [0.0, 5.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_f1_without_positive_predictions_is_zero():
    assert glue.score("mrpc", [0, 0], [1, 0]) == {"accuracy": 0.5, "f1": 0.0}


def test_diagnostic_set_has_three_classes():
    assert glue.score("ax", [0, 1, 2, 2], [0, 1, 2, 2])["mcc"] == 1.0
    assert -1 < glue.score("ax", [0, 1, 2, 1], [0, 1, 2, 2])["mcc"] < 1


@pytest.mark.parametrize(
    ("task", "guess", "truth", "message"),
    [
        ("colla", [1], [1], "colla"),
        ("cola", [], [], "at least one"),
        ("cola", [1, 0], [1], "labels"),
        ("sts-b", [1.0, float("nan")], [1.0, 2.0], "prediction 1"),
    ],
)
def test_refusals(task, guess, truth, message):
    with pytest.raises(ValueError, match=message):
        glue.score(task, guess, truth)
