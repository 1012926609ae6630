"""`make bench`: seconds of one training step on one core, ours beside the peers'.

Three processes on one core take turns, so that a slow minute of a shared machine slows all alike:
the ratios are the result. This process does not import convbert, whose settings for the CPU would
reach PaddleNLP, which is measured as installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = {  # name -> title and module
    "ours": ("convbert", "convbert"),
    "torch": ("transformers + torch", "transformers"),
    "paddlenlp": ("PaddleNLP", "paddlenlp.transformers"),
}
_SHAPE = dict(embedding_size=128, num_attention_heads=4, head_ratio=2, conv_kernel_size=9)
_SMALL = dict(hidden_size=256, num_hidden_layers=12, intermediate_size=1024, vocab_size=30522)
_TINY = dict(hidden_size=128, num_hidden_layers=3, intermediate_size=512, vocab_size=4096)
# name -> (shape, sequences, tokens of each): the published small size, and what the course trains.
SIZES: dict[str, tuple[dict[str, int], int, int]] = {
    "convbert-small": (_SHAPE | _SMALL, 8, 128),
    "convbert-tiny": (_SHAPE | _TINY, 32, 64),
}


def make_step(program: str, size: str) -> Callable[[], None]:
    """Return a function that runs an encoder forward and backward, dropout on."""
    import numpy as np

    shape, sequences, tokens = SIZES[size]
    rng = np.random.default_rng(0)
    ids = rng.integers(1, shape["vocab_size"], (sequences, tokens))
    weights = rng.normal(size=(*ids.shape, shape["hidden_size"])).astype("float32")
    library = importlib.import_module(PROGRAMS[program][1])  # convbert before Paddle
    tensors = importlib.import_module("torch" if program == "torch" else "paddle")
    make = tensors.from_numpy if program == "torch" else tensors.to_tensor
    ids, weights = make(ids), make(weights)
    model = library.ConvBertModel(library.ConvBertConfig(**shape))
    model.train()

    def step() -> None:
        hidden = model(ids) if program == "ours" else model(ids)[0]  # the peers return tuples
        (hidden * weights).sum().backward()
        model.zero_grad() if program == "torch" else model.clear_gradients()

    return step


def work(program: str) -> None:
    """Answer each size read from standard input with the seconds of one step."""
    steps: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        size = line.strip()
        steps[size] = steps.get(size) or make_step(program, size)
        start = time.perf_counter()
        steps[size]()
        print("\nseconds", time.perf_counter() - start, flush=True)


class Worker:
    """A process that takes a step when asked."""

    def __init__(self, program: str, folder: str) -> None:
        """Start it with one thread, and a home of its own, in which PaddleNLP makes folders."""
        self.log = open(Path(folder, f"{program}.txt"), "w+", encoding="utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": folder, "HF_HUB_OFFLINE": "1"}
        words = [sys.executable, __file__, "--work", program]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.process = subprocess.Popen(words, text=True, env=environment, **pipes)

    def step(self, size: str) -> float | None:
        """Return the seconds of a step, None if the process has died."""
        with contextlib.suppress(BrokenPipeError):
            print(size, file=self.process.stdin, flush=True)
        answers = (line for line in self.process.stdout if line.startswith("seconds "))
        return next((float(line.split()[1]) for line in answers), None)

    def stop(self) -> str:
        """Stop the process; return the end of what it complained about."""
        self.process.kill()
        self.process.wait()
        self.log.seek(0)
        return self.log.read()[-300:]


def race(workers: dict[str, Worker], size: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each program, one step a round, after one round to warm up."""
    seconds = {program: [] for program in workers}
    for _ in range(rounds + 1):
        for program in list(seconds):
            taken = workers[program].step(size)
            if taken is None:
                print(f"  {PROGRAMS[program][0]} is left out: {workers.pop(program).stop()}")
                del seconds[program]
            else:
                seconds[program].append(taken)
    return {program: times[1:] for program, times in seconds.items()}


def report(seconds: dict[str, list[float]], positions: int) -> None:
    """Print medians, and the median and range of the rounds' ratios to ours."""
    for program, times in seconds.items():
        middle = statistics.median(times)
        text = f"  {PROGRAMS[program][0]:<20} {middle:6.3f} s {positions / middle:7,.0f} tokens/s"
        ratios = [peer / own for own, peer in zip(seconds.get("ours", []), times, strict=False)]
        if program != "ours" and ratios:
            text += f"   takes {statistics.median(ratios):.2f} times as long as ours"
            text += f" ({min(ratios):.2f} to {max(ratios):.2f})"
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="steps of each program and size")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench.json"))
    parser.add_argument("--work", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work)
    if hasattr(os, "sched_setaffinity"):  # the workers inherit it
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    load, seconds = os.getloadavg()[:1], {}
    with tempfile.TemporaryDirectory() as folder:
        workers = {program: Worker(program, folder) for program in PROGRAMS}
        try:
            for size, (_, sequences, tokens) in SIZES.items():
                print(f"{size}, {sequences} x {tokens} tokens, forward and backward, one core:")
                seconds[size] = race(workers, size, options.rounds)
                report(seconds[size], sequences * tokens)
        finally:
            for worker in workers.values():
                worker.stop()
    print("load of the machine before and after:", *load, os.getloadavg()[0])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"load": load, "seconds": seconds}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
