"""Checkpoint files: names, layouts, what is found, what is refused, how files are written."""

from __future__ import annotations

import copy
import json
import os
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from support import large_value, randomize, small_config, token_ids

from convbert import heads
from convbert.heads import (
    ConvBertDiscriminator,
    ConvBertForMaskedLM,
    ConvBertForPreTraining,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
)
from convbert.model import ConvBertModel
from convbert.weights import huggingface, loading, names, reading

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
MODELS = (
    "ConvBertModel",
    "ConvBertForMaskedLM",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertForQuestionAnswering",
    "ConvBertForMultipleChoice",
    "ConvBertDiscriminator",
    "ConvBertForPreTraining",
)


def make(name: str, seed: int = 0, **changes: Any) -> Any:
    """Return a randomized model by class name."""
    return randomize(getattr(heads, name)(small_config(**changes)), seed)


def values(model: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def same(model: Any, other: dict[str, np.ndarray]) -> bool:
    mine = values(model)
    return mine.keys() == other.keys() and all(np.array_equal(mine[k], other[k]) for k in mine)


def rewrite(folder: Path, change: Any) -> None:
    """Read the weights of a directory, let `change` edit the dictionary, write them back."""
    arrays = load_file(folder / huggingface.WEIGHTS)
    change(arrays)
    save_file(arrays, folder / huggingface.WEIGHTS)


# --- Names and layouts ----------------------------------------------------------------------


@pytest.mark.parametrize("conv_type", ["sdconv", "static"])
@pytest.mark.parametrize("name", MODELS)
def test_names_translate_both_ways(name: str, conv_type: str):
    state = getattr(heads, name)(small_config(conv_type=conv_type)).state_dict()
    theirs = [names.to_huggingface(key) for key in state]
    assert len(set(theirs)) == len(state)
    assert [names.from_huggingface(key) for key in theirs] == list(state)
    foreign = [key for key in theirs if "self_attn" in key or "layer_norm" in key or "norm1" in key]
    assert foreign == []


def test_names_of_one_layer():
    """Written out, because a rule that is wrong both ways would pass the round trip."""
    expected = {
        "self_attn.q_proj.weight": "attention.self.query.weight",
        "self_attn.k_proj.bias": "attention.self.key.bias",
        "self_attn.v_proj.weight": "attention.self.value.weight",
        "self_attn.out_proj.weight": "attention.output.dense.weight",
        "self_attn.key_conv_attn_layer.depthwise.weight": (
            "attention.self.key_conv_attn_layer.depthwise.weight"
        ),
        "self_attn.key_conv_attn_layer.pointwise.weight": (
            "attention.self.key_conv_attn_layer.pointwise.weight"
        ),
        "self_attn.key_conv_attn_layer.bias": "attention.self.key_conv_attn_layer.bias",
        "self_attn.conv_kernel_layer.weight": "attention.self.conv_kernel_layer.weight",
        "self_attn.conv_out_layer.bias": "attention.self.conv_out_layer.bias",
        "norm1.weight": "attention.output.LayerNorm.weight",
        "linear1.weight": "intermediate.dense.weight",
        "linear2.bias": "output.dense.bias",
        "norm2.bias": "output.LayerNorm.bias",
    }
    for prefix in ("", "convbert.", "discriminator.convbert.", "generator.convbert."):
        for ours, theirs in expected.items():
            name, key = f"{prefix}encoder.layers.11.{ours}", f"{prefix}encoder.layer.11.{theirs}"
            assert (names.to_huggingface(name), names.from_huggingface(key)) == (key, name)
    assert names.to_huggingface("embeddings.layer_norm.bias") == "embeddings.LayerNorm.bias"
    assert names.to_huggingface("generator_lm_head_bias") == "generator_lm_head.bias"
    assert names.from_huggingface("qa_outputs.weight") == "classifier.weight"
    head = "generator_predictions.layer_norm.weight"
    assert names.to_huggingface(head) == "generator_predictions.LayerNorm.weight"
    # A head's own `dense` and `out_proj` are not the encoder's.
    assert names.to_huggingface("classifier.out_proj.weight") == "classifier.out_proj.weight"


@pytest.mark.parametrize("case", ["plain", "ratio_3", "question_answering", "masked_lm"])
def test_our_files_hold_what_transformers_holds(case: str, tmp_path: Path):
    """Names and shapes, against a stored reference; 24 and 2 groups tell transposes apart."""
    with np.load(GOLDEN / f"{case}.npz") as file:
        theirs = {k[7:]: file[k].shape for k in file.files if k.startswith("weight.")}
        (tmp_path / "config.json").write_text(str(file["config"]))
        cls = getattr(heads, str(file["model"]))
    model = cls(heads.ConvBertConfig.from_json_file(tmp_path / "config.json"))
    model.save_pretrained(tmp_path)
    ours = {k: v.shape for k, v in load_file(tmp_path / huggingface.WEIGHTS).items()}
    assert ours == theirs


def test_layouts():
    rng = np.random.default_rng(0)
    square = rng.normal(size=(4, 4))
    for name in ("encoder.layers.0.self_attn.out_proj.weight", "classifier.weight"):
        assert np.array_equal(names.swap_layout(name, square), square.T)
    for name in (
        "embeddings.word_embeddings.weight",
        "convbert.embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "generator_lm_head.weight",
        "self_attn.static_kernel",
    ):
        assert np.array_equal(names.swap_layout(name, square), square)
    filters = rng.normal(size=(4, 4, 4))
    for name in ("linear1.weight", "key_conv_attn_layer.pointwise.weight"):
        assert np.array_equal(names.swap_layout(name, filters), filters)
    bias = rng.normal(size=4)
    column = names.swap_layout("x.key_conv_attn_layer.bias", bias)
    assert column.shape == (4, 1)
    assert np.array_equal(names.swap_layout("x.key_conv_attn_layer.bias", column), bias)
    assert np.array_equal(names.swap_layout("linear1.bias", bias), bias)


# --- There and back -------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_for_bit(name: str, groups: int, tmp_path: Path, capsys):
    model = make(name, num_groups=groups, num_labels=3)
    model.save_pretrained(tmp_path / "new" / "folder")
    again = type(model).from_pretrained(str(tmp_path / "new" / "folder"))
    assert same(again, values(model))
    assert again.config == model.config
    assert capsys.readouterr().out == ""  # nothing new, nothing left aside
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("conv_type", ["dynamic", "static", "noconv"])
def test_ablations_come_back_too(conv_type: str, tmp_path: Path):
    model = make("ConvBertModel", conv_type=conv_type)
    model.save_pretrained(tmp_path)
    assert same(ConvBertModel.from_pretrained(tmp_path), values(model))


def test_shared_embeddings_are_written_once_and_shared_again(tmp_path: Path):
    model = make("ConvBertForPreTraining")
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / huggingface.WEIGHTS).keys()
    assert not [key for key in keys if key.startswith("generator.convbert.embeddings.")]
    again = ConvBertForPreTraining.from_pretrained(tmp_path)
    tables = [
        network.convbert.embeddings.word_embeddings.weight
        for network in (again.generator, again.discriminator)
    ]
    assert tables[0] is tables[1]


