"""The published sizes against transformers and PaddleNLP; and TensorFlow's checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from test_weights_tensorflow import to_tensorflow, write

from convbert import cli
from convbert.config import ConvBertConfig
from convbert.heads import ConvBertForPreTraining
from convbert.model import ConvBertModel
from convbert.weights import compare, loading, tensorflow

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("size", compare.SIZES)
def test_both_libraries_compute_the_same(size: str):
    model = compare.random_model(f"convbert-{size}", seed=3)
    cases = compare.inputs(model.config, seed=3)
    ours = {case: compare.of_convbert(model)(given) for case, given in cases.items()}
    libraries = compare.references()
    assert list(libraries) == ["transformers", "PaddleNLP"]
    for library, build in libraries.items():
        theirs = build(model)
        for case, given in cases.items():
            gap = compare.difference(ours[case], theirs(given))
            assert len(gap.by_layer) == model.config.num_hidden_layers + 1
            where = f"{library}, {case}: largest in {compare.layer_name(gap.worst)}"
            assert 0 < gap.max <= TOLERANCE, where
            assert gap.mean < 1e-6, where


@pytest.mark.parametrize("library", ["transformers", "PaddleNLP"])
def test_a_missing_transpose_is_found_in_its_layer(library: str):
    model = compare.random_model("convbert-small", seed=0)
    theirs = compare.references()[library](model)
    weight = model.encoder.layers[4].self_attn.out_proj.weight
    weight.set_value(weight.T)
    for given in list(compare.inputs(model.config, 0).values())[:3]:
        first = compare.difference(compare.of_convbert(model)(given), theirs(given))
        assert compare.layer_name(first.first_above(TOLERANCE)) == "encoder.layers.4"


def test_the_command_says_that_weights_are_random(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["compare", "--size", "small", "--seed", "5"]) == 0
    out, error = capsys.readouterr()
    if "released weights not found" in out:
        assert "random ones of the same shapes, seed 5" in out
    for library in ("transformers", "PaddleNLP"):
        assert out.count(f" {library} ") == 4
    assert "Skip loading" not in error


def test_a_model_that_another_library_cannot_hold_is_one_line(tmp_path: Path):
    ConvBertModel(ConvBertConfig.named("convbert-small-generator", vocab_size=99)).save_pretrained(
        tmp_path
    )
    model, _ = compare.load_or_draw(str(tmp_path), 0)
    with pytest.raises(ValueError, match="transformers' encoder has other parameters"):
        compare.of_transformers(model)


@pytest.mark.parametrize("size", compare.SIZES)
def test_tensorflow_checkpoints_come_in_exactly(size: str, tmp_path: Path):
    """Both networks in the published size; the encoder's outputs against transformers."""
    config = ConvBertConfig.named(f"convbert-{size}", conv_sees_padding=True)
    model = ConvBertForPreTraining(config)
    arrays = to_tensorflow(model)
    arrays |= {f"{name}/adam_m": np.ones(2, "float32") for name in arrays}
    read = tensorflow.read(write(tmp_path / "model.ckpt", arrays, per_block=40))
    state = loading.unique_state(model)
    assert read.keys() == state.keys() and len(read) == (568 if size == "base" else 570)
    for name, array in read.items():
        assert np.array_equal(array, state[name].numpy()), name
    assert tensorflow.derive_config(read) == config.replaced(conv_sees_padding=False)

    encoder = ConvBertModel.from_pretrained(tmp_path, conv_sees_padding=True)
    ours, theirs = (
        compare.of_convbert(encoder),
        compare.of_transformers(model.discriminator.convbert),
    )
    for case, given in compare.inputs(config, 0).items():
        assert compare.difference(ours(given), theirs(given)).max <= TOLERANCE, case
    shutil.rmtree(tmp_path)  # base takes 0.5 GB
