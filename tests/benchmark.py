"""`make bench`: seconds of one training step on one core, ours beside the peers'.

Three processes on the same core take turns, one step each, round after round: a slow minute of a
shared machine then slows all of them alike. So the ratios are the result; the absolute times are
this machine's, now. This process imports neither Paddle nor convbert, whose settings for the CPU
would reach PaddleNLP, which is measured as installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = {"ours": "convbert", "torch": "transformers + torch", "paddlenlp": "PaddleNLP"}
_SHAPE = dict(embedding_size=128, head_ratio=2, conv_kernel_size=9, num_groups=1)
_SMALL = dict(hidden_size=256, num_hidden_layers=12, intermediate_size=1024, vocab_size=30522)
_TINY = dict(hidden_size=128, num_hidden_layers=3, intermediate_size=512, vocab_size=4096)
# name -> (shape, sequences, tokens of each): the published small size, and what the course trains.
SIZES: dict[str, tuple[dict[str, int], int, int]] = {
    "convbert-small": ({**_SHAPE, **_SMALL, "num_attention_heads": 4}, 8, 128),
    "convbert-tiny": ({**_SHAPE, **_TINY, "num_attention_heads": 4}, 32, 64),
}


# --- Workers ----------------------------------------------------------------------------------


def make_ours(shape: dict[str, int], ids: Any, weights: Any) -> tuple[Callable[[], None], int]:
    import convbert  # before Paddle

    return _paddle_step(convbert.ConvBertModel(convbert.ConvBertConfig(**shape)), ids, weights)


def make_paddlenlp(shape: dict[str, int], ids: Any, weights: Any) -> tuple[Callable[[], None], int]:
    from paddlenlp.transformers import ConvBertConfig, ConvBertModel

    return _paddle_step(ConvBertModel(ConvBertConfig(**shape)), ids, weights)


def _paddle_step(model: Any, ids: Any, weights: Any) -> tuple[Callable[[], None], int]:
    import paddle

    model.train()
    ids, weights = paddle.to_tensor(ids), paddle.to_tensor(weights)

    def step() -> None:
        (model(ids) * weights).sum().backward()
        model.clear_gradients()

    return step, sum(parameter.size for parameter in model.parameters())


def make_torch(shape: dict[str, int], ids: Any, weights: Any) -> tuple[Callable[[], None], int]:
    import torch
    from transformers import ConvBertConfig, ConvBertModel

    torch.set_num_threads(1)
    model = ConvBertModel(ConvBertConfig(**shape)).train()
    ids, weights = torch.from_numpy(ids), torch.from_numpy(weights)

    def step() -> None:
        (model(ids).last_hidden_state * weights).sum().backward()
        model.zero_grad()

    return step, sum(parameter.numel() for parameter in model.parameters())


def work(program: str) -> None:
    """Answer each size read from standard input with the seconds of one step."""
    import numpy as np

    make, steps = globals()[f"make_{program}"], {}
    for line in sys.stdin:
        size = line.strip()
        answer = {}
        if size not in steps:
            shape, sequences, tokens = SIZES[size]
            rng = np.random.default_rng(0)
            ids = rng.integers(1, shape["vocab_size"], (sequences, tokens))
            weights = rng.normal(size=(sequences, tokens, shape["hidden_size"])).astype("float32")
            steps[size], answer["parameters"] = make(shape, ids, weights)
            steps[size]()  # the first step allocates
        start = time.perf_counter()
        steps[size]()
        answer["seconds"] = time.perf_counter() - start
        print("\nanswer", json.dumps(answer), flush=True)


# --- The race ---------------------------------------------------------------------------------


class Worker:
    """A process that takes a step when asked."""

    def __init__(self, program: str, core: int, folder: str) -> None:
        """Start it on a core, with one thread and a home of its own (PaddleNLP writes there)."""
        self.log = open(Path(folder, f"{program}.txt"), "w+", encoding="utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": folder, "HF_HUB_OFFLINE": "1"}
        words = [sys.executable, __file__, "--work", program, "--core", str(core)]
        self.process = subprocess.Popen(
            words, text=True, env=environment, stdin=-1, stdout=-1, stderr=self.log
        )

    def step(self, size: str) -> dict[str, float] | None:
        """Return seconds (and once the parameters), or None if the process has died."""
        try:
            print(size, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return None
        lines = (line for line in self.process.stdout if line.startswith("answer "))
        return next((json.loads(line.removeprefix("answer ")) for line in lines), None)

    def stop(self) -> str:
        """Stop the process; return the last line that it complained with."""
        self.process.kill()
        self.process.wait()
        self.log.seek(0)
        return (self.log.read().strip().splitlines() or ["no message"])[-1]


def race(workers: dict[str, Worker], size: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each program, one step a round, and say what they were."""
    seconds: dict[str, list[float]] = {program: [] for program in workers}
    _, sequences, tokens = SIZES[size]
    for number in range(rounds + 1):  # the first is for warming up
        for program in list(seconds):
            answer = workers[program].step(size)
            if answer is None:
                print(f"{PROGRAMS[program]}: left out: {workers[program].stop()}")
                del seconds[program], workers[program]
            elif number:
                seconds[program].append(answer["seconds"])
            elif "parameters" in answer:
                print(f"{size}, {PROGRAMS[program]}: {answer['parameters']:,} parameters")
    for program, times in seconds.items():
        middle = statistics.median(times)
        speed = f"{middle:.3f} s a step, {sequences * tokens / middle:,.0f} tokens/s"
        ratios = [peer / own for own, peer in zip(seconds.get("ours", []), times, strict=False)]
        text = f"  {PROGRAMS[program]:<20} {speed}"
        if program != "ours" and ratios:
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            text += f"; {statistics.median(ratios):.2f} times ours ({spread})"
        print(text, flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="steps of each program and size")
    parser.add_argument("--core", type=int, default=-1, help="core to use; -1: the last one")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench.json"))
    parser.add_argument("--work", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        options.core = options.core if options.core in cores else cores[-1]
        if options.work:
            os.sched_setaffinity(0, {options.core})
    if options.work:
        return work(options.work)
    load, seconds = [os.getloadavg()[0]], {}
    with tempfile.TemporaryDirectory() as folder:
        workers = {program: Worker(program, options.core, folder) for program in PROGRAMS}
        try:
            for size, (_, sequences, tokens) in SIZES.items():
                print(f"{size}: forward and backward of {sequences} x {tokens} tokens, one core")
                seconds[size] = race(workers, size, options.rounds)
        finally:
            for worker in workers.values():
                worker.stop()
    load.append(os.getloadavg()[0])
    print(f"programs waiting for a core before and after: {load[0]:.1f}, {load[1]:.1f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    content = {"rounds": options.rounds, "load": load, "seconds": seconds}
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
