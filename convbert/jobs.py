"""Run several `python -m convbert` commands at once, each in a process and on cores of its own.

Notebooks train this way: a run survives a re-run cell, two seeds use two cores better than two
threads use one model, and a signal reaches the trainer. A trainer that is told to stop saves
where it is: when the cell is interrupted, and on Linux also when the kernel dies.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convbert import runtime

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork
_PR_SET_PDEATHSIG = 1  # prctl.h


class JobFailed(RuntimeError):
    """A command ended with an error; the message holds the end of what it printed."""


def command(name: str, **options: Any) -> list[str]:
    """Write a command line: command("glue", task_name="sst-2") -> python -m convbert glue …"""
    words = [sys.executable, "-m", "convbert", name]
    for key, value in options.items():
        words += [f"--{key}", str(value)]
    return words


def run(
    commands: Mapping[str, Sequence[str]], logs: str | Path, workers: int = 0
) -> dict[str, float]:
    """Run commands, about as many at a time as there are cores, and wait for all.

    Args:
        commands: a name for each command line.
        logs: folder that receives `<name>.txt`, what each printed.
        workers: processes at a time; 0: as `share_cores` says, one in all on a GPU machine.

    Returns:
        Seconds of each command.

    Raises:
        JobFailed: one failed; the others are stopped.
    """
    workers = workers or (1 if _has_gpu() else share_cores(len(commands), runtime.usable_cores()))
    threads = max(1, runtime.usable_cores() // max(1, min(workers, len(commands))))
    Path(logs).mkdir(parents=True, exist_ok=True)
    waiting, seconds = list(commands), dict[str, float]()
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    files = {name: Path(logs, f"{name}.txt") for name in commands}
    look = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left{postfix}"
    # Papermill keeps every line that is printed: five a second would fill the page of a long job.
    with tqdm(total=100 * len(commands), desc="jobs", bar_format=look, mininterval=5) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    name = waiting.pop(0)
                    running[name] = _start(commands[name], files[name], threads)
                for name, (process, start) in list(running.items()):
                    if process.poll() is not None:
                        _raise_if_failed(name, process, files[name])
                        seconds[name] = time.perf_counter() - start
                        del running[name]
                done = 100 * len(seconds) + sum(_percent(files[name]) for name in running)
                bar.set_postfix_str(f"{len(seconds)} of {len(commands)} done", refresh=False)
                bar.update(max(0, done - bar.n))
                time.sleep(0.2)
        finally:
            _stop([process for process, _ in running.values()])
    return seconds


def share_cores(count: int, cores: int) -> int:
    """Return how many equal commands to run at a time.

    Three on two cores end sooner side by side (after 1.5 times the time of one) than two first
    and one after them, with a core idle beside it (after 2 times).
    """
    rounds = max(1, count // cores)
    return max(1, -(-count // rounds))  # rounded up


def kill_when(words: Sequence[str], log: str | Path, path: str | Path) -> None:
    """Start a command, and kill it without warning as soon as a path exists.

    Args:
        words: the command line.
        log: file that receives what it prints.
        path: what to wait for, such as a checkpoint's folder.

    Raises:
        JobFailed: the command ended by itself.
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    process, _ = _start(words, Path(log), threads=1)
    try:
        while not Path(path).exists():
            if process.poll() is not None:
                end = Path(log).read_text(encoding="utf-8", errors="replace")[-500:]
                raise JobFailed(f"the command ended before {path} was there; {log} ends with {end}")
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()


def _start(words: Sequence[str], log: Path, threads: int) -> tuple[subprocess.Popen, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, env=environment, preexec_fn=_die_together
        )
    return process, time.perf_counter()


def _die_together() -> None:
    """Ask Linux for a SIGTERM when the parent dies: a killed kernel could not pass one on."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _percent(log: Path) -> int:
    """Return how far a running command is, by the end of its own progress bar."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        found = re.findall(rb"(\d+)%\|", file.read())
    return min(99, int(found[-1])) if found else 0


def _raise_if_failed(name: str, process: subprocess.Popen, log: Path) -> None:
    if process.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise JobFailed(f"{name} ended with exit code {process.returncode}; {log} ends with\n{end}")


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _has_gpu() -> bool:
    """Whether NVIDIA's driver shows a device; asked without loading Paddle."""
    return Path("/proc/driver/nvidia/gpus").is_dir()
