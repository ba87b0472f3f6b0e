"""Pages to measure with: random words set in type as a PDF document, and rendered as any other."""

from __future__ import annotations

import numpy as np
import pymupdf

from rtprune.documents import PageFault, PageImage, open_document, render_pages
from rtprune.errors import RTPruneError
from rtprune.mini.generator import PAGE_POINTS, SCALE, Page, draw_page, glyph_width, load_font, random_word

SEED = 7
FONT = "cour"
#: Of an A4 page: its size, the font's, between lines and at the borders, in points.
A4, SIZE, PITCH, MARGIN = (595.0, 842.0), 10.0, 14.0, 57.0

Line = tuple[str, tuple[float, float]]  # with the point where its baseline begins


def drawn_pages(count: int, *, built_in: bool) -> list[PageImage]:
    """Pages of unlike length, the same ones for every ``count``.

    Args:
        built_in: large print on small pages, as the built-in model reads it; else A4 pages of print.

    Raises:
        RTPruneError: a page could not be rendered.
    """
    rng = np.random.default_rng(SEED)
    file = pymupdf.open()
    for _ in range(count):
        if built_in:
            page = draw_page(rng, "evaluation")
            _add_page(file, (PAGE_POINTS, PAGE_POINTS), page.size, _lines_of(page))
        else:
            _add_page(file, A4, SIZE, _lines_of_print(rng))
    document = open_document("drawn.pdf", file.tobytes())
    file.close()
    found = []
    for image in render_pages(document, range(1, count + 1)):
        if isinstance(image, PageFault):
            raise RTPruneError(f"drawn page {image.page} cannot be rendered: {image.message}")
        found.append(image)
    return found


def _lines_of(page: Page) -> list[Line]:
    lines, begin = [], 0
    for line in page.text.split("\n"):
        x, y = (float(at) / SCALE for at in page.centres[begin])
        lines.append((line, (x - glyph_width(FONT, line[0]) * page.size / 2, y + 0.3 * page.size)))
        begin += len(line) + 1
    return lines


def _lines_of_print(rng: np.random.Generator) -> list[Line]:
    most = int((A4[0] - 2 * MARGIN) / (glyph_width(FONT, "x") * SIZE))
    lines = []
    for number in range(int(rng.integers(15, 53))):
        line = random_word(rng, "evaluation")
        while len(longer := f"{line} {random_word(rng, 'evaluation')}") <= most:
            line = longer
        lines.append((line, (MARGIN, MARGIN + SIZE + number * PITCH)))
    return lines


def _add_page(file: pymupdf.Document, size: tuple[float, float], font_size: float, lines: list[Line]) -> None:
    page = file.new_page(width=size[0], height=size[1])
    writer = pymupdf.TextWriter(page.rect)
    for line, begin in lines:
        writer.append(begin, line, font=load_font(FONT), fontsize=font_size)
    writer.write_text(page)
