"""The official SQuAD evaluation: published numbers, edge cases, thresholds, the command."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbert import cli
from convbert.metrics import squad

DATA = os.environ.get("CONVBERT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="needs CONVBERT_DATA")


def dataset(*questions: tuple[str, list[str]], **more) -> dict:
    """SQuAD's layout of (id, annotated answers)."""
    qas = [
        {
            "id": name,
            "question": "?",
            "answers": [{"text": a, "answer_start": 0} for a in golds],
            **more,
        }
        for name, golds in questions
    ]
    return {"version": "x", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": qas}]}]}


def version_2(*questions: tuple[str, list[str]]) -> dict:
    return dataset(*questions, is_impossible=False)


# --- Published numbers ------------------------------------------------------------------------


@needs_data
def test_published_predictions_get_the_published_score(capsys: pytest.CaptureFixture):
    """Predictions of an earlier ConvBERT reproduction (JunnYu/paddle_convbert), dev v1.1."""
    data, predictions = (
        Path(DATA or "", "squad", name) for name in ("dev-v1.1.json", "seed_predictions-v1.1.json")
    )
    scores = squad.score(data, predictions)
    assert list(scores) == ["exact_match", "f1"]
    assert scores["exact_match"] == pytest.approx(84.82497634815516, abs=1e-9)
    assert scores["f1"] == pytest.approx(91.29326590096191, abs=1e-9)
    command = ["score", "squad", "--data", str(data), "--predictions", str(predictions)]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out) == scores


@needs_data
def test_an_annotation_is_right_and_silence_is_right_half_the_time():
    content = json.loads(Path(DATA or "", "squad", "dev-v2.0.json").read_text(encoding="utf-8"))
    questions = [q for a in content["data"] for p in a["paragraphs"] for q in p["qas"]]
    gold = {q["id"]: q["answers"][0]["text"] if q["answers"] else "" for q in questions}
    right = squad.score(content, gold, {name: float(not text) for name, text in gold.items()})
    totals = {"total": 11_873, "HasAns_total": 5_928, "NoAns_total": 5_945}
    percent = ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")
    best = {"best_exact": 100.0, "best_f1": 100.0, "best_exact_thresh": 0.0, "best_f1_thresh": 0.0}
    assert right == totals | dict.fromkeys(percent, 100.0) | best
    silent = squad.score(content, dict.fromkeys(gold, ""))
    assert silent["exact"] == silent["f1"] == 100 * 5_945 / 11_873
    assert (silent["HasAns_f1"], silent["NoAns_f1"]) == (0, 100)


# --- One answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat sat\ton a mat.", "cat sat on mat"),
        ("U.S.A.", "usa"),
        ("an-the-a", "anthea"),  # punctuation goes first, and leaves no gap
        ("The", ""),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation goes
        ("é\u00a0the x", "é x"),
        ("theatre atheist", "theatre atheist"),
    ],
)
def test_normalization(text: str, expected: str):
    assert squad.normalize(text) == expected


@given(st.text())
def test_normalization_ends_in_words_without_blanks_or_punctuation(text: str):
    words = squad.normalize(text).split(" ")
    assert words == [""] or not {"", "a", "an", "the"} & set(words)
    assert not set("".join(words)) & set(string.punctuation)
    assert squad.normalize(f" The {text.upper().lower()}, ") == squad.normalize(
        text.upper().lower()
    )


word = st.text("abcxyz ,.", max_size=12)


@given(word, word)
def test_f1_is_a_symmetric_overlap_and_1_for_equal_answers(a: str, b: str):
    value = squad.f1_score(a, b)
    assert value == squad.f1_score(b, a)
    assert 0 <= value <= 1
    if squad.exact_match(a, b):
        assert value == 1
    assert squad.f1_score(a, a) == 1


def test_f1_counts_each_word_as_often_as_both_have_it():
    assert squad.f1_score("x x y", "x z") == 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)
    assert squad.f1_score("x y", "y x") == 1


# --- Whole files ------------------------------------------------------------------------------


def test_the_best_annotation_counts():
    data = dataset(("q", ["alpha", "beta gamma", "beta"]))
    assert squad.score(data, {"q": "beta"}) == {"exact_match": 100.0, "f1": 100.0}
    data = dataset(("q", ["beta gamma", "delta"]))
    assert squad.score(data, {"q": "beta"}) == {"exact_match": 0.0, "f1": pytest.approx(200 / 3)}


