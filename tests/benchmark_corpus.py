"""Tokens per second and peak memory of `convbert corpus` at growing sizes; no test.

    python tests/benchmark_corpus.py --text FILE [FILE …] [--megabytes 1 10 100] [--workers 1 2]

The texts are repeated to the wanted size. Each run is a process of its own; its memory is that of
the command and of its largest worker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convbert import runtime
from convbert.data import shards


def write_text(path: Path, texts: list[bytes], megabytes: float) -> None:
    """Repeat texts, each followed by a blank line, until the file is large enough."""
    size = round(megabytes * 1e6)
    with open(path, "wb") as file:
        while file.tell() < size:
            for text in texts:
                file.write(text[: max(0, size - file.tell())].decode("utf-8", "ignore").encode())
                file.write(b"\n\n")


def measure(path: Path, output: Path, workers: int, options: list[str]) -> dict[str, float]:
    """Run the command once; return seconds, tokens, bytes on disk and memory."""
    words = ["--input", path, "--output_dir", output, "--workers", workers, *options]
    code = (
        "import resource, sys; from convbert.cli import main; code = main(sys.argv[1:]);"
        "used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)];"
        "print('used', *(u.ru_maxrss for u in used), sum(u.ru_utime + u.ru_stime for u in used));"
        "sys.exit(code)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "corpus", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},  # one worker, one core
    )
    seconds = time.perf_counter() - start
    own, worker, cpu = map(float, done.stdout.rpartition("used")[2].split())
    manifest = shards.read_manifest(output)
    tokens = sum(manifest[split]["tokens"] for split in shards.SPLITS)
    read = tokens + sum(unit["dropped"] for unit in manifest["units"])
    size = sum(manifest[split]["bytes"] for split in shards.SPLITS)
    return {
        "seconds": seconds,
        "tokens_read": read,
        "tokens_per_s": read / seconds,
        "tokens_per_cpu_s": read / cpu,  # holds on a busy machine, too
        "shard_bytes_per_text_byte": size / path.stat().st_size,
        "peak_mb": own / 1024,
        "largest_worker_mb": worker / 1024 if workers > 1 else 0.0,
    }


def main() -> None:
    """Measure all sizes with all numbers of workers; print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", nargs="+", required=True, help="files of real text")
    parser.add_argument("--megabytes", nargs="+", type=float, default=[1, 10, 100])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    arguments, options = parser.parse_known_args()
    print(json.dumps({"cpu": runtime.cpu_name(), "load": Path("/proc/loadavg").read_text()[:14]}))
    texts = [Path(name).read_bytes() for name in arguments.text]
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in arguments.megabytes:
            path = Path(folder, f"{megabytes:g}.txt")
            write_text(path, texts, megabytes)
            for workers in arguments.workers:
                output = Path(folder, f"out-{megabytes:g}-{workers}")
                figures = measure(path, output, workers, options)
                row = {"megabytes": megabytes, "workers": workers, **figures}
                print(json.dumps({key: round(value, 3) for key, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
