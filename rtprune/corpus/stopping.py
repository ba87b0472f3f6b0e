"""Ending a run early without losing the work at hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Ctrl-C and SIGTERM for the length of a ``with`` block, in the main thread (elsewhere it does nothing).

    While units are at work the first one lets them finish; a second one, or one before, does what it would do without
    this, or interrupts as Ctrl-C does where the system would just end the process.

    Args:
        say: called once, when ``asked`` is first called after a signal.
        at_work: whether units are at work already; else ``begin`` is called when they are.
    """

    def __init__(self, say: Callable[[], None], *, at_work: bool = True) -> None:
        self._say = say
        self._at_work = at_work
        self._said = False
        self._before: dict[int, Any] = {}
        self.signal: int | None = None

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self) -> None:
        """From here on there are units that may finish."""
        self._at_work = True

    def asked(self) -> bool:
        """Whether to stop."""
        if self.signal is not None and not self._said:
            self._said = True
            self._say()
        return self.signal is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, number
        if self._at_work and not again:
            return
        before = self._before[number]
        if not callable(before):
            raise KeyboardInterrupt
        before(number, frame)


@contextmanager
def no_sigterm_for_children() -> Iterator[None]:
    """Processes started in this block never get SIGTERM.

    Whoever stops a run (a service manager, ``timeout``, Prefect) sends it to all processes of the group. The driver
    alone decides what it means; a local Ray must last until the units at work are finished.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
