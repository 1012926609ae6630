"""Recording what a model mixed: what is kept, in which state, and that files give it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from support import randomize, small_config

from convbert import ConvBertModel, ConvBertTokenizer
from convbert.locality import measure
from convbert.locality.record import MixingRecord, record
from convbert.tokenizer import SPECIAL_TOKENS

WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(54)), "[", "]"])  # 61 entries
TEXTS = ["w1 w2 w3 w4 w5 w6", "w7", "w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18"]


def make_model(**changes) -> ConvBertModel:
    return randomize(ConvBertModel(small_config(**changes)))


def test_shapes_and_sums():
    records = record(make_model(), WORDS, TEXTS, checkpoint="none", step=3)
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
        assert made.metadata == {"checkpoint": "none", "step": 3}
        parts = measure.ledger(measure.expand_kernels(made.kernels), made.special)
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
    assert measure.distance(band, made.special).shape == (2, 0)


@pytest.mark.parametrize("conv_type", ["sdconv", "static", "noconv"])
def test_files_give_records_back(conv_type: str, tmp_path: Path):
    made = record(make_model(conv_type=conv_type), WORDS, TEXTS[:1], note="größer ∞", seed=[1, 2])[
        0
    ]
    made.save(tmp_path / "record.npz")
    read = MixingRecord.load(tmp_path / "record.npz")
    assert read.tokens == made.tokens and read.metadata == {"note": "größer ∞", "seed": [1, 2]}
    for name in ("ids", "special", "attention", "kernels"):
        one, other = getattr(read, name), getattr(made, name)
        assert one.dtype == other.dtype and np.array_equal(one, other), name
    with np.load(tmp_path / "record.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "ifbu" for name in file.files)


def test_a_file_with_pickled_content_is_refused(tmp_path: Path):
    made = record(make_model(), WORDS, TEXTS[:1])[0]
    content = {"ids": made.ids, "special": made.special, "kernels": made.kernels}
    text = np.frombuffer(b'{"tokens": [], "metadata": {}}', np.uint8)
    bad = np.array([{"code": 1}], dtype=object)
    np.savez(tmp_path / "bad.npz", **content, text=text, attention=bad)
    with pytest.raises(ValueError, match="allow_pickle"):
        MixingRecord.load(tmp_path / "bad.npz")