def test_files_are_marked_for_transformers(tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    with safe_open(tmp_path / huggingface.WEIGHTS, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((tmp_path / huggingface.CONFIG).read_text(encoding="utf-8"))
    assert config["model_type"] == "convbert" and config["hidden_size"] == 24


def test_overrides(tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    model = ConvBertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, hidden_dropout_prob=0.3, conv_sees_padding=True
    )
    assert model.classifier.out_proj.weight.shape == [24, 5]
    assert model.config.hidden_dropout_prob == 0.3 and model.config.conv_sees_padding
    with pytest.raises(ValueError, match="'num_label'; did you mean 'num_labels'"):
        ConvBertModel.from_pretrained(tmp_path, num_label=5)
    with pytest.raises(ValueError, match="expected"):
        ConvBertModel.from_pretrained(tmp_path, intermediate_size=24)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_become_float32(dtype: str, tmp_path: Path):
    """The random weights are exact in 16 bits, so nothing may change."""
    model = make("ConvBertModel")
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda arrays: arrays.update({k: v.astype(dtype) for k, v in arrays.items()}))
    again = ConvBertModel.from_pretrained(tmp_path)
    assert same(again, values(model))
    assert {str(value.dtype) for value in again.parameters()} == {"paddle.float32"}


# --- Finding the encoder --------------------------------------------------------------------


@pytest.mark.parametrize("source", MODELS)
@pytest.mark.parametrize("target", MODELS[:-1])
def test_the_encoder_is_found_wherever_it_lies(source: str, target: str, tmp_path: Path, capsys):
    model = make(source, num_labels=2)
    model.save_pretrained(tmp_path)
    encoder = model if source == "ConvBertModel" else getattr(model, "discriminator", model)
    encoder = encoder if source == "ConvBertModel" else encoder.convbert
    cls = getattr(heads, target)
    # A head of pretraining is left behind; another task's head is not thrown away in silence.
    left_behind = {"ConvBertForMaskedLM", "ConvBertDiscriminator", "ConvBertForPreTraining"}
    alike = {source, target} <= {"ConvBertForQuestionAnswering", "ConvBertForTokenClassification"}
    alike |= (source, target) == ("ConvBertForPreTraining", "ConvBertDiscriminator")
    old = source == target or alike
    if not (old or target == "ConvBertModel" or source in {"ConvBertModel", *left_behind}):
        with pytest.raises(
            ValueError, match=r"unexpected classifier|classifier.* has shape|reads \[CLS\]"
        ):
            cls.from_pretrained(tmp_path)
        return
    loaded = cls.from_pretrained(tmp_path)
    inside = loaded if target == "ConvBertModel" else loaded.convbert
    assert same(inside, values(encoder))
    said = capsys.readouterr().out
    head = [key for key in loaded.state_dict() if not key.startswith("convbert.")]
    if head and target != "ConvBertModel" and not old:
        assert f"{target}: new, randomly initialized: {', '.join(head)}" in said
    else:
        assert "new" not in said


def test_a_pretraining_file_gives_the_discriminator_not_the_generator(tmp_path: Path):
    model = make("ConvBertForPreTraining", seed=1)
    model.save_pretrained(tmp_path)
    loaded = ConvBertModel.from_pretrained(tmp_path)
    ids = paddle.to_tensor(token_ids(2, 7))
    loaded.eval()
    assert np.array_equal(loaded(ids).numpy(), model.discriminator.convbert(ids).numpy())


def test_with_nothing_shared_the_generator_does_not_confuse(tmp_path: Path):
    model = randomize(ConvBertForPreTraining(small_config(), share="none"))
    model.save_pretrained(tmp_path)
    assert same(ConvBertModel.from_pretrained(tmp_path), values(model.discriminator.convbert))
    assert same(ConvBertForPreTraining.from_pretrained(tmp_path), values(model))


@pytest.mark.parametrize("share", ["all", "words", "none"])
def test_a_pretraining_model_shares_what_its_file_shares(share: str, tmp_path: Path):
    """Other programs write a shared embedding twice, and share the word table only."""
    model = randomize(ConvBertForPreTraining(small_config(), share=share))
    model.save_pretrained(tmp_path)

    def write_twice(arrays: dict[str, np.ndarray]) -> None:
        for key, array in list(arrays.items()):
            if key.startswith("discriminator.convbert.embeddings."):
                arrays.setdefault(key.replace("discriminator", "generator", 1), array.copy())

    rewrite(tmp_path, write_twice)
    again = ConvBertForPreTraining.from_pretrained(tmp_path)
    assert same(again, values(model))
    assert len({id(p) for p in again.parameters()}) == len({id(p) for p in model.parameters()})


def test_a_new_head_is_random_and_follows_the_seed(tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    heads = []
    for seed in (5, 5, 6):
        paddle.seed(seed)
        loaded = ConvBertForTokenClassification.from_pretrained(tmp_path)
        heads.append(loaded.classifier.weight.numpy())
        assert np.array_equal(loaded.classifier.bias.numpy(), np.zeros(2))
    assert np.array_equal(heads[0], heads[1]) and not np.array_equal(heads[0], heads[2])
    limit = (6 / (24 + 2)) ** 0.5  # Glorot's uniform distribution, as in a model built afresh
    assert 0.5 * limit < np.abs(heads[0]).max() <= limit and np.unique(heads[0]).size > 40


def test_a_loaded_model_trains_and_can_be_copied(tmp_path: Path):
    """Its parameters were made without values."""
    make("ConvBertModel").save_pretrained(tmp_path)
    model = ConvBertForTokenClassification.from_pretrained(tmp_path)
    twin = copy.deepcopy(model)
    assert same(twin, values(model))
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters())
    model(paddle.to_tensor(token_ids(2, 7))).square().sum().backward()
    before = values(model)
    optimizer.step()
    after = values(model)
    assert all(np.isfinite(after[name]).all() for name in after)
    assert sum(not np.array_equal(after[name], before[name]) for name in after) > 30
    assert same(twin, before)


def test_a_tied_decoder_is_checked_and_dropped(tmp_path: Path, capsys):
    """Older files of transformers hold the decoder beside the word table it is tied to."""
    model = make("ConvBertForMaskedLM")
    model.save_pretrained(tmp_path)
    table = "convbert.embeddings.word_embeddings.weight"
    rewrite(tmp_path, lambda a: a.update({"generator_lm_head.weight": a[table].copy()}))
    assert same(ConvBertForMaskedLM.from_pretrained(tmp_path), values(model))
    assert same(ConvBertModel.from_pretrained(tmp_path), values(model.convbert))
    rewrite(tmp_path, lambda a: a.update({"generator_lm_head.weight": a[table] + 1}))
    for cls in (ConvBertForMaskedLM, ConvBertModel):
        with pytest.raises(ValueError, match=r"generator_lm_head\.weight differs from the word"):
            cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("prefix", ["", "convbert."])
def test_buffers_of_older_versions_are_ignored(prefix: str, tmp_path: Path):
    model = make("ConvBertModel" if not prefix else "ConvBertForMaskedLM")
    model.save_pretrained(tmp_path)
    buffers = {f"{prefix}embeddings.{name}": np.arange(32)[None] for name in ("position_ids",)}
    buffers[f"{prefix}embeddings.token_type_ids"] = np.zeros([1, 32], "int64")
    rewrite(tmp_path, lambda arrays: arrays.update(buffers))
    assert same(type(model).from_pretrained(tmp_path), values(model))


# --- What is refused ------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded(tmp_path: Path):
    source, target = make("ConvBertForMaskedLM", seed=1), make("ConvBertForMaskedLM", seed=2)
    source.save_pretrained(tmp_path)
    before = values(target)

    def damage(arrays: dict[str, np.ndarray]) -> None:
        del arrays["convbert.embeddings.LayerNorm.bias"]
        del arrays["convbert.encoder.layer.1.attention.self.query.weight"]
        del arrays["generator_lm_head.bias"]
        arrays["convbert.encoder.layer.2.output.dense.bias"] = np.zeros(24, "float32")
        arrays["convbert.pooler.dense.weight"] = np.zeros([24, 24], "float32")
        arrays["cls.weight"] = np.zeros(3, "float32")
        key = "convbert.encoder.layer.0.intermediate.dense.weight"
        arrays[key] = arrays[key].T.copy()
        arrays["convbert.embeddings.position_embeddings.weight"] = np.zeros([16, 12], "float32")

    rewrite(tmp_path, damage)
    with pytest.raises(ValueError) as error:
        loading.assign(target, reading.open_checkpoint(tmp_path).arrays, "here")
    message = str(error.value)
    assert message.startswith("here does not fit ConvBertForMaskedLM: ")
    listed = set(message.split(": ", 1)[1].split("; "))
    assert listed == {
        "missing convbert.embeddings.layer_norm.bias",
        "missing convbert.encoder.layers.1.self_attn.q_proj.weight",
        "missing generator_lm_head_bias",
        "unexpected convbert.encoder.layers.2.linear2.bias",
        "unexpected convbert.pooler.dense.weight",
        "unexpected cls.weight",
        "convbert.encoder.layers.0.linear1.weight has shape [48, 24], expected [24, 48]",
        "convbert.embeddings.position_embeddings.weight has shape [16, 12], expected [32, 12]",
    }
    assert same(target, before)


def test_half_a_head_is_not_a_new_head(tmp_path: Path):
    make("ConvBertForSequenceClassification").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda arrays: arrays.pop("classifier.dense.bias"))
    with pytest.raises(ValueError, match=r"missing classifier\.dense\.bias"):
        ConvBertForSequenceClassification.from_pretrained(tmp_path)


