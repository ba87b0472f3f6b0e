"""Other packages' things are found by name, and a broken one harms nothing but itself."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from rtprune.errors import PluginError
from rtprune.plugins import Registry
from tests.guides import declare

GROUP = "rtprune.testing"


def fault(thing: Any) -> str | None:
    return None if isinstance(thing, int) else f"it must be a number, got {thing!r}"


def registry() -> Registry[int]:
    return Registry("number", GROUP, {"one": 1, "most": "sys:maxsize"}, fault)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path, with a module of two attributes and one that cannot be imported."""
    (tmp_path / "toy_numbers.py").write_text("TWO = 2\nWORD = 'two'\n")
    (tmp_path / "toy_broken.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("toy_numbers", "toy_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def declared(site: Path, package: str, **points: str) -> None:
    declare(site, package, "\n".join([f"[{GROUP}]", *(f"{name} = {value}" for name, value in points.items())]))


def test_own_things_are_there_at_once_or_imported_when_asked_for() -> None:
    assert registry()["one"] == 1
    assert registry()["most"] == sys.maxsize


def test_an_installed_package_is_known_by_name_and_imported_when_asked_for(site: Path) -> None:
    declared(site, "toy", two="toy_numbers:TWO")
    numbers = registry()
    assert list(numbers) == ["one", "most", "two"]
    assert "two" in numbers
    assert "toy_numbers" not in sys.modules
    assert numbers["two"] == 2


def test_unknown_names_are_not_there() -> None:
    assert "two" not in registry()
    assert None not in registry()
    with pytest.raises(KeyError):
        registry()["two"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("toy_broken:X", r"number 'bad' of package toy 1.0 .* imported: ModuleNotFoundError: .*'no_such_module'"),
        ("toy_numbers:THREE", "number 'bad' of package toy 1.0 .* imported: AttributeError: .*'THREE'"),
        ("toy_numbers:WORD", "number 'bad' of package toy 1.0 .* cannot be used: it must be a number, got 'two'"),
    ],
)
def test_a_broken_package_is_named_with_its_fault_and_harms_no_other(site: Path, value: str, message: str) -> None:
    declared(site, "toy", bad=value, two="toy_numbers:TWO")
    numbers = registry()
    with pytest.raises(PluginError, match=message):
        numbers["bad"]
    assert (numbers["one"], numbers["two"]) == (1, 2)


def test_two_packages_with_one_name_are_both_named(site: Path) -> None:
    declared(site, "toy", two="toy_numbers:TWO")
    declared(site, "toy-fork", two="toy_numbers:WORD")
    with pytest.raises(PluginError, match=r"package toy.* 1.0 and package toy.* 1.0 both declare a number 'two'"):
        registry()["two"]


def test_the_same_thing_declared_twice_is_no_conflict(site: Path) -> None:
    declared(site, "toy", two="toy_numbers:TWO")
    declared(site, "toy-again", two="toy_numbers:TWO")
    assert registry()["two"] == 2


def test_a_package_cannot_replace_an_own_thing(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    declared(site, "toy", one="toy_numbers:TWO")
    numbers = registry()
    with caplog.at_level(logging.WARNING):
        assert list(numbers) == ["one", "most"]
    assert "number 'one' of package toy 1.0 is not used: rtprune has one of that name" in caplog.text
    assert numbers["one"] == 1


def test_a_call_adds_a_thing_and_may_be_repeated() -> None:
    numbers, thousand = registry(), 10**3
    numbers.register("thousand", thousand)
    numbers.register("thousand", thousand)
    assert numbers["thousand"] == 1000
    assert len(numbers) == 3
    assert "thousand" not in registry()


@pytest.mark.parametrize(
    ("name", "thing", "message"),
    [
        ("one", 5, "there is a number 'one' already, from rtprune itself"),
        ("two", 5, "there is a number 'two' already, from package toy 1.0"),
        ("five", 6, "there is a number 'five' already, from an earlier call"),
        ("six", "6", "number 'six' cannot be used: it must be a number, got '6'"),
        ("", 5, "the name of a number must be a non-empty string, got ''"),
        (None, 5, "the name of a number must be a non-empty string, got None"),
    ],
)
def test_a_call_that_cannot_be_is_refused(site: Path, name: Any, thing: Any, message: str) -> None:
    declared(site, "toy", two="toy_numbers:TWO")
    numbers = registry()
    numbers.register("five", 5)
    with pytest.raises(PluginError, match=message):
        numbers.register(name, thing)
