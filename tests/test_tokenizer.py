"""The tokenizer against worked examples, properties of offsets, and every refusal."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import unicodedata
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convbert.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer

DATA = os.environ.get("CONVBERT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="needs CONVBERT_DATA")
CLEAN = Path(DATA or "", "vocab", "bert-base-uncased-vocab.txt")
MISREAD = Path(DATA or "", "vocab", "convbert-official-vocab.mojibake.txt")

# text, tokens, ids in BERT's uncased vocabulary, offsets
CASES = {
    "plain": (
        "The leader was John Smith (1895-1943).",
        "the leader was john smith ( 1895 - 1943 ) .",
        "1996 3003 2001 2198 3044 1006 6301 1011 3826 1007 1012",
        "0,3 4,10 11,14 15,19 20,25 26,27 27,31 31,32 32,36 36,37 37,38",
    ),
    "hash signs": (
        "He was the #1 pick in C# class, then Newton won.",
        "he was the # 1 pick in c # class , then newton won .",
        "2002 2001 1996 1001 1015 4060 1999 1039 1001 2465 1010 2059 8446 2180 1012",
        "0,2 3,6 7,10 11,12 12,13 14,18 19,21 22,23 23,24 25,30 30,31 32,36 37,43 44,47 47,48",
    ),
    "two spaces": (
        "where  is the mass of the object",
        "where is the mass of the object",
        "2073 2003 1996 3742 1997 1996 4874",
        "0,5 7,9 10,13 14,18 19,21 22,25 26,32",
    ),
    "two newlines": (
        "First para.\n\nSecond para here",
        "first para . second para here",
        "2034 11498 1012 2117 11498 2182",
        "0,5 6,10 10,11 13,19 20,24 25,29",
    ),
    "two tabs": ("a\t\tb c", "a b c", "1037 1038 1039", "0,1 3,4 5,6"),
    "precomposed accent": (
        "Beyonc\u00e9 and Bruno",
        "beyonce and bruno",
        "20773 1998 10391",
        "0,7 8,11 12,17",
    ),
    "combining accent": (  # the span leaves out a mark at the end of the word
        "Beyonce\u0301 and Bruno",
        "beyonce and bruno",
        "20773 1998 10391",
        "0,7 9,12 13,18",
    ),
    "dashes": (
        "13\u20137 score \u2014 yes",
        "13 \u2013 7 score \u2014 yes",
        "2410 1516 1021 3556 1517 2748",
        "0,2 2,3 3,4 5,10 11,12 13,16",
    ),
}
SENTENCES = {
    "it is a nice day today!": "101 2009 2003 1037 3835 2154 2651 999 102",
    "the problem , it is with most of these things , is the script .": (
        "101 1996 3291 1010 2009 2003 2007 2087 1997 2122 2477 1010 2003 1996 5896 1012 102"
    ),
}
WORDS = sorted({word for _, words, _, _ in CASES.values() for word in words.split()})
TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog; the dog does not jump over the fox.",
    "A tokenizer maps texts to tokens: longest match first, piece by piece, from left to right.",
    "Offsets index the caller's string. Windows overlap by a stride, and padding adds nothing.",
    "In 1895 and 1943, 20 or 67 boxers visited Zürich, Québec and 東京 (Tokyo) — twice!",
    "한국어 слова ελληνικά #hash [mask] naïve café coöperate",
] * 3


def ints(text: str) -> list[int]:
    return [int(number) for number in text.split()]


def spans(text: str) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in (pair.split(",") for pair in text.split())]


def vocabulary(*entries: str) -> list[str]:
    return [*SPECIAL_TOKENS, *entries]


def write_vocabulary(path: Path, entries: list[str], end: str = "\n") -> Path:
    path.write_bytes("".join(entry + end for entry in entries).encode())
    return path


@pytest.fixture(scope="module")
def tok() -> ConvBertTokenizer:
    """Digits and words "a" to "z", each one token, so that lengths are easy to count."""
    return ConvBertTokenizer(vocabulary(*"abcdefghijklmnopqrstuvwxyz0123456789", "##a", "[", "]"))


@pytest.fixture(scope="module")
def bert() -> ConvBertTokenizer:
    return ConvBertTokenizer(CLEAN)


TRAINED = ConvBertTokenizer.train(TRAINING_TEXT, vocab_size=260)


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_example_with_a_vocabulary_of_its_words(name):
    text, tokens, _, offsets = CASES[name]
    tokenizer = ConvBertTokenizer(vocabulary(*WORDS))
    encoded = tokenizer(text, add_special_tokens=False)
    assert tokenizer.tokenize(text) == tokens.split()
    assert encoded["offsets"] == spans(offsets)
    assert encoded["input_ids"] == [5 + WORDS.index(word) for word in tokens.split()]


@needs_data
@pytest.mark.parametrize("name", CASES)
def test_example_with_the_vocabulary_of_bert(name, bert):
    text, tokens, ids, offsets = CASES[name]
    encoded = bert(text, add_special_tokens=False)
    assert bert.tokenize(text) == tokens.split()
    assert encoded["input_ids"] == ints(ids)
    assert encoded["offsets"] == spans(offsets)


@needs_data
@pytest.mark.parametrize("text", SENTENCES)
def test_reference_sentence(text, bert):
    assert bert(text)["input_ids"] == ints(SENTENCES[text])


@needs_data
def test_special_ids_and_size_of_the_vocabulary_of_bert(bert):
    ids = [bert.pad_token_id, bert.unk_token_id, bert.cls_token_id]
    assert [*ids, bert.sep_token_id, bert.mask_token_id] == [0, 100, 101, 102, 103]
    assert len(bert) == bert.vocab_size == 30522
    assert bert.fingerprint == FINGERPRINT_OF_BERT


FINGERPRINT_OF_BERT = "31d196cd6bab2fed9872029fe1c2d039c0e59e02393acaa5cc5c58daa82d28bd"


@pytest.mark.parametrize(
    ("text", "tokens", "offsets"),
    [
        ("\x00a\ufffdb\u200d c\x07", "ab c", "1,4 6,7"),  # dropped characters, inside and outside
        ("\u3000a\u00a0b\u2003\r\nc", "a b c", "1,2 3,4 7,8"),  # blanks of all kinds
        ("a\u6771b\u4eac", "a \u6771 b [UNK]", "0,1 1,2 2,3 3,4"),  # ideographs are words
        ("\ud55c a", "\u1112 ##\u1161 ##\u11ab a", "0,1 0,1 0,1 2,3"),  # NFD makes three of one
        ("\U0001f44d\U0001f3fd a", "[UNK] a", "0,2 3,4"),
        ("\u0301a \u0301 b", "a b", "1,2 5,6"),  # marks without a letter
        ("##ab ####", "# # ab # # # #", "0,1 1,2 2,4 5,6 6,7 7,8 8,9"),
        ("\ud800a\udfff b\ud83d", "a b", "1,2 4,5"),  # lone surrogates
        ("\u0130\u039f\u03a3", "i ##\u03bf ##\u03c3", "0,1 1,2 2,3"),  # İΟΣ, sigma as in the engine
    ],
)
def test_hard_text(text, tokens, offsets):
    entries = "a b c i ab # \u6771 \u1112 ##\u1161 ##\u11ab ##\u03bf ##\u03c3".split()
    tokenizer = ConvBertTokenizer(vocabulary(*entries))
    assert tokenizer.tokenize(text) == tokens.split()
    assert tokenizer(text, add_special_tokens=False)["offsets"] == spans(offsets)


def test_words_of_more_than_200_characters_are_unknown(tok):
    assert tok.tokenize("a" * 200) == ["a"] + ["##a"] * 199
    assert tok.tokenize("a" * 201) == ["[UNK]"]
    assert tok("b " + "a" * 201)["offsets"] == [(0, 0), (0, 1), (2, 203), (0, 0)]


def test_lower_case_and_accents_are_independent():
    entries = vocabulary("e", "E", "\u00e9", "\u00c9")
    for lower, strip, token in (
        (True, None, "e"),
        (True, True, "e"),
        (True, False, "\u00e9"),
        (False, None, "\u00c9"),
        (False, False, "\u00c9"),
        (False, True, "E"),
    ):
        assert ConvBertTokenizer(entries, lower, strip).tokenize("\u00c9") == [token]


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_special_strings_in_a_text_are_text_unless_allowed(special):
    word = special.strip("[]").lower()
    tokenizer = ConvBertTokenizer(vocabulary("a", "[", "]", word))
    text = f"a {special}a"
    assert tokenizer.tokenize(text) == ["a", "[", word, "]", "a"]
    assert not set(tokenizer(text)["input_ids"][1:-1]) & {0, 1, 2, 3, 4}
    allowed = tokenizer(text, add_special_tokens=False, allow_special_tokens=True)
    assert tokenizer.convert_ids_to_tokens(allowed["input_ids"]) == ["a", special, "a"]
    assert allowed["offsets"] == [(0, 1), (2, 2 + len(special)), (2 + len(special), len(text))]
    assert tokenizer.tokenize(text) == ["a", "[", word, "]", "a"]  # allowed for one call only


# --- properties of offsets -----------------------------------------------------------------------

CHARACTERS = st.sampled_from(
    [
        *"abzABZ019 ##.,'-()[]",
        *"\u00e9\u00c5\u00df\ufb01\u0130\u00f1",
        *"\u0301\u0327\u0345\u20dd\u0e31\u093c",  # combining marks
        *"\u6771\u4eac\u3400\U00020000\uf900",  # ideographs
        *"\ud55c\uae00\u1112\u1161\u0958\u09cb",  # NFD makes several of some
        *"\u03a3\u03c2\u0416\u05d0\u0627",
        *"\U0001f44d\U0001f3fd\u2764\ufe0f\u200d\U0001d518",  # emoji
        *"\x00\x07\x1c\x85\u200b\u2060\ufeff\ufffd\u00ad",  # dropped
        *"\t\n\r\u00a0\u2003\u3000\u2028\u2029",  # blanks
        *"\ud800\udbff\udc00\udfff",  # lone surrogates
        *"\u2013\u2014\u2019\u00b0",
        *["  ", "[MASK]", "##a"],
    ]
)
TEXTS = st.lists(CHARACTERS, max_size=40).map("".join)


def normalized(text: str) -> str:
    """BERT's cleaning, lower-casing and accent stripping, written from its description."""
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category in ("Zs", "Zl", "Zp"):
            kept.append(" ")
        elif character not in "\x00\ufffd" and category[0] != "C":
            decomposed = unicodedata.normalize("NFD", character)
            kept += [c.lower() for c in decomposed if unicodedata.category(c) != "Mn"]
    return "".join(kept)


