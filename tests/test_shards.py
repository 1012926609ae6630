"""Token shards: what is written is what is read, wherever it lies, and damage is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.data import corpus, shards
from convbert.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer

FIRST, LENGTH = len(SPECIAL_TOKENS), 12
WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(50))])
ids = st.lists(st.integers(FIRST, FIRST + 49), min_size=1, max_size=4)
examples = st.builds(
    corpus.Example, st.just(0), ids, st.one_of(st.just([]), ids), st.integers(0, 3)
)


def write(
    folder: Path, units: list[list[corpus.Example]], tokenizer: ConvBertTokenizer = WORDS
) -> shards.Shards:
    """Write a folder of shards; all examples are held out, too, in the opposite order."""
    entries, totals = [], [np.zeros(tokenizer.vocab_size, np.int64) for _ in shards.SPLITS]
    for number, unit in enumerate(units):
        entry: dict = {"unit": number, "dropped": 0}
        for split, total in zip(shards.SPLITS, totals, strict=True):
            path = shards.shard_path(folder, split, number)
            writer = shards.Writer(path, tokenizer, LENGTH)
            for example in unit if split == "train" else reversed(unit):
                writer.add(example)
            entry[split] = writer.close()
            total += writer.counts
        entries.append(entry)
    plan = {"max_seq_length": LENGTH, "vocab_size": tokenizer.vocab_size}
    shards.write_manifest(folder, plan, entries, totals)
    return shards.Shards(folder, verify=True)


def expected(units: list[list[corpus.Example]]) -> list[tuple[list[int], list[int], int]]:
    """Lay the examples out by hand."""
    rows = []
    for example in (example for unit in units for example in unit):
        row = [WORDS.cls_token_id, *example.first, WORDS.sep_token_id]
        types = [0] * len(row)
        if example.second:
            row += [*example.second, WORDS.sep_token_id]
            types += [1] * (len(example.second) + 1)
        n = len(row)
        rows.append((row + [WORDS.pad_token_id] * (LENGTH - n), types + [0] * (LENGTH - n), n))
    return rows


@given(st.lists(st.lists(examples, max_size=5), min_size=1, max_size=5), st.randoms())
@settings(max_examples=40, deadline=None)
def test_rows_are_what_was_written(tmp_path_factory, units, random):
    found = write(tmp_path_factory.mktemp("shards"), units)
    rows = expected(units)
    assert len(found) == len(rows)
    order = [random.randrange(len(rows)) for _ in range(2 * len(rows))]
    ids, types, lengths = found.rows(np.array(order, int))
    assert ids.tolist() == [rows[i][0] for i in order]
    assert types.tolist() == [rows[i][1] for i in order]
    assert lengths.tolist() == [rows[i][2] for i in order]
    tokens = [i for row, _, n in rows for i in row[:n]]
    counts = [tokens.count(i) for i in range(60)]
    assert found.token_counts(60).tolist() == counts
    if rows:  # the same as in memory
        packed = corpus.Packed(*found.rows(np.arange(len(rows))))
        assert packed.token_counts(60).tolist() == counts
    assert len(shards.Shards(found.folder, "valid")) == len(rows)


def some(count: int = 3000) -> list[corpus.Example]:
    """More examples than the writer holds back."""
    return [corpus.Example(0, [FIRST + i % 50], [FIRST + i % 7], 0) for i in range(count)]


def test_many_examples(tmp_path: Path):
    found = write(tmp_path, [some(), [], some(10)])
    at = np.array([0, 1023, 1024, 2999, 3000, 3009])
    assert found.rows(at)[0][:, 1].tolist() == [FIRST + i % 50 for i in (0, 1023, 1024, 2999, 0, 9)]
    assert not shards.shard_path(tmp_path, "train", 1).exists()
    assert found.rows(np.array([], int))[0].shape == (0, LENGTH)
    for index in (-1, 3010):
        with pytest.raises(IndexError, match="examples 0 to 3009"):
            found.rows(np.array([0, index]))
    assert found._maps[0].base is not None and not found._maps[0].flags.writeable


def test_a_batch_of_shards_is_a_batch_of_memory(tmp_path: Path):
    found = write(tmp_path, [some(70), some(30)])
    packed = corpus.Packed(*found.rows(np.arange(100)))
    at = np.array([99, 3, 70, 69])
    for ours, theirs in zip(
        corpus.mask_batch(found, at, WORDS, (0, 1)),
        corpus.mask_batch(packed, at, WORDS, (0, 1)),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype and (ours == theirs).all()


def test_large_vocabularies_need_four_bytes():
    assert shards.record_type(128, 1 << 16)["ids"].base == np.dtype("<u2")
    assert shards.record_type(128, (1 << 16) + 1)["ids"].base == np.dtype("<u4")


def test_another_padding_id(tmp_path: Path):
    entries = [*SPECIAL_TOKENS[1:], *(f"w{i}" for i in range(50)), "[PAD]"]
    found = write(tmp_path, [some(5)], ConvBertTokenizer(entries))
    assert (found.rows(np.arange(5))[0][:, 5:] == 54).all()
    assert found.token_counts(55)[54] == 0


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_is_seen(tmp_path: Path):
    write(tmp_path, [some(20), some(30)])
    for split in shards.SPLITS:
        path = shards.shard_path(tmp_path, split, 1)
        content = path.read_bytes()
        for damage in (lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])):
            damage(path)
            with pytest.raises(ValueError, match=r"shard-00001\.bin: missing or torn"):
                shards.Shards(tmp_path, split)
            path.write_bytes(content)
        flip(path)
        shards.Shards(tmp_path, split)  # the size is right
        with pytest.raises(ValueError, match=r"shard-00001\.bin: torn or changed"):
            shards.Shards(tmp_path, split, verify=True)
        path.write_bytes(content)
        flip(tmp_path / split / shards.COUNTS)
        with pytest.raises(ValueError, match=r"token_counts\.bin: torn or changed"):
            shards.Shards(tmp_path, split).token_counts(60)


def test_fingerprint_is_of_the_examples(tmp_path: Path):
    a, b = some(20), some(21)
    prints = [
        write(tmp_path / str(i), units).fingerprint
        for i, units in enumerate([[a, b], [a, b], [b, a], [a], [a, b[:-1]]])
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 4


def test_what_is_no_folder_of_shards(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json not found"):
        shards.Shards(tmp_path)
    manifest = tmp_path / "manifest.json"
    for content in ("", "{", "[]", "3", "{}", '{"format": "other"}'):
        manifest.write_text(content)
        with pytest.raises(ValueError, match="not a manifest of token shards"):
            shards.Shards(tmp_path)
    manifest.write_text(json.dumps({"format": shards.FORMAT, "version": 99}))
    with pytest.raises(ValueError, match="token shards 99; this program reads"):
        shards.Shards(tmp_path)
    write(tmp_path, [some(3)])
    with pytest.raises(ValueError, match="split='test': choose one of train, valid"):
        shards.Shards(tmp_path, "test")


def test_nothing_is_left_of_a_discarded_shard(tmp_path: Path):
    writer = shards.Writer(tmp_path / "shard.bin", WORDS, LENGTH)
    for example in some(1500):
        writer.add(example)
    assert list(tmp_path.iterdir())  # some of it was written
    writer.discard()
    assert not list(tmp_path.iterdir())
