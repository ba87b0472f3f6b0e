"""An answer's Markdown taken apart as OmniDocBench does: tables, formulas, code, and paragraphs of text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rtprune.evaluation.markdown_tables import with_html_tables

#: Kinds of items. An item's ``category`` is finer where the benchmark's is.
TEXT, FORMULA, HTML_TABLE, LATEX_TABLE = "text_all", "equation_isolated", "html_table", "latex_table"
INLINE = "equation_inline"

_FENCES = (r"^```markdown\n?", r"^```html\n?", r"^```latex\n?", r"```\n?$")
_FORMULA = re.compile(r"\$\$(.*?)\$\$|\\\[(.*?)\\\]|\$(.*?)\$|\\\((.*?)\\\)", re.DOTALL)
_DOLLARS = re.compile(r"\$\$(.*?)\$\$|\$(.*?)\$|\\\((.*?)\\\)", re.DOTALL)
_MARKDOWN_ROW = re.compile(r"\|\s*.*?\s*\|\n", re.DOTALL)
_CODE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_ARRAY = re.compile(r"\\begin\{array\}\{(?P<columns>[^}]*)\}(?P<body>.*?)\\end\{array\}", re.DOTALL)
_LATEX_STYLE = (
    (r"\\title\{(.*?)\}", 0),
    (r"\\title\s*\{\s*(.*?)\s*\}", re.DOTALL),
    (r"\\text\s*\{\s*(.*?)\s*\}", re.DOTALL),
    (r"\\section\*?\{(.*?)\}", 0),
    (r"\\section\*?\{\s*(.*?)\s*\}", re.DOTALL),
)


@dataclass(frozen=True)
class Item:
    """A piece of an answer.

    Attributes:
        kind: ``TEXT``, ``FORMULA``, ``HTML_TABLE`` or ``LATEX_TABLE``.
        start: where it stands, in characters.
        content: its source.
        fine: the benchmark's finer word for it, or nothing.
    """

    kind: str
    start: int
    content: str
    fine: str = ""

    @property
    def category(self) -> str:
        """The finer word, else the kind."""
        return self.fine or self.kind


@dataclass(frozen=True)
class _Environment:
    """What encloses a table, and by how many characters the benchmark steps over its ends."""

    begin: re.Pattern[str]
    end: re.Pattern[str]
    begin_length: int
    end_length: int


_TABULAR = _Environment(re.compile(r"\\begin{tabular}"), re.compile(r"\\end{tabular}"), 16, 14)
_TABLE = _Environment(re.compile(r"<table(?:[^>]*)>"), re.compile(r"</table>"), 16, 8)


def items_of(answer: str) -> list[Item]:
    """The pieces in the order in which they stand."""
    text = re.sub(r"!\[.*?\]\(.*?\)", "", answer)
    for fence in _FENCES:
        text = re.sub(fence, "", text, flags=re.MULTILINE)
    text = re.sub(r" {4,}", "    ", re.sub(r"_{4,}", "____", text))
    text = re.sub(r"</?(?:html|body)>", "", text)
    found: list[Item] = []
    for start, table in sorted([*_latex_tables(text)], key=lambda each: each[0]):
        found.append(Item(LATEX_TABLE, start, table))
        text = _blanked(text, start, start + len(table))
    for start, table in list(_enclosed(text, _TABLE)):
        found.append(Item(HTML_TABLE, start, table))
        text = _blanked(text, start, start + len(table))
    for match in list(_FORMULA.finditer(text)):
        line = " ".join(match[0].strip().split("\n"))
        dollars = _DOLLARS.search(line)
        if dollars and not dollars[1]:  # it stays in the text as well
            found.append(Item(FORMULA, match.start(), _DOLLARS.sub(r"\\[\2\3\\]", line), INLINE))
            continue
        found.append(Item(FORMULA, match.start(), _DOLLARS.sub(r"\\[\1\\]", line) if dollars else line))
        text = _blanked(text, match.start(), match.end())
    if len(_MARKDOWN_ROW.findall(text + "\n")) >= 2:
        text = with_html_tables(text)
        for match in list(re.finditer(r"<table.*?</table>", text, re.DOTALL)):
            found.append(Item(HTML_TABLE, match.start(), match[0].strip(), "md2html_table"))
            text = _blanked(text, match.start(), match.end())
    for match in list(_CODE.finditer(text)):
        found.append(Item(TEXT, match.start(), match[2].strip(), "code"))
        text = _blanked(text, match.start(), match.end())
    for pattern, flags in _LATEX_STYLE:
        text = re.sub(pattern, r"\1", text, flags=flags)
    return sorted([*found, *_paragraphs(text)], key=lambda item: item.start)


def _blanked(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]


def _latex_tables(text: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r"\\begin{table}(.*?)\\end{table}", text, re.DOTALL):
        yield match.start(), match[0]
        text = _blanked(text, match.start(), match.end())
    yield from _enclosed(text, _TABULAR)


def _enclosed(text: str, environment: _Environment) -> Iterator[tuple[int, str]]:
    """The outermost environments; within one that is never closed, those inside it."""
    offset = 0
    while True:
        place, open_at = 0, list[int]()
        while place < len(text):
            begin = environment.begin.search(text, place)
            end = environment.end.search(text, place)
            if begin and (not end or begin.start() < end.start()):
                open_at.append(begin.start())
                place = begin.start() + environment.end_length
            elif end:
                place = end.start() + environment.end_length
                if open_at:
                    start = open_at.pop()
                    if not open_at:
                        yield offset + start, text[start:place]
            else:
                break
        if not open_at:
            return
        offset += open_at[0] + environment.begin_length
        text = text[open_at[0] + environment.begin_length :]


def _paragraphs(text: str) -> Iterator[Item]:
    """Parts between empty lines, or lines where there is no empty one. Positions leave the separators out."""
    parts = text.split("\n\n")
    if len(parts) == 1:
        parts = text.split("\n")
    start = 0
    for part in parts:
        here, start = start, start + len(part)
        content = "\n".join(line.strip() for line in part.strip().split("\n") if line.strip())
        if content.startswith("<table") and content.endswith("</table>"):
            yield Item(HTML_TABLE, here, content)
        elif content.startswith("$") and content.endswith("$"):
            if content.replace("$", "").strip():
                yield Item(FORMULA, here, content)
        elif content:
            yield Item(TEXT, here, content, "text_block")


def single_column(latex: str) -> re.Match[str] | None:
    r"""The ``array`` of one column ``l``, ``c`` or ``r`` that a formula holds first, if it does."""
    match = _ARRAY.search(latex)
    if match is None:
        return None
    columns = re.sub(r"\s+|\|", "", match["columns"])
    columns = re.sub(r"!{[^}]*}", "", re.sub(r"@{[^}]*}", "", columns))
    return match if columns in {"l", "c", "r"} else None


def array_lines(body: str) -> list[str]:
    r"""The lines of an array, which ``\\`` parts."""
    return [line.strip() for line in re.split(r"\\\\", body) if line.strip()]


def in_matching_order(items: list[Item]) -> list[Item]:
    """Inline formulas behind everything else, arrays of one column cut into their lines."""
    ordered = sorted(items, key=lambda item: (item.fine == INLINE, item.start))
    return [piece for item in ordered for piece in _lines(item)]


def _lines(item: Item) -> Iterator[Item]:
    array = single_column(item.content) if item.kind == FORMULA and "\\begin{array" in item.content else None
    if array is None:
        yield item
        return
    begin = 0
    for line in array_lines(array["body"]):
        place = array["body"].find(line, begin)
        place = begin if place < 0 else place
        begin = place + len(line)
        yield replace(item, content=f"\\[{line}\\]", start=item.start + array.start("body") + place)
