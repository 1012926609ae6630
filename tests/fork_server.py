"""Runs commands of `python -m convbert`, each in a process of its own, after one import of Paddle.

Importing takes some seconds, which a test that kills twenty processes cannot spend twenty times.
What is killed are real processes, forked before Paddle has computed anything.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# What "convbert-tiny" means in these processes: a step takes milliseconds.
SMALLEST = dict(
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
)


class Server:
    """The process that forks; use as a context manager."""

    def __enter__(self) -> Server:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def ask(self, **request: Any) -> int:
        """Send a request; return its answer."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, arguments: list[str], printed: Path, **options: Any) -> Run:
        """Start a command; what it prints goes to a file.

        Args:
            arguments: the words after `python -m convbert`.
            printed: file for both streams.
            **options: environment (a dictionary), file_limit (bytes), setup (code to run first).
        """
        request = {"arguments": arguments, "printed": str(printed), **options}
        return Run(self, self.ask(start=request), printed)

    def run(self, arguments: list[str], printed: Path, **options: Any) -> Run:
        """Start a command and wait for its end."""
        run = self.start(arguments, printed, **options)
        run.wait()
        return run


class Run:
    """A started command."""

    def __init__(self, server: Server, pid: int, printed: Path) -> None:
        self.server, self.pid, self.file = server, pid, printed
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.code is None:
            self.code = self.server.ask(poll=self.pid)
        return self.code

    def wait(self, seconds: float = 100.0) -> int:
        """Wait for the end."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < end, f"still running; it printed\n{self.printed}"
            time.sleep(0.01)
        return self.code

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def printed(self) -> str:
        """What it printed so far."""
        return self.file.read_text(encoding="utf-8", errors="replace")


def serve() -> None:
    """Answer requests until there are no more."""
    import convbert.train.glue
    import convbert.train.pretrain  # noqa: F401
    from convbert.config import SIZES

    SIZES["convbert-tiny"] |= SMALLEST
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = os.fork()
            if answer == 0:
                become(**request["start"])
        else:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


def become(
    arguments: list[str],
    printed: str,
    environment: dict[str, str] | None = None,
    file_limit: int = 0,
    setup: str = "",
) -> None:
    """Be the command, in the forked process."""
    from convbert import cli

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Paddle's reports, and dies all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDONLY) if stream == 0 else handle, stream)
    os.environ.update(environment or {})
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    code = 70
    try:
        exec(setup, {})
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
