"""Pages rendered ahead of those who read them, in processes that can be killed.

A damaged page can keep its renderer busy for hours or take the process down. Here it costs its own row: a renderer that
is silent for too long is killed, one that dies is replaced, and the page that it was at is named.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rtprune.documents.pages import PageFault, PageImage
from rtprune.documents.renderer_process import Ask, Lost, RendererProcess
from rtprune.errors import Reason, StoreError

WINDOW_PAGES = 8  # what a renderer takes at a time
AHEAD_BYTES = 256 * 2**20  # pictures of a rendering that wait for their reader, or one picture
DEATHS_BORNE = 1  # a process may fall victim to others' hunger for memory: once is no proof
MOMENT_S = 0.005


@dataclass(frozen=True, slots=True)
class PageRange:
    """Pages ``first_page`` to ``last_page`` (from 1, both included) of the document at ``uri``.

    ``doc_id`` is the SHA-256 of its bytes: other bytes there are no longer this document.
    """

    uri: str
    doc_id: str
    first_page: int
    last_page: int

    @property
    def page_count(self) -> int:
        """Number of pages."""
        return self.last_page - self.first_page + 1


class Rendering:
    """Pages on their way to one reader: an iterator of (index of the range, page), in no particular order.

    It yields ``None`` where no page is ready within a moment, so that its reader can do something else.
    """

    def __init__(self, pages: int) -> None:
        self._left = pages
        self._ready: deque[tuple[int, PageImage | PageFault]] = deque()
        self._held = 0
        self._error: Exception | None = None
        self._news = threading.Condition()
        self.cancelled = False

    def __iter__(self) -> Iterator[tuple[int, PageImage | PageFault] | None]:
        """Raises ``StoreError`` where a document cannot be fetched, ``UsageError`` where a password is missing."""
        while self._left:
            with self._news:
                self._news.wait_for(lambda: self._ready or self.cancelled, MOMENT_S)
                if self._error is not None:
                    raise self._error
                if self.cancelled:
                    return
                found = self._ready.popleft() if self._ready else None
                if found is not None:
                    self._left -= 1
                    self._held -= _bytes(found[1])
                    self._news.notify_all()
            yield found

    def put(self, index: int, page: PageImage | PageFault) -> None:
        """Hand a page over, once there is room for it."""
        with self._news:
            self._news.wait_for(lambda: self.cancelled or not self._ready or self._held + _bytes(page) <= AHEAD_BYTES)
            self._ready.append((index, page))
            self._held += _bytes(page)
            self._news.notify_all()

    def cancel(self, error: Exception | None = None) -> None:
        """Nobody wants its pages any more; or nobody will get them, for the ``error`` that its reader is told."""
        with self._news:
            self._error = self._error or error
            self.cancelled = True
            self._ready.clear()
            self._news.notify_all()


class Renderers:
    """Processes that render pages, ahead of their readers as far as memory allows. To be closed in the end.

    Args:
        processes: how many render at a time.
        dpi: resolution for PDF pages.
        max_pixels: a page that would have more is rendered smaller.
        password: tried on encrypted documents.
        page_timeout_s: a page fails if rendering it takes longer, a document's pages if opening it does.
        pixels: whether the pages' pixels are wanted, or only whether and at which size they can be rendered.
    """

    def __init__(
        self,
        processes: int,
        *,
        dpi: int,
        max_pixels: int,
        password: str | None = None,
        page_timeout_s: float = 120.0,
        pixels: bool = True,
    ) -> None:
        self._page_timeout_s = page_timeout_s
        self._ask = Ask("", "", 0, 0, dpi, max_pixels, password, pixels)
        self._windows: deque[tuple[Rendering, int, PageRange]] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._processes = [RendererProcess() for _ in range(processes)]
        for process in self._processes:
            threading.Thread(target=self._serve, args=(process,), daemon=True).start()

    def rendering(self, ranges: Sequence[PageRange]) -> Rendering:
        """Begin to render ``ranges``, after those that were begun before."""
        rendering = Rendering(sum(each.page_count for each in ranges))
        with self._news:
            self._windows.extend(
                (
                    rendering,
                    index,
                    replace(each, first_page=first, last_page=min(first + WINDOW_PAGES - 1, each.last_page)),
                )
                for index, each in enumerate(ranges)
                for first in range(each.first_page, each.last_page + 1, WINDOW_PAGES)
            )
            self._news.notify_all()
        return rendering

    def close(self) -> None:
        """End the processes; renderings that are not finished are cancelled."""
        with self._news:
            self._closed = True
            for rendering, _, _ in self._windows:
                rendering.cancel()
            self._news.notify_all()
        for process in self._processes:
            process.end()

    def _serve(self, process: RendererProcess) -> None:
        """What one thread does: windows, one after the other, by one process."""
        while (task := self._next()) is not None:
            rendering, index, window = task
            try:
                for page in self._pages(process, window):
                    rendering.put(index, page)
                    if (self._closed or rendering.cancelled) and page.page < window.last_page:
                        process.kill()  # it is in the middle of an answer
                        break
            except Exception as error:  # whatever it is, the reader must hear of it and the thread go on
                process.kill()
                rendering.cancel(error)
            if self._closed:
                rendering.cancel()
        process.kill()

    def _next(self) -> tuple[Rendering, int, PageRange] | None:
        with self._news:
            while True:
                self._news.wait_for(lambda: self._closed or self._windows)
                if self._closed:
                    return None
                task = self._windows.popleft()
                if not task[0].cancelled:
                    return task

    def _pages(self, process: RendererProcess, window: PageRange) -> Iterator[PageImage | PageFault]:
        """Every page of ``window`` once, in order. Raises what the renderer says of the store or the password."""
        ask = replace(self._ask, uri=window.uri, doc_id=window.doc_id, last_page=window.last_page)
        page, deaths = window.first_page, 0
        while page <= window.last_page and not self._closed:
            try:
                for found in process.answers(replace(ask, first_page=page), self._page_timeout_s):
                    yield found
                    page, deaths = page + 1, 0
            except Lost as lost:
                process.kill()
                if lost.fetching and lost.timeout:
                    raise StoreError(f"the store did not send {window.uri} in time", "try again later") from lost
                deaths += 1
                if not lost.timeout and deaths <= DEATHS_BORNE:
                    continue
                last = page if lost.at_page else window.last_page
                for guilty in range(page, last + 1):
                    yield PageFault(guilty, Reason.TIMEOUT if lost.timeout else Reason.RENDERER_DIED, str(lost), 0.0)
                page, deaths = last + 1, 0


def _bytes(page: PageImage | PageFault) -> int:
    return len(page.raster.data) if isinstance(page, PageImage) else 0
