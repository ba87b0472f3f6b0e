"""Flags and settings: which values are refused, and how that is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtprune.cli import main
from rtprune.settings import ReadSettings, RunSettings
from tests.sources import write_pdf


def one_line(captured: str) -> str:
    assert captured.startswith("rtprune: error: ")
    assert captured.count("\n") == 1
    return captured


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "a", "b", "--wrokers", "2"], "Did you mean --workers?"),
        (["vrify", "a"], 'Did you mean "verify"?'),
        (["bench", "pln"], 'Did you mean "plan"?'),
        ([], "rtprune --help lists them"),
        (["bench"], "rtprune bench --help lists them"),
        (["stats"], "OUTPUT requires an argument"),
        (["stats", "a", "b"], "['b']"),
        (["run", "a", "b", "--mode"], "--mode requires an argument"),
        (["page", "a", "--page", "two"], "--page"),
        (["stats", "a", "--log-level", "loud"], "--log-level"),
        (["compact", "a", "--target-mb", "0"], "choose 1 to"),
    ],
)
def test_misuse_is_one_line_that_helps(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in one_line(captured.err)
    assert captured.out == ""


def test_every_setting_is_a_flag_of_run_in_its_panel() -> None:
    command = [sys.executable, "-m", "rtprune", "run", "--help"]
    printed = subprocess.run(
        command, env=os.environ | {"COLUMNS": "400"}, capture_output=True, text=True, check=True
    ).stdout
    panels = dict(re.findall(r"─ ([\w ]+?) ─+╮\n(.*?)╰", printed, re.DOTALL))
    for name, field in RunSettings.model_fields.items():
        assert re.search(rf"--{name.replace('_', '-')} .*{re.escape(str(field.description))}", printed), name
    for name in ReadSettings.model_fields:
        assert f"--{name.replace('_', '-')} " in panels["What decides the text"]
    assert "--workers" in panels["Resources"]
    assert "--page-timeout-s" in panels["Safety"]
    assert "[choices: dynamic, off] [default: dynamic]" in printed
    assert "[default: deepseek-ai/DeepSeek-OCR]" in printed


def test_page_takes_no_setting_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["page", "a.pdf", "--workers", "2"]) == 2
    assert "Unknown option: --workers" in one_line(capsys.readouterr().err)


def test_the_last_of_two_values_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path), "b", "--dpi", "72", "--dpi", "x1"]) == 2
    assert "--dpi cannot be 'x1'" in one_line(capsys.readouterr().err)


def test_the_environment_sets_what_no_flag_sets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RTPRUNE_DPI", "x2")
    assert main(["run", "a", "b"]) == 2
    assert "RTPRUNE_DPI cannot be 'x2'" in one_line(capsys.readouterr().err)
    monkeypatch.setenv("RTPRUNE_DPIS", "72")
    assert main(["page", "a.pdf"]) == 2
    assert "RTPRUNE_DPIS is no setting" in one_line(capsys.readouterr().err)
    monkeypatch.delenv("RTPRUNE_DPIS")
    assert main(["run", "a", "b", "--dpi", "x3"]) == 2
    assert "--dpi cannot be 'x3'" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("value", ["false", "no", "0"])
def test_a_yes_or_no_setting_takes_a_value(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    monkeypatch.setattr("rtprune.cli.reading.run_settings", lambda given: seen.append(RunSettings(**given)) or seen[0])
    assert main(["page", str(tmp_path / "missing.pdf"), "--reread", value, "--model", "none"]) == 2
    assert (seen[0].reread, seen[0].model) == (False, "none")
    assert "missing.pdf" in one_line(capsys.readouterr().err)