def check_offsets(tokenizer: ConvBertTokenizer, text: str) -> None:
    encoded = tokenizer(text, add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    offsets = encoded["offsets"]
    assert len(tokens) == len(offsets) == len(encoded["token_type_ids"])
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    for (start, end), (next_start, next_end) in pairwise(offsets):
        assert start <= next_start and end <= next_end
        # Neighbors share characters only where one of them was decomposed into several.
        assert end <= next_start or len(normalized(text[next_start:end])) > 1
    for token, (start, end) in zip(tokens, offsets, strict=True):
        piece, selected = token.removeprefix("##"), normalized(text[start:end])
        if token == "[UNK]":
            assert selected and " " not in selected
        elif all(len(normalized(character)) < 2 for character in text[start:end]):
            assert piece == selected
        else:
            assert piece in selected
    left = "".join(text[i] for i in range(len(text)) if not any(a <= i < b for a, b in offsets))
    assert not normalized(left).strip()  # only blanks and dropped characters lie outside


@given(TEXTS)
@example("a\u0301\u0301b")
@example("#\x1c#")
@example(" \u200b  \ud55c\u0301\ud800x")
@settings(max_examples=400, deadline=None)
def test_offsets_select_what_the_token_came_from(text):
    check_offsets(TRAINED, text)


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_text_is_encoded(text):
    encoded = TRAINED(text, add_special_tokens=False)
    assert all(0 <= start < end <= len(text) for start, end in encoded["offsets"])
    assert encoded["offsets"] == sorted(encoded["offsets"])
    assert TRAINED.encode_ids([text, "", text]) == [encoded["input_ids"], [], encoded["input_ids"]]


@needs_data
@given(text=TEXTS)
@settings(max_examples=400, deadline=None)
def test_offsets_with_the_vocabulary_of_bert(bert, text):
    check_offsets(bert, text)


@given(TEXTS, TEXTS)
@settings(max_examples=100, deadline=None)
def test_offsets_of_a_pair_index_each_string(first, second):
    encoded = TRAINED(first, second)
    parts = [TRAINED(text, add_special_tokens=False) for text in (first, second)]
    assert encoded["input_ids"] == (
        [2] + parts[0]["input_ids"] + [3] + parts[1]["input_ids"] + [3]  # [CLS] A [SEP] B [SEP]
    )
    expected = [(0, 0), *parts[0]["offsets"], (0, 0), *parts[1]["offsets"], (0, 0)]
    assert encoded["offsets"] == expected
    n_first = len(parts[0]["input_ids"]) + 2
    n_second = len(encoded["input_ids"]) - n_first
    assert encoded["token_type_ids"] == [0] * n_first + [1] * n_second
    assert encoded["attention_mask"] == [1] * (n_first + n_second)


# --- layout, batches, padding --------------------------------------------------------------------


def test_empty_text(tok):
    cls_sep = [tok.cls_token_id, tok.sep_token_id]
    assert tok("")["input_ids"] == cls_sep
    assert tok("", "")["input_ids"] == [*cls_sep, tok.sep_token_id]
    assert tok("", "")["token_type_ids"] == [0, 0, 1]
    assert tok(" \n\u200b")["input_ids"] == cls_sep
    assert tok("", add_special_tokens=False)["input_ids"] == []
    assert tok("", max_length=2)["input_ids"] == cls_sep


def test_a_batch_is_its_texts(tok):
    texts, pairs = ["a b", "", "c d e"], ["f", "g h", ""]
    for arguments in ((texts,), (texts, pairs), (tuple(texts), tuple(pairs))):
        batch = tok(*arguments)
        singles = [tok(*one) for one in zip(*arguments, strict=True)]
        assert batch == {name: [single[name] for single in singles] for name in singles[0]}
    assert list(batch) == ["input_ids", "token_type_ids", "attention_mask", "offsets"]
    assert tok([]) == {name: [] for name in batch}
    assert tok([], padding=True, max_length=3) == {name: [] for name in batch}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("padding", "length"), [(True, 5), ("longest", 5), ("max_length", 7), (False, None)]
)
def test_padding(tok, padding, length, side):
    texts = ["d", "a b c", ""]
    plain = tok(texts, max_length=7)
    padded = tok(texts, max_length=7, padding=padding, padding_side=side)
    fills = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 0, "offsets": (0, 0)}
    for name, fill in fills.items():
        for row, expected in zip(padded[name], plain[name], strict=True):
            fills_needed = [fill] * ((length or 0) - len(expected))
            assert row == (expected + fills_needed if side == "right" else fills_needed + expected)


