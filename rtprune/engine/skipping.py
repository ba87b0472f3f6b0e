"""What takes the engine's place where pages are rendered and recorded, but not read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from rtprune.engine.result import PageResult

Name = TypeVar("Name", bound=Hashable)
Given = TypeVar("Given")


class Skipping:
    """Takes pages as the engine does, and says at once of each that it was skipped."""

    def stream(
        self, pages: Iterable[tuple[Name, object] | None], audited: Callable[[Name], bool]
    ) -> Iterator[tuple[Name, PageResult]]:
        """A result with status "skipped" for every page."""
        for page in pages:
            if page is not None:
                yield page[0], PageResult("skipped")

    def prepare(self, page: Given) -> Given:
        """There is nothing to prepare."""
        return page

    def stop_pruning(self) -> None:
        """There is none."""
