"""Temporary folders go with their process, whatever ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rtprune.scratch import scratch

HOLD = """
import sys, time
from pathlib import Path
from rtprune.scratch import scratch
with scratch() as folder:
    (Path(folder) / "large").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_a_folder_is_gone_after_its_block() -> None:
    with scratch() as one, scratch() as other:
        assert one != other
        (Path(one) / "file").touch()
    assert not Path(one).exists()
    assert not Path(other).exists()


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_no_other() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with scratch():
            assert (left / "large").exists(), "its process is at work"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (left / "large").exists()
    with scratch():
        assert not left.exists()
