"""Every command line that the pages show is one that its program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import MissingArgumentError

from rtprune.cli import app
from rtprune.cli.flags import run_settings
from rtprune.settings import RunSettings
from tests.docs.pages import PAGES, REPOSITORY, commands, name, prose

GUIDES = {"docs/adding-a-model.md", "docs/adding-a-method.md"}  # done as a whole, see tests/guides.py


def inline(page: Path) -> list[str]:
    """Commands within the text."""
    return re.findall(r"`((?:rtprune|make|python -m rtprune\S*) [^`]+)`", prose(page).replace("\n", " "))


SHOWN = sorted({(name(page), one) for page in PAGES if name(page) not in GUIDES for one in commands(page)})
MENTIONED = sorted({(name(page), one) for page in PAGES for one in inline(page)})


def taken(command: str) -> bool:
    """Whether the program takes the command; false where it is none that this test knows."""
    match shlex.split(command):
        case ["rtprune", *arguments]:
            _, given, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
            run_settings({key: value for key, value in given.arguments.items() if key in RunSettings.model_fields})
        case ["make", target]:
            return f"\n{target}:" in (REPOSITORY / "Makefile").read_text()
        case ["prefect", *arguments]:
            from prefect.cli._app import _app

            _app.parse_args(arguments, exit_on_error=False, print_error=False)
        case ["ray", "job", *arguments]:
            from ray.dashboard.modules.job.cli import job_cli_group

            step, submit, rest = job_cli_group.resolve_command(
                job_cli_group.make_context("job", list(arguments)), arguments
            )
            assert submit is not None
            return taken(shlex.join(submit.make_context(step, rest).params["entrypoint"]))
        case ["python", "-m", module, *_] if module.startswith("rtprune."):
            return (REPOSITORY / f"{module.replace('.', '/')}.py").exists()
        case [".venv/bin/python", "-m", "pytest", path, *_]:
            return (REPOSITORY / path).exists()
        case _:
            return False
    return True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_a_command_is_taken(page: str, command: str) -> None:
    assert taken(command)


@pytest.mark.parametrize(("page", "command"), MENTIONED)
def test_a_command_within_the_text_is_taken(page: str, command: str) -> None:
    try:
        assert taken(command)
    except MissingArgumentError:  # named only, as in "`rtprune verify` checks them"
        assert re.fullmatch(r"rtprune( [a-z]+)+( --[a-z-]+)*", command)


def test_the_readme_shows_its_two_commands() -> None:
    assert {"make demo", "make test"} <= set(commands(REPOSITORY / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_variables_are_settings(page: Path) -> None:
    named = set(re.findall(r"\bRTPRUNE_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
    assert named <= {f"RTPRUNE_{field.upper()}" for field in RunSettings.model_fields} | {
        "RTPRUNE_LOG_LEVEL",
        "RTPRUNE_TEST_DATA",
    }
