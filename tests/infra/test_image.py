"""The image holds what it needs and no more, runs as nobody special, and lets signals through."""

from __future__ import annotations

import json
import re

from tests.infra.described import REPOSITORY, image_lines, services


def stages() -> dict[str, list[tuple[str, str]]]:
    """Name -> its lines, the first of which is FROM."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in image_lines():
        if word == "FROM":
            lines = found.setdefault(rest.split(" AS ")[1], [])
        lines.append((word, rest))
    return found


def lineage(name: str) -> list[tuple[str, str]]:
    """The lines of a stage and of those it stands on, in the order in which they apply."""
    lines = stages()[name]
    below = lines[0][1].split(" AS ")[0]
    return (lineage(below) if below in stages() else []) + lines


def last(word: str, name: str) -> str:
    return [rest for found, rest in lineage(name) if found == word][-1]


def test_targets_exist_and_share_all_but_their_dependencies() -> None:
    assert stages().keys() >= {"cpu", "gpu"}
    assert {service["build"]["target"] for service in services().values() if "build" in service} <= stages().keys()
    for target in ("cpu", "gpu"):
        copied = [rest for word, rest in stages()[target] if word == "COPY"]
        assert copied == [f"--from={target}-dependencies /opt/rtprune /opt/rtprune", "--from=code /code ./"]


def test_what_is_copied_exists_and_enters_the_build() -> None:
    entries = (REPOSITORY / ".dockerignore").read_text().split("\n")
    admitted = {entry[1:] for entry in entries if entry.startswith("!")}
    assert "*" in entries
    copied: set[str] = set()
    for word, rest in image_lines():
        arguments = rest.split()
        origin = [one.removeprefix("--from=") for one in arguments if one.startswith("--from=")]
        if word == "COPY" and origin:
            assert origin[0] in stages()
        elif word == "COPY":
            copied |= set(arguments[:-1])
    assert copied == admitted
    assert all((REPOSITORY / source).exists() for source in copied)
    assert not admitted & {".git", ".venv", "tests", "demo", "infra"}


def test_code_of_every_package_is_copied() -> None:
    copied = {rest.split()[0] for word, rest in stages()["code"] if word == "COPY"}
    packages = {file.parent.name for file in REPOSITORY.glob("*/__init__.py")}
    assert copied == packages | {"prefect.yaml"}
    assert "PYTHONPATH=/srv/rtprune" in last("ENV", "cpu")
    assert last("WORKDIR", "cpu") == "/srv/rtprune"


def test_dependencies_are_the_tested_versions() -> None:
    for target in ("cpu", "gpu"):
        (install,) = [rest for word, rest in stages()[f"{target}-dependencies"] if word == "RUN"]
        assert "pip install --constraint constraints.txt . " in install
    (install,) = [rest for word, rest in stages()["cpu-dependencies"] if word == "RUN"]
    assert install.startswith(': "${PIP_EXTRA_INDEX_URL:?'), "without the index of CPU builds pip fetches CUDA"


def test_container_runs_as_an_ordinary_user() -> None:
    for target in ("cpu", "gpu"):
        assert last("USER", target) == "rtprune"
        assert any("useradd" in rest and "rtprune" in rest for word, rest in lineage(target) if word == "RUN")
        words = [word for word, _ in lineage(target)]
        assert "RUN" not in words[words.index("USER") :]


def test_any_command_can_be_given_and_gets_the_signals() -> None:
    for target in ("cpu", "gpu"):
        assert json.loads(last("ENTRYPOINT", target)) == ["tini", "--"]
        assert json.loads(last("CMD", target)) == ["rtprune", "--help"]
    for name, service in services().items():
        assert isinstance(service.get("command", []), list), f"{name}: a string would run under a shell"
        assert "entrypoint" not in service
        if service.get("command", [""])[0] == "sh":
            script = service["command"][2]
            assert "exec " in script.split("&&")[-1] or service.get("restart") is None, name


def test_weights_lie_on_a_volume() -> None:
    (folder,) = re.findall(r"HF_HOME=(\S+)", last("ENV", "runtime"))
    assert json.loads(last("VOLUME", "cpu")) == [folder]
    for name in ("ray-worker", "prefect-worker"):
        assert f"models:{folder}" in services()[name]["volumes"]
