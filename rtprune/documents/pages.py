"""Pages of a document made into pictures, one by one; a page that cannot be is a ``PageFault`` in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from rtprune.documents.document import Document
from rtprune.documents.page import PageFault, PageImage
from rtprune.documents.pdf import OpenPdf, open_pdf
from rtprune.documents.picture import count_frames, open_picture, picture_format, read_frame
from rtprune.documents.raster import Raster
from rtprune.errors import DocumentError, Reason

DEFAULT_DPI = 144  # as the published runner renders
DEFAULT_MAX_PIXELS = 50_000_000

#: Page number -> pixels, their scale, the page's own text.
Render = Callable[[int], tuple[Raster, float, str]]


def render_pages(
    document: Document, pages: Sequence[int], dpi: int = DEFAULT_DPI, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Iterator[PageImage | PageFault]:
    """The ``pages`` (1-based) of ``document`` as pictures, in the order asked for, each made when it is taken.

    No page's damage reaches another, and nothing is raised for it. PyMuPDF is not thread safe: run this in one thread
    of a process at a time, and take no page of one document while another is being opened in another thread.

    Args:
        dpi: resolution for PDF pages; pictures keep their own pixels.
        max_pixels: a page that would have more is made at a smaller scale, see ``PageImage.scale``.
    """
    try:
        with open_pages(document.uri, document.data, document.password, dpi, max_pixels) as render:
            for page in pages:
                yield render(page)
    except DocumentError as error:  # it opened before, so its bytes or its password are not those it was made with
        yield from (PageFault(page, error.reason, str(error), 0.0) for page in pages)


@contextmanager
def open_pages(
    uri: str, data: bytes | memoryview, password: str | None, dpi: int, max_pixels: int
) -> Iterator[Callable[[int], PageImage | PageFault]]:
    """What renders a page (1-based) of the document in ``data``, valid within the block; see ``render_pages``.

    Raises:
        DocumentError: as ``open_document``.
    """
    with ExitStack() as stack:
        render: Render
        if picture_format(data):
            picture = bytes(data)  # Pillow would copy anything else for every page
            page_count = count_frames(picture, uri)
            render = partial(_render_picture, picture, max_pixels)
        else:
            pdf = stack.enter_context(open_pdf(data, password, uri))
            page_count = pdf.page_count
            render = partial(_render_pdf, pdf, dpi, max_pixels)

        def attempt(page: int) -> PageImage | PageFault:
            if 1 <= page <= page_count:
                return _attempt(render, page)
            return PageFault(page, Reason.NO_SUCH_PAGE, f"{uri} has {page_count} pages", 0.0)

        yield attempt


def _render_pdf(pdf: OpenPdf, dpi: int, max_pixels: int, page: int) -> tuple[Raster, float, str]:
    return *pdf.render(page, dpi, max_pixels), pdf.text_layer(page)


def _render_picture(data: bytes, max_pixels: int, page: int) -> tuple[Raster, float, str]:
    # Opened anew for each page: what a damaged frame leaves behind in Pillow's object must not reach the next.
    picture, scale = read_frame(open_picture(data), page - 1, max_pixels)
    return Raster.of(picture), scale, ""


def _attempt(render: Render, page: int) -> PageImage | PageFault:
    start = time.perf_counter()
    try:
        raster, scale, text = render(page)
    except Exception as error:  # MuPDF raises a family of its own; whatever it is, it is this page's alone
        reason = error.reason if isinstance(error, DocumentError) else _reason(error)
        message = str(error) if isinstance(error, DocumentError) else f"page {page} cannot be rendered: {error}"
        return PageFault(page, reason, message, _milliseconds_since(start))
    return PageImage(page, raster, _milliseconds_since(start), scale, text)


def _reason(error: Exception) -> Reason:
    return Reason.TOO_LARGE if isinstance(error, MemoryError) else Reason.DAMAGED


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000.0
