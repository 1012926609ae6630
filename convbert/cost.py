"""What pretraining costs: arithmetic, memory and days, by formula.

Arithmetic follows from `budget`: a multiply-accumulate is two operations, and the backward pass
takes twice the forward's. Memory is an estimate for float32; days are arithmetic divided by what
a device is assumed to sustain. This module imports no Paddle.
"""

from __future__ import annotations

from dataclasses import dataclass

from convbert import budget
from convbert.config import ConvBertConfig

_FORWARD_AND_BACKWARD = 3  # times the forward pass: it, the gradient of inputs, that of weights
_SECONDS_PER_DAY = 86_400
# float32 weights, gradients, and Adam's two moments
_BYTES_PER_PARAMETER = 4 * 4


@dataclass(frozen=True)
class Device:
    """What a processor is said to do, and how much of it training is assumed to get."""

    memory_gb: float  # gigabytes, 1e9 bytes
    peak: float  # operations per second in the precision that training uses
    sustained: float  # assumed part of the peak


# Peaks and memory from the makers' data sheets (16-bit tensor cores, without sparsity). The
# sustained part is an assumption, nothing that was measured here.
DEVICES = {
    "V100 32 GB": Device(32, 125e12, 0.25),
    "RTX 3090": Device(24, 71e12, 0.30),
    "A100 80 GB": Device(80, 312e12, 0.30),
    "H100 80 GB": Device(80, 989e12, 0.30),
}

# Size -> training operations for a million updates, as the paper gives them (tables 3 and 4).
PUBLISHED_FLOPS = {
    "convbert-small": 1.3e18,
    "convbert-medium-small": 1.5e18,
    "convbert-base": 1.9e19,
}
# Size -> examples of an update in the paper's appendix.
PUBLISHED_BATCH = {"convbert-small": 128, "convbert-medium-small": 128, "convbert-base": 256}


def chosen_positions(length: int, share: float = 0.15) -> int:
    """Return N, the positions of an example that the generator guesses: 19 of 128."""
    return max(1, int((share + 0.005) * length))


def forward_macs(config: ConvBertConfig, length: int) -> dict[str, int]:
    """Count multiply-accumulates of one example, of both networks.

    Args:
        config: the discriminator's; the generator is its `config.generator()`.
        length: L, tokens of the example.

    Returns:
        "discriminator" and "generator", each with its head; the generator projects only its
        chosen positions on the vocabulary.
    """
    d, generator = config.hidden_size, config.generator()
    e, guesses = generator.embedding_size, chosen_positions(length)
    head = guesses * (generator.hidden_size * e + e * generator.vocab_size)
    return {
        "discriminator": _encoder_macs(config, length) + length * (d * d + d),
        "generator": _encoder_macs(generator, length) + head,
    }


def _encoder_macs(config: ConvBertConfig, length: int) -> int:
    e, d = config.embedding_size, config.hidden_size
    projection = length * e * d if e != d else 0
    return projection + config.num_hidden_layers * sum(budget.layer_macs(config, length).values())


