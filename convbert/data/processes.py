"""Work shared out over processes, which end when their parent does, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_owner: Any = None


def each(owner: Any, method: str, arguments: Iterable[Any], workers: int) -> Iterator[Any]:
    """Call a method with each argument and yield the results as they come.

    Args:
        owner: has the method; a copy is sent to every process once.
        method: its name.
        arguments: one for each call.
        workers: processes; with 1, all is done in this one.

    Raises:
        ChildProcessError: a process was killed; or whatever the method raises.
    """
    arguments = list(arguments)
    workers = min(workers, len(arguments))
    if workers <= 1:
        yield from map(getattr(owner, method), arguments)
        return
    # A fresh interpreter for each: forked ones could inherit locks that no thread will release.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (owner,))
    try:
        for done in as_completed([pool.submit(_call, method, each) for each in arguments]):
            yield done.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process ended by itself; if the memory was full, use fewer workers "
            "(what is finished is kept)"
        ) from error
    finally:  # after an error, calls that have begun are still waited for, the others dropped
        pool.shutdown(cancel_futures=True)


def _start(owner: Any) -> None:
    """Prepare a worker: one thread for the tokenizer, no life after the parent's."""
    global _owner
    _owner = owner
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C as well, and decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(method: str, argument: Any) -> Any:
    return getattr(_owner, method)(argument)
