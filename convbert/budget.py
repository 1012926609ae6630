"""Where a ConvBERT keeps its parameters and spends its arithmetic, by formula.

Both counts are split into the same components, so that they can be drawn side by side. Not in the
paper, which gives totals only. This module imports no Paddle.

Shapes: e embedding size, d hidden size, h heads per branch, D head size, A = h·D, k taps,
g groups, I feed-forward size, L length in tokens.
"""

from __future__ import annotations

from convbert.config import ConvBertConfig

# Component of one layer -> whom it belongs to.
FAMILIES = {
    "query, key, value": "projections",  # the convolution uses the query, too
    "scores and mixing": "attention",  # the part that grows with L²
    "span key": "convolution",
    "kernel": "convolution",
    "convolution value": "convolution",
    "applied kernel": "convolution",
    "output": "projections",
    "feed-forward": "feed-forward",
    "normalization": "normalization",
}


def layer_parameters(config: ConvBertConfig) -> dict[str, int]:
    """Count the parameters of one encoder layer, by component.

    Returns:
        Weights and biases of each component in `FAMILIES`; 0 where it has none.
    """
    d, size, taps = config.hidden_size, config.branch_size, config.conv_kernel_size
    wide, groups, heads = config.intermediate_size, config.num_groups, config.heads
    counts = dict.fromkeys(FAMILIES, 0)
    counts["query, key, value"] = 3 * (d * size + size)
    counts["span key"] = d * taps + d * size + size  # depthwise, pointwise, bias
    counts["kernel"] = size * heads * taps + heads * taps
    counts["convolution value"] = d * size + size
    counts["output"] = 2 * size * d + d
    counts["feed-forward"] = 2 * d * wide // groups + wide + d
    counts["normalization"] = 4 * d
    if config.conv_type != "sdconv":
        counts["span key"] = 0
        counts["kernel"] = d * heads * taps + heads * taps  # eq. 3: from the token itself
    if config.conv_type in ("static", "depthwise"):
        counts["kernel"] = taps * (heads if config.conv_type == "static" else size)
    if config.conv_type == "noconv":
        counts.update({"kernel": 0, "convolution value": 0, "output": size * d + d})
    return counts


def model_parameters(config: ConvBertConfig) -> dict[str, int]:
    """Count the parameters of the encoder with its embeddings, without a task head.

    Returns:
        "embeddings", "embedding projection", and each component of all layers together.
    """
    e, d = config.embedding_size, config.hidden_size
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    counts = {
        "embeddings": rows * e + 2 * e,  # three tables and a LayerNorm
        "embedding projection": e * d + d if e != d else 0,
    }
    layer = layer_parameters(config)
    return counts | {name: config.num_hidden_layers * count for name, count in layer.items()}


def layer_macs(config: ConvBertConfig, length: int) -> dict[str, int]:
    """Count multiply-accumulates of one encoder layer for one sequence, by component.

    Biases, softmax, activation and normalization are left out, as is customary. Applying a kernel
    counts k products per value; this package applies it as a banded matrix, which on a CPU is
    faster and multiplies the zeros outside the band, too.

    Args:
        config: the model.
        length: L, tokens in the sequence.

    Returns:
        Multiply-accumulates of each component in `FAMILIES`.

    Raises:
        ValueError: length below 1.
    """
    if length < 1:
        raise ValueError(f"length={length}: must be at least 1")
    d, size, taps = config.hidden_size, config.branch_size, config.conv_kernel_size
    branches = 1 if config.conv_type == "noconv" else 2
    counts = dict.fromkeys(FAMILIES, 0)
    counts["query, key, value"] = 3 * length * d * size
    counts["scores and mixing"] = 2 * length * length * size
    counts["output"] = branches * length * size * d
    counts["feed-forward"] = 2 * length * d * config.intermediate_size // config.num_groups
    if config.conv_type == "noconv":
        return counts
    counts["convolution value"] = length * d * size
    counts["applied kernel"] = length * size * taps
    if config.conv_type == "sdconv":
        counts["span key"] = length * d * taps + length * d * size  # depthwise, pointwise
        counts["kernel"] = length * size + length * size * config.heads * taps  # Q ⊙ K_s, W_f
    elif config.conv_type == "dynamic":
        counts["kernel"] = length * d * config.heads * taps
    return counts


def by_family(counts: dict[str, int]) -> dict[str, int]:
    """Add up the components of one layer that belong together, by the families of `FAMILIES`."""
    sums = dict.fromkeys(FAMILIES.values(), 0)
    for name, family in FAMILIES.items():
        sums[family] += counts[name]
    return sums


def crossover_length(config: ConvBertConfig) -> float:
    """Return the length from which on attention's own L² part costs more than the convolution.

    The part of attention that convolution heads spare is scores and mixing, 2·L²·A; the branch
    they bring costs L times a constant.

    Raises:
        ValueError: the model has no convolution branch.
    """
    if config.conv_type == "noconv":
        raise ValueError("conv_type='noconv': there is no convolution branch to compare with")
    macs = by_family(layer_macs(config, 1))
    return macs["convolution"] / macs["attention"]


def bert_counterpart(config: ConvBertConfig) -> ConvBertConfig:
    """Return BERT of the same width: all nominal heads attend, no groups."""
    return config.replaced(conv_type="noconv", num_groups=1)


def attention_only(config: ConvBertConfig) -> ConvBertConfig:
    """Return the control: attention heads only, and as many parameters.

    Its attention is twice as wide, so a layer would have more weights; the feed-forward layer
    gives way.
    """
    return with_parameters_of(config, config.replaced(conv_type="noconv"))


def with_parameters_of(model: ConvBertConfig, variant: ConvBertConfig) -> ConvBertConfig:
    """Return a variant of a model's width that has as many parameters as the model.

    Its feed-forward layer is made narrower or wider until a layer has as many, but for less than
    one of its own units.
    """
    surplus = sum(layer_parameters(variant).values()) - sum(layer_parameters(model).values())
    groups = variant.num_groups
    unit = 2 * variant.hidden_size + groups  # a feed-forward unit of each group, with its biases
    narrower = groups * round(surplus / unit)
    return variant.replaced(intermediate_size=variant.intermediate_size - narrower)
