"""Recording what a model mixed: what is kept, in which state, and that files give it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from support import randomize, small_config

from convbert import ConvBertModel, ConvBertTokenizer
from convbert.heads import ConvBertForMaskedLM
from convbert.locality import measure
from convbert.locality.record import (
    MixingRecord,
    fingerprint,
    masked_heads,
    receptive_field,
    record,
    stream,
    swap_variation,
)
from convbert.tokenizer import SPECIAL_TOKENS

WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(54)), "[", "]"])  # 61 entries
TEXTS = ["w1 w2 w3 w4 w5 w6", "w7", "w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18"]


def make_model(**changes) -> ConvBertModel:
    return randomize(ConvBertModel(small_config(**changes)))


def test_shapes_and_sums():
    records = record(make_model(), WORDS, TEXTS, step=3)
    assert len(records) == 3
    for made, text in zip(records, TEXTS, strict=True):
        n = len(text.split()) + 2
        assert made.tokens == ["[CLS]", *text.split(), "[SEP]"]
        assert made.ids.tolist() == WORDS(text)["input_ids"]
        assert made.special.tolist() == [True, *[False] * (n - 2), True]
        assert made.attention.shape == (2, 2, n, n)  # layers, heads per branch
        assert made.kernels.shape == (2, 2, n, 9)
        assert np.allclose(made.attention.sum(-1), 1, atol=1e-6)
        assert np.allclose(made.kernels.sum(-1), 1, atol=1e-6)
        assert made.valid.all() and (made.segments == 0).all()
        assert (made.content == ~made.special).all() and made.norms is None
        assert made.metadata["step"] == 3 and made.metadata["config"]["hidden_size"] == 24
        parts = measure.ledger(measure.expand_kernels(made.kernels), made.content)
        assert np.allclose(sum(parts.values()), 1, atol=1e-6)
    assert records[0].metadata is not records[1].metadata


def test_what_is_recorded_is_what_the_model_applied():
    """The two products of a layer, done again with the recorded weights, give its output."""
    model = make_model()
    made = record(model, WORDS, TEXTS[:1])[0]
    ids = paddle.to_tensor(made.ids[None])
    with paddle.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
        for number, layer in enumerate(model.encoder.layers):
            mixed, x = layer.self_attn, states[number]
            values = mixed.split_heads(mixed.v_proj(x)).numpy()[0]
            convolved = mixed.split_heads(mixed.conv_values(x)).numpy()[0]
            band = measure.expand_kernels(made.kernels[number])
            heads = np.concatenate(
                [made.attention[number] @ values, band @ convolved]
            )  # [2h, n, D]
            joined = heads.transpose(1, 0, 2).reshape(len(made.ids), -1)
            output = joined @ mixed.out_proj.weight.numpy() + mixed.out_proj.bias.numpy()
            assert np.allclose(output, mixed(x).numpy()[0], atol=1e-5)


def test_sentences_do_not_touch_each_other():
    model = make_model()
    together = record(model, WORDS, TEXTS)
    for text, made in zip(TEXTS, together, strict=True):
        alone = record(model, WORDS, (t for t in [text]))[0]
        assert (alone.attention == made.attention).all() and (alone.kernels == made.kernels).all()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_restored(training: bool):
    quiet = record(make_model(), WORDS, TEXTS[:1])[0]
    model = make_model(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    model.train() if training else model.eval()
    made = record(model, WORDS, TEXTS[:1])[0]
    assert (made.attention == quiet.attention).all() and (made.kernels == quiet.kernels).all()
    assert {layer.training for layer in model.sublayers(include_self=True)} == {training}


def test_the_mode_is_restored_when_a_text_raises():
    """Each layer gets its own mode back, also while the stream waits for its reader."""
    model = make_model()
    model.train()
    frozen = model.encoder.layers[0]
    frozen.eval()
    modes = [layer.training for layer in model.sublayers(include_self=True)]

    def now():
        return [layer.training for layer in model.sublayers(include_self=True)]

    reading = stream(model, WORDS, ["w1 w2", " "])
    next(reading)
    assert now() == modes
    with pytest.raises(ValueError, match="text 1 is empty"):
        next(reading)
    with pytest.raises(ValueError, match="conv_type='depthwise': its kernels belong to channels"):
        record(make_model(conv_type="depthwise"), WORDS, ["w1 w2"])
    assert now() == modes
    with pytest.raises(ValueError, match="input of 99 tokens"):
        record(model, WORDS, ["w1 w2"], max_length=99, pad_to=99)  # more than the model takes
    assert now() == modes


def test_a_corpus_is_read_as_it_is_needed():
    taken = 0

    def texts():
        nonlocal taken
        for _ in range(10_000):
            taken += 1
            yield "w1 w2 w3"

    reading = stream(make_model(), WORDS, texts())
    next(reading), next(reading)
    assert taken == 2
    reading = stream(make_model(), WORDS, texts(), batch_size=2)
    next(reading)
    assert taken < 2 + 64


def test_buckets_of_equal_length_change_nothing_and_keep_the_order():
    model = make_model()
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 54, n)) for n in rng.integers(1, 8, 50)]
    single = record(model, WORDS, texts, value_norms=True)
    bucketed = record(model, WORDS, texts, batch_size=4, value_norms=True)
    for one, other in zip(single, bucketed, strict=True):
        assert one.tokens == other.tokens
        for name in ("attention", "kernels", "norms"):
            assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-5), name


@pytest.mark.parametrize("leaks", [False, True])
def test_padding_changes_nothing_unless_asked_to(leaks: bool):
    model = make_model(conv_sees_padding=leaks)
    (alone,) = record(model, WORDS, TEXTS[:1], value_norms=True)
    (padded,) = record(model, WORDS, TEXTS[:1], pad_to=20, value_norms=True)
    n = len(alone.ids)
    assert padded.valid.tolist() == [True] * n + [False] * (20 - n)
    assert padded.content.sum() == alone.content.sum() == n - 2
    gap = np.abs(padded.kernels[:, :, :n] - alone.kernels).max()
    gap = max(gap, np.abs(padded.attention[..., :n, :n] - alone.attention).max())
    gap = max(gap, np.abs(padded.norms[..., :n] - alone.norms).max())
    assert gap > 0.01 if leaks else gap < 1e-5
    if not leaks:
        assert np.abs(padded.norms[:, 2:, n:]).max() == 0  # convolution values at padding
    # Taps over padding count as mass on padding, taps beyond the end of a lone text as outside.
    here, there = (
        measure.ledger(measure.expand_kernels(r.kernels), r.content, r.valid)
        for r in (alone, padded)
    )
    assert here["padding"].max() == 0 and there["padding"][..., n - 1].min() > 0
    if not leaks:
        assert np.allclose(
            there["padding"][..., :n] + there["outside"][..., :n], here["outside"], atol=1e-5
        )
    with pytest.raises(ValueError, match="text 0 has 8 tokens, more than pad_to=4"):
        record(model, WORDS, TEXTS[:1], pad_to=4)


def test_pairs_have_segments():
    (made,) = record(make_model(), WORDS, [("w1 w2", "w3")])
    assert made.tokens == ["[CLS]", "w1", "w2", "[SEP]", "w3", "[SEP]"]
    assert made.segments.tolist() == [0, 0, 0, 0, 1, 1]
    assert made.content.tolist() == [False, True, True, False, True, False]


def test_norms_are_those_of_what_each_head_adds():
    """Heads' outputs, head by head through out_proj, add up to the layer's; norms are of those."""
    model = make_model()
    (made,) = record(model, WORDS, TEXTS[:1], value_norms=True)
    assert made.norms.shape == (2, 4, len(made.ids))
    with paddle.no_grad():
        x = model(paddle.to_tensor(made.ids[None]), output_hidden_states=True).hidden_states[1]
        mixed = model.encoder.layers[1].self_attn
        values = mixed.v_proj(x).numpy()[0]  # [n, A]
        weight = mixed.out_proj.weight.numpy()
        convolved = mixed.conv_values(x).numpy()[0]
    size = values.shape[1] // 2
    for head, source in ((1, values), (3, convolved)):
        part = source[:, (head % 2) * size : (head % 2 + 1) * size]
        expected = np.linalg.norm(part @ weight[head * size : (head + 1) * size], axis=1)
        assert np.allclose(made.norms[1, head], expected, rtol=1e-4)


def test_records_know_their_weights():
    model = make_model()
    before = fingerprint(model)
    (made,) = record(model, WORDS, TEXTS[:1])
    assert made.metadata["checkpoint"] == before and len(before) == 12
    assert fingerprint(make_model()) == before
    weight = model.encoder.layers[1].self_attn.q_proj.weight
    weight.set_value(weight + 1e-3)
    assert fingerprint(model) != before


# --- Silenced heads ---------------------------------------------------------------------------


def test_all_heads_speaking_is_the_plain_run_exactly():
    model = make_model()
    ids = paddle.to_tensor(WORDS(TEXTS[2])["input_ids"]).unsqueeze(0)
    plain = model(ids).numpy()
    with masked_heads(model, np.ones((2, 4))):
        assert (model(ids).numpy() == plain).all()
    with masked_heads(model, np.zeros((2, 4))):
        assert np.abs(model(ids).numpy() - plain).max() > 0.01
    assert (model(ids).numpy() == plain).all()  # the hooks are gone


@pytest.mark.parametrize("head", range(4))
def test_a_silent_head_is_one_with_zero_weights(head: int):
    """Zeroing the head's rows of the output projection has the same effect, for either family."""
    model = make_model()
    ids = paddle.to_tensor(WORDS(TEXTS[2])["input_ids"]).unsqueeze(0)
    keep = np.ones((2, 4))
    keep[1, head] = 0
    with masked_heads(model, keep):
        silent = model(ids).numpy()
    weight = model.encoder.layers[1].self_attn.out_proj.weight
    rows = weight.numpy()
    rows[head * 6 : (head + 1) * 6] = 0
    weight.set_value(rows)
    assert np.allclose(model(ids).numpy(), silent, atol=1e-6)


