"""What stops a run before it does harm: numbers that are not finite, and memory that is full."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import paddle
from paddle import nn


def find_problem(losses: Mapping[str, float], model: nn.Layer | None) -> str:
    """Name a loss or gradient that is not finite; empty if there is none.

    Args:
        losses: by name; "loss" is the total.
        model: its gradients are looked at; None: they are not.
    """
    for name, value in losses.items():
        if not math.isfinite(value):
            return f"the {name.replace('_', ' ')} is {value}"
    if model is None:
        return ""
    # A sum is not finite if one of its terms is not, and the cheapest to compute.
    sums = {
        name: parameter.grad.sum()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    if bool(paddle.isfinite(paddle.stack(list(sums.values()))).all()):
        return ""
    bad = next(name for name, total in sums.items() if not math.isfinite(float(total)))
    return f"the gradient of {bad} is not finite"


def keep_batch(
    output: Path,
    problem: str,
    step: int,
    seed: int,
    losses: Mapping[str, float],
    examples: list[int],
    texts: list[str],
) -> str:
    """Write a batch to a file, for inspection.

    Args:
        output: folder of the run.
        problem: what is wrong.
        step: finished updates.
        seed: of the run; with step and examples it gives the same batch again.
        losses: of the batch.
        examples: their numbers in the data set.
        texts: the same as text.

    Returns:
        What to tell the user.
    """
    file = output / f"non-finite-step-{step:06d}.json"
    content = {
        "problem": problem,
        "step": step,
        "seed": seed,
        "losses": {name: str(value) for name, value in losses.items()},  # JSON knows no NaN
        "examples": examples,
        "texts": texts,
    }
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return (
        f"{problem} at step {step}: look at the batch in {file}; the same command would meet it "
        "again, so lower the learning rate, in a new output_dir"
    )


def advice(step: int, examples: int, accumulation: int, world: int) -> str:
    """Say what to do when memory is full.

    Args:
        step: finished updates.
        examples: of a step, on all processes.
        accumulation: micro-batches of a step on each process.
        world: processes.
    """
    size = math.ceil(examples / (world * accumulation))
    if size == 1:
        return f"out of memory at step {step} with one example at a time: shorten the examples"
    return (
        f"out of memory at step {step} with {size} examples at a time: "
        f"--gradient_accumulation_steps {2 * accumulation} takes {math.ceil(size / 2)} at a time "
        f"and keeps the global batch of {examples}"
    )