def test_padding_of_a_pair_has_type_0(tok):
    encoded = tok("a", "b", max_length=7, padding="max_length")
    assert encoded["token_type_ids"] == [0, 0, 0, 1, 1, 0, 0]
    assert encoded["input_ids"][-2:] == [tok.pad_token_id] * 2


def test_padding_never_shortens(tok):
    encoded = tok("a b c d", max_length=3, truncation="do_not_truncate", padding="max_length")
    assert len(encoded["input_ids"]) == 6


# --- truncation and windows ----------------------------------------------------------------------


def text_of(count: int, letters: str = "abcdefghij") -> str:
    return " ".join(letters[i % 10] for i in range(count))


def pop_from_the_longer(first: list, second: list, room: int) -> None:
    while len(first) + len(second) > room:
        first.pop() if len(first) > len(second) else second.pop()


@pytest.mark.parametrize("room", range(1, 16))
@pytest.mark.parametrize(("n_first", "n_second"), [(7, 7), (2, 9), (9, 2), (8, 7), (0, 9), (9, 0)])
def test_longest_first(tok, n_first, n_second, room):
    texts = text_of(n_first), text_of(n_second, "klmnopqrst")
    first, second = (tok(text, add_special_tokens=False)["input_ids"] for text in texts)
    pop_from_the_longer(first, second, room)
    sep = [tok.sep_token_id]
    encoded = tok(*texts, max_length=room + 3)
    assert encoded["input_ids"] == [tok.cls_token_id, *first, *sep, *second, *sep]
    assert encoded["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_each_strategy_is_obeyed(tok):
    def kept(truncation):
        encoded = tok("a b c d", "k l m n o", max_length=9, truncation=truncation)
        return tok.decode(encoded["input_ids"], skip_special_tokens=True)

    assert kept("longest_first") == "a b c k l m"
    assert kept("only_first") == "a k l m n o"
    assert kept("only_second") == "a b c d k l"
    assert kept("do_not_truncate") == "a b c d k l m n o"
    for truncation in ("longest_first", "only_first"):
        assert (
            tok("a b c", max_length=4, truncation=truncation)["input_ids"]
            == tok("a b")["input_ids"]
        )
    encoded = tok("a b c", max_length=2, add_special_tokens=False)
    assert encoded["offsets"] == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("a",), dict(max_length=2)),
        (("a",), dict(max_length=1)),
        (("",), dict(max_length=1)),
        (("a b", "c"), dict(max_length=3)),
        (("a b", "c d"), dict(max_length=5, truncation="only_second")),
        (("a b", "c d"), dict(max_length=5, truncation="only_first")),
        (("a b c", ""), dict(max_length=5, truncation="only_second")),
        (("a b", "c d"), dict(max_length=5, truncation="only_second", return_overflowing=True)),
    ],
)
def test_truncation_that_leaves_nothing_is_refused(tok, arguments, options):
    with pytest.raises(ValueError, match=r"max_length leaves no token of text.*raise it by"):
        tok(*arguments, **options)


