"""Pages that teach and test the built-in checkpoint: random words set in type by PyMuPDF, with their truth.

A word belongs either to training or to evaluation, decided by its own checksum, so that an evaluation page never
holds a word that training may have shown. PyMuPDF is not thread safe: draw pages from one thread of a process.
"""

from __future__ import annotations

import string
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pymupdf
from numpy.typing import NDArray

Split = Literal["training", "evaluation"]

PAGE_POINTS = 256  # side of a page; at 144 dpi a page is exactly the 512 px view of mode tiny
SCALE = 2.0  # pixels per point at 144 dpi
HELD_OUT_SHARE = 8  # one word in so many is kept for evaluation

LETTERS = string.ascii_lowercase
_VOWELS = "aeiouy"
_TRAILING = [",", ".", ";", ":", "!", "?"]
_SYMBOLS = list("#$%&*+-/<=>@[]^_`{|}~\\'\"()")


@dataclass(frozen=True)
class PageDesign:
    """What a page may look like; the defaults are the demo's. Sizes are in points.

    Attributes:
        fonts: PyMuPDF names of the built-in fonts drawn from, one per page.
        sizes: range of the font size.
        pitch: range of the distance between baselines, as a multiple of the size.
        aligned: glyph cells sit on the patch grid (the first lesson only).
        words: range of the number of words; the page may hold fewer if they do not fit.
    """

    fonts: tuple[str, ...] = ("cour",)
    sizes: tuple[float, float] = (40 / 3, 40 / 3)
    pitch: tuple[float, float] = (1.15, 1.5)
    aligned: bool = False
    words: tuple[int, int] = (5, 60)


PRINT = PageDesign()  # the demo's
TYPEWRITER = PageDesign(fonts=("cour", "cobo"), sizes=(12.0, 14.5))
SANS = PageDesign(fonts=("helv", "hebo"), sizes=(12.5, 16.0))
SERIF = PageDesign(fonts=("tiro", "tibo"), sizes=(13.0, 16.5))


@dataclass(frozen=True)
class Page:
    """One drawn page and its truth.

    Attributes:
        picture: [512, 512] uint8, grey.
        text: what stands on it, lines joined by newlines.
        centres: [len(text), 2] float32, x and y in pixels of each character's middle; a line's newline stands behind
            its last character.
        size: font size in points.
        font: PyMuPDF name of the font.
    """

    picture: NDArray[np.uint8]
    text: str
    centres: NDArray[np.float32]
    size: float
    font: str


def is_held_out(word: str) -> bool:
    """Whether ``word`` (without case and punctuation) is kept for evaluation."""
    core = "".join(c for c in word.lower() if c.isalnum())
    return zlib.crc32(core.encode()) % HELD_OUT_SHARE == 0


def random_word(rng: np.random.Generator, split: Split) -> str:
    """A made-up word, number or symbol of the wanted split."""
    while True:
        word = _any_word(rng)
        if is_held_out(word) == (split == "evaluation"):
            return word


def draw_page(rng: np.random.Generator, split: Split, design: PageDesign | None = None) -> Page:
    """Draw one random page of the wanted split."""
    design = design or PageDesign()
    font_name = design.fonts[rng.integers(len(design.fonts))]
    size = float(rng.uniform(*design.sizes))
    lines, origins = _set_lines(rng, split, design, font_name, size)
    return typeset(lines, origins, font_name, size)


def typeset(lines: list[str], origins: list[tuple[float, float]], font_name: str, size: float) -> Page:
    """Draw ``lines`` with their baselines starting at ``origins`` (points) on a blank page."""
    font = load_font(font_name)
    document = pymupdf.open()
    page = document.new_page(width=PAGE_POINTS, height=PAGE_POINTS)
    writer = pymupdf.TextWriter(page.rect)
    centres: list[tuple[float, float]] = []
    for line, (x, y) in zip(lines, origins, strict=True):
        writer.append((x, y), line, font=font, fontsize=size)
        advance = 0.0
        for character in line:
            width = glyph_width(font_name, character) * size
            centres.append((x + advance + width / 2, y - 0.3 * size))
            advance += width
        centres.append((x + advance + 0.25 * size, y - 0.3 * size))
    writer.write_text(page)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(SCALE, SCALE), colorspace=pymupdf.csGRAY, alpha=False)
    picture = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width)
    document.close()
    return Page(picture, "\n".join(lines), np.array(centres[:-1], np.float32).reshape(-1, 2) * SCALE, size, font_name)


