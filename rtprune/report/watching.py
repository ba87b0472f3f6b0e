"""A status that is shown again and again while runs are at work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from rtprune.dataset import DatasetStatus

LOOK_EVERY_S = 10.0
LOOK_SHARE = 0.1  # of the time, at most, is spent on looking: a large dataset is looked at less often


def watched(
    look: Callable[[], DatasetStatus], text: Callable[[DatasetStatus], str], stream: TextIO, *, redraw: bool
) -> None:
    """Show what ``look`` gives until no run is at work: in one place on a terminal where ``redraw``, else in turn."""
    if redraw and stream.isatty() and os.environ.get("TERM") != "dumb":
        console = Console(file=stream, highlight=False)
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            _watch(look, lambda now: live.update(Text(text(now)), refresh=True))
    else:
        _watch(look, lambda now: print(text(now), file=stream, flush=True))


def _watch(look: Callable[[], DatasetStatus], show: Callable[[DatasetStatus], None]) -> None:
    while True:
        began = time.monotonic()
        now = look()
        show(now)
        if not now.at_work:
            return
        time.sleep(max(LOOK_EVERY_S, (time.monotonic() - began) / LOOK_SHARE))
