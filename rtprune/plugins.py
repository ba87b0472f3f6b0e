"""What other packages add to this one, by name: the objects they declare as entry points, or register by a call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from rtprune.errors import PluginError

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")


class Registry(Mapping[str, Thing], Generic[Thing]):
    """Things by name: this package's own, then those registered by a call, then the entry points of installed packages.

    Names are known without importing anything. A package is imported when its name is asked for, so one that is broken
    does no harm to the others.

    Args:
        kind: what a thing is called in messages, for example "pruning method".
        group: the entry points' group. An entry point is called like the thing it leads to.
        own: this package's things: each one itself, or "module:attribute" where its import takes long.
        fault: what keeps an object from being such a thing, as the end of a sentence; ``None`` where nothing does.
    """

    def __init__(
        self, kind: str, group: str, own: Mapping[str, Thing | str], fault: Callable[[Any], str | None]
    ) -> None:
        self._kind = kind
        self._group = group
        self._own = dict(own)
        self._fault = fault
        self._registered: dict[str, Thing] = {}  # by a call, or from an entry point once it was asked for

    def register(self, name: str, thing: Thing) -> None:
        """Add ``thing`` in this process. Registering the same object once more changes nothing.

        Raises:
            PluginError: the name is taken or no name, or the object is of the wrong shape.
        """
        if not isinstance(name, str) or not name:
            raise PluginError(f"the name of a {self._kind} must be a non-empty string, got {name!r}")
        if self._registered.get(name) is thing:
            return
        self._require_fit(f"{self._kind} {name!r}", thing)
        if name in self:
            raise PluginError(
                f"there is a {self._kind} {name!r} already, from {self._origin(name)}", "choose another name"
            )
        self._registered[name] = thing

    def __getitem__(self, name: str) -> Thing:
        """The thing called ``name``.

        Raises:
            KeyError: there is none.
            PluginError: its package cannot be imported, gives something else, or is not the only one with that name.
        """
        if name in self._own:
            own = self._own[name]
            return EntryPoint(name, own, self._group).load() if isinstance(own, str) else own
        if name not in self._registered:
            self._registered[name] = self._load(name, self._declared[name])
        return self._registered[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._own or name in self._registered or name in self._declared)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self._registered, *self._declared]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @cached_property
    def _declared(self) -> dict[str, list[EntryPoint]]:
        """The packages' entry points by name; more than one where packages declare different things by one name."""
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self._group):
            if point.name in self._own:
                logger.warning(
                    "%s %r of %s is not used: rtprune has one of that name", self._kind, point.name, _package(point)
                )
            elif all(point.value != other.value for other in found.setdefault(point.name, [])):
                found[point.name].append(point)
        return found

    def _load(self, name: str, points: list[EntryPoint]) -> Thing:
        if len(points) > 1:
            packages = " and ".join(map(_package, points))
            raise PluginError(f"{packages} both declare a {self._kind} {name!r}", "uninstall one of them")
        (point,) = points
        what = f"{self._kind} {name!r} of {_package(point)} (entry point {point.value!r})"
        try:
            thing: Thing = point.load()
        except Exception as error:  # whatever the other package's code raises
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise PluginError(f"{what} cannot be imported: {cause}", "mend that package or uninstall it") from error
        self._require_fit(what, thing)
        return thing

    def _require_fit(self, what: str, thing: Any) -> None:
        fault = self._fault(thing)
        if fault:
            raise PluginError(f"{what} cannot be used: {fault}")

    def _origin(self, name: str) -> str:
        if name in self._own:
            return "rtprune itself"
        declared = self._declared.get(name)
        return _package(declared[0]) if declared else "an earlier call"


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
