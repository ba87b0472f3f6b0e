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
    return re.sub(r"\x1b\[[\d;?]*[mhl]", "", stream.getvalue().rpartition("\x1b[2K")[2])


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


@pytest.mark.parametrize(("columns", "kept"), [(40, 1), (80, 3), (140, 5)])
def test_narrow_terminals_keep_the_facts_that_matter_most(
    columns: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = ["500 of 1,000 pages", "3 failed", "10 s left", "18.8 % tokens saved", "50.0 pages/s"]
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rtprune.report.progress._Pace.rate", lambda pace, progress: 50.0)
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("read", 500, 1000, failed=3, tokens_before=1000, tokens_after=812))
        line = last_line(stream)
    assert line.split("  ")[-1].rstrip() == " · ".join(facts[:kept])


@pytest.mark.parametrize(("variable", "value", "colours"), [("NO_COLOR", "1", False), ("UNUSED", "1", True)])
def test_no_color_is_honoured(variable: str, value: str, colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("read", 1, 2))
    assert bool(re.search(r"\x1b\[[\d;]+m", stream.getvalue())) == colours
    assert "1 of 2 pages" in stream.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("inspect", 2, 2))
        display.say("a line")
    assert stream.getvalue() == "looking into: 2 of 2 documents\na line\n"


def test_the_cursor_is_never_left_hidden() -> None:
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display.show(Progress("read", 1, 2))
        shown = stream.getvalue()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


def test_before_the_first_page_the_model_is_loaded() -> None:
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        assert last_line(stream).startswith("preparing")
        display.show(Progress("read", 0, 9))
        assert "0 of 9 pages · loading the model" in last_line(stream)
