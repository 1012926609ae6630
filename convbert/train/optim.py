"""Learning rates and the optimizer: schedules, layer-wise decay, AdamW.

Schedules follow ELECTRA's and BERT's fine-tuning; factors multiply the peak learning rate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import paddle
from paddle import nn

from convbert.config import ConvBertConfig


def linear_warmup(step: int, total: int, warmup: int) -> float:
    """Factor of the update after `step` finished ones: up to 1 linearly, then down to 0.

    Args:
        step: finished updates s; the first update has factor 0 if there is a warm-up.
        total: updates T at which the factor reaches 0.
        warmup: updates w of the rise.

    Returns:
        s/w for s < w, else (T - s)/(T - w), never below 0.
    """
    _check_schedule(step, total, warmup)
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def cosine_warmup(step: int, total: int, warmup: int) -> float:
    """Factor of the update after `step` finished ones: up linearly, then half a cosine down to 0.

    Args:
        step: finished updates s.
        total: updates T at which the factor reaches 0.
        warmup: updates w of the rise.

    Returns:
        s/w for s < w, else (1 + cos(π·p))/2 with p = (s - w)/(T - w).
    """
    _check_schedule(step, total, warmup)
    if step < warmup:
        return step / warmup
    part = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * part))


def linear_tf(step: int, total: int, warmup: int) -> float:
    """Factor of the authors' TensorFlow code: decay from the first update on, times the rise.

    Args:
        step: finished updates s.
        total: updates T at which the factor reaches 0.
        warmup: updates w of the rise.

    Returns:
        (1 - s/T)·min(1, s/w), never below 0; its peak is 1 - w/T, not 1.
    """
    _check_schedule(step, total, warmup)
    return max(0.0, 1.0 - step / total) * (min(1.0, step / warmup) if warmup else 1.0)


SCHEDULES = {"linear": linear_warmup, "cosine": cosine_warmup, "linear_tf": linear_tf}


def _check_schedule(step: int, total: int, warmup: int) -> None:
    if step < 0 or total < 1 or not 0 <= warmup <= total:
        raise ValueError(
            f"step={step}, total={total}, warmup={warmup}: need step ≥ 0 and 0 ≤ warmup ≤ total"
        )


def schedule(name: str) -> Callable[[int, int, int], float]:
    """Return a schedule by name.

    Raises:
        ValueError: no such schedule.
    """
    if name not in SCHEDULES:
        raise ValueError(f"scheduler_type={name!r}: choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def layer_decay(name: str, config: ConvBertConfig, decay: float) -> float:
    """Factor of a parameter's learning rate, by its name (ELECTRA's fine-tuning).

    decay^(n + 2 - depth) with n layers: depth 0 for embeddings and their projection, j + 1 for
    layer j, n + 2 for everything outside the encoder. Depth n + 1 is unused, as in ELECTRA.

    Args:
        name: structured name, with or without the prefix of a model with a head.
        config: of the encoder.
        decay: factor per layer, in (0, 1].

    Raises:
        ValueError: a parameter of the encoder that fits no row.
    """
    layers = config.num_hidden_layers
    _, prefix, inner = name.rpartition("convbert.")
    layer = re.match(r"encoder\.layers\.(\d+)\.", inner)
    if inner.startswith(("embeddings.", "embeddings_project.")):
        depth = 0
    elif layer and int(layer[1]) < layers:
        depth = int(layer[1]) + 1
    elif prefix or layer:
        raise ValueError(f"{name}: no layer-wise learning rate for this parameter of the encoder")
    else:
        depth = layers + 2
    return decay ** (layers + 2 - depth)


def part_of(name: str) -> str:
    """Return the part of the model that a parameter belongs to: embeddings, layer 1, …, head."""
    layer = re.search(r"encoder\.layers\.(\d+)\.", name)
    if layer:
        return f"layer {int(layer[1]) + 1}"
    return "embeddings" if "embeddings" in name else "head"


def layer_factors(config: ConvBertConfig, decay: float) -> dict[str, float]:
    """Return the factor of every part's learning rate by `layer_decay`, from the bottom up."""
    layers = (f"convbert.encoder.layers.{j}." for j in range(config.num_hidden_layers))
    names = ("convbert.embeddings.", *layers, "classifier.")
    return {part_of(name): layer_decay(name, config, decay) for name in names}


def adamw(
    model: nn.Layer,
    learning_rate: float | paddle.optimizer.lr.LRScheduler,
    weight_decay: float = 0.01,
    layer_lr_decay: float | None = None,
    adam_epsilon: float = 1e-6,
    max_grad_norm: float | None = None,
    beta2: float = 0.999,
) -> paddle.optimizer.AdamW:
    """Make AdamW as ELECTRA groups it.

    Biases and LayerNorms do not decay. Paddle corrects Adam's bias in the first updates; the
    authors' TensorFlow code does not, so their first updates are larger.

    Args:
        model: its parameters, each once.
        learning_rate: a number, or a Paddle scheduler.
        weight_decay: decoupled, scaled by the learning rate.
        layer_lr_decay: factor per layer, see `layer_decay`; None: one rate for all.
        adam_epsilon: added to the root of the second moment.
        max_grad_norm: clip the global norm of all gradients; None or 0: do not clip.
        beta2: decay of the second moment.
    """
    parameters, undecayed = [], set()
    for name, parameter in model.named_parameters():
        factor = 1.0 if layer_lr_decay is None else layer_decay(name, model.config, layer_lr_decay)
        parameter.optimize_attr["learning_rate"] = factor
        if is_undecayed(name):
            undecayed.add(parameter.name)
        parameters.append(parameter)
    # One list: Paddle would clip each of several groups by the norm of its own gradients.
    return paddle.optimizer.AdamW(
        learning_rate=learning_rate,
        beta2=beta2,
        epsilon=adam_epsilon,
        parameters=parameters,
        weight_decay=weight_decay,
        apply_decay_param_fun=lambda name: name not in undecayed,
        grad_clip=None if not max_grad_norm else nn.ClipGradByGlobalNorm(max_grad_norm),
    )


def is_undecayed(name: str) -> bool:
    """Whether weight decay leaves a parameter alone: biases and LayerNorms."""
    return name.endswith("bias") or "norm" in name.split(".")[-2]
