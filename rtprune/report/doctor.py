"""What ``rtprune doctor`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtprune.report.wording import one_line

if TYPE_CHECKING:
    from rtprune.doctor import Check

STATE_WIDTH, NAME_WIDTH = 9, 15


def check_lines(check: Check) -> Iterator[str]:
    """What was found, and below it what to do."""
    yield f"{check.state:<{STATE_WIDTH}}{check.name:<{NAME_WIDTH}}{one_line(check.found)}"
    if check.advice and check.state != "ok":
        yield f"{'':<{STATE_WIDTH + NAME_WIDTH}}-> {one_line(check.advice)}"
