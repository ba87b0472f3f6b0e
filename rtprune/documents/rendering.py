"""Pages on their way from renderers to a reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtprune.documents.document_cache import CachedDocument
from rtprune.documents.page import PageFault, PageImage

if TYPE_CHECKING:
    from rtprune.documents.renderers import Renderers

AHEAD_BYTES = 256 * 2**20  # pictures of a rendering that wait for their reader; two pages more a renderer at most
MOMENT_S = 0.005


@dataclass(frozen=True, slots=True)
class PageRange:
    """Pages ``first_page`` to ``last_page`` (from 1, both included) of the document at ``uri``.

    ``doc_id`` is the SHA-256 of its bytes: other bytes there are no longer this document. ``copies`` are URIs of other
    objects that had the same bytes; they are tried in order where the object at ``uri`` is gone or has changed.
    """

    uri: str
    doc_id: str
    first_page: int
    last_page: int
    copies: tuple[str, ...] = ()

    @property
    def page_count(self) -> int:
        """Number of pages."""
        return self.last_page - self.first_page + 1


class Rendering:
    """Pages on their way to one reader: an iterator of (index of the range, page), in no particular order.

    It yields ``None`` where no page is ready within a moment, so that its reader can do something else. Made by
    ``Renderers.rendering``.
    """

    def __init__(self, ranges: Sequence[PageRange], owner: Renderers) -> None:
        self._owner = owner
        self._news = threading.Condition(owner.lock)
        self._ready: deque[tuple[int, PageImage | PageFault]] = deque()
        self._held = 0
        self._error: Exception | None = None
        self._left = sum(each.page_count for each in ranges)
        self.cancelled = False
        # what follows is for its owner, which holds the lock
        self.pending = self._left  # pages to be rendered
        self.parts = [Part(self, index, each, each.page_count) for index, each in enumerate(ranges)]
        self.windows: deque[Window] = deque()  # those whose documents are here
        self.sources = [each.uri for each in ranges]

    def __iter__(self) -> Iterator[tuple[int, PageImage | PageFault] | None]:
        """Raises ``StoreError`` where a document cannot be fetched, ``UsageError`` where a password is missing."""
        while self._left:
            with self._news:
                self._news.wait_for(lambda: self._ready or self.cancelled, MOMENT_S)
                if self._error is not None:
                    raise self._error
                if self.cancelled:
                    return
                page = self._ready.popleft() if self._ready else None
                if page is not None:
                    self._left -= 1
                    self._held -= _bytes(page[1])
                    self._owner.page_taken()
                else:
                    self._owner.nothing_ready()
            yield page

    def source(self, index: int) -> str:
        """URI of the object that the pages of range ``index`` came from; the range's own until any have come."""
        return self.sources[index]

    def cancel(self, error: Exception | None = None) -> None:
        """Nobody wants its pages any more; or nobody will get them, for the ``error`` that its reader sees."""
        with self._owner.lock:
            self.stop(error)

    def stop(self, error: Exception | None = None) -> None:
        """As ``cancel``; for its owner, which holds the lock."""
        self._error = self._error or error
        self.cancelled = True
        self._ready.clear()
        self.windows.clear()
        self._owner.stopped(self)
        self._news.notify_all()

    def put(self, index: int, page: PageImage | PageFault) -> None:
        """Hand a page over; for its owner, which holds the lock."""
        self.pending -= 1
        if not self.cancelled:
            self._ready.append((index, page))
            self._held += _bytes(page)
            self._news.notify_all()

    def has_room(self) -> bool:
        """Whether its reader wants more pages now."""
        return not self.cancelled and self._held < AHEAD_BYTES


@dataclass(eq=False, slots=True)
class Part:
    """One range of a rendering: a user of its document until ``left``, its pages still to be rendered, is 0."""

    rendering: Rendering
    index: int
    range: PageRange
    left: int
    document: CachedDocument | None = None
    busy: int = 0  # renderers that have a window of it


@dataclass(frozen=True, slots=True)
class Window:
    """Pages of a part that a renderer takes at a time."""

    part: Part
    pages: range


def _bytes(page: PageImage | PageFault) -> int:
    return len(page.raster.data) if isinstance(page, PageImage) else 0
