"""What every job does around its steps: say what it resolved, log, show progress, stop on NaN."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import paddle
from paddle import Tensor, nn
from tqdm import tqdm

from convbert import runtime


def announce(**resolved: Any) -> None:
    """Print what a job resolved, one line each, with what the runtime was given."""
    import_time = {f"runtime.{key}": value for key, value in runtime.report().items()}
    for key, value in {**resolved, "cpu": runtime.cpu_name(), **import_time}.items():
        print(f"{key}: {value}", flush=True)


class Log:
    """`log.jsonl` and a progress bar: one JSON object per logged step."""

    def __init__(self, directory: Path, steps: int, name: str) -> None:
        """Start a new log in `directory` (made if needed) for a job of `steps` steps."""
        directory.mkdir(parents=True, exist_ok=True)
        self.file = open(directory / "log.jsonl", "w", encoding="utf-8")
        self.bar = tqdm(total=steps, desc=name, unit="step", mininterval=1.0)
        self.start, self.examples = time.perf_counter(), 0

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        self.file.close()

    def advance(self, examples: int) -> None:
        """Count one finished step and the examples in it."""
        self.bar.update()
        self.examples += examples

    def write(self, step: int, **values: float) -> None:
        """Log one step; the speed is that since the last call."""
        seconds = time.perf_counter() - self.start
        line = {"step": step, **values, "examples_per_s": self.examples / max(seconds, 1e-9)}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.bar.set_postfix({key: f"{value:.3g}" for key, value in values.items()}, refresh=False)
        self.start, self.examples = time.perf_counter(), 0


def update(
    loss: Tensor,
    optimizer: paddle.optimizer.Optimizer,
    learning_rate: float,
    step: int,
    scaler: paddle.amp.GradScaler | None = None,
) -> float:
    """Take one optimizer step and return the loss.

    Args:
        loss: a scalar.
        optimizer: of the parameters.
        learning_rate: of this step.
        step: for the message.
        scaler: of float16, which would otherwise lose small gradients.

    Raises:
        FloatingPointError: the loss is not finite; the weights are left as they were.
    """
    value = float(loss)
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {step}: lower the learning rate")
    optimizer.set_lr(learning_rate)
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    optimizer.clear_grad()
    return value


def evaluating(model: nn.Layer, function: Callable[[], Any]) -> Any:
    """Call `function` with dropout and gradients off; restore the mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            return function()
    finally:
        model.train() if was_training else model.eval()
