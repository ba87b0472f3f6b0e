"""What the command line prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rtprune.cli import main
from rtprune.dataset import Output, committed_units
from rtprune.errors import UsageError
from rtprune.settings import PUBLISHED_MODEL, RunSettings
from tests.processes import descendants, started, wait_until
from tests.sources import assert_complete, quick_flags, write_corpus, write_pdf


def committed(output: Path) -> int:
    """Units committed so far; 0 before there is a dataset."""
    try:
        return len(committed_units(Output.existing(str(output))))
    except UsageError:
        return 0


def one_line(captured: str) -> str:
    assert captured.startswith("rtprune: error: ")
    assert captured.count("\n") == 1
    return captured


def test_page_prints_the_text_and_its_token_facts(
    tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pdf(tmp_path / "a.pdf", 2)
    flags = ["--model", str(random_checkpoint), "--mode", "tiny", "--max-output-tokens", "4"]
    assert main(["page", str(file), "--page", "2", "--prune", "0.25", *flags]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"page +2 of 2, read by .* in mode tiny", printed)
    assert re.search(r"visual tokens +73 -> \d+ \(\d+\.\d % saved\)", printed)
    assert "25.0 % of the free tokens" in printed


def test_models_are_listed_with_licences_and_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for title in ("DeepSeek-OCR", "DeepSeek-OCR-2", "Unlimited-OCR", "LightOnOCR", "GLM-OCR"):
        assert re.search(rf"^{title}: \S+/\S+, weights under (MIT|Apache-2.0)$", printed, re.MULTILINE)
    assert "modes      tiny, small, base, large*, gundam" in printed
    assert r"<image>\n<|grounding|>Convert the document to markdown." in printed
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["published"] == PUBLISHED_MODEL


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m rtprune models | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("DeepSeek-OCR: ")


def test_page_without_pruning_keeps_every_token(
    tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pdf(tmp_path / "a.pdf", 1)
    flags = ["--model", str(random_checkpoint), "--mode", "tiny", "--max-output-tokens", "4"]
    assert main(["page", str(file), "--prune", "off", *flags]) == 0
    assert "73 -> 73 (0.0 % saved)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["page", "{tmp}/a.pdf", "--page", "3"], "has no page 3 (it has pages 1 to 2)"),
        (["page", "{tmp}/missing.pdf"], "missing.pdf"),
        (["page", "{tmp}/not.pdf"], "not.pdf"),
        (["page", "{tmp}/a.pdf", "--model", "/no/such/folder"], "--model mini"),
        (["page", "{tmp}/a.pdf", "--prune", "7"], "--prune cannot be '7'"),
        (["run", "{tmp}", "{tmp}/out", "--workers", "0"], "--workers cannot be '0'"),
        (["run", "{tmp}/missing", "{tmp}/out"], "missing"),
        (["run", "{tmp}", "{tmp}/a.pdf"], "a.pdf"),
        (["run", "{tmp}", "{tmp}/out", "--mode", "enormous"], "tiny, small, base, large, gundam"),
        (["stats", "{tmp}"], "there is no dataset"),
    ],
)
def test_wrong_use_is_one_line_with_a_hint_and_exit_code_2(
    arguments: list[str], told: str, tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pdf(tmp_path / "a.pdf", 2)
    (tmp_path / "not.pdf").write_bytes(b"not at all")
    given = [part.format(tmp=tmp_path) for part in arguments]
    if "--model" not in given and given[0] != "stats":
        given += ["--model", str(random_checkpoint)]
    assert main(given) == 2
    assert told in one_line(capsys.readouterr().err)


def test_password_is_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = write_pdf(tmp_path / "locked.pdf", 1, password="sesame")
    for given in (["page", str(locked)], ["run", str(locked), str(tmp_path / "out"), "--model", str(tmp_path)]):
        assert main([*given, "--password", "hunter2"]) == 2
        captured = capsys.readouterr()
        assert "hunter2" not in captured.out + captured.err
    assert "hunter2" not in repr(RunSettings(password="hunter2"))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from rtprune.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'prefect', 'pyarrow') if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "--max-output-tokens" in ended.stdout


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "rtprune", *arguments]


def run_on_terminal(arguments: list[str]) -> tuple[int, str]:
    """Exit code of a command on a terminal, and what it showed there, colours removed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "110"}
    shown = b""
    with started(command(arguments), stdout=theirs, stderr=theirs, env=environment) as process:
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
    code, shown = run_on_terminal(arguments)
    assert code == 0
    assert "loading the model" in shown
    assert f"{left} of {left} page" in shown
    final = shown.rpartition("\r\x1b[2K")[2]
    assert re.match(rf"finished in .*\ndocuments +0 looked into\npages +{left} recorded\nvisual tokens +", final)
    assert sum(assert_complete(str(out)).values()) == 48


def test_page_draws_an_overlay(tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(random_checkpoint), "--mode", "tiny", "--max-output-tokens", "4"]
    page = ["page", str(write_pdf(tmp_path / "a.pdf", 1)), *flags]
    assert main([*page, "--overlay", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "a.png") in capsys.readouterr().out
    assert main([*page, "--overlay", str(tmp_path / "nowhere" / "a.png")]) == 2
    assert "cannot write" in capsys.readouterr().err
