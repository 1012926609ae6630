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


@pytest.mark.parametrize("value", [2.0, 0.1, 1e-300])
@pytest.mark.parametrize("rows", [1, 2, 10])
def test_constant_regression_is_zero_with_a_warning(value, rows):
    """Also where the mean of equal numbers is not exactly that number."""
    constant, other = [value] * rows, np.linspace(0, 5, rows)
    for guess, truth in ((constant, other), (other, constant), (constant, constant)):
        with pytest.warns(UserWarning, match="constant"):
            assert glue.score("sts-b", guess, truth) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_correlations_neither_overflow_nor_depend_on_scale_and_order(scale):
    rng = np.random.default_rng(0)
    truth = np.round(rng.uniform(0, 5, 50), 1)  # rounded: some are equal
    guess = truth + rng.normal(0, 1, 50)
    expected = glue.score("sts-b", guess, truth)
    order = rng.permutation(50)
    found = glue.score("sts-b", guess[order] * scale, truth[order])
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.5 < expected["spearman"] < 1 and expected["spearman"] != expected["pearson"]
    assert glue.score("sts-b", truth, truth) == pytest.approx({"pearson": 1, "spearman": 1})
    assert glue.score("sts-b", -truth, truth) == pytest.approx({"pearson": -1, "spearman": -1})


def test_correlations_are_computed_in_float64():
    truth = np.linspace(0, 5, 1500)
    guess = (1000 + truth * 1e-3).astype("float32")
    expected = glue.score("sts-b", guess.astype("float64"), truth)
    assert glue.score("sts-b", guess, truth) == expected


@pytest.mark.parametrize(
    ("guess", "truth", "expected"),
    [
        ([0, 0], [0, 0], {"cola": 0.0, "accuracy": 1.0, "f1": 0.0}),
        ([1, 1], [1, 1], {"cola": 0.0, "accuracy": 1.0, "f1": 1.0}),
        ([1, 1], [0, 0], {"cola": 0.0, "accuracy": 0.0, "f1": 0.0}),
        ([0, 0], [1, 1], {"cola": 0.0, "accuracy": 0.0, "f1": 0.0}),
        ([1], [1], {"cola": 0.0, "accuracy": 1.0, "f1": 1.0}),
        ([0, 1], [1, 0], {"cola": -1.0, "accuracy": 0.0, "f1": 0.0}),
    ],
)
def test_one_class_only(guess, truth, expected):
    assert glue.score("cola", guess, truth)["mcc"] == expected["cola"]
    scores = glue.score("mrpc", guess, truth)
    assert scores == {name: expected[name] for name in ("accuracy", "f1")}


def test_classes_may_be_booleans_or_whole_floats():
    assert glue.score("cola", [True, False], [1.0, 0.0]) == {"mcc": 1.0}


def test_diagnostic_set_by_the_definition():
    """Multi-class form: correlation of one-hot vectors, each column centered."""
    rng = np.random.default_rng(1)
    truth, guess = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    guess[:90] = truth[:90]
    x, y = (np.eye(3)[v] - np.eye(3)[v].mean(0) for v in (guess, truth))
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert glue.score("ax", guess, truth)["mcc"] == pytest.approx(expected, abs=1e-12)
    assert glue.score("ax", np.zeros(200, int), truth)["mcc"] == 0.0


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
        ("sts-b", [1.0, float("nan")], [1.0, 2.0], "prediction 1 is not finite: nan"),
        ("sts-b", [1.0, 2.0], [float("inf"), 2.0], "label 0 is not finite: inf"),
        ("cola", [1.0, float("nan")], [1, 0], "prediction 1 is not a class from 0 to 1: nan"),
        ("mrpc", [1, 0.5], [1, 0], "prediction 1 is not a class from 0 to 1: 0.5"),
        ("rte", [1, 0], [1, -1], "label 1 is not a class from 0 to 1: -1"),
        ("mnli", [3, 0], [1, 0], "prediction 0 is not a class from 0 to 2: 3"),
        ("rte", ["entailment"], ["entailment"], "predictions must be numbers, not .*entailment"),
        ("cola", [[1, 0]], [[1, 0]], "at least one"),
    ],
)
def test_refusals(task, guess, truth, message):
    with pytest.raises(ValueError, match=message):
        glue.score(task, guess, truth)
