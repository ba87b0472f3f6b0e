"""A run's progress: a bar on a terminal, drawn by rich; a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rtprune import logs
from rtprune.report.wording import count, duration, share_saved

if TYPE_CHECKING:
    from rtprune.corpus.values import Progress

PLAIN_EVERY_S = 10.0
DRAWN_EVERY_S = 0.1  # at most so often by ``show``; between its calls rich draws, so that the time left goes on
DRAWN_A_SECOND = 4.0
NARROWEST_BAR, WIDEST_BAR = 10, 30  # columns
COLOUR = "green"
NOUNS = {"inspect": ("looking into", "document"), "read": ("reading", "page")}


class ProgressDisplay:
    """Shows ``Progress`` on ``stream``; a context manager. The package's log appears above the bar.

    Colours are rich's choice: none where NO_COLOR is set. With TERM=dumb there are plain lines as without a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown: _Bar | _Lines = _Bar(stream) if terminal else _Lines(stream)
        self._open = ExitStack()

    def __enter__(self) -> ProgressDisplay:
        self._open.enter_context(self._shown)
        self._open.enter_context(logs.through(self.say))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def show(self, progress: Progress) -> None:
        """The latest state of the run."""
        self._shown.show(progress)

    def say(self, message: str) -> None:
        """A line of its own, above the bar."""
        self._shown.say(message)


class _Pace:
    """How fast a stage goes on."""

    def __init__(self) -> None:
        self._stage = ""
        self._first: tuple[float, int] | None = None  # when the stage was first seen with something done, and how much

    def add(self, progress: Progress) -> bool:
        """Take note of the latest state; returns whether a new stage begins with it."""
        begins = progress.stage != self._stage
        if begins:
            self._stage, self._first = progress.stage, None
        if self._first is None and progress.done:
            self._first = time.monotonic(), progress.done
        return begins

    def rate(self, progress: Progress) -> float:
        """Per second since the stage was first seen with something done, so without start-up; 0 while unknown."""
        if self._first is None:
            return 0.0
        since, done = self._first
        elapsed = time.monotonic() - since
        return (progress.done - done) / elapsed if elapsed > 1 else 0.0


class _Lines:
    """A line every ``PLAIN_EVERY_S`` seconds, and one for the last state."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pace = _Pace()
        self._latest: Progress | None = None
        self._printed: Progress | None = None
        self._printed_at = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *unused: object) -> None:
        if self._latest and self._latest != self._printed:
            self._print(self._latest)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._pace.add(progress):
            self._printed_at = now
        self._latest = progress
        if progress != self._printed and (progress.done == progress.total or now - self._printed_at >= PLAIN_EVERY_S):
            self._print(progress)

    def say(self, message: str) -> None:
        self._stream.write(f"{message}\n")
        self._stream.flush()

    def _print(self, progress: Progress) -> None:
        verb, _ = NOUNS[progress.stage]
        self.say(f"{verb}: {', '.join(_facts(progress, self._pace.rate(progress)))}")
        self._printed, self._printed_at = progress, time.monotonic()


class _Bar:
    """One line that is redrawn, and is gone at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._live = Live(
            self,
            console=self._console,
            refresh_per_second=DRAWN_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=stream is sys.stderr,
        )
        self._pace = _Pace()
        self._latest: Progress | None = None
        self._drawn_at = 0.0

    def __enter__(self) -> _Bar:
        self._live.start(refresh=True)
        self._console.show_cursor(True)  # rich hides it, and a killed process would leave it so
        return self

    def __exit__(self, *unused: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        begins = self._pace.add(progress)
        self._latest = progress
        now = time.monotonic()
        if begins or progress.done == progress.total or now - self._drawn_at >= DRAWN_EVERY_S:
            self._live.refresh()
            self._drawn_at = now

    def say(self, message: str) -> None:
        self._console.print(Text(message), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """The line as it is now, as long as the terminal is wide."""
        width = options.max_width - 1  # a full line would wrap on some terminals
        cells = min(max(NARROWEST_BAR, (width - 60) // 3), WIDEST_BAR)
        verb, facts, done, total = "preparing", "", 0, None
        if self._latest:
            verb, _ = NOUNS[self._latest.stage]
            known = _facts(self._latest, self._pace.rate(self._latest), with_time_left=True)
            facts = _fitting(known, ", " if options.ascii_only else " · ", width - len(verb) - cells - 4)
            done, total = self._latest.done, self._latest.total if self._latest.done else None
        bar = ProgressBar(
            total=total, completed=done, width=cells, complete_style=COLOUR, finished_style=COLOUR, pulse_style=COLOUR
        )
        line = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            line.add_column(no_wrap=True, overflow="crop")
        line.add_row(verb, bar, facts)
        yield line


def _facts(progress: Progress, rate: float, *, with_time_left: bool = False) -> list[str]:
    """The count and what is known beside it, what matters most first."""
    _, noun = NOUNS[progress.stage]
    facts = [f"{progress.done:,} of {count(progress.total, noun)}"]
    if progress.stage == "read" and not progress.done:
        return [*facts, "loading the model"]
    if progress.failed:
        facts.append(f"{progress.failed:,} failed")
    if with_time_left and rate and progress.done < progress.total:
        facts.append(f"{duration((progress.total - progress.done) / rate)} left")
    if progress.tokens_before:
        facts.append(f"{share_saved(progress.tokens_before, progress.tokens_after)} tokens saved")
    if rate:
        facts.append(f"{rate:,.1f} {noun}s/s" if rate >= 0.1 else f"{rate * 60:.1f} {noun}s a minute")
    return facts


def _fitting(facts: Sequence[str], separator: str, width: int) -> str:
    """As many of the first facts as fit ``width`` columns."""
    for number in range(len(facts), 1, -1):
        text = separator.join(facts[:number])
        if len(text) <= width:
            return text
    return facts[0][: max(0, width)]
