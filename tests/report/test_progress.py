"""What a run shows while it runs."""

from __future__ import annotations

import io
import logging
import re

import pytest

from rtprune.corpus.values import Progress
from rtprune.report.progress import ProgressDisplay


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def last_line(stream: io.StringIO) -> str:
    """What the terminal shows in its last line, colours removed."""
    return re.sub(r"\x1b\[\d*m", "", stream.getvalue().rpartition("\r\x1b[2K")[2])


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_terminal_line_tells_pages_failures_and_tokens_saved() -> None:
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("read", 120, 1200, failed=3, tokens_before=1000, tokens_after=812))
        line = last_line(stream)
    assert line.startswith("reading  ━")
    assert "120 of 1,200 pages" in line
    assert "18.8 % tokens saved" in line
    assert "3 failed" in line


def test_terminal_is_left_without_a_bar() -> None:
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("inspect", 1, 2))
    assert last_line(stream) == ""


def test_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("read", 999_999, 1_000_000, failed=99_999, tokens_before=1000, tokens_after=1))
        assert len(last_line(stream)) < 60


def test_warnings_stand_above_the_bar() -> None:
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("read", 1, 2))
        logging.getLogger("rtprune.somewhere").warning("a unit was given up: \x1b]0;odd\x07\nname")
        assert "\r\x1b[2Kwarning: a unit was given up: \\x1b]0;odd\\x07 name\n" in stream.getvalue()
        assert "1 of 2 pages" in last_line(stream)


def test_without_a_terminal_lines_are_plain_and_few() -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream) as display:
        for done in range(101):
            display.show(Progress("read", done, 100, tokens_before=done * 10, tokens_after=done * 8))
    assert stream.getvalue() == "reading: 100 of 100 pages, 20.0 % tokens saved\n"


def test_without_a_terminal_an_unfinished_run_says_how_far_it_came() -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream) as display:
        display.show(Progress("read", 7, 100))
    assert stream.getvalue() == "reading: 7 of 100 pages\n"