def test_a_head_for_other_labels_is_refused(tmp_path: Path):
    make("ConvBertForSequenceClassification", num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"out_proj\.weight has shape \[24, 3\], expected \[24, 2\]"
    ):
        ConvBertForSequenceClassification.from_pretrained(tmp_path, num_labels=2)


@pytest.mark.parametrize("cls", [ConvBertModel, ConvBertForMaskedLM])
@pytest.mark.parametrize("moved", ["embeddings.", "encoder.layer.1", "encoder.layer.0.output.d"])
@pytest.mark.parametrize("into", ["convbert.", "discriminator.convbert."])
def test_mixed_prefixes_are_refused(cls: Any, moved: str, into: str, tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)

    def move(arrays: dict[str, np.ndarray]) -> None:
        for key in [key for key in arrays if key.startswith(moved)]:
            arrays[into + key] = arrays.pop(key)

    rewrite(tmp_path, move)
    with pytest.raises(ValueError, match=f"expected one encoder, .*'…' and '{into}…'"):
        cls.from_pretrained(tmp_path)


def test_two_copies_of_a_parameter_are_refused(tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    key = "encoder.layer.0.output.dense.bias"
    rewrite(tmp_path, lambda arrays: arrays.update({"convbert." + key: arrays[key] + 1}))
    with pytest.raises(ValueError, match="expected one encoder"):
        ConvBertModel.from_pretrained(tmp_path)


def test_a_file_of_another_model_is_refused(tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    save_file({"bert.x": np.zeros(3, "float32")}, tmp_path / huggingface.WEIGHTS)
    for cls in (ConvBertModel, ConvBertForMaskedLM, ConvBertForPreTraining):
        with pytest.raises(ValueError, match="found neither"):
            cls.from_pretrained(tmp_path)


def test_torn_and_foreign_files_are_refused(tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    path = tmp_path / huggingface.WEIGHTS
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:20], b"", b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is not a readable safetensors"):
            ConvBertModel.from_pretrained(tmp_path)


def write_raw(path: Path, arrays: dict[str, tuple[str, list[int], bytes]]) -> None:
    """Write a safetensors file of types that NumPy may not have."""
    header, body = {}, b""
    for key, (kind, shape, content) in arrays.items():
        places = [len(body), len(body) + len(content)]
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": places}
        body += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("kind", ["I64", "I32", "U16", "U8", "BOOL"])
def test_element_types_other_than_floats_are_refused(kind: str, tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    width = {"I64": 8, "I32": 4, "U16": 2, "U8": 1, "BOOL": 1}[kind]
    path, key = tmp_path / huggingface.WEIGHTS, "embeddings.word_embeddings.weight"
    arrays = {k: ("F32", list(v.shape), v.tobytes()) for k, v in load_file(path).items()}
    write_raw(path, {**arrays, key: (kind, [61, 12], bytes(61 * 12 * width))})
    with pytest.raises(ValueError, match=f"word_embeddings.weight is {kind}, expected F16"):
        ConvBertModel.from_pretrained(tmp_path)


def test_bfloat16_is_read_exactly(tmp_path: Path):
    """The upper 16 bits of a float32; the random values need no more."""
    model = make("ConvBertModel")
    model.save_pretrained(tmp_path)
    path, upper = tmp_path / huggingface.WEIGHTS, {}
    for key, array in load_file(path).items():
        half = (array.view("uint32") >> 16).astype("<u2")
        assert np.array_equal((half.astype("uint32") << 16).view("float32"), array)
        upper[key] = ("BF16", list(array.shape), half.tobytes())
    write_raw(path, upper)
    assert same(ConvBertModel.from_pretrained(tmp_path), values(model))


@pytest.mark.parametrize("name", [huggingface.WEIGHTS, huggingface.CONFIG])
def test_a_missing_file_is_named(name: str, tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} not found: give a directory that holds"):
        ConvBertModel.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        ConvBertModel.from_pretrained(tmp_path / "absent")


def test_a_wrong_configuration_beside_the_weights_is_refused(tmp_path: Path):
    make("ConvBertModel").save_pretrained(tmp_path)
    path = tmp_path / huggingface.CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"num_hidden_layers": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"unexpected encoder\.layers\.1\.self_attn\.q_proj"):
        ConvBertModel.from_pretrained(tmp_path)
    path.write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"missing encoder\.layers\.2\.norm2\.bias"):
        ConvBertModel.from_pretrained(tmp_path)


# --- Writing --------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_modes_the_umask_says(mask: int, mode: int, tmp_path: Path):
    before = os.umask(mask)
    try:
        make("ConvBertModel").save_pretrained(tmp_path)
        assert os.umask(mask) == mask  # left as it was
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_a_full_disk_leaves_the_previous_model(tmp_path: Path):
    """A limit on file sizes stops the writer as a full disk does."""
    model = make("ConvBertModel", seed=1)
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    larger = make("ConvBertModel", seed=2, intermediate_size=96)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises((OSError, SafetensorError)):
            larger.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert same(ConvBertModel.from_pretrained(tmp_path), values(model))


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / huggingface.WEIGHTS).mkdir()
    with pytest.raises(OSError):
        make("ConvBertModel").save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [huggingface.WEIGHTS]


def test_other_formats_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="format='onnx'"):
        make("ConvBertModel").save_pretrained(tmp_path / "new", format="onnx")
    assert not (tmp_path / "new").exists()


def test_saving_does_not_disturb_the_model(tmp_path: Path):
    model = make("ConvBertForQuestionAnswering")
    assert isinstance(model, ConvBertForQuestionAnswering)
    before = values(model)
    model.save_pretrained(tmp_path)
    assert same(model, before)
    rng = np.random.default_rng(9)
    for name, parameter in model.named_parameters():
        parameter.set_value(large_value(name, tuple(parameter.shape), rng))
    # The file holds what was saved, not a view of what trains on.
    assert same(ConvBertForQuestionAnswering.from_pretrained(tmp_path), before)


def test_unique_state_prefers_the_discriminators_names():
    state = loading.unique_state(make("ConvBertForPreTraining"))
    assert len({id(value) for value in state.values()}) == len(state)
    assert "discriminator.convbert.embeddings.word_embeddings.weight" in state
    assert isinstance(make("ConvBertDiscriminator"), ConvBertDiscriminator)