@cache
def load_font(name: str) -> pymupdf.Font:
    """One of PyMuPDF's built-in fonts."""
    return pymupdf.Font(name)


@cache
def glyph_width(font_name: str, character: str) -> float:
    """Advance of ``character`` at size 1."""
    return float(load_font(font_name).glyph_advance(ord(character)))


def _any_word(rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.12:
        return _number(rng)
    if kind < 0.15:
        return _SYMBOLS[rng.integers(len(_SYMBOLS))] + _letters(rng, int(rng.integers(1, 4)))
    word = _letters(rng, int(rng.integers(1, 10)))
    case = rng.random()
    if case < 0.15:
        word = word.capitalize()
    elif case < 0.22:
        word = word.upper()
    mark = rng.random()
    if mark < 0.15:
        return word + _TRAILING[rng.integers(len(_TRAILING))]
    if mark < 0.18:
        return f"({word})" if mark < 0.165 else f'"{word}"'
    if mark < 0.20:
        return f"{word}-{_letters(rng, 3)}" if mark < 0.19 else f"{word}'s"
    return word


def _letters(rng: np.random.Generator, length: int) -> str:
    # Half of the letters are drawn evenly (so that rare ones are learnt), half alternate vowels as words do.
    if rng.random() < 0.5:
        return "".join(LETTERS[i] for i in rng.integers(26, size=length))
    vowel = bool(rng.integers(2))
    out = []
    for _ in range(length):
        out.append(_VOWELS[rng.integers(6)] if vowel else LETTERS[rng.integers(26)])
        vowel = not vowel
    return "".join(out)


def _number(rng: np.random.Generator) -> str:
    digits = "".join(str(d) for d in rng.integers(10, size=int(rng.integers(1, 6))))
    form = rng.random()
    if form < 0.6:
        return digits
    if form < 0.75:
        return f"{digits}.{rng.integers(100)}"
    if form < 0.85:
        return f"{digits}%"
    return f"${digits}" if form < 0.92 else f"{digits}/{rng.integers(100)}"


def _set_lines(
    rng: np.random.Generator, split: Split, design: PageDesign, font_name: str, size: float
) -> tuple[list[str], list[tuple[float, float]]]:
    """Break random words into lines; indents, short lines and gaps leave blank regions."""
    wanted = int(rng.integers(design.words[0], design.words[1] + 1))
    pitch = size * float(rng.uniform(*design.pitch))
    left, top = float(rng.uniform(4, 20)), float(rng.uniform(size, 2 * size))
    right = PAGE_POINTS - float(rng.uniform(4, 16))
    if design.aligned:
        left, top, pitch = 8.0 * int(rng.integers(1, 3)), 16.0 * int(rng.integers(1, 3)) - 4.0, 16.0
    if wanted < 30 and not design.aligned:
        left += float(rng.uniform(0, 60)) * float(rng.integers(2))
        top += float(rng.uniform(0, 90)) * float(rng.integers(2))
    space = glyph_width(font_name, " ") * size
    lines: list[str] = []
    origins: list[tuple[float, float]] = []
    y, words = top, 0
    while words < wanted and y < PAGE_POINTS - 0.35 * size:
        line, x = "", left
        limit = right if rng.random() < 0.85 else left + float(rng.uniform(0.4, 1.0)) * (right - left)
        while words < wanted:
            word = random_word(rng, split)
            width = sum(glyph_width(font_name, c) for c in word) * size
            if line and x + space + width > limit:
                break
            if not line and left + width > right:
                continue
            line = f"{line} {word}" if line else word
            x = x + width + (space if line != word else 0.0)
            words += 1
        lines.append(line)
        origins.append((left, y))
        gap = rng.random() < 0.1 and wanted < 45
        y += pitch * (1 + (int(rng.integers(1, 3)) if gap else 0))
    return lines, origins
