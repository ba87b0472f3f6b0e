"""What a worker logs, kept until its driver asks for it, and shown there as the driver's own records are."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtprune.corpus.values import LogRecord

KEPT = 1000


class WorkerLog(logging.Handler):
    """Collects what this package logs in this process."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._records: deque[LogRecord] = deque(maxlen=KEPT)
        logger = logging.getLogger("rtprune")
        if logger.getEffectiveLevel() > level:
            logger.setLevel(level)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self._records.append((record.name, record.levelno, record.getMessage()))

    def take(self) -> tuple[LogRecord, ...]:
        """What came since it was last asked."""
        taken: list[LogRecord] = []
        while self._records:
            taken.append(self._records.popleft())
        return tuple(taken)
