"""The forms in which OmniDocBench compares texts, formulas and tables."""

from __future__ import annotations

import html
import re
import unicodedata

from rtprune.evaluation.extra import needed

_INLINE = re.compile(r"\$(.*?)\$|\\\((.*?)\\\)")
_SCRAPS = ("\\t", "\\n", "\t", "\n", "/t", "/n")
_FORMULA_PARTS = (r"\\tag\{.*?\}", r"\\hspace\{.*?\}", r"\\begin\{.*?\}", r"\\end\{.*?\}", r"\\arraycolsep.*?\}")
#: Deleted one after the other: what an earlier one leaves of a later one stays.
_FORMULA_WORDS = (
    r"\mathbf",
    r"\mathrm",
    r"\mathnormal",
    r"\mathit",
    r"\mathbb",
    r"\mathcal",
    r"\mathscr",
    r"\mathfrak",
    r"\mathsf",
    r"\mathtt",
    r"\textbf",
    r"\text",
    r"\boldmath",
    r"\boldsymbol",
    r"\operatorname",
    r"\bm",
    r"\symbfit",
    r"\mathbfcal",
    r"\symbf",
    r"\scriptscriptstyle",
    r"\notag",
    r"\setlength",
    r"\coloneqq",
    r"\space",
    r"\thickspace",
    r"\thinspace",
    r"\medspace",
    r"\nobreakspace",
    r"\negmedspace",
    r"\quad",
    r"\qquad",
    r"\enspace",
    r"\substackw",
)
_FORMULA_REST = (" ", "$$", "\\left", "\\right", "\\displaystyle", "\\text")
_TABLE_TAGS = ("<sup>", "</sup>", "<sub>", "</sub>", "<span>", "</span>", "<div>", "</div>", "<p>", "</p>")
_ATTRIBUTES = ("style", "height", "width", "align", "class")


def text_form(text: str) -> str:
    """Letters, digits and underscores only, inline formulas turned to Unicode first."""
    return word_characters(_unicode_formulas(text))


def word_characters(text: str) -> str:
    """What is left without white space and punctuation; ``/t`` and ``/n`` go as well."""
    for scrap in _SCRAPS:
        text = text.replace(scrap, "")
    return re.sub(r"[^\w\u4e00-\u9fff]", "", text)


def _unicode_formulas(text: str) -> str:
    for match in reversed(list(_INLINE.finditer(text))):
        formula = re.sub(r"\\([\\_&%^])", "", match[1] if match[1] is not None else match[2])
        if not any(mark in formula for mark in "\\^_"):
            continue
        if formula.endswith("\\"):
            formula += " "
        try:
            plain = latex_to_unicode(formula)
        except Exception:  # whatever pylatexenc does not understand stays as it is
            continue
        text = text[: match.start()] + plain.strip() + text[match.end() :]
    return text


def latex_to_unicode(latex: str) -> str:
    """LaTeX as plain text, by pylatexenc."""
    return str(needed("pylatexenc.latex2text").LatexNodes2Text().latex_to_text(latex))


def formula_form(latex: str) -> str:
    """A formula without delimiters, environments, fonts and spaces, in lower case."""
    latex = latex.strip().strip("$").strip("\n")
    inner = re.search(r"\\\[(.+?)(?<!\\)\\\]", latex)
    latex = inner[1].strip() if inner else latex
    for pattern in _FORMULA_PARTS:
        latex = re.sub(pattern, "", latex)
    latex = latex.strip(".")
    for word in (*_FORMULA_WORDS, *_FORMULA_REST):
        latex = latex.replace(word, "")
    return latex.lower()


def table_form(source: str) -> str:
    """The rows of all tables of an HTML text in one table; nothing where there is none."""
    if "<table" not in source.replace(" ", ""):
        return ""
    soup = needed("bs4").BeautifulSoup(source, "html.parser")
    for tag in soup.find_all("th"):
        tag.name = "td"
    for tag in soup.find_all("thead"):
        tag.unwrap()
    for tag in soup.find_all("math"):
        tag.replace_with(f"${tag.get('alttext', '')}$")
    for tag in soup.find_all("span"):
        tag.unwrap()
    text = unicodedata.normalize("NFKC", html.unescape(str(soup)).replace("\n", "")).strip()
    text = "".join(re.findall(r"<table\b[^>]*>(.*)</table>", text, re.DOTALL | re.IGNORECASE))
    for name in _ATTRIBUTES:
        text = re.sub(rf'( {name}=".*?")', "", text)
    text = re.sub(r"\s+", " ", re.sub("</?tbody>", "", text))
    for tag in _TABLE_TAGS:
        text = text.replace(tag, "")
    text = re.sub("<colgroup>.*?</colgroup>", "", text.replace('<spandata-span-identity="">', ""))
    return f'<html><body><table border="1" >{text}</table></body></html>'
