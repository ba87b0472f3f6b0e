"""Facts about tables: which cell has which neighbour or heading, in any Markdown or HTML table of an answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rtprune.evaluation.extra import needed

#: Below this likeness no two cells are ever the same, whatever the fact allows.
LEAST_LIKENESS = 0.5

Texts = Callable[[str], str]


@dataclass(frozen=True)
class Table:
    """A table as the benchmark reads it.

    Attributes:
        rows: texts of the cells, all rows of one length.
        header_rows: rows that may be headings of what is below them.
        header_columns: columns that may be headings of what is right of them.
        above: headings of a column that are known by its number.
        beside: headings of a row that are known by its number.
    """

    rows: Sequence[Sequence[str]]
    header_rows: frozenset[int]
    header_columns: frozenset[int]
    above: Mapping[int, set[str]] = field(default_factory=dict)
    beside: Mapping[int, set[str]] = field(default_factory=dict)


def check_table(fields: Mapping[str, Any], max_diffs: int, answer: str, normalised: Texts) -> tuple[bool, str]:
    """Whether some table has the cell with all that is said of it; and what failed.

    A neighbour beyond the table's edge is not asked for.
    """
    wanted = {name: normalised(fields.get(name, "")) for name in ("cell", *_NEIGHBOURS, *_HEADINGS)}
    tables = [*html_tables(answer)]
    if not fields.get("ignore_markdown_tables", False):
        tables = [*markdown_tables(answer), *tables]
    if not tables:
        return False, "no table"
    ratio = needed("rapidfuzz.fuzz").ratio
    least = {name: max(LEAST_LIKENESS, 1.0 - max_diffs / max(1, len(text))) for name, text in wanted.items()}
    failed: list[str] = []
    for table in tables:
        cells = [(row, column) for row, texts in enumerate(table.rows) for column, _ in enumerate(texts)]
        for row, column in cells:
            if ratio(wanted["cell"], normalised(table.rows[row][column])) / 100.0 < least["cell"]:
                continue
            misses = []
            for name, groups in _related(table, row, column):
                if not wanted[name]:
                    continue
                best = _best(wanted[name], groups, normalised, ratio)
                if best < least[name]:
                    misses.append(f"{best:.2f}")
            if not misses:
                return True, ""
            failed += misses
    return False, f"relation fails, best similarity {' '.join(failed)}" if failed else "no such cell"


def _best(wanted: str, groups: Iterable[Iterable[str]], normalised: Texts, ratio: Callable[..., float]) -> float:
    """The likeness to the most alike text of the first group in which one is alike at all."""
    for group in groups:
        best = max((ratio(wanted, normalised(text)) / 100.0 for text in group), default=0.0)
        if best > 0:
            return best
    return 0.0


_NEIGHBOURS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_HEADINGS = ("top_heading", "left_heading")


def _related(table: Table, row: int, column: int) -> Iterator[tuple[str, list[list[str]]]]:
    """What stands in relation to a cell: for each relation groups of texts, the later for want of better ones."""
    rows = table.rows
    for name, (down, right) in _NEIGHBOURS.items():
        if 0 <= row + down < len(rows) and 0 <= column + right < len(rows[row]):
            yield name, [[rows[row + down][column + right]]]
    over = [rows[each][column] for each in range(row)]
    yield (
        "top_heading",
        [
            [*table.above.get(column, ()), *(over[each] for each in table.header_rows if each < row)],
            [text for text in over if text.strip()],
        ],
    )
    before = rows[row][:column]
    yield (
        "left_heading",
        [
            [*table.beside.get(row, ()), *(before[each] for each in table.header_columns if each < column)],
            [text for text in before if text.strip()],
        ],
    )


def markdown_tables(answer: str) -> Iterator[Table]:
    """Runs of at least two lines with ``|``. The first row and the first column are headings."""
    lines: list[str] = []
    for line in [*answer.strip().split("\n"), ""]:
        if "|" in line:
            lines.append(line)
            continue
        rows = _padded(list(_markdown_rows(lines))) if len(lines) >= 2 else []
        lines = []
        if rows:
            yield Table(
                rows,
                frozenset({0}),
                frozenset({0}),
                {column: {text} for column, text in enumerate(rows[0])},
                {row: {texts[0]} for row, texts in enumerate(rows) if row},
            )


def _markdown_rows(lines: Sequence[str]) -> Iterator[list[str]]:
    rule_seen = False
    for line in lines:
        bare = line.replace("|", "").strip()
        if not rule_seen and bare and set(bare) <= set("- :"):
            rule_seen = True
            continue
        if set(line) <= set("- :|"):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        cells = cells[1:] if cells[0] == "" else cells
        cells = cells[:-1] if cells and cells[-1] == "" else cells
        if cells:
            yield cells


def _padded(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    width = max((len(row) for row in rows), default=0)
    return [[*row, *[""] * (width - len(row))] for row in rows]


def html_tables(answer: str) -> Iterator[Table]:
    """Every ``<table>``. A cell over several columns is one cell of its row: what follows moves left."""
    soup = needed("bs4").BeautifulSoup(answer, "html.parser")
    for table in soup.find_all("table"):
        read = _HtmlTable()
        lines = table.find_all(["tr"])
        head = table.find("thead")
        for line in head.find_all("tr") if head else ():
            read.header_rows.add(lines.index(line))
        for number, line in enumerate(lines):
            read.add(number, line, len(lines))
        if lines:
            yield read.finished()


class _HtmlTable:
    """A table while its rows are read."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.header_rows: set[int] = set()
        self.header_columns: set[int] = set()
        self.above: defaultdict[int, set[str]] = defaultdict(set)
        self.beside: defaultdict[int, set[str]] = defaultdict(set)
        self._spanned: dict[tuple[int, int], str] = {}
        self._wide: defaultdict[str, set[int]] = defaultdict(set)
        self._tall: defaultdict[str, set[int]] = defaultdict(set)

    def add(self, number: int, line: Any, count: int) -> None:
        """Take row ``number`` of ``count``. Raises ``ValueError`` where a span is no number."""
        texts: list[str] = []
        column = 0
        if line.find("th"):
            self.header_rows.add(number)
        for cell in line.find_all(["th", "td"]):
            while (number, column) in self._spanned:
                texts.append(self._spanned[number, column])
                column += 1
            for each in cell.find_all("br"):
                each.replace_with("\n")
            text = cell.get_text().strip()
            down, right = int(cell.get("rowspan", 1)), int(cell.get("colspan", 1))
            texts.append(text)
            for below in range(down):
                for beside in range(right):
                    if below or beside:
                        self._spanned[number + below, column + beside] = "" if beside or not below else text
            covered = range(number + 1, min(number + down, count))
            if cell.name == "th":
                self._head(text, number, column, down, right)
                self.header_rows |= set(covered)
            elif down > 1 and column in self.header_columns:
                for row in covered:
                    self.beside[row].add(text)
            column += right
        self.rows.append(texts)

    def _head(self, text: str, row: int, column: int, down: int, right: int) -> None:
        columns = range(column, column + right)
        self.header_columns |= set(columns)
        for each in columns:
            self.above[each].add(text)
        if text and right > 1:
            self._wide[text] |= set(columns)
        if text and down > 1:
            self._tall[text] |= set(range(row, row + down))

    def finished(self) -> Table:
        """The table, its headings spread: a wide one over all columns from its first on, a tall one over its rows."""
        widest = max((len(row) for number, row in enumerate(self.rows) if number not in self.header_rows), default=0)
        for text, columns in self._wide.items():
            for column in range(min(columns), widest):
                self.above[column].add(text)
        for text, rows in self._tall.items():
            for row in rows:
                if row < len(self.rows):
                    self.beside[row].add(text)
        for column in self.header_columns:
            for number, texts in enumerate(self.rows):
                if column < len(texts) and texts[column].strip():
                    self.beside[number].add(texts[column])
        return Table(
            _padded(self.rows), frozenset(self.header_rows), frozenset(self.header_columns), self.above, self.beside
        )
