"""Configurations: published shapes, what is refused and how, dictionaries and files."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.config import ACTIVATIONS, CONV_TYPES, FOREIGN_KEYS, SIZES, ConvBertConfig

# name: e, d, nominal heads, h, D, A, I, g
PUBLISHED = {
    "convbert-small": (128, 256, 4, 2, 64, 128, 1024, 1),
    "convbert-medium-small": (128, 384, 8, 4, 48, 192, 1536, 2),
    "convbert-base": (768, 768, 12, 6, 64, 384, 3072, 1),
    "convbert-small-generator": (128, 64, 1, 1, 64, 64, 256, 1),
    "convbert-medium-small-generator": (128, 96, 2, 1, 48, 48, 384, 2),
    "convbert-base-generator": (768, 256, 4, 2, 64, 128, 1024, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name: str):
    config = ConvBertConfig.named(name)
    assert (
        config.embedding_size,
        config.hidden_size,
        config.num_attention_heads,
        config.heads,
        config.head_size,
        config.branch_size,
        config.intermediate_size,
        config.num_groups,
    ) == PUBLISHED[name]
    common = dict(
        vocab_size=30522,
        num_hidden_layers=12,
        head_ratio=2,
        conv_kernel_size=9,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        max_position_embeddings=512,
        type_vocab_size=2,
        initializer_range=0.02,
        layer_norm_eps=1e-12,
        pad_token_id=0,
        conv_type="sdconv",
        conv_sees_padding=False,
    )
    assert {key: getattr(config, key) for key in common} == common


def test_tiny_is_small_enough_for_two_cores():
    tiny, generator = (ConvBertConfig.named("convbert-tiny" + end) for end in ("", "-generator"))
    assert (tiny.hidden_size, tiny.num_hidden_layers, tiny.vocab_size) == (128, 3, 4096)
    assert (generator.hidden_size, generator.heads, generator.head_size) == (64, 1, 32)


def test_named_takes_changes_and_knows_its_names():
    assert ConvBertConfig.named("convbert-small", vocab_size=100).vocab_size == 100
    changed = ConvBertConfig.named("convbert-base-generator", num_hidden_layers=3)
    assert (changed.hidden_size, changed.num_hidden_layers) == (256, 3)
    with pytest.raises(ValueError, match=r"no ConvBERT named 'convbert-large'.*convbert-base"):
        ConvBertConfig.named("convbert-large")
    with pytest.raises(ValueError, match="unknown configuration key 'layers'"):
        ConvBertConfig.named("convbert-small", layers=3)


@pytest.mark.parametrize(
    ("heads", "ratio", "d", "expected"),
    [
        (4, 1, 16, (4, 2, 8)),  # γ = 1: every nominal head in both branches, each half as wide
        (4, 2, 16, (2, 4, 8)),
        (6, 3, 24, (2, 6, 12)),
        (8, 4, 32, (2, 8, 16)),
        (4, 4, 16, (1, 8, 8)),
        (1, 2, 16, (1, 16, 16)),  # one nominal head: two full heads, as the authors' generator
        (1, 1, 16, (1, 16, 16)),
    ],
)
def test_head_ratio(heads: int, ratio: int, d: int, expected: tuple[int, int, int]):
    config = ConvBertConfig(num_attention_heads=heads, head_ratio=ratio, hidden_size=d)
    assert (config.heads, config.head_size, config.branch_size) == expected


def test_noconv_gives_all_heads_to_attention():
    config = ConvBertConfig(conv_type="noconv")
    assert (config.heads, config.head_size, config.branch_size) == (12, 64, 768)
    odd = ConvBertConfig(conv_type="noconv", num_attention_heads=3, head_ratio=2)
    assert (odd.heads, odd.head_size) == (3, 256)  # γ has no meaning without a convolution


REFUSED = [
    # changes, key, value, part of the rule
    (dict(generator_conv_type="conv"), "generator_conv_type", "'conv'", "noconv, or empty"),
    (dict(hidden_size=100), "hidden_size", "100", "divisible by num_attention_heads=12"),
    (dict(num_attention_heads=3), "num_attention_heads", "3", "divisible by head_ratio=2"),
    (dict(head_ratio=5), "num_attention_heads", "12", "must be 1 or divisible by head_ratio=5"),
    (
        dict(hidden_size=36, head_ratio=1, num_attention_heads=12),
        "hidden_size",
        "36",
        "2·(num_attention_heads/head_ratio)=24",
    ),
    (dict(conv_kernel_size=8), "conv_kernel_size", "8", "odd"),
    (dict(conv_kernel_size=0), "conv_kernel_size", "0", "at least 1"),
    (dict(conv_kernel_size=-3), "conv_kernel_size", "-3", "at least 1"),
    (dict(num_groups=0), "num_groups", "0", "at least 1"),
    (dict(num_groups=5), "hidden_size", "768", "divisible by num_groups=5"),
    (dict(num_groups=3, intermediate_size=100), "intermediate_size", "100", "num_groups=3"),
    (dict(hidden_act="swish"), "hidden_act", "'swish'", "gelu, gelu_new, relu"),
    (
        dict(conv_type="lightconv"),
        "conv_type",
        "'lightconv'",
        "sdconv, dynamic, static, depthwise, noconv",
    ),
    (dict(hidden_dropout_prob=1.0), "hidden_dropout_prob", "1.0", "at least 0 and below 1"),
    (dict(hidden_dropout_prob=-0.1), "hidden_dropout_prob", "-0.1", "at least 0 and below 1"),
    (dict(hidden_dropout_prob=float("nan")), "hidden_dropout_prob", "nan", "below 1"),
    (dict(attention_probs_dropout_prob=2), "attention_probs_dropout_prob", "2", "below 1"),
    (dict(classifier_dropout=1), "classifier_dropout", "1", "below 1"),
    (dict(classifier_dropout="0.1"), "classifier_dropout", "'0.1'", "a number"),
    (dict(hidden_dropout_prob=None), "hidden_dropout_prob", "None", "a number"),
    (dict(pad_token_id=-1), "pad_token_id", "-1", "at least 0"),
    (dict(pad_token_id=30522), "pad_token_id", "30522", "below vocab_size=30522"),
    (dict(pad_token_id=None), "pad_token_id", "None", "whole number"),
    (dict(vocab_size=30522.0), "vocab_size", "30522.0", "whole number"),
    (dict(num_hidden_layers=True), "num_hidden_layers", "True", "whole number"),
    (dict(initializer_range=0), "initializer_range", "0", "positive"),
    (dict(initializer_range=float("inf")), "initializer_range", "inf", "positive"),
    (dict(layer_norm_eps=0.0), "layer_norm_eps", "0.0", "positive"),
    (dict(layer_norm_eps=0.1), "layer_norm_eps", "0.1", "at most 0.001"),
    (dict(generator_fraction=1.5), "generator_fraction", "1.5", "at most 1"),
    (dict(conv_sees_padding=1), "conv_sees_padding", "1", "true or false"),
    (dict(hidden_act=["gelu"]), "hidden_act", "['gelu']", "a string"),
    *[
        (dict([(key, 0)]), key, "0", "at least 1")
        for key in """vocab_size embedding_size hidden_size num_hidden_layers num_attention_heads
        intermediate_size max_position_embeddings type_vocab_size head_ratio num_labels""".split()
    ],
]


@pytest.mark.parametrize(
    ("changes", "key", "value", "rule"),
    REFUSED,
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_refusals_name_key_value_and_rule(changes: dict, key: str, value: str, rule: str):
    with pytest.raises(ValueError) as error:
        ConvBertConfig(**changes)
    message = str(error.value)
    assert message.startswith(f"{key}={value}: "), message
    assert rule in message, message


def test_every_int_and_every_choice_has_a_refusal():
    """A field added later must come with its rule."""
    tested = {key for _, key, _, _ in REFUSED}
    assert tested == {field.name for field in fields(ConvBertConfig)}


def test_unknown_keys_are_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="'hiden_size'; did you mean 'hidden_size'"):
        ConvBertConfig.from_dict({"hiden_size": 256})
    with pytest.raises(ValueError, match="'xyzzy'; known: vocab_size, "):
        ConvBertConfig.from_dict({"xyzzy": 1})
    with pytest.raises(ValueError, match=r"num_attention_head.*did you mean 'num_attention_heads'"):
        ConvBertConfig().replaced(num_attention_head=4)


def test_foreign_keys_are_dropped_and_the_rest_read():
    hub = {
        "architectures": ["ConvBertModel"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "model_type": "convbert",
        "torch_dtype": "float32",
        "transformers_version": "4.5.0",
        "hidden_size": 384,
        "num_attention_heads": 8,
        "num_groups": 2,
        "intermediate_size": 1536,
        "embedding_size": 128,
        "pad_token_id": 1,
        "id2label": {"0": "no", "1": "yes", "2": "maybe"},
        "label2id": {"no": 0, "yes": 1, "maybe": 2},
    }
    config = ConvBertConfig.from_dict(hub)
    assert config == ConvBertConfig.named("convbert-medium-small", pad_token_id=1, num_labels=3)
    assert not FOREIGN_KEYS & {field.name for field in fields(ConvBertConfig)}
    assert ConvBertConfig.from_dict(dict.fromkeys(FOREIGN_KEYS)) == ConvBertConfig()
    assert ConvBertConfig.from_dict({"id2label": None}) == ConvBertConfig()


def test_from_dict_leaves_its_argument_alone():
    values = {"id2label": {"0": "a"}, "model_type": "convbert"}
    ConvBertConfig.from_dict(values)
    assert values == {"id2label": {"0": "a"}, "model_type": "convbert"}


rates = st.floats(0, 1, exclude_max=True)


@st.composite
def configs(draw: st.DrawFn) -> ConvBertConfig:
    """Draw any valid configuration."""
    heads, ratio, unit = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    groups = draw(st.integers(1, 4))
    nominal = heads * ratio
    vocabulary = draw(st.integers(1, 50_000))
    return ConvBertConfig(
        vocab_size=vocabulary,
        embedding_size=draw(st.integers(1, 1024)),
        hidden_size=2 * heads * nominal * groups * unit,
        num_hidden_layers=draw(st.integers(1, 24)),
        num_attention_heads=nominal,
        intermediate_size=groups * draw(st.integers(1, 500)),
        hidden_act=draw(st.sampled_from(ACTIVATIONS)),
        hidden_dropout_prob=draw(rates),
        attention_probs_dropout_prob=draw(rates),
        max_position_embeddings=draw(st.integers(1, 2048)),
        type_vocab_size=draw(st.integers(1, 4)),
        initializer_range=draw(st.floats(1e-6, 10)),
        layer_norm_eps=draw(st.floats(1e-20, 1e-3)),
        pad_token_id=draw(st.integers(0, vocabulary - 1)),
        head_ratio=ratio,
        conv_kernel_size=2 * draw(st.integers(0, 20)) + 1,
        num_groups=groups,
        classifier_dropout=draw(st.none() | rates),
        num_labels=draw(st.integers(1, 20)),
        conv_type=draw(st.sampled_from(CONV_TYPES)),
        conv_sees_padding=draw(st.booleans()),
        generator_fraction=draw(st.floats(0.01, 1)),
        generator_conv_type=draw(st.sampled_from(["", *CONV_TYPES])),
    )


@settings(max_examples=100, deadline=None)
@given(configs())
def test_dictionaries_and_json_give_the_same_back(config: ConvBertConfig):
    values = config.to_dict()
    assert ConvBertConfig.from_dict(values) == config
    assert ConvBertConfig.from_dict(json.loads(json.dumps(values))) == config
    assert values["model_type"] == "convbert"
    assert ("generator_conv_type" in values) == bool(config.generator_conv_type)
    assert len(values["id2label"]) == len(values["label2id"]) == config.num_labels


@settings(max_examples=100, deadline=None)
@given(configs())
def test_the_branches_make_up_the_layer(config: ConvBertConfig):
    assert config.branch_size == config.heads * config.head_size
    whole = config.conv_type == "noconv" or config.num_attention_heads == 1
    assert config.branch_size == (config.hidden_size if whole else config.hidden_size // 2)


def test_the_generator_follows_electras_rule():
    config = ConvBertConfig.named("convbert-small", conv_kernel_size=5, generator_fraction=0.5)
    changed = {
        key for key, value in asdict(config.generator()).items() if value != getattr(config, key)
    }
    assert changed == {"hidden_size", "intermediate_size", "num_attention_heads"}
    assert config.generator().hidden_size == 128
    assert config.generator().intermediate_size == 512


def test_a_generator_that_cannot_be_says_why():
    with pytest.raises(ValueError, match="hidden_size=115: must be divisible"):
        ConvBertConfig.named("convbert-medium-small", generator_fraction=0.3).generator()


def test_files(tmp_path: Path):
    path = tmp_path / "config.json"
    config = ConvBertConfig.named("convbert-medium-small", num_labels=3)
    path.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    assert ConvBertConfig.from_json_file(path) == config
    assert ConvBertConfig.from_json_file(str(path)) == config
    for content, complaint in (
        ("[1, 2]", "expected a JSON object, found list"),
        ('{"hidden_size": ', "line 1"),
        ('{"hidden_sizes": 3}', "did you mean 'hidden_size'"),
        ('{"hidden_size": 3}', "hidden_size=3: must be divisible"),
        ('{"id2label": 3}', "has no len"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError) as error:
            ConvBertConfig.from_json_file(path)
        assert str(path) in str(error.value)
        assert complaint in str(error.value)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"config\.json"):
        ConvBertConfig.from_json_file(path)
    with pytest.raises(FileNotFoundError):
        ConvBertConfig.from_json_file(tmp_path / "absent.json")


def test_configurations_are_values():
    config = ConvBertConfig()
    with pytest.raises(FrozenInstanceError):
        config.hidden_size = 3  # type: ignore[misc]
    assert config == ConvBertConfig() and hash(config) == hash(ConvBertConfig())
    assert config.replaced(num_labels=3) != config
    assert all(ConvBertConfig.named(name) for name in SIZES)


def test_every_field_says_what_it_is():
    source = Path(__file__).parents[1] / "convbert" / "config.py"
    lines = source.read_text(encoding="utf-8").splitlines()
    for field in fields(ConvBertConfig):
        line = next(line for line in lines if line.startswith(f"    {field.name}: "))
        assert " # " in line, field.name