@pytest.mark.parametrize("stride", [0, 1, 3, 6])
@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 13, 14, 29])
def test_windows(tok, length, stride):
    question, context = "x y", text_of(length)
    windows = tok(
        question,
        context,
        max_length=12,  # leaves 7 for the context
        stride=stride,
        return_overflowing=True,
        truncation="only_second",
    )
    whole = tok(context, add_special_tokens=False)
    starts = [window["start"] for window in windows]
    assert starts == [i * (7 - stride) for i in range(len(windows))]
    for window in windows:
        part = slice(window["start"], window["start"] + 7)
        assert window["input_ids"][:4] == tok(question)["input_ids"]
        assert window["input_ids"][4:] == whole["input_ids"][part] + [tok.sep_token_id]
        assert window["offsets"][4:-1] == whole["offsets"][part]
        assert window["token_type_ids"] == [0] * 4 + [1] * (len(window["input_ids"]) - 4)
        assert window["sample"] == 0
    assert starts[-1] + 7 >= length  # the end is reached, and by the last window only
    assert all(start + 7 < length for start in starts[:-1])


@pytest.mark.parametrize("doc_stride", [1, 4, 7, 50])
def test_stride_from_the_doc_stride_of_bert(tok, doc_stride):
    # BERT's loop: advance by min(window, doc_stride) until a window reaches the end.
    expected, start, window, length = [], 0, 7, 30
    while True:
        expected.append(start)
        if start + window >= length:
            break
        start += min(window, doc_stride)
    windows = tok(
        "x y",
        text_of(length),
        max_length=12,
        stride=max(0, window - doc_stride),
        return_overflowing=True,
        truncation="only_second",
    )
    assert [window["start"] for window in windows] == expected


