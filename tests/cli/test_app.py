"""Commands, their help, completion, and how they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rtprune import __version__
from rtprune.cli import app, main
from rtprune.errors import RTPruneError, UsageError


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m rtprune models | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("DeepSeek-OCR: ")


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


def test_help_groups_the_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    order = ["─ Reading ─", "page ", "run ", "models ", "─ Dataset ─", "stats ", "compact ", "verify ", "─ Measuring ─"]
    places = [printed.index(one) for one in [*order, "bench ", "--install-completion"]]
    assert places == sorted(places)


def test_general_help_does_not_load_the_settings() -> None:
    code = (
        "import sys; from rtprune.cli import main; code = main(['--help'])\n"
        "print(code, [name for name in ('pydantic', 'pydantic_settings', 'torch', 'ray') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "0 []"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rtprune {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_flags_and_choices(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    assert main(["--install-completion", "--shell", shell, "--output", str(script)]) == 0
    written = script.read_text()
    assert all(word in written for word in ("verify", "pipeline", "prune", "log-level", "dynamic"))


def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "rtprune"
    script.write_text(app.generate_completion(shell="bash"))
    asked = "COMP_WORDS=(rtprune run --prune ''); COMP_CWORD=3; _rtprune; echo ${COMPREPLY[*]}"
    done = subprocess.run(["bash", "-c", f"source {script}; {asked}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dynamic", "off"]


@pytest.mark.parametrize(
    ("raised", "code", "printed"),
    [
        (UsageError("no such thing", "try another"), 2, "rtprune: error: no such thing (try another)\n"),
        (RTPruneError("odd\x1b[31m\nname"), 1, "rtprune: error: odd\\x1b[31m name\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exceptions_become_exit_codes(
    raised: BaseException,
    code: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(uri: str) -> None:
        raise raised

    monkeypatch.setattr("rtprune.dataset.Output.existing", fail)
    assert main(["stats", "anything"]) == code
    assert capsys.readouterr().err == printed
