"""Training examples set apart: whole ones, always the same, and nothing of them left behind."""

from __future__ import annotations

import random

import pytest

from convbert.data.glue import Example
from convbert.data.held_out import find_whole, set_apart


def make_phrases(seed: int = 0) -> list[Example]:
    """Sentences of eight words, each followed by three of its phrases, in random order."""
    rng, found = random.Random(seed), []
    for number in range(40):
        words = [f"w{number}"] + [f"v{rng.randrange(30)}" for _ in range(7)]
        found.append(Example(" ".join(words), None, number % 2))
        for start in (0, 2, 5):
            found.append(Example(" ".join(words[start : start + 3]), None, number % 2))
    rng.shuffle(found)
    return found


def contains(longer: Example, shorter: Example) -> bool:
    return f" {shorter.text_a} " in f" {longer.text_a} "


def test_only_sentences_are_whole():
    train = make_phrases()
    whole = [train[i] for i in find_whole(train)]
    assert len(whole) == 40 and all(len(each.text_a.split()) == 8 for each in whole)


def test_of_equal_texts_one_is_whole():
    twice = [Example("a b", None, 0), Example("a b", None, 1), Example("c", None, 0)]
    assert find_whole(twice) == [0, 2]


def test_no_phrase_of_what_is_set_apart_is_trained_on():
    train = make_phrases()
    rest, apart = set_apart(train, 10)
    assert len(apart) == 10 and len(set(apart)) == 10 and set(rest + apart) <= set(train)
    left_out = [each for each in train if each not in rest and each not in apart]
    assert left_out and all(any(contains(a, each) for a in apart) for each in left_out)
    assert not any(contains(a, each) for a in apart for each in rest)
    assert rest == [each for each in train if each in rest], "in the order of the file"
    assert set_apart(train, 10) == (rest, apart)


def test_pairs_are_whole_whatever_they_share():
    pairs = [Example("a b c", f"d{i}", i) for i in range(6)]
    rest, apart = set_apart(pairs, 2)
    assert len(apart) == 2 and sorted(rest + apart) == pairs


@pytest.mark.parametrize("count", [-1, 0, 40, 160])
def test_something_must_be_left(count: int):
    with pytest.raises(ValueError, match=f"{count} examples cannot be set apart.*there are 40"):
        set_apart(make_phrases(), count)
