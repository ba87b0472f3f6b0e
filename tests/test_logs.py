"""The package's log: named one way, set up by nobody but the command line, shown once."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtprune import logs
from rtprune.cli import main

PACKAGE = Path(logs.__file__).parent
HERE = logging.getLogger("rtprune.somewhere")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("error", ["error: e"]),
        ("warning", ["error: e", "warning: w"]),
        ("info", ["error: e", "warning: w", "info: i"]),
        ("debug", ["error: e", "warning: w", "info: i", "debug: d"]),
    ],
)
def test_level_decides_what_is_shown(level: logs.Level, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with logs.shown(level):
        for write in (HERE.error, HERE.warning, HERE.info, HERE.debug):
            write(write.__name__[0])
    HERE.error("after the block")
    assert [line for line in capsys.readouterr().err.splitlines() if line != "after the block"] == shown


def test_a_record_from_another_process_is_shown_as_if_logged_here(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.shown("warning"):
        for level in (logging.INFO, logging.WARNING):
            record = logging.LogRecord("rtprune.engine.budget", level, "budget.py", 1, "worker 3: %d", (7,), None)
            logging.getLogger(record.name).handle(record)
    assert capsys.readouterr().err == "warning: worker 3: 7\n"


def test_other_packages_are_shown_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    other = logging.getLogger("another.package")
    with logs.shown("debug"):
        other.info("chatter")
        other.warning("careful")
    assert capsys.readouterr().err == "warning: careful\n"


def test_a_message_is_one_line_with_its_exception(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.shown():
        try:
            raise ValueError("no\nnumber")
        except ValueError:
            HERE.exception("page\x1b]0;odd\x07\nlost")
    assert capsys.readouterr().err == "error: page\\x1b]0;odd\\x07 lost (ValueError: no number)\n"


def test_messages_go_through_one_place_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with logs.shown("info"):
        with logs.through(said.append):
            HERE.info("within")
        HERE.info("without")
    assert said == ["info: within"]
    assert capsys.readouterr().err == "info: without\n"


def test_commands_take_the_level_from_flag_or_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(uri: str) -> None:
        HERE.info("looking")
        raise SystemExit(0)

    monkeypatch.setattr("rtprune.dataset.Output.existing", look)

    def shown_by(*flags: str) -> str:
        with pytest.raises(SystemExit):
            main(["stats", "out", *flags])
        return capsys.readouterr().err

    assert shown_by() == ""
    assert shown_by("--log-level", "info") == "info: looking\n"
    monkeypatch.setenv("RTPRUNE_LOG_LEVEL", "debug")
    assert shown_by() == "info: looking\n"
    assert shown_by("--log-level", "warning") == ""


def test_every_module_names_its_logger_after_itself() -> None:
    assigned = [
        (path.name, name)
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"^\w+ = logging\.getLogger\((.*)\)", path.read_text(), re.MULTILINE)
    ]
    assert len(assigned) >= 3
    assert {name for _, name in assigned} == {"__name__"}, assigned


def test_importing_the_package_sets_up_no_logging() -> None:
    code = (
        "import logging, rtprune.cli.reading, rtprune.cli.bench, rtprune.engine, rtprune.corpus.run\n"
        "ours = [name for name in logging.root.manager.loggerDict if name.startswith('rtprune')]\n"
        "print([name for name in [None, *ours] if logging.getLogger(name).handlers])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
