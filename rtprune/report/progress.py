"""A run's progress: one line that is redrawn on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import os
import shutil
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rtprune.report.wording import count, duration, one_line, share_saved

if TYPE_CHECKING:
    from rtprune.corpus.values import Progress

PLAIN_EVERY_S = 10.0
BAR_CELLS = 24
NOUNS = {"inspect": ("looking into", "document"), "read": ("reading", "page")}
_CLEAR, _GREEN, _DIM, _PLAIN = "\r\x1b[2K", "\x1b[32m", "\x1b[2m", "\x1b[0m"


class ProgressDisplay:
    """Shows ``Progress`` on ``stream``; a context manager. Warnings of the package appear above the bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._bar and not os.environ.get("NO_COLOR")
        self._fine = "utf" in (stream.encoding or "").lower()
        self._handler = _AboveTheBar(self)
        self._drawn = ""
        self._stage = ""
        self._latest: Progress | None = None
        self._first: tuple[float, int] | None = None  # when progress was first seen in this stage, and how much
        self._printed: Progress | None = None
        self._printed_at = 0.0

    def __enter__(self) -> ProgressDisplay:
        logging.getLogger().addHandler(self._handler)
        if self._bar:
            self._draw("preparing")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self._handler)
        if self._bar:
            self._draw("")
        elif self._latest and self._latest != self._printed:
            self._print(self._latest)

    def show(self, progress: Progress) -> None:
        """The latest state of the run."""
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._first, self._printed_at = progress.stage, None, now
        if self._first is None and progress.done:
            self._first = now, progress.done
        self._latest = progress
        if self._bar:
            self._draw(self._line(progress))
        elif progress != self._printed and (progress.done == progress.total or now - self._printed_at >= PLAIN_EVERY_S):
            self._print(progress)

    def say(self, message: str) -> None:
        """A line of its own, above the bar."""
        drawn = self._drawn
        if self._bar:
            self._draw("")
        self._stream.write(f"{message}\n")
        if self._bar:
            self._draw(drawn)
        self._stream.flush()

    def _facts(self, progress: Progress) -> list[str]:
        """What is worth telling beside the count; nothing where there is nothing to tell yet."""
        if progress.stage == "read" and not progress.done:
            return ["loading the model"]
        facts = []
        rate = self._rate(progress)
        if rate:
            noun = NOUNS[progress.stage][1]
            facts.append(f"{rate:.1f} {noun}s/s" if rate >= 0.1 else f"{rate * 60:.1f} {noun}s a minute")
        if progress.tokens_before:
            facts.append(f"{share_saved(progress.tokens_before, progress.tokens_after)} tokens saved")
        if progress.failed:
            facts.append(f"{progress.failed:,} failed")
        if self._bar and rate and progress.done < progress.total:
            facts.append(f"{duration((progress.total - progress.done) / rate)} left")
        return facts

    def _rate(self, progress: Progress) -> float:
        """Per second since progress was first seen, start-up left out; 0 before that can be told."""
        if self._first is None:
            return 0.0
        since, done = self._first
        elapsed = time.monotonic() - since
        return (progress.done - done) / elapsed if elapsed > 1 else 0.0

    def _line(self, progress: Progress) -> str:
        verb, noun = NOUNS[progress.stage]
        filled = round(BAR_CELLS * progress.done / progress.total) if progress.total else 0
        full, empty = ("━", "━" if self._colour else "─") if self._fine else ("#", "-")
        bar = [full * filled, empty * (BAR_CELLS - filled)]
        told = " · " if self._fine else ", "
        counted = f"{progress.done:,} of {count(progress.total, noun)}"
        rest = told.join([counted, *self._facts(progress)])
        width = shutil.get_terminal_size().columns - 1
        rest = rest[: max(0, width - len(verb) - BAR_CELLS - 4)]
        if self._colour:
            bar = [f"{_GREEN}{bar[0]}{_PLAIN}", f"{_DIM}{bar[1]}{_PLAIN}"]
        return f"{verb}  {''.join(bar)}  {rest}"

    def _draw(self, line: str) -> None:
        self._stream.write(_CLEAR + line)
        self._stream.flush()
        self._drawn = line

    def _print(self, progress: Progress) -> None:
        verb, noun = NOUNS[progress.stage]
        counted = f"{verb}: {progress.done:,} of {count(progress.total, noun)}"
        self._stream.write(", ".join([counted, *self._facts(progress)]) + "\n")
        self._stream.flush()
        self._printed, self._printed_at = progress, time.monotonic()


class _AboveTheBar(logging.Handler):
    def __init__(self, display: ProgressDisplay) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(f"{record.levelname.lower()}: {one_line(record.getMessage())}")
