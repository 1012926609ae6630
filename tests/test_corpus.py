"""Packing, order and masks: ELECTRA's rules, restated here and held equal."""

from __future__ import annotations

import random
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.data import corpus
from convbert.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer

FIRST = len(SPECIAL_TOKENS)  # id of the word "w0"
WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(2000))])  # a word is a token
PAD, CLS, SEP, MASK = (
    WORDS.pad_token_id,
    WORDS.cls_token_id,
    WORDS.sep_token_id,
    WORDS.mask_token_id,
)


def write_numbered(path: Path, documents: list[list[int]]) -> None:
    """Write documents given as tokens per line; the words count up through the whole file."""
    words = iter(range(1_000_000))
    texts = (
        "".join(" ".join(f"w{next(words)}" for _ in range(n)) + "\n" for n in lines)
        for lines in documents
    )
    path.write_text("\n".join(texts), encoding="utf-8")


def segments(packed: corpus.Packed, row: int) -> tuple[list[int], list[int]]:
    """Take one example apart; every part of the layout is checked on the way."""
    n = int(packed.lengths[row])
    ids, types = packed.ids[row].tolist(), packed.types[row].tolist()
    assert ids[0] == CLS and ids[n - 1] == SEP
    assert ids[n:] == [PAD] * (len(ids) - n) and PAD not in ids[:n]
    ends = [i for i in range(n) if ids[i] == SEP]
    assert len(ends) in (1, 2)
    first, second = ids[1 : ends[0]], ids[ends[0] + 1 : n - 1]
    assert len(ends) == (2 if second else 1)
    assert types == [0] * (ends[0] + 1) + [1] * (n - ends[0] - 1) + [0] * (len(ids) - n)
    assert not {CLS, MASK} & {*first, *second}
    return first, second


def test_coverage():
    assert corpus.coverage(WORDS, ["w1 w2, x", "w3"]) == {
        "tokens_per_word": 5 / 4,
        "unknown": 2 / 5,
    }
    assert corpus.coverage(WORDS, []) == {"tokens_per_word": 0, "unknown": 0}


# --- Reading ----------------------------------------------------------------------------------


def test_documents_end_at_blank_lines(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeff\n\n one\r\ntwo \n \t \n\n\nthrée\n\n".encode())
    assert list(corpus.documents(path)) == [["one", "two"], ["thrée"]]
    path.write_text("no line end", encoding="utf-8")
    assert list(corpus.documents(path)) == [["no line end"]]


def test_text_without_tokens_is_refused(tmp_path: Path):
    path = tmp_path / "text.txt"
    for text in ("", "\n\n", "\x01\n\x02\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"text\.txt: no text"):
            corpus.pack_file(path, WORDS, 16, 0)


def test_lines_without_tokens_are_left_out(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("w1 w2\n\x01\nw3\n", encoding="utf-8")
    packed = corpus.pack_file(path, WORDS, 16, 0)
    first, second = segments(packed, 0)
    assert len(packed) == 1
    assert [*first, *second] == [FIRST + 1, FIRST + 2, FIRST + 3]


def test_large_vocabularies_keep_their_ids(tmp_path: Path):
    """65,536 entries fit 16 bits, one more does not."""
    words = [f"v{i}" for i in range((1 << 16) - FIRST + 1)]
    path = tmp_path / "text.txt"
    path.write_text(f"{words[-2]} {words[-1]}\n", encoding="utf-8")
    wide = ConvBertTokenizer([*SPECIAL_TOKENS, *words])
    packed = corpus.pack_file(path, wide, 8, 0)
    assert packed.ids.dtype == np.uint32
    assert packed.ids[0].tolist() == [CLS, 65535, 65536, SEP, 0, 0, 0, 0]
    narrow = ConvBertTokenizer([*SPECIAL_TOKENS, *words[:-1]])
    packed = corpus.pack_file(path, narrow, 8, 0)
    assert packed.ids.dtype == np.uint16
    assert packed.ids[0, 1:3].tolist() == [65535, narrow.unk_token_id]


# --- Packing ----------------------------------------------------------------------------------


class ExampleBuilder:
    """ELECTRA's rule as a machine that is fed one line at a time; the independent restatement."""

    def __init__(self, length: int, rng: np.random.Generator):
        self.length, self.rng = length, rng
        self.target = length
        self.lines: list[list[int]] = []

    def add_line(self, line: list[int]) -> tuple[list[int], list[int]] | None:
        self.lines.append(line)
        if sum(len(line) for line in self.lines) >= self.target:
            return self.finish()
        return None

    def finish(self) -> tuple[list[int], list[int]] | None:
        """Emit what is held; called at the end of a document, too."""
        if not self.lines:
            return None
        if self.rng.random() < 0.1:
            goal = 100_000  # a single segment
        else:
            goal = (self.target - 3) // 2
        first: list[int] = []
        second: list[int] = []
        for line in self.lines:
            if len(first) == 0:
                first += line
            elif len(first) + len(line) < goal:
                first += line
            elif len(second) == 0 and len(first) < goal and self.rng.random() < 0.5:
                first += line
            else:
                second += line
        del first[self.length - 2 :]
        room = self.length - len(first) - 3
        second = second[:room] if room > 0 else []
        self.lines = []
        self.target = self.length
        if self.rng.random() < 0.05:
            self.target = int(self.rng.integers(5, self.length, endpoint=True))
        return first, second


def test_packing_is_electras(tmp_path: Path):
    """Example by example, with the same random numbers, over documents of all kinds."""
    draw = random.Random(0)
    documents = [
        [draw.choice((1, 4, 9, 25, 90)) for _ in range(draw.choice((1, 2, 30, 200)))]
        for _ in range(12)
    ]
    path = tmp_path / "text.txt"
    count = sum(map(sum, documents))
    write_numbered(path, documents)
    numbers = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(count))])
    for length, seed in ((8, 0), (32, 1), (128, 2)):
        builder = ExampleBuilder(length, corpus.generator(seed, corpus.PACKING))
        expected, word = [], FIRST
        for document in documents:
            for n in document:
                expected.append(builder.add_line(list(range(word, word + n))))
                word += n
            expected.append(builder.finish())
        packed = corpus.pack_file(path, numbers, length, seed)
        found = [segments(packed, row) for row in range(len(packed))]
        assert found == [example for example in expected if example]
        assert any(not second for _, second in found) and any(second for _, second in found)


