"""Links lead somewhere, and so do the files and functions that the pages name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, REPOSITORY, anchors, name, prose

README = REPOSITORY / "README.md"
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)\s#]+)", prose(README)))
    assert {name(page) for page in PAGES} - {"README.md"} <= linked


def test_the_readme_stays_within_two_screens() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 110


def names_in(file: Path) -> set[str]:
    """Functions and classes of a module, methods as ``Class.method``."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def test_the_way_of_a_page_names_what_is_there() -> None:
    steps = re.findall(r"`([\w/]+\.py):([\w.]+)`", ARCHITECTURE.read_text(encoding="utf-8"))
    assert len(steps) > 25
    for file, function in steps:
        root = REPOSITORY if file.startswith("rtprune/") else REPOSITORY / "rtprune"
        assert function in names_in(root / file), f"{file}:{function}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_exist(page: Path) -> None:
    for file in re.findall(r"`((?:rtprune|flows|tasks|infra|tests|docs)/[\w/.-]*)`", prose(page)):
        assert (REPOSITORY / file).exists(), file
