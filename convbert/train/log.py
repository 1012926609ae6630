"""What a run tells: `log.jsonl`, a progress bar, and the lines a job begins with."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from convbert import runtime


def announce(**resolved: Any) -> None:
    """Print what a job resolved, one line each, with what the runtime was given."""
    import_time = {f"runtime.{key}": value for key, value in runtime.report().items()}
    for key, value in {**resolved, "cpu": runtime.cpu_name(), **import_time}.items():
        print(f"{key}: {value}", flush=True)


class Log:
    """`log.jsonl` and a progress bar: one JSON object per logged step.

    A resumed run continues the log of its checkpoint: what came after it is cut off and will be
    written again, so every step is in the log once.
    """

    def __init__(
        self,
        directory: Path,
        steps: int,
        name: str,
        done: int = 0,
        lines: int = 0,
        silent: bool = False,
    ) -> None:
        """Open the log.

        Args:
            directory: made if needed.
            steps: of the whole run.
            name: shown beside the progress bar.
            done: steps that are finished already.
            lines: of an earlier log to keep.
            silent: write and show nothing, as all processes but one do.
        """
        if silent:
            self.file = open(os.devnull, "a+b")
        else:
            directory.mkdir(parents=True, exist_ok=True)
            self.file = open(directory / "log.jsonl", "a+b")
            self.file.seek(0)
            found = [self.file.readline() for _ in range(lines)]
            kept = [line for line in found if line.endswith(b"\n")]
            self.file.truncate(sum(map(len, kept)))
            lines = len(kept)
        self.lines = lines
        self.bar = tqdm(
            total=steps, initial=done, desc=name, unit="step", mininterval=1.0, disable=silent
        )
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
        self.file.write(json.dumps(line).encode() + b"\n")
        self.file.flush()
        self.lines += 1
        self.bar.set_postfix({key: f"{value:.3g}" for key, value in values.items()}, refresh=False)
        self.start, self.examples = time.perf_counter(), 0

    def make_durable(self) -> None:
        """Wait until the log is on the disk, before a checkpoint counts on it."""
        os.fsync(self.file.fileno())
