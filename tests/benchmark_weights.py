"""Seconds and memory of loading base weights, beside reading the file and nothing else.

    python tests/benchmark_weights.py [--rounds 5]

Each measurement is a process of its own, and they take turns, so that a slow minute of a shared
machine slows all alike. Memory is what the process has taken beyond the imports: at its peak, and
when the model is loaded. The pages of the file that the system maps are counted with it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import foreign_files as foreign

FILES = (
    "model.safetensors",
    "PaddleNLP's model.safetensors",
    "model_state.pdparams",
    "pytorch_model.bin",
)


def write(folder: Path) -> None:
    """Write random base weights in every layout, a directory each."""
    import convbert
    from convbert.weights import loading

    model = convbert.ConvBertModel(convbert.ConvBertConfig.named("convbert-base"))
    for name, format in zip(FILES[:2], ("huggingface", "paddlenlp"), strict=True):
        model.save_pretrained(folder / name, format)
    state = {name: value.numpy() for name, value in loading.unique_state(model).items()}
    for name in FILES[2:]:
        (folder / name).mkdir()
        shutil.copy(folder / FILES[0] / "config.json", folder / name)
    foreign.write_paddle(folder / FILES[2] / FILES[2], state)
    foreign.write_torch(folder / FILES[3] / FILES[3], foreign.to_huggingface(state))


def memory(key: str) -> float:
    """Return a field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(key + ":"))


def measure(folder: Path, task: str) -> dict[str, float]:
    """Read the weights file, load it or build a random model; return seconds and memory."""
    import convbert
    from convbert.model import ConvBertModel

    file = next(path for path in folder.iterdir() if path.name != "config.json")
    before = memory("VmRSS")
    start = time.perf_counter()
    if task == "read":
        with open(file, "rb") as content:
            kept: object = content.read()
    elif task == "load":
        kept = ConvBertModel.from_pretrained(folder)
    else:
        kept = ConvBertModel(convbert.ConvBertConfig.named("convbert-base"))
    seconds = time.perf_counter() - start
    result = {
        "seconds": seconds,
        "peak": memory("VmHWM") - before,
        "after": memory("VmRSS") - before,
    }
    del kept
    return result


def run(folder: Path, task: str) -> dict[str, float]:
    """Measure in a process of its own."""
    words = [sys.executable, __file__, "--measure", task, "--folder", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure)))
        return
    tasks = [(FILES[0], "read"), (FILES[0], "build"), *((name, "load") for name in FILES)]
    found: dict[tuple[str, str], list[dict[str, float]]] = {task: [] for task in tasks}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for _ in range(options.rounds + 1):  # the first warms the file cache
            for task in tasks:
                found[task].append(run(Path(folder, task[0]), task[1]))
    reading = [each["seconds"] for each in found[tasks[0]][1:]]
    print("base, 106 million parameters, 424 MB; medians, and the ratio's range")
    for (name, task), results in found.items():
        middle = {k: statistics.median(r[k] for r in results[1:]) for k in results[0]}
        ratios = [r["seconds"] / own for r, own in zip(results[1:], reading, strict=True)]
        ratio = f"{statistics.median(ratios):5.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(
            f"  {task:<5} {name:<30} {middle['seconds']:6.2f} s  {ratio}  "
            f"peak {middle['peak']:5.0f} MB, after {middle['after']:5.0f} MB"
        )
    print("load of the machine:", os.getloadavg()[0])


if __name__ == "__main__":
    main()
