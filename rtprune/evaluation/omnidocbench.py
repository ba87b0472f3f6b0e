"""OmniDocBench's scores of a page: text, formulas, tables and reading order, and a strict text score beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.optimize import linear_sum_assignment

from rtprune.evaluation import answer_items
from rtprune.evaluation.answer_items import Item, in_matching_order, items_of
from rtprune.evaluation.block_matching import SAME, Match, costs, distance, match_lines
from rtprune.evaluation.extra import needed
from rtprune.evaluation.normal_forms import formula_form, latex_to_unicode, table_form, text_form, word_characters
from rtprune.evaluation.true_blocks import FORMULA, IGNORED, Block, page_blocks

ELEMENTS = ("text_block", "display_formula", "table", "reading_order")


@dataclass(frozen=True)
class Pair:
    """What is compared with what.

    Attributes:
        element: one of ``ELEMENTS`` but the last.
        true: numbers of the true blocks.
        predicted: numbers of the answer's items.
        orders: the true blocks' places in reading order, by the benchmark's numbering.
        position: where the predicted item stands, by the benchmark's numbering; None without one.
        category: the predicted item's category, by the same numbering.
        true_form: the normalised truth.
        predicted_form: the normalised answer.
        true_source: the truth.
        teds: of tables.
        teds_structure: of tables, without the cells' contents.
        moved: whether it is a formula that is compared as text.
    """

    element: str
    true: tuple[int, ...]
    predicted: tuple[int, ...]
    orders: tuple[float, ...]
    position: int | None
    category: str
    true_form: str
    predicted_form: str
    true_source: str
    teds: float | None = None
    teds_structure: float | None = None
    moved: bool = False

    @property
    def edits(self) -> int:
        """Edits from truth to answer."""
        return distance(self.true_form, self.predicted_form)

    @property
    def length(self) -> int:
        """Characters of the longer one."""
        return max(len(self.true_form), len(self.predicted_form))


@dataclass(frozen=True)
class PageScore:
    """All comparisons of one page.

    Attributes:
        pairs: of text, formulas and tables.
        true_order: places in reading order that are to be found, sorted.
        found_order: those that were found, in the answer's order.
        surplus: characters of the answer, normalised, that stand for no true block; the benchmark ignores them.
        surplus_tables: tables of the answer that stand for no true one; the benchmark ignores them too.
        lacking: true blocks without truth.
    """

    pairs: Sequence[Pair]
    true_order: Sequence[float]
    found_order: Sequence[float]
    surplus: int
    surplus_tables: int
    lacking: Sequence[str]

    @property
    def order_length(self) -> int:
        """Entries of the longer list of places."""
        return max(len(self.true_order), len(self.found_order))

    @property
    def order_edits(self) -> int:
        """Edits from the true to the found list of places."""
        return distance(self.true_order, self.found_order)


def score_page(page: Mapping[str, Any], answer: str) -> PageScore:
    """An answer held against a page of the benchmark's annotations (v1.5 and v1.6).

    Raises ``KeyError`` or ``TypeError`` for a page that is laid out otherwise.
    """
    blocks, tables, lacking = page_blocks(page)
    items = items_of(answer)
    mixed_kinds = dict.fromkeys(item.kind for item in items if item.kind in (answer_items.TEXT, answer_items.FORMULA))
    others = [item for kind in mixed_kinds for item in items if item.kind == kind]  # settles who is first at one place
    table_pairs: list[Pair] = []
    spare: list[Item] = [item for item in items if item.kind not in (answer_items.TEXT, answer_items.FORMULA)]
    if tables:
        table_pairs, cells, spare = _match_tables(tables, items)
        others += cells
    mixed, used, taken, lines = _match_blocks(blocks, in_matching_order(others))
    texts = [pair for pair in mixed if pair.element == "text_block"]
    true_order = sorted(order for pair in texts for order in pair.orders if order)
    placed = sorted((pair for pair in texts if pair.position is not None and any(pair.orders)), key=_position)
    found_order = [order for pair in placed for order in pair.orders if order]
    surplus = sum(len(line) for number, (line, item) in enumerate(lines) if number not in used | taken and _own(item))
    surplus += sum(len(text_form(_text_of(item.content))) for item in spare)
    surplus_tables = len(items) - sum(item.kind in mixed_kinds for item in items)
    surplus_tables -= sum(len(pair.predicted) for pair in table_pairs)
    moved = [_as_text(pair) for pair in mixed]
    return PageScore([*moved, *table_pairs], true_order, found_order, surplus, surplus_tables, lacking)


def _own(item: Item) -> bool:
    """Inline formulas stand in the text as well."""
    return item.fine != answer_items.INLINE


def _position(pair: Pair) -> int:
    return pair.position or 0


def _as_text(pair: Pair) -> Pair:
    """A true formula whose partner is text is compared as text, its LaTeX turned to Unicode."""
    if pair.element != "display_formula" or pair.category in ("", answer_items.INLINE, answer_items.FORMULA):
        return pair
    plain = latex_to_unicode(pair.true_source)
    form = word_characters(plain) or plain
    return replace(pair, element="text_block", true_source=plain, true_form=form, moved=True)


def _match_blocks(
    blocks: Sequence[Block], items: Sequence[Item]
) -> tuple[list[Pair], set[int], set[int], list[tuple[str, Item]]]:
    """The pairs of text and formulas; the items used, those that ignored blocks took, and the lines of all.

    Empty lines are left out of the lines but not of blocks and items, so that what follows one takes its neighbour's
    order, position and category: as in the benchmark.
    """
    true = [(block.form, block) for block in blocks if block.source and block.form]
    lines = [(form, item) for form, item in ((_form(item), item) for item in items) if form]
    predicted = [form for form, _ in lines]
    if len(true) == len(predicted) == 1:
        matches, numbers, open_items, taken = [Match((0,), (0,))], [0], [0], set[int]()
        taken = {0} if true[0][1].category in IGNORED else taken
    else:
        ignored = [form for form, block in true if block.category in IGNORED]
        taken = {
            number for number, column in enumerate(costs(ignored, predicted).T) if predicted and (column < SAME).any()
        }
        taken = taken if ignored else set()
        numbers = [number for number, (_, block) in enumerate(true) if block.category not in IGNORED]
        open_items = [number for number in range(len(predicted)) if number not in taken]
        matches = match_lines([true[number][0] for number in numbers], [predicted[number] for number in open_items])
    pairs = []
    for match in matches:
        own = tuple(numbers[number] for number in match.true)
        theirs = tuple(open_items[number] for number in match.predicted)
        category = Counter(true[number][1].category for number in own).most_common(1)[0][0]
        if category in IGNORED:
            continue
        sources = [true[number][1].source for number in own]
        pairs.append(
            Pair(
                "display_formula" if category == FORMULA else "text_block",
                own,
                theirs,
                tuple(blocks[number].order for number in own),
                items[theirs[0]].start if theirs else None,
                items[theirs[0]].category if theirs else "",
                "".join(true[number][0] for number in own),
                "".join(predicted[number] for number in theirs),
                _array(sources) if category == FORMULA and len(own) > 1 else "".join(sources),
            )
        )
    used = {number for pair in pairs for number in pair.predicted}
    return pairs, used, taken, lines


def _form(item: Item) -> str:
    return formula_form(item.content) if item.kind == answer_items.FORMULA else text_form(item.content)


def _array(sources: Sequence[str]) -> str:
    lines = r" \\ ".join("{" + source.strip("$").strip("\n") + "}" for source in sources)
    return r"\begin{array}{l} " + lines + r" \end{array}"


def _match_tables(tables: Sequence[Block], items: Sequence[Item]) -> tuple[list[Pair], list[Item], list[Item]]:
    """The pairs of tables; the cells of tables left over, which are text from here on; and the tables of the kind
    that is not looked at: an answer's tables are taken as LaTeX where those are more, and such score 0."""
    latex = [item for item in items if item.kind == answer_items.LATEX_TABLE]
    html = [item for item in items if item.kind == answer_items.HTML_TABLE]
    chosen, spare = (latex, html) if len(latex) > len(html) else (html, latex)
    true = [block for block in tables if block.source]
    if not true:
        return [], [], [*chosen, *spare]
    partner: dict[int, int] = {}
    if chosen:
        rows, columns = linear_sum_assignment(
            costs([block.source for block in true], [item.content for item in chosen])
        )
        partner = {int(row): int(column) for row, column in zip(rows, columns, strict=True)}
    pairs = []
    for number, block in enumerate(true):
        own = partner.get(number)
        shown = chosen[own].content if own is not None and chosen is html else ""
        true_form, predicted_form = table_form(block.source) or block.source, table_form(shown) or shown
        pairs.append(
            Pair(
                "table",
                (number,),
                () if own is None else (own,),
                (tables[number].order,),
                chosen[own].start if own else None,
                chosen[own].category if own else "",
                true_form,
                predicted_form,
                block.source,
                teds(true_form, predicted_form, structure_only=False),
                teds(true_form, predicted_form, structure_only=True),
            )
        )
    left = [item for number, item in enumerate(chosen) if number not in partner.values()]
    return pairs, [cell for item in left for cell in _cells(item)], spare


def _cells(item: Item) -> Iterable[Item]:
    for cell in needed("bs4").BeautifulSoup(item.content, "html.parser").find_all("td"):
        if cell.string:
            yield replace(item, kind=answer_items.TEXT, content=cell.string.replace(r"$\cdot$", "").strip())


def _text_of(source: str) -> str:
    return str(needed("bs4").BeautifulSoup(source, "html.parser").get_text())


def teds(true: str, predicted: str, structure_only: bool) -> float:
    """Likeness of two tables as trees, 1 at best, at times a little below 0; 0 where one of them is no table."""
    if not true or not predicted:
        return 0.0
    lxml = needed("lxml.html")
    parser = lxml.HTMLParser(remove_comments=True, encoding="utf-8")
    bodies = [lxml.fromstring(each, parser=parser).xpath("body/table") for each in (true, predicted)]
    if not all(bodies):
        return 0.0
    scorer = needed("docling_metrics_table.utils.teds").TEDScorer()
    try:
        return float(scorer.teds(bodies[0][0], bodies[1][0], structure_only))
    except ValueError:  # two tables without a node, or a span that is no number
        return 0.0
