"""Comparing encoders layer by layer; against other libraries in tests/parity."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
from support import randomize, small_config

from convbert import cli
from convbert.model import ConvBertModel
from convbert.weights import compare, published, published_values
from convbert.weights.compare import CompareConfig


@pytest.fixture
def alone(monkeypatch):
    """Make it look as if neither transformers nor PaddleNLP were installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a model's folder, and one whose second layer's output map lacks a transpose."""
    model = randomize(ConvBertModel(small_config(num_hidden_layers=3)))
    right, wrong = (tmp_path_factory.mktemp(name) for name in ("right", "wrong"))
    model.save_pretrained(right)
    square = model.encoder.layers[1].self_attn.out_proj.weight
    square.set_value(square.T)
    model.save_pretrained(wrong)
    return str(right), str(wrong)


def test_the_same_weights_do_not_differ(folders, alone, capsys):
    right, _ = folders
    assert cli.main(["compare", "--model", right, "--reference", right]) == 0
    out = capsys.readouterr().out
    assert "not compared with transformers: torch and transformers not installed" in out
    assert "not compared with PaddleNLP: paddlenlp not installed" in out
    assert len(re.findall(r" convbert +0\.00e\+00 +0\.00e\+00  embeddings\n", out)) == 4
    assert out.endswith("all below 1e-05\n")


def test_a_missing_transpose_is_found_in_its_layer(folders, alone, capsys):
    right, wrong = folders
    assert cli.main(["compare", "--model", right, "--reference", wrong]) == 1
    error = capsys.readouterr().err
    assert error.count("against convbert from encoder.layers.1 on") == 4
    assert error.count("\n") == 1


def test_the_tolerance_decides(folders, alone):
    right, wrong = folders
    compare.compare(CompareConfig(model=right, reference=wrong, tolerance=100.0))


def test_nothing_to_compare_with_is_an_error(folders, alone):
    with pytest.raises(ValueError, match="neither transformers nor PaddleNLP is installed"):
        compare.compare(CompareConfig(model=folders[0]))


def test_other_shapes_and_other_kinds_are_refused(folders, alone, tmp_path):
    ConvBertModel(small_config(hidden_size=48, num_hidden_layers=3)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"another shape than the model's: .*q_proj"):
        compare.compare(CompareConfig(model=folders[0], reference=str(tmp_path)))
    ConvBertModel(small_config(conv_type="noconv")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="conv_type='noconv' exists in no other library"):
        compare.load_or_draw(str(tmp_path), 0)


def test_only_a_published_name_may_be_drawn_at_random(alone, tmp_path):
    with pytest.raises(FileNotFoundError):
        compare.load_or_draw(str(tmp_path / "nothing"), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "small,large"}, "size=large: choose from small, medium-small, base"),
        ({"model": "x", "size": "small"}, "leave one out"),
        ({"reference": "x"}, "need --model"),
        ({"published": True}, "need --model"),
        ({"tolerance": 0.0}, "must be positive"),
        ({"tolerance": float("nan")}, "must be positive"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(**options)


def test_inputs_cover_padding_segments_and_length():
    config = small_config(pad_token_id=3)
    cases = compare.inputs(config, 0)
    assert {key for given in cases.values() for key in given} == {
        "input_ids", "attention_mask", "token_type_ids",
    }  # fmt: skip
    padded = cases["padded"]
    assert np.array_equal(padded["attention_mask"].sum(1), [24, 15, 5])
    assert (padded["input_ids"][padded["attention_mask"] == 0] == 3).all()
    assert set(np.unique(cases["two segments"]["token_type_ids"])) == {0, 1}
    assert cases["32 tokens"]["input_ids"].shape == (1, 32)
    again = compare.inputs(config, 0)
    assert np.array_equal(again["short"]["input_ids"], cases["short"]["input_ids"])
    assert not np.array_equal(compare.inputs(config, 1)["short"]["input_ids"], again["short"])


def test_a_difference_names_worst_and_first_layer():
    zeros = [np.zeros([1, 2, 2], "float32")] * 4
    off = [array.copy() for array in zeros]
    off[1][0, 0, 0], off[2][0, 1, 1], off[3][0, 1, 0] = 1e-6, -0.4, 0.2
    gap = compare.difference(zeros, off)
    assert gap.mean == pytest.approx((1e-6 + 0.4 + 0.2) / 16)
    assert gap.max == pytest.approx(0.4) and compare.layer_name(gap.worst) == "encoder.layers.1"
    assert gap.first_above(1e-5) == 2 and gap.first_above(1) is None
    assert compare.layer_name(0) == "embeddings"
    off[0][:] = np.nan
    assert compare.difference(zeros, off).first_above(1e30) == 0


def test_random_weights_hide_no_bias():
    model = compare.random_model("convbert-tiny", 0)
    flat = [float(np.abs(p.numpy()).max()) for p in model.parameters() if p.ndim == 1]
    assert len(flat) > 30 and min(flat) > 0.01
    again = compare.random_model("convbert-tiny", 0)
    assert all(
        np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def published_encoder(size: str):
    """Return a function with exactly the published outputs of a size."""

    def encode(given):
        ids = tuple(given["input_ids"][0].tolist())
        assert given["attention_mask"].all()
        hidden = np.zeros([1, len(ids), 30])
        if ids in published_values.BASE_SLICES:
            hidden[0, :3, :3] = published_values.BASE_SLICES[ids]
            return [hidden + 9, hidden]
        summary = published_values.SENTENCE_VALUES[size]
        hidden[0, 0, :5], hidden[0, 1, 0] = summary.first, summary.largest
        hidden[0, 2:] += (summary.mean * hidden.size - hidden.sum()) / hidden[0, 2:].size
        return [hidden + 9, hidden]

    return encode


@pytest.mark.parametrize("size", published.REPOSITORIES)
def test_published_outputs_are_recognized(size):
    gaps = published_values.check(size, published_encoder(size))
    assert len(gaps) == (5 if size == "convbert-base" else 3)
    assert max(gaps.values()) < 1e-9
    other = published_values.check(size, lambda given: [published_encoder(size)(given)[0]])
    assert min(other.values()) > 1


def test_weights_called_published_are_held_against_the_outputs(folders, tmp_path, capsys):
    model = ConvBertModel(small_config(hidden_size=256, embedding_size=128, vocab_size=12000))
    config = CompareConfig(model=str(tmp_path), published=True)
    off = compare._compare_published(config, model)
    assert len(off) == 3 and all("allowed 0.0001" in text for text in off)
    with pytest.raises(ValueError, match="has the shape of no published model"):
        compare._compare_published(config, ConvBertModel(small_config()))
    assert compare._compare_published(CompareConfig(model=str(tmp_path)), model) == []
    assert "not held against published outputs" in capsys.readouterr().out
