"""Data parallelism: every process takes its share of a batch, and all take the same step.

`python -m paddle.distributed.launch --gpus 0,1 python -m convbert pretrain …` starts them (the
launcher itself knows no `-m convbert`); a process alone is a world of one.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn


def rank() -> int:
    """Return the number of this process; 0 writes log and checkpoints."""
    return int(paddle.distributed.get_rank())


def world() -> int:
    """Return the number of processes."""
    return int(paddle.distributed.get_world_size())


def start() -> None:
    """Connect the processes; nothing to do for one alone."""
    if world() > 1 and not paddle.distributed.is_initialized():
        paddle.distributed.init_parallel_env()


def require_agreement(what: str, number: int) -> None:
    """Check that all processes start from the same place.

    Raises:
        ValueError: they do not, e.g. because they see different files.
    """
    if world() > 1:
        numbers: list[paddle.Tensor] = []
        paddle.distributed.all_gather(numbers, paddle.to_tensor([number], dtype="int64"))
        found = [int(value) for value in numbers]
        if len(set(found)) > 1:
            raise ValueError(f"{what} differs between processes: {found}; do they share a disk?")


def add_up(model: nn.Layer, numbers: dict[str, float]) -> dict[str, float]:
    """Add gradients and some numbers over all processes, in one exchange.

    A process without examples, or a parameter without gradient, adds zeros.

    Args:
        model: its gradients are replaced by their sums.
        numbers: of this process, by name.

    Returns:
        The sums of the numbers.
    """
    if world() == 1:
        return numbers
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    gradients = [
        paddle.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in parameters
    ]
    flat = [gradient.flatten().astype("float32") for gradient in gradients]
    everything = paddle.concat([*flat, paddle.to_tensor(list(numbers.values()), "float32")])
    paddle.distributed.all_reduce(everything)
    *sums, totals = paddle.split(everything, [*(part.size for part in flat), len(numbers)])
    for parameter, value in zip(parameters, sums, strict=True):
        parameter.grad = value.reshape(parameter.shape).astype(parameter.dtype)
    return dict(zip(numbers, totals.numpy().tolist(), strict=True))


def add_arrays(array: np.ndarray) -> np.ndarray:
    """Add an array over all processes, each of which has zeros where others have numbers."""
    if world() == 1:
        return array
    total = paddle.to_tensor(array)
    paddle.distributed.all_reduce(total)
    return np.asarray(total.numpy())