def test_answers_without_words_differ_between_the_versions():
    """Version 1.1: equal, but no overlap. Version 2.0: equal, and overlap is complete."""
    golds = ("q", ["the"])
    assert squad.score(dataset(golds), {"q": "a"}) == {"exact_match": 100.0, "f1": 0.0}
    scores = squad.score(version_2(golds), {"q": "a"})
    assert (scores["exact"], scores["f1"], scores["HasAns_total"]) == (100.0, 100.0, 1)
    # with another annotation that has words, the empty one does not count
    scores = squad.score(version_2(("q", ["the", "x"])), {"q": ""})
    assert (scores["exact"], scores["f1"]) == (0.0, 0.0)


def test_questions_without_annotation_make_it_version_2():
    scores = squad.score(dataset(("p", ["x"]), ("q", [])), {"p": "x", "q": ""})
    assert scores == {
        "exact": 100.0, "f1": 100.0, "total": 2,
        "HasAns_exact": 100.0, "HasAns_f1": 100.0, "HasAns_total": 1,
        "NoAns_exact": 100.0, "NoAns_f1": 100.0, "NoAns_total": 1,
    }  # fmt: skip
    assert "NoAns_total" not in squad.score(version_2(("p", ["x"])), {"p": "x"})
    assert "HasAns_total" not in squad.score(version_2(("p", [])), {"p": "x"})


def test_a_missing_prediction_is_wrong_in_1_and_refused_in_2():
    golds = (("p", ["x"]), ("q", ["y"]))
    assert squad.score(dataset(*golds), {"p": "x"}) == {"exact_match": 50.0, "f1": 50.0}
    with pytest.raises(ValueError, match="no prediction for question q"):
        squad.score(version_2(*golds), {"p": "x"})
    scores = squad.score(version_2(*golds), {"p": "x"}, allow_missing=True)
    assert (scores["exact"], scores["total"], scores["HasAns_total"]) == (100.0, 1, 1)


# Three answerable questions, answered right, half right and wrong; two without an answer.
MIXED = version_2(("a", ["x"]), ("b", ["x y"]), ("c", ["x"]), ("d", []), ("e", []))
GUESSES = {"a": "x", "b": "x", "c": "z", "d": "w", "e": ""}
ODDS = {"a": -2.0, "b": 0.5, "c": 3.0, "d": 0.5, "e": 1.0}


