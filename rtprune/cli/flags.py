"""Flags that several commands share: those of the settings, ``--log-level``, ``--json``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter
from pydantic import ValidationError

from rtprune import logs
from rtprune.errors import UsageError
from rtprune.settings import ReadSettings, RunSettings

CONTENT = Group("What decides the text", sort_key=1)
RESOURCES = Group("Resources", sort_key=2)
SAFETY = Group("Safety", sort_key=3)
OUTPUT = Group("Output", sort_key=4)

#: Where a setting stands in the help; those of ``ReadSettings`` are CONTENT, others RESOURCES, unless named here.
PANELS = {
    "password": CONTENT,
    "audit_fraction": SAFETY,
    "audit_floor": SAFETY,
    "max_attempts": SAFETY,
    "max_failed": SAFETY,
    "page_timeout_s": SAFETY,
    "unit_timeout_s": SAFETY,
    "worker_pages": SAFETY,
    "worker_growth_mib": SAFETY,
}

RUN_SETTINGS = tuple(RunSettings.model_fields)

OutputArgument = Annotated[str, Parameter(help="The OUTPUT of a run: a folder or an s3:// prefix.")]
AsJson = Annotated[bool, Parameter(help="Print JSON instead of text.", show_default=False, group=OUTPUT)]
LogLevel = Annotated[
    logs.Level,
    Parameter(
        help="Show messages of this level and above on stderr.",
        env_var="RTPRUNE_LOG_LEVEL",
        metavar="LEVEL",
        group=OUTPUT,
    ),
]


def command(settings: Sequence[str] = ()) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """A command with ``--log-level`` and, in the place of its ``**given``, a flag for each of these settings."""

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        def run(*arguments: Any, log_level: logs.Level = logs.DEFAULT, **given: Any) -> int:
            with logs.shown(log_level):
                return function(*arguments, **given)

        hints = get_type_hints(function, include_extras=True)
        own = inspect.signature(function).parameters.values()
        parameters = [
            one.replace(annotation=hints[one.name]) for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        parameters += [_parameter(name) for name in settings]
        parameters.append(_keyword("log_level", LogLevel, logs.DEFAULT))
        run.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
        return run

    return decorate


def run_settings(given: dict[str, Any]) -> RunSettings:
    """The settings of these flags' values and of the environment. Raises ``UsageError`` naming the first wrong one."""
    try:
        return RunSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several settings together
            raise UsageError(first["msg"]) from error
        name = str(first["loc"][0])
        hint = RunSettings.model_fields[name].description
        raise UsageError(f"{_source(name, given)} cannot be {first['input']!r}", hint) from error


def _source(name: str, given: dict[str, Any]) -> str:
    variable = f"RTPRUNE_{name.upper()}"
    return variable if name not in given and variable in os.environ else f"--{name.replace('_', '-')}"


def _parameter(name: str) -> inspect.Parameter:
    """The flag of a setting. It takes any text: which values are valid is for the settings to say.

    Its own default is never used: a flag that is not given is left out of what the command gets.
    """
    field = RunSettings.model_fields[name]
    parameter = Parameter(
        help=field.description,
        group=PANELS.get(name, CONTENT if name in ReadSettings.model_fields else RESOURCES),
        show_default=_shown(field.default),
        metavar=name.rsplit("_", 1)[-1].upper(),
    )
    choices = tuple(_choices(field.annotation))
    accepted: Any = Literal[choices] | str if choices else str
    return _keyword(name, Annotated[accepted, parameter], "")


def _shown(default: Any) -> str | bool:
    """A default as it would be given; False where there is none to show."""
    if default is None:
        return False
    return str(default).lower() if isinstance(default, bool) else str(default)


def _choices(annotation: Any) -> Iterator[str]:
    """The words among the values that a field takes."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _choices(part)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
