"""The official SQuAD evaluation, versions 1.1 and 2.0, key for key.

Rewritten from the two official evaluation scripts (Rajpurkar et al. 2016 and 2018). Which one
applies is decided by the data: 2.0 if a question has the key `is_impossible` or no answer.
Sums run in file order, as the scripts' do.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only
Scores = dict[str, float]


def score(
    dataset_json: Any,
    predictions: Any,
    na_probs: Any = None,
    na_prob_thresh: float = 1.0,
    allow_missing: bool = False,
) -> Scores:
    """Score predicted answers.

    Args:
        dataset_json: what a SQuAD file holds, or its path.
        predictions: question's id -> answer, or the path of such a file; "" means unanswerable.
        na_probs: version 2.0 only: id -> how likely the question has no answer, on any scale, or a
            path. Gives the best thresholds, and then `predictions` must be the best answers to all
            questions, not yet replaced by "" where a threshold decided so: of an answer that is
            gone, the search cannot tell whether it was right.
        na_prob_thresh: a question counts as unanswered if its `na_probs` is above this. The
            script's default is for probabilities; differences of logits want another, such as 0.
        allow_missing: of version 2.0, leave questions without a prediction out of the totals. (In
            version 1.1 they count as wrong, always.)

    Returns:
        Version 1.1: `exact_match`, `f1`. Version 2.0: `exact`, `f1`, `total`, the same for
        questions with (`HasAns_`) and without (`NoAns_`) an answer where there are any; with
        `na_probs` also `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`.
        In percent, except totals and thresholds.

    Raises:
        ValueError: no questions, or a file of another kind, a prediction or probability is missing
            or no text or number.
    """
    questions, answers = _questions(dataset_json), _as_dict(predictions, "predictions")
    for name, answer in answers.items():
        if not isinstance(answer, str):
            raise ValueError(f"prediction for question {name} is no text: {answer!r}")
    if is_version_1(questions):
        if na_probs is not None:
            raise ValueError("na_probs: in this data set (version 1.1) all questions have answers")
        return _score_version_1(questions, answers)
    exact, f1 = raw_scores(questions, answers, allow_missing)
    odds = {name: 0.0 for name in exact} if na_probs is None else _as_odds(na_probs, exact)
    has_answer = {question["id"]: bool(question["answers"]) for question in questions}
    result: Scores = {}
    for prefix, wanted in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
        names = [name for name in exact if has_answer[name] in wanted]
        if names:
            for key, scores in (("exact", exact), ("f1", f1)):
                cut = [
                    scores[name] if odds[name] <= na_prob_thresh else float(not has_answer[name])
                    for name in names
                ]
                result[prefix + key] = 100.0 * _sum(cut) / len(names)
            result[prefix + "total"] = len(names)
    if na_probs is not None:
        for key, scores in (("exact", exact), ("f1", f1)):
            best, threshold = _best_threshold(scores, answers, odds, has_answer)
            result |= {f"best_{key}": best, f"best_{key}_thresh": threshold}
    return result


def threshold_curve(
    dataset_json: Any, predictions: Any, na_probs: Any, metric: Literal["exact", "f1"] = "f1"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the score at every threshold that makes a difference.

    Questions with equal odds fall on the same side of any threshold. The official search steps
    through them one by one, so its `best_exact` may be a little higher than any real threshold's.

    Args:
        dataset_json, predictions, na_probs: as in `score`, version 2.0, none missing.
        metric: exact or f1.

    Returns:
        Thresholds, increasing, and scores in percent, [G + 1] each for G different odds. At the
        first threshold, 1 below the lowest odds, no question is answered; a question is answered
        at every threshold that is not below its odds.
    """
    questions, answers = _questions(dataset_json), _as_dict(predictions, "predictions")
    exact, f1 = raw_scores(questions, answers)
    scores, odds = {"exact": exact, "f1": f1}[metric], _as_odds(na_probs, exact)
    has_answer = {question["id"]: bool(question["answers"]) for question in questions}
    order = sorted(scores, key=odds.__getitem__)
    gains = [_gain(name, scores, answers, has_answer) for name in order]
    totals = np.cumsum([sum(not has for has in has_answer.values()), *gains])
    values = np.array([odds[name] for name in order])
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # the last of equal odds
    thresholds = np.concatenate([values[:1] - 1, values[last]])
    return thresholds, 100.0 * totals[np.concatenate([[0], last + 1])] / len(order)


