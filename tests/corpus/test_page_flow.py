"""Pages are prepared by the thread that hands them in; the engine's thread only reads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from rtprune.corpus.page_flow import PageFlow, PageName
from rtprune.dataset import PageSlice
from rtprune.documents import PageImage
from rtprune.engine import PageResult, Skipping


class Readings:
    """Stands for an assignment: takes results, or has failed."""

    failed = False

    def __init__(self) -> None:
        self.results: list[PageResult] = []
        self.news = threading.Event()

    def take(self, name: PageName, result: PageResult) -> None:
        self.results.append(result)
        self.news.set()

    def fail(self, error: Exception) -> None:
        self.failed = True
        self.news.set()


class Noting(Skipping):
    """Notes the threads in which it prepares and reads, and what it was given to read."""

    def __init__(self) -> None:
        self.preparing: list[str] = []
        self.reading: list[tuple[str, Any]] = []

    def prepare(self, page: Any) -> Any:
        self.preparing.append(threading.current_thread().name)
        return ("prepared", page)

    def stream(self, pages: Iterable[Any], audited: Any) -> Iterator[tuple[Any, PageResult]]:
        for name, page in filter(None, pages):
            self.reading.append((threading.current_thread().name, page))
            yield name, PageResult("skipped")


def flow_of(engine: Skipping) -> PageFlow:
    return PageFlow(engine, audit_fraction=0.0)


def named(readings: Any, page: int) -> PageName:
    pixels: Any = None  # nobody looks at them here
    return PageName(readings, 0, PageSlice("d" * 64, "a.pdf", 1, 9), PageImage(page, pixels, 0.0))


def test_the_thread_that_hands_a_page_in_prepares_it() -> None:
    engine, readings = Noting(), Readings()
    name = named(readings, 1)
    flow_of(engine).put(name)
    assert readings.news.wait(10)
    assert engine.preparing == [threading.current_thread().name]
    assert engine.reading == [("engine", ("prepared", name.image))]


def test_a_page_whose_assignment_has_failed_is_not_handed_in() -> None:
    engine, failed, well = Noting(), Readings(), Readings()
    failed.failed = True
    flow = flow_of(engine)
    flow.put(named(failed, 1))
    flow.put(named(well, 2))
    assert well.news.wait(10)
    assert [page.page for _, (_, page) in engine.reading] == [2]


def test_what_the_engine_raises_reaches_the_assignments_at_work_and_the_next_page_is_read() -> None:
    class Failing(Noting):
        def stream(self, pages: Iterable[Any], audited: Any) -> Iterator[tuple[Any, PageResult]]:
            for name, page in filter(None, pages):
                if page[1].page == 1:
                    raise RuntimeError("broken")
                yield name, PageResult("skipped")

    first, second = Readings(), Readings()
    flow = flow_of(Failing())
    flow.put(named(first, 1))
    assert first.news.wait(10)
    assert first.failed
    flow.put(named(second, 2))
    assert second.news.wait(10)
    assert second.results == [PageResult("skipped")]
