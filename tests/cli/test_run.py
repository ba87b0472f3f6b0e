"""``rtprune run`` on a terminal, terminated and killed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from rtprune.dataset import Output, done_units
from rtprune.errors import UsageError
from tests.conftest import REPOSITORY
from tests.processes import descendants, started, wait_until
from tests.sources import assert_complete, quick_flags, write_corpus


def committed(output: Path) -> int:
    """Units committed so far; 0 before there is a dataset."""
    try:
        return len(done_units(Output.existing(str(output))))
    except UsageError:
        return 0


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "rtprune", *arguments]


#: The same with workers that log a warning.
WITH_STRANGE_WORKERS = """
import sys
from rtprune.cli import main
from tests.faults.sabotage import Strange, reads_with
reads_with(Strange)
sys.exit(main(sys.argv[1:]))
"""


def run_on_terminal(command: list[str]) -> tuple[int, str]:
    """Exit code of a command on a terminal, and what it showed there, colours removed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "110", "PYTHONPATH": str(REPOSITORY)}
    shown = b""
    with started(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 1.0)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
        os.close(ours)
        return process.wait(10), re.sub(r"\x1b\[\d*m", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.slow
def test_run_that_is_terminated_and_killed_is_complete_in_the_end(tmp_path: Path, random_checkpoint: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=8, pages=6)
    out = tmp_path / "out"
    arguments = ["run", str(source), str(out), *quick_flags(random_checkpoint, unit_pages=1, batch_pages=1, workers=1)]
    with started(command(arguments), start_new_session=True) as process:
        wait_until(lambda: committed(out) >= 3, "the first units")
        os.killpg(process.pid, signal.SIGTERM)  # as a service manager does: Ray's processes get it too
        printed, warned = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "units at work are finished first" in warned
    assert "the same command goes on from here" in printed
    assert "Traceback" not in printed + warned
    assert not descendants(process.pid)

    before = committed(out)
    with started(command(arguments)) as process:
        wait_until(lambda: committed(out) >= before + 3, "more units")
        readers = [pid for pid, line in descendants(process.pid).items() if line.startswith("ray::Worker")]
        process.kill()
    assert readers
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in readers), "its workers to end")

    left = 48 - committed(out)
    assert 0 < left < 48 - before
    code, shown = run_on_terminal([sys.executable, "-c", WITH_STRANGE_WORKERS, *arguments])
    assert code == 0
    assert shown.count("strange") == shown.count("warning: worker 1: this page is strange\n") == 1
    assert "loading the model" in shown
    assert f"{left} of {left} page" in shown
    final = shown.rpartition("\x1b[2K")[2]
    assert re.match(rf"finished in .*\ndocuments +0 looked into\npages +{left} recorded\nvisual tokens +", final)
    assert sum(assert_complete(str(out)).values()) == 48