def test_odds_above_the_threshold_mean_unanswered():
    scores = squad.score(MIXED, GUESSES, ODDS, na_prob_thresh=0.5)  # above, not at
    assert scores["exact"] == 100 * (1 + 0 + 0 + 0 + 1) / 5
    assert scores["f1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 0 + 1) / 5)
    assert squad.score(MIXED, GUESSES, ODDS, na_prob_thresh=-9)["exact"] == 100 * 2 / 5
    assert squad.score(MIXED, GUESSES, ODDS, na_prob_thresh=9)["exact"] == 100 * 2 / 5


def test_best_thresholds_step_inside_groups_of_equal_odds():
    """From 2 right (d, e): a gives 3; b, before d in the file, gives F1 2/3; d takes 1."""
    scores = squad.score(MIXED, GUESSES, ODDS)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (60.0, -2.0)
    assert scores["best_f1"] == pytest.approx(100 * (3 + 2 / 3) / 5)
    assert scores["best_f1_thresh"] == 0.5
    thresholds, values = squad.threshold_curve(MIXED, GUESSES, ODDS)
    assert thresholds.tolist() == [-3.0, -2.0, 0.5, 1.0, 3.0]
    assert values == pytest.approx(np.array([2, 3, 3 + 2 / 3 - 1, 8 / 3, 8 / 3]) * 20)
    nothing_helps = squad.score(version_2(("d", [])), {"d": "w"}, {"d": 7.0})
    assert (nothing_helps["best_f1"], nothing_helps["best_f1_thresh"]) == (100.0, 0.0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from(["exact", "f1"]))
def test_the_curve_is_the_score_at_each_threshold(seed: int, count: int, metric):
    rng = np.random.default_rng(seed)
    names = [f"q{i}" for i in range(count)]
    data = version_2(*((name, ["x y"] * int(rng.integers(2))) for name in names))
    guesses = {name: str(rng.choice(["x y", "x", "z", ""])) for name in names}
    odds = {name: float(rng.integers(-3, 4)) for name in names}
    thresholds, values = squad.threshold_curve(data, guesses, odds, metric)
    assert sorted(set(odds.values())) == thresholds[1:].tolist()
    for threshold, value in zip(thresholds, values, strict=True):
        scores = squad.score(data, guesses, odds, na_prob_thresh=threshold)
        assert value == pytest.approx(scores[metric])
    best = squad.score(data, guesses, odds)[f"best_{metric}"]
    assert best >= values.max() - 1e-9
    untied = dict(zip(names, rng.permutation(count).tolist(), strict=True))
    _, values = squad.threshold_curve(data, guesses, untied, metric)
    assert squad.score(data, guesses, untied)[f"best_{metric}"] == pytest.approx(values.max())


@pytest.mark.parametrize(
    ("data", "predictions", "na_probs", "message"),
    [
        (dataset(("q", ["x"])), {"q": "x"}, {"q": 0.0}, "version 1.1"),
        (version_2(("q", ["x"])), {"q": "x"}, {"p": 0.0}, "na_probs has no number for question q"),
        (version_2(("q", ["x"])), {"q": "x"}, {"q": float("nan")}, "question q is no number"),
        (version_2(("q", ["x"])), {"q": None}, None, "question q is no text: None"),
        (version_2(("q", ["x"])), ["x"], None, "predictions: expected an object"),
        (version_2(("q", ["x"])), {}, None, "no prediction for question q"),
        ({"data": []}, {}, None, "dataset: no questions"),
        ({"data": [{"paragraphs": [{"qas": [{"id": "q"}]}]}]}, {}, None, "layout.*answers"),
        ({"rows": 3}, {}, None, "not in SQuAD's layout"),
    ],
)
def test_refusals(data, predictions, na_probs, message):
    with pytest.raises(ValueError, match=message):
        squad.score(data, predictions, na_probs)


# --- The command ------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    code = cli.main(["score", *words])
    return (code, *capsys.readouterr())


def test_score_squad_prints_one_object(tmp_path: Path, capsys: pytest.CaptureFixture):
    files = {"data": MIXED, "predictions": GUESSES, "na_probs": ODDS}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    words = [word for name in files for word in (f"--{name}", str(tmp_path / name))]
    code, out, err = run(capsys, "squad", *words, "--na_prob_thresh", "0.5")
    assert (code, err) == (0, "")
    assert json.loads(out) == squad.score(MIXED, GUESSES, ODDS, 0.5)
    (tmp_path / "data").write_text("{", encoding="utf-8")
    code, out, err = run(capsys, "squad", *words)
    assert (code, out) == (1, "")
    assert err.startswith(f"convbert score squad: {tmp_path / 'data'}: not a JSON file")


def test_score_glue_reads_values_leaderboard_files_and_official_files(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    plain, sent, official = (tmp_path / name for name in ("plain", "sent.tsv", "dev.tsv"))
    plain.write_text("entailment\nnot_entailment\nentailment\nentailment", encoding="utf-8")
    labels = ["entailment", "not_entailment", "entailment", "not_entailment"]
    lines = [f"{i}\t{label}\n" for i, label in enumerate(labels)]
    sent.write_text("index\tprediction\n" + "".join(lines), encoding="utf-8")
    rows = [f"{i}\ta\u2028b\tc\t{label}\n" for i, label in enumerate(labels)]
    official.write_text("index\ts1\ts2\tlabel\n" + "".join(rows), encoding="utf-8")
    for file, accuracy in ((plain, 0.75), (sent, 1.0)):
        words = ("--task_name", "RTE", "--predictions", str(file), "--labels", str(official))
        code, out, err = run(capsys, "glue", *words)
        assert (code, json.loads(out), err) == (0, {"accuracy": accuracy}, "")
    plain.write_text("1.5\n", encoding="utf-8")
    code, out, err = run(capsys, "glue", *words[:3], str(plain), *words[4:])
    assert (code, out) == (1, "")
    assert "plain, line 1: expected a label of entailment, not_entailment, found '1.5'" in err
    sent.write_text("index\tprediction\n0\tentailment\textra\n", encoding="utf-8")
    code, out, err = run(capsys, "glue", *words)
    assert "sent.tsv, line 2: expected 2 columns, found 3" in err


def test_score_needs_a_second_word(capsys: pytest.CaptureFixture):
    expected = "convbert: score what? There are score squad, score glue; see "
    for words in ([], ["--data", "x"], ["glu"]):
        code, out, err = run(capsys, *words)
        assert (code, out) == (2, "")
        assert err.startswith(expected)
