"""SQuAD files and windows: offsets into the raw text, labels, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convbert import ConvBertTokenizer
from convbert.data import squad
from convbert.data.squad import Annotation, Features, Question, Span
from convbert.tokenizer import SPECIAL_TOKENS

DATA = os.environ.get("CONVBERT_DATA")
WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, "##s", ".", "a", *(f"w{i}" for i in range(50))])


def text(count: int, first: int = 0) -> str:
    return " ".join(f"w{(first + i) % 50}" for i in range(count))


def write(path: Path, questions: list[dict], context: str = "one two") -> Path:
    paragraph = {"context": context, "qas": questions}
    content = {"data": [{"title": "t", "paragraphs": [paragraph]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def qa(name: str = "q", *answers: tuple[str, int], **more) -> dict:
    golds = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "who?", "answers": golds, **more}


# --- Files ------------------------------------------------------------------------------------


def test_texts_are_read_as_they_are(tmp_path: Path):
    context = "  one\u00a0two \n"
    rows = [qa("p", ("one", 2)), qa("q", is_impossible=True), {"id": "r", "question": " ? "}]
    questions = squad.read(write(tmp_path / "x.json", rows, context))
    assert questions == [
        Question("p", "who?", context, (Annotation("one", 2),)),
        Question("q", "who?", context, (), is_impossible=True),
        Question("r", " ? ", context),
    ]


def test_annotations_that_stand_elsewhere_are_counted():
    golds = (("one", 0), ("one", 1), ("two", 4), ("two", -3), ("", 99))
    question = Question("q", "?", "one two", tuple(Annotation(*gold) for gold in golds))
    assert question.aligned == [Annotation("one", 0), Annotation("two", 4)]
    assert squad.count_misaligned([question, question]) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a SQuAD file: Expecting"),
        ("[]", "the file: expected 'data' with a list"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\].paragraphs\[0\]: expected 'con"),
        ('{"data": []}', "expected questions, found none"),
        ([qa("q"), qa("q")], "two questions have the id q"),
        ([qa(3)], r"qas\[0\]: expected 'id' with a str"),
        ([qa("q"), qa("p", ("x", "0"))], r"qas\[1\].answers\[0\]: expected 'answer_start' with"),
        ([qa("q", ("x", 0), is_impossible=True)], "is_impossible, and yet it has answers"),
        ([qa("q", is_impossible="no")], "expected 'is_impossible' with a bool"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content, message: str):
    path = tmp_path / "x.json"
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        write(path, content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*{message}"):
        squad.read(path)


def test_other_content_under_an_official_name_is_noted(tmp_path: Path):
    with pytest.warns(UserWarning, match="not the official file"):
        squad.read(write(tmp_path / "dev-v1.1.json", [qa()]))


# --- Windows ----------------------------------------------------------------------------------


def max_context(count: int, windows: list[tuple[int, int]]) -> list[int]:
    """BERT's rule for the window of each token, word by word."""
    owners = []
    for token in range(count):
        scores = [
            min(token - start, end - 1 - token) + 0.01 * (end - start)
            if start <= token < end
            else float("-inf")
            for start, end in windows
        ]
        owners.append(scores.index(max(scores)))
    return owners


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 300), st.integers(1, 60), st.integers(1, 80))
@example(330, 200, 128)  # the last window is shorter by more than a hundred tokens
def test_windows_cover_the_context_and_share_it_out(count: int, room: int, step: int):
    table = squad.cut_windows(count, room, step)
    windows = [(start, end) for start, end, _, _ in table.tolist()]
    assert windows[0][0] == 0
    assert windows[-1][1] == count
    assert all(end == min(start + room, count) for start, end in windows)
    gaps = {b[0] - a[0] for a, b in itertools.pairwise(windows)}
    assert gaps <= {min(room, step)}
    assert all(end < count for _, end in windows[:-1])  # none after the one that reaches the end
    owners = max_context(count, windows)
    for number, (_, _, start, end) in enumerate(table.tolist()):
        assert [token for token in range(count) if owners[token] == number] == list(
            range(start, end)
        )


@pytest.mark.parametrize(("length", "step"), [(24, 5), (24, 100), (40, 16)])
def test_inputs_are_those_of_the_tokenizer(length: int, step: int):
    """Its `stride` is the overlap of windows, where `doc_stride` is the step between them."""
    rng = np.random.default_rng(0)
    questions = [
        Question(f"q{i}", text(int(rng.integers(0, 12)), i), text(int(rng.integers(1, 90)), 3 * i))
        for i in range(40)
    ]
    features = Features(questions, WORDS, length, step)
    row = 0
    for question in questions:
        room = length - len(WORDS.tokenize(question.text)) - 3
        windows = WORDS(
            question.text,
            question.context,
            max_length=length,
            stride=max(0, room - step),
            return_overflowing=True,
            truncation="only_second",
        )
        for window in windows:
            batch = features.batch([row])
            for name, values in batch.items():
                assert values.tolist() == [window[name]], name
            first = features.offset[row]
            tokens, count = features.context(features.question[row]), len(window["input_ids"])
            at = slice(features.start[row], features.end[row])
            offsets = zip(tokens.starts[at].tolist(), tokens.ends[at].tolist(), strict=True)
            assert window["offsets"][first : count - 1] == list(offsets)
            assert window["start"] == features.start[row]
            assert features.lengths[row] == count
            row += 1
    assert row == len(features)