def test_hooks_go_when_the_block_raises():
    model = make_model()
    ids = paddle.to_tensor([[2, 5, 6, 3]])
    plain = model(ids).numpy()
    with pytest.raises(ValueError, match=r"keep has shape \[2, 3\].*\(2, 4\)"):
        with masked_heads(model, np.ones((2, 3))):
            pass
    with pytest.raises(RuntimeError), masked_heads(model, np.zeros((2, 4))):
        raise RuntimeError
    assert (model(ids).numpy() == plain).all()


# --- Swapped neighbors, receptive field -------------------------------------------------------


def test_a_kernel_from_the_token_alone_ignores_its_neighbors():
    ids, content, pool = np.arange(3, 15), np.ones(12, bool), np.arange(5, 60)
    for conv_type, first in (("dynamic", False), ("sdconv", True)):
        model = make_model(conv_type=conv_type)
        found = swap_variation(model, ids, content, pool, samples=4)
        assert found.shape == (2, 2) and found[1].min() > 1e-6
        assert (found[0].min() > 1e-4) if first else (found[0].max() < 1e-10)
    static = swap_variation(make_model(conv_type="static"), ids, content, pool, samples=4)
    assert static.max() == 0


def test_swapped_neighbors_by_hand():
    """One place with one neighbor: the variance over the neighbor's two possible words."""
    model, ids = make_model(), np.array([3, 7, 9, 4])
    content, pool = np.array([False, True, True, False]), np.array([20, 30])
    found = swap_variation(model, ids, content, pool, samples=400)
    variances = []
    for place, other in ((1, 2), (2, 1)):
        taps = []
        for word in pool:
            variant = ids.copy()
            variant[other] = word
            with paddle.no_grad():
                mixing = model(paddle.to_tensor(variant[None]), output_mixing=True).mixing
            taps.append([mixed.kernels.numpy()[0, :, place] for mixed in mixing])
        # Two equally likely kernels: the variance is a quarter of the squared difference.
        variances.append(((np.array(taps[0]) - np.array(taps[1])) ** 2).sum(-1) / 4)
    expected = np.mean(variances, axis=0)
    assert expected.min() > 1e-5
    assert np.allclose(found, expected, rtol=0.03)


