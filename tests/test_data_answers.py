"""Decoding: against a plain search, on real questions, and where there is nothing to find."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert import ConvBertTokenizer
from convbert.data import squad
from convbert.data.answers import Answer, Decoder, Predictions
from convbert.data.squad import Features, Question
from convbert.metrics import squad as metrics
from convbert.tokenizer import SPECIAL_TOKENS

DATA = os.environ.get("CONVBERT_DATA")
WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(50))])
CONTEXT = "w0 w1 w2 w3 w4 w5 w6 w7"


def features(*contexts: str, **options) -> Features:
    questions = [Question(f"q{i}", "w9", context) for i, context in enumerate(contexts)]
    return Features(questions, WORDS, **options)


def logits(shape: tuple[int, int], **values: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits [B, L] of one value for all windows; 0 where nothing is said."""
    arrays = np.zeros((2, *shape), np.float32)
    for array, name in zip(arrays, ("start", "end"), strict=True):
        for position, value in values.get(name, {}).items():
            array[:, position] = value
    return arrays[0], arrays[1]


def decode(
    made: Features, start: np.ndarray, end: np.ndarray, version_2: bool = False, **options
) -> Predictions:
    decoder = Decoder(made, **options)
    decoder.add(np.arange(len(made)), start, end)
    return decoder.finish(version_2)


# --- The search -------------------------------------------------------------------------------


def plain_search(
    made: Features, start: np.ndarray, end: np.ndarray, n_best: int, longest: int
) -> dict[str, list[tuple[str, int, int, float]]]:
    """Every span of every window, sorted; what `Decoder` says, written down word by word."""
    found: dict[str, list] = {question.id: [] for question in made.questions}
    for row, number in enumerate(made.question):
        tokens, name = made.context(number), made.questions[number].id
        at = range(made.start[row], made.end[row])
        shift = made.offset[row] - made.start[row]
        owned = [t for t in at if made.owned_start[row] <= t < made.owned_end[row]]
        starts = sorted(owned, key=lambda t: (-start[row, t + shift], t))[:n_best]
        ends = sorted(at, key=lambda t: (-end[row, t + shift], t))[:n_best]
        for a in starts:
            for b in ends:
                if a <= b < a + longest:
                    score = float(start[row, a + shift]) + float(end[row, b + shift])
                    place = (int(tokens.starts[a]), int(tokens.ends[b]))
                    found[name].append((-score, row, *place))
    result = {}
    for question in made.questions:
        kept: dict[str, tuple] = {}
        for score, _, a, b in sorted(found[question.id]):
            kept.setdefault(question.context[a:b], (a, b, -score))
        result[question.id] = [(text, *rest) for text, rest in kept.items()][:n_best]
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    step=st.integers(1, 9),
    n_best=st.integers(1, 8),
    longest=st.integers(1, 6),
    max_context=st.booleans(),
)
def test_the_decoder_finds_what_a_plain_search_finds(
    seed: int, step: int, n_best: int, longest: int, max_context: bool
):
    """Few different words and logits, so that texts repeat and scores tie; batches in any order."""
    rng = np.random.default_rng(seed)
    contexts = [" ".join(f"w{i}" for i in rng.integers(0, 4, rng.integers(1, 25))) for _ in "abc"]
    made = features(*contexts, max_seq_length=12, doc_stride=step, max_context=max_context)
    start, end = rng.integers(-2, 3, (2, len(made), 14)).astype(np.float32)
    decoder = Decoder(made, n_best, longest)
    order = rng.permutation(len(made))
    for rows in np.array_split(order, 3):
        if len(rows):
            decoder.add(rows, start[rows], end[rows])
    predictions = decoder.finish(version_2=False)
    for name, expected in plain_search(made, start, end, n_best, longest).items():
        answers = predictions.nbest[name]
        if expected:
            assert [(a.text, a.start, a.end, a.score) for a in answers] == expected
            assert predictions.texts[name] == expected[0][0]
        assert sum(answer.probability for answer in answers) == pytest.approx(1)


def test_ties_prefer_the_earlier_start_and_then_the_shorter_answer():
    made = features(CONTEXT)
    answers = decode(made, *logits((1, 12)), n_best_size=4).nbest["q0"]
    assert [answer.text for answer in answers] == ["w0", "w0 w1", "w0 w1 w2", "w0 w1 w2 w3"]
    assert [answer.probability for answer in answers] == [0.25] * 4