def test_windows_of_batches_and_other_parts(tok):
    options = dict(max_length=6, return_overflowing=True)
    windows = tok(["a b c d e", "", "f"], padding=True, stride=1, **options)
    assert [window["sample"] for window in windows] == [0, 0, 1, 2]
    assert [window["start"] for window in windows] == [0, 3, 0, 0]
    assert {len(window["input_ids"]) for window in windows} == {6}
    windows = tok("a b c", "k", truncation="only_first", **options)
    texts = [tok.decode(w["input_ids"], skip_special_tokens=True) for w in windows]
    assert texts == ["a b k", "c k"]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "text must be a string or a list of strings, not int"),
        ((None,), "text must be .* not NoneType"),
        ((b"a",), "text must be .* not bytes"),
        ((["a", float("nan")],), "text must be .* not float"),
        (("a", 3), "text_pair must be .* not int"),
        ((["a"], [None]), "text_pair must be .* not NoneType"),
        (([["a"]],), "text must be .* not list"),
    ],
)
def test_wrong_types_are_named(tok, arguments, message):
    with pytest.raises(TypeError, match=message):
        tok(*arguments)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("a", ["b"]), {}, "two strings or two lists"),
        ((["a"], "b"), {}, "two strings or two lists"),
        ((["a"], ""), {}, "two strings or two lists"),
        ((["a"], ["b", "c"]), {}, "equal length"),
        (("a",), dict(max_length=0), "max_length=0: must be a whole number, at least 1"),
        (("a",), dict(max_length=True), "max_length=True"),
        (("a",), dict(max_length=8.0), "max_length=8.0"),
        (("a",), dict(stride=-1), "stride=-1: must be a whole number, at least 0"),
        (("a",), dict(stride=2, max_length=9), "stride=2: only windows overlap"),
        (("a",), dict(truncation=True), "truncation=True: choose one of .*only_first"),
        (("a",), dict(truncation="longest"), "truncation='longest': choose one of"),
        (("a",), dict(truncation="only_second"), "needs a text_pair"),
        (("a",), dict(padding="max"), "padding='max': choose one of .*longest"),
        (("a",), dict(padding="max_length"), "need a max_length"),
        (("a",), dict(padding_side="middle"), "padding_side='middle': choose one of"),
        (("a",), dict(return_overflowing=True), "need a max_length"),
        (("a", "b"), dict(return_overflowing=True, max_length=9), "windows need only_first or"),
        (
            ("a",),
            dict(return_overflowing=True, max_length=9, truncation="do_not_truncate"),
            "windows need",
        ),
        (
            ("a b c d",),
            dict(return_overflowing=True, max_length=5, stride=3),
            "stride=3: must be less than the window of 3",
        ),
    ],
)
def test_unusable_options_are_named(tok, arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tok(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_unusable_settings_are_named():
    for name, value in (("do_lower_case", "no"), ("do_lower_case", None), ("strip_accents", "x")):
        with pytest.raises(ValueError, match=f"{name}={value!r}.*choose True or False"):
            ConvBertTokenizer(vocabulary("a"), **{name: value})


# --- vocabulary files ----------------------------------------------------------------------------


def test_line_ends_and_blanks(tmp_path):
    entries = vocabulary("a", " b ", "\u2028", "\u00a0c", "\u0085")
    expected = ConvBertTokenizer(entries).fingerprint
    for end in ("\n", "\r\n"):
        path = write_vocabulary(tmp_path / "vocab.txt", entries, end)
        assert ConvBertTokenizer(path).vocabulary == entries
        assert ConvBertTokenizer(str(path)).fingerprint == expected
        path.write_bytes(path.read_bytes().removesuffix(end.encode()))  # no end of the last line
        assert ConvBertTokenizer(path).vocabulary == entries


def test_the_last_id_of_a_repeated_entry_encodes():
    entries = vocabulary("a", "b", "a", "a", "c", "b")
    with pytest.warns(UserWarning, match="11 entries, 8 distinct") as caught:
        tokenizer = ConvBertTokenizer(entries)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "GBK" not in str(caught[0].message)
    assert tokenizer("a b c", add_special_tokens=False)["input_ids"] == [8, 10, 9]
    assert tokenizer.convert_tokens_to_ids(["a", "b"]) == [8, 10]
    assert tokenizer.convert_ids_to_tokens([5, 6, 7, 8]) == ["a", "b", "a", "a"]
    assert tokenizer.vocab_size == 11


@needs_data
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_the_misread_vocabulary_is_recognized(end, tmp_path, bert):
    lines = MISREAD.read_bytes().decode().removesuffix("\r\n").split("\r\n")
    path = MISREAD if end == "\r\n" else write_vocabulary(tmp_path / "vocab.txt", lines, end)
    with pytest.warns(UserWarning, match="30522 entries, 29514 distinct.*GBK") as caught:
        misread = ConvBertTokenizer(path)
    assert len(caught) == 1
    assert misread.vocab_size == 30522
    assert misread.vocabulary == lines
    assert misread.fingerprint != bert.fingerprint
    for text, ids in SENTENCES.items():  # the ASCII entries are right
        assert misread(text)["input_ids"] == ints(ids)
    broken = [a for a, b in zip(misread.vocabulary, bert.vocabulary, strict=True) if a != b]
    assert len(broken) == 1900
    assert misread.tokenize("13\u20137") == ["13", "[UNK]", "7"]
    repeated = next(entry for entry in lines if lines.count(entry) > 1)
    last = len(lines) - 1 - lines[::-1].index(repeated)
    assert misread.convert_tokens_to_ids(repeated) == last


@needs_data
def test_the_clean_vocabulary_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConvBertTokenizer(CLEAN)


def test_unusable_vocabularies_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no vocabulary file .*missing.txt"):
        ConvBertTokenizer(tmp_path / "missing.txt")
    with pytest.raises(FileNotFoundError, match="from_pretrained"):
        ConvBertTokenizer(tmp_path)
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join(vocabulary("a")).encode() + b"\nb\xe9\nc\n")
    with pytest.raises(ValueError, match=r"vocab.txt, line 7: not UTF-8"):
        ConvBertTokenizer(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"without \[PAD\] \[UNK\] \[CLS\] \[SEP\] \[MASK\]"):
        ConvBertTokenizer(path)
    with pytest.raises(ValueError, match=r"without \[SEP\]: add"):
        ConvBertTokenizer([entry for entry in vocabulary("a") if entry != "[SEP]"])
    with pytest.raises(ValueError, match="vocabulary of 6 entries: the model needs its own 7"):
        ConvBertTokenizer(vocabulary("a"), vocab_size=7)
    assert ConvBertTokenizer(vocabulary("a"), vocab_size=6).vocab_size == 6


# --- save and load -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, dict(do_lower_case=False), dict(strip_accents=False)])
def test_save_and_load(tmp_path, options):
    tokenizer = ConvBertTokenizer(TRAINED.vocabulary, **options)
    folder = tmp_path / "new" / "folder"
    tokenizer.save_pretrained(folder)
    assert sorted(os.listdir(folder)) == ["tokenizer_config.json", "vocab.txt"]
    assert str(tmp_path) not in (folder / "tokenizer_config.json").read_text()
    for name in (folder, str(folder)):
        loaded = ConvBertTokenizer.from_pretrained(name)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded(TRAINING_TEXT) == tokenizer(TRAINING_TEXT)
        assert loaded.strip_accents == tokenizer.strip_accents
    overridden = ConvBertTokenizer.from_pretrained(folder, do_lower_case=True, strip_accents=None)
    assert overridden.fingerprint == TRAINED.fingerprint


def test_repeated_entries_survive_save_and_load(tmp_path):
    with pytest.warns(UserWarning, match="distinct"):
        tokenizer = ConvBertTokenizer(vocabulary("a", "b", "a"))
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="distinct"):
        assert ConvBertTokenizer.from_pretrained(tmp_path).vocabulary == tokenizer.vocabulary


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    TRAINED.save_pretrained(tmp_path)
    old = (tmp_path / "vocab.txt").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        ConvBertTokenizer(vocabulary("a")).save_pretrained(tmp_path)
    assert (tmp_path / "vocab.txt").read_bytes() == old


