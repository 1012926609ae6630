"""Training examples set apart to measure on, so that choices can leave the dev set alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convbert.data.glue import Example


def set_apart(train: Sequence[Example], count: int) -> tuple[list[Example], list[Example]]:
    """Split training examples into those to train on, and `count` others to measure on.

    They are always the same, so that whatever else is made of the training set can leave them out.
    SST-2 is trained on sentences and on their phrases: there only whole sentences are set apart,
    and their phrases are in neither part.

    Raises:
        ValueError: there are not so many.
    """
    whole = find_whole(train)
    if not 0 < count < len(whole):
        raise ValueError(
            f"{count} examples cannot be set apart from training: there are {len(whole)}"
        )
    chosen = [whole[i] for i in np.random.default_rng(0).permutation(len(whole))[:count]]
    taken = set(chosen)
    phrases = {part for i in chosen for part in _phrases(train[i])}
    rest = [
        each
        for i, each in enumerate(train)
        if i not in taken and (each.text_b is not None or each.text_a not in phrases)
    ]
    return rest, [train[i] for i in chosen]


def find_whole(examples: Sequence[Example]) -> list[int]:
    """Return the places of the examples whose text is no part of another's, longest first.

    Of equal texts it is one; a pair of texts is always whole.
    """
    whole, phrases = [], set[str]()
    for i in sorted(range(len(examples)), key=lambda i: -len(examples[i].text_a)):
        if examples[i].text_b is not None or examples[i].text_a not in phrases:
            whole.append(i)
            phrases.update(_phrases(examples[i]))
    return whole


def _phrases(example: Example) -> set[str]:
    """Return every sequence of words in a single text, itself included; of a pair nothing."""
    if example.text_b is not None:
        return set()
    words = example.text_a.split()
    places = range(len(words) + 1)
    parts = {" ".join(words[start:end]) for start in places for end in places[start + 1 :]}
    return parts | {example.text_a}