def training_flops(
    config: ConvBertConfig, batch: int, length: int = 128, steps: int = 1_000_000
) -> float:
    """Return the operations of a pretraining run.

    Args:
        config: the discriminator's.
        batch: examples of an update.
        length: L, tokens of an example.
        steps: updates.

    Raises:
        ValueError: a number below 1.
    """
    for name, value in (("batch", batch), ("length", length), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    macs = sum(forward_macs(config, length).values())
    return 2.0 * _FORWARD_AND_BACKWARD * macs * batch * steps


def electra_flops(
    config: ConvBertConfig, batch: int, length: int = 128, steps: int = 1_000_000
) -> float:
    """Return the operations of a pretraining run, counted as the authors of ELECTRA count them.

    Their `flops_computation.py` differs from `training_flops` in three points: the backward pass
    costs as much as the forward; a word is looked up by a product with the whole table; and
    softmax (5 operations a number), dropout (4), normalization (5), activation (8), biases and
    residuals count, too. That the ConvBERT paper counts so is not said there; its figures fit.

    Args:
        config: the discriminator's; arguments as in `training_flops`.
        batch: examples of an update.
        length: L, tokens of an example.
        steps: updates.
    """
    generator = config.generator()
    d, e, wide = config.hidden_size, generator.embedding_size, generator.hidden_size
    judge = 2 * d * d + 11 * d
    # The script projects 0.15625 of the positions, 20 of 128; softmax and loss of V scores.
    guess = 0.15625 * (2 * wide * e + 14 * e + 2 * e * config.vocab_size + 7 * config.vocab_size)
    encoders = _electra_encoder(config, length) + _electra_encoder(generator, length)
    return 2.0 * batch * steps * length * (encoders + judge + guess)


def _electra_encoder(config: ConvBertConfig, length: int) -> float:
    """Count operations per token of embeddings and layers, as `electra_flops` does."""
    e, d, wide = config.embedding_size, config.hidden_size, config.intermediate_size
    taps = 0 if config.conv_type == "noconv" else config.conv_kernel_size
    lookups = 2 * e * (config.vocab_size + length + 2) + 11 * e
    projection = 2 * d * e + d if e != d else 0
    macs = sum(budget.layer_macs(config, length).values()) / length
    scores = config.heads * (10 * length + 5 * taps)  # softmax, dropout, scale; kernels' softmax
    small = 3 * config.branch_size + 17 * d + 5 + 9 * wide  # 5: a slip of the script, not 5·d
    return lookups + projection + config.num_hidden_layers * (2 * macs + scores + small)


def parameters(config: ConvBertConfig) -> int:
    """Count the parameters that are trained: both networks, the embeddings once."""
    d, generator = config.hidden_size, config.generator()
    e = generator.embedding_size
    guess = generator.hidden_size * e + e + 2 * e + generator.vocab_size
    own = budget.model_parameters(generator)
    judge = d * d + d + d + 1
    encoder = sum(budget.model_parameters(config).values())
    return encoder + judge + sum(own.values()) - own["embeddings"] + guess


def layer_activations(config: ConvBertConfig, length: int) -> int:
    """Return how many numbers a layer keeps for its backward pass, per token.

    8d + 6A + 3hk + 2I + 4hL was fitted to what Paddle keeps on a CPU with dropout, and is within
    3 percent for all sizes and for 64 to 256 tokens.
    """
    d, size, heads = config.hidden_size, config.branch_size, config.heads
    taps = heads * config.conv_kernel_size
    return 8 * d + 6 * size + 3 * taps + 2 * config.intermediate_size + 4 * heads * length


def training_memory(config: ConvBertConfig, batch: int, length: int = 128) -> dict[str, float]:
    """Estimate the memory of a pretraining step in float32, in bytes.

    Autocast to 16 bits about halves the activations, and fused attention spares the part with L².

    Args:
        config: the discriminator's, of conv_type "sdconv".
        batch: examples that a device computes at once.
        length: L, tokens of an example.

    Returns:
        "weights, gradients, Adam", "activations" of both encoders, and "vocabulary", the
        generator's scores with their softmax and gradient.
    """
    kept = sum(
        each.num_hidden_layers * layer_activations(each, length)
        for each in (config, config.generator())
    )
    return {
        "weights, gradients, Adam": float(_BYTES_PER_PARAMETER * parameters(config)),
        "activations": 4.0 * batch * length * kept,
        "vocabulary": 3 * 4.0 * batch * chosen_positions(length) * config.vocab_size,
    }


def days(flops: float, device: Device, count: int = 1) -> float:
    """Return how many days a run takes on so many devices, if they scale perfectly."""
    return flops / (device.peak * device.sustained * count) / _SECONDS_PER_DAY
