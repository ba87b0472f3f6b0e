"""Does what a guide in docs/ says: writes its files, installs its package, runs its commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (\S+\.(?:py|toml))\n")


#: Runs the steps of a guide in one process, as importing torch takes longer than all of them together.
_STEPS = """
import json, runpy, sys

for kind, *arguments in json.loads(sys.argv[1]):
    sys.argv = arguments
    try:
        if kind == "file":
            runpy.run_path(arguments[0], run_name="__main__")
        elif kind == "module":
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            exec(arguments[0], {})
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"{kind} {arguments} ended with {ended.code}")
"""


def follow(guide: str, folder: Path) -> str:
    """Do all that ``docs/<guide>`` shows in an empty folder; returns what its commands printed.

    First every block that begins with a file's name is written there, and ``pip install`` puts packages into a folder
    of the test's own. Then the commands of bash blocks, and blocks of Python without a name, are run in their order.
    """
    packages, steps = [], []
    for language, text in _BLOCK.findall((REPOSITORY / "docs" / guide).read_text(encoding="utf-8")):
        named = _FILE_NAME.match(text)
        if named:
            file = folder / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif language == "python":
            steps.append(["text", text])
        elif language == "bash":
            for command in map(shlex.split, text.splitlines()):
                match command:
                    case ["pip", "install", package]:
                        packages.append(folder / package)
                    case ["python", file, *arguments]:
                        steps.append(["file", file, *arguments])
                    case ["rtprune", *arguments]:
                        steps.append(["module", "rtprune", *arguments])
                    case _:
                        raise AssertionError(f"{guide} shows a command that this test does not know: {command}")
    site = folder / "site"
    for package in packages:
        install(package, site)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)])}
    command = [sys.executable, "-c", _STEPS, json.dumps(steps)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{guide}: {done.stdout}\n{done.stderr}"
    return done.stdout


def install(package: Path, site: Path) -> None:
    """What `pip install` does with a package of plain modules, as far as Python sees it afterwards."""
    described = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    project = described["project"]
    site.mkdir(exist_ok=True)
    for module in described["tool"]["setuptools"]["py-modules"]:
        shutil.copy(package / f"{module}.py", site)
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    ]
    declare(site, project["name"], "\n".join(groups), project["version"])


def declare(site: Path, package: str, entry_points: str, version: str = "1.0") -> None:
    """Make ``package`` an installed one with these ``entry_points``, a file's text, where ``site`` is on the path."""
    information = site / f"{package.replace('-', '_')}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (information / "entry_points.txt").write_text(entry_points)
