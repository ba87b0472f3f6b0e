"""Facts about formulas: both are set by KaTeX in a browser and compared by MathML, else by where glyphs stand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rtprune.errors import UsageError
from rtprune.evaluation.extra import needed

#: How far apart, in pixels, centres may be that count as in one line or one column.
TOLERANCE = 5.0
KATEX_FILES = ("katex.min.css", "katex.min.js")

_DELIMITED = (r"\\\((.+?)\\\)", r"\\\[(.+?)\\\]")
_DOLLARS = (r"\$\$(.+?)\$\$", r"\$(.+?)\$")
_PAGE = """<!DOCTYPE html><html><head><style>
body { display: flex; justify-content: center; align-items: center; height: 100vh; margin: 0; }
#formula { padding: 0; font-size: 24px; }
</style></head><body><div id="formula"></div></body></html>"""
_SET = """formula => {
  const place = document.getElementById('formula');
  try { katex.render(formula, place, {displayMode: true, throwOnError: true}); } catch (error) { return null; }
  const glyphs = Array.from(document.querySelectorAll('span'))
    .filter(span => span.children.length === 0 && /\\S/.test(span.textContent))
    .map(span => { const box = span.getBoundingClientRect();
                   return [span.textContent.trim(), box.x, box.y, box.width, box.height]; });
  const math = document.querySelector('.katex-mathml math');
  return [math ? math.outerHTML : '', glyphs];
}"""


@dataclass(frozen=True)
class Glyph:
    """One character of a set formula and its centre, in pixels."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class SetFormula:
    """A formula as KaTeX sets it.

    Attributes:
        mathml: what stands in ``<semantics>``, without the source and without white space.
        glyphs: its characters.
    """

    mathml: str
    glyphs: Sequence[Glyph]


class FormulaRenderer(Protocol):
    """What sets formulas."""

    def render(self, formula: str) -> SetFormula | None:
        """The formula as set; None where KaTeX refuses it."""


class NoRenderer(Exception):
    """A fact cannot be judged here: it needs a browser."""


def check_formula(fields: Mapping[str, Any], answer: str, renderer: FormulaRenderer | None) -> tuple[bool, str]:
    """Whether some formula of the answer is, or contains, the true one; and how it was found.

    Raises ``NoRenderer`` where that cannot be told without one, ``ValueError`` where the true one cannot be set.
    """
    true = fields["math"]
    if not true.strip():
        raise ValueError("field math is empty")
    found = list(formulas_in(answer, dollars=not fields.get("ignore_dollar_delimited", False)))
    if true in found:
        return True, "letter by letter"
    if renderer is None:
        if not found:
            return False, "no formula"
        raise NoRenderer
    reference = renderer.render(true)
    if reference is None:
        raise ValueError("KaTeX refuses the true formula")
    ratio = needed("rapidfuzz.fuzz").ratio
    for each in sorted(found, key=lambda formula: -ratio(formula, true)):
        rendered = renderer.render(each)
        way = contains(rendered, reference) if rendered else ""
        if way:
            return True, way
    return False, "no formula is like it"


def formulas_in(answer: str, dollars: bool = True) -> Iterator[str]:
    r"""What stands between ``\( \)``, ``\[ \]`` and, if asked, ``$$`` and ``$``, one kind after the other."""
    for pattern in (*_DELIMITED, *(_DOLLARS if dollars else ())):
        yield from (found.strip() for found in re.findall(pattern, answer, re.DOTALL))
        answer = re.sub(pattern, "", answer, flags=re.DOTALL)


def contains(page: SetFormula, true: SetFormula) -> str:
    """How ``page`` contains ``true``: "by mathml", "by spans" (each glyph with the same neighbours), or ""."""
    if true.mathml in page.mathml:
        return "by mathml"
    candidates = [
        [number for number, other in enumerate(page.glyphs) if other.text == each.text] for each in true.glyphs
    ]
    if not all(candidates):
        return ""
    return "by spans" if _Assignment(true.glyphs, page.glyphs, candidates).found() else ""