def test_a_directory_of_another_library(tmp_path):
    write_vocabulary(tmp_path / "vocab.txt", vocabulary("E", "\u00c9"))
    assert ConvBertTokenizer.from_pretrained(tmp_path).do_lower_case is True  # no configuration
    config = {
        "do_lower_case": False,
        "model_max_length": 512,
        "name_or_path": "x",
        "never_split": 0,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7, "model_type": "convbert"}))
    assert ConvBertTokenizer.from_pretrained(tmp_path).tokenize("\u00c9") == ["\u00c9"]
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 30522}))
    with pytest.raises(ValueError, match="vocabulary of 7 entries: the model needs its own 30522"):
        ConvBertTokenizer.from_pretrained(tmp_path)
    for content in ("{", "3", '["do_lower_case"]'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config.json: not a JSON object"):
            ConvBertTokenizer.from_pretrained(tmp_path)


def test_a_directory_without_vocabulary(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no vocabulary file .*vocab.txt"):
        ConvBertTokenizer.from_pretrained(tmp_path)


def test_published_names_are_looked_for_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path))
    message = "convbert-base needs BERT's uncased vocabulary: put it at vocab/bert-base-uncased"
    with pytest.raises(FileNotFoundError, match=message):
        ConvBertTokenizer.from_pretrained("convbert-base")
    (tmp_path / "vocab").mkdir()
    write_vocabulary(tmp_path / "vocab" / "bert-base-uncased-vocab.txt", vocabulary("a"))
    for size in ("small", "medium-small", "base"):
        assert ConvBertTokenizer.from_pretrained(f"convbert-{size}").vocab_size == 6
    with pytest.raises(ValueError, match="the model needs its own 30522"):
        ConvBertTokenizer.from_pretrained("convbert-base", vocab_size=30522)
    monkeypatch.delenv("CONVBERT_DATA")
    with pytest.raises(FileNotFoundError, match=r"folder CONVBERT_DATA .not set"):
        ConvBertTokenizer.from_pretrained("convbert-small")
    with pytest.raises(ValueError, match="'convbert-huge' is neither a directory nor one of conv"):
        ConvBertTokenizer.from_pretrained("convbert-huge")


