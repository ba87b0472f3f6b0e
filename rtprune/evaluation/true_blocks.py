"""The true blocks of an OmniDocBench page, in the order and form in which they are matched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtprune.evaluation.answer_items import array_lines, single_column
from rtprune.evaluation.normal_forms import formula_form, text_form

FORMULA = "equation_isolated"
#: Blocks that take what an answer has of them away and then count for nothing.
IGNORED = (
    "figure_caption",
    "figure_footnote",
    "table_caption",
    "table_footnote",
    "code_algorithm",
    "code_algorithm_caption",
    "header",
    "footer",
    "page_footnote",
    "page_number",
    "equation_caption",
)
TEXTS = (
    "text_block",
    "title",
    "code_txt",
    "code_txt_caption",
    "reference",
    "equation_caption",
    "figure_caption",
    "figure_footnote",
    "table_caption",
    "table_footnote",
    "code_algorithm",
    "code_algorithm_caption",
    "header",
    "footer",
    "page_footnote",
    "page_number",
)


@dataclass(frozen=True)
class Block:
    """A true block.

    Attributes:
        category: the benchmark's word for it.
        order: its place in reading order; 0 where it has none.
        source: its text, LaTeX or HTML.
        form: what is compared.
    """

    category: str
    order: float
    source: str
    form: str


def page_blocks(page: Mapping[str, Any]) -> tuple[list[Block], list[Block], list[str]]:
    """Blocks of text and formula, tables, and what is wrong: blocks without truth.

    Raises ``KeyError`` or ``TypeError`` where the page is laid out otherwise than v1.5 and v1.6 are.
    """
    by_category: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    chains = _chains(page["extra"]["relation"])
    parts = {name: None for chain in chains for name in chain} if chains else {}
    known: dict[Any, Mapping[str, Any]] = {}
    for block in page["layout_dets"]:
        if block["anno_id"] in parts:
            known[block["anno_id"]] = block
        else:
            by_category[block["category_type"]].append(block)
    for chain in chains:
        blocks = sorted((known[name] for name in chain), key=lambda block: block["order"])
        text = "".join(block["text"] for block in blocks)
        first = blocks[0]
        merged = {"category_type": first["category_type"], "order": first["order"], "text": text}
        by_category[first["category_type"]].append(merged)
    lacking: list[str] = []
    mixed = [_block(each, lacking) for name in (*TEXTS, FORMULA) for each in by_category[name]]
    tables = [_block(each, lacking) for each in by_category["table"]]
    ordered = sorted(mixed, key=lambda block: block.order)
    return (
        [piece for block in ordered for piece in _lines(block)],
        sorted(tables, key=lambda block: block.order),
        lacking,
    )


def _chains(relations: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Blocks that one paragraph was cut into. Where three are chained, the middle one stands there twice."""
    chains: list[list[Any]] = []
    for relation in relations:
        if relation["relation_type"] != "truncated":
            continue
        ends = [relation["source_anno_id"], relation["target_anno_id"]]
        touched = [chain for chain in chains if set(ends) & set(chain)]
        for chain in touched:
            chain += ends
        if not touched:
            chains.append(ends)
    return chains


def _block(found: Mapping[str, Any], lacking: list[str]) -> Block:
    category = found["category_type"]
    name = {"table": "html", FORMULA: "latex"}.get(category, "text")
    source = found.get(name)
    if source is None:
        lacking.append(f"{category} {found.get('anno_id', '')} has no {name}")
    source = str(source or "")
    form = {"html": source, "latex": formula_form(source)}.get(name) if name != "text" else text_form(source)
    return Block(category, found.get("order") or 0, source, form or "")


def _lines(block: Block) -> list[Block]:
    """A formula that is an array of one column as its lines, anything else as it is."""
    array = single_column(block.source) if block.category == FORMULA and "\\begin{array" in block.source else None
    if array is None:
        return [block]
    lines = [f"\\[{line}\\]" for line in array_lines(array["body"])]
    return [
        Block(FORMULA, round(block.order + number / 10, 1), line, formula_form(line))
        for number, line in enumerate(lines, start=1)
    ]
