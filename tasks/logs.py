"""What the package logs, in Prefect's log as well."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


@contextmanager
def forwarded(to: Logger) -> Iterator[None]:
    """Within the block the package's warnings and errors, those of its workers among them, reach ``to``."""
    handler = _Forward(to)
    logging.getLogger("rtprune").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("rtprune").removeHandler(handler)


class _Forward(logging.Handler):
    def __init__(self, to: Logger) -> None:
        super().__init__(logging.WARNING)
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        self._to.log(record.levelno, record.getMessage())