# --- ids and tokens ------------------------------------------------------------------------------


def test_conversions_and_decoding(tok):
    assert tok.convert_tokens_to_ids("a") == 5
    assert tok.convert_tokens_to_ids(["a", "missing"]) == [5, tok.unk_token_id]
    assert tok.convert_ids_to_tokens(5) == "a"
    assert tok.convert_ids_to_tokens(range(5)) == list(SPECIAL_TOKENS)
    ids = tok("aaa b")["input_ids"]
    assert tok.decode(ids) == "[CLS] aaa b [SEP]"
    assert tok.decode(ids, skip_special_tokens=True) == "aaa b"
    assert tok.decode([]) == ""
    for wrong in (-1, len(tok), [0, len(tok)]):
        with pytest.raises(ValueError, match=r"id -?\d+: the vocabulary has the ids 0 to"):
            tok.convert_ids_to_tokens(wrong)
    with pytest.raises(TypeError):
        tok.convert_ids_to_tokens([1.5])
    with pytest.raises(TypeError, match="not list"):
        tok.tokenize(["a"])


def test_conversions_take_arrays(tok):
    assert tok.convert_ids_to_tokens(np.int64(5)) == "a"
    assert tok.decode(np.array([5, 6])) == "a b"
    assert tok("a b", max_length=np.int64(3))["input_ids"] == [2, 5, 3]


