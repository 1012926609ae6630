"""Other people's results: complete, in the order of our metrics, and adding up to what they say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from convbert import quoted
from convbert.data.glue import TASKS


def test_rows_fit_the_tasks():
    for row in quoted.GLUE:
        assert row.source and row.on.startswith(("test", "dev"))
        for task, values in row.scores.items():
            expected = 2 if task == "mnli" else len(TASKS[task].metrics)
            assert len(values) in (expected, 1), (row.who, task)
            assert all(30 < value < 100 for value in values)


def average(row) -> float:
    """The paper's mean of eight: accuracy of mrpc and qqp, Spearman of sts-b, mnli matched."""
    scores = {task: values for task, values in row.scores.items() if task != "wnli"}
    assert len(scores) == 8
    return sum(values[-1] if task == "sts-b" else values[0] for task, values in scores.items()) / 8


def test_averages_are_those_that_were_published():
    paper, small, base, paddle = (average(row) for row in quoted.GLUE[:4])
    assert paper == pytest.approx(84.9, abs=0.051)
    assert small == pytest.approx(80.1, abs=0.051)
    assert (base, paddle) == pytest.approx((86.36, 86.15), abs=0.0051)


def test_dev_results_are_the_reference_values():
    root = os.environ.get("CONVBERT_DATA")
    if not root:
        pytest.skip("needs CONVBERT_DATA")
    content = json.loads(Path(root, "reference", "published_values.json").read_text("utf-8"))
    values, scores = content["published_dev_results_junnyu"], quoted.GLUE[-1].scores
    named = {"cola_mcc": ("cola", 0), "sst2_acc": ("sst-2", 0), "mrpc_f1": ("mrpc", 1)}
    named |= {"stsb_pearson": ("sts-b", 0), "stsb_spearman": ("sts-b", 1), "qqp_f1": ("qqp", 1)}
    named |= {"mnli_m_acc": ("mnli", 0), "qnli_acc": ("qnli", 0), "rte_acc": ("rte", 0)}
    for name, (task, place) in named.items():
        assert scores[task][place] == pytest.approx(100 * values[name], abs=0.0051), name