def test_without_attention_nothing_comes_from_further_than_the_kernels_reach():
    model = make_model(conv_kernel_size=3, num_hidden_layers=3)
    ids = np.arange(3, 17)
    far = np.abs(np.subtract.outer(np.arange(14), np.arange(14)))
    keep = np.ones((3, 4))
    keep[:, :2] = 0
    with masked_heads(model, keep):
        silent = receptive_field(model, ids, probes=2)
    whole = receptive_field(model, ids, probes=2)
    for layer in range(3):
        assert (silent[layer][far > layer + 1] == 0).all()
        assert (silent[layer][far <= layer + 1] > 0).all()
        assert (whole[layer] > 0).all()
    assert np.allclose(whole.sum(-1), 1)


def test_the_field_is_the_norm_of_the_jacobian():
    model = make_model(num_hidden_layers=1)
    model.to(dtype="float64")
    ids, step = np.array([5, 9, 7]), 1e-5
    exact = receptive_field(model, ids)[0]
    layer = model.encoder.layers[0]
    with paddle.no_grad():
        x = model(paddle.to_tensor(ids[None]), output_hidden_states=True).hidden_states[0]
        squares = np.zeros((3, 3))
        for j in range(3):
            for axis in range(24):
                moved = x.clone()
                moved[0, j, axis] += step
                back = x.clone()
                back[0, j, axis] -= step
                change = (layer(moved, None, None)[0] - layer(back, None, None)[0]).numpy()[0]
                squares[:, j] += ((change / (2 * step)) ** 2).sum(-1)
    jacobian = np.sqrt(squares)
    assert np.allclose(exact, jacobian / jacobian.sum(-1, keepdims=True), atol=1e-6)
    estimated = receptive_field(model, ids, probes=200)[0]
    assert np.allclose(estimated, exact, atol=0.03)