def test_only_the_context_can_answer():
    """[CLS], question, both [SEP] and padding are tempting here."""
    tempting = {position: 50.0 for position in (0, 1, 2, 11, 12, 13)}
    made = features(CONTEXT)
    start, end = logits((1, 14), start=tempting | {5: 9.0}, end=tempting | {6: 9.0})
    predictions = decode(made, start, end)
    assert predictions.nbest["q0"][0][:3] == ("w2 w3", 6, 11)
    assert predictions.null_odds == {"q0": 100.0 - 18.0}
    assert "w2 w3" == CONTEXT[6:11]


def test_a_start_counts_in_the_window_with_most_context():
    """Windows of 5 tokens, 2 apart: token 4 has most context in the second window."""
    made = features(CONTEXT, max_seq_length=9, doc_stride=2)
    assert made.owned_start.tolist() == [0, 4, 6]
    start, end = logits((3, 9))
    start[0, 3 + 4] = end[0, 3 + 4] = 9  # "w4", by a window that does not own it
    start[1, 3 + 3] = end[1, 3 + 3] = 5  # "w5"
    assert decode(made, start, end).texts == {"q0": "w5"}
    everywhere = features(CONTEXT, max_seq_length=9, doc_stride=2, max_context=False)
    assert decode(everywhere, start, end).texts == {"q0": "w4"}


def test_the_place_is_that_in_the_raw_context():
    context = "  # w1\u200b\t\n w2\u0301  w3 "
    made = features(context)
    first = made.context(0)
    assert WORDS.convert_ids_to_tokens(first.ids) == ["[UNK]", "w1", "w2", "w3"]
    answer = decode(made, *logits((1, 8), start={4: 9.0}, end={6: 9.0})).nbest["q0"][0]
    assert answer.text == context[answer.start : answer.end] == "w1\u200b\t\n w2\u0301  w3"


# --- No answer --------------------------------------------------------------------------------


def test_null_is_the_least_of_the_windows_and_one_of_the_answers():
    made = features(CONTEXT, max_seq_length=9, doc_stride=2)
    start, end = logits((3, 9), start={0: 4.0}, end={0: 3.0})
    start[1, 0] = 1.0  # null scores 7, 4, 7
    start[1, 3 + 3], end[1, 3 + 3] = 2.0, 1.0  # "w5": 3
    predictions = decode(made, start, end, version_2=True)
    assert predictions.null_odds == {"q0": 1.0}
    assert predictions.texts == {"q0": "w5"}
    assert predictions.final(None) == predictions.final(1.0) == {"q0": "w5"}
    assert predictions.final(0.99) == {"q0": ""}
    best, second = predictions.nbest["q0"][:2]
    assert best[:3] == ("", 0, 0)
    assert best.score == 4.0
    assert second.text == "w5"
    assert best.probability / second.probability == pytest.approx(np.exp(1.0))
    assert all(answer.text for answer in decode(made, start, end).nbest["q0"])


def test_without_an_allowed_span_version_1_takes_a_token_and_version_2_none():
    """The two best starts lie behind the two best ends."""
    made = features(CONTEXT)
    start, end = logits((1, 12), start={9: 5.0, 10: 5.0, 4: 2.0}, end={3: 5.0, 4: 4.5})
    options = dict(n_best_size=2, max_answer_length=2)
    predictions = decode(made, start, end, **options)
    assert predictions.texts == {"q0": "w1"}  # 2 + 4.5 beats 0 + 5
    assert [answer.text for answer in predictions.nbest["q0"]] == ["w1"]
    predictions = decode(made, start, end, version_2=True, **options)
    assert predictions.texts == {"q0": ""}
    assert predictions.null_odds == {"q0": 0.0}
    assert predictions.nbest["q0"] == [Answer("", 0, 0, 1.0, 0.0)]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_the_token_is_the_best_of_all_windows(order: list[int]):
    """Nothing is allowed: the best start of each window lies behind its best end."""
    made = features(CONTEXT, max_seq_length=9, doc_stride=2)
    start, end = logits((3, 9), end={3: 9.0})
    start[0, 3 + 2], start[1, 3 + 3], start[2, 3 + 3] = 4.0, 6.0, 5.0
    decoder = Decoder(made, n_best_size=1)
    for row in order:
        decoder.add(np.array([row]), start[row : row + 1], end[row : row + 1])
    predictions = decoder.finish(version_2=False)
    assert [answer[:3] for answer in predictions.nbest["q0"]] == [("w0", 0, 2)]  # 0 + 9
    end[0, 3] = 0.0
    end[0, 4] = 0.5
    decoder = Decoder(made, n_best_size=1)
    for row in order:
        decoder.add(np.array([row]), start[row : row + 1], end[row : row + 1])
    assert decoder.finish(version_2=False).texts == {"q0": "w5"}  # 6 + 0


