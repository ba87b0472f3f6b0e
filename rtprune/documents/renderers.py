"""Processes that render documents' pages ahead of those who read them, and can be killed.

A damaged page can keep its renderer busy for hours or take the process down. Here it costs its own row: a renderer that
is silent for too long is killed, one that dies is replaced, and the page that it was at is named.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from rtprune.documents.document_cache import DocumentCache, SharedDocument
from rtprune.documents.page import PageFault, PageImage
from rtprune.documents.renderer_process import Lost, RendererProcess, RenderSettings
from rtprune.documents.rendering import PageRange, Part, Rendering, Window
from rtprune.errors import DocumentError, Reason

WINDOW_PAGES = 8  # what a renderer takes at a time
DEATHS_BORNE = 1  # the system may kill a process for another one's memory: once is no proof


class Renderers:
    """Processes that render pages, ahead of their readers as far as memory allows. To be closed in the end.

    Documents are fetched ahead of the processes, in the order in which their renderings were begun; what has arrived
    is rendered. Renderings are to be read in that order, or several at a time, or cancelled.

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
        settings = RenderSettings(dpi, max_pixels, password, pixels)
        self.lock = threading.Lock()  # over the renderings and documents too
        self._work = threading.Condition(self.lock)
        self._renderings: list[Rendering] = []  # in the order begun, while any of their pages are to be rendered
        self._idle = 0
        self._closed = False
        self._documents = DocumentCache(self.lock, starved=lambda: self._idle == processes)
        self._processes = [RendererProcess(settings, page_timeout_s) for _ in range(processes)]
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), daemon=True) for process in self._processes
        ]
        for thread in self._threads:
            thread.start()

    def rendering(self, ranges: Sequence[PageRange]) -> Rendering:
        """Begin to fetch and render ``ranges``, after those that were begun before."""
        rendering = Rendering(ranges, self)
        with self.lock:
            if self._closed:
                rendering.stop()
                return rendering
            if rendering.pending:
                self._renderings.append(rendering)
            for part in rendering.parts:
                uris = (part.range.uri, *part.range.copies)
                part.document = self._documents.want(uris, part.range.doc_id, part, partial(self._arrived, part))
                if part.document.outcome is not None:
                    self._arrived(part)
        return rendering

    def close(self) -> None:
        """End the processes; renderings that are not finished are cancelled."""
        with self.lock:
            self._closed = True
            for rendering in list(self._renderings):
                rendering.stop()
            self._documents.close()
            self._work.notify_all()
        for process in self._processes:
            process.end()
        for thread in self._threads:
            thread.join(10.0)

    # What follows is for renderings, which hold the lock.

    def page_taken(self) -> None:
        """A reader has taken a page: there may be room for more."""
        self._work.notify_all()

    def nothing_ready(self) -> None:
        """A reader has waited for a moment in vain."""
        self._documents.expire()

    def stopped(self, rendering: Rendering) -> None:
        """No more of its pages are to be rendered."""
        if rendering in self._renderings:
            self._renderings.remove(rendering)
        for part in rendering.parts:
            self._settle(part)

    # What follows but ``_serve`` and ``_render`` is called with the lock held.

    def _settle(self, part: Part) -> None:
        """Release the part's document unless pages of it are to be rendered."""
        if part.document is not None and not part.busy and (part.left == 0 or part.rendering.cancelled):
            self._documents.release(part.document, part)

    def _arrived(self, part: Part) -> None:
        """Have the pages rendered now that their document is here; where it cannot be had, they are faults."""
        assert part.document is not None
        outcome = part.document.outcome
        first, last = part.range.first_page, part.range.last_page
        if isinstance(outcome, SharedDocument):
            part.rendering.sources[part.index] = outcome.source
            for page in range(first, last + 1, WINDOW_PAGES):
                part.rendering.windows.append(Window(part, range(page, min(page + WINDOW_PAGES, last + 1))))
            self._work.notify_all()
        elif isinstance(outcome, DocumentError):
            for page in range(first, last + 1):
                self._rendered(part, PageFault(page, outcome.reason, str(outcome), 0.0))
            self._settle(part)
        else:
            part.rendering.stop(outcome)

    def _rendered(self, part: Part, page: PageImage | PageFault) -> None:
        part.left -= 1
        part.rendering.put(part.index, page)
        if part.rendering.pending == 0 and part.rendering in self._renderings:
            self._renderings.remove(part.rendering)

    def _serve(self, process: RendererProcess) -> None:
        """What one thread does: windows, one after the other, by one process."""
        while (window := self._next()) is not None:
            rest, error = range(0), None
            try:
                rest = self._render(process, window)
            except Exception as caught:  # whatever it is, the reader must hear of it and the thread go on
                process.kill()
                error = caught
            with self.lock:
                window.part.busy -= 1
                rendering = window.part.rendering
                if error is not None:
                    rendering.stop(error)
                elif rest and not rendering.cancelled:
                    rendering.windows.appendleft(Window(window.part, rest))
                self._settle(window.part)
        process.kill()

    def _next(self) -> Window | None:
        """The first window whose document is here and whose reader has room; None when there will be none."""
        with self.lock:
            self._idle += 1
            self._documents.look_again()
            try:
                while not self._closed:
                    for rendering in self._renderings:
                        if rendering.windows and rendering.has_room():
                            window = rendering.windows.popleft()
                            window.part.busy += 1
                            return window
                    self._work.wait()
                return None
            finally:
                self._idle -= 1

    def _render(self, process: RendererProcess, window: Window) -> range:
        """Hand over every page of ``window`` once, in order.

        Returns:
            the pages left where the reader wants no more for now.
        """
        part, left, deaths = window.part, window.pages, 0
        assert part.document is not None
        document = part.document.outcome
        assert isinstance(document, SharedDocument)

        def wanted() -> bool:
            return not self._closed and part.rendering.has_room()

        def hand_over(page: PageImage | PageFault) -> None:
            nonlocal left
            left = left[1:]
            with self.lock:
                self._rendered(part, page)

        while left and wanted():
            try:
                for page in process.pages(part.range.uri, part.range.doc_id, document.file, left, wanted):
                    hand_over(page)
                    deaths = 0
            except Lost as lost:
                process.kill()
                deaths += 1
                if lost.timeout or deaths > DEATHS_BORNE:
                    reason = Reason.TIMEOUT if lost.timeout else Reason.RENDERER_DIED
                    for culprit in left[:1] if lost.at_page else left:
                        hand_over(PageFault(culprit, reason, str(lost), 0.0))
                    deaths = 0
        return left
