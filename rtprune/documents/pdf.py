"""PDF files by PyMuPDF: opened with whatever repair they need, pages found by walking the page tree, rendered.

MuPDF trusts a document's page counts and quietly shows a blank page for an object that is none. Text would be lost
without a word, so the page tree is walked here: its leaves are the pages, and what is claimed but missing is an error.

MuPDF keeps global state: use this module from one thread of a process at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rtprune.documents.mupdf import pymupdf
from rtprune.documents.raster import Raster
from rtprune.errors import DocumentError, Reason

POINTS_PER_INCH = 72.0
MOST_TEXT = 100_000  # characters of a text layer that are looked at
HEADER_WITHIN = 1024  # bytes from the start

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)


@dataclass(frozen=True)
class OpenPdf:
    """An open PDF document. Made by ``open_pdf``, valid within its ``with`` block.

    Attributes:
        handle: PyMuPDF's document, its page tree flattened to the pages that exist.
        pages: for each page the index under which ``handle`` knows it, None where the document lacks it.
    """

    handle: pymupdf.Document
    pages: tuple[int | None, ...]

    @property
    def page_count(self) -> int:
        """Pages that exist or are claimed to."""
        return len(self.pages)

    def render(self, page: int, dpi: int, max_pixels: int) -> tuple[Raster, float]:
        """Pixels of a page, on white with its annotations, as the published runner makes it, and its scale.

        Args:
            page: 1-based.
            dpi: pixels per inch of the page.
            max_pixels: a page that would have more is rendered smaller; then the scale is below 1.

        Raises:
            DocumentError: "damaged": the page is missing, or nothing of it could be drawn.
        """
        index = self.pages[page - 1]
        if index is None:
            raise DocumentError(Reason.DAMAGED, f"page {page} is missing from the document's page tree")
        pymupdf.TOOLS.reset_mupdf_warnings()
        sheet = self.handle[index]
        zoom = dpi / POINTS_PER_INCH
        fitted = min(zoom, _zoom_to_fit(sheet.rect.width, sheet.rect.height, max_pixels))
        pixels = sheet.get_pixmap(matrix=pymupdf.Matrix(fitted, fitted), alpha=False)
        complaints = pymupdf.TOOLS.mupdf_warnings()
        if "error" in complaints and pixels.is_unicolor:
            raise DocumentError(Reason.DAMAGED, f"nothing of page {page} could be drawn: {_one_line(complaints)}")
        return Raster(pixels.width, pixels.height, pixels.samples_mv, pixels), fitted / zoom

    def text_layer(self, page: int) -> str:
        """Text that page ``page`` (1-based) carries, in its own order; empty where there is none or it is damaged."""
        index = self.pages[page - 1]
        try:
            return "" if index is None else str(self.handle[index].get_text())[:MOST_TEXT]
        except Exception:  # a hint and no more: whatever MuPDF makes of it must not cost the page
            return ""


@contextmanager
def open_pdf(data: bytes | memoryview, password: str | None, uri: str) -> Iterator[OpenPdf]:
    """The PDF document in ``data``, which must stay until the block ends: it is read in place.

    Its header may follow some foreign bytes. It may lack where ``uri`` ends in ``.pdf`` and MuPDF finds pages.

    Raises:
        DocumentError: "not-a-document", "encrypted" when ``password`` does not open it, "no-pages",
            "damaged" beyond repair.
    """
    has_header = b"%PDF" in bytes(data[:HEADER_WITHIN])
    if not has_header and not uri.lower().endswith(".pdf"):
        raise _not_a_document(data, uri)
    try:
        opened = _opened(data, password, uri)
    except DocumentError as error:
        if has_header or error.reason == Reason.ENCRYPTED:
            raise
        raise _not_a_document(data, uri) from error
    with opened.handle:
        yield opened


def _not_a_document(data: bytes | memoryview, uri: str) -> DocumentError:
    start = f"it begins with {bytes(data[:8])!r}" if data else "it is empty"
    return DocumentError(
        Reason.NOT_A_DOCUMENT,
        f"{uri} is neither PDF nor PNG, JPEG, WebP, BMP or TIFF: {start}",
        "leave it out or convert it",
    )


def _opened(data: bytes | memoryview, password: str | None, uri: str) -> OpenPdf:
    pymupdf.TOOLS.reset_mupdf_warnings()
    try:
        handle = pymupdf.open(stream=data, filetype="pdf")
    except Exception as error:
        raise _no_opening(data, uri) from error
    try:
        if not handle.is_pdf:  # MuPDF goes by content and takes HTML, for one, as well
            raise _no_opening(data, uri)
        if handle.needs_pass and not handle.authenticate(password or ""):
            message = "not opened by the password given" if password else "needs a password"
            raise DocumentError(Reason.ENCRYPTED, f"{uri} is encrypted and {message}", "give its --password")
        return OpenPdf(handle, _pages(handle, uri))
    except DocumentError:
        handle.close()
        raise


def _no_opening(data: bytes | memoryview, uri: str) -> DocumentError:
    if not re.search(rb"\d\s+\d+\s+obj\b", data):
        return DocumentError(Reason.NOT_A_DOCUMENT, f"{uri} has a PDF header and nothing of a PDF after it")
    if re.search(rb"/Encrypt\b", data):
        return DocumentError(Reason.ENCRYPTED, f"{uri} is encrypted in a way that cannot be opened, or damaged")
    return DocumentError(Reason.DAMAGED, f"{uri} is damaged beyond repair: {_one_line(pymupdf.TOOLS.mupdf_warnings())}")


def _pages(handle: pymupdf.Document, uri: str) -> tuple[int | None, ...]:
    try:
        pages = _flatten(handle)
    except Exception as error:  # MuPDF raises a family of its own beside RuntimeError and ValueError
        raise DocumentError(Reason.DAMAGED, f"{uri} has an unreadable page tree: {_one_line(error)}") from error
    if not pages and _has_detached_pages(handle):
        raise DocumentError(Reason.DAMAGED, f"{uri} holds pages that its page tree no longer leads to")
    if not pages:
        raise DocumentError(Reason.NO_PAGES, f"{uri} is a PDF without pages")
    if all(index is None for index in pages):
        raise DocumentError(Reason.DAMAGED, f"{uri} claims {len(pages)} pages and has none of them")
    return pages


def _flatten(handle: pymupdf.Document) -> tuple[int | None, ...]:
    """Hang all pages directly under the page tree's root, in order; the index under which each lies there.

    Pages inherit through their own /Parent entries, which stay.
    """
    kind, value = handle.xref_get_key(-1, "Root/Pages")
    if kind != "xref":
        return ()
    root = int(value.split()[0])
    leaves = list(_leaves(handle, root))
    kind, value = handle.xref_get_key(root, "Count")
    # Every page is an object: a count beyond the number of objects is no claim worth a row per page.
    claimed = int(value) if kind == "int" and int(value) < handle.xref_length() else 0
    leaves += [None] * (claimed - len(leaves))
    present = [leaf for leaf in leaves if leaf is not None]
    handle.xref_set_key(root, "Kids", "[" + " ".join(f"{leaf} 0 R" for leaf in present) + "]")
    handle.xref_set_key(root, "Count", str(len(present)))
    index = iter(range(len(present)))
    return tuple(None if leaf is None else next(index) for leaf in leaves)


def _leaves(handle: pymupdf.Document, root: int) -> Iterator[int | None]:
    """Object numbers of the pages in their order; None for each child that is no page."""
    met = {root}
    children = _kids(handle, root)[::-1]
    while children:
        child = children.pop()
        keys = _keys(handle, child)
        if "Kids" not in keys:
            yield child if _is_page(handle, child, keys) else None
        elif child in met:
            yield None  # a circle
        else:
            met.add(child)
            children.extend(reversed(_kids(handle, child)))


def _keys(handle: pymupdf.Document, number: int) -> Sequence[str]:
    """Keys of a dictionary object; none for an object of another kind, out of range, or damaged."""
    if not 0 < number < handle.xref_length():
        return ()
    try:
        keys: Sequence[str] = handle.xref_get_keys(number)
    except Exception:  # one object that MuPDF cannot parse must not cost the others
        return ()
    return keys


def _is_page(handle: pymupdf.Document, number: int, keys: Sequence[str]) -> bool:
    # The type is sometimes misspelt; what has contents is a page all the same.
    return "Contents" in keys or _type(handle, number, keys) == "/Page"


def _type(handle: pymupdf.Document, number: int, keys: Sequence[str]) -> str | None:
    return str(handle.xref_get_key(number, "Type")[1]) if "Type" in keys else None


def _has_detached_pages(handle: pymupdf.Document) -> bool:
    numbers = range(1, handle.xref_length())
    return any(_type(handle, number, _keys(handle, number)) == "/Page" for number in numbers)


def _kids(handle: pymupdf.Document, node: int) -> list[int]:
    """Object numbers of a page tree node's children, 0 for what is no reference."""
    kind, value = handle.xref_get_key(node, "Kids")
    if kind == "xref":
        value = handle.xref_object(int(value.split()[0]))
    elif kind != "array":
        return []
    return [int(number or 0) for number, _ in re.findall(r"(\d+) \d+ R|([^\s\[\]]+)", value)]


def _zoom_to_fit(width: float, height: float, max_pixels: int) -> float:
    """Largest zoom, to within a pixel, at which a page of ``width`` x ``height`` points has ``max_pixels``."""
    zoom = math.sqrt(max_pixels / (width * height))
    rounded_up = (width * zoom + 1) * (height * zoom + 1)
    return zoom * max_pixels / rounded_up


def _one_line(words: object) -> str:
    """The first few of MuPDF's words, which may be many lines."""
    return " ".join(str(words).split())[:200]
