"""SIGTERM and Ctrl-C as a request that the training loop answers at the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType


class Stop(Exception):
    """A signal asks the run to end."""

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number  # as shells report it: 143 for SIGTERM, 130 for Ctrl-C


class Signals:
    """While active, the first SIGTERM or SIGINT is only noted; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        """Note nothing yet."""
        self.received = 0  # number of the signal that asked first
        self._raising = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python's own rule
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Stop` within the block, for work that can be thrown away."""
        if self.received:
            raise Stop(self.received)
        self._raising = True
        try:
            yield
        finally:
            self._raising = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
        if self._raising:
            raise Stop(self.received)