def normalize(text: str) -> str:
    """Lower-case, drop ASCII punctuation, the words a, an, the, and superfluous blanks."""
    text = text.lower().translate(WITHOUT_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", text).split())


def exact_match(answer: str, gold: str) -> int:
    """Return 1 if two answers are equal after normalization, else 0."""
    return int(normalize(answer) == normalize(gold))


def f1_score(answer: str, gold: str, both_empty: float = 1.0) -> float:
    """Return the harmonic mean of precision and recall of an answer's normalized words.

    Args:
        answer: the prediction.
        gold: the annotation.
        both_empty: the value if neither has a word: 1 in version 2.0, 0 in version 1.1.
    """
    words, gold_words = normalize(answer).split(), normalize(gold).split()
    if not words and not gold_words:
        return both_empty
    common = sum((Counter(words) & Counter(gold_words)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(words), common / len(gold_words)
    return (2 * precision * recall) / (precision + recall)


def is_version_1(questions: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every question has an answer and none says whether it is impossible."""
    return all(question["answers"] and "is_impossible" not in question for question in questions)


def raw_scores(
    questions: Sequence[Mapping[str, Any]], answers: Mapping[str, str], allow_missing: bool = False
) -> tuple[Scores, Scores]:
    """Return exact match and F1 of each question by version 2.0, whatever the odds.

    Annotations that normalization leaves empty do not count; if there is no other, "" is right.

    Raises:
        ValueError: a prediction is missing and `allow_missing` is false, or all are missing.
    """
    exact: Scores = {}
    f1: Scores = {}
    for question in questions:
        name = question["id"]
        if name in answers:
            golds = [gold["text"] for gold in question["answers"] if normalize(gold["text"])]
            exact[name] = max(exact_match(answers[name], gold) for gold in golds or [""])
            f1[name] = max(f1_score(answers[name], gold) for gold in golds or [""])
        elif not allow_missing:
            raise ValueError(f"no prediction for question {name}: add it, or allow missing ones")
    if not exact:
        raise ValueError("no prediction for any question: are these predictions for other data?")
    return exact, f1


def _score_version_1(questions: Sequence[Mapping], answers: Mapping[str, str]) -> Scores:
    exact = f1 = 0.0
    for question in questions:
        if question["id"] in answers:
            answer = answers[question["id"]]
            golds = [gold["text"] for gold in question["answers"]]
            exact += max(exact_match(answer, gold) for gold in golds)
            f1 += max(f1_score(answer, gold, both_empty=0.0) for gold in golds)
    return {"exact_match": 100.0 * exact / len(questions), "f1": 100.0 * f1 / len(questions)}


def _best_threshold(
    scores: Scores, answers: Mapping[str, str], odds: Scores, has_answer: Mapping[str, bool]
) -> tuple[float, float]:
    """Walk through the questions by increasing odds, as the official script does."""
    current = best = float(sum(not has for has in has_answer.values()))  # nothing is answered
    threshold = 0.0
    for name in sorted(odds, key=odds.__getitem__):
        if name in scores:
            current += _gain(name, scores, answers, has_answer)
            if current > best:
                best, threshold = current, odds[name]
    return 100.0 * best / len(scores), threshold


def _gain(
    name: str, scores: Scores, answers: Mapping[str, str], has_answer: Mapping[str, bool]
) -> float:
    """Return what is gained when a question is answered instead of being called unanswerable."""
    return scores[name] if has_answer[name] else -float(bool(answers[name]))


def _sum(values: Iterable[float]) -> float:
    """Add in order; Python's `sum` rounds differently from version 3.12 on."""
    return float(reduce(operator.add, values, 0.0))


def _questions(dataset: Any) -> list[dict[str, Any]]:
    """Return all questions of a SQuAD file's content, in order."""
    content, where = _load(dataset, "dataset")
    articles: Any = content.get("data") if isinstance(content, Mapping) else content
    try:
        questions = [
            question
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        for question in questions:
            _ = question["id"], [gold["text"] for gold in question["answers"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: not in SQuAD's layout (data, paragraphs, qas, id, answers): {error}"
        ) from error
    if not questions:
        raise ValueError(f"{where}: no questions")
    return questions


def _as_dict(value: Any, what: str) -> dict[str, Any]:
    content, where = _load(value, what)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{where}: expected an object of question ids, not a {type(content).__name__}"
        )
    return dict(content)


def _as_odds(value: Any, wanted: Iterable[str]) -> Scores:
    odds = _as_dict(value, "na_probs")
    for name, number in odds.items():
        if not isinstance(number, Real) or isinstance(number, bool) or math.isnan(number):
            raise ValueError(f"na_probs of question {name} is no number: {number!r}")
    missing = [name for name in wanted if name not in odds]
    if missing:
        raise ValueError(f"na_probs has no number for question {missing[0]}")
    return odds


def _load(value: Any, what: str) -> tuple[Any, str]:
    """Return the content of a JSON file, or what was given instead of a path; and a name for it."""
    if not isinstance(value, (str, os.PathLike)):
        return value, what
    try:
        return json.loads(Path(value).read_text(encoding="utf-8")), str(value)
    except ValueError as error:
        raise ValueError(f"{value}: not a JSON file ({error})") from error