@pytest.mark.parametrize("version_2", [False, True])
def test_an_empty_context_has_the_empty_answer(version_2: bool):
    predictions = decode(features(" "), *logits((1, 4)), version_2=version_2)
    assert predictions.texts == predictions.final(0.0) == {"q0": ""}
    assert predictions.nbest["q0"] == [Answer("", 0, 0, 1.0, 0.0)]


def test_refusals():
    made = features(CONTEXT, CONTEXT)
    decoder = Decoder(made)
    start, end = logits((1, 12))
    decoder.add(np.array([0]), start, end)
    with pytest.raises(ValueError, match="no logits for 1 of 2 windows"):
        decoder.finish(False)
    padded = np.pad(start, ((0, 0), (0, 2)), constant_values=np.nan)
    decoder.add(np.array([0]), padded, padded)  # nobody reads the padding
    start[0, 5] = np.nan
    with pytest.raises(FloatingPointError, match="not a finite number"):
        decoder.add(np.array([1]), start, end)
    for options in ({"n_best_size": 0}, {"max_answer_length": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            Decoder(made, **options)


# --- The real questions -----------------------------------------------------------------------


def point_at_answers(made: Features, longest: int) -> list[squad.Span | None]:
    """Return the tokens of an annotation of each question: whole words and short, if there is."""
    spans: list[squad.Span | None] = []
    for number, question in enumerate(made.questions):
        found = [(gold, made.find(number, gold)) for gold in question.aligned]
        short = [(gold, s) for gold, s in found if s and s.last - s.first < longest]
        whole = [s for gold, s in short if made.text(number, s) == gold.text]
        spans.append(next(iter([*whole, *(s for _, s in short)]), None))
    return spans


@pytest.mark.skipif(not DATA, reason="needs CONVBERT_DATA")
@pytest.mark.parametrize(("version", "windows"), [("1.1", 10_650), ("2.0", None)])
def test_answers_of_the_dev_sets_are_recovered(version: str, windows: int | None):
    """Logits that point at the annotations, with noise elsewhere, become their texts."""
    file = Path(DATA or "", "squad", f"dev-v{version}.json")
    made = Features(squad.read(file), ConvBertTokenizer.from_pretrained("convbert-base"))
    if windows:  # counted in an earlier reproduction: length 512, step 128
        assert len(made) == windows
        assert (np.bincount(made.question) > 1).sum() == 56
    made = Features(made.questions, made.tokenizer, max_seq_length=256, doc_stride=64)
    assert len(made) > 1.1 * len(made.questions)  # some with several windows
    decoder, spans = Decoder(made), point_at_answers(made, longest=30)
    rng, seconds = np.random.default_rng(0), 0.0
    by_length = np.argsort(-made.lengths, kind="stable")
    for rows in np.array_split(by_length, len(made) // 64):
        shape = (len(rows), made.lengths[rows].max())
        start, end = rng.normal(size=(2, *shape)).astype(np.float32)
        for i, row in enumerate(rows):
            span, shift = spans[made.question[row]], made.offset[row] - made.start[row]
            if span is None:
                start[i, 0] = 30
            elif made.start[row] <= span.first and span.last < made.end[row]:
                start[i, span.first + shift] = end[i, span.last + shift] = 20
        begin = time.process_time()
        decoder.add(rows, start, end)
        seconds += time.process_time() - begin
    begin = time.process_time()
    predictions = decoder.finish(version_2=version == "2.0")
    seconds += time.process_time() - begin
    scores = metrics.score(file, predictions.final(0.0 if version == "2.0" else None))
    assert scores["exact_match" if version == "1.1" else "exact"] >= 99.8
    assert scores["f1"] >= 99.85
    print(f"v{version}: {len(made)} windows decoded in {seconds:.1f} s, {scores}")
