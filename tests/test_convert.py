"""`convbert convert` and published names: what is recognized, written, found and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import foreign_files as foreign
import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file
from support import randomize, small_config, token_ids
from test_tokenizer import CLEAN, MISREAD, needs_data

from convbert import cli, heads
from convbert.config import ConvBertConfig
from convbert.model import ConvBertModel
from convbert.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer
from convbert.weights import huggingface, paddlenlp, published

CLASSES = (
    "ConvBertModel",
    "ConvBertForMaskedLM",
    "ConvBertDiscriminator",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertForQuestionAnswering",
    "ConvBertForMultipleChoice",
)


def make(name: str, **changes: Any) -> Any:
    return randomize(getattr(heads, name)(small_config(**changes)))


def values(model: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def same(model: Any, other: Any) -> bool:
    mine, theirs = values(model), values(other)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k]) for k in mine)


def convert(source: Path | str, target: Path, *words: str) -> int:
    return cli.main(["convert", "--source", str(source), "--target", str(target), *words])


def write_config(folder: Path, model: Any, class_name: str = "") -> None:
    folder.mkdir(exist_ok=True)
    _, config = huggingface.to_file({}, model.config, class_name or type(model).__name__)
    (folder / "config.json").write_text(json.dumps(config))


# --- Layouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["huggingface", "paddlenlp"])
@pytest.mark.parametrize("name", CLASSES)
def test_every_model_goes_there_and_back(name: str, format: str, tmp_path: Path, capsys: Any):
    """ours -> transformers or PaddleNLP -> the other of the two -> ours, bit for bit."""
    model = make(name, num_labels=3, num_groups=2)
    model.save_pretrained(tmp_path / "ours")
    other = {"huggingface": "paddlenlp", "paddlenlp": "huggingface"}[format]
    assert convert(tmp_path / "ours", tmp_path / "one", "--format", format) == 0
    assert (
        f"huggingface layout, {len(model.state_dict())} arrays, {name}\n" in capsys.readouterr().out
    )
    assert convert(tmp_path / "one", tmp_path / "two", "--format", other) == 0
    for folder in ("one", "two"):
        again = type(model).from_pretrained(tmp_path / folder)
        assert same(again, model)
        assert again.config == model.config


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("prefix", ["", "convbert."])
def test_paddles_files(prefix: str, protocol: int, tmp_path: Path):
    """With and without the prefix, as PaddleNLP and earlier ConvBERT code on Paddle write them."""
    model = make("ConvBertModel")
    write_config(tmp_path, model)
    arrays = {prefix + name: value for name, value in values(model).items()}
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, arrays, protocol)
    assert same(ConvBertModel.from_pretrained(tmp_path), model)
    tuned = heads.ConvBertForTokenClassification.from_pretrained(tmp_path)
    assert same(tuned.convbert, model)
    paddle.save({name: paddle.to_tensor(v) for name, v in arrays.items()}, str(tmp_path / "x"))
    shutil.move(tmp_path / "x", tmp_path / paddlenlp.WEIGHTS)
    assert same(ConvBertModel.from_pretrained(tmp_path), model)


def test_arrays_by_columns(tmp_path: Path):
    """NumPy pickles such an array column by column, and says so."""
    model = make("ConvBertModel")
    write_config(tmp_path, model)
    arrays = {name: np.asfortranarray(value) for name, value in values(model).items()}
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, arrays)
    assert same(ConvBertModel.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("prefix", ["", "convbert."])
def test_pytorchs_files(prefix: str, tmp_path: Path):
    """With the buffers and the tied decoder that older versions wrote, and a transposed view."""
    model = make("ConvBertForMaskedLM" if prefix else "ConvBertModel")
    write_config(tmp_path, model)
    arrays = foreign.to_huggingface(values(model))
    arrays[f"{prefix}embeddings.position_ids"] = np.arange(32)[None]
    if prefix:
        arrays["generator_lm_head.weight"] = arrays["convbert.embeddings.word_embeddings.weight"]
    key = f"{prefix}encoder.layer.0.attention.self.query.weight"
    arrays[key] = np.asfortranarray(arrays[key])  # strides (1, A): stored as [in, out]
    assert arrays[key].strides[0] < arrays[key].strides[1]
    stored = {k: v if k != key else v.T for k, v in arrays.items()}
    program = foreign.torch_pickle(arrays)
    foreign.write_torch(tmp_path / huggingface.TORCH_WEIGHTS, stored, program, version=b"3")
    assert same(type(model).from_pretrained(tmp_path), model)
    assert convert(tmp_path, tmp_path / "target") == 0
    assert same(type(model).from_pretrained(tmp_path / "target"), model)


def test_the_decoder_of_older_files_must_be_the_word_table(tmp_path: Path):
    model = make("ConvBertForMaskedLM")
    write_config(tmp_path, model)
    arrays = foreign.to_huggingface(values(model))
    arrays["generator_lm_head.weight"] = arrays["convbert.embeddings.word_embeddings.weight"] + 1
    foreign.write_torch(tmp_path / huggingface.TORCH_WEIGHTS, arrays)
    with pytest.raises(ValueError, match="differs from the word table"):
        type(model).from_pretrained(tmp_path)


def test_safetensors_come_before_pickles(tmp_path: Path, capsys: Any):
    model = make("ConvBertModel")
    model.save_pretrained(tmp_path)
    (tmp_path / huggingface.TORCH_WEIGHTS).write_bytes(b"not looked at")
    assert same(ConvBertModel.from_pretrained(tmp_path), model)
    assert "reading model.safetensors, not pytorch_model.bin" in capsys.readouterr().out


def test_names_of_both_layouts_are_refused(tmp_path: Path):
    model = make("ConvBertModel")
    write_config(tmp_path, model)
    arrays = values(model) | foreign.to_huggingface(values(model))
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, arrays)
    with pytest.raises(ValueError, match="names of both kinds"):
        ConvBertModel.from_pretrained(tmp_path)


def test_one_parameter_under_two_names_is_refused(tmp_path: Path):
    model = make("ConvBertForQuestionAnswering")
    model.save_pretrained(tmp_path)
    arrays = foreign.to_huggingface(values(model))
    arrays |= {"qa_outputs.bias": arrays["classifier.bias"] + 1}
    foreign.write_torch(tmp_path / huggingface.TORCH_WEIGHTS, arrays)
    (tmp_path / huggingface.WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"classifier\.bias is there under two names"):
        type(model).from_pretrained(tmp_path)


# --- PaddleNLP's configuration and pooler -------------------------------------------------------


def test_paddlenlps_older_configuration(tmp_path: Path):
    model = make("ConvBertForSequenceClassification", num_labels=3, classifier_dropout=0.2)
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, values(model))
    base = {k: v for k, v in model.config.to_dict().items() if not k.endswith(("label", "dropout"))}
    for key in ("model_type", "conv_type", "conv_sees_padding", "generator_fraction"):
        del base[key]
    (tmp_path / paddlenlp.LEGACY_CONFIG).write_text(
        json.dumps(
            {
                "init_args": [{**base, "init_class": "ConvBertModel"}],
                "num_classes": 3,
                "dropout": 0.2,
                "init_class": "ConvBertForSequenceClassification",
            }
        )
    )
    again = type(model).from_pretrained(tmp_path)
    assert same(again, model) and again.config == model.config


def test_of_two_networks_the_discriminators_configuration_counts():
    def of(hidden: int, kind: str) -> dict[str, Any]:
        base = {"hidden_size": hidden, "init_class": "ConvBertModel"}
        return {"init_args": [base], "init_class": f"ConvBert{kind}"}

    both = {"init_args": [of(64, "Generator"), of(256, "Discriminator")], "init_class": "Both"}
    flat = paddlenlp.flatten_config(both)
    assert flat == {"hidden_size": 256, "architectures": ["Both"]}


def test_paddlenlps_pooler(tmp_path: Path, capsys: Any):
    """What a head was trained on cannot be left out; what only rides along can."""
    model = make("ConvBertForSequenceClassification")
    write_config(tmp_path, model)
    pooler = {
        "convbert.pooler.dense.weight": np.eye(24, dtype="float32"),
        "convbert.pooler.dense.bias": np.zeros(24, "float32"),
    }
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, values(model) | pooler)
    message = r"convbert\.pooler\.dense\.weight.*put a pooler between encoder and head"
    with pytest.raises(ValueError, match=message):
        type(model).from_pretrained(tmp_path)
    assert same(ConvBertModel.from_pretrained(tmp_path), model.convbert)
    assert "ConvBERT has no pooler: convbert.pooler.dense.weight" in capsys.readouterr().out
    # Without its tanh this pooler changes nothing.
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pool_act": "identity"}))
    assert same(type(model).from_pretrained(tmp_path), model)
    assert "pooler" not in capsys.readouterr().out
    pooler["convbert.pooler.dense.bias"][3] = 1e-7
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, values(model) | pooler)
    with pytest.raises(ValueError, match=r"it holds convbert\.pooler\.dense\.bias: PaddleNLP"):
        type(model).from_pretrained(tmp_path)


def test_what_paddlenlp_does_not_have_is_not_written_for_it(tmp_path: Path):
    for changes, message in (
        ({"conv_type": "noconv"}, "conv_type='noconv': PaddleNLP can run sdconv only"),
        ({"head_ratio": 4}, "head_ratio=4: PaddleNLP can run 2 only"),
        ({"num_attention_heads": 1}, "num_attention_heads=1: PaddleNLP can run at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            make("ConvBertModel", **changes).save_pretrained(tmp_path / "new", "paddlenlp")
        assert not (tmp_path / "new").exists()


def test_transformers_multiple_choice_heads_that_read_elsewhere_are_refused(tmp_path: Path):
    model = make("ConvBertForMultipleChoice")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("summary_type") == "first"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"summary_type='last', and the one here reads \[CLS\]"):
        type(model).from_pretrained(tmp_path)
    assert same(ConvBertModel.from_pretrained(tmp_path), model.convbert)


# --- The command --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["huggingface", "paddlenlp"])
@pytest.mark.parametrize("nominal_heads", [4, 8])
def test_a_pretraining_model_becomes_discriminator_and_generator(
    nominal_heads: int, format: str, tmp_path: Path, capsys: Any
):
    model = make("ConvBertForPreTraining", num_attention_heads=nominal_heads)
    model.save_pretrained(tmp_path / "source")
    tokens = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))]
    ConvBertTokenizer(tokens).save_pretrained(tmp_path / "source")
    assert convert(tmp_path / "source", tmp_path / "a" / "target", "--format", format) == 0
    target = tmp_path / "a" / "target"
    names = ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]
    assert sorted(path.name for path in target.iterdir()) == sorted([*names, "generator"])
    assert sorted(path.name for path in (target / "generator").iterdir()) == names
    ids = paddle.to_tensor(token_ids(2, 7))
    judge = heads.ConvBertDiscriminator.from_pretrained(target)
    guess = heads.ConvBertForMaskedLM.from_pretrained(target / "generator")
    for loaded, part in ((judge, model.discriminator), (guess, model.generator)):
        loaded.eval()
        assert np.array_equal(loaded(ids).numpy(), part(ids).numpy())
    assert ConvBertTokenizer.from_pretrained(target / "generator").vocabulary == tokens
    said = capsys.readouterr().out
    assert "huggingface layout, 110 arrays, ConvBertForPreTraining" in said
    assert ("only this package reads it" in said) == (nominal_heads == 4)
    for path in target.rglob("*.*"):
        line = published.describe(path)
        assert f"{path.stat().st_size:,} bytes, sha256 " in line and line in said


def test_heads_that_look_alike_need_a_word(tmp_path: Path, capsys: Any):
    model = make("ConvBertForQuestionAnswering")
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, values(model))
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    assert convert(tmp_path, tmp_path / "target") == 1
    assert "say which by --architecture" in capsys.readouterr().err
    assert convert(tmp_path, tmp_path / "target", "--architecture", "ConvBertForAll") == 1
    assert "architecture='ConvBertForAll': choose one of ConvBertModel, " in capsys.readouterr().err
    words = ("--architecture", "ConvBertForQuestionAnswering")
    assert convert(tmp_path, tmp_path / "target", *words) == 0
    assert "qa_outputs.weight" in load_file(tmp_path / "target" / huggingface.WEIGHTS)


def test_a_configuration_can_be_given(tmp_path: Path, capsys: Any):
    config = ConvBertConfig.named("convbert-tiny", vocab_size=70)
    model = randomize(ConvBertModel(config))
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, values(model))
    assert convert(tmp_path, tmp_path / "target") == 1
    assert "config.json not found: give a directory that holds" in capsys.readouterr().err
    again = ConvBertModel.from_pretrained(tmp_path, config="convbert-tiny", vocab_size=70)
    assert same(again, model)
    assert same(ConvBertModel.from_pretrained(tmp_path, config=config), model)
    (tmp_path / "given.json").write_text(json.dumps(config.to_dict()))
    assert convert(tmp_path, tmp_path / "target", "--config", str(tmp_path / "given.json")) == 0
    assert same(ConvBertModel.from_pretrained(tmp_path / "target"), model)


def test_failures_leave_nothing_and_say_one_line(tmp_path: Path, capsys: Any):
    source, target = tmp_path / "source", tmp_path / "target"
    model = make("ConvBertModel")
    model.save_pretrained(source)
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    before = sorted(tmp_path.rglob("*"))
    assert convert(source, target) == 1
    assert "vocabulary of 5 entries: the model needs its own 61" in capsys.readouterr().err
    (source / huggingface.WEIGHTS).write_bytes(b"torn")
    assert convert(source, target) == 1
    said = capsys.readouterr().err
    assert "not a readable safetensors file" in said and said.count("\n") == 1
    assert convert(tmp_path / "absent", target) == 1
    assert "absent not found: give a directory" in capsys.readouterr().err
    assert convert(source, target, "--format", "onnx") == 2
    assert sorted(tmp_path.rglob("*")) == before
    target.mkdir()
    (target / "mine").touch()
    assert convert(source, target) == 1
    assert "exists and is not an empty directory" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_a_failing_writer_leaves_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make("ConvBertModel").save_pretrained(tmp_path / "source")
    tokens = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))]
    ConvBertTokenizer(tokens).save_pretrained(tmp_path / "source")
    before = sorted(tmp_path.iterdir())

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(ConvBertTokenizer, "save_pretrained", fail)
    assert convert(tmp_path / "source", tmp_path / "target") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_what_may_be_missing_or_left_over_is_named(tmp_path: Path, capsys: Any):
    model = make("ConvBertModel")
    write_config(tmp_path, model)
    arrays = values(model)
    gone = arrays.pop("encoder.layers.1.norm2.bias")
    arrays["extra.weight"] = gone
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, arrays)
    for options, message in (
        ({}, r"missing encoder\.layers\.1\.norm2\.bias; unexpected extra\.weight"),
        ({"allow_missing": ["encoder.layers.1.*"]}, r": unexpected extra\.weight"),
        ({"allow_unexpected": ["extra.*"]}, r": missing encoder\.layers\.1\.norm2\.bias"),
    ):
        with pytest.raises(ValueError, match=f"does not fit ConvBertModel: .*{message}|{message}"):
            ConvBertModel.from_pretrained(tmp_path, **options)
    both: Any = {"allow_missing": ["*.norm2.bias"], "allow_unexpected": ["extra.*"]}
    loaded = ConvBertModel.from_pretrained(tmp_path, **both)
    found = values(loaded)
    assert np.array_equal(found.pop("encoder.layers.1.norm2.bias"), np.zeros(24))
    assert all(np.array_equal(found[name], arrays[name]) for name in found)
    assert "randomly initialized: encoder.layers.1.norm2.bias" in capsys.readouterr().out


def test_nothing_in_common_is_an_error_whatever_is_allowed(tmp_path: Path):
    model = make("ConvBertModel")
    write_config(tmp_path, model)
    arrays = {f"encoder.layers.0.other{i}": np.zeros(64, "float32") for i in range(3)}
    foreign.write_paddle(tmp_path / paddlenlp.WEIGHTS, arrays)
    with pytest.raises(ValueError, match="none of its arrays belongs to the model"):
        ConvBertModel.from_pretrained(tmp_path, allow_missing=["*"], allow_unexpected=["*"])


# --- Published names ----------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, empty caches; the folder gets `data`, `cache` and `hub`."""
    from huggingface_hub import constants

    for name in ("data", "cache", "hub"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def small(folder: Path) -> ConvBertModel:
    """Write a small encoder into a folder, as PyTorch's file; return it."""
    model = make("ConvBertModel")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    foreign.write_torch(folder / huggingface.TORCH_WEIGHTS, foreign.to_huggingface(values(model)))
    return model


def test_a_missing_network_is_explained(offline: Path):
    with pytest.raises(FileNotFoundError) as error:
        ConvBertModel.from_pretrained("YituTech/conv-bert-base")
    message = str(error.value)
    for part in (
        str(offline / "data" / "weights" / "convbert-base"),
        str(offline / "cache" / "weights" / "convbert-base"),
        "huggingface_hub's cache",
        "HF_HUB_OFFLINE is set",
        "config.json, vocab.txt and model.safetensors or pytorch_model.bin",
        "huggingface.co/YituTech/conv-bert-base into weights/convbert-base in the folder",
    ):
        assert part in message


@pytest.mark.parametrize(
    "folder", ["convbert-small", "conv-bert-small", "YituTech/conv-bert-small"]
)
@pytest.mark.parametrize("root", ["data", "cache"])
def test_published_names_are_found_in_folders(root: str, folder: str, offline: Path, capsys: Any):
    place = offline / root / "weights" / folder
    model = small(place)
    for name in ("convbert-small", "YituTech/conv-bert-small", "conv-bert-small"):
        assert same(ConvBertModel.from_pretrained(name), model)
        said = capsys.readouterr().out
        assert f"weights: convbert-small from {place}, a folder without revision" in said
        assert published.describe(place / huggingface.TORCH_WEIGHTS) in said
    with pytest.raises(FileNotFoundError, match="looked in huggingface_hub's cache"):
        ConvBertModel.from_pretrained("convbert-small", revision="0" * 40)


def test_published_names_are_found_in_the_hubs_cache(offline: Path, capsys: Any):
    revision = "0123456789" * 4
    repository = offline / "hub" / "models--YituTech--conv-bert-small"
    model = small(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    for options in ({}, {"revision": revision}):
        assert same(ConvBertModel.from_pretrained("convbert-small", **options), model)
        assert f"revision {revision}" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="huggingface_hub's cache"):
        ConvBertModel.from_pretrained("convbert-small", revision="f" * 40)


def test_a_published_size_needs_no_configuration(offline: Path):
    model = randomize(ConvBertModel(ConvBertConfig.named("convbert-small", num_hidden_layers=1)))
    place = offline / "data" / "weights" / "convbert-small"
    place.mkdir(parents=True)
    foreign.write_paddle(place / paddlenlp.WEIGHTS, values(model))
    assert same(ConvBertModel.from_pretrained("convbert-small", num_hidden_layers=1), model)


def test_a_revision_is_of_published_names(tmp_path: Path):
    with pytest.raises(ValueError, match="revision='x'"):
        ConvBertModel.from_pretrained(tmp_path, revision="x")
    with pytest.raises(FileNotFoundError, match="or one of convbert-small, "):
        ConvBertModel.from_pretrained("conv-bert-huge")


# --- Vocabulary ---------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("is_clean_there", [True, False])
def test_the_broken_vocabulary_is_replaced(
    is_clean_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    source, target = tmp_path / "source", tmp_path / "target"
    make("ConvBertModel", vocab_size=30522, embedding_size=4).save_pretrained(source)
    shutil.copy(MISREAD, source / "vocab.txt")
    if not is_clean_there:
        monkeypatch.setenv("CONVBERT_DATA", str(tmp_path))
        monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path))
    assert convert(source, target) == 0
    said = capsys.readouterr().out
    assert "1,900 non-ASCII entries misread as GBK" in said
    written = (target / "vocab.txt").read_bytes()
    if is_clean_there:
        assert written == CLEAN.read_bytes()
        assert f"{CLEAN} is written instead" in said
    else:
        assert written == MISREAD.read_bytes().replace(b"\r\n", b"\n")
        assert "it is kept, because the clean one is missing: vocab not found" in said