def test_fingerprint_depends_on_what_encodes():
    entries = vocabulary("a", "b")
    base = ConvBertTokenizer(entries).fingerprint
    assert len(base) == 64
    assert ConvBertTokenizer(entries, strip_accents=True).fingerprint == base  # what None means
    others = [
        ConvBertTokenizer(entries, do_lower_case=False),
        ConvBertTokenizer(entries, strip_accents=False),
        ConvBertTokenizer(vocabulary("b", "a")),
        ConvBertTokenizer(vocabulary("a", "b", "c")),
        ConvBertTokenizer(vocabulary("a\nb")),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 6


def test_pickle(tok):
    copy = pickle.loads(pickle.dumps(tok))
    text = "a [MASK] aaa"
    assert copy(text) == tok(text)
    assert copy(text, allow_special_tokens=True) == tok(text, allow_special_tokens=True)
    assert copy.fingerprint == tok.fingerprint


def test_no_paddle_is_imported():
    code = "import sys, convbert.tokenizer; sys.exit(any(m in sys.modules for m in {!r}))"
    code = code.format(["paddle", "torch", "transformers", "paddlenlp"])
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- training ------------------------------------------------------------------------------------

TRAIN_AND_PRINT = """
import sys
from convbert.tokenizer import ConvBertTokenizer
print(ConvBertTokenizer.train(sys.argv[1], vocab_size=600).fingerprint)
"""


def test_training_is_the_same_in_every_process(tmp_path):
    # Made-up words of random letters: a great many merges are equally frequent.
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=6)) for _ in range(3000)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(words[i : i + 10]) for i in range(0, 3000, 10)))
    prints = {ConvBertTokenizer.train([path], vocab_size=600).fingerprint}
    for threads in ("1", "2"):
        environment = dict(os.environ, RAYON_NUM_THREADS=threads, PYTHONHASHSEED=threads)
        command = [sys.executable, "-c", TRAIN_AND_PRINT, str(path)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        prints.add(result.stdout.strip())
    assert len(prints) == 1


def test_trained_vocabulary():
    assert TRAINED.vocabulary[:5] == list(SPECIAL_TOKENS)
    assert len(TRAINED) == len(set(TRAINED.vocabulary)) == 260
    ids = [TRAINED.pad_token_id, TRAINED.unk_token_id, TRAINED.cls_token_id]
    assert [*ids, TRAINED.sep_token_id, TRAINED.mask_token_id] == [0, 1, 2, 3, 4]
    for text in TRAINING_TEXT:
        assert "[UNK]" not in TRAINED.tokenize(text)
    assert TRAINED.tokenize("the dog") == ["the", "dog"]
    assert TRAINED.decode(TRAINED("The DOG jumps!")["input_ids"], True) == "the dog jumps !"


def test_training_sources_agree(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("\n".join(TRAINING_TEXT[:7]), encoding="utf-8")
    second.write_text("\n".join(TRAINING_TEXT[7:]), encoding="utf-8")
    both = tmp_path / "c.txt"
    both.write_text("\n".join(TRAINING_TEXT), encoding="utf-8")
    for source in (
        both,
        str(both),
        [both],
        [first, second],
        [str(second), str(first)],
        iter(TRAINING_TEXT),
        [text + "\ud800" for text in TRAINING_TEXT],
    ):
        trained = ConvBertTokenizer.train(source, vocab_size=260)
        assert trained.fingerprint == TRAINED.fingerprint


def test_training_keeps_case_and_accents_on_request():
    cased = ConvBertTokenizer.train(TRAINING_TEXT, vocab_size=260, do_lower_case=False)
    assert cased.do_lower_case is False
    assert "T" in cased.vocabulary and "\u00e9" in "".join(cased.vocabulary)
    assert "T" not in TRAINED.vocabulary
    accented = ConvBertTokenizer.train(TRAINING_TEXT, 260, strip_accents=False)
    assert "##\u00e9" in accented.vocabulary and accented.do_lower_case


def test_neighbors_that_occur_once_are_not_merged():
    with pytest.warns(UserWarning, match="vocab_size=100: the text yields only 12 entries"):
        trained = ConvBertTokenizer.train(["ab ab", "cd"], vocab_size=100)
    assert trained.tokenize("ab cd") == ["ab", "c", "##d"]


def test_training_text_does_not_hold_special_tokens():
    texts = ["[MASK] [MASK] [SEP] mask"] * 5
    with pytest.warns(UserWarning, match="vocab_size=100: the text yields only"):
        trained = ConvBertTokenizer.train(texts, vocab_size=100)
    assert trained.vocabulary.count("[MASK]") == 1
    assert trained.tokenize("[MASK]") == ["[", "mask", "]"]


def test_unusable_training_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        ConvBertTokenizer.train(str(tmp_path / "missing.txt"), vocab_size=100)
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        ConvBertTokenizer.train([tmp_path / "missing.txt"], vocab_size=100)
    for nothing in ([], [""], [" \n"]):
        with pytest.raises(ValueError, match="no text to train on"):
            ConvBertTokenizer.train(nothing, vocab_size=100)
    with pytest.raises(ValueError, match="vocab_size=9: the text's characters alone need 10"):
        ConvBertTokenizer.train(["abc abc"], vocab_size=9)
    with pytest.raises(ValueError, match="vocab_size=0: must be a whole number"):
        ConvBertTokenizer.train(["abc abc"], vocab_size=0)
    with pytest.raises(TypeError):
        ConvBertTokenizer.train(["a", 3], vocab_size=100)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt: not UTF-8"):
        ConvBertTokenizer.train(latin, vocab_size=100)