class _Assignment:
    """The search for different glyphs of a page's formula that stand to one another as the true ones do."""

    def __init__(self, true: Sequence[Glyph], page: Sequence[Glyph], candidates: Sequence[Sequence[int]]) -> None:
        self._true, self._page, self._candidates = true, page, candidates
        self._true_next, self._page_next = neighbours(true), neighbours(page)

    def found(self) -> bool:
        """Depth first, without recursion: long formulas have more glyphs than Python has frames."""
        chosen: list[int] = []
        tries: list[Iterator[int]] = [iter(self._candidates[0])] if self._candidates else []
        while tries:
            number = len(tries) - 1
            del chosen[number:]
            place = next((each for each in tries[-1] if each not in chosen and self._fits(each, chosen)), None)
            if place is None:
                tries.pop()
                continue
            chosen.append(place)
            if len(chosen) == len(self._true):
                return True
            tries.append(iter(self._candidates[len(chosen)]))
        return not self._true

    def _fits(self, place: int, chosen: Sequence[int]) -> bool:
        number = len(chosen)
        for here, there in zip(self._true_next[number], self._page_next[place], strict=True):
            if here is None:
                continue
            if there is None:
                return False
            if here < number:
                if chosen[here] != there:
                    return False
            elif self._page[there].text != self._true[here].text:
                return False
        return True


def neighbours(glyphs: Sequence[Glyph]) -> list[tuple[int | None, ...]]:
    """For each glyph the nearest one above, below, left and right of it, or None."""
    return [
        (
            _nearest(glyphs, one, lambda other, own: (own.y - other.y, other.x - own.x)),
            _nearest(glyphs, one, lambda other, own: (other.y - own.y, other.x - own.x)),
            _nearest(glyphs, one, lambda other, own: (own.x - other.x, other.y - own.y)),
            _nearest(glyphs, one, lambda other, own: (other.x - own.x, other.y - own.y)),
        )
        for one in glyphs
    ]


def _nearest(glyphs: Sequence[Glyph], own: Glyph, offset: Any) -> int | None:
    best: tuple[float, int] | None = None
    for number, other in enumerate(glyphs):
        if other is own:
            continue
        along, across = offset(other, own)
        if along > 0 and abs(across) <= TOLERANCE and (best is None or along < best[0]):
            best = along, number
    return best[1] if best else None


@dataclass
class KatexBrowser:
    """KaTeX in a browser without a window. To be used as a context.

    Attributes:
        katex: folder with ``KATEX_FILES``.
        program: the browser.
    """

    katex: Path
    program: str
    _set: dict[str, SetFormula | None] = field(default_factory=dict, repr=False)

    @staticmethod
    def found() -> KatexBrowser | None:
        """One with what is installed here; None where KaTeX (of the package olmocr), playwright or Chromium lacks."""
        package = find_spec("olmocr")
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if package is None or program is None or find_spec("playwright") is None:
            return None
        folder = Path(next(iter(package.submodule_search_locations or ()), ".")) / "bench" / "katex"
        return KatexBrowser(folder, program) if all((folder / name).exists() for name in KATEX_FILES) else None

    def __enter__(self) -> KatexBrowser:
        """Start the browser. Raises ``UsageError`` where it does not start."""
        api = needed("playwright.sync_api")
        self._playwright = api.sync_playwright().start()
        try:
            browser = self._playwright.chromium.launch(executable_path=self.program, args=["--no-sandbox"])
            self._page = browser.new_page(viewport={"width": 800, "height": 400})
            self._page.set_content(_PAGE)
            self._page.add_style_tag(path=str(self.katex / KATEX_FILES[0]))
            self._page.add_script_tag(path=str(self.katex / KATEX_FILES[1]))
        except api.Error as error:
            self._playwright.stop()
            raise UsageError(f"the browser {self.program} does not start", str(error).splitlines()[0]) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._playwright.stop()

    def render(self, formula: str) -> SetFormula | None:
        """The formula as set; None where KaTeX refuses it."""
        if formula not in self._set:
            done = self._page.evaluate(_SET, formula)
            self._set[formula] = SetFormula(_inner(done[0]), list(_characters(done[1]))) if done else None
        return self._set[formula]


def _inner(mathml: str) -> str:
    soup = needed("bs4").BeautifulSoup(mathml, "xml")
    semantics = soup.find("semantics")
    parts = [semantics] if semantics is None else semantics.contents
    kept = str(soup) if semantics is None else "".join(str(p) for p in parts if getattr(p, "name", "") != "annotation")
    return re.sub(r"\s+", "", kept)


def _characters(spans: Iterable[tuple[str, float, float, float, float]]) -> Iterator[Glyph]:
    """The spans cut into characters of equal width."""
    for text, x, y, width, height in spans:
        if text == "\u200b":
            continue
        for number, character in enumerate(text):
            yield Glyph(character, x + width * (number + 0.5) / len(text), y + height / 2)
