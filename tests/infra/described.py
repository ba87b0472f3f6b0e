"""The files of infra/, parsed."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
INFRA = REPOSITORY / "infra"


def texts() -> dict[str, str]:
    """Name -> text of every deployment file."""
    files = [*INFRA.rglob("*.yaml"), *INFRA.rglob("*.json"), INFRA / "Dockerfile", INFRA / "env.example"]
    return {str(file.relative_to(INFRA)): file.read_text() for file in files}


def documents(name: str) -> list[Any]:
    """The documents of a YAML or JSON file of infra/."""
    text = (INFRA / name).read_text()
    return [json.loads(text)] if name.endswith(".json") else list(yaml.safe_load_all(text))


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file, by name."""
    (compose,) = documents("compose.yaml")
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def words(service: dict[str, Any]) -> list[str]:
    """A service's command, that of a shell taken apart."""
    return " ".join(service.get("command", [])).split()


def image_lines() -> list[tuple[str, str]]:
    """Instruction and arguments of each line of the Dockerfile."""
    joined = (INFRA / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every mapping key and scalar below ``value``: (the last key, the value)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key), item
            yield from walk(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield path, item
            yield from walk(item, path)


def pinned(package: str) -> str:
    """The version of ``package`` in constraints.txt."""
    (version,) = re.findall(rf"^{package}==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
