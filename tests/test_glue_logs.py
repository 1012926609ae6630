"""Every step that the earlier Paddle reproduction logged, against our metrics and schedules."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from convbert.metrics import glue
from convbert.train import optim

# Rows of the dev sets: acceptable and not, in CoLA.
POSITIVE, NEGATIVE, RTE_ROWS = 721, 322, 277


def read_log(name: str) -> list[dict[str, float]]:
    data = os.environ.get("CONVBERT_DATA")
    if not data:
        pytest.skip("needs CONVBERT_DATA")
    file = Path(data, "reference", "seed_logs", f"{name}.csv")
    with open(file, encoding="utf-8", newline="") as lines:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]


@pytest.mark.parametrize(("name", "rows"), [("COLA", 21), ("RTE", 20), ("STS-B", 18)])
def test_learning_rates(name: str, rows: int):
    """The log's "step s" is printed after s updates, with the rate of the next one, to 1e-10."""
    log = read_log(name)
    assert len(log) == rows
    for row in log:
        total = int(row["total"])
        rate = 1e-4 * optim.linear_warmup(int(row["step"]), total, int(0.1 * total))
        assert rate == pytest.approx(row["lr"], abs=5.1e-11), row["step"]


@pytest.mark.parametrize(
    ("schedule", "total", "warmup", "rates"),
    [
        ("linear", 345, 34, {40: 9.80707e-5, 320: 8.0386e-6, 345: 0.0}),
        ("linear", 6315, 631, {400: 6.33914e-5, 800: 9.70267e-5}),
        ("linear", 36816, 3681, {1000: 2.71665e-5}),
        ("cosine", 9822, 982, {1220: 9.982126e-5, 5402: 5e-5, 7620: 1.454429e-5, 9822: 0.0}),
    ],
)
def test_learning_rates_of_the_other_runs(schedule, total, warmup, rates):
    """The cosine is the right one: the run of QNLI took a full wave, back to the peak."""
    assert int(0.1 * total) == warmup
    for step, rate in rates.items():
        found = 1e-4 * optim.schedule(schedule)(step, total, warmup)
        assert found == pytest.approx(rate, rel=1e-5, abs=1e-18), step


def test_logged_matthews_correlations_are_those_of_some_confusion_counts():
    """Of all 721 x 322 possible tables, the one that fits gives the logged number by our metric."""
    tp, tn = np.meshgrid(np.arange(POSITIVE + 1.0), np.arange(NEGATIVE + 1.0), indexing="ij")
    fp, fn = NEGATIVE - tn, POSITIVE - tp
    with np.errstate(invalid="ignore"):
        table = (tp * tn - fp * fn) / np.sqrt((tp + fp) * POSITIVE * NEGATIVE * (tn + fn))
    truth = np.repeat([1, 0], [POSITIVE, NEGATIVE])
    for row in read_log("COLA"):
        place = np.unravel_index(np.nanargmin(np.abs(table - row["mcc"])), table.shape)
        hits, rejected = int(tp[place]), int(tn[place])
        counts = (hits, POSITIVE - hits, NEGATIVE - rejected, rejected)
        guess = np.repeat([1, 0, 1, 0], counts)
        assert glue.score("cola", guess, truth)["mcc"] == pytest.approx(row["mcc"], abs=1e-13)


def test_logged_accuracies_are_those_of_whole_counts():
    for row in read_log("RTE"):
        right = round(row["acc"] * RTE_ROWS)
        guess = np.repeat([1, 0], [right, RTE_ROWS - right])
        found = glue.score("rte", guess, np.ones(RTE_ROWS, int))["accuracy"]
        assert found == pytest.approx(row["acc"], abs=1e-15)


def test_best_steps_of_the_logs():
    """What the recipes' evaluation intervals must be able to find again."""
    best = {
        name: max(read_log(name), key=lambda row: row[metric])
        for name, metric in (("COLA", "mcc"), ("RTE", "acc"), ("STS-B", "pearson"))
    }
    assert {name: row["step"] for name, row in best.items()} == {
        "COLA": 440,
        "RTE": 600,
        "STS-B": 600,
    }
    stsb = best["STS-B"]
    mean = (stsb["pearson"] + stsb["spearman"]) / 2
    assert stsb["pearson_and_spearman"] == pytest.approx(mean, abs=1e-15)