sizes = st.lists(st.lists(st.integers(1, 25), min_size=1, max_size=12), min_size=1, max_size=6)


@given(documents=sizes, length=st.integers(8, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_packing_loses_only_what_does_not_fit(
    tmp_path_factory: pytest.TempPathFactory, documents: list, length: int, seed: int
):
    path = tmp_path_factory.getbasetemp() / "numbered.txt"
    write_numbered(path, documents)
    packed = corpus.pack_file(path, WORDS, length, seed)
    assert packed.ids.shape == packed.types.shape == (len(packed), length)
    examples = [segments(packed, row) for row in range(len(packed))]
    # Words count up, so an example reaches from its own first word to the next example's.
    starts = [first[0] for first, _ in examples] + [FIRST + sum(map(sum, documents))]
    ends = set(np.cumsum([sum(lines) for lines in documents]) + FIRST)
    assert starts[0] == FIRST and starts == sorted(set(starts))
    for row, (first, second) in enumerate(examples):
        reach = set(range(starts[row], starts[row + 1]))
        words = [*first, *second]
        assert len(words) == len(set(words)) and set(words) <= reach
        assert first == sorted(first) and second == sorted(second)
        assert not (ends & reach) - {starts[row]}, "an example crosses the end of a document"
        if set(words) != reach:
            # One token may stay empty: a second segment needs a [SEP] besides its words.
            assert packed.lengths[row] >= length - 1


def test_nine_in_ten_have_two_segments_on_short_lines(tmp_path: Path):
    """The rule that released code inverts: there only 1 in 1,000 has a second segment."""
    draw = random.Random(1)
    path = tmp_path / "text.txt"
    lines = (" ".join(["w1"] * draw.randint(3, 7)) for _ in range(20_000))
    path.write_text("\n".join(lines), encoding="utf-8")
    packed = corpus.pack_file(path, WORDS, 64, 3)
    pairs = packed.types.any(1)
    full = packed.lengths > 58  # the others were cut short on purpose, or end the document
    assert full.sum() > 1200
    assert 0.92 < full.mean() < 0.97  # one in twenty is cut short
    assert 0.87 < pairs[full].mean() < 0.93
    assert 25 < packed.types[full & pairs].sum(1).mean() < 36  # half of 64


# --- Examples ---------------------------------------------------------------------------------


def test_examples_in_memory():
    packed = make_packed([4, 9, 6], 12)
    ids, types, lengths = packed.rows(np.array([2, 0, 2]))
    assert (ids == packed.ids[[2, 0, 2]]).all() and (types == packed.types[[2, 0, 2]]).all()
    assert lengths.tolist() == [6, 4, 6]
    counts = packed.token_counts(40)
    inside = [int(i) for row, n in zip(packed.ids, (4, 9, 6), strict=True) for i in row[:n]]
    assert counts.tolist() == [inside.count(i) for i in range(40)]
    assert counts[PAD] == 0 and counts.sum() == 4 + 9 + 6


def test_fingerprint_is_of_everything():
    packed = make_packed([4, 9, 6], 12)
    assert packed.fingerprint == make_packed([4, 9, 6], 12).fingerprint
    order = np.array([1, 0, 2])
    others = [corpus.Packed(*packed.rows(order)), make_packed([4, 9, 6], 13)]
    for name in ("ids", "types", "lengths"):
        arrays = {key: getattr(packed, key).copy() for key in ("ids", "types", "lengths")}
        arrays[name][2] += 1
        others.append(corpus.Packed(**arrays))
    assert len({packed.fingerprint, *(other.fingerprint for other in others)}) == 6


# --- Order ------------------------------------------------------------------------------------


def test_order_follows_seed_and_epoch_only():
    orders = {(s, e): corpus.epoch_order(50, s, e).tolist() for s in (0, 1) for e in (0, 1, 2)}
    np.random.seed(5)
    np.random.random(3)
    for (seed, epoch), order in orders.items():
        assert sorted(order) == list(range(50))
        assert corpus.epoch_order(50, seed, epoch).tolist() == order
    assert len({tuple(order) for order in orders.values()}) == 6


@given(
    examples=st.integers(1, 60), block=st.integers(1, 60), seed=st.integers(0, 3), data=st.data()
)
def test_blocks_are_shuffled_among_each_other_and_within(examples, block, seed, data):
    """Every example once; a few places give what they give among all; neighbors stay together."""
    every = np.arange(examples)
    rows = corpus.epoch_rows(examples, seed, 1, every, block)
    assert sorted(rows) == list(range(examples))
    few = np.array(data.draw(st.lists(st.sampled_from(every.tolist()), min_size=1)))
    assert corpus.epoch_rows(examples, seed, 1, few, block).tolist() == rows[few].tolist()
    if examples <= block:
        assert rows.tolist() == corpus.epoch_order(examples, seed, 1).tolist()
        return
    count = -(-examples // block)
    numbers = np.searchsorted(np.arange(count + 1) * examples // count, rows, "right")
    assert np.count_nonzero(np.diff(numbers)) == count - 1, "each block is visited once, whole"
    assert np.bincount(numbers).max() <= block


def test_an_order_of_blocks_follows_seed_and_epoch():
    keys = [(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    orders = [corpus.epoch_rows(90, *key, np.arange(90), 30) for key in keys]
    firsts = {tuple(order // 30) for order in orders}
    assert len({tuple(order) for order in orders}) == 6 and len(firsts) > 1
    inside = [order[order // 30 == 0] for order in orders]  # not the same shuffle in every block
    assert len({tuple(rows) for rows in inside}) == 6
    assert (inside[0] != orders[0][orders[0] // 30 == 1] - 30).any()


def test_the_order_of_a_billion_examples_needs_little_memory():
    tracemalloc.start()
    rows = corpus.epoch_rows(10**9, 0, 0, np.arange(10**8, 10**8 + 256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(rows.tolist())) == 256 and peak < 100e6  # one permutation would take 8e9


def test_streams_of_one_seed_share_no_numbers():
    kinds = (corpus.PACKING, corpus._ORDER, corpus._MASKING, corpus.HOLDING)
    draws = [corpus.generator(0, kind).random(4).tolist() for kind in kinds]
    assert len({tuple(draw) for draw in draws}) == 4


# --- Masking ----------------------------------------------------------------------------------


def make_packed(lengths: list[int], size: int) -> corpus.Packed:
    """Two segments of distinct words per example, of the given lengths with [CLS] and [SEP]."""
    ids, types = np.zeros((len(lengths), size), np.uint16), np.zeros((len(lengths), size), np.uint8)
    for row, n in enumerate(lengths):
        middle = n // 2
        ids[row, :n] = FIRST + np.arange(n) + row
        ids[row, [0, n - 1]] = CLS, SEP
        if n > 5:
            ids[row, middle] = SEP
            types[row, middle + 1 : n] = 1
    return corpus.Packed(ids, types, np.array(lengths, np.int32))


def test_slots():
    assert corpus.max_chosen(128) == 19
    assert corpus.max_chosen(512) == 79
    assert corpus.max_chosen(3) == 1


@pytest.mark.parametrize("size", [128, 512])
def test_as_many_as_electra_chooses(size: int):
    lengths = list(range(4, size + 1))
    packed = make_packed(lengths, size)
    batch = corpus.mask_batch(packed, np.arange(len(packed)), WORDS, (0, 0))
    slots = {128: 19, 512: 79}[size]
    # 15 % exactly, so that halves go to the even neighbor; never more than N, never none.
    wanted = [max(1, min(slots, round(Fraction(15, 100) * n))) for n in lengths]
    assert (
        batch.weights.shape == batch.positions.shape == batch.uniform.shape == (len(packed), slots)
    )
    assert batch.weights.sum(1).tolist() == wanted
    assert wanted[0] == 1 and wanted[-1] == {128: 19, 512: 77}[size]


def test_choice_is_of_words_without_repetition():
    packed = make_packed([4, 6, 20, 40, 64, 64], 64)
    packed.ids[4, 5:20] = MASK  # as in a text that was masked before
    for step in range(30):
        batch = corpus.mask_batch(packed, np.arange(6), WORDS, (1, step))
        for row in range(6):
            used = batch.weights[row] == 1
            chosen = batch.positions[row, used]
            assert len(set(chosen)) == len(chosen) == used.sum()
            assert not np.isin(batch.ids[row, chosen], (PAD, CLS, SEP, MASK)).any()
            assert (chosen < packed.lengths[row]).all()
            assert (batch.positions[row, ~used] == 0).all() and (
                batch.weights[row, ~used] == 0
            ).all()


def test_every_word_is_as_likely():
    rows = np.zeros(6000, int)
    batch = corpus.mask_batch(make_packed([40], 48), rows, WORDS, (2, 0))
    places = np.bincount(batch.positions[batch.weights == 1], minlength=48)
    words = [i for i in range(1, 39) if i != 20]  # without [CLS] and both [SEP]
    assert places.sum() == 6000 * 6 == places[words].sum()
    expected = 6000 * 6 / len(words)
    assert np.abs(places[words] - expected).max() < 5 * expected**0.5


def test_the_rest_of_the_batch():
    packed = make_packed([40, 64, 17], 64)
    rows = np.array([2, 0, 2])
    batch = corpus.mask_batch(packed, rows, WORDS, (3, 0))
    assert (batch.ids == packed.ids[rows]).all() and (batch.types == packed.types[rows]).all()
    assert batch.mask.sum(1).tolist() == [17, 40, 17]
    assert (batch.mask == (batch.ids != PAD)).all()
    for row in range(3):
        assert batch.labels[row].tolist() == [batch.ids[row, p] for p in batch.positions[row]]
        changed = set(np.flatnonzero(batch.masked_ids[row] != batch.ids[row]))
        assert changed <= set(batch.positions[row, batch.weights[row] == 1])
        assert (batch.masked_ids[row, list(changed)] == MASK).all()
    # The same example twice in a batch is masked in two ways.
    assert batch.positions[0].tolist() != batch.positions[2].tolist()
    assert ((batch.uniform >= 0) & (batch.uniform < 1)).all()
    kinds = {name: getattr(batch, name).dtype for name in batch._fields}
    floats = {"mask", "weights", "uniform"}
    assert kinds == {name: np.float32 if name in floats else np.int64 for name in kinds}


def test_most_of_the_chosen_are_masked():
    packed, rows = make_packed([64], 64), np.zeros(2000, int)

    def masked_share(**options: float) -> float:
        batch = corpus.mask_batch(packed, rows, WORDS, (4, 0), **options)
        return float((batch.masked_ids == MASK).sum() / batch.weights.sum())

    assert abs(masked_share() - 0.85) < 4 * (0.85 * 0.15 / 20_000) ** 0.5
    assert masked_share(visible=0.0) == 1.0
    assert masked_share(visible=1.0) == 0.0


def test_another_share():
    batch = corpus.mask_batch(make_packed([64], 64), np.zeros(1, int), WORDS, (5, 0), share=0.4)
    assert batch.weights.shape == (1, 25)  # int((0.4 + 0.005) · 64), one less than 40 % rounded
    assert batch.weights.sum() == 25


def test_masks_follow_the_key_only():
    packed, rows = make_packed([64] * 4, 64), np.arange(4)
    batches = {key: corpus.mask_batch(packed, rows, WORDS, key) for key in ((0, 0), (0, 1), (1, 0))}
    for key, batch in batches.items():
        again = corpus.mask_batch(packed, rows, WORDS, key)
        assert all((a == b).all() for a, b in zip(batch, again, strict=True))
    for name in ("positions", "masked_ids", "uniform"):
        values = [getattr(batch, name).tolist() for batch in batches.values()]
        assert values[0] != values[1] != values[2] != values[0], name


def test_row_without_words():
    """[CLS] [SEP], or a text of [MASK] only: nothing is chosen, nothing is touched."""
    packed = make_packed([20, 2, 6], 20)
    packed.ids[1, :2] = CLS, SEP
    packed.ids[2, 1:5] = MASK
    batch = corpus.mask_batch(packed, np.arange(3), WORDS, (6, 0))
    assert batch.weights.sum(1).tolist() == [3, 0, 0]
    assert (batch.positions[1:] == 0).all()
    assert (batch.masked_ids[1:] == batch.ids[1:]).all()
    few = make_packed([20], 20)
    few.ids[0, 1:19] = MASK
    few.ids[0, [4, 9]] = FIRST  # fewer words than 15 % of the tokens
    batch = corpus.mask_batch(few, np.zeros(1, int), WORDS, (6, 0))
    assert sorted(batch.positions[0][batch.weights[0] == 1]) == [4, 9]