def test_a_batch_is_padded_on_the_right_to_its_longest():
    questions = [Question("p", "w1", text(3)), Question("q", "w1 w2", text(9))]
    batch = Features(questions, WORDS).batch([1, 0])
    assert [array.shape for array in batch.values()] == [(2, 14)] * 3
    assert batch["attention_mask"].sum(1).tolist() == [14, 7]
    assert (batch["input_ids"][1, 7:] == WORDS.pad_token_id).all()
    assert batch["token_type_ids"][0].tolist() == [0] * 4 + [1] * 10
    assert batch["token_type_ids"][1].tolist() == [0] * 3 + [1] * 4 + [0] * 7


def test_long_questions_lose_their_end():
    questions = [Question("q", text(70), text(5))]
    assert Features(questions, WORDS).lengths.tolist() == [64 + 3 + 5]
    assert Features(questions, WORDS, max_query_length=4).lengths.tolist() == [4 + 3 + 5]


def test_an_empty_context_has_one_window():
    features = Features([Question("q", "w1", " \n")], WORDS)
    assert len(features) == 1
    assert WORDS.decode(features.batch([0])["input_ids"][0]) == "[CLS] w1 [SEP] [SEP]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seq_length": 12}, "question q leaves no room.*max_seq_length=12"),
        ({"doc_stride": 0}, "doc_stride=0: must be at least 1"),
        ({"max_query_length": -1}, "max_query_length=-1"),
    ],
)
def test_refusals(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Features([Question("q", text(9), text(5))], WORDS, **options)


# --- Labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "answer", "span"),
    [
        ("w1  w2\t\tw3", "w2", (1, 1)),  # runs of blanks
        ("# w1 #w2 w3", "w2 w3", (3, 4)),  # a literal #
        ("w1 w\u0301 w2", "w2", (2, 2)),  # a combining accent
        ("\u200bw1 \u200d w2\ufffd w3", "w3", (2, 2)),  # characters that are dropped
        ("w1s w2.", "w1", (0, 0)),
        ("w1 w2s.", "w2", (1, 1)),  # the token of the last character, not the rest of the word
        ("w1 w2 .", "w2 .", (1, 2)),
        ("  w1", "  w1", (0, 0)),
    ],
)
def test_labels_are_the_tokens_that_cover_the_answer(context: str, answer: str, span: tuple):
    question = Question("q", "w9", context, (Annotation(answer, context.index(answer)),))
    features = Features([question], WORDS)
    assert features.find(0, question.annotations[0]) == span
    rows, positions = features.training_labels()
    assert rows.tolist() == [0]
    assert positions.tolist() == [[3 + span[0], 3 + span[1]]]


def test_an_annotation_that_cuts_a_word_comes_last():
    golds = [Annotation("9", 0), Annotation("1", 1), Annotation("w1", 0)]  # elsewhere, cut, whole
    features = Features([Question("q", "w9", "w1 w9", tuple(golds))], WORDS)
    assert features.label(0) == Span(0, 0)
    golds[2] = Annotation("w9", 3)
    features = Features([Question("q", "w9", "w1 w9", tuple(golds))], WORDS)
    assert features.label(0) == Span(1, 1)
    features = Features([Question("q", "w9", "w1 w9", tuple(golds[:2]))], WORDS)
    assert features.label(0) == Span(0, 0)
    features = Features([Question("q", "w9", "w1 w9", tuple(golds[:1]))], WORDS)
    assert len(features.training_labels()[0]) == 0


def test_windows_without_the_whole_answer_point_to_cls():
    context = text(12)
    gold = Annotation("w4 w5", context.index("w4 w5"))
    impossible = Question("r", "w9", context, is_impossible=True)
    questions = [Question("q", "w9", context, (gold,)), impossible]
    features = Features(questions, WORDS, max_seq_length=9, doc_stride=2)  # 5 tokens a window
    rows, positions = features.training_labels()
    assert features.start.tolist() == [0, 2, 4, 6, 8] * 2
    assert rows.tolist() == list(range(10))
    assert positions.tolist() == [[0, 0], [5, 6], [3, 4], [0, 0], [0, 0]] + [[0, 0]] * 5
    ids = features.batch([1])["input_ids"][0]
    assert WORDS.decode(ids[5:7]) == "w4 w5"


def test_a_question_without_answer_cannot_be_trained_on():
    with pytest.raises(ValueError, match="question q has no answer to train on"):
        Features([Question("q", "w9", "w1")], WORDS).training_labels()


# --- The real files ---------------------------------------------------------------------------


@pytest.mark.skipif(not DATA, reason="needs CONVBERT_DATA")
def test_the_training_sample_is_labeled_with_its_answers():
    """Each label, read back through offsets, is the annotation or the word it cuts."""
    questions = squad.read(Path(DATA or "", "squad", "train-v1.1.sample.json"))[:4000]
    features = Features(questions, ConvBertTokenizer.from_pretrained("convbert-base"), 384)
    rows, positions = features.training_labels()
    assert squad.count_misaligned(questions) == 0
    assert len(rows) == len(features) >= 4000
    whole = 0
    for row, (start, end) in zip(rows, positions, strict=True):
        number = features.question[row]
        if start == 0:
            assert len(np.flatnonzero(features.question == number)) > 1
            continue
        shift = features.start[row] - features.offset[row]
        answer = features.text(number, Span(start + shift, end + shift))
        gold = questions[number].annotations[0].text
        assert gold.strip() in answer
        whole += answer == gold
    assert whole > 0.99 * len(questions)
