"""The formulas of `budget` against models that are really built and run."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from convbert import ConvBertConfig, ConvBertModel, budget
from convbert.config import CONV_TYPES

TINY = dict(
    vocab_size=50, embedding_size=12, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=40, max_position_embeddings=16, conv_kernel_size=5,
)  # fmt: skip
VARIANTS = [
    ConvBertConfig(**{**TINY, "conv_type": conv, "num_groups": groups, **more})
    for conv, groups, more in itertools.product(
        CONV_TYPES,
        (1, 2),
        ({}, {"embedding_size": 24}, {"num_attention_heads": 1}, {"head_ratio": 4}),
    )
]
COMPONENTS = {  # component -> the parts of a layer's parameter names that belong to it
    "query, key, value": ("q_proj", "k_proj", "v_proj"),
    "scores and mixing": (),
    "span key": ("key_conv_attn_layer",),
    "kernel": ("conv_kernel_layer", "static_kernel", "channel_conv"),
    "convolution value": ("conv_out_layer",),
    "applied kernel": (),
    "output": ("out_proj",),
    "feed-forward": ("linear1", "linear2"),
    "normalization": ("norm1", "norm2"),
}


def _sizes(layer, parts, least_rank=1):
    """Add up the parameters whose name holds one of the parts."""
    return sum(
        parameter.size
        for name, parameter in layer.named_parameters()
        if parameter.ndim >= least_rank and any(part in name for part in parts)
    )


@pytest.mark.parametrize("config", VARIANTS)
def test_layer_parameters_are_those_of_a_real_layer(config):
    layer = ConvBertModel(config).encoder.layers[0]
    counts = budget.layer_parameters(config)
    assert list(counts) == list(budget.FAMILIES) == list(COMPONENTS)
    assert counts == {name: _sizes(layer, parts) for name, parts in COMPONENTS.items()}


@pytest.mark.parametrize("config", VARIANTS)
def test_model_parameters_are_those_of_a_real_model(config):
    model = ConvBertModel(config)
    counts = budget.model_parameters(config)
    assert sum(counts.values()) == sum(parameter.size for parameter in model.parameters())
    assert counts["embeddings"] == _sizes(model.embeddings, ("",))


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("convbert-small", 13_143_768),
        ("convbert-medium-small", 17_475_888),
        ("convbert-base", 105_680_520),
        ("convbert-base-generator", 33_171_928),
    ],
)
def test_published_totals(name, total):
    assert sum(budget.model_parameters(ConvBertConfig.named(name)).values()) == total


@pytest.mark.parametrize("config", VARIANTS)
def test_layer_macs_are_those_of_real_shapes(config):
    """A matrix product costs its weights once per token; mixing costs D per weight of the mix."""
    import paddle

    length = 11
    model = ConvBertModel(config)
    layer, heads = model.encoder.layers[0], config.heads
    _, _, mixing = model(paddle.ones([1, length], "int64"), output_mixing=True)
    expected = {  # biases have one axis, weights two or three
        name: length * _sizes(layer, parts, least_rank=2) for name, parts in COMPONENTS.items()
    }
    expected["normalization"] = 0
    expected["scores and mixing"] = 2 * mixing[0].attention.size * config.head_size
    if config.conv_type == "depthwise":
        assert mixing[0].kernels is None
        expected["applied kernel"] = expected["kernel"]  # a channel's taps, at each token
    elif config.conv_type != "noconv":
        assert list(mixing[0].kernels.shape) == [1, heads, length, config.conv_kernel_size]
        expected["applied kernel"] = mixing[0].kernels.size * config.head_size
    if config.conv_type in ("static", "depthwise"):
        expected["kernel"] = 0  # a parameter, but nothing is multiplied to make it
    if config.conv_type == "sdconv":
        expected["kernel"] += length * heads * config.head_size  # Q ⊙ K_s
    assert budget.layer_macs(config, length) == expected


@pytest.mark.parametrize(
    ("name", "length", "share"),
    [
        ("convbert-small", 279, 0.93),
        ("convbert-medium-small", 416, 0.62),
        ("convbert-base", 809, 0.95),
    ],
)
def test_crossover_and_share_of_bert(name, length, share):
    config = ConvBertConfig.named(name)
    exact = budget.crossover_length(config)
    assert round(exact) == length

    def spared_and_brought(tokens):
        macs = budget.by_family(budget.layer_macs(config, tokens))
        return macs["attention"], macs["convolution"]

    spared, brought = spared_and_brought(int(exact))
    assert spared <= brought
    spared, brought = spared_and_brought(int(exact) + 1)
    assert spared > brought
    bert = budget.bert_counterpart(config)
    ours, theirs = (sum(budget.layer_macs(c, 128).values()) for c in (config, bert))
    assert round(ours / theirs, 2) == share


@pytest.mark.parametrize("config", [c for c in VARIANTS if c.conv_type != "noconv"], ids=str)
@pytest.mark.parametrize(
    "change",
    [{"conv_type": kind} for kind in CONV_TYPES] + [{"conv_kernel_size": 9}, {"head_ratio": 1}],
    ids=str,
)
def test_a_variant_has_as_many_parameters(config, change):
    """But for less than one feed-forward unit of each group; counted by the formulas."""
    variant = budget.with_parameters_of(config, config.replaced(**change))
    ours, theirs = (sum(budget.layer_parameters(c).values()) for c in (config, variant))
    assert abs(ours - theirs) < config.num_groups * (2 * config.hidden_size + 1)
    wide = {"intermediate_size": config.intermediate_size}
    assert variant.replaced(**wide) == config.replaced(**change)
    if change == {"conv_type": "noconv"}:
        assert budget.attention_only(config) == variant


def test_refusals():
    config = ConvBertConfig(**TINY)
    with pytest.raises(ValueError, match="length=0"):
        budget.layer_macs(config, 0)
    with pytest.raises(ValueError, match="noconv"):
        budget.crossover_length(config.replaced(conv_type="noconv"))


def test_imports_no_paddle():
    code = "import sys, convbert.budget; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