def test_long_texts_are_cut():
    model = make_model()
    long = " ".join(["w1"] * 100)
    assert record(model, WORDS, [long])[0].attention.shape[-1] == 32  # the model's limit
    cut = record(model, WORDS, [long], max_length=8)[0]
    assert cut.tokens == ["[CLS]", *["w1"] * 6, "[SEP]"]
    assert cut.special.tolist() == [True, *[False] * 6, True]


def test_only_real_separators_are_special():
    """A text that spells "[SEP]", or has unknown words or [PAD]'s id in it, is content."""
    made = record(make_model(), WORDS, ["w1 [SEP] xyz"])[0]
    assert made.tokens == ["[CLS]", "w1", "[", "[UNK]", "]", "[UNK]", "[SEP]"]
    assert made.special.tolist() == [True, *[False] * 5, True]


def test_model_without_convolution_heads():
    made = record(make_model(conv_type="noconv"), WORDS, TEXTS[:1])[0]
    n = len(made.ids)
    assert made.attention.shape == (2, 4, n, n)
    assert made.kernels.shape == (2, 0, n, 1)
    band = measure.expand_kernels(made.kernels)
    assert band.shape == (2, 0, n, n)
    assert measure.distance(band, made.content).shape == (2, 0)


@pytest.mark.parametrize("conv_type", ["sdconv", "static", "noconv"])
def test_files_give_records_back(conv_type: str, tmp_path: Path):
    made = record(
        make_model(conv_type=conv_type),
        WORDS,
        TEXTS[:1],
        value_norms=True,
        note="größer ∞",
        seed=[1, 2],
    )[0]
    made.save(tmp_path / "record.npz")
    read = MixingRecord.load(tmp_path / "record.npz")
    assert read.tokens == made.tokens and read.metadata == made.metadata
    assert made.metadata["note"] == "größer ∞" and made.metadata["seed"] == [1, 2]
    for name in ("ids", "valid", "special", "segments", "attention", "kernels", "norms"):
        one, other = getattr(read, name), getattr(made, name)
        assert one.dtype == other.dtype and np.array_equal(one, other), name
    with np.load(tmp_path / "record.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "ifbu" for name in file.files)


def test_a_file_with_pickled_content_is_refused(tmp_path: Path):
    made = record(make_model(), WORDS, TEXTS[:1])[0]
    names = ("ids", "valid", "special", "segments", "kernels")
    content = {name: getattr(made, name) for name in names}
    text = np.frombuffer(b'{"tokens": [], "metadata": {}}', np.uint8)
    bad = np.array([{"code": 1}], dtype=object)
    np.savez(tmp_path / "bad.npz", **content, text=text, attention=bad)
    with pytest.raises(ValueError, match="allow_pickle"):
        MixingRecord.load(tmp_path / "bad.npz")


def test_a_file_that_is_no_record_is_refused(tmp_path: Path):
    np.savez(tmp_path / "other.npz", ids=np.arange(3))
    with pytest.raises(
        ValueError, match=r"other.npz is no record of mixing: no attention, kernels"
    ):
        MixingRecord.load(tmp_path / "other.npz")
    (made,) = record(make_model(), WORDS, TEXTS[:1])
    broken = MixingRecord(
        made.tokens[:-1], made.ids, made.valid, made.special, made.segments,
        made.attention, made.kernels,
    )  # fmt: skip
    broken.save(tmp_path / "broken.npz")
    with pytest.raises(ValueError, match="7 tokens, but matrices of another size"):
        MixingRecord.load(tmp_path / "broken.npz")


def test_models_with_a_head_are_recorded_by_their_encoder():
    model = randomize(ConvBertForMaskedLM(small_config()))
    (whole,) = record(model, WORDS, TEXTS[:1])
    (inner,) = record(model.convbert, WORDS, TEXTS[:1])
    assert (whole.attention == inner.attention).all()
    assert whole.metadata["checkpoint"] == inner.metadata["checkpoint"]
