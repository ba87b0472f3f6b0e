"""The package's log on a terminal: ``warning: a unit was given up``, one line for each message.

Every module logs to ``logging.getLogger(__name__)``, so all loggers are below ``rtprune``. Nothing is set up at import:
a program that uses the package decides what becomes of its log. The command line decides with ``shown``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rtprune.errors import unexpected
from rtprune.report.wording import one_line

Level = Literal["error", "warning", "info", "debug"]
DEFAULT: Level = "warning"

Say = Callable[[str], None]


@contextmanager
def shown(level: Level = DEFAULT) -> Iterator[None]:
    """Show the package's messages of ``level`` and above on stderr, and other packages' from WARNING on.

    ``logging.getLogger("rtprune").getEffectiveLevel()`` is this level within the block: processes elsewhere that send
    their records here need send no others.
    """
    package = logging.getLogger("rtprune")
    before = package.level
    package.setLevel(level.upper())
    try:
        with _handling(_Printing(_to_stderr, level)):
            yield
    finally:
        package.setLevel(before)


@contextmanager
def through(say: Say) -> Iterator[None]:
    """Within the block ``say`` writes the messages, without ``shown`` those from WARNING on."""
    handler = next((one for one in logging.getLogger().handlers if isinstance(one, _Printing)), None)
    if handler is None:
        with _handling(_Printing(say, DEFAULT)):
            yield
        return
    before, handler.say = handler.say, say
    try:
        yield
    finally:
        handler.say = before


@contextmanager
def _handling(handler: logging.Handler) -> Iterator[None]:
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Printing(logging.Handler):
    """Names of objects are anybody's, so what does not print is escaped."""

    def __init__(self, say: Say, level: Level) -> None:
        super().__init__(level.upper())
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1]:
                text = f"{text} ({unexpected(record.exc_info[1])})"
            self.say(f"{record.levelname.lower()}: {one_line(text)}")
        except Exception:
            self.handleError(record)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
